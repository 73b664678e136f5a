"""A forward pass without hooks, for one or several `HookedTransformer`s at once.

Training needs no intermediate activations by name. The pure function `residual` computes the same residual stream as
the hooked model. It leaves the unembedding to the caller, who needs it only at positions with loss. Every parameter has
a leading axis `model`. So models of one shape (the seeds of an experiment) are computed together, each with its own
tokens, as batched matrix products. `tests/toy_models/test_lean.py` compares it with the hooked model.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models.comparing import LOGITS, Passed, acts_beyond_rows, find_parting, some_rows

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


See = Callable[[str, Tensor], None]
"""A function that is shown an activation by the name of its hook point."""

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"gelu": F.gelu, "relu": F.relu}


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

    def residual(
        self,
        p: Mapping[str, Tensor],
        tokens: Int[Tensor, "model batch pos"],
        *,
        cut: Bool[Tensor, "model batch pos pos"] | None = None,
    ) -> Float[Tensor, "model batch pos d_model"]:
        """The function `residual` of this module, on this shape."""
        return residual(p, tokens, self, cut=cut)


def shape_of(model: "HookedTransformer") -> Shape:
    """The shape of a model, after a check, once per model, that the lean forward pass computes what the model computes.

    Both compute a few rows of random tokens. Raises ValueError for a model that the lean forward pass does not cover; the
    message names the first site at which the two differ.
    """
    c = model.cfg
    shape = Shape(
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        d_head=c.d_head,
        rotary_dim=(c.rotary_dim or 0) if c.positional_embedding_type == "rotary" else 0,
        parallel=c.parallel_attn_mlp,
        attn_only=c.attn_only,
        normalized=c.normalization_type is not None,
        eps=c.eps,
        activation=c.act_fn or "",
    )
    if model in _PASSED:
        return shape
    why = acts_beyond_rows(c)
    if why is None and not c.attn_only and c.act_fn not in _ACTIVATIONS:
        why = f"the activation {c.act_fn}"
    if why is None:
        why = _difference(model, shape)
    if why is not None:
        raise ValueError(
            "the lean forward pass covers LN or no normalisation, gelu or relu, rotary or learned positions, and plain "
            f"causal attention; the model has {why}; use the model's own forward pass"
        )
    _PASSED.add(model)
    return shape


_PASSED: Final = Passed()


@torch.no_grad()
def _difference(model: "HookedTransformer", shape: Shape) -> str | None:
    """In what a model differs from the lean forward pass; None if the two compute the same."""
    tokens = some_rows(d_vocab=model.cfg.d_vocab, n_ctx=model.cfg.n_ctx).to(model.embed.W_E.device)
    ours: dict[str, Tensor] = {}

    parameters = parameters_of([model])
    try:
        x = residual(parameters, tokens[None], shape, see=ours.__setitem__)
    except KeyError as error:
        return f"no {error.args[0]}"
    ours[LOGITS] = logits(parameters, x.flatten(1, 2)).view(*tokens.shape, -1)
    names = [name for name in ours if name in model.hook_dict]
    theirs, kept = model.run_with_cache(tokens, names_filter=names, return_type="logits")
    parting = find_parting(ours, dict(kept.items()) | {LOGITS: theirs})
    return None if parting is None else f"something else at {parting}"


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
    p: Mapping[str, Tensor],
    tokens: Int[Tensor, "model batch pos"],
    shape: Shape,
    *,
    see: See | None = None,
    cut: Bool[Tensor, "model batch pos pos"] | None = None,
) -> Float[Tensor, "model batch pos d_model"]:
    """The residual stream after the last layer norm, which the unembedding reads.

    Rows are padded on the right. Attention is causal, so no position attends to the pads that follow it. `see` is shown
    attention scores and what attention writes, and the stream between the layers, by the names of hook points, with
    (model · batch) in the place of `batch`. Where `cut` is true, a position (the first `pos`) does not attend to another (the
    second); each must be left one to attend to.
    """
    n_models, _, n_pos = tokens.shape
    W_E = p["embed.W_E"]
    # one look-up in the tables of all models, with the ids of each model shifted to its own table
    first_id = W_E.shape[1] * torch.arange(n_models, device=tokens.device)[:, None, None]
    x = F.embedding(tokens + first_id, W_E.flatten(0, 1))
    if not shape.rotary_dim:
        x = x + p["pos_embed.W_pos"][:, None, :n_pos]
    x = rearrange(x, "model batch pos d_model -> model (batch pos) d_model")

    def show(site: str, x: Tensor) -> None:
        if see is not None:
            see(site, rearrange(x, "model (batch pos) d_model -> (model batch) pos d_model", pos=n_pos))

    show("blocks.0.hook_resid_pre", x)
    for layer in range(shape.n_layers):
        block = f"blocks.{layer}."
        attention = _attention(p, block + "attn.", _norm(p, block + "ln1.", x, shape), shape, n_pos, see, cut)
        show(block + "hook_attn_out", attention)
        if shape.attn_only:
            x = x + attention
        elif shape.parallel:
            x = x + attention + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
        else:
            x = x + attention
            show(block + "hook_resid_mid", x)
            x = x + _mlp(p, block + "mlp.", _norm(p, block + "ln2.", x, shape), shape)
        show(block + "hook_resid_post", x)
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
    if name + "w" not in p:  # it is folded into the weights that read it
        return normalized
    return torch.addcmul(p[name + "b"][:, None], normalized, p[name + "w"][:, None])


def _attention(
    p: Mapping[str, Tensor],
    name: str,
    x: Tensor,
    shape: Shape,
    n_pos: int,
    see: See | None,
    cut: Tensor | None,
) -> Tensor:
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
    if see is not None:
        see(name + "hook_attn_scores", _scores(q, k, cut).view(*q.shape[:3], n_pos))
    fused = q.is_cuda and cut is None
    z = F.scaled_dot_product_attention(q, k, v, is_causal=True) if fused else causal_attention(q, k, v, cut)
    z = rearrange(z, "(model batch) head pos d_head -> model (batch pos) (head d_head)", model=len(x))
    return _linear(z, p[name + "W_O"].flatten(1, 2), p[name + "b_O"])


def causal_attention(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    v: Float[Tensor, "batch head pos d_head"],
    cut: Bool[Tensor, "model example pos pos"] | None = None,
) -> Float[Tensor, "batch head pos d_head"]:
    """Scaled dot-product attention as plain products. For a few tokens on a CPU it is faster than torch's own."""
    return (_scores(q, k, cut).softmax(-1) @ v.flatten(0, 1)).view(v.shape)


def _scores(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch head pos d_head"],
    cut: Bool[Tensor, "model example pos pos"] | None,
) -> Float[Tensor, "batch_and_head pos pos"]:
    n_pos, d_head = q.shape[-2:]
    future = torch.full((n_pos, n_pos), -math.inf, dtype=q.dtype, device=q.device).triu(1)
    scores = torch.baddbmm(future, q.flatten(0, 1), k.flatten(0, 1).transpose(1, 2), alpha=d_head**-0.5)
    if cut is None:
        return scores
    return scores.masked_fill(cut.flatten(0, 1).repeat_interleave(q.shape[1], 0), -math.inf)


def _rotate(x: Tensor, sin: Tensor, cos: Tensor, rotary_dim: int) -> Tensor:
    """Rotary embedding as in GPT-NeoX: the first half of the rotated dimensions is paired with the second half."""
    turned, kept = x[..., :rotary_dim], x[..., rotary_dim:]
    first, second = turned.chunk(2, dim=-1)
    flipped = torch.cat([-second, first], dim=-1)
    return torch.cat([turned * cos + flipped * sin, kept], dim=-1)


def _mlp(p: Mapping[str, Tensor], name: str, x: Tensor, shape: Shape) -> Tensor:
    hidden = _linear(x, p[name + "W_in"], p[name + "b_in"])
    return _linear(_ACTIVATIONS[shape.activation](hidden), p[name + "W_out"], p[name + "b_out"])
