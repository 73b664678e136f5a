"""Updates of the token embeddings that move only the rows of tokens in the batch: `FinetuneStage.embedding_rows`.

An ordinary optimiser moves every row in every step. With tied embeddings the unembedding gives the rows of absent tokens tiny gradients, of
which Adam makes whole steps; with any embeddings, momentum moves rows on. In a small model this scrambles what the rows of names hold. Here
the optimiser does its step, and the rows of tokens that the model did not read in the step's batch are put back. The token that fills batches up counts as read where the model reads it. An
unembedding of its own moves as ever.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from mechocl.errors import MechoclError
from mechocl.runs.token_rows import find_token_rows


def move_rows_of_the_batch(model: Any, *, processes: int) -> "BatchRows":
    """Let a training of the model move only rows of tokens in the batch. The result must be told of each step of the optimiser.

    Raises MechoclError where several processes share a batch, since each sees a part of it.
    """
    if processes > 1:
        raise MechoclError(
            "embedding_rows = 'in_batch' works in one process; start the command without accelerate"
        )
    return BatchRows(model)


class BatchRows(TrainerCallback):  # type: ignore[misc]
    """Puts back, after each step of the optimiser, the rows of the input embeddings whose tokens were not read since the step before."""

    def __init__(self, model: Any) -> None:
        rows = find_token_rows(model)
        self.weight, self.first = rows.weight, rows.first
        self.read: list[Tensor] = []
        self.before: Tensor | None = None
        reader = model.get_input_embeddings()
        for (
            module
        ) in model.modules():  # encoder and decoder of a T5 have each a module that reads the same weights
            shared = isinstance(module, torch.nn.Embedding) and module.weight is self.weight
            if module is reader or shared:
                module.register_forward_pre_hook(self._see)

    def _see(self, module: Any, arguments: tuple[Any, ...]) -> None:
        if torch.is_grad_enabled():  # evaluations read tokens, too, and train on none
            self.read.append(arguments[0].detach().unique())

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.before = self.weight.detach().clone()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        assert self.before is not None
        assert self.read, "the model has read its embeddings in another way than was watched"
        weight = self.weight
        absent = torch.ones(len(weight), dtype=torch.bool, device=weight.device)
        for tokens in self.read:
            rows = tokens - self.first
            absent[rows[(rows >= 0) & (rows < len(weight))]] = False
        with torch.no_grad():
            weight[absent] = self.before[absent]
        self.read, self.before = [], None
