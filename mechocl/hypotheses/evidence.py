"""From the values of seeds to evidence: an effect with its interval, and whether it is what an explanation expects.

An effect is judged by the rule of `mechocl.behaviour.verdict`: above 0, below 0, none (equivalence to 0 within the smallest
effect that matters), or undecided. Many quantities are judged at once, so that an answer also needs a p that holds for the
family of all of them (Holm 1979, Scand. J. Statist. 6, 65). There are two families: all t-tests that a mean is 0, and all
tests of equivalence. In each, a single wrong answer has a probability of 5 % at most. In one family Holm's steps would not hold:
an answer that an effect is there says nothing of whether the same effect lies within its margin. The sign flips of the rule
are asked for each effect alone and not corrected, since 2ⁿ flips of n seeds have no smaller p than 1 / 2ⁿ.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import pandas as pd
import scipy.stats
from jaxtyping import Float

from mechocl.behaviour.control_gaps import count_with_control
from mechocl.behaviour.counted import CountedSeeds
from mechocl.behaviour.formats import NAMES
from mechocl.behaviour.statistics import seeds_for_power
from mechocl.behaviour.verdict import CANNOT_TELL, LEAST_SEEDS, NOTHING, REVERSE, YES, Verdict, decide
from mechocl.hypotheses.predictions import ANSWERS, OF_ANSWERS, Direction, Prediction
from mechocl.hypotheses.quantities import (
    CONTROL_ARGUMENTS,
    QUANTITIES,
    Data,
    NotMeasured,
    Values,
    control_named,
    gaps,
)
from mechocl.hypotheses.sources import Gathered, control_key, key

LEVEL: Final = 0.05
"""Level of the family of all effects."""

Outcome = Literal["met", "contradicted", "undecided", "not measured"]

_ALLOWED: Final[dict[str, frozenset[str]]] = {
    "above": frozenset({YES}),
    "below": frozenset({REVERSE}),
    "none": frozenset({NOTHING}),
    "not above": frozenset({NOTHING, REVERSE}),
    "not below": frozenset({NOTHING, YES}),
}
"""Direction → the answers with which it is met."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What came out for one prediction."""

    prediction: Prediction
    unit: str = ""
    """Unit of the quantity; where that is the answers, the name of the measure in which the run's are given."""
    verdict: Verdict | None = None
    """The verdict on the values of the seeds; None if nothing was measured."""
    values: Mapping[int, float] = field(default_factory=dict)
    """Seed → value, of the seeds that count, in the unit of the prediction."""
    p: float = math.nan
    """p of the answer that the values are nearest to, of this effect alone."""
    adjusted: float = math.nan
    """The same p, corrected over the family."""
    more_seeds: int | None = None
    """About how many more seeds would decide; None if that cannot be said."""
    share: tuple[float, float, float] | None = None
    """Share of the gap, with its 95 % interval (Fieller); None unless the quantity is a part of the gap that is there."""
    missing: str = ""
    """Why nothing was measured."""
    cannot: bool = False
    """Whether nothing can be: a run of this recipe does not have what the quantity needs, whatever is trained or computed."""

    @property
    def answer(self) -> str:
        """The verdict's answer if it holds for the family, else that it cannot be told."""
        if self.verdict is None or not self.adjusted < LEVEL:
            return CANNOT_TELL
        return str(self.verdict.answer)

    @property
    def matters(self) -> bool:
        """Whether the 95 % interval lies beyond the smallest effect that matters, on one side."""
        if self.verdict is None:
            return False
        e, margin = self.verdict.learned, self.verdict.margin
        return bool(e.low > margin or e.high < -margin)

    def outcome(self, expected: Direction) -> Outcome:
        """Whether the effect is as it was expected.

        Where *none* is expected, or none on one side, an effect contradicts that only if it matters. One that is there and may be smaller
        than what matters leaves it undecided.
        """
        if self.verdict is None:
            return "not measured"
        if self.answer == CANNOT_TELL:
            return "undecided"
        if self.answer in _ALLOWED[expected]:
            return "met"
        return "contradicted" if NOTHING not in _ALLOWED[expected] or self.matters else "undecided"

    @property
    def reason(self) -> str:
        """Why the answer is this, as a clause."""
        if self.verdict is None:
            return self.missing
        if self.verdict.answer != CANNOT_TELL and self.answer == CANNOT_TELL:
            return f"{self.verdict.reason}, but not after correction for all effects (p {self.adjusted:.3f})"
        return self.verdict.reason


def excludes(one: Direction, other: Direction) -> bool:
    """Whether no answer meets both expectations."""
    return not _ALLOWED[one] & _ALLOWED[other]


def measure(prediction: Prediction, gathered: Gathered) -> Values:
    """Seed → the prediction's quantity. Raises NotMeasured when what is known does not hold it."""
    what = f"the analysis {prediction.analysis}"
    own = _values(prediction, gathered, (key(prediction), what), gathered.answers)
    if not prediction.minus_control:
        return own
    name = control_named(prediction.minus_control, gathered.answers, gathered.measures)
    if name not in gathered.controls.rows:
        raise NotMeasured(
            f"the control {name} was not trained; `mechocl controls` with --only {name} trains it"
        )
    of_control = (control_key(prediction, name), f"{what} of the control {name}")
    control = _values(prediction, gathered, of_control, gathered.controls.rows[name])
    both = {seed: own[seed] - control[seed] for seed in own if seed in control}
    if not both:
        raise NotMeasured(f"no seed has a value in both the run and the control {name}")
    return both


def _values(prediction: Prediction, gathered: Gathered, of: tuple[str, str], answers: pd.DataFrame) -> Values:
    """The quantity in some rows. `of`: their key, and what they are."""
    name, what = of
    if name not in gathered.tables:
        raise NotMeasured(gathered.missing.get(name, f"{what} was not computed"))
    data = Data(
        answers=answers,
        rows=gathered.tables[name],
        measures=gathered.measures,
        column=prediction.column or gathered.measures.leading,
    )
    values = QUANTITIES[prediction.quantity](data, **prediction.arguments)
    if not values:
        raise NotMeasured("no seed has a value")
    return values


def count_for(prediction: Prediction, gathered: Gathered) -> CountedSeeds:
    """Which seeds count for a prediction: those that learned in the run and, if its quantity reads a control or a variant, there too."""
    counted = gathered.counted
    named = [prediction.arguments.get(name) for name in CONTROL_ARGUMENTS]
    for control in (*named, prediction.minus_control):
        if control:
            name = control_named(str(control), gathered.answers, gathered.measures)
            counted = count_with_control(counted, gathered.controls, name, gathered.measures)
    variant = prediction.arguments.get("variant")
    if variant in gathered.variants.rows:
        counted = count_with_control(
            counted, gathered.variants, str(variant), gathered.measures, kind="variant"
        )
    return counted


def judge(predictions: Sequence[Prediction], gathered: Gathered) -> list[Effect]:
    """The effect of each prediction, corrected over all that were measured."""
    values: dict[str, Values] = {}
    missing: dict[str, str] = {}
    for one in predictions:
        try:
            values[one.name] = measure(one, gathered)
        except NotMeasured as why:
            missing[one.name] = str(why)
    margins = {one.name: margin_of(one, gathered) for one in predictions}
    seeds = {one.name: count_for(one, gathered) for one in predictions if one.name in values}
    verdicts = {name: _decide(found, seeds[name], margins[name]) for name, found in values.items()}
    ps = adjust(verdicts)
    gap = gaps(gathered.answers, gathered.measures)
    return [
        Effect(
            prediction=one,
            unit=unit_of(one, gathered),
            verdict=verdicts[one.name],
            values={
                seed: values[one.name][seed] for seed in seeds[one.name].learned if seed in values[one.name]
            },
            p=ps[one.name][0],
            adjusted=ps[one.name][1],
            more_seeds=more_seeds(verdicts[one.name], family=len(ps)),
            share=share_of(values[one.name], gap, seeds[one.name].learned) if one.part_of_gap else None,
        )
        if one.name in values
        else Effect(
            prediction=one,
            unit=unit_of(one, gathered),
            missing=missing[one.name],
            cannot=key(one) in gathered.cannot,
        )
        for one in predictions
    ]


def margin_of(prediction: Prediction, gathered: Gathered) -> float:
    """The smallest effect that matters, as a number."""
    if prediction.smallest == ANSWERS:
        measures = gathered.measures
        of = prediction.column if prediction.column in measures.smallest else measures.leading
        return float(measures.smallest[of])
    return float(prediction.smallest)


def unit_of(prediction: Prediction, gathered: Gathered) -> str:
    """The unit of a prediction's quantity in a run."""
    return NAMES[gathered.measures.leading] if prediction.unit == OF_ANSWERS else prediction.unit


def _decide(values: Values, counted: CountedSeeds, margin: float) -> Verdict:
    return decide(
        {seed: value for seed, value in values.items() if seed in counted.learned},
        {seed: value for seed, value in values.items() if seed in counted.failed},
        diverged=len(counted.diverged),
        margin=margin,
    )


def p_values(verdict: Verdict) -> tuple[float, float]:
    """Two-sided p-values that the mean is 0, and that it does not lie within ± the margin; 1 with fewer than two seeds."""
    e, margin = verdict.learned, verdict.margin
    if e.n < 2:
        return 1.0, 1.0
    if e.deviation == 0:
        return float(e.mean == 0), float(abs(e.mean) >= margin)
    distance = (margin - abs(e.mean)) / (e.deviation / math.sqrt(e.n))
    return e.p, min(1.0, 2 * float(scipy.stats.t.sf(distance, e.n - 1)))


def adjust(verdicts: Mapping[str, Verdict]) -> dict[str, tuple[float, float]]:
    """For each verdict the p of its answer, and the same corrected over its family. If it cannot tell, of the nearer answer."""
    both = {name: p_values(one) for name, one in verdicts.items()}
    corrected = [holm({name: ps[kind] for name, ps in both.items()}) for kind in (0, 1)]
    found = {}
    for name, one in verdicts.items():
        ps = both[name]
        kind = 1 if one.answer == NOTHING else 0 if one.answer in (YES, REVERSE) else int(ps[1] < ps[0])
        found[name] = (ps[kind], corrected[kind][name])
    return found


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """The p-values of a family, corrected so that all that are under the level hold at once (Holm's step-down)."""
    largest, found = 0.0, {}
    for rank, name in enumerate(sorted(ps, key=lambda name: ps[name])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[name]))
        found[name] = largest
    return found


def more_seeds(verdict: Verdict, *, family: int) -> int | None:
    """About how many more seeds would decide with 80 % probability, corrected for the family in the worst case (Bonferroni).

    0 if the verdict holds already in that case. None where more seeds alone would not decide, or there is no spread to go by.
    """
    e, alpha = verdict.learned, LEVEL / max(family, 1)
    if e.n < 2 or not math.isfinite(e.deviation):
        return None
    if verdict.answer != CANNOT_TELL and p_values(verdict)[verdict.answer == NOTHING] < alpha:
        return 0
    if verdict.answer == CANNOT_TELL and not verdict.more_would_decide:
        return None
    distance = verdict.margin - abs(e.mean)
    equivalent = seeds_for_power(distance, e.deviation, power=0.9, alpha=alpha) if distance > 0 else math.inf
    fewest = min(seeds_for_power(e.mean, e.deviation, alpha=alpha), equivalent)
    return int(max(fewest, LEAST_SEEDS, e.n + 1)) - e.n if math.isfinite(fewest) else None


def share_of(part: Values, gap: Values, counted: Sequence[int]) -> tuple[float, float, float] | None:
    """A part of the gap ÷ the gap, of the means over seeds, with the 95 % interval of Fieller (1954, J. R. Stat. Soc. B 16, 175).

    None with fewer than two seeds. The ends are infinite where the gap itself is not surely above 0.
    """
    seeds = [seed for seed in counted if seed in part and seed in gap]
    if len(seeds) < 2:
        return None
    x, y = (np.array([values[seed] for seed in seeds]) for values in (part, gap))
    return fieller(x, y)


def fieller(x: Float[np.ndarray, " seed"], y: Float[np.ndarray, " seed"]) -> tuple[float, float, float]:
    """Mean of x ÷ mean of y, paired, and the ends of its 95 % interval, which are infinite where y's mean may be 0."""
    n, (a, b) = len(x), (float(x.mean()), float(y.mean()))
    if b == 0:
        return math.nan, -math.inf, math.inf
    covariance = np.cov(x, y) / n
    t2 = float(scipy.stats.t.isf(0.025, n - 1)) ** 2
    leading = b * b - t2 * covariance[1, 1]
    middle = a * b - t2 * covariance[0, 1]
    root = middle**2 - leading * (a * a - t2 * covariance[0, 0])
    if leading <= 0 or root < 0:
        return a / b, -math.inf, math.inf
    spread = math.sqrt(root)
    return a / b, float((middle - spread) / leading), float((middle + spread) / leading)
