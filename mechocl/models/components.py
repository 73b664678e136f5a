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
from mechocl.models import seam
from mechocl.models.seam import Transformer, device_of
from toy_models.comparing import Passed, acts_beyond_rows

_ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
}


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer norm with its scale and shift; the identity in a model without layer norms."""

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
    """Whether attention and MLP of a block read the same residual stream; then there is no `resid_mid`."""
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
        """Logits of the given token ids (None: of all) from the residual stream after the last layer."""
        W, b = (self.W_U, self.b_U) if ids is None else (self.W_U[:, ids], self.b_U[ids])
        return self.ln_final(x) @ W + b


def take_apart(model: Transformer) -> Components:
    """The pieces of a `HookedTransformer`, or of a `TransformerBridge` of a GPT-NeoX or a GPT-2.

    Folded layer norms are layer norms of scale 1 and shift 0.

    The pieces and the model compute a few rows of random tokens, once per model. Raises MechoclError, which names the first site at which
    they differ, for a model that is built differently (gated MLPs, other norms, scaled rotary embeddings, …); for a model
    in half precision; and for a model to which the caller has added hooks, because the pieces would ignore them.
    """
    from mechocl.models.faithful import find_difference  # which computes with the pieces that are made here

    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if hooked:
        raise MechoclError(
            f"the model has a hook at {hooked[0]}, which this analysis would ignore; call model.reset_hooks()"
        )
    seam.refuse_half_precision(model)
    m: Any = model
    c = m.cfg
    beyond = acts_beyond_rows(c)
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
    "it covers causal attention, rotary or standard positions, layer norm or none, and MLPs of "
    f"{', '.join(_ACTIVATIONS)}"
)


def _pieces(model: Any) -> Components:
    c = model.cfg
    rotary_dim, rotary_base = _rotary(model)
    return Components(
        blocks=tuple(_block(model, layer) for layer in range(c.n_layers)),
        W_E=model.W_E.detach(),
        W_pos=_positions(model).detach() if c.positional_embedding_type == "standard" else None,
        ln_final=_norm(model, model, "ln_final"),
        W_U=model.W_U.detach(),
        b_U=model.b_U.detach(),
        parallel=c.parallel_attn_mlp,
        attn_only=c.attn_only,
        activation=F.relu if c.attn_only else _ACTIVATIONS[c.act_fn],
        rotary_dim=rotary_dim,
        rotary_base=rotary_base,
    )


def _positions(model: Any) -> Tensor:
    """Position embeddings; a bridge does not have them by TransformerLens's name."""
    found: Tensor = model.pos_embed.W_pos if hasattr(model.pos_embed, "W_pos") else model.pos_embed.weight
    return found


def _rotary(model: Any) -> tuple[int, float]:
    c = model.cfg
    if c.positional_embedding_type != "rotary":
        return 0, 0.0
    if c.rotary_dim is not None:
        return int(c.rotary_dim), float(c.rotary_base)
    rope = model.original_model.config.rope_parameters
    return int(c.d_head * rope.get("partial_rotary_factor", 1.0)), float(rope["rope_theta"])


def _norm(model: Any, owner: Any, name: str) -> Norm:
    """A norm that has no scale (because it is folded) has scale 1, and one without a shift has shift 0."""
    c = model.cfg
    if c.normalization_type is None:
        return Norm(None, None, c.eps)
    held = dict(getattr(owner, name).named_parameters())
    by_name = {key.rpartition(".")[2]: value for key, value in held.items()}
    scale, shift = (by_name.get(a, by_name.get(b)) for a, b in (("w", "weight"), ("b", "bias")))
    one = torch.ones(c.d_model, device=device_of(model))
    w = one if scale is None else scale.detach()
    return Norm(w, torch.zeros_like(one) if shift is None else shift.detach(), c.eps)


def _block(model: Any, layer: int) -> Block:
    c = model.cfg
    names = ["W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O"]
    if not c.attn_only:
        names += ["W_in", "b_in", "W_out", "b_out"]
    block = model.blocks[layer]
    return Block(
        ln1=_norm(model, block, "ln1"),
        ln2=Norm(None, None, c.eps) if c.attn_only else _norm(model, block, "ln2"),
        **{name: getattr(model, name)[layer].detach() for name in names},
    )
