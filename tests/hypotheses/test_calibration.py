"""Worlds in which the answer is known: what is planted is there, the judge sees it, and a calibration goes on where it stopped."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mechocl.behaviour.internalization import by_subset, per_alias
from mechocl.errors import MechoclError
from mechocl.hypotheses import calibration, predictions
from mechocl.hypotheses.calibration import TASK, WORLDS, World, calibrate, confusion, make_model
from mechocl.hypotheses.verdict import judge_gathered
from toy_models import integer_set

NAMED = {world.name: world for world in WORLDS}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "TASK", replace(TASK, aliases=400))


def answered(world: World, *, trained: bool = True) -> pd.Series:
    task = integer_set.build(TASK, seed=3)
    table = by_subset(per_alias(make_model(world, task, seed=3, trained=trained), task))
    return table.set_index("subset")["auc"]


def test_what_is_planted_is_there() -> None:
    """No gap; a gap with d2 above chance; a gap with d2 below chance; and nothing known before stage 2."""
    nothing = answered(NAMED["nothing"])
    assert abs(nothing["d1_consistent"] - nothing["d2_consistent"]) < 0.06
    assert nothing["d1_consistent"] > 0.75
    for name in ("retrieval", "storage", "semantics"):
        auc = answered(NAMED[name])
        assert auc["d1_consistent"] - auc["d2_consistent"] > 0.08
        assert (auc["d2_consistent"] < 0.5) == (name == "semantics")
        assert abs(answered(NAMED[name], trained=False)["d1_consistent"] - 0.5) < 0.06


def cheap() -> predictions.Predictions:
    """The package's predictions that need no analysis but evaluate."""
    own = predictions.load()
    kept = tuple(one for one in own.predictions if one.analysis in ("evaluate", "controls"))
    return replace(own, predictions=kept)


def test_the_judge_sees_what_is_planted(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judge_gathered(calibration.gather_instance(NAMED["semantics"], 0, cheap()), cheap())
    right = next(one for one in found.findings if one.explanation.name == "tag_semantics")
    assert right.status == "met so far"
    assert "selective_retrieval" not in found.supported
    nothing = judge_gathered(calibration.gather_instance(NAMED["nothing"], 0, cheap()), cheap())
    assert nothing.refusal
    assert set(nothing.supported) <= {"nothing"}


def test_a_calibration_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = cheap()
    monkeypatch.setattr(calibration.data, "load", lambda path: few)
    judged: list[str] = []
    once = calibrate(tmp_path / "a.csv", instances=1, worlds=WORLDS[:1], say=judged.append)
    assert len(once) == len(judged) == 1
    twice = calibrate(
        tmp_path / "a.csv", instances=1, worlds=(WORLDS[0], NAMED["semantics"]), say=judged.append
    )
    assert list(twice["world"]) == ["nothing", "semantics"]
    assert len(judged) == 2
    assert pd.read_csv(tmp_path / "a.csv").equals(twice.astype(pd.read_csv(tmp_path / "a.csv").dtypes))
    shares = confusion(twice)
    assert shares.loc["semantics", "tag_semantics"] == 1.0
    assert shares.loc["semantics", "instances"] == 1


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("seed,value\n0,1\n")
    with pytest.raises(MechoclError, match="is no table of these explanations; choose another place"):
        calibrate(tmp_path / "a.csv", instances=1)
