"""Models whose transformer blocks share one set of weights (Lan et al. 2019, ALBERT, arXiv 1909.11942, section 3.1).

Hugging Face's decoders have no such option. Here it is an entry of the config, `shared_layers`, and files hold the weights once for
each block, so that every other reader opens an ordinary model.
"""

from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models import convert

ENTRY: Final = "shared_layers"


def share_layers(model: Any) -> Any:
    """Give every block of a Hugging Face model the parameters of the first one, say so in its config, and return the model."""
    first, *others = convert.layers_of(model)
    for name, parameter in first.named_parameters():
        owner, _, own = name.rpartition(".")
        for other in others:
            setattr(other.get_submodule(owner), own, parameter)
    setattr(model.config, ENTRY, True)
    return model


def are_shared(model: Any) -> bool:
    """Whether the blocks of a Hugging Face model share one set of weights."""
    return bool(getattr(model.config, ENTRY, False))


def share_as_config_says(model: Any, folder: Path) -> None:
    """Share the blocks' weights of a model that was read from a folder, if its config says so.

    Raises MechoclError where the blocks in the file differ, which contradicts the config.
    """
    if not are_shared(model):
        return
    first, *others = (dict(block.named_parameters()) for block in convert.layers_of(model))
    if any(not torch.equal(first[name], other[name]) for other in others for name in first):
        raise MechoclError(
            f"{folder / 'config.json'} says {ENTRY}, and the blocks in the weights beside it differ; "
            f"set {ENTRY} to false there, or save the model again"
        )
    share_layers(model)


def separated(model: Any, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a Hugging Face model by name, as they can be written: safetensors writes no memory twice, so each block has its own copy."""
    if not are_shared(model):
        return state
    blocks = convert.family_of(model).layers + "."
    return {name: one.clone() if name.startswith(blocks) else one for name, one in state.items()}
