"""A task as every later step sees it: tokens, and a table that says what each row of tokens is."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

ROLES: Final = ("pad", "tag", "alias", "separator", "entity", "list", "equals", "answer", "word")
"""What a token does in its example; `Task.roles` holds indices into this tuple.

`equals` is the token after which the answer is read: `=`, in a text the colon of `A:`. `word`: any other word of a
text."""

ROLE: Final = {name: i for i, name in enumerate(ROLES)}

COLUMNS: Final = (
    "kind", "alias", "entity", "defined_entity", "tag", "subset", "stage", "order", "split", "answer",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token strings and the id ranges that analyses ask about."""

    tokens: tuple[str, ...]
    """Display string of each token id."""
    outputs: int
    """The model has logits for the ids below this one: all, or all but the aliases' names."""
    integers: tuple[int, int] = (0, 0)
    """Half-open range of the ids of the integers 0, 1, …; empty in a text world."""
    true: int = -1
    """Id of the answer *true*; −1 in a text world."""
    false: int = -1
    """Id of the answer *false*; −1 in a text world."""
    answers: tuple[int, ...] = ()
    """In a text world: the first token of each answer to the question that is looked at."""
    encode: Callable[[str], list[int]] | None = None
    """In a text world: text → token ids."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def is_text(self) -> bool:
        """Whether questions are answered in words, and not by true or false."""
        return self.true < 0

    @property
    def entity_ids(self) -> Int[Tensor, " entity"]:
        """Token id of each value of the table's `entity`: the integers, or the answers of a text world."""
        return torch.tensor(self.answers) if self.is_text else torch.arange(*self.integers)

    def decode(self, ids: Sequence[int]) -> list[str]:
        return [self.tokens[i] for i in ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Examples, right-padded, with one table row per example.

    Table columns: `kind` ("definition" | "question"); `alias` (index of the alias); `entity` (what the
    alias's questions are about); `defined_entity` (what its definition says; −1 if it has none);
    `tag` (0 if undefined); `subset`; `stage` (whose training data holds the alias; 0: none); `order`
    (word order of the definition, "" for questions); `split` ("train" | "test"); `answer` (True/False
    for questions; False, without meaning, for definitions).

    A text world (`mechocl.closed_book`) has more kinds of test, and more columns, which it describes.
    """

    tokens: Int[Tensor, "example pos"]
    """Token ids; positions past the example's end hold the pad id 0."""
    roles: Int[Tensor, "example pos"]
    """Index into `ROLES` for each token."""
    loss_mask: Bool[Tensor, "example pos"]
    """True where the *next* token carries loss."""
    table: pd.DataFrame
    """One row per example; see above."""
    vocabulary: Vocabulary
    fresh: Callable[[int], Int[Tensor, "example pos"]] | None = None
    """Tokens of the same rows with the training questions of a given epoch; None: a fixed set. Label
    flips are drawn anew too; the table's `answer` is that of `tokens`."""

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def with_fresh(self, fresh: Callable[[int], Int[Tensor, "example pos"]]) -> "Task":
        return replace(self, fresh=fresh)

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    def rows(self, **equals: object) -> np.ndarray:
        """Indices of the examples whose columns equal the given values (or lie in a given tuple).

        `task.rows(kind="question", split="test", subset=("d1_consistent", "d2_consistent"))`
        """
        chosen = np.ones(len(self), dtype=bool)
        for column, value in equals.items():
            cells = self.table[column]
            chosen &= (cells.isin(value) if isinstance(value, tuple) else cells == value).to_numpy()
        return np.flatnonzero(chosen)

    def take(self, rows: np.ndarray) -> "Task":
        """The task of these examples alone, in this order; its questions are a fixed set."""
        at = torch.from_numpy(rows)
        return replace(
            self,
            tokens=self.tokens[at],
            roles=self.roles[at],
            loss_mask=self.loss_mask[at],
            table=self.table.iloc[rows].reset_index(drop=True),
            fresh=None,
        )

    def training_rows(self, stages: tuple[int, ...]) -> np.ndarray:
        """Indices of the training examples of the given stages of data."""
        return self.rows(split="train", stage=stages)

    def answers_of(self, rows: np.ndarray) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        """Tokens of the right answer to each of the given questions, and of a wrong one.

        True and false; in a text world the answer's first token, and that of another answer to the same question.
        """
        if self.vocabulary.is_text:
            return torch.tensor(self.table["target"].to_numpy()[rows]), torch.tensor(
                self.table["foil"].to_numpy()[rows]
            )
        answer = torch.tensor(self.table["answer"].to_numpy()[rows])
        true, false = self.vocabulary.true, self.vocabulary.false
        return torch.where(answer, true, false), torch.where(answer, false, true)

    def position_of(
        self, role: Literal["alias", "entity", "equals", "answer"], rows: np.ndarray
    ) -> np.ndarray:
        """Position of the *last* token with this role in each of the given examples; shape `(len(rows),)`.

        Raises ValueError if one of the examples has no such token.
        """
        hit = (self.roles[torch.from_numpy(rows)] == ROLE[role]).numpy()
        if not hit.any(axis=1).all():
            raise ValueError(f"some of the examples have no token in the role {role!r}")
        last: np.ndarray = self.n_ctx - 1 - hit[:, ::-1].argmax(axis=1)
        return last
