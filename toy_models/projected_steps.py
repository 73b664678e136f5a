"""Steps on the embeddings of new aliases, projected onto the subspace of the questions' gradients or away from it.

The gradient of the loss of an alias's questions with respect to the alias's own embedding says in which direction that embedding
would have to move for the questions to be answered better. The *question subspace* of a model is spanned by these gradients of all
aliases that are asked about in the training data of stage 1, before the stage begins: by as few principal directions (without centring) as hold
`SHARE` of their squared length. No question about a new alias has a part in it.

What is projected is what the optimiser adds to the embedding, and not the gradient. Adam divides each number of a gradient by a
size of its own, so a projected gradient would not stay in its subspace. All other weights learn from every definition as ever.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from toy_models.forward import Forward
from toy_models.frozen import EMBEDDING, find_alias_names
from toy_models.losses import token_losses
from toy_models.randomness import generator
from toy_models.stages import StageConfig
from toy_models.task import ROLE, Task

SHARE: Final = 0.95
"""Share of the squared length of the gradients that the question subspace holds."""

_AT_ONCE: Final = 2048
"""Number of questions in a forward pass, which bounds the memory that it needs."""


class ProjectedRows:
    """Rows of the stacked token embeddings that move in a subspace of each model's own."""

    def __init__(
        self,
        embeddings: Float[Tensor, "model d_vocab d_model"],
        rows: Bool[Tensor, "model d_vocab"],
        projections: Float[Tensor, "model d_model d_model"],
    ) -> None:
        self.embeddings, self.projections = embeddings.detach(), projections
        self.model, self.row = rows.nonzero(as_tuple=True)

    def project(self, before: Float[Tensor, "model d_vocab d_model"]) -> None:
        """Replace what a step has added to the rows since `before` by its projection."""
        old = before[self.model, self.row]
        step = self.embeddings[self.model, self.row] - old
        for index, projection in enumerate(self.projections):
            own = self.model == index
            step[own] = step[own] @ projection
        self.embeddings[self.model, self.row] = old + step


def find_projected_rows(task: Task, stage: StageConfig) -> Bool[Tensor, "d_vocab"]:
    """Which rows of the token embedding a stage moves in a subspace: the names of the new aliases that are defined, with tag 2 or with any.

    Raises ValueError when there are none, or no questions in the training data of stage 1, and when a name of an alias is not one token.
    """
    rows = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    if stage.alias_step == "whole":
        return rows
    names = find_alias_names(task)
    tags = {"tag": 2} if stage.alias_step_of == "tag_2" else {}
    at = torch.from_numpy(task.rows(kind="definition", split="train", stage=2, **tags))
    if len(at) == 0:
        raise ValueError("no new alias is defined with such a tag; give d2 a share in task.fractions")
    if not len(_asked(task)):
        raise ValueError(
            "there are no questions in the training data of stage 1; give qd1 a share in task.fractions"
        )
    is_alias = task.roles == ROLE["alias"]
    if not (is_alias[at].sum(1) == 1).all() or not names[task.tokens[at][is_alias[at]]].all():
        raise ValueError(
            "single aliases move in a subspace only if each is one token; use tokens_per_alias 1"
        )
    rows[task.tokens[at][is_alias[at]]] = True
    return rows


def find_projections(
    parameters: Mapping[str, Tensor],
    shape: Forward,
    tasks: Sequence[Task],
    stage: StageConfig,
    *,
    seeds: Sequence[int],
) -> Float[Tensor, "model d_model d_model"]:
    """The projections of a stage that begins with these parameters, of each model. Each is symmetric.

    A random subspace has as many dimensions as the model's question subspace, and depends on its seed. A model that has diverged has no
    subspace; its projection is the identity.
    """
    found = []
    for index, (task, seed) in enumerate(zip(tasks, seeds, strict=True)):
        own = {k: v if "rotary" in k else v[index : index + 1].detach() for k, v in parameters.items()}
        gradients = question_gradients(own, shape, task)
        if not gradients.isfinite().all():
            found.append(torch.eye(gradients.shape[1], device=gradients.device, dtype=gradients.dtype))
            continue
        directions = find_directions(gradients)
        if stage.alias_step.endswith("random"):
            drawn = torch.randn(directions.shape, generator=generator(seed, "random directions"))
            directions = torch.linalg.qr(drawn).Q.to(directions)
        onto = directions @ directions.mT
        away = torch.eye(len(onto), device=onto.device, dtype=onto.dtype) - onto
        found.append(onto if stage.alias_step.startswith("onto") else away)
    return torch.stack(found)


def find_directions(
    gradients: Float[Tensor, "alias d_model"], share: float = SHARE
) -> Float[Tensor, "d_model direction"]:
    """As few principal directions (without centring) as hold a share of the squared length, as orthonormal columns."""
    _, sizes, directions = torch.linalg.svd(gradients.double(), full_matrices=False)
    held = sizes.square().cumsum(0)
    count = int((held < share * held[-1]).sum()) + 1
    kept: Tensor = directions[:count].mT.to(gradients.dtype)
    return kept


def question_gradients(
    parameters: Mapping[str, Tensor], shape: Forward, task: Task
) -> Float[Tensor, "alias d_model"]:
    """For each alias that is asked about in the training data of stage 1, the gradient with respect to its embedding of its questions' loss.

    The loss is the sum over the positions where the recipe has loss. `parameters` are those of one model, with the leading axis. Aliases
    are in the order of their tokens. If the unembedding is tied, it is the gradient with respect to the row as it is read, not as it predicts.
    """
    embedding = parameters[EMBEDDING].detach().clone().requires_grad_()
    rows = _asked(task)
    total = torch.zeros_like(embedding)
    for some in torch.split(rows, _AT_ONCE):
        tokens = task.tokens[some][None].to(embedding.device)
        mask = task.loss_mask[some][None, :, : tokens.shape[2] - 1].to(embedding.device)
        most = int(mask.sum(2).max())
        loss = token_losses({**parameters, EMBEDDING: embedding}, shape, tokens, mask, most=most) * mask.sum()
        total += torch.autograd.grad(loss.sum(), embedding)[0]
    asked = torch.unique(task.tokens[rows][task.roles[rows] == ROLE["alias"]])
    return total[0, asked[find_alias_names(task)[asked]].to(total.device)]


def _asked(task: Task) -> Tensor:
    """The training questions of stage 1."""
    return torch.from_numpy(task.rows(kind="question", split="train", stage=1))
