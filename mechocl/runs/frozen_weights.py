"""Weights that a stage of fine-tuning leaves as they are: all but the embeddings, or the embeddings of some tokens."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import TrainerCallback

from mechocl.closed_book.stages import Trains
from mechocl.errors import MechoclError
from mechocl.runs.token_rows import find_token_rows
from toy_models.task import ROLE, Task


def find_frozen_rows(task: Task, trains: Trains) -> Bool[Tensor, "d_vocab"]:
    """Which tokens keep their embedding. Those of define tags are all tokens that stand in one of the task."""
    rows = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    if trains == "all_but_tag_embeddings":
        rows[task.tokens[task.roles == ROLE["tag"]]] = True
    return rows


def freeze_weights(model: Any, task: Task, trains: Trains) -> "FrozenRows":
    """Freeze what a stage does not train, in place. The result must be told of each step of the optimiser.

    Raises MechoclError where several processes share a model, because each of them may hold a part of the rows.
    """
    weight = find_token_rows(model).weight
    if trains == "embeddings":
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is weight)
    rows = find_frozen_rows(task, trains)
    if rows.any() and torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
        raise MechoclError(f"trains = {trains!r} works in one process; start the command without accelerate")
    return FrozenRows(weight, rows)


class FrozenRows(TrainerCallback):  # type: ignore[misc]
    """Rows of the token embeddings that do not move.

    An optimiser moves a row whose gradient is 0, too: by weight decay, or by the momentum of earlier steps. So the rows
    are put back after each step. Their gradients are 0, so that they do not count where gradients are clipped.
    """

    def __init__(self, weight: Tensor, rows: Bool[Tensor, "d_vocab"]) -> None:
        self.weight = weight
        self.where = rows.nonzero()[:, 0]
        self.kept = weight.detach()[self.where].clone()
        if len(self.where):
            weight.register_hook(self._mask)  # type: ignore[no-untyped-call]

    def _mask(self, gradient: Tensor) -> Tensor:
        return gradient.index_fill(0, self.where.to(gradient.device), 0.0)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if len(self.where):
            device = self.weight.device
            with torch.no_grad():
                self.weight.index_copy_(0, self.where.to(device), self.kept.to(device))
