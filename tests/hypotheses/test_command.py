"""`mechocl verdict` on runs: what it computes, prints and writes, and what it refuses in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from campaign.worlds import LEARNS

import mechocl
from mechocl.analyses import control_jobs, jobs
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.hypotheses import predictions, sources
from mechocl.runs.run import Run

CPU = ("--device", "cpu", "--jobs", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two seeds that learned their definitions, and its noise control."""
    folder = tmp_path_factory.mktemp("verdict")
    recipe = tiny.recipe(folder, *LEARNS)
    told = {"recipe_name": "tiny", "seeds": (0, 1), "device": "cpu", "jobs": 1}
    control_jobs.train_controls(folder / "run", recipe, ("noise",), **told)  # type: ignore[arg-type]
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_verdict_is_printed_and_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two seeds never decide: nothing is explained, no model is analysed, and the pages say the same as the terminal."""
    out = tmp_path / "verdict.json"
    assert cli.main(["verdict", str(run), "--plan", "--out", str(out), *CPU]) == 0
    said = capsys.readouterr().out
    assert "There is nothing to explain" in said
    assert "what a decision needs" in said
    assert said.splitlines()[-1] == f"verdict: {out}"
    values = json.loads(out.read_text())
    assert all(line in said for line in values["lines"])
    assert {path.name for path in (run / "results").iterdir()} == {"evaluate"}
    page = tmp_path / "verdict.md"
    assert cli.main(["verdict", str(run), "--out", str(page), *CPU]) == 0
    assert page.read_text().startswith("# Verdict")
    assert "What a decision needs" not in page.read_text()
    assert cli.main(["verdict", str(run), "--out", str(out), *CPU]) == 0  # an older verdict is written over
    assert json.loads(out.read_text()) == {k: v for k, v in values.items() if k != "plan"} | {
        "checksum": json.loads(out.read_text())["checksum"]
    }


def test_every_analysis_that_predictions_need_is_computed(run: Path) -> None:
    opened = Run.open(run)
    found = sources.gather_answers(opened, device="cpu", jobs=1)
    needed = [one for one in predictions.load().predictions if one.analysis in ("steering", "suppression")]
    whole = sources.gather_analyses(opened, found, needed, device="cpu", jobs=1)
    assert {sources.key(one) for one in needed} <= set(whole.tables)
    assert not whole.missing
    assert {path.name for path in (run / "results").iterdir()} == {"evaluate", "steering", "suppression"}


def test_from_python(run: Path) -> None:
    found = mechocl.verdict(mechocl.open_run(run), device="cpu", jobs=1)
    assert found.seeds == 2
    assert found.supported == ()
    assert "noise" in found.gathered.controls.rows


def test_what_is_refused(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    assert fails("verdict") == "give one or more RUN folders"
    assert "--calibrate judges worlds in which the answer is known" in fails(
        "verdict", run, "--calibrate", tmp_path / "new.csv"
    )
    assert "is not a calibration of mechocl" in fails("verdict", "--calibrate", run / "manifest.json")
    assert "does not exist" in fails("verdict", tmp_path / "nowhere")
    assert "is itself a control" in fails("verdict", run / "controls" / "noise", *CPU)
    shutil.copytree(run, tmp_path / "copy")
    assert "seed 0 is in two of the runs" in fails("verdict", run, tmp_path / "copy", *CPU)
    assert "give a file that ends in .json or .md" in fails(
        "verdict", run, "--out", tmp_path / "verdict.html", *CPU
    )
    assert "not a verdict of mechocl" in fails("verdict", run, "--out", run / "manifest.json", *CPU)
    wrong = tmp_path / "mine.toml"
    wrong.write_text(
        predictions.own_file().read_text().replace('analysis = "steering"', 'analysis = "stering"')
    )
    assert "there is no analysis 'stering'" in fails("verdict", run, "--predictions", wrong, *CPU)
    assert "nowhere.toml" in fails("verdict", run, "--predictions", tmp_path / "nowhere.toml", *CPU)


def test_runs_of_different_recipes_are_refused(run: Path, tmp_path: Path, fails: Callable[..., str]) -> None:
    recipe = tiny.recipe(tmp_path, *LEARNS, "task.aliases=130")
    jobs.train_run(tmp_path / "other", recipe, recipe_name="tiny", seeds=(5,), device="cpu", jobs=1)
    assert "are of different recipes" in fails("verdict", run, tmp_path / "other", *CPU)


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, *LEARNS)
    run = jobs.train_run(tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    with pytest.raises(
        MechoclError, match="of 1 seeds, 1 learned the definitions, and an interval needs two"
    ):
        mechocl.verdict(run, device="cpu", jobs=1)


def test_without_the_gap_s_aliases(tmp_path: Path) -> None:
    fractions = "{ qd1 = 0.4, qd2 = 0.4, d1 = 0.2, d2 = 0.0, d3 = 0.0 }"
    recipe = tiny.recipe(tmp_path, *LEARNS, f"task.fractions={fractions}")
    run = jobs.train_run(tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    with pytest.raises(MechoclError, match="has no aliases for the gap d1 − d2"):
        mechocl.verdict(run, device="cpu", jobs=1)


def test_a_lost_history_is_one_line(run: Path, fails: Callable[..., str]) -> None:
    assert (
        cli.main(["evaluate", str(run), *CPU]) == 0
    )  # the answers are there, and the history alone is missing
    (run / "seed-0" / "stage-2" / "history.parquet").unlink()
    assert "history.parquet" in fails("verdict", run, *CPU)


def test_embeddings_that_are_not_an_alias_s_own_are_not_measured(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, "task.tokens_per_alias=2")
    run = jobs.train_run(tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    for one in predictions.load().predictions:
        why = sources.why_not(run, one)
        assert ("several tokens" in why) == (one.analysis == "twin-exchange"), one.name
