"""Activation patching of ConvNets: by layer, by group of channels, and by where in the picture.

What is patched are the activations of a layer (`layers.1.hook_post`, after ReLU, or `hook_pre`, before the norm). A convolution's are maps, in which a
cell of the grid has its own region; a fully connected layer has one list of units, in which no cell has a place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.exchanged import ROUNDING, only_measured
from mechocl.interventions.metrics import GivenMetric, Metric, metric_of
from mechocl.interventions.other_examples import resampled
from mechocl.interventions.pairs import Pairs
from toy_models.convnet import HookedConvNet

GROUPS: Final = 8
"""Number of groups that the channels, or units, of a layer are patched in."""

SITES: Final = ("pre", "post")
"""Activations of a layer: before the norm, and after ReLU."""


def whole_layers(model: HookedConvNet) -> list[str]:
    """The sites that are patched where none is named: what each layer gives."""
    return [layer_hook(layer, "post") for layer in range(model.cfg.n_layers)]


@dataclass(frozen=True, slots=True)
class PatchedLayers:
    """What patches of a ConvNet did, of all pairs."""

    rows: pd.DataFrame
    """As `PatchingResult.rows`: `part` is channel group, unit group, or whole, and `position` a cell, tag, asked cell, other cells, or all."""
    per_pair: Float[Tensor, "patch pair"]
    exchanged: Bool[Tensor, "patch pair"]
    clean: float
    corrupted: float


@torch.no_grad()
def patch_layers(
    model: HookedConvNet,
    pairs: Pairs,
    *,
    sites: Sequence[str],
    metric: GivenMetric,
    by: str,
    mode: str,
    each_unit: bool,
    source_model: Any,
    batch_size: int,
    seed: int,
) -> PatchedLayers:
    """Patch each of the sites, one at a time. The arguments are those of `patching.patch_activations`.

    `by` position patches the region of one cell, or that of the tag; by role, the region of the cell that is asked about, those of all other cells,
    or that of the tag. A fully connected layer is patched whole. `each_unit` patches `GROUPS` groups of channels, or of units, one at a time.

    Raises MechoclError for a site that the model does not have, for pairs that are no pictures, for a metric that cannot judge them, and
    for values that are not finite.
    """
    chosen, origin = metric_of(metric), source_model or model
    if not isinstance(origin, HookedConvNet):
        raise MechoclError(
            f"a ConvNet is patched from a ConvNet, and source_model is a {type(origin).__name__}"
        )
    _check_pairs(model, pairs)
    chosen.check(pairs, model.cfg.d_vocab_out)
    keys = find_layers(model, sites)
    run = _Runs(model, origin, pairs, chosen, mode, batch_size, seed)
    rows, values, changed = [], [], []
    clean, corrupted = (float(chosen.pool(end, pairs)) for end in (run.clean, run.corrupted))
    base = corrupted if mode == "denoise" else clean
    for layer, site in keys:
        new, old = run.activations(layer_hook(layer, site))
        for part, index, channels in _parts(model, layer, old.shape[1], each_unit):
            for position, where in _places(model, layer, old, pairs, by):
                mask = where & channels.view(1, -1, *[1] * (old.ndim - 2))
                differs = _differs(new, old, mask)
                found = run.patched(layer_hook(layer, site), torch.where(mask, new, old))
                if not bool(found.isfinite().all()):
                    raise MechoclError(f"{chosen.name} of {pairs.name} is not finite: the model has diverged")
                pooled = float(only_measured(chosen.pool(found, pairs), differs.sum()))
                rows.append((layer, site, part, index, position, pooled, pooled - base, int(differs.sum())))
                values.append(found)
                changed.append(differs)
    columns = ["layer", "site", "part", "index", "position", "value", "effect", "exchanged"]
    table = pd.DataFrame(rows, columns=columns)
    return PatchedLayers(table, torch.stack(values), torch.stack(changed), clean, corrupted)


def _check_pairs(model: HookedConvNet, pairs: Pairs) -> None:
    cells, last = model.pictures.cells, len(model.pictures.pixels)
    images = torch.cat([pairs.clean[:, :cells], pairs.corrupted[:, :cells]]) - model.pictures.first_image
    if pairs.clean.shape[1] != 2 * cells + 1 or not bool(((images >= 0) & (images < last)).all()):
        raise MechoclError(
            f"{pairs.name}: its examples are no pictures of {cells} cells; use pairs of this run's task"
        )


def find_layers(model: HookedConvNet, names: Sequence[str]) -> list[tuple[int, str]]:
    """The pairs (layer, site) that the names mean, each of them once. A name is a site, in every layer (`post`), or a hook point.

    Raises MechoclError for a name that the model does not have.
    """
    return list(dict.fromkeys(key for name in names for key in _find(model, name)))


def layer_hook(layer: int, site: str) -> str:
    """Name of the hook point of a site: `layers.1.hook_post`."""
    return f"layers.{layer}.hook_{site}"


def _find(model: HookedConvNet, name: str) -> list[tuple[int, str]]:
    layers = range(model.cfg.n_layers)
    if name in SITES:
        return [(layer, name) for layer in layers]
    known = {layer_hook(layer, site): (layer, site) for layer in layers for site in SITES}
    if name not in known:
        raise MechoclError(
            f"the model has no site {name!r} that can be patched; its sites: {', '.join(SITES)}, in layers 0 to {layers[-1]}, or a hook point "
            "such as layers.0.hook_post"
        )
    return [known[name]]


def _parts(
    model: HookedConvNet, layer: int, n: int, each_unit: bool
) -> Iterator[tuple[str, int, Bool[Tensor, " channel"]]]:
    """Name, number and channels of what is patched at once."""
    if not each_unit:
        yield "whole", -1, torch.ones(n, dtype=torch.bool)
        return
    name = "channel group" if layer < model.n_convolutions else "unit group"
    for index, some in enumerate(torch.arange(n).tensor_split(min(GROUPS, n))):
        yield name, index, torch.isin(torch.arange(n), some)


def _places(
    model: HookedConvNet, layer: int, activation: Tensor, pairs: Pairs, by: str
) -> Iterator[tuple[str, Bool[Tensor, "pair ..."]]]:
    """Name and region of each place: a mask that fits the activation, of one row where it is the same in every pair."""
    if by == "all" or layer >= model.n_convolutions:
        yield "all", torch.ones(1, *[1] * (activation.ndim - 1), dtype=torch.bool)
        return
    cells, cell_at = model.pictures.cells, model.pictures.cell_at(*activation.shape[2:])
    yield "tag", (cell_at < 0)[None, None]
    if by == "position":
        for cell in range(cells):
            yield f"cell {cell}", (cell_at == cell)[None, None]
    else:
        asked = (cell_at == (pairs.read - cells - 1)[:, None, None])[:, None]
        yield "asked cell", asked
        yield "other cells", ~asked & (cell_at >= 0)


def _differs(new: Tensor, old: Tensor, mask: Tensor) -> Bool[Tensor, " pair"]:
    """Pairs in which what is put in differs from what was there by more than rounding."""
    size = torch.maximum(*(x.flatten(1).square().mean(1).sqrt() for x in (new, old)))
    change = ((new - old).abs() * mask).flatten(1).amax(1)
    return change > ROUNDING * size


class _Runs:
    """Forward passes of the pairs: unchanged, and with one activation replaced."""

    def __init__(
        self, into: HookedConvNet, origin: HookedConvNet, pairs: Pairs, metric: Metric, mode: str, batch_size: int, seed: int
    ) -> None:  # fmt: skip
        self._into, self._origin, self._pairs, self._metric, self._mode = into, origin, pairs, metric, mode
        self._batches = torch.split(torch.arange(len(pairs)), batch_size)
        self._others = resampled(torch.zeros_like(pairs.read), seed)
        denoise = mode == "denoise"
        self._base = pairs.corrupted if denoise else pairs.clean
        ends = (origin, pairs.clean, into, pairs.corrupted) if denoise else (into, pairs.clean, origin, pairs.corrupted)  # fmt: skip
        self._clean_logits = self._logits(ends[0], ends[1])
        self.clean = self._judged(self._clean_logits)
        self.corrupted = self._judged(self._logits(ends[2], ends[3]))

    def activations(self, hook: str) -> tuple[Tensor, Tensor]:
        """What is put in at a hook point, and what was there."""
        old = self._cached(self._into, self._base, hook)
        if self._mode == "zero":
            return torch.zeros_like(old), old
        new = self._cached(self._origin, self._pairs.corrupted if self._mode == "noise" else self._pairs.clean, hook)  # fmt: skip
        if self._mode == "mean":
            return new.mean(0, keepdim=True).expand_as(old), old
        return (new[self._others] if self._mode == "resample" else new), old

    def patched(self, hook: str, value: Tensor) -> Tensor:
        """The metric of each pair where this activation stands at a hook point."""
        return self._judged(self._logits(self._into, self._base, hook, value))

    def _logits(
        self, model: HookedConvNet, tokens: Tensor, hook: str = "", value: Tensor | None = None
    ) -> Float[Tensor, "pair token"]:
        found = []
        for rows in self._batches:
            hooks: list[Any] = []
            if value is not None:
                hooks = [(hook, lambda x, hook, new=value[rows]: new.to(x))]
            with model.hooks(hooks):
                logits = model(tokens[rows].to(model.W_U.device)).cpu()
            found.append(logits[torch.arange(len(rows)), self._pairs.read[rows]])
        return torch.cat(found)

    def _cached(self, model: HookedConvNet, tokens: Tensor, hook: str) -> Tensor:
        names = [hook]
        parts = [
            model.run_with_cache(tokens[rows].to(model.W_U.device), names_filter=names)[1][hook].cpu()
            for rows in self._batches
        ]
        return torch.cat(parts)

    def _judged(self, logits: Tensor) -> Float[Tensor, " pair"]:
        ids = self._metric.tokens(self._pairs)
        kept = slice(None) if ids is None else ids
        return self._metric.per_pair(logits[:, kept], self._pairs, self._clean_logits[:, kept])
