"""What a fine-tuning costs, before it is started: tokens, memory, time on one GPU.

A forward and a backward pass take 6 floating-point operations per weight and token (Kaplan et al., arXiv 2001.08361),
8 with gradient checkpointing. Memory is that of weights, gradients and optimiser, without activations.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mechocl.closed_book import worlds
from mechocl.closed_book.stages import ClosedBookRecipe
from toy_models.subsets import SUBSETS, subset_sizes

GPU_FLOPS: Final = 3.5e14
"""Assumed floating-point operations per second of fine-tuning on one H200-class GPU in bf16: 35 % of its 989 TFLOP/s.
Not measured."""

PARAMETERS: Final = {
    "70m": 70_426_624, "160m": 162_322_944, "410m": 405_334_016, "1b": 1_011_781_632, "1.4b": 1_414_647_808,
    "2.8b": 2_775_208_960, "6.9b": 6_857_302_016, "12b": 11_846_072_320,
}  # fmt: skip
"""Weights of EleutherAI's Pythia models, by the end of their names."""

_OTHER_PARAMETERS: Final = {"google-t5/t5-3b": 2_851_598_336, "google-t5/t5-base": 222_903_552}
_TOKENS: Final = {"definition": 22, "question": 26}
"""Tokens of an example where no tokenizer is at hand to count them: Pythia's, of CVDB."""
_QUESTIONS: Final = {"cvdb": 6, "trex": 6, "biographies": 6}
"""Questions about an entity (T-REx: at least 4, on average more)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one seed."""

    model: str
    parameters: int | None
    """None where nobody can say without a network."""
    tokens: int
    """Tokens of all stages and epochs."""
    gibibytes: float | None
    """Weights, gradients, optimiser state."""
    gpu_hours: float | None


def of(recipe: ClosedBookRecipe) -> Cost:
    """The cost of one seed. Raises MechoclError for a local model that cannot be read."""
    tokens = sum(
        stage.epochs * sum(_examples(recipe, kind, stage.data) * _TOKENS[kind] for kind in stage.kinds)
        for stage in recipe.training.stages
    )
    n = parameters(recipe.model)
    if n is None:
        return Cost(model=recipe.model, parameters=None, tokens=tokens, gibibytes=None, gpu_hours=None)
    training = recipe.training
    trained = n if training.lora is None else 0.01 * n
    state = max({"adamw": 8.0, "adafactor": 0.1}[stage.optimizer] for stage in training.stages)
    operations = (8 if training.gradient_checkpointing else 6) * n * tokens
    return Cost(
        model=recipe.model,
        parameters=n,
        tokens=tokens,
        gibibytes=(4 * n + (4 + state) * trained) / 2**30,
        gpu_hours=operations / GPU_FLOPS / 3600,
    )


def described(cost: Cost, *, seeds: int) -> str:
    """One line for people."""
    known = f"{cost.tokens / 1e6:.1f} M tokens a seed"
    if cost.parameters is None or cost.gibibytes is None or cost.gpu_hours is None:
        return f"cost: {cost.model} of unknown size, {known}, {seeds} seed{'s' * (seeds > 1)}"
    hours = cost.gpu_hours
    time = f"{hours:.1f} h" if hours >= 1 else f"{max(1, round(hours * 60))} min"
    return (
        f"cost: {cost.model}, {cost.parameters / 1e6:.1f} M weights; {known}, {seeds} seed{'s' * (seeds > 1)}; "
        f"{cost.gibibytes:.1f} GiB for weights, gradients and optimiser; about {time} a seed on one H200-class GPU in bf16 "
        "(estimated, not measured)"
    )


def parameters(model: str) -> int | None:
    """Weights of a model: a local folder's own, or those that its name on the hub is known for."""
    if Path(model).is_dir():
        return worlds.parameters(Path(model))
    if model in _OTHER_PARAMETERS:
        return _OTHER_PARAMETERS[model]
    size = model.removesuffix("-deduped").rsplit("pythia-", 1)
    return PARAMETERS.get(size[-1]) if len(size) == 2 else None


def _examples(recipe: ClosedBookRecipe, kind: str, data: tuple[int, ...]) -> int:
    """Training examples of a kind in the data of some stages."""
    task = recipe.task
    sizes = subset_sizes(task.entities, task.fractions, task.tag_reliability)
    per_entity = _QUESTIONS[task.world]
    asked = per_entity - max(1, round(task.test_share * per_entity))
    found = 0
    for name, size in sizes.items():
        subset = SUBSETS[name]
        if subset.stage in data:
            found += size * (
                int(subset.defined) if kind == "definition" else asked * subset.trained_questions
            )
    return found
