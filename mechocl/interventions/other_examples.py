"""Activations that come from other examples, which may be shorter: what stands behind an example's end is never used."""

import torch
from jaxtyping import Int
from torch import Tensor

from toy_models.randomness import generator


def along_positions(values: Tensor, x: Tensor, site: str) -> Tensor:
    """One value for each example and position, shaped to meet the activations of a site."""
    shape = [len(values), *(1 for _ in x.shape[1:])]
    shape[2 if site == "pattern" else 1] = values.shape[1]
    return values.reshape(shape).to(x.device)


def resampled(read: Int[Tensor, "pair"], seed: int) -> Int[Tensor, "pair"]:
    """A random other pair of the same length for each pair; the pair itself where it is the only one."""
    order = torch.randperm(len(read), generator=generator(seed, "resample"))
    others = torch.empty_like(order)
    for length in set(read.tolist()):
        same = order[read[order] == length]
        others[same] = same.roll(1)
    return others
