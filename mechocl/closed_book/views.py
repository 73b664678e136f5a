"""A closed-book task as the analyses read it: the questions about one attribute, all of one layout.

In a text, what stands where differs from question to question, and what answers compete. So an analysis looks at one
question at a time, as it looks at one kind of question in the integer-set task. The table's `entity` then is the
answer that the alias's questions have, `defined_entity` the one that the defined entity has: numbers into
`Vocabulary.answers`, the answers' first tokens. Two aliases "of the same integer" have the same answer. `answer` is
False: as in a list without the integer, the question does not name what it asks for.
"""

from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from mechocl.errors import MechoclError
from toy_models.task import ROLE, Task


def attributes(task: Task) -> list[str]:
    """What the task's questions ask about aliases."""
    asked = task.table.loc[task.rows(kind="question")]
    return list(asked.loc[asked["subset"] != "q_entity", "attribute"].drop_duplicates())


def view_attribute(task: Task, attribute: str = "") -> Task:
    """The definitions of a task, and its questions about an attribute.

    Of examples of several layouts (names of different length, several phrasings) those of the most common one are
    kept; of definitions the one of which each tag has the most. Definitions of aliases about whom it is not asked, or by
    an entity about whom it is not, are left out. An inconsistent definition may still name an entity of the same
    answer. Without an attribute it is the `default_attribute`. Raises MechoclError for an attribute that nothing is asked about,
    and for one whose answers all begin with the same token.
    """
    known = attributes(task)
    if attribute and attribute not in known:
        raise MechoclError(f"no question is about {attribute!r}; the task asks about {', '.join(known)}")
    attribute = attribute or default_attribute(task)
    answer_of = _answers(task, attribute)
    classes = sorted(set(answer_of.values()))
    if len(classes) < 2:
        raise MechoclError(
            f"all answers about {attribute!r} begin with the same token, so none is right and another wrong; choose "
            "another attribute"
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
    """The attribute with the most even answers: the largest entropy among those with at least ten aliases an answer, or
    the most aliases an answer where there is none."""

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
    """The rows that have their roles, and their words, where most of the rows have them (of definitions, most of the
    tag that has the fewest)."""
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
