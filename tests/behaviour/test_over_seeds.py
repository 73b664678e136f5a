"""Which seeds count, what is said of those that do not, and the answers that follow."""

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour import formats, over_seeds, sentences
from mechocl.behaviour.counted import count_seeds


def rows(recalls: dict[int, tuple[float, float]]) -> pd.DataFrame:
    """Two aliases of d1 and two of d2 for each seed, with the given recall of their definitions."""
    return pd.DataFrame(
        [
            {"seed": seed, "alias": 2 * k + i, "subset": subset, "auc": 0.7, "accuracy": 0.6}
            | {"logit_difference": 0.1, "recall": recall}
            for seed, pair in recalls.items()
            for k, (subset, recall) in enumerate(zip(("d1_consistent", "d2_consistent"), pair, strict=True))
            for i in range(2)
        ]
    )


def test_seeds_that_did_not_learn_their_definitions_are_left_out_and_named() -> None:
    table = rows({3: (1.0, 1.0), 5: (1.0, 0.5), 8: (0.95, 0.95)})
    kept, failures = over_seeds.without_failed(table)
    assert sorted(set(kept["seed"])) == [3, 8]
    assert failures == {5: "definition recall 0.750 of the new aliases, under 0.95"}
    counted = count_seeds(table, diverged={6: "the loss is nan"})
    assert (counted.learned, counted.shown, counted.total) == ((3, 8), (3, 8), 4)
    assert sentences.failures_in_words(counted) == [
        "seed 5 failed and is left out (2 of 4 failed): definition recall 0.750 of the new aliases, under 0.95",
        "seed 6 failed and is left out (2 of 4 failed): the loss is nan",
    ]
    assert sentences.caution(counted) == ""


def test_where_every_seed_failed_all_are_shown_and_it_is_said() -> None:
    table = rows({0: (0.5, 0.5), 1: (0.0, 0.0)})
    assert len(over_seeds.without_failed(table)[0]) == len(table)
    counted = count_seeds(table, diverged={2: "the loss is nan"})
    assert (counted.learned, counted.shown) == ((), (0, 1))
    first, second, third = sentences.failures_in_words(counted)
    assert all("is shown all the same, as no seed is better (3 of 3 failed)" in x for x in (first, second))
    assert third == "seed 2 failed and is left out (3 of 3 failed): the loss is nan"
    assert sentences.caution(counted).startswith(
        "No seed learned its definitions: shown are seeds that failed (0, 1)"
    )


@pytest.mark.parametrize("recall", [float("nan"), 1.0])
def test_orders_without_recall_are_not_judged_by_it(recall: float) -> None:
    assert over_seeds.without_failed(rows({0: (recall, recall)}))[1] == {}


# ------------------------------------------------------------------------------------------ answers


def learned_and_failed(learned: int, failed: int, *, failed_gap: float = 0.1) -> pd.DataFrame:
    """Seeds whose d1 is about .1 above d2, and after them seeds that failed, with their own difference."""
    recall = {seed: (1.0, 1.0) if seed < learned else (0.2, 0.2) for seed in range(learned + failed)}
    table = rows(recall)
    gap = np.where(table["seed"] < learned, 0.1, failed_gap) + 0.001 * table["seed"]
    return table.assign(auc=table["auc"] + gap * (table["subset"] == "d1_consistent"))


def strong(table: pd.DataFrame, *, diverged: int = 0) -> sentences.Answer:
    counted = count_seeds(table, diverged={100 + i: "nan" for i in range(diverged)})
    return sentences.answers(table, counted=counted)[-1]


@pytest.mark.parametrize(
    ("learned", "failed", "diverged", "answer", "why"),
    [
        (1, 0, 0, "cannot tell", "one seed says nothing about other seeds"),
        (
            5,
            0,
            0,
            "cannot tell",
            "5 seeds are too few: in 6 % of cases all have the same sign by chance; about 6",
        ),
        (6, 0, 0, "yes", "the 95 % interval lies above 0 (sign-flip test p = .031)"),
        (6, 2, 0, "yes", "whether or not the 2 failed seeds are counted"),
        (6, 0, 2, "yes", "the 95 % interval lies above 0"),
        (6, 6, 0, "cannot tell", "6 of 12 seeds failed, so the others are a selection"),
        (6, 3, 3, "cannot tell", "6 of 12 seeds failed or diverged, so the others are a selection"),
        (0, 8, 0, "cannot tell", "all 8 seeds failed"),
        (0, 1, 0, "cannot tell", "the only seed failed"),
    ],
)
def test_failed_seeds_are_part_of_the_answer(
    learned: int, failed: int, diverged: int, answer: str, why: str
) -> None:
    found = strong(learned_and_failed(learned, failed), diverged=diverged)
    assert found.answer == answer
    assert why in found.sentence
    assert found.in_words.startswith(f"Strong internalization (IML): {answer}. ")
    both = learned > 0 < failed
    assert (f"over all {learned + failed} seeds, those that failed included: " in found.sentence) == both
    assert "nan" not in found.in_words
    assert "inf" not in found.in_words


def test_failed_seeds_that_say_something_else_are_heard() -> None:
    found = strong(learned_and_failed(6, 2, failed_gap=-0.4))
    assert found.answer == "cannot tell"
    assert "the answer depends on whether the 2 failed seeds are counted" in found.sentence
    assert "difference +0.102 [" in found.sentence


def test_rows_say_themselves_which_seeds_failed() -> None:
    """So a caller that gives the rows alone does not conclude from seeds that failed."""
    assert sentences.answers(learned_and_failed(0, 8))[-1].answer == "cannot tell"
    kept, _ = over_seeds.without_failed(learned_and_failed(0, 8))
    assert sentences.answers(kept)[-1].answer == "cannot tell"


def test_every_contrast_has_a_verdict_by_its_measure() -> None:
    """The differences are about .015: above the margin of the AUC, .01, and below that of accuracy, .02."""
    table = learned_and_failed(8, 0)
    small = table["auc"].where(table["subset"] != "d1_consistent", 0.715 + 1e-4 * table["seed"])
    table = table.assign(auc=small, accuracy=small)
    (in_auc,), (in_accuracy,) = (
        [c.verdict for c in over_seeds.contrasts(table, metric) if c.name == "strong"]
        for metric in ("auc", "accuracy")
    )
    assert (in_auc.answer, in_accuracy.answer) == ("yes", "no")


def test_intervals_of_shares_stay_possible_and_those_of_differences_do_not() -> None:
    values = {0: 1.0, 1: 0.99, 2: 0.8, 3: 1.0}
    table = rows(dict.fromkeys(values, (1.0, 1.0)))
    table = table.assign(auc=table["seed"].map(values), logit_difference=table["seed"].map(values) * 100)
    found = {(e.subset, e.metric): e.estimate for e in over_seeds.subsets(table)}
    auc, nats = found["d1_consistent", "auc"], found["d1_consistent", "logit_difference"]
    assert auc.high == 1.0
    assert auc.low == pytest.approx(nats.low / 100)
    assert nats.high > 105  # which is no share
    context = over_seeds.over_seeds(table, ["subset"], "auc", bounds=(0.0, 1.0))
    assert context["high"].tolist() == [1.0, 1.0]


# ------------------------------------------------------------------------------------------ over seeds


def effects(values: dict[tuple[int, str], list[float]]) -> pd.DataFrame:
    """Rows of an analysis: the values of each seed at each site."""
    return pd.DataFrame(
        [
            {"seed": seed, "site": site, "effect": value}
            for (seed, site), found in values.items()
            for value in found
        ]
    )


def test_means_over_seeds() -> None:
    """Seeds 1, 2, 3 with means 1, 2, 3: mean 2, standard error 1/√3, t(.975; 2) = 4.3027, p of t = 3.4641."""
    table = over_seeds.over_seeds(
        effects({(1, "z"): [1.0], (2, "z"): [0.0, 4.0], (3, "z"): [3.0]}), ["site"], "effect"
    )
    assert list(table.columns) == ["site", "mean", "low", "high", "p", "seeds", "positive", "of"]
    (row,) = table.to_dict("records")
    assert row["mean"] == pytest.approx(2)
    assert row["low"] == pytest.approx(2 - 4.30265 / 3**0.5, abs=1e-4)
    assert row["high"] == pytest.approx(2 + 4.30265 / 3**0.5, abs=1e-4)
    assert row["p"] == pytest.approx(0.0742, abs=1e-4)
    assert (row["seeds"], row["positive"]) == (3, 3)


def test_keys_keep_the_order_of_the_rows() -> None:
    rows = effects({(1, "z"): [1.0], (1, "attn_out"): [-1.0], (2, "z"): [3.0], (2, "attn_out"): [2.0]})
    rows["position"] = "alias"
    table = over_seeds.over_seeds(rows, ["site", "position"], "effect")
    assert table[["site", "position"]].to_numpy().tolist() == [["z", "alias"], ["attn_out", "alias"]]
    assert table["mean"].tolist() == [2.0, 0.5]
    assert table["positive"].tolist() == [2, 1]


def test_seeds_without_a_value_are_left_out() -> None:
    """And with them a key that has none; an effect of 0 is not positive."""
    nan = float("nan")
    rows = effects({(1, "z"): [nan], (2, "z"): [nan, 0.0], (3, "z"): [2.0], (1, "v"): [nan], (2, "v"): [nan]})
    (row,) = over_seeds.over_seeds(rows, ["site"], "effect").to_dict("records")
    assert (row["site"], row["mean"], row["seeds"], row["positive"]) == ("z", 1.0, 2, 1)
    assert row["of"] == 3
    assert formats.mean_in_words(row).endswith("] (2 of 3 seeds)")
    assert formats.value_in_words(row | {"seeds": 1}) == "1.000 (1 of 3 seeds)"
    assert formats.mean_in_words(row | {"seeds": 3}).endswith("]")
    none = over_seeds.over_seeds(rows[rows["site"] == "v"], ["site"], "effect")
    assert len(none) == 0
    assert list(none.columns) == ["site", "mean", "low", "high", "p", "seeds", "positive", "of"]


def test_one_seed_has_no_interval() -> None:
    (row,) = over_seeds.over_seeds(effects({(4, "z"): [0.25]}), ["site"], "effect").to_dict("records")
    assert pd.isna([row["low"], row["high"], row["p"]]).all()
    assert formats.mean_in_words(row) == "+0.250"


def test_a_summary_holds_each_seeds_mean_and_the_estimates() -> None:
    """A seed without a value keeps its row, a key without any too; the estimates leave them out."""
    nan = float("nan")
    rows = effects({(1, "z"): [0.25, 0.75], (2, "z"): [nan, 1.5], (3, "z"): [nan], (1, "v"): [nan]})
    found = over_seeds.summarize_seeds(rows, ["site"], "effect")
    assert found.quantity == "effect"
    assert found.by_seed[["site", "seed"]].to_numpy().tolist() == [["z", 1], ["z", 2], ["z", 3], ["v", 1]]
    assert found.by_seed["value"].tolist()[:2] == [0.5, 1.5]
    assert found.by_seed["value"].isna().tolist() == [False, False, True, True]
    pd.testing.assert_frame_equal(found.estimates, over_seeds.over_seeds(rows, ["site"], "effect"))
    assert found.estimates["mean"].tolist() == [1.0]


def test_description() -> None:
    row = {"mean": -0.1, "low": -0.25, "high": 0.05, "seeds": 8}
    assert formats.mean_in_words(row) == "−0.100 [−0.250, +0.050]"
    assert formats.mean_in_words(row | {"seeds": 1}) == "−0.100"


# ------------------------------------------------------------------------------------------ sites


def patched() -> pd.DataFrame:
    columns = ["layer", "site", "part", "index", "position", "effect"]
    rows = [
        (0, "resid_pre", "whole", -1, "alias", 1.0),
        (0, "resid_pre", "whole", -1, "=", 2.0),
        (0, "z", "head", 1, "alias", 3.0),
        (0, "z", "head", 1, "=", 4.0),
        (11, "mlp_post", "neuron", 17, "alias", 5.0),
        (11, "mlp_post", "neuron", 17, "=", 6.0),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_names_of_sites() -> None:
    """Heads by H, key/value heads by KV, neurons by N, what is whole without a number."""
    shared = patched().iloc[2:3].assign(site="v", part="key/value head")
    assert over_seeds.site_names(shared).tolist() == ["L0KV1 v"]
    names = ["L0 resid_pre", "L0H1 z", "L11N17 mlp_post"]
    assert over_seeds.site_names(patched()).tolist() == [name for name in names for _ in range(2)]
    assert over_seeds.site_names(patched().iloc[::-1]).iloc[0] == "L11N17 mlp_post"


def test_sites_by_position() -> None:
    """Means over the rows, in their order: neither sites nor positions are sorted."""
    rows = patched().assign(site=over_seeds.site_names(patched()))
    both = pd.concat([rows, rows.assign(effect=rows["effect"] + 1)])
    cells = over_seeds.site_by_position(both, "effect")
    assert cells.index.tolist() == ["L0 resid_pre", "L0H1 z", "L11N17 mlp_post"]
    assert cells.columns.tolist() == ["alias", "="]
    assert cells.to_numpy().tolist() == [[1.5, 2.5], [3.5, 4.5], [5.5, 6.5]]


def test_a_place_without_a_row_is_empty() -> None:
    rows = patched().assign(site=over_seeds.site_names(patched())).iloc[:-1]
    cells = over_seeds.site_by_position(rows, "effect")
    assert cells.isna().sum().sum() == 1
    assert pd.isna(cells.loc["L11N17 mlp_post", "="])
