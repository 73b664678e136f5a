"""Which features the causal test (`effects`) takes up: those that the user names, or the surest that the search found.

They stand for properties that pairs of questions differ in. If the user names no position, features of the search are
left out at positions from which nothing leads to the answer any more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import tyro

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.properties import Property, Texts
from mechocl.features.search import SearchConfig
from mechocl.interventions.subspaces import Place
from mechocl.models.components import Components
from toy_models.task import Task

ALPHA: Final = 0.05
"""Level of the search's false discovery rate, and share of the controls that may do as much."""


_SETS: Final = (4, 16)
"""Sizes of the tested sets. A set is tested where it tells most about the property among the aliases that choose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectsConfig:
    """Which features are tested, and beside how many controls."""

    sae: tyro.conf.Suppress[str] = ""
    """Name of an SAE of the run, or an SAE folder in SAELens's format."""
    site: str = ""
    """Hook point of an SAE that does not name its own."""
    transfer: tyro.conf.Suppress[bool] = False
    """Use an SAE also on weights that it was not trained on."""
    features: tuple[str, ...] = ()
    """Features (193), or sets of features (193,248), to test for `property` at `position`; default: what the search found."""
    property: str = ""
    """Name of a property of the search; default: all that have pairs of questions."""
    position: str = ""
    """Label of a position (alias, %, n1 …, =) of a question; default: where the search found them."""
    best: int = 2
    """Features that are tested for each property, the surest of the search; five times as many for all integers together."""
    controls: int = 40
    """Random features that are tested beside each candidate."""
    n_pairs: int = 200
    """Pairs of questions for a patch."""
    n_questions: int = 360
    """Questions of each subset for ablating and clamping."""
    seed: int = 0
    """Draws the pairs; it is also the seed of the search."""

    def __post_init__(self) -> None:
        settle(self)
        if self.features and not (self.property and self.position):
            raise MechoclError("--features needs --property and --position: what they stand for, and where")
        for name in ("best", "controls", "n_pairs", "n_questions"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")
        for text in self.features:
            if not all(part.strip().isdecimal() for part in text.split(",")):
                raise MechoclError(f"features {text!r}: give numbers of features, as 193 or 193,248")
            if len(set(_numbers(text))) < len(_numbers(text)):
                raise MechoclError(f"features {text!r}: name each feature once")

    def searched(self) -> SearchConfig:
        """The search whose findings are tested."""
        return SearchConfig(sae=self.sae, site=self.site, seed=self.seed, transfer=self.transfer)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Features that stand together for a property at a position."""

    property: Property
    position: str
    features: tuple[int, ...]
    sign: int
    """+1: active on the property's examples; −1: active on the examples without it; 0: features of a set."""
    auc: float
    q: float
    like: tuple[int, ...]
    """Further features that the search found for the same property at the position; they cannot be controls."""


def reaches(c: Components, place: Place, position: str) -> bool:
    """Whether anything leads from a position at a place's site to the answer; after the last attention only `=` does."""
    past = place.site in ("resid_mid", "resid_post", "mlp_out", "attn_out")
    return place.layer < c.n_layers - 1 or not past or position == "="


def candidates(
    task: Task,
    read: Texts,
    search_rows: pd.DataFrame,
    config: EffectsConfig,
    *,
    width: int,
    reaches: Callable[[str], bool] = lambda position: True,
) -> list[Candidate]:
    """What is tested: the features that the user names, or the surest of each property that has pairs, and sets for tags.

    `reaches` says whether anything leads from a position to the answer. Where nothing does, features of the search are
    left out. Raises MechoclError for an unknown property or feature.
    """
    known = {p.name: p for p in properties.text_properties(task, read) if p.pairs}
    if config.property and config.property not in known:
        raise MechoclError(
            f"no property {config.property!r} has pairs of questions that differ in it; use one of {', '.join(known)}"
        )
    position = _label(config.position, read)
    names = [config.property] if config.property else list(known)
    here = search_rows[(search_rows["text"] == "question") & search_rows["property"].isin(names)]
    if position:
        here = here[here["position"] == position]
    elif not config.features:
        here = here[here["position"].map(reaches).astype(bool)]
    sure = here[(here["what"] == "feature") & (here["q"] < ALPHA)]
    chosen = _named_sets(here, config, position) if config.features else _surest_sets(here, sure, config)
    return [_candidate(row, known[row["property"]], sure, width) for row in chosen]


def _named_sets(here: pd.DataFrame, config: EffectsConfig, position: str) -> list[dict[Any, Any]]:
    """The features that the user names, each as its row of the search, or as a row without scores."""
    rows: list[dict[Any, Any]] = []
    for text in config.features:
        same = here["features"].map(lambda other, text=text: set(_numbers(other)) == set(_numbers(text)))
        found = here[same.astype(bool)].head(1).to_dict("records")
        row: dict[Any, Any] = found[0] if found else {"what": "", "sign": 0, "auc": np.nan, "q": np.nan}
        rows.append(row | {"property": config.property, "position": position, "features": text})
    return rows


def _surest_sets(here: pd.DataFrame, sure: pd.DataFrame, config: EffectsConfig) -> list[dict[Any, Any]]:
    """The search's rows of the surest features of each property, then of sets of features for the tags.

    `sure` are the rows of `here` that are of one feature and significant, the surest first.
    """
    integers = sure["group"] == "integer"
    single = [
        sure[~integers].groupby("property", sort=False).head(config.best),
        sure[integers].head(5 * config.best),
    ]
    sets = here[
        (here["what"] == "set") & here["k"].isin(_SETS) & (here["group"] == "tag") & (here["q"] < ALPHA)
    ]
    ranked = sets.sort_values("auc_chosen", ascending=False, kind="stable")
    best = ranked.groupby(["property", "k"], sort=False).head(1)
    return pd.concat([*single, best]).to_dict("records")


def _candidate(row: dict[Any, Any], stands_for: Property, sure: pd.DataFrame, width: int) -> Candidate:
    """A row of the search as a candidate. `sure` are the rows of single features that are significant."""
    numbers = _numbers(row["features"])
    if max(numbers) >= width:
        raise MechoclError(f"feature {max(numbers)}: the SAE has features 0 to {width - 1}")
    alike = sure[(sure["property"] == stands_for.name) & (sure["position"] == row["position"])]
    return Candidate(
        property=stands_for,
        position=row["position"],
        features=numbers,
        sign=int(row["sign"]) if row["what"] == "feature" else 0,
        auc=float(row["auc"]),
        q=float(row["q"]),
        like=tuple({int(text) for text in alike["features"]} - set(numbers)),
    )


def _numbers(text: str) -> tuple[int, ...]:
    """`193,248` as numbers."""
    return tuple(int(part) for part in text.split(","))


def _label(position: str, read: Texts) -> str:
    """The label that a position has in the texts; for a name of several tokens it is that of the last one."""
    found = [label for label in read.labels if label == position or label.startswith(f"{position} ")]
    return found[-1] if position and found else position
