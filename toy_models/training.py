"""Training in stages: one loop that reads top to bottom.

`train_stage` yields a `Moment` after each step; whoever consumes it decides what to evaluate and write.
A stage depends on the task, the model it starts from, its config and the seed alone: the order of the
batches is drawn per epoch, so a stage that continues from a `TrainingState` ends with the same weights.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from toy_models import architectures, lean
from toy_models.randomness import generator
from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


class Diverged(RuntimeError):
    """The loss became infinite or NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    data: tuple[Literal[1, 2], ...]
    """Stages of the task's data to train on: [1], [2], or [1, 2] (one-stage training, or replay)."""
    epochs: int
    """Passes over the stage's examples."""
    batch_size: int = 512
    """Examples per step; the last batch of an epoch may be smaller."""
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    """AdamW and SGD are torch's; Adafactor is transformers', without parameter scaling, as its Trainer."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    momentum: float = 0.9
    """SGD's momentum; AdamW's β₁."""
    beta2: float = 0.999
    """AdamW's β₂."""
    weight_decay: float = 0.0
    """Decoupled for AdamW and Adafactor, L2 for SGD."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after warm-up: constant, or falling to 0 at the end."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises linearly from 0."""
    gradient_clip: float = 0.0
    """Largest gradient norm; 0: not clipped."""
    trains: Literal["all", "alias_embeddings"] = "all"
    """What is trained: every parameter, or only the embedding rows of the aliases' tokens."""
    evaluations: int = 10
    """Evaluations during the stage, evenly spaced, the last at its end."""
    checkpoints: int = 6
    """Weights kept during the stage, at logarithmically spaced steps, the last at its end."""

    def __post_init__(self) -> None:
        if not self.data or len(set(self.data)) != len(self.data):
            raise ValueError(f"data is {list(self.data)}; name stage 1, stage 2 or both, once each")
        for name in ("epochs", "batch_size", "evaluations", "checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        for name in ("momentum", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.weight_decay < 0 or self.gradient_clip < 0:
            raise ValueError("weight_decay and gradient_clip must not be negative")
        if self.trains == "alias_embeddings" and self.weight_decay:
            raise ValueError(
                "weight_decay would move the frozen embeddings; set it to 0 with alias_embeddings"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """All stages, in order."""

    stages: tuple[StageConfig, ...]
    """The stages; each starts from the weights that the one before ended with."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: forward pass under autocast; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("training.stages is empty; give at least one stage")


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything needed to continue a stage: tensors by name, and how far it had come."""

    tensors: dict[str, Tensor]
    step: int
    loss_sum: float
    loss_count: int
    scalars: dict[str, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a stage stands after a step (`step` 0: before the first)."""

    step: int
    total_steps: int
    epoch: float
    loss: float
    """Mean over the steps since the last evaluation of the batch's loss per token, in nats; NaN at
    step 0 and between evaluations."""
    evaluate: bool
    checkpoint: bool
    _trainer: "_Trainer"

    def capture(self) -> TrainingState:
        """Copy of the state, from which `train_stage` continues with the same result."""
        return self._trainer.capture(self.step)


class _Trainer:
    """The mutable part of a stage: model, optimiser, running loss."""

    def __init__(self, model: "HookedTransformer", task: Task, stage: StageConfig) -> None:
        self.model = model
        self.names = [n for n, p in model.named_parameters() if p.requires_grad]
        if stage.trains == "alias_embeddings":
            self.names = ["embed.W_E"]
        by_name = dict(model.named_parameters())
        self.parameters = [by_name[name] for name in self.names]
        self.optimizer = _optimizer(self.parameters, stage)
        self.row_mask: Tensor | None = None
        if stage.trains == "alias_embeddings":
            is_alias = torch.zeros(len(task.vocabulary), 1)
            is_alias[task.tokens[task.roles == ROLE["alias"]]] = 1.0
            is_alias[: task.vocabulary.integers[1]] = 0.0  # entities in the alias's place stay frozen
            self.row_mask = is_alias.to(self.parameters[0].device)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)
        self.loss_count = 0

    def capture(self, step: int) -> TrainingState:
        tensors = {f"model/{k}": v.detach().clone() for k, v in self.model.named_parameters()}
        scalars: dict[str, float] = {}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"optimizer/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().clone()
                elif value is not None:
                    scalars[name] = float(value)  # Adafactor counts its steps in a plain int
        return TrainingState(tensors, step, float(self.loss_sum), self.loss_count, scalars)

    def restore(self, state: TrainingState) -> None:
        saved: dict[int, dict[str, Tensor | float]] = {}
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state.tensors[f"model/{name}"])
        for name, value in (state.tensors | state.scalars).items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                # a copy, since the optimiser writes into what it is given
                saved.setdefault(int(index), {})[key] = value.clone() if isinstance(value, Tensor) else value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved, "param_groups": groups})
        self.loss_sum.fill_(state.loss_sum)
        self.loss_count = state.loss_count


def train_stage(
    model: "HookedTransformer",
    task: Task,
    stage: StageConfig,
    *,
    seed: int,
    precision: Literal["float32", "bf16"],
    state: TrainingState | None = None,
) -> Iterator[Moment]:
    """Train `model` in place on one stage, yielding after every step.

    The first moment is step 0, or the one after `state`, which restores weights and optimiser. `seed`
    draws the order of the examples. The device is the model's.

    Raises Diverged when the loss is not finite at an evaluation, ValueError when the stage has no data.
    """
    device = next(model.parameters()).device
    rows = torch.from_numpy(task.training_rows(stage.data))
    if len(rows) == 0:
        raise ValueError(f"the task has no training examples of stage {list(stage.data)}")
    trainer = _Trainer(model, task, stage)
    shape, parameters = lean.shape_of(model), lean.parameters_of(model)
    tied = bool(model.cfg.tie_word_embeddings)
    if tied:
        parameters["unembed.W_U"] = model.embed.W_E[: model.cfg.d_vocab_out].T
    steps_per_epoch = math.ceil(len(rows) / stage.batch_size)
    total = steps_per_epoch * stage.epochs
    evaluate_at, checkpoint_at = (
        evaluation_steps(total, stage.evaluations),
        log_steps(total, stage.checkpoints),
    )
    step = 0
    if state is not None:
        trainer.restore(state)
        step = state.step

    tokens, loss_mask = task.tokens[rows].to(device), task.loss_mask[rows].to(device)
    order = torch.empty(0, dtype=torch.int64)
    if step == 0:
        yield Moment(0, total, 0.0, math.nan, True, False, trainer)
    while step < total:
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0 or len(order) == 0:
            draws = generator(seed, "order", stage.data, epoch)
            order = torch.randperm(len(rows), generator=draws).to(device)
            if task.fresh is not None:
                tokens = task.fresh(epoch)[rows].to(device)
        batch = order[within * stage.batch_size : (within + 1) * stage.batch_size]

        set_learning_rate(trainer.optimizer, stage.learning_rate * schedule(stage, step, total))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = token_loss(parameters, shape, tokens[batch], loss_mask[batch])
        gradients = torch.autograd.grad(loss, trainer.parameters)
        for parameter, gradient in zip(trainer.parameters, gradients, strict=True):
            if trainer.row_mask is not None:
                gradient = gradient * trainer.row_mask
            parameter.grad = _laid_out_as(parameter, gradient)
        if stage.gradient_clip:
            torch.nn.utils.clip_grad_norm_(trainer.parameters, stage.gradient_clip)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        if tied:
            architectures.tie(model)
        trainer.loss_sum += loss.detach()
        trainer.loss_count += 1
        step += 1

        mean_loss = math.nan
        if step in evaluate_at:
            mean_loss = float(trainer.loss_sum) / trainer.loss_count
            trainer.loss_sum.zero_()
            trainer.loss_count = 0
            if not math.isfinite(mean_loss):
                raise Diverged(f"the training loss is {mean_loss} at step {step} of {total}")
        yield Moment(
            step,
            total,
            step / steps_per_epoch,
            mean_loss,
            step in evaluate_at,
            step in checkpoint_at,
            trainer,
        )


def token_loss(
    parameters: dict[str, Tensor],
    shape: lean.Shape,
    tokens: Int[Tensor, "batch pos"],
    loss_mask: Tensor,
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the next token over the positions in `loss_mask`.

    Only those positions are unembedded.
    """
    longest = int(loss_mask.any(0).nonzero().max()) + 1  # positions past it carry no loss in this batch
    x = lean.residual(parameters, tokens[:, :longest], shape)
    mask = loss_mask[:, :longest]
    targets = tokens[:, 1 : longest + 1][mask]
    return F.cross_entropy(lean.logits(parameters, x[mask]).float(), targets)


def schedule(stage: StageConfig, step: int, total: int) -> float:
    """Learning rate at `step` (from 0) as a share of the peak."""
    warmup = round(stage.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if stage.schedule == "linear":
        return 1 - progress
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def evaluation_steps(total: int, count: int) -> frozenset[int]:
    """`count` evenly spaced steps, the last being `total`."""
    return frozenset(int(s) for s in np.linspace(0, total, count + 1).round()[1:] if s > 0)


def log_steps(total: int, count: int) -> frozenset[int]:
    """At most `count` logarithmically spaced steps from 1 to `total`; one step means the last."""
    return (
        frozenset(int(s) for s in np.geomspace(1, total, count).round()) | {total}
        if count > 1
        else frozenset({total})
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides.

    Fused optimisers on the CPU pair numbers by their place in memory: a transposed gradient, such as
    those of the query, key and value matrices, would move the wrong weights, without an error.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _optimizer(parameters: list[torch.nn.Parameter], stage: StageConfig) -> torch.optim.Optimizer:
    if stage.optimizer == "adamw":
        return torch.optim.AdamW(
            parameters,
            lr=stage.learning_rate,
            betas=(stage.momentum, stage.beta2),
            weight_decay=stage.weight_decay,
            fused=True,
        )
    if stage.optimizer == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=stage.learning_rate,
            momentum=stage.momentum,
            weight_decay=stage.weight_decay,
            fused=True,
        )
    from transformers.optimization import Adafactor

    adafactor: torch.optim.Optimizer = Adafactor(
        parameters,
        lr=stage.learning_rate,
        weight_decay=stage.weight_decay,
        scale_parameter=False,
        relative_step=False,
    )
    return adafactor
