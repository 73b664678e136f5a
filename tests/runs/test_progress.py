"""Progress moves from the first second, counts what was done before, and says how long it will take."""

import math
import re
import time
from pathlib import Path

import jobs
import pytest
import tiny
from rich.console import Console

from mechocl.analyses import control_jobs, jobs as run_jobs
from mechocl.runs import processes, progress, provenance, sweeps
from mechocl.runs.progress import Display
from mechocl.runs.run import Run


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_comes_also_while_no_job_reports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.1)
    with Display("probing", ["first", "second"]):
        time.sleep(1.5)
    said = lines(capsys)
    assert len(said) > 3
    assert said[1].startswith("probing: 0 %")
    assert said[1].endswith("(first: starting)")
    assert any("1 s so far" in line for line in said)


def test_a_long_work_says_how_long_as_soon_as_it_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display("training", ["seed 0"], clock=clock) as display:
        display.update(0, "building the task", math.nan)
        display.update(0, "step 0", 0.0)
        clock.now = 5.0
        display.update(0, "step 5", 0.05)  # 95 s are left, and it is not yet time for a line
        clock.now = 6.0
        display.update(0, "step 6", 0.06)
        clock.now = 100.0
        display.update(0, "done", 1.0)
    assert lines(capsys) == [
        "training: seed 0",
        "training: 5 %, about 95 s left (seed 0: step 5)",
        "training: 100 %, about 0 s left (seed 0: done)",
        "training: 100 % after 100 s",
    ]


def test_what_was_done_before_is_shown_and_does_not_make_the_rest_look_short(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display("training", ["seed 0", "seed 1"], clock=clock) as display:
        display.update(0, "building the task", math.nan)
        display.update(0, "step 80", 0.8)
        display.update(1, "step 60", 0.6)
        clock.now = 30.0
        display.update(0, "step 85", 0.85)
        display.update(1, "step 65", 0.65)  # a tenth of a seed in 30 s, and half a seed is left
        clock.now = 46.0
        display.update(1, "step 65", 0.65)
    assert lines(capsys)[1:] == [
        "training: 72 %, about 5 min left (seed 0: step 85)",
        "training: 75 %, about 4 min left (seed 1: step 65)",
        "training: 75 % after 46 s",
    ]


@pytest.mark.parametrize("name", ["[/]", "[/x]y", "[bold]run", "a[b]", "back\\", "line\nbreak"])
def test_a_name_is_shown_as_it_is_on_a_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=200)
    )
    with Display(f"probing {name}", [name]) as display:
        display.update(0, f"reading {name}", 0.5)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    plain = " ".join(name.split())
    assert f"probing {plain}" in shown
    assert f"\n{plain} " in shown.replace("\r", "\n")
    assert f"reading {plain}" in " ".join(shown.split())


def test_times_in_words() -> None:
    times = (0.4, 59.6, 119.0, 120.0, 3600.0, 7200.0, 100_000.0, 180_000.0)
    words = ["0 s", "60 s", "119 s", "2 min", "60 min", "2.0 h", "27.8 h", "2.1 days"]
    assert [progress._time_in_words(seconds) for seconds in times] == words


def test_work_of_minutes_says_how_long_before_it_starts(capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (None, 3.0, 59.9, 60.0, 250.0):
        progress.say_how_long("training", seconds, known_from="the seeds that are trained already")
    assert lines(capsys) == [
        "training: about 60 s, by the seeds that are trained already",
        "training: about 4 min, by the seeds that are trained already",
    ]


def test_a_new_seed_of_a_run_is_known_from_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the record of this machine; a record of another machine says nothing of this one. The controls by the run."""

    def said(*seeds: int) -> list[str]:
        run_jobs.train_run(
            tmp_path / "run", tiny.recipe(tmp_path), recipe_name="tiny", seeds=seeds, device="cpu", jobs=1
        )
        return [line for line in lines(capsys) if "about" in line and "left" not in line]

    assert said(0) == []
    run = Run.open(tmp_path / "run")
    run.note_seconds("training", 100.0 - run.manifest["seconds"]["training"])
    assert said(0) == []
    assert said(0, 1, 2) == ["training: about 3 min, by the seeds of this run that are trained already"]
    run = Run.open(tmp_path / "run")
    known = run_jobs.seconds_per_seed(run, "training", device="cpu")
    assert known is not None
    assert 33 < known < 60
    control_jobs.train_controls(
        tmp_path / "run", tiny.recipe(tmp_path), ["noise", "unasked"], recipe_name="tiny", seeds=(0,),
        device="cpu", jobs=1,
    )  # fmt: skip
    assert "controls: about" in " ".join(lines(capsys))
    with monkeypatch.context() as patch:
        patch.setattr(provenance, "machine", lambda device: "another")
        assert run_jobs.seconds_per_seed(run, "training", device="cpu") is None


def test_a_sweep_that_goes_on_is_known_from_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def swept(over: str) -> list[str]:
        sweeps.run_sweep(
            tmp_path / "sweep", recipe_name=str(tiny.recipe_file(tmp_path)), changes=(), over=(over,),
            seeds=(0,), device="cpu", executor=processes.Processes(1),
        )  # fmt: skip
        return [line for line in lines(capsys) if line.startswith("sweep, ")]

    assert swept("task.integers=10") == []
    known = sweeps._seconds_of_a_run(tmp_path / "sweep")
    assert known is not None
    assert 0 < known < 60
    monkeypatch.setattr(sweeps, "_seconds_of_a_run", lambda path: 200.0)
    assert swept("task.integers=10,11") == [
        "sweep, 1 runs to train: about 3 min, by the runs of this sweep that are trained already"
    ]


def test_what_is_left_to_another_process_is_not_shown_as_done(capsys: pytest.CaptureFixture[str]) -> None:
    found = processes.map_jobs(jobs.leave, [1, 2], names=["a", "b"], title="work", jobs=2, threads=1)
    assert found == [1, 2]
    assert lines(capsys)[-1].startswith("work: 50 % after")
