"""The models of a run: before training, and at its checkpoints."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models.loading import initialised_like, load
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.recipes import Recipe
from mechocl.runs.recipes import integer_set as integer_set_recipe
from mechocl.runs.text_folders import TextSeedFolder
from toy_models import architectures, integer_set


def build_model(recipe: Recipe, *, seed: int, device: str) -> Any:
    """A recipe's model before training, a `HookedTransformer`."""
    vocabulary = integer_set.vocabulary(recipe.task)
    model = architectures.build(
        recipe.model.resolve(),
        d_vocab=len(vocabulary),
        d_vocab_out=vocabulary.outputs,
        n_ctx=integer_set.context_length(recipe.task),
        seed=seed,
    )
    return model.to(device, print_details=False)


def untrained_model(folder: SeedFolder, *, device: str) -> Any:
    """A model of the run's shape with random weights, drawn from the seed."""
    if isinstance(folder, TextSeedFolder):
        return initialised_like(folder.path / folder.final().name, seed=folder.seed, device=device)
    return build_model(integer_set_recipe(folder.recipe), seed=folder.seed, device=device)


def model_at(folder: SeedFolder, checkpoint: Checkpoint, *, device: str) -> Any:
    """The `HookedTransformer` of a checkpoint; MechoclError when the file is altered or incomplete.

    That of a closed-book run is loaded from its Hugging Face folder, as by `load`; the comparison with Hugging Face's
    forward pass is written to `parity` beside it.
    """
    if isinstance(folder, TextSeedFolder):
        record = folder.path / "parity" / f"{checkpoint.name.replace('/', '-')}.json"
        return load(folder.model_path(checkpoint), device=device, record=record)
    model = build_model(integer_set_recipe(folder.recipe), seed=folder.seed, device=device)
    weights = folder.weights(checkpoint)
    odd = weights.keys() ^ dict(model.named_parameters()).keys()
    if odd:
        raise MechoclError(
            f"{folder.path / checkpoint.name} does not fit the recipe's model (tensor {min(odd)})"
        )
    fill_weights(model, weights)
    return model


@torch.no_grad()
def fill_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters, which must have the same names."""
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
