"""How much work training is, by one formula for every side, and how much the machine could do."""

import itertools
import math
import time
from collections.abc import Iterable
from typing import Final, Literal

import torch

from toy_models.architectures import Architecture
from toy_models.task import Task

SQUARES: Final = {"cpu": (512, 1024), "cuda": (4096, 8192)}
"""Sizes of the square matrices that are multiplied to find the ceiling."""
CEILING_S: Final = 0.1
"""Seconds that each shape is tried for."""


def matmul_parameters(a: Architecture) -> int:
    """Numbers in a block's matrices: query, key, value, output, and the MLP's two."""
    return 4 * a.d_model**2 + 2 * a.d_model * a.d_mlp


def flops_per_example(task: Task, a: Architecture, stages: tuple[int, ...]) -> float:
    """Floating-point operations that training on one example of these stages needs, on average.

    A parameter of a matrix costs 2 operations a position forward and 4 backward. Per example,

        6 · layers · matmul_parameters · n                   the blocks' matrices
        + 12 · layers · d_model · n(n + 1)/2                 attention: scores and their sum, causal
        + 6 · d_model · outputs · m                          the unembedding

    n is the number of positions up to the last one with loss, m is the number of positions with loss, and outputs
    is the number of tokens that the model has logits for. Pads, positions without loss at the unembedding, and
    logits of tokens that are never predicted do not count, even if a side computes them.
    """
    mask = task.loss_mask[torch.from_numpy(task.training_rows(stages))]
    position = torch.arange(1, mask.shape[1] + 1)
    n = (mask * position).amax(1).double()
    m = mask.sum(1).double()
    blocks = 6 * a.n_layers * matmul_parameters(a) * n
    attention = 12 * a.n_layers * a.d_model * n * (n + 1) / 2
    unembedding = 6 * a.d_model * task.vocabulary.outputs * m
    return float((blocks + attention + unembedding).mean())


def model_products(
    task: Task, a: Architecture, stages: tuple[int, ...], batch_size: int
) -> list[tuple[int, int, int]]:
    """Rows, inner size and columns of a model's three largest products on a batch."""
    mask = task.loss_mask[torch.from_numpy(task.training_rows(stages))]
    read = batch_size * (int(mask.any(0).nonzero().max()) + 1)
    predicted = batch_size * int(mask.sum(1).max())
    return [
        (read, a.d_model, a.d_mlp),
        (read, a.d_mlp, a.d_model),
        (predicted, a.d_model, task.vocabulary.outputs),
    ]


def ceiling(
    products: Iterable[tuple[int, int, int]], *, device: str, precision: Literal["float32", "bf16"]
) -> float:
    """Operations per second of the fastest matrix product, among square ones and the given ones."""
    dtype = torch.float32 if precision == "float32" else torch.bfloat16
    squares = [(n, n, n) for n in SQUARES[device]]
    return max(_speed(shape, device, dtype) for shape in [*squares, *products] if math.prod(shape))


def _speed(shape: tuple[int, int, int], device: str, dtype: torch.dtype) -> float:
    rows, inner, columns = shape
    a = torch.ones(rows, inner, dtype=dtype, device=device)
    b = torch.ones(inner, columns, dtype=dtype, device=device)
    out = a @ b  # warms up, too
    fastest, started = math.inf, time.perf_counter()
    for repeat in itertools.count():
        if repeat >= 3 and time.perf_counter() - started > CEILING_S:
            break
        _wait_for(device)
        before = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait_for(device)
        fastest = min(fastest, time.perf_counter() - before)
    return 2 * math.prod(shape) / fastest


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
