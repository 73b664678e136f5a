"""The share of a gap that a variant removes, on numbers worked out by hand."""

import pandas as pd
import pytest

from mechocl.learning.variant_gaps import compare_variant


def answers(gaps: list[float], recall: float = 1.0) -> pd.DataFrame:
    """Rows of evaluate: one alias of each subset, a seed for each gap."""
    found = []
    for seed, gap in enumerate(gaps):
        for subset, value in (("d1_consistent", 0.7 + gap), ("d2_consistent", 0.7), ("q_only", 0.9)):
            found.append({"seed": seed, "alias": 0, "subset": subset, "auc": value, "recall": recall})
    return pd.DataFrame(found)


def history(seeds: int, losses: list[float], d1: list[float], d2: list[float]) -> pd.DataFrame:
    """The same curve in every seed; both subsets have the same losses."""
    rows = [
        {
            "seed": seed,
            "step": step,
            "subset": f"{name}_consistent",
            "auc": values[step],
            "definition_loss": loss,
        }
        for seed in range(seeds)
        for name, values in (("d1", d1), ("d2", d2))
        for step, loss in enumerate(losses)
    ]
    return pd.DataFrame(rows)


CURVE = history(3, [4.0, 2.0, 0.0], [0.5, 0.7, 0.9], [0.5, 0.6, 0.7])


def test_shares_over_paired_seeds() -> None:
    """Half of each seed's gap is gone, which is sure; at loss 1 the run's gap is .15 and the variant's .1."""
    slower = history(3, [4.0, 3.0, 1.0], [0.5, 0.6, 0.7], [0.5, 0.55, 0.6])
    found = compare_variant(
        (answers([0.18, 0.2, 0.22]), CURVE), (answers([0.09, 0.1, 0.11], recall=0.8), slower), "auc"
    )
    assert (found.removed.mean, found.removed.low, found.removed.high) == pytest.approx(
        (0.5, 0.5, 0.5), abs=1e-6
    )
    assert found.gap.mean == pytest.approx(0.1)
    assert found.by_seed["run_gap"].tolist() == pytest.approx([0.18, 0.2, 0.22])
    assert found.mean("d1") == pytest.approx(0.8)
    assert found.mean("recall") == pytest.approx(0.8)
    assert found.mean("definition_loss") == pytest.approx(1.0)
    assert found.mean("run_definition_loss") == pytest.approx(0.0)
    assert found.by_seed["level"].tolist() == [1.0] * 3
    assert found.by_seed["run_gap_at_loss"].tolist() == pytest.approx([0.15] * 3)
    assert found.by_seed["gap_at_loss"].tolist() == pytest.approx([0.1] * 3)
    assert found.removed_at_loss is not None
    assert found.removed_at_loss.mean == pytest.approx(1 / 3)


def test_seeds_without_a_partner_are_left_out_and_curves_apart_have_no_level() -> None:
    apart = history(2, [0.0, 0.0, 0.0], [0.5, 0.6, 0.7], [0.5, 0.5, 0.5])
    above = history(3, [4.0, 3.0, 2.0], [0.5, 0.6, 0.7], [0.5, 0.5, 0.5])
    found = compare_variant((answers([0.1, 0.2, 0.3]), above), (answers([0.0, 0.0]), apart), "auc")
    assert found.by_seed["seed"].tolist() == [0, 1]
    assert found.removed.mean == 1.0
    assert found.removed_at_loss is None
    with pytest.raises(ValueError, match="no seed in common"):
        compare_variant((answers([0.1]), CURVE), (answers([0.1]).assign(seed=5), CURVE), "auc")


def test_definitions_that_name_nothing_to_recall_have_no_recall() -> None:
    """As in word order EVT, where the entity comes first."""
    run = (answers([0.2, 0.2, 0.2]), CURVE)
    found = compare_variant(run, (answers([0.1, 0.1, 0.1], recall=float("nan")), CURVE), "auc")
    assert found.by_seed["recall"].isna().all()
    assert found.gap.mean == pytest.approx(0.1)
