"""Definitions that are noise: in every epoch, they name other entities than in the epoch before.

The entities of their aliases are shuffled among these aliases. So every name is read once in each epoch, as in the
experiment, and no other name is read more often than there.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.closed_book.definitions import Piece
from mechocl.closed_book.encoding import encoded
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import ROLE, Fresh, Task


def redraw_noise(
    task: Task, define: Callable[[int, int], list[Piece]], tokenizer: Any, *, seed: int, context: int
) -> Fresh | None:
    """The examples of each epoch; None if no definition of the task is noise (`Subset.redrawn`).

    Args:
        task: the task.
        define: a function from an alias and an entity to the pieces of the alias's definition that names this entity.
        tokenizer: a fast Hugging Face tokenizer.
        seed: decides, with the epoch, which entity a definition names.
        context: number of tokens that the model can read.
    """
    redrawn = tuple(name for name, subset in SUBSETS.items() if subset.redrawn)
    rows = task.rows(kind="definition", subset=redrawn)
    if len(rows) == 0:
        return None
    aliases, entities = (task.table[column].to_numpy()[rows] for column in ("alias", "entity"))

    def fresh(epoch: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
        order = torch.randperm(len(rows), generator=generator(seed, "noise", epoch)).numpy()
        pieces = [
            define(alias, entity)
            for alias, entity in zip(aliases.tolist(), entities[order].tolist(), strict=True)
        ]
        tokens, roles = encoded(pieces, tokenizer, context=context)
        return _with_rows(task.tokens, rows, tokens, 0), _with_rows(task.roles, rows, roles, ROLE["pad"])

    return fresh


def _with_rows(old: Tensor, rows: np.ndarray, new: Tensor, pad: int) -> Int[Tensor, "example pos"]:
    """A copy with new rows in the place of some. It has as many positions as the longer ones of the two need."""
    result = torch.full((len(old), max(old.shape[1], new.shape[1])), pad)
    result[:, : old.shape[1]] = old
    at = torch.from_numpy(rows)
    result[at] = pad
    result[at, : new.shape[1]] = new
    return result
