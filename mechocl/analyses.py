"""The analyses of a run, one mechanism for all: (model, task, config) → tidy rows, saved beside the run."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from mechocl import __version__, attention, contrasts, internalization, lenses, models, patching, probing
from mechocl.folders import SeedFolder
from mechocl.runs import Run
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Nothing to choose: every test question is asked."""


def _evaluate(model: Any, task: Task, config: EvaluateConfig) -> pd.DataFrame:
    return internalization.per_alias(model, task)


def _patch(model: Any, task: Task, config: patching.PatchingConfig) -> pd.DataFrame:
    """Both contrasts: aliases of the same integer, and of different ones."""
    tables = []
    for name, same in (("same integer", True), ("different integer", False)):
        pairs = contrasts.alias_pairs(
            task,
            clean=config.clean,
            corrupted=config.corrupted,
            same_integer=same,
            n_pairs=config.pairs,
            seed=config.seed,
        )
        tables.append(patching.patch_residual_stream(model, task, pairs).assign(contrast=name))
    return pd.concat(tables, ignore_index=True)


@dataclass(frozen=True, slots=True)
class Analysis:
    """A function from (model, task, config) to rows, and its config class."""

    compute: Callable[[Any, Task, Any], pd.DataFrame]
    config: type


ANALYSES: Final[dict[str, Analysis]] = {
    "evaluate": Analysis(_evaluate, EvaluateConfig),
    "lens": Analysis(lenses.logit_lens, lenses.LensConfig),
    "patch": Analysis(_patch, patching.PatchingConfig),
    "probe": Analysis(probing.probe_questions, probing.ProbingConfig),
    "attention": Analysis(attention.patterns, attention.AttentionConfig),
}


def inputs(folder: SeedFolder, name: str, config: Any, stage: int | None) -> dict[str, Any]:
    """What a result depends on: its key, and what is compared before it is reused."""
    checkpoint = folder.final(stage)
    return {
        "seed": folder.seed,
        "stage": checkpoint.stage,
        "checkpoint": checkpoint.sha256,
        "config": dataclasses.asdict(config),
        "version": __version__,
    }


def analyse(
    run: Run, folder: SeedFolder, name: str, config: Any, *, stage: int | None, device: str
) -> pd.DataFrame:
    """The rows of one analysis of one seed after a stage (default: the last), with a `seed` column.

    Computed once and then read from the run.
    """
    key = inputs(folder, name, config, stage)
    saved = run.load_result(name, key)
    if saved is not None:
        return saved
    model = models.load(folder, folder.final(stage), device=device)
    rows = ANALYSES[name].compute(model, folder.load_task(), config)
    rows.insert(0, "seed", folder.seed)
    run.save_result(name, key, rows)
    return rows


def load(run: Run, name: str, config: Any, *, stage: int | None = None) -> pd.DataFrame | None:
    """Saved rows of an analysis over all finished seeds; None when one of them is missing."""
    tables = [run.load_result(name, inputs(f, name, config, stage)) for f in run.finished_seeds()]
    if any(t is None for t in tables):
        return None
    return pd.concat(tables, ignore_index=True)
