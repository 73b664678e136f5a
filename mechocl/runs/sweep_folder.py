"""A sweep's folder: its manifest, one row for each finished run, and one table of all rows.

DIR/
  manifest.json            the recipe that the settings change, versions, machine
  rows/<setting>-<seed>.json   one finished run: its setting, and what came out or why it failed
  locks/                   runs that a process is training right now
  table.parquet            the rows as one table, written now and then, and when a sweep ends"""

import contextlib
import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import __version__, files
from mechocl.errors import MechoclError, note
from mechocl.runs import provenance, recipes
from mechocl.runs.recipes import Recipe

SCHEMA: Final = 1

_PLACE: Final = "place"
"""Key in a row of a hash of its sweep's recipe, and of the name of its file."""


_LOCK_PATIENCE_S: Final = 10.0
"""Seconds to wait for another process that is writing the manifest or the table."""


_TABLE_EVERY_S: Final = 30.0
"""Seconds between two writings of the table while a sweep is going on."""


_SHOW_S: Final = 90.0
"""Seconds until a row that another machine wrote must be visible here. Network file systems may show the old content of
a folder for up to a minute."""


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One run of a sweep: a setting and a seed."""

    setting: dict[str, Any]
    """Value of each swept field."""
    recipe: Recipe[Any]
    seed: int

    @property
    def in_words(self) -> str:
        """The setting, such as `word_order=TVE learning_rate=0.01`."""
        return " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.setting.items())

    @property
    def name(self) -> str:
        """Name of the file of the run's row."""
        return f"{files.fingerprint(recipes.plain(self.recipe))}-{self.seed}"


def start_sweep(
    path: Path,
    recipe: Recipe[Any],
    *,
    recipe_name: str,
    device: str,
    machine: str | None = None,
    trains: bool = True,
) -> None:
    """Make the directory, or check that it holds a sweep of the same recipe on the same device.

    `machine` says for the record where the sweep is computed; by default on this machine. If something is
    trained (`trains`) by other versions or on another machine than the sweep was begun with, a line on stderr says so.
    Raises MechoclError when the directory holds anything else.
    """
    if path.exists() and not _may_hold_a_sweep(path):
        raise MechoclError(f"{path} exists and is not a sweep; choose another --out")
    files.remove_temporary(path)
    with files.locked(path / "locks" / "manifest", patience=_LOCK_PATIENCE_S):
        if (path / "manifest.json").exists():
            manifest = read_manifest(path)
            if manifest["recipe"] != recipes.plain(recipe):
                raise MechoclError(
                    f"{path} holds a sweep of another recipe; choose another --out, or delete it"
                )
            if manifest["device"] != device:
                raise MechoclError(
                    f"{path} was started on {manifest['device']}, not {device}; continue it there, "
                    "or choose another --out"
                )
            if trains and (differing := _differing(manifest, _made_by(device, machine))):
                note(f"{path} was begun with {differing}; what is missing is trained here and now")
            return
        manifest = {
            "schema": SCHEMA,
            "kind": "sweep",
            "recipe_name": recipe_name,
            "recipe": recipes.plain(recipe),
            "device": device,
            **_made_by(device, machine),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        files.write_json(path / "manifest.json", manifest)


def _made_by(device: str, machine: str | None) -> dict[str, Any]:
    return {
        "machine": machine or provenance.machine(device),
        "version": __version__,
        "torch": torch.__version__,
        "git": provenance.git_state(),
    }


def _differing(manifest: dict[str, Any], made_by: dict[str, Any]) -> str:
    """What a sweep was begun with, in words, and only what is another one now; "" if nothing is."""
    git = manifest.get("git") or {}
    changed = f" with changes {git['dirty'][:6]}" if git.get("dirty") else ""
    words = {
        "machine": str(manifest.get("machine")),
        "version": f"mechocl {manifest.get('version')}",
        "torch": f"torch {manifest.get('torch')}",
        "git": f"commit {git['commit'][:10]}{changed}" if git else "no commit",
    }
    return ", ".join(words[key] for key, value in made_by.items() if manifest.get(key) != value)


def _may_hold_a_sweep(path: Path) -> bool:
    """Whether a path is a sweep, one that lost its manifest, an empty folder, or the remains of one killed at its start."""
    if not path.is_dir():
        return False
    if (path / "manifest.json").exists():
        return bool(read_manifest(path))
    if _has_rows(path):  # of which each says which sweep it is of
        return True
    return all(p.name == "locks" or files.is_temporary(p) for p in path.iterdir())


def _has_rows(path: Path) -> bool:
    return any((path / "rows").glob("*.json"))


def read_manifest(path: Path) -> dict[str, Any]:
    """A sweep's manifest. Raises MechoclError when the folder is not a sweep that this version can read."""
    if not (path / "manifest.json").exists():
        if _has_rows(path):
            raise MechoclError(
                f"{path} has lost its manifest.json; restore it, or give the command that made it again, which writes it"
            )
        raise MechoclError(f"{path} is not a sweep: it has no manifest.json")
    manifest = files.read_json(path / "manifest.json", remedy=files.EDITED)
    if manifest.get("kind") != "sweep":
        raise MechoclError(f"{path} is not a sweep; give a directory that `mechocl sweep` made")
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise MechoclError(
            f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA}); upgrade mechocl"
        )
    if schema != SCHEMA or not {"recipe", "recipe_name", "device"} <= manifest.keys():
        raise MechoclError(f"{path / 'manifest.json'} is damaged; restore it, or choose another --out")
    return manifest


def row_path(path: Path, run: SweepRun) -> Path:
    return path / "rows" / f"{run.name}.json"


def await_rows(path: Path, names: Sequence[str], *, patience: float = _SHOW_S) -> None:
    """Wait until rows that other machines wrote are visible here. Raises MechoclError when one is not after `patience`
    seconds."""
    latest = time.monotonic() + patience
    missing = list(names)
    while missing := [name for name in missing if not (path / "rows" / f"{name}.json").exists()]:
        if time.monotonic() >= latest:
            raise MechoclError(
                f"{len(missing)} runs were trained elsewhere, but their rows are not in {path / 'rows'}; "
                "choose an --out on storage that all machines share"
            )
        time.sleep(0.5)


def write_row(path: Path, run: SweepRun, outcome: dict[str, Any]) -> None:
    row = {"setting": run.setting, "seed": run.seed} | outcome
    _write_named(row_path(path, run), row)


def _write_named(path: Path, row: dict[str, Any]) -> None:
    """Write a row with its own name and what its sweep changes, so that it can be told from rows of other sweeps."""
    files.write_json(path, row | {_PLACE: [_base_of(path), path.name]})


def _base_of(row: Path) -> str:
    """A hash of the recipe that the settings of a row's sweep change; "" for a row outside a sweep."""
    sweep = row.parent.parent
    return files.fingerprint(read_manifest(sweep)["recipe"]) if (sweep / "manifest.json").exists() else ""


def write_refused(path: Path, setting: dict[str, Any], seed: int, why: str) -> None:
    """Write the row of a run whose setting is not valid, with the reason."""
    name = f"{files.fingerprint(setting)}-{seed}.json"
    row = {"setting": setting, "seed": seed, "failed": why}
    _write_named(path / "rows" / name, row)


def read_sweep(path: Path) -> pd.DataFrame:
    """One row per finished run: swept fields (their names have dots), `seed`, `failed`, and the outcomes.

    `path` is a sweep's directory, or a table that was saved from a sweep. Raises MechoclError when it is neither.
    """
    if path.is_file() or path.suffix == ".parquet":
        table = files.read_table(
            path,
            remedy="give the folder of the sweep, or run the same `mechocl sweep` again, which writes the table again",
            what="a table of a sweep",
            columns=("recipe", "seed", "failed"),
        )
        return table.drop_duplicates(["recipe", *axes(table), "seed"], ignore_index=True)
    manifest = read_manifest(path)
    changed = files.fingerprint(manifest["recipe"])
    rows = [_read_row(p, changed) for p in sorted((path / "rows").glob("*.json"))]
    # a setting that one machine refused may have been trained on another one: then that counts
    rows.sort(key=lambda row: "seconds" not in row)
    if not rows:
        raise MechoclError(
            f"{path} has no finished runs yet; wait for the process that trains them, or run the same `mechocl sweep` again"
        )
    keys = list(dict.fromkeys(key for row in rows for key in row["setting"]))
    # runs from before an axis was added had the recipe's own value
    base = {key: looked_up(manifest["recipe"], key) for key in keys}
    frame = pd.DataFrame([_flat(base | row["setting"]) | _without_setting(row) for row in rows])
    for key in keys:  # a column of numbers and words, one of which was refused, has no type of its own
        if pd.api.types.infer_dtype(frame[key]).startswith("mixed"):
            frame[key] = frame[key].astype(str)
    # a field that is no axis, such as the description, was varied by older versions: it makes no other run
    frame = frame.drop_duplicates([*axes(frame), "seed"])
    frame.insert(0, "recipe", manifest["recipe_name"])
    return frame.sort_values([*keys, "seed"], kind="stable", key=order).reset_index(drop=True)


def is_axis(column: str) -> bool:
    """Whether a column is a swept field. Names of swept fields are keys of the recipe, with dots."""
    return column.split(".")[0] in ("task", "model", "training")


def axes(frame: pd.DataFrame) -> list[str]:
    return [str(column) for column in frame.columns if is_axis(str(column))]


def _read_row(path: Path, base: str = "") -> dict[str, Any]:
    remedy = "delete it and run the same `mechocl sweep` again: its run is trained again"
    row = files.read_json(path, remedy=remedy)
    if not {"setting", "seed", "failed"} <= row.keys():
        raise MechoclError(f"{path} is damaged; {remedy}")
    place = row.pop(_PLACE, None)  # what an older version wrote has none
    if place not in (None, [base, path.name]):
        raise MechoclError(f"{path} is the row of another run, or of another sweep; {remedy}")
    return row


def _without_setting(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "setting"}


def _flat(setting: dict[str, Any]) -> dict[str, Any]:
    """The setting with values that a table's cell can hold: lists and tables become JSON."""
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in setting.items()}


def looked_up(recipe: Any, key: str) -> Any:
    """The value in a plain recipe (`recipes.plain`) at a key with dots, such as "training.stages.0.epochs"."""
    for part in key.split("."):
        recipe = recipe[int(part)] if isinstance(recipe, list) else recipe.get(part)
    return recipe


def order(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """A column's values as keys to sort by: numbers by size, words by the alphabet."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    return pd.Series(pd.factorize(column, sort=True)[0], index=column.index)


@contextlib.contextmanager
def table_kept(path: Path) -> Iterator[Callable[[], None]]:
    """Write `table.parquet` when the block ends, also when it ends with an exception.

    Yields a function to call when there are new rows. It writes the table, too, but only if the last time was a while
    ago and no other process is writing it.
    """
    last = time.monotonic()

    def now_and_then() -> None:
        nonlocal last
        if time.monotonic() - last >= _TABLE_EVERY_S:
            with contextlib.suppress(files.Busy):
                _write_table(path, patience=0.0)
            last = time.monotonic()

    try:
        yield now_and_then
    finally:
        _write_table(path, patience=_LOCK_PATIENCE_S)


def _write_table(path: Path, *, patience: float) -> None:
    """Write the table, one process at a time. The table of the last process holds the rows of all."""
    with files.locked(path / "locks" / "table", patience=patience):
        if any((path / "rows").glob("*.json")):
            files.write_table(path / "table.parquet", read_sweep(path))
