"""A finished seed that lost a file, or has a damaged one, gets it back by the same command, bit for bit."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import text_worlds
import tiny

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.runs import finetune, train_toy
from mechocl.runs.run import Run

LOST = (
    "task.parquet",
    "task.safetensors",
    "stage-1/final.safetensors",
    "stage-1/step-000001.safetensors",
    "stage-2/final.safetensors",
    "stage-1/history.parquet",
    "stage-2/history.parquet",
    "checksums.json",
)
SHORT = ("training.stages.0.epochs=2", "training.stages.1.epochs=2")


def delete(path: Path) -> None:
    path.unlink()


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def train(run: Run) -> None:
    for stack in run.stacks():
        train_toy.train_stack(run, stack, device="cpu", save_every_s=0.0, progress=lambda text, share: None)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "lock" not in path.name
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds in one stack; seed 1 diverged."""
    folder = tmp_path_factory.mktemp("trained")
    run = Run.create(
        folder / "run", tiny.recipe(folder, *SHORT), recipe_name="tiny", seeds=(0, 1), device="cpu", threads=1, together=2
    )  # fmt: skip
    train(run)
    assert set(LOST) <= set(contents(run.path / "seed-0"))
    return run


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


def read_all(run: Run) -> None:
    run.finished_seeds()
    for seed in run.seeds:
        folder = run.seed(seed)
        folder.load_task()
        folder.history()
        for checkpoint in folder.checkpoints():
            folder.weights(checkpoint)


@pytest.mark.parametrize("spoil", [delete, damage])
@pytest.mark.parametrize("name", LOST)
def test_training_again_restores_what_was_lost(
    run: Run, trained: Run, name: str, spoil: Callable[[Path], None]
) -> None:
    path = run.path / "seed-0" / name
    spoil(path)
    with pytest.raises(MechoclError, match=r"run (the same )?`mechocl train` again") as caught:
        read_all(run)
    assert "\n" not in str(caught.value)
    if name == "checksums.json" and spoil is damage:
        assert str(caught.value).endswith(
            "restore it, or delete it and run the same `mechocl train` again to complete it"
        )
        path.unlink()
    before = contents(run.path / "seed-1")
    train(run)
    read_all(run)
    assert contents(run.path) == contents(trained.path)
    assert contents(run.path / "seed-1") == before


def test_a_run_that_lost_its_manifest_gets_a_new_one(
    run: Run, trained: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is asked for one of its seeds; the other belongs to it as before. Another recipe is refused."""
    (run.path / "manifest.json").unlink()
    with pytest.raises(
        MechoclError, match=r"has lost its manifest\.json; .* give the command that trained it again"
    ):
        Run.open(run.path)
    again = {"recipe_name": "tiny", "seeds": (0,), "device": "cpu", "threads": 1, "together": 2}
    with pytest.raises(MechoclError, match="its seeds are of another recipe; choose another --out"):
        Run.create(run.path, tiny.recipe(tmp_path, *SHORT, "task.aliases=90"), **again)
    assert not (run.path / "manifest.json").exists()
    made = Run.create(run.path, run.recipe, **again)
    assert capsys.readouterr().err == f"mechocl: {run.path} had lost its manifest.json, and gets a new one\n"
    assert made.seeds == trained.seeds
    before = contents(run.path / "seed-0")
    train(made)
    assert contents(run.path / "seed-0") == before == contents(trained.path / "seed-0")


def test_the_files_of_seeds_that_lost_nothing_are_not_written(run: Run) -> None:
    (run.path / "seed-0" / "stage-1" / "final.safetensors").unlink()
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("seed-1/**/*") if p.is_file()}
    train(run)
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("seed-1/**/*") if p.is_file()} == before


def test_a_reason_of_a_failure_that_was_lost_is_found_again(tmp_path: Path) -> None:
    recipe = tiny.recipe(tmp_path, *SHORT, "training.stages.0.learning_rate=1e30")
    run = Run.create(
        tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )
    train(run)
    reason = run.failures()
    for spoil in (delete, damage):
        spoil(run.path / "seed-0" / "failed.json")
        with pytest.raises(MechoclError, match="run the same `mechocl train` again"):
            run.failures()
        train(run)
        assert run.failures() == reason


def test_other_bits_never_replace_those_of_a_finished_seed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if another version computed other bits: nothing is replaced, and the message's remedy trains the seed anew."""
    lost = run.path / "seed-0" / "stage-2" / "final.safetensors"
    lost.unlink()
    before = contents(run.path / "seed-0")
    original = files.pack_tensors
    monkeypatch.setattr(
        files, "pack_tensors", lambda tensors, *rest, **options: original(
            {name: tensor + 0.5 if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}, *rest, **options
        )
    )  # fmt: skip
    with pytest.raises(MechoclError, match="cannot be restored: training gives other bits here") as caught:
        train(run)
    assert contents(run.path / "seed-0") == before
    assert f"delete {run.path / 'seed-0'} and run the same `mechocl train` again" in str(caught.value)
    shutil.rmtree(run.path / "seed-0")
    train(run)
    read_all(run)
    assert lost.exists()


def test_a_seed_of_another_task_trains_anew_when_it_is_deleted(run: Run) -> None:
    folder = run.seed(0)
    task = folder.load_task()
    for name in folder.task_files:
        folder.ledger.forget(name)
    folder.save_task(replace(task, tokens=task.tokens.flip(0)))  # as if the code now drew another
    message = rf"was started on another task .* or delete {run.path / 'seed-0'} and run the same `mechocl train` again"
    (run.path / "seed-0" / "stage-2" / "final.safetensors").unlink()
    with pytest.raises(MechoclError, match=message):
        train(run)
    shutil.rmtree(run.path / "seed-0")
    train(run)
    read_all(run)


def test_a_damaged_resume_point_is_begun_again_when_its_folder_is_deleted(
    tmp_path: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.create(
        tmp_path / "run",
        trained.recipe,
        recipe_name="tiny",
        seeds=(0, 1),
        device="cpu",
        threads=1,
        together=2,
    )
    train_stage = train_toy.train_stage

    def killed(*arguments: object, **options: object) -> object:
        for moment in train_stage(*arguments, **options):  # type: ignore[arg-type]
            if moment.step == 4:
                raise KeyboardInterrupt
            yield moment

    monkeypatch.setattr(train_toy, "train_stage", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run)
    monkeypatch.undo()
    stack = run.stacks()[0].path
    [state] = stack.glob("state-*.safetensors")
    damage(state)
    with pytest.raises(
        MechoclError, match=rf"{state.name} does not match .*or delete {stack} and run the same"
    ):
        train(run)
    shutil.rmtree(stack)
    train(run)
    assert contents(run.path / "seed-0") == contents(trained.path / "seed-0")


# fine-tuned seeds ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("tuned")
    base = text_worlds.folder(folder / "base")
    recipe = text_worlds.recipe(folder, base, "training.stages.0.epochs=1", "training.stages.1.epochs=1")
    run = Run.create(
        folder / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )
    finetune.finetune(run, 0, device="cpu", save_every_s=1e9, progress=lambda text, share: None)
    return run


@pytest.mark.parametrize("spoil", [delete, damage])
@pytest.mark.parametrize(
    "name",
    ["vocabulary.parquet", "task.parquet", "stage-1/final/model.safetensors", "stage-2/final/steps.json", "stage-2/history.parquet"],
)  # fmt: skip
def test_fine_tuning_again_restores_what_was_lost(
    tuned: Run, tmp_path: Path, name: str, spoil: Callable[[Path], None]
) -> None:
    shutil.copytree(tuned.path, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    spoil(run.path / "seed-0" / name)
    folder = run.seed(0)
    with pytest.raises(MechoclError, match="run the same `mechocl finetune` again"):
        (
            folder.load_task(),
            folder.history(),
            folder.model_path(folder.final(1)),
            folder.model_path(folder.final()),
        )  # type: ignore[attr-defined]
    finetune.finetune(run, 0, device="cpu", save_every_s=1e9, progress=lambda text, share: None)
    assert contents(run.path / "seed-0") == contents(tuned.path / "seed-0")
