"""A transformer taken apart: its forward pass in pieces, as pure functions of weights and activations.

An intervention changes one piece, and everything after it follows. An intervention can begin at any layer and at any
position: what comes before is causal past, and stays as it was. It computes only the rows that it needs, and keeps the
contributions of single heads apart. `tests/models/test_components.py` compares every piece with the model's own hook
points. The model itself is not changed, and no hooks are attached to it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer

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
    """The pieces of a `HookedTransformer`, or of a `TransformerBridge` of a GPT-NeoX.

    Raises MechoclError for a model that is built differently (gated MLPs, other norms or activations, …), and for a
    model to which the caller has added hooks, because the pieces would ignore them.
    """
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if hooked:
        raise MechoclError(
            f"the model has a hook at {hooked[0]}, which this analysis would ignore; call model.reset_hooks()"
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
    )  # a bridge leaves attn_scale at −1
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
