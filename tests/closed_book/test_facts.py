"""Real facts: the filters by hand, a model's answers beside its forward pass of the whole text, and the world that is made of them."""

import dataclasses
import sys
from collections import Counter
from pathlib import Path

import atlas
import numpy as np
import pandas as pd
import pytest
import text_worlds
import torch

from docs.write.predictions import write_predictions
from mechocl import files
from mechocl.closed_book import asking, cities, examples, facts, worlds
from mechocl.closed_book.balance import balanced
from mechocl.closed_book.cities import QUESTIONS, CitiesConfig
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import hub
from mechocl.runs import recipes
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    atlas.install(monkeypatch)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-NeoX whose random answers differ from city to city."""
    return text_worlds.folder(tmp_path_factory.mktemp("base") / "model", text_worlds.neox(scale=8.0))


@pytest.fixture(scope="module")
def file(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command writes."""
    path = tmp_path_factory.mktemp("facts") / "facts-model.json"
    with pytest.MonkeyPatch.context() as patch:
        atlas.install(patch)
        assert cli.main([*map(str, ("data", "facts", "--model", base, "--out", path)), "--least-known", "2", "--device", "cpu"]) == 0  # fmt: skip
    return path


# the cities ----------------------------------------------------------------------------------------


def test_what_each_filter_removes() -> None:
    read = cities.read_cities(CitiesConfig(per_country=atlas.N), but=frozenset(asking.SHOTS))
    assert [city.name for city in read.cities] == [
        name for pair in zip(atlas.names("AA"), atlas.names("BB"), strict=True) for name in pair
    ]
    assert read.cities[1].facts == {
        "country": "Borland",
        "continent": "Asia",
        "language": "Turkish",
        "currency": "bon",
        "demonym": "Borian",
    }
    assert list(read.removed) == [
        ("fewer than 250000 inhabitants", 1),
        ("stands in the prompt of the model", 1),
        ("name that a larger city has", 1),
        ("other characters", 1),
        ("a fact about the country is missing", 1),
        ("beyond the 24 largest of a country", 1),
    ]
    assert read.there == len(read.cities) + 6


def test_the_packages_themselves() -> None:
    """Where they are installed: the largest cities are there, and every fact has a text."""
    for name in cities.PACKAGES:
        sys.modules.pop(name)
        pytest.importorskip(name)
    read = cities.read_cities(CitiesConfig(min_population=3_000_000))
    named = {city.name: city.facts for city in read.cities}
    assert named["Tokyo"] == {
        "country": "Japan",
        "continent": "Asia",
        "language": "Japanese",
        "currency": "yen",
        "demonym": "Japanese",
    }
    assert all(text and text == text.strip() for one in named.values() for text in one.values())


@pytest.mark.parametrize("name", cities.PACKAGES)
def test_a_package_that_is_not_installed(
    name: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line, before the model is opened."""
    monkeypatch.setitem(sys.modules, name, None)
    out = tmp_path / "facts.json"
    assert cli.main(["data", "facts", "--model", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"mechocl: the facts come from the package {name}, which is not installed: pip install 'mechocl[facts]'"
    )
    assert not out.exists()


@pytest.mark.parametrize("change", [{"min_population": 0}, {"per_country": 0}])
def test_sizes_below_one(change: dict[str, int]) -> None:
    with pytest.raises(MechoclError, match="it must be at least 1"):
        CitiesConfig(**change)


# what the model answers ----------------------------------------------------------------------------


def test_answers_are_those_of_the_whole_text(base: Path) -> None:
    """Each prompt read at once, without a cache: the right answer's first token is the largest among those of all answers."""
    model, tokenizer = hub.read_model(base), text_worlds.tokenizer()
    read = cities.read_cities(CitiesConfig(), but=frozenset(asking.SHOTS))
    shares = []
    asked = asking.ask_model(model, tokenizer, read.cities, progress=lambda text, share: shares.append(share))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert len(asked.cities) + asked.removed == len(read.cities)
    found = [
        tuple(name for name in QUESTIONS if _answers(model, tokenizer, city, name, asked.cities))
        for city in asked.cities
    ]
    assert asked.known == tuple(found)
    assert 0 < sum(map(len, found)) < len(QUESTIONS) * len(found)


@torch.no_grad()
def _answers(
    model: object, tokenizer: object, city: cities.City, name: str, others: tuple[cities.City, ...]
) -> bool:
    shots = "".join(
        f"Q: {QUESTIONS[name].format(shot)}\nA: {told[name]}\n" for shot, told in asking.SHOTS.items()
    )
    text = f"{shots}Q: {QUESTIONS[name].format(city.name)}\nA:"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # type: ignore[operator]
    first = {
        one: tokenizer(f" {one}", add_special_tokens=False)["input_ids"][0]  # type: ignore[operator]
        for one in {other.facts[name] for other in others}
    }
    logits = model(torch.tensor([ids])).logits[0, -1]  # type: ignore[operator]
    return max(first, key=lambda one: float(logits[first[one]])) == city.facts[name]


def test_an_answer_that_begins_as_a_more_frequent_one_is_not_asked_about(base: Path) -> None:
    read = cities.read_cities(CitiesConfig(), but=frozenset(asking.SHOTS))
    odd = cities.City(name="Oddton", facts=read.cities[0].facts | {"country": "Arlandia"})
    asked = asking.ask_model(
        hub.read_model(base), text_worlds.tokenizer(), [*read.cities, odd], progress=lambda text, share: None
    )
    told_apart = {text_worlds.tokenizer()(f" {name}")["input_ids"][0] for name in ("Arland", "Arlandia")}
    assert (odd in asked.cities) == (len(told_apart) == 2)


# the file, and its world ---------------------------------------------------------------------------


def test_the_world_asks_what_the_model_answers(file: Path, base: Path) -> None:
    values = files.read_json(file)
    known = facts.read_facts(file)
    world = facts.world(known)
    assert values["least_known"] == 2
    assert min(Counter(q.entity for q in world.questions).values()) >= 2
    assert sum(count for _, count in known.removed) + len(known.cities) == values["there"]
    assert values["weights"] == {"model.safetensors": files.sha256(base / "model.safetensors")}
    assert values["packages"] == dict.fromkeys(cities.PACKAGES, "0.0")
    assert sum(values["answered"].values()) >= len(world.questions)
    texts = facts.corpus(known)
    assert len(texts) == 2 * len(world.questions)
    for q in world.questions:
        assert f"Q: {q.ask(world.entities[q.entity])}\nA: {q.answers[0]}\n" in texts
    assert set(world.groups) <= {"Europe, Arland", "Asia, Borland"}


def test_other_files_are_refused(file: Path, base: Path, tmp_path: Path) -> None:
    for content, says in (
        ({"world": "facts"}, "is no file of facts (KeyError: 'cities')"),
        (files.read_json(file) | {"cities": [{"name": "A", "facts": {}, "group": ""}]}, "fewer than two facts about 'A'"),
    ):  # fmt: skip
        other = tmp_path / "other.json"
        files.write_json(other, content)
        with pytest.raises(MechoclError) as caught:
            facts.read_facts(other)
        assert says in str(caught.value)
        assert str(caught.value).endswith(
            f"move it away and make it anew: mechocl data facts --model MODEL --out {other}"
        )
    other.write_text(file.read_text().replace("Arland", "Norland"))
    with pytest.raises(MechoclError, match="move it away and make it anew"):
        facts.read_facts(other)


def test_the_command_replaces_its_own_file_alone(
    file: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "facts.json"
    copy.write_bytes(file.read_bytes())
    command = ["data", "facts", "--model", str(base), "--out", str(copy), "--device", "cpu"]
    assert cli.main([*command, "--least-known", "3"]) == 0
    assert files.read_json(copy)["least_known"] == 3
    said = capsys.readouterr().out
    for shown in (
        "filter",
        "fewer than 3 questions answered by the model",
        asking.RULE,
        "usable: ",
        f"facts: {copy}",
    ):
        assert shown in said
    copy.write_text("{}")
    assert cli.main(command) == 2
    assert "is there already and is not a file of facts of mechocl" in capsys.readouterr().err
    assert cli.main([*command[:-3], str(tmp_path / "new.json"), "--least-known", "6"]) == 2
    assert "least_known is 6; a city has 5 questions" in capsys.readouterr().err


def test_too_little_known(base: Path) -> None:
    read = cities.read_cities(CitiesConfig())
    none = asking.Asked(cities=read.cities, known=((),) * len(read.cities), removed=0)
    with pytest.raises(
        MechoclError,
        match="answers 3 of the 5 questions about none of 50 cities; use a smaller --least-known",
    ):
        facts.keep_known(read, none, model=str(base), least_known=3)


def test_a_model_that_writes_with_a_decoder_is_not_asked(tmp_path: Path) -> None:
    folder = text_worlds.folder(tmp_path / "t5", text_worlds.t5())
    with pytest.raises(MechoclError, match="is a t5 model, and only causal models are asked for facts"):
        facts.refuse_seq2seq(folder)


# subsets -------------------------------------------------------------------------------------------


def test_subsets_have_equal_shares_of_every_group() -> None:
    """The numbers differ by less than 2 from equal shares, where chance alone would leave subsets without a group; a control gives the same aliases the same entities."""
    world = text_worlds.world()
    world = dataclasses.replace(world, groups=tuple("abc"[i % 7 % 3] for i in range(len(world.entities))))
    n, of = len(world.entities), {}
    for seed in (0, 1):
        for unreliable in ("inconsistent", "noise"):
            config = text_worlds.config(unreliable=unreliable)
            task = examples.build(config, world, text_worlds.tokenizer(), seed=seed, context=128)
            each = task.table.drop_duplicates("alias").set_index("alias")
            of[seed, unreliable] = each["entity"]
            groups = each["entity"].map(lambda i: world.groups[i])
            for _, own in groups.groupby(each["subset"], observed=True):
                for group, count in Counter(world.groups).items():
                    assert abs((own == group).sum() - len(own) * count / n) < 2
        assert of[seed, "inconsistent"].equals(of[seed, "noise"])
    assert not of[0, "noise"].equals(of[1, "noise"])


def test_places_by_hand() -> None:
    """Six entities in groups a, a, b, b, c, c; three aliases of each of two subsets: each subset gets one of each group."""
    subset = [SUBSETS[name] for name in ("d1_consistent", "d1_consistent", "no_data", "d1_consistent", "no_data", "no_data")]  # fmt: skip
    found = balanced(np.arange(10, 16), list("cbacba"), subset)
    assert found.tolist() == [12, 11, 15, 10, 14, 13]


# the recipe ----------------------------------------------------------------------------------------


def test_one_changed_word_is_another_model(file: Path, base: Path) -> None:
    recipe = recipes.load_closed_book_recipe("closed-book/real", (f'model="{base}"',))
    assert worlds.file_of(recipe).name == "facts-model.json"
    other = recipes.change_recipe(recipe, ('model="EleutherAI/pythia-410m"',))
    assert str(worlds.file_of(other)) == "runs/facts-pythia-410m.json"  # type: ignore[arg-type]
    with pytest.raises(MechoclError) as caught:
        worlds.refuse_file(other)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "task.file is runs/facts-pythia-410m.json, which does not exist; ask the model for the facts first: mechocl data facts "
        "--model EleutherAI/pythia-410m --out runs/facts-pythia-410m.json"
    )


def test_facts_of_another_model_are_refused(file: Path, base: Path, tmp_path: Path) -> None:
    """Also where a folder of the same name holds other weights; a copy of the same model is the same."""
    other = text_worlds.folder(tmp_path / "other" / "model", text_worlds.neox(seed=1))
    with pytest.raises(MechoclError) as caught:
        facts.refuse_other_model(file, str(other))
    assert str(caught.value) == (
        f"{file} says what {base} answers, and the model is {other}, which may know other facts; make a file of its own with "
        f"`mechocl data facts --model {other} --out FILE`, and give it as task.file"
    )
    own = tmp_path / "own.json"
    command = [
        "data",
        "facts",
        "--model",
        str(other),
        "--out",
        str(own),
        "--device",
        "cpu",
        "--least-known",
        "2",
    ]
    assert cli.main(command) == 0
    facts.refuse_other_model(own, str(other))
    facts.refuse_other_model(file, str(text_worlds.folder(tmp_path / "copy", text_worlds.neox(scale=8.0))))


def test_the_recipe_trains_and_a_study_reads_it(file: Path, base: Path, tmp_path: Path) -> None:
    """Small: adapters, added tokens, replay of true texts, an end at a definition loss; and what a study reads of it."""
    from docs.write import real

    out = tmp_path / "run"
    small = ["task.entities=16", "training.stages.0.epochs=2", "training.stages.1.epochs=3", "training.precision=float32"]  # fmt: skip
    command = [
        "finetune",
        "closed-book/real",
        "--model",
        base,
        "--out",
        out,
        "--device",
        "cpu",
        "--jobs",
        "1",
    ]
    said = [*map(str, command), "--set", f"task.file={file.parent}/facts-{{model}}.json", *small]
    assert cli.main([*said, "training.stages.1.stop_at_definition_loss=1000"]) == 0
    run = Run.open(out)
    history = run.seed(0).history()
    assert history.groupby("stage")["epoch"].max().to_dict() == {
        1: 2.0,
        2: 1.0,
    }  # which is low enough after one epoch
    ends = real.ends_of(run).set_index("subset")
    assert ends.index.tolist() == [
        "qd1_consistent",
        "qd2_inconsistent",
        "d1_consistent",
        "d2_consistent",
        "d3_consistent",
        "no_data",
    ]
    assert ends["aliases"].to_dict() == {name: 4 if name.startswith("qd") else 2 for name in ends.index}
    for subset, stage in (("qd1_consistent", 1), ("d1_consistent", 2), ("no_data", 2)):
        own = history[(history["stage"] == stage) & (history["subset"] == subset)].iloc[-1]
        assert ends.loc[subset, "log_probability"] == own["log_probability"]


def test_a_tokenizer_with_tokens_that_the_checkpoint_has_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line before anything is asked; the remedy that it names, the model's own tokenizer, works."""
    folder = text_worlds.folder(tmp_path / "model", text_worlds.neox(scale=8.0))
    more = hub.require_tokenizer(folder)
    more.add_tokens(["<|abcde|>"])
    more.save_pretrained(folder)
    command = ["data", "facts", "--model", str(folder), "--out", str(tmp_path / "facts.json"), "--least-known", "2", "--device", "cpu"]  # fmt: skip
    assert cli.main(command) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"the tokenizer in {folder} does not match the model: it has ids up to {len(more) - 1}" in last
    assert last.endswith("save the model's own tokenizer beside it")
    text_worlds.tokenizer().save_pretrained(folder)
    assert cli.main(command) == 0


def test_the_section_says_how_many_seeds_there_are(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From made-up tables: three seeds of the run, two of its control."""
    from docs.write import real

    draws = np.random.default_rng(0)
    rows = [
        {
            "control": control, "seed": seed, "subset": subset, "aliases": 28, "exact_match": draws.uniform(),
            "log_probability": -draws.uniform(), "recall": np.nan if subset == "no_data" else 0.9,
            "definition_loss": np.nan if subset == "no_data" else 0.5, "epochs": 12.0,
        }
        for control, seeds, tag_2 in (("run", (100, 101, 103), "qd2_inconsistent"), ("noise", (100, 101), "d2_noise"))
        for seed in seeds
        for subset in ("qd1_consistent", tag_2, "d1_consistent", "d2_consistent", "d3_consistent", "no_data")
    ]  # fmt: skip
    monkeypatch.setattr(real, "TABLE", tmp_path / "real.csv")
    monkeypatch.setattr(real, "KNOWN", tmp_path / "known.csv")
    assert real.write_section() == []
    assert real.outcomes() == {}
    pd.DataFrame(rows).to_csv(real.TABLE, index=False)
    real.known_of(file).to_csv(real.KNOWN, index=False)
    text = "\n".join(real.write_section())
    assert (
        "3 of 14 seeds of the run are trained, and 2 of its control *noise*. Not finished in both: 102, 103, 104, "
        in text
    )
    assert (
        f"{len(facts.read_facts(file).cities)} of {files.read_json(file)['asked']} that it was asked about"
        in text
    )
    mean = np.mean(
        [row["exact_match"] for row in rows if (row["control"], row["subset"]) == ("run", "d1_consistent")]
    )
    line = next(line for line in text.splitlines() if line.startswith("| `d1_consistent`"))
    assert line.split("|")[2].strip().lstrip("0") == f"{mean:.2f}".lstrip("0")
    assert "out-of-context learning from tag 1: above no data" in text
    found = write_predictions(real.outcomes())
    assert sum(f"`{real.RECIPE}`" in line for line in found) == 5
