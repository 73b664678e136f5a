"""Which parameter holds the trained rows of a model's token embeddings: the whole embedding, or, beside adapters, those of added tokens."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRows:
    """The trained rows of the token embeddings."""

    weight: Tensor
    """The parameter [row, d_model]."""
    first: int
    """Id of the token of its first row. The other rows follow in the order of their tokens."""


def find_token_rows(model: Any) -> TokenRows:
    """The trained rows of a model's token embeddings. With peft's trainable tokens they are a parameter of their own."""
    embedding = model.get_input_embeddings()
    adapter = getattr(embedding, "token_adapter", None)
    if adapter is None:
        return TokenRows(weight=embedding.weight, first=0)
    (name,) = adapter.trainable_tokens_delta
    return TokenRows(weight=adapter.trainable_tokens_delta[name], first=min(adapter.token_indices[name]))
