"""New aliases in parts: who is in which, and what a stage that trains on one of them sees and costs."""

import pandas as pd
import pytest
import text_worlds
import torch

from mechocl.closed_book import cost, examples
from mechocl.closed_book.parts import count_in_part, divide_aliases, select_rows
from mechocl.closed_book.stages import FinetuneStage
from mechocl.errors import MechoclError
from mechocl.learning import course
from mechocl.runs import recipes
from mechocl.runs.finetune import training_rows
from mechocl.runs.kinds import RunKind
from mechocl.runs.run import kind_of
from toy_models.task import Task


@pytest.fixture(scope="module")
def task() -> Task:
    return examples.build(
        text_worlds.config(), text_worlds.world(), text_worlds.tokenizer(), seed=0, context=128
    )


def stage(*part: int, data: tuple[int, ...] = (2,), **more: object) -> FinetuneStage:
    return FinetuneStage(data=data, epochs=1, part=part, **more)  # type: ignore[arg-type]


def test_each_part_has_as_many_new_aliases_of_each_subset_and_no_other(task: Task) -> None:
    parts = divide_aliases(task, 2)
    table = task.table.drop_duplicates("alias").set_index("alias")
    assert set(parts) == set(table.index[table["stage"] == 2])
    each = pd.crosstab(table.loc[list(parts), "subset"].astype(str), pd.Series(parts)).loc[:, [1, 2]]
    assert ((each[1] - each[2]).isin([0, 1])).all()
    assert set(divide_aliases(task, 1).values()) == {1}


def test_stages_of_all_parts_see_every_definition_once(task: Task) -> None:
    whole = select_rows(task, stage(1, 1)).tolist()
    parts = [select_rows(task, stage(k, 2)).tolist() for k in (1, 2)]
    assert sorted(row for rows in parts for row in rows) == whole
    assert [len(rows) for rows in parts] == sorted(map(len, parts), reverse=True)
    for k, rows in enumerate(parts, start=1):
        assert training_rows(task, stage(k, 2)).tolist() == rows
        assert course.stage_rows(task, stage(k, 2)).tolist() == rows
        assert {divide_aliases(task, 2)[alias] for alias in task.table["alias"].iloc[rows]} == {k}


def test_data_of_stage_1_are_not_divided(task: Task) -> None:
    both = select_rows(task, stage(2, 2, data=(1, 2)))
    first = select_rows(task, FinetuneStage(data=(1,), epochs=1))
    assert set(first) | set(select_rows(task, stage(2, 2))) == set(both)


def test_a_part_that_has_nobody_is_named(task: Task) -> None:
    most = max(divide_aliases(task, 100).values())
    with pytest.raises(MechoclError, match=rf"part \[{most + 1}, 100\] has nothing to train on"):
        training_rows(task, stage(most + 1, 100))


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 57])
def test_counts_are_those_of_taking_turns(size: int) -> None:
    for k in range(1, 7):
        assert count_in_part(size, (k, 6)) == sum(i % 6 + 1 == k for i in range(size))


def test_six_parts_cost_as_much_as_one() -> None:
    one, six = (
        recipes.load_closed_book_recipe(f"closed-book/miniature{name}") for name in ("", "-six-parts")
    )
    kind: RunKind = kind_of(six)
    shares = [cost.count_examples(six, "definition", s.data, s.part) for s in six.training.stages[1:]]
    assert sum(shares) == cost.count_examples(one, "definition", (2,))
    assert max(shares) - min(shares) <= 3
    assert kind.judging_stage(six) == 1
    assert six.training.stages[0] == one.training.stages[0]
    assert "part 2 of 6 of the new aliases" in kind_of_facts(six)


def kind_of_facts(recipe: recipes.AnyRecipe) -> str:
    from mechocl.runs.text_runs import _stage

    return "; ".join(_stage(one) for one in recipe.training.stages)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("part", "more", "says"),
    [
        ((0, 6), {}, r"part is \[0, 6\]; give a number and how many parts there are, such as \[2, 6\]"),
        ((7, 6), {}, r"part is \[7, 6\]"),
        (
            (2, 6),
            {"data": (1,)},
            "of new aliases, and the stage trains on no definitions of them; leave part out",
        ),
        ((2, 6), {"kinds": ("question",)}, "trains on no definitions of them"),
    ],
)
def test_a_part_that_cannot_be_is_refused(part: tuple[int, int], more: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        stage(*part, **more)  # type: ignore[arg-type]


def test_the_same_aliases_whatever_is_trained_first(task: Task) -> None:
    """The parts follow from the task alone: shuffled rows change nothing."""
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(0)).numpy()
    assert divide_aliases(task.take(order), 3) == divide_aliases(task, 3)
