"""Sizes that no machine can hold are refused before anything is built, in one line; all other sizes begin to train."""

import dataclasses
import itertools
import time
import typing
from collections.abc import Callable
from pathlib import Path

import grids
import pytest
import tiny

from mechocl import memory
from mechocl.analyses import jobs
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.miniature import MiniatureConfig
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.features.settings import TrainingConfig
from mechocl.features.training_limits import require_dictionary_memory
from mechocl.runs import recipes, sweep_settings
from mechocl.runs.building import build_model
from mechocl.runs.needed_memory import require_pretraining_memory, require_recipe_memory
from mechocl.runs.pretraining_config import PretrainingConfig
from mechocl.runs.recipes import AnyRecipe
from mechocl.runs.train_toy import draw_task
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.sizes import count_convnet_parameters, count_parameters, size_digit_grid, size_integer_set
from toy_models.stages import evaluation_steps, log_steps
from toy_models.training import train_stage

HUGE = (10**9, 10**12, 10**15)


def integer_keys(config: object, prefix: str = "") -> list[str]:
    """The keys of all fields of a config that hold an integer, or may hold one."""
    hints, found = typing.get_type_hints(type(config)), []
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        value, hint = getattr(config, field.name), hints[field.name]
        entries = list(enumerate(value)) if isinstance(value, tuple) else []
        if dataclasses.is_dataclass(value):
            found += integer_keys(value, f"{prefix}{field.name}.")
        elif entries and dataclasses.is_dataclass(entries[0][1]):
            found += [key for i, one in entries for key in integer_keys(one, f"{prefix}{field.name}.{i}.")]
        elif int in (hint, *typing.get_args(hint)):
            found.append(prefix + field.name)
    return found


def refusal(recipe: AnyRecipe, change: str) -> str:
    """What is said about a changed recipe before it is trained; "" if it may be trained."""
    started = time.monotonic()
    try:
        require_recipe_memory(recipes.change_recipe(recipe, (change,)))
    except MechoclError as error:
        line = str(error)
    else:
        line = ""
    assert time.monotonic() - started < 20
    return line


@pytest.mark.parametrize(
    ("made", "also"), [(tiny.recipe, {"alphabet"}), (grids.recipe, set())], ids=["transformer", "convnet"]
)
def test_every_integer_of_a_toy_recipe_is_refused_or_begins_to_train(
    made: Callable[..., AnyRecipe], also: set[str], tmp_path: Path
) -> None:
    recipe = made(tmp_path)
    keys = integer_keys(recipe)
    assert {"task.aliases", "model.d_model", "training.stages.1.batch_size"} <= set(keys)
    begun = set()
    for key, value in itertools.product(keys, HUGE):
        change = f"{key}={value}"
        if line := refusal(recipe, change):
            assert "\n" not in line
            continue
        changed = made(tmp_path, change)
        if key in ("task.train_images", "task.test_images"):  # there are not so many
            with pytest.raises(MechoclError, match="lower train_images or test_images"):
                draw_task(changed, seed=0)
            continue
        begun.add(key.rsplit(".", 1)[1])
        task = draw_task(changed, seed=0)
        model = build_model(changed, seed=0, device="cpu")
        number = int(key.split(".")[2]) if key.startswith("training") else 0
        moments = train_stage(
            [model], [task], changed.training.stages[number], seeds=[0], precision="float32"
        )
        assert [next(moments).step for _ in range(2)] == [0, 1]
    # whatever these are, training begins: batches and evaluations are no more than there are examples and steps
    assert begun == {"epochs", "batch_size", "evaluations", "checkpoints"} | also


def test_widths_of_a_convnet_are_refused(tmp_path: Path) -> None:
    for change in (
        "model.channels=[4, 1_000_000_000]",
        "model.hidden=[1_000_000_000]",
        "task.labels=1_000_000_000_000",
    ):
        assert "and this machine has" in refusal(grids.recipe(tmp_path), change)


def test_the_weights_of_a_convnet_are_counted(tmp_path: Path) -> None:
    for changes in ((), ("model.channels=[3]", "task.side=3"), ("model.hidden=[5, 7, 6]", "model.d_model=9")):
        recipe = grids.recipe(tmp_path, *changes)
        assert isinstance(recipe, recipes.ConvNetRecipe)
        model = build_model(recipe, seed=0, device="cpu")
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        assert count_convnet_parameters(recipe.model, size_digit_grid(recipe.task)) == trained


def test_a_refusal_names_the_memory_the_machine_and_the_setting(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    for change, setting in (
        ("task.aliases=1_000_000_000_000", "aliases"),
        ("model.n_layers=1_000_000", "n_layers"),
        ("model.d_model=1_000_000_000", "d_model"),
    ):
        line = refusal(recipe, change)
        assert line.startswith("the recipe needs about ")
        assert f"and this machine has {memory.in_words(memory.machine_memory())}; most is for the" in line
        assert setting in line.split("(")[1]


@pytest.mark.parametrize("name", recipes.named_closed_book())
def test_every_size_of_a_closed_book_recipe_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        memory, "machine_memory", lambda: 10**12
    )  # of which every recipe as it ships needs less
    recipe = recipes.load_closed_book_recipe(name)
    require_recipe_memory(recipe)
    allowed = {
        key.rsplit(".", 1)[1]
        for key in integer_keys(recipe)
        if not refusal(recipe, f"{key}=1_000_000_000_000_000")
    }
    assert allowed <= {
        "epochs",
        "batch_size",
        "evaluations",
        "checkpoints",
        "biographies_seed",
        "told",
        "asked",
        "letters",
        "texts",
        "rank",
    }
    assert ("rank" in allowed) == (recipe.task.world == "facts")  # of a model whose size its folder says
    if recipe.task.world == "biographies":
        assert "letters" not in allowed
    assert ("texts" in allowed) == (recipe.task.world != "miniature")  # which replays them


def test_every_size_of_a_pretraining_is_refused() -> None:
    require_pretraining_memory(BiographiesConfig(), PretrainingConfig())
    require_pretraining_memory(MiniatureConfig(), PretrainingConfig())
    for config, free in (
        (BiographiesConfig(), set()),
        (MiniatureConfig(), set()),
        (PretrainingConfig(), {"epochs"}),
    ):
        for key in integer_keys(config):
            parts = {type(config): {key: 8 * 10**14}}
            try:
                drawn = MiniatureConfig if type(config) is MiniatureConfig else BiographiesConfig
                world = drawn(**parts.get(drawn, {}))
                model = PretrainingConfig(**parts.get(PretrainingConfig, {}))
                require_pretraining_memory(world, model)
            except MechoclError as error:
                line = str(error)
            else:
                line = ""
            assert bool(line) == (key not in free), key


def test_dictionaries_that_do_not_fit_are_refused() -> None:
    require_dictionary_memory(TrainingConfig(), [(1024, 32)])
    for wanted in ([(10**12, 32)], [(10**9, 32)] * 100):
        with pytest.raises(MechoclError, match=r"the training needs about .*width.*: use less"):
            require_dictionary_memory(TrainingConfig(), wanted)
    with pytest.raises(MechoclError, match="are 1000000000 dictionaries; train at most 1000 at a time"):
        TrainingConfig(sae_seeds=10**9)


def test_the_folder_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(tiny.recipe_file(tmp_path))
    big = ["--set", "task.aliases=1_000_000_000_000"]
    assert cli.main(["train", recipe, "--out", str(tmp_path / "run"), *big]) == 2
    assert (
        cli.main(["sweep", recipe, "--out", str(tmp_path / "sweep"), "--over", "task.integers=10,11", *big])
        == 2
    )
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2
    assert all(line.startswith("mechocl: the recipe needs about ") for line in err)
    assert {p.name for p in tmp_path.iterdir()} == {"tiny.toml"}


def test_a_setting_that_does_not_fit_is_a_refused_setting(tmp_path: Path) -> None:
    allowed, refused = sweep_settings.settings(
        str(tiny.recipe_file(tmp_path)), (), ("task.aliases=120,1_000_000_000_000",)
    )
    assert [setting for setting, _ in allowed] == [{"task.aliases": 120}]
    assert [why.startswith("the recipe needs about ") for _, why in refused] == [True]
    elsewhere, _ = sweep_settings.settings(
        str(tiny.recipe_file(tmp_path)), (), ("task.aliases=120,1_000_000_000_000",), here=False
    )
    assert len(elsewhere) == 2


def test_too_many_seeds_are_refused(tmp_path: Path) -> None:
    for seeds in (10**6, 10**12):
        with pytest.raises(MechoclError, match="give at most 10000 seeds"):
            jobs.train(str(tiny.recipe_file(tmp_path)), tmp_path / "run", seeds=seeds)


# the estimates ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("model.tied_embeddings=false", "model.positions=learned", "task.loss=every"),
        ("model.normalization=none", "model.d_mlp=0", "task.tokens_per_alias=3"),
    ],
)
def test_the_number_of_weights_is_exact(tmp_path: Path, changes: tuple[str, ...]) -> None:
    recipe = tiny.recipe(tmp_path, *changes)
    model = build_model(recipe, seed=0, device="cpu")
    counted = count_parameters(recipe.model.resolve(), size_integer_set(recipe.task))
    assert counted == sum(weight.numel() for weight in model.parameters())


def test_the_size_of_a_task_is_close_and_low(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    task, size = draw_task(recipe, seed=0), size_integer_set(recipe.task)
    examples, positions = task.tokens.shape
    assert examples <= size.examples < 2 * examples
    assert size.positions == positions
    assert (size.vocabulary, size.outputs) == (len(task.vocabulary.tokens), task.vocabulary.outputs)
    assert size_integer_set(IntegerSetConfig()).bytes < 10**9


def test_huge_counts_of_steps_give_all_steps() -> None:
    for total in (1, 2, 7, 100):
        everything = frozenset(range(1, total + 1))
        assert evaluation_steps(total, 10**12) == log_steps(total, 10**12) == everything
    assert evaluation_steps(100, 4) == {25, 50, 75, 100}
    assert log_steps(1000, 4) == {1, 10, 100, 1000}


def test_memory_in_words() -> None:
    assert [memory.in_words(10.0**n) for n in (3, 5, 9, 13, 19)] == [
        "1 kB",
        "100 kB",
        "1 GB",
        "10 TB",
        "10 EB",
    ]
