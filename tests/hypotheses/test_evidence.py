"""From seeds to evidence: the correction, the shares, the number of seeds, and how often nothing is taken for something."""

from typing import get_args

import numpy as np
import pytest
from effects import made_up
from statsmodels.stats.multitest import multipletests

from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES, decide
from mechocl.hypotheses import predictions
from mechocl.hypotheses.evidence import Effect, adjust, excludes, fieller, holm, judge, more_seeds, p_values

PREDICTION = predictions.load().predictions[0]
MARGIN = 0.01
DIRECTIONS = get_args(predictions.Direction)


def effect(values: np.ndarray, *, family: int = 1, margin: float = MARGIN) -> Effect:
    found = decide(dict(enumerate(values.tolist())), margin=margin)
    p = p_values(found)[found.answer == NOTHING]
    return Effect(prediction=PREDICTION, verdict=found, p=p, adjusted=min(1.0, family * p))


def test_holm_is_that_of_statsmodels() -> None:
    ps = np.random.default_rng(0).uniform(0, 0.2, 12)
    found = holm({str(i): float(p) for i, p in enumerate(ps)})
    assert [found[str(i)] for i in range(12)] == pytest.approx(multipletests(ps, method="holm")[1])
    assert holm({}) == {}


@pytest.mark.parametrize(
    ("mean", "answer", "met", "contradicted"),
    [
        (0.1, YES, ("above", "not below"), ("below", "none", "not above")),
        (-0.1, REVERSE, ("below", "not above"), ("above", "none", "not below")),
        (0.0, NOTHING, ("none", "not above", "not below"), ("above", "below")),
    ],
)
def test_what_meets_what(
    mean: float, answer: str, met: tuple[str, ...], contradicted: tuple[str, ...]
) -> None:
    values = mean + 0.002 * np.random.default_rng(1).standard_normal(12)
    found = effect(values)
    assert found.answer == answer
    assert all(found.outcome(direction) == "met" for direction in met)  # type: ignore[arg-type]
    assert all(found.outcome(direction) == "contradicted" for direction in contradicted)  # type: ignore[arg-type]


@pytest.mark.parametrize("sign", [1, -1])
def test_an_effect_that_may_be_too_small_to_matter_contradicts_no_expectation_of_none(sign: int) -> None:
    """It is surely there, and its interval reaches into the margin: it has a sign, and that is all."""
    values = sign * (MARGIN + 0.2 * MARGIN * np.array([-4, -2, -1, 0, 0, 1, 2, 4, -1, 1, 0, 0]))
    found = effect(values)
    assert found.answer == (YES if sign > 0 else REVERSE)
    assert not found.matters
    outcomes = {direction: found.outcome(direction) for direction in DIRECTIONS}
    above, below = ("above", "below") if sign > 0 else ("below", "above")
    assert outcomes == {
        above: "met", below: "contradicted", "none": "undecided", f"not {above}": "undecided", f"not {below}": "met",
    }  # fmt: skip
    assert effect(values + sign * MARGIN).matters


def test_absence_of_evidence_is_not_evidence_of_absence() -> None:
    """A wide interval about 0 contradicts neither an effect nor its absence."""
    found = effect(0.1 * np.random.default_rng(2).standard_normal(8))
    assert found.answer == CANNOT_TELL
    assert {found.outcome(direction) for direction in ("above", "below", "none")} == {"undecided"}  # type: ignore[arg-type]


def test_an_answer_must_hold_for_the_family() -> None:
    values = np.array([0.3, 0.1, 0.5, 0.2, 0.6, 0.1, 0.4, -0.1])
    assert effect(values).answer == YES
    large = effect(values, family=100)
    assert large.answer == CANNOT_TELL
    assert "not after correction for all effects" in large.reason


def test_which_expectations_exclude_each_other() -> None:
    assert excludes("above", "none")
    assert excludes("below", "not below")
    assert not excludes("above", "not below")
    assert not excludes("none", "not above")


def test_a_share_with_its_interval() -> None:
    """A part that is half of the gap in each seed is half of it for certain; its interval covers what was planted."""
    gap = 0.1 + 0.02 * np.random.default_rng(0).standard_normal(10)
    assert fieller(gap / 2, gap) == pytest.approx((0.5, 0.5, 0.5))
    rng, covered = np.random.default_rng(1), 0
    for _ in range(300):
        y = 0.1 + 0.02 * rng.standard_normal(8)
        _, low, high = fieller(0.03 + 0.01 * rng.standard_normal(8), y)
        covered += low <= 0.3 <= high
    assert 0.91 <= covered / 300 <= 0.99


def test_no_interval_where_there_may_be_no_gap() -> None:
    y = np.array([-1.0, 1.0, -0.5, 0.6])
    assert fieller(np.ones(4), y)[1:] == (-np.inf, np.inf)


@pytest.mark.parametrize("family", [1, 15])
def test_so_many_more_seeds_decide(family: int) -> None:
    """With the number that a pilot says, at least 80 % of new samples decide, also in the worst case of the family."""
    rng = np.random.default_rng(0)
    pilot = decide(dict(enumerate([0.2, -0.05, 0.1, -0.1, 0.15, 0.0, 0.1, 0.02])), margin=0.01)
    more = more_seeds(pilot, family=family)
    assert more is not None
    assert more > 0
    e = pilot.learned
    decided = 0
    for _ in range(50):
        values = rng.normal(e.mean, e.deviation, e.n + more)
        decided += effect(values, family=family).answer != CANNOT_TELL
    assert decided >= 34


def test_a_decided_effect_needs_no_more_seeds() -> None:
    assert more_seeds(decide(dict.fromkeys(range(8), 0.5) | {0: 0.51}, margin=0.01), family=15) == 0
    assert more_seeds(decide({0: 0.5}, margin=0.01), family=15) is None


def test_without_spread() -> None:
    assert p_values(decide(dict.fromkeys(range(8), 0.5), margin=0.01)) == (0.0, 1.0)
    assert p_values(decide(dict.fromkeys(range(8), 0.0), margin=0.01)) == (1.0, 0.0)
    assert p_values(decide({0: 0.5}, margin=0.01)) == (1.0, 1.0)


def false_answers(truth: float, *, margin: float, effects: int, seeds: int, trials: int) -> float:
    """How often any effect of a family gets an answer that its true value rules out, over simulated families."""
    rng, wrong = np.random.default_rng(0), 0
    for _ in range(trials):
        found = [
            decide(dict(enumerate(rng.normal(truth, 0.02, seeds).tolist())), margin=margin)
            for _ in range(effects)
        ]
        ps = adjust({str(i): one for i, one in enumerate(found)})
        answers = {
            one.answer for i, one in enumerate(found) if ps[str(i)][1] < 0.05 and one.answer != CANNOT_TELL
        }
        wrong += bool(answers - ({NOTHING} if truth == 0 else {YES} if truth >= margin else {YES, NOTHING}))
    return wrong / trials


@pytest.mark.parametrize(("truth", "margin"), [(0.0, 0.01), (0.0, 0.03), (0.03, 0.03)])
def test_families_of_nothing_rarely_show_something(truth: float, margin: float) -> None:
    """An effect of 0 is called one, or one at the margin is called none, in at most 5 % of families (and of 100 families, three
    standard errors more: .115)."""
    assert false_answers(truth, margin=margin, effects=5, seeds=8, trials=100) <= 0.115


def test_the_check_of_the_rates_can_fail() -> None:
    """Of effects that are there, families say so: not what is true at 0."""
    assert false_answers(0.0, margin=0.03, effects=5, seeds=8, trials=20) < 0.2
    assert false_answers(-0.1, margin=0.03, effects=5, seeds=8, trials=20) == 1.0


def test_what_is_not_there_is_not_measured() -> None:
    """Every prediction has an effect, or a reason why there is none."""
    effects = judge(predictions.load().predictions, made_up())
    for one in effects:
        assert (one.verdict is None) == bool(one.missing), one.prediction.name
    by_name = {one.prediction.name: one for one in effects}
    assert by_name["tag-direction"].missing == "the analysis subspace was not computed"
    assert "`mechocl variants` with --only frozen-tags" in by_name["gone-with-frozen-tags"].missing
    assert by_name["gap"].outcome("above") == "met"
    assert by_name["tag-direction"].outcome("above") == "not measured"


def test_the_correction_is_over_what_was_measured() -> None:
    found = judge(predictions.load().predictions, made_up())
    measured = [one for one in found if one.verdict is not None]
    assert len(measured) < len(found)
    again = adjust({one.prediction.name: one.verdict for one in measured if one.verdict})
    assert {one.prediction.name: (one.p, one.adjusted) for one in measured} == again
