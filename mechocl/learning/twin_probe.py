"""Can the tag be read from the embedding that a definition wrote? A linear probe over twins, and over d1 against d2.

Twins are two embeddings of one alias, written under tag 1 and under tag 2 from the same weights. A probe that is trained on
some aliases and tells the two apart for others reads the tag and not the alias. d1 against d2 of the run is the usual
comparison, of aliases that differ in more than their tags, and the same before the stage shows what that is worth.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.learning.examples import list_defined
from mechocl.learning.exchange import Twins, find_twins
from mechocl.learning.twins import D1, D2
from mechocl.models.seam import Transformer
from mechocl.shares import in_shares
from toy_models.randomness import generator
from toy_models.task import Task

PAIRS: Final = "twins"
CENTRED: Final = "twins, centred"
RUN: Final = "d1 and d2"
BEFORE: Final = "d1 and d2 before the stage"

_C: Final = 0.01
"""Inverse strength of the penalty, for standardised features; that of arXiv 2310.15047."""

_ITERATIONS: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinProbeConfig:
    """How the tag is read from embeddings."""

    aliases_per_subset: int | None = None
    """Aliases of d1 and of d2, the first ones; none takes all."""
    folds: int = 5
    """Folds of the cross-validation. An alias is in one of them, with both of its embeddings."""
    shuffles: int = 10
    """Times that the labels are shuffled: between the two embeddings of an alias, or among the aliases."""
    seed: int = 0
    """Seed of the folds and of the shuffles."""

    def __post_init__(self) -> None:
        settle(self)
        for name, least in (("folds", 2), ("shuffles", 1)):
            if getattr(self, name) < least:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least {least}")
        if self.aliases_per_subset is not None and self.aliases_per_subset < self.folds:
            raise MechoclError(
                f"aliases_per_subset is {self.aliases_per_subset}; use at least one for each of the {self.folds} folds, or none for all"
            )


@dataclass(frozen=True, slots=True)
class _Examples:
    """Embeddings, and whether each was written under tag 1."""

    features: Float[np.ndarray, "example d_model"]
    first_tag: Bool[np.ndarray, " example"]
    alias: Int[np.ndarray, " example"]
    """Index of the alias of each."""
    paired: bool
    """Whether each alias has one of each tag."""

    def shuffled(self, seed: int, draw: int) -> Bool[np.ndarray, " example"]:
        """Labels of no meaning: exchanged in half of the pairs by chance, or permuted where there are no pairs."""
        draws = np.random.default_rng(generator(seed, "twins", "shuffle", draw).initial_seed())
        if self.paired:
            turned: np.ndarray = draws.random(self.alias.max() + 1) < 0.5
            labels: np.ndarray = self.first_tag ^ turned[self.alias]
            return labels
        return draws.permutation(self.first_tag)


def probe_study(
    model: Transformer, twin: Transformer, before: Transformer, task: Task, config: TwinProbeConfig
) -> pd.DataFrame:
    """How well the tag is read from embeddings of aliases that the probe was not trained on.

    The columns are `mechocl.analyses.columns.TWIN_PROBE`. `before` is the run's model before its last stage. Raises
    MechoclError as `exchange.find_twins` does, and for fewer aliases than folds.
    """
    if why := why_no_probe(task, config):
        raise MechoclError(f"{why}; use at most so many folds")
    twins = find_twins(model, twin, task, most=config.aliases_per_subset)
    started = find_twins(before, before, task, most=config.aliases_per_subset)
    folds = _folds(twins, config)
    found = []
    for what, examples in in_shares(_examples(twins, started)):
        auc = _score(examples, examples.first_tag, folds)
        nulls = [
            _score(examples, examples.shuffled(config.seed, draw), folds) for draw in range(config.shuffles)
        ]
        null = float(np.mean(nulls))
        found.append(
            {
                "embeddings": what, "auc": auc, "auc_shuffled": null, "effect": auc - null,
                "aliases": len(twins.table), "examples": len(examples.alias),
            }
        )  # fmt: skip
    return pd.DataFrame(found)


def why_no_probe(task: Task, config: TwinProbeConfig) -> str:
    """Why the tag cannot be read from new aliases' embeddings in a task; "" if it can."""
    aliases = list_defined(task, stage=2, most=None)["subset"].value_counts().reindex([D1, D2], fill_value=0)
    least = int(aliases.min())
    return (
        ""
        if least >= config.folds
        else f"d1 and d2 have {least} aliases each, and there are {config.folds} folds"
    )


def _examples(twins: Twins, started: Twins) -> list[tuple[str, _Examples]]:
    """What is read from."""
    first = (twins.table["subset"] == D1).to_numpy()
    own, other = (one.double().cpu().numpy() for one in (twins.own, twins.twin))
    number = np.arange(len(first))
    both, labels, aliases = np.concatenate([own, other]), np.concatenate([first, ~first]), np.tile(number, 2)
    mean = np.tile((own + other) / 2, (2, 1))
    return [
        (PAIRS, _Examples(both, labels, aliases, True)),
        (CENTRED, _Examples(both - mean, labels, aliases, True)),
        (RUN, _Examples(own, first, number, False)),
        (BEFORE, _Examples(started.own.double().cpu().numpy(), first, number, False)),
    ]


def _folds(twins: Twins, config: TwinProbeConfig) -> Int[np.ndarray, " alias"]:
    """The fold of each alias; each fold has as many of d1 as of d2, but for one."""
    draws = np.random.default_rng(generator(config.seed, "twins", "folds").initial_seed())
    found = np.zeros(len(twins.table), dtype=int)
    for subset in twins.table["subset"].unique():
        members = draws.permutation(np.flatnonzero(twins.table["subset"] == subset))
        found[members] = np.arange(len(members)) % config.folds
    return found


def _score(
    examples: _Examples, labels: Bool[np.ndarray, " example"], folds: Int[np.ndarray, " alias"]
) -> float:
    """Mean over the folds of the AUC on held-out aliases.

    Folds with labels of one kind, which shuffling may leave in small tasks, are left out; NaN where there are no others.
    """
    of = folds[examples.alias]
    scores = []
    for fold in np.unique(folds):
        train, test = of != fold, of == fold
        if len(set(labels[train])) < 2 or len(set(labels[test])) < 2:
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=_ITERATIONS))
        probe.fit(examples.features[train], labels[train])
        scores.append(roc_auc_score(labels[test], probe.decision_function(examples.features[test])))
    return float(np.mean(scores)) if scores else float("nan")
