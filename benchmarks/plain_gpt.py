"""The other side of the training benchmark: a GPT as one would write it from PyTorch's own modules.

It shares no code with `toy_models`; `copy_weights` gives it a `HookedTransformer`'s weights.
"""

from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from toy_models.architectures import Architecture


class PlainGPT(nn.Module):
    """Decoder-only transformer; `forward` maps tokens (batch, pos) to logits (batch, pos, d_vocab_out)."""

    def __init__(self, a: Architecture, *, d_vocab: int, d_vocab_out: int, n_ctx: int) -> None:
        super().__init__()
        if a.normalization != "LN" or a.d_mlp == 0:
            raise ValueError("the plain model has layer norms and MLPs; choose a recipe that has them too")
        self.d_vocab_out = d_vocab_out
        self.tied = a.tied_embeddings
        self.embed = nn.Embedding(d_vocab, a.d_model)
        self.positions = nn.Embedding(n_ctx, a.d_model) if a.positions == "learned" else None
        self.blocks = nn.ModuleList(Block(a, n_ctx) for _ in range(a.n_layers))
        self.ln_final = nn.LayerNorm(a.d_model, eps=a.layer_norm_eps)
        if self.tied:
            self.unembed_bias = nn.Parameter(torch.zeros(d_vocab_out))
        else:
            self.unembed = nn.Linear(a.d_model, d_vocab_out)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        x = self.ln_final(x)
        if self.tied:
            return F.linear(x, self.embed.weight[: self.d_vocab_out], self.unembed_bias)
        logits: Tensor = self.unembed(x)
        return logits


class Block(nn.Module):
    def __init__(self, a: Architecture, n_ctx: int) -> None:
        super().__init__()
        self.parallel = a.parallel_attn_mlp
        self.ln1 = nn.LayerNorm(a.d_model, eps=a.layer_norm_eps)
        self.ln2 = nn.LayerNorm(a.d_model, eps=a.layer_norm_eps)
        self.attention = Attention(a, n_ctx)
        self.mlp = nn.Sequential(
            nn.Linear(a.d_model, a.d_mlp),
            nn.GELU() if a.activation == "gelu" else nn.ReLU(),
            nn.Linear(a.d_mlp, a.d_model),
        )

    def forward(self, x: Tensor) -> Tensor:
        attended = x + self.attention(self.ln1(x))
        out: Tensor = attended + self.mlp(self.ln2(x if self.parallel else attended))
        return out


class Attention(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, a: Architecture, n_ctx: int) -> None:
        super().__init__()
        self.n_heads = a.n_heads
        self.qkv = nn.Linear(a.d_model, 3 * a.d_model)
        self.out = nn.Linear(a.d_model, a.d_model)
        self.rotary_dim = a.rotary_dim if a.positions == "rotary" else 0
        if self.rotary_dim:
            frequencies = 10000 ** -(torch.arange(0, self.rotary_dim, 2) / self.rotary_dim)
            angles = torch.arange(n_ctx)[:, None] * torch.cat([frequencies, frequencies])
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())

    def forward(self, x: Tensor) -> Tensor:
        batch, pos, d_model = x.shape
        q, k, v = (
            part.view(batch, pos, self.n_heads, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )  # (batch, head, pos, d_head)
        if self.rotary_dim:
            q, k = self._rotated(q), self._rotated(k)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.out(z.transpose(1, 2).reshape(batch, pos, d_model))
        return out

    def _rotated(self, x: Tensor) -> Tensor:
        cos, sin = (table[: x.shape[-2]].to(x.dtype) for table in (self.cos, self.sin))
        turned, kept = x[..., : self.rotary_dim], x[..., self.rotary_dim :]
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, kept], dim=-1)


@torch.no_grad()
def copy_weights(plain: PlainGPT, model: Any) -> None:
    """Give `plain` the weights of a `HookedTransformer` of the same shape."""
    plain.embed.weight.copy_(model.embed.W_E)
    if plain.positions is not None:
        plain.positions.weight.copy_(model.pos_embed.W_pos)
    for block, theirs in zip(plain.blocks, model.blocks, strict=True):
        attn, mlp = theirs.attn, theirs.mlp
        for mine, norm in ((block.ln1, theirs.ln1), (block.ln2, theirs.ln2)):
            mine.weight.copy_(norm.w)
            mine.bias.copy_(norm.b)
        weights = (attn.W_Q, attn.W_K, attn.W_V)
        block.attention.qkv.weight.copy_(
            torch.cat([rearrange(w, "head d_model d_head -> (head d_head) d_model") for w in weights])
        )
        block.attention.qkv.bias.copy_(torch.cat([b.flatten() for b in (attn.b_Q, attn.b_K, attn.b_V)]))
        block.attention.out.weight.copy_(rearrange(attn.W_O, "head d_head d_model -> d_model (head d_head)"))
        block.attention.out.bias.copy_(attn.b_O)
        block.mlp[0].weight.copy_(mlp.W_in.T)
        block.mlp[0].bias.copy_(mlp.b_in)
        block.mlp[2].weight.copy_(mlp.W_out.T)
        block.mlp[2].bias.copy_(mlp.b_out)
    plain.ln_final.weight.copy_(model.ln_final.w)
    plain.ln_final.bias.copy_(model.ln_final.b)
    if plain.tied:
        plain.unembed_bias.copy_(model.unembed.b_U)
    else:
        plain.unembed.weight.copy_(model.unembed.W_U.T)
        plain.unembed.bias.copy_(model.unembed.b_U)
