"""Several processes through `accelerate launch`: the weights of one process with the same batch.

Two processes on the CPU. Data in parallel needs nothing but `accelerate launch`; for FSDP `launched` has accelerate
take the CPUs for accelerators, since it shards nothing else (torch does). FSDP 1 cannot run without an accelerator.
Examples divide into batches: of a batch that is not full, each process would get an equal part, some examples twice.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import text_worlds
from safetensors.torch import load_file
from torch import Tensor

from mechocl.runs import finetune
from mechocl.runs.run import Run

LAUNCHED = Path(__file__).parent.parent / "support" / "launched.py"

FRACTIONS = (
    "task.fractions={qd1=0.25, qd2=0.25, q_only=0.0, q_entity=0.0, d1=0.25, d2=0.25, d3=0.0, no_data=0.0}"
)
"""Of 32 entities: 16 × 5 questions and 16 definitions in stage 1, 16 definitions in stage 2."""

BATCHES = (
    "task.entities=32",
    FRACTIONS,
    "training.stages.0.batch_size=48",
    "training.stages.0.epochs=2",
    "training.stages.1.batch_size=8",
    "training.stages.1.epochs=1",
    "training.stages.0.evaluations=1",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_worlds.folder(tmp_path_factory.mktemp("base") / "model")


def launch(*arguments: object) -> str:
    """What two processes print; they must end well, and write no more than the run."""
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*command, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(LAUNCHED.parents[2])},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def alone(path: Path, base: Path, *changes: str) -> Path:
    """The folder of the seed of a run that one process trained."""
    run = begun(path, base, *changes)
    finetune.finetune(run, 0, device="cpu", save_every_s=1e9, progress=lambda text, share: None)
    return run.path / "seed-0"


def begun(path: Path, base: Path, *changes: str) -> Run:
    path.mkdir()
    recipe = text_worlds.recipe(path, base, *BATCHES, *changes)
    return Run.create(
        path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )


def assert_alike(found: Path, expected: Path, base: Path) -> None:
    """The final weights of both stages differ by less than a hundredth of what training changed.

    But for the biases of keys (beside those of queries and values), which change no attention: their gradients are
    rounding, of which optimisers make full steps.
    """
    before = _weights(base)
    for stage in (1, 2):
        a, b = (_weights(folder / f"stage-{stage}" / "final") for folder in (found, expected))
        assert a.keys() == b.keys()
        for name, tensor in a.items():
            if not name.endswith("query_key_value.bias"):
                assert (tensor - b[name]).norm() <= 0.01 * (b[name] - before[name]).norm(), name
    odd = {p.suffix for p in found.rglob("*") if p.is_file()} - {".json", ".safetensors", ".parquet", ""}
    assert not odd


def _weights(folder: Path) -> dict[str, Tensor]:
    return dict(load_file(folder / "model.safetensors"))


def test_two_processes_train_as_one(base: Path, tmp_path: Path) -> None:
    expected = alone(tmp_path / "alone", base)
    recipe, run = text_worlds.recipe_file(tmp_path), tmp_path / "run"
    command = ("finetune", recipe, "--model", base, "--out", run, "--device", "cpu", "--set", *BATCHES)
    shown = launch("--multi_gpu", "-m", "mechocl", *command).splitlines()
    assert [line.split(":")[0] for line in shown if line] == ["cost", "run"]  # by the first process alone
    assert_alike(run / "seed-0", expected, base)
    assert Run.open(run).seed(0).history()["loss"].iloc[-1] == pytest.approx(
        Run.open(tmp_path / "alone" / "run").seed(0).history()["loss"].iloc[-1], rel=1e-4
    )


def test_sharded_models_stop_and_continue(base: Path, tmp_path: Path) -> None:
    """FSDP 2: with Adafactor in stage 1 and AdamW in stage 2, stopped in stage 1; with adapters, stopped in stage 2."""
    cases = {
        "stage 1, step 3": ("training.stages.0.optimizer=adafactor", "training.stages.0.learning_rate=0.001"),
        "stage 2, step 1": ("training.lora={rank=2}", "training.stages.0.epochs=1"),
    }
    expected = [alone(tmp_path / f"alone {at}", base, *changes) for at, changes in cases.items()]
    runs = [begun(tmp_path / f"sharded {at}", base, *changes) for at, changes in cases.items()]
    stops = [part for at, run in zip(cases, runs, strict=True) for part in (run.path, at)]
    sharding = ("--use_fsdp", "--fsdp_version", "2", "--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP")
    shown = launch(*sharding, LAUNCHED, *stops)
    for run, one in zip(runs, expected, strict=True):
        assert shown.count(f"stopped {run.path}") == 2
        assert_alike(run.path / "seed-0", one, base)
