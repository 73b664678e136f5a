"""Runs whose seeds stop at a definition loss: final checkpoints and histories end at the stop, however seeds are stacked."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.runs import train_toy
from mechocl.runs.folders import SeedFolder
from mechocl.runs.run import Run
from mechocl.runs.sweeps import SweepRun, train_together
from toy_models.definition_loss import measure_definition_losses
from toy_models.trainer import TrainingState

SEEDS = (0, 1)
STOP = (
    "training.stages.1.trains=all",
    "training.stages.1.optimizer=adamw",
    "training.stages.1.learning_rate=1e-2",
    "training.stages.1.epochs=40",
    "training.stages.1.evaluations=3",
    "training.stages.1.stop_at_definition_loss=0.6",
)
PER_EPOCH = 4
"""Steps of an epoch of stage 2: 60 definitions in batches of 16."""


class Killed(BaseException):
    """Stands for a `kill -9`: nothing catches it."""


def create(folder: Path, *changes: str, together: int = 2) -> Run:
    folder.mkdir()
    recipe = tiny.recipe(folder, *STOP, *changes)
    return Run.create(
        folder / "run", recipe, recipe_name="tiny", seeds=SEEDS, device="cpu", threads=1, together=together
    )


def train(run: Run, *, save_every_s: float = 1e9) -> None:
    for stack in run.stacks():
        train_toy.train_stack(
            run, stack, device="cpu", save_every_s=save_every_s, progress=lambda text, share: None
        )


def stops(run: Run) -> list[int]:
    return [folder.final().step for folder in run.finished_seeds()]


@pytest.fixture(scope="module", params=["stage", "alias"])
def stacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = create(tmp_path_factory.mktemp("stacked") / "a", f"training.stages.1.stops={request.param}")
    train(run)
    return run


def definition_losses(folder: SeedFolder) -> pd.DataFrame:
    """Subset and definition loss of each definition of stage 2, of the final model."""
    task = folder.load_task()
    rows = task.rows(kind="definition", stage=2)
    model = folder.model_at(folder.final(), device="cpu")
    losses = measure_definition_losses(model, task, rows)
    return pd.DataFrame({"subset": task.table["subset"].astype(str).iloc[rows], "loss": losses})


def test_the_final_checkpoint_and_the_last_evaluation_are_at_the_stop(stacked: Run) -> None:
    assert len(set(stops(stacked))) == 2
    for folder, stop in zip(stacked.finished_seeds(), stops(stacked), strict=True):
        assert 0 < stop < 40 * PER_EPOCH
        assert stop % PER_EPOCH == 0
        assert max(c.step for c in folder.checkpoints() if c.stage == 2) == stop
        history = folder.history()
        last = history[(history["stage"] == 2) & (history["step"] == stop)]
        assert history.loc[history["stage"] == 2, "step"].max() == stop
        assert (last["stopped"] == 1.0).all()
        assert not history.duplicated(["stage", "step", "subset"]).any()
        means = definition_losses(folder).groupby("subset")["loss"].mean()
        shown = last.set_index("subset")["definition_loss"]
        np.testing.assert_allclose(shown[means.index], means, rtol=1e-5)
        assert np.isfinite(last["loss"]).all()
    assert history.loc[history["stage"] == 1, "stopped"].isna().all()


def test_subsets_without_definitions_have_no_definition_loss(stacked: Run) -> None:
    history = stacked.seed(0).history()
    assert history.loc[history["subset"] == "d3_consistent", "definition_loss"].notna().all()
    reversed_order = create(stacked.path.parent / "reversed", "task.word_order=EVT", STOP[-1][:-3] + "0")
    train(reversed_order)
    assert reversed_order.seed(0).history()["definition_loss"].isna().all()


def test_seeds_that_train_alone_stop_at_the_same_steps(stacked: Run, tmp_path: Path) -> None:
    how = stacked.recipe.training.stages[1].stops
    alone = create(tmp_path / "a", f"training.stages.1.stops={how}", together=1)
    train(alone)
    assert len(alone.stacks()) == 2
    assert stops(alone) == stops(stacked)
    for one, other in zip(alone.finished_seeds(), stacked.finished_seeds(), strict=True):
        pd.testing.assert_frame_equal(one.history(), other.history(), rtol=1e-3, atol=1e-3)
        assert [(c.stage, c.step) for c in one.checkpoints()] == [
            (c.stage, c.step) for c in other.checkpoints()
        ]


@pytest.mark.parametrize("late", [False, True], ids=["before a stop", "after the first stop"])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    stacked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: bool
) -> None:
    how = stacked.recipe.training.stages[1].stops
    run = create(tmp_path / "a", f"training.stages.1.stops={how}")
    original = train_toy.train_stage
    at = min(stops(stacked)) + 3 if late else 7

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        for moment in original(*arguments, **keywords):
            if moment.total_steps == 40 * PER_EPOCH and moment.step == at:
                raise Killed
            yield moment

    monkeypatch.setattr(train_toy, "train_stage", deadly)
    with pytest.raises(Killed):
        train(run, save_every_s=0.0)
    monkeypatch.undo()
    assert any(p.name == f"state-2-{at - 1:06d}.safetensors" for p in run.stacks()[0].path.iterdir())
    train(run, save_every_s=0.0)
    for seed in SEEDS:
        assert run.seed(seed).ledger.entries() == stacked.seed(seed).ledger.entries()
        pd.testing.assert_frame_equal(
            run.seed(seed).history(), stacked.seed(seed).history(), check_exact=True
        )
    assert not run.stacks()[0].ledger.entries()


def test_a_resume_point_of_an_earlier_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those kept the number of losses as a scalar. The stage begins anew, and ends with the same bits."""
    runs = [create(tmp_path / name, "training.stages.1.epochs=3") for name in "ab"]
    train(runs[0])
    original = train_toy.train_stage

    def deadly(*arguments: Any, **keywords: Any) -> Any:
        for moment in original(*arguments, **keywords):
            if moment.total_steps == 3 * PER_EPOCH and moment.step == 6:
                raise Killed
            yield moment

    monkeypatch.setattr(train_toy, "train_stage", deadly)
    with pytest.raises(Killed):
        train(runs[1], save_every_s=0.0)
    monkeypatch.undo()
    (stack,) = runs[1].stacks()
    saved = stack.load_state(2)
    assert saved is not None
    state, histories = saved
    tensors = {k: v for k, v in state.tensors.items() if k not in ("loss_tokens", "stopped")}
    old = TrainingState(tensors, state.step, {"loss_tokens": 2.0})
    stack.save_state(old, stage=2, histories=histories)
    train(runs[1])
    for seed in SEEDS:
        assert runs[1].seed(seed).ledger.entries() == runs[0].seed(seed).ledger.entries()


def test_a_sweep_keeps_the_numbers_of_the_stop(stacked: Run) -> None:
    outcomes = train_together(
        [SweepRun({}, stacked.recipe, seed) for seed in SEEDS],
        device="cpu",
        progress=lambda text, share: None,
    )
    for outcome, folder in zip(outcomes, stacked.finished_seeds(), strict=True):
        last = folder.history().iloc[-1]
        assert outcome["stage2.loss"] == pytest.approx(last["loss"], rel=1e-5)
        assert outcome["stage2.gradient_norm"] == pytest.approx(last["gradient_norm"], rel=1e-5)


def test_the_command_line_sets_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(tiny.recipe_file(tmp_path))
    changes = [*STOP, "training.stages.1.trains=all_but_tag_embeddings"]
    out = tmp_path / "run"
    made = ["train", recipe, "--out", str(out), "--seeds", "1", "--device", "cpu", "--jobs", "1", "--set"]
    assert cli.main([*made, *changes]) == 0
    stage = Run.open(out).recipe.training.stages[1]
    assert (stage.stop_at_definition_loss, stage.stops, stage.trains) == (
        0.6,
        "stage",
        "all_but_tag_embeddings",
    )
    (folder,) = Run.open(out).finished_seeds()
    assert folder.final().step < 40 * PER_EPOCH
    facts = Run.open(out).kind.facts(Run.open(out))
    assert facts["Stages"].endswith(
        "trains all but tag embeddings, the stage until the definition loss is 0.6 nats"
    )
    shutil.rmtree(out)
    capsys.readouterr()
    assert cli.main([*made, *changes, "task.word_order=EVT"]) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "training.stages.1 cannot stop at a definition loss: there is no definition loss where the" in line
    assert cli.main([*made, "training.stages.1.stops=alias"]) == 2
    assert "set stop_at_definition_loss above 0" in capsys.readouterr().err


def test_a_task_without_definition_losses_is_refused(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, *STOP, "task.tokens_per_alias=2", "training.stages.1.stops=alias")
    with pytest.raises(MechoclError, match=r"training\.stages\.1 cannot stop .* each is one token"):
        train_toy.draw_task(recipe, seed=0)
