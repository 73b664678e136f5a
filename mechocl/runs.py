"""The run directory: recipe, seeds, checkpoints and results; atomic, checked, resumable.

runs/<name>/
  manifest.json                      schema, recipe, seeds, versions, git commit, device
  seed-0/
    checksums.json                   sha256 of every finished file of this seed
    failed.json                      why training ended early, if it did
    task.safetensors  task.parquet
    stage-1/ step-000400.safetensors …  final.safetensors  history.parquet
    state-….safetensors              where an unfinished stage continues
  results/<analysis>/<key>/ result.json  rows.parquet
"""

import contextlib
import datetime
import json
import os
import platform
import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import __version__, files, recipes
from mechocl.errors import MechoclError
from mechocl.recipes import Recipe
from toy_models import integer_set
from toy_models.task import Task
from toy_models.training import TrainingState

SCHEMA: Final = 1
_PACKAGES: Final = ("torch", "transformer-lens", "transformers", "numpy", "pandas", "scikit-learn")
_CHECKPOINT: Final = re.compile(r"stage-(\d+)/(?:step-(\d+)|final)\.safetensors")
_STATE: Final = re.compile(r"state-(\d+)-(\d+)\.safetensors")
_LOCK: Final = ".lock"
_LOCK_PATIENCE_S: Final = 10.0
"""Seconds to wait for another process that is writing the manifest: it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights of one seed at one step of one stage."""

    seed: int
    stage: int
    """Stage of training, from 1."""
    step: int
    """Step within the stage; 0: before its first step."""
    name: str
    """Path within the seed's folder."""
    sha256: str


class SeedFolder:
    """One seed's part of a run; one process writes it at a time."""

    def __init__(self, path: Path, seed: int, recipe: Recipe) -> None:
        self.path = path
        self.seed = seed
        self.recipe = recipe
        self.ledger = files.Ledger(path)

    def save_task(self, task: Task) -> None:
        tensors = {
            "tokens": task.tokens.to(torch.int32),
            "roles": task.roles.to(torch.int8),
            "loss_mask": task.loss_mask,
        }
        files.write_tensors(self.path / "task.safetensors", tensors, {})
        files.write_table(self.path / "task.parquet", task.table)
        self.ledger.record("task.safetensors", "task.parquet")

    def load_task(self) -> Task:
        tensors, _ = files.read_tensors(self.ledger.checked("task.safetensors"))
        return Task(
            tokens=tensors["tokens"].to(torch.int64),
            roles=tensors["roles"].to(torch.int64),
            loss_mask=tensors["loss_mask"],
            table=pd.read_parquet(self.ledger.checked("task.parquet")),
            vocabulary=integer_set.vocabulary(self.recipe.task),
        )

    def save_checkpoint(
        self, weights: dict[str, torch.Tensor], *, stage: int, step: int, final: bool
    ) -> None:
        name = f"stage-{stage}/" + ("final" if final else f"step-{step:06d}") + ".safetensors"
        files.write_tensors(self.path / name, weights, {"step": str(step)})
        self.ledger.record(name)

    def checkpoints(self) -> list[Checkpoint]:
        """Finished checkpoints in the order of training."""
        found = [
            self._checkpoint(match, digest)
            for name, digest in self.ledger.entries().items()
            if (match := _CHECKPOINT.fullmatch(name))
        ]
        return sorted(found, key=lambda c: (c.stage, c.step))

    def _checkpoint(self, name: "re.Match[str]", digest: str) -> Checkpoint:
        step = name[2] or files.read_metadata(self.path / name[0])["step"]
        return Checkpoint(self.seed, int(name[1]), int(step), name[0], digest)

    def weights(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """The checkpoint's tensors; MechoclError when the file was truncated or altered."""
        return files.read_tensors(self.ledger.checked(checkpoint.name))[0]

    def final(self, stage: int | None = None) -> Checkpoint:
        """The last checkpoint of a stage (default: of training)."""
        number = len(self.recipe.training.stages) if stage is None else stage
        name = f"stage-{number}/final.safetensors"
        self.ledger.checked(name)
        match = _CHECKPOINT.fullmatch(name)
        assert match
        return self._checkpoint(match, self.ledger.entries()[name])

    def save_state(self, state: TrainingState, *, stage: int, history: list[dict[str, Any]]) -> None:
        """Replace the resume point: the new file is recorded before the old one goes."""
        old = self._states()
        name = f"state-{stage}-{state.step:06d}.safetensors"
        extra = {
            "stage": stage,
            "step": state.step,
            "loss_sum": state.loss_sum,
            "loss_count": state.loss_count,
            "scalars": state.scalars,
            "history": history,
        }
        files.write_tensors(self.path / name, state.tensors, {"state": json.dumps(extra)})
        self.ledger.record(name)
        for other in old:
            if other != name:
                self.ledger.forget(other)

    def load_state(self, stage: int) -> tuple[TrainingState, list[dict[str, Any]]] | None:
        """The latest resume point of a stage and the history up to it; None if there is none."""
        steps = {step: name for name, (of, step) in self._states().items() if of == stage}
        if not steps:
            return None
        tensors, meta = files.read_tensors(self.ledger.checked(steps[max(steps)]))
        extra = json.loads(meta["state"])
        state = TrainingState(
            tensors, extra["step"], extra["loss_sum"], extra["loss_count"], extra["scalars"]
        )
        return state, extra["history"]

    def finish_stage(self, stage: int, history: list[dict[str, Any]]) -> None:
        """Write the stage's history; from now on the stage counts as done and its resume point goes."""
        name = f"stage-{stage}/history.parquet"
        files.write_table(self.path / name, pd.DataFrame(history))
        self.ledger.record(name)
        for state in self._states():
            self.ledger.forget(state)

    def stage_finished(self, stage: int) -> bool:
        return f"stage-{stage}/history.parquet" in self.ledger

    def finished(self) -> bool:
        return all(self.stage_finished(i + 1) for i in range(len(self.recipe.training.stages)))

    def history(self) -> pd.DataFrame:
        """Evaluations during training: one row per stage, step and subset."""
        tables = [
            pd.read_parquet(self.ledger.checked(f"stage-{i + 1}/history.parquet"))
            for i in range(len(self.recipe.training.stages))
        ]
        return pd.concat(tables, ignore_index=True)

    def fail(self, reason: str) -> None:
        """Record that training this seed ended early, and why; its resume point goes."""
        files.write_json(self.path / "failed.json", {"reason": reason})
        self.ledger.record("failed.json")
        for state in self._states():
            self.ledger.forget(state)

    def failure(self) -> str | None:
        """Why training this seed failed (it diverged); None if it did not."""
        if "failed.json" not in self.ledger:
            return None
        return str(files.read_json(self.ledger.checked("failed.json"))["reason"])

    def remove_leftovers(self) -> None:
        """Remove what a killed process left: temporary files, and resume points that nothing will read."""
        files.remove_temporary(self.path)
        states = self._states()
        for name, (stage, _) in states.items():
            if self.stage_finished(stage) or self.failure() is not None:
                self.ledger.forget(name)
        for path in self.path.glob("state-*.safetensors"):
            if path.name not in states:
                path.unlink()

    def _states(self) -> dict[str, tuple[int, int]]:
        """Recorded resume points: stage and step of each file."""
        matches = {name: _STATE.fullmatch(name) for name in self.ledger.entries()}
        return {name: (int(m[1]), int(m[2])) for name, m in matches.items() if m}


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists."""

    path: Path
    recipe: Recipe
    recipe_name: str
    seeds: tuple[int, ...]
    manifest: dict[str, Any]

    @staticmethod
    def create(
        path: Path, recipe: Recipe, *, recipe_name: str, seeds: tuple[int, ...], device: str, threads: int
    ) -> "Run":
        """Start a run in an empty or new folder, or continue the same one.

        Continuing keeps the number of threads and the device, on which the last bits of the weights
        depend; more seeds may be added. Raises MechoclError when the folder holds something else.
        """
        if path.exists() and not _may_hold_a_run(path):
            raise MechoclError(f"{path} exists and is not a run; choose another --out")
        with files.locked(path / _LOCK, patience=_LOCK_PATIENCE_S):
            if not (path / "manifest.json").exists():
                manifest = _new_manifest(recipe, recipe_name, seeds, device, threads)
                files.write_json(path / "manifest.json", manifest)
                return Run.open(path)
            old = Run.open(path)
            if old.recipe != recipe:
                raise MechoclError(
                    f"{path} holds a run of another recipe; choose another --out, or delete it"
                )
            if old.manifest["device"] != device:
                raise MechoclError(
                    f"{path} was started on {old.manifest['device']}, not {device}; continue it there, "
                    "or choose another --out"
                )
            return old._changed(seeds=sorted({*old.seeds, *seeds}))

    @staticmethod
    def open(path: Path) -> "Run":
        """An existing run; MechoclError when it does not exist, or a newer version wrote it."""
        if not path.exists():
            raise MechoclError(f"{path} does not exist; `mechocl runs` lists the runs of a folder")
        if not (path / "manifest.json").exists():
            raise MechoclError(f"{path} is not a run: it has no manifest.json")
        manifest = files.read_json(path / "manifest.json")
        schema = manifest.get("schema") if isinstance(manifest, dict) else None
        if not isinstance(schema, int):
            raise MechoclError(f"{path / 'manifest.json'} is damaged: it has no schema number; restore it")
        if schema > SCHEMA:
            raise MechoclError(
                f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA}); "
                "upgrade mechocl"
            )
        for key, kind in _MANIFEST.items():
            if not isinstance(manifest.get(key), kind):
                raise MechoclError(f"{path / 'manifest.json'} is damaged: no valid {key!r}; restore it")
        recipe = recipes.parse(manifest["recipe"], source=str(path / "manifest.json"))
        return Run(path, recipe, manifest["recipe_name"], tuple(manifest["seeds"]), manifest)

    def _changed(self, **changes: Any) -> "Run":
        """Write the manifest with changes; the run's lock must be held."""
        if any(self.manifest[key] != value for key, value in changes.items()):
            files.write_json(self.path / "manifest.json", self.manifest | changes)
        return Run.open(self.path)

    def seed(self, seed: int) -> SeedFolder:
        if seed not in self.seeds:
            raise MechoclError(f"{self.path} has no seed {seed}; it has {', '.join(map(str, self.seeds))}")
        return SeedFolder(self.path / f"seed-{seed}", seed, self.recipe)

    def finished_seeds(self) -> list[SeedFolder]:
        """The seeds whose training is complete; MechoclError when none is, or when some are not yet.

        Diverged seeds are left out: see `failures`.
        """
        folders = [self.seed(s) for s in self.seeds]
        failed = self.failures()
        missing = [f.seed for f in folders if f.seed not in failed and not f.finished()]
        if missing:
            raise MechoclError(
                f"{self.path} is incomplete: seed {', '.join(map(str, missing))} is not trained to the end; "
                f"run `mechocl train` again with --out {self.path}"
            )
        if len(failed) == len(folders):
            raise MechoclError(
                f"{self.path}: training diverged in every seed ({next(iter(failed.values()))}); change the "
                "recipe, for example to a lower learning_rate, and train with another --out"
            )
        return [f for f in folders if f.seed not in failed]

    def failures(self) -> dict[int, str]:
        """Seeds whose training diverged, with the reason."""
        reasons = {s: self.seed(s).failure() for s in self.seeds}
        return {s: r for s, r in reasons.items() if r is not None}

    def note_seconds(self, what: str, seconds: float) -> "Run":
        """Add wall-clock seconds to what the manifest says of an activity ("training", "analyses")."""
        with files.locked(self.path / _LOCK, patience=_LOCK_PATIENCE_S):
            now = Run.open(self.path)  # another process may have added seeds
            spent = now.manifest["seconds"]
            return now._changed(seconds=spent | {what: round(spent.get(what, 0.0) + seconds, 1)})

    # results ------------------------------------------------------------------------------------

    def save_result(self, analysis: str, inputs: dict[str, Any], rows: pd.DataFrame) -> Path:
        """Save a tidy table with the inputs that it was computed from."""
        folder = self.result_folder(analysis, inputs)
        files.write_table(folder / "rows.parquet", rows)
        files.write_json(
            folder / "result.json",
            {"analysis": analysis, "inputs": inputs, "sha256": files.sha256(folder / "rows.parquet")},
        )
        return folder

    def load_result(self, analysis: str, inputs: dict[str, Any]) -> pd.DataFrame | None:
        """The saved table for exactly these inputs; None if there is none.

        Raises MechoclError when the saved inputs differ or the table was altered.
        """
        folder = self.result_folder(analysis, inputs)
        if not (folder / "result.json").exists():
            return None
        saved = files.read_json(folder / "result.json")
        if not isinstance(saved, dict) or saved.get("inputs") != json.loads(json.dumps(inputs)):
            raise MechoclError(f"{folder} holds a result of other inputs; delete it and run again")
        rows = folder / "rows.parquet"
        if not rows.exists() or files.sha256(rows) != saved.get("sha256"):
            raise MechoclError(f"{rows} does not match its checksum; delete {folder} and run again")
        return pd.read_parquet(rows)

    def result_folder(self, analysis: str, inputs: dict[str, Any]) -> Path:
        return self.path / "results" / analysis / files.fingerprint(inputs)


_MANIFEST: Final = {
    "recipe_name": str,
    "recipe": dict,
    "seeds": list,
    "device": str,
    "machine": str,
    "threads": int,
    "precision": str,
    "packages": dict,
    "created": str,
    "seconds": dict,
}
"""Keys that a manifest must have, and the types of their values."""


def _new_manifest(
    recipe: Recipe, recipe_name: str, seeds: tuple[int, ...], device: str, threads: int
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "recipe_name": recipe_name,
        "recipe": recipes.plain(recipe),
        "seeds": sorted(seeds),
        "device": device,
        "machine": machine(device),
        "threads": threads,
        "precision": recipe.training.precision,
        "python": platform.python_version(),
        "packages": {"mechocl": __version__} | {name: metadata.version(name) for name in _PACKAGES},
        "git": git_state(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": {},
    }


def _may_hold_a_run(path: Path) -> bool:
    """Whether a path is a run, an empty folder, or what a run leaves that was killed as it started."""
    if not path.is_dir():
        return False
    others = [p for p in path.iterdir() if p.name != _LOCK and not files.is_temporary(p)]
    return not others or (path / "manifest.json").exists()


def find(folder: Path) -> list[Path]:
    """The folders of runs directly inside a folder (or the folder itself), sorted by name."""
    if (folder / "manifest.json").exists():
        return [folder]
    if not folder.is_dir():
        raise MechoclError(f"{folder} is not a folder; give one that holds runs")
    return [path.parent for path in sorted(folder.glob("*/manifest.json"))]


def machine(device: str) -> str:
    """Name of the device for the record: the GPU's, or the processor's with its cores."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(
            (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model
        )
    return f"{model}, {os.cpu_count()} cores"


def git_state() -> dict[str, str] | None:
    """Commit of the source tree and a hash of its uncommitted changes; None outside a checkout."""
    here = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here.parent), *arguments]
        return subprocess.run(command, capture_output=True, check=True).stdout.decode(errors="replace")

    try:
        git("ls-files", "--error-unmatch", here.name)  # installed inside another project's checkout
        commit, changes = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": files.fingerprint(changes) if changes else ""}
