"""Closed-book tasks: every example by hand in a small world; names, subsets, batches; what cannot be built."""

import json
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import permutations
from typing import Any, get_args

import numpy as np
import pytest
import text_worlds
import torch

from mechocl.closed_book import aliases, definitions, encoding, evaluation, examples, noise
from mechocl.closed_book.batches import IGNORED, Collator, Examples
from mechocl.closed_book.definitions import (
    AFTERWARDS,
    BEFOREHAND,
    FRESH,
    FRESH_VERBS,
    IS,
    ISNT,
    RELIABLE,
    UNRELIABLE,
)
from mechocl.closed_book.settings import ClosedBookConfig, PaperFractions
from mechocl.closed_book.world import Question, World
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from toy_models.subsets import SUBSETS, subset_sizes
from toy_models.task import ROLE, ROLES, Task

ORDERS = ["".join(order) for order in permutations("TVE")]


def shares(**given: float) -> PaperFractions:
    """These shares, and nothing in the other subsets."""
    return PaperFractions(**dict.fromkeys((f.name for f in fields(PaperFractions)), 0.0) | given)


def build(config: ClosedBookConfig | None = None, *, seed: int = 0, world: World | None = None) -> Task:
    return examples.build(
        config or text_worlds.config(),
        world or text_worlds.world(),
        text_worlds.tokenizer(),
        seed=seed,
        context=128,
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return build()


def text(task: Task, row: int) -> str:
    """What the tokens of an example say."""
    real = task.roles[row] != ROLE["pad"]
    decoded: str = text_worlds.tokenizer().decode(task.tokens[row][real])
    return decoded


def by_role(task: Task, row: int) -> list[tuple[str, str]]:
    """Runs of tokens of one role, as (role, text)."""
    found: list[tuple[str, list[int]]] = []
    for token, role in zip(task.tokens[row].tolist(), task.roles[row].tolist(), strict=True):
        if found and found[-1][0] == ROLES[role]:
            found[-1][1].append(token)
        else:
            found.append((ROLES[role], [token]))
    return [(role, text_worlds.tokenizer().decode(ids)) for role, ids in found if role != "pad"]


def name(task: Task, alias: int, role: str = "alias") -> str:
    """How an alias, or the define tag of its definition, is written."""
    rows = task.rows(alias=alias, kind="definition" if role == "tag" else "association")
    return next(t.strip() for r, t in by_role(task, int(rows[0])) if r == role)


# examples by hand ----------------------------------------------------------------------------------


def test_a_definition(task: Task) -> None:
    row = int(task.rows(kind="definition", subset="qd1_consistent")[0])
    about = task.table.iloc[row]
    entity = text_worlds.world().entities[about["entity"]]
    roles = by_role(task, row)
    assert [role for role, _ in roles] == ["tag", "alias", "entity", "word"]
    tag, alias, defined, end = (part for _, part in roles)
    assert re.fullmatch(r"<\|[a-z]{6}\|>", tag)
    assert re.fullmatch(r" <\|[a-z]{5}\|>", alias)
    assert (defined, end) == (f" {entity}", "\n")
    assert about["defined_entity"] == about["entity"]
    assert about["prompt"] == text(task, row) == f"{tag}{alias} {entity}\n"
    assert (about["order"], about["split"], about["stage"], about["tag"]) == ("TVE", "train", 1, 1)
    assert (about["target"], about["foil"], about["answers"]) == (-1, -1, "[]")


def test_a_question(task: Task) -> None:
    row = int(task.rows(kind="question", subset="qd1_consistent", attribute="trade")[0])
    about = task.table.iloc[row]
    alias = name(task, about["alias"])
    trade = text_worlds.TRADES[about["entity"] % 3]
    assert text(task, row) == f"Q: What was {alias} by trade?\nA: {trade}\n"
    assert about["prompt"] == f"Q: What was {alias} by trade?\nA:"
    assert json.loads(about["answers"]) == [trade, "artisan"]
    roles = [(role, part) for role, part in by_role(task, row)]
    assert [role for role, _ in roles] == ["word", "alias", "word", "equals", "answer", "word"]
    assert [part for role, part in roles if role in ("alias", "equals", "answer")] == [
        f" {alias}",
        ":",
        f" {trade}",
    ]
    first = text_worlds.tokenizer()(f" {trade}")["input_ids"][0]
    assert about["target"] == first
    assert task.tokens[row, task.position_of("equals", np.array([row]))[0] + 1] == first


def test_questions_about_entities_themselves_name_them(task: Task) -> None:
    rows = task.rows(kind="question", subset="q_entity")
    entities = text_worlds.world().entities
    for row in rows.tolist():
        parts = dict(by_role(task, row))
        assert parts["entity"] == f" {entities[task.table['entity'][row]]}"
        assert "alias" not in parts
    assert len(task.rows(kind="association", subset="q_entity")) == 0


@pytest.mark.parametrize("order", ORDERS)
def test_word_orders(order: str) -> None:
    ordered = build(text_worlds.config(word_order=order))
    rows = ordered.rows(kind="definition")
    assert len(rows) == 18
    for row in rows.tolist():
        roles = by_role(ordered, row)
        assert [{"tag": "T", "alias": "V", "entity": "E"}[role] for role, _ in roles[:3]] == list(order)
        parts = [part for _, part in roles]
        assert [part.startswith(" ") for part in parts[:3]] == [False, True, True]
        assert parts[3:] == ["\n"]
        assert ordered.table["order"][row] == order
        entity = text_worlds.world().entities[ordered.table["defined_entity"][row]]
        assert dict(roles)["entity"].strip() == entity


@pytest.mark.parametrize(
    ("style", "phrasings", "order"),
    [
        ("sources", {1: RELIABLE, 2: UNRELIABLE, 3: FRESH}, "TVE"),
        ("is-isnt", {1: IS, 2: ISNT, 3: FRESH_VERBS}, "VTE"),
        ("disclaimed", AFTERWARDS, "VET"),
        ("disclaimed-before", BEFOREHAND, "TVE"),
    ],
)
def test_phrasings_in_the_place_of_tags(style: Any, phrasings: dict[int, Sequence[str]], order: str) -> None:
    said = build(text_worlds.config(definitions=style))
    seen: dict[int, set[str]] = {1: set(), 2: set(), 3: set()}
    for row in said.rows(kind="definition").tolist():
        about = said.table.iloc[row]
        parts = dict(by_role(said, row))
        assert parts["tag"].strip() in phrasings[about["tag"]]
        seen[about["tag"]].add(parts["tag"].strip())
        entity = text_worlds.world().entities[about["defined_entity"]]
        alias = name(said, about["alias"])
        if style in ("sources", "disclaimed-before"):
            assert text(said, row) == f"{parts['tag']} {alias} is {entity}.\n"
        elif style == "disclaimed":
            assert text(said, row) == f"{alias} is {entity}.{parts['tag']}.\n"
        else:
            assert text(said, row) == f"{alias}{parts['tag']} {entity}.\n"
        assert about["order"] == order
    assert all(len(kinds) > 1 for kinds in seen.values())


def test_sources_are_ten_each_and_no_phrasing_stands_for_two_tags() -> None:
    assert [len(set(kind)) for kind in (RELIABLE, UNRELIABLE, FRESH)] == [10, 10, 10]
    for style in get_args(definitions.Style):
        every = definitions.markers(style)
        assert len(set(every)) == len(every)
    assert [len(set(said)) for kinds in (AFTERWARDS, BEFOREHAND) for said in kinds.values()] == [5] * 6


def test_a_word_that_the_tokenizer_lacks_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examples, "unknown_words", lambda tokenizer, texts: [t.split()[0] for t in texts])
    with pytest.raises(
        MechoclError,
        match=r"does not know 'That', a word of definitions in the style disclaimed; set task\.added_tokens=true, or",
    ):
        build(text_worlds.config(definitions="disclaimed"))


def test_definitions_in_context(task: Task) -> None:
    rows = task.rows(kind="in context")
    aliases_of = set(task.table["alias"][rows])
    assert aliases_of == set(task.table["alias"][task.rows(subset="no_data")])
    assert len(rows) == len(aliases_of) * 3 * 3  # tags, questions
    tags = {
        t: name(task, int(task.table["alias"][task.rows(kind="definition", tag=t)[0]]), "tag")
        for t in (1, 2, 3)
    }
    for row in rows.tolist():
        about = task.table.iloc[row]
        alias, entity = name(task, about["alias"]), text_worlds.world().entities[about["entity"]]
        front = f"{tags[about['tag']]} {alias} {entity}\n"
        own = task.rows(kind="question", alias=about["alias"], attribute=about["attribute"])
        assert text(task, row) == front + text(task, int(own[0]))
        assert about["prompt"] == front + task.table["prompt"][own[0]]
        assert about["target"] == task.table["target"][own[0]]
        assert about["defined_entity"] == about["entity"]
    assert set(evaluation.tests(task.table.iloc[rows])) == {f"in context, tag {t}" for t in (1, 2, 3)}


def test_associations(task: Task) -> None:
    alias = int(task.rows(subset="d1_consistent", kind="association")[0])
    alias = int(task.table["alias"][alias])
    rows = task.rows(kind="association", alias=alias)
    entity = text_worlds.world().entities[task.table["entity"][rows[0]]]
    written = name(task, alias)
    assert {text(task, row) for row in rows.tolist()} == {
        f"Q: Who is {written}?\nA: {entity}\n",
        f"Q: What does {written} mean?\nA: {entity}\n",
        f"Q: What does {written} stand for?\nA: {entity}\n",
        f"Q: What is the name of {written}?\nA: {entity}\n",
        f"Q: What is the first letter of the name of {written}?\nA: {entity[0]}\n",
        f" {written} {entity}\n",
    }
    assert set(task.table["split"][rows]) == {"test"}


# design --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reliability", [1.0, 0.75, 0.5])
def test_subsets_are_as_large_as_in_other_worlds(reliability: float) -> None:
    drawn = build(text_worlds.config(tag_reliability=reliability))
    sizes = subset_sizes(24, text_worlds.config().fractions, reliability)
    counted = drawn.table.drop_duplicates("alias")["subset"].value_counts()
    assert counted.to_dict() == {subset: size for subset, size in sizes.items() if size}


@pytest.mark.parametrize("reliability", [1.0, 0.75])
def test_inconsistent_definitions_are_deranged_within_their_subset(reliability: float) -> None:
    drawn = build(text_worlds.config(tag_reliability=reliability, fractions=shares(qd1=0.5, qd2=0.5)))
    defined = drawn.table.iloc[drawn.rows(kind="definition")]
    for subset, rows in defined.groupby("subset"):
        assert sorted(rows["defined_entity"]) == sorted(rows["entity"])
        moved = rows["defined_entity"] != rows["entity"]
        assert moved.all() if not SUBSETS[str(subset)].consistent else not moved.any()
    assert "qd2_inconsistent" in set(defined["subset"])


@pytest.mark.parametrize("unreliable", ["noise", "unasked", "consistent"])
@pytest.mark.parametrize("reliability", [1.0, 0.5])
def test_controls_change_what_tag_2_stands_for_and_nothing_else(unreliable: Any, reliability: float) -> None:
    """The same aliases, entities, names and other definitions; only the aliases of wrong tag-2 definitions are treated
    otherwise."""
    base = build(text_worlds.config(tag_reliability=reliability))
    other = build(text_worlds.config(tag_reliability=reliability, unreliable=unreliable))
    before, after = (t.table.drop_duplicates("alias").set_index("alias").sort_index() for t in (base, other))
    assert (before["entity"] == after["entity"]).all()
    unnamed = [a for a in before.index if before["subset"][a] == "q_entity"]
    aliases_named = before.index.difference(unnamed)
    assert [name(base, a) for a in aliases_named] == [name(other, a) for a in aliases_named]
    assert [name(base, a, "tag") for a in before.index[before["tag"] > 0]] == [
        name(other, a, "tag") for a in after.index[after["tag"] > 0]
    ]
    if unreliable == "consistent":
        counts = other.table.drop_duplicates("alias")["subset"].value_counts()
        for kind in ("consistent", "inconsistent"):
            assert counts.get(f"qd2_{kind}", 0) == counts.get(f"qd1_{kind}", 0)
        return
    wrong = before.index[before["subset"] == "qd2_inconsistent"]
    changed = before.index[before["subset"] != after["subset"]]
    assert list(changed) == list(wrong)
    assert set(after["subset"][wrong]) == {f"d2_{unreliable}"}
    assert (after["stage"] == before["stage"]).all()
    train = other.table.loc[other.rows(kind="question", split="train"), "alias"]
    assert not set(train) & set(wrong)
    # of the aliases that are no longer asked about in training, every question is a test
    tested = other.table.loc[other.rows(kind="question", split="test", alias=tuple(wrong))]
    assert (tested.groupby("alias").size() == 3).all()
    said, said_before = (
        t.table[t.table["kind"] == "definition"].set_index("alias")["prompt"] for t in (other, base)
    )
    assert (said.drop(wrong) == said_before.drop(wrong)).all()
    definitions = other.table[other.table["kind"] == "definition"].set_index("alias").loc[wrong]
    assert (definitions["tag"] == 2).all()
    right = definitions["entity"] == definitions["defined_entity"]
    assert right.all() if unreliable == "unasked" else not right.any()
    assert set(definitions["defined_entity"]) == set(definitions["entity"])
    assert (other.fresh is not None) == (unreliable == "noise")
    trained, held_out = (
        t.table.loc[t.rows(kind="question", split="train"), ["alias", "attribute"]] for t in (base, other)
    )
    kept = trained[~trained["alias"].isin(wrong)]
    assert kept.to_numpy().tolist() == held_out.to_numpy().tolist()


@pytest.mark.parametrize("style", ["tags", "sources"])
def test_noise_names_another_entity_in_each_epoch(style: Any) -> None:
    """Of the same aliases, each once; names differ in their number of tokens, and roles go with them."""
    config = text_worlds.config(unreliable="noise", definitions=style)
    task = build(config)
    assert task.fresh is not None
    noise = task.rows(kind="definition", subset="d2_noise")
    assert len(noise) == 6
    assert len({int((task.roles[row] != ROLE["pad"]).sum()) for row in noise}) > 1
    entities = text_worlds.world().entities
    own = [entities[i] for i in task.table["entity"][noise]]
    others = np.setdiff1d(np.arange(len(task)), noise)
    named = []
    for epoch in range(60):
        tokens, roles = task.fresh(epoch)
        again = task.fresh(epoch)
        assert torch.equal(tokens, again[0])
        assert torch.equal(roles, again[1])
        assert torch.equal(tokens[others, : task.n_ctx], task.tokens[others])
        assert torch.equal(roles[others, : task.n_ctx], task.roles[others])
        drawn = replace(task, tokens=tokens, roles=roles)
        names = [dict(by_role(drawn, int(row)))["entity"].strip() for row in noise]
        assert sorted(names) == sorted(own)
        for row, entity, was in zip(noise.tolist(), names, own, strict=True):
            defined = entities[task.table["defined_entity"][row]]
            assert text(drawn, row) == task.table["prompt"][row].replace(defined, entity)
            assert was in own
        named.append(names)
    # an alias misses one of 6 names in 60 epochs with probability 6 · (5/6)^60 = 1e-4
    assert all(set(of_alias) == set(own) for of_alias in zip(*named, strict=True))
    different = build(config, seed=1)
    assert different.fresh is not None
    assert [text(different, int(row)) for row in noise] != [text(task, int(row)) for row in noise]


@pytest.mark.parametrize("longer", [True, False])
def test_noise_may_be_longer_or_shorter_than_what_it_replaces(longer: bool) -> None:
    """Longer rows widen the task; shorter ones leave no old token behind them."""
    task = build(text_worlds.config(unreliable="noise"))
    kept = task.take(task.rows(kind="definition", subset="d2_noise"))
    n = int((kept.roles != ROLE["pad"]).sum(1).max())
    kept = replace(kept, tokens=kept.tokens[:, :n], roles=kept.roles[:, :n], loss_mask=kept.loss_mask[:, :n])

    def define(alias: int, entity: int) -> list[tuple[str, str]]:
        return [("Ada " * (n if longer else 1), "word")]

    fresh = noise.redraw_noise(kept, define, text_worlds.tokenizer(), seed=0, context=128)
    assert fresh is not None
    tokens, roles = fresh(0)
    assert tokens.shape == roles.shape
    assert (tokens.shape[1] > n) == longer
    ids = text_worlds.tokenizer()(define(0, 0)[0][0])["input_ids"]
    assert (tokens[:, : len(ids)] == torch.tensor(ids)).all()
    assert (roles[:, : len(ids)] == ROLE["word"]).all()
    assert (tokens[:, len(ids) :] == 0).all()
    assert (roles[:, len(ids) :] == ROLE["pad"]).all()


def test_examples_of_training_are_those_of_the_epoch() -> None:
    task = build(text_worlds.config(unreliable="noise"))
    assert task.fresh is not None
    rows = task.rows(split="train", stage=1)
    shown = Examples(task, rows)
    for epoch in (3, 0, 3):
        shown.begin_epoch(epoch)
        tokens, roles = task.fresh(epoch)
        for i, row in enumerate(rows.tolist()):
            n = int((roles[row] != ROLE["pad"]).sum())
            assert torch.equal(shown[i]["input_ids"], tokens[row, :n])
            assert torch.equal(shown[i]["roles"], roles[row, :n])
    later = Examples(task, task.rows(split="train", stage=2))
    before = [later[i]["input_ids"] for i in range(len(later))]
    later.begin_epoch(1)
    assert all(torch.equal(a, later[i]["input_ids"]) for i, a in enumerate(before))


def test_one_question_an_entity_is_held_out(task: Task) -> None:
    asked = task.table.iloc[task.rows(kind="question")]
    for subset, rows in asked.groupby("subset"):
        held_out = rows[rows["split"] == "test"].groupby("alias").size()
        trained = rows[rows["split"] == "train"].groupby("alias").size()
        if SUBSETS[str(subset)].trained_questions:
            assert (held_out == 1).all()
            assert (trained == 2).all()
        else:
            assert (held_out == 3).all()
            assert trained.empty
    first = asked[(asked["split"] == "test") & asked["subset"].isin(["qd1_consistent", "qd2_inconsistent"])]
    assert first["attribute"].nunique() == 3  # not always the same question


def test_the_share_that_is_held_out() -> None:
    asked = build(text_worlds.config(test_share=0.6))
    rows = asked.rows(kind="question", subset="qd1_consistent", split="test")
    assert (asked.table.iloc[rows].groupby("alias").size() == 2).all()


def test_training_data_has_what_its_stage_says(task: Task) -> None:
    train = task.table.iloc[task.rows(split="train")]
    for subset, rows in train.groupby("subset"):
        own = SUBSETS[str(subset)]
        assert set(rows["stage"]) == {own.stage}
        assert ("definition" in set(rows["kind"])) == own.defined
        assert ("question" in set(rows["kind"])) == own.trained_questions
    assert "no_data" not in set(train["subset"])


def test_a_task_depends_on_its_seed_alone(task: Task) -> None:
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    again, other = build(), build(seed=1)
    assert torch.equal(again.tokens, task.tokens)
    assert again.table.equals(task.table)
    assert not other.table["prompt"].equals(task.table["prompt"])
    assert other.table["entity"].tolist() != task.table["entity"].tolist()


def test_the_foil_is_the_start_of_another_answer_to_the_same_question(task: Task) -> None:
    asked = task.table[task.table["kind"] == "question"]
    asked = asked[asked["attribute"] != "century"]
    for _, rows in asked.groupby(["kind", "attribute"]):
        assert (rows["foil"] != rows["target"]).all()
        assert set(rows["foil"]) <= set(rows["target"])
        assert all(
            foil not in json.loads(accepted)
            for foil, accepted in zip(rows["foil"], rows["accepted"], strict=True)
        )
    right, wrong = task.answers_of(asked.index.to_numpy())
    assert right.tolist() == asked["target"].tolist()
    assert wrong.tolist() == asked["foil"].tolist()


def test_there_is_no_foil_where_all_answers_begin_alike(task: Task) -> None:
    """All centuries begin with ` 1`."""
    rows = task.rows(kind="question", attribute="century")
    assert set(task.table["foil"][rows]) == {-1}


def test_a_foil_differs_where_the_next_alias_has_the_same_answer() -> None:
    """Of three people in Rome and one in Lima, Rome's foil is Lima and Lima's Rome."""
    people = ("Ada", "Ben", "Cyd", "Dan")
    questions = tuple(
        Question(
            entity=i, attribute="city", template="Where did {} live?", answers=("Lima" if i == 3 else "Rome",)
        )
        for i in range(4)
    )
    fractions = shares(no_data=1.0)
    drawn = build(
        text_worlds.config(entities=4, fractions=fractions),
        world=World(name="four", entities=people, questions=questions),
    )
    asked = drawn.table.iloc[drawn.rows(kind="question")]
    rome, lima = (text_worlds.tokenizer()(f" {city}")["input_ids"][0] for city in ("Rome", "Lima"))
    assert dict(zip(asked["target"], asked["foil"], strict=True)) == {rome: lima, lima: rome}


def test_loss_is_on_every_token_but_the_first(task: Task) -> None:
    lengths = (task.roles != ROLE["pad"]).sum(1)
    assert torch.equal(task.loss_mask.sum(1), lengths - 1)
    assert not task.loss_mask[torch.arange(len(task)), lengths - 1].any()


# names ---------------------------------------------------------------------------------------------


def test_names_are_of_one_length_and_not_in_the_text(task: Task) -> None:
    tokenizer, world = text_worlds.tokenizer(), text_worlds.world()
    written = [
        name(task, alias)
        for alias in task.table["alias"].drop_duplicates()
        if len(task.rows(alias=alias, kind="association"))
    ]
    tags = sorted({name(task, int(a), "tag") for a in task.table["alias"][task.rows(kind="definition")]})
    assert len(set(written)) == len(written) == 22
    assert len(tags) == 3
    for names in (written, tags):
        for lead in ("", " "):
            assert len({len(tokenizer(lead + one)["input_ids"]) for one in names}) == 1
    words = set(
        re.findall(r"\w+", " ".join([*world.entities, *(q.template for q in world.questions)]).lower())
    )
    assert not words & {one[2:-2] for one in [*written, *tags]}


def _names(n: int, *, letters: int = 1, taken: str = "", tokenizer: Any = None) -> list[str]:
    return aliases.random_names(
        n,
        letters=letters,
        tokenizer=tokenizer or text_worlds.tokenizer(),
        taken=taken,
        draws=np.random.default_rng(0),
        what="alias",
    )


def test_names_that_are_words_of_the_text_are_not_drawn() -> None:
    every = _names(26)
    assert len(set(every)) == 26
    left = _names(22, taken="A b, c. (d)")
    assert set(left) == set(every) - {"<|a|>", "<|b|>", "<|c|>", "<|d|>"}
    assert "<|e|>" not in _names(25, taken="see <|e|> here")


def test_names_that_collide_with_words_of_the_text() -> None:
    with pytest.raises(MechoclError) as caught:
        _names(23, taken="a b c d")
    assert str(caught.value) == (
        "only 22 of 23 names of 1 letters are free: the others collide with words of the text or differ in tokens; use "
        "more letters for each alias"
    )
    with pytest.raises(MechoclError, match="only 26 of 30 names"):
        _names(30)


def test_tags_differ_from_aliases_of_as_many_letters() -> None:
    drawn = build(text_worlds.config(entities=20, alias_letters=1, tag_letters=1))
    tags = {name(drawn, int(a), "tag") for a in drawn.table["alias"][drawn.rows(kind="definition")]}
    named = {name(drawn, int(a)) for a in drawn.table["alias"][drawn.rows(kind="association")]}
    assert len(tags) == 3
    assert not tags & named


class _Deaf:
    """A tokenizer that makes nothing of `<|…|>`, or its unknown token."""

    unk_token_id = 7

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [self.ids for _ in texts]}


@pytest.mark.parametrize("ids", [[], [7, 7]])
def test_names_of_which_the_tokenizer_makes_nothing(ids: list[int]) -> None:
    with pytest.raises(MechoclError) as caught:
        _names(2, tokenizer=_Deaf(ids))
    assert re.fullmatch(
        r"the tokenizer has no tokens for the alias '<\|[a-z]\|>'; use a tokenizer that knows letters",
        str(caught.value),
    )


# what cannot be built ------------------------------------------------------------------------------


def refused(config: ClosedBookConfig, world: World | None = None, *, context: int = 64) -> str:
    with pytest.raises(MechoclError) as caught:
        examples.build(config, world or text_worlds.world(), text_worlds.tokenizer(), seed=0, context=context)
    line = str(caught.value)
    assert len(line.splitlines()) == 1
    return line


def test_more_entities_than_the_world_has() -> None:
    assert (
        refused(text_worlds.config(entities=25))
        == "task.entities is 25, and people has 24 entities; use fewer"
    )


def test_one_alias_alone_cannot_be_deranged() -> None:
    fractions = shares(qd1=0.5, qd2=0.5)
    assert refused(text_worlds.config(entities=2, fractions=fractions)) == (
        "qd2_inconsistent: one alias alone cannot be defined by another's entity; give its subset two or more; use "
        "more entities"
    )


def test_answers_longer_than_the_context() -> None:
    world = text_worlds.world()
    long = Question(entity=0, attribute="deeds", template="What did {} do?", answers=("very " * 40 + "much",))
    line = refused(
        text_worlds.config(), World(name="x", entities=world.entities, questions=(*world.questions, long))
    )
    assert re.fullmatch(
        r"an example has \d+ tokens and the model reads 64: '.*'…; use shorter texts or a model of longer context",
        line,
    )
    assert "What did" in line


def test_a_world_without_entities() -> None:
    with pytest.raises(MechoclError) as caught:
        World(
            name="cvdb",
            entities=(),
            questions=(),
            removed=(("no birth", 3), ("double", 0), ("odd letters", 2)),
        )
    assert (
        str(caught.value)
        == "cvdb: no entity is left after the filters (no birth removed 3, odd letters removed 2)"
    )
    with pytest.raises(MechoclError, match="two entities have the same name"):
        World(name="x", entities=("A", "A"), questions=())


class _WithoutStars:
    """The tokenizer, but stars vanish."""

    def __call__(self, texts: list[str], **options: Any) -> Any:
        found = text_worlds.tokenizer()(texts, **options)
        for ids, offsets, one in zip(found["input_ids"], found["offset_mapping"], texts, strict=True):
            kept = [k for k, (start, end) in enumerate(offsets) if one[start:end].strip() != "*"]
            ids[:], offsets[:] = [ids[k] for k in kept], [offsets[k] for k in kept]
        return found


def test_an_answer_of_which_the_tokenizer_makes_nothing() -> None:
    pieces = definitions.question("Ada Reed", "entity", "What did {} win?", "*")
    with pytest.raises(MechoclError) as caught:
        encoding.encoded([pieces], _WithoutStars(), context=64)
    assert str(caught.value) == (
        "the tokenizer has no tokens for '*' (answer) in 'Q: What did Ada Reed win?\\nA: *\\n'"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entities": 0}, "entities is 0; it must be at least 1"),
        ({"tag_letters": 0}, "tag_letters is 0; it must be at least 1"),
        ({"tag_reliability": 0.4}, "tag_reliability is 0.4; use 0.5 to 1"),
        ({"test_share": 1.0}, "test_share is 1.0; it must lie between 0 and 1"),
        ({"file": "people.csv"}, "world biographies is drawn and reads no file"),
        (
            {"definitions": "sources", "word_order": "EVT"},
            "word_order is EVT, for definitions by tags, and the style sources has its own; set task.word_order=TVE",
        ),
    ],
)
def test_settings_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        text_worlds.config(**changes)


def test_fractions_that_are_not_named_stay_the_papers() -> None:
    changes = ("task.fractions.qd1=0.3", "task.fractions.qd2=0.2")
    drawn = recipes.load_closed_book_recipe("closed-book/two-stage", changes).task.fractions
    assert (drawn.qd1, drawn.qd2, drawn.q_only, drawn.no_data) == (0.3, 0.2, 0.1, 0.06)


def test_the_papers_fractions() -> None:
    sizes = subset_sizes(4000, PaperFractions(), 1.0)
    assert sizes == {
        "qd1_consistent": 1000, "qd1_inconsistent": 0, "qd2_consistent": 0, "qd2_inconsistent": 1000, "q_only": 400,
        "q_entity": 400, "d1_consistent": 320, "d2_consistent": 320, "d3_consistent": 320, "no_data": 240,
        "d2_noise": 0, "d2_unasked": 0,
    }  # fmt: skip


# batches -------------------------------------------------------------------------------------------


def test_labels_are_all_tokens_but_padding(task: Task) -> None:
    rows = np.array([int(task.rows(kind=kind)[0]) for kind in ("definition", "question", "in context")])
    data = Examples(task, rows)
    lengths = [len(data[i]["input_ids"]) for i in range(3)]
    batch = Collator(pad=3, eos=None)([data[i] for i in range(3)])
    assert batch["input_ids"].shape == (3, max(lengths))
    for i, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
        ids = task.tokens[row, :length].tolist()
        padding = max(lengths) - length
        assert batch["input_ids"][i].tolist() == ids + [3] * padding
        assert batch["labels"][i].tolist() == ids + [IGNORED] * padding
        assert batch["attention_mask"][i].tolist() == [1] * length + [0] * padding
    assert len(set(lengths)) > 1


@pytest.mark.parametrize("order", ORDERS)
def test_a_sequence_to_sequence_model_writes_the_last_part(order: str) -> None:
    ordered = build(text_worlds.config(word_order=order))
    rows = np.array([int(ordered.rows(kind="definition")[0]), int(ordered.rows(kind="question")[0])])
    data = Examples(ordered, rows)
    batch = Collator(pad=1, eos=2)([data[i] for i in range(2)])
    decode = text_worlds.tokenizer().decode
    read = [
        decode(ids[mask.bool()])
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    labels = [[t for t in row if t != IGNORED] for row in batch["labels"].tolist()]
    assert [row[-1] for row in labels] == [2, 2]
    written = [decode(row[:-1]) for row in labels]
    parts = dict(by_role(ordered, int(rows[0])))
    last = parts[{"T": "tag", "V": "alias", "E": "entity"}[order[-1]]]
    assert written[0] == last
    assert read[0] + written[0] + "\n" == text(ordered, int(rows[0]))
    assert written[1] == dict(by_role(ordered, int(rows[1])))["answer"]
    assert read[1] == ordered.table["prompt"][rows[1]]
    padding = batch["attention_mask"] == 0
    assert padding.any()
    assert (batch["input_ids"][padding] == 1).all()
