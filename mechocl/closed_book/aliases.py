"""Random names for entities and define tags, of equal length in tokens."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from mechocl.errors import MechoclError

_TRIES: Final = 60


def random_names(
    n: int, *, letters: int, tokenizer: Any, taken: str, draws: np.random.Generator, what: str
) -> list[str]:
    """`n` different strings `<|letters|>` (arXiv 2310.15047) that a tokenizer cuts into equally many tokens.

    Args:
        n: how many.
        letters: number of random lower-case letters in each.
        tokenizer: a fast Hugging Face tokenizer.
        taken: the world's own text. No name has letters that are a word of this text.
        draws: generator of random numbers.
        what: "alias" or "tag", for messages.

    Only names of the most common length are kept, where the lengths at the start of a text and after a space both
    count. Raises MechoclError when there are too few names, and for a tokenizer that turns a name into no token or only
    into its unknown token.
    """
    words = set(re.findall(r"\w+", taken.lower())) | set(taken.split())
    found: dict[str, None] = {}
    length: tuple[int, int] | None = None
    for _ in range(_TRIES):
        drawn = draws.choice(list(string.ascii_lowercase), (max(64, 2 * n), letters))
        names = list(dict.fromkeys("<|" + "".join(row) + "|>" for row in drawn))
        names = [name for name in names if name[2:-2] not in words and name not in words]
        lengths = _lengths(names, tokenizer, what)
        if length is None and lengths:
            length = Counter(lengths).most_common(1)[0][0]
        found |= dict.fromkeys(name for name, own in zip(names, lengths, strict=True) if own == length)
        if len(found) >= n:
            return list(found)[:n]
    raise MechoclError(
        f"only {len(found)} of {n} names of {letters} letters are free: the others collide with words of the text or "
        f"differ in tokens; use more letters for each {what}"
    )


def random_tokens(n: int, *, letters: int, taken: str, draws: np.random.Generator, what: str) -> list[str]:
    """`n` different strings `<|letters|>`, each of which is to become one token (`add_names`). The arguments are those of `random_names`.

    Raises MechoclError when there are too few.
    """
    words = set(re.findall(r"\w+", taken.lower())) | set(taken.split())
    found: dict[str, None] = {}
    for _ in range(_TRIES):
        for row in draws.choice(list(string.ascii_lowercase), (max(64, 2 * n), letters)):
            own = "".join(row)
            if own not in words and f"<|{own}|>" not in words:
                found[f"<|{own}|>"] = None
        if len(found) >= n:
            return list(found)[:n]
    raise MechoclError(
        f"only {len(found)} of {n} names of {letters} letters are free: the others collide with words of the text; use more letters for each {what}"
    )


def add_names(tokenizer: Any, names: Sequence[str]) -> None:
    """Make each of these names one token of a tokenizer, in place. The token takes in what spaces and line breaks are before it. A name of letters
    alone is a word: it is a token only where no letter stands beside it, and takes in nothing.

    Raises MechoclError for a tokenizer that splits such a name all the same.
    """
    from tokenizers import AddedToken

    tokenizer.add_tokens(
        [
            AddedToken(name, lstrip=not word, normalized=False, single_word=word)
            for name, word in [(name, name.isalnum()) for name in names]
        ]
    )
    if not names:
        return
    encoded = tokenizer([f" {name}" for name in names], add_special_tokens=False)["input_ids"]
    for name, ids in zip(names, encoded, strict=True):
        if len(ids) != 1:
            raise MechoclError(
                f"the tokenizer makes {len(ids)} tokens of the added token {name!r}, where one is asked for; use another tokenizer, or "
                "task.added_tokens=false"
            )


def unknown_words(tokenizer: Any, texts: Sequence[str]) -> list[str]:
    """The words and signs of these texts that a tokenizer turns into its unknown token, in order, each once."""
    words = list(dict.fromkeys(re.findall(r"\w+|[^\w\s]", " ".join(texts))))
    if tokenizer.unk_token_id is None or not words:
        return []
    encoded = tokenizer([f" {word}" for word in words], add_special_tokens=False)["input_ids"]
    return [word for word, ids in zip(words, encoded, strict=True) if tokenizer.unk_token_id in ids]


def _lengths(names: list[str], tokenizer: Any, what: str) -> list[tuple[int, int]]:
    found = []
    for lead in ("", " "):
        ids = tokenizer([lead + name for name in names], add_special_tokens=False)["input_ids"]
        for name, own in zip(names, ids, strict=True):
            if not own or all(i == tokenizer.unk_token_id for i in own):
                raise MechoclError(
                    f"the tokenizer has no tokens for the {what} {name!r}; use a tokenizer that knows letters"
                )
        found.append([len(own) for own in ids])
    return list(zip(*found, strict=True))
