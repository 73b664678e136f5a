"""Which parameters a stage trains, and which rows of the token embeddings stay as they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

Trains = Literal[
    "all", "all_but_tag_embeddings", "all_but_alias_embeddings", "all_but_embeddings",
    "embeddings", "alias_embeddings", "tag_embeddings",
]  # fmt: skip

TRAINS_ALIASES: Final = ("all", "all_but_tag_embeddings", "embeddings", "alias_embeddings")
"""With which of these the embeddings of aliases are trained."""

EMBEDDING: Final = "embed.W_E"


def name_trained_parameters(model: "HookedTransformer", trains: Trains) -> list[str]:
    """Names of the parameters that a stage trains, in whole or in part. The token embedding is the first one."""
    if trains.startswith("all"):
        return [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [EMBEDDING]


def find_trained_rows(task: Task, trains: Trains) -> Bool[Tensor, "d_vocab"]:
    """Which rows of the token embedding a stage trains. Tags are the tokens that stand as one in the task."""
    everything = torch.ones(len(task.vocabulary), dtype=torch.bool)
    if trains == "all_but_embeddings":
        return ~everything
    if trains in ("alias_embeddings", "all_but_alias_embeddings"):
        names = find_alias_names(task)
        return names if trains == "alias_embeddings" else ~names
    if trains in ("tag_embeddings", "all_but_tag_embeddings"):
        tags = ~everything
        tags[task.tokens[task.roles == ROLE["tag"]]] = True
        return tags if trains == "tag_embeddings" else ~tags
    return everything


def find_alias_names(task: Task) -> Bool[Tensor, "d_vocab"]:
    """Which tokens are names of aliases, or letters of such names. Entities that stand in an alias's place are not."""
    names = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    names[task.tokens[task.roles == ROLE["alias"]]] = True
    names[: task.vocabulary.integers[1]] = False
    return names


class FrozenRows:
    """Rows of the stacked token embeddings that do not move.

    An optimiser moves a row whose gradient is 0, too: by weight decay, or by the momentum of earlier steps. So the rows
    are put back after each step.
    """

    def __init__(
        self, embeddings: Float[Tensor, "model d_vocab d_model"], tasks: Sequence[Task], trains: Trains
    ):
        self.embeddings = embeddings.detach()
        trained = torch.stack([find_trained_rows(task, trains) for task in tasks])
        self.always: Bool[Tensor, "model d_vocab"] = ~trained.to(embeddings.device)
        self.freeze(torch.zeros_like(self.always))

    def freeze(self, rows: Bool[Tensor, "model d_vocab"]) -> None:
        """Keep these rows as they are now, beside those that the stage never trains. Others train again."""
        self.rows = self.always | rows
        self.where = self.rows.flatten().nonzero()[:, 0]
        self.kept = self._all_rows()[self.where]

    def mask(
        self, gradient: Float[Tensor, "model d_vocab d_model"]
    ) -> Float[Tensor, "model d_vocab d_model"]:
        """The gradient of the embeddings, with 0 in the frozen rows."""
        return gradient.masked_fill(self.rows[:, :, None], 0.0) if len(self.where) else gradient

    def put_back(self) -> None:
        """Give the frozen rows the values that they had when they were frozen."""
        if len(self.where):
            self._all_rows().index_copy_(0, self.where, self.kept)

    def _all_rows(self) -> Float[Tensor, "row d_model"]:
        return self.embeddings.view(-1, self.embeddings.shape[2])
