"""Intervals are drawn and written within what is possible, and no estimate changes."""

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour import over_seeds
from mechocl.behaviour.internalization import CONTRASTS
from mechocl.report import intervals, lens_plots
from mechocl.report.intervals import difference_bounds, error_bar, row_within
from toy_models.measures import YES_OR_NO


def test_a_bar_ends_at_the_possible() -> None:
    """0.95 ± 0.10 of a share is drawn from 0.85 to 1; the side that is cut off does not shorten the other."""
    bar = error_bar([0.95, 0.5, 0.3], [0.85, 0.4, np.nan], [1.05, 0.6, np.nan], bounds=(0.0, 1.0))
    assert bar["array"] == pytest.approx([0.05, 0.1, 0.0])
    assert bar["arrayminus"] == pytest.approx([0.1, 0.1, 0.0])
    assert bar["symmetric"] is False


def test_what_a_difference_can_be() -> None:
    for quantity in ("auc", "AUC", "exact match", "exact_match", "share of the aliases"):
        assert difference_bounds(quantity) == intervals.DIFFERENCE
    for quantity in ("nats", "log_probability", "cosine", "logit_difference"):
        assert difference_bounds(quantity) is None
    row = {"mean": 0.9, "low": 0.7, "high": 1.1, "seeds": 4}
    assert row_within(row, (0.0, 1.0)) == row | {"high": 1.0}
    assert row_within(row, None) == row


def test_contrasts_stay_within_what_is_possible() -> None:
    """Two seeds of AUC 1.00 and 0.90 are 0.45 above chance on average, whose interval by t reaches to 1.09; 0.5 is the most."""
    values = {
        "d1_consistent": (1.0, 0.9),
        "d2_consistent": (0.0, 0.2),
        "no_data": (0.5, 0.5),
        "qd1_consistent": (0.9, 0.9),
    }
    rows = pd.DataFrame(
        [
            {"seed": seed, "alias": 10 * i + alias, "subset": subset, "recall": 1.0, **dict.fromkeys(("auc", "accuracy", "logit_difference"), each[seed])}
            for seed in (0, 1)
            for i, (subset, each) in enumerate(values.items())
            for alias in (0, 1)
        ]
    )  # fmt: skip
    found = {one.name: one.estimate for one in over_seeds.contrasts(rows, "auc", YES_OR_NO)}
    (above,) = (found[c.name] for c in CONTRASTS if (c.better, c.worse) == ("d1_consistent", ""))
    assert above.mean == pytest.approx(0.45)
    assert (above.low, above.high) == (pytest.approx(-0.185, abs=1e-3), 0.5)
    gap = found["strong"]
    assert gap.mean == pytest.approx(0.85)
    assert (gap.low, gap.high) == (pytest.approx(-1.0), 1.0)
    nats = {one.name: one.estimate for one in over_seeds.contrasts(rows, "logit_difference", YES_OR_NO)}
    assert nats["strong"].high > 1.0


def test_a_figure_draws_the_lower_end_that_its_rows_have() -> None:
    """Where the upper end is cut off, the lower one is not mirrored."""
    means = pd.DataFrame({"mean": [0.9], "low": [0.6], "high": [1.0]})
    seeds = pd.DataFrame({"total": [0.8, 1.0]}, index=[0, 1])
    bars, _ = lens_plots._bars(seeds, means, np.array([0.0]), "d1_consistent", 1.0)
    assert list(bars.error_y.array) == pytest.approx([0.1])
    assert list(bars.error_y.arrayminus) == pytest.approx([0.3])
