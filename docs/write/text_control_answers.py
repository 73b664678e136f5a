"""What the setups of the paper's other controls on text answered, by seed, and differences between subsets and setups."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from docs.write import text_controls
from docs.write.text_controls import PARTS
from mechocl.behaviour.statistics import SHARE, Estimate, estimate

SUBSETS: Final = (
    "qd1_consistent",
    "qd2_inconsistent",
    "d1_consistent",
    "d2_consistent",
    "d3_consistent",
    "no_data",
)
"""Subsets in the tables."""

METRIC: Final = "exact_match"

_SHORT: Final = {name.split("_")[0]: name for name in SUBSETS} | {"no data": "no_data"}


@dataclass(frozen=True)
class Answers:
    """What every setup answered, by seed."""

    table: pd.DataFrame
    probes: pd.DataFrame

    def values(self, setup: str, subset: str, metric: str = METRIC, **where: object) -> pd.Series:
        """A measure of a subset in each seed of a setup, by default of held-out questions; empty where it was not measured."""
        wanted: dict[str, object] = {
            "setup": setup,
            "subset": _SHORT.get(subset, subset),
            "test": "questions",
        } | where
        rows = self.table[np.logical_and.reduce([self.table[k] == v for k, v in wanted.items()])]
        return rows.set_index("seed")[metric].dropna()

    def mean(self, setup: str, subset: str, metric: str = METRIC, **where: object) -> Estimate | None:
        bounds = SHARE if metric != "log_probability" else None
        return estimate_seeds(self.values(setup, subset, metric, **where), bounds=bounds)

    def apart(self, setup: str, one: str, other: str, metric: str = METRIC) -> pd.Series:
        """A measure of one subset − that of another, in each seed."""
        return (self.values(setup, one, metric) - self.values(setup, other, metric)).dropna()

    def difference(self, setup: str, one: str, other: str, metric: str = METRIC) -> Estimate | None:
        return estimate_seeds(self.apart(setup, one, other, metric))

    def over(self, setup: str, twin: str, one: str, other: str, metric: str = METRIC) -> Estimate | None:
        """That difference in a setup − the same in another, paired by seed."""
        return estimate_seeds(
            (self.apart(setup, one, other, metric) - self.apart(twin, one, other, metric)).dropna()
        )

    def believed(self, setup: str) -> pd.Series:
        """How much of the gain from new definitions with tag 1 those with tag 2 bring, in each seed: (d2 − no data) ÷ (d1 − no data)."""
        return self.apart(setup, "d2", "no data") / self.apart(setup, "d1", "no data")

    def in_context(self, setup: str, tag: int, stage: int, metric: str = METRIC) -> pd.Series:
        """Questions about aliases that were never trained on, behind a definition with a tag, after a stage."""
        return self.values(setup, "no_data", metric, test=f"in context, tag {tag}", stage=stage)

    def last(self, setup: str) -> int:
        return int(self.table.loc[self.table["setup"] == setup, "stage"].max())

    def first(self, setup: str) -> int:
        """The stage after which the subsets of stage 1 are judged."""
        stages = self.table.loc[self.table["setup"] == setup, "stage"]
        return int(stages[stages > 0].min())

    def by_part(self, setup: str, metric: str) -> pd.DataFrame:
        """Seeds as rows, parts as columns."""
        return pd.DataFrame(
            {k: self.values(setup, "new", metric, test=f"part {k}") for k in range(1, PARTS + 1)}
        )

    def slope(self, setup: str, metric: str = METRIC) -> Estimate | None:
        """By how much a measure of new aliases changes from one part to the next: a line through the parts of each seed."""
        found = self.by_part(setup, metric).dropna()
        if found.empty:
            return None
        return estimate_seeds(
            pd.Series(np.polyfit(found.columns.to_numpy(float), found.to_numpy().T, 1)[0], index=found.index)
        )

    def probed(self, setup: str, target: str, measure: str, **where: object) -> pd.Series:
        """A score of a probe in each seed."""
        wanted = {"setup": setup, "target": target} | where
        rows = self.probes[np.logical_and.reduce([self.probes[k] == v for k, v in wanted.items()])]
        return rows.set_index("seed")[measure]


def estimate_seeds(values: pd.Series, *, bounds: tuple[float, float] | None = None) -> Estimate | None:
    """Mean and interval of a value of each seed; None if there is no seed."""
    return estimate(values.to_numpy(dtype=float), unit="seed", bounds=bounds) if len(values) else None


def read_answers() -> Answers:
    """The saved tables; without probes where nothing was probed yet."""
    columns = ["setup", "seed", "target", "control", "site", "layer", "position", "chance", "accuracy", "auc"]
    there = text_controls.PROBES.exists()
    probes = pd.read_csv(text_controls.PROBES) if there else pd.DataFrame(columns=columns)
    return Answers(pd.read_csv(text_controls.TABLE), probes)
