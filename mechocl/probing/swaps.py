"""Does the model use what a probe reads? Only the part of an activation along the probe's direction is swapped."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechocl.interventions.metrics import METRICS, SMALLEST_DIFFERENCE
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.subspaces import Place, interchange, measured
from mechocl.models.components import Components

METRIC = "logit_difference"


@torch.no_grad()
def swap_effects(
    c: Components,
    pairs: Pairs,
    places: Sequence[Place],
    directions: Float[Tensor, "place draw d_model"],
) -> tuple[Float[Tensor, "place draw"], Float[Tensor, "place draw"]]:
    """What an interchange intervention along each direction does to the answers of the corrupted run.

    The corrupted run's activation h gets the clean run's component, h + u uᵀ (h_clean − h).

    Args:
        c: the model, taken apart.
        pairs: clean and corrupted questions that differ in what the probe reads.
        places: sites in the residual stream.
        directions: unit vectors u at each place.

    Returns:
        The change of the mean logit difference, in nats, positive towards the clean run's answer; and this change as
        a share of clean − corrupted, which is NaN where the two hardly differ. Both are NaN (not measured) where the component
        is the same in both runs of every pair.
    """
    effects, shares = [], []
    for place, along in zip(places, directions, strict=True):
        runs = interchange(c, pairs, place, tokens=METRICS[METRIC].tokens(pairs))
        u = along.to(runs.difference)
        component = runs.difference @ u.T  # pair, draw
        change = component.T[:, :, None] * u[:, None]
        found = measured(runs, change, runs.logits(change), metric=METRIC)
        gap = found[0].clean - found[0].corrupted
        effect = torch.tensor([one.effect for one in found])
        effects.append(effect)
        shares.append(effect / gap if abs(gap) >= SMALLEST_DIFFERENCE else torch.full_like(effect, torch.nan))
    return torch.stack(effects), torch.stack(shares)
