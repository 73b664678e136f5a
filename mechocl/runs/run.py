"""The run directory: recipe, seeds, checkpoints and results; atomic, checked, resumable.

runs/<name>/
  manifest.json                      schema, recipe, seeds, stacks, versions, git commit, device
  seed-0/
    checksums.json                   sha256 of every finished file of this seed
    failed.json                      why training ended early, if it did
    task.safetensors  task.parquet
    stage-1/ step-000400.safetensors …  final.safetensors  history.parquet
  stacks/0-3/ state-….safetensors    where an unfinished stage of seeds 0 … 3, trained together, continues
  results/<analysis>/<key>/ result.json  rows.parquet  arrays.safetensors (where there are any)
  controls/<name>/                   control runs, which are run directories themselves (`mechocl controls`)
  variants/<name>/                   variant runs, too (`mechocl variants`, `mechocl twins`)
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch

from mechocl import __version__, files, ledgers
from mechocl.accepted import seed_number
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.errors import MechoclError, note
from mechocl.runs import overview, recipes
from mechocl.runs.folders import SeedFolder, StackFolder
from mechocl.runs.kinds import RunKind
from mechocl.runs.makers import makers, mixed_versions, with_maker
from mechocl.runs.manifest import check_manifest, refuse_sweep
from mechocl.runs.provenance import maker, new_manifest
from mechocl.runs.recipes import AnyRecipe
from mechocl.runs.text_runs import TextRuns
from mechocl.runs.toy_runs import ToyRuns
from toy_models.task import Questioning

if TYPE_CHECKING:
    from mechocl import Explorer

_LOCK: Final = ".lock"
_LOCK_PATIENCE_S: Final = 10.0
"""Seconds to wait for another process that is writing the manifest. Writing it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory that exists."""

    path: Path
    recipe: AnyRecipe
    recipe_name: str
    seeds: tuple[int, ...]
    manifest: dict[str, Any]
    attribute: str = ""
    """Attribute that analyses look at in worlds that have several; "" means that `closed_book.views` chooses it."""

    __repr__ = overview.run_line
    _repr_html_ = overview.run_html

    @staticmethod
    def create(
        path: Path,
        recipe: AnyRecipe,
        *,
        recipe_name: str,
        seeds: tuple[int, ...],
        device: str,
        threads: int,
        together: int,
    ) -> "Run":
        """Start a run in an empty or new folder, or continue the run in it. A run that lost its manifest gets a new one.

        A run that continues keeps its number of threads, its device and its stacks of seeds that train together, because
        the last bits of the weights depend on them. More seeds may be added, `together` to a stack. Raises MechoclError
        when the folder holds something else.
        """
        if path.exists() and not _may_hold_a_run(path):
            raise MechoclError(f"{path} exists and is not a run; choose another --out")
        if (path / "manifest.json").exists():
            Run.open(path)  # what is no run, such as a sweep, is left as it is
        with files.locked(path / _LOCK, patience=_LOCK_PATIENCE_S):
            files.remove_temporary(path)
            made = bool(_seeds_there(path))  # without them the run stopped before it made anything
            old = Run.open(path) if (path / "manifest.json").exists() else None
            if old is None or (old.recipe != recipe and not made):
                there = _seeds_there(path) if old is None else set()
                seeds = tuple(sorted({*seeds, *there}))
                manifest = new_manifest(recipe, recipe_name, seeds, device, threads)
                manifest["stacks"] = _stacks(seeds, together)
                new = Run(path, recipe, recipe_name, seeds, manifest)
                if not all(new.seed(seed).ledger.is_owned() for seed in there):
                    raise MechoclError(
                        f"{path} has no manifest.json, and its seeds are of another recipe; choose another --out"
                    )
                if there:
                    note(f"{path} had lost its manifest.json, and gets a new one")
                files.write_json(path / "manifest.json", manifest)
                return Run.open(path)
            if old.recipe != recipe:
                raise MechoclError(
                    f"{path} holds a run of another recipe; choose another --out, or delete it"
                )
            if old.manifest["device"] != device:
                raise MechoclError(
                    f"{path} was started on {old.manifest['device']}, not {device}; continue it there, "
                    "or choose another --out"
                )
            return old._continued(seeds, together)

    def _continued(self, seeds: tuple[int, ...], together: int) -> "Run":
        """Add seeds to the manifest, and say it where they are not made as those that are there. The lock must be held."""
        new = tuple(seed for seed in seeds if seed not in self.seeds)
        trained = {*new, *(seed for seed in seeds if seed in self.seeds and not self.seed(seed).finished())}
        made_by = with_maker(self.manifest, maker(self.manifest["device"]), trained)
        if trained and (mixed := mixed_versions(made_by)):
            note(f"{self.path} has seeds of different versions or machines: {mixed}")
        return self._changed(
            seeds=sorted({*self.seeds, *new}),
            stacks=self.manifest["stacks"] + _stacks(new, together),
            **({"makers": made_by} if len(made_by) > 1 else {}),
        )

    @staticmethod
    def open(path: Path | str, *, attribute: str = "") -> "Run":
        """Open the run in the folder `path`. `attribute` is what analyses of a text world look at.

        Raises MechoclError when it does not exist, is damaged, or was written by a newer version.
        """
        path = Path(path)
        if not path.exists():
            raise MechoclError(f"{path} does not exist; `mechocl runs` lists the runs of a folder")
        if not (path / "manifest.json").exists():
            if _seeds_there(path):
                raise MechoclError(
                    f"{path} has lost its manifest.json; restore it, or give the command that trained it again, which writes it"
                )
            raise MechoclError(f"{path} is not a run: it has no manifest.json")
        found = files.read_json(path / "manifest.json", remedy=files.EDITED)
        refuse_sweep(found, path)
        manifest = check_manifest(found, path / "manifest.json")
        recipe = recipes.parse(manifest["recipe"], source=str(path / "manifest.json"))
        run = Run(path, recipe, manifest["recipe_name"], tuple(manifest["seeds"]), manifest, attribute)
        if attribute and not run.kind.has_attributes:
            raise MechoclError(
                f"--attribute {attribute}: {path} is a run of a world whose questions are all of one kind; leave it out"
            )
        return run

    def mixed_versions(self) -> str:
        """In one line, which seeds were made by which versions on which machine; "" if all were made by the same."""
        return mixed_versions(makers(self.manifest))

    @property
    def kind(self) -> RunKind:
        """What differs between kinds of run."""
        return kind_of(self.recipe)

    @property
    def questioning(self) -> Questioning:
        """What is particular to the run's world in asking about an alias."""
        return self.kind.questioning(self.recipe)

    def require_in_place(self) -> None:
        """Raise MechoclError when the run's folder was moved or deleted. Otherwise training would go on in a new folder that is no run."""
        if not (self.path / "manifest.json").exists():
            raise MechoclError(
                f"{self.path} was moved or deleted while it was trained; move it back, and run the same command again to continue"
            )

    def _changed(self, **changes: Any) -> "Run":
        """Write the manifest with changes. The run's lock must be held."""
        if any(self.manifest.get(key) != value for key, value in changes.items()):
            files.write_json(self.path / "manifest.json", self.manifest | changes)
        return Run.open(self.path)

    def seed(self, seed: int) -> SeedFolder:
        """One seed's part of the run. Raises MechoclError when the run does not have it."""
        return self.kind.folder(self, seed_number(seed, known=self.seeds, owner=self.path))

    def owner_of(self, seed: int) -> str:
        """What the folder of a seed is made for: a hash of the recipe, as the manifest has it, and of the seed.

        The description of the recipe is prose and does not count.
        """
        recipe = {key: value for key, value in self.manifest["recipe"].items() if key != "description"}
        return files.fingerprint({"recipe": recipe, "seed": seed})

    def stacks(self) -> list[StackFolder]:
        """The groups of seeds that train together."""
        return [
            StackFolder(
                self.path / "stacks" / "-".join(map(str, sorted({stack[0], stack[-1]}))),
                tuple(stack),
                command=self.kind.command_for(self.path),
            )
            for stack in self.manifest["stacks"]
        ]

    def finished_seeds(self) -> list[SeedFolder]:
        """The seeds whose training is complete. Seeds that diverged are left out (see `failures`).

        Raises MechoclError when a seed is not trained to its end yet, or when all seeds diverged.
        """
        folders = [self.seed(s) for s in self.seeds]
        failed = self.failures()
        if missing := self.unfinished_seeds():
            raise MechoclError(
                f"{self.path} is incomplete: seed {', '.join(map(str, missing))} is not trained to the end; "
                f"run {self.kind.command_again(self.path)}, unless it is still at work"
            )
        if len(failed) == len(folders):
            raise MechoclError(
                f"{self.path}: training diverged in every seed ({next(iter(failed.values()))}); change the "
                "recipe, for example to a lower learning_rate, and train with another --out"
            )
        return [f for f in folders if f.seed not in failed]

    def unfinished_seeds(self) -> list[int]:
        """The seeds whose training is neither complete nor diverged."""
        failed = self.failures()
        return [s for s in self.seeds if s not in failed and not self.seed(s).finished()]

    def failures(self) -> dict[int, str]:
        """Seed → the reason, for each seed whose training diverged."""
        reasons = {s: self.seed(s).failure() for s in self.seeds}
        return {s: r for s, r in reasons.items() if r is not None}

    def note_seconds(self, what: str, seconds: float) -> "Run":
        """Add wall-clock seconds to the manifest's sum for an activity ("training", "analyses")."""
        with files.locked(self.path / _LOCK, patience=_LOCK_PATIENCE_S):
            now = Run.open(self.path)  # another process may have added seeds
            spent = now.manifest["seconds"]
            return now._changed(seconds=spent | {what: round(spent.get(what, 0.0) + seconds, 1)})

    def explore(
        self,
        *,
        seeds: Sequence[int] | None = None,
        aliases: int = 12,
        checkpoints: int = 4,
        height: int = 900,
    ) -> "Explorer":
        """The page on single aliases of the run, which a notebook shows: `mechocl.explore`, which has more options."""
        from mechocl import explore  # the front door: the page is made on a floor above

        return explore(self, seeds=seeds, aliases=aliases, checkpoints=checkpoints, height=height)

    # results ------------------------------------------------------------------------------------

    def save_result(
        self,
        analysis: str,
        inputs: dict[str, Any],
        rows: pd.DataFrame,
        arrays: dict[str, torch.Tensor] | None = None,
    ) -> Path:
        """Save a tidy table, and arrays that belong to it, with the inputs from which they were computed."""
        folder = self.result_folder(analysis, inputs)
        files.write_table(folder / "rows.parquet", rows)
        record = {"analysis": analysis, "inputs": inputs, "version": __version__}
        record["sha256"] = files.sha256(folder / "rows.parquet")
        if arrays:
            files.write_tensors(folder / "arrays.safetensors", arrays, {})
            record["arrays_sha256"] = files.sha256(folder / "arrays.safetensors")
        files.write_json(folder / "result.json", record)
        return folder

    def load_result(self, analysis: str, inputs: dict[str, Any]) -> pd.DataFrame | None:
        """The saved table for exactly these inputs; None if no such table was saved.

        Raises MechoclError when the saved inputs differ, or when the table was altered.
        """
        folder = self.result_folder(analysis, inputs)
        saved = self._record(folder, inputs)
        if saved is None:
            return None
        return files.read_table(_unaltered(folder / "rows.parquet", saved.get("sha256")))

    def load_arrays(self, analysis: str, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        """The arrays that were saved with a table; an empty dict if there is no result, or a result without arrays.

        Raises MechoclError as `load_result` does.
        """
        folder = self.result_folder(analysis, inputs)
        saved = self._record(folder, inputs)
        if saved is None or "arrays_sha256" not in saved:
            return {}
        return files.read_tensors(_unaltered(folder / "arrays.safetensors", saved["arrays_sha256"]))[0]

    def _record(self, folder: Path, inputs: dict[str, Any]) -> dict[str, Any] | None:
        """The content of `result.json`; None if there is no such file."""
        if not (folder / "result.json").exists():
            return None
        saved = files.read_json(folder / "result.json", remedy=f"delete {folder} and run again")
        if saved.get("inputs") != json.loads(json.dumps(inputs)):
            raise MechoclError(f"{folder} holds a result of other inputs; delete it and run again")
        return saved

    def result_folder(self, analysis: str, inputs: dict[str, Any]) -> Path:
        return self.path / "results" / analysis / files.fingerprint(inputs)


def _unaltered(path: Path, sha256: object) -> Path:
    """The path of a result's file. Raises MechoclError when its content is not the recorded one."""
    if not path.exists() or files.sha256(path) != sha256:
        raise MechoclError(f"{path} does not match its checksum; delete {path.parent} and run again")
    return path


def open_run(path: str | Path, *, attribute: str = "") -> Run:
    """Open an existing run, as `Run.open` does. `run.seed(0)` is one of its seeds, with `.model` and `.task`."""
    return Run.open(Path(path), attribute=attribute)


def kind_of(recipe: AnyRecipe) -> RunKind:
    """The kind of the runs of a recipe."""
    return _TEXT if isinstance(recipe, ClosedBookRecipe) else _TOY


_TOY: Final[RunKind] = ToyRuns()
_TEXT: Final[RunKind] = TextRuns()


def _stacks(seeds: tuple[int, ...], together: int) -> list[list[int]]:
    """The seeds in groups of at most `together` seeds, whose sizes are as equal as possible."""
    if not seeds:
        return []
    groups = np.array_split(sorted(seeds), math.ceil(len(seeds) / together))
    return [group.tolist() for group in groups]


def _may_hold_a_run(path: Path) -> bool:
    """Whether a path is a run, one that lost its manifest, an empty folder, or the remains of a run killed at its start."""
    if not path.is_dir():
        return False
    others = [p for p in path.iterdir() if p.name != _LOCK and not files.is_temporary(p)]
    return not others or (path / "manifest.json").exists() or bool(_seeds_there(path))


def _seeds_there(path: Path) -> set[int]:
    """The seeds of which a folder holds anything that is finished."""
    names = [ledger.parent.name.removeprefix("seed-") for ledger in path.glob(f"seed-*/{ledgers.LEDGER}")]
    return {int(name) for name in names if name.isdecimal()}
