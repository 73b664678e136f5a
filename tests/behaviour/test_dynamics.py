"""When parts of the behaviour are learned: curves, crossings and orders worked out by hand."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mechocl.analyses import jobs
from mechocl.behaviour import dynamics
from mechocl.commands import cli
from mechocl.report import training_plots
from mechocl.runs.run import Run

SUBSETS = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent", "d3_consistent")


def history(seeds: dict[int, float]) -> pd.DataFrame:
    """Two stages; `seeds`: by how many epochs each seed learns its questions later than its definitions.

    Stage 1: recall of tag 1 rises from 0 to 1 over epochs 0 … 4, questions (AUC .5 to 1) the same, later.
    Stage 2: d1 rises to 1 and d2 to .75, over epochs 0 … 2.
    """
    rows = []
    for seed, delay in seeds.items():
        for epoch in np.arange(0.0, 9.0):
            rise = float(np.clip(epoch / 4, 0, 1))
            late = float(np.clip((epoch - delay) / 4, 0, 1))
            auc = {"qd1_consistent": 0.5 + late / 2, "qd2_inconsistent": 0.5 + late / 2, "d1_consistent": 0.5}
            recall = {"qd1_consistent": rise, "qd2_inconsistent": 0.0, "d1_consistent": 0.0}
            rows += rows_of(seed, 1, epoch, auc, recall)
        for epoch in np.arange(0.0, 3.0):
            rise = epoch / 2
            auc = {"d1_consistent": 0.5 + rise / 2, "d2_consistent": 0.5 + rise / 4, "qd1_consistent": 1.0}
            recall = {"d1_consistent": rise, "d2_consistent": rise, "d3_consistent": rise}
            rows += rows_of(seed, 2, epoch, auc, recall)
    return pd.DataFrame(rows)


def rows_of(
    seed: int, stage: int, epoch: float, auc: dict[str, float], recall: dict[str, float]
) -> list[dict[str, Any]]:
    where = {"seed": seed, "stage": stage, "step": int(10 * epoch), "epoch": epoch, "loss": 1.0}
    return [
        where | {"gradient_norm": 2.0, "subset": s, "auc": auc.get(s, 0.5), "recall": recall.get(s, np.nan)}
        for s in SUBSETS
    ]


def test_curves_are_the_differences_and_means_of_the_history() -> None:
    curves = dynamics.curves(history({0: 1.0}))
    assert list(curves.columns) == ["seed", "stage", "step", "epoch", *dynamics.CURVES]
    end = curves[(curves["stage"] == 2) & (curves["epoch"] == 2)].iloc[0]
    assert (end["d1"], end["d2"], end["d3"], end["strong"], end["recall_new"]) == (1.0, 0.75, 0.5, 0.25, 1.0)
    assert (end["loss"], end["gradient_norm"]) == (1.0, 2.0)
    middle = curves[(curves["stage"] == 1) & (curves["epoch"] == 3)].iloc[0]
    assert (middle["questions"], middle["weak"], middle["recall_tag_1"]) == (0.75, 0.0, 0.75)


def test_onsets_are_interpolated_halfway_crossings() -> None:
    table = dynamics.onsets(dynamics.curves(history({0: 1.0, 1: 2.5})), integers=5, new_in_stage=2)
    found = table.set_index(["seed", "event"])["epoch"]
    # recall from 1/5 to 1: the level is .6, reached at epoch 2.4 by a rise of 1/4 an epoch
    assert found[0, "recall, tag 1"] == pytest.approx(2.4)
    assert found[0, "question circuit"] == pytest.approx(3.0)
    assert found[1, "question circuit"] == pytest.approx(4.5)
    assert found[0, "recall, new aliases"] == pytest.approx(1.2)
    assert found[0, "new aliases answered"] == pytest.approx(1.0)
    assert found[0, "tag effect on new aliases"] == pytest.approx(1.0)  # half of its own end, .25
    assert math.isnan(found[0, "recall, tag 2"])  # never
    assert math.isnan(found[0, "right against wrong definition"])  # there is none
    assert set(table.loc[table["event"] == "new aliases answered", "stage"]) == {2}


def test_in_one_stage_new_aliases_count_in_the_first() -> None:
    one = history({0: 1.0}).query("stage == 1").assign(auc=lambda t: np.linspace(0.5, 1, len(t)))
    table = dynamics.onsets(dynamics.curves(one), integers=5, new_in_stage=1)
    assert set(table["stage"]) == {1}
    assert table.set_index("event")["epoch"].notna()["new aliases answered"]


@pytest.mark.parametrize(
    ("x", "y", "level", "expected"),
    [
        ([0, 1, 2], [0, 1, 0], 0.5, math.nan),  # it did not last
        ([0, 1, 2, 3], [1, 0, 0, 1], 0.5, 2.5),  # the last time counts
        ([0, 4], [0, 1], 0.25, 1.0),
        ([3, 4], [1, 1], 0.5, 3.0),  # there from the beginning
        ([0, 1], [0, 0.4], 0.5, math.nan),
    ],
)
def test_lasting_crossing(x: list[float], y: list[float], level: float, expected: float) -> None:
    found = dynamics.lasting_crossing(np.array(x, dtype=float), np.array(y, dtype=float), level)
    assert found == pytest.approx(expected, nan_ok=True)


def test_the_order_is_a_sign_test_over_seeds() -> None:
    seeds = dict(enumerate([1.0, 2.0, 1.5, 3.0, 2.5, 1.0]))
    table = dynamics.onsets(dynamics.curves(history(seeds)), integers=5, new_in_stage=2)
    pairs = {(o.first, o.second): o for o in dynamics.order(table)}
    found = pairs["recall, tag 1", "question circuit"]
    assert (found.seeds, found.before) == (6, 6)
    assert found.p == pytest.approx(2 * 0.5**6)
    assert found.lead.mean == pytest.approx(np.mean(list(seeds.values())) + 2 - 2.4)
    assert not any("recall, tag 2" in pair for pair in pairs)  # it never happened
    tie = pairs["new aliases answered", "tag effect on new aliases"]
    assert (tie.before, tie.p) == (0, 1.0)


def test_the_figure_holds_the_means() -> None:
    curves = dynamics.curves(history({0: 1.0, 1: 3.0}))
    figure = training_plots.dynamics(curves)
    bold = [t for t in figure.data if t.line.width == 2.5 and t.name == "known aliases (qd1)"]
    means = curves[curves["stage"] == 1].groupby("epoch")["questions"].mean()
    assert [list(t.y) for t in bold[:1]] == [list(means)]
    titles = {t.legendgrouptitle.text for t in figure.data if t.legendgrouptitle.text}
    assert len(titles) == 4


def test_the_command_prints_times_and_writes_figure_and_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    recipe = tiny.recipe(tmp_path)
    jobs.train_run(out, recipe, recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1)
    assert cli.main(["dynamics", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "question circuit" in printed
    assert printed.splitlines()[-1].startswith(f"curves: {out / 'dynamics.html'}")
    curves = pd.read_parquet(out / "results" / "dynamics" / "curves.parquet")
    history = Run.open(out).seed(1).history()
    last = history[(history["stage"] == 2) & (history["subset"] == "d1_consistent")].iloc[-1]
    ours = curves[(curves["seed"] == 1) & (curves["stage"] == 2)].iloc[-1]
    assert (ours["d1"], ours["loss"]) == (last["auc"], last["loss"])
    assert np.isfinite(curves.loc[curves["step"] > 0, "gradient_norm"]).all()
    assert cli.main(["dynamics", str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
