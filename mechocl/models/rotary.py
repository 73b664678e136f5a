"""Rotary embeddings: queries and keys are turned by an angle that grows with their position.

Su et al. 2021 (arXiv 2104.09864). The slow turns of Llama 3 are scaled down, so that longer texts fit.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models.seam import device_of


@dataclass(frozen=True, slots=True)
class Rotary:
    """How the first dimensions of each head are turned, two by two. The other dimensions stay as they are."""

    turns: Float[Tensor, "pair"]
    """Angle of each pair of dimensions from one position to the next, in radians."""
    adjacent: bool
    """Whether a pair is dimensions 2i and 2i + 1; else it is dimension i and dimension i + (number of pairs)."""

    def __call__(
        self, x: Float[Tensor, "batch pos head d_head"], *, first: int
    ) -> Float[Tensor, "batch pos head d_head"]:
        """Queries or keys, turned. The first of them stands at position `first`."""
        pairs = len(self.turns)
        positions = torch.arange(first, first + x.shape[1], device=x.device, dtype=torch.float32)
        angle = (positions[:, None] * self.turns.to(x.device))[:, None].to(x.dtype)
        cos, sin = angle.cos(), angle.sin()
        turned, kept = x[..., : 2 * pairs], x[..., 2 * pairs :]
        if self.adjacent:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
            return torch.cat([turned, kept], -1)
        a, b = turned[..., :pairs], turned[..., pairs:]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, kept], -1)


def rotary_of(model: Any, layer: int) -> Rotary | None:
    """The rotary embedding of a layer of a `HookedTransformer` or a `TransformerBridge`; None where there is none.

    Raises MechoclError, which names it, for scaling that is not known.
    """
    c = model.cfg
    if c.positional_embedding_type != "rotary":
        return None
    if c.rotary_dim is None:
        return _of_a_bridge(model)
    if getattr(c, "use_yarn_rope", False):
        raise MechoclError("the model has yarn rotary embeddings; only default, linear and llama3 are known")
    local = bool(c.use_local_attn) and c.attn_types[layer] == "local"
    base = c.rotary_base_local if local and c.rotary_base_local is not None else c.rotary_base
    turns = _turns(int(c.rotary_dim), float(base), device_of(model))
    if c.use_NTK_by_parts_rope:
        turns = _scaled_by_parts(
            turns,
            factor=c.NTK_by_parts_factor,
            low=c.NTK_by_parts_low_freq_factor,
            high=c.NTK_by_parts_high_freq_factor,
            n_ctx=c.NTK_original_ctx_len,
        )
    elif not local:
        turns = turns / c.rotary_scaling_factor
    return Rotary(turns, bool(c.rotary_adjacent_pairs))


def _of_a_bridge(model: Any) -> Rotary:
    rope = model.original_model.config.rope_parameters
    if rope.get("rope_type") != "default":
        raise MechoclError(
            f"the bridge has {rope.get('rope_type')} rotary embeddings; load it with bridge=False"
        )
    rotary_dim = int(model.cfg.d_head * rope.get("partial_rotary_factor", 1.0))
    return Rotary(_turns(rotary_dim, float(rope["rope_theta"]), device_of(model)), adjacent=False)


def _turns(rotary_dim: int, base: float, device: torch.device) -> Float[Tensor, "pair"]:
    half = rotary_dim // 2
    found: Tensor = base ** (-torch.arange(half, device=device, dtype=torch.float32) / half)
    return found


def _scaled_by_parts(
    turns: Float[Tensor, "pair"], *, factor: float, low: float, high: float, n_ctx: int
) -> Float[Tensor, "pair"]:
    """Llama 3's turns: the fast ones as they are, the slow ones divided by `factor`, and those between in between.

    A turn is fast if it goes round more than `high` times in the `n_ctx` positions of the first training, and slow if it
    goes round less than `low` times.
    """
    rounds = n_ctx * turns / (2 * math.pi)
    share = ((rounds - low) / (high - low)).clamp(0, 1)
    return share * turns + (1 - share) * turns / factor
