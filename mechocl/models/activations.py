"""Activations of a model at chosen hook points, computed in batches."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer, device_of, refuse_half_precision


@torch.no_grad()
def collect(
    model: Transformer, tokens: Int[Tensor, "example pos"], sites: Sequence[str], *, batch_size: int = 1024
) -> dict[str, Tensor]:
    """Activations at the named hook points, on the CPU: site → tensor with `example` as its first axis.

    Only these activations are kept. Raises MechoclError for a hook point that the model does not have, and for a model in
    half precision.
    """
    refuse_half_precision(model)
    for site in sites:
        if site not in model.hook_dict:
            raise MechoclError(f"the model has no hook point {site!r}")
    parts: dict[str, list[Tensor]] = {site: [] for site in sites}
    for batch in torch.split(tokens, batch_size):
        _, cache = model.run_with_cache(
            batch.to(device_of(model)), names_filter=list(sites), return_type=None
        )
        for site in sites:
            parts[site].append(cache[site].cpu())
    return {site: torch.cat(batches) for site, batches in parts.items()}
