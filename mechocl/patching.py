"""Activation patching of the residual stream (Meng et al. 2022; Heimersheim & Nanda, arXiv 2404.15255)."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from mechocl import activations
from mechocl.contrasts import Pairs
from mechocl.errors import MechoclError
from mechocl.models import Transformer, device_of
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchingConfig:
    """Which questions are patched into which."""

    clean: str = "d1_consistent"
    """Subset whose activations are put in."""
    corrupted: str = "d2_consistent"
    """Subset whose questions are answered."""
    pairs: int = 200
    """Pairs of questions."""
    seed: int = 0
    """Draws the pairs."""

    def __post_init__(self) -> None:
        if self.pairs < 1:
            raise MechoclError(f"pairs is {self.pairs}; use at least 1")


@torch.no_grad()
def patch_residual_stream(model: Transformer, task: Task, pairs: Pairs) -> pd.DataFrame:
    """Denoising: put the clean run's residual stream into the corrupted run, one site at a time.

    The metric is the true-logit difference (true − false, nats), with its sign turned where the list
    does not contain the clean alias's integer: positive speaks for the *clean* alias's right answer.
    Rows: `layer`, `position`, `effect` (patched − corrupted, mean over pairs), `clean`, `corrupted`
    (means of the unpatched runs), `pairs`. The answer is read at `=`, so that patching `=` in the top layer
    gives clean − corrupted.
    """
    sites = activations.residual_sites(model.cfg.n_layers)
    source = activations.collect(model, pairs.clean, list(sites.values()))
    metric = partial(_signed_difference, model, task, pairs)
    clean, corrupted = metric(pairs.clean, []), metric(pairs.corrupted, [])
    rows = []
    for layer, site in sites.items():
        for i, position in enumerate(pairs.labels):
            new = source[site][:, i].to(device_of(model))
            patched = metric(pairs.corrupted, [(site, partial(_replace, position=i, new=new))])
            rows.append((layer, position, float((patched - corrupted).mean())))
    table = pd.DataFrame(rows, columns=["layer", "position", "effect"])
    return table.assign(clean=float(clean.mean()), corrupted=float(corrupted.mean()), pairs=len(clean))


def _signed_difference(
    model: Transformer, task: Task, pairs: Pairs, tokens: Tensor, hooks: list[tuple[str, Any]]
) -> Float[Tensor, "pair"]:
    at = len(pairs.labels) - 1
    with model.hooks(fwd_hooks=hooks):
        logits = model(tokens.to(device_of(model)), return_type="logits")[:, at].cpu()
    difference = logits[:, task.vocabulary.true] - logits[:, task.vocabulary.false]
    return torch.where(pairs.contains, difference, -difference)


def _replace(x: Tensor, hook: Any, *, position: int, new: Tensor) -> Tensor:
    patched = x.clone()
    patched[:, position] = new
    return patched
