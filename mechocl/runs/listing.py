"""The runs that a folder holds, and how far each of them is. What is in order is read without importing torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechocl.errors import MechoclError
from mechocl.runs.makers import makers, mixed_versions
from mechocl.runs.manifest import check_manifest, refuse_sweep
from mechocl.seals import check_seal


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedRun:
    """One run in a list of runs."""

    path: Path
    recipe: str
    state: str
    """In words, how many of its seeds are trained, and how many failed."""
    created: str
    """Time when the run was started, in ISO 8601."""
    mixed: str
    """In one line, which seeds were made by which versions and machines; "" if all were made by the same."""


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
            readable.append(_at_a_glance(path) or _opened(path))
        except MechoclError as error:
            unreadable.append(str(error))
    return Listing(readable=tuple(readable), unreadable=tuple(unreadable))


def find_runs(folder: Path) -> list[Path]:
    """The folders of runs directly inside a folder (or the folder itself), sorted by name.

    Raises MechoclError when it is not a folder.
    """
    if (folder / "manifest.json").exists():
        return [folder]
    if not folder.is_dir():
        raise MechoclError(f"{folder} is not a folder; give one that holds runs")
    return [path.parent for path in sorted(folder.glob("*/manifest.json"))]


def _at_a_glance(path: Path) -> ListedRun | None:
    """A run by its JSON files alone; None if any of them is not as it should be. Raises MechoclError for a sweep."""
    try:
        found = _read(path / "manifest.json")
    except (OSError, ValueError, RecursionError):
        return None
    refuse_sweep(found, path)
    try:
        manifest = check_manifest(found, path / "manifest.json")
        stages = len(manifest["recipe"]["training"]["stages"])
        wanted = {f"stage-{number + 1}/history.parquet" for number in range(stages)}
        ledgers = [path / f"seed-{seed}" / "checksums.json" for seed in manifest["seeds"]]
        files = [set(_read(ledger)) if ledger.exists() else set() for ledger in ledgers]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    done, failed = sum(wanted <= names for names in files), sum("failed.json" in names for names in files)
    return _listed(path, manifest, done, failed, len(files))


def _opened(path: Path) -> ListedRun:
    """A run as it is opened for an analysis. Raises MechoclError that says why it cannot be read."""
    from mechocl.runs.run import Run

    run = Run.open(path)
    done = sum(run.seed(seed).finished() for seed in run.seeds)
    return _listed(path, run.manifest, done, len(run.failures()), len(run.seeds))


def _listed(path: Path, manifest: dict[str, Any], done: int, failed: int, seeds: int) -> ListedRun:
    state = f"{done} of {seeds} seeds" + (f", {failed} failed" if failed else "")
    recipe, created = str(manifest["recipe_name"]), str(manifest["created"])
    mixed = mixed_versions(makers(manifest))
    return ListedRun(path=path, recipe=recipe, state=state, created=created, mixed=mixed)


def _read(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    check_seal(path, content, remedy="")
    found = json.loads(content.decode("utf-8"))
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no table")
    return found
