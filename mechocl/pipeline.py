"""What the commands do: train and analyse the seeds of a run in parallel, then report."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechocl import analyses, parallel
from mechocl.experiment import SAVE_EVERY_S, Report, train_seed
from mechocl.recipes import Recipe
from mechocl.runs import Run

REPORTED: Final = ("evaluate", "lens", "patch", "probe", "attention")
"""Analyses that the report shows, with their default configs."""

_TRAINING_SHARE: Final = 0.85


@dataclass(frozen=True, slots=True)
class SeedJob:
    """What one process does for one seed."""

    run: str
    seed: int
    device: str
    train: bool
    analyses: tuple[tuple[str, Any], ...]
    """Names and configs."""
    stage: int | None = None
    save_every_s: float = SAVE_EVERY_S


def do_seed(job: SeedJob, report: Report) -> None:
    """Train a seed if asked to, then compute the analyses that are not there yet."""
    run = Run.open(Path(job.run))
    folder = run.seed(job.seed)
    share = (_TRAINING_SHARE if job.analyses else 1.0) if job.train else 0.0
    if job.train:
        train_seed(
            folder,
            device=job.device,
            save_every_s=job.save_every_s,
            report=lambda text, done: report(text, share * done),
        )
    if folder.failure() is None:
        for i, (name, config) in enumerate(job.analyses):
            report(name, share + (1 - share) * i / len(job.analyses))
            analyses.analyse(run, folder, name, config, stage=job.stage, device=job.device)
    report("done", 1.0)


def train(
    path: Path,
    recipe: Recipe,
    *,
    recipe_name: str,
    seeds: tuple[int, ...],
    device: str,
    jobs: int | None,
    then: tuple[tuple[str, Any], ...] = (),
    save_every_s: float = SAVE_EVERY_S,
) -> Run:
    """Train (or continue) a run, several seeds at a time, each followed by the given analyses."""
    jobs = min(jobs or default_jobs(len(seeds), device), len(seeds))
    threads = default_threads(recipe, jobs)
    run = Run.create(path, recipe, recipe_name=recipe_name, seeds=seeds, device=device, threads=threads)
    work = [SeedJob(str(path), s, device, True, then, save_every_s=save_every_s) for s in seeds]
    started = time.monotonic()
    title = "training and analysing" if then else "training"
    try:
        _run(work, title, jobs, run.manifest["threads"])
    finally:
        run = run.note_seconds(title, time.monotonic() - started)
    return run


def analyse(
    run: Run, name: str, config: Any, *, stage: int | None, device: str, jobs: int | None
) -> pd.DataFrame:
    """Rows of one analysis over all finished seeds, computed where they are missing."""
    complete(run, ((name, config),), stage=stage, device=device, jobs=jobs)
    rows = analyses.load(run, name, config, stage=stage)
    assert rows is not None
    return rows


def complete(
    run: Run, wanted: tuple[tuple[str, Any], ...], *, stage: int | None, device: str, jobs: int | None
) -> None:
    """Compute the analyses that a run does not have yet."""
    missing = []
    for folder in run.finished_seeds():
        todo = tuple(
            (name, config)
            for name, config in wanted
            if run.load_result(name, analyses.inputs(folder, name, config, stage)) is None
        )
        if todo:
            missing.append(SeedJob(str(run.path), folder.seed, device, False, todo, stage))
    if missing:
        jobs = min(jobs or default_jobs(len(missing), device), len(missing))
        _run(missing, "analysing", jobs, run.manifest["threads"])


def reported() -> tuple[tuple[str, Any], ...]:
    """The analyses of the report with their default configs."""
    return tuple((name, analyses.ANALYSES[name].config()) for name in REPORTED)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_threads(recipe: Recipe, jobs: int) -> int:
    """Torch threads of one seed: its share of the cores, or one for a small model.

    Small matrix products gain nothing from a second thread, and on a busy machine threads that wait for
    each other cost a lot.
    """
    return 1 if recipe.model.resolve().d_model < 256 else max(1, cores() // jobs)


def default_jobs(n_seeds: int, device: str) -> int:
    """One process a core on the CPU, as long as there are seeds for them; one on a GPU."""
    return 1 if device.startswith("cuda") else max(1, min(cores(), n_seeds))


def _run(work: list[SeedJob], title: str, jobs: int, threads: int) -> None:
    names = [f"seed {job.seed}" for job in work]
    parallel.run(do_seed, work, names=names, title=title, jobs=jobs, threads=threads)
