"""Activation patching: put an activation of one run into another, and see what it does to the answer.

Meng et al. 2022 (arXiv 2202.05262); conventions of Heimersheim & Nanda (arXiv 2404.15255). One mechanism
serves denoising, noising and ablations, at every site of `sites.SITES`, between two examples or between
two models. A patch costs only what it changes: the forward pass begins at the patched layer and position, on
the cached run; many patches share a pass, and logits are computed where the metric looks. In the first layer that
reads the patch, the rows after it keep their queries (and their MLPs, where these read beside attention); in
the last layer only the rows are computed that an answer is read from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.interventions import picture_patching
from mechocl.interventions.exchanged import only_measured
from mechocl.interventions.metrics import (
    GivenMetric,
    Metric,
    check_pairs,
    metric_named,
    metric_of,
    normalised,
)
from mechocl.interventions.named_pairs import contrast_names, pairs_named
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.interventions.patched_runs import Mode, PatchedRuns, SiteKey
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer
from mechocl.models.sites import find_sites, hook_name, sites_of, unit_of
from mechocl.shares import in_shares
from toy_models.convnet import HookedConvNet
from toy_models.shown import Shown
from toy_models.task import Task

By = Literal["position", "role", "all"]
"""What is patched at once: one position; all positions of one role; the whole site."""

Cells = dict[tuple[SiteKey, str], list[tuple[Tensor, Tensor]]]
"""Site and place → for each chunk of the pairs, the metric by unit and pair, and where something was exchanged."""


@dataclass(frozen=True, slots=True)
class PatchingResult:
    """Effects of patches, one row each."""

    rows: pd.DataFrame
    """`layer`, `site`, `part` (head, key/value head, neuron, or whole: what is patched at once), `index` (its number; −1: all), `position` (label, role or "all"), `value` (the metric
    of the patched run), `effect` (value − base), `exchanged` (number of pairs in which the patch put in something else than
    was there; where it is 0, value and effect are NaN: not measured)."""
    per_pair: Float[np.ndarray, "patch pair"]
    """The metric's value of each pair (before pooling), in the order of the rows. Where nothing was exchanged in a pair, it is
    the base run's."""
    exchanged: Bool[np.ndarray, "patch pair"]
    """Whether something was exchanged in each pair, in the order of the rows."""
    clean: float
    """The metric of the clean run."""
    corrupted: float
    """The metric of the corrupted run."""
    metric: str
    unit: str
    """The metric's unit."""
    pairs: str
    n_pairs: int
    mode: str
    source: str
    """Where the activations that are put in come from, in words; of a mean, over which rows and how many."""

    def __repr__(self) -> str:
        return (
            f"PatchingResult({self.pairs}, {self.n_pairs} pairs, {self.mode}, {len(self.rows)} patches at "
            f"{', '.join(dict.fromkeys(self.rows['site']))}; {self.metric} of clean {self.clean:+.2f}, of corrupted {self.corrupted:+.2f} {self.unit})"
        )

    def _repr_html_(self) -> str:
        largest = self.rows.loc[self.rows["effect"].abs().sort_values(ascending=False).index]
        shown = Shown(
            title=repr(self), facts=(f"put in: {self.source}",), tables=(("The largest effects:", largest.head(10)),)
        )  # fmt: skip
        return shown._repr_html_()

    def plot(self, *, value: Literal["effect", "normalised"] = "effect") -> Any:
        """The plotly figure of the effects, in the metric's unit or normalised (`mechocl.plots.patching`)."""
        import mechocl

        return mechocl.plots.patching(self, value=value)

    def normalised(self) -> pd.DataFrame:
        """`rows` with a column `normalised`: 0 is the corrupted run, 1 the clean one.

        Raises MechoclError when the two hardly differ.
        """
        ends = {"clean": self.clean, "corrupted": self.corrupted}
        return self.rows.assign(normalised=[normalised(float(v), **ends) for v in self.rows["value"]])

    def table(self) -> pd.DataFrame:
        """`rows` with the unpatched runs beside them; `normalised` is NaN where clean and corrupted hardly differ."""
        try:
            rows = self.normalised()
        except MechoclError:
            rows = self.rows.assign(normalised=float("nan"))
        return rows.assign(
            clean=self.clean, corrupted=self.corrupted, metric=self.metric, unit=self.unit,
            contrast=self.pairs, mode=self.mode, source=self.source, pairs=self.n_pairs,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchingConfig:
    """What is patched into what."""

    pairs: tuple[str, ...] = ("d1-to-d2", "d1-to-other-d2")
    """Clean/corrupted pairs, by name (`interventions.pairs`), or a CSV file."""
    n_pairs: int = 200
    """Pairs of each name; of a CSV file, the first ones."""
    site: tuple[str, ...] = ()
    """Sites (in every layer) or hook points; none: the residual stream, and what attention and MLPs write."""
    by: By = "position"
    """What is patched at once: one position, all positions of a role, or the whole site."""
    mode: Mode = "denoise"
    """denoise: clean into corrupted; noise: corrupted into clean; zero, mean, resample: into clean."""
    metric: str = "logit_difference"
    """Name of a metric (`metrics`)."""
    each_unit: bool = True
    """Patch heads and neurons (of a ConvNet whose sites are named, groups of channels) one at a time, or all of a site together."""
    from_stage: int | None = None
    """Take the activations from the model after this stage of training, on the same examples."""
    seed: int = 0
    """Draws the pairs."""

    def __post_init__(self) -> None:
        settle(self)
        contrast_names(self.pairs)
        if self.n_pairs < 1:
            raise MechoclError(f"n_pairs is {self.n_pairs}; use at least 1")
        if self.from_stage is not None and self.from_stage < 1:
            raise MechoclError(f"from_stage is {self.from_stage}; stages count from 1")
        metric_named(self.metric)

    @property
    def most_pairs(self) -> int:
        """Largest number of pairs of each name that are used."""
        return self.n_pairs


def patch(
    model: Transformer, task: Task, config: PatchingConfig, *, source_model: Transformer | None = None
) -> pd.DataFrame:
    """`PatchingResult.table` of each of the config's contrasts."""
    sites = config.site or stream_sites(model)
    all_pairs = {
        contrast: pairs_named(task, name, n_pairs=config.n_pairs, seed=config.seed)
        for name, contrast in zip(config.pairs, contrast_names(config.pairs), strict=True)
    }
    return pd.concat(
        [
            patch_activations(
                model,
                replace(pairs, name=contrast)
                if contrast not in config.pairs or contrast.lower().endswith(".csv")
                else pairs,
                sites=sites,
                metric=config.metric,
                by=config.by,
                mode=config.mode,
                each_unit=config.each_unit and not (isinstance(model, HookedConvNet) and not config.site),
                source_model=source_model,
                seed=config.seed,
            ).table()
            for contrast, pairs in in_shares(list(all_pairs.items()))
        ],
        ignore_index=True,
    )


def stream_sites(model: Transformer) -> list[str]:
    """Sites of the residual stream without repetitions, and of what is written into it; of a ConvNet, what its layers give."""
    if isinstance(model, HookedConvNet):
        return picture_patching.whole_layers(model)
    present = sites_of(take_apart(model))
    wanted = ("attn_out", "resid_mid", "mlp_out", "resid_post")
    return [hook_name("resid_pre", 0), *(site for site in wanted if site in present)]


@torch.no_grad()
def patch_activations(
    model: Transformer,
    pairs: Pairs,
    *,
    sites: Sequence[str],
    metric: GivenMetric = "logit_difference",
    by: By = "position",
    mode: Mode = "denoise",
    each_unit: bool = True,
    source_model: Transformer | None = None,
    batch_size: int = 1024,
    seed: int = 0,
) -> PatchingResult:
    """Patch every layer, position (or role) and head (or neuron) of the given sites, one at a time.

    Args:
        model: the model whose answers are looked at.
        pairs: clean and corrupted examples.
        sites: names from `sites.SITES` (in every layer), or hook points (`blocks.1.attn.hook_z`).
        metric: name from `metrics.METRICS`, or your own: see `metrics.metric_of`.
        by: what is patched at once. A pair that lacks a role counts with an effect of 0.
        mode: what is put where.
        each_unit: patch the heads (at k and v, the key/value heads) and neurons of a site one at a time, or all together.
        source_model: model that the activations come from, if it is another one, such as another checkpoint.
            The clean run is then the run of `source_model` on the clean examples, and the corrupted run is that
            of `model` on the corrupted examples (in all other modes the models are exchanged).
        batch_size: examples in one forward pass; it limits the memory, however large the grid is.
        seed: draws the partners of `resample`.

    A ConvNet is patched by `picture_patching.patch_layers`, which has other sites, places and units. Effects are patched − base, in the metric's unit. The base is the corrupted
    run in `denoise`, and the clean run in all other modes; so what carries the answer is positive in `denoise` and negative in the other modes. A patch that puts in what was there
    in every pair is not measured: its value and effect are NaN. Raises MechoclError for an unknown site, layer, metric or mode, for a metric that looks at a token without a
    logit, and for activations that are not finite.
    """
    _check_choices(mode, by, batch_size)
    chosen = metric_of(metric)
    if isinstance(model, HookedConvNet):
        return _patch_layers(model, pairs, metric=chosen, mode=mode, seed=seed, sites=sites, by=by, each_unit=each_unit, source_model=source_model, batch_size=batch_size)  # fmt: skip
    into = take_apart(model)
    origin = into if source_model is None else take_apart(source_model)
    for one in (into, origin):
        check_pairs(pairs, chosen, one)
    keys = find_sites(into, sites)
    if not keys:
        raise MechoclError(f"no site is named; the model has {', '.join(sites_of(into))}")
    find_sites(origin, sites)
    groups = place_masks(pairs, by)
    grid = [(key, name) for key in keys for name in groups]
    work = PatchedRuns(into, origin, pairs, chosen, mode, frozenset(keys), batch_size, seed)
    parts: Cells = {cell: [] for cell in grid}
    ends: list[tuple[Tensor, Tensor]] = []
    for chunk in work.chunks():
        ends.append((chunk.clean, chunk.corrupted))
        begin, stop = int(chunk.rows[0]) / len(pairs), (int(chunk.rows[-1]) + 1) / len(pairs)
        for key, name in in_shares(grid, start=begin, end=stop):
            where = groups[name][chunk.rows]
            parts[key, name].append(chunk.patched(key, where, each_unit))
    clean, corrupted = (float(chosen.pool(torch.cat(values), pairs)) for values in zip(*ends, strict=True))
    source = source_in_words(mode, pairs, seed=seed, other_model=source_model is not None)
    return result_of(into, parts, chosen, pairs, mode, source, clean, corrupted)


def source_in_words(mode: str, pairs: Pairs, *, seed: int = 0, other_model: bool = False) -> str:
    """Where the activations that are put in come from; of a mean, over which rows and how many."""
    reached = "" if len(set(pairs.read.tolist())) == 1 else ", at each position of those that reach it"
    known = {
        "denoise": "clean example of the pair",
        "noise": "corrupted example of the pair",
        "zero": "zeros",
        "mean": f"mean over the clean examples of the {len(pairs)} pairs{reached}",
        "resample": f"clean example of another of the {len(pairs)} pairs, drawn with seed {seed}",
    }
    return known[mode] + (", in the other model" if other_model and mode != "zero" else "")


def result_of(
    c: Components,
    parts: Cells,
    metric: Metric,
    pairs: Pairs,
    mode: str,
    source: str,
    clean: float,
    corrupted: float,
) -> PatchingResult:
    """The result from the metric's values, and where something was exchanged, of every pair, by site and place.

    `c`: the pieces of the model that is patched.
    """
    base = corrupted if mode == "denoise" else clean
    values, exchanged = (
        {cell: torch.cat([part[i] for part in found], 1) for cell, found in parts.items()} for i in (0, 1)
    )
    if not all(bool(found.isfinite().all()) for found in values.values()):
        raise MechoclError(f"{metric.name} of {pairs.name} is not finite: the model has diverged")
    rows = []
    for ((layer, site), name), found in values.items():
        counts = exchanged[(layer, site), name].sum(1)
        pooled = only_measured(metric.pool(found, pairs), counts).tolist()
        part = unit_of(c, site) if len(found) > 1 else "whole"
        for unit, (value, count) in enumerate(zip(pooled, counts.tolist(), strict=True)):
            index = unit if len(found) > 1 else -1
            rows.append((layer, site, part, index, name, value, value - base, count))
    columns = ["layer", "site", "part", "index", "position", "value", "effect", "exchanged"]
    return PatchingResult(
        rows=pd.DataFrame(rows, columns=columns),
        per_pair=torch.cat(list(values.values())).numpy(),
        exchanged=torch.cat(list(exchanged.values())).numpy(),
        clean=clean,
        corrupted=corrupted,
        metric=metric.name,
        unit=metric.unit,
        pairs=pairs.name,
        n_pairs=len(pairs),
        mode=mode,
        source=source,
    )


def _patch_layers(model: HookedConvNet, pairs: Pairs, *, metric: Metric, mode: Mode, seed: int, source_model: Any, **options: Any) -> PatchingResult:  # fmt: skip
    """The result of patches of a ConvNet."""
    found = picture_patching.patch_layers(model, pairs, metric=metric, mode=mode, seed=seed, source_model=source_model, **options)  # fmt: skip
    return PatchingResult(
        rows=found.rows, per_pair=found.per_pair.numpy(), exchanged=found.exchanged.numpy(), clean=found.clean, corrupted=found.corrupted,
        metric=metric.name, unit=metric.unit, pairs=pairs.name, n_pairs=len(pairs), mode=mode,
        source=source_in_words(mode, pairs, seed=seed, other_model=source_model is not None),
    )  # fmt: skip


def _check_choices(mode: str, by: str, batch_size: int) -> None:
    for what, value, known in (("mode", mode, get_args(Mode)), ("by", by, get_args(By))):
        if value not in known:
            raise MechoclError(f"{what} is {value!r}; use one of {', '.join(known)}")
    if batch_size < 1:
        raise MechoclError(f"batch_size is {batch_size}; use at least 1")


def place_masks(pairs: Pairs, by: By) -> dict[str, Bool[Tensor, "pair pos"]]:
    """Where each patch goes: from the name of a position or a role, or "all", to the positions of every pair."""
    shape = pairs.clean.shape
    if by == "all":
        return {"all": torch.ones(shape, dtype=torch.bool)}
    if by == "position":
        return {
            label: (torch.arange(shape[1]) == i).expand(shape).clone() for i, label in enumerate(pairs.labels)
        }
    found = {name: pairs.roles == i for i, name in enumerate(ROLE_NAMES)}
    found = {name: where for name, where in found.items() if bool(where.any())}
    if not found:
        raise MechoclError(f"{pairs.name} has no roles; patch by position")
    return found
