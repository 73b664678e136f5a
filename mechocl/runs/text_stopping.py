"""The end of a stage of fine-tuning at a definition loss: `FinetuneStage.stop_at_definition_loss`."""

from typing import Any

import numpy as np

from mechocl.closed_book import answers, evaluation
from mechocl.closed_book.stages import FinetuneStage
from mechocl.errors import MechoclError
from mechocl.runs.trainer import Moment
from toy_models.stages import evaluation_steps
from toy_models.task import Task


class Stopping:
    """Whether the definitions of a stage are known well enough for it to end, which is asked at the end of each epoch.

    Raises MechoclError when the stage is to end at a definition loss that its definitions do not have, and in several
    processes, whose losses may differ in their last bits, so that some of them would stop and others not.
    """

    def __init__(self, model: Any, task: Task, stage: FinetuneStage, *, number: int, processes: int) -> None:
        self.task, self.stage = task, stage
        if not stage.stop_at_definition_loss:
            return
        self.rows: np.ndarray = task.rows(split="train", stage=stage.data, kind="definition")
        if not evaluation.has_definition_losses(model, task, self.rows):
            raise MechoclError(
                f"stage {number} cannot stop at a definition loss: it has no definitions in which the entity is predicted from "
                "the alias; use word order TVE, VTE or VET (for a sequence-to-sequence model with the entity last), or "
                "stop_at_definition_loss=0"
            )
        if processes > 1:
            raise MechoclError(
                "stop_at_definition_loss works in one process; start the command without accelerate"
            )

    def steps(self, total: int) -> frozenset[int]:
        """The steps at which it is asked: the ends of epochs, of `total` steps in all."""
        if not self.stage.stop_at_definition_loss:
            return frozenset()
        return evaluation_steps(total, self.stage.epochs)

    def reached(self, moment: Moment) -> bool:
        """Whether the stage ends at this moment."""
        if moment.step not in self.steps(moment.total):
            return False
        losses, _ = answers.recall_definitions(moment.model, self.task, self.rows)
        return bool(losses.mean() <= self.stage.stop_at_definition_loss)
