"""One torch thread per test process: more of them wait for each other on a busy machine.

TEST_THREADS=2 gives each as many, to see that no test depends on it.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mechocl.runs.run import Run

os.environ.setdefault(
    "OMP_NUM_THREADS", os.environ.get("TEST_THREADS", "1")
)  # before torch and scikit-learn start their threads
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

THREADS = int(os.environ.get("TEST_THREADS", "1"))
torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True)
def threads_are_put_back() -> Iterator[None]:
    """No test, and nothing that it calls, leaves another number of threads to the next test."""
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    assert left == THREADS, f"torch was left with {left} threads; use mechocl.runs.processes.torch_threads"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Run":
    """The tiny recipe, trained with two seeds. Tests that write into a run take `run`."""
    import tiny

    from mechocl.analyses import jobs

    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny.recipe(folder)
    return jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1)


@pytest.fixture
def run(trained: "Run", tmp_path: Path) -> "Run":
    """A copy of that run."""
    from mechocl.runs.run import Run

    shutil.copytree(trained.path, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must end with code 2, and gives its one line of explanation. Other lines, of progress, are not looked at."""
    from mechocl.commands import cli

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([str(one) for one in arguments]) == 2
        said = capsys.readouterr().err
        lines = [one for one in said.splitlines() if one.startswith("mechocl: ")]
        assert len(lines) == 1, said
        assert "Traceback" not in said
        return lines[0].removeprefix("mechocl: ")

    return check
