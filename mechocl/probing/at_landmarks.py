"""A probe at its landmarks over the seeds: through the checkpoints of one run, and from run to run."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mechocl.behaviour.over_seeds import SeedSummary, summarize_seeds
from mechocl.behaviour.statistics import SHARE
from mechocl.probing.summaries import PLACE, chance, landmarks, statistic, threshold


@dataclass(frozen=True, slots=True)
class Emergence:
    """A probe's statistic at its landmarks over the checkpoints of one run."""

    statistic: str
    """`auc` or `accuracy`, see `summaries.statistic`."""
    landmarks: list[tuple[str, int, str]]
    """Site, layer and position of each landmark."""
    checkpoints: pd.DataFrame
    """`stage`, `step`, `epoch` (mean over the seeds) and `threshold`, in the order of training. A place must exceed the
    threshold to be significant in the whole grid; it is NaN without shuffles."""
    scores: SeedSummary
    """The statistic by `site`, `layer`, `position`, `stage` and `step`."""


def summarize_emergence(rows: pd.DataFrame) -> Emergence:
    """Summarise `rows` of one probe at the checkpoints of one run, over the seeds."""
    own = _own(rows)
    when = own[["stage", "step", "epoch"]].groupby(["stage", "step"])["epoch"].mean().reset_index()
    limits = [
        threshold(rows[(rows["stage"] == stage) & (rows["step"] == step)])
        for stage, step in zip(when["stage"], when["step"], strict=True)
    ]
    value = statistic(rows)
    return Emergence(
        statistic=value,
        landmarks=landmarks(rows),
        checkpoints=when.assign(threshold=np.array(limits, dtype=float)),
        scores=summarize_seeds(own, [*PLACE, "stage", "step"], value, bounds=SHARE),
    )


@dataclass(frozen=True, slots=True)
class RunsCompared:
    """One probe at its landmarks, at one checkpoint of each of several runs."""

    statistic: str
    """`auc` or `accuracy`, see `summaries.statistic`."""
    chance: float
    """Value of the statistic where there is nothing to read."""
    landmarks: list[tuple[str, int, str]]
    """Site, layer and position of each landmark."""
    runs: pd.DataFrame
    """`run` and its `word_order`, in the order of the rows."""
    scores: SeedSummary
    """The statistic by `site`, `layer`, `position` and `run`."""
    gaps: SeedSummary | None
    """The IML gap by `run`; None where it was not given."""
    metric: str
    """The unit of the gaps; "" where they were not given."""


def compare_runs(rows: pd.DataFrame, gaps: pd.DataFrame | None = None) -> RunsCompared:
    """Compare `rows` of one probe in several runs, at one checkpoint each, over the seeds.

    `gaps` as from `analyses.jobs.iml_gaps`.
    """
    own = _own(rows)
    value = statistic(rows)
    return RunsCompared(
        statistic=value,
        chance=chance(own),
        landmarks=landmarks(own),
        runs=own[["run", "word_order"]].drop_duplicates(),
        scores=summarize_seeds(own, [*PLACE, "run"], value, bounds=SHARE),
        gaps=None if gaps is None else summarize_seeds(gaps, ["run"], "gap"),
        metric="" if gaps is None else " or ".join(gaps["metric"].unique()),
    )


def _own(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the probe itself, with the value of the regularisation that was chosen, over all subsets."""
    return rows[(rows["control"] == "none") & (rows["subset"] == "all") & rows["chosen"]]
