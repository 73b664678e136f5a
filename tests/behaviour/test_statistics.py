"""Intervals, tests and power, against SciPy, statsmodels, textbooks and simulation."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import assume, given, settings, strategies as st
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import CompareMeans, DescrStatsW

from mechocl.behaviour import over_seeds
from mechocl.behaviour.statistics import difference_over_aliases, estimate, seeds_for_power, share_removed

numbers = st.lists(st.floats(-5, 5).map(lambda x: round(x, 3)), min_size=2, max_size=12)


def test_estimate_by_hand() -> None:
    """1, 2, 3: mean 2, deviation 1, standard error 1/√3, t(2) at 97.5 % = 4.3027; t = 2√3, p = 0.0742."""
    found = estimate(np.array([1.0, 2.0, 3.0]), unit="seed")
    assert (found.mean, found.n, found.unit) == (2, 3, "seed")
    assert found.low == pytest.approx(2 - 4.3027 / 3**0.5, abs=1e-4)
    assert found.high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    assert not found.significant
    assert found.seeds_for_power == 5  # as test_power_of_large_effects finds for an effect of 2


@settings(max_examples=50, deadline=None)
@given(numbers)
def test_estimate_is_that_of_statsmodels(values: list[float]) -> None:
    x = np.array(values)
    assume(x.std() > 1e-2)
    found, theirs = estimate(x, unit="alias"), DescrStatsW(x)
    p = theirs.ttest_mean(0.0)[1]
    assert found.p == pytest.approx(p)
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_mean())
    assert found.significant == (p < 0.05)


def test_equal_and_almost_equal_values_warn_of_nothing() -> None:
    equal = estimate(np.full(5, 0.1), unit="seed")
    assert (equal.low, equal.high, equal.p, equal.deviation) == (equal.mean, equal.mean, 0.0, 0.0)
    almost = estimate(np.array([0.1, 0.1, np.nextafter(0.1, 1)]), unit="seed")
    assert almost.low <= almost.mean <= almost.high
    apart = difference_over_aliases(np.array([0.1, np.nextafter(0.1, 1)]), np.full(3, 0.2))
    assert apart.low <= apart.mean <= apart.high


@settings(max_examples=50, deadline=None)
@given(numbers, numbers)
def test_difference_over_aliases_is_that_of_statsmodels(better: list[float], worse: list[float]) -> None:
    """Welch's test."""
    x, y = np.array(better), np.array(worse)
    assume(x.std() > 1e-2)
    assume(y.std() > 1e-2)
    found, theirs = difference_over_aliases(x, y), CompareMeans.from_data(x, y)
    assert found.mean == pytest.approx(x.mean() - y.mean(), abs=1e-12)
    assert found.p == pytest.approx(theirs.ttest_ind(usevar="unequal")[1])
    assert (found.low, found.high) == pytest.approx(theirs.tconfint_diff(usevar="unequal"))
    assert (found.n, found.unit) == (len(x) + len(y), "alias")
    assert math.isnan(found.seeds_for_power)


@pytest.mark.parametrize("n", [3, 10])
def test_intervals_cover_the_mean_in_95_percent(n: int) -> None:
    """2000 draws: the share's standard error is 0.5 %. An interval of normal quantiles covers 81 % at n = 3."""
    draws = np.random.default_rng(0).normal(0.3, 2.0, (2000, n))
    found = [estimate(values, unit="alias") for values in draws]
    assert np.mean([e.low <= 0.3 <= e.high for e in found]) == pytest.approx(0.95, abs=0.015)


def test_intervals_of_differences_cover_in_95_percent() -> None:
    """Unequal deviations and group sizes, where Student's pooled test would cover 75 %."""
    rng = np.random.default_rng(1)
    better, worse = rng.normal(1.0, 3.0, (2000, 5)), rng.normal(0.5, 1.0, (2000, 20))
    found = [difference_over_aliases(b, w) for b, w in zip(better, worse, strict=True)]
    assert np.mean([e.low <= 0.5 <= e.high for e in found]) == pytest.approx(0.95, abs=0.015)


def test_p_is_below_5_percent_in_5_percent_where_nothing_is() -> None:
    draws = np.random.default_rng(2).normal(0.0, 1.0, (2000, 5))
    assert np.mean([estimate(v, unit="alias").significant for v in draws]) == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize(("effect", "seeds"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_for_power_of_the_textbook(effect: float, seeds: int) -> None:
    """Cohen's small, medium and large effect; the same as G*Power for a paired t-test."""
    assert seeds_for_power(effect, 1.0) == seeds
    assert seeds_for_power(-3 * effect, 3.0) == seeds


@pytest.mark.parametrize("effect", [0.1, 0.3, 0.6, 1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("power", "alpha"), [(0.8, 0.05), (0.9, 0.01)])
def test_seeds_for_power_is_statsmodels(effect: float, power: float, alpha: float) -> None:
    expected = math.ceil(TTestPower().solve_power(effect, alpha=alpha, power=power))
    assert seeds_for_power(effect, 1.0, power=power, alpha=alpha) == expected


@pytest.mark.parametrize("effect", [2.0, 5.0, 8.0])
def test_power_of_large_effects(effect: float) -> None:
    """By simulation: enough power with this many seeds, too little with one fewer (if that is a test)."""
    rng = np.random.default_rng(0)

    def power(n: int) -> float:
        draws = rng.normal(effect, 1.0, (20_000, n))
        return float((scipy.stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05).mean())

    seeds = int(seeds_for_power(effect, 1.0))
    assert seeds == {2.0: 5, 5.0: 3, 8.0: 3}[effect]
    assert power(seeds) > 0.8
    assert power(seeds - 1) < 0.8


def test_seeds_for_power_at_the_ends() -> None:
    assert seeds_for_power(0.0, 1.0) == math.inf
    assert seeds_for_power(0.0, 0.0) == math.inf
    assert seeds_for_power(1e-9, 1.0) == math.inf
    assert seeds_for_power(0.1, 0.0) == 2
    assert seeds_for_power(1e6, 1.0) == 2


def test_an_alias_is_no_seed() -> None:
    values = np.array([1.0, 2.0, 4.0])
    assert math.isnan(estimate(values, unit="alias").seeds_for_power)
    assert estimate(values, unit="seed").seeds_for_power >= 2


@pytest.mark.parametrize(("seeds", "unit"), [((0,), "alias"), ((0, 1), "seed")])
def test_a_single_seed_is_measured_over_its_aliases(seeds: tuple[int, ...], unit: str) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        [
            {"seed": seed, "alias": alias, "subset": subset, "accuracy": 1.0, "logit_difference": 1.0}
            | {"auc": rng.random(), "recall": 0.0}
            for seed in seeds
            for alias, subset in enumerate(["d1_consistent"] * 4 + ["d2_consistent"] * 5)
        ]
    )
    found = {c.name: c.estimate for c in over_seeds.contrasts(rows, "auc")}
    assert found["strong"].unit == found["ocl_d1"].unit == unit
    assert (found["strong"].n, found["ocl_d1"].n) == ((2, 2) if unit == "seed" else (9, 4))


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.1, 0.0), (1 / 3, 0.0), (-2.0, 0.0)])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_equal_values(value: float, p: float, n: int) -> None:
    """No deviation, whatever the rounding of the mean does (the mean of three 0.1 is not 0.1)."""
    found = estimate(np.full(n, value), unit="seed")
    assert found.mean == found.low == found.high == pytest.approx(value)
    assert found.p == p
    assert found.seeds_for_power == (2 if value else math.inf)


def test_bounds_cut_the_interval_and_keep_its_coverage() -> None:
    """Of shares near 1, the plain interval often ends beyond it; what is cut off never holds the true mean."""
    draws = np.random.default_rng(3).binomial(40, 0.97, (2000, 5)) / 40
    plain = [estimate(values, unit="seed") for values in draws]
    cut = [estimate(values, unit="seed", bounds=(0.0, 1.0)) for values in draws]
    assert sum(e.high > 1 for e in plain) > 200
    assert all(0 <= c.low <= c.mean <= c.high <= 1 for c in cut)
    assert all(
        (c.low, min(e.high, 1.0), e.p) == (e.low, c.high, c.p) for e, c in zip(plain, cut, strict=True)
    )
    covers = [[e.low <= 0.97 <= e.high for e in found] for found in (plain, cut)]
    assert covers[0] == covers[1]


def test_values_that_are_almost_equal() -> None:
    found = estimate(np.array([0.1, 0.1, 0.1 + 1e-15]), unit="seed")
    assert found.significant
    assert found.low == pytest.approx(0.1)


@pytest.mark.parametrize(("a", "b", "p"), [(0.1, 0.1, 1.0), (0.1, 0.2, 0.0)])
def test_differences_of_equal_values(a: float, b: float, p: float) -> None:
    found = difference_over_aliases(np.full(3, a), np.full(7, b))
    assert found.mean == found.low == found.high == pytest.approx(a - b, abs=1e-15)
    if a != b:
        assert found.p == p


def test_one_value_has_no_interval() -> None:
    for found in (
        estimate(np.array([0.5]), unit="seed"),
        difference_over_aliases(np.array([1.0, 2.0]), np.array([1.0])),
    ):
        assert found.mean == 0.5
        assert np.isnan([found.low, found.high, found.p, found.seeds_for_power]).all()
        assert not found.significant


def test_no_values_have_no_mean() -> None:
    found = estimate(np.array([]), unit="seed")
    assert found.n == 0
    assert np.isnan([found.mean, found.low, found.high, found.p]).all()
    with pytest.raises(ValueError, match="groups of 2 and 0 aliases"):
        difference_over_aliases(np.array([1.0, 2.0]), np.array([]))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    good, spoilt = np.array([1.0, 2.0]), np.array([1.0, bad])
    with pytest.raises(ValueError, match="not finite"):
        estimate(spoilt, unit="seed")
    for pair in ((good, spoilt), (spoilt, good)):
        with pytest.raises(ValueError, match="not finite"):
            difference_over_aliases(*pair)


def test_a_share_removed_of_equal_shares_is_sure() -> None:
    before = np.array([0.3, 0.35, 0.4])
    found = share_removed(before, before * 0.25, unit="seed")
    assert (found.mean, found.low, found.high) == pytest.approx((0.75, 0.75, 0.75), abs=1e-6)


def test_the_interval_of_a_share_removed_holds_the_shares_that_a_test_does_not_reject() -> None:
    """Fieller's interval, against the paired t-test of after − (1 − share) · before at many shares."""
    before, after = np.array([0.12, 0.08, 0.15, 0.1]), np.array([0.05, 0.06, 0.02, 0.07])
    found = share_removed(before, after, unit="seed")
    shares = np.linspace(-1, 2, 3001)
    kept = [s for s in shares if scipy.stats.ttest_1samp(after - (1 - s) * before, 0.0).pvalue >= 0.05]
    assert (found.low, found.high) == pytest.approx((min(kept), max(kept)), abs=2e-3)
    assert found.mean == pytest.approx(1 - 0.2 / 0.45)
    assert found.p == scipy.stats.ttest_rel(before, after).pvalue


def test_of_a_quantity_that_may_be_nothing_no_share_is_known() -> None:
    found = share_removed(np.array([0.1, -0.1, 0.05]), np.array([0.0, 0.0, 0.01]), unit="seed")
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert math.isfinite(found.mean)
    with pytest.raises(ValueError, match="not finite"):
        share_removed(np.array([0.1, 0.2]), np.array([0.1, np.nan]), unit="seed")
