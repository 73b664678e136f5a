"""Sweeps: each run is trained exactly once, whatever happens, and the table says what came out."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mechocl import files
from mechocl.behaviour import formats, internalization
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.report import plots, training_plots
from mechocl.runs import processes, recipes, sweep_folder, sweep_settings, sweep_summaries, sweeps
from mechocl.runs.progress import Progress
from mechocl.runs.sweep_folder import SweepRun
from toy_models import worlds

QUICK = ("training.stages.0.epochs=1", "training.stages.1.epochs=1", "task.aliases=40")
"""Trains in a tenth of a second, and learns nothing."""

RATES = "training.stages.0.learning_rate=1e-3,1e-2"


class Killed(BaseException):
    """Stands for a `kill -9`: nothing catches it."""


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker processes, whatever the machine has."""
    monkeypatch.setattr(processes, "cores", lambda: 1)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    return str(tiny.recipe_file(tmp_path))


Sweep = Callable[..., pd.DataFrame]


@pytest.fixture
def sweep(tmp_path: Path, recipe: str) -> Sweep:
    """Runs `sweeps.run_sweep` in one folder."""

    def run(*over: str, seeds: tuple[int, ...] = (0, 1), changes: tuple[str, ...] = QUICK) -> pd.DataFrame:
        return sweeps.run_sweep(
            tmp_path / "sweep",
            recipe_name=recipe,
            changes=changes,
            over=over,
            seeds=seeds,
            device="cpu",
            executor=processes.Processes(),
        )

    return run


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, int]]:
    """The setting and seed of every run that is really trained, in order; training itself is replaced."""
    found: list[tuple[Any, int]] = []

    def train(wanted: Sequence[SweepRun], *, device: str, progress: Progress) -> list[dict[str, Any]]:
        found.extend((tuple(run.setting.values()), run.seed) for run in wanted)
        return [{"failed": "", "seconds": 1.0, "stage1.auc.q_only": 0.5} for _ in wanted]

    monkeypatch.setattr(sweeps, "train_together", train)
    return found


def run_of(recipe: str, *changes: str, seed: int = 0, **setting: Any) -> SweepRun:
    return SweepRun(setting, recipes.load_recipe(recipe, (*QUICK, *changes)), seed)


def outcomes(runs: Sequence[SweepRun]) -> list[dict[str, Any]]:
    return sweeps.train_together(runs, device="cpu", progress=lambda text, share: None)


def numbers(outcome: dict[str, Any]) -> dict[str, float]:
    return {k: v for k, v in outcome.items() if k not in ("failed", "seconds")}


# axes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task.aliases=500,1000", ("task.aliases", ("500", "1000"))),
        ("task.aliases=500", ("task.aliases", ("500",))),
        ("training.stages.0.data=[1, 2], [1]", ("training.stages.0.data", ("[1, 2]", "[1]"))),
        (
            "task.fractions={qd1 = 0.5, d1 = 0.5},{qd1 = 1.0}",
            ("task.fractions", ("{qd1 = 0.5, d1 = 0.5}", "{qd1 = 1.0}")),
        ),
    ],
)
def test_an_axis(text: str, expected: tuple[str, tuple[str, ...]]) -> None:
    assert sweep_settings.axis(text) == expected


@pytest.mark.parametrize("text", ["task.aliases", "=1,2", "task.aliases=", "task.aliases=1,,2", "a=1,"])
def test_a_mistake_in_an_axis(text: str) -> None:
    with pytest.raises(MechoclError, match="write key=value,value, for example task"):
        sweep_settings.axis(text)


def test_settings_are_the_product_of_the_axes(recipe: str) -> None:
    over = ["task.word_order=TVE,VTE", "task.aliases=40,80"]
    allowed, refused = sweep_settings.settings(recipe, QUICK, over)
    assert not refused
    assert [tuple(setting.values()) for setting, _ in allowed] == [
        ("TVE", 40),
        ("TVE", 80),
        ("VTE", 40),
        ("VTE", 80),
    ]
    for setting, found in allowed:
        assert (found.task.word_order, found.task.aliases) == tuple(setting.values())
        assert found.training == recipes.load_recipe(recipe, QUICK).training
    assert len(sweep_settings.settings(recipe, QUICK, [])[0]) == 1


@pytest.mark.parametrize(
    ("over", "message"),
    [
        (["task.aliasse=40,80"], "unknown key 'task.aliasse'; did you mean 'task.aliases'?"),
        (["task.list_length=10,20"], "list_length 10 needs more than 10 integers"),
        (["task.aliases=40,80,40"], "names a value twice"),
        (["task.aliases=40", "task.aliases=80"], "names task.aliases twice; give all its values at once"),
    ],
)
def test_a_mistake_in_all_settings(recipe: str, over: list[str], message: str) -> None:
    with pytest.raises(MechoclError) as caught:
        sweep_settings.settings(recipe, QUICK, over)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_that_differ_in_learning_rates_alone_share_a_stack(recipe: str) -> None:
    rate = "training.stages.1.learning_rate=0.2"
    runs = [run_of(recipe, *c, seed=s) for c in ((), (rate,), ("task.aliases=80",)) for s in (0, 1, 2)]
    sizes = [[(r.recipe.task.aliases, r.seed) for r in stack] for stack in sweeps.stacks(runs, together=4)]
    assert sizes == [
        [(40, 0), (40, 1), (40, 2)],
        [(40, 0), (40, 1), (40, 2)],
        [(80, 0), (80, 1), (80, 2)],
    ]
    assert [len(stack) for stack in sweeps.stacks(runs, together=100)] == [6, 3]
    assert [len(stack) for stack in sweeps.stacks(runs, together=1)] == [1] * 9


def test_progress_names_the_settings(recipe: str) -> None:
    over = ["task.word_order=TVE,VTE", "training.stages.1.learning_rate=0.1,0.2"]
    wanted = sweeps.wanted_runs(recipe, (), over, (0, 1))
    work = [sweeps.Job("sweep", stack, "cpu") for stack in sweeps.stacks(wanted, together=2)]
    names = [job.name for job in work]
    assert names[0] == "word_order=TVE learning_rate=0.1, seeds 0–1"
    assert len(set(names)) == len(work) == 4
    (together,) = sweeps.stacks(wanted[:4], together=4)
    both = sweeps.Job("sweep", together, "cpu").name
    assert both == "word_order=TVE learning_rate=0.1, word_order=TVE learning_rate=0.2, seeds 0–1"


# training ------------------------------------------------------------------------------------------


def test_runs_that_differ_in_learning_rate_become_what_each_becomes_alone(recipe: str) -> None:
    """Rates 100 000 apart, in either order: the step of one must not drown in the rounding of another."""
    rates = ("1e-2", "1e-7", "1e-3")
    runs = [run_of(recipe, f"training.stages.0.learning_rate={r}") for r in rates]
    alone = [outcomes([run])[0] for run in runs]
    for order in ((0, 1, 2), (1, 2, 0)):
        together = outcomes([runs[i] for i in order])
        for i, found in zip(order, together, strict=True):
            assert numbers(found) == pytest.approx(numbers(alone[i]), rel=1e-4, nan_ok=True)
    assert alone[0]["stage1.loss"] != pytest.approx(alone[1]["stage1.loss"], rel=1e-4)


def test_a_run_that_diverges_fails_alone(recipe: str) -> None:
    good = run_of(recipe)
    bad = run_of(recipe, "training.stages.0.learning_rate=1e30", seed=1)
    found = outcomes([good, bad])
    assert found[1]["failed"].startswith("stage 1: ")
    assert "not finite" in found[1]["failed"] or "nan" in found[1]["failed"]
    assert found[0]["failed"] == outcomes([good])[0]["failed"]
    assert numbers(found[0]) == pytest.approx(numbers(outcomes([good])[0]), rel=1e-4, nan_ok=True)


def test_a_run_that_recalls_too_little_fails_with_its_numbers(recipe: str) -> None:
    found = outcomes([run_of(recipe)])[0]
    assert found["failed"].startswith("definition recall 0.")
    assert found["failed"].endswith(" of the new aliases, under 0.95")
    assert 0 <= found["stage2.auc.d1_consistent"] <= 1


def test_recall_is_that_of_the_new_aliases_weighted_by_their_number() -> None:
    """(0.9 · 3 + 1 · 1) / 4 = 0.925 < 0.95; with 1 alias and 3 it is 0.975."""
    table = pd.DataFrame(
        {"subset": ["qd1_consistent", "d1_consistent", "d2_consistent"], "recall": [0.0, 0.9, 1.0]}
    )
    assert internalization.failure(table.assign(aliases=[5, 3, 1])).startswith("definition recall 0.925 ")
    assert internalization.failure(table.assign(aliases=[5, 1, 3])) == ""
    assert internalization.failure(table.assign(aliases=1, recall=np.nan)) == ""


def test_a_task_that_cannot_be_drawn_fails_its_run_alone(
    recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds.WORLDS[worlds.DEFAULT]

    def unlucky(config: Any, *, seed: int) -> Any:
        if seed == 1:
            raise ValueError("no lists were found in 100 tries")
        return world.build(config, seed=seed)

    monkeypatch.setitem(worlds.WORLDS, worlds.DEFAULT, replace(world, build=unlucky))
    found = outcomes([run_of(recipe, seed=seed) for seed in (0, 1, 2)])
    assert found[1].keys() == {"failed", "seconds"}
    assert found[1]["failed"] == "the recipe's task cannot be drawn: no lists were found in 100 tries"
    assert all("stage2.loss" in found[i] for i in (0, 2))
    assert [o.keys() for o in outcomes([run_of(recipe, seed=1)])] == [{"failed", "seconds"}]


# a directory ---------------------------------------------------------------------------------------


def test_a_row_for_each_run_that_says_what_came_out(sweep: Sweep, tmp_path: Path, recipe: str) -> None:
    frame = sweep(RATES)
    key = RATES.split("=")[0]
    assert frame[[key, "seed"]].to_numpy().tolist() == [[1e-3, 0], [1e-3, 1], [1e-2, 0], [1e-2, 1]]
    assert len(list((tmp_path / "sweep" / "rows").glob("*.json"))) == 4
    alone = outcomes([run_of(recipe, f"{key}=1e-2", seed=1)])[0]
    row = frame.iloc[3].to_dict()
    for name, value in numbers(alone).items():
        assert row[name] == pytest.approx(value, rel=1e-4, nan_ok=True), name
    assert (frame["recipe"] == recipe).all()
    saved = sweep_folder.read_sweep(tmp_path / "sweep" / "table.parquet")
    pd.testing.assert_frame_equal(saved, frame)
    pd.testing.assert_frame_equal(sweep_folder.read_sweep(tmp_path / "sweep"), frame)


def test_settings_that_are_refused_are_failed_rows(sweep: Sweep, trained: list[Any]) -> None:
    frame = sweep("task.list_length=3,12", "task.integers=10,30", seeds=(0,))
    assert [setting for setting, _ in trained] == [(3, 10), (3, 30), (12, 30)]
    failed = frame.set_index(["task.list_length", "task.integers"])["failed"]
    assert failed[3, 10] == ""
    assert "list_length 12 needs more than 10 integers" in failed[12, 10]
    again = sweep("task.list_length=3,4", "task.label_flip=0.0,0.5", seeds=(0,))
    assert len(again) == 4 + 3  # the earlier rows have the recipe's label_flip, 0: none is there twice


def test_a_sweep_that_is_killed_continues_with_what_is_missing(
    sweep: Sweep, trained: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    over = "task.word_order=TVE,VTE,ETV"
    counting = sweeps.train_together
    calls = 0

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Killed
        return counting(*arguments, **keywords)

    monkeypatch.setattr(sweeps, "train_together", deadly)
    with pytest.raises(Killed):
        sweep(over)
    assert trained == [(("TVE",), 0), (("TVE",), 1)]
    rows = {p: p.stat().st_mtime_ns for p in (tmp_path / "sweep" / "rows").iterdir()}
    assert len(rows) == 2
    assert len(sweep_folder.read_sweep(tmp_path / "sweep" / "table.parquet")) == 2
    frame = sweep(over)
    assert trained[2:] == [((order,), seed) for order in ("VTE", "ETV") for seed in (0, 1)]
    assert {p: p.stat().st_mtime_ns for p in rows} == rows
    assert len(frame) == 6
    sweep(over)
    assert len(trained) == 6


def test_more_seeds_and_another_axis_train_only_what_is_new(sweep: Sweep, trained: list[Any]) -> None:
    sweep("task.word_order=TVE,VTE", seeds=(0,))
    sweep("task.word_order=TVE,VTE", seeds=(0, 1))
    assert trained == [(("TVE",), 0), (("VTE",), 0), (("TVE",), 1), (("VTE",), 1)]
    frame = sweep(
        "task.word_order=TVE",
        "task.test_questions=4,6",  # 4 is the recipe's own
        "training.stages.0.data=[1],[1, 2]",
        seeds=(0,),
    )
    assert trained[4:] == [(("TVE", 4, [1, 2]), 0), (("TVE", 6, [1]), 0), (("TVE", 6, [1, 2]), 0)]
    assert len(frame) == 7
    earlier = frame[(frame["task.test_questions"] == 4) & (frame["training.stages.0.data"] == "[1]")]
    assert len(earlier) == 4
    assert frame["task.test_questions"].dtype == int
    assert [one.runs for one in sweep_summaries.summaries(frame)] == [1, 2, 1, 1, 2]


def test_runs_of_another_process_are_left_to_it(
    sweep: Sweep, trained: list[Any], recipe: str, tmp_path: Path
) -> None:
    order = "task.word_order"
    theirs = SweepRun({order: "VTE"}, recipes.load_recipe(recipe, (*QUICK, f"{order}=VTE")), 1)
    with files.locked(tmp_path / "sweep" / "locks" / theirs.name, patience=0.0):
        assert len(sweep(f"{order}=TVE,VTE")) == 3
    assert (("VTE",), 1) not in trained
    assert len(sweep(f"{order}=TVE,VTE")) == 4
    assert sorted(trained) == [((o,), s) for o in ("TVE", "VTE") for s in (0, 1)]


def test_runs_of_a_process_that_is_lost_are_trained_here(
    sweep: Sweep, trained: list[Any], recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds a run while this sweep comes to it, and is gone when this sweep has trained the others."""
    order = "task.word_order"
    theirs = SweepRun({order: "VTE"}, recipes.load_recipe(recipe, (*QUICK, f"{order}=VTE")), 1)
    held = contextlib.ExitStack()
    held.enter_context(files.locked(tmp_path / "sweep" / "locks" / theirs.name, patience=0.0))
    awaited = sweeps.await_rows

    def lost(path: Path, names: Sequence[str]) -> None:
        awaited(path, names)
        held.close()

    monkeypatch.setattr(sweeps, "await_rows", lost)
    assert len(sweep(f"{order}=TVE,VTE")) == 4
    assert trained[-1] == (("VTE",), 1)
    assert len(trained) == 4


def test_missing_runs_are_counted(
    recipe: str, trained: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = "task.word_order"
    theirs = SweepRun({order: "VTE"}, recipes.load_recipe(recipe, (*QUICK, f"{order}=VTE")), 1)
    out = tmp_path / "sweep"
    command = [
        "sweep",
        recipe,
        "--set",
        *QUICK,
        "--over",
        f"{order}=TVE,VTE",
        "--out",
        str(out),
        "--seeds",
        "2",
    ]
    with files.locked(out / "locks" / theirs.name, patience=0.0):
        assert cli.main([*command, "--jobs", "1", "--device", "cpu"]) == 0
    said = capsys.readouterr()
    assert "1 of 4 runs are missing: another process trains them" in said.out
    assert "75 %" in said.err
    assert "100 %" not in said.err
    assert cli.main([*command, "--jobs", "1", "--device", "cpu"]) == 0
    assert "runs are missing" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "over",
    [
        ["task.label_flip=0,0.0"],
        ["task.label_flip=0.5,5e-1"],
        ["task.word_order=TVE,'TVE'"],
        ["task.aliases=120,1_20", "task.word_order=TVE,VTE"],
        ["training.stages.0.data=[1],[ 1 ]"],
    ],
)
def test_a_setting_that_is_written_in_two_ways_is_refused(over: list[str], recipe: str) -> None:
    with pytest.raises(MechoclError, match="are the same setting; name it once"):
        sweep_settings.settings(recipe, QUICK, over)


def test_values_are_those_of_the_recipe(recipe: str) -> None:
    """So the row of a sweep over 1 is the row of a sweep over 1.0."""
    (one,), (other,) = (
        sweep_settings.settings(recipe, QUICK, [f"task.label_flip={text}"])[0] for text in ("0", "0.0")
    )
    assert repr(one[0]) == repr(other[0]) == "{'task.label_flip': 0.0}"


def test_a_damaged_row_is_named(sweep: Sweep, trained: list[Any], tmp_path: Path) -> None:
    sweep("task.word_order=TVE", seeds=(0,))
    (row,) = (tmp_path / "sweep" / "rows").iterdir()
    for content in (row.read_text()[:-5], "[]", "{}", ""):
        row.write_text(content)
        with pytest.raises(MechoclError, match=f"{row.name} is damaged"):
            sweep_folder.read_sweep(tmp_path / "sweep")
    row.unlink()
    assert len(sweep("task.word_order=TVE", seeds=(0,))) == 1


def test_a_sweep_that_others_began_says_so_when_it_trains(
    sweep: Sweep, trained: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sweep" / "manifest.json"
    sweep("task.word_order=TVE", seeds=(0,))
    files.write_json(path, files.read_json(path) | {"torch": "1.0", "git": {"commit": "abc", "dirty": ""}})
    said = f"{path.parent} was begun with torch 1.0, commit abc; what is missing is trained here and now"
    for seeds, times in (((0,), 0), ((0, 1), 1)):
        capsys.readouterr()
        sweep("task.word_order=TVE", seeds=seeds)
        assert capsys.readouterr().err.count(said) == times


def test_a_row_that_belongs_elsewhere_is_named(sweep: Sweep, trained: list[Any], tmp_path: Path) -> None:
    """Whole rows of another sweep, and rows that have changed places."""
    sweep("task.word_order=TVE,VTE", seeds=(0,))
    rows = sorted((tmp_path / "sweep" / "rows").iterdir())
    contents = [row.read_bytes() for row in rows]
    for row, content in zip(rows, reversed(contents), strict=True):
        row.write_bytes(content)
    with pytest.raises(
        MechoclError, match=f"{rows[0].name} is the row of another run, or of another sweep; delete it"
    ):
        sweep_folder.read_sweep(tmp_path / "sweep")
    for row, content in zip(rows, contents, strict=True):
        row.write_bytes(content)
    manifest = files.read_json(tmp_path / "sweep" / "manifest.json")
    manifest["recipe"]["task"]["test_questions"] += 1
    files.write_json(tmp_path / "sweep" / "manifest.json", manifest)
    with pytest.raises(MechoclError, match="of another sweep; delete it"):
        sweep_folder.read_sweep(tmp_path / "sweep")


def test_what_was_trained_counts_where_another_machine_refused_it(
    sweep: Sweep, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = "task.word_order=TVE,VTE,ETV,EVT"
    before = sweep(over, seeds=(0, 1))

    def too_small(recipe: Any, **_: Any) -> None:
        if recipe.task.word_order != "TVE":
            raise MechoclError("no memory")

    monkeypatch.setattr(sweep_settings, "require_recipe_memory", too_small)
    assert (before["failed"] == "").all()
    pd.testing.assert_frame_equal(sweep(over, seeds=(0, 1)), before)


def test_another_recipe_or_device_is_refused(
    sweep: Sweep, trained: list[Any], tmp_path: Path, recipe: str
) -> None:
    sweep()
    with pytest.raises(MechoclError, match="holds a sweep of another recipe; choose another --out"):
        sweep(changes=(*QUICK, "task.label_flip=0.5"))
    with pytest.raises(MechoclError, match="was started on cpu, not cuda; continue it there"):
        sweep_folder.start_sweep(
            tmp_path / "sweep", recipes.load_recipe(recipe, QUICK), recipe_name=recipe, device="cuda"
        )
    manifest = tmp_path / "sweep" / "manifest.json"
    saved = files.read_json(manifest)
    for changes, message in (
        ({"schema": 2}, "newer version"),
        ({"schema": None}, r"manifest\.json is damaged"),
    ):
        files.write_json(manifest, saved | changes)
        with pytest.raises(MechoclError, match=message):
            sweep_folder.read_sweep(tmp_path / "sweep")


def test_a_sweep_never_moves_in_with_other_files(tmp_path: Path, recipe: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "run").mkdir()
    files.write_json(tmp_path / "run" / "manifest.json", {"schema": 2})
    for name in ("full", "run"):
        before = list((tmp_path / name).iterdir())
        with pytest.raises(MechoclError, match="is not a sweep"):
            sweep_folder.start_sweep(tmp_path / name, tiny.recipe(tmp_path), recipe_name=recipe, device="cpu")
        assert list((tmp_path / name).iterdir()) == before


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()


def test_two_processes_share_a_sweep(
    tmp_path: Path, recipe: str, started: list[subprocess.Popen[bytes]]
) -> None:
    """Both come to the manifest's lock, which is held until both are there; a log counts the trainings."""
    out, log, came = tmp_path / "sweep", tmp_path / "log", tmp_path / "came"
    came.mkdir()
    program = f"""
import os, sys, mechocl.commands.cli, mechocl.runs.sweeps as s
from mechocl import files
from mechocl.runs import sweep_folder
train, locked = s.train_together, files.locked
def logged(wanted, **options):
    with open({str(log)!r}, "a") as file:
        file.write("".join(run.name + "\\n" for run in wanted))
    return train(wanted, **options)
def noticed(path, **options):
    open(os.path.join({str(came)!r}, str(os.getpid())), "w").close()
    return locked(path, **options)
s.train_together, files.locked = logged, noticed
sweep_folder._LOCK_PATIENCE_S = 900.0
sys.exit(mechocl.commands.cli.main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program, "sweep", recipe, "--out", str(out), "--seeds", "2"]
    command += ["--jobs", "1", "--device", "cpu", "--set", *QUICK, "--over", "task.word_order=TVE,VTE,ETV"]
    gate = out / "locks" / "manifest"

    with (tmp_path / "stderr").open("wb") as file, files.locked(gate, patience=0.0):
        for _ in range(2):
            started.append(subprocess.Popen(command, stdout=file, stderr=file))
        latest = time.monotonic() + 900
        while not all((came / str(process.pid)).exists() for process in started):
            assert time.monotonic() < latest
            assert all(process.poll() is None for process in started), (tmp_path / "stderr").read_text()
            time.sleep(0.05)
    for process in started:
        assert process.wait(timeout=900) == 0, (tmp_path / "stderr").read_text()
    names = log.read_text().split()
    assert len(names) == len(set(names)) == 6
    frame = sweep_folder.read_sweep(out / "table.parquet")
    pd.testing.assert_frame_equal(frame, sweep_folder.read_sweep(out))
    assert len(frame) == 6
    assert frame["stage2.auc.d1_consistent"].notna().all()


# summaries and figures -----------------------------------------------------------------------------


def frame_of(rows: Sequence[tuple[dict[str, Any], str, float, float]]) -> pd.DataFrame:
    """Rows of (setting, failed, AUC of d1_consistent, AUC of d2_consistent); qd1 and qd2 are 0.9 and 0.4."""
    subsets = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent")
    found = []
    for seed, (setting, failed, d1, d2) in enumerate(rows):
        values = dict(zip(subsets, (0.9, 0.4, d1, d2), strict=True))
        row = setting | {"seed": seed, "failed": failed, "seconds": 2.0 + seed}
        for metric, factor in (("auc", 1.0), ("accuracy", 0.5)):
            row |= {f"stage2.{metric}.{s}": factor * v for s, v in values.items()}
        found.append(row | {"stage1.auc.qd1_consistent": 0.8})
    return pd.DataFrame(found)


A, B = {"task.aliases": 40}, {"task.aliases": 80}
NAN = float("nan")


def test_summaries_count_failed_runs_and_leave_them_out() -> None:
    """strong of setting A: (0.7 − 0.5 + 0.8 − 0.4) / 2 = 0.3; half-width t₁(.975) · √2 · 0.1 / √2 = 1.2706."""
    rows = [(A, "", 0.7, 0.5), (A, "", 0.8, 0.4), (A, "it diverged", 0.0, 1.0), (B, "it diverged", NAN, NAN)]
    first, second = sweep_summaries.summaries(frame_of(rows))
    assert (first.setting, first.runs, first.failed) == (A, 3, 1)
    assert first.auc["d1_consistent"].mean == pytest.approx(0.75)
    assert first.contrasts["strong"].mean == pytest.approx(0.3)
    assert first.contrasts["strong"].high - first.contrasts["strong"].mean == pytest.approx(1.2706, abs=1e-4)
    assert first.contrasts["weak"].mean == pytest.approx(0.5)
    assert first.accuracy["strong"].mean == pytest.approx(0.15)
    assert first.contrasts["strong"].n == 2
    assert first.before == pytest.approx(0.8)
    assert first.seconds == pytest.approx(3.0)
    assert (second.setting, second.runs, second.failed) == (B, 1, 1)
    assert second.auc == second.contrasts == second.accuracy == {}
    assert np.isnan(second.before)
    assert formats.describe(second.contrasts.get("strong")) == "–"


def test_a_summary_without_some_subsets() -> None:
    frame = frame_of([(A, "", 0.7, 0.5)])
    (one,) = sweep_summaries.summaries(frame[[c for c in frame.columns if "qd1" not in c]])
    assert "weak" not in one.contrasts
    assert np.isnan(one.before)
    (all_of_it,) = sweep_summaries.summaries(frame.drop(columns="task.aliases"))
    assert (all_of_it.setting, all_of_it.runs) == ({}, 1)


def test_the_phase_diagram_of_one_axis_shows_the_summaries() -> None:
    found = sweep_summaries.summaries(frame_of([(A, "", 0.7, 0.5), (A, "", 0.8, 0.4), (B, "", 0.6, 0.6)]))
    traces = {trace.name: trace for trace in training_plots.phase_diagram(found).data}
    strong = traces["strong internalization"]
    assert list(strong.x) == ["40", "80"]
    np.testing.assert_allclose(strong.y, [0.3, 0.0], atol=1e-12)
    np.testing.assert_allclose(strong.error_y.array, [0.7, 0.0], atol=1e-4)  # a difference is 1 at most
    np.testing.assert_allclose(traces["weak internalization"].y, [0.5, 0.5])
    np.testing.assert_allclose(traces[plots.label("d1_consistent")].y, [0.75, 0.6])


def test_the_phase_diagram_of_two_axes_shows_the_summaries() -> None:
    x, y = {"task.word_order": "TVE"}, {"task.word_order": "VTE"}
    rows = [(A | x, "", 0.7, 0.5), (A | x, "", 0.8, 0.4), (A | y, "no", 0.1, 0.9), (B | x, "", 0.6, 0.7)]
    found = sweep_summaries.summaries(frame_of(rows))
    (heat,) = training_plots.phase_diagram(found).data
    assert (list(heat.y), list(heat.x)) == (["40", "80"], ["word_order TVE", "word_order VTE"])
    np.testing.assert_allclose(heat.z, [[0.3, np.nan], [-0.1, np.nan]])
    assert heat.text.tolist() == [["+0.300 ± 1.271<br>2 runs", "1 runs, 1 failed"], ["-0.100<br>1 runs", ""]]
    nothing = [replace(one, failed=one.runs, contrasts={}) for one in found]
    assert np.isnan(training_plots.phase_diagram(nothing).data[0].z).all()


# the command ---------------------------------------------------------------------------------------


def test_the_command_prints_the_settings_and_its_table_again(
    tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", recipe, "--out", str(out), "--seeds", "2", "--device", "cpu", "--set", *QUICK]
    assert cli.main([*command, "--over", "task.word_order=TVE,ETV"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["task.word_order", "runs", "failed"]
    assert [line.split()[:3] for line in lines[1:3]] == [["ETV", "2", "0"], ["TVE", "2", "2"]]
    failed = "failed, left out of the means: task.word_order=TVE, seed 1: definition recall"
    assert sum(line.startswith(failed) for line in lines) == 1
    assert lines[-2:] == [
        f"phase diagram: {out / 'phase-diagram.html'}",
        f"table: {out / 'table.parquet'} (4 runs)",
    ]
    assert (out / "phase-diagram.html").stat().st_size > 100_000

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(sweeps, "train_together", refuse)
    for path in (out, out / "table.parquet"):
        assert cli.main(["sweep", "--table", str(path)]) == 0
        again = capsys.readouterr().out.splitlines()
        assert again[:-1] == lines[:-2]
        assert again[-1] == f"table: {path} (4 runs)"
    figure = tmp_path / "figure.html"
    assert cli.main(["sweep", "--table", str(out), "--figure", str(figure)]) == 0
    assert figure.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a RECIPE and --out DIR to train, or --table DIR"),
        (["integer-set/cpu"], "give a RECIPE and --out DIR to train, or --table DIR"),
        (["integer-set/cpu", "--table", "HERE"], "--table only looks at a sweep"),
        (["--over", "task.aliases=5", "--table", "HERE"], "--table only looks at a sweep"),
        (["--table", "HERE"], "is not a sweep: it has no manifest.json"),
        (["--table", "HERE/other.parquet"], "is not a table of a sweep; give the folder of the sweep"),
        (["--table", "HERE/tiny.toml"], "is not a table of a sweep: "),
        (["nothing", "--out", "HERE/a"], "no recipe 'nothing'"),
        (["integer-set/cpu", "--out", "HERE/a", "--over", "task.aliases"], "write key=value,value"),
        (
            ["integer-set/cpu", "--out", "HERE/a", "--over", "task.aliasse=1,2"],
            "did you mean 'task.aliases'?",
        ),
        (["integer-set/cpu", "--out", "HERE/a", "--set", "task.aliases=-1"], "aliases"),
        (
            ["integer-set/cpu", "--out", "HERE/a", "--seeds", "0"],
            "give at least one seed, and a first seed of 0 or more",
        ),
        (["integer-set/cpu", "--out", "HERE/a", "--jobs", "-1"], "--jobs -1"),
        (["integer-set/cpu", "--out", "HERE"], "exists and is not a sweep; choose another --out"),
    ],
)
def test_a_wrong_use_is_one_line(
    tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    given = [a.replace("HERE", str(tmp_path)) for a in arguments]
    assert cli.main(["sweep", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mechocl: ")
    assert message in line
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.toml", "other.parquet"}
