"""Jobs, what executes them, and how their progress is reported and shown."""

import sys
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
    TimeRemainingColumn,
)

Progress = Callable[[str, float], None]
"""A function of what is being done, in words, and of the share of it that is done, 0 … 1."""

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

_MOST_BARS: Final = 20
"""Largest number of jobs that each get a bar on a terminal. More jobs share a single bar."""


class Display:
    """Progress bars on a terminal, or else plain lines at intervals. They go to stderr."""

    def __init__(self, title: str, names: Sequence[str]) -> None:
        self.title = title
        self.names = names
        self.shares = [0.0] * len(names)
        self.started = self.last_line = time.monotonic()
        self.console = Console(stderr=True)
        self.bars: Bars | None = None
        self.ids: list[TaskID] = []

    def __enter__(self) -> "Display":
        if self.console.is_terminal:
            self.bars = Bars(
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

    def reporter(self, index: int) -> Progress:
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
        """Estimated time left, in words; empty until enough is done to estimate it."""
        done = sum(self.shares) / len(self.shares)
        spent = time.monotonic() - self.started
        return f", about {spent * (1 - done) / done:.0f} s left" if done > 0.02 else ""

    def _seconds(self) -> str:
        return f"{time.monotonic() - self.started:.0f} s"


def seeds_in_words(seeds: tuple[int, ...]) -> str:
    """Seeds in words: `seed 3`, or `seeds 0–3`."""
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]}–{seeds[-1]}"
