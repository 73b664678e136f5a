"""Folders that only one process at a time writes: one for each seed, and one for each stack of seeds.

A *stack* is a group of seeds that one process trains together. Training that was stopped continues from the stack's
resume point.
"""

import copy
import functools
import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import files, ledgers
from mechocl.behaviour import internalization
from mechocl.errors import MechoclError
from mechocl.runs import overview
from mechocl.runs.building import build_model, fill_model
from mechocl.runs.recipes import AnyRecipe
from toy_models.task import Task
from toy_models.trainer import TrainingState
from toy_models.worlds import world_of

_CHECKPOINT: Final = re.compile(r"stage-(\d+)/(?:step-(\d+)|final)\.safetensors")
_STATE: Final = re.compile(r"state-(\d+)-(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights of one seed at one step of one stage."""

    seed: int
    stage: int
    """Stage of training, counted from 1."""
    step: int
    """Step within the stage; 0 means before its first step."""
    name: str
    """Path within the seed's folder."""
    sha256: str = field(repr=False)


class SeedFolder:
    """One seed's part of a run."""

    task_files: tuple[str, ...] = ("task.safetensors", "task.parquet")
    """Names of the files that hold the task."""

    def __init__(
        self, path: Path, seed: int, recipe: AnyRecipe, *, command: str = "train", owner: str = ""
    ) -> None:
        self.path = path
        self.seed = seed
        self.recipe = recipe
        remedy = f"run the same `mechocl {command}` again to complete it"
        self.ledger = ledgers.Ledger(path, remedy=remedy, owner=owner)

    __repr__ = overview.seed_line
    _repr_html_ = overview.seed_html

    def save_task(self, task: Task) -> None:
        """Save the task. Raises MechoclError when another task was saved before, even if its files are lost."""
        tensors = {
            "tokens": task.tokens.to(torch.int32),
            "roles": task.roles.to(torch.int8),
            "loss_mask": task.loss_mask,
        }
        if not self._write("task.safetensors", tensors, {}, keep=True):
            raise MechoclError(self.other_task())
        files.write_table(self.path / "task.parquet", task.table)
        self.ledger.record("task.safetensors", "task.parquet")

    def _write(
        self, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, str], *, keep: bool
    ) -> bool:
        """Write tensors, in the recorded form if there is one. With `keep`, write nothing and return False where the record is of others."""
        content = files.pack_tensors(tensors, metadata)
        recorded = self.ledger.entries().get(name)
        if keep and recorded is not None and files.digest(content) != recorded:
            content = files.pack_tensors(tensors, metadata, seal=False)  # as an older version wrote it
            if files.digest(content) != recorded:
                return False
        files.write_bytes(self.path / name, content)
        return True

    def lost_stages(self) -> list[int]:
        """The stages that are not trained to the end, or of which a file is missing or altered; counted from 1."""
        damaged = self.ledger.damaged()
        return [
            number
            for number in range(1, len(self.recipe.training.stages) + 1)
            if not self.stage_finished(number) or any(name.startswith(f"stage-{number}/") for name in damaged)
        ]

    def task_saved(self) -> bool:
        """Whether the files of the task are there as they were written."""
        return not set(self.task_files) - (self.ledger.entries().keys() - self.ledger.damaged())

    def forget_damaged_failure(self) -> None:
        """Forget why training ended early if the file that says so is lost, so that it is found out again."""
        if "failed.json" in self.ledger.damaged():
            self.ledger.forget("failed.json")

    @functools.cached_property
    def task(self) -> Task:
        """The task that analyses read (`analysed_task`). It is read from the disk once."""
        return self.analysed_task()

    @functools.cached_property
    def model(self) -> Any:
        """The `HookedTransformer` after the last stage, on a GPU if the machine has one. It is loaded once.

        `model_at` gives the model of any other checkpoint.
        """
        return self.model_at(self.final(), device="auto")

    @property
    def attribute(self) -> str:
        """The attribute that analyses look at in a text world (`closed_book.views.view_attribute`); "" in other worlds."""
        return ""

    def analysed_task(self) -> Task:
        """The task that analyses read: the whole task, or in a text world the view of it on one attribute."""
        return self.load_task()

    def streamed_task(self) -> Task:
        """The task on whose activations dictionaries are trained: all definitions and questions."""
        return self.load_task()

    def load_task(self) -> Task:
        tensors, _ = files.read_tensors(self.ledger.checked("task.safetensors"))
        world = world_of(self.recipe.task)
        return Task(
            tokens=tensors["tokens"].to(torch.int64),
            roles=tensors["roles"].to(torch.int64),
            loss_mask=tensors["loss_mask"],
            table=files.read_table(self.ledger.checked("task.parquet")),
            vocabulary=world.vocabulary(self.recipe.task),
            questioning=world.questioning,
        )

    def task_checksums(self) -> dict[str, str]:
        """The recorded sha256 of each file that the task is read from."""
        entries = self.ledger.entries()
        return {name: entries[name] for name in self.task_files if name in entries}

    def save_checkpoint(
        self, weights: dict[str, torch.Tensor], *, stage: int, step: int, final: bool
    ) -> None:
        """Save weights. Raises MechoclError when the stage was finished before, with other weights at this step."""
        name = f"stage-{stage}/" + ("final" if final else f"step-{step:06d}") + ".safetensors"
        if not self._write(name, weights, {"step": str(step)}, keep=self.stage_finished(stage)):
            raise MechoclError(self.other_bits(name))
        self.ledger.record(name)

    def other_task(self) -> str:
        """Why a seed cannot go on: the code draws another task now."""
        return (
            f"{self.path} was started on another task by another version of the code; choose another --out, or delete "
            f"{self.path} and {self.ledger.remedy}"
        )

    def other_bits(self, name: str) -> str:
        """Why a lost file cannot come back by training again: training gives another one now."""
        return (
            f"{self.path / name} cannot be restored: training gives other bits here than when it was written (other "
            f"versions or another machine); restore it from a copy, or delete {self.path} and {self.ledger.remedy}"
        )

    def checkpoints(self) -> list[Checkpoint]:
        """Finished checkpoints in the order of training."""
        found = [
            self._checkpoint(match, digest)
            for name, digest in self.ledger.entries().items()
            if (match := _CHECKPOINT.fullmatch(name))
        ]
        return sorted(found, key=lambda c: (c.stage, c.step))

    def _checkpoint(self, name: "re.Match[str]", digest: str) -> Checkpoint:
        step = name[2] or files.read_metadata(self.path / name[0], remedy=self.ledger.remedy)["step"]
        return Checkpoint(self.seed, int(name[1]), int(step), name[0], digest)

    def _digest_of(self, name: str) -> str | None:
        """The `sha256` of the seed's own checkpoint of this name; None if it has none."""
        return self.ledger.entries().get(name)

    def beside(self) -> list["SeedFolder"]:
        """The other seeds of the run that have finished files, in the order of their numbers."""
        found = []
        for ledger in self.path.parent.glob(f"seed-*/{ledgers.LEDGER}"):
            number = ledger.parent.name.removeprefix("seed-")
            if number.isdecimal() and int(number) != self.seed:
                other = copy.copy(self)
                other.path, other.seed = ledger.parent, int(number)
                other.ledger = ledgers.Ledger(ledger.parent, remedy=self.ledger.remedy)
                for kept in ("task", "model", "attribute"):
                    other.__dict__.pop(kept, None)
                found.append(other)
        return sorted(found, key=lambda other: other.seed)

    def require_own(self, checkpoint: Checkpoint) -> None:
        """Raise MechoclError for a checkpoint of another seed or run, whose name alone may be that of one of this seed."""
        if not isinstance(checkpoint, Checkpoint):
            raise MechoclError(f"{checkpoint!r} is no checkpoint; give one of checkpoints(), or final(STAGE)")
        if checkpoint.seed != self.seed or self._digest_of(checkpoint.name) != checkpoint.sha256:
            raise MechoclError(
                f"{checkpoint.name} of seed {checkpoint.seed}, with sha256 {checkpoint.sha256[:12]}, is no checkpoint of "
                f"{self.path}; give one of its checkpoints() there, or the seed that it is of"
            )

    def weights(self, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
        """The checkpoint's tensors. Raises MechoclError when it is of another seed, or the file was truncated or altered."""
        self.require_own(checkpoint)
        return files.read_tensors(self.ledger.checked(checkpoint.name))[0]

    def untrained_checksum(self) -> str:
        """The sha256 of what `untrained_model` reads; "" where it reads nothing, as the recipe and the seed say all."""
        return ""

    def untrained_model(self, *, device: str | None = "auto") -> Any:
        """An untrained `HookedTransformer` of the run's shape, with random weights that depend on the seed."""
        return build_model(self.recipe, seed=self.seed, device=device)

    def model_at(self, checkpoint: Checkpoint, *, device: str | None = "auto") -> Any:
        """The `HookedTransformer` of a checkpoint of this seed. Raises MechoclError for one of another seed or run, or an altered file."""
        model = build_model(self.recipe, seed=self.seed, device=device)
        weights = self.weights(checkpoint)
        odd = weights.keys() ^ dict(model.named_parameters()).keys()
        if odd:
            raise MechoclError(
                f"{self.path / checkpoint.name} does not fit the recipe's model (tensor {min(odd)}); train again with "
                "another --out"
            )
        try:
            fill_model(model, weights)
        except ValueError as error:
            raise MechoclError(f"{self.path / checkpoint.name}: {error}") from None
        return model

    def evaluate(self, checkpoint: Checkpoint, *, device: str | None = "auto") -> pd.DataFrame:
        """Rows of the evaluate analysis: how a checkpoint answers all test questions, with one row per alias."""
        model = self.model_at(checkpoint, device=device)
        return internalization.per_alias(model, self.load_task())

    def final(self, stage: int | None = None) -> Checkpoint:
        """The last checkpoint of a stage; by default, of the last stage."""
        number = len(self.recipe.training.stages) if stage is None else stage
        name = f"stage-{number}/final.safetensors"
        self.ledger.checked(name)
        match = _CHECKPOINT.fullmatch(name)
        assert match
        return self._checkpoint(match, self.ledger.entries()[name])

    def finish_stage(self, stage: int, history: list[dict[str, Any]]) -> None:
        """Write the stage's history. After that the stage counts as finished."""
        name = f"stage-{stage}/history.parquet"
        files.write_table(self.path / name, pd.DataFrame(history))
        self.ledger.record(name)

    def stage_finished(self, stage: int) -> bool:
        return f"stage-{stage}/history.parquet" in self.ledger

    def finished(self) -> bool:
        return all(self.stage_finished(i + 1) for i in range(len(self.recipe.training.stages)))

    def history(self) -> pd.DataFrame:
        """Evaluations during training, with one row per stage, step and subset."""
        tables = [
            files.read_table(self.ledger.checked(f"stage-{i + 1}/history.parquet"))
            for i in range(len(self.recipe.training.stages))
        ]
        return pd.concat(tables, ignore_index=True)

    def fail(self, reason: str) -> None:
        """Record that training this seed ended early, and why."""
        files.write_json(self.path / "failed.json", {"reason": reason})
        self.ledger.record("failed.json")

    def failure(self) -> str | None:
        """Why training diverged in this seed; None if it did not."""
        if "failed.json" not in self.ledger:
            return None
        return str(files.read_json(self.ledger.checked("failed.json"))["reason"])


class StackFolder:
    """Resume points of the seeds that train together. `histories` and tensors hold one entry for each seed."""

    def __init__(self, path: Path, seeds: tuple[int, ...], *, command: str = "train") -> None:
        self.path = path
        self.seeds = seeds
        remedy = f"delete {path} and run the same `mechocl {command}` again"
        self.ledger = ledgers.Ledger(path, remedy=remedy, again=remedy)

    def save_state(self, state: TrainingState, *, stage: int, histories: list[list[dict[str, Any]]]) -> None:
        """Replace the resume point. The new file is recorded before the old one is removed."""
        old = self._states()
        name = f"state-{stage}-{state.step:06d}.safetensors"
        extra = {"step": state.step, "scalars": state.scalars, "histories": histories}
        files.write_tensors(self.path / name, state.tensors, {"state": json.dumps(extra)})
        self.ledger.record(name)
        for other in old:
            if other != name:
                self.ledger.forget(other)

    def load_state(self, stage: int) -> tuple[TrainingState, list[list[dict[str, Any]]]] | None:
        """The latest resume point of a stage and the histories up to it; None if the stage has no resume point."""
        steps = {step: name for name, (its_stage, step) in self._states().items() if its_stage == stage}
        if not steps:
            return None
        tensors, meta = files.read_tensors(self.ledger.checked(steps[max(steps)]))
        extra = json.loads(meta["state"])
        return TrainingState(tensors, extra["step"], extra["scalars"]), extra["histories"]

    def remove_leftovers(self, *, unfinished: Collection[int]) -> None:
        """Remove what a killed process left: temporary files, and resume points of other stages than these."""
        files.remove_temporary(self.path)
        for name, (stage, _) in self._states().items():
            if stage not in unfinished:
                self.ledger.forget(name)
        states = self._states()
        for path in self.path.glob("state-*.safetensors"):
            if path.name not in states:
                path.unlink()

    def _states(self) -> dict[str, tuple[int, int]]:
        """Recorded resume points: stage and step of each file."""
        matches = {name: _STATE.fullmatch(name) for name in self.ledger.entries()}
        return {name: (int(m[1]), int(m[2])) for name, m in matches.items() if m}
