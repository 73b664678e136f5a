"""Linear probes: known answers, parity with plain scikit-learn, leaks, controls, bad inputs."""

import dataclasses
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings, strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

import mechocl.probing
from probes import linear, splits
from probes.controls import random_label_per_alias, shuffle_by_alias
from probes.linear import (
    METHODS,
    ProbeConfig,
    auc_of_classes,
    auc_within_folds,
    balanced_accuracy,
    calibration_error,
    cross_validate,
    log_loss,
    probability,
)
from probes.splits import alias_folds, check_no_leak, scorable, united

LOGISTIC = ProbeConfig(method="logistic", regularisation=(0.01,), n_folds=5, seed=0)
RIDGE = ProbeConfig(method="ridge", regularisation=(100.0,), n_folds=5, seed=0)
MEANS = ProbeConfig(method="difference-of-means", regularisation=(1.0,), n_folds=5, seed=0)
WHITENED = ProbeConfig(method="whitened-difference-of-means", regularisation=(0.1,), n_folds=5, seed=0)
EVERY = pytest.mark.parametrize("config", [LOGISTIC, RIDGE, MEANS, WHITENED], ids=lambda c: c.method)


def two_gaussians(n: int, features: int, *, distance: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` points, half from each of two unit Gaussians whose means are `distance` apart on a random axis."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=features)
    target = rng.permutation(np.arange(n) % 2)
    return rng.normal(size=(n, features)) + np.outer(
        target - 0.5, distance * axis / np.linalg.norm(axis)
    ), target


def fingerprints(*, aliases: int, each: int, features: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Activations that say which alias an example has, and nothing else; the alias of each example."""
    rng = np.random.default_rng(seed)
    alias = np.repeat(np.arange(aliases), each)
    return rng.normal(size=(aliases, features))[alias] + 0.1 * rng.normal(size=(len(alias), features)), alias


def folds_over_examples(alias: np.ndarray, *_: object, **__: object) -> list[tuple[np.ndarray, np.ndarray]]:
    """The mistake that alias folds prevent: aliases on both sides."""
    return list(KFold(5, shuffle=True, random_state=0).split(alias))


@pytest.fixture
def unchecked() -> Iterator[None]:
    """As users run it: without the suite's run-time check of shapes, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# Known answers


@EVERY
@pytest.mark.parametrize("distance", [1.0, 2.0])
def test_planted_direction_reaches_the_bayes_rate(config: ProbeConfig, distance: float) -> None:
    """Unit Gaussians at ∓d/2 on an axis: the best rule is the sign, right when noise stays below d/2: Φ(d/2).

    A positive and a negative differ by d plus noise of variance 2 on that axis, so the AUC is Φ(d/√2).
    Estimating 16 weights and a threshold from 1600 examples costs at most a percent; the standard error
    of a share of 2000 is 1.1 percent at most.
    """
    x, target = two_gaussians(2000, 16, distance=distance, seed=1)
    result = cross_validate(x, target, np.arange(2000), config=config)
    assert result.balanced_accuracy == pytest.approx(norm.cdf(distance / 2), abs=0.025)
    assert result.auc == pytest.approx(norm.cdf(distance / np.sqrt(2)), abs=0.025)
    assert result.chance == 0.5


def test_many_classes_reach_the_bayes_rate() -> None:
    """30 unit Gaussians at m·e₀ … m·e₂₉: the best rule is the largest coordinate.

    The right one is m + z and beats the 29 others, each standard normal, with probability Φ(z + m)²⁹:
    accuracy ∫ φ(z) Φ(z + m)²⁹ dz. By symmetry regression on class indicators ranks coordinates alike.
    A coordinate is m + z for its own class and z for the others, so each class's AUC against the rest is Φ(m/√2).
    """
    m, k = 3.0, 30
    bayes, _ = quad(lambda z: norm.pdf(z) * norm.cdf(z + m) ** (k - 1), -8, 8)
    rng = np.random.default_rng(2)
    target = np.arange(3000) % k
    x = rng.normal(size=(3000, 40)) + m * np.eye(k, 40)[target]
    rotation, _ = np.linalg.qr(rng.normal(size=(40, 40)))
    result = cross_validate(x @ rotation, target, np.arange(3000), config=RIDGE)
    assert 0.75 < bayes < 0.85
    assert result.balanced_accuracy == pytest.approx(bayes, abs=0.03)
    assert result.chance == pytest.approx(1 / 30)
    assert result.score is None
    assert result.auc == pytest.approx(norm.cdf(m / np.sqrt(2)), abs=0.015)


@EVERY
@pytest.mark.parametrize("n_classes", [2, 10])
def test_pure_noise_is_chance(config: ProbeConfig, n_classes: int) -> None:
    """Standard error of a share of 2000: at most 1.1 percent."""
    rng = np.random.default_rng(3)
    result = cross_validate(
        rng.normal(size=(2000, 32)), rng.integers(n_classes, size=2000), np.arange(2000), config=config
    )
    assert result.balanced_accuracy == pytest.approx(1 / n_classes, abs=0.035)
    assert result.auc == pytest.approx(0.5, abs=0.035)


@EVERY
@pytest.mark.parametrize("positives", [100, 101, 37])
def test_constant_activations_score_chance_without_warnings(config: ProbeConfig, positives: int) -> None:
    """No pair can be ranked: the AUC is 0.5 exactly. A constant prediction has balanced accuracy 0.5."""
    target = (np.arange(200) < positives).astype(int)
    result = cross_validate(np.full((200, 8), 0.1), target, np.arange(200), config=config)
    assert result.auc == 0.5
    assert result.balanced_accuracy == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("config", [LOGISTIC, RIDGE, MEANS], ids=lambda c: c.method)
def test_constant_features_beside_others_change_nothing(config: ProbeConfig) -> None:
    """Not so for the whitened means: a covariance is shrunk towards its mean diagonal, to which they belong."""
    x, target = two_gaussians(300, 4, distance=2, seed=4)
    wider = np.hstack([x, np.full((300, 2), 7.0)])
    plain, beside = (cross_validate(a, target, np.arange(300), config=config) for a in (x, wider))
    np.testing.assert_array_equal(plain.predicted, beside.predicted)


def test_unequal_classes_score_chance_on_noise() -> None:
    """A class nine times as frequent pulls neither the prediction nor the AUC."""
    rng = np.random.default_rng(5)
    target = (np.arange(3000) % 10 == 0).astype(int)
    result = cross_validate(rng.normal(size=(3000, 8)), target, np.arange(3000), config=LOGISTIC)
    assert result.balanced_accuracy == pytest.approx(0.5, abs=0.05)
    assert 0.2 < result.predicted.mean() < 0.8


def test_auc_and_balanced_accuracy_by_hand() -> None:
    """Fold 0: positives .2 and .9 against negative .5: one pair of two. Fold 1: a tie: half a pair of one.

    Pooled, the .9 would also beat fold 1's negative. Balanced: class 0 right 2 of 2, class 1 right 1 of 3.
    """
    score = np.array([0.2, 0.9, 0.5, 0.3, 0.3])
    positive = np.array([True, True, False, True, False])
    fold = np.array([0, 0, 0, 1, 1])
    assert auc_within_folds(score, positive, fold) == pytest.approx(1.5 / 3)
    assert np.isnan(auc_within_folds(score, positive, np.arange(5)))
    correct = np.array([True, False, True, False, True])
    assert balanced_accuracy(correct, np.array([1, 1, 0, 1, 0])) == pytest.approx((1 + 1 / 3) / 2)
    assert np.isnan(balanced_accuracy(correct[:0], np.array([], dtype=int)))


@EVERY
@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_origin_does_not_matter(config: ProbeConfig, n_classes: int) -> None:
    rng = np.random.default_rng(20)
    target = np.arange(200) % n_classes
    x = rng.normal(size=(200, 6)) + 1.5 * np.eye(n_classes, 6)[target]
    here, there = (cross_validate(x + a, target, np.arange(200), config=config) for a in (0.0, 100.0))
    assert here.auc == pytest.approx(there.auc, abs=1e-3)
    assert here.auc > 0.75
    np.testing.assert_array_equal(here.predicted, there.predicted)


def test_auc_of_classes_by_hand() -> None:
    """Class 0 beats both others; class 1 beats one of two; class 2 ties with one and loses to the other."""
    decision = np.array([[2.0, 1.0, 0.0], [1.0, 0.5, 0.0], [0.0, 0.0, -1.0]])
    code, fold = np.array([0, 1, 2]), np.zeros(3, dtype=int)
    assert auc_of_classes(decision, code, fold) == pytest.approx((1 + 0.5 + 0) / 3)
    decision[2, 2] = 0.0
    assert auc_of_classes(decision, code, fold) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert np.isnan(auc_of_classes(decision, code, np.arange(3)))


def test_calibration_error_by_hand() -> None:
    """Bin .9–1: confidences .9 and 1, one right: |1 − 1.9|. Bin .6–.7: .6 and .6, both right: |2 − 1.2|.

    Bin .5–.6: .5 wrong: .5. In sum 2.2 of 5 examples.
    """
    positive = np.array([0.1, 1.0, 0.6, 0.6, 0.5])
    code = np.array([1, 1, 1, 1, 1])
    assert calibration_error(np.stack([1 - positive, positive], axis=1), code) == pytest.approx(2.2 / 5)
    sure = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert calibration_error(sure, np.array([0, 1])) == 0
    assert calibration_error(sure, np.array([1, 0])) == 1


def test_probabilities_of_a_planted_direction_are_calibrated_and_those_of_an_overfit_are_not() -> None:
    """The log-odds of two unit Gaussians are linear, so a logistic probe of many examples is the right model.

    Ten bins of 200 examples each deviate by 0.035 at most on average. With more features than examples the
    probe is sure of its training examples, and of the others too, which are right half of the time.
    """
    x, target = two_gaussians(2000, 8, distance=2, seed=1)
    honest = cross_validate(
        x, target, np.arange(2000), config=dataclasses.replace(LOGISTIC, regularisation=(1.0,))
    )
    assert honest.calibration_error < 0.035
    bayes, _ = quad(lambda z: norm.pdf(z - 1) * np.log1p(np.exp(-2 * z)), -9, 9)
    assert honest.log_loss == pytest.approx(bayes, abs=0.03)
    noise = np.random.default_rng(2).normal(size=(200, 400))
    overfit = cross_validate(
        noise,
        np.arange(200) % 2,
        np.arange(200),
        config=dataclasses.replace(LOGISTIC, regularisation=(10.0,)),
    )
    assert overfit.calibration_error > 0.2
    assert overfit.log_loss > np.log(2)


# Parity


@pytest.mark.parametrize("config", [LOGISTIC, RIDGE], ids=lambda c: c.method)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_parity_with_plain_scikit_learn(config: ProbeConfig, n_classes: int) -> None:
    rng = np.random.default_rng(6)
    alias = np.repeat(np.arange(120), 3)
    target = (alias * 7 + alias // 11) % n_classes
    x = rng.normal(size=(360, 10)) + 0.5 * np.eye(n_classes, 10)[target]
    result = cross_validate(x, target, alias, config=config)

    predicted, aucs = np.zeros(360, dtype=int), []
    for train, test in alias_folds(alias, target, n_folds=5, seed=0):
        scaler = StandardScaler().fit(x[train])
        model = (
            LogisticRegression(C=0.01, class_weight="balanced", tol=1e-7)
            if config.method == "logistic"
            else RidgeClassifier(alpha=100.0, class_weight="balanced")
        )
        model.fit(scaler.transform(x[train]), target[train])
        predicted[test] = model.predict(scaler.transform(x[test]))
        if n_classes == 2:
            score = model.decision_function(scaler.transform(x[test]))
            np.testing.assert_allclose(result.score[test], score, rtol=1e-9)
            aucs.append((roc_auc_score(target[test], score), target[test].sum() * (1 - target[test]).sum()))
    np.testing.assert_array_equal(result.predicted, predicted)
    np.testing.assert_array_equal(result.correct, predicted == target)
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(target, predicted))
    if n_classes == 2:
        auc, pairs = np.transpose(aucs)
        assert result.auc == pytest.approx(np.average(auc, weights=pairs))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_difference_of_means_predicts_the_nearest_mean(n_classes: int) -> None:
    """Euclidean distances to the training classes' means, without standardisation; classes are not equally frequent."""
    rng = np.random.default_rng(17)
    target = rng.permutation(np.arange(200) % (n_classes + 1) % n_classes)
    x = rng.normal(size=(200, 6)) * [1, 1, 1, 5, 1, 0.1] + 1.5 * np.eye(n_classes, 6)[target]
    result = cross_validate(x, target, np.arange(200), config=MEANS)
    for train, test in alias_folds(np.arange(200), target, n_folds=5, seed=0):
        means = np.stack([x[train][target[train] == c].mean(axis=0) for c in range(n_classes)])
        distance = np.linalg.norm(x[test, None] - means, axis=2)
        np.testing.assert_array_equal(result.predicted[test], distance.argmin(axis=1))
    assert result.balanced_accuracy > 1.3 * result.chance
    assert np.isnan(result.log_loss)
    assert np.isnan(result.calibration_error)


@pytest.mark.parametrize("shrinkage", [0.01, 0.5, 1.0])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_whitened_means_are_linear_discriminant_analysis(n_classes: int, shrinkage: float) -> None:
    rng = np.random.default_rng(18)
    target = rng.permutation(np.arange(200) % (n_classes + 1) % n_classes)
    x = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1.5 * np.eye(n_classes, 6)[target]
    config = dataclasses.replace(WHITENED, regularisation=(shrinkage,))
    result = cross_validate(x, target, np.arange(200), config=config)
    likely = np.empty((200, n_classes))
    for train, test in alias_folds(np.arange(200), target, n_folds=5, seed=0):
        scaler = StandardScaler().fit(x[train])
        priors = np.full(n_classes, 1 / n_classes)
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=priors)
        model.fit(scaler.transform(x[train]), target[train])
        likely[test] = model.predict_proba(scaler.transform(x[test]))
        np.testing.assert_array_equal(result.predicted[test], model.predict(scaler.transform(x[test])))
    assert result.log_loss == pytest.approx(sklearn.metrics.log_loss(target, likely), rel=1e-9)
    assert result.calibration_error == pytest.approx(calibration_error(likely, target), rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_log_loss_is_scikit_learns(n_classes: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    decision = scale * rng.normal(size=(40, 1 if n_classes == 2 else n_classes))
    code = rng.integers(n_classes, size=40)
    likely = probability(decision)
    np.testing.assert_allclose(likely.sum(axis=1), 1)
    expected = -np.log(np.maximum(likely, np.finfo(float).eps))[np.arange(40), code].mean()
    reference = sklearn.metrics.log_loss(code, likely, labels=np.arange(n_classes))
    assert expected == pytest.approx(reference)  # scikit-learn clips at rounding error
    if likely[np.arange(40), code].min() > 1e-15:
        assert log_loss(likely, code) == pytest.approx(reference)


def test_log_loss_by_hand() -> None:
    likely = np.array([[0.25, 0.75], [0.5, 0.5]])
    assert log_loss(likely, np.array([0, 1])) == pytest.approx(np.log(8) / 2)
    assert np.isfinite(log_loss(np.array([[1.0, 0.0]]), np.array([1])))
    assert probability(np.array([[np.log(3)]])) == pytest.approx(np.array([[0.25, 0.75]]))
    assert probability(np.log([[1.0, 2.0, 5.0]])) == pytest.approx(np.array([[0.125, 0.25, 0.625]]))


@pytest.mark.parametrize("labels", [[False, True], ["no", "yes"], [-3, 8]])
@EVERY
def test_the_kind_of_label_does_not_matter(config: ProbeConfig, labels: list[object]) -> None:
    x, target = two_gaussians(200, 4, distance=2, seed=7)
    names = np.array([f"alias {i:03}" for i in range(200)])
    reference = cross_validate(x, target, np.arange(200), config=config)
    result = cross_validate(x, np.array(labels)[target], names, config=config)
    np.testing.assert_array_equal(result.predicted, np.array(labels)[reference.predicted])
    assert result.auc == reference.auc


# Leaks


def test_a_leak_would_inflate_the_score_and_alias_folds_prevent_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are random by alias, so nothing can be known about a new alias: chance is the right answer.

    Folds over examples put every alias on both sides; its fingerprint is then enough to look up its label.
    Each of 4 draws has 100 independent labels: standard error 0.025 of the mean.
    """
    draws = []
    for seed in range(4):
        x, alias = fingerprints(aliases=100, each=5, features=300, seed=seed)
        draws.append((x, random_label_per_alias(alias, n_classes=2, seed=seed), alias))
    by_alias = [cross_validate(*draw, config=LOGISTIC).balanced_accuracy for draw in draws]
    monkeypatch.setattr(linear, "alias_folds", folds_over_examples)
    monkeypatch.setattr(linear, "check_no_leak", lambda *_: None)
    leaking = [cross_validate(*draw, config=LOGISTIC).balanced_accuracy for draw in draws]
    assert np.mean(by_alias) == pytest.approx(0.5, abs=0.08)
    assert min(leaking) > 0.98


def test_check_no_leak_names_the_shared_aliases() -> None:
    alias = np.array(["wug", "wug", "dax", "blicket", "dax"])
    check_no_leak(alias, np.array([0, 1]), np.array([2, 3, 4]))
    with pytest.raises(ValueError, match="2 aliases are both in training and test: dax, wug; split by alias"):
        check_no_leak(alias, np.array([0, 2]), np.array([1, 3, 4]))


def test_check_no_leak_names_what_leaks() -> None:
    train, test = np.array([0, 1]), np.array([2, 3])
    with pytest.raises(ValueError, match=r"^1 integers are both in training and test: 7; split by integer$"):
        check_no_leak(np.array([7, 8, 7, 9]), train, test, what="integer")
    with pytest.raises(ValueError, match="2 lists are both in training and test: a, b; split by list"):
        check_no_leak(np.array(["a", "b", "a", "b"]), train, test, what="list")


def test_a_leak_is_caught_while_scoring(monkeypatch: pytest.MonkeyPatch) -> None:
    x, alias = fingerprints(aliases=20, each=5, features=4, seed=0)
    monkeypatch.setattr(linear, "alias_folds", folds_over_examples)
    with pytest.raises(ValueError, match="aliases are both in training and test"):
        cross_validate(x, alias % 2, alias, config=LOGISTIC)


@EVERY
def test_test_examples_do_not_reach_the_fit(config: ProbeConfig) -> None:
    """Spoiling one test example of a fold leaves the scores of the fold's other examples as they were."""
    x, target = two_gaussians(200, 4, distance=2, seed=8)
    before = cross_validate(x, target, np.arange(200), config=config)
    fold = before.fold == before.fold[0]
    others = fold & (np.arange(200) > 0)
    x[0] *= 1e4
    after = cross_validate(x, target, np.arange(200), config=config)
    np.testing.assert_array_equal(before.score[others], after.score[others])
    assert (before.score[~fold] != after.score[~fold]).all()


# Folds


@st.composite
def designs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Aliases of 1 to 3 examples in mixed order, a target constant within them, and a number of folds."""
    n_folds = draw(st.integers(2, 5))
    holders = draw(st.lists(st.integers(2, 12), min_size=2, max_size=6).filter(lambda n: max(n) >= n_folds))
    label = np.repeat(np.arange(len(holders)), holders)
    each = draw(st.lists(st.integers(1, 3), min_size=len(label), max_size=len(label)))
    alias = draw(st.permutations(np.repeat(np.arange(len(label)), each).tolist()))
    return np.array(alias), label[alias], n_folds


@settings(max_examples=40, deadline=None)
@given(designs(), st.integers(0, 2**32 - 1))
def test_folds_partition_the_aliases_evenly(design: tuple[np.ndarray, np.ndarray, int], seed: int) -> None:
    alias, target, n_folds = design
    folds = alias_folds(alias, target, n_folds=n_folds, seed=seed)
    assert len(folds) == n_folds
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(alias)))
    for train, test in folds:
        assert len(train) + len(test) == len(alias)
        assert not set(alias[train]) & set(alias[test])
        assert set(target[test]) <= set(target[train])
    for c in np.unique(target):
        aliases = [len(np.unique(alias[test][target[test] == c])) for _, test in folds]
        assert max(aliases) - min(aliases) <= 1


def test_folds_depend_on_the_seed_and_not_on_the_order() -> None:
    alias, rng = np.repeat(np.arange(60), 3), np.random.default_rng(9)

    def tested(order: np.ndarray, seed: int) -> list[set[int]]:
        folds = alias_folds(alias[order], alias[order] % 3, n_folds=4, seed=seed)
        return [set(alias[order][test].tolist()) for _, test in folds]

    in_order, shuffled = np.arange(180), rng.permutation(180)
    assert tested(in_order, 0) == tested(shuffled, 0)
    assert tested(in_order, 0) != tested(in_order, 1)


def test_a_target_that_varies_within_aliases_is_split_by_alias_too() -> None:
    alias, target = np.repeat(np.arange(40), 4), np.arange(160) % 2
    folds = alias_folds(alias, target, n_folds=5, seed=0)
    assert sorted(i for _, test in folds for i in test.tolist()) == list(range(160))
    for train, test in folds:
        check_no_leak(alias, train, test)
        assert target[test].mean() == 0.5


def test_rare_classes_are_split_and_single_ones_named() -> None:
    """Class 1 has two aliases for five folds: allowed. Class 2 has one: named, and `scorable` drops it."""
    alias = np.arange(13)
    target = np.array([0] * 10 + [1] * 2 + [2])
    with pytest.raises(ValueError, match="single alias cannot be both learned and tested: 2; keep only"):
        alias_folds(alias, target, n_folds=5, seed=0)
    keep = scorable(alias, target)
    np.testing.assert_array_equal(keep, target != 2)
    folds = alias_folds(alias[keep], target[keep], n_folds=5, seed=0)
    assert sum(1 in target[keep][test] for _, test in folds) == 2
    np.testing.assert_array_equal(scorable(np.zeros(3, dtype=int), np.array([0, 0, 1])), [False] * 3)


# Splits by more than the alias


def test_united_follows_chains() -> None:
    """Alias a has the integers 1 and 2, b has 2 and 3: a and b are linked. c and d share 5. e is alone."""
    alias = np.array(["a", "a", "b", "b", "c", "d", "e"])
    integer = np.array([1, 2, 2, 3, 5, 5, 4])
    np.testing.assert_array_equal(united(alias, integer), [0, 0, 0, 0, 1, 1, 2])
    np.testing.assert_array_equal(united(integer, alias), [0, 0, 0, 0, 2, 2, 1])  # the same groups
    np.testing.assert_array_equal(united(alias, alias), [0, 0, 1, 1, 2, 3, 4])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(20, 29)), min_size=1, max_size=25))
def test_united_groups_are_the_finest_that_share_neither(pairs: list[tuple[int, int]]) -> None:
    """Against merging by hand until nothing changes."""
    alias, other = np.transpose(pairs)
    found = united(alias, other)
    expected = np.arange(len(alias))
    for _ in range(len(alias)):
        for values in (alias, other):
            expected = np.array([expected[values == v].min() for v in values])
    np.testing.assert_array_equal(found[:, None] == found, expected[:, None] == expected)


def test_folds_over_united_groups_share_neither_aliases_nor_integers() -> None:
    """120 aliases, three an integer, and one of the three has a second integer, which links pairs of integers."""
    rng = np.random.default_rng(19)
    alias = np.repeat(np.arange(120), 2)
    integer = alias // 3
    integer[(alias % 6 == 0) & (np.arange(240) % 2 == 0)] += 1
    target = rng.permutation(np.arange(120) % 2)[alias]
    folds = alias_folds(united(alias, integer), target, n_folds=5, seed=0)
    for train, test in folds:
        check_no_leak(alias, train, test)
        check_no_leak(integer, train, test, what="integer")
    train, test = alias_folds(alias, target, n_folds=5, seed=0)[0]
    with pytest.raises(ValueError, match="integers are both in training and test"):
        check_no_leak(integer, train, test, what="integer")


def test_an_integer_cannot_be_probed_on_integers_that_were_not_fitted_on() -> None:
    """Each class of a target that the integer determines is in one group: refused, and none is scorable."""
    alias = np.arange(60)
    integer = alias // 6
    group = united(alias, integer)
    with pytest.raises(
        ValueError, match="classes with a single alias cannot be both learned and tested: 0, 1"
    ):
        alias_folds(group, integer, n_folds=5, seed=0)
    assert not scorable(group, integer).any()


@pytest.mark.usefixtures("unchecked")
def test_united_refuses_groups_of_other_lengths() -> None:
    with pytest.raises(ValueError, match=r"their shapes are \(3,\), \(4,\)"):
        united(np.arange(3), np.arange(4))


# Choice of the regularisation


@pytest.mark.parametrize(("method", "good", "bad"), [("logistic", 1.0, 1e-7), ("ridge", 1e-2, 1e7)])
def test_the_better_regularisation_is_chosen(method: str, good: float, bad: float) -> None:
    """Features s + 10n and 10n: their difference gives s away, the first alone hardly does.

    Weak regularisation finds the difference; strong regularisation weights each feature by its own
    correlation with the target.
    """
    rng = np.random.default_rng(10)
    target = np.arange(400) % 2
    noise = 10 * rng.normal(size=400)
    x = np.stack([2 * target + 0.3 * rng.normal(size=400) + noise, noise], axis=1)

    def score(*values: float) -> linear.ProbeScore:
        return cross_validate(
            x,
            target,
            np.arange(400),
            config=ProbeConfig(method=method, regularisation=values),  # type: ignore[arg-type]
        )

    alone = score(good)
    assert alone.balanced_accuracy > 0.97
    assert score(bad).balanced_accuracy < 0.7
    for chosen in (score(good, bad), score(bad, good)):
        assert chosen.regularisation == (good,) * 5
        np.testing.assert_array_equal(chosen.predicted, alone.predicted)


def test_the_choice_keeps_aliases_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fingerprints with a weak common direction: weak ridge learns aliases by heart, strong ridge averages.

    Held-out aliases show that averaging is better; the same choice made over examples prefers the other.
    """
    x, alias = fingerprints(aliases=100, each=5, features=80, seed=0)
    target = random_label_per_alias(alias, n_classes=2, seed=0)
    x = x + 0.12 * (2 * target[:, None] - 1)
    config = ProbeConfig(method="ridge", regularisation=(1e-6, 1e4))
    assert cross_validate(x, target, alias, config=config).regularisation == (1e4,) * 5
    monkeypatch.setattr(linear, "alias_folds", folds_over_examples)
    monkeypatch.setattr(linear, "check_no_leak", lambda *_: None)
    assert cross_validate(x, target, alias, config=config).regularisation == (1e-6,) * 5


def test_a_class_that_loses_an_alias_to_the_test_fold_does_not_stop_the_choice() -> None:
    rng = np.random.default_rng(12)
    target = np.array([0] * 20 + [1] * 20 + [2] * 2)
    config = ProbeConfig(method="ridge", regularisation=(1.0, 100.0))
    assert len(cross_validate(rng.normal(size=(42, 3)), target, np.arange(42), config=config).predicted) == 42


def test_too_few_aliases_for_the_choice() -> None:
    config = ProbeConfig(method="ridge", regularisation=(1.0, 10.0), n_folds=2)
    with pytest.raises(
        ValueError, match="too few aliases to choose among 2 values of regularisation; give one"
    ):
        cross_validate(np.zeros((4, 1)), np.array([0, 0, 1, 1]), np.arange(4), config=config)


# Controls


def test_shuffled_labels_score_chance_and_stay_together() -> None:
    """100 aliases: the standard error of one shuffle is 0.05, of the mean of four 0.025."""
    x, alias = fingerprints(aliases=100, each=5, features=20, seed=13)
    target = alias % 2
    x = x + 3.0 * target[:, None]
    assert cross_validate(x, target, alias, config=LOGISTIC).balanced_accuracy > 0.98
    scores = []
    for seed in range(4):
        shuffled = shuffle_by_alias(target, alias, seed=seed)
        per_alias = shuffled.reshape(100, 5)
        np.testing.assert_array_equal(per_alias, per_alias[:, :1].repeat(5, axis=1))
        assert per_alias[:, 0].sum() == 50
        assert (shuffled != target).any()
        scores.append(cross_validate(x, shuffled, alias, config=LOGISTIC).balanced_accuracy)
    assert np.mean(scores) == pytest.approx(0.5, abs=0.08)


def test_controls_depend_on_the_seed_and_not_on_the_order() -> None:
    alias, order = np.repeat(np.arange(30), 2), np.random.default_rng(14).permutation(60)
    target = alias % 3
    for control in (
        lambda a, t, seed: shuffle_by_alias(t, a, seed=seed),
        lambda a, _, seed: random_label_per_alias(a, n_classes=3, seed=seed),
    ):
        np.testing.assert_array_equal(
            control(alias, target, 0)[order], control(alias[order], target[order], 0)
        )
        assert (control(alias, target, 0) != control(alias, target, 1)).any()


def test_random_labels_are_constant_within_alias_and_balanced() -> None:
    label = random_label_per_alias(np.repeat(np.arange(10), 3), n_classes=4, seed=0).reshape(10, 3)
    assert (label == label[:, :1]).all()
    assert sorted(np.bincount(label[:, 0]).tolist()) == [2, 2, 3, 3]


# Inputs


@EVERY
def test_inputs_are_not_modified_and_global_randomness_is_not_touched(config: ProbeConfig) -> None:
    x, target = two_gaussians(100, 4, distance=1, seed=15)
    alias = np.arange(100)
    for array in (x, target, alias):
        array.setflags(write=False)
    results = []
    for global_seed in (0, 1):
        np.random.seed(global_seed)  # noqa: NPY002
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        control = shuffle_by_alias(target, alias, seed=3)
        random_label_per_alias(alias, n_classes=2, seed=3)
        results.append((control, cross_validate(x, target, alias, config=config)))
        np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    (first_control, first), (second_control, second) = results
    np.testing.assert_array_equal(first_control, second_control)
    np.testing.assert_array_equal(first.score, second.score)


def test_single_precision_gives_the_same_predictions() -> None:
    x, target = two_gaussians(200, 8, distance=2, seed=16)
    narrow = x.astype(np.float32)
    exact = cross_validate(narrow.astype(np.float64), target, np.arange(200), config=LOGISTIC)
    np.testing.assert_array_equal(
        cross_validate(narrow, target, np.arange(200), config=LOGISTIC).score, exact.score
    )


HALVES = np.repeat([0, 1], 10)
SPOILT = np.zeros((20, 2))
SPOILT[3, 1] = -np.inf


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "target", "alias", "message"),
    [
        (
            np.full((20, 2), np.nan),
            HALVES,
            np.arange(20),
            "40 values that are not finite",
        ),
        (
            SPOILT,
            HALVES,
            np.arange(20),
            "1 values that are not.* -inf at example 3, feature 1",
        ),
        (np.zeros(20), HALVES, np.arange(20), r"x has shape \(20,\); expected \(examples, features\)"),
        (np.zeros((20, 0)), HALVES, np.arange(20), "with at least one feature"),
        (np.zeros((19, 2)), HALVES, np.arange(20), r"x has 19 rows but target has shape \(20,\)"),
        (np.zeros((20, 2)), HALVES, np.arange(19), r"their shapes are \(19,\) and \(20,\)"),
        (np.zeros((20, 2)), HALVES, np.arange(20) % 4, "4 aliases cannot fill 5 folds"),
        (np.zeros((20, 2)), HALVES * 0 + 7, np.arange(20), r"only one class \(7\)"),
        (np.zeros((20, 2)), HALVES / 2, np.arange(20), "target has dtype float64; labels are"),
        (np.zeros((20, 2)), HALVES, np.arange(20.0), "alias has dtype float64; labels are"),
        (
            np.zeros((20, 2)),
            np.arange(20) // 4,
            np.arange(20),
            "no class has 5 aliases.*n_folds of at most 4",
        ),
        (np.zeros((20, 2)), np.eye(20, dtype=int)[3], np.arange(20), "cannot be both learned and tested: 1;"),
    ],
)
def test_bad_inputs_are_named(x: np.ndarray, target: np.ndarray, alias: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_validate(x, target, alias, config=LOGISTIC)


def test_a_class_that_only_one_fold_holds_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stratification by group is greedy and promises nothing where the target varies within aliases."""
    alias, target = np.repeat(np.arange(4), 3), np.tile([0, 0, 1], 4)
    target[[2, 5]] = 9
    monkeypatch.setattr(splits, "_fold_of_example", lambda alias_index, *_: alias_index // 2)
    with pytest.raises(ValueError, match=r"trains on every class that it tests \(failing: 9\); use another"):
        alias_folds(alias, target, n_folds=2, seed=0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "svm"}, "method is 'svm'; use 'logistic', 'ridge', 'difference-of-means', 'whitened-"),
        ({"regularisation": ()}, "regularisation is empty"),
        ({"regularisation": (1.0, 0.0)}, "regularisation has 0.0; values must be positive"),
        ({"regularisation": (float("nan"),)}, "regularisation has nan"),
        (
            {"method": METHODS[3], "regularisation": (2.0,)},
            "regularisation has 2.0; a shrinkage is from 0 to 1",
        ),
        ({"n_folds": 1}, "n_folds is 1"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_configs_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LOGISTIC, **change)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_bad_control_inputs_are_named() -> None:
    alias = np.repeat(np.arange(3), 2)
    with pytest.raises(ValueError, match=r"varies within 1 aliases \(first: 2\)"):
        shuffle_by_alias(np.array([0, 0, 1, 1, 0, 1]), alias, seed=0)
    with pytest.raises(ValueError, match=r"their shapes are \(5,\) and \(6,\)"):
        shuffle_by_alias(np.zeros(5, dtype=int), alias, seed=0)
    for n_classes in (1, 4):
        with pytest.raises(ValueError, match=f"n_classes is {n_classes}; it must be from 2 to .* 3"):
            random_label_per_alias(alias, n_classes=n_classes, seed=0)
    with pytest.raises(ValueError, match="n_folds is 1"):
        alias_folds(alias, alias, n_folds=1, seed=0)


# Recipes


RECIPES = sorted((Path(mechocl.probing.__file__).parent / "recipes").glob("*.toml"))


def test_there_are_recipes() -> None:
    assert "definition-retrieval" in [path.stem for path in RECIPES]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_data_that_the_config_accepts(path: Path) -> None:
    recipe = tomllib.loads(path.read_text())
    assert set(recipe) == {"probes"}
    needed = {"name", "question", "at", "target", "subsets", "method", "regularisation"}
    for probe in recipe["probes"]:
        assert needed <= set(probe) <= needed | {"n_folds", "split", "pairs"}
        assert probe["method"] in METHODS
        settings = {"regularisation": tuple(probe["regularisation"]), "n_folds": probe.get("n_folds", 5)}
        ProbeConfig(method=probe["method"], **settings)
    names = [probe["name"] for probe in recipe["probes"]]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("method", linear.METHODS)
@pytest.mark.parametrize("of_a_class", [(3, 3), (2, 2), (2, 9), (3, 2, 4)])
@pytest.mark.parametrize("regularisation", [(0.5,), (0.1, 1.0)])
def test_folds_of_one_example_are_said_in_our_words(
    method: linear.Method, of_a_class: tuple[int, ...], regularisation: tuple[float, ...]
) -> None:
    """Two folds of few aliases, with one example each: nothing that scikit-learn says of data arrays comes through."""
    target = np.repeat(np.arange(len(of_a_class)), of_a_class)
    x = np.random.default_rng(0).normal(size=(len(target), 5))
    chosen = (1.0,) if method == "difference-of-means" else regularisation
    config = linear.ProbeConfig(method=method, regularisation=chosen, n_folds=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            linear.cross_validate(x, target, np.arange(len(target)), config=config)
            said = []
        except ValueError as error:
            said = [str(error)]
    said += [str(one.message) for one in caught]
    ours = (
        "a training fold has",
        "a training fold of a probe has a single example of a class; use more aliases",
    )
    assert all(text.startswith(ours) for text in said), said
    if "means" in method:
        assert said


def test_fewer_aliases_than_folds_name_the_field() -> None:
    with pytest.raises(
        ValueError, match=r"no class has 4 aliases, .* use more aliases, or n_folds of at most 3"
    ):
        alias_folds(np.arange(6), np.repeat([0, 1], 3), n_folds=4, seed=0)


def test_a_right_class_that_rounds_to_no_probability_costs_much_and_not_infinity() -> None:
    likely = np.array([[0.0, 1.0], [0.5, 0.5]], dtype=np.float32)
    assert log_loss(likely, np.array([0, 0])) == pytest.approx((300 * np.log(10) + np.log(2)) / 2)
