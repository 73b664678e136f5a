"""Quantities on rows whose values are worked out by hand, two seeds each."""

from typing import Any

import pandas as pd
import pytest

from mechocl.hypotheses import quantities
from mechocl.hypotheses.quantities import QUANTITIES, Data, NotMeasured
from toy_models.measures import RANKED, YES_OR_NO

ANSWERS = pd.DataFrame(
    [
        {"seed": seed, "alias": alias, "subset": subset, "auc": auc, "accuracy": auc, "logit_difference": 0.0, "recall": recall}
        for seed, shift in ((3, 0.0), (8, 0.25))
        for alias, (subset, auc, recall) in enumerate(
            [("d1_consistent", 0.75, 1.0), ("d1_consistent", 0.25 + shift, 1.0), ("d2_consistent", 0.25, 0.5), ("qd2_inconsistent", 0.5, 0.0)]
        )
    ]
)  # fmt: skip
"""Gaps d1 − d2: .25 and .375."""


def data(rows: pd.DataFrame, *, column: str = "auc", measures: Any = YES_OR_NO) -> Data:
    return Data(answers=ANSWERS, rows=rows, measures=measures, column=column)


def value(name: str, rows: pd.DataFrame, *, column: str = "auc", **arguments: Any) -> dict[int, float]:
    return QUANTITIES[name](data(rows, column=column), **arguments)


def test_answers() -> None:
    tags = {"better": "d1_consistent", "worse": "d2_consistent"}
    assert value("between_subsets", ANSWERS, **tags) == {3: 0.25, 8: 0.375}
    assert value("between_subsets", ANSWERS, column="recall", **tags) == {3: 0.5, 8: 0.5}
    assert value("over_chance", ANSWERS, subset="d2_consistent") == {3: -0.25, 8: -0.25}
    assert quantities.gaps(ANSWERS, YES_OR_NO) == {3: 0.25, 8: 0.375}
    with pytest.raises(NotMeasured, match="the run has no auc of no_data"):
        value("between_subsets", ANSWERS, better="d1_consistent", worse="no_data")
    with pytest.raises(NotMeasured, match="no value of chance"):
        QUANTITIES["over_chance"](data(ANSWERS, measures=RANKED), subset="d2_consistent")


def test_controls_are_paired_by_seed() -> None:
    noise = ANSWERS[ANSWERS["seed"] == 3].assign(control="noise")
    noise.loc[noise["subset"] == "d2_consistent", "auc"] = 0.375
    assert value("control_gap", noise, control="noise") == {3: 0.125}
    assert value("over_control", noise, control="noise") == {3: 0.125}
    assert value("over_control", noise, control="deciding") == {3: 0.125}  # tag 2 is not recalled
    with pytest.raises(NotMeasured, match="the control unasked was not trained"):
        value("control_gap", noise, control="unasked")
    with pytest.raises(NotMeasured, match="the control noise was not trained"):
        value("control_gap", pd.DataFrame({"control": []}), control="noise")


def curves() -> pd.DataFrame:
    """d1's loss falls 4, 2, 0 at epochs 1, 2, 3, and d2's 4, 3, 2, 1 at epochs 1 to 4. Their answers are told by hand.

    The lowest loss that both have is 1, at which d1's AUC is .7 (between .6 and .8) and d2's .6, so the gap there is .1 of
    .2 at the end. Half of the first loss, 2, comes at epoch 2 and at epoch 3, of 4.
    """
    told = {
        "d1_consistent": ((1, 4, 0.5), (2, 2, 0.6), (3, 0, 0.8), (4, 0, 0.8)),
        "d2_consistent": ((1, 4, 0.5), (2, 3, 0.5), (3, 2, 0.55), (4, 1, 0.6)),
    }
    return pd.DataFrame(
        [
            {"seed": 3, "stage": 2, "epoch": float(epoch), "subset": subset, "definition_loss": float(loss), "auc": auc}
            for subset, each in told.items()
            for epoch, loss, auc in each
        ]
        + [{"seed": 3, "stage": 1, "epoch": 9.0, "subset": "d1_consistent", "definition_loss": 9.0, "auc": 0.5}]
    )  # fmt: skip


def test_training() -> None:
    assert value("loss_between_tags", curves()) == {3: 1.0}
    assert value("gone_at_equal_loss", curves())[3] == pytest.approx(0.2 - 0.1)
    assert value("learned_later", curves()) == {3: (2 - 3) / 4}
    # an epoch after half of the loss: d1 at epoch 3 has .8, d2 at epoch 4 has .6
    assert value("gone_at_equal_age", curves())[3] == pytest.approx(0.2 - 0.2)


@pytest.mark.parametrize(
    "name", ["loss_between_tags", "gone_at_equal_loss", "learned_later", "gone_at_equal_age"]
)
def test_a_history_without_losses_is_not_measured(name: str) -> None:
    with pytest.raises(NotMeasured, match="holds no definition losses"):
        value(name, curves().drop(columns="definition_loss"))
    with pytest.raises(NotMeasured, match="holds no definition losses of d1 and d2"):
        value(name, curves()[lambda rows: rows["subset"] == "d1_consistent"])


def probed() -> pd.DataFrame:
    """Over all aliases the probe is best at `=` (.8), where d1 has .9 and d2 .7; elsewhere the difference is larger."""
    cells = [
        ("alias", "none", -1, "all", 0.6), ("alias", "none", -1, "d1_consistent", 0.9), ("alias", "none", -1, "d2_consistent", 0.1),
        ("=", "none", -1, "all", 0.8), ("=", "none", -1, "d1_consistent", 0.9), ("=", "none", -1, "d2_consistent", 0.7),
        ("alias", "shuffled", 0, "all", 0.5), ("=", "shuffled", 0, "all", 0.4),
        ("alias", "shuffled", 1, "all", 0.3), ("=", "shuffled", 1, "all", 0.6),
    ]  # fmt: skip
    rows = pd.DataFrame(cells, columns=["position", "control", "draw", "subset", "auc"])
    return rows.assign(seed=3, probe="p", chosen=True, site="resid_post", layer=0)


def test_probes() -> None:
    assert value("probe_between_tags", probed(), probe="p")[3] == pytest.approx(0.2)
    # the best of each shuffle, .5 and .6, not the best of all
    assert value("probe_over_shuffled", probed(), probe="p")[3] == pytest.approx(0.8 - 0.55)
    with pytest.raises(NotMeasured, match="no aliases for the probe q"):
        value("probe_between_tags", probed(), probe="q")
    without = probed()[lambda rows: rows["control"] == "none"]
    assert value("probe_over_shuffled", without, probe="p") == {}


def test_interventions() -> None:
    steered = pd.DataFrame(
        {
            "seed": 3, "subset": "d1_consistent", "metric": "auc",
            "group": ["steering vector", "random vector", "random vector"], "effect": [0.3, 0.1, 0.0],
        }
    )  # fmt: skip
    assert value("constant_vector", steered, column="effect", subset="d1_consistent")[3] == pytest.approx(
        0.25
    )
    with pytest.raises(NotMeasured, match="no steering vector was measured on d2"):
        value("constant_vector", steered, column="effect", subset="d2_consistent")
    cells = [
        ("alias", "whole site", "none", 0.2), ("alias", "difference of means", "none", 0.15), ("alias", "difference of means", "shuffled", 0.05),
        ("=", "whole site", "none", 0.1), ("=", "difference of means", "none", 0.9), ("=", "difference of means", "shuffled", 0.0),
    ]  # fmt: skip
    rows = pd.DataFrame(cells, columns=["position", "method", "control", "effect"])
    rows = rows.assign(seed=3, contrast="d1-to-d2", metric="within_alias_auc", site="resid_pre", layer=0)
    assert value("tag_direction", rows, column="effect", metric="within_alias_auc")[3] == pytest.approx(0.1)
    with pytest.raises(NotMeasured, match="no direction was exchanged in logit_difference"):
        value("tag_direction", rows, column="effect", metric="logit_difference")


def test_suppression_is_compared_with_the_search_of_the_other_tag() -> None:
    """A raises d2 by .3 and d1 by .1 on the judging half; B, the best of the other search, raises d1 by .05 alone."""
    effects = {
        ("A", "d2_consistent"): 0.3,
        ("A", "d1_consistent"): 0.1,
        ("B", "d2_consistent"): 0.0,
        ("B", "d1_consistent"): 0.05,
    }
    rows = pd.DataFrame(
        [
            {"seed": 3, "component": component, "subset": subset, "half": half}
            | {"effect": effect if half == "judging" else 2 * effect * (component == ("A" if "2" in subset else "B"))}
            for (component, subset), effect in effects.items()
            for half in ("choosing", "judging")
        ]
    )  # fmt: skip
    assert value("suppressed", rows, column="effect")[3] == pytest.approx((0.3 - 0.1) - (0.05 - 0.0))


def test_every_quantity_is_described() -> None:
    for name in QUANTITIES:
        assert quantities.describe(name)[0].isupper()
        assert "data" not in quantities.arguments_of(name)
