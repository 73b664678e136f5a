"""Linear probes, scored on aliases that they were not fitted on."""

from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.splits import alias_folds, check_no_leak, scorable

_INNER_FOLDS: Final = 3
_MAX_ITERATIONS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How a probe is fitted and scored."""

    method: Literal["logistic", "ridge"]
    """`logistic`: scikit-learn's LogisticRegression, the reference for two classes. `ridge`: its
    RidgeClassifier (least squares on ±1), much faster for many classes."""
    regularisation: tuple[float, ...]
    """Inverse strength C (logistic) or strength α (ridge), for standardised features. One value is used as
    it is; among several, the one with the best balanced accuracy on held-out aliases of the training
    folds is used, the earlier one on a tie."""
    n_folds: int = 5
    """Folds of the cross-validation over aliases."""
    seed: int = 0
    """Decides which aliases share a fold."""

    def __post_init__(self) -> None:
        if self.method not in ("logistic", "ridge"):
            raise ValueError(f"method is {self.method!r}; use 'logistic' or 'ridge'")
        if not self.regularisation:
            raise ValueError("regularisation is empty; give at least one value")
        for value in self.regularisation:
            if not 0 < value < np.inf:
                raise ValueError(f"regularisation has {value}; values must be positive and finite")
        if self.n_folds < 2:
            raise ValueError(f"n_folds is {self.n_folds}; cross-validation needs at least 2")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed is {self.seed}; it must be at least 0 and below 2**32")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeScore:
    """What a probe says about each example when the example's alias was held out."""

    classes: Shaped[np.ndarray, " class"]
    """The target's classes, ascending. For two classes, the second one is the positive class."""
    predicted: Shaped[np.ndarray, " example"]
    """Class predicted by the probe of the fold in which the example was tested."""
    correct: Bool[np.ndarray, " example"]
    """Whether that is the example's class."""
    score: Float[np.ndarray, " example"] | None
    """Two classes: decision value, in the fitted probe's own unit, above 0 for the positive class. Each
    fold has its own probe: compare values within a fold. None for more classes."""
    fold: Int[np.ndarray, " example"]
    """Fold in which the example was tested, 0 … n_folds − 1."""
    regularisation: tuple[float, ...]
    """Value used in each fold."""
    balanced_accuracy: float
    """Mean over classes of the share of their examples that are predicted right, 0 … 1."""
    auc: float
    """Two classes: `auc_within_folds`, 0 … 1. NaN for more classes."""
    chance: float
    """Balanced accuracy of any prediction that does not depend on the example: 1 / number of classes."""


def cross_validate(
    x: Float[np.ndarray, "example feature"],
    target: Shaped[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    *,
    config: ProbeConfig,
) -> ProbeScore:
    """Fit a linear probe of `target` and predict every example from a probe that has not seen its alias.

    Features are standardised, and the regularisation chosen, inside the training folds. Classes are
    weighted equally (`class_weight="balanced"`), since the balanced accuracy is the score: otherwise the
    intercept follows the class that happens to be frequent in training, which is the rarer one in test.

    Args:
        x: activations, one row per example.
        target: class of each example: integers, booleans or strings.
        alias: name or index of each example's alias.
        config: method, regularisation, folds, seed.

    Returns:
        Out-of-fold predictions in the order of the examples, and their summary.

    Raises:
        ValueError: shapes do not match; `x` has no feature, NaN or infinity; `alias_folds` finds no split;
            or a training fold has too few aliases to choose among regularisation values.
    """
    features = _checked_features(x, target)
    folds = alias_folds(alias, target, n_folds=config.n_folds, seed=config.seed)
    classes = np.unique(target)
    binary = len(classes) == 2
    predicted = np.empty_like(target)
    score = np.full(len(target), np.nan)
    fold = np.empty(len(target), dtype=np.int64)
    used = []
    for k, (train, test) in enumerate(folds):
        check_no_leak(alias, train, test)
        used.append(_choose(features[train], target[train], alias[train], config))
        probe = _probe(config.method, used[-1]).fit(features[train], target[train])
        predicted[test] = probe.predict(features[test])
        fold[test] = k
        if binary:
            score[test] = probe.decision_function(features[test])
    correct = predicted == target
    return ProbeScore(
        classes=classes,
        predicted=predicted,
        correct=correct,
        score=score if binary else None,
        fold=fold,
        regularisation=tuple(used),
        balanced_accuracy=balanced_accuracy(correct, target),
        auc=auc_within_folds(score, target == classes[1], fold) if binary else float("nan"),
        chance=1 / len(classes),
    )


def balanced_accuracy(correct: Bool[np.ndarray, " example"], target: Shaped[np.ndarray, " example"]) -> float:
    """Mean over the classes in `target` of the share of their examples that are correct, 0 … 1.

    Of a subset of the examples, pass `correct[subset]` and `target[subset]`. NaN for no examples.
    """
    _, class_index = np.unique(target, return_inverse=True)
    if len(class_index) == 0:
        return float("nan")
    return float(np.mean(np.bincount(class_index, weights=correct) / np.bincount(class_index)))


def auc_within_folds(
    score: Float[np.ndarray, " example"],
    positive: Bool[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
) -> float:
    """Share of pairs (positive, negative) of one fold in which the positive scores higher; ties count half.

    Pairs across folds are left out: their scores come from different probes, and a fold with more
    positives was scored by a probe that saw fewer, which pulls a pooled AUC below 0.5 where there is no
    signal (Parker, Günter & Bedo 2007, BMC Bioinformatics 8:326; Forman & Scholz 2010, SIGKDD
    Explorations 12:1). NaN if no fold has both classes.
    """
    wins, pairs = 0.0, 0
    for k in np.unique(fold):
        ranks, is_positive = rankdata(score[fold == k]), positive[fold == k]
        n_positive = int(is_positive.sum())
        wins += ranks[is_positive].sum() - n_positive * (n_positive + 1) / 2
        pairs += n_positive * (len(ranks) - n_positive)
    return float(wins / pairs) if pairs else float("nan")


def _checked_features(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A float64 copy of `x`, which is known to be a finite matrix with a row per example."""
    if x.ndim != 2 or x.shape[1] == 0:
        raise ValueError(f"x has shape {x.shape}; expected (examples, features) with at least one feature")
    if target.shape != x.shape[:1]:
        raise ValueError(f"x has {len(x)} rows but target has shape {target.shape}; expected ({len(x)},)")
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        example, feature = bad[0]
        raise ValueError(
            f"x has {len(bad)} values that are not finite, the first being {x[example, feature]} at example "
            f"{example}, feature {feature}; drop or repair those examples"
        )
    return np.array(x, dtype=np.float64)


def _probe(method: Literal["logistic", "ridge"], value: float) -> Any:
    """An unfitted scikit-learn pipeline."""
    if method == "logistic":
        model = LogisticRegression(C=value, class_weight="balanced", max_iter=_MAX_ITERATIONS)
    else:
        model = RidgeClassifier(alpha=value, class_weight="balanced")
    return make_pipeline(StandardScaler(), model)


def _choose(x: np.ndarray, target: np.ndarray, alias: np.ndarray, config: ProbeConfig) -> float:
    """The regularisation with the best balanced accuracy over inner folds by alias."""
    if len(config.regularisation) == 1:
        return config.regularisation[0]
    keep = scorable(alias, target)  # a class with two aliases has one left in some training folds
    x, target, alias = x[keep], target[keep], alias[keep]
    try:
        folds = alias_folds(alias, target, n_folds=_INNER_FOLDS, seed=config.seed)
    except ValueError as error:
        raise ValueError(
            f"a training fold has too few aliases to choose among {len(config.regularisation)} values of "
            f"regularisation; give one value ({error})"
        ) from error
    accuracies = []
    for value in config.regularisation:
        correct = np.empty(len(target), dtype=bool)
        for train, test in folds:
            check_no_leak(alias, train, test)
            probe = _probe(config.method, value).fit(x[train], target[train])
            correct[test] = probe.predict(x[test]) == target[test]
        accuracies.append(balanced_accuracy(correct, target))
    return config.regularisation[int(np.argmax(accuracies))]
