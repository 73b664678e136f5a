"""However training was stopped, the same command ends with the same weights, bit for bit (on a CPU)."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import jobs
import pandas as pd
import pytest
import tiny

from mechocl import cli, experiment, files, parallel, pipeline
from mechocl.errors import Fault
from mechocl.runs import Run, SeedFolder

SEEDS = (0, 1)
LONGER = ("training.stages.0.epochs=30", "training.stages.1.epochs=20", "training.stages.0.evaluations=5")
"""150 and 80 steps, which take some seconds when the resume point is saved after each."""


class Killed(BaseException):
    """Stands for a `kill -9`: nothing catches it."""


def ledgers(run: Run) -> dict[int, dict[str, str]]:
    """Checksums of all finished files of each seed: task, every checkpoint, histories."""
    found = {}
    for seed in run.seeds:
        ledger = run.seed(seed).ledger
        found[seed] = ledger.entries()
        for name in found[seed]:
            ledger.checked(name)
    return found


def assert_same_run(run: Run, undisturbed: Run) -> None:
    """All checkpoints are the same bytes and the histories the same numbers; nothing else is left."""
    assert ledgers(run) == ledgers(undisturbed)
    for seed in run.seeds:
        a, b = run.seed(seed), undisturbed.seed(seed)
        assert len(a.checkpoints()) >= 6
        assert a.checkpoints() == b.checkpoints()
        pd.testing.assert_frame_equal(a.history(), b.history(), check_exact=True)
        assert files_in(a) == files_in(b)


def files_in(folder: SeedFolder) -> set[str]:
    return {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained without a stop, one seed after the other, with one thread, saving no resume points."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "cores", lambda: 1)
        return pipeline.train(
            folder / "run",
            tiny.recipe(folder, *LONGER),
            recipe_name="tiny",
            seeds=SEEDS,
            device="cpu",
            jobs=1,
            save_every_s=1e9,
        )


def test_the_comparison_sees_a_difference(undisturbed: Run, tmp_path: Path) -> None:
    """The check's own failing example: another seed's history, one bit of one checkpoint."""
    other = Run.create(
        tmp_path / "run", undisturbed.recipe, recipe_name="tiny", seeds=SEEDS, device="cpu", threads=1
    )
    with pytest.raises(AssertionError):
        assert_same_run(other, undisturbed)


# real processes ------------------------------------------------------------------------------------


Process = subprocess.Popen[bytes]


def start(out: Path, stderr: IO[bytes]) -> Process:
    """`mechocl train`, two seeds at a time, in a process group of its own, each seed with one thread."""
    recipe = tiny.recipe_file(out.parent)
    # a shell that starts the tests in the background has its children ignore Ctrl-C
    program = "import signal, sys, mechocl.cli as c; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{program}; sys.exit(c.main())",
        "train",
        str(recipe),
        "--out",
        str(out),
    ]
    options = ["--seeds", "2", "--jobs", "2", "--device", "cpu", "--save-every", "0", "--set", *LONGER]
    process = subprocess.Popen(command + options, stdout=stderr, stderr=stderr, start_new_session=True)
    two = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(process.pid, two)  # on any machine: two seeds at a time are one thread each
    return process


def progress(out: Path) -> dict[int, tuple[int, int]]:
    """Stage and step of each seed's resume point; (0, 0) before the first, (3, 0) after the end."""
    found = {}
    for seed in SEEDS:
        names = files.Ledger(out / f"seed-{seed}").entries()
        steps = [tuple(map(int, n[: -len(".safetensors")].split("-")[1:])) for n in names if n[:5] == "state"]
        stage, step = (3, 0) if "stage-2/history.parquet" in names else max(steps, default=(0, 0))
        found[seed] = (stage, step)
    return found


def wait_until(holds: Callable[[], bool], *, seconds: float, what: str) -> None:
    latest = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < latest, f"waited {seconds} s for {what}"
        time.sleep(0.03)


def processes_of_group(group: int) -> list[int]:
    """Processes of a group that have not ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(folder.name))
    return found


@pytest.fixture
def started() -> Iterator[list[Process]]:
    """Processes that end with the test, with their groups, however it ends."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_interrupted_and_killed_and_continued_is_as_undisturbed(
    tmp_path: Path, started: list[Process], undisturbed: Run
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"

    def trained_on(before: dict[int, tuple[int, int]]) -> Callable[[], bool]:
        def check() -> bool:
            now = progress(out)
            return process.poll() is not None or all(now[s] > before[s] or now[s][0] == 3 for s in SEEDS)

        return check

    # Ctrl-C, which a terminal sends to every process of the group
    with log.open("wb") as file:
        started.append(process := start(out, file))
        wait_until(trained_on(dict.fromkeys(SEEDS, (1, 3))), seconds=120, what="both seeds to train")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130, log.read_text()
    wait_until(lambda: not processes_of_group(process.pid), seconds=10, what="the workers to end")
    lines = log.read_text().splitlines()
    assert lines[-1] == "mechocl: interrupted; run the same command again to continue"
    assert not [line for line in lines[:-1] if not line.startswith("training: ")], lines
    stopped = progress(out)
    recorded = ledgers(Run.open(out))

    # kill -9 of the command alone: its workers end by themselves
    with log.open("wb") as file:
        started.append(process := start(out, file))
        wait_until(trained_on(stopped), seconds=120, what="both seeds to go on")
        assert process.poll() is None, "it ended before it was killed: make the training longer"
        workers = processes_of_group(process.pid)
        process.kill()
        process.wait(timeout=10)
    assert len(workers) >= 3  # the command, two workers, and what Python tracks its resources with
    wait_until(lambda: not processes_of_group(process.pid), seconds=5, what="the workers to end")
    assert not all(Run.open(out).seed(seed).finished() for seed in SEEDS)
    for seed, entries in ledgers(Run.open(out)).items():
        assert not {n for n in recorded[seed].keys() - entries.keys() if not n.startswith("state-")}

    # the same command again
    with log.open("wb") as file:
        started.append(process := start(out, file))
        assert process.wait(timeout=180) == 0, log.read_text()
    assert log.read_text().splitlines()[-1] == f"run: {out}"
    assert_same_run(Run.open(out), undisturbed)


def test_a_worker_that_is_killed_is_a_fault_in_one_line() -> None:
    with pytest.raises(Fault, match=r"a worker process was killed .*; run the same command again"):
        parallel.run(jobs.die, [2, 1], names=["a", "b"], title="work", jobs=2, threads=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_and_the_last_line_is_100_percent(
    processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    items, names = [3, 1, 2], ["a", "b", "c"]
    assert parallel.run(jobs.square, items, names=names, title="work", jobs=processes, threads=1) == [9, 1, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: a, b, c"
    if processes == 2:
        assert lines[-1].startswith("work: 100 % after")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_worker_arrives_as_it_was(processes: int) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        parallel.run(jobs.square, [1, -2], names=["a", "b"], title="work", jobs=processes, threads=1)
    assert (caught.value.errno, caught.value.filename) == (28, "item -2")


# every place at which a kill can fall --------------------------------------------------------------


def train_until_killed(folder: SeedFolder) -> None:
    experiment.train_seed(folder, device="cpu", save_every_s=0.0, report=lambda text, share: None)


def a_short_run(path: Path) -> Run:
    path.mkdir()
    recipe = tiny.recipe(path, "training.stages.1.batch_size=60")
    return Run.create(path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = a_short_run(tmp_path_factory.mktemp("short") / "a")
    experiment.train_seed(run.seed(0), device="cpu", save_every_s=1e9, report=lambda text, share: None)
    return run


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("operation", ["replace", "unlink"])
def test_a_kill_between_any_two_writes_is_survived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Run, operation: str, before: bool
) -> None:
    """Each attempt is killed at its n-th rename (or removal), n = 1, 2, 3 …, until one gets through.

    Renames are where files appear and where they are recorded; what was saved is where the next goes on.
    """
    run = a_short_run(tmp_path / "b")
    target, name = (os, "replace") if operation == "replace" else (Path, "unlink")
    original = getattr(target, name)
    left = 0

    def deadly(*arguments: object, **keywords: object) -> object:
        nonlocal left
        if operation == "unlink" and files.is_temporary(Path(str(arguments[0]))):
            return original(*arguments, **keywords)  # the tidying of a write that came to its end
        left -= 1
        if left == 0 and before:
            raise Killed
        result = original(*arguments, **keywords)
        if left == 0:
            raise Killed
        return result

    monkeypatch.setattr(target, name, deadly)
    attempts = 0
    while not run.seed(0).finished():
        attempts += 1
        left = attempts
        try:
            train_until_killed(run.seed(0))
        except Killed:
            continue
    assert attempts > 5
    monkeypatch.undo()
    train_until_killed(run.seed(0))
    assert_same_run(run, short)


def test_leftovers_of_a_kill_in_the_middle_of_a_write_do_not_count(tmp_path: Path, short: Run) -> None:
    """A temporary file, half a checkpoint and a resume point that were never recorded."""
    run = a_short_run(tmp_path / "b")
    folder = run.seed(0)
    (folder.path / "stage-1").mkdir(parents=True)
    for name in (
        "stage-1/.final.safetensors.abc.tmp",
        "stage-1/final.safetensors",
        "state-1-000009.safetensors",
    ):
        (folder.path / name).write_bytes(b"half")
    train_until_killed(folder)
    assert_same_run(run, short)


def test_a_full_disk_stops_training_and_it_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short: Run
) -> None:
    calls = 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 12:
            raise OSError(28, "No space left on device")

    path = a_short_run(tmp_path / "b").path
    recipe = path.parent / "tiny.toml"
    command = ["train", str(recipe), "--out", str(path), "--seeds", "1", "--jobs", "1", "--save-every", "0"]
    command += ["--device", "cpu", "--set", "training.stages.1.batch_size=60"]
    monkeypatch.setattr(os, "fsync", fsync)
    assert cli.main(command) == 2
    err = capsys.readouterr().err.splitlines()
    assert err[-1].startswith(f"mechocl: {path}")
    assert err[-1].endswith("the disk is full; free some space and run the same command again")
    ledgers(Run.open(path))
    monkeypatch.undo()
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"run: {path}"
    assert_same_run(Run.open(path), short)
