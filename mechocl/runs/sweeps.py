"""Many small trainings: every setting of some fields of a recipe, over several seeds.

DIR/
  manifest.json            the recipe that the settings change, versions, machine
  rows/<setting>-<seed>.json   one finished run: its setting, and what came out or why it failed
  locks/                   runs that a process is training right now
  table.parquet            the rows as one table, written now and then, and when a sweep ends

A run's row is written once, when it is finished: a sweep that was killed goes on with the runs that have
none, and several processes can work on one directory.
"""

import contextlib
import datetime
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import __version__, files
from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import METRICS, untrained
from mechocl.errors import MechoclError
from mechocl.models import seam
from mechocl.runs import recipes, train_toy
from mechocl.runs import run as run_
from mechocl.runs.recipes import Recipe
from toy_models.task import Task
from toy_models.training import train_stage

SCHEMA: Final = 1

Report = Callable[[str, float], None]

_LOCK_PATIENCE_S: Final = 10.0
"""Seconds to wait for another process that is writing the manifest or the table."""

RETRY_PATIENCE_S: Final = 10.0
"""`Job.patience_s` of jobs that may run again elsewhere."""

_TABLE_EVERY_S: Final = 30.0
"""Seconds between two writings of the table while a sweep is going on."""

_SHOW_S: Final = 90.0
"""Seconds until a row that another machine wrote must show here: network file systems remember what a
folder held for up to a minute."""


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One training of a sweep."""

    setting: dict[str, Any]
    """Value of each swept field."""
    recipe: Recipe
    seed: int

    @property
    def name(self) -> str:
        """Name of its row's file."""
        return f"{files.fingerprint(recipes.plain(self.recipe))}-{self.seed}"


@dataclass(frozen=True, slots=True)
class Job:
    """Runs that one process trains together."""

    path: str
    runs: tuple[SweepRun, ...]
    device: str
    patience_s: float = 0.0
    """Seconds to wait for other processes that hold its runs: where one runs again because its machine was
    lost, the operating system may take a moment to let go of the first one's locks."""


def axis(text: str) -> tuple[str, tuple[str, ...]]:
    """`task.aliases=500,1000` → its key and the values' texts. Commas inside brackets separate nothing."""
    key, equals, values = text.partition("=")
    depth, parts = 0, [""]
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if not equals or not key or "" in parts:
        raise MechoclError(f"--over {text!r}: write key=value,value, for example task.aliases=500,1000")
    if len(set(parts)) < len(parts):
        raise MechoclError(f"--over {text!r} names a value twice")
    return key, tuple(parts)


def settings(
    recipe_name: str, changes: tuple[str, ...], over: Sequence[str]
) -> tuple[list[tuple[dict[str, Any], Recipe]], list[tuple[dict[str, Any], str]]]:
    """The product of the axes: settings with their recipes, and settings that no recipe allows with why.

    Raises MechoclError when the recipe itself, or every one of its settings, is not allowed.
    """
    recipes.load(recipe_name, changes)
    axes = [axis(text) for text in over]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise MechoclError(f"--over names {max(keys, key=keys.count)} twice; give all its values at once")
    allowed, refused = [], []
    for values in itertools.product(*(values for _, values in axes)):
        setting = {key: recipes.value(text) for key, text in zip(keys, values, strict=True)}
        try:
            pairs = [f"{key}={text}" for key, text in zip(keys, values, strict=True)]
            allowed.append((setting, recipes.load(recipe_name, (*changes, *pairs))))
        except MechoclError as error:
            refused.append((setting, str(error)))
    if not allowed:
        raise MechoclError(refused[0][1])
    return allowed, refused


def start(path: Path, recipe: Recipe, *, recipe_name: str, device: str, machine: str | None = None) -> None:
    """Make the directory, or check that it holds a sweep of the same recipe on the same device.

    `machine`: where it is computed, for the record; default: this one.
    """
    if path.exists() and not _may_hold_a_sweep(path):
        raise MechoclError(f"{path} exists and is not a sweep; choose another --out")
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
            return
        manifest = {
            "schema": SCHEMA,
            "kind": "sweep",
            "recipe_name": recipe_name,
            "recipe": recipes.plain(recipe),
            "device": device,
            "machine": machine or run_.machine(device),
            "version": __version__,
            "torch": torch.__version__,
            "git": run_.git_state(),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        }
        files.write_json(path / "manifest.json", manifest)


def _may_hold_a_sweep(path: Path) -> bool:
    """Whether a path is a sweep, an empty folder, or what a sweep leaves that was killed as it started."""
    if not path.is_dir():
        return False
    if (path / "manifest.json").exists():
        return bool(read_manifest(path))
    return all(p.name == "locks" or files.is_temporary(p) for p in path.iterdir())


def read_manifest(path: Path) -> dict[str, Any]:
    """A sweep's manifest; MechoclError when the folder is not a sweep that this version reads."""
    if not (path / "manifest.json").exists():
        raise MechoclError(f"{path} is not a sweep: it has no manifest.json")
    manifest = files.read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("kind") != "sweep":
        raise MechoclError(f"{path} is not a sweep; give a directory that `mechocl sweep` made")
    schema = manifest.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise MechoclError(
            f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA}); upgrade mechocl"
        )
    if schema != SCHEMA or not {"recipe", "recipe_name", "device"} <= manifest.keys():
        raise MechoclError(f"{path / 'manifest.json'} is damaged; restore it, or choose another --out")
    return manifest


def stacks(wanted: Sequence[SweepRun], *, together: int) -> list[tuple[SweepRun, ...]]:
    """Runs that can train together, at most `together` at a time: of one recipe but for learning rates."""
    groups: dict[str, list[SweepRun]] = {}
    for run in wanted:
        groups.setdefault(files.fingerprint(recipes.plain(_without_rates(run.recipe))), []).append(run)
    found = []
    for group in groups.values():
        size = math.ceil(len(group) / math.ceil(len(group) / together))
        found += [tuple(group[i : i + size]) for i in range(0, len(group), size)]
    return found


def _without_rates(recipe: Recipe) -> Recipe:
    stages = tuple(replace(stage, learning_rate=1.0) for stage in recipe.training.stages)
    return replace(recipe, training=replace(recipe.training, stages=stages))


def row_path(path: Path, run: SweepRun) -> Path:
    return path / "rows" / f"{run.name}.json"


def do(job: Job, report: Report) -> tuple[str, ...]:
    """Train the runs of a job that have no row yet and that no other process is training.

    Returns the names of its runs that have a row now.
    """
    path = Path(job.path)
    latest = time.monotonic() + job.patience_s
    with contextlib.ExitStack() as held:
        mine = []
        for run in job.runs:
            with contextlib.suppress(files.Busy):
                patience = max(0.0, latest - time.monotonic())
                held.enter_context(files.locked(path / "locks" / run.name, patience=patience))
                if not row_path(path, run).exists():
                    mine.append(run)
        if mine:
            for run, outcome in zip(mine, train(mine, device=job.device, report=report), strict=True):
                write_row(path, run, outcome)
    report("done", 1.0)
    return tuple(run.name for run in job.runs if row_path(path, run).exists())


def await_rows(path: Path, names: Sequence[str], *, patience: float = _SHOW_S) -> None:
    """Wait until rows that were written elsewhere show here; MechoclError when one does not in time."""
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
    files.write_json(row_path(path, run), row)


def write_refused(path: Path, setting: dict[str, Any], seed: int, why: str) -> None:
    """The row of a run whose setting no recipe allows."""
    name = f"{files.fingerprint(setting)}-{seed}.json"
    files.write_json(path / "rows" / name, {"setting": setting, "seed": seed, "failed": why})


def train(wanted: Sequence[SweepRun], *, device: str, report: Report) -> list[dict[str, Any]]:
    """Train runs of one shape together; one outcome each.

    An outcome holds `failed` ("" or why), `seconds` (wall clock, shared evenly), and after each stage N
    `stageN.loss`, `stageN.gradient_norm` and `stageN.<metric>.<subset>`. A run fails when its loss or its
    answers are not finite, or when it recalls fewer than `MIN_RECALL` of the new aliases' definitions.
    """
    began = time.perf_counter()
    outcomes: list[dict[str, Any]] = [{"failed": ""} for _ in wanted]
    tasks: dict[int, Task] = {}
    for index, run in enumerate(wanted):
        try:
            tasks[index] = train_toy.draw(run.recipe, seed=run.seed)
        except MechoclError as error:
            outcomes[index]["failed"] = str(error)
    if tasks:
        _train(
            [wanted[i] for i in tasks], [outcomes[i] for i in tasks], list(tasks.values()),
            device=device, report=report,
        )  # fmt: skip
    seconds = round((time.perf_counter() - began) / len(wanted), 2)
    return [outcome | {"seconds": seconds} for outcome in outcomes]


def _train(
    wanted: Sequence[SweepRun],
    outcomes: list[dict[str, Any]],
    tasks: list[Task],
    *,
    device: str,
    report: Report,
) -> None:
    """Train runs on their tasks, filling in their outcomes."""
    first = wanted[0].recipe
    trained = [seam.build(run.recipe, seed=run.seed, device=device) for run in wanted]
    work = [len(tasks[0].training_rows(s.data)) * s.epochs for s in first.training.stages]
    for number, stage in enumerate(first.training.stages, start=1):
        rates = [run.recipe.training.stages[number - 1].learning_rate for run in wanted]
        losses = norms = (math.nan,) * len(wanted)
        moments = train_stage(
            trained,
            tasks,
            stage,
            seeds=[run.seed for run in wanted],
            precision=first.training.precision,
            learning_rates=rates,
        )
        for moment in moments:
            if moment.losses:
                losses, norms = moment.losses, moment.gradient_norms
            done = sum(work[: number - 1]) + work[number - 1] * moment.step / moment.total_steps
            report(f"stage {number}, step {moment.step} of {moment.total_steps}", done / sum(work))
        for outcome, model, task, loss, norm in zip(outcomes, trained, tasks, losses, norms, strict=True):
            outcome[f"stage{number}.loss"] = loss
            outcome[f"stage{number}.gradient_norm"] = norm
            if not math.isfinite(loss):
                outcome["failed"] = outcome["failed"] or f"stage {number}: the training loss is {loss}"
            try:
                found = internalization.by_subset(internalization.per_alias(model, task))
            except ValueError as error:
                outcome["failed"] = outcome["failed"] or f"stage {number}: {error}"
                continue
            for row in found.to_dict("records"):
                for metric in METRICS:
                    outcome[f"stage{number}.{metric}.{row['subset']}"] = row[metric]
            if number == len(first.training.stages):
                outcome["failed"] = outcome["failed"] or untrained(found)


def table(path: Path) -> pd.DataFrame:
    """One row per finished run: swept fields (their names have dots), `seed`, `failed`, and the outcomes.

    `path`: a sweep's directory, or a table saved from one. Raises MechoclError when it is neither.
    """
    if path.is_file():
        try:
            frame = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise MechoclError(f"{path} is not a table of a sweep: {error}") from None
        if not {"recipe", "seed", "failed"} <= set(frame.columns):
            raise MechoclError(f"{path} is not a table of a sweep; give one that `mechocl sweep` wrote")
        return frame
    manifest = read_manifest(path)
    rows = [_read_row(p) for p in sorted((path / "rows").glob("*.json"))]
    if not rows:
        raise MechoclError(
            f"{path} has no finished runs yet; wait for the process that trains them, or run the same `mechocl sweep` again"
        )
    keys = list(dict.fromkeys(key for row in rows for key in row["setting"]))
    # an axis that was added later: the earlier runs had the recipe's own value
    base = {key: _looked_up(manifest["recipe"], key) for key in keys}
    frame = pd.DataFrame([_flat(base | row["setting"]) | _without_setting(row) for row in rows])
    for key in keys:  # a column of numbers and words, one of them refused, has no type of its own
        if pd.api.types.infer_dtype(frame[key]).startswith("mixed"):
            frame[key] = frame[key].astype(str)
    frame = frame.drop_duplicates([*keys, "seed"])
    frame.insert(0, "recipe", manifest["recipe_name"])
    return frame.sort_values([*keys, "seed"], kind="stable", key=_order).reset_index(drop=True)


def is_axis(column: str) -> bool:
    """Whether a column is a swept field: those are the recipe's own, with its dots."""
    return column.split(".")[0] in ("task", "model", "training")


def axes(frame: pd.DataFrame) -> list[str]:
    return [str(column) for column in frame.columns if is_axis(str(column))]


def _read_row(path: Path) -> dict[str, Any]:
    row = files.read_json(path)
    if not isinstance(row, dict) or not {"setting", "seed", "failed"} <= row.keys():
        raise MechoclError(f"{path} is damaged; delete it and run again")
    return row


def _without_setting(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k != "setting"}


def _flat(setting: dict[str, Any]) -> dict[str, Any]:
    """What a table's cell can hold: lists and tables as JSON."""
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in setting.items()}


def _looked_up(recipe: Any, key: str) -> Any:
    for part in key.split("."):
        recipe = recipe[int(part)] if isinstance(recipe, list) else recipe.get(part)
    return recipe


def _order(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Numbers by size, words by the alphabet."""
    if pd.api.types.is_numeric_dtype(column):
        return column
    return pd.Series(pd.factorize(column, sort=True)[0], index=column.index)


@contextlib.contextmanager
def table_kept(path: Path) -> Iterator[Callable[[], None]]:
    """Write `table.parquet` when the block ends, however it ends.

    Yields a function for whenever there are new rows: it writes the table too, if the last time is a while
    ago and no other process is at it.
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
    """One process at a time: the table of who comes last holds the rows of all."""
    with files.locked(path / "locks" / "table", patience=patience):
        if any((path / "rows").glob("*.json")):
            files.write_table(path / "table.parquet", table(path))
