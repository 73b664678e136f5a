"""What the training of dictionaries refuses: those that do not fit into the memory, and those that diverged."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.features.settings import TrainingConfig
from mechocl.memory import require_memory

_DIVERGED: Final = 10.0
"""Squared error, as a multiple of that of the reconstruction 0, from which on a dictionary has diverged."""


def require_dictionary_memory(config: TrainingConfig, wanted: Sequence[tuple[int, int]]) -> None:
    """Raise MechoclError for dictionaries that do not fit into this machine.

    `wanted` has for each of them the number of features, and the sum of the dimensions that it reads and writes.
    """
    needed = {
        # weights, gradients, and two moments of Adam, in float32
        "dictionaries (width and sae_seeds)": 16 * sum(width * dimensions for width, dimensions in wanted),
        "batches (batch_size and width)": 12 * config.batch_size * max(width for width, _ in wanted),
    }
    require_memory(needed, of="the training")


@torch.no_grad()
def refuse_diverged(
    sae: Any,
    x: Float[Tensor, "batch d_in"],
    y: Float[Tensor, "batch d_out"],
    *,
    name: str,
    learning_rate: float,
) -> None:
    """Raise MechoclError for a dictionary that reconstructs y from x much worse than 0 does, or whose output is NaN."""
    error = (sae(x.to(sae.W_enc)) - y).square().sum()
    if not float(error) < _DIVERGED * float(y.square().sum()):
        raise MechoclError(
            f"the training of {name} diverged, and nothing of it is kept; use a --learning-rate below {learning_rate:g}"
        )
