"""What counts something is at least 1, and a seed is any whole number, wherever a public function or config takes one."""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable
from typing import Any, Final, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import tiny
import torch
from test_public_names import CONFIGS, FUNCTIONS, Stranger, asked, made

import mechocl
from mechocl.accepted import counts
from mechocl.errors import MechoclError
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.features.settings import TrainingConfig
from mechocl.runs import recipes
from mechocl.runs.pretraining_config import PretrainingConfig
from mechocl.runs.run import Run

NO_COUNT: Final = {"seed", "seeds", "stage", "diverged", "height", "target", "foil"}
"""Whole numbers that public functions take and that count nothing of which there must be one."""

NONE_IS_RIGHT: Final = {
    "permutations": "no significance is computed", "random_circuits": "none beside", "random_vectors": "none beside",
    "TunedLensConfig.steps": "translators as they begin", "ProbingConfig.n_pairs": "nothing is swapped", "layer": "counts from 0", "name_pool": "names of one word", "d_mlp": "attention alone",
}  # fmt: skip
"""Fields of configs that may be 0."""

NO_LEAST: Final = {"seed", "biographies_seed"}
"""Fields of configs that count nothing."""

MORE: Final = (TrainingConfig, CrosscoderConfig, PretrainingConfig)


def whole(hint: Any) -> bool:
    return hint is int or (get_origin(hint) in (Union, types.UnionType) and int in get_args(hint))


def whole_parameters() -> list[tuple[str, str]]:
    """Public function and parameter that is declared a whole number, or may be one."""
    return [
        (name, one.name)
        for name in FUNCTIONS
        for one in inspect.signature(inspect.unwrap(getattr(mechocl, name))).parameters.values()
        if whole(one.annotation) or str(one.annotation) in ("int", "int | None")
    ]


def test_every_whole_number_of_a_public_function_is_known() -> None:
    """One of a new name is either a count, or stands above."""
    names = {name for _, name in whole_parameters()}
    assert {name for name in names if not counts(name)} == NO_COUNT
    assert {"n_pairs", "aliases_per_subset", "batch_size", "steps", "most", "jobs", "n_ctx"} <= names


@pytest.mark.parametrize(("name", "count"), [one for one in whole_parameters() if counts(one[1])])
def test_a_count_below_one_is_refused_by_a_function(name: str, count: str) -> None:
    """Before anything else is looked at."""
    function = asked(name)
    needed = {
        other.name: Stranger()
        for other in inspect.signature(function).parameters.values()
        if other.default is inspect.Parameter.empty
    }
    for value in (0, -3, np.int64(0)):
        with pytest.raises(MechoclError) as caught:
            function(**{**needed, count: value})
        assert str(caught.value) == f"{name}: {count} is {value}; use at least 1"


def whole_fields() -> list[tuple[type, str]]:
    """Every field of a config that is a whole number, or a tuple of these."""
    found = []
    for config in dict.fromkeys([*CONFIGS, *MORE, *recipes.configs().values()]):
        for field in dataclasses.fields(config):
            hint = get_type_hints(config).get(field.name) if config.__module__ != "typing" else None
            kinds = (hint, *get_args(hint))
            if int in kinds:
                found.append((config, field.name))
    return found


@pytest.mark.parametrize(("config", "name"), whole_fields(), ids=lambda one: getattr(one, "__name__", one))
def test_a_count_below_one_is_refused_by_a_config(config: type, name: str) -> None:
    if name in NO_LEAST:
        return
    needed: dict[str, Any] = {
        "sae": "x", "data": (1,), "epochs": 1, "architecture": "nano", "world": "biographies", "stages": (), "rank": 1,
        "planted": "noise",
    }  # fmt: skip
    parameters = inspect.signature(config).parameters.values()
    given = {one.name: needed[one.name] for one in parameters if one.default is inspect.Parameter.empty}
    default = config(**given)
    many = isinstance(getattr(default, name), tuple)
    none = name in NONE_IS_RIGHT or f"{config.__name__}.{name}" in NONE_IS_RIGHT
    for value in (-1,) if none else (0, -1):
        with pytest.raises(ValueError, match=re.escape(name)) as caught:
            made(config, default, **{name: (value,) if many else value})
        assert "\n" not in str(caught.value)


# seeds -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("counts")
    changes = ("training.stages.0.epochs=1", "training.stages.1.epochs=1")
    path = str(tiny.recipe_file(folder))
    made: Run = asked("train")(path, folder / "run", seeds=[np.int64(0), np.uint8(1)], changes=changes)
    return made


def seed_of(run: Run, seed: Any) -> Any:
    """`run.seed(seed)` outside of the tests' own run-time checks of types."""
    return inspect.unwrap(Run.seed)(run, seed)


WHOLE: Final = (1, np.int64(1), np.uint8(1), torch.tensor([1]).numpy()[0])
TAKERS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "seed": lambda run, seed: seed_of(run, seed).final(),
    "draw_task": lambda run, seed: asked("draw_task")(run.recipe, seed=seed).tokens.tolist(),
    "build_model": lambda run, seed: asked("build_model")(run.recipe, seed=seed).W_E.tolist(),
    "pairs_named": lambda run, seed: asked("pairs_named")(
        run.seed(0).task, "d1-to-other-d2", n_pairs=4, seed=seed
    ).clean.tolist(),
    "patch_activations": lambda run, seed: asked("patch_activations")(
        run.seed(0).model,
        asked("pairs_named")(run.seed(0).task, "d1-to-other-d2", n_pairs=4, seed=0),
        sites=["z"], mode="resample", seed=seed,
    ).rows["value"].tolist(),
}  # fmt: skip


def test_everything_that_takes_a_seed_is_here() -> None:
    assert {name for name, one in whole_parameters() if one == "seed"} == set(TAKERS) - {"seed"}


@pytest.mark.parametrize("name", TAKERS)
def test_a_seed_is_any_whole_number(run: Run, name: str) -> None:
    first, *others = (TAKERS[name](run, seed) for seed in WHOLE)
    assert all(other == first for other in others)
    for strange in ("1", 1.0, None, True):
        with pytest.raises(MechoclError, match="whole number"):
            TAKERS[name](run, strange)


def test_a_seed_of_a_run_says_what_it_takes(run: Run) -> None:
    for strange, message in (
        ("1", "a seed is a whole number, not '1'; it has 0, 1"),
        (7, "has no seed 7; it has 0, 1"),
        (-1, "a seed is 0 or more, not -1; it has 0, 1"),
    ):
        with pytest.raises(MechoclError, match=re.escape(message)):
            seed_of(run, strange)
    with pytest.raises(MechoclError, match="a seed is a whole number, not '0'"):
        asked("train")("integer-set/cpu", run.path / "other", seeds=["0"])
    assert not (run.path / "other").exists()
