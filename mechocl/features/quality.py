"""How good a dictionary is, on aliases that it has not seen.

An SAE that keeps the loss but not the retrieval is useless here. So the within-alias AUC is measured beside the
loss, with the reconstruction in the place of the activation.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechocl.behaviour import internalization
from mechocl.errors import MechoclError
from mechocl.features.dictionaries import Dictionary, check_fits, flat
from mechocl.features.settings import HELD_OUT
from mechocl.features.stream import about_aliases, held_out, read_tokens
from mechocl.models import activations, seam
from mechocl.models.seam import Transformer
from toy_models.task import ROLES, Task

FOUND_AGAIN: Final = 0.9
"""Cosine of two decoder rows above which they count as the same feature."""

_LEAST_KNOWN: Final = 0.55
"""Within-alias AUC that a subset must have for a recovered share."""


def judge(
    model: Transformer,
    task: Task,
    dictionary: Dictionary,
    *,
    others: Mapping[str, Dictionary],
    share: float,
    seed: int,
) -> pd.DataFrame:
    """Measures of one dictionary. `others` are dictionaries of the same kind from other initial weights.

    `share` and `seed` draw the held-out aliases if the dictionary does not say which it has not seen.

    Rows: `measure`, `part`, `value`, and `trained_on`, the weights that the dictionary was trained on.

        explained_variance  1 − Σ‖x − x̂‖² / Σ‖x − mean‖² over the tokens of a part: all, or a role
        l0                  features active on a token, the mean over the tokens of a part
        dead                share of features that are active on no token of any alias
        silent              share of features that are active on no token of the held-out aliases
        loss                nats per token that carries loss: `clean`, `spliced` (the reconstruction in the place of the
                            activation), `zero` (zeros there), and `recovered`: (zero − spliced) / (zero − clean)
        auc_clean           within-alias AUC of a subset
        auc_spliced         the same with the reconstruction in place
        auc_recovered       (spliced − ½) / (clean − ½), where clean is at least 0.55
        found_again         share of its live features that another dictionary has too: cosine > 0.9 of the decoder rows

    All measures except `dead` and `found_again` are of the held-out aliases.
    """
    check_fits(dictionary, model, task)
    unseen = about_aliases(task, unseen_aliases(task, dictionary, share=share, seed=seed))
    rows: list[tuple[str, str, float]] = []
    fires = _reconstruction(model, unseen, dictionary, rows)
    rows.append(("silent", "all", float((~fires).float().mean())))
    fires |= _fires(model, task, dictionary)
    rows.append(("dead", "all", float((~fires).float().mean())))
    rows += _losses(model, unseen, dictionary)
    rows += _aucs(model, unseen, dictionary)
    live = dictionary.W_dec[fires.to(dictionary.W_dec.device)]
    for name, other in others.items():
        if other.W_dec.shape[1] != live.shape[1]:
            raise MechoclError(
                f"{name} has another width than the SAE that it is compared with; name SAEs of equal width"
            )
        rows.append(("found_again", name, found_again(live, other.W_dec)))
    table = pd.DataFrame(rows, columns=["measure", "part", "value"])
    return table.assign(trained_on=dictionary.trained_on)


def unseen_aliases(task: Task, dictionary: Dictionary, *, share: float, seed: int) -> np.ndarray:
    """Whether a dictionary has not seen each alias; for an SAE from elsewhere, a random share (it may have seen all).

    Raises MechoclError for a share that is neither the default nor what the dictionary's own record says.
    """
    record = dictionary.record
    if "held_out" in record and share not in (HELD_OUT, record["held_out"]):
        raise MechoclError(
            f"held_out is {share}, but the SAE says itself which aliases it has not seen; leave --held-out out"
        )
    return held_out(task, record.get("held_out", share), seed=record.get("seed", seed))


def found_again(rows: Float[Tensor, "feature d"], others: Float[Tensor, "other d"]) -> float:
    """Share of the decoder rows that have a cosine above 0.9 with one of `others`; NaN if there are no rows."""
    return float((cosines(rows, others).amax(1) > FOUND_AGAIN).float().mean()) if len(rows) else float("nan")


def cosines(a: Float[Tensor, "feature d"], b: Float[Tensor, "other d"]) -> Float[Tensor, "feature other"]:
    """Cosine of every row of a with every row of b."""
    found: Tensor = torch.nn.functional.normalize(a, dim=-1) @ torch.nn.functional.normalize(b, dim=-1).T
    return found


@contextlib.contextmanager
def replaced(model: Transformer, dictionary: Dictionary, *, by_zeros: bool = False) -> Iterator[None]:
    """Within the block, the reconstruction (or zeros) stands in the place of the activation at every token."""
    read: dict[str, Tensor] = {}

    def keep(x: Tensor, hook: Any) -> None:
        read["x"] = x

    def put(x: Tensor, hook: Any) -> Tensor:
        if by_zeros:
            return torch.zeros_like(x)
        source = x if dictionary.read == dictionary.write else read["x"]
        out = dictionary.reconstruct(rearrange(source, "batch pos ... -> batch pos (...)"))
        return out.reshape(x.shape)

    hooks = [] if dictionary.read == dictionary.write else [(dictionary.read, keep)]
    with model.hooks([*hooks, (dictionary.write, put)]):
        yield


def _reconstruction(
    model: Transformer, task: Task, dictionary: Dictionary, rows: list[tuple[str, str, float]]
) -> Tensor:
    """Append explained variance and L0 to `rows`; return which features were active."""
    chosen = torch.from_numpy(
        np.flatnonzero((task.table["split"] == "test") | (task.table["kind"] == "definition"))
    )
    found = activations.collect(model, task.tokens[chosen], list({dictionary.read, dictionary.write}))
    reads = read_tokens(task, ())[chosen]
    role = task.roles[chosen][reads]
    x, y = flat(found[dictionary.read])[reads], flat(found[dictionary.write])[reads]
    off, l0, fires = [], [], torch.zeros(dictionary.width, dtype=torch.bool)
    for xs, ys in zip(torch.split(x, 8192), torch.split(y, 8192), strict=True):
        off.append((dictionary.reconstruct(xs).cpu() - ys).square().sum(-1))
        active = (dictionary.encode(xs) > 0).cpu()
        l0.append(active.sum(-1))
        fires |= active.any(0)
    error, count = torch.cat(off), torch.cat(l0).float()
    for part in ("all", *(ROLES[i] for i in torch.unique(role).tolist())):
        at = torch.ones_like(role, dtype=torch.bool) if part == "all" else role == ROLES.index(part)
        total = (y[at] - y[at].mean(0)).square().sum()
        # a token that is always the same (`=` at the embedding) has no variance to explain
        explained = (
            1 - float(error[at].sum() / total)
            if float(total) > 1e-9 * float(y[at].square().sum())
            else np.nan
        )
        rows += [("explained_variance", part, explained), ("l0", part, float(count[at].mean()))]
    return fires


def _fires(model: Transformer, task: Task, dictionary: Dictionary) -> Tensor:
    fires = torch.zeros(dictionary.width, dtype=torch.bool)
    reads = read_tokens(task, ())
    for rows in torch.split(torch.arange(len(task)), 4096):
        x = flat(activations.collect(model, task.tokens[rows], [dictionary.read])[dictionary.read])[
            reads[rows]
        ]
        fires |= (dictionary.encode(x) > 0).any(0).cpu()
    return fires


def _losses(model: Transformer, task: Task, dictionary: Dictionary) -> list[tuple[str, str, float]]:
    clean = loss(model, task)
    with replaced(model, dictionary):
        spliced = loss(model, task)
    with replaced(model, dictionary, by_zeros=True):
        zero = loss(model, task)
    recovered = (zero - spliced) / (zero - clean) if abs(zero - clean) > 1e-6 else float("nan")
    parts = {"clean": clean, "spliced": spliced, "zero": zero, "recovered": recovered}
    return [("loss", part, value) for part, value in parts.items()]


@torch.no_grad()
def loss(model: Transformer, task: Task, *, batch_size: int = 2048) -> float:
    """Mean cross-entropy, in nats, over the tokens that carry loss in the test questions and the definitions."""
    chosen = torch.from_numpy(
        np.flatnonzero((task.table["split"] == "test") | (task.table["kind"] == "definition"))
    )
    total, count = 0.0, 0
    for rows in torch.split(chosen, batch_size):
        x = seam.final_residual(model, task.tokens[rows])[:, :-1]
        at = task.loss_mask[rows][:, :-1]
        logits = x[at].to(model.W_U) @ model.W_U + model.b_U
        target = task.tokens[rows][:, 1:][at].to(logits.device)
        total += float(torch.nn.functional.cross_entropy(logits, target, reduction="sum"))
        count += len(target)
    return total / count


def _aucs(model: Transformer, task: Task, dictionary: Dictionary) -> list[tuple[str, str, float]]:
    clean = internalization.per_alias(model, task).groupby("subset", observed=True)["auc"].mean()
    with replaced(model, dictionary):
        spliced = internalization.per_alias(model, task).groupby("subset", observed=True)["auc"].mean()
    rows = []
    for name in map(str, clean.index):
        value, found = float(clean.loc[name]), float(spliced.loc[name])
        rows += [("auc_clean", name, value), ("auc_spliced", name, found)]
        share = (found - 0.5) / (value - 0.5) if value >= _LEAST_KNOWN else np.nan
        rows.append(("auc_recovered", name, share))
    return rows
