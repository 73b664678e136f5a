"""A recipe's model, before it is trained and with weights that were saved."""

from collections.abc import Mapping
from typing import Any

import torch

from mechocl.errors import MechoclError
from mechocl.models.seam import resolve_device
from mechocl.runs.recipes import AnyRecipe, ConvNetRecipe, Recipe
from toy_models import architectures
from toy_models.worlds import world_of


def build_model(recipe: AnyRecipe, *, seed: int = 0, device: str | None = "auto") -> Any:
    """A recipe's untrained model: a `HookedTransformer`, or a `HookedConvNet` (`toy_models.convnet`) in a world of pictures.

    The device `auto`, or None, is a GPU where there is one. Raises MechoclError for images that cannot be read.
    """
    assert isinstance(recipe, Recipe)
    world = world_of(recipe.task)
    vocabulary = world.vocabulary(recipe.task)
    if world.pictures is not None:
        from toy_models import convnet  # it imports TransformerLens, which takes seconds

        assert isinstance(recipe, ConvNetRecipe)
        try:
            pictures = world.pictures(recipe.task)
        except ValueError as error:
            raise MechoclError(f"the recipe's pictures cannot be drawn: {error}") from None
        return convnet.build(
            recipe.model, pictures, d_vocab=len(vocabulary), d_vocab_out=vocabulary.outputs, seed=seed
        ).to(resolve_device(device))
    model = architectures.build(
        recipe.model.resolve(),
        d_vocab=len(vocabulary),
        d_vocab_out=vocabulary.outputs,
        n_ctx=world.context_length(recipe.task),
        seed=seed,
    )
    from toy_models.tokenizer import give_tokenizer  # transformers takes seconds to import

    give_tokenizer(model, vocabulary)
    return model.to(resolve_device(device), print_details=False)


def fill_model(model: Any, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy saved weights into a model that `build_model` made of the same recipe.

    Raises ValueError for weights of a ConvNet that was trained on other images.
    """
    if hasattr(model, "require_images"):
        model.require_images(weights)
    architectures.fill_weights(model, weights)
