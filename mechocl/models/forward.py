"""The forward pass in pieces: attention, the MLP, a layer, all layers, as pure functions of weights and activations."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.models.components import Components

Tap = Callable[[str, Tensor], Tensor]
"""A function of a site's name and its activation that returns the activation to use in its place."""


def project(
    c: Components,
    layer: int,
    name: str,
    x: Float[Tensor, "batch pos head d_model"] | Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch pos head d_head"]:
    """`q` of every head, or `k` or `v` of every key/value head, from the normalised residual stream. `x` is one stream for all
    of these heads, or one for each."""
    W: Tensor = getattr(c.blocks[layer], f"W_{name.upper()}")
    b: Tensor = getattr(c.blocks[layer], f"b_{name.upper()}")
    if x.ndim == 4:
        each: Tensor = einsum(x, W, "batch pos head d_model, head d_model d_head -> batch pos head d_head")
        return each + b
    flat = x @ rearrange(W, "head d_model d_head -> d_model (head d_head)")
    shared: Tensor = rearrange(flat, "batch pos (head d_head) -> batch pos head d_head", head=len(W))
    return shared + b


def prepare(
    c: Components, layer: int, name: str, x: Float[Tensor, "batch pos head d_head"], *, first: int
) -> Float[Tensor, "batch pos head d_head"]:
    """What attention scores are computed from: the queries (`q`) or keys (`k`) of a layer, normalised and turned by their
    position, where the model does so. The first of them stands at position `first`."""
    b = c.blocks[layer]
    norm = b.q_norm if name == "q" else b.k_norm
    x = x if norm is None else norm(x)
    return x if b.rotary is None else b.rotary(x, first=first)


def attention_pattern(
    q: Float[Tensor, "batch query head d_head"],
    k: Float[Tensor, "batch key key_value_head d_head"],
    *,
    first: int,
) -> Float[Tensor, "batch head query key"]:
    """Causal attention probabilities of prepared queries, the first of which stands at position `first`."""
    return attention_scores(q, k, first=first).softmax(-1)


def attention_scores(
    q: Float[Tensor, "batch query head d_head"],
    k: Float[Tensor, "batch key key_value_head d_head"],
    *,
    first: int,
) -> Float[Tensor, "batch head query key"]:
    """What the softmax of `attention_pattern` is taken of: −∞ at the keys that come after the query."""
    k = _for_each_head(k, q.shape[2])
    scores = einsum(q, k, "batch query head d_head, batch key head d_head -> batch head query key")
    n_query, n_key = scores.shape[-2:]
    position = torch.arange(first, first + n_query, device=q.device)
    future = torch.arange(n_key, device=q.device) > position[:, None]
    return (scores / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf)


def mix(
    pattern: Float[Tensor, "batch head query key"], v: Float[Tensor, "batch key key_value_head d_head"]
) -> Float[Tensor, "batch query head d_head"]:
    """`z`: for each query, the mean of the values weighted by its attention."""
    v = _for_each_head(v, pattern.shape[1])
    return einsum(pattern, v, "batch head query key, batch key head d_head -> batch query head d_head")


def _for_each_head(
    x: Float[Tensor, "batch key key_value_head d_head"], n_heads: int
) -> Float[Tensor, "batch key head d_head"]:
    """Keys or values by head: neighbouring heads share a key/value head. `x` itself where each head has its own."""
    shared = n_heads // x.shape[2]
    return x if shared == 1 else x.repeat_interleave(shared, 2)


def head_results(
    c: Components, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch pos head d_model"]:
    """What each head writes into the residual stream; `attn_out` is the sum over the heads plus the bias `b_O`.

    Where a norm of attention's output follows, its scale is that of the whole output.
    """
    b = c.blocks[layer]
    results: Tensor = einsum(z, b.W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model")
    if b.ln1_post is None:
        return results
    return b.ln1_post.frozen(results, whole=results.sum(2, keepdim=True))


def attn_out(
    c: Components, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch pos d_model"]:
    """What attention writes into the residual stream."""
    b = c.blocks[layer]
    W = rearrange(b.W_O, "head d_head d_model -> (head d_head) d_model")
    written = z.flatten(2) @ W + b.b_O
    return written if b.ln1_post is None else b.ln1_post(written)


def mlp(
    c: Components, layer: int, x: Float[Tensor, "batch pos d_model"], tap: Tap
) -> Float[Tensor, "batch pos d_model"]:
    """The MLP on the residual stream that it reads; `tap` sees `mlp_post`, the neurons."""
    b = c.blocks[layer]
    assert b.W_in is not None
    assert b.b_in is not None
    assert b.W_out is not None
    assert b.b_out is not None
    normed = b.ln2(x)
    if b.W_gate is None:
        neurons = c.activation(normed @ b.W_in + b.b_in)
    else:  # TransformerLens adds the bias to the product; the families that are converted have none
        neurons = c.activation(normed @ b.W_gate) * (normed @ b.W_in) + b.b_in
    written = tap("mlp_post", neurons) @ b.W_out + b.b_out
    return written if b.ln2_post is None else b.ln2_post(written)


@dataclass(frozen=True, slots=True)
class Keys:
    """Prepared keys, and values, of a layer at the first positions, from an earlier forward pass."""

    k: Float[Tensor, "batch pos key_value_head d_head"]
    v: Float[Tensor, "batch pos key_value_head d_head"]


def untouched(name: str, x: Tensor) -> Tensor:
    """A tap that changes nothing."""
    return x


def forward_block(
    c: Components,
    layer: int,
    x: Float[Tensor, "batch pos d_model"],
    *,
    tap: Tap = untouched,
    past: Keys | None = None,
    rows: slice = slice(None),
) -> Float[Tensor, "batch row d_model"]:
    """The residual stream after a layer at the given rows, from the residual stream before the layer.

    `x` begins where `past` ends, and the slice `rows` counts from that position. `tap` sees `k` and `v` at all positions
    of `x`, and `q`, `pattern`, `z`, `attn_out`, `resid_mid`, `mlp_post`, `mlp_out` and `resid_post` at the rows. It sees
    `q` and `k` before their norms and rotation, and `k` and `v` by key/value head, as TransformerLens's hook points of
    these names give them.
    """
    first = 0 if past is None else past.k.shape[1]
    normed = c.blocks[layer].ln1(x)
    k = prepare(c, layer, "k", tap("k", project(c, layer, "k", normed)), first=first)
    v = tap("v", project(c, layer, "v", normed))
    if past is not None:
        k, v = torch.cat([past.k, k], 1), torch.cat([past.v, v], 1)
    first_row = first + rows.indices(x.shape[1])[0]
    q = prepare(c, layer, "q", tap("q", project(c, layer, "q", normed[:, rows])), first=first_row)
    pattern = tap("pattern", attention_pattern(q, k, first=first_row))
    attention = attn_out(c, layer, tap("z", mix(pattern, v)))
    return after_attention(c, layer, x[:, rows], attention, tap=tap)


def after_attention(
    c: Components,
    layer: int,
    x: Float[Tensor, "batch pos d_model"],
    attention: Float[Tensor, "batch pos d_model"],
    *,
    tap: Tap = untouched,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after a layer, from the stream before it and what attention writes.

    It is the second half of `forward_block`.
    """
    attention = tap("attn_out", attention)
    if c.attn_only:
        return tap("resid_post", x + attention)
    if c.parallel:
        return tap("resid_post", x + attention + tap("mlp_out", mlp(c, layer, x, tap)))
    x = tap("resid_mid", x + attention)
    return tap("resid_post", x + tap("mlp_out", mlp(c, layer, x, tap)))


def forward(
    c: Components,
    tokens: Int[Tensor, "batch pos"],
    *,
    tap: Callable[[int, str, Tensor], Tensor] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer. `tap(layer, site, x)` sees every site, also `resid_pre`."""
    x = c.embed(tokens)
    for layer in range(c.n_layers):

        def here(name: str, value: Tensor, layer: int = layer) -> Tensor:
            return value if tap is None else tap(layer, name, value)

        x = forward_block(c, layer, here("resid_pre", x), tap=here)
    return x
