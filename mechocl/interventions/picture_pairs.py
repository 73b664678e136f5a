"""Clean and corrupted pairs of pictures, whose questions are about one cell: the names are those of `named_pairs`.

d1-to-d2            a question about a cell of one alias, and the same cell of another alias with the same label there
d1-to-other-d2      … with another label there
tag1-to-tag2        the same definition with another define tag, read at one cell
d1-to-itself        the same question twice
"""

import re

import numpy as np
import torch
from torch import Tensor

from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError, TooLittleData
from mechocl.interventions.drawn_questions import asked_in_tests, shuffled
from mechocl.interventions.pairs import Pairs
from toy_models.filters import NUMBERS
from toy_models.randomness import generator
from toy_models.task import ROLE, Task

_FORMS = ("d1-to-d2", "d1-to-other-d2", "tag1-to-tag2", "d1-to-itself")


def has_pictures(task: Task) -> bool:
    """Whether the examples of a task are pictures of cells."""
    return "cell" in task.table


def pairs_of_pictures(task: Task, name: str, *, n_pairs: int, seed: int) -> Pairs:
    """The pairs of a name; there may be fewer than asked for.

    Raises MechoclError for an unknown name and for an empty subset, and TooLittleData when no pair fits.
    """
    if found := re.fullmatch(r"tag(\d)-to-tag(\d)", name):
        clean, corrupted = map(int, found.groups())
        return _tag_pairs(task, name, clean, corrupted, n_pairs=n_pairs, seed=seed)
    if found := re.fullmatch(r"(\w+)-to-itself", name):
        subset = subset_named(task, found[1])
        rows = shuffled(asked_in_tests(task, subset), generator(seed, "pairs", name))[:n_pairs]
        return _question_pairs(task, f"{subset}-to-itself", rows, rows)
    if found := re.fullmatch(r"(\w+)-to-(other-)?(\w+)", name):
        first, second = (subset_named(task, found[i]) for i in (1, 3))
        return _cell_pairs(task, first, second, same_label=found[2] is None, n_pairs=n_pairs, seed=seed)
    raise MechoclError(f"no pairs of pictures are called {name!r}; use {', '.join(_FORMS)}")


def _cell_pairs(
    task: Task, clean: str, corrupted: str, *, same_label: bool, n_pairs: int, seed: int
) -> Pairs:
    """Test questions about aliases of two subsets, paired by cell. Each pair's partner is drawn; no alias is paired with itself."""
    name = f"{clean}-to-{'' if same_label else 'other-'}{corrupted}"
    alias, cell, label = (task.table[column].to_numpy() for column in ("alias", "cell", "entity"))
    rows, others = (
        shuffled(asked_in_tests(task, subset), generator(seed, "pairs", name, subset))
        for subset in (clean, corrupted)
    )
    draws = generator(seed, "partners", name)
    chosen: list[int] = []
    partners: list[int] = []
    for row in rows:
        fits = others[
            (cell[others] == cell[row])
            & ((label[others] == label[row]) == same_label)
            & (alias[others] != alias[row])
        ]
        if len(chosen) < n_pairs and len(fits):
            chosen.append(row)
            partners.append(fits[int(torch.randint(len(fits), (1,), generator=draws))])
    if not chosen:
        raise TooLittleData(f"no question about {clean} has a partner in {corrupted}; use more aliases")
    return _question_pairs(task, name, np.array(chosen), np.array(partners))


def _question_pairs(task: Task, name: str, rows: np.ndarray, partners: np.ndarray) -> Pairs:
    """The foil is the partner's label, or where that is the same, the next one."""
    rival = torch.from_numpy(task.table["entity"].to_numpy()[partners])
    target, _ = task.answers_of(rows)
    foil = task.questioning.wrong_answers(task, rows, rival)
    return _pairs(task, name, rows, task.tokens[torch.from_numpy(partners)], _cells(task, rows), target, foil)


def _tag_pairs(task: Task, name: str, clean: int, corrupted: int, *, n_pairs: int, seed: int) -> Pairs:
    """Definitions with one tag and with another, each read at a cell that is drawn. There is no foil."""
    found: dict[int, np.ndarray] = {}
    for tag in (clean, corrupted):
        known = tag in NUMBERS["tag"]
        found[tag] = task.rows(kind="definition", tag=tag) if known else np.array([], dtype=int)
        if not len(found[tag]):
            raise MechoclError(f"the run has no definitions with tag {tag}; it has tags 1 to 3 at most")
    rows = shuffled(found[clean], generator(seed, "pairs", name))[:n_pairs]
    picked = torch.from_numpy(rows)
    at_tag = task.roles[picked] == ROLE["tag"]
    other = int(found[corrupted][0])
    swapped = task.tokens[picked].clone()
    swapped[at_tag] = task.tokens[other][task.roles[other] == ROLE["tag"]]
    drawn = torch.randint(_count_cells(task), (len(rows),), generator=generator(seed, "cells", name))
    target = task.tokens[picked].gather(1, _labels_at(task, drawn))[:, 0]
    return _pairs(task, name, rows, swapped, drawn, target, torch.full_like(target, -1))


def _pairs(
    task: Task, name: str, rows: np.ndarray, corrupted: Tensor, cell: Tensor, target: Tensor, foil: Tensor
) -> Pairs:
    cells = _count_cells(task)
    labels = [*(f"digit {i}" for i in range(cells)), "mark", "=", *(f"label {i}" for i in range(cells - 1))]
    end = len(labels)
    picked = torch.from_numpy(rows)
    return Pairs(
        name=name, clean=task.tokens[picked][:, :end], corrupted=corrupted[:, :end], read=_labels_at(task, cell)[:, 0] - 1,
        target=target, foil=foil, labels=tuple(labels), roles=torch.full((len(rows), end), -1),
        alias=torch.from_numpy(task.table["alias"].to_numpy()[rows]), contains=torch.ones(len(rows), dtype=torch.bool),
    )  # fmt: skip


def _count_cells(task: Task) -> int:
    return (task.n_ctx - 2) // 2


def _cells(task: Task, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(task.table["cell"].to_numpy()[rows])


def _labels_at(task: Task, cell: Tensor) -> Tensor:
    """Position of the label of a cell, as a column."""
    return (_count_cells(task) + 2 + cell)[:, None]
