"""Texts in pieces as tokens with roles, and the vocabulary of a text world."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.closed_book.definitions import Piece
from mechocl.errors import MechoclError
from toy_models.task import ROLE, Vocabulary


def vocabulary(tokenizer: Any) -> Vocabulary:
    """The tokens of a tokenizer as they are shown: a space stays a space, a line break is `⏎`."""
    strings = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    return shown(tuple(s.replace("\n", "⏎") for s in strings))


def shown(tokens: tuple[str, ...]) -> Vocabulary:
    """The vocabulary of a text world, of which a model has all logits."""
    return Vocabulary(tokens=tokens, outputs=len(tokens), padded=True)


def encoded(
    examples: Sequence[list[Piece]], tokenizer: Any, *, context: int
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Token ids and roles of texts given in pieces, padded with 0 to the longest.

    A token has the role of the piece in which it ends, but one that begins in a name (`|>?`) belongs to the name; the
    last one before an answer is `equals`. Raises MechoclError
    for a text that is longer than `context`, or of which a piece vanishes.
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
        of = np.searchsorted(ends, [max(end - 1, 0) for _, end in offsets], side="right")
        of = np.where([pieces[k][1] != "word" for k in begins], begins, of)
        lost = {role for text, role in pieces if text.strip()} - {"word"}
        lost -= {
            pieces[k][1] for k, (start, end) in zip(of, offsets, strict=True) if texts[i][start:end].strip()
        }
        if lost:
            text = next(text for text, role in pieces if role in lost)
            raise MechoclError(
                f"the tokenizer makes nothing of {text.strip()!r} ({min(lost)}) in {''.join(t for t, _ in pieces)!r}"
            )
        own = torch.tensor([ROLE[pieces[k][1]] for k in of])
        answer = torch.nonzero(own == ROLE["answer"])
        if len(answer):
            own[int(answer[0, 0]) - 1] = ROLE["equals"]
        tokens[i, : len(ids)] = torch.tensor(ids)
        roles[i, : len(ids)] = own
    return tokens, roles


def first_tokens(answers: Sequence[Sequence[str]], tokenizer: Any) -> list[list[int]]:
    """First token of each answer, as it stands after `A:`."""
    known = list(dict.fromkeys(one for row in answers for one in row))
    ids = tokenizer([f" {one}" for one in known], add_special_tokens=False)["input_ids"] if known else []
    first = {one: own[0] for one, own in zip(known, ids, strict=True) if own}
    return [[first[one] for one in row if one in first] for row in answers]
