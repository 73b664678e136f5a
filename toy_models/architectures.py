"""Named `HookedTransformer` configurations, initialised without touching global randomness."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from torch import Tensor

from toy_models.randomness import generator

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Shape and initialisation of a decoder-only transformer."""

    n_layers: int
    """Transformer blocks."""
    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Attention heads per block; d_head is d_model / n_heads."""
    d_mlp: int
    """Hidden width of the MLPs; 0 for attention-only blocks."""
    activation: Literal["gelu", "relu"] = "gelu"
    """MLP activation function."""
    positions: Literal["rotary", "learned", "none"] = "rotary"
    """Positional embedding. With `none`, only the causal mask distinguishes positions."""
    rotary_fraction: float = 0.25
    """Share of each head's dimensions that are rotated (an even number of them)."""
    parallel_attn_mlp: bool = True
    """Whether attention and MLP read the same residual stream and add to it together, as in GPT-NeoX."""
    normalization: Literal["LN", "none"] = "LN"
    """Layer norm before each sublayer and the unembedding, or none."""
    layer_norm_eps: float = 1e-5
    """Number that is added to the variance in layer norms."""
    tied_embeddings: bool = False
    """Whether the unembedding is the transpose of the token embedding, also during training."""
    init_std: float = 0.02
    """Standard deviation of the initial weight matrices (GPT-NeoX: 0.02). Biases start at 0."""
    embedding_std: float | None = None
    """Standard deviation of the initial token embeddings; None means `init_std`. If it is very small, a token that was
    never trained on is blank, so what is later learned about it goes into its embedding."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("layer_norm_eps", "init_std"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.embedding_std is not None and not self.embedding_std > 0:
            raise ValueError(f"embedding_std is {self.embedding_std}; it must be above 0")
        if self.d_mlp < 0:
            raise ValueError(f"d_mlp is {self.d_mlp}; use 0 for attention-only blocks, or a positive width")
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not divisible by n_heads {self.n_heads}")
        if self.positions == "rotary" and not (
            2 <= self.rotary_dim <= self.d_head and self.rotary_dim % 2 == 0
        ):
            raise ValueError(
                f"rotary_fraction {self.rotary_fraction} of d_head {self.d_head} rotates {self.rotary_dim} "
                "dimensions; that must be an even number above 0, and all of them at most"
            )

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def rotary_dim(self) -> int:
        return int(self.d_head * self.rotary_fraction)


ARCHITECTURES: Final[dict[str, Architecture]] = {
    "nano": Architecture(n_layers=2, d_model=32, n_heads=2, d_mlp=128, init_std=0.1),
    "small": Architecture(n_layers=2, d_model=64, n_heads=4, d_mlp=256, init_std=0.1),
    # EleutherAI/pythia-70m: 18.9 M non-embedding parameters, rotary on a quarter of each head
    "pythia-70m": Architecture(n_layers=6, d_model=512, n_heads=8, d_mlp=2048),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A named architecture, with any of its fields changed."""

    architecture: str
    """One of the names in `ARCHITECTURES`: nano, small, pythia-70m."""
    n_layers: int | None = None
    """Change the number of blocks."""
    d_model: int | None = None
    """Change the width."""
    n_heads: int | None = None
    """Change the number of heads."""
    d_mlp: int | None = None
    """Change the MLPs' hidden width; 0 for attention-only blocks."""
    activation: Literal["gelu", "relu"] | None = None
    """Change the MLP activation function."""
    positions: Literal["rotary", "learned", "none"] | None = None
    """Change the positional embedding."""
    rotary_fraction: float | None = None
    """Change the rotated share of each head."""
    parallel_attn_mlp: bool | None = None
    """Change the wiring of the blocks."""
    normalization: Literal["LN", "none"] | None = None
    """Change the normalisation."""
    layer_norm_eps: float | None = None
    """Change the layer norms' epsilon."""
    tied_embeddings: bool | None = None
    """Change whether the unembedding is tied to the embedding."""
    init_std: float | None = None
    """Change the standard deviation of the initial weights."""
    embedding_std: float | None = None
    """Change the standard deviation of the initial token embeddings."""

    def __post_init__(self) -> None:
        self.resolve()

    def resolve(self) -> Architecture:
        """The architecture with the changes made. Raises ValueError for an unknown name or a bad shape."""
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"unknown architecture {self.architecture!r}; known: {', '.join(ARCHITECTURES)}")
        changes = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name != "architecture" and getattr(self, f.name) is not None
        }
        return dataclasses.replace(ARCHITECTURES[self.architecture], **changes)


@contextlib.contextmanager
def hooked_transformer_allowed() -> Iterator[None]:
    """Silence the deprecation warning of `HookedTransformer`, which exists in all allowed versions (<4) of its package."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated")
        yield


def build(
    architecture: Architecture, *, d_vocab: int, d_vocab_out: int, n_ctx: int, seed: int
) -> "HookedTransformer":
    """A freshly initialised model on the CPU in float32, with logits for the first `d_vocab_out` ids.

    Weight matrices are normal with standard deviation `init_std`, token embeddings with `embedding_std`. Biases are 0
    and layer norm weights 1. The weights depend on the arguments alone. With `positions="none"` the positional embedding,
    which TransformerLens requires, is zero and frozen.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    a = architecture
    config = HookedTransformerConfig(
        n_layers=a.n_layers,
        d_model=a.d_model,
        n_heads=a.n_heads,
        d_head=a.d_head,
        d_mlp=a.d_mlp or None,
        attn_only=a.d_mlp == 0,
        act_fn=a.activation,
        d_vocab=d_vocab,
        d_vocab_out=d_vocab_out,
        tie_word_embeddings=a.tied_embeddings,
        n_ctx=n_ctx,
        positional_embedding_type="rotary" if a.positions == "rotary" else "standard",
        rotary_dim=a.rotary_dim if a.positions == "rotary" else None,
        parallel_attn_mlp=a.parallel_attn_mlp and a.d_mlp > 0,
        normalization_type="LN" if a.normalization == "LN" else None,
        eps=a.layer_norm_eps,
        init_weights=False,
        device="cpu",
    )
    with hooked_transformer_allowed():
        model = HookedTransformer(config)
    draws = generator(seed, "initialisation")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".W_" in name or name.startswith("W_"):
                std = a.embedding_std if name == "embed.W_E" and a.embedding_std is not None else a.init_std
                parameter.normal_(0.0, std, generator=draws)
    if a.positions == "none":
        model.pos_embed.W_pos.requires_grad_(False).zero_()
    if a.tied_embeddings:
        model.unembed.W_U.requires_grad_(False)
        tie(model)
    return model


@torch.no_grad()
def tie(model: "HookedTransformer") -> None:
    """Set the unembedding to the transpose of the embedding (TransformerLens keeps two tensors)."""
    model.unembed.W_U.copy_(model.embed.W_E[: model.cfg.d_vocab_out].T)


@torch.no_grad()
def fill_weights(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters, which must have the same names."""
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])
