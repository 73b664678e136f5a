"""What is chosen for a small GPT-NeoX that is pretrained. Reading it imports no heavy package."""

from dataclasses import dataclass
from typing import Final, Literal

from mechocl.errors import MechoclError

_VOCABULARY: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """A small GPT-NeoX and its training."""

    n_layers: int = 4
    """Number of transformer blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Number of attention heads in a block."""
    tokenizer: Literal["bpe", "words"] = "bpe"
    """What a token is: a part of a word, as in Pythia (byte-level BPE), or a whole word of the corpus."""
    vocabulary: int = _VOCABULARY
    """Number of tokens of the byte-level BPE tokenizer; tokens that are words are as many as there are words."""
    tied_embeddings: bool = False
    """Whether the unembedding is the embedding."""
    shared_layers: bool = False
    """Whether the blocks share one set of weights (ALBERT, arXiv 1909.11942)."""
    context: int = 128
    """Length of the longest text, in tokens."""
    epochs: int = 5
    """Number of passes over the corpus."""
    batch_tokens: int = 1024
    """Number of tokens of one update. Its texts are of like length."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW, which falls to 0 in the last fifth of the steps."""

    @property
    def small(self) -> bool:
        """Whether one thread computes the model as fast as several do."""
        return self.d_model <= 64

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "context", "epochs", "batch_tokens"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.d_model % self.n_heads or self.d_model // self.n_heads % 8:
            raise MechoclError(
                f"d_model {self.d_model} does not divide into {self.n_heads} heads of a multiple of 8, a quarter of "
                "which turns with the position"
            )
        if self.vocabulary < 257:
            raise MechoclError(
                f"vocabulary is {self.vocabulary}; it must be at least 257, for every byte and the end"
            )
        if self.tokenizer == "words" and self.vocabulary != _VOCABULARY:
            raise MechoclError(
                f"vocabulary is {self.vocabulary}, and tokens that are words are as many as there are words; leave vocabulary out"
            )
        if not self.learning_rate > 0:
            raise MechoclError(f"learning_rate is {self.learning_rate}; it must be above 0")


MINIATURE: Final = PretrainingConfig(
    n_layers=2,
    d_model=64,
    tokenizer="words",
    tied_embeddings=True,
    context=64,
    epochs=4,
    batch_tokens=2500,
    learning_rate=2e-3,
)
"""A model of 151 k weights (and 64 for each token that is added) that answers every question about the miniature's people."""
