"""Stop training on definitions that are learned well enough: `StageConfig.stop_at_definition_loss` and `stops`."""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from toy_models.batches import Batches
from toy_models.definition_loss import find_entities, stacked_definition_losses
from toy_models.forward import Forward
from toy_models.frozen import find_alias_names
from toy_models.stages import StageConfig
from toy_models.tag_changes import TagChange
from toy_models.task import ROLE, Task
from toy_models.trainer import Trainer


class Stopping:
    """Which definitions of a stage have stopped, and which models train no further.

    What has stopped is a tensor of the trainer (`Trainer.stopped`), which is saved and restored with it. All else follows
    from it: the loss mask of the examples, and the rows of the embedding that are frozen.

    Raises ValueError when the stage stops at a definition loss and has no definitions that have one, and when single
    aliases are to stop whose names are not one token each.
    """

    def __init__(
        self, trainer: Trainer, data: Batches, stage: StageConfig, change: TagChange | None = None
    ) -> None:
        self.trainer, self.data, self.stage, self.change = trainer, data, stage, change
        self.never = stage.stop_at_definition_loss == 0
        self.finished = [False] * len(data.tasks)
        if self.never:
            return
        found = [_definitions(task, rows, stage) for task, rows in zip(data.tasks, data.rows, strict=True)]
        if len({len(examples) for examples, *_ in found}) > 1:
            raise ValueError("tasks with different numbers of definitions cannot be trained on together")
        self.examples, self.entity, self.names, self.may_stop = (
            torch.stack(part).to(data.device) for part in zip(*found, strict=True)
        )
        self.model = torch.arange(len(found), device=data.device)[:, None]
        trainer.stopped = torch.zeros_like(self.examples, dtype=torch.bool)

    def measure(self, shape: Forward, parameters: Mapping[str, Tensor]) -> None:
        """Measure the definition losses, and stop what is at or under the stage's value.

        What has once stopped stays so. A model whose losses are not finite has diverged, and all of it stops.
        """
        if self.never:
            return
        tokens = self.data.tokens[self.model, self.examples]
        losses = stacked_definition_losses(parameters, shape, tokens, self.entity, change=self.change)
        if self.stage.stops == "stage":
            losses = losses.mean(1, keepdim=True).expand_as(losses)
        diverged = ~losses.isfinite().all(1, keepdim=True)
        low = (losses <= self.stage.stop_at_definition_loss) & self.may_stop
        self.trainer.stopped |= low | diverged
        self.apply()

    def apply(self) -> None:
        """Let what has stopped carry no loss and not move, as `Trainer.stopped` says."""
        if self.never:
            return
        stopped = self.trainer.stopped
        self.finished = stopped.all(1).tolist()
        if self.stage.stops != "stage":
            assert self.trainer.frozen is not None  # an alias of one token has an embedding
            self.data.mask[self.model, self.examples] &= ~stopped[:, :, None]
            self.trainer.frozen.freeze(self._stopped_names(stopped))

    def learns(self, mask: Bool[Tensor, "model batch pos"]) -> list[bool]:
        """Which models learn from a batch: those that are not finished and have loss in it."""
        if self.never:
            return [True] * len(mask)
        with_loss: list[bool] = mask.flatten(1).any(1).tolist()
        return [some and not over for some, over in zip(with_loss, self.finished, strict=True)]

    def shares(self) -> tuple[float, ...]:
        """Share of each model's definitions that have stopped; empty if the stage never stops."""
        return () if self.never else tuple(self.trainer.stopped.double().mean(1).tolist())

    def _stopped_names(self, stopped: Bool[Tensor, "model definition"]) -> Bool[Tensor, "model d_vocab"]:
        """Which tokens are names of aliases all of whose definitions have stopped."""
        assert self.trainer.frozen is not None
        rows = torch.zeros_like(self.trainer.frozen.always)
        rows[self.model.expand_as(stopped)[stopped], self.names[stopped]] = True
        rows[self.model.expand_as(stopped)[~stopped], self.names[~stopped]] = False
        return rows


def check_stopping(task: Task, stage: StageConfig) -> None:
    """Raise ValueError when the stage stops at a definition loss that this task does not have (`Stopping`)."""
    if stage.stop_at_definition_loss:
        _definitions(task, torch.from_numpy(task.training_rows(stage.data)), stage)


def _definitions(
    task: Task, rows: Int[Tensor, "example"], stage: StageConfig
) -> tuple[
    Int[Tensor, " definition"],
    Int[Tensor, " definition"],
    Int[Tensor, " definition"],
    Bool[Tensor, " definition"],
]:
    """Which of a stage's examples are definitions, where their entities are, the tokens of their aliases' names, and
    which of them may stop.

    Raises ValueError when there are no definitions, or none that may stop, and when single aliases are to stop whose names
    are not one token each.
    """
    kinds = task.table["kind"].to_numpy()[rows.numpy()]
    examples = torch.from_numpy(kinds == "definition").nonzero()[:, 0]
    if len(examples) == 0:
        raise ValueError(f"the data of stage {' and '.join(map(str, stage.data))} have no definitions")
    chosen = rows[examples]
    entity = find_entities(task, chosen.numpy())
    is_alias = task.roles[chosen] == ROLE["alias"]
    first = task.tokens[chosen, is_alias.int().argmax(1)]
    one_token = bool((is_alias.sum(1) == 1).all() and find_alias_names(task)[first].all())
    if stage.stops != "stage" and not one_token:
        raise ValueError(
            "single aliases can stop only if each is one token; use tokens_per_alias 1, or stops = stage"
        )
    tags = torch.from_numpy(task.table["tag"].to_numpy()[chosen.numpy()])
    may_stop = tags == 2 if stage.stops == "tag_2" else torch.ones_like(tags, dtype=torch.bool)
    if not may_stop.any():
        raise ValueError(
            "stops is tag_2, and no definition of the stage has tag 2; give its subset a share in task.fractions"
        )
    return examples, entity, first, may_stop
