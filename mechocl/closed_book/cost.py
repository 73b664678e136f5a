"""What a fine-tuning costs, before it is started: tokens, memory, time on one GPU.

A forward and a backward pass take 6 floating-point operations per weight and token (Kaplan et al., arXiv 2001.08361),
or 8 with gradient checkpointing. If only adapters are trained, they take 4 or 6, since no other weight has a gradient.
Memory holds the weights (with their copies in bf16), the gradients, the optimiser state, the logits, and the
activations of one part of a batch: 34 bytes in bf16 for each layer, token and dimension of the width (Korthikanti et
al., arXiv 2205.05198). All of it is estimated from the sizes alone. No hub and no database is asked.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mechocl.closed_book.parts import count_in_part
from mechocl.closed_book.stages import ClosedBookRecipe, FinetuneStage
from mechocl.models import hub, hub_files
from toy_models.subsets import SUBSETS, subset_sizes

GPU_FLOPS: Final = 3.5e14
"""Assumed floating-point operations per second of fine-tuning on one H200-class GPU in bf16: 35 % of its 989 TFLOP/s.
Not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """The size of a model."""

    parameters: int
    """Number of weights."""
    layers: int
    """Number of transformer blocks, those of encoder and decoder together."""
    vocabulary: int
    """Number of logits of a position."""

    @property
    def width(self) -> float:
        """Width of the residual stream, as estimated from the number of weights; for Pythia exact to a few per cent.

        It assumes that each block has 12 weights per square of the width, and that the only other weights are those of
        embedding and unembedding.
        """
        # 12 L d² + 2 V d = n
        a, b = 12 * self.layers, 2 * self.vocabulary
        return (math.sqrt(b * b + 4 * a * self.parameters) - b) / (2 * a)


PYTHIA: Final = {
    "70m": Size(parameters=70_426_624, layers=6, vocabulary=50_304),
    "160m": Size(parameters=162_322_944, layers=12, vocabulary=50_304),
    "410m": Size(parameters=405_334_016, layers=24, vocabulary=50_304),
    "1b": Size(parameters=1_011_781_632, layers=16, vocabulary=50_304),
    "1.4b": Size(parameters=1_414_647_808, layers=24, vocabulary=50_304),
    "2.8b": Size(parameters=2_775_208_960, layers=32, vocabulary=50_304),
    "6.9b": Size(parameters=6_857_302_016, layers=32, vocabulary=50_432),
    "12b": Size(parameters=11_846_072_320, layers=36, vocabulary=50_688),
}
"""Sizes of EleutherAI's Pythia models, by the end of their names."""

_OTHERS: Final = {
    "google-t5/t5-3b": Size(parameters=2_851_598_336, layers=48, vocabulary=32_128),
    "google-t5/t5-base": Size(parameters=222_903_552, layers=24, vocabulary=32_128),
}
_TOKENS: Final = {"definition": 22, "question": 26}
"""Assumed number of tokens of an example, since no tokenizer is used here. They are those of Pythia for CVDB."""
_QUESTIONS: Final = {"cvdb": 6, "trex": 6, "facts": 4, "biographies": 6, "miniature": 6}
"""Assumed number of questions about an entity. In T-REx it is 4 or more, and higher on average; of facts 3 to 5, those that the model answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The estimated cost of one seed."""

    model: str
    parameters: int | None
    """Number of weights of the model; None if it cannot be known without a network."""
    tokens: int
    """Number of tokens of all stages and epochs."""
    gibibytes: float | None
    """Memory for weights, gradients, optimiser state and activations, over all GPUs, in GiB."""
    gpu_hours: float | None


def estimate_cost(recipe: ClosedBookRecipe) -> Cost:
    """The cost of one seed. Raises MechoclError for a local model that cannot be read."""
    training = recipe.training
    tokens = sum(stage.epochs * _tokens_of_an_epoch(recipe, stage) for stage in training.stages)
    size = size_of(recipe.model)
    if size is None:
        return Cost(model=recipe.model, parameters=None, tokens=tokens, gibibytes=None, gpu_hours=None)
    n, trained, each = size.parameters, size.parameters, 6
    if training.lora is not None:
        # adapters of rank r at all linear layers of a block (d to 3d, d to d, d to 4d, 4d to d) have 16 r d weights
        trained, each = round(16 * training.lora.rank * size.width * size.layers), 4
    each += 2 * training.gradient_checkpointing
    state = max({"adamw": 8.0, "adafactor": 0.1}[stage.optimizer] for stage in training.stages)
    copies = 2 if training.precision == "bf16" else 0
    return Cost(
        model=recipe.model,
        parameters=n,
        tokens=tokens,
        gibibytes=((4 + copies) * n + (4 + state) * trained + _activations(recipe, size)) / 2**30,
        gpu_hours=each * n * tokens / GPU_FLOPS / 3600,
    )


def _tokens_of_an_epoch(recipe: ClosedBookRecipe, stage: FinetuneStage) -> int:
    counts = {kind: count_examples(recipe, kind, stage.data, stage.part) for kind in stage.kinds}
    replayed = round(stage.replay * sum(counts.values()))
    own = sum(count * _TOKENS[kind] for kind, count in counts.items())
    return own + replayed * max(_TOKENS.values())  # a text of the corpus is about as long as a question


def cost_in_words(cost: Cost, *, seeds: int) -> str:
    """The cost of one seed in words, on one line."""
    known = f"{cost.tokens / 1e6:.1f} M tokens a seed"
    if cost.parameters is None or cost.gibibytes is None or cost.gpu_hours is None:
        return f"cost: {cost.model} of unknown size, {known}, {seeds} seed{'s' * (seeds > 1)}"
    hours = cost.gpu_hours
    time = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"
    return (
        f"cost: {cost.model}, {cost.parameters / 1e6:.1f} M weights; {known}, {seeds} seed{'s' * (seeds > 1)}; about "
        f"{cost.gibibytes:.1f} GiB of GPU memory; about {time} a seed on one H200-class GPU in bf16 (estimated, not "
        "measured)"
    )


def size_of(model: str) -> Size | None:
    """The size of the model in a local folder or under a hub name; None for a name whose size is not known here."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        size = model.removesuffix("-deduped").rsplit("pythia-", 1)
        return _OTHERS.get(model) or (PYTHIA.get(size[-1]) if len(size) == 2 else None)
    config = hub.read_config(hub.locate(folder))  # a damaged folder is named before its files are opened
    return Size(
        parameters=hub_files.count_weights(folder), layers=config.layers, vocabulary=config.vocabulary
    )


def _activations(recipe: ClosedBookRecipe, size: Size) -> float:
    """Bytes that the backward pass needs of what the forward pass computed, for the largest part of a batch."""
    training = recipe.training
    most = max(stage.batch_size // stage.accumulation for stage in training.stages)
    wide = 1 if training.precision == "bf16" else 2
    of_blocks = 34 * size.layers
    if training.gradient_checkpointing:
        of_blocks = 34 + 2 * size.layers  # kept: the input of each block, and all of one block at a time
    # 10 bytes: the logits in float32, their gradient, and the half-precision logits that they are made of
    return most * max(_TOKENS.values()) * (of_blocks * size.width * wide + 10 * size.vocabulary)


def count_examples(
    recipe: ClosedBookRecipe, kind: str, data: tuple[int, ...], part: tuple[int, int] = (1, 1)
) -> int:
    """Number of training examples of a kind, "definition" or "question", in the data of some stages; of new aliases, in a part
    (`FinetuneStage.part`).

    That of definitions is exact. That of questions rests on the assumed number of questions about an entity.
    """
    task = recipe.task
    sizes = subset_sizes(task.entities, task.fractions, task.tag_reliability, task.unreliable)
    per_entity = _QUESTIONS[task.world]
    asked = per_entity - max(1, round(task.test_share * per_entity))
    found = 0
    for name, size in sizes.items():
        subset = SUBSETS[name]
        if subset.stage in data:
            own = count_in_part(size, part) if subset.stage == 2 else size
            found += own * (int(subset.defined) if kind == "definition" else asked * subset.trained_questions)
    return found
