"""Interventions summarised over the seeds of a run: curves of circuits, subspaces, patched sites."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from mechocl.behaviour.over_seeds import SeedSummary, site_by_position, site_names, summarize_seeds
from mechocl.errors import MechoclError

SUBSPACE_CONTROLS: Final = ("none", "shuffled", "random model")
"""Values of the column `control` of a subspace study, in the order in which they are shown; none is the swap itself."""

SUBSPACE_VALUES: Final = ("normalised", "explained")
"""Columns of a subspace study that `summarize_subspaces` takes."""


def summarize_circuits(rows: pd.DataFrame) -> SeedSummary:
    """The share of a contrast that circuits of each size keep, by `contrast`, `kind` and `edges`.

    `rows` as from `circuits.circuit_study`, with a seed column. Random circuits are averaged over their draws in each seed.
    """
    return summarize_seeds(rows[rows["kind"] != "edge"], ["contrast", "kind", "edges"], "normalised")


def summarize_subspaces(
    rows: pd.DataFrame, *, metric: str = "logit_difference", value: str = "normalised"
) -> SeedSummary:
    """What changing each subspace does, by `contrast`, `place`, `control`, `method` and `k`.

    `rows` as from `subspace_study.subspace_study`, with a seed column. `value`: `normalised` (0: as the corrupted run,
    1: as the clean one, in the trained model's measure) or `explained` (share of the squared difference that is gone).

    Raises MechoclError for any other `value`.
    """
    if value not in SUBSPACE_VALUES:
        raise MechoclError(f"value is {value!r}; use {' or '.join(SUBSPACE_VALUES)}")
    rows = rows[rows["metric"] == metric]
    place = rows["position"] + ", " + rows["site"] + " " + rows["layer"].astype(str)
    keys = ["contrast", "place", "control", "method", "k"]
    return summarize_seeds(rows.assign(place=place), keys, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchedGrid:
    """What patching each site at each position does in one contrast, over the seeds."""

    contrast: str
    unit: str
    """The unit of the effects."""
    clean: float
    """Mean of the metric in the clean runs."""
    corrupted: float
    """Mean of the metric in the corrupted runs."""
    means: pd.DataFrame
    """Mean over the seeds, sites as rows and positions as columns."""
    cells: SeedSummary
    """The same by `site` and `position`, seed by seed and with intervals; its quantity is `effect` or `normalised`."""


def summarize_patching(rows: pd.DataFrame, *, value: str = "effect", most: int = 40) -> Sequence[PatchedGrid]:
    """One grid for each contrast, in the order of the rows.

    `rows` as from `patching.PatchingResult.table`, with a seed column. `value`: `effect` (in the metric's unit) or
    `normalised` (a share). If there are more than `most` sites (as with neurons), only those with the largest
    effects are kept. Cells in which nothing was exchanged in any seed are NaN.
    """
    found = []
    for name, part in rows.groupby("contrast", sort=False):
        part = part.assign(site=site_names(part))
        largest = (
            part.groupby("site", sort=False)[value]
            .agg(lambda x: x.abs().max())
            .fillna(0)
            .nlargest(most)
            .index
        )
        part = part[part["site"].isin(largest)]
        found.append(
            PatchedGrid(
                contrast=str(name),
                unit=str(rows["unit"].iloc[0]),
                clean=part["clean"].mean(),
                corrupted=part["corrupted"].mean(),
                means=site_by_position(part, value),
                cells=summarize_seeds(part, ["site", "position"], value),
            )
        )
    return found
