"""The memory that tasks, models and training take, estimated from their settings before anything is built.

Estimates are low: they count what is certainly held at one time, so whoever has less memory cannot succeed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from toy_models.architectures import Architecture
from toy_models.convnet_config import KERNEL, ConvNetConfig
from toy_models.digit_grid import DigitGridConfig
from toy_models.integer_set import context_length
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.stages import StageConfig

_BLOCK_OBJECTS: Final = 100_000
"""Bytes of the Python objects of a block of a `HookedTransformer`, whatever its width."""

_STEP_BYTES: Final = 100
"""Bytes of a step number in a set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSize:
    """How large a task is."""

    examples: int
    """Largest number of examples."""
    positions: int
    """Length of the longest example in tokens."""
    vocabulary: int
    """Number of tokens of the vocabulary."""
    outputs: int
    """Number of tokens that have a logit."""
    drawn: int
    """Bytes of the largest array that is held only while the task is drawn."""
    keys: str
    """The settings that it grows with, in words."""

    @property
    def bytes(self) -> int:
        """Tokens, roles and loss mask, with a table of ten columns, and the names of the tokens."""
        held = self.examples * (17 * self.positions + 50) + 60 * self.vocabulary
        return held + self.drawn


def size_integer_set(config: IntegerSetConfig) -> TaskSize:
    """The size of a task of the integer set."""
    names = config.aliases if config.tokens_per_alias == 1 else config.alphabet
    logits = 8 + config.integers + (names if config.loss == "every" else 0)
    questions = config.train_questions + config.test_questions
    return TaskSize(
        examples=config.aliases * (1 + questions),
        positions=context_length(config),
        vocabulary=8 + config.integers + names,
        outputs=logits,
        # one random number for each integer and each list that holds, or does not hold, an alias's integer
        drawn=4 * config.aliases * config.test_questions // 2 * config.integers,
        keys="aliases, integers, list_length, train_questions, test_questions, tokens_per_alias and alphabet",
    )


def size_digit_grid(config: DigitGridConfig) -> TaskSize:
    """The size of a task of digit grids, without the images, of which there are not more than their files have."""
    outputs = 2 + config.labels
    return TaskSize(
        examples=config.aliases * (1 + config.held_out * config.test_draws),
        positions=2 * config.cells + 2,
        vocabulary=outputs + 4 + config.cells,
        outputs=outputs,
        drawn=8 * config.aliases * config.cells,
        keys="aliases, side, labels, held_out and test_draws",
    )


def count_convnet_parameters(config: ConvNetConfig, task: TaskSize) -> int:
    """Number of weights that a ConvNet trains on a task whose images have 8 × 8 pixels, as `convnet.build` makes them; with larger images there are more."""
    cells = (task.positions - 2) // 2
    side = math.isqrt(cells)
    height, width, before, count = 8 * (side + 1), 8 * side, 2, 0
    for index, channels in enumerate(config.channels):
        count += before * channels * KERNEL**2 + 3 * channels
        stride = 1 if index == 0 else 2
        height, width, before = -(-height // stride), -(-width // stride), channels
    wide = height * width * before
    for hidden in config.hidden:
        count += wide * hidden + 3 * hidden
        wide = hidden
    return (
        count + (wide + 1) * cells * config.d_model + 2 * config.d_model + (config.d_model + 1) * task.outputs
    )


def estimate_convnet_memory(
    config: ConvNetConfig, task: TaskSize, stages: Sequence[StageConfig], *, together: int
) -> dict[str, int]:
    """What the training of ConvNets takes, in bytes, by the settings that it grows with; `together` models are trained at a time."""
    weights = 4 * count_convnet_parameters(config, task)
    largest = max(min(stage.batch_size, task.examples) for stage in stages)
    pixels = 64 * (task.positions - 2) // 2
    return {
        f"task ({task.keys})": together * task.bytes,
        "model (channels, hidden, d_model and side)": together * 3 * weights,
        "batches (batch_size, channels and hidden)": 4
        * largest
        * (pixels * config.channels[0] + sum(config.hidden)),
        "steps (evaluations and checkpoints)": _bytes_of_steps(task, stages),
    }


def _bytes_of_steps(task: TaskSize, stages: Sequence[StageConfig]) -> int:
    found = 0
    for stage in stages:
        total = math.ceil(task.examples / stage.batch_size) * stage.epochs
        found += _STEP_BYTES * (min(stage.evaluations, total) + min(stage.checkpoints, total))
    return found


def count_parameters(a: Architecture, task: TaskSize) -> int:
    """Number of weights of a model of a task, as `architectures.build` makes them."""
    d, norms = a.d_model, 2 * a.d_model if a.normalization == "LN" else 0
    attention = 4 * d * d + 4 * d
    mlp = 2 * d * a.d_mlp + a.d_mlp + d if a.d_mlp else 0
    block = attention + mlp + norms * (2 if a.d_mlp else 1)
    positions = 0 if a.positions == "rotary" else task.positions * d
    return task.vocabulary * d + positions + a.n_layers * block + norms + (d + 1) * task.outputs


def estimate_memory(
    a: Architecture, task: TaskSize, stages: Sequence[StageConfig], *, together: int
) -> dict[str, int]:
    """What training takes, in bytes, by the settings that it grows with; `together` models are trained at a time."""
    weights = 4 * count_parameters(a, task)
    blocks = a.n_layers * (_BLOCK_OBJECTS + task.positions**2)  # each block holds a causal mask
    batches = 0
    for stage in stages:
        batch = min(stage.batch_size, task.examples)
        inside = a.n_layers * task.positions * (4 * a.d_model + a.d_mlp + a.n_heads * task.positions)
        batches = max(batches, 4 * batch * (inside + task.outputs))
    return {
        f"task ({task.keys})": together * task.bytes,
        "model (n_layers, d_model, n_heads, d_mlp and the vocabulary)": together * (3 * weights + blocks),
        "batches (batch_size, n_layers, d_model and d_mlp)": together * batches,
        "steps (evaluations and checkpoints)": _bytes_of_steps(task, stages),
    }
