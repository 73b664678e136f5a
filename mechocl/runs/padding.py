"""Batches whose examples differ much in length, computed in two parts, so that less is computed for padding."""

from typing import Final

import torch
from torch import Tensor

LEAST_SAVED: Final = 0.25
"""Share of a batch's tokens, padding among them, that two parts must save; otherwise the batch stays whole."""


def by_length(batch: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """A batch of `input_ids`, `attention_mask` and `labels` [example, pos], padded on the right, in one or two parts.

    If there are two, the first has the shorter examples and the second the longer ones, each cut to its longest example.
    They are divided where the fewest tokens are left. A batch without padding stays whole.
    """
    if "attention_mask" not in batch or len(batch["attention_mask"]) < 2:
        return [batch]
    lengths, order = batch["attention_mask"].sum(1).sort(stable=True)
    n = len(lengths)
    left = torch.arange(1, n, device=lengths.device)
    tokens = left * lengths[:-1] + (n - left) * lengths[-1]
    cut = int(tokens.argmin())
    if tokens[cut] > (1 - LEAST_SAVED) * batch["attention_mask"].numel():
        return [batch]
    return [
        {name: values[rows, : int(longest)] for name, values in batch.items()}
        for rows, longest in ((order[: cut + 1], lengths[cut]), (order[cut + 1 :], lengths[-1]))
    ]
