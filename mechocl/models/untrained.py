"""A model of the same shape with random weights, the control of whatever is read from a trained one."""

import copy
from typing import Any

import torch

from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer
from toy_models.randomness import generator


@torch.no_grad()
def untrained_like(model: Transformer, *, seed: int = 0) -> Any:
    """A copy of a `HookedTransformer` whose weights are drawn again; the model itself stays as it is.

    Weight matrices are normal with the standard deviation `cfg.initializer_range` (0.8 / √d_model if the config has none),
    biases are 0 and the weights of layer norms 1. Raises MechoclError for a model of another class, whose untrained twin only
    its own library can make.
    """
    from transformer_lens import HookedTransformer

    if not isinstance(model, HookedTransformer):
        raise MechoclError(
            f"an untrained {type(model).__name__} cannot be made from the trained one; give one as untrained="
        )
    twin = copy.deepcopy(model)
    std = model.cfg.initializer_range if model.cfg.initializer_range > 0 else 0.8 / model.cfg.d_model**0.5
    draws = generator(seed, "untrained twin")
    for name, parameter in twin.named_parameters():
        last = name.rsplit(".", 1)[-1]
        if last.startswith("W_"):
            fresh = torch.randn(parameter.shape, generator=draws) * std
            parameter.copy_(fresh.to(parameter))
        else:
            parameter.fill_(1.0 if last == "w" else 0.0)
    return twin
