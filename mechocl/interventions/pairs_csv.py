"""The user's own pairs, from a CSV file."""

import csv
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.errors import MechoclError, MechoclWarning
from mechocl.interventions.pairs import Pairs, given_pairs
from toy_models.task import Task, Vocabulary

Follow = Callable[[str, str], list[int]]
"""The tokens of a word that follows a text."""


def read_pairs(task: Task, path: Path) -> Pairs:
    """The pairs of `pairs_of_vocabulary`, of tokens of a task."""
    return pairs_of_vocabulary(task.vocabulary, path, n_ctx=task.n_ctx)


def pairs_of_tokenizer(tokenizer: Any, path: Path) -> Pairs:
    """The same, of plain texts for any tokenizer of Hugging Face.

    Examples begin with the tokenizer's begin token where the tokenizer puts one before texts. Nothing is padded. A position is called by
    its number and its token, or `*` where the examples differ.
    """
    first = tokenizer("a").input_ids[:1]
    begin = first if first == [tokenizer.bos_token_id] else []

    def encode(text: str) -> list[int]:
        found: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        return found

    def follow(text: str, word: str) -> list[int]:
        """The tokens of a word behind a text. Raises ValueError where they begin with a space alone, which is no answer."""
        space = "" if text != text.rstrip() else " "
        before, whole = encode(text), encode(f"{text}{space}{word}")
        goes_on = whole[: len(before)] == before  # not where the tokenizer joins the text's end and the word
        found = whole[len(before) :] if goes_on else encode(f"{space}{word}")
        first = tokenizer.convert_ids_to_tokens(found[:1])
        if not "".join(first).strip(" \t\n▁ĠĊ"):
            raise ValueError(
                f"the tokenizer makes the space before {word!r} a token of its own; end the texts of the file with a space"
            )
        return found

    vocabulary = Vocabulary(tokens=(), outputs=len(tokenizer), of_text=encode)
    pairs = pairs_of_vocabulary(vocabulary, path, n_ctx=0, begin=begin, follow=follow)
    both = torch.cat([pairs.clean, pairs.corrupted])
    shown = [
        tokenizer.decode([column[0]]).strip() if len(set(column)) == 1 else "*" for column in both.T.tolist()
    ]
    return replace(pairs, labels=tuple(f"{i} {token}" for i, token in enumerate(shown)))


def pairs_of_vocabulary(
    vocabulary: Vocabulary,
    path: Path,
    *,
    n_ctx: int,
    begin: Sequence[int] = (),
    follow: Follow | None = None,
) -> Pairs:
    """Pairs from a CSV with columns `clean`, `corrupted`, `target` and perhaps `foil`; spaces separate the tokens.

    In a text world the cells are plain texts, with `\\n` for a line break; only the first token of target and foil
    counts.

    Raises MechoclError with the file and the line when the file or a column is missing, a line has more cells than the
    header, a token is not in the vocabulary, lengths differ, an example is longer than the task's (`n_ctx`), the clean and the
    corrupted example are the same, or target and foil begin with the same token. Warns of lines that differ at more positions than the
    others, which may have a typo. Each example begins with the tokens `begin`. `follow` says what tokens an answer has behind its clean text; by
    default those that it has behind a space.
    """
    lines, columns = _lines(path)
    length = max(1, len(_ids(vocabulary, path, *lines[0], "clean", follow)))
    if vocabulary.of_text is None and length > n_ctx:
        raise MechoclError(
            f"{path}, line {lines[0][0]}: clean has {length} tokens, and the run's examples have at most {n_ctx}; shorten the examples"
        )
    given = {"clean": length, "corrupted": length, "target": 1} | ({"foil": 1} if "foil" in columns else {})
    found = {column: _encoded(vocabulary, path, lines, column, n, follow) for column, n in given.items()}
    _refuse_equal(path, lines, found, "clean", "corrupted", "such a pair exchanges nothing")
    _warn_of_typos(path, lines, found["clean"] != found["corrupted"])
    before = torch.tensor([list(begin)] * len(lines), dtype=torch.long)
    clean, corrupted = (torch.cat([before, found[name]], 1) for name in ("clean", "corrupted"))
    if "foil" in found:
        why = "their logit difference is always 0; only the first token of each counts"
        _refuse_equal(path, lines, found, "target", "foil", why)
    return given_pairs(
        clean,
        corrupted,
        target=found["target"][:, 0],
        foil=found["foil"][:, 0] if "foil" in found else None,
        mask=torch.ones_like(clean, dtype=torch.bool),  # what is read from cells is not padded
        name=path.name,
    )


def _lines(path: Path) -> tuple[list[tuple[int, dict[str, str]]], Sequence[str]]:
    """The file's lines, with their numbers, and its columns."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lines = [(reader.line_num, cells) for cells in reader]
            columns = reader.fieldnames or ()
    except FileNotFoundError:
        raise MechoclError(f"{path} does not exist; give a file of pairs that exists") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MechoclError(
            f"{path} cannot be read as CSV: {error}; write it as a text file in UTF-8"
        ) from None
    missing = [column for column in ("clean", "corrupted", "target") if column not in columns]
    if missing:
        raise MechoclError(
            f"{path} has no column {missing[0]!r}; it needs clean, corrupted, target (and foil)"
        )
    if not lines:
        raise MechoclError(f"{path} has no pairs")
    for number, cells in lines:
        if extra := cells.get(None):
            raise MechoclError(
                f"{path}, line {number}: it has more cells than the header has columns, the first one {extra[0]!r}; put a cell that "
                "has a comma between quotation marks"
            )
    return lines, columns


def _refuse_equal(
    path: Path,
    lines: list[tuple[int, dict[str, str]]],
    found: Mapping[str, Tensor],
    one: str,
    other: str,
    why: str,
) -> None:
    """Raises MechoclError for the first line in which two columns have the same tokens."""
    same = (found[one] == found[other]).all(1).nonzero()
    if len(same):
        raise MechoclError(f"{path}, line {lines[int(same[0])][0]}: {one} and {other} are the same; {why}")


def _warn_of_typos(path: Path, lines: list[tuple[int, dict[str, str]]], differs: Tensor) -> None:
    """Name lines, if they are at most a tenth of all, whose examples differ at more positions than those of all others."""
    counts = differs.sum(1)
    usual = int(counts.median())
    odd = {number: more for (number, _), more in zip(lines, counts.tolist(), strict=True) if more > usual}
    if odd and 10 * len(odd) <= len(lines):
        named = ", ".join(f"line {number} at {more}" for number, more in odd.items())
        warnings.warn(
            f"{path}: clean and corrupted differ at more tokens in some lines than in all others ({usual} or fewer): {named}; a word may be misspelt",
            MechoclWarning,
            stacklevel=2,
        )


def _encoded(
    vocabulary: Vocabulary,
    path: Path,
    lines: list[tuple[int, dict[str, str]]],
    column: str,
    length: int,
    follow: Follow | None,
) -> Int[Tensor, "pair pos"]:
    """Ids of a column's tokens, `length` in each line."""
    rows = []
    for number, cells in lines:
        ids = _ids(vocabulary, path, number, cells, column, follow)
        if len(ids) != length:
            raise MechoclError(
                f"{path}, line {number}: {column} has {len(ids)} tokens and needs {length}; all examples of a file "
                "are of one length, target and foil are single tokens: use names of as many tokens, or a file for each length"
            )
        rows.append(ids)
    return torch.tensor(rows)


def _ids(
    vocabulary: Vocabulary, path: Path, number: int, cells: dict[str, str], column: str, follow: Follow | None
) -> list[int]:
    """Token ids of one cell; of an answer in a text world the first one."""
    cell = cells[column] or ""
    try:
        if vocabulary.of_text is None:
            return vocabulary.encode(cell)
        if column not in ("target", "foil"):
            return vocabulary.encode(cell.replace("\\n", "\n"))
        if not cell.strip():
            return []
        if follow is None:  # an answer stands after a space
            return vocabulary.encode(f" {cell.strip()}")[:1]
        return follow(cells["clean"].replace("\\n", "\n"), cell.strip())[:1]
    except ValueError as error:
        raise MechoclError(f"{path}, line {number}: {error}") from None
