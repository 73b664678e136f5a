"""A checkpoint of another seed or run is refused wherever one is taken, though a file of its name is there."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import mechocl
from mechocl import files
from mechocl.errors import MechoclError
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.text_folders import TextSeedFolder

QUICK = ("training.stages.0.epochs=1", "training.stages.1.epochs=1")


def takers(folder: type) -> list[str]:
    """Public methods that take a checkpoint."""
    found = inspect.getmembers(folder, inspect.isfunction)
    return [name for name, f in found if "checkpoint" in inspect.signature(f).parameters and name[0] != "_"]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> list[SeedFolder]:
    """Two seeds of a run, and the first one of another run."""
    folder = tmp_path_factory.mktemp("own")
    path = str(tiny.recipe_file(folder))
    one = mechocl.train(path, folder / "one", seeds=2, changes=QUICK)
    other = mechocl.train(path, folder / "other", seeds=1, changes=(*QUICK, "task.label_flip=0.5"))
    return [one.seed(0), one.seed(1), other.seed(0)]


def text_seed(path: Path, seed: int, content: str) -> TextSeedFolder:
    """A seed of a closed-book run with one checkpoint of one file."""
    recipe: Any = mechocl.load_recipe(
        str(tiny.recipe_file(path.parent))
    )  # of two stages, which is all that is asked
    made = TextSeedFolder(path, seed, recipe, asked="", first=path)
    files.write_json(path / "stage-2/final/steps.json", {"stage": 2, "step": 3})
    files.write_text(path / "stage-2/final/config.json", content)
    made.ledger.record("stage-2/final/steps.json", "stage-2/final/config.json")
    return made


def refused(own: SeedFolder, name: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(
        MechoclError, match=f"of seed {checkpoint.seed}, .*is no checkpoint of {own.path}"
    ) as caught:
        getattr(own, name)(checkpoint)
    assert "\n" not in str(caught.value)


def test_there_is_what_takes_a_checkpoint() -> None:
    assert set(takers(SeedFolder)) == {"weights", "model_at", "evaluate", "require_own"}
    assert set(takers(TextSeedFolder)) == {"weights", "model_at", "evaluate", "require_own", "model_path"}


@pytest.mark.parametrize("name", takers(SeedFolder))
def test_another_seeds_or_runs_checkpoint_is_refused(seeds: list[SeedFolder], name: str) -> None:
    own, *others = seeds
    for folder in others:
        assert folder.final().name == own.final().name
        refused(own, name, folder.final())
    refused(own, name, dataclasses.replace(own.final(), seed=1))
    refused(own, name, dataclasses.replace(own.final(), name="stage-2/step-000099.safetensors"))
    getattr(own, name)(own.final())


@pytest.mark.parametrize("name", takers(TextSeedFolder))
def test_the_same_of_a_text_world(tmp_path: Path, name: str) -> None:
    own = text_seed(tmp_path / "seed-0", 0, "{}")
    refused(own, name, text_seed(tmp_path / "seed-1", 1, "{}").final())
    (tmp_path / "more").mkdir()
    refused(own, name, text_seed(tmp_path / "more" / "seed-0", 0, "{ }").final())
    own.require_own(own.final())


def test_what_was_restored_is_its_own(seeds: list[SeedFolder]) -> None:
    """Checkpoints that were listed before, and those of another object of the same seed."""
    again = SeedFolder(seeds[0].path, 0, seeds[0].recipe)
    for checkpoint in seeds[0].checkpoints():
        weights = again.weights(checkpoint)
        assert all(np.isfinite(value.numpy()).all() for value in weights.values())
