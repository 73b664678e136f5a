"""What a user asks a task: rows by column, and texts to and from token ids, in every world."""

import numpy as np
import pytest
import torch
from colours import ColoursConfig, build as build_colours

from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

FRACTIONS = Fractions(qd1=0.25, qd2=0.25, d1=0.25, d2=0.25, d3=0.0)


def tasks() -> dict[str, Task]:
    return {
        "one token an alias": build(IntegerSetConfig(aliases=120, integers=30, fractions=FRACTIONS), seed=0),
        "three tokens an alias": build(
            IntegerSetConfig(aliases=120, integers=30, tokens_per_alias=3, fractions=FRACTIONS), seed=0
        ),
        "colours": build_colours(ColoursConfig(), seed=0),
    }


TASKS = tasks()


@pytest.mark.parametrize("world", TASKS)
def test_what_is_decoded_is_encoded_again(world: str) -> None:
    task = TASKS[world]
    for row in range(0, len(task), max(1, len(task) // 20)):
        ids = task.tokens[row]
        words = task.vocabulary.decode(ids)
        assert words == task.vocabulary.decode(ids.tolist()) == task.vocabulary.decode(ids.numpy())
        assert task.vocabulary.encode("  ".join(words)) == ids.tolist()


def test_one_word_is_one_id() -> None:
    vocabulary = TASKS["one token an alias"].vocabulary
    (alias,) = vocabulary.encode("alias 23")
    assert vocabulary.decode(alias) == vocabulary.decode(torch.tensor([alias])) == ["alias 23"]


@pytest.mark.parametrize(
    ("ask", "answer"),
    [
        (
            lambda task: task.vocabulary.encode("alias 223"),
            "'alias 223' is not a token .* did you mean 'alias 2",
        ),
        (lambda task: task.vocabulary.decode(9999), r"9999 is not a token id; this vocabulary has 0 to \d+"),
        (lambda task: task.vocabulary.decode([1, -1]), "-1 is not a token id"),
        (lambda task: task.vocabulary.decode("true"), "ids are str; give one token id, or a list of them"),
        (lambda task: task.rows(subset="d9"), "'d9' names no subset of the run; did you mean|use one of"),
        (lambda task: task.rows(subset=("d1", "dd_consistent")), "did you mean 'd[12]_consistent'"),
        (
            lambda task: task.rows(kind="questions"),
            "the task has no kind 'questions'; did you mean 'question'",
        ),
        (lambda task: task.rows(kind=("question", "d")), "no kind 'd'; use one of definition, question$"),
        (lambda task: task.rows(split="valid"), "the task has no split 'valid'; use one of train, test$"),
        (lambda task: task.rows(order="TV"), "the task has no order 'TV'; did you mean 'TVE'"),
        (lambda task: task.rows(tag=7), "the task has no tag 7; it takes 0, 1, 2, 3$"),
        (lambda task: task.rows(stage="1"), "the task has no stage '1'; it takes 0, 1, 2$"),
        (lambda task: task.rows(alias=[3, "4"]), "the task has no alias '4'; it takes whole numbers"),
        (lambda task: task.rows(entity=True), "the task has no entity True; it takes whole numbers"),
        (lambda task: task.rows(answer="true"), "the task has no answer 'true'; it takes True or False"),
        (lambda task: task.rows(subsets="d1"), "the task has no column 'subsets'; did you mean 'subset'"),
    ],
)
def test_what_is_not_there_is_named_with_the_nearest(ask: object, answer: str) -> None:
    with pytest.raises(ValueError, match=answer):
        ask(TASKS["one token an alias"])  # type: ignore[operator]


@pytest.mark.parametrize("world", TASKS)
def test_every_column_refuses_what_it_cannot_have(world: str) -> None:
    """And takes all that it has, and what tasks of its kind have, in any kind of number."""
    task = TASKS[world]
    for column, values in task.table.items():
        for strange in ("a stranger", None, 0.5):
            with pytest.raises(ValueError, match=f"the task has no {column} |names no subset of the run"):
                task.rows(**{str(column): strange})
        for value in values.dropna().unique():
            found = task.rows(**{str(column): value})
            assert np.array_equal(found, np.flatnonzero(values == value))
    only = task.take(task.rows(kind="definition"))
    assert len(only.rows(kind="question")) == len(only.rows(split="test")) == len(only.rows(tag=0)) == 0


def test_rows_take_short_names_lists_and_tuples() -> None:
    task = TASKS["one token an alias"]
    d1 = task.rows(subset="d1")
    assert len(d1)
    assert set(task.table["subset"].iloc[d1]) == {"d1_consistent"}
    both = task.rows(subset=("d1_consistent", "d2"), kind=["question"])
    assert np.array_equal(both, task.rows(subset=["d1", "d2_consistent"], kind="question"))
    assert (
        len(task.rows(subset="d3_consistent")) == 0
    )  # a whole name, of a subset that this task does not have
    assert len(task.take(both.tolist())) == len(both)
