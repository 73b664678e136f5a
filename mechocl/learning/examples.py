"""The examples of single aliases: a definition that may be written with another tag, and the questions."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechocl.errors import MechoclError
from toy_models.frozen import find_alias_names
from toy_models.task import ROLE, Task

QuestionLoss = Literal["trained", "answer"]


@dataclass(frozen=True, slots=True)
class Examples:
    """Examples of some aliases, equally many of each. Rows without any loss fill up what an alias has fewer."""

    tokens: Int[Tensor, "alias row pos"]
    loss_mask: Bool[Tensor, "alias row pos"]
    """True where the next token carries loss."""

    def __getitem__(self, aliases: slice) -> "Examples":
        return Examples(self.tokens[aliases], self.loss_mask[aliases])


def list_defined(task: Task, *, stage: int, most: int | None) -> pd.DataFrame:
    """One row (`alias`, `subset`, `tag`) for each alias that is defined in this stage's data, sorted by subset.

    `most`: only so many aliases of each subset, the first ones; None means all.
    """
    rows = task.rows(kind="definition", split="train", stage=stage)
    table = task.table.iloc[rows][["alias", "subset", "tag"]].drop_duplicates("alias")
    table = table.assign(subset=table["subset"].astype(str)).sort_values(["tag", "subset", "alias"])
    kept = table if most is None else table.groupby("subset", sort=False).head(most)
    return kept.reset_index(drop=True)


def find_tag_tokens(task: Task) -> dict[int, int]:
    """The token of each tag that stands in a definition of the task.

    Raises MechoclError for a tag of several tokens, since a definition could not be written with another one.
    """
    rows = task.rows(kind="definition")
    at = torch.from_numpy(rows)
    is_tag = task.roles[at] == ROLE["tag"]
    tags = task.table["tag"].to_numpy()[rows]
    found = {}
    for tag in sorted(set(tags.tolist()) - {0}):
        chosen = torch.from_numpy(tags == tag)
        tokens = set(task.tokens[at][chosen][is_tag[chosen]].tolist())
        if len(tokens) != 1 or not (is_tag[chosen].sum(1) == 1).all():
            raise MechoclError(
                f"tag {tag} is not one token; gradients are for tasks whose tags are one token each"
            )
        (found[int(tag)],) = tokens
    return found


def write_with_tag(task: Task, tag: int) -> Task:
    """The task in which the definitions of stage 2 are written with this tag. The table stays as it is."""
    tokens = task.tokens.clone()
    rows = torch.from_numpy(task.rows(kind="definition", stage=2))
    new = tokens[rows]
    tokens[rows] = new.masked_fill(task.roles[rows] == ROLE["tag"], find_tag_tokens(task)[tag])
    return replace(task, tokens=tokens)


def definitions_of(task: Task, aliases: np.ndarray) -> Examples:
    """The training definition of each alias, with loss where the recipe has it."""
    return _stacked(task, task.rows(kind="definition", split="train"), aliases)


def questions_of(
    task: Task, aliases: np.ndarray, *, split: Literal["train", "test"], loss: QuestionLoss
) -> Examples:
    """The training or test questions of each alias.

    With the loss `trained` it is where the recipe has it, also in the tokens of lists; with `answer` it is on the answer's
    tokens alone.
    """
    found = _stacked(task, task.rows(kind="question", split=split), aliases)
    if loss == "trained":
        return found
    at = torch.from_numpy(task.rows(kind="question", split=split))
    answers = torch.zeros_like(task.loss_mask)
    answers[at, :-1] = (task.roles[at] == ROLE["answer"])[:, 1:]
    return _stacked(replace(task, loss_mask=answers), task.rows(kind="question", split=split), aliases)


def _stacked(task: Task, rows: np.ndarray, aliases: np.ndarray) -> Examples:
    """The given rows of each alias."""
    chosen, real = stack_rows(task, rows, aliases)
    at = torch.from_numpy(chosen)
    return Examples(task.tokens[at], task.loss_mask[at] & torch.from_numpy(real)[:, :, None])


def stack_rows(
    task: Task, rows: np.ndarray, aliases: np.ndarray
) -> tuple[Int[np.ndarray, "alias row"], Bool[np.ndarray, "alias row"]]:
    """Those of the given rows that are about each alias, and which of them are real: some again where an alias has fewer.

    Raises MechoclError when an alias has none.
    """
    of = task.table["alias"].to_numpy()[rows]
    each = [rows[of == alias] for alias in aliases]
    most = max((len(own) for own in each), default=0)
    if not all(len(own) for own in each):
        lacking = next(alias for alias, own in zip(aliases, each, strict=True) if not len(own))
        raise MechoclError(
            f"alias {lacking} has no such examples; gradients need its definition and its questions"
        )
    real = np.arange(most)[None] < np.array([len(own) for own in each])[:, None]
    return np.stack([np.resize(own, most) for own in each]), real


def name_tokens(task: Task, aliases: np.ndarray) -> Int[Tensor, "alias slot"]:
    """The different tokens of each alias's name, in order; the first one again where a name has fewer than others."""
    names = find_alias_names(task)
    rows = task.rows(kind="definition", split="train")
    first = dict(zip(task.table["alias"].to_numpy()[rows].tolist(), rows.tolist(), strict=True))
    each = []
    for alias in aliases.tolist():
        row = task.tokens[first[alias]][task.roles[first[alias]] == ROLE["alias"]]
        each.append(list(dict.fromkeys(row[names[row]].tolist())))
    most = max(map(len, each))
    return torch.tensor([own + own[:1] * (most - len(own)) for own in each])
