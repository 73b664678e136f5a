"""However training was stopped, the same command ends with the same weights, bit for bit (on a CPU).

Of the same stacks, that is: seeds that train together agree with those that train alone within rounding.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import jobs
import pandas as pd
import pytest
import tiny

from mechocl import files
from mechocl.commands import cli
from mechocl.errors import Fault
from mechocl.ledgers import Ledger
from mechocl.runs import processes as processes_, train_toy
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run

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
    assert [stack.seeds for stack in run.stacks()] == [stack.seeds for stack in undisturbed.stacks()]
    assert ledgers(run) == ledgers(undisturbed)
    for seed in run.seeds:
        a, b = run.seed(seed), undisturbed.seed(seed)
        assert len(a.checkpoints()) >= 6
        assert a.checkpoints() == b.checkpoints()
        pd.testing.assert_frame_equal(a.history(), b.history(), check_exact=True)
        assert files_in(a) == files_in(b)
    for stack in run.stacks():
        assert not stack.ledger.entries()
        assert {p.name for p in stack.path.iterdir()} <= {"lock", "checksums.json"}


def files_in(folder: SeedFolder) -> set[str]:
    return {str(p.relative_to(folder.path)) for p in folder.path.rglob("*") if p.is_file()}


def train(run: Run, *, save_every_s: float = 1e9) -> None:
    for stack in run.stacks():
        train_toy.train_stack(
            run, stack, device="cpu", save_every_s=save_every_s, progress=lambda text, share: None
        )


def create(folder: Path, *changes: str, together: int) -> Run:
    folder.mkdir(exist_ok=True)
    return Run.create(
        folder / "run",
        tiny.recipe(folder, *changes),
        recipe_name="tiny",
        seeds=SEEDS,
        device="cpu",
        threads=1,
        together=together,
    )


@pytest.fixture(scope="module", params=[1, 2], ids=["two stacks of one", "one stack of two"])
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Trained without a stop in this process, with one thread, saving no resume points."""
    run = create(tmp_path_factory.mktemp("undisturbed"), *LONGER, together=request.param)
    train(run)
    return run


def test_the_comparison_sees_a_difference(undisturbed: Run, tmp_path: Path) -> None:
    """The check's own failing examples: a run that is not trained, and one with an altered history."""
    other = create(tmp_path / "other", *LONGER, together=len(undisturbed.stacks()[0].seeds))
    with pytest.raises(AssertionError):
        assert_same_run(other, undisturbed)
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.path, copy)
    assert_same_run(Run.open(copy), undisturbed)
    folder = Run.open(copy).seed(1)
    history = folder.history()
    rows = history[history["stage"] == 2].assign(auc=history["auc"] + 1e-9)
    folder.finish_stage(2, rows.to_dict("records"))
    with pytest.raises(AssertionError):
        assert_same_run(Run.open(copy), undisturbed)


# real processes ------------------------------------------------------------------------------------


Process = subprocess.Popen[bytes]


def start(out: Path, stderr: IO[bytes], *, jobs: int) -> Process:
    """`mechocl train` in a process group of its own; two jobs train a seed each, one both together."""
    recipe = tiny.recipe_file(out.parent)
    # a shell that starts the tests in the background has its children ignore Ctrl-C
    program = "import signal, sys, mechocl.commands.cli as c; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [
        sys.executable,
        "-c",
        f"{program}; sys.exit(c.main())",
        "train",
        str(recipe),
        "--out",
        str(out),
    ]
    options = ["--seeds", "2", "--jobs", str(jobs), "--device", "cpu", "--save-every", "0", "--set", *LONGER]
    process = subprocess.Popen(command + options, stdout=stderr, stderr=stderr, start_new_session=True)
    two = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(process.pid, two)  # on any machine: a thread for each job
    return process


Progress = dict[tuple[int, ...], tuple[int, int]]
"""Stage and step of each stack's resume point; (0, 0) before the first, (3, 0) after the end."""


def progress(out: Path, like: Run) -> Progress:
    found = {}
    for stack in like.stacks():
        names = Ledger(out / stack.path.relative_to(like.path)).entries()
        steps = [tuple(map(int, n[: -len(".safetensors")].split("-")[1:])) for n in names]
        done = all("stage-2/history.parquet" in Ledger(out / f"seed-{s}") for s in stack.seeds)
        stage, step = (3, 0) if done else max(steps, default=(0, 0))
        found[stack.seeds] = (stage, step)
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
    stacks = [stack.seeds for stack in undisturbed.stacks()]

    def trained_on(before: Progress) -> Callable[[], bool]:
        def check() -> bool:
            now = progress(out, undisturbed)
            return process.poll() is not None or all(now[s] > before[s] or now[s][0] == 3 for s in stacks)

        return check

    # Ctrl-C, which a terminal sends to every process of the group
    with log.open("wb") as file:
        started.append(process := start(out, file, jobs=len(stacks)))
        wait_until(trained_on(dict.fromkeys(stacks, (1, 3))), seconds=900, what="both seeds to train")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(timeout=30) == 130, log.read_text()
    wait_until(lambda: not processes_of_group(process.pid), seconds=10, what="the workers to end")
    lines = log.read_text().splitlines()
    assert lines[-1] == "mechocl: interrupted; run the same command again to continue"
    assert not [line for line in lines[:-1] if not line.startswith("training: ")], lines
    stopped = progress(out, undisturbed)
    recorded = ledgers(Run.open(out))

    # kill -9 of the command alone: its workers end by themselves
    with log.open("wb") as file:
        started.append(process := start(out, file, jobs=len(stacks)))
        wait_until(trained_on(stopped), seconds=900, what="both seeds to go on")
        assert process.poll() is None, "it ended before it was killed: make the training longer"
        workers = processes_of_group(process.pid)
        process.kill()
        process.wait(timeout=10)
    # the command; with several jobs also their workers, and what Python tracks its resources with
    assert len(workers) >= (1 if len(stacks) == 1 else 4)
    wait_until(lambda: not processes_of_group(process.pid), seconds=5, what="the workers to end")
    assert not all(Run.open(out).seed(seed).finished() for seed in SEEDS)
    for seed, entries in ledgers(Run.open(out)).items():
        assert not recorded[seed].keys() - entries.keys()

    # the same command again
    with log.open("wb") as file:
        started.append(process := start(out, file, jobs=len(stacks)))
        assert process.wait(timeout=900) == 0, log.read_text()
    assert log.read_text().splitlines()[-1] == f"run: {out}"
    assert_same_run(Run.open(out), undisturbed)


def test_a_worker_that_is_killed_is_a_fault_in_one_line() -> None:
    with pytest.raises(Fault, match=r"a worker process was killed .*; run the same command again"):
        processes_.map_jobs(jobs.die, [2, 1], names=["a", "b"], title="work", jobs=2, threads=1)


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order_and_the_last_line_is_100_percent(
    processes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    items, names = [3, 1, 2], ["a", "b", "c"]
    assert processes_.map_jobs(jobs.square, items, names=names, title="work", jobs=processes, threads=1) == [
        9,
        1,
        4,
    ]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: a, b, c"
    if processes == 2:
        assert lines[-1].startswith("work: 100 % after")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_worker_arrives_as_it_was(processes: int) -> None:
    with pytest.raises(OSError, match="No space left") as caught:
        processes_.map_jobs(jobs.square, [1, -2], names=["a", "b"], title="work", jobs=processes, threads=1)
    assert (caught.value.errno, caught.value.filename) == (28, "item -2")


def test_a_script_without_a_guard_is_not_run_by_the_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import jobs\nfrom mechocl.runs import processes\nprint('begin')\n"
        "print(processes.map_jobs(jobs.square, [2, 3], names=['a', 'b'], title='work', jobs=2, threads=1))\n"
        "assert __file__ and processes.sys.modules['__main__'].__file__ == __file__\n"
    )
    path = os.pathsep.join(sys.path)
    ended = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (0, "begin\n[4, 9]\n"), ended.stderr


# every place at which a kill can fall --------------------------------------------------------------


def a_short_run(folder: Path) -> Run:
    """Both seeds in one stack; 15 and 6 steps."""
    return create(folder, "training.stages.1.batch_size=60", together=2)


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = a_short_run(tmp_path_factory.mktemp("short") / "a")
    train(run)
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
    while not all(run.seed(seed).finished() for seed in SEEDS):
        attempts += 1
        left = attempts
        try:
            train(run, save_every_s=0.0)
        except Killed:
            continue
    assert attempts > 5
    monkeypatch.undo()
    train(run, save_every_s=0.0)
    assert_same_run(run, short)


@pytest.mark.parametrize("save_every_s", [0.0, 1e9], ids=["resumed", "from the stage's start"])
@pytest.mark.parametrize("stage", [1, 2])
def test_a_kill_between_the_seeds_last_writes_of_a_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Run, stage: int, save_every_s: float
) -> None:
    """The first seed's stage is finished, the second's is not: both are done again, with the same bytes."""
    run = a_short_run(tmp_path / "b")
    original = SeedFolder.finish_stage

    def deadly(self: SeedFolder, number: int, history: list[dict[str, Any]]) -> None:
        if (self.seed, number) == (1, stage):
            raise Killed
        original(self, number, history)

    monkeypatch.setattr(SeedFolder, "finish_stage", deadly)
    with pytest.raises(Killed):
        train(run, save_every_s=save_every_s)
    monkeypatch.undo()
    assert run.seed(0).stage_finished(stage)
    assert not run.seed(1).stage_finished(stage)
    train(run, save_every_s=save_every_s)
    assert_same_run(run, short)


def test_a_seed_that_diverges_leaves_the_rest_of_its_stack_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short: Run
) -> None:
    """Seed 1's weights turn NaN in step 6, a kill follows in stage 2; seed 0 becomes what it was to be."""
    run = a_short_run(tmp_path / "b")
    original = train_toy.train_stage

    def poisoned(trained: list[Any], *arguments: Any, **keywords: Any) -> Iterator[Any]:
        for moment in original(trained, *arguments, **keywords):
            if moment.total_steps == 15 and moment.step == 6:
                trained[1].embed.W_E.data.fill_(float("nan"))
            if moment.total_steps == 6 and moment.step == 4:
                raise Killed
            yield moment

    monkeypatch.setattr(train_toy, "train_stage", poisoned)
    with pytest.raises(Killed):
        train(run, save_every_s=0.0)
    monkeypatch.undo()
    reason = {1: "stage 1: the training loss is nan at step 8 of 15"}
    assert run.failures() == reason
    assert not run.seed(0).finished()
    for _ in range(2):
        train(run, save_every_s=0.0)
        assert run.failures() == reason
        assert run.seed(0).finished()
        assert run.seed(0).ledger.entries() == short.seed(0).ledger.entries()
        assert not run.seed(1).stage_finished(1)
    assert [folder.seed for folder in run.finished_seeds()] == [0]
    assert not run.stacks()[0].ledger.entries()


def test_leftovers_of_a_kill_in_the_middle_of_a_write_do_not_count(tmp_path: Path, short: Run) -> None:
    """A temporary file, half a checkpoint and a resume point that were never recorded."""
    run = a_short_run(tmp_path / "b")
    seed, stack = run.seed(1).path, run.stacks()[0].path
    (seed / "stage-1").mkdir(parents=True)
    stack.mkdir(parents=True)
    for path in (
        seed / "stage-1/.final.safetensors.abc.tmp",
        seed / "stage-1/final.safetensors",
        stack / "state-1-000009.safetensors",
        stack / ".state-1-000010.safetensors.abc.tmp",
    ):
        path.write_bytes(b"half")
    train(run, save_every_s=0.0)
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
    command = ["train", str(recipe), "--out", str(path), "--seeds", "2", "--jobs", "1", "--save-every", "0"]
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
