"""The IML gap of a run over the gap of its control runs, paired by seed: does the gap need unreliable definitions?

The gap is d1 − d2 in the leading measure. A control run (`runs.controls`) is the same experiment without a definition
that contradicts a question. What the gap owes to unreliability is its difference from the control's gap.

Which control decides follows from what the run learned in stage 1. If it memorised the definitions with tag 2, the
control must have definitions that can be memorised: `unasked`. If it did not, tag 2 stands before what the model cannot
predict, and so it must in the control: `noise`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pandas as pd

from mechocl.behaviour import over_seeds
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.formats import NAMES, describe
from mechocl.behaviour.internalization import measures_of
from mechocl.behaviour.sentences import Answer
from mechocl.behaviour.statistics import Estimate
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES, Verdict, decide
from toy_models.measures import Measures

GAP: Final = "strong"
"""Name of the contrast d1 − d2."""

MEMORISED: Final = 0.5
"""Share of the stage-1 definitions with tag 2 that a run must recall for its deciding control to be `unasked`."""

QUESTION: Final = "The gap needs unreliability"

IN_PART: Final = "in part"
"""Answer where the gap is larger than in the control, which has a gap of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlGap:
    """The gap of one control run, and the run's gap over it. Each verdict is on values paired by seed."""

    control: str
    """Name of the control."""
    metric: str
    run: Estimate
    """The run's gap, over the seeds that count in both."""
    own: Verdict
    """The control's own gap, over the same seeds."""
    over: Verdict
    """The run's gap minus the control's."""
    most: Verdict
    """Twice the control's gap minus the run's gap. It is above 0 if the control alone shows more than half of the gap."""
    by_seed: pd.DataFrame
    """Columns `seed`, `run` and `control`: the two gaps of each seed that counts in both."""


def compare_gaps(
    rows: pd.DataFrame,
    controls: Mapping[str, pd.DataFrame],
    measures: Measures | None = None,
    *,
    metric: str = "",
) -> list[ControlGap]:
    """The gap of each control, and the run's gap over it.

    `rows` and `controls` are rows of the evaluate analysis, of the run and of each control run by its name. `metric` is
    the quantity; "" takes the leading one. A seed counts if it is in both and learned its definitions in both. A
    control without d1 or d2, or without a seed of the run, is left out.
    """
    measures = measures or measures_of(rows)
    metric = metric or measures.leading
    own, counted = _gaps(rows, metric, measures)
    found = []
    for name, of_control in controls.items():
        other, also = _gaps(of_control, metric, measures)
        both = sorted(own.keys() & other.keys())
        if not both:
            continue
        learned = [seed for seed in both if seed in counted.learned and seed in also.learned]
        failed = [seed for seed in both if seed not in learned]

        def judge(value_of: Mapping[int, float], learned=learned, failed=failed) -> Verdict:  # type: ignore[no-untyped-def]
            return decide(
                {seed: value_of[seed] for seed in learned},
                {seed: value_of[seed] for seed in failed},
                margin=measures.smallest[metric],
            )

        found.append(
            ControlGap(
                control=name,
                metric=metric,
                run=judge(own).learned,
                own=judge(other),
                over=judge({seed: own[seed] - other[seed] for seed in both}),
                most=judge({seed: 2 * other[seed] - own[seed] for seed in both}),
                by_seed=pd.DataFrame(
                    {
                        "seed": learned,
                        "run": [own[s] for s in learned],
                        "control": [other[s] for s in learned],
                    }
                ),
            )
        )
    return found


def _gaps(rows: pd.DataFrame, metric: str, measures: Measures) -> tuple[dict[int, float], CountedSeeds]:
    """Seed → gap, and which of the seeds count."""
    table = over_seeds.differences_by_seed(rows, metric, measures)
    values = table[GAP].dropna() if GAP in table.columns else pd.Series(dtype=float)
    seeds, each = values.index.astype(int).tolist(), values.astype(float).tolist()
    return dict(zip(seeds, each, strict=True)), count_seeds(rows, measures)


def deciding_control(rows: pd.DataFrame, measures: Measures | None = None) -> str:
    """`unasked` if the run recalls at least half of its stage-1 definitions with tag 2 (`MEMORISED`), or else `noise`.

    `rows` are those of the evaluate analysis of the run. A run whose word order has no recall has `noise`.
    """
    shown = count_seeds(rows, measures).keep_shown(rows)
    recall = shown.loc[shown["subset"] == "qd2_inconsistent", ["seed", "recall"]].dropna()
    mean = recall.groupby("seed")["recall"].mean().mean()
    return "unasked" if mean >= MEMORISED else "noise"


def explain_gap(
    rows: pd.DataFrame, controls: Mapping[str, pd.DataFrame], measures: Measures | None = None
) -> Answer:
    """Whether the gap of a run needs unreliable definitions, from the rows of the run and of its control runs.

    - "yes": there is a gap, and it is larger than that of the deciding control, in each way in which the control was
      trained (equal exposure, equal steps), and the control itself is not known to have a gap.
    - "in part": it is larger, and the control has a gap, too, which is not known to be more than half of it.
    - "no": there is a gap, and in each way the deciding control alone shows more than half of it, or all of it.
    - "cannot tell": anything else. "not asked": there is no gap to explain, or the deciding control was not trained.
    """
    measures = measures or measures_of(rows)
    gaps = compare_gaps(rows, controls, measures)
    own, counted = _gaps(rows, measures.leading, measures)
    if not own:
        return Answer(QUESTION, "not asked", "The run has no aliases for the gap, d1 − d2.")
    gap = decide(
        {seed: v for seed, v in own.items() if seed in counted.learned},
        {seed: v for seed, v in own.items() if seed in counted.failed},
        margin=measures.smallest[measures.leading],
    )
    if gap.answer in (NOTHING, REVERSE):
        return Answer(QUESTION, "not asked", "There is no gap to explain.")
    name = deciding_control(rows, measures)
    deciding = [one for one in gaps if one.control.removesuffix("-equal-steps") == name]
    if not deciding:
        return Answer(
            QUESTION, "not asked",
            f"The deciding control, {_IN_WORDS[name]}, was not trained; `mechocl controls` trains it."
        )  # fmt: skip
    answer, reason = _read(gap, deciding)
    numbers = "; ".join(_in_words(one) for one in gaps)
    why = "are not learned" if name == "noise" else "are memorised"
    return Answer(
        QUESTION,
        answer,
        f"{reason}. {NAMES[measures.leading]} gap of the run {describe(gap.learned)}; {numbers}. The control that decides is "
        f"{_IN_WORDS[name]}, since in the run the definitions with tag 2 {why} in stage 1.",
    )


_IN_WORDS: Final = {
    "noise": "noise (tag 2 stands before unpredictable entities, and nothing contradicts a question)",
    "unasked": "unasked (tag 2 stands before fixed definitions of aliases that are never asked about)",
}


def _read(gap: Verdict, deciding: list[ControlGap]) -> tuple[str, str]:
    """The answer and its reason, from the run's gap and the deciding control in each way in which it was trained."""
    if gap.answer != YES:
        return CANNOT_TELL, f"It cannot be told whether there is a gap at all: {gap.explanation}"
    larger = [one for one in deciding if one.over.answer == YES and one.most.answer != YES]
    as_large = [one for one in deciding if one.most.answer == YES or one.over.answer in (NOTHING, REVERSE)]
    if len(larger) == len(deciding):
        if any(one.own.answer == YES for one in deciding):
            return IN_PART, (
                "The gap is larger where tag 2 was unreliable, but a smaller one is there in the control, in which nothing was "
                "ever unreliable"
            )
        return YES, "The gap is there where tag 2 was unreliable, and not, or hardly, where it was not"
    if len(as_large) == len(deciding):
        return "no", "The control alone, in which nothing was ever unreliable, shows most of the gap"
    open_ones = [one for one in deciding if one not in larger and one not in as_large]
    if not open_ones:
        return (
            CANNOT_TELL,
            "The control at equal exposure and the control at equal steps give different answers",
        )
    first = open_ones[0]
    return (
        CANNOT_TELL,
        f"It cannot be told whether the gap is larger than in the control {first.control}: {first.over.explanation}",
    )


def _in_words(one: ControlGap) -> str:
    name = one.control.replace("-equal-steps", " at equal steps")
    return f"control {name}: {describe(one.own.learned)}, the run's gap over it {describe(one.over.learned)}"
