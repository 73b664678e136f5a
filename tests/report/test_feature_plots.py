"""Figures of features hold the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour.statistics import estimate
from mechocl.features import summaries
from mechocl.report import feature_plots


def patches() -> pd.DataFrame:
    """Three seeds of two dictionaries each; the second feature of each is the larger one."""
    rows = []
    for seed in range(3):
        for sae in "01":
            for k, effect in ((1, 0.1), (1, 0.2), (4, 0.4)):
                rows.append(
                    {
                        "seed": seed,
                        "sae": sae,
                        "intervention": "patch",
                        "metric": "logit_difference",
                        "property": "new alias of tag 1, not 2",
                        "group": "tag",
                        "k": k,
                        "effect": effect + 0.1 * seed + 0.02 * (sae == "1"),
                        "gap": 1.0 + seed,
                        "control_95": 0.05,
                        "retrieval": effect > 0.15,
                    }
                )
    return pd.DataFrame(rows)


def test_shares_are_of_the_mean_gap_with_the_seed_as_the_unit() -> None:
    table = summaries.causal(patches()).set_index("kind")
    by_seed = (np.array([0.1, 0.2, 0.3]) + 0.01) / 2.0  # the surest is the first; gaps of 1, 2, 3: mean 2
    e = estimate(by_seed, unit="seed")
    row = table.loc["feature"]
    assert (row["gap"], row["seeds"], row["dictionaries"]) == (2.0, 3, 6)
    assert row[["share", "low", "high"]].tolist() == pytest.approx([e.mean, e.low, e.high])
    assert (row["tested"], row["retrieval"], row["with_retrieval"]) == (12, 6, 6)
    assert row["control"] == pytest.approx(0.025)
    assert table.loc["4 features", "share"] == pytest.approx((0.5 + 0.01) / 2)


def test_integers_are_pooled() -> None:
    rows = patches().assign(group="integer")
    rows["property"] = [f"integer {i % 2}" for i in range(len(rows))]
    row = summaries.causal(rows[rows["k"] == 1]).set_index("property").loc["any integer"]
    assert row["share"] == pytest.approx((0.25 + 0.01) / 2)  # the mean of both features


def test_the_figure_draws_seeds_means_and_controls() -> None:
    found = summaries.summarize_shares(summaries.surest_patches(patches()))
    figure = feature_plots.shares(found, title="here")
    dots, mean, control = figure.data[:3]
    assert sorted(dots.y) == pytest.approx([0.055, 0.105, 0.155])
    assert mean.y == pytest.approx((0.105,))
    assert mean.error_y.array[0] > 0
    assert control.y == pytest.approx((0.025,))
    assert figure.layout.title.text == "here"
    assert figure.layout.xaxis.ticktext == ("new alias of tag<br>1, not 2",)
    assert tuple(figure.layout.xaxis.range) == (-0.6, 0.6)  # every tick is inside
    estimates = found.share.estimates.set_index(["kind", "property"])
    shown = estimates.loc[("feature", "new alias of tag 1, not 2")]
    assert (mean.y[0], mean.error_y.array[0]) == (shown["mean"], shown["high"] - shown["mean"])


def test_selectivity_has_positions_in_the_order_of_a_question() -> None:
    table = pd.DataFrame(
        {
            "property": ["stage 2, not 1", "tag 1, not 2", "tag 1, not 2", "tag 1, not 2"],
            "group": ["stage", "tag", "tag", "tag"],
            "position": ["=", "=", "n1", "alias"],
            "auc": [0.6, 0.7, 0.8, 0.9],
        }
    )
    panel, missing = feature_plots.selectivity([("here", table)]).data
    assert "not measured" in f"{missing.name} {missing.hovertemplate}"
    assert list(panel.x) == ["alias", "n1", "="]
    assert [name.replace("<br>", " ") for name in panel.y] == ["tag 1, not 2", "stage 2, not 1"]
    assert np.allclose(panel.z, [[0.9, 0.8, 0.7], [np.nan, np.nan, 0.6]], equal_nan=True)


def test_what_training_did_over_seeds() -> None:
    rows = pd.DataFrame(
        {
            "seed": [0, 0, 0, 1, 1, 1],
            "feature": [0, 1, 2] * 2,
            "verdict": ["shared", "shared", "new", "shared", "shared", "shared"],
            "group": ["tag", None, "tag", "tag", None, None],
        }
    )
    count = summaries.verdicts(rows).set_index("verdict")["mean"]
    assert (count["shared"], count["new"]) == (2.5, 0.5)
    known = summaries.properties_of_verdicts(rows).set_index("group")
    assert (known.loc["tag", "shared"], known.loc["tag", "new"]) == (1.0, 0.5)
