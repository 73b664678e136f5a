"""The settings of ConvNets, and of the pictures that they read. Nothing heavy is imported here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from toy_models.stages import StageConfig

KERNEL: Final = 3
"""Height and width of a convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNetConfig:
    """The shape of a ConvNet: convolutions, then fully connected layers, then one vector for each cell."""

    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of each convolution (3 × 3). Each after the first halves height and width."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the fully connected layers."""
    d_model: int = 64
    """Width of the vector of a cell, from which its label is read."""

    def __post_init__(self) -> None:
        for name in ("channels", "hidden"):
            widths = getattr(self, name)
            if not widths or min(widths) < 1:
                raise ValueError(f"{name} is {list(widths)}; give at least one layer, each of 1 or more")
        if self.d_model < 1:
            raise ValueError(f"d_model is {self.d_model}; it must be at least 1")

    def resolve(self) -> "ConvNetConfig":
        """The config itself: there are no named ones that it changes."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """How the tokens of a world are drawn."""

    side: int
    """Cells on each side of the grid."""
    pixels: Float[Tensor, "image height width"]
    """The images, each of `height` × `width` = `height` pixels from 0 to 1."""
    first_image: int
    """Id of the token of the first image; the others follow."""
    first_tag: int
    """Id of tag 1; the other tags follow."""
    first_cell: int
    """Id of the token that asks about the first cell; the others follow, row by row."""

    @property
    def cells(self) -> int:
        return self.side**2

    def cell_at(self, height: int, width: int) -> Int[Tensor, "height width"]:
        """The cell whose region of a map of this size each place lies in; below 0 in the strip of the tag, above the grid."""
        row = torch.arange(height) * (self.side + 1) // height
        column = torch.arange(width) * self.side // width
        return (row[:, None] - 1) * self.side + column


def refuse_stages(stages: Sequence[StageConfig]) -> None:
    """Raise ValueError for a stage that changes or picks out token embeddings, or attention: a ConvNet has neither."""
    own: dict[str, Any] = {
        "trains": "all", "embedding_rate": 1.0, "tag_embedding": "own", "cut_tag": False, "alias_step": "whole",
    }  # fmt: skip
    for number, stage in enumerate(stages):
        for field, plain in own.items():
            if (value := getattr(stage, field)) != plain:
                raise ValueError(
                    f"training.stages.{number}.{field} is {value}, and a ConvNet has no token embeddings and no attention; leave it out"
                )
