"""Intervals with the seed as the unit, paired tests and the number of seeds that they need.

Where a run has a single seed the unit is the alias, and the estimate says so: such an interval speaks of
this one model, not of the setup.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy.stats
from jaxtyping import Float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    """95 % interval (Student's t); NaN with fewer than 2 units."""
    p: float
    """Two-sided p of the t-test that the mean is 0 (paired, when the values are differences)."""
    n: int
    unit: Literal["seed", "alias"]
    """What an independent observation is."""
    seeds_for_power: float
    """Seeds at which this mean and standard deviation would be significant (p < .05, two-sided) with
    80 % probability; infinite when the mean is 0; NaN unless the unit is the seed and n ≥ 2."""

    @property
    def significant(self) -> bool:
        return bool(self.p < 0.05)


def estimate(values: Float[np.ndarray, "unit"], *, unit: Literal["seed", "alias"]) -> Estimate:
    """Estimate of the mean of independent values: one per seed, or one per alias of a single seed.

    Raises ValueError when a value is not finite: leave failed seeds out, and say so.
    """
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite; leave failed seeds out and count them")
    n, mean = len(values), float(values.mean()) if len(values) else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), n, unit, float("nan"))
    deviation = float(values.std(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, n - 1)) * deviation / n**0.5
    p = float(scipy.stats.ttest_1samp(values, 0.0).pvalue) if deviation > 0 else float(mean == 0)
    seeds = seeds_for_power(mean, deviation) if unit == "seed" else float("nan")
    return Estimate(mean, mean - half, mean + half, p, n, unit, seeds)


def difference_over_aliases(
    better: Float[np.ndarray, "alias"], worse: Float[np.ndarray, "other_alias"]
) -> Estimate:
    """Difference of two groups of aliases of one seed: Welch's t, unit alias."""
    test = scipy.stats.ttest_ind(better, worse, equal_var=False)
    interval = test.confidence_interval(0.95)
    mean = float(better.mean() - worse.mean())
    low, high = float(interval.low), float(interval.high)
    return Estimate(mean, low, high, float(test.pvalue), len(better) + len(worse), "alias", float("nan"))


def seeds_for_power(mean: float, deviation: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Seeds that a two-sided one-sample (paired) t-test needs for `power`, at least 2.

    From the observed mean and standard deviation over seeds, so itself uncertain.
    """
    if mean == 0:
        return float("inf")
    if deviation == 0:
        return 2.0
    from statsmodels.stats.power import TTestPower

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # statsmodels warns where its solver falls back to bisection
        seeds = TTestPower().solve_power(abs(mean) / deviation, alpha=alpha, power=power)
    return float(max(2.0, np.ceil(np.ravel(seeds)[0])))
