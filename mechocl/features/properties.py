"""What a feature may stand for: everything that the task's table says about a text, as yes/no properties.

Each property compares two kinds of examples and leaves all further ones out. The unit is the alias: every alias has
one question and one definition, so that examples are independent of each other.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models import layout
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import Task

Kind = Literal["question", "definition"]

OF_TAGS: Final = {
    "new alias of tag 1, not 2": ("d1_consistent", "d2_consistent"),
    "new alias of tag 3, not 2": ("d3_consistent", "d2_consistent"),
    "new alias of tag 1, not 3": ("d1_consistent", "d3_consistent"),
    "asked-about alias of tag 1, not 2": ("qd1_consistent", "qd2_inconsistent"),
}
"""Properties of tags that pairs of questions differ in, with the subset that has each and the one that has it not."""

IN_THE_LIST: Final = "list contains the integer"
"""The property of questions whose list contains the alias's integer."""

GROUPS: Final = (
    "tag", "contains", "answer", "integer", "range", "stage", "subset", "defined as", "token", "role",
)  # fmt: skip
"""Kinds of properties, in the order in which they are listed."""

LEAST: Final = 4
"""Aliases of either kind that a property needs, among those that choose and among those that judge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """One text about each alias, all of one layout."""

    kind: Kind
    tokens: Int[Tensor, "example pos"]
    table: pd.DataFrame
    labels: tuple[str, ...]
    """What stands at each position: alias, %, n1 …, =; tag, entity."""

    def __len__(self) -> int:
        return len(self.table)


@dataclass(frozen=True, slots=True, kw_only=True)
class Property:
    """Something that is true of some examples and false of others."""

    name: str
    group: str
    """One of `GROUPS`."""
    positive: Bool[np.ndarray, " example"]
    compared: Bool[np.ndarray, " example"]
    """Examples that are compared."""
    entity: int | None = None
    """Value of the table's `entity` that the property is about; None for a property of another kind."""
    pairs: tuple[str, ...] = ()
    """Contrasts whose clean and corrupted run differ in it (`named_pairs.pairs_named`), for the causal test."""

    def enough(self, among: Bool[np.ndarray, " example"]) -> bool:
        """Whether there are enough examples of both kinds among the given ones."""
        at = self.compared & among
        return bool(min((at & self.positive).sum(), (at & ~self.positive).sum()) >= LEAST)


def texts(task: Task, *, seed: int) -> list[Texts]:
    """A question about each alias, half of them with its integer in the list, and its definition, if it has one."""
    found = []
    draws = generator(seed, "feature texts")
    table = task.table
    asked = table.index.isin(task.rows(kind="question", split="test")) & (table["subset"] != "q_entity")
    kinds: dict[Kind, np.ndarray] = {
        "question": np.flatnonzero(asked),
        "definition": task.rows(kind="definition"),
    }
    for kind, rows in kinds.items():
        order = rows[torch.randperm(len(rows), generator=draws).numpy()]
        if kind == "question":  # aliases take turns in the wanted answer of their question
            aliases = np.unique(table["alias"].to_numpy()[order])
            wanted = np.zeros(int(aliases.max(initial=0)) + 1, dtype=bool)
            wanted[aliases[torch.randperm(len(aliases), generator=draws).numpy()[::2]]] = True
            first = table["answer"].to_numpy()[order] == wanted[table["alias"].to_numpy()[order]]
            order = np.concatenate([order[first], order[~first]])
        part = table.iloc[order].drop_duplicates("alias")
        chosen = part.sort_values("alias").index.to_numpy().copy()
        if len(chosen) == 0:
            continue
        labels = (
            layout.asked_positions(task, chosen)
            if kind == "question"
            else layout.shared_positions(task, chosen)
        )
        found.append(
            Texts(
                kind=kind,
                tokens=task.tokens[torch.from_numpy(chosen)][:, : len(labels)],
                table=table.iloc[chosen].reset_index(drop=True).astype({"subset": str}),
                labels=tuple(labels),
            )
        )
    if not found:
        raise MechoclError("the task has no text about an alias, so there is nothing to search")
    return found


def text_properties(task: Task, read: Texts) -> list[Property]:
    """The properties of the texts, except for those with too few examples."""
    everyone = _everyone(read)
    return [one for one in _all(task, read) if one.enough(everyone)]


def token_properties(task: Task, read: Texts, position: str) -> list[Property]:
    """Properties that say which integer stands at a position, if it is a position of integers."""
    if position != "entity" and _role(position) != "list":
        return []
    first, last = task.vocabulary.integers
    here = read.tokens[:, read.labels.index(position)].numpy() - first
    everyone = _everyone(read)
    found = [
        Property(name=f"token {integer}", group="token", positive=here == integer, compared=everyone)
        for integer in range(last - first)
    ]
    return [one for one in found if one.enough(everyone)]


def _all(task: Task, read: Texts) -> Iterator[Property]:
    yield from _tag_properties(read)
    yield from _answer_properties(task, read)
    yield from _entity_properties(task, read)
    yield from _subset_properties(read)
    yield from _wrong_definition_properties(task, read)


def _between(
    read: Texts, name: str, yes: Sequence[str], no: Sequence[str], *, group: str, pairs: tuple[str, ...] = ()
) -> Property:
    """Whether an alias is of the subsets `yes`, among those of `yes` and of `no`."""
    subset = read.table["subset"].to_numpy()
    return Property(
        name=name,
        group=group,
        positive=np.isin(subset, yes),
        compared=np.isin(subset, [*yes, *no]),
        pairs=pairs if read.kind == "question" else (),
    )


def _tag_properties(read: Texts) -> Iterator[Property]:
    for name, (yes, no) in OF_TAGS.items():
        yield _between(read, name, [yes], [no], group="tag", pairs=(f"{yes}-to-{no}",))
    tag = read.table["tag"].to_numpy(copy=True)
    yield Property(name="tag 1, not 2", group="tag", positive=tag == 1, compared=np.isin(tag, [1, 2]))
    yield Property(name="defined alias", group="tag", positive=tag > 0, compared=_everyone(read))


def _answer_properties(task: Task, read: Texts) -> Iterator[Property]:
    """For questions with a list: whether it contains the integer, and whether the answer is true."""
    entity = read.table["entity"].to_numpy(copy=True)
    contains = task.questioning.contains(task.vocabulary, read.tokens, entity)
    if read.kind != "question" or not contains.any():
        return
    asked = _asked(task)
    yield Property(
        name=IN_THE_LIST,
        group="contains",
        positive=contains,
        compared=_everyone(read),
        pairs=tuple(f"{name}-with-to-without" for name in _present(read) if name in asked),
    )
    answer = read.table["answer"].to_numpy()
    if (answer != contains).any():
        yield Property(name="answer true", group="answer", positive=answer, compared=_everyone(read))


def _entity_properties(task: Task, read: Texts) -> Iterator[Property]:
    """Which entity the alias stands for; for numbers also whether it is low or high, and whether it is odd."""
    entity = read.table["entity"].to_numpy(copy=True)
    known, others = entity >= 0, _others(task, read)
    top = _entities(read)
    for integer in range(top):
        yield Property(
            name=task.questioning.entity_name(task.vocabulary, integer),
            group="integer",
            positive=entity == integer,
            compared=known,
            entity=integer,
            pairs=others,
        )
    if task.questioning.entities_are_numbers:
        third = top / 3
        for i, words in enumerate(("lowest", "middle", "highest")):
            inside = (entity >= i * third) & (entity < (i + 1) * third)
            yield Property(
                name=f"{words} third of the integers", group="range", positive=inside, compared=known
            )
        yield Property(name="odd integer", group="range", positive=entity % 2 == 1, compared=known)


def _subset_properties(read: Texts) -> Iterator[Property]:
    stage, present = read.table["stage"].to_numpy(), _present(read)
    yield Property(name="stage 2, not 1", group="stage", positive=stage == 2, compared=stage > 0)
    for name in present:
        others = [other for other in present if other != name]
        yield _between(read, f"subset {name}", [name], others, group="subset")


def _wrong_definition_properties(task: Task, read: Texts) -> Iterator[Property]:
    entity, defined = (read.table[name].to_numpy(copy=True) for name in ("entity", "defined_entity"))
    wrong = (defined >= 0) & (defined != entity)
    for integer in range(_entities(read)):
        name = task.questioning.entity_name(task.vocabulary, integer).removeprefix("integer ")
        yield Property(
            name=f"defined as {name}, but is not",
            group="defined as",
            positive=defined == integer,
            compared=wrong,
        )


def _everyone(read: Texts) -> Bool[np.ndarray, " example"]:
    return np.ones(len(read), dtype=bool)


def _present(read: Texts) -> list[str]:
    """Subsets that the texts are about, in the order of `SUBSETS`."""
    there = set(read.table["subset"].to_numpy())
    return [name for name in SUBSETS if name in there]


def _entities(read: Texts) -> int:
    """One more than the largest entity that an alias of the texts stands for."""
    return int(read.table["entity"].to_numpy(copy=True).max(initial=0)) + 1


def _others(task: Task, read: Texts) -> tuple[str, ...]:
    """Contrasts of two aliases of different integers, one of which is in the list."""
    if read.kind != "question":
        return ()
    asked = _asked(task)
    return tuple(f"{name}-to-other-{name}" for name in SUBSETS if name in asked and SUBSETS[name].stage > 0)


def _asked(task: Task) -> set[str]:
    rows = task.rows(kind="question", split="test")
    return set(task.table["subset"].iloc[rows].astype(str)) - {"q_entity"}


def roles(read: Texts, position: str, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A random position of each example, and whether it is the given one or another of the same role.

    The property *role* takes one token of each alias, so that examples stay independent.
    """
    role = np.array([_role(label) for label in read.labels])
    n = len(read)
    draws = np.random.default_rng(int(generator(seed, "roles", read.kind, position).initial_seed()))
    same, other = np.flatnonzero(role == _role(position)), np.flatnonzero(role != _role(position))
    positive = draws.permutation(n) < n / 2
    at = np.where(positive, draws.choice(same, n), draws.choice(other if len(other) else same, n))
    return at, positive


def _role(label: str) -> str:
    """`n3` → `list`, `alias 2` → `alias`."""
    name = label.split(" ")[0]
    return "list" if name.startswith("n") and name[1:].isdigit() else name


def role_names(read: Texts) -> dict[str, str]:
    """The first position of each role → the role's name."""
    found: dict[str, str] = {}
    for label in read.labels:
        if _role(label) not in found.values():
            found[label] = _role(label)
    return found
