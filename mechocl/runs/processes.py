"""Run a job for several items in processes of this machine, with one display of their progress."""

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from mechocl.errors import Fault
from mechocl.models.seam import resolve_device
from mechocl.runs.outcomes import Outcome, do_and_keep, warn_again
from mechocl.runs.progress import Display, Done, Job, Workers
from mechocl.runs.recipes import AnyRecipe

_messages: Any = None  # set in worker processes


@dataclass(frozen=True, slots=True)
class Processes:
    """Executor that runs jobs in processes of this machine."""

    jobs: int | None = None
    """Number of jobs at a time. None means one job for each core on the CPU, and one job on a GPU."""

    @property
    def shared(self) -> bool:
        """False, since only this machine takes part."""
        return False

    def device(self, asked: str) -> str:
        """Device of the jobs for the option `--device`. Raises MechoclError as `seam.resolve_device` does."""
        return resolve_device(asked)

    @contextlib.contextmanager
    def workers(self, items: int, *, device: str) -> Iterator[Workers]:
        yield LocalWorkers(max(1, min(self.jobs or default_jobs(items, device), items)))


@dataclass(frozen=True, slots=True)
class LocalWorkers:
    """Worker processes of this machine. With a single slot everything runs in this process."""

    slots: int

    @property
    def threads(self) -> None:
        return None

    @property
    def machine(self) -> None:
        return None

    def map(
        self,
        job: Job,
        items: Sequence[Any],
        *,
        names: Sequence[str],
        title: str,
        threads: int,
        done: Done | None = None,
    ) -> list[Any]:
        jobs = min(self.slots, len(items))
        return map_jobs(job, items, names=names, title=title, jobs=jobs, threads=threads, done=done)


def map_jobs(
    job: Job,
    items: Sequence[Any],
    *,
    names: Sequence[str],
    title: str,
    jobs: int,
    threads: int,
    done: Done | None = None,
) -> list[Any]:
    """`[job(item, progress) for item in items]`, `jobs` at a time, each with `threads` torch threads.

    `job` must be importable. With `jobs=1` everything runs in this process. `done(index, result)` is called in this
    process when an item finishes. Items finish in any order. The first exception of a job ends the other jobs and is
    raised here; Ctrl-C ends them, too. Raises Fault when a process was killed.
    """
    with Display(title, names, at_a_time=jobs) as display:
        if jobs == 1:
            return _run_here(job, items, display, threads, done)
        return _run_in_processes(job, items, display, jobs, threads, done)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Inside, torch uses this number of threads; afterwards it uses as many as before.

    The number of threads changes the last bits of a matrix product, so whoever changes it must put it back.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run_here(
    job: Job, items: Sequence[Any], display: "Display", threads: int, done: Done | None
) -> list[Any]:
    results = []
    with torch_threads(threads):
        for index, item in enumerate(items):
            results.append(job(item, display.reporter(index)))
            if done is not None:
                done(index, results[-1])
    return results


def _run_in_processes(
    job: Job, items: Sequence[Any], display: "Display", jobs: int, threads: int, done: Done | None
) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    messages = context.Queue()
    pool = ProcessPoolExecutor(
        jobs, mp_context=context, initializer=_start_worker, initargs=(messages, threads)
    )
    try:
        # Ctrl-C while the workers start would show their tracebacks
        with _interrupts_held(), _script_hidden(job):
            futures: dict[Future[Outcome], int] = {
                pool.submit(_in_worker, job, item, i): i for i, item in enumerate(items)
            }
            # wakes the pool once more: it watches only the workers that it knew when it last woke up
            pool.submit(int)
        with _drained(messages, display):
            for future in as_completed(futures):
                outcome, index = future.result(), futures[future]
                display.update(index, *outcome.last)
                if done is not None:
                    done(index, outcome.result)
    except BrokenProcessPool:
        raise Fault(
            "a worker process was killed (out of memory?); run the same command again to continue"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.kill()  # at once, also while it starts
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    outcomes = [future.result() for future in futures]
    warn_again(outcomes)
    return [outcome.result for outcome in outcomes]


@contextlib.contextmanager
def _script_hidden(job: Job) -> Iterator[None]:
    """Let processes that start in the block not run the user's script again, unless the job is defined in it.

    A spawned process imports the file of `__main__`, which would end in an error where a script calls mechocl outside of
    `if __name__ == "__main__":`. Jobs are imported by name, so they do not need it.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    if getattr(job, "__module__", None) == "__main__":
        hidden = {}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C and SIGTERM during the block until its end. Processes that are started in the block never see Ctrl-C."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _drained(messages: Any, display: "Display") -> Iterator[None]:
    """Show the workers' messages, from a thread, during the block."""
    stop = threading.Event()

    def show() -> None:
        while not stop.is_set():
            with contextlib.suppress(queue.Empty):
                index, text, share = messages.get(timeout=0.2)
                display.update(index, text, share)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _start_worker(messages: Any, threads: int) -> None:
    global _messages
    _messages = messages
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker at once when its parent was killed, since nobody would read its results."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _in_worker(job: Job, item: Any, index: int) -> Outcome:
    last = 0.0

    def progress(text: str, share: float) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last > 0.25:
            last = time.monotonic()
            _messages.put((index, text, share))

    _messages.put((index, "starting", math.nan))  # a job that waited for its turn has it now
    return do_and_keep(job, item, progress)


def default_threads(recipe: AnyRecipe, jobs: int) -> int:
    """Number of torch threads of a job: its share of the cores, or one for a small model.

    Small matrix products gain nothing from a second thread. On a busy machine, threads that wait for each other cost
    much time.
    """
    return 1 if recipe.small else max(1, cores() // jobs)


def default_jobs(n_seeds: int, device: str) -> int:
    """Number of processes: one for each core on the CPU, but at most one for each seed; one on a GPU."""
    return 1 if device.startswith("cuda") else max(1, min(cores(), n_seeds))


def default_together(recipe: AnyRecipe, n_seeds: int, jobs: int, device: str) -> int:
    """Number of seeds in a stack: all seeds on a GPU; on a CPU an even share for each process.

    On a CPU, several small models together use the processor better than one (`benchmarks/training.py`). More than
    eight gain nothing, and large models gain nothing at all.
    """
    if not recipe.stackable:
        return 1
    if device.startswith("cuda"):
        return min(n_seeds, 32)
    if not recipe.small:
        return 1
    return max(1, min(8, math.ceil(n_seeds / jobs)))
