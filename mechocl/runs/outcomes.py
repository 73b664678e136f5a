"""What a job in another process returns, and what it said: its warnings, and its last report of progress."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mechocl.runs.progress import Job, Progress


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning in a form that can be sent to another process."""

    text: str
    category: type[Warning]
    filename: str
    lineno: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a job returned, and what it said."""

    result: Any
    warned: tuple[Warned, ...] = ()
    last: tuple[str, float] = ("done", 1.0)
    """Its last report of progress. Its share is below 1 when the job left something to another process."""


def do_and_keep(job: Job, item: Any, progress: Progress) -> Outcome:
    """Do a job in a worker, and keep what it says."""
    last = ("done", 1.0)

    def report(text: str, share: float) -> None:
        nonlocal last
        last = (text, share)
        progress(text, share)

    with warnings.catch_warnings(record=True) as kept:
        result = job(item, report)
    told = (Warned(str(one.message), one.category, one.filename, one.lineno) for one in kept)
    return Outcome(result, tuple(dict.fromkeys(told)), last)


def warn_again(outcomes: Sequence[Outcome]) -> None:
    """Raise the warnings of jobs in this process, each once."""
    for one in dict.fromkeys(one for outcome in outcomes for one in outcome.warned):
        warnings.warn_explicit(one.text, one.category, one.filename, one.lineno)
