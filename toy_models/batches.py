"""Batches of a stage's examples, for several models at once, in the order that each model's seed draws."""

from collections.abc import Sequence

import torch
from torch import Tensor

from toy_models.randomness import generator
from toy_models.stages import StageConfig
from toy_models.task import Task


class Batches:
    """The examples of a stage for every model, on the device, from which batches are taken."""

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
        # examples of stage 2 are definitions, which in most worlds are the same in every epoch
        redraws = 1 in stage.data or tasks[0].questioning.redraws_definitions
        self.redrawn = redraws and tasks[0].fresh is not None
        self.model = torch.arange(len(tasks), device=device)[:, None]
        self.order = torch.empty(0)

    def start(self, epoch: int) -> None:
        """Draw the order of an epoch, and the examples of that epoch if they are not the same in every epoch."""
        orders = [
            torch.randperm(self.size, generator=generator(seed, "order", self.stage.data, epoch))
            for seed in self.seeds
        ]
        self.order = torch.stack(orders).to(self.device)
        if self.redrawn:
            self.tokens = self._stacked(
                [task.fresh(epoch)[0] for task in self.tasks if task.fresh is not None]
            )

    def batch(self, index: int) -> tuple[Tensor, Tensor]:
        """Tokens and loss mask of a batch of this epoch. The tokens have one position more, which is only predicted."""
        chosen = self.order[:, index * self.stage.batch_size : (index + 1) * self.stage.batch_size]
        return self.tokens[self.model, chosen], self.mask[self.model, chosen]

    def _stacked(self, tokens: Sequence[Tensor]) -> Tensor:
        parts = [t[rows, : self.n_pos + 1] for t, rows in zip(tokens, self.rows, strict=True)]
        return torch.stack(parts).to(self.device)
