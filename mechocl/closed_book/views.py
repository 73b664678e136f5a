"""A closed-book task as the analyses read it: the questions about one attribute, all of one layout.

In a text, questions about different attributes have different layouts and different answers. So an analysis looks at
one attribute at a time. In its view of the task, the table's `entity` is the answer to the questions about the alias,
and `defined_entity` the answer for the entity in its definition. Both are indices into `Vocabulary.answers`, the
answers' first tokens. So two aliases that stand for the same entity in the integer-set task are, here, two aliases with
the same answer. `answer` is False, as for a list without the integer: the question does not name what it asks for.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from mechocl.errors import MechoclError
from toy_models.task import ROLE, Task


def attributes(task: Task) -> list[str]:
    """The attributes that the task's questions ask about."""
    asked = task.table.loc[task.rows(kind="question")]
    return list(asked.loc[asked["subset"] != "q_entity", "attribute"].drop_duplicates())


def view_attribute(task: Task, attribute: str = "") -> Task:
    """The definitions of a task, and its questions about an attribute.

    Without an attribute, it is the `default_attribute`. If examples have several layouts (names of different length,
    several phrasings), only examples of one layout are kept: the most common layout of questions, and the layout of
    definitions whose rarest tag is most frequent. A definition is left out if no question asks for the attribute of its
    alias, or of the entity that it names. An inconsistent definition may still name an entity with the same answer.
    Raises MechoclError for an attribute that no question asks about, and for an attribute whose answers all begin with
    the same token.
    """
    known = attributes(task)
    if attribute and attribute not in known:
        raise MechoclError(f"no question is about {attribute!r}; the task asks about {', '.join(known)}")
    attribute = attribute or default_attribute(task)
    answer_of = _answers(task, attribute)
    classes = sorted(set(answer_of.values()))
    if len(classes) < 2:
        raise MechoclError(
            f"all answers about {attribute!r} begin with the same token, so they cannot be told apart; choose another "
            "attribute"
        )
    number = {token: i for i, token in enumerate(classes)}
    questions = task.rows(kind="question", attribute=attribute)
    questions = questions[task.table["subset"].to_numpy()[questions] != "q_entity"]
    definitions = task.rows(kind="definition")
    entities = task.table[["entity", "defined_entity"]].to_numpy()[definitions]
    definitions = definitions[np.isin(entities, list(answer_of)).all(1)]
    rows = np.concatenate([_of_one_layout(task, definitions), _of_one_layout(task, questions)])
    chosen = task.take(rows)
    numbered = {
        column: chosen.table[column].map(lambda entity: number.get(answer_of.get(entity, -1), -1)).astype(int)
        for column in ("entity", "defined_entity")
    }
    return replace(
        chosen,
        table=chosen.table.assign(answer=False, **numbered),
        vocabulary=replace(task.vocabulary, answers=tuple(classes)),
    )


def default_attribute(task: Task) -> str:
    """The attribute whose answers are most even.

    It is the attribute with the largest entropy of answers among those with at least ten aliases for each answer on
    average. If there is no such attribute, it is the one with the most aliases for each answer.
    """

    def evenness(attribute: str) -> tuple[bool, float]:
        counts = pd.Series(_answers(task, attribute)).value_counts(normalize=True)
        aliases = len(_answers(task, attribute)) / len(counts)
        entropy = float(-(counts * np.log(counts)).sum())
        return (True, entropy) if aliases >= 10 else (False, aliases)

    return max(attributes(task), key=evenness)


def _answers(task: Task, attribute: str) -> dict[int, int]:
    """First token of each entity's answer."""
    rows = task.table.loc[task.rows(kind="question", attribute=attribute)]
    return dict(zip(rows["entity"], rows["target"], strict=True))


def _of_one_layout(task: Task, rows: np.ndarray) -> np.ndarray:
    """The rows of the most common layout: of equal roles and words at every position.

    For definitions, it is the layout that has the most rows of the tag that is rarest in it.
    """
    if len(rows) == 0:
        return rows
    roles, tokens = task.roles[torch.from_numpy(rows)], task.tokens[torch.from_numpy(rows)]
    fixed = (roles == ROLE["word"]) | (roles == ROLE["equals"])
    after = (roles == ROLE["answer"]).int().cummax(1).values.bool()  # answers differ in length
    keys = torch.where(after, -1, torch.where(fixed, tokens + len(ROLE), roles))
    _, which = torch.unique(keys, dim=0, return_inverse=True)
    each = pd.crosstab(which.numpy(), task.table["tag"].to_numpy()[rows])
    is_definition = task.table["kind"].to_numpy()[rows[0]] == "definition"
    most = pd.DataFrame({"least": each.min(axis=1) if is_definition else 0, "all": each.sum(axis=1)})
    best = most.sort_values(["least", "all"], ascending=False, kind="stable").index[0]
    kept: np.ndarray = rows[which.numpy() == best]
    return kept
