"""Train the seeds of a run, evaluating and saving as they go."""

import time
from collections.abc import Callable
from typing import Any, Final

import torch

from mechocl import files, internalization, models
from mechocl.errors import MechoclError
from mechocl.runs import SeedFolder
from toy_models import integer_set
from toy_models.task import Task
from toy_models.training import Diverged, Moment, train_stage

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 … 1."""

SAVE_EVERY_S: Final = 20.0
"""Seconds between resume points: the training that a kill can cost."""

_LOCK_PATIENCE_S: Final = 2.0
"""Seconds in which the processes of a run that was just killed are gone."""

EVALUATED_ALIASES: Final = 100
"""Aliases of each subset that evaluations during training look at."""


def train_seed(folder: SeedFolder, *, device: str, save_every_s: float, report: Report) -> None:
    """Train one seed to the end, or continue where an earlier call was stopped.

    The result does not depend on where it was stopped (bit for bit on one machine with the same number
    of threads). A loss that is not finite is recorded as the seed's failure, and the seed ends there.
    Raises MechoclError when the recipe's task cannot be drawn or gives a stage nothing to train on, and
    when another process trains the same seed.
    """
    with files.locked(folder.path / "lock", patience=_LOCK_PATIENCE_S):
        folder.remove_leftovers()
        if folder.finished() or folder.failure() is not None:
            return
        report("building the task", 0.0)
        task = _task(folder)
        model = models.initial(folder, device=device)
        stages = folder.recipe.training.stages
        weight = [len(task.training_rows(s.data)) * s.epochs for s in stages]
        done = 0.0
        for number, (stage, share) in enumerate(zip(stages, weight, strict=True), start=1):
            if folder.stage_finished(number):
                model = models.load(folder, folder.final(number), device=device)
                done += share
                continue
            saved = folder.load_state(number)
            state, history = saved if saved else (None, [])
            last_saved = time.monotonic()
            try:
                for moment in train_stage(
                    model,
                    task,
                    stage,
                    seed=folder.seed,
                    precision=folder.recipe.training.precision,
                    state=state,
                ):
                    if moment.evaluate:
                        history += _evaluate(model, task, number, moment)
                    final = moment.step == moment.total_steps
                    if moment.checkpoint:
                        weights = {k: v.detach() for k, v in model.named_parameters()}
                        folder.save_checkpoint(weights, stage=number, step=moment.step, final=final)
                    # not at step 0: the stage begins there anyway, and its first evaluation would count twice
                    if moment.step > 0 and not final and time.monotonic() - last_saved >= save_every_s:
                        folder.save_state(moment.capture(), stage=number, history=history)
                        last_saved = time.monotonic()
                    progress = moment.step / moment.total_steps
                    report(
                        f"stage {number}, step {moment.step} of {moment.total_steps}",
                        (done + share * progress) / sum(weight),
                    )
            except Diverged as error:
                folder.fail(f"stage {number}: {error}")
                return
            folder.finish_stage(number, history)
            done += share


def _task(folder: SeedFolder) -> Task:
    """The seed's task, saved where it is not yet; MechoclError for one that cannot be trained on."""
    try:
        task = integer_set.build(folder.recipe.task, seed=folder.seed)
    except ValueError as error:
        raise MechoclError(f"the recipe's task cannot be drawn: {error}") from None
    for number, stage in enumerate(folder.recipe.training.stages):
        if len(task.training_rows(stage.data)) == 0:
            raise MechoclError(
                f"training.stages.{number} has nothing to train on: no alias is in the data of stage "
                f"{' or '.join(map(str, stage.data))}; change task.fractions or the stage's data"
            )
    if "task.parquet" not in folder.ledger:
        folder.save_task(task)
        return task
    saved = folder.load_task()
    if not (torch.equal(saved.tokens, task.tokens) and torch.equal(saved.loss_mask, task.loss_mask)):
        raise MechoclError(
            f"{folder.path} was started on another task by another version of the code; "
            "choose another --out, or delete it"
        )
    return task


def _evaluate(model: Any, task: Task, stage: int, moment: Moment) -> list[dict[str, Any]]:
    """Rows of the history. Raises Diverged when the model's answers are not finite."""
    try:
        with torch.no_grad():
            aliases = internalization.per_alias(model, task, aliases_per_subset=EVALUATED_ALIASES)
    except ValueError as error:  # the loss was finite, and the last update spoiled the weights
        raise Diverged(f"{error} (step {moment.step} of {moment.total_steps})") from None
    table = internalization.by_subset(aliases)
    position = {"stage": stage, "step": moment.step, "epoch": moment.epoch, "loss": moment.loss}
    return [position | {str(k): v for k, v in row.items()} for row in table.to_dict("records")]
