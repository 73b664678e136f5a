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
    epochs: int = 4
    """Passes over the corpus."""
    batch_size: int = 64
    """Texts of one update."""
    learning_rate: float = 3e-3
    """Peak learning rate of AdamW; falls to 0 as a cosine."""
