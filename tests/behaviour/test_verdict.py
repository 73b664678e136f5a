"""The rule of verdicts: by hand, against SciPy and simulation, and what holds whatever the values are."""

import math
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings, strategies as st

from mechocl.behaviour.statistics import estimate, seeds_for_power
from mechocl.behaviour.verdict import LEAST_SEEDS, Verdict, count_seeds_to_decide, decide, sign_flip_p

MARGIN = 0.01

effects = st.sampled_from([0.0, 0.003, 0.006, 0.012, 0.03, 0.1, -0.004, -0.05])
spreads = st.sampled_from([0.0, 0.001, 0.004, 0.01, 0.03])
draws = st.tuples(effects, spreads, st.integers(0, 999))
"""Mean, deviation, and the seed of the drawing."""


def drawn(draw: tuple[float, float, int], n: int) -> dict[int, float]:
    mean, deviation, seed = draw
    return dict(enumerate(np.random.default_rng(seed).normal(mean, deviation, n).tolist()))


def other_seeds(draw: tuple[float, float, int], n: int) -> dict[int, float]:
    return {100 + seed: value for seed, value in drawn(draw, n).items()}


def concludes(verdict: Verdict) -> bool:
    return verdict.answer != "cannot tell"


# by hand -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "answer", "reason"),
    [
        ([0.1, 0.2, 0.1, 0.2, 0.1, 0.2], "yes", "the 95 % interval lies above 0 (sign-flip test p = .031)"),
        ([-0.1, -0.2, -0.1, -0.2, -0.1, -0.2], "no: the reverse", "the 95 % interval lies below 0"),
        ([0.001, -0.001, 0.002, -0.002, 0.001, 0.0], "no", "the 95 % interval lies within ±0.01, the smallest"),
        ([0.005, 0.006, 0.005, 0.006, 0.005, 0.006], "no", "there is a difference, but it is too small to matter"),
        ([0.1, -0.1, 0.2, -0.2, 0.1, 0.0], "cannot tell", "the 95 % interval contains 0 and does not lie within"),
        ([0.1, 0.2, 0.1, 0.2, 0.1], "cannot tell", "5 seeds are too few: in 6 % of cases all have the same sign"),
        ([0.1, 0.2], "cannot tell", "2 seeds are too few: in 50 % of cases"),
        ([0.1], "cannot tell", "one seed says nothing about other seeds; at least 6 are needed"),
        ([], "cannot tell", "there is no seed"),
    ],
)  # fmt: skip
def test_verdicts_by_hand(values: list[float], answer: str, reason: str) -> None:
    found = decide(dict(enumerate(values)), margin=MARGIN)
    assert found.answer == answer
    assert found.reason.startswith(reason)
    assert repr(found.learned) == repr(found.every)  # NaN and all


def test_the_sign_flips_have_to_agree() -> None:
    """The interval lies above 0. Of 64 flips, that of no value and that of −.001 have as large a sum: p = 2 / 64."""
    values = [0.1, 0.1, 0.1, 0.1, 0.1, -0.001]
    assert estimate(np.array(values), unit="seed").low > 0
    assert sign_flip_p(np.array(values)) == 2 / 64
    found = decide(dict(enumerate(values)), margin=MARGIN)
    assert found.answer == "cannot tell"
    assert found.reason == "the 95 % interval lies above 0, but the sign-flip test does not agree (p = .062)"
    assert found.seeds_to_decide == 7


@pytest.mark.parametrize(
    ("failed", "answer"),
    [
        ([0.15], "yes"),
        ([0.15, 0.12], "yes"),
        ([-0.3], "cannot tell"),
        ([5.0], "cannot tell"),  # it agrees, but with it the interval contains 0
        ([-5.0, 5.0], "cannot tell"),
        ([0.15] * 6, "cannot tell"),  # half of all seeds
    ],
)
def test_failed_seeds(failed: list[float], answer: str) -> None:
    learned = {i: 0.1 + 0.02 * (i % 3) for i in range(6)}
    found = decide(learned, {100 + i: v for i, v in enumerate(failed)}, margin=MARGIN)
    assert found.answer == answer
    assert (found.learned.n, found.every.n) == (6, 6 + len(failed))
    assert found.every.mean == pytest.approx(np.mean([*learned.values(), *failed]))
    assert found.seeds_to_decide is None  # more seeds alone would not help


def test_a_run_of_failures_alone_says_nothing() -> None:
    failed = {i: 0.2 + 0.001 * i for i in range(8)}
    assert decide({}, failed, margin=MARGIN).reason == "all 8 seeds failed"
    assert decide({}, failed, diverged=1, margin=MARGIN).reason == "all 9 seeds failed or diverged"
    assert decide({}, diverged=3, margin=MARGIN).answer == "cannot tell"
    learned = {10 + i: 0.2 + 0.001 * i for i in range(8)}
    assert decide(learned, failed, margin=MARGIN).answer == "cannot tell"
    assert decide(learned, diverged=8, margin=MARGIN).answer == "cannot tell"
    assert decide(learned, diverged=7, margin=MARGIN).answer == "yes"


def test_very_many_failed_seeds_are_not_tried() -> None:
    learned = {i: 0.2 + 0.001 * i for i in range(30)}
    failed = {100 + i: 0.2 + 0.001 * i for i in range(17)}
    assert decide(learned, failed, margin=MARGIN).reason.startswith(
        "17 of 47 seeds failed, which are too many"
    )


@pytest.mark.parametrize("margin", [0.0, -0.1, math.inf, math.nan])
def test_margins_that_make_no_sense(margin: float) -> None:
    with pytest.raises(ValueError, match="smallest effect that matters"):
        decide({0: 0.1}, margin=margin)


def test_values_that_make_no_sense() -> None:
    with pytest.raises(ValueError, match="not finite"):
        decide({0: 0.1, 1: math.nan}, margin=MARGIN)
    with pytest.raises(ValueError, match="seed 1 cannot both have learned and have failed"):
        decide({0: 0.1, 1: 0.2}, {1: 0.3}, margin=MARGIN)


# sign flips and the number of seeds ----------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 5, 8, 11])
def test_sign_flips_are_those_of_scipy(n: int) -> None:
    for seed in range(10):
        values = np.random.default_rng(seed).normal(0.3, 1.0, n)
        theirs = scipy.stats.permutation_test(
            (values,), np.mean, permutation_type="samples", alternative="greater", n_resamples=math.inf
        )
        assert sign_flip_p(values) == theirs.pvalue


def test_sign_flips_of_many_values_are_drawn() -> None:
    """The exact p of 32 values, and that of the same values with an added 0, which changes nothing, drawn."""
    values = np.random.default_rng(1).normal(0.3, 1.0, 32)
    assert 0.01 < sign_flip_p(values) < 0.9
    assert sign_flip_p(np.append(values, 0.0)) == pytest.approx(sign_flip_p(values), abs=0.02)
    assert sign_flip_p(np.append(values, 0.0)) == sign_flip_p(np.append(values, 0.0))


def test_the_least_number_of_seeds_follows_from_the_level() -> None:
    assert sign_flip_p(np.ones(LEAST_SEEDS)) < 0.025 <= sign_flip_p(np.ones(LEAST_SEEDS - 1))


def test_seeds_to_decide() -> None:
    """A large effect is told from 0, a small one is shown to be small; the smaller number is said."""
    large = estimate(np.array([0.0, 0.02, 0.04, 0.01, 0.03, -0.04]), unit="seed")
    assert count_seeds_to_decide(large, MARGIN) == seeds_for_power(large.mean, large.deviation)
    none = estimate(np.array([0.01, -0.01, 0.02, -0.02]), unit="seed")
    assert count_seeds_to_decide(none, MARGIN) == seeds_for_power(MARGIN, none.deviation, power=0.9)
    assert count_seeds_to_decide(estimate(np.array([1.0, 1.001]), unit="seed"), MARGIN) == LEAST_SEEDS
    assert count_seeds_to_decide(estimate(np.array([1.0]), unit="seed"), MARGIN) is None
    assert count_seeds_to_decide(estimate(np.array([1e9, -1e9]), unit="seed"), MARGIN) is None


def test_with_the_seeds_that_it_asks_for_it_decides_in_most_cases() -> None:
    rng = np.random.default_rng(0)
    for mean, deviation in ((0.02, 0.02), (0.0, 0.01), (0.1, 0.01)):
        n = count_seeds_to_decide(
            estimate(mean + deviation * np.array([1.0, -1.0]) / 2**0.5, unit="seed"), MARGIN
        )
        assert n is not None
        found = [
            decide(dict(enumerate(rng.normal(mean, deviation, n).tolist())), margin=MARGIN)
            for _ in range(100)
        ]
        assert sum(map(concludes, found)) >= 70


def test_nothing_is_seldom_called_something() -> None:
    """At most 5 % of verdicts where nothing is, and where the effect is exactly the smallest that matters."""
    rng = np.random.default_rng(1)
    for mean, wrong in ((0.0, {"yes", "no: the reverse"}), (MARGIN, {"no"})):
        found = [
            decide(dict(enumerate(rng.normal(mean, 0.02, 10).tolist())), margin=MARGIN) for _ in range(400)
        ]
        assert sum(v.answer in wrong for v in found) <= 400 * 0.05 + 3 * (400 * 0.05 * 0.95) ** 0.5


# whatever the values are ---------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(draws, st.integers(0, 10), draws, st.integers(0, 3), st.randoms())
def test_the_names_and_the_order_of_the_seeds_change_nothing(draw, n, other, k, random) -> None:  # type: ignore[no-untyped-def]
    learned, failed = drawn(draw, n), other_seeds(other, k)
    names = list(range(n + k))
    random.shuffle(names)
    values = list(learned.values())
    random.shuffle(values)
    renamed = dict(zip(names[:n], values, strict=True))
    lost = dict(zip(names[n:], reversed(failed.values()), strict=True))
    one, two = decide(learned, failed, margin=MARGIN), decide(renamed, lost, margin=MARGIN)
    assert repr(one) == repr(two)  # NaN and all


@settings(max_examples=150, deadline=None)
@given(draws, st.integers(6, 10), draws, st.integers(0, 4), st.floats(-0.3, 0.3))
def test_one_more_failed_seed_never_makes_a_verdict_stronger(draw, n, other, k, value) -> None:  # type: ignore[no-untyped-def]
    learned, failed = drawn(draw, n), other_seeds(other, k)
    before = decide(learned, failed, margin=MARGIN)
    after = decide(learned, failed | {999: value}, margin=MARGIN)
    assert after.answer in (before.answer, "cannot tell")
    assert decide(learned, failed, diverged=1, margin=MARGIN).answer in (before.answer, "cannot tell")


@settings(max_examples=100, deadline=None)
@given(draws, st.integers(6, 9), draws, st.integers(1, 4))
def test_a_conclusion_holds_with_every_subset_of_the_failed_seeds(draw, n, other, k) -> None:  # type: ignore[no-untyped-def]
    learned, failed = drawn(draw, n), other_seeds(other, k)
    found = decide(learned, failed, margin=MARGIN)
    if concludes(found):
        for size in range(k + 1):
            for some in combinations(failed, size):
                counted = learned | {seed: failed[seed] for seed in some}
                assert decide(counted, margin=MARGIN).answer == found.answer


@settings(max_examples=100, deadline=None)
@given(draws, st.integers(0, 5), st.integers(0, 5), st.integers(0, 3))
def test_fewer_than_six_seeds_that_learned_never_conclude(draw, n, failed, diverged) -> None:  # type: ignore[no-untyped-def]
    found = decide(drawn(draw, n), other_seeds(draw, failed), diverged=diverged, margin=MARGIN)
    assert found.answer == "cannot tell"


@settings(max_examples=150, deadline=None)
@given(
    draws, st.integers(1, 10), draws, st.integers(0, 3), st.sampled_from([1e-6, 0.25, 8.0, 1e6, -1.0, -2.0])
)
def test_the_unit_and_the_sign_of_the_values_are_a_convention(draw, n, other, k, factor) -> None:  # type: ignore[no-untyped-def]
    learned, failed = drawn(draw, n), other_seeds(other, k)
    one = decide(learned, failed, margin=MARGIN)
    two = decide(
        {s: factor * v for s, v in learned.items()},
        {s: factor * v for s, v in failed.items()},
        margin=abs(factor) * MARGIN,
    )
    mirrored = {"yes": "no: the reverse", "no: the reverse": "yes"}
    assert two.answer == (one.answer if factor > 0 else mirrored.get(one.answer, one.answer))


@settings(max_examples=150, deadline=None)
@given(draws, st.integers(6, 10), st.floats(0, 1), st.floats(0, 1))
def test_values_closer_to_nothing_never_give_the_stronger_claim(draw, n, share, scale) -> None:  # type: ignore[no-untyped-def]
    """Whether all are moved towards 0 by the same amount, or shrunken."""
    learned = drawn(draw, n)
    before = decide(learned, margin=MARGIN).answer
    mean = float(np.mean(list(learned.values())))
    moved = decide({s: v - share * mean for s, v in learned.items()}, margin=MARGIN).answer
    shrunken = decide({s: scale * v for s, v in learned.items()}, margin=MARGIN).answer
    if before in ("no", "cannot tell"):
        assert moved in ("no", "cannot tell")
        assert shrunken in ("no", "cannot tell")
    if before == "no":
        assert shrunken == "no"


@settings(max_examples=150, deadline=None)
@given(draws, st.integers(0, 40), draws, st.integers(0, 3))
def test_sentences_have_no_number_that_is_none(draw, n, other, k) -> None:  # type: ignore[no-untyped-def]
    found = decide(drawn(draw, n), other_seeds(other, k), margin=MARGIN)
    assert "nan" not in found.explanation
    assert " inf" not in found.explanation
    assert concludes(found) <= (found.seeds_to_decide is None)
    if found.seeds_to_decide is not None:
        assert found.seeds_to_decide > max(n, LEAST_SEEDS - 1)


@settings(max_examples=100, deadline=None)
@given(draws, st.integers(6, 20))
def test_the_interval_that_is_shown_agrees_with_the_answer(draw, n) -> None:  # type: ignore[no-untyped-def]
    found = decide(drawn(draw, n), margin=MARGIN)
    e = found.learned
    assume(min(abs(e.low), abs(e.high), abs(abs(e.low) - MARGIN), abs(abs(e.high) - MARGIN)) > 1e-12)
    inside = e.low > -MARGIN and e.high < MARGIN
    expected = "no" if inside else "yes" if e.low > 0 else "no: the reverse" if e.high < 0 else "cannot tell"
    assert found.answer in (expected, "cannot tell")


@pytest.mark.parametrize("n", [6, 8, 33])
@pytest.mark.parametrize(
    ("value", "answer"),
    [(0.0, "no"), (0.005, "no"), (0.02, "yes"), (-0.02, "no: the reverse"), (1e6, "yes"), (1e-12, "no")],
)
def test_equal_values(value: float, answer: str, n: int) -> None:
    assert decide(dict.fromkeys(range(n), value), margin=MARGIN).answer == answer
