"""Are two probes the same direction? Cosines between places, seeds and checkpoints, beside a null.

Two directions in activations have a cosine that is not 0 even by chance: activations vary in few directions, and
any probe lies in these. So each cosine stands beside the cosines of the directions of shuffled labels.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mechocl.runs.folders import Checkpoint

Directions = Mapping[str, Tensor]
"""`probe/site/layer` → unit directions (position, draw, feature, output), as `probing.probe` gives them."""

BETWEEN_PLACES: Final = "places of a model"
BETWEEN_CHECKPOINTS: Final = "checkpoints of a seed"
BETWEEN_SEEDS: Final = "seeds"


def compare(checkpoints: Sequence[tuple[Checkpoint, Directions]], *, probe: str) -> pd.DataFrame:
    """Cosines of a two-class probe's directions at the same position.

    Directions are compared between the places (sites, layers) of each checkpoint, and at the same place between
    checkpoints of one seed and between seeds (at the last checkpoint of each). Only activations of equal width are
    compared. Directions of different seeds lie in unrelated bases; their cosines are given to show that they are null.

    Returns:
        Columns `compared` (one of the three kinds), `first` and `second` (the two that are compared), `position` (its
        index), `cosine`, and `null`. 95 % of |cosine| stay below the null, over all pairs of this kind, when both
        probes are fitted on the same shuffled labels; so the null includes what probes of the same examples have in
        common anyway. The table is empty for a probe of more than two classes, and without shuffles.
    """
    rows: list[dict[str, object]] = []
    null: dict[str, list[Tensor]] = {}
    own = [(c, {k: v for k, v in d.items() if k.rsplit("/", 2)[0] == probe}) for c, d in checkpoints]
    for what, first, second, a, b in _pairs(own):
        if a.shape != b.shape or a.shape[-1] > 1 or a.shape[1] < 2:
            continue
        cosine = (a * b).sum(dim=(2, 3))  # position, draw
        for i in torch.nonzero(a[:, 0].any((1, 2)) & b[:, 0].any((1, 2)))[:, 0].tolist():
            where = {"compared": what, "first": first, "second": second, "position": i}
            rows.append(where | {"cosine": float(cosine[i, 0])})
            null.setdefault(what, []).append(cosine[i, 1:].abs())
    limits = {what: float(np.quantile(torch.cat(parts).numpy(), 0.95)) for what, parts in null.items()}
    table = pd.DataFrame(rows, columns=["compared", "first", "second", "position", "cosine"])
    return table.assign(null=table["compared"].map(limits))


def _pairs(
    checkpoints: Sequence[tuple[Checkpoint, Directions]],
) -> Iterator[tuple[str, str, str, Tensor, Tensor]]:
    """What is compared, the names of the two, and their directions."""
    for checkpoint, directions in checkpoints:
        where = _name(checkpoint)
        for a, b in combinations(directions, 2):
            yield BETWEEN_PLACES, f"{where}, {_place(a)}", _place(b), directions[a], directions[b]
    last: dict[int, tuple[Checkpoint, Directions]] = {}
    for checkpoint, directions in checkpoints:
        if checkpoint.seed not in last or _when(checkpoint) > _when(last[checkpoint.seed][0]):
            last[checkpoint.seed] = (checkpoint, directions)
    for checkpoint, directions in checkpoints:
        final, finally_ = last[checkpoint.seed]
        if _when(checkpoint) < _when(final):
            for key in directions.keys() & finally_.keys():
                yield (
                    BETWEEN_CHECKPOINTS,
                    f"{_name(checkpoint)}, {_place(key)}",
                    _name(final),
                    directions[key],
                    finally_[key],
                )
    for (one, a_all), (two, b_all) in combinations(last.values(), 2):
        for key in sorted(a_all.keys() & b_all.keys()):
            yield BETWEEN_SEEDS, f"{_name(one)}, {_place(key)}", _name(two), a_all[key], b_all[key]


def _when(checkpoint: Checkpoint) -> tuple[int, int]:
    return checkpoint.stage, checkpoint.step


def _name(checkpoint: Checkpoint) -> str:
    return f"seed {checkpoint.seed}, stage {checkpoint.stage} step {checkpoint.step}"


def _place(key: str) -> str:
    _, site, layer = key.rsplit("/", 2)
    return "embedding" if (site, layer) == ("resid_pre", "0") else f"L{layer} {site}"
