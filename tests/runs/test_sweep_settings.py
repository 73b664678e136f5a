"""The settings of a sweep train different models, every one of them: a seed counts once in what is averaged."""

import dataclasses
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pytest
import tiny

from mechocl import files
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.runs import recipes, sweep_folder, sweep_settings, sweep_summaries, sweeps
from mechocl.runs.recipes import Recipe
from mechocl.runs.sweep_folder import SweepRun

QUICK: Final = ("training.stages.0.epochs=1", "training.stages.1.epochs=2", "task.aliases=40")

STAGE: Final = "training.stages.0."
OTHER: Final[dict[str, tuple[str, ...]]] = {
    "description": ("'Other'",),
    "task.aliases": ("60",),
    "task.integers": ("11",),
    "task.list_length": ("4",),
    "task.n_intersection": ("2",),
    "task.train_questions": ("6",),
    "task.test_questions": ("6",),
    "task.fractions": ("{ qd1 = 0.5, qd2 = 0.2, d1 = 0.1, d2 = 0.1, d3 = 0.1 }",),
    "task.tag_reliability": ("0.6",),
    "task.unreliable": ("unasked",),
    "task.word_order": ("VTE",),
    "task.definition_separator": ("false",),
    "task.label_flip": ("0.5",),
    "task.fresh_questions": ("true",),
    "task.tokens_per_alias": ("3",),
    "task.alphabet": ("19", "task.tokens_per_alias=3"),
    "task.loss": ("answers",),
    "model.architecture": ("small", "model.d_model=64"),
    "model.n_layers": ("1",),
    "model.d_model": ("48",),
    "model.n_heads": ("1",),
    "model.d_mlp": ("16",),
    "model.activation": ("relu",),
    "model.positions": ("learned",),
    "model.rotary_fraction": ("0.5",),
    "model.parallel_attn_mlp": ("false",),
    "model.normalization": ("none",),
    "model.layer_norm_eps": ("0.1",),
    "model.tied_embeddings": ("false",),
    "model.init_std": ("0.5",),
    "model.embedding_std": ("0.5",),
    "training.precision": ("bf16",),
    STAGE + "data": ("[1, 2]",),
    STAGE + "epochs": ("2",),
    STAGE + "batch_size": ("32",),
    STAGE + "optimizer": ("sgd",),
    STAGE + "learning_rate": ("0.01",),
    STAGE + "embedding_rate": ("20.0",),
    STAGE + "momentum": ("0.1",),
    STAGE + "beta2": ("0.5",),
    STAGE + "weight_decay": ("0.5",),
    STAGE + "schedule": ("linear",),
    STAGE + "warmup": ("0.9",),
    STAGE + "gradient_clip": ("1e-9",),
    STAGE + "trains": ("embeddings",),
    STAGE + "stop_at_definition_loss": ("100.0", STAGE + "epochs=3"),
    STAGE + "stops": ("alias", STAGE + "stop_at_definition_loss=2.4", STAGE + "epochs=4"),
    STAGE + "cut_tag": ("true",),
    STAGE + "tag_embedding": ("tag_2",),
    STAGE + "tag_embedding_in": ("forward", STAGE + "tag_embedding=none"),
    STAGE + "alias_step": ("onto_questions", STAGE + "data=[1, 2]"),
    STAGE + "alias_step_of": ("all_tags", STAGE + "alias_step=onto_questions", STAGE + "data=[1, 2]"),
    STAGE + "exchange_tags": ("true", STAGE + "data=[1, 2]"),
    STAGE + "evaluations": ("1",),
    STAGE + "checkpoints": ("1",),
}
"""Key of a recipe → another value than the tiny recipe's, and what else must be so for the field to matter."""


def fields_of_a_recipe() -> set[str]:
    """Every key of the recipe of a sweep: `fractions` and stages count as what they hold."""
    found = {field.name for field in dataclasses.fields(Recipe)} - {"task", "model", "training"}
    for root, config in recipes.configs().items():
        if root in ("IntegerSetConfig", "ModelConfig", "StageConfig"):
            before = {"IntegerSetConfig": "task.", "ModelConfig": "model.", "StageConfig": STAGE}[root]
            found |= {before + field.name for field in dataclasses.fields(config)}
    return found | {"training.precision"}


def weights_after(recipe: Recipe[Any]) -> dict[str, float]:
    """What came out of a seed, except its time, and its loss, which is a mean since the evaluation before."""
    (outcome,) = sweeps.train_together(
        [SweepRun({}, recipe, 0)], device="cpu", progress=lambda text, share: None
    )
    return {k: v for k, v in outcome.items() if k != "seconds" and not k.endswith(".loss")}


def test_every_field_of_a_recipe_has_another_value_here() -> None:
    assert set(OTHER) == fields_of_a_recipe()


@pytest.mark.parametrize("key", OTHER)
def test_a_field_is_refused_just_when_no_weight_depends_on_it(key: str, tmp_path: Path) -> None:
    """Both ways: what is refused changes nothing that is measured, and what changes nothing is refused."""
    path, (other, *needed) = str(tiny.recipe_file(tmp_path)), OTHER[key]
    changes = (*QUICK, *needed)
    one, two = recipes.load_recipe(path, changes), recipes.load_recipe(path, (*changes, f"{key}={other}"))
    same = str(weights_after(one)) == str(weights_after(two))
    assert same == (key.rpartition(".")[2] in sweep_settings.TRAINS_NOTHING)
    if not same:
        assert len(sweep_settings.settings(path, changes, [f"{key}={other}"])[0]) == 1
        return
    for over in (f"{key}={other}", f"{key}=2,3"):
        with pytest.raises(MechoclError, match=f"--over {key}: the same models are trained whatever it is"):
            sweep_settings.settings(path, changes, [over])


def test_every_field_that_may_be_swept_is_an_axis() -> None:
    """What is no axis is left out of the settings, so its values would be counted together."""
    for key in OTHER:
        assert sweep_folder.is_axis(key) or key.rpartition(".")[2] in sweep_settings.TRAINS_NOTHING, key


def test_two_names_of_one_model_are_refused(tmp_path: Path) -> None:
    path = str(tiny.recipe_file(tmp_path))
    small = ("model.d_model=64", "model.d_mlp=256", "model.n_heads=4")
    with pytest.raises(
        MechoclError, match=r"architecture=nano and model.architecture=small train the same models"
    ):
        sweep_settings.settings(path, small, ["model.architecture=nano,small"])


def test_a_value_that_no_recipe_takes_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = str(tiny.recipe_file(tmp_path)), tmp_path / "sweep"
    for over in (
        ["task.label_flip=0.5,none"],
        ["task.label_flip=null,0.5", "task.aliases=40,60"],
        ["task.aliases=40,60", "task.label_flip=0.5,2"],
        ["task.list_length=3,20", "task.aliases=40"],
    ):
        assert cli.main(["sweep", path, "--out", str(out), "--seeds", "1", "--over", *over]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert over[-1].partition("=")[0] in line or over[0].partition("=")[0] in line
        assert not out.exists()


def test_a_corner_of_a_grid_that_is_no_recipe_is_a_refused_setting(tmp_path: Path) -> None:
    allowed, refused = sweep_settings.settings(
        str(tiny.recipe_file(tmp_path)), QUICK, ["task.list_length=3,12", "task.integers=10,30"]
    )
    assert len(allowed) == 3
    ((setting, why),) = refused
    assert setting == {"task.list_length": 12, "task.integers": 10}
    assert "list_length 12 needs more than 10 integers" in why


# sweeps of versions that took such fields ----------------------------------------------------------------------


def old_sweep(tmp_path: Path) -> Path:
    """A sweep over descriptions, as older versions made them: each seed is trained once for each."""
    path = tmp_path / "old"
    sweep_folder.start_sweep(path, tiny.recipe(tmp_path), recipe_name="tiny", device="cpu")
    for text in ("a", "b"):
        recipe = tiny.recipe(tmp_path, f"description={text}")
        for seed in (0, 1):
            gap = {"stage2.auc.d1_consistent": 0.6 + seed / 10, "stage2.auc.d2_consistent": 0.5}
            run = SweepRun({"description": text}, recipe, seed)
            sweep_folder.write_row(path, run, {"failed": "", "seconds": 1.0} | gap)
    return path


def test_a_seed_counts_once_in_an_old_sweep_over_descriptions(tmp_path: Path) -> None:
    path = old_sweep(tmp_path)
    twice = pd.DataFrame(
        [
            files.read_json(row) | {"recipe": "tiny", "description": row.name}
            for row in sorted(path.glob("rows/*.json"))
        ]
    )
    twice = twice[["recipe", "description", "seed", "failed", "seconds", "stage2.auc.d1_consistent"]]
    files.write_table(path / "table.parquet", twice)
    for place in (path, path / "table.parquet"):
        frame = sweep_folder.read_sweep(place)
        assert sorted(frame["seed"]) == [0, 1]
        (one,) = sweep_summaries.summaries(frame)
        assert (one.runs, one.auc["d1_consistent"].n) == (2, 2)


def test_rows_of_a_seed_that_is_there_twice_are_refused(tmp_path: Path) -> None:
    frame = sweep_folder.read_sweep(old_sweep(tmp_path))
    for twice in (
        pd.concat([frame, frame]),
        pd.concat([frame, frame.assign(recipe="other")]),
        pd.concat([frame, frame]).assign(**{"task.aliases": 40}),
    ):
        for read in (
            sweep_summaries.summaries,
            lambda table: sweep_summaries.by_run(table, "strong"),
            lambda table: sweep_summaries.over_controls(table, "strong"),
        ):
            with pytest.raises(
                MechoclError, match=r"the table has seed 0 twice at t.*; give the rows of one"
            ):
                read(twice)
