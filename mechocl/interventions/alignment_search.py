"""Distributed alignment search learns the subspace whose swap gives the clean run's answer.

Geiger et al. 2023 (arXiv 2303.02536). An orthonormal basis is fitted by gradient descent, through the rest of
the model, so that the corrupted run with the clean run's component in the subspace answers as the clean run does.

A search finds something in any model, so it needs its controls: `shuffled` here, and an untrained model.
"""

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from mechocl.errors import MechoclError
from mechocl.interventions.metrics import METRICS
from mechocl.interventions.subspaces import Interchange
from toy_models.randomness import generator

LEARNING_RATE: Final = 0.1
BATCH: Final = 64
"""Pairs in each step."""


class _Rotations(nn.Module):
    """Orthonormal columns, several sets of them side by side, from a random start."""

    def __init__(self, start: Float[Tensor, "fit d_model k"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linalg.qr(start).Q)


def fit_rotations(
    runs: Interchange, *, ks: Sequence[int], steps: int, seed: int, shuffled: bool = False
) -> list[Float[Tensor, "d_model k"]]:
    """An orthonormal basis of each of the given dimensions, all fitted at once by Adam.

    The loss is the Kullback–Leibler divergence of the changed run from the clean one, over the target and the
    foil, on `BATCH` pairs in each step. `shuffled` is the control: each pair is asked for the answer of another
    pair's clean run, which is drawn once. (It would be no control to shuffle the activations that are put in:
    where clean and corrupted answers always differ, any disturbance is then an improvement, and where all these
    activations have the same tag, the tag remains.)

    Raises MechoclError for a dimension that does not fit, and for pairs without a foil.
    """
    width = runs.clean.shape[1]
    if not ks or min(ks) < 1 or max(ks) > width:
        raise MechoclError(f"rotations of {list(ks)} dimensions do not fit; use 1 to {width}")
    METRICS["logit_difference"].check(runs.pairs, runs.components.W_U.shape[1])
    draws = generator(seed, "rotation")
    rotations = _Rotations(torch.randn(len(ks), width, max(ks), generator=draws).to(runs.clean))
    used = (torch.arange(max(ks)) < torch.tensor(ks)[:, None])[:, None].to(runs.clean)
    answers = runs.clean_logits
    if shuffled:
        answers = answers[torch.randperm(len(answers), generator=draws).to(answers.device)]
    probability = _difference(runs, answers[None]).sigmoid()[0]
    batches = [
        (runs[chosen], probability[chosen.to(probability.device)])
        for chosen in torch.split(torch.randperm(len(probability), generator=draws), BATCH)
    ]
    with torch.enable_grad():
        # with trivialization, the default, it would draw from torch's global generator
        orthogonal(rotations, orthogonal_map="householder", use_trivialization=False)
        adam = torch.optim.Adam(rotations.parameters(), lr=LEARNING_RATE)
        for step in range(steps):
            batch, wanted = batches[step % len(batches)]
            basis = rotations.weight * used
            found = _difference(batch, batch.logits(batch.difference @ basis @ basis.mT))
            adam.zero_grad()
            loss = F.binary_cross_entropy_with_logits(found, wanted.expand_as(found))
            torch.autograd.backward(loss)
            adam.step()
    return [basis[:, :k] for basis, k in zip(rotations.weight.detach(), ks, strict=True)]


def _difference(runs: Interchange, logits: Float[Tensor, "fit pair token"]) -> Float[Tensor, "fit pair"]:
    """Logit of the target minus that of the foil; its sigmoid is the target's probability among the two."""
    return METRICS["logit_difference"].per_pair(logits, runs.pairs, runs.clean_logits)
