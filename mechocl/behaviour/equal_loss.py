"""The gap between two subsets along the last stage of training: by epoch, and at equal definition loss.

Definitions of one tag may be learned faster than those of another. Then a gap in the answers at one epoch may only say
that one subset's definitions were known better at that time. At equal definition loss, each subset is taken at the time
at which its own definitions were known equally well (`toy_models.definition_loss`).
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechocl.behaviour.over_seeds import SeedSummary, summarize_seeds

BETTER, WORSE = "d1_consistent", "d2_consistent"

LEVELS: Final = 25
"""Number of definition losses at which subsets are compared, evenly spaced in their logarithm."""

_LEAST: Final = 1e-4
"""Smallest definition loss (nats) at which subsets are compared. Below it the entity is as good as certain."""


@dataclass(frozen=True, slots=True)
class GapCurves:
    """The gap d1 − d2 in one measure along the last stage. Estimates are of those keys at which every seed has a value."""

    measure: str
    by_epoch: SeedSummary
    """Key `epoch`, which counts within the stage."""
    by_loss: SeedSummary | None
    """Key `definition_loss`, in nats, which both subsets have in common. None if the history holds no such loss."""
    apart: tuple[int, ...] = ()
    """Seeds whose two subsets have no definition loss in common. They are not in `by_loss`."""


def summarize_gap(history: pd.DataFrame, *, measure: str) -> GapCurves | None:
    """The gap along the last stage of a history, in each seed and over the seeds; None if it does not hold both subsets.

    `history` has the columns seed, stage, epoch, subset, the measure and, unless it is of an old or a text run,
    `definition_loss`.
    """
    last = history[history["stage"] == history["stage"].max()]
    if measure not in last or not {BETTER, WORSE} <= set(last.dropna(subset=[measure])["subset"]):
        return None
    by_epoch = _summary(compare_by_epoch(last, measure=measure), "epoch")
    levels = choose_levels(last)
    if len(levels) == 0:
        return GapCurves(measure, by_epoch, None)
    at_loss = compare_at_losses(last, levels, measure=measure)
    compared = at_loss.groupby("seed")["gap"].transform("count") > 0
    apart = tuple(int(seed) for seed in at_loss.loc[~compared, "seed"].unique())
    return GapCurves(measure, by_epoch, _summary(at_loss[compared], "definition_loss"), apart)


def compare_by_epoch(history: pd.DataFrame, *, measure: str) -> pd.DataFrame:
    """One row per seed and evaluation of a stage: `seed`, `epoch`, and `gap`, the measure of d1 minus that of d2."""
    table = history.pivot_table(index=["seed", "epoch"], columns="subset", values=measure, observed=True)
    return (table[BETTER] - table[WORSE]).rename("gap").reset_index()


def choose_levels(history: pd.DataFrame) -> Float[np.ndarray, " level"]:
    """Definition losses (nats, from high to low) between the first and the lowest that d1 and d2 have in common in a seed.

    They are empty if the history holds no definition losses, or if the two have none in common.
    """
    if "definition_loss" not in history:
        return np.array([])
    rows = history[history["subset"].isin([BETTER, WORSE])].dropna(subset=["definition_loss"])
    spans = rows.sort_values("epoch").groupby(["seed", "subset"], observed=True)["definition_loss"]
    ends = spans.agg(["first", "min", "size"]).groupby("seed")
    # both losses begin at the lower of the first ones or above, and both end at the higher of the lowest ones or below
    common = ends.agg({"first": "min", "min": "max", "size": "size"})
    common = common[(common["size"] == 2) & (common["first"] > common["min"])]
    if common.empty:
        return np.array([])
    return np.geomspace(common["first"].max(), max(common["min"].min(), _LEAST), LEVELS)


def compare_at_losses(
    history: pd.DataFrame, levels: Float[np.ndarray, " level"], *, measure: str
) -> pd.DataFrame:
    """The measure of d1 minus that of d2, each at the time at which its own definition loss has come to a level.

    One row per seed and level, with the columns `seed`, `definition_loss` (the level) and `gap`, which is NaN where one of
    the two has not been.
    """
    found = []
    for seed, part in history.sort_values("epoch").groupby("seed"):
        each = {}
        for subset in (BETTER, WORSE):
            rows = part[part["subset"] == subset].dropna(subset=["definition_loss", measure])
            losses, values = (rows[c].to_numpy(dtype=float) for c in ("definition_loss", measure))
            each[subset] = interpolate_at_losses(losses, values, levels)
        gap = each[BETTER] - each[WORSE]
        found.append(pd.DataFrame({"seed": seed, "definition_loss": levels, "gap": gap}))
    return pd.concat(found, ignore_index=True)


def interpolate_at_losses(
    losses: Float[np.ndarray, " evaluation"],
    values: Float[np.ndarray, " evaluation"],
    levels: Float[np.ndarray, " level"],
) -> Float[np.ndarray, " level"]:
    """The values at the times at which a loss first came down to each level, from its evaluations in the order of time.

    Only evaluations with a loss lower than all before count, so that each level has one time. Between them the value is
    linear in the loss. It is NaN at levels above the first loss and below the lowest one.
    """
    lowest_before = np.minimum.accumulate(np.concatenate([[np.inf], losses]))[:-1]
    lower = losses < lowest_before
    if not lower.any():
        return np.full(len(levels), np.nan)
    # np.interp wants rising x
    found: np.ndarray = np.interp(levels, losses[lower][::-1], values[lower][::-1], left=np.nan, right=np.nan)
    return found


def _summary(rows: pd.DataFrame, key: str) -> SeedSummary:
    """Summary of the gap by the key. Where a seed has no value, there is no estimate: its mean would be of other seeds."""
    summary = summarize_seeds(rows, [key], "gap")
    whole = summary.estimates["seeds"] == rows["seed"].nunique()
    return replace(summary, estimates=summary.estimates[whole].reset_index(drop=True))
