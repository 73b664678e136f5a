"""The verdict on a run: which explanations of the gap between tags what was measured supports, and which it contradicts.

Nothing is weighed. An explanation is

- *contradicted* if one of the predictions that test it came out otherwise;
- *supported* if all of them are met, and at least one of these is expected by no other explanation;
- *met so far* if it would be supported, but claims more than is measured (`Explanation.lacks`), or is tested by what such a run cannot
  have (`Effect.cannot`);
- *undecided* if anything of this is missing or not decided;
- *nothing to explain* if there is no gap, or, for those about unreliable definitions, none beyond its control. Where the control has
  most of the gap and the run has more, what is beyond it is there to be explained.

Explanations are not exclusive. What contradicts that one of them *alone* makes the gap is named beside it, and so are pairs of
explanations that no decided prediction tells apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from mechocl.behaviour.control_gaps import explain_gap, is_larger
from mechocl.behaviour.formats import estimate_in_words
from mechocl.behaviour.sentences import Answer
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, YES, Verdict as Decision, beside_numbers, decide
from mechocl.errors import MechoclError
from mechocl.hypotheses import predictions as data, sources
from mechocl.hypotheses.citing import Citation, cite
from mechocl.hypotheses.evidence import Effect, excludes, judge
from mechocl.hypotheses.predictions import Explanation, Predictions
from mechocl.hypotheses.quantities import gaps
from mechocl.hypotheses.sources import Gathered
from mechocl.hypotheses.trust import LEFT, trust
from mechocl.models.seam import resolve_device
from mechocl.runs.run import Run
from toy_models.shown import Shown

Status = Literal["supported", "met so far", "contradicted", "undecided", "nothing to explain"]

NOTHING_NAME: Final = "nothing"
"""Name of the explanation that there is no gap."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What was found about one explanation."""

    explanation: Explanation
    status: Status
    met: tuple[str, ...]
    """The predictions that test it, by name and outcome."""
    contradicted: tuple[str, ...]
    undecided: tuple[str, ...]
    not_measured: tuple[str, ...]
    not_alone: tuple[str, ...]
    """Predictions of others that contradict that it alone makes the gap."""
    more_seeds: int | None
    """About how many more seeds would decide its undecided predictions; None if that cannot be said, or none is undecided."""

    @property
    def in_words(self) -> str:
        """`2 of 3 met, 1 undecided (entity-alike), needs about 9 more seeds`."""
        total = len(self.met) + len(self.contradicted) + len(self.undecided) + len(self.not_measured)
        parts = [f"{len(self.met)} of {total} met"]
        for names, word in (
            (self.contradicted, "contradicted"), (self.undecided, "undecided"), (self.not_measured, "not measured"),
        ):  # fmt: skip
            parts += [f"{len(names)} {word} ({', '.join(names)})"] if names else []
        if self.more_seeds and not self.contradicted:
            parts.append(f"needs about {self.more_seeds} more seed{'s' * (self.more_seeds > 1)}")
        if self.not_alone:
            parts.append(f"it alone does not make the gap ({', '.join(self.not_alone)})")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two explanations that no decided prediction tells apart."""

    names: tuple[str, str]
    would: tuple[str, ...]
    """Predictions that would tell them apart once they are decided; empty if there is none."""

    @property
    def in_words(self) -> str:
        """Which two cannot be told apart, and which experiment would tell."""
        how = f"{', '.join(self.would)} would, once decided" if self.would else "no prediction here would"
        return f"{self.names[0]} and {self.names[1]} cannot be told apart; {how}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunVerdict:
    """The verdict on one run, or on several runs of one recipe."""

    runs: tuple[str, ...]
    seeds: int
    """Number of seeds that count."""
    gap: Decision
    """Whether there is a gap d1 − d2."""
    beyond: Answer
    """Whether the gap needs unreliable definitions."""
    refusal: str
    """Why there is nothing to explain, in one sentence; "" if there is."""
    beyond_refusal: str
    """Why explanations by unreliability have nothing to explain, in one sentence; "" if they have."""
    effects: tuple[Effect, ...]
    findings: tuple[Finding, ...]
    pairs: tuple[Pair, ...]
    gathered: Gathered
    """The rows that it was made from."""
    cited: Citation | None = None
    """The file of predictions that it was made by; None where they came from no file."""

    def __repr__(self) -> str:
        found = ", ".join(f"{one.explanation.name}: {one.status}" for one in self.findings)
        return f"RunVerdict({', '.join(self.runs)}, {self.seeds} seeds; gap: {self.gap.answer}; {found})"

    def __str__(self) -> str:
        return str(show_verdict(self))

    def _repr_html_(self) -> str:
        return show_verdict(self)._repr_html_()

    def plot(self) -> Any:
        """The plotly figure of what was measured beside what was predicted (`mechocl.verdict_plots.effects`)."""
        import mechocl

        return mechocl.verdict_plots.effects(self)

    @property
    def supported(self) -> tuple[str, ...]:
        """Names of the explanations that are supported."""
        return tuple(one.explanation.name for one in self.findings if one.status == "supported")


def show_verdict(verdict: RunVerdict) -> Shown:
    """The explanations with what was found, and each prediction with what was measured, as tables."""
    explanations = [
        {"explanation": one.explanation.name, "verdict": one.status, "its predictions": one.in_words}
        for one in verdict.findings
    ]
    effects = [
        {
            "prediction": one.prediction.name,
            "measured": estimate_in_words(one.verdict.learned, sign=True) if one.verdict else one.reason,
            "smallest that matters": one.verdict.margin if one.verdict else None,
            "unit": one.unit,
            "is there an effect?": beside_numbers(one.answer),
            "more seeds": str(one.more_seeds or "–"),
        }
        for one in verdict.effects
    ]
    facts = [f"Gap: {verdict.gap.answer}, since {verdict.gap.reason}.", verdict.beyond.in_words]
    facts += [trust(verdict).in_words]
    facts += [one for one in (verdict.refusal, verdict.beyond_refusal) if one]
    facts += [f"{one.in_words}." for one in verdict.pairs]
    facts += [verdict.cited.in_words] if verdict.cited else []
    return Shown(
        title=f"Verdict on {', '.join(verdict.runs)}, {verdict.seeds} seeds",
        facts=tuple(facts),
        tables=(("", pd.DataFrame(explanations)), ("Predictions, mean [95 % interval over seeds]:", pd.DataFrame(effects))),
    )  # fmt: skip


def verdict(
    run: Run | Sequence[Run],
    *,
    predictions: Path | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> RunVerdict:
    """The verdict on a run, or on several runs of one recipe with different seeds. Missing analyses are computed and kept.

    `predictions`: a TOML file of explanations and predictions; None takes those of the package. `device` and `jobs`
    are those of `train`. The control runs are those in the run's folder, which `mechocl controls` trains.

    Raises MechoclError for runs of different recipes, for control runs, for runs without a gap's aliases, for a single seed,
    and for a file of predictions that cannot be used.
    """
    wanted, cited = data.load(predictions), cite(predictions)
    runs = sources.open_alike([run] if isinstance(run, Run) else list(run))
    computed_on = resolve_device(device)
    found = [sources.gather_answers(one, device=computed_on, jobs=jobs) for one in runs]
    known = sources.pool(found)
    if len(known.counted.learned) < 2:
        raise MechoclError(
            f"{runs[0].path}: of {known.counted.total} seeds, {len(known.counted.learned)} learned the definitions, and an interval needs "
            "two; train more"
        )
    if not _refusal(gap_of(known)):
        found = [
            sources.gather_analyses(one, own, wanted.predictions, device=computed_on, jobs=jobs)
            for one, own in zip(runs, found, strict=True)
        ]
    judged = judge_gathered(sources.pool(found), wanted, runs=[str(one.path) for one in runs])
    return replace(judged, cited=cited)


def gap_of(gathered: Gathered) -> Decision:
    """Whether there is a gap d1 − d2."""
    values, counted, measures = gaps(gathered.answers, gathered.measures), gathered.counted, gathered.measures
    return decide(
        {seed: value for seed, value in values.items() if seed in counted.learned},
        {seed: value for seed, value in values.items() if seed in counted.failed},
        diverged=len(counted.diverged),
        margin=measures.smallest[measures.leading],
    )


def judge_gathered(gathered: Gathered, wanted: Predictions, *, runs: Sequence[str] = ()) -> RunVerdict:
    """The verdict from rows that are there, without a run."""
    gap = gap_of(gathered)
    beyond = explain_gap(gathered.answers, gathered.controls, gathered.measures, counted=gathered.counted)
    refusal = _refusal(gap)
    beyond_refusal = (
        ""
        if refusal
        or beyond.answer != "no"
        or is_larger(gathered.answers, gathered.controls, gathered.measures, counted=gathered.counted)
        else f"There is nothing to explain beyond the control. {beyond.sentence}"
    )
    effects = judge(wanted.predictions, gathered)
    findings = [
        _find(one, wanted, effects, refused=bool(refusal), beyond_refused=bool(beyond_refusal))
        for one in wanted.explanations
    ]
    return RunVerdict(
        runs=tuple(runs),
        seeds=len(gathered.counted.learned),
        gap=gap,
        beyond=beyond,
        refusal=refusal,
        beyond_refusal=beyond_refusal,
        effects=tuple(effects),
        findings=tuple(findings),
        pairs=tuple(_pairs(findings, effects)),
        gathered=gathered,
    )


def _refusal(gap: Decision) -> str:
    if gap.answer == YES:
        return ""
    if gap.answer == NOTHING:
        return f"There is nothing to explain: no gap d1 − d2, since {gap.reason}."
    if gap.answer == CANNOT_TELL:
        return f"There is nothing to explain yet: it cannot be told whether there is a gap d1 − d2, since {gap.explanation}."
    return "There is nothing to explain: the gap d1 − d2 is the reverse of what the explanations are about."


def _find(
    one: Explanation, wanted: Predictions, effects: Sequence[Effect], *, refused: bool, beyond_refused: bool
) -> Finding:
    outcomes: dict[str, list[str]] = {"met": [], "contradicted": [], "undecided": [], "not measured": []}
    more: list[int | None] = []
    not_alone, distinct, cannot = [], False, 0
    for effect in effects:
        prediction = effect.prediction
        if one.name not in prediction.expects:
            continue
        outcome = effect.outcome(prediction.expects[one.name])
        if one.name not in prediction.tests:
            not_alone += [prediction.name] if outcome == "contradicted" else []
            continue
        outcomes[outcome].append(prediction.name)
        more += [effect.more_seeds] if outcome == "undecided" else []
        cannot += effect.cannot
        distinct |= outcome == "met" and _is_distinct(one.name, effect)
    left = len(outcomes["undecided"]) + len(outcomes["not measured"]) - cannot
    whole = outcomes["met"] and not left and distinct
    good: Status = "met so far" if one.lacks or cannot else "supported"
    status: Status = "contradicted" if outcomes["contradicted"] else good if whole else "undecided"
    if (refused and one.name != NOTHING_NAME) or (beyond_refused and one.beyond_controls):
        status = "nothing to explain"
    seeds = [number for number in more if number is not None]
    return Finding(
        explanation=one,
        status=status,
        met=tuple(outcomes["met"]),
        contradicted=tuple(outcomes["contradicted"]),
        undecided=tuple(outcomes["undecided"]),
        not_measured=tuple(outcomes["not measured"]),
        not_alone=tuple(not_alone),
        more_seeds=max(seeds) if seeds and len(seeds) == len(more) else None,
    )


def _is_distinct(name: str, effect: Effect) -> bool:
    """Whether no other explanation expects the same of a quantity."""
    expects = effect.prediction.expects
    return all(other == name or excludes(expects[name], expects[other]) for other in expects)


def _pairs(findings: Sequence[Finding], effects: Sequence[Effect]) -> list[Pair]:
    """Explanations that are not contradicted, two by two, which no decided prediction tells apart."""
    left = [one.explanation.name for one in findings if one.status in LEFT]
    found = []
    for first, second in combinations(left, 2):
        between = [
            effect
            for effect in effects
            if {first, second} <= set(effect.prediction.expects)
            and excludes(effect.prediction.expects[first], effect.prediction.expects[second])
        ]
        if not any(
            effect.outcome(effect.prediction.expects[name]) == "contradicted"
            for effect in between
            for name in (first, second)
        ):
            found.append(
                Pair(names=(first, second), would=tuple(effect.prediction.name for effect in between))
            )
    return found
