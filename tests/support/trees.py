"""A folder with everything that is written and read back: what reads each kind of file, and what writes it again."""

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import text_worlds
import tiny
import torch

from mechocl.analyses import crosscoder_jobs, jobs, probe_sweep, sae_jobs
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.features import dictionaries
from mechocl.features.crosscoders import CrosscoderConfig
from mechocl.features.settings import TrainingConfig
from mechocl.lenses.logit_lens import LensConfig
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs import finetune, pretraining, processes, recipes, trainer
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


CROSSCODER = CrosscoderConfig(width=8, k=2, activations=256, batch_size=128, buffer=256)
LENS = LensConfig(aliases_per_subset=2)
TEXT = ("training.stages.0.epochs=1", "training.stages.1.epochs=1")


def make(folder: Path) -> None:
    """Write a run with results, an SAE, a crosscoder, activations and probes; a sweep; a pretrained model; and two
    fine-tuned runs, one of which was interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        tiny.recipe_file(folder)
        (folder / "mine.toml").write_text(tiny.PROBE, encoding="utf-8")
        text_worlds.folder(folder / "foreign" / "base")
        text_worlds.recipe_file(folder / "foreign")
        for write in (train, sweep, pretrain, fine_tune):
            write(folder)
        save_a_failure_and_a_state(Run.open(folder / "run"))
        begin_fine_tuning(folder)
        for read in READERS.values():
            read(folder)


def train(folder: Path) -> None:
    recipe = recipes.load_recipe(str(folder / "tiny.toml"), SMALL)
    jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)


def sweep(folder: Path) -> None:
    run_sweep(
        folder / "sweep", recipe_name=str(folder / "tiny.toml"), changes=SMALL, over=("task.aliases=120,160",),
        seeds=(0,), device="cpu", executor=Processes(1),
    )  # fmt: skip


def pretrain(folder: Path) -> None:
    out = folder / "pretrained"
    pretraining.pretrain(out, WORLD, MODEL, seed=0, device="cpu", save_every_s=1e9, progress=lambda *_: None)


def text_recipe(folder: Path) -> Any:
    base = folder / "foreign" / "base"
    return recipes.load_closed_book_recipe(str(folder / "foreign" / "tiny.toml"), (f'model="{base}"', *TEXT))


def fine_tune(folder: Path) -> None:
    recipe = text_recipe(folder)
    jobs.train_run(folder / "tuned", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)


def begin_fine_tuning(folder: Path) -> None:
    """Begin a run, and interrupt it after a resume point."""

    def interrupt(text: str, share: float) -> None:
        if any((folder / "begun").glob("seed-0/stage-1/resume/checkpoint-*/complete.json")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continue_fine_tuning(folder, progress=interrupt)


def continue_fine_tuning(folder: Path, progress: Any = lambda *_: None) -> None:
    recipe = text_recipe(folder)
    run = Run.create(
        folder / "begun", recipe, recipe_name="tiny", seeds=(0,), device="cpu", threads=1, together=1
    )
    finetune.finetune(run, 0, device="cpu", save_every_s=0.0, progress=progress)


def save_a_failure_and_a_state(run: Run) -> None:
    run.seed(0).fail("as an example")
    run.seed(0).ledger.forget("failed.json")
    state = TrainingState({"a": torch.ones(3)}, 3, {"optimizer/0/scale": 0.25})
    run.stacks()[0].save_state(state, stage=2, histories=[[{"step": 1}]])


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


def sweep_probes(folder: Path) -> Any:
    out = folder / "run" / "probes" / "mine"
    return probe_sweep.sweep_probes(units(folder), out=out, executor=Processes(1))


def read_probes(folder: Path) -> Any:
    out = folder / "run" / "probes" / "mine"
    wanted = units(folder)
    if not (out / "table.parquet").exists():
        sweep_probes(folder)
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


def read_crosscoders(folder: Path) -> Any:
    run = Run.open(folder / "run")
    return crosscoder_jobs.crosscode(run, CROSSCODER, which="stages", seeds=(0,), device="cpu", jobs=1)


def read_tuned(folder: Path) -> Any:
    run = Run.open(folder / "tuned")
    [seed] = run.finished_seeds()
    task = seed.load_task()
    paths = [str(seed.model_path(checkpoint)) for checkpoint in seed.checkpoints()]
    return task.tokens, task.roles, task.table, task.vocabulary.tokens, seed.history(), paths


def read_base(folder: Path) -> Any:
    for name in ("tuned", "begun"):
        finetune._refuse_other_base(Run.open(folder / name), text_recipe(folder))


def read_text_results(folder: Path) -> Any:
    return jobs.analyse_run(Run.open(folder / "tuned"), "lens", LENS, device="cpu", jobs=1)


def open_model(folder: Path) -> Any:
    seed = Run.open(folder / "tuned").seed(0)
    return seed.model_at(seed.final(), device="cpu")


def read_parity(folder: Path) -> Any:
    run = Run.open(folder / "tuned")
    return run.kind.facts(run)


def read_begun(folder: Path) -> Any:
    run = Run.open(folder / "begun")
    stage = run.seed(0).path / "stage-1"
    point = trainer._last(stage / "resume")
    return point, pd.DataFrame(finetune._History(stage / "history.json").rows), run.seed(0).load_task().tokens


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
    "run/saes/blocks.N.hook_resid_post-crosscoder": read_crosscoders,
    "run/results/crosscoder": read_crosscoders,
    "sweep": read_sweeps,
    "pretrained": read_pretrained,
    "tuned": read_tuned,
    "tuned/base.json": read_base,
    "begun/base.json": read_base,
    "tuned/seed-N/parity": read_parity,
    "tuned/results": read_text_results,
    "begun": read_begun,
}
"""Beginning of a file's path → what reads it back; the longest beginning counts."""

WRITERS: dict[str, Callable[[Path], Any]] = {
    "run": train,
    "run/probes": sweep_probes,
    "run/results/probe": sweep_probes,
    "run/saes": read_saes,
    "run/saes/blocks.N.hook_resid_post-crosscoder": read_crosscoders,
    "sweep": sweep,
    "pretrained": pretrain,
    "tuned": fine_tune,
    "tuned/seed-N/parity": open_model,
    "begun": continue_fine_tuning,
}
"""Beginning of a file's path → the command that wrote it, which completes it when it is run again."""


def part_of(kind: str, table: Collection[str] = READERS) -> str:
    """The beginning in a table that a kind of file belongs to: the longest one; "" if there is none."""
    return max((part for part in table if kind.startswith(part)), key=len, default="")


def kinds(folder: Path) -> dict[str, Path]:
    """One file of each kind: files whose paths differ in digits and hashes alone are of one kind."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if (
            path.is_file()
            and path.stat().st_size
            and path.suffix not in (".html", ".toml")
            and not name.startswith("foreign")
        ):
            found.setdefault(re.sub(r"(?<=[/-])[0-9a-f]{12}|\d+", "N", name), path)
    return found
