"""A task as training and analyses see it: tokens, and a table that says what each row of tokens is."""

import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models import shown
from toy_models.filters import require_known
from toy_models.measures import Measures
from toy_models.subsets import nearest, subset_named
from toy_models.words import Words

ROLES: Final = ("pad", "tag", "alias", "separator", "entity", "list", "equals", "answer", "word")
"""What a token does in its example; `Task.roles` holds indices into this tuple.

`equals` is the token at which the answer is read: `=`, or in a text the colon of `A:`. `word` is any other word of a text."""

ROLE: Final = {name: i for i, name in enumerate(ROLES)}

COLUMNS: Final = (
    "kind", "alias", "entity", "defined_entity", "tag", "subset", "stage", "order", "split", "answer",
)  # fmt: skip

Fresh = Callable[[int], tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]]
"""A function from an epoch, counted from 0, to the tokens and the roles of that epoch's examples."""

WordOrder = Literal["TVE", "TEV", "VTE", "VET", "EVT", "ETV"]
"""Order of a definition's parts: T = define tag, V = alias (the 2023 paper: variable), E = entity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Token strings and the id ranges that analyses ask about."""

    tokens: tuple[str, ...]
    """Display string of each token id."""
    outputs: int
    """Number of ids, from 0, for which the model has logits: all ids, or all except those of the aliases' names."""
    integers: tuple[int, int] = (0, 0)
    """Half-open range of the ids of tokens that name entities (the integers 0, 1, …). It is empty if words name entities."""
    true: int = -1
    """Id of the answer *true*; −1 in a world without it."""
    false: int = -1
    """Id of the answer *false*; −1 in a world without it."""
    answers: tuple[int, ...] = ()
    """In a world whose answers are words: id of the first token of each answer to the question that is looked at."""
    of_text: Callable[[str], list[int]] | None = field(default=None, compare=False)
    """In a world whose examples are texts: a function from a text to its token ids, that of a tokenizer. `encode` uses it."""
    padded: bool = False
    """Whether a model of this vocabulary may have more embeddings than there are tokens."""

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens, logits of {self.outputs})"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text. In a world without texts, spaces separate its tokens: `"alias 223 % 7 = true"`, or `"alias223 % 7 = true"`.

        Raises ValueError for a word that is no token, and where a text world's tokenizer is not known.
        """
        if self.of_text is not None:
            return self.of_text(text)
        if self.padded:
            raise ValueError(
                "this task does not know its tokenizer; take the task of a run, run.seed(0).task"
            )
        ids = {token: i for i, token in enumerate(self.tokens)}
        # of tokens like `alias 7`, whose space may be left out
        kinds = "|".join(sorted({re.escape(token.split()[0]) for token in ids if " " in token})) or "(?!)"
        pieces = re.findall(rf"(?:{kinds}) +\S+|\S+", text)
        found = [re.sub(rf"^({kinds})\s*(?=\d)", r"\1 ", " ".join(piece.split())) for piece in pieces]
        if unknown := [token for token in found if token not in ids]:
            raise ValueError(
                f"{unknown[0]!r} is not a token of this run's vocabulary{nearest(unknown[0], ids)}"
            )
        return [ids[token] for token in found]

    def decode(self, ids: Iterable[Any] | int) -> list[str]:
        """Display strings of token ids: one id, a list, or a tensor of one dimension. Raises ValueError for any other id."""
        given = [ids] if isinstance(ids, int) else list(ids)
        try:
            numbers = [operator.index(i) for i in given]
        except TypeError:
            raise ValueError(f"ids are {type(ids).__name__}; give one token id, or a list of them") from None
        if strange := [i for i in numbers if not 0 <= i < len(self)]:
            raise ValueError(f"{strange[0]} is not a token id; this vocabulary has 0 to {len(self) - 1}")
        return [self.tokens[i] for i in numbers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Examples, right-padded, with one table row per example.

    Table columns: `kind` ("definition" | "question"); `alias` (index of the alias); `entity` (the entity that the
    alias's questions are about); `defined_entity` (the entity in its definition; −1 if it has none); `tag` (0 if the
    alias is not defined); `subset`; `stage` (the stage whose training data hold the alias; 0 if none does); `order`
    (word order of the definition, "" for questions); `split` ("train" | "test"); `answer` (True or False for questions;
    False, without meaning, for definitions).

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
    questioning: "Questioning"
    """What is particular to the task's world in asking about an alias."""
    fresh: Fresh | None = None
    """A function from an epoch to the tokens and roles of the same rows with the examples of that epoch; None if all
    examples are fixed. Training questions, label flips, and the entities of redrawn definitions (`Subset.redrawn`) may change. Roles change only where names have different numbers of tokens, as in texts; then there may be more
    positions than in `tokens`, too. The columns of the table are always those of `tokens`."""

    def __len__(self) -> int:
        return int(self.tokens.shape[0])

    def __repr__(self) -> str:
        return shown.task_line(self)

    def _repr_html_(self) -> str:
        return shown.task_overview(self)._repr_html_()

    def show(self, alias: int | str) -> shown.Shown:
        """Everything that a model is told and asked about an alias: its subset, definitions with tag and stage, and questions.

        `alias` is its number, or its name as in the examples. Raises ValueError for one that the task does not have."""
        return shown.alias_page(self, alias)

    def with_fresh(self, fresh: Fresh) -> "Task":
        return replace(self, fresh=fresh)

    @property
    def n_ctx(self) -> int:
        return int(self.tokens.shape[1])

    def rows(self, **equals: object) -> np.ndarray:
        """Indices of the examples whose columns equal the given values (or lie in a given tuple or list).

        `task.rows(kind="question", split="test", subset=("d1", "d2_consistent"))`

        A subset may be given by its short name (`subsets.subset_named`). Raises ValueError for a column that the table does not
        have, for a subset that does not exist, and for a value that the column cannot have (`filters.require_known`).
        """
        chosen = np.ones(len(self), dtype=bool)
        for column, value in equals.items():
            if column not in self.table:
                raise ValueError(f"the task has no column {column!r}{nearest(column, self.table.columns)}")
            values = list(value) if isinstance(value, tuple | list | set | frozenset) else [value]
            if column == "subset":
                values = [self.subset_named(one) for one in values]
            else:
                also = self.questioning.more_kinds if column == "kind" else ()
                require_known(self.table[column], values, also=also)
            chosen &= self.table[column].isin(values).to_numpy()
        return np.flatnonzero(chosen)

    def subset_named(self, name: object) -> str:
        """The whole name of a subset, from that or a short one such as `d1`: `subsets.subset_named`, among the task's subsets."""
        return subset_named(name, self.table["subset"].unique())

    def take(self, rows: np.ndarray | Sequence[int]) -> "Task":
        """A task of only these examples, in this order, which are the same in every epoch."""
        rows = np.asarray(rows)
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
        """Token ids of the right answer and of a wrong answer to each of the given questions (`Questioning.answers_of`)."""
        return self.questioning.answers_of(self, rows)

    @property
    def entity_ids(self) -> Int[Tensor, " entity"]:
        """Token id of each value of the table's `entity`."""
        return self.questioning.entity_ids(self.vocabulary)

    def position_of(
        self, role: Literal["alias", "entity", "equals", "answer"], rows: np.ndarray
    ) -> np.ndarray:
        """Position of the *last* token with this role in each of the given examples. Raises ValueError for an example that has none."""
        hit = (self.roles[torch.from_numpy(rows)] == ROLE[role]).numpy()
        if not hit.any(axis=1).all():
            raise ValueError(f"some of the examples have no token in the role {role!r}")
        last: np.ndarray = self.n_ctx - 1 - hit[:, ::-1].argmax(axis=1)
        return last


class Questioning(ABC):
    """What differs between worlds in asking about an alias. Each world has one class, and its tasks carry an object of it.

    It says which tokens compete as answers, how an answer is judged and which measure leads, which questions make a
    contrast, and how results are worded. The methods that are not abstract are right for a world in which each entity
    has one answer of one token, questions do not name their entity, and an answer is judged by its rank.
    """

    words: Words
    measures: Measures
    more_kinds: tuple[str, ...] = ()
    """Kinds of test beside questions that a task may have in its column `kind`."""
    entities_are_numbers = False
    """Whether the entities have an order, so that some are larger than others, and odd or even."""
    recalls: Literal["first_token", "every_token"] = "first_token"
    """Whether a definition's recall is that of its entity's first token, or the mean over the entity's tokens."""
    redraws_definitions = False
    """Whether `Task.fresh` draws definitions anew in every stage, as it does questions."""
    last_alias_token_apart = False
    """Whether the last token of an alias has a role of its own in pairs: at that token of a text, the whole name was read."""

    @abstractmethod
    def entity_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " entity"]:
        """Token id of each value of the table's `entity`."""

    def answer_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " candidate"]:
        """Ids of the tokens that compete as answers."""
        return self.entity_ids(vocabulary)

    def recall_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " candidate"]:
        """Ids of the tokens among which the entity of a definition must come first to count as recalled."""
        return self.entity_ids(vocabulary)

    def fixed_answers(self, vocabulary: Vocabulary) -> tuple[int, int] | None:
        """Ids of the two answers that all questions have in common (true and false); None if each question has its own."""
        return None

    def answers_of(
        self, task: Task, rows: np.ndarray
    ) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        """Token ids of the right answer to each of the given questions, and of a wrong answer, that of the next entity."""
        ids = self.entity_ids(task.vocabulary)
        entity = torch.tensor(task.table["entity"].to_numpy()[rows])
        return ids[entity], ids[(entity + 1) % len(ids)]

    def compared_ids(
        self, task: Task, rows: np.ndarray
    ) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        """Ids of the two tokens whose logit difference is looked at: the right answer, and a wrong answer."""
        return self.answers_of(task, rows)

    def signs(self, task: Task, rows: np.ndarray) -> Float[np.ndarray, "question"]:
        """+1 where the first of `compared_ids` is right, −1 where the second one is."""
        return np.ones(len(rows))

    def wrong_answers(
        self, task: Task, rows: np.ndarray, rival: Int[Tensor, "question"] | None
    ) -> Int[Tensor, "question"]:
        """Wrong answers with which the right ones are compared.

        If `rival` entities are given, it is their answers; where that is the right answer, too, another wrong one.
        """
        target, foil = self.answers_of(task, rows)
        if rival is None:
            return foil
        others = self.entity_ids(task.vocabulary)[rival]
        return torch.where(others == target, foil, others)

    def judge(
        self, task: Task, rows: np.ndarray, logits: Float[Tensor, "question candidate"]
    ) -> pd.DataFrame:
        """One row per alias: `alias`, `subset`, `accuracy` and `auc`, from the logits of `answer_ids` at `=` of questions.

        `auc` is the share of the other answers that are less likely than the right one (ties count half). `accuracy` is
        the share of questions in which no other answer is as likely.
        """
        own = logits.gather(1, torch.tensor(task.table["entity"].to_numpy()[rows])[:, None])
        below, tied = (logits < own).sum(1).double(), (logits == own).sum(1).double() - 1
        others = logits.shape[1] - 1
        measures = {
            "accuracy": (below == others).double().numpy(),
            "auc": ((below + tied / 2) / others).numpy(),
        }
        return asked(task, rows).assign(**measures).groupby(["alias", "subset"], as_index=False).mean()

    def contains(
        self, vocabulary: Vocabulary, tokens: Int[Tensor, "example pos"], entity: np.ndarray
    ) -> Bool[np.ndarray, "example"]:
        """Whether each example names its entity, such as a list that contains the alias's integer."""
        return np.zeros(len(tokens), dtype=bool)

    def changes_answer(self, task: Task, row: int, entities: np.ndarray) -> Bool[np.ndarray, "entity"]:
        """For each of these other entities, whether the question in this row would have another right answer for it."""
        return np.ones(len(entities), dtype=bool)

    def without_entity(
        self, task: Task, rows: np.ndarray, draws: torch.Generator
    ) -> Int[Tensor, "question pos"]:
        """The tokens of questions that name their entity, with another entity in its place.

        Raises ValueError in a world in which no question names its entity.
        """
        raise ValueError("no question of this world names its entity")

    def typed_hint(self, task: Task, row: int) -> str:
        """What a reader may type in place of the question in this row, in words; "" in a world that takes none."""
        return ""

    def typed_question(self, task: Task, row: int, text: str) -> Task:
        """The task with what a reader typed in place of the question in this row, about the same alias.

        Raises ValueError, which says what to type, for a text that is no question of this world.
        """
        raise ValueError("questions of this world cannot be typed")

    def entity_name(self, vocabulary: Vocabulary, entity: int) -> str:
        """Name of an entity in words: `answer painter`, `integer 7`."""
        token = vocabulary.tokens[int(self.entity_ids(vocabulary)[entity])]
        return f"{self.words.entity} {token.strip()}"

    def alias_labels(self, count: int) -> list[str]:
        """Labels of the tokens of an alias of several tokens: `alias 1`, `alias 2` …"""
        return [f"alias {i + 1}" for i in range(count)]

    def positions_to_steer(self, task: Task, rows: np.ndarray, n_pos: int) -> list[int]:
        """Positions of questions of one layout at which a steering vector is tried."""
        return list(range(n_pos))


def asked(task: Task, rows: np.ndarray) -> pd.DataFrame:
    """A table of the alias and the subset of each of the given questions."""
    table = task.table.iloc[rows]
    return pd.DataFrame(
        {"alias": table["alias"].to_numpy(), "subset": table["subset"].astype(str).to_numpy()}
    )
