"""Training in stages: one loop that reads from top to bottom, for one model or several at once.

`train_stage` yields a `Moment` after each step, and the caller decides what to evaluate and write. A stage depends only
on the task, the model it starts from, its config and the seed. The order of the batches is drawn for each epoch, so a
stage that continues from a `TrainingState` ends with the same weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from toy_models.batches import Batches
from toy_models.forward import shape_of
from toy_models.losses import token_losses
from toy_models.projected_steps import find_projected_rows, find_projections
from toy_models.stages import StageConfig, evaluation_steps, log_steps, schedule
from toy_models.stopping import Stopping
from toy_models.tag_changes import find_tag_change
from toy_models.task import Task
from toy_models.trainer import Trainer, TrainingState, gradient_norms, set_learning_rate

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


@dataclass(frozen=True, slots=True)
class Moment:
    """The state of a stage after a step; `step` 0 is before the first step.

    At moments that evaluate or keep a checkpoint, the models' weights are those of this step.
    """

    step: int
    total_steps: int
    """Number of steps of all epochs. A stage that stops at a definition loss may end earlier."""
    epoch: float
    losses: tuple[float, ...]
    """Loss of each model in nats: the mean over all tokens with loss since the last evaluation, and 0 if there were none. It is empty at step 0 and at moments that neither evaluate nor end a model's stage, and not finite for a
    model that diverged."""
    gradient_norms: tuple[float, ...]
    """Euclidean norm of each model's gradient of what is trained, in the last batch and before clipping. It is empty
    when `losses` is empty."""
    evaluate: bool
    checkpoint: bool
    trained: tuple[bool, ...]
    """Whether each model's stage had not ended before this step. A model whose stage has ended stays as it is."""
    ends: tuple[bool, ...]
    """Whether each model's stage ends with this step."""
    stopped: tuple[float, ...]
    """Share of each model's definitions on which training has stopped; empty if the stage never stops before its end."""
    _trainer: Trainer

    def capture(self) -> TrainingState:
        """A copy of the state, from which `train_stage` can continue with the same result."""
        return self._trainer.capture(self.step)


def train_stage(
    models: "Sequence[HookedTransformer]",
    tasks: Sequence[Task],
    stage: StageConfig,
    *,
    seeds: Sequence[int],
    precision: Literal["float32", "bf16"],
    learning_rates: Sequence[float] | None = None,
    state: TrainingState | None = None,
) -> Iterator[Moment]:
    """Train models of one shape together, in place, on one stage, yielding after every step.

    Each model has its own task, its own seed, which decides the order of its examples, and, if wanted, its own learning
    rate instead of the stage's. Models that train together get, within rounding, the weights that each would get alone.
    The first moment is step 0, or the step after `state`, which restores weights and optimiser. Training takes place on
    the device of the models.

    A model stops before the end as the stage's `stop_at_definition_loss` says, and the stage ends when all have stopped.

    Raises ValueError when the stage has no data, the tasks' sizes differ, a model lacks task, seed or rate, or the stage
    stops at a definition loss that its definitions do not have, or puts in a tag that they do not have.
    """
    given = {len(tasks), len(seeds), len(models if learning_rates is None else learning_rates)}
    if given != {len(models)}:  # a single one would broadcast to all models
        raise ValueError(f"{len(models)} models need as many tasks, seeds and, if any, learning rates")
    device = models[0].W_U.device
    data = Batches(tasks, stage, seeds, device)
    trainer = Trainer(models, tasks, stage)
    shape = shape_of(models[0])
    if stage.alias_step != "whole":
        rows = torch.stack([find_projected_rows(task, stage) for task in tasks]).to(device)
        trainer.project(rows, find_projections(trainer.forward, shape, tasks, stage, seeds=seeds))
    peak, rates = stage.learning_rate, None
    if learning_rates is not None and any(rate != stage.learning_rate for rate in learning_rates):
        peak = max(
            learning_rates
        )  # so that shares are at most 1; larger shares would magnify the rounding of the step
        rates = torch.tensor([rate / peak for rate in learning_rates], device=device)
    change = find_tag_change(tasks, stage, device)
    stopping = Stopping(trainer, data, stage, change)
    steps_per_epoch = math.ceil(data.size / stage.batch_size)
    total = steps_per_epoch * stage.epochs
    evaluate_at = evaluation_steps(total, stage.evaluations)
    checkpoint_at = log_steps(total, stage.checkpoints)
    step = 0
    if state is not None:
        trainer.restore(state)
        stopping.apply()
        step = state.step
    if step == 0:
        if stage.stops != "stage":
            stopping.measure(shape, trainer.forward)
        everyone, ends = (True,) * len(models), tuple(stopping.finished)
        yield Moment(0, total, 0.0, (), (), True, False, everyone, ends, stopping.shares(), trainer)
    begun = False
    while step < total and not all(stopping.finished):
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0 or not begun:
            data.start(epoch)
            begun = True
        tokens, mask = data.batch(within)
        learns = stopping.learns(mask)
        set_learning_rate(trainer.optimizer, peak * schedule(stage, step, total))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = token_losses(trainer.forward, shape, tokens, mask, most=data.most, change=change)
        gradients = trainer.mask_frozen_rows(torch.autograd.grad(losses.sum(), trainer.parameters))
        trainer.update(gradients, clip=stage.gradient_clip, rates=rates, learns=learns)
        trainer.record(losses, mask.flatten(1).sum(1), learns)
        step += 1

        trained = tuple(not over for over in stopping.finished)
        if step % steps_per_epoch == 0:
            stopping.measure(shape, trainer.forward)
        over = [step == total or finished for finished in stopping.finished]
        ends = tuple(now and before for now, before in zip(over, trained, strict=True))
        evaluate, checkpoint = step in evaluate_at, step in checkpoint_at
        mean_losses: tuple[float, ...] = ()
        norms: tuple[float, ...] = ()
        if evaluate or checkpoint or any(ends):
            trainer.tie()
        if evaluate or any(ends):
            mean_losses = trainer.mean_losses()
            norms = tuple(gradient_norms(gradients).tolist())
        if evaluate:
            trainer.forget_losses()
        yield Moment(
            step, total, step / steps_per_epoch, mean_losses, norms, evaluate, checkpoint, trained, ends,
            stopping.shares(), trainer,
        )  # fmt: skip
