"""Every public name takes what its signature suggests, and says in one line what it takes instead of anything else."""

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import mechocl
from mechocl.accepted import _hints, checked
from mechocl.analyses.registry import ANALYSES
from mechocl.errors import MechoclError
from mechocl.runs.run import Run
from toy_models.task import Task

FUNCTIONS = [
    name
    for name, home in mechocl._HOME.items()
    if home != "mechocl.report" and inspect.isfunction(getattr(mechocl, name))
]
CONFIGS = sorted({analysis.config for analysis in ANALYSES.values()}, key=lambda config: config.__name__)


class Stranger:
    """A value that no function takes."""


def asked(name: str) -> Callable[..., Any]:
    """The function as a notebook has it, outside of the tests' own run-time checks of types."""
    return checked(inspect.unwrap(getattr(mechocl, name)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("names")
    return mechocl.train(tiny.recipe_file(folder), folder / "run", seeds=np.int64(1), device=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_stranger_in_any_place_is_refused_by_name(name: str) -> None:
    """One argument after another is of a class that nothing takes; those before it are left out."""
    function = asked(name)
    hints = _hints(inspect.unwrap(function))
    for parameter in inspect.signature(function).parameters.values():
        if hints.get(parameter.name, Any) is Any or parameter.name == "collect":
            continue
        given = {
            other.name: Stranger()
            for other in inspect.signature(function).parameters.values()
            if other.name == parameter.name or other.default is inspect.Parameter.empty
        }
        with pytest.raises(MechoclError, match=name) as caught:
            function(**given)
        assert "\n" not in str(caught.value)
        assert "Stranger; it takes " in str(caught.value) or "attribute" in str(caught.value)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_missing_or_unknown_argument_is_named(name: str) -> None:
    with pytest.raises(
        MechoclError, match=f"{name}: got an unexpected keyword argument 'sied'|missing"
    ) as caught:
        asked(name)(sied=0)
    assert "its arguments are" in str(caught.value)


def made(config: type, default: Any, **changes: Any) -> Any:
    """A config with changes, outside of the tests' own run-time checks of types, which look at `__init__`."""
    bare = object.__new__(config)
    for field in dataclasses.fields(config):
        object.__setattr__(bare, field.name, changes.get(field.name, getattr(default, field.name)))
    if hasattr(bare, "__post_init__"):  # a config of no fields has none
        bare.__post_init__()
    return bare


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.__name__)
def test_configs_take_lists_and_single_values_for_tuples(config: type) -> None:
    default = config(**({"sae": "x"} if "sae" in inspect.signature(config).parameters else {}))
    for field in dataclasses.fields(config):
        name, value = field.name, getattr(default, field.name)
        if isinstance(value, tuple):
            assert getattr(made(config, default, **{name: list(value)}), name) == value
            if value:
                assert getattr(made(config, default, **{name: value[0]}), name) == value[:1]
        with pytest.raises(MechoclError, match=f"{config.__name__}: {name} is Stranger; it takes ") as caught:
            made(config, default, **{name: Stranger()})
        assert "\n" not in str(caught.value)


def test_what_a_notebook_would_write(run: Run, tmp_path: Path) -> None:
    """Paths as texts, devices as None, lists for tuples, one text for a list, seeds in every way."""
    for opened in (Run.open(str(run.path)), mechocl.open_run(run.path), mechocl.open_run(str(run.path))):
        assert opened.seeds == (0,)
    seed = run.seed(0)
    task: Task = seed.task
    for checkpoint in seed.checkpoints()[-1:]:
        for options in ({}, {"device": None}, {"device": "cpu"}):
            assert seed.model_at(checkpoint, **options).cfg.d_model == 16
    assert len(task.rows(subset="d1")) > 0
    assert task.vocabulary.decode(task.vocabulary.encode("alias 23 % 7")) == ["alias 23", "%", "7"]
    pairs = mechocl.pairs_named(task, "d1-to-other-d2", n_pairs=np.int64(4), seed=0)  # type: ignore[arg-type]
    result = mechocl.patch_activations(seed.model, pairs, sites="z")  # type: ignore[arg-type]
    assert set(result.rows["site"]) == {"z"}
    assert mechocl.plots.patching(result).data
    assert mechocl.plots.patching(result.table()).data
    recipe = mechocl.load_recipe(tiny.recipe_file(tmp_path), ["task.aliases=200"])  # type: ignore[arg-type]
    assert recipe.task.aliases == 200
    rows = mechocl.analyse_run(run, "lens", mechocl.LensConfig(aliases_per_subset=2), device=None)  # type: ignore[arg-type]
    assert mechocl.lens_plots.component_lens(rows).data
    again = mechocl.train(
        str(tmp_path / "tiny.toml"), str(tmp_path / "two"), seeds=[0, 1], changes="task.test_questions=6"
    )
    assert again.seeds == (0, 1)


def test_your_own_model_needs_no_run(tmp_path: Path) -> None:
    """A task of a config, and any model of its vocabulary."""
    recipe = mechocl.load_recipe(tiny.recipe_file(tmp_path))  # type: ignore[arg-type]
    task = mechocl.draw_task(recipe, seed=0)  # type: ignore[arg-type]
    model = mechocl.build_model(recipe)
    rows = mechocl.logit_lens(model, task, mechocl.LensConfig(aliases_per_subset=2))
    assert mechocl.lens_plots.component_lens(rows).data
    assert mechocl.plots.subset_values(mechocl.per_alias(model, task)).data
    assert mechocl.plots.attention(
        mechocl.attention_patterns(model, task, mechocl.AttentionConfig(subsets=("d1",)))
    ).data


def test_the_refusal_says_what_is_taken(run: Run) -> None:
    with pytest.raises(MechoclError, match=r"per_alias: task is 'x'; it takes a task \(run.seed\(0\).task"):
        asked("per_alias")(run.seed(0).model, "x")
    with pytest.raises(MechoclError, match="analyse_run: run is 'runs/demo'; it takes a run"):
        asked("analyse_run")("runs/demo", "lens")
    pairs = mechocl.pairs_named(run.seed(0).task, "d1-to-other-d2", n_pairs=4, seed=0)
    with pytest.raises(MechoclError, match="by is 'rol'; use one of position, role, all"):
        asked("patch_activations")(run.seed(0).model, pairs, sites=["z"], by="rol")
    with pytest.raises(MechoclError, match="LensConfig: aliases_per_subset is True; it takes a whole number"):
        made(mechocl.LensConfig, mechocl.LensConfig(), aliases_per_subset=True)
