"""Train the seeds of a run, evaluate them during training, and save resume points."""

import math
import time
from typing import Any, Final

import pandas as pd
import torch

from mechocl import files
from mechocl.behaviour import internalization
from mechocl.errors import MechoclError
from mechocl.runs import plain_values
from mechocl.runs.building import build_model
from mechocl.runs.folders import SeedFolder, StackFolder
from mechocl.runs.progress import Progress
from mechocl.runs.recipes import Recipe
from mechocl.runs.run import Run
from toy_models import architectures
from toy_models.definition_loss import measure_definition_losses
from toy_models.projected_steps import find_projected_rows
from toy_models.stages import StageConfig
from toy_models.stopping import check_stopping
from toy_models.tag_changes import exchange_tags, find_tag_change
from toy_models.task import Task
from toy_models.training import Moment, train_stage
from toy_models.worlds import world_of

SAVE_EVERY_S: Final = 20.0
"""Seconds between resume points. A kill loses at most this much training."""

MOST_SEEDS: Final = 10_000
"""Largest number of seeds that one command trains."""

_LOCK_PATIENCE_S: Final = 2.0
"""Seconds to wait for another process that holds a seed. The processes of a killed run end within this time."""


def seeds_from(count: int, first: int) -> tuple[int, ...]:
    """`count` consecutive seeds that begin with `first`.

    Raises MechoclError for a count below 1 or above `MOST_SEEDS`, and for a first seed below 0 or above
    `plain_values.LARGEST`.
    """
    if count < 1 or first < 0:
        raise MechoclError(
            f"--seeds {count} --first-seed {first}: give at least one seed, and a first seed of 0 or more"
        )
    if count > MOST_SEEDS or first > plain_values.LARGEST:
        raise MechoclError(
            f"--seeds {count} --first-seed {first}: give at most {MOST_SEEDS} seeds, and a first seed of at most 10^15"
        )
    return tuple(range(first, first + count))


class Diverged(RuntimeError):
    """A seed's loss or answers became infinite or NaN."""


EVALUATED_ALIASES: Final = 100
"""Number of aliases of each subset that evaluations during training look at."""


def train_stack(
    run: Run, stack: StackFolder, *, device: str, save_every_s: float, progress: Progress
) -> None:
    """Train the seeds of a stack together to the end, or continue where an earlier call was stopped.

    The result does not depend on where training was stopped (bit for bit on one machine with the same number of
    threads). A loss that is not finite is recorded as the failure of its seed; the other seeds continue. Raises
    MechoclError when the recipe's task cannot be drawn or gives a stage nothing to train on, and when another process
    trains the same seeds.
    """
    folders = [run.seed(seed) for seed in stack.seeds]
    with files.locked(stack.path / "lock", patience=_LOCK_PATIENCE_S):
        stages = run.recipe.training.stages
        for folder in folders:
            files.remove_temporary(folder.path)
            folder.forget_damaged_failure()
        alive = [folder for folder in folders if folder.failure() is None]
        todo = {number for folder in alive for number in folder.lost_stages()}
        stack.remove_leftovers(unfinished=todo)
        if not todo and all(folder.task_saved() for folder in folders):
            return
        progress("building the task", math.nan)
        tasks = [_task(folder) for folder in folders]
        recipe = run.recipe
        assert isinstance(recipe, Recipe)
        trained = [build_model(recipe, seed=folder.seed, device=device) for folder in folders]
        work = [len(tasks[0].training_rows(s.data)) * s.epochs for s in stages]
        for number in range(1, max(todo, default=0) + 1):
            if number not in todo:
                for model, folder in zip(trained, folders, strict=True):
                    if folder.failure() is None:
                        architectures.fill_weights(model, folder.weights(folder.final(number)))
                continue

            def stage_progress(text: str, share: float, number: int = number) -> None:
                progress(text, (sum(work[: number - 1]) + share * work[number - 1]) / sum(work))

            _train_stage(
                run, stack, folders, tasks, trained, number,
                save_every_s=save_every_s, progress=stage_progress,
            )  # fmt: skip
        stack.remove_leftovers(unfinished=())


def _train_stage(
    run: Run,
    stack: StackFolder,
    folders: list[SeedFolder],
    tasks: list[Task],
    trained: list[Any],
    number: int,
    *,
    save_every_s: float,
    progress: Progress,
) -> None:
    """One stage of a stack: evaluate, keep checkpoints and resume points, note failures.

    Seeds that have finished the stage, and lost nothing of it, train along, because the bits of the others depend on
    them. Their files stay as they are.
    """
    saved = stack.load_state(number)
    if saved and "loss_tokens" not in saved[0].tensors:  # of an earlier version: the stage begins anew
        saved = None
    state, histories = saved if saved else (None, [[] for _ in folders])
    failed = {index for index, folder in enumerate(folders) if folder.failure() is not None}
    kept = {index for index, folder in enumerate(folders) if number not in folder.lost_stages()}
    config = _stage_config(run, number)
    last_saved = time.monotonic()
    for moment in train_stage(
        trained,
        tasks,
        config,
        seeds=stack.seeds,
        precision=run.recipe.training.precision,
        state=state,
    ):
        run.require_in_place()
        for index, (folder, task, model) in enumerate(zip(folders, tasks, trained, strict=True)):
            if index in failed or not moment.trained[index]:
                continue
            try:
                if moment.evaluate or moment.ends[index]:
                    histories[index] += _evaluate(model, task, number, moment, index, config)
            except Diverged as error:
                if index not in kept:
                    folder.fail(f"stage {number}: {error}")
                failed.add(index)
                continue
            if index not in kept and (moment.checkpoint or moment.ends[index]):
                weights = {k: v.detach() for k, v in model.named_parameters()}
                folder.save_checkpoint(weights, stage=number, step=moment.step, final=moment.ends[index])
        if len(failed) == len(folders):
            return
        # no resume point at step 0: the stage begins there anyway, and its first evaluation would count twice
        goes_on = any(now and not end for now, end in zip(moment.trained, moment.ends, strict=True))
        if moment.step and goes_on and time.monotonic() - last_saved >= save_every_s:
            stack.save_state(moment.capture(), stage=number, histories=histories)
            last_saved = time.monotonic()
        progress(
            f"stage {number}, step {moment.step} of {moment.total_steps}", moment.step / moment.total_steps
        )
    for index, folder in enumerate(folders):
        if index not in failed | kept:
            folder.finish_stage(number, histories[index])


def _stage_config(run: Run, number: int) -> StageConfig:
    """The settings of a stage, counted from 1."""
    config = run.recipe.training.stages[number - 1]
    assert isinstance(config, StageConfig)
    return config


def draw_task(recipe: Recipe[Any], *, seed: int) -> Task:
    """A recipe's task.

    Raises MechoclError when it cannot be drawn, gives a stage nothing to train on, has not the definition loss at which
    a stage is to stop, or lacks the tag that a stage puts in the place of all tags.
    """
    try:
        task = world_of(recipe.task).build(recipe.task, seed=seed)
        if any(stage.exchange_tags for stage in recipe.training.stages):
            task = exchange_tags(task)
    except ValueError as error:
        raise MechoclError(f"the recipe's task cannot be drawn: {error}") from None
    for number, stage in enumerate(recipe.training.stages):
        if len(task.training_rows(stage.data)) == 0:
            raise MechoclError(
                f"training.stages.{number} has nothing to train on: no alias is in the data of stage "
                f"{' or '.join(map(str, stage.data))}; change task.fractions or the stage's data"
            )
        try:
            check_stopping(task, stage)
        except ValueError as error:
            raise MechoclError(
                f"training.stages.{number} cannot stop at a definition loss: {error}"
            ) from None
        try:
            find_projected_rows(task, stage)
        except ValueError as error:
            raise MechoclError(
                f"training.stages.{number}.alias_step is {stage.alias_step}: {error}"
            ) from None
        try:
            find_tag_change([task], stage)
        except ValueError as error:
            raise MechoclError(
                f"training.stages.{number}.tag_embedding is {stage.tag_embedding}: {error}"
            ) from None
    return task


def _task(folder: SeedFolder) -> Task:
    """The seed's task, which is saved first if it is not saved yet, or its files are lost.

    Raises MechoclError as `draw_task` does, and when another task was saved.
    """
    assert isinstance(folder.recipe, Recipe)
    task = draw_task(folder.recipe, seed=folder.seed)
    if not folder.task_saved():
        folder.save_task(task)
        return task
    saved = folder.load_task()
    if not (torch.equal(saved.tokens, task.tokens) and torch.equal(saved.loss_mask, task.loss_mask)):
        raise MechoclError(folder.other_task())
    return task


def _evaluate(
    model: Any, task: Task, stage: int, moment: Moment, index: int, config: StageConfig
) -> list[dict[str, Any]]:
    """Rows of one seed's history. Raises Diverged when its loss or its answers are not finite."""
    where = f"at step {moment.step} of {moment.total_steps}"
    loss = moment.losses[index] if moment.losses else math.nan
    norm = moment.gradient_norms[index] if moment.gradient_norms else math.nan
    if moment.losses and not math.isfinite(loss):
        raise Diverged(f"the training loss is {loss} {where}")
    try:
        with torch.no_grad():
            aliases = internalization.per_alias(model, task, aliases_per_subset=EVALUATED_ALIASES)
    except ValueError as error:  # the loss was finite, and the last update spoiled the weights
        raise Diverged(f"{error} ({where})") from None
    table = internalization.by_subset(aliases)
    table["definition_loss"] = table["subset"].map(_definition_losses(model, task, aliases, config))
    position = {
        "stage": stage, "step": moment.step, "epoch": moment.epoch, "loss": loss, "gradient_norm": norm,
        "stopped": moment.stopped[index] if moment.stopped else math.nan,
    }  # fmt: skip
    return [position | {str(k): v for k, v in row.items()} for row in table.to_dict("records")]


def _definition_losses(
    model: Any, task: Task, aliases: pd.DataFrame, config: StageConfig
) -> dict[str, float]:
    """Subset → mean definition loss (nats) of these aliases, with what the stage changes about their tags.

    A subset has none if its word order has none.
    """
    rows = task.rows(kind="definition", alias=tuple(aliases["alias"]))
    rows = rows[[order.index("V") < order.index("E") for order in task.table["order"].iloc[rows]]]
    if len(rows) == 0:
        return {}
    change = find_tag_change([task], config, model.W_U.device)
    losses = measure_definition_losses(model, task, rows, change=change)
    means = pd.Series(losses).groupby(task.table["subset"].astype(str).to_numpy()[rows]).mean()
    return {str(subset): float(loss) for subset, loss in means.items()}
