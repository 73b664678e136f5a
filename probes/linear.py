"""Linear probes, scored on aliases that they were not fitted on."""

import warnings
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.special import expit, logsumexp
from scipy.stats import rankdata
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.splits import alias_folds, check_no_leak, scorable

Method = Literal["logistic", "ridge", "difference-of-means", "whitened-difference-of-means"]

METHODS: Final = get_args(Method)

INNER_FOLDS: Final = 3
"""Folds, by alias, among which the regularisation is chosen."""

_MAX_ITERATIONS: Final = 10_000
_TOLERANCE: Final = 1e-7
_BINS: Final = 10
"""Bins of confidence of the expected calibration error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeConfig:
    """How a probe is fitted and scored."""

    method: Method
    """`logistic` is scikit-learn's LogisticRegression, multinomial for more than two classes. `ridge` is its
    RidgeClassifier (least squares on ±1), which is much faster for many classes. `difference-of-means` takes the class
    whose mean is nearest. `whitened-difference-of-means` does this in the metric of the classes' pooled covariance; it
    is scikit-learn's LinearDiscriminantAnalysis."""
    regularisation: tuple[float, ...]
    """Inverse strength C (logistic), strength α (ridge) or shrinkage of the covariance, 0 … 1 (whitened), for
    standardised features; a difference of means has no regularisation, and takes any one value. One value is used as
    it is; among several, the one with the best balanced accuracy on held-out aliases of the training
    folds is used, the earlier one on a tie."""
    n_folds: int = 5
    """Folds of the cross-validation over aliases."""
    seed: int = 0
    """Decides which aliases share a fold."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; use {', '.join(map(repr, METHODS))}")
        if not self.regularisation:
            raise ValueError("regularisation is empty; give at least one value")
        for value in self.regularisation:
            if not 0 < value < np.inf:
                raise ValueError(f"regularisation has {value}; values must be positive and finite")
            if self.method.startswith("whitened") and value > 1:
                raise ValueError(f"regularisation has {value}; a shrinkage is from 0 to 1")
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
    """Whether the predicted class is the example's class."""
    score: Float[np.ndarray, " example"] | None
    """For two classes the decision value, in the fitted probe's own unit, above 0 for the positive class. Each
    fold has its own probe, so compare values within a fold only. None for more classes."""
    fold: Int[np.ndarray, " example"]
    """Fold in which the example was tested, 0 … n_folds − 1."""
    regularisation: tuple[float, ...]
    """Value that was used in each fold."""
    balanced_accuracy: float
    """Mean over classes of the share of their examples that are predicted right, 0 … 1."""
    auc: float
    """`auc_within_folds`, 0 … 1, 0.5 at chance; of more than two classes the mean of each against the rest."""
    log_loss: float
    """Mean −log probability of the right class, in nats; NaN for a method without probabilities (ridge)."""
    calibration_error: float
    """Expected calibration error, see `calibration_error`; NaN without probabilities."""
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
    classes, code = np.unique(target, return_inverse=True)
    fold = np.empty(len(target), dtype=np.int64)
    for k, (train, test) in enumerate(alias_folds(alias, target, n_folds=config.n_folds, seed=config.seed)):
        check_no_leak(alias, train, test)
        fold[test] = k
    decision, used = held_out(features, code, alias, fold, config)
    predicted = classes[_best(decision)]
    correct = predicted == target
    likely = probability(decision) if has_probability(config.method) else None
    return ProbeScore(
        classes=classes,
        predicted=predicted,
        correct=correct,
        score=decision[:, 0] if len(classes) == 2 else None,
        fold=fold,
        regularisation=used,
        balanced_accuracy=balanced_accuracy(correct, target),
        auc=auc_of_classes(decision, code, fold),
        log_loss=float("nan") if likely is None else log_loss(likely, code),
        calibration_error=float("nan") if likely is None else calibration_error(likely, code),
        chance=1 / len(classes),
    )


def held_out(
    x: Float[np.ndarray, "example feature"],
    code: Int[np.ndarray, " example"],
    alias: Shaped[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
    config: ProbeConfig,
) -> tuple[Float[np.ndarray, "example output"], tuple[float, ...]]:
    """Decision value of every example by the probe of the fold that it was held out of, with scikit-learn.

    Args:
        x: activations, one row per example.
        code: class of each example, 0, 1, …
        alias: what the folds that choose the regularisation are split by.
        fold: fold in which each example is tested.
        config: method and regularisation.

    Returns:
        One column of decision values of class 1, or one column for each class; and the regularisation of each fold.
    """
    classes = np.unique(code)
    decision = np.empty((len(code), 1 if len(classes) == 2 else len(classes)))
    used = []
    for k in np.unique(fold):
        train, test = fold != k, fold == k
        used.append(_choose(x[train], code[train], alias[train], config))
        probe = _probe(config.method, used[-1]).fit(x[train], code[train])
        decision[test] = _columns(probe, x[test], classes)
    return decision, tuple(used)


def _best(decision: np.ndarray) -> np.ndarray:
    """Predicted class; with two classes it is the first one where the decision value is exactly 0."""
    return (decision[:, 0] > 0).astype(int) if decision.shape[1] == 1 else decision.argmax(axis=1)


def balanced_accuracy(correct: Bool[np.ndarray, " example"], target: Shaped[np.ndarray, " example"]) -> float:
    """Mean over the classes in `target` of the share of their examples that are correct, 0 … 1.

    For a subset of the examples, pass `correct[subset]` and `target[subset]`. It is NaN without examples.
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
    Explorations 12:1). It is NaN if no fold has both classes.
    """
    wins, pairs = 0.0, 0
    for k in np.unique(fold):
        ranks, is_positive = rankdata(score[fold == k]), positive[fold == k]
        n_positive = int(is_positive.sum())
        wins += ranks[is_positive].sum() - n_positive * (n_positive + 1) / 2
        pairs += n_positive * (len(ranks) - n_positive)
    return float(wins / pairs) if pairs else float("nan")


def auc_of_classes(
    decision: Float[np.ndarray, "example output"],
    code: Int[np.ndarray, " example"],
    fold: Int[np.ndarray, " example"],
) -> float:
    """`auc_within_folds` of two classes, or its mean over the classes, each against the rest.

    Args:
        decision: one column of scores of class 1, or one column for each class.
        code: class of each example, 0, 1, …
        fold: fold in which the example was tested.
    """
    if decision.shape[1] == 1:
        return auc_within_folds(decision[:, 0], code == 1, fold)
    each = [auc_within_folds(decision[:, c], code == c, fold) for c in range(decision.shape[1])]
    return float(np.mean(each))


def has_probability(method: Method) -> bool:
    """Whether a method's decision values are log-odds (logits of the classes)."""
    return method in ("logistic", "whitened-difference-of-means")


def probability(decision: Float[np.ndarray, "example output"]) -> Float[np.ndarray, "example class"]:
    """Class probabilities: the sigmoid of one column of log-odds, or the softmax over one column for each class."""
    if decision.shape[1] == 1:
        return np.concatenate([expit(-decision), expit(decision)], axis=1)
    found: Float[np.ndarray, "example class"] = np.exp(decision - logsumexp(decision, axis=1, keepdims=True))
    return found


def log_loss(likely: Float[np.ndarray, "example class"], code: Int[np.ndarray, " example"]) -> float:
    """Mean −log probability of the right class, in nats; log K for K classes is what knowing nothing costs."""
    right = likely[np.arange(len(code)), code].astype(np.float64)  # 1e-300 is 0 in float32
    return float(-np.log(np.maximum(right, 1e-300)).mean())


def calibration_error(likely: Float[np.ndarray, "example class"], code: Int[np.ndarray, " example"]) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3), 0 … 1, of the predicted class.

    It is the mean over ten equal bins of confidence of |accuracy − mean confidence|, weighted by their examples.
    """
    confidence, right = likely.max(axis=1), likely.argmax(axis=1) == code
    which = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(which, weights=right - confidence, minlength=_BINS)
    return float(np.abs(gap).sum() / len(code))


def _checked_features(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A float64 copy of `x`. Raises ValueError when `x` is not a finite matrix with one row per example."""
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


def _probe(method: Method, value: float) -> Any:
    """An unfitted scikit-learn pipeline."""
    if method == "logistic":
        model = LogisticRegression(C=value, class_weight="balanced", max_iter=_MAX_ITERATIONS, tol=_TOLERANCE)
    elif method == "ridge":
        model = RidgeClassifier(alpha=value, class_weight="balanced")
    elif method == "whitened-difference-of-means":
        model = _EqualPriors(solver="lsqr", shrinkage=value)
    else:  # with a covariance shrunk to a multiple of the identity the nearest mean decides
        # features are centred; else the values of one class would rank examples by where the origin happens to be
        return make_pipeline(StandardScaler(with_std=False), _EqualPriors(solver="lsqr", shrinkage=1.0))
    return make_pipeline(StandardScaler(), model)


class _EqualPriors(LinearDiscriminantAnalysis):  # type: ignore[misc]
    """scikit-learn's LinearDiscriminantAnalysis, with all classes weighted equally whatever their size."""

    def fit(self, x: np.ndarray, y: np.ndarray) -> "_EqualPriors":
        counts = np.unique(y, return_counts=True)[1]
        self.priors = np.full(len(counts), 1 / len(counts))
        if counts.max() == 1:
            raise ValueError(
                "a training fold has one example of each class, which says nothing of their spread; use more aliases, or a "
                "larger n_folds"
            )
        if counts.min() == 1:
            warnings.warn(
                "a training fold of a probe has a single example of a class; use more aliases, or a larger n_folds",
                stacklevel=1,
            )
        with warnings.catch_warnings():  # the covariance of one example is 0, as it should be here
            warnings.filterwarnings("ignore", message="Only one sample available", category=UserWarning)
            super().fit(x, y)
        return self


def _columns(probe: Any, x: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Decision values, one column for each of `classes` (two classes: one column); −∞ for a class that was not fitted."""
    found = probe.decision_function(x)
    if found.ndim == 1 and len(classes) == 2:
        return np.asarray(found)[:, None]
    seen = np.searchsorted(classes, probe.classes_)
    columns = np.full((len(x), len(classes)), -np.inf)
    columns[:, seen] = np.stack([-found, found], axis=1) if found.ndim == 1 else found
    return columns


def _choose(x: np.ndarray, target: np.ndarray, alias: np.ndarray, config: ProbeConfig) -> float:
    """The regularisation with the best balanced accuracy over inner folds by alias."""
    if len(config.regularisation) == 1:
        return config.regularisation[0]
    keep = scorable(alias, target)  # a class with two aliases has one left in some training folds
    x, target, alias = x[keep], target[keep], alias[keep]
    try:
        folds = alias_folds(alias, target, n_folds=INNER_FOLDS, seed=config.seed)
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
