"""Whether a difference is there, from its values over seeds: one rule for every verdict.

The rule reads the 95 % interval of the mean (Student's t), and asks sign flips whether they agree:

- "yes": the interval lies above 0. "no: the reverse": it lies below 0.
- "no": it lies within ± margin, the smallest effect that matters, whether or not it contains 0. This is the test of
  equivalence by two one-sided tests (TOST; Schuirmann 1987, J. Pharmacokinet. Biopharm. 15, 657). Each of the two
  is made at 2.5 %, and not at the usual 5 %, so that the interval that is shown is the one that decides.
- "cannot tell": anything else.

The t interval takes the values for normal. The sign-flip test (Fisher 1935, The Design of Experiments, § 21) does not:
under the hypothesis that the values lie symmetrically about a boundary (0, or ± margin), the sign of each distance from
it is a coin. A conclusion needs a one-sided p below 2.5 % at each boundary that its interval stays clear of. Fewer than
`LEAST_SEEDS` seeds cannot give one, since n equal signs have the p 1 / 2ⁿ. So no number of seeds is written into the
rule; it follows from the level.

A seed that failed is part of the answer. The conclusion must be the same whichever of the failed seeds are counted with
those that learned: none, some, or all. Hence one more failed seed never makes a verdict stronger. If half of the seeds
or more failed or diverged, those that are left are a selection, and the verdict is "cannot tell".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import scipy.stats
from jaxtyping import Float

from mechocl.behaviour.formats import p_value
from mechocl.behaviour.statistics import Estimate, estimate, seeds_for_power

Conclusion = Literal["yes", "no: the reverse", "no", "cannot tell"]

YES: Final = "yes"
REVERSE: Final = "no: the reverse"
NOTHING: Final = "no"
CANNOT_TELL: Final = "cannot tell"

TOO_SMALL: Final = "no: too small to matter"

LEVEL: Final = 0.025
"""Level of each one-sided test. The two sides together have 5 %."""

LEAST_SEEDS: Final = 6
"""Least number of seeds whose signs can be significant: 1 / 2⁶ < 2.5 % < 1 / 2⁵."""

_MOST_FAILED: Final = 16
"""Largest number of failed seeds whose subsets are all tried."""

_EXACT: Final = 32
"""Largest number of seeds whose sign flips are all counted. Of more seeds, `_FLIPS` random flips are drawn."""

_FLIPS: Final = 20_000


def beside_numbers(answer: str) -> str:
    """An answer as it stands beside the difference that it is about, which is often significant and too small to matter."""
    return TOO_SMALL if answer == NOTHING else answer


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a difference is there, and why."""

    answer: Conclusion
    reason: str
    """Why, as a clause that begins in lower case and has no full stop."""
    learned: Estimate
    """The difference over the seeds that learned; of no seeds if all failed."""
    every: Estimate
    """The difference over all seeds that have a value, those that failed included."""
    margin: float
    """The smallest effect that matters, by which the difference was judged."""
    more_would_decide: bool
    """Whether more seeds alone would decide. False after a decision, and where too many seeds failed or failed seeds
    say something else."""

    @property
    def seeds_to_decide(self) -> int | None:
        """About how many seeds would decide, if the values go on as they are (`count_seeds_to_decide`).

        None unless more seeds alone would decide, and where a single seed shows no spread.
        """
        return count_seeds_to_decide(self.learned, self.margin) if self.more_would_decide else None

    @property
    def explanation(self) -> str:
        """The reason, and how many seeds would decide."""
        more = self.seeds_to_decide
        return self.reason if more is None else f"{self.reason}; about {more} seeds would decide"


def decide(
    differences: Mapping[int, float],
    failed: Mapping[int, float] | None = None,
    *,
    diverged: int = 0,
    margin: float,
) -> Verdict:
    """The verdict on a difference, by the rule of this module.

    `differences`: seed → value, of the seeds that learned. `failed`: seed → value, of those that failed their limit.
    `diverged`: number of seeds that have no value. `margin`: the smallest effect that matters, in the values' unit.

    Raises ValueError when the margin is not above 0 or infinite, a value is not finite, or a seed is in both mappings.
    """
    failed = failed or {}
    if not 0 < margin < float("inf"):
        raise ValueError(f"the margin is {margin}; give the smallest effect that matters, above 0")
    if both := differences.keys() & failed.keys():
        raise ValueError(f"seed {min(both)} cannot both have learned and have failed")
    # in the order of the values, so that the names of the seeds change nothing, not even a last bit
    learned, others = (np.sort(np.array(list(v.values()), dtype=float)) for v in (differences, failed))
    estimates = estimate(learned, unit="seed"), estimate(np.append(learned, others), unit="seed")

    def verdict(answer: Conclusion, reason: str, *, more_would_decide: bool = False) -> Verdict:
        return Verdict(answer, reason, *estimates, margin, more_would_decide)

    if lost := _too_many_lost(len(learned), len(others), diverged):
        return verdict(CANNOT_TELL, lost)
    answer, reason = _conclude(learned, margin)
    if answer == CANNOT_TELL:
        return verdict(answer, reason, more_would_decide=True)
    if len(others) == 0:
        return verdict(answer, reason)
    counted = "the failed seed is" if len(others) == 1 else f"the {len(others)} failed seeds are"
    if _holds_with_failed(learned, others, answer, margin):
        return verdict(answer, f"{reason}, whether or not {counted} counted")
    return verdict(CANNOT_TELL, f"the answer depends on whether {counted} counted")


def count_seeds_to_decide(e: Estimate, margin: float) -> int | None:
    """About how many seeds would decide with 80 % probability, if mean and standard deviation stay as they are.

    It is the smaller of two numbers: of seeds that tell the difference from 0, and of seeds that show it to be within
    ± `margin`. It is at least `LEAST_SEEDS`, and more than there are. None if there are fewer than two seeds, or if no
    number below 100 million is enough.
    """
    if e.n < 2:
        return None
    distance = margin - abs(e.mean)
    # both one-sided tests must pass: if each fails in 10 %, both pass in at least 80 %
    equivalent = seeds_for_power(distance, e.deviation, power=0.9) if distance > 0 else float("inf")
    fewest = min(seeds_for_power(e.mean, e.deviation), equivalent)
    return int(max(fewest, LEAST_SEEDS, e.n + 1)) if np.isfinite(fewest) else None


def sign_flip_p(values: Float[np.ndarray, " seed"]) -> float:
    """One-sided p that the values lie symmetrically about 0 or below it: the share of sign flips whose sum is as large.

    All 2ⁿ flips are counted for up to 32 values. The values are cut into two halves, and for each subset of one
    half those of the other are counted by bisection. Of more values, 20 000 flips are drawn with a fixed seed.
    """
    if len(values) > _EXACT:
        drawn = scipy.stats.permutation_test(
            (values,),
            np.mean,
            permutation_type="samples",
            alternative="greater",
            n_resamples=_FLIPS,
            rng=np.random.default_rng(0),
        )
        return float(drawn.pvalue)
    # a flip has as large a sum if and only if the values that it flips have a sum of at most 0
    rounding = 1e-9 * float(np.abs(values).sum())
    half = len(values) // 2
    first, second = _subset_sums(values[:half]), np.sort(_subset_sums(values[half:]))
    count = np.searchsorted(second, rounding - first, side="right").sum()
    return float(count / 2.0 ** len(values))


def _subset_sums(values: np.ndarray) -> np.ndarray:
    sums = np.zeros(1)
    for value in values:
        sums = np.append(sums, sums + value)
    return sums


def _too_many_lost(learned: int, failed: int, diverged: int) -> str:
    """Why the seeds that are left say nothing; "" if enough are left, or if there was never more than one."""
    lost, total = failed + diverged, learned + failed + diverged
    what = " or ".join(["failed"] * bool(failed) + ["diverged"] * bool(diverged))
    if total == 0:
        return "there is no seed"
    if lost == total:
        return f"the only seed {what}" if total == 1 else f"all {total} seeds {what}"
    if 2 * lost >= total:
        return f"{lost} of {total} seeds {what}, so the others are a selection"
    if failed > _MOST_FAILED:
        return f"{failed} of {total} seeds failed, which are too many to try which of them count"
    return ""


def _conclude(learned: np.ndarray, margin: float) -> tuple[Conclusion, str]:
    """The verdict and its reason, from the values of the seeds that learned, of which there is at least one."""
    n = len(learned)
    if n == 1:
        return CANNOT_TELL, f"one seed says nothing about other seeds; at least {LEAST_SEEDS} are needed"
    if n < LEAST_SEEDS:
        chance = f"{200 / 2**n:.0f} %"
        return CANNOT_TELL, f"{n} seeds are too few: in {chance} of cases all have the same sign by chance"
    low, high = _intervals(learned, learned[:0])
    reading: Conclusion = _read_intervals(low, high, margin)[0]
    within = f"within ±{margin:g}, the smallest effect that matters"
    if reading == CANNOT_TELL:
        return CANNOT_TELL, f"the 95 % interval contains 0 and does not lie {within}"
    where = {YES: "above 0", REVERSE: "below 0", NOTHING: within}[reading]
    p = _largest_p(learned, reading, margin)
    shown = p_value(min(1.0, 2 * p))  # as the two-sided p, which readers compare with 5 %
    if p >= LEVEL:
        return CANNOT_TELL, (
            f"the 95 % interval lies {where}, but the sign-flip test does not agree ({shown})"
        )
    test = f"sign-flip tests against ±{margin:g}" if reading == NOTHING else "sign-flip test"
    reason = f"the 95 % interval lies {where} ({test} {shown})"
    if reading in (YES, REVERSE) and min(abs(float(low[0])), abs(float(high[0]))) < margin:
        reason += f"; whether it reaches {margin:g}, the smallest effect that matters, cannot be told"
    if reading == NOTHING and not low[0] <= 0 <= high[0]:
        reason = f"there is a difference, but it is too small to matter: {reason}"
    return reading, reason


def _holds_with_failed(learned: np.ndarray, failed: np.ndarray, answer: Conclusion, margin: float) -> bool:
    """Whether a conclusion from the seeds that learned stays the same with each subset of those that failed.

    Of the sign flips, one subset is enough at each boundary: that of the values which do not lie beyond it. A value
    beyond it never raises the p of the others, and a value on the near side never lowers it.
    """
    if (_read_intervals(*_intervals(learned, failed), margin) != answer).any():
        return False
    return all(
        sign_flip_p(sign * np.append(learned, failed[sign * failed <= boundary]) - boundary) < LEVEL
        for sign, boundary in _boundaries(answer, margin)
    )


def _intervals(learned: np.ndarray, failed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the 95 % intervals of the learned values with each subset of the failed ones; the empty subset is first."""
    taken = (np.arange(2 ** len(failed))[:, None] >> np.arange(len(failed))) & 1
    centre = learned.mean()  # squares of distances from it lose no digits where the spread is small
    own, other = learned - centre, failed - centre
    n = len(learned) + taken.sum(1)
    total = own.sum() + (taken * other).sum(1)
    squares = (own**2).sum() + (taken * other**2).sum(1)
    variance = np.maximum(squares - total**2 / n, 0) / (n - 1)
    half = scipy.stats.t.isf(LEVEL, n - 1) * np.sqrt(variance / n)
    mean = centre + total / n
    return mean - half, mean + half


def _read_intervals(low: np.ndarray, high: np.ndarray, margin: float) -> np.ndarray:
    """What each interval says, before sign flips are asked."""
    inside = (-margin < low) & (high < margin)
    return np.select([inside, low > 0, high < 0], [NOTHING, YES, REVERSE], CANNOT_TELL)


def _boundaries(answer: Conclusion, margin: float) -> list[tuple[int, float]]:
    """What a conclusion must show: for each (sign, boundary), that sign × the values lie above the boundary."""
    if answer == NOTHING:
        return [(1, -margin), (-1, -margin)]
    return [(1 if answer == YES else -1, 0.0)]


def _largest_p(values: np.ndarray, answer: Conclusion, margin: float) -> float:
    """The largest one-sided p of the sign flips that a conclusion needs."""
    return max(sign_flip_p(sign * values - boundary) for sign, boundary in _boundaries(answer, margin))
