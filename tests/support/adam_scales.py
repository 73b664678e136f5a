"""Scales of Adam compared, where a reciprocal would compare the rounding of the smallest gradients."""

import torch
from torch import Tensor


def assert_same_scales(found: Tensor, expected: Tensor, *, rtol: float = 1e-3) -> None:
    """What the scales are the reciprocals of (sizes of gradients) agree, to ``rtol`` and to a hundred-thousandth of the largest.

    A gradient near zero is a difference of terms that nearly cancel: its last bits differ from one processor to another, and so
    does the first digit of its reciprocal.
    """
    assert expected.all()
    found, expected = 1 / found, 1 / expected
    torch.testing.assert_close(found, expected, rtol=rtol, atol=1e-5 * expected.max().item())
