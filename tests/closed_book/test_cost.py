"""What a closed-book recipe says that it costs, by hand; offline, and without a database."""

import shutil
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import text_worlds

from mechocl.closed_book import cost
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.runs import recipes


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def of(
    *changes: str, name: str = "closed-book/two-stage", model: str = "EleutherAI/pythia-410m"
) -> cost.Cost:
    return cost.estimate_cost(recipes.load_closed_book_recipe(name, (f'model="{model}"', *changes)))


def test_tokens_by_hand() -> None:
    """Stage 1 has 2000 definitions and 5 of 6 questions about 2800 entities, 20 times; stage 2 960 definitions, 10
    times; 22 tokens a definition, 26 a question."""
    assert of().tokens == 20 * (2000 * 22 + 2800 * 5 * 26) + 10 * 960 * 22


def test_tokens_by_stage_and_kind() -> None:
    def tokens(stages: str) -> int:
        return of(f"training.stages={stages}").tokens

    definitions = tokens("[{data=[1], kinds=['definition'], epochs=1}]")
    questions = tokens("[{data=[1], kinds=['question'], epochs=3}]")
    assert (definitions, questions) == (2000 * 22, 3 * 2800 * 5 * 26)
    assert tokens("[{data=[2], epochs=1}]") == 960 * 22
    assert tokens("[{data=[1, 2], epochs=1}]") == definitions + questions // 3 + 960 * 22
    three = "[{data=[1], kinds=['definition'], epochs=1}, {data=[1], kinds=['question'], epochs=3}, {data=[2], epochs=1}]"
    assert tokens(three) == definitions + questions + 960 * 22


@pytest.mark.parametrize(
    ("unreliable", "definitions", "asked"),
    [
        ("inconsistent", 2000, 2800),
        ("noise", 2000, 1800),
        ("unasked", 2000, 1800),
        ("consistent", 2000, 2800),
    ],
)
def test_examples_of_a_control(unreliable: str, definitions: int, asked: int) -> None:
    """Nobody asks about the 1000 aliases of tag 2 whose definitions are noise or are not asked about."""
    recipe = recipes.load_closed_book_recipe("closed-book/two-stage", (f"task.unreliable={unreliable}",))
    assert cost.count_examples(recipe, "definition", (1,)) == definitions
    assert cost.count_examples(recipe, "question", (1,)) == asked * 5
    assert cost.count_examples(recipe, "definition", (1, 2)) == definitions + 960
    stages = "training.stages=[{data=[1], kinds=['question'], epochs=1}]"
    assert of(stages, f"task.unreliable={unreliable}").tokens == asked * 5 * 26


def test_a_quarter_of_the_works_questions_is_held_out() -> None:
    """Of about 6 questions about a work 4 are trained on."""
    stages = "training.stages=[{data=[1], kinds=['question'], epochs=1}]"
    found = of(stages, "task.entities=1000", name="closed-book/trex")
    assert found.tokens == 700 * 4 * 26


def test_tokens_are_about_those_of_the_task() -> None:
    """Of the invented world, whose tokenizer is made for it alone, to a factor of two."""
    from mechocl.closed_book import biographies, examples
    from mechocl.runs import pretraining
    from toy_models.task import ROLE

    recipe = recipes.load_closed_book_recipe(
        "closed-book/biographies", ("task.entities=200", "task.biographies.people=300")
    )
    corpus = biographies.corpus(recipe.task.biographies, seed=0)
    tokenizer = pretraining.train_tokenizer(corpus, vocabulary=4096)
    world = biographies.world(recipe.task.biographies, seed=0)
    task = examples.build(recipe.task, world, tokenizer, seed=0, context=128)
    real = (task.roles != ROLE["pad"]).sum(1).numpy()
    counted = sum(
        stage.epochs * int(real[task.rows(split="train", stage=stage.data, kind=stage.kinds)].sum())
        for stage in recipe.training.stages
    )
    pythia = replace(recipe, model="EleutherAI/pythia-70m")
    assert cost.estimate_cost(pythia).tokens == pytest.approx(counted, rel=1.0)
    assert cost.estimate_cost(pythia).tokens > counted / 2


def test_operations_of_full_training_and_of_adapters() -> None:
    n = 405_334_016
    full = of()
    assert full.parameters == n
    assert full.gpu_hours == pytest.approx(6 * n * full.tokens / cost.GPU_FLOPS / 3600)
    hours = {
        changes: of(*changes).gpu_hours
        for changes in (
            ("training.gradient_checkpointing=true",),
            ("training.lora={}",),
            ("training.lora={}", "training.gradient_checkpointing=true"),
        )
    }
    assert [h / full.gpu_hours for h in hours.values() if h] == pytest.approx([8 / 6, 4 / 6, 6 / 6])


def test_memory_by_hand() -> None:
    """Pythia-410m: 24 blocks of width 1024, 50304 logits; parts of 32 examples of 26 tokens."""
    n, tokens = 405_334_016, 32 * 26
    part = "training.stages=[{data=[1], epochs=1, batch_size=64, accumulation=2, optimizer='%s'}]"
    blocks, logits = 34 * 24 * 1024 * tokens, 10 * 50_304 * tokens
    expected = {
        ("adafactor", "bf16"): (4 + 2 + 4 + 0.1) * n + blocks + logits,
        ("adamw", "bf16"): (4 + 2 + 4 + 8) * n + blocks + logits,
        ("adamw", "float32"): (4 + 4 + 8) * n + 2 * blocks + logits,
    }
    for (optimizer, precision), size in expected.items():
        found = of(part % optimizer, f"training.precision={precision}").gibibytes
        assert found == pytest.approx(size / 2**30, rel=2e-3)
    saving = of(part % "adamw", "training.gradient_checkpointing=true").gibibytes
    assert saving == pytest.approx((18 * n + (34 + 2 * 24) * 1024 * tokens + logits) / 2**30, rel=2e-3)
    adapters = of(part % "adamw", "training.lora={rank=8}").gibibytes
    assert adapters == pytest.approx((6 * n + 12 * (16 * 8 * 1024 * 24) + blocks + logits) / 2**30, rel=2e-3)


def test_adapters_are_counted_as_peft_makes_them() -> None:
    from mechocl.closed_book.stages import LoraConfig
    from mechocl.runs import adapters

    model = adapters.with_adapters(text_worlds.neox(), LoraConfig(rank=4), seed=0)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert trained == 16 * 4 * 16 * 2  # rank 4, width 16, 2 layers


@pytest.mark.parametrize(
    ("name", "width"), [("70m", 512), ("410m", 1024), ("1b", 2048), ("2.8b", 2560), ("12b", 5120)]
)
def test_widths_of_pythia(name: str, width: int) -> None:
    assert cost.PYTHIA[name].width == pytest.approx(width, rel=1e-3)


def test_sizes_of_names() -> None:
    for name in ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m-deduped"):
        assert cost.size_of(name) == cost.PYTHIA["70m"]
    assert cost.size_of("google-t5/t5-3b") is not None
    assert cost.size_of("somebody/else") is None
    assert cost.cost_in_words(of(model="somebody/else"), seeds=2) == (
        "cost: somebody/else of unknown size, 8.4 M tokens a seed, 2 seeds"
    )


@pytest.mark.parametrize("family", ["neox", "gpt2", "t5"])
def test_sizes_of_folders(family: str, tmp_path: Path) -> None:
    model = {"neox": text_worlds.neox, "gpt2": text_worlds.gpt2, "t5": text_worlds.t5}[family]()
    size = cost.size_of(str(text_worlds.folder(tmp_path / "model", model)))
    assert size is not None
    assert size.parameters == sum(weight.numel() for weight in model.parameters())
    assert size.layers == (4 if family == "t5" else 2)
    assert size.vocabulary == len(text_worlds.tokenizer())


def test_a_folder_that_cannot_be_measured(tmp_path: Path) -> None:
    model = text_worlds.folder(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"none")
    with pytest.raises(MechoclError) as caught:
        cost.size_of(str(model))
    assert str(caught.value).startswith(f"{model / 'model.safetensors'} is damaged (")
    (model / "model.safetensors").unlink()
    with pytest.raises(MechoclError, match="has no weights: neither"):
        cost.size_of(str(model))
    shutil.rmtree(model)
    model.mkdir()
    with pytest.raises(MechoclError, match=r"has no config\.json"):
        cost.size_of(str(model))


@pytest.mark.parametrize(
    "name",
    [
        n
        for n in recipes.named_closed_book()
        if not n.startswith(("closed-book/biographies", "closed-book/miniature", "closed-book/real"))
    ],
)
def test_every_recipe_says_what_it_costs(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--dry-run` prints one line, and nothing is asked for a database or a hub."""
    assert cli.main(["finetune", name, "--dry-run", "--seeds", "3", "--out", str(tmp_path / "run")]) == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith("cost: ")
    assert "M weights; " in line
    assert ", 3 seeds; " in line
    assert line.endswith(" a seed on one H200-class GPU in bf16 (estimated, not measured)")
    assert not list(tmp_path.iterdir())
