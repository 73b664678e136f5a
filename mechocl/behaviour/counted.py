"""Which seeds of a run count: those that were trained to the end and learned their definitions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import measures_of
from toy_models.measures import Measures


@dataclass(frozen=True, slots=True)
class CountedSeeds:
    """The seeds of a run, by whether they count."""

    learned: tuple[int, ...]
    """Seeds that count."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Seed → the reason, of the seeds that were trained to the end and did not learn their definitions."""
    diverged: Mapping[int, str] = field(default_factory=dict)
    """Seed → the reason, of the seeds whose training ended early. They have no results."""

    @property
    def shown(self) -> tuple[int, ...]:
        """The seeds that means and figures are of: those that learned, or all that have results if none learned."""
        return self.learned or tuple(sorted(self.failed))

    @property
    def total(self) -> int:
        return len(self.learned) + len(self.failed) + len(self.diverged)

    def keep_shown(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows, which have a column `seed`, of the seeds that are shown."""
        return rows[rows["seed"].isin(self.shown)]

    def in_both(self, other: "CountedSeeds", *, of: str) -> "CountedSeeds":
        """Where a run is compared with another one by seed: a seed counts if it counts in both. Seeds of one alone are left out.

        `of` names the other run in the reasons.
        """
        diverged = _named(other.diverged, of) | dict(self.diverged)
        failed = _named(other.failed, of) | dict(self.failed)
        return CountedSeeds(
            tuple(seed for seed in self.learned if seed in other.learned),
            {seed: why for seed, why in failed.items() if seed not in diverged},
            diverged,
        )


def _named(reasons: Mapping[int, str], name: str) -> dict[int, str]:
    return {seed: f"{name}: {why}" for seed, why in reasons.items()}


def count_seeds(
    rows: pd.DataFrame, measures: Measures | None = None, *, diverged: Mapping[int, str] | None = None
) -> CountedSeeds:
    """Which seeds count, from the rows of the evaluate analysis after the last stage, over all finished seeds.

    `diverged` is seed → the reason, of the seeds that are not in the rows because their training diverged (`Run.failures`).
    Without `measures`, those that the rows' columns show are taken.
    """
    measures = measures or measures_of(rows)
    seeds = sorted(map(int, set(rows["seed"])))
    reasons: dict[int, str] = {}
    if measures.least_recall is not None:
        table = internalization.by_subset(rows, within=["seed"])
        for seed in seeds:
            if reason := internalization.failure(table[table["seed"] == seed], measures):
                reasons[seed] = reason
    return CountedSeeds(tuple(seed for seed in seeds if seed not in reasons), reasons, dict(diverged or {}))
