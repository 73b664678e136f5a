"""Clean/corrupted pairs of questions that isolate one thing each."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechocl.activations import asked_positions
from mechocl.errors import MechoclError
from toy_models.randomness import generator
from toy_models.task import ROLE, Task


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same list asked about two aliases."""

    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    contains: Bool[Tensor, "pair"]
    """Whether the list contains the *clean* alias's integer."""
    labels: tuple[str, ...]
    """Positions up to `=`."""


def alias_pairs(
    task: Task, *, clean: str, corrupted: str, same_integer: bool, n_pairs: int, seed: int
) -> Pairs:
    """Test questions about aliases of subset `clean`, and the same lists asked about aliases of `corrupted`.

    With `same_integer` the two aliases stand for the same integer, so only how they were defined differs.
    Without it they stand for different ones, and exactly one of the two integers is in the list. No alias
    is paired with itself. There may be fewer pairs than asked for.
    Raises MechoclError when a subset is empty, no pair fits, or the two subsets' names differ in length.
    """
    table = task.table
    questions = {name: task.rows(kind="question", split="test", subset=name) for name in (clean, corrupted)}
    for name, rows in questions.items():
        if len(rows) == 0:
            raise MechoclError(f"the run has no questions about {name}; choose another subset")
    draws = generator(seed, "pairs", clean, corrupted, same_integer)
    rows = questions[clean]
    rows = rows[torch.randperm(len(rows), generator=draws).numpy()]
    others = table.iloc[questions[corrupted]].drop_duplicates("alias")
    entity_of = dict(zip(others["alias"], others["entity"], strict=True))
    candidates = np.array(list(entity_of))
    entities = np.array(list(entity_of.values()))
    first_integer = task.vocabulary.integers[0]

    alias, entity, answer = (table[column].to_numpy() for column in ("alias", "entity", "answer"))
    chosen: list[int] = []
    partners: list[int] = []
    for row in rows.tolist():
        if len(chosen) == n_pairs:
            break
        if same_integer:
            fits = candidates[(entities == entity[row]) & (candidates != alias[row])]
        else:
            listed = task.tokens[row][task.roles[row] == ROLE["list"]].numpy() - first_integer
            fits = candidates[(entities != entity[row]) & (np.isin(entities, listed) != answer[row])]
        if len(fits):
            chosen.append(row)
            partners.append(int(fits[int(torch.randint(len(fits), (1,), generator=draws))]))
    if not chosen:
        raise MechoclError(f"no question about {clean} has a partner in {corrupted}; use more aliases")
    picked = np.array(chosen)
    labels = asked_positions(task, picked)
    tokens = task.tokens[torch.from_numpy(picked)]
    is_name = task.roles[torch.from_numpy(picked)] == ROLE["alias"]
    names = _names(task, partners)
    if len(names) != is_name.sum():
        raise MechoclError(f"{clean} and {corrupted} name their aliases by different numbers of tokens")
    swapped = tokens.clone()
    swapped[is_name] = names
    return Pairs(tokens, swapped, torch.from_numpy(answer[picked]), tuple(labels))


def _names(task: Task, aliases: list[int]) -> Int[Tensor, "token"]:
    """Name tokens of the given aliases, one after another."""
    questions = task.table.loc[task.rows(kind="question")].drop_duplicates("alias")
    row_of = dict(zip(questions["alias"], questions.index, strict=True))
    rows = torch.tensor([row_of[a] for a in aliases])
    return task.tokens[rows][task.roles[rows] == ROLE["alias"]]
