"""Where the features of a dictionary are active: in which texts, and on tokens of which subset and role.

All activations above 0 are read once (`fires`). From them come a few texts of each feature (`examples`), those with its
largest activations and some with smaller ones, and its means and rates by subset and role of the token (`activity`).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from jaxtyping import Float, Int

from mechocl.features import properties
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.properties import Kind, Texts
from mechocl.runs.activation_cache import Collect
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS
from toy_models.task import Task

TOP: Final = 4
"""Number of questions, and of definitions, with a feature's largest activations that its page shows."""

QUANTILES: Final = (0.75, 0.5, 0.25)
"""Quantiles of the questions, and of the definitions, on which a feature is active, by largest activation. One text at
each is shown too."""

_BATCH: Final = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A question or a definition."""

    kind: Kind
    tokens: tuple[str, ...]
    positions: tuple[str, ...]
    """What stands at each token: alias, %, n1 …, =; tag, entity."""
    subset: str
    tag: int
    """Define tag of its alias; 0 if the alias is not defined."""
    integer: int | None
    """Integer that its alias stands for in questions."""
    defined_as: int | None
    """Integer that its alias's definition says."""
    contains: bool | None
    """Whether the list contains the integer; None for a definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A feature on a text."""

    text: Text
    activations: tuple[float, ...]
    """Activation at each token."""
    peak: int
    """Index of the token with the largest activation, the first of equal ones."""
    rank: int
    """Rank among the texts of its kind by the feature's largest activation, from 1; equal ones are in random order."""
    quantile: float | None
    """Quantile among the texts of its kind with an activation (0.5 is the median); None for the top examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A feature in all texts of a kind, by subset and role of the token."""

    kind: Kind
    subsets: tuple[str, ...]
    roles: tuple[str, ...]
    mean: tuple[tuple[float, ...], ...]
    """Mean activation over all tokens of a subset (row) and a role (column), including those where it is 0."""
    rate: tuple[tuple[float, ...], ...]
    """Share of these tokens on which the feature is active."""


@dataclass(frozen=True, slots=True)
class Fires:
    """Every activation above 0, one entry each; texts are numbered through questions and definitions."""

    feature: Int[np.ndarray, " entry"]
    text: Int[np.ndarray, " entry"]
    position: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]


def fires(dictionary: Dictionary, read: list[Texts], collect: Collect) -> Fires:
    """Every activation of a feature above 0 in these texts."""
    parts: list[tuple[np.ndarray, ...]] = []
    before = 0
    for texts in read:
        x = flat(collect(texts.tokens, [dictionary.read])[dictionary.read])
        for batch in torch.split(x, _BATCH):
            f = dictionary.encode(batch).float().cpu()
            text, position, feature = (f > 0).nonzero(as_tuple=True)
            value = f[text, position, feature].double()
            parts.append((feature.numpy(), text.numpy() + before, position.numpy(), value.numpy()))
            before += len(batch)
    return Fires(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def examples(task: Task, read: list[Texts], fires: Fires, *, seed: int) -> dict[int, tuple[Example, ...]]:
    """Each feature's top examples, and its examples at the quantiles."""
    texts = [text for one in read for text in _texts(task, one)]
    kind = np.repeat(np.arange(len(read)), [len(one) for one in read])
    # the largest activation of each feature on each text; then each feature's texts of a kind, the largest first
    order = np.lexsort((fires.position, -fires.value, fires.text, fires.feature))
    key = fires.feature.astype(np.int64) * len(texts) + fires.text
    best = order[np.unique(key[order], return_index=True)[1]]
    group = fires.feature[best].astype(np.int64) * len(read) + kind[fires.text[best]]
    shuffled = torch.randperm(len(texts), generator=generator(seed, "equal examples")).numpy()
    ranked = np.lexsort((shuffled[fires.text[best]], -fires.value[best], group))
    best, group = best[ranked], group[ranked]
    _, starts, counts = np.unique(group, return_index=True, return_counts=True)
    chosen: list[tuple[int, int, float | None]] = []
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        ranks: dict[int, float | None] = dict.fromkeys(range(min(TOP, count)))
        for share in QUANTILES:
            ranks.setdefault(int((1 - share) * (count - 1)), share)
        chosen += [(start + rank, rank + 1, quantile) for rank, quantile in ranks.items()]
    at = best[[entry for entry, _, _ in chosen]]
    dense = _dense(fires, key, key[at], max(len(text.tokens) for text in texts))
    shown: dict[int, list[Example]] = {}
    feature, number, peak = (part[at].tolist() for part in (fires.feature, fires.text, fires.position))
    for i, (_, rank, quantile) in enumerate(chosen):
        text = texts[number[i]]
        values = tuple(dense[i, : len(text.tokens)].tolist())
        example = Example(text=text, activations=values, peak=peak[i], rank=rank, quantile=quantile)
        shown.setdefault(feature[i], []).append(example)
    return {feature: tuple(parts) for feature, parts in shown.items()}


def _dense(fires: Fires, key: np.ndarray, wanted: np.ndarray, length: int) -> Float[np.ndarray, "chosen pos"]:
    """Activations at every token of the wanted (feature, text) pairs, which differ from each other."""
    order = np.argsort(wanted)
    place = np.searchsorted(wanted[order], key).clip(max=len(wanted) - 1)
    hit = wanted[order][place] == key
    found = np.zeros((len(wanted), length))
    found[order[place[hit]], fires.position[hit]] = fires.value[hit]
    return found


def _texts(task: Task, read: Texts) -> list[Text]:
    table = read.table
    entity, defined = table["entity"].tolist(), table["defined_entity"].tolist()
    listed = task.questioning.contains(
        task.vocabulary, read.tokens, table["entity"].to_numpy(copy=True)
    ).tolist()
    return [
        Text(
            kind=read.kind,
            tokens=tuple(task.vocabulary.decode(ids)),
            positions=read.labels,
            subset=subset,
            tag=tag,
            integer=integer if integer >= 0 else None,
            defined_as=said if said >= 0 else None,
            contains=inside if read.kind == "question" else None,
        )
        for ids, subset, tag, integer, said, inside in zip(
            read.tokens.tolist(), table["subset"], table["tag"].tolist(), entity, defined, listed, strict=True
        )
    ]


@dataclass(frozen=True, slots=True)
class AllActivity:
    """`Activity` of all features."""

    kind: Kind
    subsets: tuple[str, ...]
    roles: tuple[str, ...]
    mean: Float[np.ndarray, "feature subset role"]
    rate: Float[np.ndarray, "feature subset role"]


def activity(read: list[Texts], fires: Fires, width: int) -> list[AllActivity]:
    """Means and rates of all features by subset and role, for each kind of texts; `width` is the number of features."""
    found, before = [], 0
    for texts in read:
        roles, role = _roles(texts)
        names = texts.table["subset"].tolist()
        subsets = tuple(name for name in SUBSETS if name in set(names))
        subset = np.array([subsets.index(name) for name in names])
        shape = (len(subsets), len(roles))
        cells = subset[:, None] * len(roles) + role  # text pos
        tokens = np.bincount(cells.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        here = (fires.text >= before) & (fires.text < before + len(texts))
        cell = cells[fires.text[here] - before, fires.position[here]]
        at = fires.feature[here].astype(np.int64) * tokens.size + cell
        size, full = width * tokens.size, (width, *shape)
        total = np.bincount(at, weights=fires.value[here], minlength=size).reshape(full)
        count = np.bincount(at, minlength=size).reshape(full)
        found.append(AllActivity(texts.kind, subsets, roles, total / tokens, count / tokens))
        before += len(texts)
    return found


def _roles(read: Texts) -> tuple[tuple[str, ...], Int[np.ndarray, " pos"]]:
    """Names of the roles in their order, and the index of each position's role."""
    firsts = properties.role_names(read)  # the tokens of a role stand together
    names = tuple(firsts.values())
    return names, np.cumsum([label in firsts for label in read.labels]) - 1


def feature_activity(activities: AllActivity, feature: int) -> Activity:
    """The activity of one of the features."""
    return Activity(
        kind=activities.kind,
        subsets=activities.subsets,
        roles=activities.roles,
        mean=tuple(map(tuple, activities.mean[feature].tolist())),
        rate=tuple(map(tuple, activities.rate[feature].tolist())),
    )
