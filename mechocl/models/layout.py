"""The layout of examples: labels that say what stands at each position."""

from typing import Final

import numpy as np
import torch

from mechocl.errors import MechoclError
from toy_models.task import ROLE, ROLES, Task


def position_labels(task: Task, row: int) -> list[str]:
    """Labels of the positions of an example, without its pads.

    A question has `alias`, `%`, `n1` …, `=`, `answer`. A definition has `tag`, `alias`, `%`, `entity`, in its word
    order. A name of several tokens has `alias 1`, `alias 2` … In a text, words are their own labels, the last token
    of a name is `alias`, and `=` is the colon before the answer.
    """
    labels: list[str] = []
    for role, token in zip(task.roles[row].tolist(), task.tokens[row].tolist(), strict=True):
        if role == ROLE["pad"]:
            break
        word = task.vocabulary.tokens[token].strip() or "␣"
        labels.append(word if role == ROLE["word"] else LABELS[ROLES[role]])
    integers = iter(range(1, len(labels) + 1))
    found = numbered([f"n{next(integers)}" if label == "n" else label for label in labels])
    if (tokens := labels.count("alias")) > 1:
        names = iter(task.questioning.alias_labels(tokens))
        found = [
            next(names) if label == "alias" else shown for label, shown in zip(labels, found, strict=True)
        ]
    return found


def numbered(labels: list[str]) -> list[str]:
    """The labels, with a count after those that occur several times: `alias 1`, `alias 2`."""
    several = {label for label in labels if labels.count(label) > 1}
    return [
        f"{label} {labels[: i + 1].count(label)}" if label in several else label
        for i, label in enumerate(labels)
    ]


LABELS: Final = {
    "tag": "tag",
    "alias": "alias",
    "separator": "%",
    "entity": "entity",
    "equals": "=",
    "list": "n",
    "answer": "answer",
}
"""Role of a token → the label of its position; a list's positions are n1, n2, …"""


def shared_positions(task: Task, rows: np.ndarray) -> list[str]:
    """Labels of all positions, which the given examples have in common.

    Raises MechoclError when the examples' labels differ. For instance, a question that names its entity is shorter
    than a question with an alias of several tokens.
    """
    return _shared(task, rows, position_labels(task, int(rows[0])))


def asked_positions(task: Task, rows: np.ndarray) -> list[str]:
    """Labels of the positions up to `=`, which the given questions have in common.

    Raises MechoclError as `shared_positions` does.
    """
    labels = position_labels(task, int(rows[0]))
    return _shared(task, rows, labels[: labels.index("=") + 1])


def _shared(task: Task, rows: np.ndarray, labels: list[str]) -> list[str]:
    layouts = task.roles[torch.from_numpy(rows)]
    layouts = layouts if labels[-1] != "=" else layouts[:, : len(labels)]
    if not bool((layouts == layouts[0]).all()):
        raise MechoclError("the examples have different layouts; choose subsets with names of equal length")
    return labels
