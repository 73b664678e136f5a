"""Plain answers to the three questions about a run, and sentences about the seeds that failed."""

from dataclasses import dataclass
from typing import Final

import pandas as pd

from mechocl.behaviour.formats import NAMES, describe
from mechocl.behaviour.internalization import measures_of
from mechocl.behaviour.over_seeds import MIN_SEEDS, contrasts
from toy_models.measures import Measures


def failures_in_words(failures: dict[int, str], seeds: int) -> list[str]:
    """A line for each seed that failed. It says how many seeds failed, and whether the means leave them out."""
    left_out = "is left out" if len(failures) < seeds else "is shown all the same, as no seed is better"
    count = f"{len(failures)} of {seeds} failed"
    return [f"seed {seed} failed and {left_out} ({count}): {why}" for seed, why in failures.items()]


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain answer to one question about the run."""

    question: str
    answer: str
    """The answer: "yes", "no: the reverse", "cannot tell" or "not asked"."""
    sentence: str


_QUESTIONS: Final = (
    (
        "Weak internalization",
        "weak",
        "questions are answered better where the definition carried tag 1 than tag 2",
    ),
    ("Out-of-context learning", "ocl_d1", "aliases only ever defined (tag 1) are answered above chance"),
    (
        "Strong internalization (IML)",
        "strong",
        "new definitions are used more when they carry tag 1 than tag 2",
    ),
)


def answers(rows: pd.DataFrame, measures: Measures | None = None) -> list[Answer]:
    """Answers to the questions about a run: yes, no (the opposite is significant) or cannot tell.

    The 95 % interval of the leading measure decides, and the second measure is shown beside it (`Measures`). Without
    `measures`, those that the rows' columns show are taken.
    """
    measures = measures or measures_of(rows)
    lead, second = measures.leading, measures.second
    found = {c.name: c for c in contrasts(rows, lead, measures)}
    accuracy = {c.name: c.estimate for c in contrasts(rows, second, measures)}
    n_seeds = rows["seed"].nunique()
    result = []
    for question, name, claim in _QUESTIONS:
        if name == "ocl_d1" and lead not in measures.chance:
            name, claim = (
                "d1_vs_no_data",
                "aliases only ever defined (tag 1) are answered better than undefined ones",
            )
        if name not in found:
            result.append(Answer(question, "not asked", "the run has no aliases for this comparison"))
            continue
        e = found[name].estimate
        verdict = "cannot tell"
        too_few = 1 < n_seeds < MIN_SEEDS
        if e.significant and not too_few:
            verdict = "yes" if e.mean > 0 else "no: the reverse"
        sentence = f"{claim}: {NAMES[lead]} difference {describe(e)}"
        if n_seeds > 1:
            sentence += f", positive in {found[name].positive_seeds} of {n_seeds} seeds"
        if too_few:
            sentence += f"; {n_seeds} seeds are too few to conclude from"
        elif verdict == "cannot tell" and n_seeds > 1 and e.seeds_for_power < float("inf"):
            sentence += f"; about {e.seeds_for_power:.0f} seeds would be needed for 80 % power"
        sentence += f". In {NAMES[second]} {describe(accuracy[name])}"
        if name == "strong" and "strong_d1_d3" in found:
            sentence += f". Fresh tag beside it: d1 − d3 {describe(found['strong_d1_d3'].estimate)}"
            sentence += f", d3 − d2 {describe(found['strong_d3_d2'].estimate)}"
        result.append(Answer(question, verdict, sentence + "."))
    return result
