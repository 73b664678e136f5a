"""The run directory: recipe, seeds, checkpoints and results; atomic, checked, resumable.

runs/<name>/
  manifest.json                      schema, recipe, seeds, versions, git commit, device
  seed-0/
    checksums.json                   sha256 of every finished file of this seed
    task.safetensors  task.parquet
    stage-1/ step-000400.safetensors …  final.safetensors  history.parquet
    state-….safetensors              where an unfinished stage continues
  results/<analysis>/<key>/ result.json  rows.parquet
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from safetensors import safe_open

from mechocl import files, recipes
from mechocl.errors import MechoclError
from mechocl.recipes import Recipe
from toy_models import integer_set
from toy_models.task import Task
from toy_models.training import TrainingState

SCHEMA: Final = 1
_PACKAGES: Final = ("mechocl", "torch", "transformer-lens", "numpy", "pandas", "scikit-learn")


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
        found = []
        for name, digest in self.ledger.entries().items():
            folder, _, file = name.partition("/")
            if folder.startswith("stage-") and file.endswith(".safetensors"):
                stage = int(folder.removeprefix("stage-"))
                final = file == "final.safetensors"
                step = self._final_step(stage) if final else int(file[len("step-") : -len(".safetensors")])
                found.append(Checkpoint(self.seed, stage, step, name, digest))
        return sorted(found, key=lambda c: (c.stage, c.step))

    def _final_step(self, stage: int) -> int:
        with safe_open(self.path / f"stage-{stage}/final.safetensors", framework="pt") as file:
            return int(file.metadata()["step"])

    def weights(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """The checkpoint's tensors; MechoclError when the file was truncated or altered."""
        return files.read_tensors(self.ledger.checked(checkpoint.name))[0]

    def final(self, stage: int | None = None) -> Checkpoint:
        """The last checkpoint of a stage (default: of training)."""
        number = len(self.recipe.training.stages) if stage is None else stage
        name = f"stage-{number}/final.safetensors"
        self.ledger.checked(name)
        return next(c for c in self.checkpoints() if c.name == name)

    def save_state(self, state: TrainingState, *, stage: int, history: list[dict[str, Any]]) -> None:
        """Replace the resume point: the new file is recorded before the old one goes."""
        old = self._state_names()
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
        names = [n for n in self._state_names() if n.startswith(f"state-{stage}-")]
        if not names:
            return None
        tensors, meta = files.read_tensors(self.ledger.checked(max(names)))
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
        for state in self._state_names():
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
        files.write_json(self.path / "failed.json", {"reason": reason})

    def failure(self) -> str | None:
        """Why training this seed failed (it diverged); None if it did not."""
        path = self.path / "failed.json"
        return str(files.read_json(path)["reason"]) if path.exists() else None

    def _state_names(self) -> list[str]:
        return sorted(name for name in self.ledger.entries() if name.startswith("state-"))


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

        Continuing keeps the number of threads, on which the last bits of the weights depend; more
        seeds may be added. Raises MechoclError when the folder holds something else.
        """
        if (path / "manifest.json").exists():
            old = Run.open(path)
            if old.recipe != recipe:
                raise MechoclError(
                    f"{path} holds a run of another recipe; choose another --out, or delete it"
                )
            manifest = old.manifest | {"seeds": sorted({*old.seeds, *seeds})}
        else:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise MechoclError(f"{path} exists and is not a run; choose another --out")
            manifest = {
                "schema": SCHEMA,
                "recipe_name": recipe_name,
                "recipe": recipes.plain(recipe),
                "seeds": sorted(seeds),
                "device": device,
                "machine": machine(device),
                "threads": threads,
                "precision": recipe.training.precision,
                "python": platform.python_version(),
                "packages": {name: metadata.version(name) for name in _PACKAGES},
                "git": git_state(),
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "seconds": {},
            }
        files.write_json(path / "manifest.json", manifest)
        return Run.open(path)

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
            raise MechoclError(f"{path / 'manifest.json'} is damaged: it has no schema number")
        if schema > SCHEMA:
            raise MechoclError(
                f"{path} was written by a newer version (schema {schema}, this one reads {SCHEMA}); upgrade mechocl"
            )
        recipe = recipes.parse(manifest["recipe"], source=str(path / "manifest.json"))
        return Run(path, recipe, manifest["recipe_name"], tuple(manifest["seeds"]), manifest)

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
                f"{self.path}: training diverged in every seed ({next(iter(failed.values()))})"
            )
        return [f for f in folders if f.seed not in failed]

    def failures(self) -> dict[int, str]:
        """Seeds whose training diverged, with the reason."""
        reasons = {s: self.seed(s).failure() for s in self.seeds}
        return {s: r for s, r in reasons.items() if r is not None}

    def note_seconds(self, what: str, seconds: float) -> "Run":
        """Add wall-clock seconds to what the manifest says of an activity ("training", "analyses")."""
        spent = self.manifest["seconds"]
        manifest = self.manifest | {"seconds": spent | {what: round(spent.get(what, 0.0) + seconds, 1)}}
        files.write_json(self.path / "manifest.json", manifest)
        return dataclasses.replace(self, manifest=manifest)

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
        if saved["inputs"] != json.loads(json.dumps(inputs)):
            raise MechoclError(f"{folder} holds a result of other inputs; delete it and run again")
        if not (folder / "rows.parquet").exists() or files.sha256(folder / "rows.parquet") != saved["sha256"]:
            raise MechoclError(
                f"{folder / 'rows.parquet'} does not match its checksum; delete {folder} and run again"
            )
        return pd.read_parquet(folder / "rows.parquet")

    def result_folder(self, analysis: str, inputs: dict[str, Any]) -> Path:
        return self.path / "results" / analysis / files.fingerprint(inputs)


def find(folder: Path) -> list[Run]:
    """The runs directly inside a folder (or the folder itself), sorted by name."""
    if (folder / "manifest.json").exists():
        return [Run.open(folder)]
    if not folder.is_dir():
        raise MechoclError(f"{folder} is not a folder")
    return [Run.open(p.parent) for p in sorted(folder.glob("*/manifest.json"))]


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
    root = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        ).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").strip(), git("diff", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return None
    return {"commit": commit, "dirty": files.fingerprint(changes) if changes else ""}
