"""The texts that probes read: one question, or the definition, of each alias of a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.picture_pairs import has_pictures
from mechocl.models import layout
from mechocl.probing.recipe import Probe
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import ROLE, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """One text about each alias, all of one layout."""

    tokens: Int[Tensor, "example pos"]
    table: pd.DataFrame
    """The task's table, one row per example, with `defined` and `consistent`."""
    labels: tuple[str, ...]
    """What stands at each position that is probed; of pictures, which are read as a whole, `picture` alone."""
    at: tuple[int, ...]
    """Indices of these positions."""
    shown: tuple[str, ...]
    """The first example's tokens at these positions."""
    again: Int[Tensor, "example pos"] | None
    """Tokens of another question about each alias; None for definitions."""
    listed: Shaped[np.ndarray, " example"]
    """The question's list as one string; "" for definitions."""


def probe_fits(probe: Probe, task: Task) -> bool:
    """Whether the run has the aliases: all subsets for a comparison of tags, two classes for any other probe.

    Raises MechoclError for a probe of own labels that were not given.
    """
    table = _table(task)
    if probe.target not in table.columns:
        raise MechoclError(
            f"probe {probe.name}: its target {probe.target!r} is for labels of your own; give them as mechocl.probe(…, labels=…)"
        )
    present = set(table["subset"].unique())
    if probe.target == "tag" and set(probe.subsets) - present:
        return False
    return table.loc[table["subset"].isin(probe.subsets), probe.target].nunique() > 1


def _table(task: Task) -> pd.DataFrame:
    table = task.table
    subset = table["subset"].astype(str)
    consistent = subset.map(lambda name: SUBSETS[name].defined and SUBSETS[name].consistent)
    return table.assign(defined=table["tag"] > 0, consistent=consistent.astype(bool), subset=subset)


def draw_examples(
    task: Task,
    at: Literal["question", "definition"],
    *,
    aliases_per_subset: int,
    positions: tuple[str, ...],
    seed: int,
) -> Examples:
    """One question (its list without the alias's integer) or the definition of each alias, and their layout.

    Args:
        task: the run's task.
        at: the kind of text that is read.
        aliases_per_subset: number of aliases of each subset, the first ones.
        positions: labels of the probed positions; if it is empty, all positions are probed.
        seed: draws the questions.

    Raises MechoclError for a task without definitions, for a position that is not there, and for unequal layouts.
    """
    if at == "question":
        rows = task.rows(kind="question", split="test", answer=False)
        rows = rows[task.table["subset"].to_numpy()[rows] != "q_entity"]  # its questions name no alias
    else:
        rows = task.rows(kind="definition")
    if not (task.table["tag"].to_numpy() > 0).any():
        raise MechoclError("the task has no defined aliases to probe")
    pictures = has_pictures(task)
    order = torch.randperm(len(rows), generator=generator(seed, "probe questions")).numpy()
    shuffled = task.table.loc[rows[order]]
    turn = shuffled.groupby("alias").cumcount()
    first = _of_each_subset(shuffled[turn == 0], aliases_per_subset)
    if pictures:
        labels = ["picture"]
    else:
        labels = (
            layout.asked_positions(task, first) if at == "question" else layout.shared_positions(task, first)
        )
    where = _positions(labels, positions)
    end = task.n_ctx if pictures else max(where) + 1
    tokens = task.tokens[torch.from_numpy(first)][:, :end]
    second = _of_each_subset(shuffled[turn == 1], aliases_per_subset)
    again = len(second) == len(first)
    return Examples(
        tokens=tokens,
        table=_table(task).iloc[first].reset_index(drop=True),
        labels=tuple(labels[i] for i in where),
        at=tuple(where),
        shown=("",) if pictures else tuple(task.vocabulary.decode(tokens[0, where].tolist())),
        again=task.tokens[torch.from_numpy(second)][:, :end] if again else None,
        listed=np.array([_list_of(task, row) for row in first.tolist()]),
    )


def _of_each_subset(table: pd.DataFrame, most: int) -> np.ndarray:
    """Row numbers of the first aliases of each subset, ordered by alias."""
    kept = table.sort_values("alias").groupby("subset", observed=True).head(most)
    return np.sort(kept.sort_values("alias").index.to_numpy())


def _list_of(task: Task, row: int) -> str:
    inside = task.tokens[row][task.roles[row] == ROLE["list"]]
    return " ".join(map(str, sorted(inside.tolist())))


def _positions(labels: Sequence[str], wanted: tuple[str, ...]) -> list[int]:
    """Indices of the wanted positions. Raises MechoclError for a position that is not there."""
    if not wanted:
        return list(range(len(labels)))
    for name in wanted:
        if not any(label.split(" ")[0] == name or label == name for label in labels):
            raise MechoclError(f"no position is called {name!r}; these examples have {', '.join(labels)}")
    return [i for i, label in enumerate(labels) if label in wanted or label.split(" ")[0] in wanted]
