"""Turn texts in pieces into tokens with roles, and the vocabulary of a text world."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.closed_book.definitions import Piece
from mechocl.errors import MechoclError
from toy_models.task import ROLE, Vocabulary


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The vocabulary of a tokenizer. Its tokens are shown with `⏎` for a line break; a space stays a space."""
    strings = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    known = shown(tuple(s.replace("\n", "⏎") for s in strings))
    return replace(known, of_text=lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"]))


def shown(tokens: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of a text world with these display strings. A model has logits for all of its tokens."""
    return Vocabulary(tokens=tokens, outputs=len(tokens), padded=True)


def encoded(
    examples: Sequence[list[Piece]], tokenizer: Any, *, context: int
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Token ids and roles of texts given in pieces, padded with 0 to the longest.

    A token has the role of the piece in which it ends. But a token that begins in a name (`|>?`) belongs to the name, and
    the last token before an answer is `equals`. Raises MechoclError for a text that is longer than `context` tokens, and
    for a text with a piece that gets no token.
    """
    texts = ["".join(text for text, _ in pieces) for pieces in examples]
    found = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
    longest = max(map(len, found["input_ids"]))
    if longest > context:
        text = next(t for t, ids in zip(texts, found["input_ids"], strict=True) if len(ids) == longest)
        raise MechoclError(
            f"an example has {longest} tokens and the model reads {context}: {text[:80]!r}…; use shorter texts or a "
            "model of longer context"
        )
    tokens = torch.zeros(len(texts), longest, dtype=torch.int64)
    roles = torch.full((len(texts), longest), ROLE["pad"])
    for i, (pieces, ids, offsets) in enumerate(
        zip(examples, found["input_ids"], found["offset_mapping"], strict=True)
    ):
        ends = np.cumsum([len(text) for text, _ in pieces])
        begins = np.searchsorted(ends, [begin for begin, _ in offsets], side="right").clip(max=len(ends) - 1)
        owner = np.searchsorted(ends, [max(end - 1, 0) for _, end in offsets], side="right")
        owner = np.where([pieces[k][1] != "word" for k in begins], begins, owner)
        lost = {role for text, role in pieces if text.strip()} - {"word"}
        lost -= {
            pieces[k][1]
            for k, (start, end) in zip(owner, offsets, strict=True)
            if texts[i][start:end].strip()
        }
        if lost:
            text = next(text for text, role in pieces if role in lost)
            raise MechoclError(
                f"the tokenizer has no tokens for {text.strip()!r} ({min(lost)}) in {''.join(t for t, _ in pieces)!r}"
            )
        own = torch.tensor([ROLE[pieces[k][1]] for k in owner])
        answer = torch.nonzero(own == ROLE["answer"])
        if len(answer):
            own[int(answer[0, 0]) - 1] = ROLE["equals"]
        tokens[i, : len(ids)] = torch.tensor(ids)
        roles[i, : len(ids)] = own
    return tokens, roles


def first_tokens(answers: Sequence[Sequence[str]], tokenizer: Any) -> list[list[int]]:
    """Ids of the first tokens of the answers in each row, as they stand after `A:`."""
    known = list(dict.fromkeys(answer for row in answers for answer in row))
    ids = (
        tokenizer([f" {answer}" for answer in known], add_special_tokens=False)["input_ids"] if known else []
    )
    first = {answer: own[0] for answer, own in zip(known, ids, strict=True) if own}
    return [[first[answer] for answer in row if answer in first] for row in answers]
