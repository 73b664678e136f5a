"""Which seeds count, and what is said of those that do not."""

import pandas as pd
import pytest

from mechocl import summaries


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
    kept, failures = summaries.trained(rows({3: (1.0, 1.0), 5: (1.0, 0.5), 8: (0.95, 0.95)}))
    assert sorted(set(kept["seed"])) == [3, 8]
    assert failures == {5: "definition recall 0.750 of the new aliases, under 0.95"}
    (line,) = summaries.described_failures(failures, 3)
    assert line.startswith("seed 5 failed and is left out (1 of 3 failed): definition recall 0.750")


def test_where_every_seed_failed_all_are_shown_and_it_is_said() -> None:
    table = rows({0: (0.5, 0.5), 1: (0.0, 0.0)})
    kept, failures = summaries.trained(table)
    assert len(kept) == len(table)
    lines = summaries.described_failures(failures, 2)
    assert all("is shown all the same, as no seed is better (2 of 2 failed)" in line for line in lines)


@pytest.mark.parametrize("recall", [float("nan"), 1.0])
def test_orders_without_recall_are_not_judged_by_it(recall: float) -> None:
    assert summaries.trained(rows({0: (recall, recall)}))[1] == {}
