"""Everything that is known about each feature of a dictionary: where it is active, what it stands for, what it does.

A page puts together the texts on which a feature is active (`firing`), what the search (`search`) and the causal test
(`effects`) have found, and what its decoder row alone says (`decoder_rows`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float
from torch import Tensor

from mechocl.features import decoder_rows, firing, properties
from mechocl.features.candidates import ALPHA
from mechocl.features.decoder_rows import DirectEffect, Near
from mechocl.features.dictionaries import Dictionary, check_fits
from mechocl.features.firing import Activity, Example
from mechocl.models.components import take_apart
from mechocl.models.seam import Transformer
from mechocl.runs.activation_cache import Collect
from toy_models.task import Task

MEANINGS: Final = 12
"""Number of properties of a feature that are listed, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """A property that the feature is selective for (q < 0.05 in the search), at its most informative position."""

    property: str
    text: str
    position: str
    also: tuple[str, ...]
    """Other positions of these texts where it is selective for the property with the same sign."""
    sign: int
    """+1: active on the property's examples; −1: active on the examples without it."""
    auc: float
    mutual_information: float
    """In bits."""
    q: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """What exchanging the feature's activation between two runs does; see `effects`."""

    property: str
    position: str
    features: tuple[int, ...]
    """All features that were changed together."""
    effect: float | None
    """Effect on the logit difference, in nats, positive towards the other run. None: nothing was exchanged (not measured)."""
    share: float | None
    """Effect as a share of what exchanging everything at the position does."""
    control_95: float | None
    """Effect that 95 % of matched random features stay below."""
    beats: float | None
    """Share of these features with a smaller effect."""
    retrieval: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What setting the feature alone to 0 (ablate) or to its mean where active (clamp) does to a subset; see `effects`."""

    intervention: str
    position: str
    subset: str
    metric: str
    """`logit_difference` (nats, right − wrong answer) or `within_alias_auc`."""
    effect: float | None
    """None: nothing was exchanged (not measured)."""
    predicted: int
    """Sign that the property predicts; 0 if it predicts none, so that effects and controls are compared in size."""
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
    """Norm of its decoder row."""
    examples: tuple[Example, ...]
    """Questions, then definitions; in each the top examples, then those at the quantiles. No text comes twice."""
    activity: tuple[Activity, ...]
    """Activity in questions and in definitions."""
    direct: DirectEffect | None
    """None where the dictionary writes at a site outside the residual stream."""
    near: tuple[Near, ...]
    """Known directions near its decoder row, with the largest |cosine| first."""
    chance_cosine: float
    """Value that |cosine| of 95 % of random directions stays below, 1.96 / √d."""
    meanings: tuple[Meaning, ...]
    """Properties with the most information first, at most 12."""
    tested: bool
    """Whether there was a causal test, even if only of other features."""
    patches: tuple[Patch, ...]
    """Patches of the feature alone come first, then those with retrieval, then large effects before small ones."""
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
    search_rows: pd.DataFrame,
    tested: pd.DataFrame | None,
    collect: Collect,
    seed: int,
    probes: Mapping[str, Float[Tensor, " d"]] | None = None,
) -> list[FeaturePage]:
    """A page for every feature that is active in a question or definition of `properties.texts`, by number.

    Args:
        model: the model of the dictionary.
        task: task whose texts are shown.
        dictionary: a sparse autoencoder or transcoder.
        search_rows: rows of `search.search`.
        tested: rows of `effects.effects`; None if there was no causal test.
        collect: gives the model's activations.
        seed: seed of the search. It draws the texts, the held-out aliases if the dictionary does not name them, and the
            order of equal activations.
        probes: directions of probes at the dictionary's site, of the same width.

    Raises MechoclError for a dictionary of another model, a probe of another width, and where `take_apart` does.
    """
    check_fits(dictionary, model, task)
    c = take_apart(model)
    read = properties.texts(task, seed=seed)
    fires = firing.fires(dictionary, read, collect)
    W = dictionary.W_dec.float().cpu()
    direct = decoder_rows.direct_effects(c, task, dictionary, W, read, collect)
    near = decoder_rows.near(c, task, dictionary, W, read, collect, seed=seed, probes=probes or {})
    examples = firing.examples(task, read, fires, seed=seed)
    activity = firing.activity(read, fires, dictionary.width)
    meanings, causal = _meanings(search_rows), _causal(tested)
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
            activity=tuple(firing.feature_activity(one, i) for one in activity),
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


# ------------------------------------------------------------------------- what was found and tested


def _meanings(search_rows: pd.DataFrame) -> dict[int, tuple[Meaning, ...]]:
    """The properties of each feature, each at its best position, with the most informative first.

    The order is that of the information and not of the AUC, which is easily near 1 for a property of few examples.
    """
    sure = search_rows[search_rows["what"].isin(["feature", "conjunction"]) & (search_rows["q"] < ALPHA)]
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
            effect=_known(row["effect"]),
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
            effect=_known(row["effect"]),
            predicted=int(row["predicted"]),
            control_95=_known(row["control_95"]),
            beats=_known(row["beats"]),
        )
        changes.setdefault(int(row["features"]), []).append(change)

    def order(p: Patch) -> tuple[bool, bool, float]:
        return len(p.features) > 1, not p.retrieval, -(p.effect or 0.0)

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
