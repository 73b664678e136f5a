"""A run whose folder is moved or deleted while it trains stops in one line, and continues once the folder is back."""

import shutil
from pathlib import Path

import pytest
import tiny

from mechocl.errors import MechoclError
from mechocl.runs import train_toy
from mechocl.runs.run import Run


def create(folder: Path) -> Run:
    folder.mkdir()
    recipe = tiny.recipe(folder)
    return Run.create(
        folder / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )


def train(run: Run, *, at: str = "", then: object = None) -> None:
    """Train; at the first progress that begins with `at`, call `then`."""
    done: list[str] = []

    def progress(text: str, share: float) -> None:
        if at and text.startswith(at) and not done:
            done.append(text)
            assert callable(then)
            then()

    (stack,) = run.stacks()
    train_toy.train_stack(run, stack, device="cpu", save_every_s=0.0, progress=progress)


@pytest.mark.parametrize("at", ["stage 1, step 0", "stage 1, step 7", "stage 2, step 4"])
def test_a_run_that_is_moved_is_not_trained_on_elsewhere(tmp_path: Path, at: str) -> None:
    undisturbed = create(tmp_path / "undisturbed")
    train(undisturbed)
    run = create(tmp_path / "disturbed")
    away = tmp_path / "away"
    with pytest.raises(MechoclError, match=r"was moved or deleted .* move it back, and run the same command"):
        train(run, at=at, then=lambda: run.path.rename(away))
    assert not run.path.exists()
    away.rename(run.path)
    train(run)
    assert run.seed(0).ledger.entries() == undisturbed.seed(0).ledger.entries()


def test_a_run_that_is_deleted_leaves_nothing(tmp_path: Path) -> None:
    run = create(tmp_path / "deleted")
    with pytest.raises(MechoclError, match="was moved or deleted"):
        train(run, at="stage 1, step 7", then=lambda: shutil.rmtree(run.path))
    assert not run.path.exists()
