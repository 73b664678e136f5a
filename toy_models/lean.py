"""A forward pass without hooks, for one or several `HookedTransformer`s at once.

Training needs no intermediate activations by name. The pure function `residual` computes the same residual stream as
the hooked model. It leaves the unembedding to the caller, who needs it only at positions with loss. Every parameter has
a leading axis `model`. So models of one shape (the seeds of an experiment) are computed together, each with its own
tokens, as batched matrix products. `tests/toy_models/test_lean.py` compares it with the hooked model.
"""

import math
from collections.abc import Mapping, Sequence
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
    """What the forward pass must know besides the parameters."""

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
    """The shape of a model. Raises ValueError for a model that the lean forward pass does not cover."""
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


def parameters_of(models: "Sequence[HookedTransformer]") -> dict[str, Tensor]:
    """The tensors that `residual` reads, by TransformerLens's names.

    Each tensor holds that parameter of all models, stacked on a new first axis (for one model it is a view). The rotary
    tables, which depend on the shape alone, have no such axis.
    """
    each = [dict(model.named_parameters()) for model in models]
    stacked = {
        name: first[None] if len(each) == 1 else torch.stack([one[name] for one in each])
        for name, first in each[0].items()
    }
    return stacked | rotary_tables(models[0])


def rotary_tables(model: "HookedTransformer") -> dict[str, Tensor]:
    """Sines and cosines of the rotary embedding; empty for absolute positions."""
    return {k: v for k, v in model.named_buffers() if k.endswith(("rotary_sin", "rotary_cos"))}


def residual(
    p: Mapping[str, Tensor], tokens: Int[Tensor, "model batch pos"], shape: Shape
) -> Float[Tensor, "model batch pos d_model"]:
    """The residual stream after the last layer norm, which the unembedding reads.

    Rows are padded on the right. Attention is causal, so no position attends to the pads that follow it.
    """
    n_models, _, n_pos = tokens.shape
    W_E = p["embed.W_E"]
    # one look-up in the tables of all models, with the ids of each model shifted to its own table
    first_id = W_E.shape[1] * torch.arange(n_models, device=tokens.device)[:, None, None]
    x = F.embedding(tokens + first_id, W_E.flatten(0, 1))
    if not shape.rotary_dim:
        x = x + p["pos_embed.W_pos"][:, None, :n_pos]
    x = rearrange(x, "model batch pos d_model -> model (batch pos) d_model")
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}."
        attention = _attention(p, block + "attn.", _norm(p, block + "ln1.", x, shape), shape, n_pos)
        if shape.attn_only:
            x = x + attention
        elif shape.parallel:
            x = x + attention + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
        else:
            x = x + attention
            x = x + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
    x = _norm(p, "ln_final.", x, shape)
    out: Tensor = rearrange(x, "model (batch pos) d_model -> model batch pos d_model", pos=n_pos)
    return out


def logits(
    p: Mapping[str, Tensor], x: Float[Tensor, "model position d_model"]
) -> Float[Tensor, "model position d_vocab"]:
    """Unembedding."""
    return _linear(x, p["unembed.W_U"], p["unembed.b_U"])


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight)


def _norm(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    if not shape.normalized:
        return x
    normalized = F.layer_norm(x, x.shape[-1:], eps=shape.eps)
    return torch.addcmul(p[name + "b"][:, None], normalized, p[name + "w"][:, None])


def _attention(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape, n_pos: int) -> Tensor:
    # one matrix product for q, k and v: (model, d_model, 3 · head · d_head)
    weight = torch.cat(
        [
            rearrange(p[name + w], "model head d_model d_head -> model d_model (head d_head)")
            for w in ("W_Q", "W_K", "W_V")
        ],
        2,
    )
    bias = torch.cat([p[name + b].flatten(1) for b in ("b_Q", "b_K", "b_V")], 1)
    qkv = rearrange(
        _linear(x, weight, bias),
        "model (batch pos) (three head d_head) -> three (model batch) head pos d_head",
        three=3,
        head=shape.n_heads,
        pos=n_pos,
    )
    q, k, v = qkv.unbind(0)
    if shape.rotary_dim:
        sin, cos = (p[name + table][:n_pos] for table in ("rotary_sin", "rotary_cos"))
        q, k = _rotate(q, sin, cos, shape.rotary_dim), _rotate(k, sin, cos, shape.rotary_dim)
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True) if q.is_cuda else causal_attention(q, k, v)
    z = rearrange(z, "(model batch) head pos d_head -> model (batch pos) (head d_head)", model=len(x))
    return _linear(z, p[name + "W_O"].flatten(1, 2), p[name + "b_O"])


def causal_attention(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    v: Float[Tensor, "batch head pos d_head"],
) -> Float[Tensor, "batch head pos d_head"]:
    """Scaled dot-product attention as plain products. For a few tokens on a CPU it is faster than torch's own."""
    n_pos, d_head = q.shape[-2:]
    future = torch.full((n_pos, n_pos), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=d_head**-0.5)
    return (scores.softmax(-1) @ v.flatten(0, 1)).view(v.shape)


def _rotate(x: Tensor, sin: Tensor, cos: Tensor, rotary_dim: int) -> Tensor:
    """Rotary embedding as in GPT-NeoX: the first half of the rotated dimensions is paired with the second half."""
    turned, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    first, second = turned.chunk(2, dim=-1)
    flipped = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos + flipped * sin, kept], dim=-1)


def _mlp(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    hidden = _linear(x, p[name + "W_in"], p[name + "b_in"])
    hidden = F.gelu(hidden) if shape.activation == "gelu" else F.relu(hidden)
    return _linear(hidden, p[name + "W_out"], p[name + "b_out"])
