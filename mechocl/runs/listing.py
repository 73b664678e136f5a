"""The runs that a folder holds, and how far each of them is."""

from dataclasses import dataclass
from pathlib import Path

from mechocl.errors import MechoclError
from mechocl.runs.run import Run, find_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """One run in a list of runs."""

    path: Path
    recipe: str
    state: str
    """In words, how many of its seeds are trained, and how many failed."""
    created: str
    """Time when the run was started, in ISO 8601."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """The runs of a folder."""

    readable: tuple[ListedRun, ...]
    unreadable: tuple[str, ...]
    """For each run that cannot be read, one line that says why."""


def list_runs(folder: Path) -> Listing:
    """The runs directly inside a folder, sorted by name. Raises MechoclError when it is not a folder."""
    readable = []
    unreadable = []
    for path in find_runs(folder):
        try:
            run = Run.open(path)
            failed = run.failures()
            done = sum(run.seed(seed).finished() for seed in run.seeds)
        except MechoclError as error:
            unreadable.append(str(error))
            continue
        state = f"{done} of {len(run.seeds)} seeds" + (f", {len(failed)} failed" if failed else "")
        readable.append(
            ListedRun(path=path, recipe=run.recipe_name, state=state, created=run.manifest["created"])
        )
    return Listing(readable=tuple(readable), unreadable=tuple(unreadable))
