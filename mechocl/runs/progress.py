"""Jobs, what executes them, and how their progress is reported and shown."""

import math
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, runtime_checkable

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress as Bars,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

Progress = Callable[[str, float], None]
"""A function of what is being done, in words, and of the share of it that is done, 0 … 1.

The share that is given first is what was done before, by a process that was stopped. NaN means that it is not known yet."""

Job = Callable[[Any, Progress], Any]
"""A function of one item. It must be importable by its name, so that another process can call it."""

Done = Callable[[int, Any], None]
"""A function of an item's index and result, which is called when the item has finished."""


@runtime_checkable
class Workers(Protocol):
    """Workers that execute jobs now."""

    @property
    def slots(self) -> int:
        """Number of jobs that run at a time."""
        ...

    @property
    def threads(self) -> int | None:
        """Number of torch threads of each job; None if the caller of `map` chooses it."""
        ...

    @property
    def machine(self) -> str | None:
        """The machines of these workers, in words for the record; None for this machine."""
        ...

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
        """`[job(item, progress) for item in items]`, as many at a time as there are slots.

        `done(index, result)` is called in this process when an item finishes. Items finish in any order. The first
        exception of a job ends the other jobs and is raised here. Raises Fault when a job was lost.
        """
        ...


@runtime_checkable
class Executor(Protocol):
    """Where jobs run: in processes of this machine (`processes.Processes`), or as tasks of Ray (`on_ray.Ray`)."""

    @property
    def shared(self) -> bool:
        """Whether several machines take part. Then paths must be absolute and on storage that all machines share."""
        ...

    def device(self, asked: str) -> str:
        """Device of the jobs for the option `--device`: auto, cpu or cuda. Raises MechoclError for a missing device."""
        ...

    def workers(self, items: int, *, device: str) -> AbstractContextManager[Workers]:
        """Workers for this number of items on a device. They exist until the block ends."""
        ...


_PLAIN_EVERY_S: Final = 15.0

_LONG_S: Final = 60.0
"""Seconds from which on the time that is left is said as soon as it can be estimated."""

_MOST_BARS: Final = 20
"""Largest number of jobs that each get a bar on a terminal. More jobs share a single bar."""


class Display:
    """Progress bars on a terminal, or else plain lines at intervals. They go to stderr.

    It shows how long the jobs have been at work also while none of them reports, and how long they will still take as
    soon as that can be estimated: by the pace since they began here, whatever was done before.
    """

    def __init__(
        self,
        title: str,
        names: Sequence[str],
        *,
        at_a_time: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`at_a_time`: number of jobs that begin at once, while the others wait for their turn; None means all."""
        self.title = _one_line(title)
        self.names = [_one_line(name) for name in names]
        self.shares = [0.0] * len(names)
        at_once = len(names) if at_a_time is None else at_a_time
        self.doing = ["starting" if index < at_once else "waiting" for index in range(len(names))]
        self.clock = clock
        self.started = self.last_line = clock()
        self.console = Console(stderr=True)
        self.bars: Bars | None = None
        self.ids: list[TaskID] = []
        self._done_before: dict[int, float] = {}
        self._latest = 0
        self._said_how_long = False
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bars = Bars(
                TextColumn("{task.description}", markup=False),  # brackets in a name are no markup
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[what]}", style="dim", markup=False),
                console=self.console,
            )
            self.bars.start()
            shown = self.names if len(self.names) <= _MOST_BARS else ()
            self.ids = [
                self.bars.add_task(name, total=1.0, what=what)
                for name, what in zip(shown, self.doing, strict=False)
            ]
            self.total = self.bars.add_task(self.title, total=float(len(self.names)), what="")
        else:
            shown = [*self.names[:_MOST_BARS], "…"] if len(self.names) > _MOST_BARS else self.names
            print(f"{self.title}: {', '.join(shown)}", file=sys.stderr, flush=True)
            threading.Thread(target=self._go_on, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        with self._lock:  # no line of progress comes after the last one
            if self.bars is not None:
                self.bars.stop()
            elif kind is None:
                print(f"{self.title}: {self._percent()} after {self._spent()}", file=sys.stderr, flush=True)

    def reporter(self, index: int) -> Progress:
        return lambda text, share: self.update(index, text, share)

    def update(self, index: int, text: str, share: float) -> None:
        """Show what a job does now, and the share of it that is done. A smaller share than before is not shown."""
        with self._lock:
            if math.isnan(share):
                share = self.shares[index]
            else:
                # the first one is what an earlier process has done; a job that is done at once did it here
                self._done_before.setdefault(index, share if share < 1 else 0.0)
            share = max(share, self.shares[index])  # a worker's last messages may come after its result
            self.shares[index], self.doing[index], self._latest = share, text, index
            if self.bars is not None:
                if self.ids:
                    self.bars.update(self.ids[index], completed=share, what=text)
                self.bars.update(self.total, completed=sum(self.shares), what=self._left().removeprefix(", "))
            else:
                self._say()

    def _go_on(self) -> None:
        """Say how it stands at intervals, also while no job reports."""
        while not self._over.wait(max(_PLAIN_EVERY_S, 0.1)):
            with self._lock:
                if not self._over.is_set():
                    self._say()

    def _say(self) -> None:
        """Print a line if the last one was a while ago, or if it can now be said that the jobs take long."""
        seconds = self._seconds_left()
        news = seconds is not None and seconds >= _LONG_S and not self._said_how_long
        if not news and self.clock() - self.last_line < _PLAIN_EVERY_S:
            return
        self._said_how_long |= seconds is not None
        self.last_line = self.clock()
        where = f"{self.names[self._latest]}: {self.doing[self._latest]}"
        left = self._left() or f", {self._spent()} so far" * (self.clock() - self.started >= 1)
        print(f"{self.title}: {self._percent()}{left} ({where})", file=sys.stderr, flush=True)

    def _percent(self) -> str:
        return f"{100 * sum(self.shares) / len(self.shares):.0f} %"

    def _seconds_left(self) -> float | None:
        """Estimated seconds left, from what was done here; None until that is enough to estimate it."""
        before = sum(self._done_before.values())
        here, left = sum(self.shares) - before, len(self.shares) - sum(self.shares)
        if here <= 0.02 * len(self.shares):
            return None
        return (self.clock() - self.started) * left / here

    def _left(self) -> str:
        """The estimated time left, in words; empty until it can be estimated."""
        seconds = self._seconds_left()
        return "" if seconds is None else f", about {_time_in_words(seconds)} left"

    def _spent(self) -> str:
        return _time_in_words(self.clock() - self.started)


def _one_line(text: str) -> str:
    """A name as one line, whatever it holds: those of runs and of files may hold line breaks."""
    return " ".join(text.split())


def say_how_long(what: str, seconds: float | None, *, known_from: str) -> None:
    """Say on stderr, before work of minutes begins, about how long it takes and from what that is known.

    Nothing is said of work of less than a minute, and of work that nothing is known of (None): `Display` says how long
    it takes as soon as a part of it was measured.
    """
    if seconds is not None and seconds >= _LONG_S:
        print(f"{what}: about {_time_in_words(seconds)}, by {known_from}", file=sys.stderr, flush=True)


def _time_in_words(seconds: float) -> str:
    """Seconds in words: `45 s`, `12 min`, `3.5 h`, `2.1 days`."""
    for unit, length, limit in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < limit:
            return f"{seconds / length:.{int(unit == 'h')}f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def seeds_in_words(seeds: tuple[int, ...]) -> str:
    """Seeds in words: `seed 3`, or `seeds 0–3`."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}–{seeds[-1]}"
