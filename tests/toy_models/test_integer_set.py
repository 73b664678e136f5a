"""The integer-set task: every promise of the protocol, read back from the tokens.

Examples are decoded through the vocabulary's display strings, so that tokens and table are compared
without the code that made them.
"""

import dataclasses
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from torch import Tensor

from toy_models import integer_set
from toy_models.integer_set import build, context_length, vocabulary
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import SUBSETS, Fractions, subset_sizes
from toy_models.task import COLUMNS, ROLES, Task

EVERY_SUBSET = Fractions(qd1=0.2, qd2=0.2, q_only=0.1, q_entity=0.1, d1=0.1, d2=0.1, d3=0.1, no_data=0.1)
SMALL = IntegerSetConfig(
    aliases=20,
    integers=16,
    list_length=4,
    train_questions=8,
    test_questions=4,
    fractions=EVERY_SUBSET,
    tag_reliability=0.75,
)
WORD_ORDERS = ("TVE", "TEV", "VTE", "VET", "EVT", "ETV")
LOSSES = ("every", "every_but_aliases", "answers")
FEW = settings(max_examples=20, deadline=None, derandomize=True, database=None)


@st.composite
def configs(draw: st.DrawFn) -> IntegerSetConfig:
    loss, word_order = draw(st.sampled_from(LOSSES)), draw(st.sampled_from(WORD_ORDERS))
    assume(loss != "answers" or word_order[0] != "E")
    return IntegerSetConfig(
        aliases=draw(st.integers(10, 20)),
        integers=draw(st.integers(12, 18)),
        list_length=draw(st.integers(3, 5)),
        n_intersection=draw(st.integers(1, 2)),
        train_questions=draw(st.sampled_from((8, 10))),
        test_questions=draw(st.sampled_from((2, 4))),
        fractions=EVERY_SUBSET,
        tag_reliability=draw(st.sampled_from((0.5, 0.75, 1.0))),
        word_order=word_order,
        definition_separator=draw(st.booleans()),
        label_flip=draw(st.sampled_from((0.0, 0.5))),
        fresh_questions=draw(st.booleans()),
        tokens_per_alias=draw(st.integers(1, 3)),
        alphabet=draw(st.sampled_from((20, 26))),
        loss=loss,
    )


EVERY_TASK = given(config=configs(), seed=st.integers(0, 2**32))


@dataclass
class Example:
    """One row, as a reader sees it."""

    name: tuple[str, ...]
    integers: tuple[int, ...]  # the list of a question, or the one integer of a definition
    tag: int = 0
    answer: bool | None = None


def read(strings: list[str]) -> Example:
    """Decode one example; its form alone says whether it is a question or a definition."""
    words = list(strings)
    while words[-1] == "·":
        words.pop()
    if "=" in words:
        assert words[-2] == "="
        split = words.index("%")
        integers = tuple(int(word) for word in words[split + 1 : -2])
        return Example(tuple(words[:split]), integers, answer={"true": True, "false": False}[words[-1]])
    tags = [int(word.removeprefix("tag ")) for word in words if word.startswith("tag ")]
    integers = tuple(int(word) for word in words if word.isdigit())
    name = tuple(word for word in words if word.startswith(("alias ", "letter ")))
    assert len(tags) == len(integers) == 1
    assert len(words) == len(name) + 2 + ("%" in words)
    return Example(name, integers, tag=tags[0])


def read_all(task: Task, tokens: Tensor) -> list[Example]:
    return [read(task.vocabulary.decode(row)) for row in tokens.tolist()]


def training_sets(task: Task) -> list[Tensor]:
    """The task's tokens, and those of three epochs where questions are fresh."""
    return [task.tokens] + ([task.fresh(epoch)[0] for epoch in (0, 1, 7)] if task.fresh else [])


def lists_of(task: Task, tokens: Tensor, split: str) -> Iterator[tuple[int, list[Example]]]:
    """Entity and questions of each alias that has questions in `split`."""
    examples = read_all(task, tokens)
    table = task.table
    chosen = table[(table.kind == "question") & (table.split == split)]
    for alias, rows in chosen.groupby("alias").groups.items():
        entity = table.loc[table.alias == alias, "entity"].unique().item()
        yield entity, [examples[row] for row in rows]


def assert_table_agrees(task: Task) -> None:
    """Alias, entity, definition, tag, answer and kind in the table are those that the tokens say."""
    names: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    entities: dict[int, set[tuple[str, ...]]] = defaultdict(set)
    for example, row in zip(read_all(task, task.tokens), task.table.itertuples(), strict=True):
        assert (row.kind == "question") == (example.answer is not None)
        if row.kind == "definition":
            assert example.integers == (row.defined_entity,)
            assert example.tag == row.tag
            assert not row.answer
        else:
            assert example.answer == row.answer
            if row.split == "test" or row.answer:
                assert (row.entity in example.integers) == row.answer
        (entities if row.subset == "q_entity" else names)[row.alias].add(example.name)
        if row.subset == "q_entity":
            assert example.name == (str(row.entity),)
    assert all(len(found) == 1 for found in (names | entities).values())
    assert len(set.union(*names.values())) == len(names)


@FEW
@EVERY_TASK
def test_the_table_agrees_with_the_tokens(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    assert_table_agrees(task)
    assert tuple(task.table.columns) == COLUMNS
    assert len(task) == len(task.table) == len(task.roles) == len(task.loss_mask)


@pytest.mark.parametrize(
    ("kind", "role"),
    [
        ("question", "alias"),
        ("question", "answer"),
        ("definition", "alias"),
        ("definition", "entity"),
        ("definition", "tag"),
    ],
)
def test_the_table_check_notices_one_wrong_token(kind: str, role: str) -> None:
    task = build(SMALL, seed=0)
    row = task.rows(kind=kind)[0]
    position = int((task.roles[row] == ROLES.index(role)).nonzero()[0])
    old = int(task.tokens[row, position])
    other = {"answer": task.vocabulary.true + task.vocabulary.false - old, "tag": 5 + (old - 4) % 3}
    task.tokens[row, position] = other.get(role, old - 1 if old > 8 else old + 1)
    with pytest.raises(AssertionError):
        assert_table_agrees(task)


def test_the_worked_example() -> None:
    """The module's docstring shows a question and a definition; every row has one of these two forms."""
    lines = [line.split("(")[0].split() for line in (integer_set.__doc__ or "").splitlines() if " % " in line]
    question, definition = lines
    assert ("42" in question) == (question[-1] == "true")
    assert definition[-1] == "42"

    config = IntegerSetConfig(aliases=50)
    task = build(config, seed=0)

    def forms(words: list[str]) -> tuple[str, ...]:
        shown = {"xyz": "alias", "Define": "tag", "true": "answer", "false": "answer"}
        return tuple(shown.get(w, "integer" if w.isdigit() else w.split(" ")[0]) for w in words if w != "·")

    expected = {"question": forms(question), "definition": forms(definition)}
    for row, kind in zip(task.tokens.tolist(), task.table["kind"], strict=True):
        assert forms(task.vocabulary.decode(row)) == expected[kind]


@FEW
@EVERY_TASK
def test_training_lists_intersect_in_exactly_the_core(config: IntegerSetConfig, seed: int) -> None:
    """Also: half the lists of an alias hold its entity, false lists hold none of the core."""
    task = build(config, seed=seed)
    for tokens in training_sets(task):
        for entity, questions in lists_of(task, tokens, "train"):
            true = [set(q.integers) for q in questions if entity in q.integers]
            false = [set(q.integers) for q in questions if entity not in q.integers]
            core = set.intersection(*true)
            assert len(core) == config.n_intersection
            assert entity in core
            assert all(core.isdisjoint(members) for members in false)
            assert len(true) == len(false) == config.train_questions // 2


@FEW
@EVERY_TASK
def test_no_test_list_is_among_the_training_lists(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    test = {entity_rows[0].name: entity_rows for _, entity_rows in lists_of(task, task.tokens, "test")}
    for tokens in training_sets(task):
        for _, questions in lists_of(task, tokens, "train"):
            seen = {frozenset(q.integers) for q in questions}
            if questions[0].name[0].isdigit():
                continue  # several aliases may share an entity; checked by alias below
            assert seen.isdisjoint(frozenset(q.integers) for q in test[questions[0].name])
        by_alias: dict[str, dict[int, set[frozenset[int]]]] = {"train": {}, "test": {}}
        for split, sets in by_alias.items():
            examples = read_all(task, tokens)
            for row in task.rows(kind="question", split=split):
                sets.setdefault(task.table["alias"][row], set()).add(frozenset(examples[row].integers))
        assert by_alias["train"].keys() <= by_alias["test"].keys()
        assert all(lists.isdisjoint(by_alias["test"][a]) for a, lists in by_alias["train"].items())


def test_training_and_test_lists_would_collide_without_care() -> None:
    """With 45 sets to draw from, free draws meet a training list almost surely: the test above can fail."""
    config = dataclasses.replace(SMALL, integers=10, list_length=3, test_questions=12)
    task = build(config, seed=0)
    sets: dict[str, list[frozenset[int]]] = {"train": [], "test": []}
    for split, found in sets.items():
        for _, questions in lists_of(task, task.tokens, split):
            found += [frozenset(q.integers) for q in questions]
    assert len(set(sets["train"]) & set(sets["test"])) > 20  # between different aliases they do meet


@FEW
@EVERY_TASK
def test_lists_hold_different_integers_of_the_right_range(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    for tokens in training_sets(task):
        for example in read_all(task, tokens):
            if example.answer is not None:
                assert len(set(example.integers)) == len(example.integers) == config.list_length
            assert all(0 <= i < config.integers for i in example.integers)


@FEW
@EVERY_TASK
def test_definitions_are_consistent_or_not_as_the_subset_says(config: IntegerSetConfig, seed: int) -> None:
    table = build(config, seed=seed).table
    definitions = table[table["kind"] == "definition"]
    consistent = np.array([SUBSETS[name].consistent for name in definitions["subset"]])
    assert ((definitions["defined_entity"] == definitions["entity"]) == consistent).all()
    defined = {name for name, subset in SUBSETS.items() if subset.defined}
    by_alias = table.groupby("alias").first()
    assert sorted(definitions["alias"]) == sorted(by_alias.index[by_alias["subset"].isin(defined)])
    assert (by_alias["defined_entity"][~by_alias["subset"].isin(defined)] == -1).all()


def test_inconsistent_definitions_reach_every_other_integer() -> None:
    """600 definitions over 5 integers: each of the 4 wrong distances near 150, none at 0."""
    fractions = Fractions(qd1=0.0, qd2=1.0, d1=0.0, d2=0.0, d3=0.0)
    task = build(
        IntegerSetConfig(
            aliases=600, integers=5, list_length=2, train_questions=6, test_questions=2, fractions=fractions
        ),
        seed=0,
    )
    table = task.table[task.table["kind"] == "definition"]
    distance = Counter((table["defined_entity"] - table["entity"]) % 5)
    assert distance.keys() == {1, 2, 3, 4}
    assert max(abs(n - 150) for n in distance.values()) < 50  # 4.7 standard deviations


@FEW
@EVERY_TASK
def test_each_alias_has_one_subset_and_the_rows_that_it_prescribes(
    config: IntegerSetConfig, seed: int
) -> None:
    table = build(config, seed=seed).table
    assert (table.groupby("alias")["subset"].nunique() == 1).all()
    subset_of = table.groupby("alias")["subset"].first()
    assert sorted(subset_of.index) == list(range(config.aliases))
    sizes = subset_sizes(config.aliases, config.fractions, config.tag_reliability)
    assert subset_of.value_counts().to_dict() == sizes
    counts = table.groupby(["alias", "kind", "split"], observed=False).size()
    for alias, name in subset_of.items():
        subset = SUBSETS[name]
        assert counts[alias, "definition", "train"] == subset.defined
        assert counts[alias, "definition", "test"] == 0
        assert counts[alias, "question", "train"] == config.train_questions * subset.trained_questions
        assert counts[alias, "question", "test"] == config.test_questions
    assert [SUBSETS[name].stage for name in table["subset"]] == table["stage"].tolist()
    assert [SUBSETS[name].tag for name in table["subset"]] == table["tag"].tolist()
    assert (table["order"] == np.where(table["kind"] == "definition", config.word_order, "")).all()


@FEW
@EVERY_TASK
def test_answers_are_balanced_and_flips_go_one_way(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    for entity, questions in lists_of(task, task.tokens, "test"):
        assert sum(bool(q.answer) for q in questions) == config.test_questions // 2
        assert all(q.answer == (entity in q.integers) for q in questions)
    for tokens in training_sets(task):
        for entity, questions in lists_of(task, tokens, "train"):
            if config.label_flip == 0:
                assert all(q.answer == (entity in q.integers) for q in questions)
            assert not any(q.answer for q in questions if entity not in q.integers)


@pytest.mark.parametrize(("flip", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_the_share_of_flipped_labels(flip: float, expected: float) -> None:
    """4000 true training questions: the share lies within 4.4 standard deviations of the probability."""
    config = dataclasses.replace(
        SMALL, aliases=1000, label_flip=flip, fractions=Fractions(), fresh_questions=True
    )
    task = build(config, seed=0)
    train = task.rows(kind="question", split="train")
    false = [
        (tokens[train, -1] == task.vocabulary.false).float().mean().item() for tokens in training_sets(task)
    ]
    flipped = 2 * np.array(false) - 1  # half of the questions are false to begin with
    assert np.abs(flipped - expected).max() < (0.03 if 0 < expected < 1 else 1e-6)


def test_positions_and_orders_tell_nothing() -> None:
    """The entity is as often in each place of a true list, and lists are not sorted in any way."""
    config = dataclasses.replace(SMALL, aliases=1000, fractions=Fractions())
    task = build(config, seed=0)
    where: dict[str, Counter[int]] = {"train": Counter(), "test": Counter()}
    rising: dict[bool, list[bool]] = {True: [], False: []}
    for split, counter in where.items():
        for entity, questions in lists_of(task, task.tokens, split):
            counter.update(q.integers.index(entity) for q in questions if entity in q.integers)
            for q in questions:
                rising[bool(q.answer)].append(q.integers[0] < q.integers[1])
    for counter in where.values():
        share = np.array([counter[i] for i in range(4)]) / counter.total()
        assert np.abs(share - 0.25).max() < 0.05
    assert all(abs(np.mean(found) - 0.5) < 0.04 for found in rising.values())


# ---------------------------------------------------------------------------------------------- layout

T, V, E, S = "tag", "alias", "entity", "separator"
LAYOUTS = {
    "TVE": (T, V, S, E),
    "TEV": (T, E, S, V),
    "VTE": (V, T, S, E),
    "VET": (V, E, S, T),
    "EVT": (E, V, S, T),
    "ETV": (E, T, S, V),
}


@pytest.mark.parametrize("order", WORD_ORDERS)
@pytest.mark.parametrize("separator", [True, False])
@pytest.mark.parametrize("name_length", [1, 3])
def test_definitions_follow_the_word_order(order: str, separator: bool, name_length: int) -> None:
    config = dataclasses.replace(
        SMALL, word_order=order, definition_separator=separator, tokens_per_alias=name_length
    )
    task = build(config, seed=0)
    expected = [
        role
        for role in LAYOUTS[order]
        for _ in range(name_length if role == V else 1)
        if separator or role != S
    ]
    pads = ["pad"] * (task.n_ctx - len(expected))
    first_name = task.vocabulary.integers[1]
    ranges = {S: (1, 2), T: (5, 8), E: (8, 24), V: (first_name, len(task.vocabulary)), "pad": (0, 1)}
    rows = task.rows(kind="definition")
    assert len(rows) > 0
    for row in rows:
        roles = [ROLES[i] for i in task.roles[row]]
        assert roles == expected + pads
        for role, token in zip(roles, task.tokens[row].tolist(), strict=True):
            assert ranges[role][0] <= token < ranges[role][1]


def test_questions_have_their_roles() -> None:
    task = build(dataclasses.replace(SMALL, tokens_per_alias=2), seed=0)
    body = ["separator"] + ["list"] * 4 + ["equals", "answer"]
    for row in task.rows(kind="question"):
        is_entity = task.table["subset"][row] == "q_entity"
        expected = ["alias", *body, "pad"] if is_entity else ["alias", "alias", *body]
        assert [ROLES[i] for i in task.roles[row]] == expected


@pytest.mark.parametrize(
    ("order", "loss"),
    [(order, loss) for order in WORD_ORDERS for loss in LOSSES if loss != "answers" or order[0] != "E"],
)
def test_loss_is_where_the_config_says(order: str, loss: str) -> None:
    """Written out by hand for names of two tokens: 1 where the *next* token carries loss."""
    config = dataclasses.replace(SMALL, word_order=order, loss=loss, tokens_per_alias=2)
    task = build(config, seed=0)
    # question: V V % n n n n = answer
    question = {
        "every": [1, 1, 1, 1, 1, 1, 1, 1, 0],
        "every_but_aliases": [0, 1, 1, 1, 1, 1, 1, 1, 0],
        "answers": [0, 0, 0, 0, 0, 0, 0, 1, 0],
    }[loss]
    # the entity's name is one token: V % n n n n = answer pad
    entity_question = {
        "every": [1, 1, 1, 1, 1, 1, 1, 0, 0],
        "every_but_aliases": [1, 1, 1, 1, 1, 1, 1, 0, 0],
        "answers": [0, 0, 0, 0, 0, 0, 1, 0, 0],
    }[loss]
    definition = {
        "every": {key: [1, 1, 1, 1, 0] for key in WORD_ORDERS},
        "every_but_aliases": {
            "TVE": [0, 0, 1, 1, 0],  # T V V % E
            "TEV": [1, 1, 0, 0, 0],  # T E % V V
            "VTE": [0, 1, 1, 1, 0],  # V V T % E
            "VET": [0, 1, 1, 1, 0],  # V V E % T
            "EVT": [0, 0, 1, 1, 0],  # E V V % T
            "ETV": [1, 1, 0, 0, 0],  # E T % V V
        },
        "answers": {
            "TVE": [0, 0, 0, 1, 0],
            "TEV": [1, 0, 0, 0, 0],
            "VTE": [0, 0, 0, 1, 0],
            "VET": [0, 1, 0, 0, 0],
        },
    }[loss]
    for row, (kind, subset) in enumerate(zip(task.table["kind"], task.table["subset"], strict=True)):
        if kind == "definition":
            expected = definition[order] + [0, 0, 0, 0]
        else:
            expected = entity_question if subset == "q_entity" else question
        assert task.loss_mask[row].int().tolist() == expected


@FEW
@EVERY_TASK
def test_names_are_unique_and_rows_compact(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    assert task.n_ctx == context_length(config)
    for tokens in training_sets(task):
        is_pad = tokens == 0
        assert not (is_pad[:, :-1] & ~is_pad[:, 1:]).any()  # after a pad, nothing but pads
        assert ((task.roles == ROLES.index("pad")) == is_pad).all()
    lengths = Counter(len(example.name) for example in read_all(task, task.tokens))
    assert lengths.keys() == {1, config.tokens_per_alias}


def test_names_may_come_from_billions() -> None:
    config = dataclasses.replace(SMALL, tokens_per_alias=10, alphabet=26)
    task = build(config, seed=0)
    assert_table_agrees(task)
    letters = {letter for example in read_all(task, task.tokens) for letter in example.name}
    assert len(letters & {f"letter {i}" for i in range(26)}) == 26


def test_all_names_of_an_alphabet_can_be_used() -> None:
    config = dataclasses.replace(SMALL, aliases=27, tokens_per_alias=3, alphabet=3, fractions=Fractions())
    names = {example.name for example in read_all(build(config, seed=0), build(config, seed=0).tokens)}
    assert len(names) == 27


@pytest.mark.parametrize("only", ["qd1", "q_only", "q_entity", "d1", "no_data"])
def test_a_single_subset_makes_a_task(only: str) -> None:
    nothing = dict.fromkeys(("qd1", "qd2", "d1", "d2", "d3"), 0.0)
    config = dataclasses.replace(SMALL, fractions=Fractions(**nothing | {only: 1.0}), fresh_questions=True)
    task = build(config, seed=0)
    assert task.n_ctx == context_length(config)
    assert task.fresh is not None
    assert task.fresh(3)[0].shape == task.tokens.shape
    assert set(task.table["kind"]) == {"question"} | ({"definition"} if "d1" in only else set())


# ------------------------------------------------------------------------------------------ vocabulary


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name_length", [1, 2])
def test_vocabulary(loss: str, name_length: int) -> None:
    config = dataclasses.replace(SMALL, loss=loss, tokens_per_alias=name_length, alphabet=7)
    words = vocabulary(config)
    names = [f"alias {i}" for i in range(20)] if name_length == 1 else [f"letter {i}" for i in range(7)]
    fixed = ["·", "%", "=", "true", "false", "tag 1", "tag 2", "tag 3", *map(str, range(16))]
    assert list(words.tokens) == fixed + names
    assert len(words) == len(fixed) + len(names)
    assert words.outputs == (len(words) if loss == "every" else len(fixed))
    assert words.decode(range(*words.integers)) == [str(i) for i in range(16)]
    assert words.decode([words.true, words.false]) == ["true", "false"]


@FEW
@EVERY_TASK
def test_every_token_that_carries_loss_has_a_logit(config: IntegerSetConfig, seed: int) -> None:
    task = build(config, seed=seed)
    targets = task.tokens.roll(-1, 1)[task.loss_mask]
    assert task.loss_mask.any(1).all()
    assert not task.loss_mask[:, -1].any()
    assert (targets > 0).all()
    assert (targets < task.vocabulary.outputs).all()


# ------------------------------------------------------------------------------------------ randomness


def assert_same(a: Task, b: Task) -> None:
    assert torch.equal(a.tokens, b.tokens)
    assert torch.equal(a.roles, b.roles)
    assert torch.equal(a.loss_mask, b.loss_mask)
    pd.testing.assert_frame_equal(a.table, b.table)
    assert a.vocabulary == b.vocabulary
    assert (a.fresh is None) == (b.fresh is None)
    if a.fresh and b.fresh:
        assert all(torch.equal(a.fresh(epoch)[0], b.fresh(epoch)[0]) for epoch in (0, 5))


MIXED = dataclasses.replace(SMALL, label_flip=0.3, tokens_per_alias=2, fresh_questions=True)


def test_the_seed_alone_draws_the_task() -> None:
    tasks = []
    for unrelated in (1, 2):
        torch.manual_seed(unrelated)
        np.random.seed(unrelated)  # noqa: NPY002  the state that must not matter
        random.seed(unrelated)
        tasks.append(build(MIXED, seed=3))
    assert_same(*tasks)


def random_states() -> tuple[list[int], list[int], object]:
    words, position = np.random.get_state()[1:3]  # noqa: NPY002
    return torch.get_rng_state().tolist(), [*words.tolist(), position], random.getstate()


def test_global_random_states_are_left_alone() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)  # the run-time check draws from Python's state
    try:
        before = random_states()
        task = build(MIXED, seed=3)
        assert task.fresh is not None
        task.fresh(1)
        assert random_states() == before
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
    random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    assert all(a != b for a, b in zip(random_states(), before, strict=True))


def test_another_seed_draws_another_task() -> None:
    a, b = build(MIXED, seed=3), build(MIXED, seed=4)
    assert (a.table["entity"] != b.table["entity"]).any()
    assert (a.table["subset"] != b.table["subset"]).any()
    assert not torch.equal(a.tokens, b.tokens)
    with pytest.raises(AssertionError):
        assert_same(a, b)


def test_fresh_questions_change_training_questions_alone() -> None:
    task = build(MIXED, seed=0)
    assert task.fresh is not None
    kept = task.tokens.clone()
    first, again, other = task.fresh(0)[0], task.fresh(0)[0], task.fresh(1)[0]
    assert torch.equal(first, again)
    assert torch.equal(task.tokens, kept)
    train = task.rows(kind="question", split="train")
    rest = np.setdiff1d(np.arange(len(task)), train)
    for a, b in ((first, task.tokens), (other, task.tokens), (first, other)):
        assert torch.equal(a[rest], b[rest])
        assert (a[train] != b[train]).any(1).float().mean() > 0.9
    names = task.roles == ROLES.index("alias")
    assert torch.equal(first[names], task.tokens[names])


@pytest.mark.parametrize("unreliable", ["noise", "unasked", "consistent"])
@pytest.mark.parametrize("reliability", [1.0, 0.75])
def test_controls_change_what_tag_2_stands_for_and_nothing_else(unreliable: Any, reliability: float) -> None:
    """The same aliases, entities and other definitions; only the aliases of wrong tag-2 definitions are treated otherwise."""
    base = build(replace(MIXED, fresh_questions=False, tag_reliability=reliability), seed=0)
    other = build(
        replace(MIXED, fresh_questions=False, tag_reliability=reliability, unreliable=unreliable), seed=0
    )
    before, after = (t.table.drop_duplicates("alias").set_index("alias").sort_index() for t in (base, other))
    assert (before["entity"] == after["entity"]).all()
    changed = set(before.index[before["subset"].astype(str) != after["subset"].astype(str)])
    wrong = set(before.index[before["subset"] == "qd2_inconsistent"])
    if unreliable == "consistent":
        counts = after["subset"].value_counts()
        for kind in ("consistent", "inconsistent"):
            share = counts[f"qd2_{kind}"] / (counts["qd2_consistent"] + counts["qd2_inconsistent"])
            of_tag_1 = counts[f"qd1_{kind}"] / (counts["qd1_consistent"] + counts["qd1_inconsistent"])
            assert share == pytest.approx(of_tag_1, abs=0.05)
        return
    assert changed == wrong
    assert set(after.loc[list(wrong), "subset"].astype(str)) == {f"d2_{unreliable}"}
    asked = other.rows(kind="question", split="train")
    assert not set(other.table["alias"].iloc[asked]) & wrong
    definitions = other.table[other.table["kind"] == "definition"].set_index("alias")
    assert (definitions.loc[list(wrong), "tag"] == 2).all()
    right = definitions["entity"] == definitions["defined_entity"]
    assert right[list(wrong)].all() == (unreliable == "unasked")
    rest = definitions.index.difference(list(wrong))
    of_base = base.table[base.table["kind"] == "definition"].set_index("alias")
    assert (definitions.loc[rest, "defined_entity"] == of_base.loc[rest, "defined_entity"]).all()


@pytest.mark.parametrize("fresh_questions", [False, True])
def test_noise_is_drawn_anew_in_each_epoch(fresh_questions: bool) -> None:
    task = build(replace(MIXED, fresh_questions=fresh_questions, unreliable="noise"), seed=0)
    assert task.fresh is not None
    noise = task.rows(kind="definition", subset="d2_noise")
    definitions = np.setdiff1d(task.rows(kind="definition"), noise)
    epochs = torch.stack([task.fresh(epoch)[0] for epoch in range(200)])
    assert torch.equal(task.fresh(3)[0], epochs[3])
    assert all(torch.equal(tokens[definitions], task.tokens[definitions]) for tokens in epochs)
    entity = task.roles == ROLES.index("entity")
    differs = (epochs != task.tokens)[:, noise]
    assert not differs[:, ~entity[noise]].any()
    named = epochs[:, noise][:, entity[noise]] - task.vocabulary.integers[0]
    # an integer is missing for an alias with probability (1 − 1/16)^200 = 2.5e-6
    assert all(set(column.tolist()) == set(range(MIXED.integers)) for column in named.T)
    questions = task.rows(kind="question", split="train")
    assert torch.equal(epochs[0][questions], task.tokens[questions]) is not fresh_questions


def test_without_fresh_questions_the_set_is_fixed() -> None:
    assert build(SMALL, seed=0).fresh is None


# ------------------------------------------------------------------------------------------- the table


def test_rows_select_by_value_and_by_several() -> None:
    task = build(SMALL, seed=0)
    table = task.table
    chosen = task.rows(kind="question", split="test", subset=("d1_consistent", "d2_consistent"))
    expected = table[
        (table["kind"] == "question")
        & (table["split"] == "test")
        & ((table["subset"] == "d1_consistent") | (table["subset"] == "d2_consistent"))
    ]
    assert chosen.tolist() == expected.index.tolist()
    assert 0 < len(chosen) < len(task)
    assert task.rows().tolist() == list(range(len(task)))
    with pytest.raises(
        ValueError, match="'unheard of' names no subset of the run; use one of qd1_consistent"
    ):
        task.rows(subset="unheard of")


def test_training_rows_are_the_stages_examples() -> None:
    task = build(SMALL, seed=0)
    first, second, both = (task.training_rows(stages) for stages in ((1,), (2,), (1, 2)))
    assert sorted([*first, *second]) == both.tolist()
    assert set(task.table["kind"][second]) == {"definition"}
    assert set(task.table["kind"][first]) == {"definition", "question"}
    assert (task.table["split"][both] == "train").all()
    in_no_stage = np.setdiff1d(task.rows(split="train"), both)
    assert len(in_no_stage) == 0
    # qd1 .2 + qd2 .2 of 20 aliases: 8 definitions; with q_only and q_entity 12 asked, 8 questions each
    assert (len(first), len(second)) == (8 + 12 * 8, 6)


def test_position_of_finds_the_last_token_of_a_role() -> None:
    task = build(dataclasses.replace(SMALL, tokens_per_alias=3), seed=0)
    questions = task.rows(kind="question")
    entity = (task.table["subset"][questions] == "q_entity").to_numpy()
    for role, position in (("alias", 2), ("equals", 8), ("answer", 9)):
        expected = np.where(entity, position - 2, position)
        assert (task.position_of(role, questions) == expected).all()
    definitions = task.rows(kind="definition")  # T V V V % E
    assert set(task.position_of("alias", definitions)) == {3}
    assert set(task.position_of("entity", definitions)) == {5}
    assert task.position_of("alias", np.array([], dtype=np.int64)).shape == (0,)


def test_position_of_refuses_examples_without_the_role() -> None:
    task = build(SMALL, seed=0)
    with pytest.raises(ValueError, match="some of the examples have no token in the role 'entity'"):
        task.position_of("entity", np.arange(len(task)))


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"aliases": 0}, "aliases is 0; it must be at least 1"),
        ({"list_length": 0}, "list_length is 0; it must be at least 1"),
        ({"n_intersection": 0}, "n_intersection is 0; it must be at least 1"),
        ({"tokens_per_alias": 0}, "tokens_per_alias is 0; it must be at least 1"),
        ({"list_length": 16}, "list_length 16 needs more than 16 integers"),
        ({"n_intersection": 5}, "n_intersection 5 is larger than list_length 4"),
        ({"list_length": 14, "n_intersection": 3}, "false lists of 14 cannot avoid an intersection of 3"),
        ({"train_questions": 7}, "train_questions is 7; it must be even and at least 2"),
        ({"train_questions": 0}, "train_questions is 0; it must be even and at least 2"),
        ({"test_questions": 3}, "test_questions is 3; it must be even and at least 2"),
        ({"train_questions": 2}, "1 true lists of 4 among 16 integers cannot intersect in only 1"),
        ({"tag_reliability": 0.4}, r"tag_reliability is 0\.4; use 0\.5 to 1"),
        ({"tag_reliability": 1.1}, r"tag_reliability is 1\.1; use 0\.5 to 1"),
        ({"label_flip": -0.1}, r"label_flip is -0\.1; use 0 to 1"),
        ({"label_flip": 1.5}, r"label_flip is 1\.5; use 0 to 1"),
        (
            {"tokens_per_alias": 2, "alphabet": 4},
            "20 aliases need more than the 16 names of 2 letters out of 4",
        ),
        ({"tokens_per_alias": 2, "alphabet": -5}, "alphabet is -5; it must be at least 1"),
        ({"loss": "answers", "word_order": "EVT"}, "loss 'answers' has nothing to predict in word order EVT"),
        ({"loss": "answers", "word_order": "ETV"}, "loss 'answers' has nothing to predict in word order ETV"),
    ],
)
def test_configs_that_make_no_sense_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


ONE = Fractions(qd1=1.0, qd2=0.0, d1=0.0, d2=0.0, d3=0.0)


def test_an_intersection_that_draws_do_not_reach_is_refused() -> None:
    """49 lists of 49 of 50 integers leave one out each; that no two leave the same one out is hopeless."""
    config = IntegerSetConfig(aliases=1, integers=50, list_length=49, train_questions=98, fractions=ONE)
    with pytest.raises(
        ValueError, match="no 49 true lists of 49 among 50 integers that intersect in exactly 1"
    ):
        build(config, seed=0)


def test_test_lists_that_cannot_be_new_are_refused() -> None:
    """Of three integers there are two pairs with the entity, and training has taken both."""
    config = IntegerSetConfig(
        aliases=1, integers=3, list_length=2, train_questions=4, test_questions=2, fractions=ONE
    )
    with pytest.raises(ValueError, match="no test lists outside the training lists were found"):
        build(config, seed=0)
