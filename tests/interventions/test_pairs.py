"""Clean/corrupted pairs: each kind isolates one thing, and says rightly what stands where."""

from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from planted import Mechanism, planted_model, small_task

from mechocl.errors import MechoclError
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.named_pairs import (
    PairsCut,
    alias_pairs,
    contrast_names,
    list_pairs,
    pairs_named,
    question_pairs,
    say_cuts,
    subset_named,
    tag_pairs,
)
from mechocl.interventions.pairs import ROLE_NAMES, Pairs, given_pairs
from mechocl.interventions.patching import PatchingConfig, patch, patch_activations
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import ROLE, Task

POSITIONS = ("alias", "%", "n1", "n2", "n3", "n4", "=")
DEFINED = {
    "qd1": "qd1_consistent",
    "qd2": "qd2_inconsistent",
    "d1": "d1_consistent",
    "d2": "d2_consistent",
    "d3": "d3_consistent",
}
SHORT = st.sampled_from(list(DEFINED))
N_PAIRS, SEED = st.integers(1, 40), st.integers(0, 1000)


@cache
def task() -> Task:
    return small_task()


@cache
def facts() -> pd.DataFrame:
    """Subset and entity by the token of an alias, from the task's table alone."""
    rows = task().rows(kind="question", split="test")
    table = task().table.iloc[rows].assign(token=task().tokens[rows, 0].numpy())
    return table.drop_duplicates("token").set_index("token")[["alias", "subset", "entity"]]


def lists(tokens: torch.Tensor) -> list[list[int]]:
    """Integers of the lists, position by position."""
    return (tokens[:, 2:6] - task().vocabulary.integers[0]).tolist()


def assert_question_pairs(pairs: Pairs, *, subset: str) -> None:
    """What holds of every kind of question pairs: its answer, its aliases, and the roles of the clean example."""
    vocabulary = task().vocabulary
    assert pairs.labels == POSITIONS
    assert (pairs.read == 6).all()
    of = facts().loc[pairs.clean[:, 0].tolist()]
    assert (of["subset"] == subset).all()
    assert of["alias"].tolist() == pairs.alias.tolist()
    contains = [e in row for e, row in zip(of["entity"], lists(pairs.clean), strict=True)]
    assert contains == pairs.contains.tolist()
    right = torch.where(pairs.contains, vocabulary.true, vocabulary.false)
    wrong = torch.where(pairs.contains, vocabulary.false, vocabulary.true)
    assert torch.equal(pairs.target, right)
    assert torch.equal(pairs.foil, wrong)
    rival = facts()["entity"].reindex(pairs.corrupted[:, 0].tolist()).tolist()
    for i, (entity, other) in enumerate(zip(of["entity"], rival, strict=True)):
        shown = lists(pairs.clean)[i]
        items = ["match" if x == entity else "rival" if x == other else "others" for x in shown]
        assert [ROLE_NAMES[r] for r in pairs.roles[i].tolist()] == ["alias", "%", *items, "="]


@settings(max_examples=30, deadline=None)
@given(clean=SHORT, corrupted=SHORT, same_integer=st.booleans(), n_pairs=N_PAIRS, seed=SEED)
def test_alias_pairs(clean: str, corrupted: str, same_integer: bool, n_pairs: int, seed: int) -> None:
    """The same list, asked about another alias: of the same integer, or of another, one of the two in the list."""
    name = f"{clean}-to-{corrupted}" if same_integer else f"{clean}-to-other-{corrupted}"
    pairs = pairs_named(task(), name, n_pairs=n_pairs, seed=seed)
    assert len(pairs) == n_pairs
    assert pairs.name == name.replace(clean, DEFINED[clean], 1).removesuffix(corrupted) + DEFINED[corrupted]
    assert_question_pairs(pairs, subset=DEFINED[clean])
    assert torch.equal(pairs.clean[:, 1:], pairs.corrupted[:, 1:])
    ours, theirs = (facts().loc[tokens[:, 0].tolist()] for tokens in (pairs.clean, pairs.corrupted))
    assert (theirs["subset"] == DEFINED[corrupted]).all()
    assert (ours["alias"].to_numpy() != theirs["alias"].to_numpy()).all()
    same = ours["entity"].to_numpy() == theirs["entity"].to_numpy()
    assert (same == same_integer).all()
    listed, other = (
        np.array([e in row for e, row in zip(of["entity"], lists(pairs.clean), strict=True)])
        for of in (ours, theirs)
    )
    assert ((listed == other) == same_integer).all()
    assert ("rival" in {ROLE_NAMES[r] for r in pairs.roles.flatten()}) == bool((other & ~same).any())
    again = pairs_named(task(), name, n_pairs=n_pairs, seed=seed)
    assert torch.equal(again.clean, pairs.clean)
    assert torch.equal(again.corrupted, pairs.corrupted)


def test_the_check_above_can_fail() -> None:
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=20, seed=0)
    assert_question_pairs(pairs, subset="d1_consistent")
    fields = {name: getattr(pairs, name) for name in Pairs.__slots__}
    for changed in (
        {"roles": pairs.roles.roll(1, 0)},
        {"contains": ~pairs.contains},
        {"target": pairs.foil, "foil": pairs.target},
        {"clean": pairs.corrupted},
        {"read": pairs.read - 1},
    ):
        with pytest.raises(AssertionError):
            assert_question_pairs(Pairs(**(fields | changed)), subset="d1_consistent")


@pytest.mark.parametrize("seed", range(3))
def test_partners_of_the_same_integer_stay_together(seed: int) -> None:
    """Each clean alias has one partner; with different integers it has several."""
    for name, most in (("d1-to-d2", 1), ("d1-to-other-d2", 4)):
        pairs = pairs_named(task(), name, n_pairs=10_000, seed=seed)
        frame = pd.DataFrame({"clean": pairs.clean[:, 0].numpy(), "corrupted": pairs.corrupted[:, 0].numpy()})
        partners = frame.groupby("clean")["corrupted"].nunique()
        assert partners.max() == most
        assert (frame.groupby("clean").size() == 4).all()  # all four test questions of each alias


@settings(max_examples=20, deadline=None)
@given(subset=SHORT, n_pairs=N_PAIRS, seed=SEED)
def test_list_pairs(subset: str, n_pairs: int, seed: int) -> None:
    """One token differs: the alias's integer, in whose place one stands that is not in the list."""
    pairs = pairs_named(task(), f"{subset}-with-to-without", n_pairs=n_pairs, seed=seed)
    assert len(pairs) == n_pairs
    assert_question_pairs(pairs, subset=DEFINED[subset])
    assert pairs.contains.all()
    assert ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    entity = facts().loc[pairs.clean[:, 0].tolist(), "entity"].tolist()
    for e, clean, corrupted in zip(entity, lists(pairs.clean), lists(pairs.corrupted), strict=True):
        assert e in clean
        assert e not in corrupted
        assert len(set(corrupted)) == 4
        assert set(corrupted) <= set(range(12))
    assert torch.equal(pairs.clean != pairs.corrupted, pairs.roles == ROLE_NAMES.index("match"))


@settings(max_examples=20, deadline=None)
@given(clean=st.integers(1, 3), corrupted=st.integers(1, 3), n_pairs=N_PAIRS, seed=SEED)
def test_tag_pairs(clean: int, corrupted: int, n_pairs: int, seed: int) -> None:
    """Only the tag differs; what is asked for is the defined integer, just before it."""
    pairs = pairs_named(task(), f"tag{clean}-to-tag{corrupted}", n_pairs=n_pairs, seed=seed)
    assert len(pairs) == n_pairs
    rows = task().rows(kind="definition")
    table = task().table.iloc[rows].set_index("alias").loc[pairs.alias.tolist()]
    assert (table["tag"] == clean).all()
    whole = task().tokens[rows[[task().table["alias"].iloc[rows].tolist().index(a) for a in pairs.alias]]]
    end = pairs.clean.shape[1]
    assert torch.equal(pairs.clean, whole[:, :end])
    first = task().vocabulary.integers[0]
    assert pairs.target.tolist() == (table["defined_entity"] + first).tolist()
    assert torch.equal(whole[:, end], pairs.target)
    assert (pairs.read == end - 1).all()
    assert (pairs.foil == -1).all()
    is_tag = pairs.roles == ROLE_NAMES.index("tag")
    assert (is_tag.sum(1) == 1).all()
    assert torch.equal(pairs.clean[~is_tag], pairs.corrupted[~is_tag])
    a_row = int(task().rows(kind="definition", tag=corrupted)[0])
    token = task().tokens[a_row][task().roles[a_row] == ROLE["tag"]]
    assert (pairs.corrupted[is_tag] == token).all()
    assert pairs.labels == tuple(ROLE_NAMES[r] for r in pairs.roles[0].tolist())


@settings(max_examples=10, deadline=None)
@given(subset=SHORT, n_pairs=N_PAIRS, seed=SEED)
def test_questions_with_themselves(subset: str, n_pairs: int, seed: int) -> None:
    pairs = pairs_named(task(), f"{subset}-to-itself", n_pairs=n_pairs, seed=seed)
    assert len(pairs) == n_pairs
    assert_question_pairs(pairs, subset=DEFINED[subset])
    assert torch.equal(pairs.clean, pairs.corrupted)
    assert len(torch.unique(pairs.alias)) == -(-n_pairs // 4)  # all questions of an alias come together


def test_questions_of_several_subsets() -> None:
    pairs = question_pairs(task(), subsets=("d1_consistent", "d2_consistent"), n_questions=10_000, seed=0)
    of = facts().loc[pairs.clean[:, 0].tolist()]
    assert of["subset"].astype(str).value_counts().to_dict() == {"d1_consistent": 240, "d2_consistent": 240}
    some = question_pairs(task(), subsets=("d1_consistent", "d2_consistent"), n_questions=80, seed=0)
    assert of["subset"].iloc[:80].nunique() == 2
    assert torch.equal(some.clean, pairs.clean[:80])


@pytest.mark.parametrize(
    "name", ["d1-to-d2", "d1-to-other-d2", "d1-with-to-without", "tag1-to-tag2", "d1-to-itself"]
)
def test_pairs_depend_on_the_seed_and_leave_the_task_alone(name: str) -> None:
    tokens, table = task().tokens.clone(), task().table.copy()
    first, same, second = (pairs_named(task(), name, n_pairs=30, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.clean, same.clean)
    assert torch.equal(first.corrupted, same.corrupted)
    assert not torch.equal(first.clean, second.clean)
    assert torch.equal(task().tokens, tokens)
    pd.testing.assert_frame_equal(task().table, table)


@pytest.mark.parametrize("name", ["d1-to-d2", "d1-with-to-without", "tag3-to-tag2", "d1-to-itself"])
def test_fewer_pairs_than_asked_for(name: str) -> None:
    """Each example is used once."""
    pairs = pairs_named(task(), name, n_pairs=10_000, seed=0)
    whole = {"d1-to-d2": 240, "d1-with-to-without": 120, "tag3-to-tag2": 60, "d1-to-itself": 240}[name]
    assert len(pairs) == whole
    assert len(pairs.clean.unique(dim=0)) == whole


def test_choosing_and_swapping() -> None:
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=10, seed=0)
    some = pairs[torch.tensor([7, 2])]
    assert len(some) == 2
    assert some.alias.tolist() == pairs.alias[[7, 2]].tolist()
    assert torch.equal(some.roles, pairs.roles[[7, 2]])
    assert torch.equal(pairs[3:5].clean, pairs.clean[3:5])
    assert torch.equal(pairs.swapped.clean, pairs.corrupted)
    assert torch.equal(pairs.swapped.target, pairs.target)


# ------------------------------------------------------------------------------------------ names of subsets


def uneven(**changes: object) -> Task:
    """Names of two letters, and reliability below 1."""
    fractions = {"qd1": 0.3, "qd2": 0.3, "q_only": 0.1, "q_entity": 0.1, "d1": 0.2, "d2": 0.0, "d3": 0.0}
    config = {"aliases": 60, "integers": 8, "list_length": 3, "tokens_per_alias": 2}
    return build(IntegerSetConfig(**(config | {"fractions": Fractions(**fractions)} | changes)), seed=0)


def test_short_names_of_subsets() -> None:
    for short, name in DEFINED.items():
        assert subset_named(task(), short) == subset_named(task(), name) == name
    assert subset_named(uneven(), "q_only") == "q_only"


@pytest.mark.parametrize(
    ("short", "message"),
    [
        ("d4", "'d4' names no subset of the run; use one of qd1_consistent, "),
        ("no_data", "'no_data' names no subset of the run"),
        ("d", "'d' names no subset of the run"),
        ("q", "'q' may be any of the subsets q_only, q_entity; use the whole name"),
        ("qd1", "'qd1' may be any of the subsets qd1_consistent, qd1_inconsistent; use the whole name"),
    ],
)
def test_names_that_are_no_subset(short: str, message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        subset_named(uneven(tag_reliability=0.8), short)


@pytest.mark.parametrize(
    "name",
    ["", "d1", "d1-d2", "d1-to", "d1 to d2", "-to-d2", "tag1-to-", "d1-with-to-", "d1.txt", "d1-to-d2-x"],
)
def test_names_of_no_contrast(name: str) -> None:
    with pytest.raises(MechoclError, match=f"no pairs are called {name!r}; use d1-to-d2, .*or a .csv file"):
        pairs_named(task(), name, n_pairs=5, seed=0)


@pytest.mark.parametrize(
    "name", ["d9-to-d2", "d1-to-d9", "d1-to-other-d9", "d9-with-to-without", "d9-to-itself"]
)
def test_an_unknown_subset(name: str) -> None:
    with pytest.raises(MechoclError, match="'d9' names no subset of the run"):
        pairs_named(task(), name, n_pairs=5, seed=0)


@pytest.mark.parametrize(("clean", "corrupted"), [("no_data", "d1_consistent"), ("d1_consistent", "no_data")])
def test_an_empty_subset(clean: str, corrupted: str) -> None:
    with pytest.raises(MechoclError, match="no questions about no_data; choose another subset"):
        alias_pairs(task(), clean=clean, corrupted=corrupted, same_integer=True, n_pairs=5, seed=0)
    for made in (
        lambda: list_pairs(task(), subset="no_data", n_pairs=5, seed=0),
        lambda: question_pairs(task(), subsets=("d1_consistent", "no_data"), n_questions=5, seed=0),
    ):
        with pytest.raises(MechoclError, match="no questions about no_data; choose another subset"):
            made()


@pytest.mark.parametrize("name", ["tag4-to-tag1", "tag1-to-tag0", "tag1-to-tag9"])
def test_an_unknown_tag(name: str) -> None:
    with pytest.raises(MechoclError, match=r"no definitions with tag [049]; it has tags 1 to 3 at most"):
        pairs_named(task(), name, n_pairs=5, seed=0)


def test_no_partner() -> None:
    """One alias in each subset, of different integers."""
    fractions = Fractions(qd1=0.5, qd2=0.5, d1=0.0, d2=0.0, d3=0.0)
    tiny = build(IntegerSetConfig(aliases=2, integers=50, list_length=3, fractions=fractions), seed=0)
    assert tiny.table["entity"].nunique() == 2
    with pytest.raises(MechoclError, match="no question about qd1_consistent has a partner in qd2_incons"):
        pairs_named(tiny, "qd1-to-qd2", n_pairs=5, seed=0)


def test_every_integer_in_the_list() -> None:
    """A task of three integers and lists of three, made by hand."""
    whole = uneven()
    first = whole.vocabulary.integers[0]
    is_list = whole.roles == ROLE["list"]
    tokens = whole.tokens.clone()
    tokens[is_list] = first + torch.arange(3).repeat(int(is_list.sum()) // 3)
    vocabulary = replace(whole.vocabulary, integers=(first, first + 3))
    full = replace(whole, tokens=tokens, vocabulary=vocabulary, fresh=None)
    with pytest.raises(MechoclError, match="every integer is in the list, so none can replace one"):
        pairs_named(full, "qd1-with-to-without", n_pairs=3, seed=0)


# ------------------------------------------------------------------------------------------ names, word order


def test_names_of_several_tokens() -> None:
    two = uneven()
    pairs = pairs_named(two, "qd1-to-qd2", n_pairs=10, seed=0)
    assert pairs.labels == ("alias 1", "alias 2", "%", "n1", "n2", "n3", "=")
    assert torch.equal(pairs.clean[:, 2:], pairs.corrupted[:, 2:])
    rows = two.rows(kind="question", split="test", subset="qd2_inconsistent")
    names = {tuple(name) for name in two.tokens[rows][:, :2].tolist()}
    assert {tuple(name) for name in pairs.corrupted[:, :2].tolist()} <= names
    assert (pairs.clean[:, :2] != pairs.corrupted[:, :2]).any(1).all()
    assert (pairs.roles[:, :2] == ROLE_NAMES.index("alias")).all()


def test_definitions_of_names_of_several_tokens() -> None:
    pairs = pairs_named(uneven(), "tag1-to-tag2", n_pairs=10, seed=0)
    assert pairs.labels == ("tag", "alias 1", "alias 2", "%")[: len(pairs.labels)]
    assert ((pairs.clean != pairs.corrupted) == (torch.arange(len(pairs.labels)) == 0)).all()


def test_names_of_different_lengths() -> None:
    """An alias of two letters, and an integer in the place of a name."""
    for name in ("qd1-to-q_entity", "q_entity-to-qd1"):
        with pytest.raises(MechoclError, match="name their aliases by different numbers of tokens"):
            pairs_named(uneven(), name, n_pairs=5, seed=0)
    with pytest.raises(MechoclError, match="different layouts; choose subsets with names of equal length"):
        question_pairs(uneven(), subsets=("q_entity", "q_only"), n_questions=500, seed=0)


ORDERS = ("TVE", "VTE", "TEV", "EVT", "VET", "ETV")


@pytest.mark.parametrize("order", ORDERS)
def test_word_orders(order: str) -> None:
    """The tag can change the integer's prediction where it comes before it."""
    ordered = uneven(word_order=order, tokens_per_alias=1)
    if order.index("T") > order.index("E"):
        with pytest.raises(MechoclError, match="in this word order the tag comes after the entity"):
            tag_pairs(ordered, clean=1, corrupted=2, n_pairs=5, seed=0)
        return
    pairs = tag_pairs(ordered, clean=1, corrupted=2, n_pairs=5, seed=0)
    assert (pairs.read == len(pairs.labels) - 1).all()
    assert ((pairs.clean != pairs.corrupted).sum(1) == 1).all()
    tag = pairs.labels.index("tag")
    assert (pairs.clean[:, tag] != pairs.corrupted[:, tag]).all()
    assert ("alias" in pairs.labels) == (order != "TEV")


# ------------------------------------------------------------------------------------------ one's own pairs


def test_given_pairs() -> None:
    clean = torch.tensor([[1, 2, 3], [4, 5, 6]])
    pairs = given_pairs(clean, clean + 1, target=torch.tensor([7, 8]))
    assert pairs.read.tolist() == [2, 2]
    assert pairs.labels == ("0", "1", "2")
    assert pairs.foil.tolist() == pairs.alias.tolist() == [-1, -1]
    assert (pairs.roles == -1).all()


@pytest.mark.parametrize("target", [7, [7, 7], torch.tensor([7, 7])])
def test_one_token_is_that_of_all_pairs(target: object) -> None:
    clean = torch.tensor([[1, 2, 3], [4, 5, 6]])
    pairs = given_pairs(clean, clean + 1, target=target, foil=8)
    assert pairs.target.tolist() == [7, 7]
    assert pairs.foil.tolist() == [8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target": [7, 8, 9]},
            r"target has the shape \(3,\); give one token, or one for each of the 2 pairs",
        ),
        ({"read": torch.tensor([2, 3])}, "an answer is read past the end of its example"),
        ({"read": torch.tensor([-1, 2])}, "an answer is read past the end of its example"),
        ({"labels": ["a", "b"]}, "2 labels for 3 positions; give each position its own"),
        ({"labels": ["a", "b", "a"]}, "3 labels for 3 positions; give each position its own"),
    ],
)
def test_given_pairs_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    ones = torch.ones(2, 3, dtype=torch.int64)
    arguments = {"clean": ones, "corrupted": ones, "target": torch.tensor([7, 8])} | changes
    with pytest.raises(MechoclError, match=message):
        given_pairs(arguments.pop("clean"), arguments.pop("corrupted"), **arguments)


def test_no_pairs() -> None:
    none = torch.zeros(0, 3, dtype=torch.int64)
    with pytest.raises(MechoclError, match="my pairs: there are no pairs"):
        given_pairs(none, none, target=torch.zeros(0, dtype=torch.int64), name="my pairs")


def csv_of(folder: Path, text: str) -> Path:
    path = folder / "pairs.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_unequal_lengths() -> None:
    """As without the run-time check of shapes, which speaks first in the tests."""
    clean = torch.ones(2, 7)
    with pytest.raises(
        MechoclError, match=r"examples are \(2, 7\) tokens, corrupted ones \(2, 4\); patching"
    ):
        Pairs.__post_init__(SimpleNamespace(clean=clean, corrupted=clean[:, :4]))


def words(*ids: int) -> str:
    return " ".join(task().vocabulary.tokens[i] for i in ids)


def test_pairs_of_a_file(tmp_path: Path) -> None:
    """As they are written, in their order; other columns and blank lines do no harm."""
    mine = pairs_named(task(), "d1-to-other-d2", n_pairs=3, seed=0)
    lines = [
        f"{words(*a)},note,{words(*b)}, {words(t)} ,{words(f)}"
        for a, b, t, f in zip(
            mine.clean.tolist(),
            mine.corrupted.tolist(),
            mine.target.tolist(),
            mine.foil.tolist(),
            strict=True,
        )
    ]
    path = csv_of(tmp_path, "\n\n".join(["clean, note, corrupted, target, foil", *lines]))
    found = pairs_named(task(), str(path), n_pairs=100, seed=0)
    for name in ("clean", "corrupted", "target", "foil", "read"):
        assert torch.equal(getattr(found, name), getattr(mine, name))
    assert found.name == "pairs.csv"
    with pytest.warns(
        PairsCut, match="only the first 2 of its 3 pairs are used; a larger n_pairs takes more"
    ):
        assert len(pairs_named(task(), str(path), n_pairs=2, seed=0)) == 2
    path.write_text(path.read_text().replace(", foil", ", other"))
    assert (pairs_named(task(), str(path), n_pairs=100, seed=0).foil == -1).all()


def spoiled() -> dict[str, tuple[str, str]]:
    head, a, b = "clean,corrupted,target,foil\n", words(3, 4), words(4, 5)
    good = f"{a},{b},{words(1)},{words(2)}\n"
    return {
        "empty": ("", "has no column 'clean'; it needs clean, corrupted, target"),
        "no column": ("clean,corrupt,target\n", r"has no column 'corrupted'; it needs"),
        "no pairs": (head, "pairs.csv has no pairs"),
        "unknown": (head + good + f"{a},{words(4)} xyz,{words(1)},{words(2)}\n", "line 3: 'xyz' is not a token"),
        "unknown target": (head + good + good + f"{a},{b},xyz,{words(2)}\n", "line 4: 'xyz' is not a token"),
        "after a blank line": (head + "\n" + f"{a},{b},xyz,{words(2)}\n", "line 3: 'xyz' is not a token"),
        "longer": (head + good + f"{a},{words(4, 5, 6)},{words(1)},{words(2)}\n", "line 3: corrupted has 3 tokens and needs 2"),
        "corrupted longer": (head + f"{a},{words(4, 5, 6)},{words(1)},{words(2)}\n", "line 2: corrupted has 3 tokens and needs 2"),
        "second example longer": (
            head + good + f"{words(4, 5, 6)},{words(4, 5, 6)},{words(1)},{words(2)}\n",
            "line 3: clean has 3 tokens and needs 2",
        ),
        "no clean example": (head + f",{b},{words(1)},{words(2)}\n", "line 2: clean has 0 tokens and needs 1"),
        "two targets": (head + f"{a},{b},{words(1, 2)},{words(2)}\n", "line 2: target has 2 tokens and needs 1"),
        "no target": (head + f"{a},{b},,{words(2)}\n", "line 2: target has 0 tokens and needs 1"),
        "a foil missing": (head + good + f"{a},{b},{words(1)},\n", "line 3: foil has 0 tokens and needs 1"),
        "a short line": (head + good + f"{a},{b}\n", "line 3: target has 0 tokens and needs 1"),
        "an extra cell": (head + good + good[:-1] + ",more\n", "line 3: it has more cells than the header has columns, the first one 'more'"),
        "the same examples": (head + good + f"{a},{a},{words(1)},{words(2)}\n", "line 3: clean and corrupted are the same"),
        "the same answers": (head + "\n" + good + f"{a},{b},{words(1)},{words(1)}\n", "line 4: target and foil are the same"),
        "too long": (
            head + f"{words(*range(3, 15))},{words(*range(4, 16))},{words(1)},{words(2)}\n",
            f"line 2: clean has 12 tokens, and the run's examples have at most {task().n_ctx}; shorten",
        ),
    }  # fmt: skip


@pytest.mark.parametrize("kind", spoiled())
def test_files_that_cannot_be_used(kind: str, tmp_path: Path) -> None:
    text, message = spoiled()[kind]
    path = csv_of(tmp_path, text)
    with pytest.raises(MechoclError, match=message) as raised:
        pairs_named(task(), str(path), n_pairs=5, seed=0)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By their paths, and only where two have one name; the same pairs are named once."""
    a, b, c = (str(tmp_path / name) for name in ("a/mine.csv", "b/mine.csv", "b/other.csv"))
    assert contrast_names(["d1-to-d2", a, b, c]) == ("d1-to-d2", a, b, "other.csv")
    assert contrast_names([a, c]) == ("mine.csv", "other.csv")
    for config in (PatchingConfig, CircuitConfig):
        for twice in (("d1-to-d2", "d1-to-d2"), (a, str(tmp_path / "b/../a/mine.csv"))):
            with pytest.raises(MechoclError, match=r"pairs has .* twice; name each once"):
                config(pairs=twice)
    head, x, y = "clean,corrupted,target,foil\n", words(3, 4), words(4, 5)
    for path, line in ((a, f"{x},{y},{words(1)},{words(2)}"), (b, f"{y},{x},{words(1)},{words(2)}")):
        Path(path).parent.mkdir()
        Path(path).write_text(head + line)
    model = planted_model(task(), Mechanism())
    table = patch(model, task(), PatchingConfig(pairs=(a, b), site=("resid_post",)))
    assert table.groupby("contrast", sort=False).size().index.tolist() == [a, b]


def test_a_cut_of_a_file_is_said(tmp_path: Path) -> None:
    """With the option that lifts it, which does."""
    line = f"{words(3, 4)},{words(4, 5)},{words(1)},{words(2)}\n"
    path = str(csv_of(tmp_path, "clean,corrupted,target,foil\n" + 336 * line))
    say = partial(say_cuts, task(), ("d1-to-d2", path))
    assert say(n_pairs=200, most=200) == [f"{path}: only the first 200 of its 336 pairs are used; n_pairs=336 takes all of them"]  # fmt: skip
    assert say(n_pairs=100, most=200, option="--n-pairs ") == [f"{path}: only the first 200 of its 336 pairs are used; --n-pairs 168 takes all of them"]  # fmt: skip
    assert say(n_pairs=336, most=336) == say(n_pairs=168, most=2 * 168) == []


# ------------------------------------------------------------------------------------------ padding


def test_padding_is_moved_behind_the_examples() -> None:
    """The same answers as without padding, on whichever side it stands."""
    whole = pairs_named(task(), "d1-to-other-d2", n_pairs=4, seed=0)
    length, pad = whole.clean.shape[1], torch.zeros(4, 2, dtype=torch.int64)
    mask = torch.ones(4, length + 2, dtype=torch.bool)
    model = planted_model(task(), Mechanism())
    base = patch_activations(model, whole, sites=["z"], by="all")
    for left in (True, False):
        clean, corrupted = (
            torch.cat([pad, side] if left else [side, pad], 1) for side in (whole.clean, whole.corrupted)
        )
        kept = mask.clone()
        kept[:, slice(0, 2) if left else slice(length, None)] = False
        given = partial(given_pairs, clean, corrupted, target=whole.target, foil=whole.foil)
        padded = given(mask=kept)
        assert padded.read.tolist() == [length - 1] * 4
        assert torch.equal(padded.clean, whole.clean)
        found = patch_activations(model, padded, sites=["z"], by="all")
        assert (found.clean, found.corrupted) == pytest.approx((base.clean, base.corrupted), abs=1e-5)
        np.testing.assert_allclose(found.per_pair, base.per_pair, atol=1e-5)
    with pytest.raises(
        MechoclError,
        match=r"example 0 begins with token 0 2 times, as if it were padded on the left.*; give mask",
    ):
        given_pairs(torch.cat([pad, whole.clean], 1), torch.cat([pad, whole.corrupted], 1), target=whole.target)  # fmt: skip
    behind = [torch.cat([side, pad], 1) for side in (whole.clean, whole.corrupted)]
    with pytest.raises(MechoclError, match=r"example 0 ends with token 0 2 times.*padded on the right.*; give read, or mask"):  # fmt: skip
        given_pairs(*behind, target=whole.target)
    read = torch.full((4,), length - 1)
    assert given_pairs(*behind, target=whole.target, read=read).read.tolist() == read.tolist()
    as_it_is = given_pairs(torch.cat([pad, whole.clean], 1), torch.cat([pad, whole.corrupted], 1), target=whole.target, mask=mask)  # fmt: skip
    assert as_it_is.read.tolist() == [length + 1] * 4


def test_masks_that_make_no_sense() -> None:
    tokens = torch.tensor([[3, 4, 5, 6], [4, 5, 6, 7]])
    given = partial(given_pairs, tokens, tokens, target=torch.tensor([1, 2]))
    hole = torch.tensor([[True] * 4, [True, False, True, True]])
    with pytest.raises(MechoclError, match="the mask of pair 1 has padding inside the example"):
        given(mask=hole)
    with pytest.raises(MechoclError, match="the mask of pair 0 has padding inside the example, or no token"):
        given(mask=torch.zeros(2, 4, dtype=torch.bool))
    with pytest.raises(MechoclError, match="leave out read"):
        given(mask=torch.ones(2, 4, dtype=torch.bool), read=torch.tensor([1, 2]))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "latin.csv").write_bytes("clean,corrupted,target\né,é,é".encode("latin-1"))
    for name in ("none.csv", "folder.csv", "latin.csv"):
        message = "does not exist; give" if name == "none.csv" else "cannot be read as CSV"
        with pytest.raises(MechoclError, match=f"{name} {message}") as raised:
            pairs_named(task(), str(tmp_path / name), n_pairs=5, seed=0)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["read", "target", "foil", "alias", "contains"])
@pytest.mark.parametrize("shape", [(1,), (5,), (0,), (), (3, 1)])
def test_pairs_have_one_value_for_each(name: str, shape: tuple[int, ...]) -> None:
    """One alone would not be meant for all, and what is left over belongs to no pair. Without the tests' own check of shapes."""
    tokens = torch.arange(12).reshape(3, 4)
    whole = given_pairs(tokens, tokens + 1, target=torch.ones(3, dtype=torch.long))
    bare = object.__new__(Pairs)
    for field in fields(Pairs):
        value = torch.ones(shape, dtype=torch.long) if field.name == name else getattr(whole, field.name)
        object.__setattr__(bare, field.name, value)
    with pytest.raises(MechoclError) as caught:
        bare.__post_init__()
    assert f"given pairs: {name} has the shape {shape} for 3 pairs; give one value" in str(caught.value)
