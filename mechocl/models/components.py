"""A transformer taken apart: its forward pass in pieces, as pure functions of weights and activations.

An intervention changes one piece, and everything after it follows. An intervention can begin at any layer and at any
position: what comes before is causal past, and stays as it was. It computes only the rows that it needs, and keeps the
contributions of single heads apart. `tests/models/test_components.py` compares every piece with the model's own hook
points. The model itself is not changed, and no hooks are attached to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError, describe_error
from mechocl.models import convert, seam
from mechocl.models.rotary import Rotary, rotary_of
from mechocl.models.seam import Transformer, device_of
from toy_models.comparing import Passed, acts_beyond_rows

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm or RMS norm, with its scale and shift; the identity in a model without norms."""

    w: Float[Tensor, "normed"] | None
    b: Float[Tensor, "normed"] | None
    """None in an RMS norm, which has no shift."""
    eps: float
    centring: bool = True
    """Whether the norm subtracts the mean: layer norm does, RMS norm (Zhang & Sennrich 2019, arXiv 1910.07467) does not."""

    def __call__(self, x: Float[Tensor, "*batch normed"]) -> Float[Tensor, "*batch normed"]:
        if self.w is None:
            return x
        if self.centring:
            return F.layer_norm(x, x.shape[-1:], self.w, self.b, self.eps)
        return F.rms_norm(x, x.shape[-1:], self.w, self.eps)

    def centred(self, x: Float[Tensor, "*batch normed"]) -> Float[Tensor, "*batch normed"]:
        """What the norm divides: `x` without its mean, or `x` itself where the norm does not subtract the mean."""
        return x - x.mean(-1, keepdim=True) if self.centring else x

    def scale(self, x: Float[Tensor, "*batch normed"]) -> Float[Tensor, "*batch 1"]:
        """What the norm divides by: the standard deviation of each row of `x`, or its root mean square."""
        square = (
            x.var(-1, keepdim=True, unbiased=False) if self.centring else x.square().mean(-1, keepdim=True)
        )
        return (square + self.eps).sqrt()

    def frozen(
        self, x: Float[Tensor, "*batch normed"], *, whole: Float[Tensor, "*#batch normed"]
    ) -> Float[Tensor, "*batch normed"]:
        """A part of `whole`, normalised as the norm normalises `whole`.

        It is linear in `x`: over the parts of `whole` it sums to the norm of `whole`, without the norm's shift.
        """
        return x if self.w is None else self.centred(x) / self.scale(whole) * self.w


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Weights of one layer, in TransformerLens's shapes.

    Several heads may share a key/value head; then there are fewer of these than heads.
    """

    ln1: Norm
    ln2: Norm
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "key_value_head d_model d_head"]
    W_V: Float[Tensor, "key_value_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "key_value_head d_head"]
    b_V: Float[Tensor, "key_value_head d_head"]
    b_O: Float[Tensor, "d_model"]
    q_norm: Norm | None = None
    """Norm of each head's query, before rotation; None where there is none."""
    k_norm: Norm | None = None
    """Norm of each key/value head's key, before rotation."""
    rotary: Rotary | None = None
    ln1_post: Norm | None = None
    """Norm of what attention writes (Gemma 3); None where there is none."""
    ln2_post: Norm | None = None
    """Norm of what the MLP writes."""
    W_gate: Float[Tensor, "d_model d_mlp"] | None = None
    """Weights whose activation multiplies `x @ W_in` (`gate_proj` of Hugging Face); None in an MLP without a gate."""
    W_in: Float[Tensor, "d_model d_mlp"] | None = None
    b_in: Float[Tensor, "d_mlp"] | None = None
    W_out: Float[Tensor, "d_mlp d_model"] | None = None
    b_out: Float[Tensor, "d_model"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """The pieces of one model. Weights are the model's own tensors, without gradients; those of a bridge's blocks are copies."""

    blocks: tuple[Block, ...]
    W_E: Float[Tensor, "d_vocab d_model"]
    W_pos: Float[Tensor, "n_ctx d_model"] | None
    ln_final: Norm
    W_U: Float[Tensor, "d_model d_vocab_out"]
    b_U: Float[Tensor, "d_vocab_out"]
    n_ctx: int
    """Number of positions that the model has."""
    parallel: bool
    """Whether attention and MLP of a block read the same residual stream; then there is no `resid_mid`."""
    attn_only: bool
    activation: Callable[[Tensor], Tensor]

    @property
    def n_layers(self) -> int:
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        return self.blocks[0].W_Q.shape[0]

    @property
    def n_key_value_heads(self) -> int:
        """Number of heads of keys and values in a layer. It is `n_heads` where no head shares them with another one."""
        return self.blocks[0].W_K.shape[0]

    @property
    def device(self) -> torch.device:
        return self.W_E.device

    def embed(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before layer 0. Raises MechoclError for examples with more tokens than the model has positions."""
        if tokens.shape[1] > self.n_ctx:
            raise MechoclError(
                f"the examples have {tokens.shape[1]} tokens, but the model has {self.n_ctx} positions"
            )
        x = F.embedding(tokens.to(self.device), self.W_E)
        return x if self.W_pos is None else x + self.W_pos[: tokens.shape[1]]

    def logits(
        self, x: Float[Tensor, "*batch d_model"], ids: Int[Tensor, "id"] | None = None
    ) -> Float[Tensor, "*batch id"]:
        """Logits of the given token ids (None: of all) from the residual stream after the last layer."""
        W, b = (self.W_U, self.b_U) if ids is None else (self.W_U[:, ids], self.b_U[ids])
        return self.ln_final(x) @ W + b


def take_apart(model: Transformer) -> Components:
    """The pieces of a `HookedTransformer`, or of a `TransformerBridge`.

    Folded norms are norms of scale 1 and shift 0. Keys and values have a head for each key/value head, of which there may be
    fewer than heads.

    The pieces and the model compute a few rows of random tokens, once per model. Raises MechoclError, which names the first site at which
    they differ, for a model that is built differently (experts, attention sinks, norms of other places, …); for what such rows cannot
    show (capped scores or logits, local attention, …), by its name; for a model in half precision; and for a model to which the
    caller has added hooks, because the pieces would ignore them.
    """
    from mechocl.models.faithful import find_difference  # which computes with the pieces that are made here

    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if hooked:
        raise MechoclError(
            f"the model has a hook at {hooked[0]}, which this analysis would ignore; call model.reset_hooks(including_permanent=True)"
        )
    seam.refuse_half_precision(model)
    m: Any = model
    c = m.cfg
    if not c.n_heads:
        raise MechoclError(
            f"this analysis is of transformers, and a {type(m).__name__} has no attention; {_COVERED}"
        )
    beyond = acts_beyond_rows(c) or _short_window_of_a_bridge(m)
    if beyond is not None:
        raise MechoclError(f"the model has {beyond}, which this analysis does not cover; {_COVERED}")
    if not c.attn_only and c.act_fn not in _ACTIVATIONS:
        raise MechoclError(
            f"the model has the activation {c.act_fn}, which this analysis does not cover; {_COVERED}"
        )
    try:
        pieces = _pieces(model)
    except (AttributeError, KeyError, TypeError) as error:
        raise MechoclError(
            f"the model lacks weights that this analysis needs ({describe_error(error)}); {_COVERED}"
        ) from error
    if m in _PASSED:
        return pieces
    parting = find_difference(pieces, model)
    if parting is not None:
        raise MechoclError(
            f"the model computes something else than the pieces that this analysis takes it apart into, first at {parting}; "
            f"{_COVERED}"
        )
    _PASSED.add(m)
    return pieces


_PASSED: Final = Passed()

_COVERED: Final = (
    "it covers causal attention (also of heads that share keys and values, and with norms of queries and keys), rotary or "
    "standard positions, layer norm, RMS norm or none, and MLPs, gated or not, of "
    f"{', '.join(_ACTIVATIONS)}"
)


def _short_window_of_a_bridge(model: Any) -> str | None:
    """Local attention of a bridge, in words. TransformerLens's config of a bridge does not tell it."""
    window = convert.window_of(model.original_model.config) if hasattr(model, "original_model") else {}
    if not window or window["window_size"] >= model.cfg.n_ctx:
        return None
    n = window["window_size"]
    return f"local attention, which looks back {n} of its {model.cfg.n_ctx} positions (load the model with bridge=False and n_ctx={n} to avoid it)"


def _pieces(model: Any) -> Components:
    c = model.cfg
    return Components(
        blocks=tuple(_block(model, layer) for layer in range(c.n_layers)),
        W_E=model.W_E.detach(),
        W_pos=_positions(model).detach() if c.positional_embedding_type == "standard" else None,
        ln_final=_norm(model, model, "ln_final", centring=not getattr(c, "final_rms", False)),
        W_U=model.W_U.detach(),
        b_U=model.b_U.detach(),
        n_ctx=int(c.n_ctx),
        parallel=c.parallel_attn_mlp,
        attn_only=c.attn_only,
        activation=F.relu if c.attn_only else _ACTIVATIONS[c.act_fn],
    )


def _positions(model: Any) -> Tensor:
    """Position embeddings; a bridge does not have them by TransformerLens's name."""
    found: Tensor = model.pos_embed.W_pos if hasattr(model.pos_embed, "W_pos") else model.pos_embed.weight
    return found


def _norm(model: Any, owner: Any, name: str, *, centring: bool = True) -> Norm:
    """A norm that has no scale (because it is folded) has scale 1, and a layer norm without a shift has shift 0."""
    c = model.cfg
    if c.normalization_type is None:
        return Norm(None, None, c.eps)
    held = dict(getattr(owner, name).named_parameters())
    by_name = {key.rpartition(".")[2]: value for key, value in held.items()}
    scale, shift = (by_name.get(a, by_name.get(b)) for a, b in (("w", "weight"), ("b", "bias")))
    w = torch.ones(c.d_model, device=device_of(model)) if scale is None else scale.detach()
    if not centring or c.normalization_type.startswith("RMS"):
        return Norm(w, None, c.eps, centring=False)
    return Norm(w, torch.zeros_like(w) if shift is None else shift.detach(), c.eps)


def _head_norm(cfg: Any, attention: Any, name: str) -> Norm | None:
    """The norm of queries or keys, which is an RMS norm of each head. Raises MechoclError for a norm of all heads together."""
    norm = getattr(attention, name, None)
    if norm is None:
        return None
    (w,) = norm.parameters()
    if len(w) != cfg.d_head:
        raise MechoclError(
            f"the model has a norm of all heads together ({name}), which this analysis does not cover; {_COVERED}"
        )
    return Norm(w.detach(), None, cfg.eps, centring=False)


def _post_norm(model: Any, block: Any, name: str) -> Norm | None:
    """The norm of what attention or the MLP writes. Raises MechoclError for a norm of attention and a bias, as no family has."""
    if getattr(block, name, None) is None:
        return None
    if name == "ln1_post" and bool((block.attn.b_O != 0).any()):
        raise MechoclError(
            f"the model has a norm and a bias of attention's output, which this analysis does not cover; {_COVERED}"
        )
    return _norm(model, block, name)


def _block(model: Any, layer: int) -> Block:
    c, block = model.cfg, model.blocks[layer]
    attention = block.attn
    shared = "" if getattr(c, "ungroup_grouped_query_attention", False) else "_"
    found = {name: getattr(attention, name) for name in ("W_Q", "W_O", "b_Q", "b_O")}
    for name in ("W_K", "W_V", "b_K", "b_V"):  # an underscore: by key/value head
        own = getattr(attention, f"{shared}{name}", None)
        found[name] = getattr(attention, name) if own is None else own
    if not c.attn_only:
        names = ["W_in", "b_in", "W_out", "b_out", *(["W_gate"] if c.gated_mlp else [])]
        found |= {name: getattr(block.mlp, name) for name in names}
    return Block(
        ln1=_norm(model, block, "ln1"),
        ln2=Norm(None, None, c.eps) if c.attn_only else _norm(model, block, "ln2"),
        q_norm=_head_norm(c, attention, "q_norm"),
        k_norm=_head_norm(c, attention, "k_norm"),
        rotary=rotary_of(model, layer),
        ln1_post=_post_norm(model, block, "ln1_post"),
        ln2_post=_post_norm(model, block, "ln2_post"),
        # a bridge's are views of other layouts, in which products round otherwise
        **{name: value.detach().contiguous() for name, value in _with_zero_biases(found).items()},
    )


def _with_zero_biases(weights: dict[str, Tensor | None]) -> dict[str, Tensor]:
    """The weights, with zeros for biases that a bridge does not have."""
    found = {name: value for name, value in weights.items() if value is not None}
    for name in weights.keys() - found.keys():
        W = found[{"b_in": "W_in", "b_out": "W_out"}.get(name, name.replace("b_", "W_"))]
        shape = W.shape[:1] + W.shape[2:] if name in ("b_Q", "b_K", "b_V") else W.shape[-1:]
        found[name] = W.new_zeros(shape)
    return found
