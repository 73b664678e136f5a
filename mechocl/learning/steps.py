"""One step of an optimiser on the definition of one alias, for many aliases at once, and what it does to questions.

Each alias has weights of its own after its step. They are held for some aliases at a time (`Differentiable.at_once`).
`tests/learning/test_one_update.py` compares them with a loop over the aliases, whose steps torch's own optimiser takes.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import grad, vmap

from mechocl.learning.examples import Examples
from mechocl.learning.gradients import (
    Differentiable,
    as_places,
    logits_of_alias,
    loss_of_alias,
    mean_loss,
    split_weights,
)


@dataclass(frozen=True, slots=True)
class Scales:
    """What each number of a definition's gradient is multiplied with in a step: the learning rate, and what the optimiser does."""

    own: Float[Tensor, "alias slot d_model"]
    """In the rows of the alias's own name."""
    shared: dict[str, Tensor]
    """In each parameter that aliases share; of the embedding, the rows of other tokens."""

    def __getitem__(self, aliases: slice) -> "Scales":
        return Scales(self.own[aliases], self.shared)


@dataclass(frozen=True, slots=True)
class Step:
    """What is added to the weights, for each alias."""

    own: Float[Tensor, "alias slot d_model"]
    shared: dict[str, Tensor]
    """With a leading axis `alias`."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions that are asked: of each alias in its place, the same ones before and after a step."""

    examples: Examples
    names: Int[Tensor, "alias slot"]
    """The tokens of the alias that is asked about."""
    equals: Int[Tensor, "alias row"]
    """Position at which each question is answered."""

    def __getitem__(self, aliases: slice | Int[Tensor, " alias"]) -> "Questions":
        examples = Examples(self.examples.tokens[aliases], self.examples.loss_mask[aliases])
        return Questions(examples, self.names[aliases], self.equals[aliases])


@dataclass(frozen=True, slots=True)
class Answers:
    """What questions are answered."""

    loss: Float[Tensor, " alias"]
    """Mean loss of the questions (nats)."""
    logits: Float[Tensor, "alias row candidate"]
    """Logits of the tokens that compete as answers, where the answer is read."""


def gradient_of(of: Differentiable, examples: Examples, names: Int[Tensor, "alias slot"]) -> Step:
    """The gradient of each alias's loss in each place, tied weights in both. It points to where the loss grows."""
    constants, shared, rows = split_weights(of, names.to(of.device))
    each = vmap(grad(loss_of_alias(of.shape, constants), argnums=(0, 1)), in_dims=(0, None, 0, 0, 0))
    return Step(*each(rows, shared, *_inputs(of, examples, names)))


def step_against(
    of: Differentiable,
    gradient: Step,
    scales: Scales,
    names: Int[Tensor, "alias slot"],
    *,
    on: Int[Tensor, "alias slot"] | None = None,
) -> Step:
    """The step that is taken against a gradient. Tied weights are one weight, so both places move by the sum of their gradients.

    `names` are those of the aliases whose gradients these are, and `on` those of the aliases whose rows are moved; by
    default they are the same.
    """
    at = names.to(of.device)
    own, shared = of.layout.fold(gradient.own, gradient.shared, at)
    own = -scales.own * own
    shared = {name: -scales.shared[name] * value for name, value in shared.items()}
    return Step(own, of.layout.unfold(own, shared, at if on is None else on.to(of.device)))


def predict_change(gradient: Step, step: Step) -> Float[Tensor, " alias"]:
    """By how much a step changes a loss with this gradient, to first order: their inner product, summed in float64."""
    total = (gradient.own.double() * step.own.double()).flatten(1).sum(1)
    for name, value in step.shared.items():
        total = total + (gradient.shared[name].double() * value.double()).flatten(1).sum(1)
    return total


def ask(
    of: Differentiable, questions: Questions, ids: Int[Tensor, " candidate"], *, step: Step | None = None
) -> Answers:
    """Ask each alias's questions of the model, or of the model after each alias's step."""
    constants, shared, rows = split_weights(of, questions.names.to(of.device))
    forward = logits_of_alias(of.shape, constants)
    candidates = ids.to(of.device)

    def answer(
        own: Tensor, weights: dict[str, Tensor], inputs: Tensor, targets: Tensor, mask: Tensor, equals: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = forward(own, weights, inputs)
        read = logits.gather(1, equals[:, None, None].expand(-1, 1, logits.shape[2]))[:, 0]
        return mean_loss(logits, targets, mask), read[:, candidates]

    moved = shared if step is None else {name: shared[name] + value for name, value in step.shared.items()}
    rows = rows if step is None else rows + step.own
    given = (*_inputs(of, questions.examples, questions.names), questions.equals.to(of.device))
    with torch.no_grad():
        in_dims = (0, None if step is None else 0, 0, 0, 0, 0)
        return Answers(*vmap(answer, in_dims=in_dims)(rows, moved, *given))


def _inputs(
    of: Differentiable, examples: Examples, names: Int[Tensor, "alias slot"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs as places in the embeddings, targets, and where the loss is."""
    tokens = examples.tokens.to(of.device)
    inputs = as_places(of.layout, tokens[:, :, :-1], names.to(of.device))
    return inputs, tokens[:, :, 1:], examples.loss_mask[:, :, :-1].to(of.device)
