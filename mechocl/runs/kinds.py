"""What differs between kinds of run: how seeds are trained, what their folders hold, and what can be looked at.

Each kind has one class, and a run's recipe decides its kind (`run.Run.kind`). What differs between the worlds of one
kind is in their questioning (`toy_models.task.Questioning`). A parameter `run` is a `run.Run` here. Its type is not in
the signatures, because the module of that class imports the kinds.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from mechocl.runs.folders import SeedFolder
from mechocl.runs.progress import Progress
from toy_models.task import Questioning

CONTROLS_FOLDER: Final = "controls"
"""Folder inside a run that holds its control runs."""

VARIANTS_FOLDER: Final = "variants"
"""Folder inside a run that holds its variant runs."""


class RunKind(ABC):
    """One kind of run."""

    command: str
    """Name of the command that trains runs of this kind."""
    has_attributes = False
    """Whether analyses look at one attribute at a time, which `--attribute` chooses."""
    reported: tuple[str, ...]
    """Names of the analyses that the report shows. They run with their default configs."""

    @abstractmethod
    def questioning(self, recipe: Any) -> Questioning:
        """The questioning of a recipe's world."""

    @abstractmethod
    def folder(self, run: Any, seed: int) -> SeedFolder:
        """One seed's part of a run."""

    @abstractmethod
    def train(
        self,
        run: Any,
        seeds: Sequence[int],
        *,
        device: str,
        save_every_s: float,
        progress: Progress,
    ) -> None:
        """Train the seeds of one stack to the end, or continue where an earlier call was stopped."""

    @abstractmethod
    def facts(self, run: Any) -> dict[str, str]:
        """The run's task, model and stages in words."""

    @abstractmethod
    def count_examples(self, recipe: Any, stage: int) -> int:
        """Number of training examples of the stage with this index, from 0."""

    def command_for(self, path: Path) -> str:
        """Name of the command that trains the run in a folder: that of its kind, `controls` for a control run, and
        `variants` for a variant run."""
        folder = path.absolute().parent.name
        return folder if folder in (CONTROLS_FOLDER, VARIANTS_FOLDER) else self.command

    def command_again(self, path: Path) -> str:
        """In words, the command that trains the run in a folder to its end."""
        command, around = self.command_for(path), path.parent.parent
        if command == VARIANTS_FOLDER:
            return f"`mechocl variants {around} --only {path.name}`"
        return f"`mechocl {command}` again with --out {around if command == CONTROLS_FOLDER else path}"

    def judging_stage(self, recipe: Any) -> int:
        """The stage after which the subsets of stage 1 are judged; by default the last stage."""
        return len(recipe.training.stages)

    def can_be_taken_apart(self, run: Any) -> bool:
        """Whether models of the run's family can be taken apart (`models.components`), as some analyses need."""
        return True

    def takes(self, run: Any, analysis: str) -> bool:
        """Whether an analysis, by its name, can be had of the run's models."""
        return analysis == "evaluate" or self.can_be_taken_apart(run)

    def require_transformers(self, run: Any, what: str) -> None:
        """Raise MechoclError if the models of a run are not transformers, of which alone `what` can be had."""
        return
