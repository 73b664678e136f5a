"""How the optimiser scales a gradient before it moves the weights: by the root of the second moment that Adam would hold.

Runs do not keep the state of the optimiser. So the second moment is estimated from the weights of one checkpoint: it is the mean
of the squared gradients of the stage's batches, one epoch of them. Adam's own is a mean over the past steps, when weights were others.
"""

import math
from collections.abc import Iterator
from typing import Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.closed_book.stages import FinetuneStage
from mechocl.learning.course import Stage, stage_rows
from mechocl.learning.examples import write_with_tag
from mechocl.learning.gradients import Differentiable
from mechocl.learning.layout import Groups
from toy_models import lean
from toy_models.frozen import EMBEDDING, find_trained_rows, name_trained_parameters
from toy_models.losses import token_losses
from toy_models.randomness import generator

EPSILON: Final = 1e-8
"""What Adam adds to the root of the second moment."""

_UNEMBEDDING: Final = "unembed.W_U"


def scale_as_adam(
    of: Differentiable, settings: Stage, names: Int[Tensor, "alias slot"], *, tag: int | None, seed: int
) -> Groups:
    """What each number of a gradient is multiplied with in a step of a stage, in units of its learning rate.

    It is 1 / (√v + 1e-8), where v is the mean over the stage's batches of their squared gradients (nats per unit of the weight,
    squared); times `embedding_rate` in the token embeddings; and 0 for what the stage does not train. `tag`: the definitions of
    stage 2 are written with it; None leaves them as they are. `seed` decides which examples are in a batch together.
    Where a stage of fine-tuning moves the embeddings of tokens in a batch alone, it is 0 for tokens that stand in none of its examples.
    Momentum, weight decay, clipping and replayed texts are left out, and stages of other optimisers are scaled as Adam would.
    """
    own, shared = adam_scales(of, settings, names, tag=tag, seed=seed)
    return of.layout.split(own, {name: value[None] for name, value in shared.items()})


def adam_scales(
    of: Differentiable, settings: Stage, names: Int[Tensor, "alias slot"], *, tag: int | None, seed: int
) -> tuple[Float[Tensor, "alias slot d_model"], dict[str, Tensor]]:
    """The same for the aliases' own rows, and for each parameter that they share; of the embedding, the rows of other tokens."""
    squares = _mean_squares(of, settings, tag=tag, seed=seed)
    weights = {name: p for name, p in of.model.named_parameters() if name in of.layout.trained}
    scales = {
        name: 1 / (squares[name].sqrt() + EPSILON)
        if name in squares
        else torch.zeros_like(p, requires_grad=False)
        for name, p in weights.items()
    }
    rows = find_trained_rows(of.task, settings.trains)
    if isinstance(settings, FinetuneStage) and settings.embedding_rows == "in_batch":
        rows = rows & _in_examples(of, settings, tag)
    rows = rows.to(of.device)
    scales[EMBEDDING] = scales[EMBEDDING] * rows[:, None] * settings.embedding_rate
    if of.layout.tied:  # its columns are the rows of the embedding
        scales[_UNEMBEDDING] = scales[EMBEDDING][: of.layout.outputs].T
    else:
        scales[_UNEMBEDDING] = scales[_UNEMBEDDING] * settings.unembedding_rate
    own = scales[EMBEDDING][names.to(of.device)]
    scales[EMBEDDING] = scales[EMBEDDING][of.layout.others]
    return own, scales


def _mean_squares(of: Differentiable, settings: Stage, *, tag: int | None, seed: int) -> dict[str, Tensor]:
    """Mean over the batches of an epoch of the squared gradient of each parameter that the stage trains."""
    names = set(name_trained_parameters(of.model, settings.trains))
    if of.layout.tied:  # it is not a parameter of its own, also where a model holds it as one
        names.discard(_UNEMBEDDING)
    leaves = {
        name: p.detach()[None].requires_grad_() for name, p in of.model.named_parameters() if name in names
    }
    parameters = lean.parameters_of([of.model]) | leaves
    if of.layout.tied:
        parameters[_UNEMBEDDING] = parameters[EMBEDDING][:, : of.layout.outputs].mT
    total = {name: torch.zeros_like(leaf[0], requires_grad=False) for name, leaf in leaves.items()}
    count = 0
    for tokens, mask in _batches(of, settings, tag=tag, seed=seed):
        most = int(mask.sum(1).max())
        losses = token_losses(parameters, of.shape, tokens[None], mask[None, :, :-1], most=most)
        for name, gradient in zip(
            leaves, torch.autograd.grad(losses.sum(), list(leaves.values())), strict=True
        ):
            total[name] += gradient[0].square()
        count += 1
    return {name: value / count for name, value in total.items()}


def _in_examples(of: Differentiable, settings: Stage, tag: int | None) -> Bool[Tensor, "d_vocab"]:
    """Which tokens stand in an example that the stage trains on."""
    task = of.trained if tag is None else write_with_tag(of.trained, tag)
    found = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    found[task.tokens[torch.from_numpy(stage_rows(task, settings))]] = True
    return found


def _batches(
    of: Differentiable, settings: Stage, *, tag: int | None, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Tokens and loss mask of the batches of an epoch of the stage."""
    task = of.trained if tag is None else write_with_tag(of.trained, tag)
    rows = torch.from_numpy(stage_rows(task, settings))
    order = rows[torch.randperm(len(rows), generator=generator(seed, "second moments", settings.data))]
    for chosen in order.chunk(math.ceil(len(order) / settings.batch_size)):
        yield task.tokens[chosen].to(of.device), task.loss_mask[chosen].to(of.device)
