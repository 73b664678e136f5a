"""Run jobs on Ray, on one or more machines. It is an optional extra: `pip install 'mechocl[cluster]'`.

Ray is imported only where it is used. The files of the jobs must be on storage that all machines share.
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
from mechocl.runs.outcomes import Outcome, do_and_keep, warn_again

RETRIES: Final = 5
"""Largest number of times that a task runs again after its worker was lost."""

_REACHABLE_S: Final = 3.0
"""Seconds to wait for a port to open."""

_ANSWER_S: Final = 15.0
"""Seconds to wait for an answer of Ray at an address; the process that asks takes one second to start."""

_LOOK_S: Final = 0.5
"""Seconds between two checks for finished tasks."""

_NOTHING: Final = Outcome(None)

_OBJECTS: Final = 200 * 2**20
"""Size of the object store of a Ray that is started here, in bytes. Items and results are small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ray:
    """The Ray cluster that runs the jobs, and the resources of each job."""

    address: str = ""
    """`host:port` of a cluster's head, or `auto` for a cluster on this machine. If empty, Ray is started here, and
    stopped at the end."""
    cpus: float = 1.0
    """Number of CPUs of a task."""
    gpus: float = 0.0
    """Number of GPUs of a task. With a number below 1, several tasks share a GPU."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.gpus) and self.gpus >= 0) or (self.gpus > 1 and self.gpus % 1):
            raise MechoclError(
                f"--gpus-per-task {self.gpus:g}: give a share between 0 and 1, or a whole number of GPUs"
            )
        if not (math.isfinite(self.cpus) and self.cpus > 0):
            raise MechoclError(f"{self.cpus:g} CPUs per task: the number must be above 0")
        if self.address not in ("", "auto") and _host_and_port(self.address) is None:
            raise MechoclError(
                f"--address {self.address}: give host:port, for example node1:6379, or auto for this machine's"
            )

    @property
    def threads(self) -> int:
        """Number of torch threads of a task."""
        return max(1, int(self.cpus))

    def device(self, asked: str) -> str:
        """Device of the tasks: cuda if they get a GPU, else cpu, whatever this machine has.

        Raises MechoclError when `asked`, the option `--device`, contradicts that.
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
        """True, since several machines may take part."""
        return True

    @contextlib.contextmanager
    def workers(self, items: int, *, device: str) -> Iterator["Nodes"]:
        """The machines of the cluster, which is joined during the block. Raises as `joined` does."""
        with joined(self) as nodes:
            yield nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Nodes:
    """The resources that a cluster has now. More machines may join it later."""

    cluster: Ray
    slots: int
    """Number of tasks that run at a time."""
    machine: str
    """The machines in words, for the record."""

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
    """The executor that the option `--on` names. Raises MechoclError for options that do not go with it."""
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
    """`[job(item, progress) for item in items]`, each item as a task of Ray with `threads` torch threads.

    `job` must be importable on the workers, and paths in the items must be absolute and on shared storage. The tasks
    of a lost worker or machine run again, up to `RETRIES` times each. So a job must be idempotent: its writes are
    atomic, and its result is the same if a part of it was done before. `done(index, result)` is called here when an
    item finishes. The first exception of a job is raised here. Like Ctrl-C, it ends the other tasks, because Ray ends
    the tasks of a process that disconnects (`joined`). Raises Fault when a task was lost too often.
    """
    with joined(cluster), progress.Display(title, names) as display, _quiet():
        import ray

        # with a GPU, Ray ends the process after its task, but not if `num_gpus` is given by `.options`. The process
        # must end, because it keeps its first GPU and the memory that it took there
        task = ray.remote(
            num_cpus=cluster.cpus, num_gpus=cluster.gpus, max_retries=RETRIES, retry_exceptions=False
        )(_task)
        outcomes: list[Outcome] = [_NOTHING] * len(items)
        pending = {task.remote(job, item, threads): index for index, item in enumerate(items)}
        while pending:
            # get all finished tasks at once: with one at a time, the work would be quadratic in the tasks
            finished, _ = ray.wait(list(pending), num_returns=len(pending), timeout=_LOOK_S)
            for reference in finished:
                index = pending.pop(reference)
                outcomes[index] = _result(reference, names[index])
                display.update(index, *outcomes[index].last)
                if done is not None:
                    done(index, outcomes[index].result)
    warn_again(outcomes)
    return [outcome.result for outcome in outcomes]


def _task(job: progress.Job, item: Any, threads: int) -> Outcome:
    """Do the job for one item, in a worker."""
    torch.set_num_threads(threads)
    return do_and_keep(job, item, lambda text, share: None)


def _result(reference: Any, name: str) -> Outcome:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        outcome: Outcome = ray.get(reference)
        return outcome
    except RayTaskError as error:
        if isinstance(error.cause, RayError):  # the job's exception could not be sent
            raise Fault(f"{name}: {describe_error(error.cause)}") from error
        raise error.cause from error
    except RayError as error:
        raise Fault(
            f"{name}: its worker was lost too often ({describe_error(error)}); run the same command again to continue"
        ) from error


@contextlib.contextmanager
def joined(cluster: Ray) -> Iterator[Nodes]:
    """Connect to Ray during the block. A process that is already connected stays connected, and its tasks go on.

    At the end of the block the process disconnects, which ends tasks that are not finished. (`ray.cancel` may abort the
    whole process when a task finishes at that moment: Ray's check `it != submissible_tasks_.end()`.) A Ray that was
    started for the block is stopped after it. Raises MechoclError when Ray is not installed, when nothing answers at
    the address, or when no machine has what a task needs; Fault when Ray does not start on this machine.
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
                address="local",  # so that RAY_ADDRESS is ignored
                num_cpus=processes.cores(),
                include_dashboard=False,
                object_store_memory=_OBJECTS,
                **quiet,
            )
    except MechoclError:
        raise
    except Exception as error:  # Ray raises a bare Exception when a node does not start in time
        if cluster.address:
            raise MechoclError(
                f"--address {cluster.address}: Ray cannot be used: {describe_error(error)}"
            ) from None
        ray.shutdown()
        raise Fault(
            f"--on ray: Ray cannot be started here: {describe_error(error)}; run the same command again, or leave out --on ray"
        ) from None
    with _quiet():
        try:
            yield _nodes(cluster)
        finally:
            ray.shutdown()


class _OneLine(io.TextIOBase):
    """Replaces stdout, to which a thread of Ray prints long messages that begin with `(raylet)`.

    These messages are dropped. A lost worker or machine becomes one line on stderr.
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
    """The resources of the cluster. Raises MechoclError when none of its machines could ever run a task."""
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
    """Number of tasks that one machine runs at a time. A task's share of a GPU is always of a single GPU."""
    by_cpus = int(cpus / cluster.cpus)
    if not cluster.gpus:
        return by_cpus
    by_gpus = int(gpus) * int(1 / cluster.gpus) if cluster.gpus <= 1 else int(gpus / cluster.gpus)
    return min(by_cpus, by_gpus)


def _check_answer(address: str) -> None:
    """Raise MechoclError within seconds unless Ray answers at an address. Ray itself would try for minutes."""
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
