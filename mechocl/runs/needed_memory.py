"""How much memory a training needs, estimated from its settings: refused before a task or a model is built.

The estimates are low. They count what is certainly held at one time.
"""

import math
from collections.abc import Mapping
from typing import Final

from mechocl import memory
from mechocl.closed_book import cost, worlds
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.miniature import MiniatureConfig
from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.closed_book.worlds import InventedConfig
from mechocl.runs.finetune import processes
from mechocl.runs.pretraining_config import PretrainingConfig
from mechocl.runs.recipes import AnyRecipe, ConvNetRecipe, Recipe
from toy_models import sizes
from toy_models.worlds import world_of

_TEXT: Final = 200
"""Bytes of a short text, such as a question, that is held as a string."""

_EXAMPLES: Final = 7
"""Examples about an entity: six questions and a definition."""


def require_recipe_memory(recipe: AnyRecipe, *, together: int = 1) -> None:
    """Raise MechoclError for a recipe whose training cannot fit into this machine.

    `together` models are trained at a time. Of a training in several processes, each holds its share.
    """
    if isinstance(recipe, Recipe):
        size = world_of(recipe.task).size
        if size is None:
            return
        task = size(recipe.task)
        stages = recipe.training.stages
        needed: Mapping[str, float]
        if isinstance(recipe, ConvNetRecipe):
            needed = sizes.estimate_convnet_memory(recipe.model, task, stages, together=together)
        else:
            needed = sizes.estimate_memory(recipe.model.resolve(), task, stages, together=together)
    else:
        needed = _finetuning(recipe)
    own = {part: count / processes() for part, count in needed.items()}
    memory.require_memory(own, of="the recipe")


def require_pretraining_memory(world: InventedConfig, config: PretrainingConfig) -> None:
    """Raise MechoclError for a pretraining that cannot fit into this machine."""
    corpus = _corpus(world)
    block = 12 * config.d_model**2 + 100_000  # with the objects of its modules
    memory.require_memory(
        {
            **corpus,
            "model (n_layers, d_model and vocabulary)": 12
            * (config.n_layers * block + 2 * config.vocabulary * config.d_model),
            "tokenizer (vocabulary)": 50 * config.vocabulary,
            # texts are at most as long as the corpus, so a batch is no larger
            "batches (batch_tokens)": min(config.batch_tokens, sum(corpus.values())) * 40 * config.d_model,
            "positions (context)": 8 * config.context,
        },
        of="the pretraining",
    )


def _corpus(world: InventedConfig) -> dict[str, int | float]:
    """Bytes of the texts of an invented world, by the name of what they depend on."""
    if isinstance(world, MiniatureConfig):
        return {"corpus (entities and texts)": (world.texts + world.entities * 6) * _TEXT}
    texts = world.people * (world.told + 6 * world.asked)
    return {"corpus (people, told, asked and letters)": texts * _TEXT + _call_signs(world)}


def _finetuning(recipe: ClosedBookRecipe) -> dict[str, int | float]:
    """Bytes that fine-tuning takes, by parts."""
    task, training = recipe.task, recipe.training
    examples = task.entities * _EXAMPLES
    steps = 0
    for stage in training.stages:
        total = math.ceil(examples / stage.batch_size) * stage.epochs
        steps += 100 * (min(stage.evaluations, total) + min(stage.checkpoints, total))
    found: dict[str, int | float] = {
        "task (entities, alias_letters, tag_letters, people and letters)": _texts(task),
        "steps (evaluations and checkpoints)": steps,
    }
    if any(stage.replay for stage in training.stages) and task.world in worlds.INVENTED:
        found |= _corpus(worlds.config_of(task))
    if (size := cost.size_of(recipe.model)) is not None:
        rank = training.lora.rank if training.lora is not None else 0
        batch = max(min(stage.batch_size, examples) // stage.accumulation for stage in training.stages)
        found["model (model and lora.rank)"] = 4 * size.parameters + 200 * rank * size.width * size.layers
        found["batches (batch_size)"] = (
            batch * 10 * 4 * size.width * (1 if training.gradient_checkpointing else size.layers)
        )
    return found


def _texts(task: ClosedBookConfig) -> float:
    """Bytes of the examples as texts and as tokens, of at least one for each eight letters."""
    letters = task.alias_letters + task.tag_letters
    examples = task.entities * _EXAMPLES * (_TEXT + 17 * letters / 8)
    if task.world == "biographies":
        return examples + task.biographies.people * 6 * _TEXT + _call_signs(task.biographies)
    return examples + (task.miniature.entities * 6 * _TEXT if task.world == "miniature" else 0)


def _call_signs(world: BiographiesConfig) -> float:
    return world.people * world.call_signs * world.letters
