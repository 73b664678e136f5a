"""Where a model is read by probes: the sites of a transformer at positions, or the layers of a ConvNet."""

from dataclasses import dataclass
from typing import Final

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechocl.interventions.picture_patching import find_layers, layer_hook, whole_layers
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer
from mechocl.models.sites import find_sites, hook_name
from mechocl.probing.examples import Examples
from mechocl.probing.scoring import ProbingConfig, Site
from mechocl.runs.activation_cache import Collect
from toy_models.convnet import HookedConvNet

EMBEDDING: Final = (0, "resid_pre")
"""The bottom row of a transformer's grid: the embedding."""

PIXELS: Final = (0, "pixels")
"""The bottom row of a ConvNet's grid: its picture."""


@dataclass(frozen=True, slots=True)
class Reader:
    """The places of a transformer, and its activations there by position."""

    c: Components | None
    """The pieces of the model; None for a ConvNet, which has no embeddings of tokens and no stream."""

    def places(self, config: ProbingConfig) -> list[tuple[int, str]]:
        """(layer, site) from the bottom up, the embedding first. Raises MechoclError for a site that the model does not have."""
        assert self.c is not None
        return [EMBEDDING, *(place for place in find_sites(self.c, config.sites) if place != EMBEDDING)]

    def read(
        self, places: list[tuple[int, str]], tokens: Tensor, examples: Examples, collect: Collect
    ) -> list[Site]:
        """The activations at the places."""
        points = [hook_name(name, layer) for layer, name in places]
        found = collect(tokens, points)
        at = list(examples.at)
        return [
            Site(
                layer=layer,
                name=name,
                x=rearrange(found[point][:, at], "example pos ... -> pos example (...)"),
            )
            for (layer, name), point in zip(places, points, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class PictureReader(Reader):
    """The layers of a ConvNet. What a convolution gives is read as the mean of each channel over the region of each cell and of the tag, the
    picture as it is."""

    model: HookedConvNet

    def places(self, config: ProbingConfig) -> list[tuple[int, str]]:
        default = config.sites == ProbingConfig().sites
        return [PIXELS, *find_layers(self.model, whole_layers(self.model) if default else config.sites)]

    def read(
        self, places: list[tuple[int, str]], tokens: Tensor, examples: Examples, collect: Collect
    ) -> list[Site]:
        points = ["hook_pixels" if place == PIXELS else layer_hook(*place) for place in places]
        found = collect(tokens, points)
        return [
            Site(
                layer=layer, name=name, x=(found[point].flatten(1) if name == "pixels" else self._by_region(found[point]))[None]
            )
            for (layer, name), point in zip(places, points, strict=True)
        ]  # fmt: skip

    def _by_region(self, activation: Tensor) -> Float[Tensor, "example feature"]:
        if activation.ndim == 2:
            return activation
        pictures = self.model.pictures
        cell_at = pictures.cell_at(*activation.shape[2:])
        regions = [cell_at < 0, *(cell_at == cell for cell in range(pictures.cells))]
        return torch.cat([activation[:, :, region].mean(2) for region in regions], 1)


def reader_of(model: Transformer) -> Reader:
    """The reader of a model's class. Raises MechoclError for a model that cannot be taken apart."""
    if isinstance(model, HookedConvNet):
        return PictureReader(None, model)
    return Reader(take_apart(model))
