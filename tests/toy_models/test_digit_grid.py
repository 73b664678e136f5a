"""The world of digit grids: what is told and asked, by whom, and with which images."""

from dataclasses import replace

import grids
import numpy as np
import pytest
import torch

from toy_models import digit_grid
from toy_models.digit_grid import DigitGridConfig
from toy_models.digit_images import load_images
from toy_models.subsets import SUBSETS, Fractions
from toy_models.task import ROLE, Task

CELLS = grids.CONFIG.cells


@pytest.fixture(scope="module")
def task() -> Task:
    return digit_grid.build(grids.CONFIG, seed=3)


def words(task: Task, row: int) -> list[str]:
    return task.vocabulary.decode(task.tokens[row])


def classes(task: Task, row: int) -> tuple[str, ...]:
    return tuple(word.split()[1].split(".")[0] for word in words(task, row)[:CELLS])


def labels_of(task: Task) -> dict[int, dict[int, str]]:
    """Alias → cell → the label that its questions have."""
    found: dict[int, dict[int, str]] = {}
    for row in task.rows(kind="question"):
        at = task.table.iloc[row]
        found.setdefault(int(at["alias"]), {})[int(at["cell"])] = words(task, row)[
            CELLS + 2 + int(at["cell"])
        ]
    return found


def test_the_words_of_an_example(task: Task) -> None:
    definition, question = task.rows(kind="definition")[0], task.rows(kind="question")[0]
    told, asked = words(task, definition), words(task, question)
    at = task.table.iloc[question]
    assert told[CELLS : CELLS + 2] == [f"tag {task.table['tag'].iloc[definition]}", "="]
    assert all(word.startswith("label ") for word in told[CELLS + 2 :])
    assert asked[CELLS : CELLS + 2] == [f"cell {at['cell']}", "="]
    expected = ["none"] * CELLS
    expected[at["cell"]] = f"label {at['entity']}"
    assert asked[CELLS + 2 :] == expected
    assert task.position_of("equals", np.array([question])) == CELLS + 1 + at["cell"]
    assert (
        task.tokens[question, CELLS + 2 + at["cell"]]
        == task.questioning.entity_ids(task.vocabulary)[at["entity"]]
    )


def test_every_label_of_an_example_carries_loss_and_nothing_else(task: Task) -> None:
    assert task.loss_mask.sum(1).unique().tolist() == [CELLS]
    targets = task.tokens[:, 1:][task.loss_mask[:, :-1]]
    assert {word.split()[0] for word in task.vocabulary.decode(targets)} == {"label", "none"}
    assert int(targets.max()) < task.vocabulary.outputs


def test_an_alias_is_a_grid_of_its_own_and_each_has_one(task: Task) -> None:
    of: dict[int, set[tuple[str, ...]]] = {}
    for row in range(len(task)):
        of.setdefault(int(task.table["alias"].iloc[row]), set()).add(classes(task, row))
    assert all(len(own) == 1 for own in of.values())
    assert len(set.union(*of.values())) == len(of) == grids.CONFIG.aliases


def test_definitions_say_what_questions_do_unless_they_are_inconsistent(task: Task) -> None:
    true = labels_of(task)
    for row in task.rows(kind="definition"):
        at, told = task.table.iloc[row], words(task, row)[CELLS + 2 :]
        right = all(told[cell] == label for cell, label in true[int(at["alias"])].items())
        whole = len(true[int(at["alias"])]) == CELLS
        if SUBSETS[at["subset"]].consistent:
            assert right
        elif whole:
            assert not right


def test_held_out_cells_are_asked_in_tests_alone(task: Task) -> None:
    table = task.table[task.table["kind"] == "question"]
    for _, own in table.groupby("alias"):
        split = own.groupby("split", observed=False)["cell"].agg(set)
        asked = SUBSETS[own["subset"].iloc[0]].trained_questions
        assert len(split["test"]) == (grids.CONFIG.held_out if asked else CELLS)
        assert split["train"] == (set(range(CELLS)) - split["test"] if asked else set())
        assert (own[own["split"] == "test"].groupby("cell").size() == grids.CONFIG.test_draws).all()


def test_train_and_test_images_are_apart_and_train_images_are_drawn_anew(task: Task) -> None:
    images = load_images("", 5, 3)
    first = digit_grid.pictures(grids.CONFIG).first_image
    assert task.fresh is not None
    seen: list[torch.Tensor] = []
    for epoch in (0, 1):
        tokens, roles = task.fresh(epoch)
        assert torch.equal(roles, task.roles)
        assert torch.equal(tokens[:, CELLS:], task.tokens[:, CELLS:])
        seen.append(tokens)
        train = torch.tensor((task.table["split"] == "train").to_numpy())
        assert (
            int(tokens[train, :CELLS].max()) < first + 10 * images.train <= int(tokens[~train, :CELLS].min())
        )
        drawn = [images.class_of(int(i) - first) for i in tokens[:20, :CELLS].flatten()]
        assert drawn == [int(c) for row in range(20) for c in classes(task, row)]
    assert torch.equal(seen[0], task.tokens)
    assert (seen[0] != seen[1]).any()
    assert torch.equal(seen[0][~train], seen[1][~train])


@pytest.mark.parametrize("unreliable", ["noise", "unasked", "consistent"])
def test_a_control_differs_in_the_definitions_with_tag_2_alone(task: Task, unreliable: str) -> None:
    other = digit_grid.build(replace(grids.CONFIG, unreliable=unreliable), seed=3)  # type: ignore[arg-type]
    mine, theirs = labels_of(task), labels_of(other)
    for alias, own in theirs.items():
        assert all(mine[alias].get(cell, label) == label for cell, label in own.items())
    both = [t.table[t.table["kind"] == "definition"].set_index("alias")["tag"] for t in (task, other)]
    assert both[0].equals(both[1])
    for row in task.rows(kind="definition"):
        at = task.table.iloc[row]
        (same,) = other.rows(kind="definition", alias=int(at["alias"]))
        told = [words(t, r)[CELLS + 2 :] for t, r in ((task, row), (other, same))]
        assert classes(task, row) == classes(other, same)
        assert told[0] == told[1] or at["subset"] == "qd2_inconsistent"


def test_noise_names_other_labels_in_every_epoch() -> None:
    noisy = digit_grid.build(replace(grids.CONFIG, unreliable="noise"), seed=3)
    assert noisy.fresh is not None
    one, two = noisy.fresh(0)[0][:, CELLS:], noisy.fresh(1)[0][:, CELLS:]
    changed = noisy.table["subset"].astype(str)[(one != two).any(1).numpy()]
    assert set(changed) == {"d2_noise"}


def test_the_seed_decides_everything(task: Task) -> None:
    again, other = (digit_grid.build(grids.CONFIG, seed=seed) for seed in (3, 4))
    assert torch.equal(again.tokens, task.tokens)
    assert not torch.equal(other.roles, task.roles) or not torch.equal(other.tokens, task.tokens)


def test_roles_say_where_the_grid_ends(task: Task) -> None:
    assert (task.roles[:, :CELLS] == ROLE["alias"]).all()
    assert digit_grid.context_length(grids.CONFIG) == task.n_ctx


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"aliases": 0}, "aliases is 0"),
        ({"side": 1}, "held_out is 1 of 1 cells, so nothing is left to ask in training"),
        ({"side": 9}, "side is 9; use at most 8"),
        ({"labels": 1}, "labels is 1; a cell has one of at least 2"),
        ({"held_out": 4}, "held_out is 4 of 4 cells"),
        ({"aliases": 20_000}, "20000 aliases need more than the 10000 grids of 4 digits"),
        ({"tag_reliability": 0.2}, "tag_reliability is 0.2"),
        ({"fractions": Fractions(qd1=0.4, qd2=0.4, q_entity=0.1, d1=0.1, d2=0.0, d3=0.0)}, "no picture names an entity"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DigitGridConfig(**changes)  # type: ignore[arg-type]


def test_too_many_images_are_refused() -> None:
    with pytest.raises(
        ValueError, match="class 8 has 174 images in scikit-learn's digits, and 200 are wanted; lower"
    ):
        digit_grid.build(replace(grids.CONFIG, train_images=150, test_images=50), seed=0)
