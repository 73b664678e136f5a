"""Jobs on a real Ray cluster of two nodes on this machine: complete and exactly once, whatever gets lost."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray_jobs
import tiny

from mechocl import files
from mechocl.analyses import probe_sweep
from mechocl.commands import cli
from mechocl.errors import Fault, MechoclError
from mechocl.runs import on_ray, processes, progress, sweep_folder, sweeps
from mechocl.runs.on_ray import Ray
from mechocl.runs.sweep_folder import SweepRun

QUICK = ("training.stages.0.epochs=1", "training.stages.1.epochs=1", "task.aliases=40")
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with one CPU each; the second says that it has a GPU, which nobody looks for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PYTHONPATH", str(Path(__file__).parent.parent / "support"), prepend=os.pathsep
        )  # of the jobs below
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        found = Cluster(initialize_head=True, head_node_args=NODE)
        found.add_node(num_gpus=1, **NODE)
        yield found
        found.shutdown()


@pytest.fixture
def ray(nodes: Any) -> Ray:
    return Ray(address=nodes.address)


def run(job: progress.Job, items: list[Any], *, cluster: Ray | None, **options: Any) -> list[Any]:
    names = [f"item {i}" for i in range(len(items))]
    executor = cluster or processes.Processes(1)
    with executor.workers(len(items), device="cpu") as workers:
        return workers.map(job, items, names=names, title="jobs", threads=1, **options)


# the sweep -----------------------------------------------------------------------------------------


def test_a_sweep_on_ray_is_that_of_this_machine(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker is killed between two runs of its job; the table is complete, and each run is in it once."""
    monkeypatch.chdir(tmp_path)
    recipe = str(tiny.recipe_file(tmp_path))
    command = ["sweep", recipe, "--seeds", "2", "--device", "cpu", "--set", *QUICK]
    command += ["--over", "task.word_order=TVE,VTE"]
    assert cli.main([*command, "--out", "here", "--jobs", "1"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "train_job", ray_jobs.train_or_be_killed)
        patch.setattr(sweep_folder, "_TABLE_EVERY_S", 0.0)
        assert cli.main([*command, "--out", "there", "--on", "ray", "--address", ray.address]) == 0
    assert (tmp_path / "there" / "killed").exists()
    here, there = (pd.read_parquet(tmp_path / name / "table.parquet") for name in ("here", "there"))
    assert len(there) == 4
    assert not there.duplicated(["task.word_order", "seed"]).any()
    pd.testing.assert_frame_equal(there.drop(columns="seconds"), here.drop(columns="seconds"), rtol=1e-4)
    assert sweep_folder.read_manifest(tmp_path / "there")["machine"] == "Ray: 2 nodes, 2 CPUs, 1 GPU"
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == "table: there/table.parquet (4 runs)"
    assert cli.main([*command, "--out", "there"]) == 0  # nothing left to do, here or there


def test_a_probe_sweep_on_ray_is_that_of_this_machine(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker is killed in the middle; the one table is complete, and each row is in it once."""
    recipe = str(tiny.recipe_file(tmp_path))
    made = ["train", recipe, "--out", str(tmp_path / "here"), "--seeds", "2", "--device", "cpu"]
    assert cli.main([*made, "--set", *QUICK, "task.aliases=120", "--jobs", "1"]) == 0
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    (tmp_path / "mine.toml").write_text(tiny.PROBE, encoding="utf-8")
    command = ["--recipe", str(tmp_path / "mine.toml"), "--permutations", "2", "--positions", "alias"]
    command += ["--n-pairs", "0", "--device", "cpu"]
    assert cli.main(["probe", str(tmp_path / "here"), *command, "--jobs", "1"]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(probe_sweep, "probe_unit", ray_jobs.probe_or_be_killed)
        patch.setattr(probe_sweep, "_TABLE_EVERY_S", 0.0)
        on_ray = ["--on", "ray", "--address", ray.address]
        assert cli.main(["probe", str(tmp_path / "there"), *command, *on_ray]) == 0
    assert (tmp_path / "there" / "killed").exists()
    here, there = (
        pd.read_parquet(next((tmp_path / name / "probes").glob("mine*/table.parquet")))
        for name in ("here", "there")
    )
    assert set(there["seed"]) == {0, 1}
    keys = [*probe_sweep.WHERE, "site", "layer", "position", "subset", "control", "draw"]
    assert not there.duplicated(keys).any()
    pd.testing.assert_frame_equal(there.drop(columns="run"), here.drop(columns="run"), rtol=1e-4)


def test_rows_on_storage_that_is_not_shared_are_missed(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.json").touch()
    sweep_folder.await_rows(tmp_path, ["a"], patience=0.0)
    with pytest.raises(MechoclError, match="1 runs were trained elsewhere, but their rows are not in"):
        sweep_folder.await_rows(tmp_path, ["a", "b"], patience=0.0)


def test_a_run_that_is_tried_again_waits_for_the_first_try(tmp_path: Path) -> None:
    """The lock of a lost worker is let go late, and the row of one that was thought lost is not made again."""
    run_ = SweepRun({}, tiny.recipe(tmp_path, *QUICK), 0)
    with files.locked(tmp_path / "locks" / run_.name, patience=0.0):
        busy = sweeps.Job(str(tmp_path), (run_,), "cpu")
        assert sweeps.train_job(busy, lambda text, share: None) == ()
        timer = threading.Timer(
            0.5, lambda: sweep_folder.write_row(tmp_path, run_, {"failed": "of the first"})
        )
        timer.start()
        timer.join()
    patient = sweeps.Job(str(tmp_path), (run_,), "cpu", patience_s=5.0)
    assert sweeps.train_job(patient, lambda text, share: None) == (run_.name,)
    assert sweep_folder._read_row(sweep_folder.row_path(tmp_path, run_))["failed"] == "of the first"


# mistakes ------------------------------------------------------------------------------------------


def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, *options: str) -> str:
    """The one line of a sweep that ends before it makes anything."""
    capsys.readouterr()
    assert cli.main(["sweep", "integer-set/cpu", "--out", str(tmp_path / "sweep"), *options]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("mechocl: ")
    assert not (tmp_path / "sweep").exists()
    return line


@pytest.fixture
def unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself, which would try for minutes, is not asked to connect."""
    import ray

    def refuse(**_: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(ray, "init", refuse)


@pytest.mark.usefixtures("unasked")
def test_an_address_where_nothing_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    line = fails(capsys, tmp_path, "--on", "ray", "--address", address)
    assert f"--address {address}: nothing answers (" in line


@pytest.mark.usefixtures("unasked")
def test_an_address_where_something_else_listens(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "_ANSWER_S", 4.0)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        line = fails(capsys, tmp_path, "--on", "ray", "--address", address)
    assert "what listens there does not answer as Ray" in line


@pytest.mark.usefixtures("unasked")
def test_an_address_that_asks_for_a_token(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = "Traceback …\nray.exceptions.AuthenticationError: RPC error: InvalidAuthToken\n"
    answer = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    line = fails(capsys, tmp_path, "--on", "ray", "--address", "auto")
    assert "--address auto: Ray there asks for another token; set RAY_AUTH_MODE=token here" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--address", "node1:6379"], "--address needs --on ray"),
        (["--gpus-per-task", "0.5"], "--gpus-per-task needs --on ray"),
        (["--on", "ray", "--address", "node1"], "--address node1: give host:port"),
        (["--on", "ray", "--address", "ray://node1:10001"], "--address ray://node1:10001: give host:port"),
        (["--on", "ray", "--jobs", "2"], "--jobs 2 is for this machine"),
        (["--on", "ray", "--gpus-per-task", "1.5"], "--gpus-per-task 1.5: give a share"),
        (["--on", "ray", "--gpus-per-task", "-1"], "--gpus-per-task -1: give a share"),
        (["--on", "ray", "--gpus-per-task", "0.5", "--device", "cpu"], "--device cpu uses no GPU"),
        (["--on", "ray", "--device", "cuda"], "--device cuda --on ray: say what a task gets"),
    ],
)
def test_options_that_make_no_sense(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: list[str], message: str
) -> None:
    assert message in fails(capsys, tmp_path, *options)


def test_gpus_that_no_machine_has(capsys: pytest.CaptureFixture[str], tmp_path: Path, ray: Ray) -> None:
    line = fails(capsys, tmp_path, "--on", "ray", "--address", ray.address, "--gpus-per-task", "2")
    assert "a task needs 1 CPU and 2 GPUs, and no machine of the Ray cluster has them" in line
    assert line.endswith(" and 1 GPU in one")


def test_without_ray(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = fails(capsys, tmp_path, "--on", "ray")
    assert line == "mechocl: --on ray needs Ray; install it with pip install 'mechocl[cluster]'"


# jobs ----------------------------------------------------------------------------------------------


def times_begun(folder: Path) -> dict[int, int]:
    return {int(p.name.split("-")[1]): len(p.read_text().split()) for p in folder.glob("began-*")}


def test_tasks_end_with_the_command(ray: Ray, tmp_path: Path) -> None:
    """Ctrl-C while tasks wait, running and queued: none goes on, and the cluster is free."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    items = [(str(tmp_path), 0, ""), *((str(tmp_path), i, "wait") for i in range(1, 9))]
    with pytest.raises(KeyboardInterrupt):
        run(ray_jobs.logged, items, cluster=ray, done=interrupt)
    assert len(run(ray_jobs.square, [1, 2, 3, 4], cluster=ray)) == 4
    assert len(times_begun(tmp_path)) < 5  # else the others came first, for a minute each
    for path in tmp_path.glob("began-*"):
        assert not Path(f"/proc/{path.read_text().strip()}").exists()


@pytest.fixture(scope="module")
def joined(nodes: Any) -> Iterator[Ray]:
    """The process is connected for the rest of the module, so that the workers stay."""
    import ray

    ray.init(address=nodes.address, logging_level="ERROR", log_to_driver=False)
    yield Ray(address=nodes.address)
    ray.shutdown()


def test_results_are_those_of_this_machine_in_order(joined: Ray, capsys: pytest.CaptureFixture[str]) -> None:
    items = list(range(30))
    finished: list[tuple[int, Any]] = []
    here = run(ray_jobs.square, items, cluster=None, done=lambda *one: finished.append(one))
    assert here == [(i**2, 1) for i in items]
    assert finished == list(enumerate(here))
    finished.clear()
    capsys.readouterr()
    assert run(ray_jobs.square, items, cluster=joined, done=lambda *one: finished.append(one)) == here
    assert sorted(finished) == list(enumerate(here))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(" after")[0] for line in captured.err.splitlines() if "%" in line][-1] == "jobs: 100 %"


def test_a_killed_workers_task_runs_again(
    joined: Ray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = [(str(tmp_path), i, "kill" if i == 2 else "") for i in range(6)]
    assert run(ray_jobs.logged, items, cluster=joined) == list(range(6))
    begun = times_begun(tmp_path)
    assert begun == {i: 1 + (i == 2) for i in range(6)}
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "(raylet)" not in captured.err


def test_a_task_that_always_kills_its_worker_ends_the_command(
    joined: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "RETRIES", 1)
    with pytest.raises(Fault, match=r"^item 0: its worker was lost too often .* to continue$"):
        run(ray_jobs.logged, [(str(tmp_path), 99, "kill")], cluster=joined)
    assert times_begun(tmp_path) == {99: 2}


def test_what_ray_says_of_a_lost_worker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with on_ray._quiet():
        print("\x1b[33m(raylet)\x1b[0m A worker died or was killed\nwhile, and so on")
        print("a result")
        print("(raylet) Task failed. There are 3 retries remaining")
        print()
    assert capsys.readouterr() == ("a result\n\n", "a worker was lost; its tasks run again\n")


@pytest.mark.parametrize(
    ("item", "kind", "message"), [(-1, MechoclError, "item -1: give another"), (-2, OSError, "a file")]
)
def test_an_exception_of_a_job_arrives_as_itself(
    joined: Ray, item: int, kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind) as caught:
        run(ray_jobs.square, [1, item, 2], cluster=joined)
    assert type(caught.value) is kind
    assert message in str(caught.value)
    if isinstance(caught.value, OSError):
        assert caught.value.errno == 28


def test_tasks_share_a_gpu(nodes: Any, joined: Ray, tmp_path: Path) -> None:
    """Two at a time, and each in a process of its own: one keeps what it took of the GPU's memory."""
    half = Ray(address=nodes.address, cpus=0.5, gpus=0.5)
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        assert run(ray_jobs.gpu, [folder, folder], cluster=half) == [("0", True), ("0", True)]
    first, second = ({p.name for p in folder.iterdir()} for folder in folders)
    assert not first & second
    with on_ray.joined(half) as found:
        assert found.slots == 2


@pytest.mark.parametrize(
    ("cpus", "gpus", "slots"),
    [
        (1.0, 0.0, 8),
        (3.0, 0.0, 2),
        (1.0, 0.25, 8),
        (1.0, 0.3, 6),
        (1.0, 1.0, 2),
        (1.0, 2.0, 1),
        (1.0, 3.0, 0),
    ],
)
def test_tasks_that_fit_one_machine(cpus: float, gpus: float, slots: int) -> None:
    """Eight CPUs and two GPUs: of a third and a bit, three share each GPU."""
    assert on_ray._fit(8.0, 2.0, Ray(cpus=cpus, gpus=gpus)) == slots


def test_the_tasks_of_a_lost_node_run_again(nodes: Any, joined: Ray, tmp_path: Path) -> None:
    """A third node is lost, with its worker, when all three are at work.

    The last test: Ray takes a while to count the node out.
    """
    third = nodes.add_node(**NODE)

    def begun() -> list[list[str]]:
        """Of each item: a node and a process for each time that it began."""
        return [p.read_text().split() for p in sorted(tmp_path.glob("began-*"))]

    def remove() -> None:
        latest = time.monotonic() + 60
        while len(begun()) < 3 and time.monotonic() < latest:
            time.sleep(0.05)
        nodes.remove_node(third, allow_graceful=False)
        for words in begun():
            if words[0] == third.node_id:
                with contextlib.suppress(ProcessLookupError):  # it may have noticed already
                    os.kill(int(words[1]), signal.SIGKILL)
        (tmp_path / "removed").touch()

    remover = threading.Thread(target=remove)
    remover.start()
    found = run(ray_jobs.stranded, [(str(tmp_path), i) for i in range(5)], cluster=joined)
    remover.join()
    at = [words[::2] for words in begun()]
    lost = [third.node_id in nodes_ for nodes_ in at]
    assert sum(lost) == 1
    assert [len(nodes_) for nodes_ in at] == [1 + one for one in lost]
    assert found == [nodes_[-1] for nodes_ in at]
    assert third.node_id not in found


@pytest.mark.parametrize("command", ["sweep", "probe"])
def test_a_ray_that_does_not_start_is_one_line(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray raises a bare Exception when its node does not answer in time, as on a busy machine."""
    import ray

    def slow(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen\nbecause …")

    recipe = str(tiny.recipe_file(tmp_path))
    words = {
        "sweep": [
            "sweep",
            recipe,
            "--over",
            "task.aliases=130",
            "--out",
            str(tmp_path / "out"),
            "--seeds",
            "1",
        ],
        "probe": ["probe", str(tmp_path / "run"), "--cache-gb", "0"],
    }[command]
    if command == "probe":
        assert cli.main(["train", recipe, "--out", str(tmp_path / "run"), "--seeds", "1", "--jobs", "1"]) == 0
        capsys.readouterr()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    assert cli.main([*words, "--on", "ray"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(
        "mechocl: --on ray: Ray cannot be started here: Exception: The current node timed out"
    )
    assert last.endswith("; run the same command again, or leave out --on ray")
