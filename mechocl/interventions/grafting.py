"""Weight grafting across checkpoints: which weights carry what stage 2 added?

The weights of the model after stage 2 are put into the model before it, either one group (grafted *alone*) or all
groups except one (*all but*), and each graft is asked the test questions. Grafting follows the
extractive structures of arXiv 2412.04614. A group that is enough has a share near 1 alone; a group that is needed
has a share near 0 when all other groups are grafted. A group that is both carries the gain; if it is neither,
other groups carry it. If it is enough but not needed, the gain is there twice; if it is needed but not enough, it
works together with other groups.
"""

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
import torch

from mechocl.accepted import settle
from mechocl.behaviour.internalization import by_subset, per_alias
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.errors import MechoclError
from mechocl.interventions.weight_groups import Group, Part, groups as groups_of, layer_groups, parameters
from mechocl.models.seam import Transformer
from mechocl.shares import in_shares
from toy_models import architectures
from toy_models.task import Task

METRICS: Final = ("auc", "accuracy", "recall")

SMALLEST_GAIN: Final = 0.01
"""A gain of stage 2 below this has no shares."""

ALONE: Final = "alone"
ALL_BUT: Final = "all but"


@dataclass(frozen=True, slots=True)
class GraftEstimate:
    """What a graft did to one subset, over seeds."""

    group: str
    kind: str
    subset: str
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class GraftConfig:
    """What the graft study measures."""

    aliases_per_subset: int | None = None
    """Aliases of each subset, the first ones; None: all."""
    by_layer: bool = True
    """Graft whole layers too, where there are several: attention, MLP and layer norms together."""

    def __post_init__(self) -> None:
        settle(self)
        if self.aliases_per_subset is not None and self.aliases_per_subset < 1:
            raise MechoclError(
                f"aliases_per_subset is {self.aliases_per_subset}; use at least 1, or none for all"
            )


def graft(before: Transformer, after: Transformer, task: Task, *, groups: Collection[str]) -> Any:
    """A new model: `before` with the weight difference (after − before) of the chosen groups.

    The groups' weights are copied from `after`, which gives the sum without rounding: all groups give exactly
    `after`, and no groups give `before`. `groups` are names from `weight_groups.groups` or `layer_groups`, in any
    order.

    Raises MechoclError for an unknown name, and for models of different shapes.
    """
    check_alike(before, after)
    known = _all_groups(before, task)
    for name in groups:
        if name not in known:
            raise MechoclError(f"the model has no group of weights {name!r}; it has {', '.join(known)}")
    return _grafted(before, after, [part for name in groups for part in known[name].parts])


def check_alike(before: Transformer, after: Transformer) -> None:
    """Raises MechoclError when two models differ in shape; the message names the first tensor that differs."""
    ours, theirs = parameters(before), parameters(after)
    for name in [*ours, *theirs]:
        shapes = [str(tuple(p[name].shape)) if name in p else "not there" for p in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise MechoclError(
                f"the two models differ in shape: {name} is {shapes[0]} before and {shapes[1]} after; give two "
                "checkpoints of one run"
            )


def _all_groups(model: Transformer, task: Task) -> dict[str, Group]:
    return groups_of(model, task) | layer_groups(model, task)


@torch.no_grad()
def _grafted(before: Transformer, after: Transformer, parts: Collection[Part]) -> Any:
    with architectures.hooked_transformer_allowed():
        model = copy.deepcopy(before)
    target, source = parameters(model), parameters(after)
    for part in parts:
        value = part.read(source[part.parameter])
        part.write(target[part.parameter], value.to(target[part.parameter].device))
    return model


# ------------------------------------------------------------------------------------------ the study


def graft_study(before: Transformer, after: Transformer, task: Task, config: GraftConfig) -> pd.DataFrame:
    """What each group of stage 2's weight difference does to every subset, alone and left out.

    The columns are `mechocl.analyses.columns.GRAFT`. A group that stage 2 did not change is not measured: its rows have no value.

    Raises MechoclError for models of different shapes, and for models that do not belong to the task.
    """
    check_alike(before, after)
    parts = groups_of(before, task)
    chosen = parts | (layer_groups(before, task) if config.by_layer and before.cfg.n_layers > 1 else {})
    changes = {name: _change(before, after, group.parts) for name, group in chosen.items()}
    everything = [part for group in parts.values() for part in group.parts]
    none, all_ = (_measured(model, task, config) for model in (before, after))
    tables = [compared(v, none, all_, group=name) for name, v in (("none", none), ("all", all_))]
    for name, group in in_shares(list(chosen.items())):
        alone = all_but = _unmeasured(none)
        if changes[name] > 0:
            alone = _measured(_grafted(before, after, group.parts), task, config)
            # to undo one group in the later model is to graft all other groups
            all_but = _measured(_grafted(after, before, group.parts), task, config)
        for kind, values in ((ALONE, alone), (ALL_BUT, all_but)):
            tables.append(compared(values, none, all_, group=name, kind=kind))
    total = _change(before, after, everything)
    changes |= {"none": 0.0, "all": total}
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(change=rows["group"].map(changes))


def compared(
    values: pd.DataFrame,
    none: pd.DataFrame,
    all_: pd.DataFrame,
    *,
    group: str,
    kind: str = ALONE,
    site: str = "",
) -> pd.DataFrame:
    """Rows in the form of `graft_study` (without `change`) from three tables with one row for each subset.

    The tables are those of an intervention, of the model before stage 2, and of the model after it. Each has the
    columns `subset`, `aliases` and some of `METRICS`.
    """
    tables = []
    for metric in [m for m in METRICS if m in values.columns]:
        value, low, high = (t[metric].to_numpy(dtype=float) for t in (values, none, all_))
        gain = np.where(high - low >= SMALLEST_GAIN, high - low, np.nan)
        columns = {"value": value, "effect": value - low, "share": (value - low) / gain}
        labels = {"group": group, "kind": kind, "site": site, "subset": values["subset"], "metric": metric}
        tables.append(pd.DataFrame(labels | columns | {"aliases": values["aliases"]}))
    return pd.concat(tables, ignore_index=True)


def estimates(
    rows: pd.DataFrame, *, metric: str = "auc", column: Literal["value", "effect", "share"] = "share"
) -> list[GraftEstimate]:
    """Mean over seeds with its 95 % interval, by group, kind and subset, in the order of the rows.

    `rows` as from `graft_study` and `steering.steering_study`, with a `seed` column. Seeds whose share is not
    defined are left out, and `n` is the number of the remaining seeds.
    """
    chosen = rows[rows["metric"] == metric].dropna(subset=[column])
    found = []
    for (group, kind, subset), part in chosen.groupby(["group", "kind", "subset"], sort=False):
        summary = estimate(part[column].to_numpy(dtype=float), unit="seed")
        found.append(GraftEstimate(str(group), str(kind), str(subset), summary))
    return found


def _unmeasured(values: pd.DataFrame) -> pd.DataFrame:
    """The same rows without values."""
    return values.assign(**dict.fromkeys([m for m in METRICS if m in values.columns], np.nan))


def _measured(model: Transformer, task: Task, config: GraftConfig) -> pd.DataFrame:
    return by_subset(per_alias(model, task, aliases_per_subset=config.aliases_per_subset))


def _change(before: Transformer, after: Transformer, parts: Collection[Part]) -> float:
    ours, theirs = parameters(before), parameters(after)
    squares = [
        float((part.read(theirs[part.parameter]) - part.read(ours[part.parameter])).double().square().sum())
        for part in parts
    ]
    return math.sqrt(sum(squares))
