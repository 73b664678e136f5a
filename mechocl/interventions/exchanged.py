"""In which pairs an intervention exchanged anything. A cell that exchanged nothing in any pair is not measured.

An intervention puts new activations in the place of old ones. Where both are the same, as behind equal tokens, its effect is 0
whatever the model does, and says nothing. So every intervention counts the pairs in which the new activation differs from the
old one, and where there are none its values and effects are missing (NaN).
"""

from typing import Final

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.models.sites import HEAD_SITES

ROUNDING: Final = 1e-5
"""Share of an activation's root mean square below which a difference is the rounding of float32."""


def differing_units(new: Tensor | None, old: Tensor, site: str) -> Bool[Tensor, "pair pos unit"]:
    """Where the activations of a site differ by more than rounding, for each pair, position, and head or neuron.

    `new` is None for zeros. The rows of an attention pattern are those of the queries. A site of the residual stream is one unit.
    """
    new, old = (
        _by_unit(
            torch.zeros((), dtype=old.dtype, device=old.device).expand_as(old) if new is None else new, site
        ),
        _by_unit(old, site),
    )
    size = torch.maximum(*(x.square().mean((2, 3), keepdim=True) for x in (new, old))).sqrt()
    return ((new - old).abs().amax(3, keepdim=True) > ROUNDING * size)[..., 0].cpu()


def _by_unit(x: Tensor, site: str) -> Float[Tensor, "pair pos unit d"]:
    if site == "pattern":
        return rearrange(x, "pair head query key -> pair query head key")
    if site in HEAD_SITES:
        return x
    return x[..., None] if site == "mlp_post" else x[:, :, None]


def pairs_with_exchange(
    differing: Bool[Tensor, "pair pos unit"], where: Bool[Tensor, "pair pos"], read: Int[Tensor, "pair"]
) -> Bool[Tensor, "unit pair"]:
    """Pairs in which a unit differs at a masked position that the answer can see."""
    seen = where & (torch.arange(where.shape[1]) <= read[:, None])
    return (differing & seen[..., None]).any(1).T


def pairs_with_new_edges(
    differing: Bool[Tensor, "sender pair pos"],
    place: Int[Tensor, "pair pos"],
    read: Int[Tensor, "pair"],
    *,
    places: int,
) -> Bool[Tensor, "sender place pair"]:
    """Pairs in which a sender writes something else in the two runs at a position of the place."""
    seen = torch.arange(place.shape[1]) <= read[:, None]
    belongs = (place[None] == torch.arange(places)[:, None, None]) & seen
    counts = einsum(
        differing.float(), belongs.float(), "sender pair pos, place pair pos -> sender place pair"
    )
    return counts > 0


def count_for_sets(
    new: Bool[Tensor, "sender place pair"], chosen: Bool[Tensor, "unit sender receiver place"]
) -> Int[Tensor, "unit"]:
    """Number of pairs in which any edge of a set carries something else, for each set."""
    used = chosen.any(2).float().flatten(1)
    return ((used @ new.float().flatten(0, 1)) > 0).sum(1)


def changed_vectors(
    change: Float[Tensor, "fit pair d_model"], old: Float[Tensor, "pair d_model"]
) -> Bool[Tensor, "fit pair"]:
    """Pairs in which what is added to an activation is more than rounding."""
    size = old.square().mean(-1).sqrt()
    return (change.abs().amax(-1) > ROUNDING * size).cpu()


def only_measured(values: Float[Tensor, "*cell"], exchanged: Int[Tensor, "*cell"]) -> Float[Tensor, "*cell"]:
    """The values, with NaN where nothing was exchanged."""
    return torch.where(exchanged.to(values.device) > 0, values, torch.nan)
