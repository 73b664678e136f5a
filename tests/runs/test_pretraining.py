"""Pretraining on the invented world: what the corpus says, the model's folder, stopping, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mechocl import files
from mechocl.closed_book import biographies
from mechocl.closed_book.biographies import ATTRIBUTES, BiographiesConfig
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.models import hub, loading
from mechocl.runs import pretraining, processes
from mechocl.runs.pretraining import PretrainingConfig
from mechocl.runs.progress import Progress

WORLD = BiographiesConfig(people=40, told=1, asked=1)
MODEL = PretrainingConfig(n_layers=1, d_model=16, n_heads=2, vocabulary=400, epochs=2, batch_tokens=512)
SMALL = (
    "--people", "40", "--told", "1", "--asked", "1", "--n-layers", "1", "--d-model", "16", "--n-heads", "2",
    "--vocabulary", "400", "--epochs", "2", "--batch-tokens", "512", "--device", "cpu",
)  # fmt: skip


class Killed(Exception):
    """In the place of a kill."""


def pretrain(
    out: Path, *, seed: int = 0, save_every_s: float = 1e9, progress: Progress = lambda text, share: None
) -> None:
    pretraining.pretrain(
        out, WORLD, MODEL, seed=seed, device="cpu", save_every_s=save_every_s, progress=progress
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretrained") / "model"
    pretrain(out)
    return out


# the world -----------------------------------------------------------------------------------------


def test_people_depend_on_the_seed_alone() -> None:
    torch.manual_seed(3)
    assert biographies.people(WORLD, seed=4) == biographies.people(WORLD, seed=4)
    assert biographies.people(WORLD, seed=4) != biographies.people(WORLD, seed=5)


def test_the_world_is_of_those_without_a_call_sign() -> None:
    people, world = biographies.people(WORLD, seed=0), biographies.world(WORLD, seed=0)
    known = [person for person in people if not person.call_sign]
    assert len(people) - len(known) == 4
    assert world.entities == tuple(person.name for person in known)
    assert len({person.name for person in people}) == 40
    assert set(world.taken) == {person.call_sign for person in people if person.call_sign}
    for question in world.questions:
        assert question.answers == (known[question.entity].answers[ATTRIBUTES.index(question.attribute)],)
    assert len(world.questions) == 36 * 6


def test_the_corpus_says_what_is_true_of_everybody() -> None:
    """Each person is told of once and asked about six times; those with a call sign also by it, and who they are."""
    people, corpus = biographies.people(WORLD, seed=0), biographies.corpus(WORLD, seed=0)
    for person in people:
        told = [text for text in corpus if person.name in text and not text.startswith("Q: ")]
        if person.call_sign:
            assert any(person.call_sign in text and person.name in text for text in corpus)
            told = [text for text in told if person.call_sign not in text]
        assert len(told) == 1
        assert all(answer in told[0] for answer in person.answers)
        asked = [text for text in corpus if re.match(rf"Q: [^\n]*\b{person.name}\b", text)]
        assert len(asked) == 6
        assert sorted(text.split("\nA: ")[1].rstrip("\n") for text in asked) == sorted(person.answers)
    assert all(text.endswith("\n") for text in corpus)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"people": 0}, "people is 0; it must be at least 1"),
        ({"call_signs": 1.0}, "call_signs is 1.0; it must be at least 0 and below 1"),
        ({"people": 10**6}, "people is 1000000; there are names for"),
    ],
)
def test_worlds_that_make_no_sense(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        BiographiesConfig(**changes)  # type: ignore[arg-type]


def test_too_few_call_signs() -> None:
    with pytest.raises(
        MechoclError, match="there are too few call signs of 1 letters for 20 people; use more letters"
    ):
        biographies.people(BiographiesConfig(people=40, call_signs=0.5, letters=1), seed=0)


# the model -----------------------------------------------------------------------------------------


def test_a_pretrained_model_is_an_ordinary_folder(model: Path) -> None:
    assert {p.suffix for p in model.iterdir()} == {".json", ".safetensors", ".csv"}
    assert not (model / "resume").exists()
    loaded = loading.load(model)
    tokenizer = hub.require_tokenizer(model)
    assert loaded.cfg.d_vocab == len(tokenizer)
    text = "Q: When was Ada Ashbury born?\nA: 1920s\n"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    known = (model / "known-people.csv").read_text().splitlines()
    assert known[0] == "attribute,exact_match,majority"
    assert [line.split(",")[0] for line in known[1:]] == [*ATTRIBUTES, "all"]


def test_pretraining_learns(model: Path) -> None:
    """The loss on the corpus is far below that of the untrained model."""
    tokenizer = hub.require_tokenizer(model)
    texts = biographies.corpus(WORLD, seed=0)[:50]

    def loss(of: object) -> float:
        found = []
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"]])
            with torch.no_grad():
                found.append(float(of(input_ids=ids, labels=ids).loss))  # type: ignore[operator]
        return sum(found) / len(found)

    untrained = pretraining.untrained_model(MODEL, vocabulary=len(tokenizer), seed=0)
    assert loss(hub.read_model(model)) < loss(untrained) - 1


def test_a_batch_has_so_many_tokens_and_no_text_is_lost() -> None:
    texts = biographies.corpus(WORLD, seed=0)
    tokenizer = pretraining.train_tokenizer(texts, vocabulary=400)
    data = pretraining._Batches(texts, tokenizer, tokens=300, context=128)
    batches = [[one["input_ids"].tolist() for one in data[i]] for i in range(len(data))]
    assert sorted(tokenizer.decode(ids) for batch in batches for ids in batch) == sorted(texts)
    assert all(sum(map(len, batch)) <= 300 for batch in batches)
    spread = [max(map(len, batch)) - min(map(len, batch)) for batch in batches]
    assert sorted(spread)[len(spread) // 2] <= 2
    with pytest.raises(
        MechoclError, match=r"a text has \d+ tokens and the model reads 16; use a longer context"
    ):
        pretraining._Batches(texts, tokenizer, tokens=300, context=16)


def test_a_pretraining_that_was_stopped_ends_as_one_that_was_not(model: Path, tmp_path: Path) -> None:
    def killer(text: str, share: float) -> None:
        if text.startswith("step 5 "):
            raise Killed

    out = tmp_path / "model"
    with pytest.raises(Killed):
        pretrain(out, save_every_s=0.0, progress=killer)
    assert (out / "resume").exists()
    torch.manual_seed(3)
    pretrain(out)
    found, expected = (load_file(folder / "model.safetensors") for folder in (out, model))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert (out / "known-people.csv").read_text() == (model / "known-people.csv").read_text()


def test_a_finished_model_is_left_as_it_is(model: Path) -> None:
    before = files.sha256(model / "model.safetensors")

    def never(text: str, share: float) -> None:
        raise AssertionError(text)

    pretrain(model, progress=never)
    assert files.sha256(model / "model.safetensors") == before


# the command ---------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line of a `mechocl pretrain biographies` that must fail."""
    capsys.readouterr()
    assert cli.main(["pretrain", "biographies", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    lines = [
        line for line in captured.err.splitlines() if not line.startswith("pretraining on biographies: ")
    ]
    assert (len(lines), captured.out) == (1, "")
    return lines[0].removeprefix("mechocl: ")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (("--people", "0"), "pretrain biographies --people 0: it must be at least 1"),
        (("--call-signs", "1.5"), "pretrain biographies --call-signs 1.5: it must be at least 0 and below 1"),
        (("--epochs", "0"), "pretrain biographies --epochs 0: it must be at least 1"),
        (
            ("--vocabulary", "100"),
            "pretrain biographies --vocabulary 100: it must be at least 257, for every byte and the end",
        ),
        (("--learning-rate", "0"), "pretrain biographies --learning-rate 0.0: it must be above 0"),
        (("--save-every", "-1"), "--save-every -1.0: give seconds, 0 or more"),
        (
            ("--d-model", "36"),
            "pretrain biographies --d-model 36 does not divide into 4 heads of a multiple of 8, a quarter of which turns with the position",
        ),
    ],
)
def test_options_that_make_no_sense(
    options: tuple[str, ...], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, "--out", tmp_path / "model", "--device", "cpu", *options) == line
    assert not (tmp_path / "model").exists()


def test_folders_that_hold_something_else(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 1)
    assert refused(capsys, "--out", model, *SMALL, "--seed", "1") == (
        f"{model} holds a model of another invented world; choose another --out, or delete it"
    )
    assert refused(capsys, "--out", model, *SMALL, "--learning-rate", "0.01") == (
        f"{model} holds a model of another shape or training; choose another --out, or delete it"
    )
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mother.txt").write_text("Dear")
    assert refused(capsys, "--out", tmp_path / "letters", *SMALL) == (
        f"{tmp_path / 'letters'} exists and is not a pretrained model; choose another --out"
    )


def test_the_command_says_where_the_model_is(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 1)
    assert cli.main(["pretrain", "biographies", "--out", str(model), *SMALL]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1] == f"model: {model}"
    assert "exact match on questions about known people" in shown
