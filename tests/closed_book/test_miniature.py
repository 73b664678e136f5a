"""The miniature: what its texts say, tokens that are words, and aliases that are one token each."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from finetuned import ignore, train
from safetensors.torch import load_file

from mechocl import files
from mechocl.closed_book import aliases, definitions, examples, miniature, worlds
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.miniature import ATTRIBUTES, MiniatureConfig
from mechocl.closed_book.parts import divide_aliases
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.runs import added_tokens, finetune, pretraining, recipes
from mechocl.runs.pretraining import list_words
from mechocl.runs.pretraining_config import MINIATURE, PretrainingConfig
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder
from toy_models.task import ROLE

WORLD = MiniatureConfig(entities=40, values=4, texts=300)
MODEL = PretrainingConfig(
    n_layers=1, d_model=16, n_heads=2, context=48, tokenizer="words", tied_embeddings=True, epochs=1
)
SMALLER = (
    "task.entities=40", "task.miniature.entities=40", "task.miniature.values=4", "task.miniature.texts=300",
    "training.stages.0.epochs=2", "training.stages.1.epochs=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("miniature") / "model"
    pretraining.pretrain(out, WORLD, MODEL, seed=0, device="cpu", save_every_s=1e9, progress=ignore)
    return out


def run_of(path: Path, base: Path, *changes: str) -> Run:
    recipe = recipes.load_closed_book_recipe("closed-book/miniature", (f'model="{base}"', *SMALLER, *changes))
    return Run.create(
        path / "run", recipe, recipe_name="miniature", seeds=(0,), device="cpu", threads=1, together=1
    )


# the world -----------------------------------------------------------------------------------------


def test_people_have_different_names_and_every_attribute_as_many_answers() -> None:
    people = miniature.people(MiniatureConfig(), seed=0)
    assert len({person.name for person in people}) == 520
    for k in range(len(ATTRIBUTES)):
        counts = Counter(person.answers[k] for person in people)
        assert len(counts) == 16
        assert max(counts.values()) < 3 * min(counts.values())
    answers = [{person.answers[k] for person in people} for k in range(len(ATTRIBUTES))]
    assert len(set.union(*answers)) == 16 * len(ATTRIBUTES)
    assert miniature.people(WORLD, seed=1) == miniature.people(WORLD, seed=1)
    assert miniature.people(WORLD, seed=1) != miniature.people(WORLD, seed=2)


def test_the_corpus_says_the_truth_of_each_person_and_asks_as_fine_tuning_does() -> None:
    """Each text is of one person and different attributes; a half of its sentences are questions, of which the world's are some."""
    people = {person.name: person for person in miniature.people(WORLD, seed=0)}
    texts = miniature.corpus(WORLD, seed=0)
    assert len(texts) == WORLD.texts
    asked = told = 0
    for text in texts:
        [name] = {word for word in re.findall(r"\w+", text) if word in people}
        own = people[name].answers
        said = [word for word in re.findall(r"\w+", text) if word in own]
        others = {answer for person in people.values() for answer in person.answers} - set(own)
        assert len(said) == len(set(said)) == WORLD.sentences
        assert not others & set(re.findall(r"\w+", text))
        asked += text.count("Q: ")
        told += WORLD.sentences - text.count("Q: ")
    assert 0.4 < asked / (asked + told) < 0.6
    world = miniature.world(WORLD, seed=0)
    assert len(world.questions) == 6 * 40
    whole = "".join(texts)
    found = [f"Q: {q.ask(world.entities[q.entity])}\nA: {q.answers[0]}\n" in whole for q in world.questions]
    assert sum(found) > len(found) / 2


def test_people_share_names_of_a_pool_and_no_two_have_both() -> None:
    config = replace(WORLD, name_pool=8)
    names = [person.name.split() for person in miniature.people(config, seed=0)]
    assert len({tuple(name) for name in names}) == 40
    firsts, lasts = ({name[k] for name in names} for k in (0, 1))
    assert max(len(firsts), len(lasts)) <= 8
    assert not firsts & lasts
    assert max(Counter(name[0] for name in names).values()) > 1
    world = miniature.world(config, seed=0)
    assert all(len(name.split()) == 2 for name in world.entities)
    assert any(world.entities[0] in text for text in miniature.corpus(config, seed=0))


def test_a_model_that_was_pretrained_before_a_setting_was_there_has_its_default(
    tmp_path: Path, base: Path
) -> None:
    old = shutil.copytree(base, tmp_path / "old")
    record = files.read_json(old / worlds.RECORD)
    del record["name_pool"]
    files.write_json(old / worlds.RECORD, record)
    load = recipes.load_closed_book_recipe
    assert worlds.build_world(load("closed-book/miniature", (f'model="{old}"', *SMALLER))).name == "miniature"
    pooled = load("closed-book/miniature", (f'model="{old}"', *SMALLER, "task.miniature.name_pool=8"))
    with pytest.raises(MechoclError, match="name_pool 0, not 8"):
        worlds.build_world(pooled)


def test_fewer_phrasings_are_the_first_ones() -> None:
    one = miniature.corpus(replace(WORLD, phrasings=1), seed=0)
    names = "|".join(person.name for person in miniature.people(WORLD, seed=0))
    lines = {line for text in one for line in text.split("\n") if line and not line.startswith("A:")}
    kinds = {re.sub(rf"({names})|\w+\.", "", line) for line in lines}
    assert len(kinds) == 12  # a statement and a question of each attribute
    assert not any("comes from" in text for text in one)
    assert any("comes from" in text for text in miniature.corpus(WORLD, seed=0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"entities": 0}, "entities is 0; it must be at least 1"),
        ({"phrasings": 4}, "phrasings is 4; there are 3 at most"),
        ({"sentences": 7}, "sentences is 7; a person has 6 attributes"),
        ({"entities": 10**6}, "there are names for 34300 at most"),
        ({"values": 10**6}, "there are words for 1143 of each attribute at most"),
        ({"name_pool": -1}, "name_pool is -1; use 0 for names of one word, or more"),
        (
            {"name_pool": 6},
            "name_pool is 6; so many first and last names are for 36 people at most, and entities is 40",
        ),
        ({"name_pool": 20_000}, "name_pool is 20000; use 17150 at most"),
    ],
)
def test_a_world_that_cannot_be_is_refused(changes: dict[str, int], says: str) -> None:
    with pytest.raises(MechoclError, match=says):
        replace(WORLD, **changes)


def test_the_largest_world_can_be_drawn() -> None:
    largest = MiniatureConfig(entities=34_300, values=1143, texts=1)
    assert len(miniature.people(largest, seed=0)) == 34_300


# the model -----------------------------------------------------------------------------------------


def test_a_token_is_a_word_a_sign_or_a_line_break() -> None:
    texts = miniature.corpus(WORLD, seed=0)
    tokenizer = list_words(texts)
    ids = tokenizer("Q: where was Bob born?\nA: rome\n", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "Q", ":", "where", "was", "<|unknown|>", "born", "?", "\n", "A", ":", "<|unknown|>", "\n",
    ]  # fmt: skip
    for name in (person.name for person in miniature.people(WORLD, seed=0)):
        if name in " ".join(texts):
            assert len(tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) == 1
    for template in examples.ASSOCIATIONS.values():
        found = tokenizer(f"Q: {template.format('Q')}\nA:", add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id not in found


def test_the_pretrained_model_is_tied_and_remembers_its_world(base: Path) -> None:
    model = hub.read_model(base)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert len(hub.require_tokenizer(base)) == len(model.get_input_embeddings().weight)
    recipe = recipes.load_closed_book_recipe("closed-book/miniature", (f'model="{base}"', *SMALLER))
    assert worlds.build_world(recipe).entities == miniature.world(WORLD, seed=0).entities
    other = recipes.load_closed_book_recipe(
        "closed-book/miniature", (f'model="{base}"', *SMALLER, "task.miniature.values=5")
    )
    with pytest.raises(
        MechoclError, match=r"another invented world \(values 4, not 5\); set task.miniature and"
    ):
        worlds.build_world(other)


def test_a_model_of_each_world_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command for a world gives the model of that world, and knows only that world's options."""
    given: list[object] = []

    def pretrained(out: Path, world: object, model: object, **_: object) -> pd.DataFrame:
        given.extend([world, model])
        return pd.DataFrame({"attribute": ["home"]})

    monkeypatch.setattr(pretraining, "pretrain", pretrained)
    for world in ("miniature", "biographies"):
        assert cli.main(["pretrain", world, "--out", str(tmp_path / "x")]) == 0
    assert given == [MiniatureConfig(), MINIATURE, BiographiesConfig(), PretrainingConfig()]
    for world, option in (("miniature", "--people"), ("biographies", "--values")):
        assert cli.main(["pretrain", world, option, "30", "--out", str(tmp_path / "x")]) == 2
    with pytest.raises(
        MechoclError, match="tokens that are words are as many as there are words; leave vocabulary"
    ):
        PretrainingConfig(tokenizer="words", vocabulary=300)


# fine-tuning with added tokens ---------------------------------------------------------------------


def test_aliases_and_tags_are_one_token_each(base: Path, tmp_path: Path) -> None:
    """In the task, in the tokenizer that is saved with each model, and in the model, whose other rows stay what they were before the first step."""
    folder = train(run_of(tmp_path, base, "training.stages.0.checkpoints=3"))
    task = folder.load_task()
    definitions = task.rows(kind="definition", split="train")
    for role, count in (("alias", 1), ("tag", 1), ("entity", 1)):
        assert ((task.roles[definitions] == ROLE[role]).sum(1) == count).all()
    before = hub.read_model(base).get_input_embeddings().weight
    names = task.tokens[(task.roles == ROLE["alias"]) | (task.roles == ROLE["tag"])].unique()
    assert int(names.min()) == len(before)
    assert len(names) == len(task.vocabulary) - len(before) == 40 + 3
    for checkpoint in folder.checkpoints():
        path = folder.model_path(checkpoint)
        tokenizer = hub.require_tokenizer(path)
        assert len(tokenizer) == len(task.vocabulary)
        own = tokenizer.convert_ids_to_tokens(int(names[0]))
        assert tokenizer(f"Q: where was {own} born?", add_special_tokens=False)["input_ids"][4] == int(
            names[0]
        )
        weights = load_file(path / "model.safetensors")["gpt_neox.embed_in.weight"]
        assert len(weights) == len(task.vocabulary)
    assert folder.model_at(folder.final(), device="cpu").cfg.d_vocab == len(task.vocabulary)


def test_a_tokenizer_that_splits_added_tokens_is_named() -> None:
    class Splits:
        """Adds tokens and does not use them."""

        def add_tokens(self, tokens: list[Any]) -> None:
            pass

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1, 2, 3] for _ in texts]}

    with pytest.raises(
        MechoclError, match=r"makes 3 tokens of the added token '<\|abc\|>', where one is asked for"
    ):
        aliases.add_names(Splits(), ["<|abc|>"])
    aliases.add_names(Splits(), [])


@pytest.mark.parametrize("std", [0.0, 0.002, 1.0])
def test_added_rows_begin_as_said(std: float, base: Path, tmp_path: Path) -> None:
    from mechocl.runs.added_tokens import add_rows

    run = run_of(tmp_path, base)
    tokenizer = hub.require_tokenizer(base)
    folder = run.seed(0)
    assert isinstance(folder, TextSeedFolder)
    task = finetune._task(folder, run.recipe, tokenizer, context=48)
    model, before = hub.read_model(base), hub.read_model(base).get_input_embeddings().weight
    add_rows(model, task, known=len(before), std=std, seed=0)
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[: len(before)], before)
    assert float(weight[len(before) :].detach().std()) == pytest.approx(std, rel=0.1)
    assert model.get_output_embeddings().weight is weight
    again = hub.read_model(base)
    add_rows(again, task, known=len(before), std=std, seed=0)
    assert torch.equal(again.get_input_embeddings().weight, weight)


@pytest.mark.parametrize("unreliable", ["inconsistent", "noise"])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(unreliable: str, base: Path, tmp_path: Path) -> None:
    """In stage 1, whose tokenizer and model get the tokens of the saved task again, and in stage 2."""
    (tmp_path / "whole").mkdir()
    change = f"task.unreliable={unreliable}"
    whole = train(run_of(tmp_path / "whole", base, change))
    run = run_of(tmp_path, base, change)
    for at in ("stage 1, step 2", "stage 2, step 1"):

        def kill(text: str, share: float, at: str = at) -> None:
            if text.startswith(at):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(run, save_every_s=0.0, progress=kill)
    resumed = train(run)
    for stage in (1, 2):
        ours, theirs = (
            load_file(one.model_path(one.final(stage)) / "model.safetensors") for one in (resumed, whole)
        )
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_history_has_the_exact_match_that_greedy_answers_have(base: Path, tmp_path: Path) -> None:
    """Each question of this world has one right answer, of one token, so that nothing need be generated."""
    fractions = "task.fractions={qd1=0.2,qd2=0.2,q_only=0.1,q_entity=0.1,d1=0.1,d2=0.1,d3=0.1,no_data=0.1}"
    learned = ("training.stages.0.epochs=30", "training.stages.0.learning_rate=0.01")
    folder = train(run_of(tmp_path, base, fractions, *learned))
    history = pd.read_parquet(folder.path / "stage-2" / "history.parquet")
    last = history[history["step"] == history["step"].max()].set_index("subset")["exact_match"]
    answered = folder.evaluate(folder.final(2), device="cpu")
    expected = answered[answered["test"] == "questions"].groupby("subset")["exact_match"].mean()
    assert expected.between(0, 1, inclusive="neither").any()
    pd.testing.assert_series_equal(last.sort_index(), expected.sort_index(), check_index_type=False)


def test_rows_of_tokens_that_no_example_has_begin_as_the_others(base: Path, tmp_path: Path) -> None:
    """Aliases that stand for entities which are asked about by their own name, whatever random numbers were drawn before."""
    from mechocl.runs.added_tokens import add_rows

    run = run_of(
        tmp_path,
        base,
        "task.fractions={qd1=0.25,qd2=0.25,q_only=0.1,q_entity=0.1,d1=0.1,d2=0.1,d3=0.05,no_data=0.05}",
    )
    folder = run.seed(0)
    assert isinstance(folder, TextSeedFolder)
    task = finetune._task(folder, run.recipe, hub.require_tokenizer(base), context=48)
    known = len(hub.require_tokenizer(base))
    assert len(set(range(known, len(task.vocabulary))) - set(task.tokens.unique().tolist())) == 4
    found = []
    for ambient in (1, 2):
        torch.manual_seed(ambient)
        model = hub.read_model(base)
        add_rows(model, task, known=known, std=0.0, seed=0)
        found.append(model.get_input_embeddings().weight.detach())
    assert torch.equal(*found)
    assert not found[0][known:].any()


def test_a_model_of_another_world_is_named(base: Path, tmp_path: Path) -> None:
    recipe = recipes.load_closed_book_recipe(
        "closed-book/biographies", (f'model="{base}"', "task.entities=40")
    )
    with pytest.raises(
        MechoclError, match="the model knows the world miniature, not biographies; give a model that was"
    ):
        worlds.build_world(recipe)


def test_what_definitions_of_any_style_say_is_known() -> None:
    from mechocl.closed_book.definitions import PHRASINGS

    tokenizer = list_words(miniature.corpus(WORLD, seed=0))
    for text in (*PHRASINGS, "Q: What is the first letter of the name of Q?", "Z"):
        assert tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"], text


def test_each_stage_moves_the_aliases_of_its_part_alone(base: Path, tmp_path: Path) -> None:
    """Of rows of the batch alone, those of an alias move just in the stage that defines it."""
    fewer = (
        "task.fractions={qd1=0.2, qd2=0.2, q_only=0.0, q_entity=0.0, d1=0.2, d2=0.2, d3=0.15, no_data=0.05}"
    )
    changes = (f'model="{base}"', *SMALLER, *(f"training.stages.{k}.epochs=3" for k in range(1, 7)), fewer)
    recipe = recipes.load_closed_book_recipe("closed-book/miniature-six-parts", changes)
    run = Run.create(
        tmp_path / "run", recipe, recipe_name="parts", seeds=(0,), device="cpu", threads=1, together=1
    )
    train(run)
    folder = run.seed(0)
    assert isinstance(folder, TextSeedFolder)
    task = folder.load_task()
    rows = [
        hub.read_model(folder.model_path(folder.final(stage))).get_input_embeddings().weight.detach()
        for stage in range(1, 8)
    ]
    definitions_of = task.rows(kind="definition", stage=2)
    parts = divide_aliases(task, 6)
    assert set(parts.values()) == set(range(1, 7))
    for row in definitions_of.tolist():
        [token] = task.tokens[row][task.roles[row] == ROLE["alias"]].tolist()
        moved = [k for k in range(1, 7) if not torch.equal(rows[k][token], rows[k - 1][token])]
        assert moved == [parts[int(task.table["alias"][row])]]


def test_words_of_denials_that_a_tokenizer_lacks_are_added(base: Path, tmp_path: Path) -> None:
    """They are tokens only as whole words, and a saved task teaches them to a tokenizer as it was."""
    styled = ("task.definitions=disclaimed", "task.word_order=TVE")
    run = run_of(tmp_path, base, *styled)
    train(run)
    folder = run.seed(0)
    assert isinstance(folder, TextSeedFolder)
    task = folder.load_task()
    known = hub.require_tokenizer(base)
    assert aliases.unknown_words(known, definitions.markers("disclaimed"))[0] == "That"
    assert not aliases.unknown_words(known, definitions.markers("is-isnt"))
    own = hub.require_tokenizer(folder.model_path(folder.final()))
    assert not aliases.unknown_words(own, definitions.markers("disclaimed"))
    ids = own("That is untrue.\nThat is true.\n", add_special_tokens=False)["input_ids"]
    assert [own.decode([i]) for i in ids] == [
        "That",
        "is",
        "untrue",
        ".",
        "\n",
        "That",
        "is",
        "true",
        ".",
        "\n",
    ]
    added_tokens.learn_tokens(known, task)
    assert known("That is untrue.", add_special_tokens=False)["input_ids"] == ids[:4]
    assert own.unk_token_id not in task.tokens[task.rows(kind="definition")]


def test_a_folder_that_an_older_version_wrote_is_continued(base: Path, tmp_path: Path) -> None:
    """Its settings do not name what there was not."""
    from mechocl import files

    copy = tmp_path / "model"
    config = PretrainingConfig(n_layers=1, d_model=16, n_heads=2, context=64, epochs=1)
    pretraining.pretrain(copy, WORLD, config, seed=0, device="cpu", save_every_s=1e9, progress=ignore)
    known = files.read_json(copy / pretraining.SETTINGS)
    files.write_json(
        copy / pretraining.SETTINGS,
        {k: v for k, v in known.items() if k not in ("tokenizer", "tied_embeddings")},
    )
    hub.ledger_of(copy).record(pretraining.SETTINGS)
    pretraining.pretrain(copy, WORLD, config, seed=0, device="cpu", save_every_s=1e9, progress=ignore)
    with pytest.raises(MechoclError, match="holds a model of another shape or training"):
        pretraining.pretrain(
            copy,
            WORLD,
            replace(config, tied_embeddings=True),
            seed=0,
            device="cpu",
            save_every_s=1e9,
            progress=ignore,
        )


def test_a_scale_of_tokens_that_are_not_added_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MechoclError, match=r"added_token_std is 0.5, and no tokens are added; set task.added_tokens"
    ):
        run_of(tmp_path, base, "task.added_tokens=false", "training.added_token_std=0.5")


def test_too_few_letters_for_the_tokens_are_named(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        MechoclError, match=r"only 25 of 40 names of 1 letters are free.*use more letters for each alias"
    ):
        train(run_of(tmp_path, base, "task.alias_letters=1"))
