"""The same job for several seeds, in processes of their own, with one progress display."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mechocl.errors import Fault

if TYPE_CHECKING:
    from mechocl.runs.on_ray import Ray

Report = Callable[[str, float], None]
Job = Callable[[Any, Report], Any]
Done = Callable[[int, Any], None]
"""What is called with an item's index and result when it has finished."""

_PLAIN_EVERY_S: Final = 15.0
_MOST_BARS: Final = 20
"""Jobs that get a bar of their own on a terminal, beside that of all; of more, none does."""

_messages: Any = None  # set in worker processes


def run(
    job: Job,
    items: Sequence[Any],
    *,
    names: Sequence[str],
    title: str,
    jobs: int,
    threads: int,
    cluster: "Ray | None" = None,
    done: Done | None = None,
) -> list[Any]:
    """`[job(item, report) for item in items]`, `jobs` at a time, each with `threads` torch threads.

    `job` must be importable. With `jobs=1` everything runs in this process; with a `cluster` everything
    runs there, as many at a time as fit (`mechocl.runs.on_ray.run`, which says what a job must be like).
    `done(index, result)` is called in this process as each item finishes, in no certain order. The first
    exception of a job ends the others and is raised here; Ctrl-C ends them too. Raises Fault when a process
    was killed.
    """
    if cluster is not None:
        from mechocl.runs import on_ray as remote

        return remote.run(job, items, names=names, title=title, threads=threads, cluster=cluster, done=done)
    with Display(title, names) as display:
        if jobs == 1:
            return _run_here(job, items, display, threads, done)
        return _run_in_processes(job, items, display, jobs, threads, done)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _run_here(
    job: Job, items: Sequence[Any], display: "Display", threads: int, done: Done | None
) -> list[Any]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    results = []
    try:
        for index, item in enumerate(items):
            results.append(job(item, display.reporter(index)))
            if done is not None:
                done(index, results[-1])
    finally:
        torch.set_num_threads(before)
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
        with _interrupts_held():  # for the workers: Ctrl-C while they start would show their tracebacks
            futures: dict[Future[Any], int] = {
                pool.submit(_in_worker, job, item, i): i for i, item in enumerate(items)
            }
            pool.submit(
                int
            )  # the pool watches the workers that it knew at its last wake-up: not yet the last
        with _drained(messages, display):
            for future in as_completed(futures):
                result, index = future.result(), futures[future]
                display.update(index, "done", 1.0)
                if done is not None:
                    done(index, result)
    except BrokenProcessPool:
        raise Fault(
            "a worker process was killed (out of memory?); run the same command again to continue"
        ) from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return [future.result() for future in futures]


@contextlib.contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C during the block arrives after it; processes started in the block never see it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _drained(messages: Any, display: "Display") -> Iterator[None]:
    """Show the workers' messages from a thread while the block runs."""
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
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker at once when its parent was killed: nobody would read its results."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _in_worker(job: Job, item: Any, index: int) -> Any:
    last = 0.0

    def report(text: str, share: float) -> None:
        nonlocal last
        if share >= 1 or time.monotonic() - last > 0.25:
            last = time.monotonic()
            _messages.put((index, text, share))

    return job(item, report)


class Display:
    """Progress bars on a terminal; a plain line now and then otherwise. Writes to stderr."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self.title = title
        self.names = names
        self.shares = [0.0] * len(names)
        self.started = self.last_line = time.monotonic()
        self.console = Console(stderr=True)
        self.bars: Progress | None = None
        self.ids: list[TaskID] = []

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bars = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
                TextColumn("[dim]{task.fields[what]}"),
                console=self.console,
            )
            self.bars.start()
            shown = self.names if len(self.names) <= _MOST_BARS else ()
            self.ids = [self.bars.add_task(name, total=1.0, what="waiting") for name in shown]
            self.total = self.bars.add_task(f"[bold]{self.title}", total=float(len(self.names)), what="")
        else:
            shown = [*self.names[:_MOST_BARS], "…"] if len(self.names) > _MOST_BARS else self.names
            print(f"{self.title}: {', '.join(shown)}", file=sys.stderr, flush=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()
        elif kind is None:
            print(f"{self.title}: {self._percent()} after {self._seconds()}", file=sys.stderr, flush=True)

    def reporter(self, index: int) -> Report:
        return lambda text, share: self.update(index, text, share)

    def update(self, index: int, text: str, share: float) -> None:
        share = max(share, self.shares[index])  # a worker's last messages may come after its result
        self.shares[index] = share
        if self.bars is not None:
            if self.ids:
                self.bars.update(self.ids[index], completed=share, what=text)
            self.bars.update(self.total, completed=sum(self.shares))
        elif time.monotonic() - self.last_line > _PLAIN_EVERY_S:
            self.last_line = time.monotonic()
            line = f"{self.title}: {self._percent()}{self._left()} ({self.names[index]}: {text})"
            print(line, file=sys.stderr, flush=True)

    def _percent(self) -> str:
        return f"{100 * sum(self.shares) / len(self.shares):.0f} %"

    def _left(self) -> str:
        """Time left, once enough is done to tell."""
        done = sum(self.shares) / len(self.shares)
        spent = time.monotonic() - self.started
        return f", about {spent * (1 - done) / done:.0f} s left" if done > 0.02 else ""

    def _seconds(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"
