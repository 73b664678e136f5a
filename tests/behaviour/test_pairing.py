"""Two things that are compared over seeds are compared within each seed.

Seeds differ by far more than the two things do, and in both alike. Paired, the difference is the same in every seed, and
known exactly. Taken from two different seeds, the same numbers say nothing. So every comparison is made twice: of values
that belong together, and of the same values dealt to other seeds, of which only the mean stays.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour import dynamics, equal_loss, over_seeds
from mechocl.behaviour.control_gaps import ControlAnswers, compare_gaps
from mechocl.behaviour.statistics import Estimate
from mechocl.probing import summaries

SEEDS = range(8)
OF_SEED = (0.12, -0.09, 0.06, -0.03, 0.09, -0.12, 0.03, -0.06)
"""What a seed adds to both of the things that are compared: its sum is 0."""

EFFECT = 0.02


def of_seed(seed: int, shift: int) -> float:
    return OF_SEED[(seed + shift) % len(OF_SEED)]


def evaluated(values: Callable[[int], dict[str, float]]) -> pd.DataFrame:
    """Rows of the evaluate analysis: 3 aliases of each subset in each seed."""
    return pd.DataFrame(
        {
            "seed": seed, "alias": alias, "subset": subset, "auc": auc, "accuracy": auc,
            "logit_difference": 1.0, "recall": 1.0,
        }
        for seed in SEEDS
        for subset, auc in values(seed).items()
        for alias in range(3)
    )  # fmt: skip


def contrast(better: str, worse: str, name: str) -> Callable[[int], Estimate]:
    def compared(shift: int) -> Estimate:
        def values(seed: int) -> dict[str, float]:
            return {better: 0.7 + EFFECT + of_seed(seed, 0), worse: 0.7 + of_seed(seed, shift)}

        return next(c for c in over_seeds.contrasts(evaluated(values), "auc") if c.name == name).estimate

    return compared


def over_control(shift: int) -> Estimate:
    """The gap of a run over that of its control."""

    def gaps(gap: float, shift: int) -> pd.DataFrame:
        return evaluated(
            lambda seed: {
                "d1_consistent": 0.6 + gap + of_seed(seed, shift),
                "d2_consistent": 0.6,
                "qd2_inconsistent": 0.6,
            }
        )

    [one] = compare_gaps(gaps(0.1 + EFFECT, 0), ControlAnswers(rows={"noise": gaps(0.1, shift)}))
    return one.over.learned


def order_of_events(shift: int) -> Estimate:
    """How much earlier one event is than another, in epochs."""
    first, second = dynamics.EVENTS[0].name, dynamics.EVENTS[1].name
    events = [
        {"seed": seed, "stage": 1, "event": name, "epoch": epoch}
        for seed in SEEDS
        for name, epoch in ((first, 1 + of_seed(seed, 0)), (second, 1 + EFFECT + of_seed(seed, shift)))
    ]
    [found] = dynamics.order(pd.DataFrame(events))
    return found.lead


def history(shift: int) -> pd.DataFrame:
    """d1 and d2 while their definitions are learned."""
    return pd.DataFrame(
        {
            "seed": seed,
            "epoch": epoch,
            "subset": subset,
            "definition_loss": 4.0 - epoch,
            "auc": auc + 0.05 * epoch,
        }
        for seed in SEEDS
        for epoch in range(4)
        for subset, auc in (
            ("d1_consistent", 0.5 + EFFECT + of_seed(seed, 0)),
            ("d2_consistent", 0.5 + of_seed(seed, shift)),
        )
    )


def at_equal_loss(shift: int) -> Estimate:
    rows = equal_loss.compare_at_losses(history(shift), np.array([2.0]), measure="auc")
    return as_estimate(over_seeds.over_seeds(rows, ["definition_loss"], "gap").iloc[0])


def swaps(shift: int) -> bool:
    """Whether a swap along a probe's direction does more than along the directions of shuffled labels."""
    place = {"site": "resid_pre", "layer": 0, "position": "alias", "subset": "all", "chosen": True}
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        shared = place | {"seed": seed, "auc": 0.9, "accuracy": 0.9, "swap_share": 0.5, "method": "logistic"}
        rows.append(shared | {"control": "none", "draw": -1, "swap_effect": 1 + EFFECT + of_seed(seed, 0)})
        rows.append(shared | {"control": "shuffled", "draw": 0, "swap_effect": 1 + of_seed(seed, shift)})
    everyone = pd.DataFrame(rows)
    index = everyone.set_index(["site", "layer", "position"]).index.unique()
    return bool(summaries._swaps(everyone, index)["swap_beyond"][0])


def as_estimate(row: Any) -> Estimate:
    return Estimate(row["mean"], row["low"], row["high"], row["p"], int(row["seeds"]), "seed", float("nan"))


COMPARISONS: dict[str, Callable[[int], Estimate]] = {
    "strong": contrast("d1_consistent", "d2_consistent", "strong"),
    "weak": contrast("qd1_consistent", "qd2_inconsistent", "weak"),
    "a run over its control": over_control,
    "the order of two events": order_of_events,
    "d1 and d2 at equal loss": at_equal_loss,
}


def assert_paired(compared: Callable[[int], Estimate]) -> None:
    """The effect is known exactly from values that belong together, and not at all from values of other seeds."""
    paired = compared(0)
    assert paired.mean == pytest.approx(EFFECT)
    assert paired.n == len(SEEDS)
    assert paired.high - paired.low < 1e-6
    assert paired.p < 1e-6
    for shift in (1, 3):
        unpaired = compared(shift)
        assert unpaired.mean == pytest.approx(EFFECT)
        assert unpaired.high - unpaired.low > 0.1
        assert unpaired.p > 0.1


@pytest.mark.parametrize("name", COMPARISONS)
def test_a_comparison_is_within_seeds(name: str) -> None:
    assert_paired(COMPARISONS[name])


def test_swaps_are_compared_with_shuffled_ones_within_seeds() -> None:
    assert [swaps(shift) for shift in (0, 1, 3)] == [True, False, False]


def test_paired_can_fail() -> None:
    """For intervals of two independent groups, which the same values would give."""
    import scipy.stats

    def unpaired(shift: int) -> Estimate:
        better = np.array([0.7 + EFFECT + of_seed(seed, 0) for seed in SEEDS])
        worse = np.array([0.7 + of_seed(seed, shift) for seed in SEEDS])
        test = scipy.stats.ttest_ind(better, worse)
        low, high = test.confidence_interval(0.95)
        mean = float(better.mean() - worse.mean())
        return Estimate(mean, low, high, float(test.pvalue), len(better), "seed", float("nan"))

    with pytest.raises(AssertionError):
        assert_paired(unpaired)
