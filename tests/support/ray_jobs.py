"""Jobs for Ray's workers, in a module that they can import quickly."""

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from mechocl.errors import MechoclError
from mechocl.runs.progress import Progress

if TYPE_CHECKING:
    from mechocl.analyses import probe_sweep
    from mechocl.runs import sweeps


def square(item: int, progress: Progress) -> tuple[int, int]:
    progress("squaring", 0.5)
    if item == -1:
        raise MechoclError("item -1: give another")
    if item == -2:
        raise OSError(28, "No space left on device", "a file")
    progress("squared", 1.0)
    return item**2, torch.get_num_threads()


def logged(item: tuple[str, int, str], progress: Progress) -> int:
    """Append a line when it begins; with `kill`, be killed the first time, as by a machine that fails."""
    folder, number, what = Path(item[0]), item[1], item[2]
    with (folder / f"began-{number}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    first = len((folder / f"began-{number}").read_text().split()) == 1
    if what == "kill" and (first or number == 99):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "wait":
        time.sleep(60)
    return number


def stranded(item: tuple[str, int], progress: Progress) -> str:
    """Say where it begins, and in which process; end when a node was removed, and return where."""
    import ray

    folder, number = Path(item[0]), item[1]
    node = str(ray.get_runtime_context().get_node_id())
    with (folder / f"began-{number}").open("a") as file:
        file.write(f"{node} {os.getpid()}\n")
    latest = time.monotonic() + 60
    while not (folder / "removed").exists() and time.monotonic() < latest:
        time.sleep(0.05)
    return node


def gpu(item: Path, progress: Progress) -> tuple[str, bool]:
    """The GPU that a task may see, and whether another task has it at the same time."""
    (item / f"{os.getpid()}").touch()
    latest = time.monotonic() + 30
    while len(list(item.iterdir())) < 2 and time.monotonic() < latest:
        time.sleep(0.05)
    return os.environ["CUDA_VISIBLE_DEVICES"], len(list(item.iterdir())) == 2


def train_or_be_killed(job: "sweeps.Job", progress: Progress) -> tuple[str, ...]:
    """`sweeps.do`, but the second job is killed the first time when it has trained one of its runs."""
    from mechocl.runs import sweeps

    marker = Path(job.path) / "killed"
    if job.runs[0].setting["task.word_order"] == "VTE" and not marker.exists():
        marker.touch()
        sweeps.train_job(sweeps.Job(job.path, job.runs[:1], job.device), progress)
        os.kill(os.getpid(), signal.SIGKILL)
    return sweeps.train_job(job, progress)


def probe_or_be_killed(unit: "probe_sweep.Unit", progress: Progress) -> None:
    """`probe_sweep.do`, but the second seed's worker is killed the first time, its result saved and not reported."""
    from mechocl.analyses import probe_sweep

    probe_sweep.probe_unit(unit, progress)
    marker = Path(unit.run) / "killed"
    if unit.checkpoint.seed == 1 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
