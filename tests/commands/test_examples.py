"""The examples of the help are really run, on a tiny run in the place of the demo; those that train or take long are parsed
(`test_mistakes.py`)."""

import shutil
from pathlib import Path

import pytest
import tiny

from mechocl.commands import cli
from mechocl.commands.examples import EXAMPLES
from mechocl.runs.run import Run

SMALLER = {"integer-set/cpu": "tiny.toml", "--seeds 8": "--seeds 1"}
"""What is made smaller in the examples that train."""

SLOW = (
    "train integer-set/cpu --out runs/order-VTE --set task.word_order=VTE task.aliases=500",
    "sweep integer-set/cpu --over task.word_order=TVE,VTE --out runs/orders --seeds 4",
    "graft runs/demo",
)
"""Examples of seconds, of commands that have a quicker one."""

LONG = {
    "demo": "trains",
    "pretrain biographies": "trains",
    "pretrain miniature": "trains",
    "finetune": "needs a model",
    "crosscoder": "trains",
    "sae train": "trains",
    "sae search": "needs an SAE",
    "sae test": "needs an SAE",
    "sae dashboard": "needs an SAE",
    "data cvdb": "needs a file of CVDB",
    "data trex": "needs a file of T-REx",
    "data facts": "needs a model",
    "parity": "needs a model",
    "gguf": "needs a file of a model",
    "model patch": "needs a model",
    "model lens": "needs a model",
    "model attribute": "needs a model",
    "report": "computes every analysis",
    "share": "draws every checkpoint; test_share runs it",
    "serve": "serves until it is ended; test_serve runs it",
    "verdict": "needs controls, and computes many analyses",
    "controls": "trains",
    "circuit": "patches every edge",
    "subspace": "trains rotations",
    "probe": "fits thousands of probes",
}
"""Commands whose examples are not run here, and why."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples find what they name."""
    folder = tmp_path_factory.mktemp("home")
    tiny.recipe_file(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert cli.main(["train", "tiny.toml", "--out", "runs/demo", "--seeds", "1", "--jobs", "1"]) == 0
        over = ["--over", "task.word_order=TVE", "--seeds", "1", "--jobs", "1"]
        assert cli.main(["sweep", "tiny.toml", *over, "--out", "runs/orders"]) == 0
    return folder


def test_every_command_is_run_or_named() -> None:
    assert LONG.keys() <= EXAMPLES.keys()
    for example in SLOW:
        assert example.partition(" ")[2] in EXAMPLES[example.partition(" ")[0]]
    assert len(EXAMPLES.keys() - LONG.keys()) >= 8


@pytest.mark.parametrize(
    "example",
    [
        f"{name} {line}".rstrip()
        for name, lines in EXAMPLES.items()
        if name not in LONG
        for line in lines
        if f"{name} {line}" not in SLOW
    ],
)
def test_an_example_of_the_help_works(
    example: str,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(home, tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    for shown, smaller in SMALLER.items():
        example = example.replace(shown, smaller)
    jobs = [] if example.startswith(("runs", "dynamics", "sweep", "completion")) else ["--jobs", "1"]
    assert cli.main([*example.split(), *jobs]) == 0, capsys.readouterr().err
    if example.startswith("train"):
        assert Run.open(Path("runs/mine")).finished_seeds()
