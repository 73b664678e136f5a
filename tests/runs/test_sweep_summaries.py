"""The contrast over its controls in a sweep, worked by hand."""

import pandas as pd
import pytest

from mechocl.runs.sweep_summaries import over_controls


def table(gaps: dict[tuple[float, str], list[float]]) -> pd.DataFrame:
    """A sweep's table of two fields: (α, task.unreliable) → the gap of each seed."""
    rows = []
    for (reliability, unreliable), each in gaps.items():
        for seed, gap in enumerate(each):
            rows.append(
                {
                    "task.tag_reliability": reliability, "task.unreliable": unreliable, "seed": seed, "failed": "",
                    "stage2.auc.d1_consistent": 0.6 + gap, "stage2.auc.d2_consistent": 0.6,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_gaps_over_controls_are_paired_by_seed() -> None:
    frame = table(
        {
            (0.5, "inconsistent"): [0.01, 0.02, 0.03], (0.5, "noise"): [0.01, 0.02, 0.03],
            (1.0, "inconsistent"): [0.10, 0.20, 0.30], (1.0, "noise"): [0.05, 0.15, 0.25],
        }
    )  # fmt: skip
    found = over_controls(frame, "strong")
    assert list(found) == [(0.5,), (1.0,)]
    assert found[0.5,]["noise"].mean == pytest.approx(0)
    assert found[1.0,]["noise"].mean == pytest.approx(0.05)
    assert found[1.0,]["noise"].high - found[1.0,]["noise"].low < 1e-9


def test_failed_runs_have_no_partner() -> None:
    frame = table({(1.0, "inconsistent"): [0.1, 0.2, 0.3], (1.0, "unasked"): [0.0, 0.0, 0.0]})
    frame.loc[(frame["seed"] == 2) & (frame["task.unreliable"] == "unasked"), "failed"] = (
        "definition recall 0.5"
    )
    assert over_controls(frame, "strong")[1.0,]["unasked"].n == 2


def test_a_sweep_without_controls_has_none() -> None:
    frame = table({(0.5, "inconsistent"): [0.1], (1.0, "inconsistent"): [0.2]}).drop(
        columns="task.unreliable"
    )
    assert over_controls(frame, "strong") == {}
