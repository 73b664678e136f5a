"""Everything that is known of each feature of a dictionary: where it is active, what it stands for, what it does.

A page puts together the texts on which a feature is active, what the search (`search`) and the causal test (`effects`)
have found, and what its decoder row alone says: its direct path to the logits, and the directions that it lies near.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.activation_cache import Collect
from mechocl.components import Components, hook_name, take_apart
from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.dictionaries import Dictionary, check_fits, flat
from mechocl.features.effects import ALPHA
from mechocl.features.properties import Kind, Texts
from mechocl.features.quality import cosines, unseen_aliases
from mechocl.features.settings import HELD_OUT
from mechocl.models import Transformer
from mechocl.subspaces import STREAM_SITES, difference_of_means
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, TAGS
from toy_models.task import ROLE, Task

TOP: Final = 4
"""Questions, and definitions, with a feature's largest activations that its page shows."""

QUANTILES: Final = (0.75, 0.5, 0.25)
"""Of the questions, and definitions, on which it is active, by largest activation: one at each is shown too."""

MEANINGS: Final = 12
"""Properties of a feature that are listed."""

INTEGERS: Final = 5
"""Integers that a feature's direct path raises most, and lowers most."""

_CONTRASTS: Final = {
    "d1 against d2": ("d1_consistent", "d2_consistent"),
    "d3 against d2": ("d3_consistent", "d2_consistent"),
    "qd1 against qd2": ("qd1_consistent", "qd2_inconsistent"),
}

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
    """0: its alias is not defined."""
    integer: int | None
    """What its alias stands for in questions."""
    defined_as: int | None
    """What its alias's definition says."""
    contains: bool | None
    """Whether the list contains the integer; None of a definition."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A feature on a text."""

    text: Text
    activations: tuple[float, ...]
    """At each token."""
    peak: int
    """Token of the largest activation; the first of equal ones."""
    rank: int
    """1: the text of its kind with the feature's largest activation; texts of equal ones are in random order."""
    quantile: float | None
    """Where it is among the texts of its kind with an activation (0.5: the median); None of the top examples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """A feature in all texts of a kind, by subset and role of the token."""

    kind: Kind
    subsets: tuple[str, ...]
    roles: tuple[str, ...]
    mean: tuple[tuple[float, ...], ...]
    """Mean activation of the tokens of a subset (row) and a role (column), those where it is 0 too."""
    rate: tuple[tuple[float, ...], ...]
    """Share of these tokens on which the feature is active."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectEffect:
    """What a unit of activation adds to the logits at its own position past all later layers, in nats.

    The decoder row goes through the final layer norm, whose scale is frozen at its mean over `=` of questions.
    """

    difference: float
    """True − false logit."""
    highest: tuple[tuple[int, float], ...]
    """Integers that it raises most, the most first, with logits less the mean of all integers."""
    lowest: tuple[tuple[int, float], ...]
    """Those that it lowers most, the most first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Near:
    """A known direction at the dictionary's site."""

    name: str
    cosine: float
    """With the feature's decoder row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A property that the feature is selective for (q < 0.05 in the search), at the position where it tells most of it."""

    property: str
    text: str
    position: str
    also: tuple[str, ...]
    """Other positions of these texts where it is selective for the property with the same sign."""
    sign: int
    """+1: active on the property's examples; −1: on the others."""
    auc: float
    mutual_information: float
    """In bits."""
    q: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """The feature's activation exchanged between two runs; see `effects`."""

    property: str
    position: str
    features: tuple[int, ...]
    """All that were changed together."""
    effect: float
    """Of the logit difference, in nats, towards the other run."""
    share: float | None
    """Of what exchanging everything at the position does."""
    control_95: float | None
    """What 95 % of matched random features stay below."""
    beats: float | None
    """Share of these features with a smaller effect."""
    retrieval: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The feature alone set to 0 (ablate) or to its mean where active (clamp) in questions about a subset; see `effects`."""

    intervention: str
    position: str
    subset: str
    metric: str
    """`logit_difference` (nats, right − wrong answer) or `within_alias_auc`."""
    effect: float
    predicted: int
    """Sign that the property predicts; 0: none, and the controls are compared in size."""
    control_95: float | None
    beats: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeaturePage:
    """What a reader may want to know of one feature."""

    number: int
    rate: float
    """Share of the tokens of all texts on which it is active."""
    mean: float
    """Mean activation where it is active."""
    norm: float
    """Of its decoder row."""
    examples: tuple[Example, ...]
    """Questions, then definitions: top examples, then those at the quantiles; no text twice."""
    activity: tuple[Activity, ...]
    """Of questions and of definitions."""
    direct: DirectEffect | None
    """None where the dictionary writes at a site outside the residual stream."""
    near: tuple[Near, ...]
    """The largest |cosine| first."""
    chance_cosine: float
    """What |cosine| of 95 % of random directions stays below: 1.96 / √d."""
    meanings: tuple[Meaning, ...]
    """The most information first, at most 12."""
    tested: bool
    """Whether there was a causal test, be it of other features."""
    patches: tuple[Patch, ...]
    """Those of the feature alone come first, retrieval before others, large effects before small."""
    changes: tuple[Change, ...]

    @property
    def retrieval(self) -> bool:
        """Whether it is a retrieval feature of some property by itself."""
        return any(one.retrieval for one in self.patches if len(one.features) == 1)


def pages(
    model: Transformer,
    task: Task,
    dictionary: Dictionary,
    *,
    found: pd.DataFrame,
    tested: pd.DataFrame | None,
    collect: Collect,
    seed: int,
    probes: Mapping[str, Float[Tensor, " d"]] | None = None,
) -> list[FeaturePage]:
    """A page of every feature that is active in a question or definition of `properties.texts`, by number.

    Args:
        model: the model of the dictionary.
        task: whose texts are shown.
        dictionary: a sparse autoencoder or transcoder.
        found: rows of `search.search`.
        tested: rows of `effects.effects`; None: there was no causal test.
        collect: the model's activations.
        seed: of the search: draws the texts, the held-out aliases where the dictionary does not name them, and the
            order of equal activations.
        probes: directions of probes at the dictionary's site, of its width.

    Raises MechoclError for a dictionary of another model, a probe of another width, and where `take_apart` does.
    """
    check_fits(dictionary, model, task)
    c = take_apart(model)
    read = properties.texts(task, seed=seed)
    fires = _fires(dictionary, read, collect)
    W = dictionary.W_dec.float().cpu()
    direct = _direct(c, task, dictionary, W, read, collect)
    near = _near(c, task, dictionary, W, read, collect, seed=seed, probes=probes or {})
    examples = _examples(task, read, fires, seed=seed)
    activity = _activity(read, fires, dictionary.width)
    meanings, causal = _meanings(found), _causal(tested)
    tokens = sum(one.tokens.numel() for one in read)
    count = np.bincount(fires.feature, minlength=dictionary.width)
    total = np.bincount(fires.feature, weights=fires.value, minlength=dictionary.width)
    norm = W.norm(dim=-1)
    return [
        FeaturePage(
            number=i,
            rate=float(count[i] / tokens),
            mean=float(total[i] / count[i]),
            norm=float(norm[i]),
            examples=examples[i],
            activity=tuple(_of_feature(one, i) for one in activity),
            direct=direct[i] if direct else None,
            near=near[i],
            chance_cosine=1.96 / W.shape[1] ** 0.5,
            meanings=meanings.get(i, ()),
            tested=tested is not None,
            patches=causal.get(i, ((), ()))[0],
            changes=causal.get(i, ((), ()))[1],
        )
        for i in np.flatnonzero(count).tolist()
    ]


# ------------------------------------------------------------------------------- where it is active


@dataclass(frozen=True, slots=True)
class _Fires:
    """Every activation above 0, one entry each; texts are numbered through questions and definitions."""

    feature: Int[np.ndarray, " entry"]
    text: Int[np.ndarray, " entry"]
    position: Int[np.ndarray, " entry"]
    value: Float[np.ndarray, " entry"]


def _fires(dictionary: Dictionary, read: list[Texts], collect: Collect) -> _Fires:
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
    return _Fires(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _examples(task: Task, read: list[Texts], fires: _Fires, *, seed: int) -> dict[int, tuple[Example, ...]]:
    """Each feature's top examples, and those at the quantiles."""
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


def _dense(
    fires: _Fires, key: np.ndarray, wanted: np.ndarray, length: int
) -> Float[np.ndarray, "chosen pos"]:
    """Activations at every token of the wanted (feature, text) pairs, which differ from each other."""
    order = np.argsort(wanted)
    place = np.searchsorted(wanted[order], key).clip(max=len(wanted) - 1)
    hit = wanted[order][place] == key
    found = np.zeros((len(wanted), length))
    found[order[place[hit]], fires.position[hit]] = fires.value[hit]
    return found


def _texts(task: Task, read: Texts) -> list[Text]:
    first, _ = task.vocabulary.integers
    table = read.table
    entity, defined = table["entity"].tolist(), table["defined_entity"].tolist()
    listed = (read.tokens == first + torch.tensor(entity)[:, None]).any(1).tolist()
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
class _AllActivity:
    """`Activity` of all features."""

    kind: Kind
    subsets: tuple[str, ...]
    roles: tuple[str, ...]
    mean: Float[np.ndarray, "feature subset role"]
    rate: Float[np.ndarray, "feature subset role"]


def _activity(read: list[Texts], fires: _Fires, width: int) -> list[_AllActivity]:
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
        found.append(_AllActivity(texts.kind, subsets, roles, total / tokens, count / tokens))
        before += len(texts)
    return found


def _roles(read: Texts) -> tuple[tuple[str, ...], Int[np.ndarray, " pos"]]:
    """Names of the roles in their order, and which of them each position has."""
    firsts = properties.role_names(read)  # the tokens of a role stand together
    names = tuple(firsts.values())
    return names, np.cumsum([label in firsts for label in read.labels]) - 1


def _of_feature(one: _AllActivity, feature: int) -> Activity:
    return Activity(
        kind=one.kind,
        subsets=one.subsets,
        roles=one.roles,
        mean=tuple(map(tuple, one.mean[feature].tolist())),
        rate=tuple(map(tuple, one.rate[feature].tolist())),
    )


# --------------------------------------------------------------------- what its decoder row alone says


def _in_stream(dictionary: Dictionary) -> bool:
    """Whether its decoder rows are vectors of the residual stream."""
    parts = dictionary.write.split(".")
    return len(parts) == 3 and parts[2].removeprefix("hook_") in STREAM_SITES


def _direct(
    c: Components, task: Task, dictionary: Dictionary, W: Tensor, read: list[Texts], collect: Collect
) -> list[DirectEffect] | None:
    asked = [one for one in read if one.kind == "question"]
    if not _in_stream(dictionary) or not asked:
        return None
    last = hook_name("resid_post", c.n_layers - 1)
    x = collect(asked[0].tokens, [last])[last][:, asked[0].labels.index("=")].float()
    W_U = c.W_U.float().cpu()
    logits = frozen_rows(c, W, stream=x) @ W_U
    first, end = task.vocabulary.integers
    integers = logits[:, first:end] - logits[:, first:end].mean(1, keepdim=True)
    most = min(INTEGERS, integers.shape[1] // 2)
    order = integers.sort(dim=1, descending=True, stable=True)
    difference = (logits[:, task.vocabulary.true] - logits[:, task.vocabulary.false]).tolist()
    return [
        DirectEffect(
            difference=own,
            highest=tuple(zip(index[:most], value[:most], strict=True)),
            lowest=tuple(zip(index[::-1][:most], value[::-1][:most], strict=True)),
        )
        for own, index, value in zip(difference, order.indices.tolist(), order.values.tolist(), strict=True)
    ]


def frozen_rows(
    c: Components, rows: Float[Tensor, "feature d_model"], *, stream: Float[Tensor, "example d_model"]
) -> Float[Tensor, "feature d_model"]:
    """The rows as the final layer norm passes them on with its scale at its mean over these final streams.

    Without its shift; the rows themselves in a model without layer norm. Times W_U they are direct contributions to
    the logits.
    """
    norm = c.ln_final
    if norm.w is None:
        return rows
    scale = (stream.var(-1, unbiased=False) + norm.eps).sqrt().mean()
    return (rows - rows.mean(-1, keepdim=True)) / scale * norm.w.float().cpu()


def _near(
    c: Components,
    task: Task,
    dictionary: Dictionary,
    W: Float[Tensor, "feature d"],
    read: list[Texts],
    collect: Collect,
    *,
    seed: int,
    probes: Mapping[str, Tensor],
) -> list[tuple[Near, ...]]:
    """Cosines with the embeddings of the tags, with differences of means, and with the probes."""
    known: dict[str, Tensor] = {}
    if _in_stream(dictionary) and W.shape[1] == c.W_E.shape[1]:
        known |= _tags(c, task)
    known |= _differences(task, dictionary, read, collect, seed=seed)
    for name, direction in probes.items():
        if direction.shape != W.shape[1:]:
            raise MechoclError(
                f"the direction of {name} has {len(direction)} dimensions, the SAE's site {W.shape[1]}; "
                f"give probes of {dictionary.write}"
            )
        known[f"probe {name}"] = direction.float().cpu()
    if not known:
        return [()] * len(W)
    cosine = cosines(W, torch.stack(list(known.values())))
    order = cosine.abs().argsort(dim=1, descending=True, stable=True)
    names = list(known)
    return [
        tuple(Near(name=names[i], cosine=value) for i, value in zip(index, values, strict=True))
        for index, values in zip(order.tolist(), cosine.gather(1, order).tolist(), strict=True)
    ]


def _tags(c: Components, task: Task) -> dict[str, Tensor]:
    found = {}
    for tag in TAGS:
        rows = task.rows(kind="definition", tag=tag)
        tokens = task.tokens[rows][task.roles[rows] == ROLE["tag"]].tolist()
        for token in sorted(set(tokens)):
            name = task.vocabulary.tokens[token]
            found[f"embedding of {name}"] = c.W_E[token].float().cpu()
    return found


def _differences(
    task: Task, dictionary: Dictionary, read: list[Texts], collect: Collect, *, seed: int
) -> Mapping[str, Tensor]:
    """Directions between the means of two subsets, of the aliases that the dictionary has seen."""
    found = {}
    seen = ~unseen_aliases(task, dictionary, share=HELD_OUT, seed=seed)
    for texts in (one for one in read if one.kind == "question"):
        x = flat(collect(texts.tokens, [dictionary.write])[dictionary.write]).float()
        name = [i for i, label in enumerate(texts.labels) if label.split(" ")[0] == "alias"][-1]
        subset = texts.table["subset"].to_numpy()
        known = seen[texts.table["alias"].to_numpy()]
        for position, at in (("alias", name), ("=", texts.labels.index("="))):
            for contrast, (first, second) in _CONTRASTS.items():
                rows = np.flatnonzero(known & np.isin(subset, [first, second]))
                try:
                    direction = difference_of_means(x[rows, at], torch.from_numpy(subset[rows] == first))
                except MechoclError:  # a run without these subsets, or a site that does not tell them apart
                    continue
                found[f"means of {contrast}, at {position}"] = direction[:, 0]
    return found


# ------------------------------------------------------------------------- what was found and tested


def _meanings(found: pd.DataFrame) -> dict[int, tuple[Meaning, ...]]:
    """The properties of each feature, those that it tells most of first, each at its best position.

    The order is that of the information and not of the AUC, which a property of a few examples soon has near 1.
    """
    sure = found[found["what"].isin(["feature", "conjunction"]) & (found["q"] < ALPHA)]
    sure = sure.sort_values(["mutual_information", "q"], ascending=[False, True], kind="stable")
    merged: dict[int, dict[tuple[str, str, int], list[dict[Any, Any]]]] = {}
    for row in sure.to_dict("records"):
        same = (row["property"], row["text"], int(row["sign"]))
        merged.setdefault(int(row["features"]), {}).setdefault(same, []).append(row)
    return {number: tuple(map(_meaning, list(rows.values())[:MEANINGS])) for number, rows in merged.items()}


def _meaning(rows: list[dict[Any, Any]]) -> Meaning:
    best, *others = rows
    return Meaning(
        property=best["property"],
        text=best["text"],
        position=best["position"],
        also=tuple(row["position"] for row in others),
        sign=int(best["sign"]),
        auc=float(best["auc"]),
        mutual_information=float(best["mutual_information"]),
        q=float(best["q"]),
    )


def _causal(tested: pd.DataFrame | None) -> dict[int, tuple[tuple[Patch, ...], tuple[Change, ...]]]:
    """The tests of each feature: patches of it alone or in a set, changes of it alone."""
    if tested is None:
        return {}
    patches: dict[int, list[Patch]] = {}
    changes: dict[int, list[Change]] = {}
    for row in tested[tested["intervention"] == "patch"].to_dict("records"):
        patch = Patch(
            property=row["property"],
            position=row["position"],
            features=_numbers(row),
            effect=float(row["effect"]),
            share=_known(row["share"]),
            control_95=_known(row["control_95"]),
            beats=_known(row["beats"]),
            retrieval=bool(row["retrieval"]),
        )
        for number in patch.features:
            patches.setdefault(number, []).append(patch)
    # a feature may stand for several properties at a position, and the same change was made for each of them
    others = tested[(tested["intervention"] != "patch") & (tested["k"] == 1)]
    others = others.assign(_blind=others["predicted"] == 0).sort_values("_blind", kind="stable")
    others = others.drop_duplicates(["features", "position", "intervention", "subset", "metric"]).sort_index()
    for row in others.to_dict("records"):
        change = Change(
            intervention=row["intervention"],
            position=row["position"],
            subset=row["subset"],
            metric=row["metric"],
            effect=float(row["effect"]),
            predicted=int(row["predicted"]),
            control_95=_known(row["control_95"]),
            beats=_known(row["beats"]),
        )
        changes.setdefault(int(row["features"]), []).append(change)

    def order(p: Patch) -> tuple[bool, bool, float]:
        return len(p.features) > 1, not p.retrieval, -p.effect

    return {
        number: (
            tuple(sorted(patches.get(number, ()), key=order)),
            tuple(changes.get(number, ())),
        )
        for number in patches.keys() | changes.keys()
    }


def _numbers(row: Mapping[Any, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in row["features"].split(","))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
