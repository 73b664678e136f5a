"""Many small trainings: every setting of some fields of a recipe, over several seeds.

When a run is finished, it has a row in the sweep's folder (`sweep_folder`). So a sweep that was killed continues with
the runs that have no row yet, and several processes can work on one folder.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechocl import files
from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import METRICS, failure
from mechocl.errors import MechoclError
from mechocl.runs import recipes, train_toy
from mechocl.runs.building import build_model
from mechocl.runs.processes import default_threads, default_together
from mechocl.runs.progress import Executor, Progress, say_how_long, seeds_in_words
from mechocl.runs.recipes import Recipe
from mechocl.runs.sweep_folder import (
    SweepRun,
    await_rows,
    read_sweep,
    row_path,
    start_sweep,
    table_kept,
    write_refused,
    write_row,
)
from mechocl.runs.sweep_settings import settings
from toy_models.task import Task
from toy_models.training import train_stage

RETRY_PATIENCE_S: Final = 10.0
"""`Job.patience_s` of jobs that may run again on another machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """Runs that one process trains together."""

    path: str
    runs: tuple[SweepRun, ...]
    device: str
    patience_s: float = 0.0
    """Seconds to wait for other processes that hold its runs. If a job runs again because its machine was lost, the
    operating system may take a moment to release the locks of the first attempt."""

    @property
    def name(self) -> str:
        """Its settings and seeds, in words."""
        found = list(dict.fromkeys(run.in_words for run in self.runs))
        seeds = sorted({run.seed for run in self.runs})
        ends = found if len(found) < 3 else [found[0], "…", found[-1]]
        return f"{', '.join(ends)}, {seeds_in_words(tuple(seeds))}"


def stacks(wanted: Sequence[SweepRun], *, together: int) -> list[tuple[SweepRun, ...]]:
    """Groups of at most `together` runs that can train together, since their recipes differ only in learning rates."""
    groups: dict[str, list[SweepRun]] = {}
    for run in wanted:
        groups.setdefault(files.fingerprint(recipes.plain(_without_rates(run.recipe))), []).append(run)
    found = []
    for group in groups.values():
        size = math.ceil(len(group) / math.ceil(len(group) / together))
        found += [tuple(group[i : i + size]) for i in range(0, len(group), size)]
    return found


def _without_rates(recipe: Recipe[Any]) -> Recipe[Any]:
    stages = tuple(replace(stage, learning_rate=1.0) for stage in recipe.training.stages)
    return replace(recipe, training=replace(recipe.training, stages=stages))


def train_job(job: Job, progress: Progress) -> tuple[str, ...]:
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
            for run, outcome in zip(
                mine, train_together(mine, device=job.device, progress=progress), strict=True
            ):
                write_row(path, run, outcome)
    there = tuple(run.name for run in job.runs if row_path(path, run).exists())
    others = len(job.runs) - len(there)
    progress(f"{others} runs are with another process" if others else "done", len(there) / len(job.runs))
    return there


def train_together(wanted: Sequence[SweepRun], *, device: str, progress: Progress) -> list[dict[str, Any]]:
    """Train runs of one shape together, and return one outcome for each.

    An outcome holds `failed` ("" or why), `seconds` (wall clock, shared evenly), and after each stage N
    `stageN.loss`, `stageN.gradient_norm` and `stageN.<metric>.<subset>`. A run fails when its loss or its
    answers are not finite, or when it recalls fewer than `Measures.least_recall` of the new aliases' definitions.
    """
    began = time.perf_counter()
    outcomes: list[dict[str, Any]] = [{"failed": ""} for _ in wanted]
    tasks: dict[int, Task] = {}
    for index, run in enumerate(wanted):
        try:
            tasks[index] = train_toy.draw_task(run.recipe, seed=run.seed)
        except MechoclError as error:
            outcomes[index]["failed"] = str(error)
    if tasks:
        _train(
            [wanted[i] for i in tasks], [outcomes[i] for i in tasks], list(tasks.values()),
            device=device, progress=progress,
        )  # fmt: skip
    seconds = round((time.perf_counter() - began) / len(wanted), 2)
    return [outcome | {"seconds": seconds} for outcome in outcomes]


def _train(
    wanted: Sequence[SweepRun],
    outcomes: list[dict[str, Any]],
    tasks: list[Task],
    *,
    device: str,
    progress: Progress,
) -> None:
    """Train runs on their tasks, and fill in their outcomes."""
    first = wanted[0].recipe
    trained = [build_model(run.recipe, seed=run.seed, device=device) for run in wanted]
    work = [len(tasks[0].training_rows(s.data)) * s.epochs for s in first.training.stages]
    for number, stage in enumerate(first.training.stages, start=1):
        rates = [run.recipe.training.stages[number - 1].learning_rate for run in wanted]
        losses, norms = [math.nan] * len(wanted), [math.nan] * len(wanted)
        moments = train_stage(
            trained,
            tasks,
            stage,
            seeds=[run.seed for run in wanted],
            precision=first.training.precision,
            learning_rates=rates,
        )
        for moment in moments:
            for k, trained_now in enumerate(moment.trained):
                if moment.losses and trained_now:
                    losses[k], norms[k] = moment.losses[k], moment.gradient_norms[k]
            done = sum(work[: number - 1]) + work[number - 1] * moment.step / moment.total_steps
            progress(f"stage {number}, step {moment.step} of {moment.total_steps}", done / sum(work))
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
                outcome["failed"] = outcome["failed"] or failure(found)


def run_sweep(
    path: Path,
    *,
    recipe_name: str,
    changes: tuple[str, ...],
    over: tuple[str, ...],
    seeds: tuple[int, ...],
    device: str,
    executor: Executor,
) -> pd.DataFrame:
    """Train every setting of the axes `over` with every seed. Runs that have a row in `path` are not trained again.

    If the executor uses several machines, `path` must be on storage that they share. Returns the table of all runs in
    `path`. Runs that another process is training are left to that process. If that process is killed meanwhile, they are
    trained here.
    """
    allowed, refused = settings(recipe_name, changes, over, here=not executor.shared)
    base = recipes.load_recipe(recipe_name, changes)
    wanted = [SweepRun(s, recipe, seed) for s, recipe in allowed for seed in seeds]
    missing = missing_runs(path, wanted)
    with executor.workers(len(missing), device=device) if missing else contextlib.nullcontext() as workers:
        machine = workers.machine if workers else None
        start_sweep(path, base, recipe_name=recipe_name, device=device, machine=machine, trains=bool(missing))
        with table_kept(path) as new_rows:
            for setting, why in refused:
                for seed in seeds:
                    write_refused(path, setting, seed, why)
            if workers and not executor.shared:
                known = _seconds_of_a_run(path)
                say_how_long(
                    f"sweep, {len(missing)} runs to train", known and known * len(missing) / workers.slots,
                    known_from="the runs of this sweep that are trained already",
                )  # fmt: skip
            while workers and missing:
                work = _sweep_jobs(path, base, missing, workers.slots, device=device, shared=executor.shared)
                found = workers.map(
                    train_job,
                    work,
                    names=[job.name for job in work],
                    title=f"sweep of {len(wanted)} runs, {len(missing)} to train",
                    threads=workers.threads or default_threads(base, workers.slots),
                    done=lambda *_: new_rows(),
                )
                await_rows(path, [name for names in found for name in names])
                missing = [run for run in missing_runs(path, wanted) if not _is_trained_elsewhere(path, run)]
    return read_sweep(path)


def _seconds_of_a_run(path: Path) -> float | None:
    """Mean seconds of a process for one run of a sweep, of those that are trained; None if there are none."""
    rows = read_sweep(path) if any((path / "rows").glob("*.json")) else pd.DataFrame()
    seconds = rows.get("seconds", pd.Series(dtype=float)).dropna()
    return float(seconds.mean()) if len(seconds) else None


def missing_runs(path: Path, wanted: Sequence[SweepRun]) -> list[SweepRun]:
    """The runs that have no row in a sweep's folder."""
    return [run for run in wanted if not row_path(path, run).exists()]


def wanted_runs(
    recipe_name: str, changes: tuple[str, ...], over: Sequence[str], seeds: Sequence[int]
) -> list[SweepRun]:
    """Every run of a sweep: each valid setting with each seed. Raises MechoclError as `settings` does."""
    allowed, _ = settings(recipe_name, changes, over)
    return [SweepRun(setting, recipe, seed) for setting, recipe in allowed for seed in seeds]


def _is_trained_elsewhere(path: Path, run: SweepRun) -> bool:
    """Whether another process holds a run. The run of a process that was killed is held by nobody."""
    try:
        with files.locked(path / "locks" / run.name, patience=0.0):
            return False
    except files.Busy:
        return True


def _sweep_jobs(
    path: Path, base: Recipe[Any], missing: list[SweepRun], jobs: int, *, device: str, shared: bool
) -> list[Job]:
    """Stacks of runs for `jobs` workers. With `shared`, the workers may be on other machines."""
    together = default_together(base, len(missing), jobs, device)
    if shared:  # each worker gets an even share, also on a GPU
        together = min(together, math.ceil(len(missing) / jobs))
    return [
        Job(
            str(path.absolute() if shared else path),
            stack,
            device,
            patience_s=RETRY_PATIENCE_S if shared else 0.0,
        )
        for stack in stacks(missing, together=together)
    ]
