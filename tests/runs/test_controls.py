"""Control runs: their recipes, their place in a run, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from mechocl import files
from mechocl.analyses import control_jobs
from mechocl.errors import MechoclError
from mechocl.runs import controls, recipes
from mechocl.runs.controls import CONTROLS, control_path, control_recipe, open_controls
from mechocl.runs.run import Run, kind_of


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_differs_in_what_it_says_alone(name: str) -> None:
    recipe, control = recipes.load_recipe("integer-set/cpu"), CONTROLS[name]
    changed = control_recipe(recipe, control)
    assert changed.task.unreliable == control.unreliable
    back = replace(changed, task=replace(changed.task, unreliable="inconsistent", tag_reliability=1.0))
    if control.equal_steps:
        assert back.training.stages[1:] == recipe.training.stages[1:]
        first = recipe.training.stages[0]
        assert replace(back.training.stages[0], epochs=first.epochs) == first
        back = replace(back, training=recipe.training)
    assert back == recipe


@pytest.mark.parametrize("name", ["noise", "unasked"])
def test_equal_exposure_or_equal_steps(name: str) -> None:
    """cpu.toml: 600 definitions and 7200 questions, 122 steps an epoch; without those of tag 2, 4200: 66 steps."""
    recipe = recipes.load_recipe("integer-set/cpu")
    exposure, steps = (control_recipe(recipe, CONTROLS[n]) for n in (name, f"{name}-equal-steps"))
    assert exposure.training.stages[0].epochs == 24
    assert steps.training.stages[0].epochs == round(24 * 122 / 66) == 44
    kind = kind_of(recipe)
    assert [kind.count_examples(r, 0) for r in (recipe, steps)] == [7800, 4200]


def test_a_control_has_no_controls() -> None:
    recipe = recipes.load_recipe("integer-set/cpu", ("task.unreliable=noise",))
    with pytest.raises(MechoclError, match="this recipe is itself a control"):
        control_recipe(recipe, CONTROLS["noise"])


def test_what_is_no_control_of_a_recipe_is_refused() -> None:
    half = recipes.load_recipe("integer-set/cpu", ("task.tag_reliability=0.5",))
    with pytest.raises(MechoclError, match="the control half of this recipe is the recipe itself"):
        control_recipe(half, CONTROLS["half"])
    stopping = recipes.load_recipe("integer-set/cpu", ("training.stages.0.stop_at_definition_loss=0.5",))
    with pytest.raises(
        MechoclError, match="ends at a definition loss, which its controls reach at another time"
    ):
        control_recipe(stopping, CONTROLS["noise"])


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match="there is no control 'nois'; there are noise, noise-equal-steps"):
        control_path(tmp_path, "nois")


def test_controls_are_runs_inside_the_run(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    run = control_jobs.train_controls(
        tmp_path / "run", recipe, ("noise", "unasked"), recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1
    )
    found = open_controls(run)
    assert list(found) == ["noise", "unasked"]
    assert all(control.seeds == (0, 1) for control in found.values())
    rows = control_jobs.evaluate_controls(run, device="cpu", jobs=1).rows
    assert set(rows["noise"]["subset"]) >= {"d2_noise", "d1_consistent"}
    assert set(rows["unasked"]["subset"]) >= {"d2_unasked", "d1_consistent"}
    assert not {"qd2_inconsistent"} & set(rows["noise"]["subset"])
    # another run's control in the place of this one's is named, and refused
    (run.path / controls.FOLDER / "noise").rename(run.path / controls.FOLDER / "consistent")
    with pytest.raises(MechoclError, match="is not the control 'consistent' of"):
        open_controls(Run.open(run.path))


def test_an_incomplete_control_is_named_with_a_remedy_that_works(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    out = tmp_path / "run"
    told: dict[str, Any] = {"recipe_name": "tiny", "device": "cpu", "jobs": 1}
    run = control_jobs.train_controls(out, recipe, ("noise",), seeds=(0,), **told)
    final = next((out / "controls" / "noise" / "seed-0").rglob("stage-2/final.safetensors"))
    shutil.rmtree(final.parent)
    ledger = out / "controls" / "noise" / "seed-0" / "checksums.json"
    known = {k: v for k, v in files.read_json(ledger).items() if not k.startswith("stage-2/")}
    files.write_json(ledger, known)
    left = control_jobs.evaluate_controls(run, device="cpu", jobs=1)
    assert not left.rows
    assert left.left_out == {
        "noise": f"seed 0 is not trained to the end, which `mechocl controls` with --only noise --out {out} does"
    }
    control_jobs.train_controls(out, recipe, ("noise",), seeds=(0,), **told)
    assert set(control_jobs.evaluate_controls(run, device="cpu", jobs=1).rows) == {"noise"}


def test_a_damaged_control_is_mended_by_the_command_that_is_named(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path)
    out = tmp_path / "run"
    told: dict[str, Any] = {"recipe_name": "tiny", "seeds": (0,), "device": "cpu", "jobs": 1}
    run = control_jobs.train_controls(out, recipe, ("noise",), **told)
    control = open_controls(run)["noise"]
    lost = control.path / "seed-0" / "stage-2" / "final.safetensors"
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(MechoclError, match="run the same `mechocl controls` again to complete it"):
        control.seed(0).weights(control.seed(0).final())
    control_jobs.train_controls(out, recipe, ("noise",), **told)
    assert lost.read_bytes() == content
    shutil.rmtree(control.path / "seed-0")
    with pytest.raises(
        MechoclError, match=f"run `mechocl controls` again with --out {out}, unless it is still at work$"
    ):
        control.finished_seeds()
    control_jobs.train_controls(out, recipe, ("noise",), **told)
    assert lost.read_bytes() == content
    assert control.finished_seeds()
