"""Training in stages: one loop that reads top to bottom, for one model or many at once.

`train_stage` yields a `Moment` after each step; whoever consumes it decides what to evaluate and write.
A stage depends on the task, the model it starts from, its config and the seed alone: the order of the
batches is drawn per epoch, so a stage that continues from a `TrainingState` ends with the same weights.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models import architectures, lean
from toy_models.randomness import generator
from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


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
    embedding_rate: float = 1.0
    """The token embeddings' learning rate as a multiple of the other parameters'. Between the two extremes of
    `trains`: 1 treats all alike; the larger, the more of what is learned goes into the embeddings."""
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
        for name in ("learning_rate", "embedding_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
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
    """Everything needed to continue a stage: tensors by name, and how far it had come.

    Tensors that belong to a model have a leading axis `model`.
    """

    tensors: dict[str, Tensor]
    step: int
    scalars: dict[str, float]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a stage stands after a step (`step` 0: before the first).

    The models' weights are those of this step at moments that evaluate or keep a checkpoint.
    """

    step: int
    total_steps: int
    epoch: float
    losses: tuple[float, ...]
    """Of each model: mean over the steps since the last evaluation of the batch's loss per token, in nats;
    empty at step 0 and between evaluations. Not finite for a model that diverged."""
    gradient_norms: tuple[float, ...]
    """Of each model: Euclidean norm of the last batch's gradient of what is trained, before clipping; empty as
    `losses`."""
    evaluate: bool
    checkpoint: bool
    _trainer: "_Trainer"

    def capture(self) -> TrainingState:
        """Copy of the state, from which `train_stage` continues with the same result."""
        return self._trainer.capture(self.step)


class _Trainer:
    """The mutable part of a stage: stacked parameters, optimiser, running losses.

    While it trains, the models' own parameters are views into the stacks.
    """

    def __init__(
        self, models: "Sequence[HookedTransformer]", tasks: Sequence[Task], stage: StageConfig
    ) -> None:
        self.models = models
        first = models[0]
        device = first.embed.W_E.device
        self.tied = bool(first.cfg.tie_word_embeddings)
        self.stacked = {k: v.detach().contiguous() for k, v in lean.parameters_of(models).items()}
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.data = self.stacked[name][index]
        names = [n for n, p in first.named_parameters() if p.requires_grad]
        if stage.trains == "alias_embeddings":
            names = ["embed.W_E"]
        # the optimiser's tensors: whole stacks, since what it does to one number depends on that number
        # alone; but one tensor a model for Adafactor, whose step depends on the tensor's shape and size
        apart = stage.optimizer == "adafactor"
        self.names, self.parameters = names, [self.stacked[n].requires_grad_() for n in names]
        self.moved = (
            [p.detach()[k] for p in self.parameters for k in range(len(models))] if apart else self.parameters
        )
        self.apart = apart
        assert names[0] == "embed.W_E"
        embeddings = len(models) if apart else 1
        self.optimizer = _optimizer(self.moved[:embeddings], self.moved[embeddings:], stage)
        self.row_mask: Tensor | None = None
        if stage.trains == "alias_embeddings":
            self.row_mask = torch.stack([_is_alias_name(task) for task in tasks])[:, :, None].to(device)
        self.forward = dict(self.stacked) | lean.rotary_tables(first)
        if self.tied:
            self.forward["unembed.W_U"] = self.stacked["embed.W_E"][:, : first.cfg.d_vocab_out].mT
        self.loss_sum = torch.zeros(len(models), dtype=torch.float64, device=device)
        self.loss_count = 0

    def of_trained(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, 0 where a row of the embedding is not trained."""
        return gradients if self.row_mask is None else [g * self.row_mask for g in gradients]

    def update(self, gradients: Sequence[Tensor], *, clip: float, rates: Tensor | None) -> None:
        """One step of the optimiser; `rates`: each model's learning rate as a share of the optimiser's."""
        if clip:
            shares = (clip / (gradient_norms(gradients) + 1e-6)).clamp(max=1.0)
            gradients = [g * shares.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        if self.apart:
            gradients = [part for gradient in gradients for part in gradient]
        for parameter, gradient in zip(self.moved, gradients, strict=True):
            parameter.grad = _laid_out_as(parameter, gradient)
        before = None if rates is None else [p.detach().clone() for p in self.parameters]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if rates is not None and before is not None:
            # every optimiser's step is proportional to its learning rate
            with torch.no_grad():
                for parameter, old in zip(self.parameters, before, strict=True):
                    share = rates.view(-1, *[1] * (old.ndim - 1))
                    parameter.copy_(old + share * (parameter - old))

    def tie(self) -> None:
        if self.tied:
            for model in self.models:
                architectures.tie(model)

    def capture(self, step: int) -> TrainingState:
        tensors = {f"model/{k}": v.detach().clone() for k, v in self.stacked.items() if "rotary" not in k}
        tensors["loss_sum"] = self.loss_sum.clone()
        scalars = {"loss_count": float(self.loss_count)}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"optimizer/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().clone()
                elif value is not None:
                    scalars[name] = float(value)  # Adafactor counts its steps in a plain int
        return TrainingState(tensors, step, scalars)

    def restore(self, state: TrainingState) -> None:
        saved: dict[int, dict[str, Tensor | float]] = {}
        with torch.no_grad():
            for name, value in state.tensors.items():
                if name.startswith("model/"):
                    self.stacked[name.removeprefix("model/")].copy_(value)
        for name, number in (state.tensors | state.scalars).items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                # a copy, since the optimiser writes into what it is given
                saved.setdefault(int(index), {})[key] = (
                    number.clone() if isinstance(number, Tensor) else number
                )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved, "param_groups": groups})
        self.loss_sum.copy_(state.tensors["loss_sum"])
        self.loss_count = int(state.scalars["loss_count"])


class _Data:
    """The stage's examples of every model, on the device: batches are look-ups."""

    def __init__(
        self, tasks: Sequence[Task], stage: StageConfig, seeds: Sequence[int], device: torch.device
    ) -> None:
        self.tasks, self.stage, self.seeds, self.device = tasks, stage, seeds, device
        self.rows = [torch.from_numpy(task.training_rows(stage.data)) for task in tasks]
        sizes = {len(rows) for rows in self.rows}
        if sizes == {0}:
            raise ValueError(f"the task has no training examples of stage {list(stage.data)}")
        if len(sizes) > 1:
            raise ValueError(f"tasks of {sorted(sizes)} examples cannot be trained on together")
        self.size = sizes.pop()
        mask = torch.stack([task.loss_mask[rows] for task, rows in zip(tasks, self.rows, strict=True)])
        self.n_pos = int(mask.any(0).any(0).nonzero().max()) + 1  # positions past it never carry loss
        self.most = int(mask.sum(2).max())
        self.mask = mask[:, :, : self.n_pos].to(device)
        self.tokens = self._stacked([task.tokens for task in tasks])
        is_question = tasks[0].table["kind"].to_numpy() == "question"
        asks = bool(is_question[self.rows[0].numpy()].any())
        self.redrawn = asks and tasks[0].fresh is not None  # definitions are the same in every epoch
        self.model = torch.arange(len(tasks), device=device)[:, None]
        self.order = torch.empty(0)

    def start(self, epoch: int) -> None:
        """Draw the order of an epoch, and new questions where the task has fresh ones."""
        orders = [
            torch.randperm(self.size, generator=generator(seed, "order", self.stage.data, epoch))
            for seed in self.seeds
        ]
        self.order = torch.stack(orders).to(self.device)
        if self.redrawn:
            self.tokens = self._stacked([task.fresh(epoch) for task in self.tasks if task.fresh is not None])

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens (one more position than is read) and loss mask of a batch of this epoch."""
        chosen = self.order[:, index * self.stage.batch_size : (index + 1) * self.stage.batch_size]
        return self.tokens[self.model, chosen], self.mask[self.model, chosen]

    def _stacked(self, tokens: Sequence[Tensor]) -> Tensor:
        parts = [t[rows, : self.n_pos + 1] for t, rows in zip(tokens, self.rows, strict=True)]
        return torch.stack(parts).to(self.device)


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

    Each model has its own task, the seed that draws the order of its examples, and, if wanted, its own
    learning rate instead of the stage's; together they become what each would become alone, within
    rounding. The first moment is step 0, or the one after `state`, which restores weights and optimiser.
    The device is the models'.

    Raises ValueError when the stage has no data, the tasks' sizes differ, or a model lacks task, seed or rate.
    """
    given = {len(tasks), len(seeds), len(models if learning_rates is None else learning_rates)}
    if given != {len(models)}:  # one for all would broadcast
        raise ValueError(f"{len(models)} models need as many tasks, seeds and, if any, learning rates")
    device = models[0].embed.W_E.device
    data = _Data(tasks, stage, seeds, device)
    trainer = _Trainer(models, tasks, stage)
    shape = lean.shape_of(models[0])
    peak, rates = stage.learning_rate, None
    if learning_rates is not None and any(rate != stage.learning_rate for rate in learning_rates):
        peak = max(learning_rates)  # shares of at most 1: larger ones would magnify the rounding of the step
        rates = torch.tensor([rate / peak for rate in learning_rates], device=device)
    steps_per_epoch = math.ceil(data.size / stage.batch_size)
    total = steps_per_epoch * stage.epochs
    evaluate_at = evaluation_steps(total, stage.evaluations)
    checkpoint_at = log_steps(total, stage.checkpoints)
    step = 0
    if state is not None:
        trainer.restore(state)
        step = state.step
    if step == 0:
        yield Moment(0, total, 0.0, (), (), True, False, trainer)
    begun = False
    while step < total:
        epoch, within = divmod(step, steps_per_epoch)
        if within == 0 or not begun:
            data.start(epoch)
            begun = True
        tokens, mask = data.batch(within)
        set_learning_rate(trainer.optimizer, peak * schedule(stage, step, total))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            losses = token_losses(trainer.forward, shape, tokens, mask, most=data.most)
        gradients = trainer.of_trained(torch.autograd.grad(losses.sum(), trainer.parameters))
        trainer.update(gradients, clip=stage.gradient_clip, rates=rates)
        trainer.loss_sum += losses.detach()
        trainer.loss_count += 1
        step += 1

        evaluate, checkpoint = step in evaluate_at, step in checkpoint_at
        mean_losses: tuple[float, ...] = ()
        norms: tuple[float, ...] = ()
        if evaluate or checkpoint:
            trainer.tie()
        if evaluate:
            mean_losses = tuple((trainer.loss_sum / trainer.loss_count).tolist())
            norms = tuple(gradient_norms(gradients).tolist())
            trainer.loss_sum.zero_()
            trainer.loss_count = 0
        yield Moment(step, total, step / steps_per_epoch, mean_losses, norms, evaluate, checkpoint, trainer)


def token_losses(
    parameters: dict[str, Tensor],
    shape: lean.Shape,
    tokens: Int[Tensor, "model batch pos_and_next"],
    loss_mask: Bool[Tensor, "model batch pos"],
    *,
    most: int,
) -> Float[Tensor, "model"]:
    """Of each model: mean cross-entropy (nats) of the next token over the positions in `loss_mask`.

    `tokens` has one position more than `loss_mask`: the last is only predicted. No row has more than `most`
    positions with loss, and no more are unembedded.
    """
    x = lean.residual(parameters, tokens[:, :, :-1], shape)
    targets, weights = tokens[:, :, 1:], loss_mask
    if most < loss_mask.shape[2]:
        # the positions with loss first; rows with fewer are filled with positions of weight 0
        where = loss_mask.byte().argsort(dim=2, descending=True, stable=True)[:, :, :most]
        x = x.gather(2, where[..., None].expand(-1, -1, -1, x.shape[3]))
        targets, weights = targets.gather(2, where), loss_mask.gather(2, where)
    targets = targets.masked_fill(~weights, 0)  # there may be no logit for what is not predicted
    logits = lean.logits(parameters, x.flatten(1, 2))
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(len(x), -1)
    weights = weights.flatten(1)
    return (each * weights).sum(1) / weights.sum(1)


def gradient_norms(gradients: Sequence[Tensor]) -> Float[Tensor, "model"]:
    """Euclidean norm of each model's gradient over all parameters; the first axis is `model`."""
    return torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients]).sum(0).sqrt()


def _is_alias_name(task: Task) -> Bool[Tensor, "d_vocab"]:
    """Which tokens are aliases' names: entities in the alias's place are not."""
    found = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    found[task.tokens[task.roles == ROLE["alias"]]] = True
    found[: task.vocabulary.integers[1]] = False
    return found


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
        group["lr"] = value * group["share"]


def _laid_out_as(parameter: Tensor, gradient: Tensor) -> Tensor:
    """The gradient with the parameter's strides.

    Fused optimisers on the CPU pair numbers by their place in memory: a transposed gradient, such as
    those of the query, key and value matrices, would move the wrong weights, without an error.
    """
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _optimizer(
    embeddings: Sequence[Tensor], others: Sequence[Tensor], stage: StageConfig
) -> torch.optim.Optimizer:
    """The optimiser of the token embeddings and the other parameters, in this order."""
    groups = [{"params": list(embeddings), "share": stage.embedding_rate}]
    if others:
        groups.append({"params": list(others), "share": 1.0})
    lr, decay = stage.learning_rate, stage.weight_decay
    if stage.optimizer == "adamw":
        betas = (stage.momentum, stage.beta2)
        return torch.optim.AdamW(groups, lr=lr, betas=betas, weight_decay=decay, fused=True)
    if stage.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=stage.momentum, weight_decay=decay, fused=True)
    from transformers.optimization import Adafactor

    adafactor: torch.optim.Optimizer = Adafactor(
        groups, lr=lr, weight_decay=decay, scale_parameter=False, relative_step=False
    )
    return adafactor
