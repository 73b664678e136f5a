"""Attribution patching: what patching would do, to first order, for every site in two forward and one backward pass.

The estimate is (new − base activation) · gradient of the metric at the base run (Nanda 2023; Kramár et al. 2024,
arXiv 2403.00745). It is exact where the model is linear in the site; elsewhere compare it with `patching`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.exchanged import differing_units, pairs_with_exchange
from mechocl.interventions.metrics import GivenMetric, Metric, check_pairs, metric_of
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.patched_runs import SiteKey
from mechocl.interventions.patching import By, Cells, PatchingResult, place_masks, result_of, source_in_words
from mechocl.models import forward
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer
from mechocl.models.sites import find_sites, sites_of


def attribute_activations(
    model: Transformer,
    pairs: Pairs,
    *,
    sites: Sequence[str],
    metric: GivenMetric = "logit_difference",
    by: By = "position",
    mode: Literal["denoise", "noise"] = "denoise",
    batch_size: int = 256,
) -> PatchingResult:
    """Estimate what `patch_activations` gives with the same arguments, for heads and neurons one at a time.

    Effects are (new − base) · gradient, in the metric's unit, with the same sign as patching. Raises
    MechoclError where `patch_activations` does, and for a metric without a gradient.
    """
    chosen = metric_of(metric)
    chosen.check_gradient()
    if mode not in ("denoise", "noise"):
        raise MechoclError(f"mode is {mode!r}; use denoise or noise")
    if batch_size < 1:
        raise MechoclError(f"batch_size is {batch_size}; use at least 1")
    c = take_apart(model)
    check_pairs(pairs, chosen, c)
    keys, groups = find_sites(c, sites), place_masks(pairs, by)
    if not keys:
        raise MechoclError(f"no site is named; the model has {', '.join(sites_of(c))}")
    parts: Cells = {(key, name): [] for key in keys for name in groups}
    ends: list[tuple[Tensor, Tensor]] = []
    for rows in torch.split(torch.arange(len(pairs)), batch_size):
        chunk = pairs[rows]
        found, differing, clean, corrupted = _products(c, chunk, keys, chosen, mode)
        base = corrupted if mode == "denoise" else clean
        ends.append((clean, corrupted))
        for key, name in parts:
            where = groups[name][rows]
            estimate = base + _summed(found[key], key[1], where)
            parts[key, name].append((estimate, pairs_with_exchange(differing[key], where, chunk.read)))
    whole = [float(chosen.pool(torch.cat(part), pairs)) for part in zip(*ends, strict=True)]
    return result_of(c, parts, chosen, pairs, mode, source_in_words(mode, pairs), whole[0], whole[1])


def _products(
    c: Components, pairs: Pairs, keys: list[SiteKey], metric: Metric, mode: str
) -> tuple[dict[SiteKey, Tensor], dict[SiteKey, Tensor], Float[Tensor, "pair"], Float[Tensor, "pair"]]:
    """(new − base) · gradient of each element at each site, where new and base differ, and the metric of both runs."""
    ids = metric.tokens(pairs)
    at = torch.arange(len(pairs))
    kept: dict[str, dict[SiteKey, Tensor]] = {"clean": {}, "corrupted": {}}
    logits = {}
    for name, tokens in (("clean", pairs.clean), ("corrupted", pairs.corrupted)):

        def record(layer: int, site: str, x: Tensor, name: str = name) -> Tensor:
            if (layer, site) in keys:
                kept[name][layer, site] = x
            return x

        with torch.no_grad():
            logits[name] = c.logits(forward.forward(c, tokens, tap=record)[at, pairs.read], ids)
    base, new = ("corrupted", "clean") if mode == "denoise" else ("clean", "corrupted")
    leaves: dict[SiteKey, Tensor] = {}

    def perturb(layer: int, site: str, x: Tensor) -> Tensor:
        if (layer, site) in keys:
            leaves[layer, site] = torch.zeros_like(x, requires_grad=True)
            return x + leaves[layer, site]
        return x

    with torch.enable_grad():
        end = forward.forward(c, getattr(pairs, base), tap=perturb)[at, pairs.read]
        value = metric.values_with_gradient(c.logits(end, ids), pairs, logits["clean"]).sum()
        gradients = torch.autograd.grad(value, [leaves[key] for key in keys], allow_unused=True)
    products = {
        key: torch.zeros_like(leaves[key]) if g is None else (kept[new][key] - kept[base][key]) * g
        for key, g in zip(keys, gradients, strict=True)
    }
    values = [metric.per_pair(logits[name], pairs, logits["clean"]).cpu() for name in ("clean", "corrupted")]
    differing = {key: differing_units(kept[new][key], kept[base][key], key[1]) for key in keys}
    return products, differing, values[0], values[1]


def _summed(product: Tensor, site: str, where: Bool[Tensor, "pair pos"]) -> Float[Tensor, "unit pair"]:
    """Sum over the masked positions, for each head or neuron separately."""
    if site == "pattern":
        per_unit = reduce(product, "pair head query key -> pair query head", "sum")
    elif product.ndim == 4:
        per_unit = reduce(product, "pair pos head d_head -> pair pos head", "sum")
    else:
        per_unit = product if site == "mlp_post" else reduce(product, "pair pos d_model -> pair pos 1", "sum")
    masked = (per_unit * where.to(product.device)[..., None]).sum(1)
    return rearrange(masked, "pair unit -> unit pair").detach().cpu()
