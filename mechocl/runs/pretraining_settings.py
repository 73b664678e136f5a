"""The small model that reads about an invented world."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainingConfig:
    """A small GPT-NeoX and its training."""

    n_layers: int = 4
    """Transformer blocks."""
    d_model: int = 128
    """Width of the residual stream."""
    n_heads: int = 4
    """Attention heads per block."""
    vocabulary: int = 4096
    """Tokens of the byte-level BPE tokenizer."""
    context: int = 128
    """Longest text in tokens."""
    epochs: int = 5
    """Passes over the corpus."""
    batch_tokens: int = 1024
    """Tokens of one update, in texts of like length."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; falls to 0 in the last fifth."""

    def __post_init__(self) -> None:
        for name in ("n_layers", "d_model", "n_heads", "context", "epochs", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.d_model % self.n_heads or self.d_model // self.n_heads % 8:
            raise ValueError(
                f"d_model {self.d_model} does not divide into {self.n_heads} heads of a multiple of 8, a quarter of "
                "which turns with the position"
            )
        if self.vocabulary < 257:
            raise ValueError(
                f"vocabulary is {self.vocabulary}; it must be at least 257, for every byte and the end"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
