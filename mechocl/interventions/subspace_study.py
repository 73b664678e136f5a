"""Which subspace carries the define tag, and which the integer: three methods, each with two controls.

Everything is fitted on one half of the aliases and judged on the other. Methods:

    whole site             the full activation is swapped: the ceiling
    difference of means    one direction, from the mean of the one subset's activations to the other's
    rotation               distributed alignment search in k dimensions, fitted on pairs in both directions
    erasure                LEACE of the tag; nothing is put in

Controls: `shuffled` fits on labels that were shuffled over the aliases (rotation: on the clean answers of other
pairs), and `random model` fits and judges in the model before training.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from sklearn.metrics import roc_auc_score
from torch import Tensor

from mechocl.accepted import settle
from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError
from mechocl.interventions.alignment_search import fit_rotations
from mechocl.interventions.erasure import fit_erasure, readout
from mechocl.interventions.metrics import METRICS, SMALLEST_DIFFERENCE, answer_metric
from mechocl.interventions.named_pairs import alias_pairs
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.subspaces import (
    Interchange,
    Place,
    activation,
    difference_of_means,
    interchange,
    measured,
)
from mechocl.models.components import Components, take_apart
from mechocl.models.layout import asked_positions
from mechocl.models.seam import Transformer
from mechocl.models.sites import find_sites, sites_of
from mechocl.shares import in_shares
from probes.controls import shuffle_by_alias
from toy_models.randomness import generator
from toy_models.task import Task

STUDY_METRICS: Final = ("logit_difference", "within_alias_auc")
KEYS: Final = ("method", "k", "layer", "site", "position", "control", "contrast", "metric")


@dataclass(frozen=True, slots=True, kw_only=True)
class SubspaceConfig:
    """Where subspaces are looked for, and how."""

    clean: str = "d1"
    """Subset whose activations are put in, and whose tag comes first: its name or the beginning of its name."""
    corrupted: str = "d2"
    """Subset whose questions are answered."""
    sites: tuple[str, ...] = ()
    """Sites of the residual stream, in every layer (`resid_mid`) or in one (`blocks.0.hook_resid_mid`). Default:
    the stream before layer 0, and after each attention and MLP except the last site, which the unembedding reads."""
    positions: tuple[str, ...] = ("alias", "=")
    """Labels of positions."""
    ks: tuple[int, ...] = (1, 2, 4, 8)
    """Dimensions of the rotations."""
    n_pairs: int = 240
    """Pairs of each contrast, for fitting and for judging."""
    steps: int = 40
    """Steps of Adam for a rotation."""
    seed: int = 0
    """Divides the aliases, draws the pairs, the starts and the shuffles."""

    def __post_init__(self) -> None:
        settle(self)
        if not self.positions or not self.ks:
            raise MechoclError("positions and ks must name at least one each")
        if min(self.ks) < 1:
            raise MechoclError(f"ks has {min(self.ks)}; use at least 1 dimension")
        for name in ("n_pairs", "steps"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")


def subspace_study(
    model: Transformer, untrained: Transformer, task: Task, config: SubspaceConfig
) -> pd.DataFrame:
    """One row per method, `k`, place, control, contrast and metric; means over pairs of held-out aliases.

    The contrasts, for subsets d1 and d2, are:

        d1-to-d2        two aliases of the same integer, of which only the definition differs: what moves is the
                        tag's effect
        d2-to-d1        the reverse, d1's questions with d2's component: what moves is harm, which any disturbance
                        brings, so compare it with `shuffled`
        d1-to-other-d2  two aliases of different integers

    The columns are `mechocl.analyses.columns.SUBSPACE`.

    If swapping the whole site changes nothing (at a position that the answer no longer reads), only the rows of the
    whole site are given. Raises MechoclError for subsets, sites or positions that are not there.
    """
    data = _data(task, config)
    rows: list[dict[str, Any]] = []
    for subject, controls in in_shares(((model, ("none", "shuffled")), (untrained, ("random model",)))):
        c = take_apart(subject)
        for place in in_shares(list(_places(c, config))):
            rows += _at(c, place, data, config, controls)
    frame = pd.DataFrame(rows)
    trained = (
        frame[frame["control"] == "none"].groupby(["contrast", "metric"])[["clean", "corrupted"]].first()
    )
    gap = (trained["clean"] - trained["corrupted"]).rename("gap")
    gap = gap.where(gap.abs() >= SMALLEST_DIFFERENCE)
    frame["normalised"] = frame["effect"] / frame.join(gap, on=["contrast", "metric"])["gap"]
    order = [*KEYS, "clean", "corrupted", "swapped", "effect", "normalised", "explained"]
    return frame[[*order, "decoding", "decoding_before", "exchanged", "pairs"]]


def halves(task: Task, *, seed: int) -> tuple[Task, Task]:
    """The task with one half of every subset's aliases, and with the other half."""
    table = task.table
    aliases = table[["alias", "subset"]].drop_duplicates("alias")
    order = torch.randperm(len(aliases), generator=generator(seed, "halves")).numpy()
    shuffled = aliases.iloc[order]
    first = shuffled.loc[shuffled.groupby("subset", observed=True).cumcount() % 2 == 0, "alias"]
    chosen = table["alias"].isin(first).to_numpy()
    return _only(task, chosen), _only(task, ~chosen)


def _only(task: Task, chosen: np.ndarray) -> Task:
    rows = torch.from_numpy(np.flatnonzero(chosen))
    kept = {name: getattr(task, name)[rows] for name in ("tokens", "roles", "loss_mask")}
    return replace(task, table=task.table[chosen].reset_index(drop=True), fresh=None, **kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Questions:
    """Test questions about both subsets."""

    tokens: Int[Tensor, "question pos"]
    labels: tuple[str, ...]
    first: Bool[Tensor, "question"]
    """Whether the alias is of the clean subset."""
    shuffled: Bool[Tensor, "question"]
    """The same labels, shuffled over the aliases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Data:
    fitting: Mapping[str, Pairs]
    """The tag's and the integer's contrast, half of the pairs in each direction."""
    judging: Mapping[str, tuple[str, Pairs]]
    """Contrast → the contrast whose rotation it judges, and its pairs."""
    fitted: _Questions
    unseen: _Questions


def _data(task: Task, config: SubspaceConfig) -> _Data:
    a, b = config.clean, config.corrupted
    tag, integer, back = f"{a}-to-{b}", f"{a}-to-other-{b}", f"{b}-to-{a}"
    clean, corrupted = subset_named(task, a), subset_named(task, b)
    train, test = halves(task, seed=config.seed)

    def drawn(part: Task) -> dict[str, Pairs]:
        draw = partial(
            alias_pairs, part, clean=clean, corrupted=corrupted, n_pairs=config.n_pairs, seed=config.seed
        )
        return {tag: draw(same_integer=True), integer: draw(same_integer=False)}

    judged = drawn(test)
    return _Data(
        fitting={name: both_ways(pairs) for name, pairs in drawn(train).items()},
        judging={
            tag: (tag, judged[tag]),
            back: (tag, replace(judged[tag].swapped, name=back)),
            integer: (integer, judged[integer]),
        },
        fitted=_questions(train, clean, corrupted, config),
        unseen=_questions(test, clean, corrupted, config),
    )


def both_ways(pairs: Pairs) -> Pairs:
    """Every second pair with clean and corrupted exchanged."""
    other = (torch.arange(len(pairs)) % 2 == 1)[:, None]
    return replace(
        pairs,
        clean=torch.where(other, pairs.corrupted, pairs.clean),
        corrupted=torch.where(other, pairs.clean, pairs.corrupted),
    )


def _questions(task: Task, clean: str, corrupted: str, config: SubspaceConfig) -> _Questions:
    """Test questions, drawn at random, as many as two contrasts have pairs."""
    rows = task.rows(kind="question", split="test", subset=(clean, corrupted))
    order = torch.randperm(len(rows), generator=generator(config.seed, "subspace questions"))
    rows = rows[order[: 2 * config.n_pairs].numpy()]
    labels = asked_positions(task, rows)
    first = np.array(task.table["subset"].iloc[rows] == clean)
    alias = task.table["alias"].to_numpy()[rows]
    return _Questions(
        tokens=task.tokens[torch.from_numpy(rows)][:, : len(labels)],
        labels=tuple(labels),
        first=torch.from_numpy(first),
        shuffled=torch.from_numpy(shuffle_by_alias(first, alias, seed=config.seed)),
    )


def _places(c: Components, config: SubspaceConfig) -> Iterator[Place]:
    sites = find_sites(c, config.sites)
    if not config.sites:
        names = [name for name in ("resid_mid", "resid_post") if name in sites_of(c)]
        sites = [(0, "resid_pre"), *((layer, name) for layer in range(c.n_layers) for name in names)][:-1]
    for layer, site in sites:
        for position in config.positions:
            yield Place(layer=layer, site=site, position=position)


Changes = dict[str, list[tuple[dict[str, Any], Tensor]]]
"""Contrast → the labels of each change, and what it adds at the place."""


def _at(
    c: Components, place: Place, data: _Data, config: SubspaceConfig, controls: tuple[str, ...]
) -> list[dict[str, Any]]:
    """All rows of a place in one model."""
    judging = {name: (family, _run(c, pairs, place)) for name, (family, pairs) in data.judging.items()}
    whole: Changes = {}
    for name, (_, run) in judging.items():
        keys = {"method": "whole site", "k": run.clean.shape[1], "control": controls[0]}
        whole[name] = [(keys, run.difference)]
    if not any(_moves(run) for _, run in judging.values()):
        return _rows(judging, whole, place)
    fitting = {name: _run(c, pairs, place) for name, pairs in data.fitting.items()}
    x, unseen = (activation(c, q.tokens, place, q.labels) for q in (data.fitted, data.unseen))
    rows: list[dict[str, Any]] = []
    for control in controls:
        shuffled = control == "shuffled"
        first = data.fitted.shuffled if shuffled else data.fitted.first
        changes = _linear(judging, x, first, unseen, data.unseen.first)
        for family, run in fitting.items():
            found = fit_rotations(run, ks=config.ks, steps=config.steps, seed=config.seed, shuffled=shuffled)
            for name in (name for name, (own, _) in judging.items() if own == family):
                difference = judging[name][1].difference
                for k, basis in zip(config.ks, found, strict=True):
                    changes[name].append(({"method": "rotation", "k": k}, difference @ basis @ basis.T))
        if control == controls[0]:
            changes = {name: whole[name] + changes[name] for name in changes}
        rows += [row | {"control": control} for row in _rows(judging, changes, place)]
    return rows


def _linear(
    judging: Mapping[str, tuple[str, Interchange]],
    x: Float[Tensor, "question d_model"],
    first: Bool[Tensor, "question"],
    unseen: Float[Tensor, "other d_model"],
    unseen_first: Bool[Tensor, "other"],
) -> Changes:
    """The two methods that are fitted on labels, and how well the tag can be decoded."""
    direction, erase = difference_of_means(x, first), fit_erasure(x, first)
    score = (unseen @ direction)[:, 0].cpu().numpy()
    before = readout(x, first, other=unseen, other_first=unseen_first)
    after = readout(erase(x), first, other=erase(unseen), other_first=unseen_first)
    means = {
        "method": "difference of means",
        "k": 1,
        "decoding": float(roc_auc_score(unseen_first.numpy(), score)),
    }
    erased = {
        "method": "erasure",
        "k": 0,
        "decoding": after.other_accuracy,
        "decoding_before": before.other_accuracy,
    }
    return {
        name: [
            (means, run.difference @ direction @ direction.T),
            (erased, erase(run.corrupted) - run.corrupted),
        ]
        for name, (_, run) in judging.items()
    }


@torch.no_grad()
def _moves(run: Interchange) -> bool:
    """Whether the two runs differ at the place, and the answer reads it, beyond rounding (a few bits of float32)."""
    changed = (run.logits(run.difference[None]) - run.corrupted_logits).abs().max()
    least = 1e-5 * run.corrupted_logits.abs().max().clamp(min=1.0)
    differs = run.difference.abs().max() > 1e-6 * run.clean.abs().max()
    return bool((changed > least) & differs)


def _run(c: Components, pairs: Pairs, place: Place) -> Interchange:
    return interchange(c, pairs, place, tokens=METRICS["logit_difference"].tokens(pairs))


@torch.no_grad()
def _rows(
    judging: Mapping[str, tuple[str, Interchange]],
    changes: Changes,
    place: Place,
) -> list[dict[str, Any]]:
    """Rows of all changes of each contrast, which run together."""
    rows = []
    for name, (_, run) in judging.items():
        change = torch.stack([one for _, one in changes[name]])
        logits = run.logits(change)
        for metric in STUDY_METRICS if answer_metric(run.pairs) in STUDY_METRICS[1:] else STUDY_METRICS[:1]:
            for (keys, _), result in zip(
                changes[name], measured(run, change, logits, metric=metric), strict=True
            ):
                found = {
                    "layer": place.layer,
                    "site": place.site,
                    "position": place.position,
                    "contrast": name,
                    "metric": metric,
                    "clean": result.clean,
                    "corrupted": result.corrupted,
                    "swapped": result.swapped,
                    "effect": result.effect,
                    "explained": result.explained,
                    "decoding": float("nan"),
                    "decoding_before": float("nan"),
                    "exchanged": result.exchanged,
                    "pairs": len(run.pairs),
                }
                rows.append(found | keys)
    return rows
