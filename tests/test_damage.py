"""No altered file of any kind is read in silence: the numbers are the same, or one line names the file."""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import damage
import pandas as pd
import pytest
import tiny
import torch

from mechocl import files, seals
from mechocl.analyses import jobs, probe_sweep, sae_jobs
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.features.settings import TrainingConfig
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs import pretraining, processes
from mechocl.runs.activation_cache import ActivationCache, directly
from mechocl.runs.pretraining import PretrainingConfig
from mechocl.runs.processes import Processes
from mechocl.runs.run import Run
from mechocl.runs.sweep_folder import read_sweep
from mechocl.runs.sweeps import run_sweep
from toy_models.trainer import TrainingState

SITE = "blocks.0.hook_resid_post"
SAE = TrainingConfig(width=(16,), k=2, activations=512, batch_size=256, buffer=512)
PROBING = ProbingConfig(permutations=2, positions=("=",), n_pairs=4)
WORLD = BiographiesConfig(people=40, told=1, asked=1)
MODEL = PretrainingConfig(n_layers=1, d_model=16, n_heads=2, context=128, vocabulary=420, epochs=1)
SMALL = ("training.stages.0.epochs=1", "training.stages.1.epochs=1")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with everything that is read back: a run with results, an SAE, activations and probes; a sweep; a
    pretrained model."""
    folder = tmp_path_factory.mktemp("tree")
    recipe = tiny.recipe(folder, *SMALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        train = {"recipe_name": "tiny", "seeds": (0,), "device": "cpu", "jobs": 1}
        run = jobs.train_run(folder / "run", recipe, **train)
        run.seed(0).fail("as an example")
        run.seed(0).ledger.forget("failed.json")
        state = TrainingState({"a": torch.ones(3)}, 3, {"optimizer/0/scale": 0.25})
        run.stacks()[0].save_state(state, stage=2, histories=[[{"step": 1}]])
        run_sweep(
            folder / "sweep", recipe_name=str(folder / "tiny.toml"), changes=SMALL, over=("task.aliases=120,160",),
            seeds=(0,), device="cpu", executor=Processes(1),
        )  # fmt: skip
        (folder / "mine.toml").write_text(tiny.PROBE, encoding="utf-8")
        pretraining.pretrain(
            folder / "pretrained",
            WORLD,
            MODEL,
            seed=0,
            device="cpu",
            save_every_s=1e9,
            progress=lambda *_: None,
        )
        for read in READERS.values():
            read(folder)
        yield folder


def read_run(folder: Path) -> Any:
    run = Run.open(folder / "run")
    found = []
    for seed in (run.seed(number) for number in run.seeds):
        task = seed.load_task()
        weights = [seed.weights(checkpoint) for checkpoint in seed.checkpoints()]
        found.append(
            (task.tokens, task.roles, task.table, seed.history(), seed.failure(), weights, seed.checkpoints())
        )
    manifest = {key: value for key, value in run.manifest.items() if key != "seconds"}
    return manifest, found, [stack.load_state(2) for stack in run.stacks()]


def read_results(folder: Path) -> Any:
    return jobs.analyse_run(Run.open(folder / "run"), "evaluate", device="cpu", jobs=1)


def read_sweeps(folder: Path) -> Any:
    return read_sweep(folder / "sweep"), read_sweep(folder / "sweep" / "table.parquet")


def units(folder: Path) -> list[probe_sweep.Unit]:
    return probe_sweep.list_units(
        [folder / "run"], recipes=[str(folder / "mine.toml")], checkpoints="final", seeds=None, config=PROBING,
        device="cpu", cache_gb=0.0, dtype="float32",
    )  # fmt: skip


def read_probes(folder: Path) -> Any:
    out = folder / "run" / "probes" / "mine"
    wanted = units(folder)
    if not (out / "table.parquet").exists():
        probe_sweep.sweep_probes(wanted, out=out, executor=Processes(1))
    return (
        probe_sweep.read_table(out),
        probe_sweep.sweep_table(wanted),
        probe_sweep.probe_directions(wanted[0]),
    )


def read_activations(folder: Path) -> Any:
    seed = Run.open(folder / "run").seed(0)
    cache = ActivationCache(run=folder / "run", limit_gb=1.0, dtype="float32")
    model = seed.model_at(seed.final(), device="cpu")
    return cache.collect(seed.final(), directly(model))(seed.load_task().tokens[:8], [SITE])


def read_saes(folder: Path) -> Any:
    run = Run.open(folder / "run")
    names = sae_jobs.train_dictionaries(run, SAE, seeds=(0,), stage=None, device="cpu", jobs=1)
    found = [dictionaries.load(dictionaries.find(run.path, name, 0), device="cpu") for name in names]
    return [(one.record, one.encode(torch.linspace(-1, 1, one.sae.W_enc.shape[0]))) for one in found]


def read_pretrained(folder: Path) -> Any:
    from mechocl.models import hub

    table = pretraining.pretrain(
        folder / "pretrained", WORLD, MODEL, seed=0, device="cpu", save_every_s=1e9, progress=lambda *_: None
    )
    return table, dict(hub.read_model(hub.locate(folder / "pretrained")).named_parameters())


READERS: dict[str, Callable[[Path], Any]] = {
    "run/manifest": read_run,
    "run/seed": read_run,
    "run/stacks": read_run,
    "run/results/evaluate": read_results,
    "run/probes": read_probes,
    "run/results/probe": read_probes,
    "run/activations": read_activations,
    "run/saes": read_saes,
    "run/results/sae-quality": read_saes,
    "sweep": read_sweeps,
    "pretrained": read_pretrained,
}
"""Beginning of a file's path → what reads it back."""


def assert_same(a: Any, b: Any) -> None:
    if isinstance(a, pd.DataFrame):
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    elif isinstance(a, TrainingState):
        assert_same((a.tensors, a.step, a.scalars), (b.tensors, b.step, b.scalars))
    else:
        assert a == b


def assert_same_or_named(read: Callable[[Path], Any], folder: Path, whole: Any, path: Path) -> None:
    """Reading gives what it gave before the damage, or one line that names the damaged file."""
    try:
        found = read(folder)
    except MechoclError as error:
        line = str(error)
    else:
        assert_same(found, whole)
        return
    assert str(path) in line
    assert "\n" not in line


def kinds(folder: Path) -> dict[str, Path]:
    """One file of each kind: files whose paths differ in digits and hashes alone are of one kind."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and path.stat().st_size and path.suffix not in (".html", ".toml"):
            found.setdefault(re.sub(r"(?<=[/-])[0-9a-f]{12}|\d+", "N", name), path)
    return found


@pytest.mark.parametrize("part", READERS)
def test_no_damage_is_read_in_silence(tree: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    read = READERS[part]
    whole = read(tree)
    tried = {kind: path for kind, path in kinds(tree).items() if kind.startswith(part)}
    assert tried
    for path in tried.values():
        content = path.read_bytes()
        for what, left in damage.damages(content):
            path.unlink()  # tensors that were read are views of the old file
            path.write_bytes(left)
            try:
                assert_same_or_named(read, tree, whole, path)
            except Exception as error:
                raise AssertionError(f"{path}, {what}: {error!r}") from error
            finally:
                path.unlink()
                path.write_bytes(content)
    capsys.readouterr()
    assert_same(read(tree), whole)


def test_all_kinds_are_tried(tree: Path) -> None:
    """Whatever is written is in the table of readers."""
    for kind in kinds(tree):
        assert any(kind.startswith(part) for part in READERS), kind


def test_what_an_older_version_wrote_is_read_with_one_line(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "tree"
    shutil.copytree(tree, old)
    damage.strip_checksums(old)
    shutil.rmtree(old / "run" / "results")  # their keys name the checkpoints' sha256
    shutil.rmtree(old / "run" / "activations")
    capsys.readouterr()
    seals._note_old.cache_clear()
    for _ in range(2):
        for read in (read_run, read_sweeps):
            assert read(old)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "older version" in line] == [
        f"mechocl: {old / name} was written by an older version: its files without checksums are read unchecked"
        for name in ("run", "sweep")
    ]
    pd.testing.assert_frame_equal(read_sweeps(old)[0], read_sweeps(tree)[0])


def test_a_manifest_that_was_edited_is_refused_until_its_checksum_is_removed(
    tree: Path, tmp_path: Path
) -> None:
    shutil.copytree(tree / "run", tmp_path / "run")
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"threads": 1', '"threads": 3'))
    with pytest.raises(
        MechoclError, match=r'restore it, or, if you edited it yourself, remove its line "checksum"$'
    ):
        Run.open(tmp_path / "run")
    lines = [line for line in manifest.read_text().splitlines() if '"checksum"' not in line]
    manifest.write_text("\n".join(lines))
    assert Run.open(tmp_path / "run").manifest["threads"] == 3


@pytest.mark.parametrize("key", [b"checksum", b"sha256-with", b"zeros-here:"])
def test_a_damaged_checksum_is_not_taken_for_an_old_file(tmp_path: Path, key: bytes) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    content = path.read_bytes()
    assert files.read_json(path) == {"a": 1}
    path.write_bytes(content.replace(key, key[:-1] + b"!"))
    with pytest.raises(MechoclError, match="does not match its checksum"):
        files.read_json(path)
