"""The gap at equal definition loss, worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour.equal_loss import (
    LEVELS,
    choose_levels,
    compare_at_losses,
    compare_by_epoch,
    interpolate_at_losses,
    summarize_gap,
)


def history(d1: dict[str, list[float]], d2: dict[str, list[float]], *, seed: int = 0) -> pd.DataFrame:
    """Evaluations of stage 2 at epochs 0, 1, 2 …, after rows of a stage 1 that must not count."""
    parts = [
        pd.DataFrame({"definition_loss": part["loss"], "auc": part["auc"], "subset": subset}).rename_axis(
            "epoch"
        )
        for subset, part in (("d1_consistent", d1), ("d2_consistent", d2))
    ]
    stage2 = pd.concat(parts).reset_index().assign(stage=2, seed=seed)
    return pd.concat([stage2.assign(stage=1, auc=9.0, definition_loss=0.1), stage2])


FAST = {"loss": [4.0, 2.0, 1.0], "auc": [0.5, 0.7, 0.9]}
SLOW = {"loss": [4.0, 3.0, 2.0], "auc": [0.5, 0.6, 0.7]}
"""Learned half as fast, and answered as well at each loss."""


def test_between_evaluations_the_value_is_linear_in_the_loss() -> None:
    """At 3 halfway between 4 and 2: (.5 + .7) / 2; at 1.25 three quarters from 2 to 1: .7 + .75 × .2."""
    losses, values = np.array([4.0, 2.0, 1.0]), np.array([0.5, 0.7, 0.9])
    found = interpolate_at_losses(losses, values, np.array([5.0, 4.0, 3.0, 2.0, 1.25, 1.0, 0.9]))
    np.testing.assert_allclose(found, [np.nan, 0.5, 0.6, 0.7, 0.85, 0.9, np.nan])


def test_only_evaluations_lower_than_all_before_count() -> None:
    """The loss rises to 3 and comes back to 2 before it falls to 1: the line leads from (2, .7) to (1, .9)."""
    losses, values = np.array([4.0, 2.0, 3.0, 2.0, 1.0, 1.5]), np.array([0.5, 0.7, 0.1, 0.2, 0.9, 0.0])
    found = interpolate_at_losses(losses, values, np.array([3.0, 2.0, 1.5]))
    np.testing.assert_allclose(found, [0.6, 0.7, 0.8])
    assert np.isnan(interpolate_at_losses(np.array([]), np.array([]), np.array([1.0]))).all()


def test_a_gap_that_comes_from_the_speed_alone_is_gone_at_equal_loss() -> None:
    rows = history(FAST, SLOW)
    rows = rows[rows["stage"] == 2]
    np.testing.assert_allclose(compare_by_epoch(rows, measure="auc")["gap"], [0.0, 0.1, 0.2])
    found = compare_at_losses(rows, np.array([5.0, 4.0, 3.5, 2.0, 1.5]), measure="auc")
    np.testing.assert_allclose(found["gap"], [np.nan, 0.0, 0.0, 0.0, np.nan], atol=1e-12)
    assert found["definition_loss"].tolist() == [5.0, 4.0, 3.5, 2.0, 1.5]


def test_a_gap_at_equal_loss_is_found_where_that_at_the_epoch_is_none() -> None:
    """d2 is learned twice as fast, and at each loss is answered worse by as much as it gains from that."""
    rows = history({**SLOW, "auc": [0.5, 0.6, 0.7]}, {**FAST, "auc": [0.5, 0.6, 0.7]})
    rows = rows[rows["stage"] == 2]
    np.testing.assert_allclose(compare_by_epoch(rows, measure="auc")["gap"], 0.0, atol=1e-12)
    found = compare_at_losses(rows, np.array([4.0, 3.0, 2.0]), measure="auc")
    np.testing.assert_allclose(found["gap"], [0.0, 0.05, 0.1], atol=1e-12)


def test_levels_go_from_the_first_to_the_lowest_loss_that_both_had() -> None:
    rows = history(FAST, {**SLOW, "loss": [3.5, 3.0, 2.0]})
    levels = choose_levels(rows[rows["stage"] == 2])
    assert len(levels) == LEVELS
    assert (levels[0], levels[-1]) == pytest.approx((3.5, 2.0))
    np.testing.assert_allclose(levels[1:] / levels[:-1], (2.0 / 3.5) ** (1 / (LEVELS - 1)))
    apart = history({**FAST, "loss": [4.0, 3.0, 2.0]}, {**SLOW, "loss": [1.5, 1.2, 1.0]})
    assert len(choose_levels(apart[apart["stage"] == 2])) == 0
    nothing = history({**FAST, "loss": [np.nan] * 3}, SLOW)
    assert len(choose_levels(nothing[nothing["stage"] == 2])) == 0


def test_the_mean_is_over_all_seeds_or_there_is_none() -> None:
    """Seed 1 has been down to 1 and is .2 higher in d1; seed 0 has been down to 2, and in the third epoch alone."""
    deep = history({**FAST, "auc": [0.7, 0.9, 1.1]}, {**FAST, "auc": [0.5, 0.7, 0.9]}, seed=1)
    rows = pd.concat([history(FAST, SLOW), deep[deep["epoch"] < 2]])
    found = summarize_gap(rows, measure="auc")
    assert found is not None
    assert found.measure == "auc"
    assert found.by_loss is not None
    e = found.by_epoch.estimates
    assert e["epoch"].tolist() == [0, 1]
    np.testing.assert_allclose(e["mean"], [0.1, 0.15])
    assert len(found.by_epoch.by_seed) == 5
    at_loss = summarize_gap(pd.concat([history(FAST, SLOW), deep]), measure="auc")
    assert at_loss is not None
    assert at_loss.by_loss is not None
    levels = at_loss.by_loss.by_seed["definition_loss"]
    assert (levels.max(), levels.min()) == pytest.approx((4.0, 1.0))
    e = at_loss.by_loss.estimates
    assert e["definition_loss"].min() >= 2.0
    assert 3 < len(e) < LEVELS
    np.testing.assert_allclose(e["mean"], 0.1, atol=1e-9)
    assert set(e["seeds"]) == {2}


def test_a_seed_whose_subsets_have_no_loss_in_common_is_named_and_left_out() -> None:
    apart = history({**FAST, "loss": [4.0, 3.0, 2.0]}, {**SLOW, "loss": [1.5, 1.2, 1.0]}, seed=7)
    found = summarize_gap(pd.concat([history(FAST, SLOW), apart]), measure="auc")
    assert found is not None
    assert found.by_loss is not None
    assert found.apart == (7,)
    assert set(found.by_loss.by_seed["seed"]) == {0}
    assert len(found.by_loss.estimates) == LEVELS
    assert set(found.by_epoch.by_seed["seed"]) == {0, 7}


def test_histories_without_the_loss_have_the_gap_by_epoch_alone() -> None:
    rows = history(FAST, SLOW)
    found = summarize_gap(rows.drop(columns="definition_loss"), measure="auc")
    assert found is not None
    assert found.by_loss is None
    np.testing.assert_allclose(found.by_epoch.estimates["mean"], [0.0, 0.1, 0.2])
    assert summarize_gap(rows, measure="exact_match") is None
    assert summarize_gap(rows[rows["subset"] == "d1_consistent"], measure="auc") is None
