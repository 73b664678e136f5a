"""A stage of training as its kept weights show it: the model before it, and the models along it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mechocl.closed_book.parts import select_rows
from mechocl.closed_book.stages import FinetuneStage
from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer
from toy_models.stages import StageConfig
from toy_models.task import Task

Stage = StageConfig | FinetuneStage
"""Settings of a stage of training from scratch, or of fine-tuning."""


def stage_rows(task: Task, settings: Stage) -> np.ndarray:
    """Rows of the task that a stage trains on."""
    if isinstance(settings, FinetuneStage):
        return select_rows(task, settings)
    return task.training_rows(settings.data)


def refuse_adapters(recipe: Any) -> None:
    """Raise MechoclError for a recipe whose stages train adapters, since their steps do not follow the gradients of the model's own
    weights."""
    if getattr(recipe.training, "lora", None) is not None:
        raise MechoclError(
            "the run trains adapters (training.lora), and gradients are of a model's own weights; fine-tune without training.lora"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A stage that trains on definitions of new aliases, and what came before it."""

    stage: int
    """Number of the stage, from 1."""
    earlier: Stage
    """Settings of the stage before it."""
    settings: Stage
    """Settings of the stage itself."""
    before: Callable[[], Transformer]
    """Gives the model at the end of the stage before."""
    steps_before: int
    """Number of steps of the stage before."""
    kept: tuple[int, ...]
    """Steps of the stage at which its weights are kept, in order; the last one is its end."""
    at: Callable[[int], Transformer]
    """Gives the model at a kept step."""
    trained: Callable[[], Task] | None = None
    """Gives the task that the stages train on, where analyses look at a part of it; None where they look at all of it."""

    def moments(self, *, between: bool) -> Iterator[tuple[int, int, Transformer]]:
        """Stage, step and model: before the stage, at the steps between its ends if asked for, and at its end."""
        yield self.stage - 1, self.steps_before, self.before()
        for step in self.kept if between else self.kept[-1:]:
            yield self.stage, step, self.at(step)
