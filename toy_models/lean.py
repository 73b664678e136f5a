"""A forward pass without hooks, over a `HookedTransformer`'s own parameters.

Training needs no intermediate activations by name: this pure function computes the same residual
stream with fused attention, and leaves the unembedding to the caller, who needs it only where there is
loss. `tests/test_lean.py` holds it equal to the hooked model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


@dataclass(frozen=True, slots=True)
class Shape:
    """What the forward pass must know beside the parameters."""

    n_layers: int
    n_heads: int
    d_head: int
    rotary_dim: int  # 0: absolute positions
    parallel: bool
    attn_only: bool
    normalized: bool
    eps: float
    activation: str


def shape_of(model: "HookedTransformer") -> Shape:
    """Read the shape off the model; ValueError for what the lean forward pass does not cover."""
    c = model.cfg
    rotary = c.positional_embedding_type == "rotary"
    covered = (
        c.positional_embedding_type in ("rotary", "standard")
        and c.normalization_type in ("LN", None)
        and not c.gated_mlp
        and (c.attn_only or c.act_fn in ("gelu", "relu"))
        and c.n_key_value_heads is None
        and not c.rotary_adjacent_pairs
        and c.attention_dir == "causal"
        and not c.use_local_attn
        and c.use_attn_scale
        and c.attn_scale == math.sqrt(c.d_head)
        and not c.scale_attn_by_inverse_layer_idx
        and c.attn_scores_soft_cap <= 0
        and c.output_logits_soft_cap <= 0
        and not (c.post_embedding_ln or c.final_rms or c.use_normalization_before_and_after)
        and c.num_experts is None
    )
    if not covered:
        raise ValueError(
            "the lean forward pass covers LN or no normalisation, gelu or relu, rotary or learned positions, "
            "and plain causal attention; use the model's own forward pass"
        )
    return Shape(
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        d_head=c.d_head,
        rotary_dim=c.rotary_dim if rotary else 0,
        parallel=c.parallel_attn_mlp,
        attn_only=c.attn_only,
        normalized=c.normalization_type == "LN",
        eps=c.eps,
        activation=c.act_fn or "",
    )


def parameters_of(model: "HookedTransformer") -> dict[str, Tensor]:
    """The tensors that `residual` reads: the model's parameters and its rotary tables, by name."""
    tables = {k: v for k, v in model.named_buffers() if k.endswith(("rotary_sin", "rotary_cos"))}
    return dict(model.named_parameters()) | tables


def residual(
    p: Mapping[str, Tensor], tokens: Int[Tensor, "batch pos"], shape: Shape
) -> Float[Tensor, "batch pos d_model"]:
    """Final residual stream after the last layer norm: what the unembedding reads.

    Causal attention over right-padded rows: no position attends to the pads that follow it.
    """
    x = F.embedding(tokens, p["embed.W_E"])
    if not shape.rotary_dim:
        x = x + p["pos_embed.W_pos"][: tokens.shape[1]]
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}."
        attention = _attention(p, block + "attn.", _norm(p, block + "ln1.", x, shape), shape)
        if shape.attn_only:
            x = x + attention
        elif shape.parallel:
            x = x + attention + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
        else:
            x = x + attention
            x = x + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
    return _norm(p, "ln_final.", x, shape)


def logits(p: Mapping[str, Tensor], x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_vocab"]:
    """Unembedding."""
    return x @ p["unembed.W_U"] + p["unembed.b_U"]


def _norm(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    if not shape.normalized:
        return x
    return F.layer_norm(x, x.shape[-1:], p[name + "w"], p[name + "b"], shape.eps)


def _attention(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    # one matrix product for q, k and v: (d_model, 3 · head · d_head)
    weight = torch.cat(
        [
            rearrange(p[name + w], "head d_model d_head -> d_model (head d_head)")
            for w in ("W_Q", "W_K", "W_V")
        ],
        1,
    )
    bias = torch.cat([p[name + b].flatten() for b in ("b_Q", "b_K", "b_V")])
    qkv = rearrange(
        x @ weight + bias,
        "batch pos (three head d_head) -> three batch head pos d_head",
        three=3,
        head=shape.n_heads,
    )
    q, k, v = qkv.unbind(0)
    if shape.rotary_dim:
        sin, cos = (p[name + table][: x.shape[1]] for table in ("rotary_sin", "rotary_cos"))
        q, k = _rotate(q, sin, cos, shape.rotary_dim), _rotate(k, sin, cos, shape.rotary_dim)
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    z = rearrange(z, "batch head pos d_head -> batch pos (head d_head)")
    out: Tensor = z @ p[name + "W_O"].flatten(0, 1) + p[name + "b_O"]
    return out


def _rotate(x: Tensor, sin: Tensor, cos: Tensor, rotary_dim: int) -> Tensor:
    """Rotary embedding, GPT-NeoX style: the first half of the rotated dimensions with the second."""
    turned, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    first, second = turned.chunk(2, dim=-1)
    flipped = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos + flipped * sin, kept], dim=-1)


def _mlp(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    hidden = x @ p[name + "W_in"] + p[name + "b_in"]
    hidden = F.gelu(hidden) if shape.activation == "gelu" else F.relu(hidden)
    out: Tensor = hidden @ p[name + "W_out"] + p[name + "b_out"]
    return out
