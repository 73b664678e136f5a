"""Components that hold tag 2 back: those whose ablation raises the answers about `d2` and leaves `d1` alone.

Selective retrieval predicts such components (Krasheninnikov et al. speculate about a suppressing circuit). Among
many components some look like this by chance, so the best one is chosen on one half of each subset's aliases and
judged on the other half. The same search with the roles of `d1` and `d2` exchanged shows how large an effect the
search finds where none is expected.
"""

from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from mechocl.accepted import settle
from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError
from mechocl.interventions.exchanged import only_measured
from mechocl.interventions.metrics import METRICS, answer_metric
from mechocl.interventions.named_pairs import question_pairs
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.patching import patch_activations
from mechocl.models import components
from mechocl.models.seam import Transformer
from mechocl.models.sites import sites_of
from toy_models.task import Task

HALVES: Final = ("choosing", "judging")


@dataclass(frozen=True, slots=True, kw_only=True)
class SuppressionConfig:
    """How components are ablated."""

    raised: str = "d2"
    """Subset whose answers shall rise."""
    spared: str = "d1"
    """Subset whose answers shall stay."""
    watched: tuple[str, ...] = ("d3",)
    """Further subsets that are measured, if the run has them."""
    ablation: Literal["mean", "zero", "resample"] = "mean"
    """What is put in a component's place."""
    n_questions: int = 3000
    """Questions at most, over all subsets."""
    seed: int = 0
    """Draws the questions, and the partners of `resample`."""

    def __post_init__(self) -> None:
        settle(self)
        if self.n_questions < 8:
            raise MechoclError(f"n_questions is {self.n_questions}; use at least 8")


def ablate_components(model: Transformer, task: Task, config: SuppressionConfig) -> pd.DataFrame:
    """What ablating each head, MLP and neuron, at all positions, does to the answers about each subset.

    The columns are `mechocl.analyses.columns.SUPPRESSION`. Raises MechoclError where `patch_activations` does.
    """
    subsets = _subsets(task, config)
    asked = question_pairs(task, subsets=subsets, n_questions=config.n_questions, seed=config.seed)
    sites = [s for s in ("z", "mlp_post", "mlp_out") if s in sites_of(components.take_apart(model))]
    metric = answer_metric(asked)
    result = patch_activations(
        model, asked, sites=sites, metric=metric, by="all", mode=config.ablation, seed=config.seed
    )
    whole = patch_activations(
        model, asked, sites=["blocks.0.hook_resid_pre"], metric=metric, by="all", mode="noise"
    )
    rows = []
    for (subset, half), where in _halves(task, asked, subsets).items():
        part = asked[where]
        pool = METRICS[metric].pool
        base = float(pool(torch.from_numpy(whole.per_pair[0])[where], part))
        counts = torch.from_numpy(result.exchanged)[:, where].sum(1)
        values = only_measured(pool(torch.from_numpy(result.per_pair)[:, where], part), counts).tolist()
        n = len(torch.unique(part.alias))
        cells = result.rows[["layer", "site", "index"]].itertuples(index=False)
        for (layer, site, unit), value, count in zip(cells, values, counts.tolist(), strict=True):
            kind = {"z": "head", "mlp_post": "neuron", "mlp_out": "mlp"}[site]
            name = (
                f"L{layer} mlp"
                if kind == "mlp"
                else f"L{layer}{'H' if kind == 'head' else 'N'}{max(unit, 0)}"
            )
            rows.append((name, kind, subset, half, value, value - base, count, n))
    columns = ["component", "kind", "subset", "half", "value", "effect", "exchanged", "aliases"]
    return pd.DataFrame(rows, columns=columns).assign(source=result.source)


def candidates(rows: pd.DataFrame, *, raised: str, spared: str) -> pd.DataFrame:
    """The component of each seed whose ablation best raises one subset and spares another, and all its effects.

    It is chosen by effect(raised) − |effect(spared)| on the choosing half. The columns are `seed`, `component`, and
    the `effect` on the judging half of each `subset`. Components whose ablation was not measured are no candidates; a seed
    without a candidate has no rows.
    """
    raised, spared = (_whole_name(rows, name) for name in (raised, spared))
    found = []
    for seed, part in rows.groupby("seed"):
        chosen = part[part["half"] == "choosing"].pivot(index="component", columns="subset", values="effect")
        gained = (chosen[raised] - chosen[spared].abs()).dropna()
        if gained.empty:
            continue  # no component was measured in both subsets
        best = gained.idxmax()
        judged = part[(part["half"] == "judging") & (part["component"] == best)]
        found.append(judged[["component", "subset", "effect"]].assign(seed=seed))
    if not found:
        return pd.DataFrame(columns=["component", "subset", "effect", "seed"])
    return pd.concat(found, ignore_index=True)


def _whole_name(rows: pd.DataFrame, short: str) -> str:
    names: list[str] = rows["subset"].unique().tolist()
    found = [name for name in names if name == short or name.startswith(f"{short}_")]
    if not found:
        raise MechoclError(f"{short!r} names no subset that was ablated; there are {', '.join(names)}")
    return found[0]


def _subsets(task: Task, config: SuppressionConfig) -> list[str]:
    named = [subset_named(task, config.raised), subset_named(task, config.spared)]
    present = set(task.table["subset"].unique())
    watched = [name for name in present for short in config.watched if name.startswith(f"{short}_")]
    return list(dict.fromkeys([*named, *sorted(watched)]))


def _halves(task: Task, asked: Pairs, subsets: list[str]) -> dict[tuple[str, str], Bool[Tensor, "question"]]:
    """Questions of each half of each subset's aliases. Raises MechoclError when a half is empty."""
    found = {}
    for subset in subsets:
        members = task.table.loc[task.rows(subset=subset), "alias"].unique()
        own = torch.isin(asked.alias, torch.from_numpy(members))
        aliases = torch.unique(asked.alias[own])
        if len(aliases) < 2:
            raise MechoclError(
                f"{subset} has too few aliases among the questions ({len(aliases)}) for two halves; raise n_questions"
            )
        for half, name in enumerate(HALVES):
            found[subset, name] = own & torch.isin(asked.alias, aliases[half::2])
    return found
