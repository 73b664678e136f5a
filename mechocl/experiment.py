"""Train the seeds of a run, evaluating and saving as they go."""

import time
from collections.abc import Callable
from typing import Any, Final

import torch

from mechocl import files, internalization, models
from mechocl.runs import SeedFolder
from toy_models import integer_set
from toy_models.training import Diverged, Moment, train_stage

Report = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0 … 1."""

STATE_EVERY_S: Final = 20.0
"""Seconds of training that a kill can cost."""

EVALUATED_ALIASES: Final = 100
"""Aliases of each subset that evaluations during training look at."""


def train_seed(folder: SeedFolder, *, device: str, report: Report) -> None:
    """Train one seed to the end, or continue where an earlier call was stopped.

    The result does not depend on where it was stopped (bit for bit on one machine with the same number
    of threads). A loss that is not finite is recorded as the seed's failure, and the seed ends there.
    """
    with files.locked(folder.path / "lock"):
        if folder.finished() or folder.failure() is not None:
            return
        report("building the task", 0.0)
        task = integer_set.build(folder.recipe.task, seed=folder.seed)
        if "task.parquet" not in folder.ledger:
            folder.save_task(task)
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
                    if not final and time.monotonic() - last_saved > STATE_EVERY_S:
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


def _evaluate(model: Any, task: Any, stage: int, moment: Moment) -> list[dict[str, Any]]:
    with torch.no_grad():
        aliases = internalization.per_alias(model, task, aliases_per_subset=EVALUATED_ALIASES)
    table = internalization.by_subset(aliases)
    position = {"stage": stage, "step": moment.step, "epoch": moment.epoch, "loss": moment.loss}
    return [position | row for row in table.to_dict("records")]
