"""How the gradients of definitions and of questions are aligned: cosines and inner products, with and without corrections.

An inner product above 0 means that a small step of gradient descent on the definition lowers the loss of the questions,
and a cosine is the same without the sizes of the two gradients. Both are above 0 for reasons that have nothing to do with
the alias, so each stands beside its null: the mean of the same quantity between this definition and the questions of each
other alias of the subset. It is the exact mean over all pairs of different aliases, so nothing is drawn.
"""

import functools
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechocl.learning.layout import ALL, OWN, SHARED, Groups

CORRECTIONS: Final = ("raw", "centred", "preconditioned", "preconditioned, centred")
"""What is done to the gradients before they are compared.

- `raw`: nothing, as published.
- `centred`: each side minus its mean over the aliases that are compared, which is what all definitions, or all questions, ask for.
- `preconditioned`: the definition's gradient is what the optimiser would make of it (`preconditioning.scale_as_adam`), and the questions'
  gradient is left as it is. So the inner product is how much the questions' loss falls by that step, to first order and per unit of
  the learning rate. To scale both sides would compare two steps, of which only one is taken; and as the second moment of an
  alias's embedding comes from its definition alone, the questions' gradient divided by its root is large where the
  definition's happens to be small.
- `preconditioned, centred`: each side of that minus its mean. The other order would scale what is left of one definition by a root that
  belongs to the whole of it, which is small at random places.
"""

_AT_ONCE: Final = 1024
"""Weights that are compared at a time; few enough that what is made of their gradients stays in a processor's cache."""


@dataclass(frozen=True, slots=True)
class Products:
    """Inner products of definitions' and questions' gradients in some weights. Those of several groups of weights add up."""

    inner: Float[Tensor, "alias other"]
    """Of the definition of each alias (rows) with the questions of each alias (columns)."""
    definitions: Float[Tensor, " alias"]
    """Squared norms."""
    questions: Float[Tensor, " alias"]

    def __add__(self, other: "Products") -> "Products":
        return Products(
            self.inner + other.inner,
            self.definitions + other.definitions,
            self.questions + other.questions,
        )

    def values(self) -> dict[str, Float[Tensor, " alias"]]:
        """For each alias: cosine, inner product, their nulls, and the two norms.

        A cosine is NaN where a gradient is 0. A null is NaN for an alias that is alone, and leaves out others whose gradient is 0.
        """
        cosines = self.inner / (self.definitions.sqrt()[:, None] * self.questions.sqrt()[None])
        cosines[~cosines.isfinite()] = torch.nan  # 0 / 0
        others = ~torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
        return {
            "cosine": cosines.diagonal(),
            "inner": self.inner.diagonal(),
            "cosine_null": cosines.where(others, torch.nan).nanmean(1),
            "inner_null": self.inner.where(others, torch.nan).nanmean(1),
            "definition_norm": self.definitions.sqrt(),
            "question_norm": self.questions.sqrt(),
        }


def align(
    definitions: Groups, questions: Groups, scales: Groups, subsets: Mapping[str, Bool[Tensor, " alias"]]
) -> Iterator[tuple[str, str, str, dict[str, Float[Tensor, " alias"]]]]:
    """Group of weights, correction, subset, and the values (`Products.values`) of the subset's aliases.

    The groups are those of the gradients, then "all but alias embeddings" and "all". `subsets`: which of the aliases are in each.
    Means are over all aliases, nulls within a subset. Everything is summed in float64.
    """
    found: dict[str, dict[tuple[str, str], Products]] = {correction: {} for correction in CORRECTIONS}
    for group in definitions:
        weights = definitions[group].shape[1]
        sides = (definitions[group], questions[group], scales[group].expand(-1, weights))
        for part in zip(*(torch.split(side, _AT_ONCE, dim=1) for side in sides), strict=True):
            for correction, d, q in _corrected(*(side.double() for side in part)):
                for subset, members in subsets.items():
                    products = compare(d[members], q[members])
                    so_far = found[correction].get((group, subset))
                    found[correction][group, subset] = so_far + products if so_far else products
    for correction, parts in found.items():
        for (group, subset), products in parts.items():
            yield group, correction, subset, products.values()
        for whole, left_out in ((SHARED, OWN), (ALL, None)):
            for subset in subsets:
                some = [one for (group, of), one in parts.items() if of == subset and group != left_out]
                if some:
                    yield whole, correction, subset, functools.reduce(operator.add, some).values()


def _corrected(
    definitions: Float[Tensor, "alias weight"], questions: Float[Tensor, "alias weight"], scales: Tensor
) -> Iterator[tuple[str, Float[Tensor, "alias weight"], Float[Tensor, "alias weight"]]]:
    """Each correction, in the order of `CORRECTIONS`, and the gradients that it makes."""
    centred = questions - questions.mean(0)
    steps = definitions * scales
    sides = (
        (definitions, questions),
        (definitions - definitions.mean(0), centred),
        (steps, questions),
        (steps - steps.mean(0), centred),
    )
    yield from ((correction, *both) for correction, both in zip(CORRECTIONS, sides, strict=True))


def compare(definitions: Float[Tensor, "alias weight"], questions: Float[Tensor, "alias weight"]) -> Products:
    """Inner products of the two gradients of each alias, and of all pairs of aliases."""
    return Products(
        definitions @ questions.T,
        *(torch.linalg.vector_norm(g, dim=1).square() for g in (definitions, questions)),
    )
