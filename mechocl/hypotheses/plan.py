"""How many seeds, aliases and hours a decision needs, from a pilot: the seeds that there are."""

import math
from dataclasses import dataclass

import numpy as np

from mechocl.behaviour.over_seeds import questions_per_alias
from mechocl.hypotheses.quantities import TAG_1, TAG_2
from mechocl.hypotheses.sources import Gathered
from mechocl.hypotheses.verdict import RunVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an explanation's undecided predictions need."""

    explanation: str
    more_seeds: int | None
    """None where it cannot be said: too few seeds for a spread, or more seeds alone would not decide."""
    hours: float | None
    """Hours of training those seeds with the controls that there are, on this machine; None if its pace is not known."""


def plan_decisions(verdict: RunVerdict) -> list[Plan]:
    """What each explanation needs whose predictions are not all decided. The analyses' own time is not in the hours."""
    pace = verdict.gathered.seconds_per_seed
    return [
        Plan(
            explanation=one.explanation.name,
            more_seeds=one.more_seeds,
            hours=None if pace is None or one.more_seeds is None else one.more_seeds * pace / 3600,
        )
        for one in verdict.findings
        if one.undecided
    ]


def share_of_aliases(gathered: Gathered) -> float | None:
    """Which share of the gap's variance over seeds is there because a seed has only so many aliases, from 0 to 1.

    It is the mean over seeds of the squared standard error over aliases, ÷ the variance over seeds. Where it is near 1, more
    aliases are worth as much as more seeds; where it is near 0, they are worth nothing. None with fewer than two seeds.
    """
    rows = questions_per_alias(gathered.answers)
    rows = rows[rows["seed"].isin(gathered.counted.learned)]
    of_gap, errors = [], []
    for _, part in rows.groupby("seed"):
        both = [
            part.loc[part["subset"] == name, gathered.measures.leading].to_numpy(float)
            for name in (TAG_1, TAG_2)
        ]
        if min(map(len, both)) < 2:
            return None
        of_gap.append(both[0].mean() - both[1].mean())
        errors.append(sum(values.var(ddof=1) / len(values) for values in both))
    if len(of_gap) < 2 or np.var(of_gap, ddof=1) == 0:
        return None
    return float(min(1.0, np.mean(errors) / np.var(of_gap, ddof=1)))


def plan_in_words(verdict: RunVerdict) -> list[str]:
    """One line for each explanation that is not decided, and one about the aliases."""
    lines = []
    for one in plan_decisions(verdict):
        if one.more_seeds is None:
            lines.append(f"{one.explanation}: how many seeds would decide cannot be said from these")
            continue
        hours = (
            "" if one.hours is None else f", {_hours(one.hours)} of training with the controls that are there"
        )
        lines.append(
            f"{one.explanation}: about {one.more_seeds} more seed{'s' * (one.more_seeds != 1)}{hours}"
        )
    share = share_of_aliases(verdict.gathered)
    if share is not None:
        half = 1 - share / 2
        lines.append(
            f"aliases: {100 * share:.0f} % of the gap's variance over seeds comes from their number, so twice as many "
            f"need about {half:.2f} times the seeds"
        )
    return lines or ["every prediction is decided"]


def _hours(hours: float) -> str:
    return f"{hours:.1f} hours" if hours >= 1 else f"{math.ceil(60 * hours)} minutes"
