"""What changes while a stage trains: the models' stacked parameters, their optimiser and their running losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models import architectures, lean
from toy_models.frozen import EMBEDDING, FrozenRows, name_trained_parameters
from toy_models.projected_steps import ProjectedRows
from toy_models.stages import StageConfig
from toy_models.task import Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


_RUNNING: Final = ("loss_sum", "loss_tokens", "stopped")
"""Tensors of a trainer that a state keeps beside weights and optimiser."""

_PROJECTIONS: Final = "projections"
"""Name of the projections of a state whose rows move in a subspace."""


@dataclass(frozen=True, slots=True)
class TrainingState:
    """Everything that is needed to continue a stage: tensors by name, and the number of steps that were done.

    Tensors that belong to a model have a leading axis `model`.
    """

    tensors: dict[str, Tensor]
    step: int
    scalars: dict[str, float]


class Trainer:
    """The mutable part of a stage: stacked parameters, optimiser, running losses.

    While it trains, the models' own parameters are views into the stacks.
    """

    def __init__(
        self, models: "Sequence[HookedTransformer]", tasks: Sequence[Task], stage: StageConfig
    ) -> None:
        self.models = models
        first = models[0]
        device = first.W_U.device
        self.tied = bool(first.cfg.tie_word_embeddings)
        self.stacked = {k: v.detach().contiguous() for k, v in lean.parameters_of(models).items()}
        for index, model in enumerate(models):
            for name, parameter in model.named_parameters():
                parameter.data = self.stacked[name][index]
        names = name_trained_parameters(first, stage.trains)
        # the optimiser gets whole stacks, since what it does to a number depends on that number alone; but Adafactor
        # gets one tensor for each model, since its step depends on the tensor's shape and size, and so does every
        # optimiser if models may stop: it leaves alone what has no gradient
        apart = stage.optimizer == "adafactor" or stage.stop_at_definition_loss > 0
        self.names, self.parameters = names, [self.stacked[n].requires_grad_() for n in names]
        self.moved = (
            [p.detach()[k] for p in self.parameters for k in range(len(models))] if apart else self.parameters
        )
        self.apart = apart
        embeddings = (len(models) if apart else 1) if names[0] == EMBEDDING else 0
        self.optimizer = _optimizer(self.moved[:embeddings], self.moved[embeddings:], stage)
        self.frozen = FrozenRows(self.stacked[EMBEDDING], tasks, stage.trains) if embeddings else None
        """Rows of the embeddings that do not move; None in models without token embeddings."""
        self.forward = dict(self.stacked) | lean.rotary_tables(first)
        if self.tied:
            self.forward["unembed.W_U"] = self.stacked["embed.W_E"][:, : first.cfg.d_vocab_out].mT
        self.loss_sum = torch.zeros(len(models), dtype=torch.float64, device=device)
        self.loss_tokens = torch.zeros(len(models), dtype=torch.float64, device=device)
        self.stopped = torch.zeros(len(models), 0, dtype=torch.bool, device=device)
        """Which definitions have stopped, if any may stop (`toy_models.stopping`): `model definition`."""
        self.projected: ProjectedRows | None = None
        """The rows of the embedding that move in a subspace, if any do."""

    def project(
        self, rows: Bool[Tensor, "model d_vocab"], projections: Float[Tensor, "model d_model d_model"]
    ) -> None:
        """Let these rows of the embeddings move in a subspace from now on. A state that is restored brings its own subspaces."""
        self.projected = ProjectedRows(self.stacked[EMBEDDING], rows, projections)

    def mask_frozen_rows(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """Gradients that are 0 in the rows of the embedding that are not trained."""
        return gradients if self.frozen is None else [self.frozen.mask(gradients[0]), *gradients[1:]]

    def record(
        self, losses: Float[Tensor, "model"], tokens: Int[Tensor, "model"], learns: Sequence[bool]
    ) -> None:
        """Add a batch to the running losses of the models that learn from it: mean losses, and of how many tokens."""
        counts = torch.where(torch.tensor(learns, device=losses.device), tokens, 0)
        self.loss_sum += torch.where(counts > 0, losses.detach().double() * counts, 0.0)
        self.loss_tokens += counts

    def mean_losses(self) -> tuple[float, ...]:
        """Mean of each model's losses per token since they were last forgotten; 0 if the model learned from no batch."""
        return tuple((self.loss_sum / self.loss_tokens.clamp(min=1)).tolist())

    def forget_losses(self) -> None:
        self.loss_sum.zero_()
        self.loss_tokens.zero_()

    def update(
        self, gradients: Sequence[Tensor], *, clip: float, rates: Tensor | None, learns: Sequence[bool]
    ) -> None:
        """Do one step of the optimiser. `rates` are the models' learning rates as shares of the optimiser's rate.

        A model that does not learn keeps its weights and its part of the optimiser's state.
        """
        if clip:
            shares = (clip / (gradient_norms(gradients) + 1e-6)).clamp(max=1.0)
            gradients = [g * shares.view(-1, *[1] * (g.ndim - 1)) for g in gradients]
        if self.apart:
            gradients = [part for gradient in gradients for part in gradient]
        for index, (parameter, gradient) in enumerate(zip(self.moved, gradients, strict=True)):
            if not self.apart or learns[index % len(self.models)]:
                parameter.grad = _laid_out_as(parameter, gradient)
        kept = self.parameters if rates is not None else self.parameters[: self.projected is not None]
        before = [p.detach().clone() for p in kept]
        self.optimizer.step()
        self.optimizer.zero_grad()
        if rates is not None:
            # every optimiser's step is proportional to its learning rate
            with torch.no_grad():
                for parameter, old in zip(self.parameters, before, strict=True):
                    share = rates.view(-1, *[1] * (old.ndim - 1))
                    parameter.copy_(old + share * (parameter - old))
        if self.projected is not None:
            self.projected.project(before[0])
        if self.frozen is not None:
            self.frozen.put_back()

    def tie(self) -> None:
        """Give the models' unembedding the weights of the embedding, if the two are tied."""
        if self.tied:
            for model in self.models:
                architectures.tie(model)

    def capture(self, step: int) -> TrainingState:
        """Copy weights, optimiser, running losses and what has stopped as they are after `step` steps."""
        tensors = {f"model/{k}": v.detach().clone() for k, v in self.stacked.items() if "rotary" not in k}
        for name in _RUNNING:
            tensors[name] = getattr(self, name).clone()
        if self.projected is not None:
            tensors[_PROJECTIONS] = self.projected.projections.clone()
        scalars: dict[str, float] = {}
        for index, state in self.optimizer.state_dict()["state"].items():
            for key, value in state.items():
                name = f"optimizer/{index}/{key}"
                if isinstance(value, Tensor):
                    tensors[name] = value.detach().clone()
                elif value is not None:
                    scalars[name] = float(value)  # Adafactor counts its steps in a plain int
        return TrainingState(tensors, step, scalars)

    def restore(self, state: TrainingState) -> None:
        """Take over the weights, the optimiser, the running losses and what has stopped of a captured state."""
        saved: dict[int, dict[str, Tensor | float]] = {}
        with torch.no_grad():
            for name, value in state.tensors.items():
                if name.startswith("model/"):
                    self.stacked[name.removeprefix("model/")].copy_(value)
        if self.frozen is not None:
            self.frozen.freeze(torch.zeros_like(self.frozen.always))  # at the restored values
        for name, number in (state.tensors | state.scalars).items():
            kind, _, rest = name.partition("/")
            if kind == "optimizer":
                index, _, key = rest.partition("/")
                # a copy, since the optimiser writes into the tensors that it gets
                saved.setdefault(int(index), {})[key] = (
                    number.clone() if isinstance(number, Tensor) else number
                )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": saved, "param_groups": groups})
        for name in _RUNNING:
            getattr(self, name).copy_(state.tensors[name])
        if self.projected is not None:
            self.projected.projections.copy_(state.tensors[_PROJECTIONS])


def gradient_norms(gradients: Sequence[Tensor]) -> Float[Tensor, "model"]:
    """Euclidean norm of each model's gradient over all parameters. The gradients' first axis is `model`."""
    return torch.stack([g.flatten(1).pow(2).sum(1) for g in gradients]).sum(0).sqrt()


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of all groups. The group of the embeddings gets its own multiple of it."""
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
    both = ((embeddings, stage.embedding_rate), (others, 1.0))
    groups = [{"params": list(params), "share": share} for params, share in both if params]
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
