"""How well definitions are known: the loss of their entities.

The *definition loss* of a definition is the cross-entropy, in nats, of its entity's (first) token over all of the model's
outputs, given the tokens before it. It exists in word orders in which the alias comes before the entity.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from toy_models import lean
from toy_models.forward import Forward, shape_of
from toy_models.tag_changes import Seen, TagChange
from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_AT_ONCE: Final = 4096
"""Number of definitions of each model in a forward pass, which bounds the memory that it needs."""


def find_entities(task: Task, rows: np.ndarray) -> Int[Tensor, " definition"]:
    """Position of the entity's first token in each of the given definitions.

    Raises ValueError if an alias does not come before its entity: then nothing says which entity is to be predicted.
    """
    roles = task.roles[torch.from_numpy(rows)]
    is_entity, is_alias = roles == ROLE["entity"], roles == ROLE["alias"]
    entity = is_entity.int().argmax(1)
    last_alias = is_alias.shape[1] - 1 - is_alias.flip(1).int().argmax(1)
    if not (is_entity.any(1) & is_alias.any(1) & (last_alias < entity)).all():
        raise ValueError(
            "there is no definition loss where the alias does not come before the entity; "
            "use word order TVE, VTE or VET"
        )
    return entity


@torch.no_grad()
def stacked_definition_losses(
    parameters: Mapping[str, Tensor],
    shape: Forward,
    tokens: Int[Tensor, "model definition pos"],
    entity: Int[Tensor, "model definition"],
    *,
    change: TagChange | None = None,
) -> Float[Tensor, "model definition"]:
    """Definition losses (nats) of several models, each of its own definitions. `entity` is the position of the entity.

    With a `change` of the tags, they are those of the forward pass with it.
    """
    found = []
    for some, where in zip(torch.split(tokens, _AT_ONCE, 1), torch.split(entity, _AT_ONCE, 1), strict=True):
        seen = (
            Seen(parameters, some[:, :, :-1])
            if change is None
            else change.forward(parameters, some[:, :, :-1])
        )
        x = shape.residual(seen.parameters, seen.tokens, cut=seen.cut)
        before = (where - 1)[:, :, None, None].expand(-1, -1, 1, x.shape[3])
        logits = lean.logits(parameters, x.gather(2, before)[:, :, 0])
        targets = some.gather(2, where[:, :, None])
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        found.append(losses.view(where.shape))
    return torch.cat(found, 1)


def measure_definition_losses(
    model: "HookedTransformer", task: Task, rows: np.ndarray, *, change: TagChange | None = None
) -> Float[np.ndarray, " definition"]:
    """Definition losses (nats) of one model in the given rows of a task, which are definitions.

    With a `change` of the tags, which must be one for this task alone, they are those of the forward pass with it.

    Raises ValueError where there is no definition loss (`find_entities`).
    """
    device = model.W_U.device
    entity = find_entities(task, rows)
    tokens = task.tokens[torch.from_numpy(rows), : int(entity.max()) + 1]
    losses = stacked_definition_losses(
        lean.parameters_of([model]), shape_of(model), tokens[None].to(device), entity[None].to(device),
        change=change,
    )  # fmt: skip
    found: np.ndarray = losses[0].double().cpu().numpy()
    return found
