"""What a crosscoder says about its checkpoints: features that they share, and features of only the first or the last.

The norms of a feature's decoder rows decide whether it is new, removed or shared. Latent scaling (Minder et al. 2025,
arXiv 2504.02922, section 3) then checks that a feature which looks new is new, and not hidden in the first checkpoint.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.features.crosscoders import Crosscoder, site_width
from mechocl.features.dictionaries import flat
from mechocl.features.stream import about_aliases, held_out, read_tokens
from mechocl.models import activations
from mechocl.models.seam import Transformer
from toy_models.task import Task

SHARED: Final = (0.3, 0.7)
"""Relative norms of a feature that the first and the last checkpoint share."""
REMOVED: Final = 0.1
"""Relative norm below which a feature belongs to the first checkpoint only."""
NEW: Final = 0.9
"""Relative norm above which a feature belongs to the last checkpoint only."""
MOST_ERROR: Final = 0.2
"""Limit that nu_error of a new or removed feature stays below."""
MOST_RECONSTRUCTION: Final = 0.5
"""Limit that nu_reconstruction of a new or removed feature stays below."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a crosscoder says about its checkpoints."""

    features: pd.DataFrame
    """One row per feature; see `compare`."""
    checkpoints: pd.DataFrame
    """One row per checkpoint: `checkpoint`, `explained_variance`: 1 − Σ‖x − x̂‖² / Σ‖x − mean‖²."""


def compare(
    crosscoder: Crosscoder,
    models: Sequence[Transformer],
    task: Task,
    *,
    share: float,
    seed: int,
) -> Comparison:
    """Which features are shared, new or removed, on the definitions and test questions about held-out aliases.

    `share` and `seed` draw the held-out aliases if the crosscoder does not say which aliases it has not seen.

    Columns of `features`, where "first" and "last" are the first and the last checkpoint and activations are scaled
    to the same mean norm in all checkpoints:

        feature            its number
        norm_0, norm_1 …   norm of its decoder row for each checkpoint
        relative_norm      ‖last‖ / (‖first‖ + ‖last‖), from 0 to 1
        cosine             cosine of the first's and the last's decoder rows
        firing_rate        share of the tokens on which it is active
        kind               `dead` if it is never active; else by the relative norm: `new` above 0.9, `removed` below
                           0.1, `shared` from 0.3 to 0.7, and `other`
        nu_error           for a new feature: how much of it is in what the reconstruction lacks of the first checkpoint,
                           in proportion to the last one's; for a removed feature the reverse. 0 means that it is not
                           there; 1 means that it is there as well, and its decoder has shrunk to 0 (complete
                           shrinkage). NaN for all other kinds
        nu_reconstruction  the same for the reconstructions; 1 means that other features write it (latent decoupling)
        verdict            the kind; or `shrunken` for a new or removed feature whose nu_error is not below 0.2, or
                           whose nu_reconstruction is not below 0.5

    nu is the quotient of two β, the closed-form minimisers of Σ_tokens ‖β f_j d_j − target‖², where d_j is the decoder
    row of the checkpoint whose feature it is. The target of nu_error is x − x̂ + f_j d_j^m, the error without the
    feature's own part; the target of nu_reconstruction is x̂ without its bias.

    Raises MechoclError when the number of models is not that of the crosscoder's checkpoints, or their width differs.
    """
    if len(models) != len(crosscoder.scales):
        raise MechoclError(
            f"the crosscoder is of {len(crosscoder.scales)} checkpoints, and {len(models)} models are given"
        )
    d = crosscoder.decoders.shape[-1]
    if odd := {site_width(model, task, crosscoder.site) for model in models} - {d}:
        raise MechoclError(
            f"the crosscoder is of {d} dimensions, but {crosscoder.site} of this model has {min(odd)}; "
            "it is a crosscoder of another model"
        )
    record = crosscoder.record
    unseen = held_out(task, record.get("held_out", share), seed=record.get("seed", seed))
    roles = tuple(record.get("config", {}).get("roles", ()))
    return compare_activations(
        crosscoder, _read(models, about_aliases(task, unseen), crosscoder.site, roles=roles)
    )


def _read(
    models: Sequence[Transformer], task: Task, site: str, *, roles: tuple[str, ...]
) -> Iterator[list[Tensor]]:
    """Activations of every checkpoint at the same tokens, batch by batch."""
    reads = read_tokens(task, roles)
    chosen = np.flatnonzero((task.table["split"] == "test") | (task.table["kind"] == "definition"))
    for rows in torch.split(torch.from_numpy(chosen), 1024):
        yield [
            flat(activations.collect(model, task.tokens[rows], [site])[site])[reads[rows]] for model in models
        ]


def compare_activations(crosscoder: Crosscoder, batches: Iterable[Sequence[Tensor]]) -> Comparison:
    """`compare` on given activations; each batch has an array (token, d) for every checkpoint."""
    scale = torch.tensor(crosscoder.scales, dtype=torch.float64)[:, None, None]
    decoders = crosscoder.decoders.cpu().double() * scale
    sums = _Sums(crosscoder, decoders)
    for parts in batches:
        sums.add(parts)
    norms = decoders.norm(dim=-1)
    first, last = norms[0].numpy(), norms[-1].numpy()
    both = np.maximum(first + last, np.finfo(np.float64).tiny)
    features = pd.DataFrame({"feature": np.arange(crosscoder.width)})
    for m, norm in enumerate(norms):
        features[f"norm_{m}"] = norm.numpy()
    features["relative_norm"] = last / both
    features["cosine"] = torch.cosine_similarity(decoders[0], decoders[-1], dim=-1).numpy()
    features["firing_rate"] = (sums.active / sums.tokens).numpy()
    features["kind"] = _kinds(features)
    for name, target in (("nu_error", sums.error), ("nu_reconstruction", sums.reconstruction)):
        new, removed = _nu(target, decoders, own=-1), _nu(target, decoders, own=0)
        features[name] = np.select(
            [features["kind"] == "new", features["kind"] == "removed"], [new, removed], np.nan
        )
    own = features["kind"].isin(["new", "removed"])
    holds = (features["nu_error"] < MOST_ERROR) & (features["nu_reconstruction"] < MOST_RECONSTRUCTION)
    features["verdict"] = features["kind"].where(~own | holds, "shrunken")
    explained = {"checkpoint": range(len(norms)), "explained_variance": sums.explained()}
    return Comparison(features, pd.DataFrame(explained))


def _kinds(features: pd.DataFrame) -> np.ndarray:
    relative = features["relative_norm"]
    conditions = [features["firing_rate"] == 0, relative > NEW, relative < REMOVED, relative.between(*SHARED)]
    return np.select(conditions, ["dead", "new", "removed", "shared"], "other")


def _nu(
    target: Float[Tensor, "checkpoint feature d"],
    decoders: Float[Tensor, "checkpoint feature d"],
    *,
    own: int,
) -> np.ndarray:
    """Quotient of the β of two checkpoints, the first and the last; NaN where the denominator is not positive.

    The denominator is that of checkpoint `own` (0 or −1). `target` is Σ f_j · target. β is
    ⟨d_j, Σ f_j · target⟩ / (‖d_j‖² Σ f_j²), and both β have the same ‖d_j‖² Σ f_j².
    """
    beta = einsum(target[[0, -1]], decoders[own], "m feature d, feature d -> m feature")
    found: np.ndarray = torch.where(beta[own] > 0, beta[-1 - own] / beta[own], torch.nan).numpy()
    return found


class _Sums:
    """Sums over tokens, with every checkpoint's activations scaled to the same mean norm."""

    def __init__(self, crosscoder: Crosscoder, decoders: Float[Tensor, "checkpoint feature d"]) -> None:
        self._crosscoder = crosscoder
        self._decoders = decoders
        n, width, d = decoders.shape
        self.tokens = 0
        self.active = torch.zeros(width, dtype=torch.float64)
        self.error = torch.zeros(n, width, d, dtype=torch.float64)  # Σ f_j (x − x̂ + f_j d_j)
        self.reconstruction = torch.zeros(n, width, d, dtype=torch.float64)  # Σ f_j (x̂ − bias)
        self._off = torch.zeros(n, dtype=torch.float64)  # Σ‖x − x̂‖²
        self._square = torch.zeros(n, dtype=torch.float64)  # Σ‖x‖²
        self._sum = torch.zeros(n, d, dtype=torch.float64)  # Σ x

    def add(self, parts: Sequence[Float[Tensor, "token d"]]) -> None:
        f = self._crosscoder.encode(parts).cpu().double()
        self.tokens += len(f)
        self.active += (f > 0).sum(0)
        square = f.square().sum(0)
        biases = self._crosscoder.biases.cpu().double()
        for m, scale in enumerate(self._crosscoder.scales):
            x = parts[m].cpu().double() * scale
            made = f @ self._decoders[m]
            error = x - made - biases[m] * scale
            self.error[m] += f.T @ error + square[:, None] * self._decoders[m]
            self.reconstruction[m] += f.T @ made
            self._off[m] += error.square().sum()
            self._square[m] += x.square().sum()
            self._sum[m] += x.sum(0)

    def explained(self) -> np.ndarray:
        """Explained variance of each checkpoint; NaN for a checkpoint whose activations do not vary."""
        total = self._square - self._sum.square().sum(-1) / self.tokens
        varies = total > 1e-9 * self._square
        found: np.ndarray = torch.where(varies, 1 - self._off / total, torch.nan).numpy()
        return found
