"""Fold layer norms into the weights that read from them, and centre weights. The model computes the same function.

TransformerLens does the same with three copies of all weights in memory. Here one tensor is replaced at a time.
"""

from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def fold_layer_norms(weights: dict[str, Tensor], *, n_layers: int, centring: bool) -> None:
    """Make scale and shift of every norm part of the weights that read its output. Entries of `weights` are replaced.

    Args:
        weights: tensors by `HookedTransformer`'s names; the norms' own entries are removed.
        n_layers: number of blocks.
        centring: whether the norms subtract the mean (LN does, RMS does not). Then the part of the weights that
            reads the mean is removed, too.
    """

    def fold(norm: str, readers: dict[str, str | None]) -> None:
        scale, shift = weights.pop(f"{norm}.w"), weights.pop(f"{norm}.b", None)
        for name, bias in readers.items():
            W = weights[name]  # [..., d_model, what it reads]
            if shift is not None and bias is not None:
                weights[bias] = weights[bias] + (W * shift[:, None]).sum(-2)
            W = W * scale[:, None]
            weights[name] = W - W.mean(-2, keepdim=True) if centring else W

    for layer in range(n_layers):
        block = f"blocks.{layer}"
        # weights of keys and values that several heads share have names with an underscore
        shared = "_" if f"{block}.attn._W_K" in weights else ""
        names = ("Q", f"{shared}K", f"{shared}V")
        fold(f"{block}.ln1", {_named(block, "W", x): _named(block, "b", x) for x in names})
        readers: dict[str, str | None] = {f"{block}.mlp.W_in": f"{block}.mlp.b_in"}
        if f"{block}.mlp.W_gate" in weights:
            readers[f"{block}.mlp.W_gate"] = None
        fold(f"{block}.ln2", readers)
    fold("ln_final", {"unembed.W_U": "unembed.b_U"})


def _named(block: str, kind: str, x: str) -> str:
    return f"{block}.attn.{'_' if x.startswith('_') else ''}{kind}_{x.removeprefix('_')}"


@torch.no_grad()
def centre(weights: dict[str, Tensor]) -> None:
    """Centre weights, in place of the entries of `weights`.

    Weights that write to the residual stream get mean 0 over its dimensions, and the unembedding over the vocabulary.
    """
    for name, weight in weights.items():
        if name.endswith(_WRITERS):
            weights[name] = weight - weight.mean(-1, keepdim=True)


_WRITERS = (
    "embed.W_E",
    "pos_embed.W_pos",
    "attn.W_O",
    "attn.b_O",
    "mlp.W_out",
    "mlp.b_out",
    "unembed.W_U",
    "unembed.b_U",
)


def folded(shape: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `HookedTransformerConfig` for folded weights, whose norms have no scale and no shift."""
    return shape | {"normalization_type": f"{shape['normalization_type']}Pre"}
