"""Quantities on rows whose values are worked out by hand, two seeds each."""

from typing import Any

import pandas as pd
import pytest

from mechocl.closed_book.questioning import MEASURES
from mechocl.hypotheses import model_quantities as model_quantities, quantities
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
    nothing_said = ANSWERS[ANSWERS["subset"] == "d2_consistent"].assign(subset="no_data", auc=0.125)
    ranked = data(pd.concat([ANSWERS, nothing_said]), measures=RANKED)
    assert QUANTITIES["over_chance"](ranked, subset="d2_consistent") == {3: 0.125, 8: 0.125}
    with pytest.raises(NotMeasured, match="the run has no no_data"):
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


def exchanged_tags() -> pd.DataFrame:
    """Seed 3 alone, its d1 and d2 in each other's places: the aliases 0 and 1, now of d2, have .25 less, and alias 2, now of d1, .5 more."""
    rows = ANSWERS[(ANSWERS["seed"] == 3) & (ANSWERS["alias"] < 3)].assign(variant="exchanged-tags")
    rows["auc"] += rows["subset"].map({"d1_consistent": -0.25, "d2_consistent": 0.5})
    rows["subset"] = rows["subset"].map({"d1_consistent": "d2_consistent", "d2_consistent": "d1_consistent"})
    return rows


def test_variants_are_paired_by_seed() -> None:
    rows = exchanged_tags()
    # in the run .5 − .25; in the variant d1 is alias 2 (.75) and d2 the aliases 0 and 1 (.5 and 0)
    assert value("removed", rows, variant="exchanged-tags") == {3: 0.25 - (0.75 - 0.25)}
    assert value("twin_gap", rows, variant="exchanged-tags") == {3: (0.25 + 0.25 + 0.5) / 3}
    with pytest.raises(NotMeasured, match="the variant frozen-tags was not trained; `mechocl variants`"):
        value("removed", rows, variant="frozen-tags")


def gradients() -> pd.DataFrame:
    """Before stage 2, d1 and d2 together have .3 with tag 1 and .1 with tag 2; at two steps of it .2 and .4, then .3 and .2."""
    told = {(1, 90): (0.3, 0.1), (2, 10): (0.2, 0.4), (2, 20): (0.3, 0.2)}
    return pd.DataFrame(
        [
            {"seed": 3, "stage": stage, "step": step, "subset": subset, "tag": tag, "group": "all", "correction": "raw", "cosine_effect": mean + apart}
            for (stage, step), each in told.items()
            for tag, mean in zip((1, 2), each, strict=True)
            for subset, apart in (("d1_consistent", 0.05), ("d2_consistent", -0.05), ("d3_consistent", 9.0))
        ]
        + [{"seed": 3, "stage": 1, "step": 90, "subset": "qd1_consistent", "tag": 1, "group": "all", "correction": "raw", "cosine_effect": 9.0}]
    )  # fmt: skip


def test_gradients() -> None:
    of: dict[str, Any] = {"column": "cosine_effect", "group": "all", "correction": "raw"}
    assert value("aligned_before", gradients(), **of)[3] == pytest.approx(0.3 - 0.1)
    assert value("aligned_along", gradients(), **of)[3] == pytest.approx((-0.2 + 0.1) / 2)
    with pytest.raises(NotMeasured, match="no gradients of all, centred; it has those of all"):
        value("aligned_before", gradients(), **(of | {"correction": "centred"}))
    before = gradients().query("stage == 1")
    with pytest.raises(NotMeasured, match="keeps no checkpoint along its last stage"):
        value("aligned_along", before, **of)


def test_twins_and_grafts() -> None:
    rows = pd.DataFrame(
        [
            {"seed": 3, "exchange": exchange, "subset": subset, "metric": metric, "tag_1_effect": effect}
            for exchange, each in (("twin embedding", (0.3, 0.1)), ("mean direction", (0.1, 0.2)))
            for subset, effect in zip(("d1_consistent", "d2_consistent"), each, strict=True)
            for metric in ("auc", "accuracy")
        ]
    )
    of: dict[str, Any] = {"column": "tag_1_effect", "variant": "exchanged-tags"}
    found = value("twin_exchange", rows, exchange="twin embedding", over="mean direction", **of)
    assert found[3] == pytest.approx(0.2 - 0.15)
    with pytest.raises(NotMeasured, match="everything was not exchanged"):
        value("twin_exchange", rows, exchange="everything", over="mean direction", **of)
    grafts = pd.DataFrame(
        [
            {
                "seed": 3,
                "group": "alias embeddings",
                "kind": kind,
                "subset": subset,
                "metric": "auc",
                "value": auc,
            }
            for kind, each in (("alone", (0.8, 0.7)), ("all but", (0.6, 0.55)))
            for subset, auc in zip(("d1_consistent", "d2_consistent"), each, strict=True)
        ]
    )
    of = {"column": "value", "group": "alias embeddings"}
    assert value("graft_gap", grafts, kind="alone", **of)[3] == pytest.approx(0.1)
    with pytest.raises(NotMeasured, match="no graft of alias embeddings"):
        value("graft_gap", grafts, kind="neither", **of)


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
    with pytest.raises(NotMeasured, match="the run's answers have no AUC"):
        QUANTITIES["suppressed"](data(rows, column="effect", measures=MEASURES))


def test_every_quantity_is_described() -> None:
    for name in QUANTITIES:
        assert quantities.describe(name)[0].isupper()
        assert "data" not in quantities.arguments_of(name)
