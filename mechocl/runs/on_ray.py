"""The same jobs on Ray, past one machine: an optional extra, `pip install 'mechocl[cluster]'`.

Ray is imported only where it is used. The jobs' files lie on storage that all machines share.
"""

import contextlib
import io
import logging
import math
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from mechocl.errors import Fault, MechoclError, describe_error
from mechocl.runs import processes, progress

RETRIES: Final = 5
"""Times that a task runs again after its worker was lost."""

_REACHABLE_S: Final = 3.0
"""Seconds to wait for a port to open."""

_ANSWER_S: Final = 15.0
"""Seconds to wait for what listens there to answer as Ray does; the asking process takes one to start."""

_LOOK_S: Final = 0.5
"""Seconds between two looks at what has finished."""

_OBJECTS: Final = 200 * 2**20
"""Bytes of the object store of a Ray that is started here: items and results are small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """Which Ray runs the jobs, and what each of them gets."""

    address: str = ""
    """`host:port` of a cluster's head, or `auto` for one that runs here; empty: start Ray here, for the while."""
    cpus: float = 1.0
    """CPUs of a task."""
    gpus: float = 0.0
    """GPUs of a task; under 1, several tasks share one."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gpus) and self.gpus >= 0) or (self.gpus > 1 and self.gpus % 1):
            raise MechoclError(
                f"--gpus-per-task {self.gpus:g}: give a share between 0 and 1, or a whole number of GPUs"
            )
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise MechoclError(f"{self.cpus:g} CPUs per task: there must be some")
        if self.address not in ("", "auto") and _host_and_port(self.address) is None:
            raise MechoclError(
                f"--address {self.address}: give host:port, for example node1:6379, or auto for this machine's"
            )

    @property
    def threads(self) -> int:
        """Torch threads of a task."""
        return max(1, int(self.cpus))

    def device(self, asked: str) -> str:
        """Device of the tasks for `--device`, whatever this machine has: cuda if they get a GPU.

        MechoclError when the two contradict each other.
        """
        if asked == "cuda" and not self.gpus:
            raise MechoclError(
                "--device cuda --on ray: say what a task gets, for example --gpus-per-task 0.25"
            )
        if asked == "cpu" and self.gpus:
            raise MechoclError(f"--device cpu uses no GPU; leave out --gpus-per-task {self.gpus:g}")
        return "cuda" if self.gpus else "cpu"

    @property
    def shared(self) -> bool:
        """Several machines take part."""
        return True

    @contextlib.contextmanager
    def workers(self, items: int, *, device: str) -> Iterator["Nodes"]:
        """The cluster, joined for the while of the block (`joined`, which says what it raises)."""
        with joined(self) as nodes:
            yield nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """What a cluster has now; more machines may join it."""

    cluster: Ray
    slots: int
    """Tasks that run at a time."""
    machine: str
    """In words, for the record."""

    @property
    def threads(self) -> int:
        return self.cluster.threads

    def map(
        self,
        job: progress.Job,
        items: Sequence[Any],
        *,
        names: Sequence[str],
        title: str,
        threads: int,
        done: progress.Done | None = None,
    ) -> list[Any]:
        return map_tasks(
            job, items, names=names, title=title, threads=threads, cluster=self.cluster, done=done
        )


def executor_named(
    on: str, *, address: str, gpus_per_task: float, jobs: int | None
) -> "Ray | processes.Processes":
    """Who runs the jobs, by the command line's `--on`. MechoclError for options that do not go with it."""
    if on == "ray":
        if jobs:
            raise MechoclError(f"--jobs {jobs} is for this machine; on Ray as many tasks run as fit")
        return Ray(address=address, gpus=gpus_per_task)
    if address or gpus_per_task:
        option = "--address" if address else "--gpus-per-task"
        raise MechoclError(f"{option} needs --on ray")
    return processes.Processes(jobs)


def map_tasks(
    job: progress.Job,
    items: Sequence[Any],
    *,
    names: Sequence[str],
    title: str,
    threads: int,
    cluster: Ray,
    done: progress.Done | None = None,
) -> list[Any]:
    """`[job(item, progress) for item in items]`, each a task of Ray with `threads` torch threads.

    `job` must be importable on the workers, and paths in the items absolute, on shared storage. The tasks
    of a lost worker or machine run again, up to `RETRIES` times each, so a job must be idempotent: its
    writes atomic, and its work the same when a part of it was done before. `done(index, result)` is called
    here as each item finishes. The first exception of a job is raised here as itself; like Ctrl-C, it ends
    the other tasks, since Ray ends what a process left when it disconnects (`joined`). Raises Fault when a
    task was lost too often.
    """
    with joined(cluster), progress.Display(title, names) as display, _quiet():
        import ray

        # with a GPU, Ray ends the process after its task (not so if `num_gpus` came by `.options`), and so
        # it must be: a process keeps its first GPU and the memory it took there
        task = ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES, retry_exceptions=False
        )(_task)
        results: list[Any] = [None] * len(items)
        pending = {task.remote(job, item, threads): index for index, item in enumerate(items)}
        while pending:
            # all that have finished by now: asking for one at a time would be quadratic in the tasks
            finished, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_LOOK_S)
            for reference in finished:
                index = pending.pop(reference)
                results[index] = _result(reference, names[index])
                display.update(index, "done", 1.0)
                if done is not None:
                    done(index, results[index])
        return results


def _task(job: progress.Job, item: Any, threads: int) -> Any:
    """What a worker does for one item."""
    torch.set_num_threads(threads)
    return job(item, lambda text, share: None)


def _result(reference: Any, name: str) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # an exception that cannot be sent
            raise Fault(f"{name}: {describe_error(error.cause)}") from error
        raise error.cause from error
    except RayError as error:
        raise Fault(
            f"{name}: its worker was lost too often ({describe_error(error)}); run the same command again to continue"
        ) from error


@contextlib.contextmanager
def joined(cluster: Ray) -> Iterator[Nodes]:
    """Be connected to Ray during the block; a process that is connected already stays so, with its tasks.

    Tasks that are not finished at the end of the block are ended by disconnecting. (`ray.cancel` may abort
    the whole process when a task finishes at that moment: Ray's check `it != submissible_tasks_.end()`.) A
    Ray that was started for the block is stopped after it. MechoclError when Ray is not installed, when
    nothing answers at the address, or when no machine has what a task needs.
    """
    ray = _imported()
    if ray.is_initialized():
        yield _nodes(cluster)
        return
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        if cluster.address:
            _check_answer(cluster.address)
            ray.init(address=cluster.address, **quiet)
        else:
            ray.init(
                address="local",  # whatever RAY_ADDRESS says
                num_cpus=processes.cores(),
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                **quiet,
            )
    except (OSError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"--address {cluster.address}" if cluster.address else "--on ray"
        raise MechoclError(f"{where}: Ray cannot be used: {describe_error(error)}") from None
    with _quiet():
        try:
            yield _nodes(cluster)
        finally:
            ray.shutdown()


class _OneLine(io.TextIOBase):
    """Stands before stdout, where a thread of Ray prints at length what it notices, each time `(raylet) …`.

    Nothing of that comes through; a lost worker or machine becomes one line on stderr.
    """

    def __init__(self, stdout: Any) -> None:
        self.stdout = stdout
        self.dropped = False

    def write(self, text: str) -> int:
        newline_of_dropped = self.dropped and text == "\n"
        self.dropped = "(raylet)" in text
        if self.dropped:
            if " died " in text or "terminated" in text:
                print("a worker was lost; its tasks run again", file=sys.stderr, flush=True)
        elif not newline_of_dropped:
            self.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        self.stdout.flush()


def _quiet() -> contextlib.AbstractContextManager[Any]:
    return contextlib.redirect_stdout(_OneLine(sys.stdout))


def _imported() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports over the network
    try:
        import ray
    except ImportError:
        raise MechoclError("--on ray needs Ray; install it with pip install 'mechocl[cluster]'") from None
    return ray


def _nodes(cluster: Ray) -> Nodes:
    """What the cluster has; MechoclError when no machine of it could ever run a task."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus, gpus = ([float(node.get(kind, 0.0)) for node in found] for kind in ("CPU", "GPU"))
    slots = sum(_fit(c, g, cluster) for c, g in zip(cpus, gpus, strict=True))
    if not slots:
        raise MechoclError(
            f"a task needs {_amount(cluster.cpus, 'CPU')} and {_amount(cluster.gpus, 'GPU')}, and no machine of "
            f"the Ray cluster has them: it has at most {_amount(max(cpus, default=0.0), 'CPU')} and "
            f"{_amount(max(gpus, default=0.0), 'GPU')} in one"
        )
    machine = (
        f"Ray: {_amount(float(len(found)), 'node')}, {_amount(sum(cpus), 'CPU')}, {_amount(sum(gpus), 'GPU')}"
    )
    return Nodes(cluster=cluster, slots=slots, machine=machine)


def _fit(cpus: float, gpus: float, cluster: Ray) -> int:
    """Tasks that one machine runs at a time; a task's share of a GPU is never of two."""
    by_cpus = int(cpus / cluster.cpus)
    if not cluster.gpus:
        return by_cpus
    by_gpus = int(gpus) * int(1 / cluster.gpus) if cluster.gpus <= 1 else int(gpus / cluster.gpus)
    return min(by_cpus, by_gpus)


def _check_answer(address: str) -> None:
    """MechoclError within seconds unless Ray answers at an address; Ray itself would try for minutes."""
    start = "start Ray there (ray start --head), or correct --address"
    place = _host_and_port(address)
    if place is not None:
        try:
            socket.create_connection(place, timeout=_REACHABLE_S).close()
        except OSError as error:
            raise MechoclError(
                f"--address {address}: nothing answers ({describe_error(error)}); {start}"
            ) from None
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise MechoclError(
            f"--address {address}: what listens there does not answer as Ray; {start}"
        ) from None
    if "AuthenticationError" in asked.stderr:
        raise MechoclError(
            f"--address {address}: Ray there asks for another token; set RAY_AUTH_MODE=token here, with the "
            "cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
        )
    if asked.returncode:
        if place is None:
            raise MechoclError(f"--address {address}: no Ray runs on this machine; {start}")
        why = " ".join(asked.stderr.rpartition("Error: ")[2].split())
        raise MechoclError(f"--address {address}: Ray cannot be used: {why}")


def _host_and_port(address: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"\[?([^/\[\]]+?)\]?:(\d{1,5})", address)
    return (found[1], int(found[2])) if found and int(found[2]) < 2**16 else None


def _amount(count: float, unit: str) -> str:
    return f"{count:g} {unit}{'' if count == 1 else 's'}"
