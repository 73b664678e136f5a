"""What patching is measured on: an untrained model, and pairs of two sorts."""

import dataclasses
from dataclasses import dataclass
from typing import Final

import torch

from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import Pairs, given_pairs
from mechocl.models.seam import Transformer
from mechocl.runs import recipes
from toy_models import architectures, integer_set

RECIPE: Final = "integer-set/paper"
GRIDS: Final = {"layer × position": "resid_pre", "heads × positions": "z"}
"""What is patched, one cell at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the measurement is."""

    n_layers: int = 6
    d_model: int
    n_heads: int
    aliases: int
    pairs: int
    rounds: dict[tuple[str, str], int]
    """Number of rounds of each pair (grid, sort of pairs)."""
    memory_batches: tuple[int, ...]
    edge_pairs: int
    edge_steps: int
    paths: int
    """Number of edges whose path is patched."""

    @property
    def name(self) -> str:
        return f"{self.n_layers} layers, d_model {self.d_model}"


_ALL: Final = tuple((grid, sort) for grid in GRIDS for sort in ("alias", "apart"))
FULL: Final = Size(
    d_model=512,
    n_heads=8,
    aliases=2000,
    pairs=256,
    rounds=dict(
        zip(_ALL, (3, 3, 1, 1), strict=True)
    ),  # transformer_lens fills the grid of heads in 528 forward passes
    memory_batches=(256, 1024),
    edge_pairs=128,
    edge_steps=8,
    paths=16,
)
FAST: Final = Size(
    d_model=128,
    n_heads=2,
    aliases=500,
    pairs=256,
    rounds=dict.fromkeys(_ALL[:3], 1),  # no patch of a head is skipped for either sort of pairs
    memory_batches=(1024,),
    edge_pairs=64,
    edge_steps=8,
    paths=8,
)


@dataclass(frozen=True, slots=True)
class Subject:
    """A model, and pairs of each sort."""

    model: Transformer
    pairs: dict[str, Pairs]


def subject(size: Size) -> Subject:
    recipe = recipes.load_recipe(RECIPE, (f"task.aliases={size.aliases}",))
    task = integer_set.build(recipe.task, seed=0)
    shape = dataclasses.replace(
        recipe.model.resolve(),
        n_layers=size.n_layers,
        d_model=size.d_model,
        n_heads=size.n_heads,
        d_mlp=4 * size.d_model,
    )
    tokens = len(task.vocabulary)
    model = architectures.build(
        shape, d_vocab=tokens, d_vocab_out=task.vocabulary.outputs, n_ctx=task.n_ctx, seed=0
    )
    alias = pairs_named(task, "qd1-to-other-qd2", n_pairs=size.pairs, seed=0)
    draws = torch.Generator().manual_seed(0)
    clean, corrupted = (
        torch.randint(*half, alias.clean.shape, generator=draws)
        for half in ((0, tokens // 2), (tokens // 2, tokens))
    )
    whole = torch.ones_like(clean, dtype=torch.bool)
    apart = given_pairs(clean, corrupted, target=alias.target, foil=alias.foil, name="apart", mask=whole)
    return Subject(model, {"alias": alias, "apart": apart})
