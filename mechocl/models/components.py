"""A transformer taken apart: its forward pass in pieces, as pure functions of weights and activations.

Interventions change one piece and let the rest follow. Here they can begin at any layer, at any position
(what comes before is causal past, and stays as it was), see only the rows that they need, and keep the
contributions of single heads apart. `tests/models/test_components.py` holds every piece equal to the model's own
hook points. Nothing is attached to the model and nothing in it is changed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer

Tap = Callable[[str, Tensor], Tensor]
"""Called with a site's name and its activation; gives back what shall stand there."""

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm with its scale and shift; the identity where a model has none."""

    w: Float[Tensor, "d_model"] | None
    b: Float[Tensor, "d_model"] | None
    eps: float

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x if self.w is None else F.layer_norm(x, x.shape[-1:], self.w, self.b, self.eps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Weights of one layer, in TransformerLens's shapes."""

    ln1: Norm
    ln2: Norm
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "head d_model d_head"]
    W_V: Float[Tensor, "head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "head d_head"]
    b_V: Float[Tensor, "head d_head"]
    b_O: Float[Tensor, "d_model"]
    W_in: Float[Tensor, "d_model d_mlp"] | None = None
    b_in: Float[Tensor, "d_mlp"] | None = None
    W_out: Float[Tensor, "d_mlp d_model"] | None = None
    b_out: Float[Tensor, "d_model"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The pieces of one model. Weights are the model's own tensors, without gradients."""

    blocks: tuple[Block, ...]
    W_E: Float[Tensor, "d_vocab d_model"]
    W_pos: Float[Tensor, "n_ctx d_model"] | None
    ln_final: Norm
    W_U: Float[Tensor, "d_model d_vocab_out"]
    b_U: Float[Tensor, "d_vocab_out"]
    parallel: bool
    """Attention and MLP of a block read the same residual stream; there is no `resid_mid`."""
    attn_only: bool
    activation: Callable[[Tensor], Tensor]
    rotary_dim: int
    rotary_base: float

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        return self.blocks[0].W_Q.shape[0]

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before layer 0."""
        x = F.embedding(tokens.to(self.device), self.W_E)
        return x if self.W_pos is None else x + self.W_pos[: tokens.shape[1]]

    def logits(
        self, x: Float[Tensor, "*batch d_model"], ids: Int[Tensor, "id"] | None = None
    ) -> Float[Tensor, "*batch id"]:
        """Logits of the given token ids (None: all) from the residual stream after the last layer."""
        W, b = (self.W_U, self.b_U) if ids is None else (self.W_U[:, ids], self.b_U[ids])
        return self.ln_final(x) @ W + b


def take_apart(model: Transformer) -> Components:
    """The pieces of a `HookedTransformer`, or of a `TransformerBridge` of a GPT-NeoX.

    Raises MechoclError for a model that is built differently (gated MLPs, other norms or activations, …),
    and for one with hooks of the caller's: the pieces would pass them by.
    """
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if hooked:
        raise MechoclError(
            f"the model has a hook at {hooked[0]}, which this analysis would pass by; call model.reset_hooks()"
        )
    m: Any = model
    c: Any = model.cfg
    _refuse_uncovered(c)
    rotary_dim, rotary_base = _rotary(m)
    normalized = c.normalization_type == "LN"
    blocks = tuple(_block(m, layer, normalized) for layer in range(c.n_layers))
    return Components(
        blocks=blocks,
        W_E=m.W_E.detach(),
        W_pos=m.W_pos.detach() if c.positional_embedding_type == "standard" else None,
        ln_final=_norm(getattr(m, "ln_final", None), c.eps, normalized),
        W_U=m.W_U.detach(),
        b_U=m.b_U.detach(),
        parallel=c.parallel_attn_mlp,
        attn_only=c.attn_only,
        activation=F.relu if c.attn_only else _ACTIVATIONS[c.act_fn],
        rotary_dim=rotary_dim,
        rotary_base=rotary_base,
    )


def _refuse_uncovered(c: Any) -> None:
    unscaled = not c.use_attn_scale or c.attn_scale not in (
        -1,
        math.sqrt(c.d_head),
    )  # a bridge leaves it at −1
    uncovered = {
        f"{c.positional_embedding_type} positions": c.positional_embedding_type not in ("rotary", "standard"),
        f"{c.normalization_type} normalisation": c.normalization_type not in ("LN", None),
        "gated MLPs": c.gated_mlp,
        "mixtures of experts": c.num_experts is not None,
        f"the activation {c.act_fn}": not c.attn_only and c.act_fn not in _ACTIVATIONS,
        "heads that share keys and values": c.n_key_value_heads not in (None, c.n_heads),
        f"{c.attention_dir} attention": c.attention_dir != "causal",
        "local attention": c.use_local_attn,
        "attention scores that are not divided by the root of d_head": (
            unscaled or c.scale_attn_by_inverse_layer_idx
        ),
        "capped attention scores": c.attn_scores_soft_cap > 0,
        "rotary embeddings of adjacent pairs": c.rotary_adjacent_pairs,
        "norms after a layer or the embedding": (
            c.post_embedding_ln or c.final_rms or c.use_normalization_before_and_after
        ),
        "capped logits": c.output_logits_soft_cap > 0,
    }
    for what, found in uncovered.items():
        if found:
            raise MechoclError(
                f"the model has {what}, which this analysis does not cover; it covers causal attention, rotary or standard "
                f"positions, layer norm or none, and MLPs of {', '.join(_ACTIVATIONS)}"
            )


def _rotary(model: Any) -> tuple[int, float]:
    c = model.cfg
    if c.positional_embedding_type != "rotary":
        return 0, 0.0
    if c.rotary_dim is not None:
        return int(c.rotary_dim), float(c.rotary_base)
    rope = model.original_model.config.rope_parameters
    return int(c.d_head * rope.get("partial_rotary_factor", 1.0)), float(rope["rope_theta"])


def _norm(module: Any, eps: float, normalized: bool) -> Norm:
    if not normalized:
        return Norm(None, None, eps)
    w, b = (module.w, module.b) if hasattr(module, "w") else (module.weight, module.bias)
    return Norm(w.detach(), b.detach(), eps)


def _block(model: Any, layer: int, normalized: bool) -> Block:
    names = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"]
    if not model.cfg.attn_only:
        names += ["W_in", "b_in", "W_out", "b_out"]
    block, eps = model.blocks[layer], model.cfg.eps
    return Block(
        ln1=_norm(getattr(block, "ln1", None), eps, normalized),
        ln2=_norm(getattr(block, "ln2", None), eps, normalized and not model.cfg.attn_only),
        **{name: getattr(model, name)[layer].detach() for name in names},
    )


# ------------------------------------------------------------------------------------------ attention


def project(
    c: Components,
    layer: int,
    name: str,
    x: Float[Tensor, "batch pos head d_model"] | Float[Tensor, "batch pos d_model"],
) -> Float[Tensor, "batch pos head d_head"]:
    """`q`, `k` or `v` of every head from the normalised residual stream, one for all heads or one for each."""
    W: Tensor = getattr(c.blocks[layer], f"W_{name.upper()}")
    b: Tensor = getattr(c.blocks[layer], f"b_{name.upper()}")
    if x.ndim == 4:
        each: Tensor = einsum(x, W, "batch pos head d_model, head d_model d_head -> batch pos head d_head")
        return each + b
    flat = x @ rearrange(W, "head d_model d_head -> d_model (head d_head)")
    shared: Tensor = rearrange(flat, "batch pos (head d_head) -> batch pos head d_head", head=len(W))
    return shared + b


def rotate(
    c: Components, x: Float[Tensor, "batch pos head d_head"], *, first: int
) -> Float[Tensor, "batch pos head d_head"]:
    """Rotary embedding of queries or keys whose first position is `first`; `x` itself without one."""
    if not c.rotary_dim:
        return x
    half = c.rotary_dim // 2
    turns = c.rotary_base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    positions = torch.arange(first, first + x.shape[1], device=x.device, dtype=torch.float32)
    angle = (positions[:, None] * turns).repeat(1, 2)[:, None].to(x.dtype)
    turned, kept = x[..., : c.rotary_dim], x[..., c.rotary_dim :]
    flipped = torch.cat([-turned[..., half:], turned[..., :half]], -1)
    return torch.cat([turned * angle.cos() + flipped * angle.sin(), kept], -1)


def attention_pattern(
    q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"], *, first: int
) -> Float[Tensor, "batch head query key"]:
    """Causal attention probabilities of rotated queries, the first of which stands at position `first`."""
    scores = einsum(q, k, "batch query head d_head, batch key head d_head -> batch head query key")
    n_query, n_key = scores.shape[-2:]
    position = torch.arange(first, first + n_query, device=q.device)
    future = torch.arange(n_key, device=q.device) > position[:, None]
    return (scores / math.sqrt(q.shape[-1])).masked_fill(future, -math.inf).softmax(-1)


def mix(
    pattern: Float[Tensor, "batch head query key"], v: Float[Tensor, "batch key head d_head"]
) -> Float[Tensor, "batch query head d_head"]:
    """`z`: the values that each query attends to."""
    return einsum(pattern, v, "batch head query key, batch key head d_head -> batch query head d_head")


def head_results(
    c: Components, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch pos head d_model"]:
    """What each head writes into the residual stream; `attn_out` is their sum and the bias `b_O`."""
    return einsum(
        z, c.blocks[layer].W_O, "batch pos head d_head, head d_head d_model -> batch pos head d_model"
    )


def attn_out(
    c: Components, layer: int, z: Float[Tensor, "batch pos head d_head"]
) -> Float[Tensor, "batch pos d_model"]:
    W = rearrange(c.blocks[layer].W_O, "head d_head d_model -> (head d_head) d_model")
    return z.flatten(2) @ W + c.blocks[layer].b_O


def mlp(
    c: Components, layer: int, x: Float[Tensor, "batch pos d_model"], tap: Tap
) -> Float[Tensor, "batch pos d_model"]:
    """The MLP on the residual stream that it reads; `tap` sees `mlp_post`, the neurons."""
    b = c.blocks[layer]
    assert b.W_in is not None
    assert b.b_in is not None
    assert b.W_out is not None
    assert b.b_out is not None
    neurons = tap("mlp_post", c.activation(b.ln2(x) @ b.W_in + b.b_in))
    return neurons @ b.W_out + b.b_out


# ------------------------------------------------------------------------------------------ a layer


@dataclass(frozen=True, slots=True)
class Keys:
    """Rotated keys, and values, of a layer at some positions of an earlier run."""

    k: Float[Tensor, "batch pos head d_head"]
    v: Float[Tensor, "batch pos head d_head"]


def untouched(name: str, x: Tensor) -> Tensor:
    """The tap that changes nothing."""
    return x


def run_block(
    c: Components,
    layer: int,
    x: Float[Tensor, "batch pos d_model"],
    *,
    tap: Tap = untouched,
    past: Keys | None = None,
    rows: slice = slice(None),
) -> Float[Tensor, "batch row d_model"]:
    """The residual stream after a layer at the given rows, from the one before it.

    `x` begins where `past` ends; a slice of `rows` counts from there. `tap` sees `k` and `v` (where they are computed), and `q`,
    `pattern`, `z`, `attn_out`, `resid_mid`, `mlp_post`, `mlp_out`, `resid_post` (at the rows); `q` and `k` before
    rotation, as TransformerLens names them.
    """
    first = 0 if past is None else past.k.shape[1]
    normed = c.blocks[layer].ln1(x)
    k = rotate(c, tap("k", project(c, layer, "k", normed)), first=first)
    v = tap("v", project(c, layer, "v", normed))
    if past is not None:
        k, v = torch.cat([past.k, k], 1), torch.cat([past.v, v], 1)
    first_row = first + rows.indices(x.shape[1])[0]
    q = rotate(c, tap("q", project(c, layer, "q", normed[:, rows])), first=first_row)
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
    """The residual stream after a layer, from the one before it and what attention writes: `run_block`'s other half."""
    attention = tap("attn_out", attention)
    if c.attn_only:
        return tap("resid_post", x + attention)
    if c.parallel:
        return tap("resid_post", x + attention + tap("mlp_out", mlp(c, layer, x, tap)))
    x = tap("resid_mid", x + attention)
    return tap("resid_post", x + tap("mlp_out", mlp(c, layer, x, tap)))


def run(
    c: Components,
    tokens: Int[Tensor, "batch pos"],
    *,
    tap: Callable[[int, str, Tensor], Tensor] | None = None,
) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream after the last layer. `tap(layer, site, x)` sees every site, `resid_pre` too."""
    x = c.embed(tokens)
    for layer in range(c.n_layers):

        def here(name: str, value: Tensor, layer: int = layer) -> Tensor:
            return value if tap is None else tap(layer, name, value)

        x = run_block(c, layer, here("resid_pre", x), tap=here)
    return x


# ------------------------------------------------------------------------------------------ sites

HEAD_SITES: Final = ("q", "k", "v", "z", "pattern")
SITES: Final = ("resid_pre", *HEAD_SITES, "attn_out", "resid_mid", "mlp_post", "mlp_out", "resid_post")
"""TransformerLens's activations that can be patched, in the order in which a layer computes them."""


def hook_name(site: str, layer: int) -> str:
    """TransformerLens's name of a site: `blocks.1.attn.hook_z`."""
    inside = "attn." if site in HEAD_SITES else "mlp." if site == "mlp_post" else ""
    return f"blocks.{layer}.{inside}hook_{site.removeprefix('mlp_') if site == 'mlp_post' else site}"


def sites_of(c: Components) -> tuple[str, ...]:
    """The sites that this model has."""
    missing = {"mlp_post", "mlp_out", "resid_mid"} if c.attn_only else {"resid_mid"} if c.parallel else set()
    return tuple(site for site in SITES if site not in missing)


def find_sites(c: Components, names: Sequence[str]) -> list[tuple[int, str]]:
    """(layer, site) of each name: a site (`z`: in every layer) or a hook point (`blocks.1.attn.hook_z`).

    Raises MechoclError for a name that the model does not have, with the nearest that it has.
    """
    import difflib

    known = {hook_name(site, layer): (layer, site) for layer in range(c.n_layers) for site in sites_of(c)}
    found: list[tuple[int, str]] = []
    for name in names:
        if name in sites_of(c):
            found += [(layer, name) for layer in range(c.n_layers)]
        elif name in known:
            found.append(known[name])
        else:
            near = difflib.get_close_matches(name, [*sites_of(c), *known], n=1, cutoff=0.0)
            why = ""
            if name in SITES:
                why = " (its blocks have no MLP)" if c.attn_only else " (attention and MLP run in parallel)"
            raise MechoclError(
                f"the model has no site {name!r}{why}; did you mean {near[0]!r}? Its sites: {', '.join(sites_of(c))}, "
                f"in layers 0 to {c.n_layers - 1}"
            )
    return sorted(set(found), key=lambda site: (site[0], SITES.index(site[1])))
