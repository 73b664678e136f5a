"""Which seeds count, and what is said of those that do not."""

import pandas as pd
import pytest

from mechocl.behaviour import formats, over_seeds, sentences


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
    kept, failures = over_seeds.without_failed(rows({3: (1.0, 1.0), 5: (1.0, 0.5), 8: (0.95, 0.95)}))
    assert sorted(set(kept["seed"])) == [3, 8]
    assert failures == {5: "definition recall 0.750 of the new aliases, under 0.95"}
    (line,) = sentences.failures_in_words(failures, 3)
    assert line.startswith("seed 5 failed and is left out (1 of 3 failed): definition recall 0.750")


def test_where_every_seed_failed_all_are_shown_and_it_is_said() -> None:
    table = rows({0: (0.5, 0.5), 1: (0.0, 0.0)})
    kept, failures = over_seeds.without_failed(table)
    assert len(kept) == len(table)
    lines = sentences.failures_in_words(failures, 2)
    assert all("is shown all the same, as no seed is better (2 of 2 failed)" in line for line in lines)


@pytest.mark.parametrize("recall", [float("nan"), 1.0])
def test_orders_without_recall_are_not_judged_by_it(recall: float) -> None:
    assert over_seeds.without_failed(rows({0: (recall, recall)}))[1] == {}


def test_two_to_seven_seeds_conclude_nothing() -> None:
    for seeds, verdict in ((7, "cannot tell"), (8, "yes")):
        several = rows(dict.fromkeys(range(seeds), (1.0, 1.0)))
        up = several["auc"] + 0.1 * (several["subset"] == "d1_consistent") + 0.001 * several["seed"]
        strong = sentences.answers(several.assign(auc=up))[-1]
        assert strong.answer == verdict
        assert ("7 seeds are too few to conclude from" in strong.sentence) == (seeds == 7)


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
    assert list(table.columns) == ["site", "mean", "low", "high", "p", "seeds", "positive"]
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
    none = over_seeds.over_seeds(rows[rows["site"] == "v"], ["site"], "effect")
    assert len(none) == 0
    assert list(none.columns) == ["site", "mean", "low", "high", "p", "seeds", "positive"]


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
    columns = ["layer", "site", "index", "position", "effect"]
    rows = [
        (0, "resid_pre", -1, "alias", 1.0),
        (0, "resid_pre", -1, "=", 2.0),
        (0, "z", 1, "alias", 3.0),
        (0, "z", 1, "=", 4.0),
        (11, "mlp_post", 17, "alias", 5.0),
        (11, "mlp_post", 17, "=", 6.0),
    ]
    return pd.DataFrame(rows, columns=columns)


def test_names_of_sites() -> None:
    """Heads by H, neurons by N, what is whole without a number."""
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
