"""The IML gap of a run over the gap of its control runs, paired by seed: does the gap need unreliable definitions?

The gap is d1 − d2 in the leading measure. A control run (`runs.controls`) is the same experiment, in which no definition
with tag 2 contradicts a question. The gap owes to unreliability at most its difference from the control's gap.

Which control decides follows from what the run learned in stage 1. If it memorised the definitions with tag 2, the
control must have definitions that can be memorised: `unasked`. If it did not, tag 2 stands before what the model cannot
predict, and so it must in the control: `noise`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

import pandas as pd

from mechocl.behaviour import over_seeds
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.formats import NAMES, describe, number
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

AT_LEAST_IN_PART: Final = "at least in part"
"""Answer where the gap is larger than in the control, of which it is not known whether it has a gap of its own."""

_STEPS: Final = "-equal-steps"
"""End of the names of controls at equal steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlAnswers:
    """What the control runs of a run answered."""

    rows: Mapping[str, pd.DataFrame]
    """Rows of the evaluate analysis of each control, by its name."""
    diverged: Mapping[str, Collection[int]] = field(default_factory=dict)
    """Seeds of each control that diverged and have no rows."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Control → why it has no rows, of the controls that were begun and cannot be used."""


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
    none: Verdict
    """The smallest effect that matters minus the control's gap. It is above 0 if the control has no gap that matters."""
    by_seed: pd.DataFrame
    """Columns `seed`, `run` and `control`: the two gaps of each seed that counts in both."""
    unpaired: tuple[int, ...]
    """Seeds that the run has and the control has not, or the reverse."""


def compare_gaps(
    rows: pd.DataFrame,
    answers: ControlAnswers,
    measures: Measures | None = None,
    *,
    metric: str = "",
    counted: CountedSeeds | None = None,
) -> list[ControlGap]:
    """The gap of each control, and the run's gap over it.

    `rows` are those of the evaluate analysis of the run, and `counted` says which of its seeds count; without it, the
    rows themselves say it. `metric` is the quantity; "" takes the leading one. A seed counts if it learned its definitions
    in the run and in the control. A control without d1 or d2, or without a seed of the run, is left out.
    """
    measures = measures or measures_of(rows)
    counted = counted or count_seeds(rows, measures)
    metric = metric or measures.leading
    own, smallest = _gaps(rows, metric, measures), measures.smallest[metric]
    found = []
    for name, of_control in answers.rows.items():
        other, seeds = (
            _gaps(of_control, metric, measures),
            count_with_control(counted, answers, name, measures),
        )
        both = sorted(own.keys() & other.keys())
        if not both:
            continue
        lost = set(seeds.diverged)
        learned = [seed for seed in both if seed in seeds.learned]
        pairs = _Pairs(own, other, learned, [seed for seed in both if seed not in learned], len(lost))
        found.append(
            ControlGap(
                control=name,
                metric=metric,
                run=pairs.judge(lambda run, control: run, smallest).learned,
                own=pairs.judge(lambda run, control: control, smallest),
                over=pairs.judge(lambda run, control: run - control, smallest),
                most=pairs.judge(lambda run, control: 2 * control - run, smallest),
                none=pairs.judge(lambda run, control: smallest - control, smallest),
                by_seed=pd.DataFrame(
                    {
                        "seed": learned,
                        "run": [own[s] for s in learned],
                        "control": [other[s] for s in learned],
                    }
                ),
                unpaired=tuple(sorted((own.keys() ^ other.keys()) - lost)),
            )
        )
    return found


def count_with_control(
    counted: CountedSeeds, answers: ControlAnswers, name: str, measures: Measures, *, kind: str = "control"
) -> CountedSeeds:
    """Which seeds count where a run is compared with the control `name`: those that learned their definitions in both.

    `kind` is what the other run is called: a control, or a variant.
    """
    diverged = dict.fromkeys(answers.diverged.get(name, ()), "its training diverged")
    of_control = count_seeds(answers.rows[name], measures, diverged=diverged)
    return counted.in_both(of_control, of=f"{kind} {name}")


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Gaps of a run and of a control by seed, and which of the seeds count in both."""

    run: Mapping[int, float]
    control: Mapping[int, float]
    learned: list[int]
    failed: list[int]
    diverged: int

    def judge(self, value: Callable[[float, float], float], smallest: float) -> Verdict:
        """The verdict on a value that each pair of gaps (run, control) gives."""
        learned, failed = (
            {seed: value(self.run[seed], self.control[seed]) for seed in seeds}
            for seeds in (self.learned, self.failed)
        )
        return decide(learned, failed, diverged=self.diverged, margin=smallest)


def _gaps(rows: pd.DataFrame, metric: str, measures: Measures) -> dict[int, float]:
    """Seed → gap."""
    table = over_seeds.differences_by_seed(rows, metric, measures)
    values = table[GAP].dropna() if GAP in table.columns else pd.Series(dtype=float)
    return dict(zip(values.index.astype(int).tolist(), values.astype(float).tolist(), strict=True))


def deciding_control(rows: pd.DataFrame, measures: Measures | None = None) -> tuple[str, str]:
    """The control that decides, `unasked` or `noise`, and the reason in words.

    It is `unasked` if the run recalls at least half of its stage-1 definitions with tag 2 (`MEMORISED`). `rows` are those of
    the evaluate analysis of the run, so the recall is that after the stage that they are evaluated after.
    """
    shown = count_seeds(rows, measures).keep_shown(rows)
    recall = shown.loc[shown["subset"] == "qd2_inconsistent", ["seed", "recall"]].dropna()
    if recall.empty:
        return "noise", "since the recall of definitions with tag 2 is not known"
    mean = recall.groupby("seed")["recall"].mean().mean()
    name = "unasked" if mean >= MEMORISED else "noise"
    return name, f"since the run recalls {number(mean, 2)} of the stage-1 definitions with tag 2"


def explain_gap(
    rows: pd.DataFrame,
    answers: ControlAnswers,
    measures: Measures | None = None,
    *,
    counted: CountedSeeds | None = None,
) -> Answer:
    """Whether the gap of a run needs unreliable definitions, from the rows of the run and of its control runs.

    Each answer must hold in each way in which the deciding control was trained (equal exposure, equal steps):

    - "yes": the gap is larger than the control's, and the control has no gap that matters.
    - "in part": it is larger, and the control has a gap, too, which is not known to be more than half of it.
    - "at least in part": it is larger, and whether the control has a gap cannot be told.
    - "no": the control alone shows more than half of the gap, or the gap is not larger by an amount that matters.
    - "cannot tell": anything else. "not asked": there is no gap in favour of tag 1, or the deciding control was not
      trained.
    """
    measures = measures or measures_of(rows)
    counted = counted or count_seeds(rows, measures)
    own = _gaps(rows, measures.leading, measures)
    if not own:
        return Answer(QUESTION, "not asked", "The run has no aliases for the gap, d1 − d2.")
    gap = decide(
        {seed: v for seed, v in own.items() if seed in counted.learned},
        {seed: v for seed, v in own.items() if seed in counted.failed},
        diverged=len(counted.diverged),
        margin=measures.smallest[measures.leading],
    )
    if gap.answer == NOTHING:
        return Answer(QUESTION, "not asked", "There is no gap to explain.")
    if gap.answer == REVERSE:
        return Answer(
            QUESTION, "not asked", "The gap is the reverse; the question is about a gap in favour of tag 1."
        )
    gaps = compare_gaps(rows, answers, measures, counted=counted)
    name, reason = deciding_control(rows, measures)
    deciding = _of_control(gaps, name)
    notes = [f"The control {control} is left out: {why}." for control, why in answers.left_out.items()]
    if not deciding:
        begun = [control for control in answers.rows if control.removesuffix(_STEPS) == name]
        why = "has no seed in common with the run" if begun else "was not trained"
        said = f"The deciding control, {_IN_WORDS[name]}, {why}; `mechocl controls` trains it."
        return Answer(QUESTION, "not asked", " ".join([said, *notes]))
    answer, found = _read(gap, deciding)
    notes += _cautions(gaps, deciding, name)
    measured = sorted((one for one in deciding if one.by_seed.size), key=lambda one: one.over.learned.mean)
    told = "".join(_in_words(one) for one in (measured if answer == CANNOT_TELL else measured[:1]))
    return Answer(
        QUESTION,
        answer,
        " ".join(
            [
                f"{found}. {NAMES[measures.leading]} gap of the run {describe(gap.learned)}{told}. The control that decides is "
                f"{_IN_WORDS[name]}, {reason}.",
                *notes,
            ]
        ),
    )


def is_larger(
    rows: pd.DataFrame, answers: ControlAnswers, measures: Measures, *, counted: CountedSeeds
) -> bool:
    """Whether the run's gap is shown to be larger than the deciding control's, in each way in which that was trained.

    The control may still show most of the gap, in which case `explain_gap` answers "no". The arguments are those of `explain_gap`.
    """
    gaps = compare_gaps(rows, answers, measures, counted=counted)
    deciding = _of_control(gaps, deciding_control(rows, measures)[0])
    return bool(deciding) and all(one.over.answer == YES for one in deciding)


def _of_control(gaps: list[ControlGap], name: str) -> list[ControlGap]:
    """A control in each way in which it was trained."""
    return [one for one in gaps if one.control.removesuffix(_STEPS) == name]


_IN_WORDS: Final = {
    "noise": "noise (tag 2 stands before entities that are drawn anew in each epoch, of aliases that are never asked about)",
    "unasked": "unasked (tag 2 stands before fixed definitions of aliases that are never asked about)",
}


def _read(gap: Verdict, deciding: list[ControlGap]) -> tuple[str, str]:
    """The answer and its reason, from the run's gap and the deciding control in each way in which it was trained."""
    if gap.answer != YES:
        return CANNOT_TELL, f"It cannot be told whether there is a gap at all: {gap.explanation}"
    larger = [one for one in deciding if one.over.answer == YES and one.most.answer != YES]
    if len(larger) == len(deciding):
        if all(one.none.answer == YES for one in deciding):
            return (
                YES,
                "The gap is there where tag 2 was unreliable, and no gap that matters is there in the deciding control",
            )
        if any(one.own.answer == YES for one in deciding):
            return IN_PART, (
                "The gap is larger where tag 2 was unreliable, but a smaller one is there in the deciding control, in which no "
                "definition with tag 2 contradicted a question"
            )
        return AT_LEAST_IN_PART, (
            "The gap is larger where tag 2 was unreliable than in the deciding control, of which it cannot be told whether it has a gap"
        )
    if all(one.most.answer == YES for one in deciding):
        return "no", (
            "The deciding control, in which no definition with tag 2 contradicted a question, alone shows more than half of the gap"
        )
    if all(one.most.answer == YES or one.over.answer in (NOTHING, REVERSE) for one in deciding):
        return "no", "The gap is not larger than in the deciding control by an amount that matters"
    open_ones = [one for one in deciding if one.over.answer == CANNOT_TELL and one.most.answer != YES]
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


def _cautions(gaps: list[ControlGap], deciding: list[ControlGap], name: str) -> list[str]:
    """What a reader of the answer must know beside it."""
    found = []
    if len(deciding) == 1:
        missing = name if deciding[0].control.endswith(_STEPS) else f"{name}{_STEPS}"
        found.append(
            f"The deciding control was trained in one way; `mechocl controls` with --only {missing} trains the other."
        )
    others = [one.control for one in gaps if one not in deciding and one.own.answer == YES]
    if others:
        found.append(f"A gap is there in {', '.join(others)}, too: other causes than unreliability make one.")
    unpaired = sorted({seed for one in gaps for seed in one.unpaired})
    if unpaired:
        found.append(f"Seeds without a partner are left out: {', '.join(map(str, unpaired))}.")
    return found


def _in_words(one: ControlGap) -> str:
    name = one.control.replace(_STEPS, " at equal steps")
    return (
        f"; of the control {name} {describe(one.own.learned)}; the run's over it {describe(one.over.learned)}"
    )
