"""Intervals with the seed as the unit, paired tests, and the number of seeds that the tests need.

If a run has a single seed, the unit is the alias, and the estimate says so. Such an interval is about this one model,
not about the setup.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import scipy.stats
from jaxtyping import Float

SHARE: Final = (0.0, 1.0)
"""Least and greatest value of a share, of an accuracy and of an AUC."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    """Upper end of the 95 % interval (Student's t), whose lower end is `low`; NaN with fewer than 2 units."""
    p: float
    """Two-sided p of the t-test that the mean is 0. The test is paired if the values are differences."""
    n: int
    unit: Literal["seed", "alias"]
    """What an independent observation is."""
    deviation: float
    """Standard deviation of the units; NaN with fewer than 2, and for a difference of two groups."""

    @property
    def seeds_for_power(self) -> float:
        """Number of seeds with which this mean and standard deviation would be significant (p < .05, two-sided) with
        80 % probability. It is infinite if the mean is 0, and NaN unless the unit is the seed and n ≥ 2."""
        if self.unit != "seed" or self.n < 2:
            return float("nan")
        return seeds_for_power(self.mean, self.deviation)

    @property
    def significant(self) -> bool:
        return bool(self.p < 0.05)


def estimate(
    values: Float[np.ndarray, "unit"],
    *,
    unit: Literal["seed", "alias"],
    bounds: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate of the mean of independent values: one per seed, or one per alias of a single seed.

    `bounds` are the least and the greatest value that is possible, such as 0 and 1 for a share. The interval is then cut
    off at them. It covers the true mean as often as before, since the true mean is never beyond them. They do not
    change p.

    Raises ValueError when a value is not finite. So leave failed seeds out, and say so.
    """
    _refuse_not_finite(values)
    n, mean = len(values), float(values.mean()) if len(values) else float("nan")
    if n < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), n, unit, float("nan"))
    if np.ptp(values) == 0:  # for equal values, rounding of their mean would give a deviation that is not 0
        return Estimate(mean, mean, mean, float(mean == 0), n, unit, 0.0)
    low, high, p = _interval(scipy.stats.ttest_1samp, values, 0.0)
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(mean, low, high, p, n, unit, float(values.std(ddof=1)))


def difference_over_aliases(
    better: Float[np.ndarray, "alias"], worse: Float[np.ndarray, "other_alias"]
) -> Estimate:
    """Difference of the means of two groups of aliases of one seed, `better` − `worse`, by Welch's t; the unit is the alias.

    Interval and p are NaN if a group has a single alias. Raises ValueError for an empty group, and when a value is not
    finite.
    """
    if len(better) == 0 or len(worse) == 0:
        raise ValueError(f"groups of {len(better)} and {len(worse)} aliases; each needs at least one")
    _refuse_not_finite(better)
    _refuse_not_finite(worse)
    mean, n = float(better.mean() - worse.mean()), len(better) + len(worse)
    if min(len(better), len(worse)) < 2:
        return Estimate(mean, float("nan"), float("nan"), float("nan"), n, "alias", float("nan"))
    if np.ptp(better) == 0 and np.ptp(worse) == 0:  # any degrees of freedom give the same interval
        return Estimate(mean, mean, mean, float(mean == 0), n, "alias", float("nan"))
    low, high, p = _interval(scipy.stats.ttest_ind, better, worse, equal_var=False)
    return Estimate(mean, low, high, p, n, "alias", float("nan"))


def share_removed(
    before: Float[np.ndarray, "unit"], after: Float[np.ndarray, "unit"], *, unit: Literal["seed", "alias"]
) -> Estimate:
    """The share 1 − mean(after) / mean(before) that is gone of a quantity, from paired values of each unit.

    The interval is Fieller's (Journal of the Royal Statistical Society B 16, 1954), which holds where the mean before is
    itself uncertain. Its ends are NaN where that mean is not surely different from 0, since any share is then possible. `p`
    is that of the paired t-test that nothing is gone. Raises ValueError when a value is not finite.
    """
    _refuse_not_finite(before)
    _refuse_not_finite(after)
    gone = estimate(before - after, unit=unit)
    n, top, bottom = len(before), float(after.mean()), float(before.mean())
    share = 1 - top / bottom if bottom else float("nan")
    nothing = Estimate(share, float("nan"), float("nan"), gone.p, n, unit, float("nan"))
    if n < 2 or not bottom:
        return nothing
    (above, both), (_, below) = np.cov(after, before) * scipy.stats.t.isf(0.025, n - 1) ** 2 / n
    leading, middle, last = bottom**2 - below, top * bottom - both, top**2 - above
    if leading <= 0:
        return nothing
    half = float(max(0.0, middle**2 - leading * last)) ** 0.5
    low, high = 1 - (middle + half) / leading, 1 - (middle - half) / leading
    return Estimate(share, float(low), float(high), gone.p, n, unit, float("nan"))


def seeds_for_power(mean: float, deviation: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Number of seeds that a two-sided one-sample (paired) t-test needs for `power`, at least 2.

    It is computed from the observed mean and standard deviation over seeds, so it is itself uncertain. It is infinite
    if the mean is 0, or so small compared with the deviation that 100 million seeds would not be enough.
    """
    if mean == 0:
        return float("inf")
    if deviation == 0:
        return 2.0
    effect = abs(mean) / deviation
    enough = 2
    while _power(effect, enough, alpha) < power:
        enough *= 2
        if enough > 10**8:
            return float("inf")
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if _power(effect, middle, alpha) < power:
            too_few = middle
        else:
            enough = middle
    return float(enough)


def _power(effect: float, n: int, alpha: float) -> float:
    """Probability that a two-sided t-test of n values with mean `effect` and deviation 1 is significant.

    The probability is averaged over the distribution of the sample's deviation. For a given deviation, the sample's
    mean alone decides, and it has a normal distribution. (The noncentral t of SciPy and statsmodels fails for large
    effects and few values.)
    """
    critical = scipy.stats.t.isf(alpha / 2, n - 1)
    quantiles = (np.arange(4096) + 0.5) / 4096
    deviation = np.sqrt(scipy.stats.chi2.ppf(quantiles, n - 1) / (n - 1))
    centre = effect * n**0.5
    above = scipy.stats.norm.sf(critical * deviation - centre)
    below = scipy.stats.norm.cdf(-critical * deviation - centre)
    return float((above + below).mean())


def _refuse_not_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise ValueError("a value is not finite; leave failed seeds out and count them")


def _interval(test: Callable[..., Any], *samples: Any, **options: Any) -> tuple[float, float, float]:
    """Ends of the 95 % interval of one of SciPy's t-tests, and its two-sided p."""
    with warnings.catch_warnings():  # SciPy warns of values that differ by little more than rounding
        warnings.filterwarnings("ignore", message="Precision loss occurred", category=RuntimeWarning)
        found = test(*samples, **options)
    interval = found.confidence_interval(0.95)
    return float(interval.low), float(interval.high), float(found.pvalue)
