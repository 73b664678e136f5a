"""Plain answers to the three questions about a run, and sentences about the seeds that failed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import pandas as pd

from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.formats import NAMES, describe
from mechocl.behaviour.internalization import measures_of
from mechocl.behaviour.over_seeds import ContrastEstimate, contrasts
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES, Conclusion
from toy_models.measures import Measures


def failures_in_words(counted: CountedSeeds) -> list[str]:
    """A line for each seed that does not count. It says how many there are, and whether means leave the seed out."""
    lost = {**counted.failed, **counted.diverged}
    count = f"{len(lost)} of {counted.total} failed"
    lines = []
    for seed in sorted(lost):
        left_out = "is shown all the same, as no seed is better" if seed in counted.shown else "is left out"
        lines.append(f"seed {seed} failed and {left_out} ({count}): {lost[seed]}")
    return lines


def caution(counted: CountedSeeds) -> str:
    """What stands beside every mean and figure if no seed learned its definitions; "" if one did."""
    if counted.learned or not counted.shown:
        return ""
    seeds = ", ".join(map(str, counted.shown))
    return (
        f"No seed learned its definitions: shown are seeds that failed ({seeds}), from which nothing follows."
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain answer to one question about the run."""

    question: str
    answer: str
    """The answer: one of `verdict.Conclusion`, or "not asked"."""
    sentence: str
    """Why, and the numbers behind it."""

    @property
    def in_words(self) -> str:
        """The question, the answer and the sentence as one line."""
        return f"{self.question}: {self.answer}. {self.sentence}"


_QUESTIONS: Final = (
    (
        "Weak internalization",
        "weak",
        "questions are answered better where the definition was right (tag 1) than where it was wrong (tag 2)",
    ),
    ("Out-of-context learning", "ocl_d1", "aliases only ever defined (tag 1) are answered above chance"),
    (
        "Strong internalization (IML)",
        "strong",
        "new definitions are used more when they carry tag 1 than tag 2",
    ),
)


_STARTS: Final[dict[Conclusion, str]] = {
    YES: "",
    REVERSE: "it is the reverse, and not so that ",
    NOTHING: "it is not so, as far as it matters, that ",
    CANNOT_TELL: "it cannot be told whether ",
}
"""What stands before a claim, by the verdict on it."""


def answers(
    rows: pd.DataFrame, measures: Measures | None = None, *, counted: CountedSeeds | None = None
) -> list[Answer]:
    """Answers to the questions about a run, by the rule of `behaviour.verdict`.

    The leading measure decides, and the second measure is shown beside it (`Measures`). `rows` are those of the
    evaluate analysis over every finished seed, those that failed included. `counted` says which of them count; without
    it, the rows themselves say it. Without `measures`, those that the rows' columns show are taken.
    """
    measures = measures or measures_of(rows)
    counted = counted or count_seeds(rows, measures)
    lead, second = measures.leading, measures.second
    found = {c.name: c for c in contrasts(rows, lead, measures, counted=counted)}
    beside = {c.name: c.estimate for c in contrasts(rows, second, measures, counted=counted)}
    result = []
    for question, name, claim in _QUESTIONS:
        if name == "ocl_d1" and lead not in measures.chance:
            name, claim = (
                "d1_vs_no_data",
                "aliases only ever defined (tag 1) are answered better than undefined ones",
            )
        if name not in found:
            result.append(Answer(question, "not asked", "The run has no aliases for this comparison."))
            continue
        verdict = found[name].verdict
        sentence = f"{_STARTS[verdict.answer]}{claim}: {NAMES[lead]} difference {_difference(found[name], counted)}; "
        sentence = f"{sentence[0].upper()}{sentence[1:]}{verdict.explanation}"
        sentence += f". In {NAMES[second]} {describe(beside[name])}"
        if name == "weak":
            sentence += f". {_effect_of_tag(found)}"
        if name == "strong" and "strong_d1_d3" in found:
            sentence += f". Fresh tag beside it: d1 − d3 {describe(found['strong_d1_d3'].estimate)}"
            sentence += f", d3 − d2 {describe(found['strong_d3_d2'].estimate)}"
        result.append(Answer(question, verdict.answer, sentence + "."))
    return result


def _effect_of_tag(found: Mapping[str, ContrastEstimate]) -> str:
    """What weak internalization owes to the tag, which only runs with unreliable tags (α < 1) can tell."""
    if "weak_tag" not in found:
        return (
            "It compares right definitions with wrong ones; with tags that are always right or always wrong (α = 1), the "
            "effect of the tag itself cannot be separated from that"
        )
    one = found["weak_tag"]
    return f"Effect of the tag itself: {one.verdict.answer}, {describe(one.estimate)} (right − wrong definition, tag 1 against tag 2)"


def _difference(contrast: ContrastEstimate, counted: CountedSeeds) -> str:
    """The difference over the seeds that are shown, and over all seeds where some that failed are not shown."""
    text = describe(contrast.estimate)
    if len(counted.shown) > 1:
        text += f", positive in {contrast.positive_seeds} of {len(counted.shown)} seeds"
    if counted.learned and counted.failed:
        every = contrast.verdict.every
        text += f" (over all {every.n} seeds, those that failed included: {describe(every)})"
    return text
