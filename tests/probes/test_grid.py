"""A grid of sites: solvers agree, labels are shuffled fairly, planted directions are found and noise is not."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from jaxtyping import Float
from scipy.stats import binom, norm
from sklearn.model_selection import KFold

from probes import grid
from probes.controls import corrected_p
from probes.grid import GridScores, cross_validate_grid, labellings
from probes.linear import METHODS, Method, ProbeConfig, cross_validate
from probes.splits import alias_folds, united

VALUE: dict[Method, float] = {
    "logistic": 0.01,
    "ridge": 100.0,
    "difference-of-means": 1.0,
    "whitened-difference-of-means": 0.1,
}
CLASSES = pytest.mark.parametrize("n_classes", [2, 3])
SOLVERS = pytest.mark.parametrize("solver", ["scikit-learn", "torch"])

LAYERS, POSITIONS = 5, 4
PLANTED_LAYER, PLANTED_POSITION = 3, 2


def config(method: Method, *, n_folds: int = 5, seed: int = 0) -> ProbeConfig:
    return ProbeConfig(method=method, regularisation=(VALUE[method],), n_folds=n_folds, seed=seed)


def p_values(scores: GridScores) -> Float[np.ndarray, " site"]:
    """Corrected ones, of the AUC."""
    return corrected_p(scores.auc[:, 0], scores.auc[:, 1:].T)


def some_sites(
    n_classes: int, *, aliases: int = 60, each: int = 2, sites: int = 3, features: int = 8
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """Activations with a class's axis at 1.5, the target (the last class is rarer) and the aliases, in mixed order."""
    rng = np.random.default_rng(0)
    alias = rng.permutation(np.repeat(np.arange(aliases), each))
    target = np.minimum(np.arange(aliases) % (n_classes + 1), n_classes - 1)[::-1][alias]
    x = rng.normal(size=(sites, len(alias), features)) + 1.5 * np.eye(n_classes, features)[target]
    return torch.tensor(x), target, alias


# Parity


@CLASSES
@pytest.mark.parametrize("method", METHODS)
def test_solvers_agree(method: Method, n_classes: int) -> None:
    """Of shuffled labels too. A decision value within rounding of another one may change a place: none does here."""
    x, target, alias = some_sites(n_classes)
    ours, theirs = (
        cross_validate_grid(x, target, alias, config=config(method), shuffles=2, solver=solver)
        for solver in ("torch", "scikit-learn")
    )
    np.testing.assert_array_equal(ours.fold, theirs.fold)
    np.testing.assert_array_equal(ours.code, theirs.code)
    np.testing.assert_allclose(ours.balanced_accuracy, theirs.balanced_accuracy, atol=1e-9)
    np.testing.assert_allclose(ours.auc, theirs.auc, atol=2e-3)
    assert np.isnan(ours.auc[:, 1:]).all() == (n_classes > 2)
    np.testing.assert_array_equal(ours.regularisation, theirs.regularisation)
    if method != "difference-of-means":  # known but for a factor
        np.testing.assert_allclose(ours.decision, theirs.decision, atol=2e-3)
    assert (ours.balanced_accuracy[:, 0] > 1.3 / n_classes).all()


@SOLVERS
@CLASSES
def test_a_site_of_a_grid_is_a_probe_of_its_own(n_classes: int, solver: grid.Solver) -> None:
    x, target, alias = some_sites(n_classes)
    names = np.array(["wug", "dax", "blicket"])[target]
    scores = cross_validate_grid(x, names, alias, config=config("logistic"), shuffles=0, solver=solver)
    for site in range(3):
        alone = cross_validate(x[site].numpy(), names, alias, config=config("logistic"))
        np.testing.assert_array_equal(scores.fold, alone.fold)
        np.testing.assert_array_equal(scores.classes, alone.classes)
        assert scores.balanced_accuracy[site, 0] == pytest.approx(alone.balanced_accuracy)
        assert scores.auc[site, 0] == pytest.approx(alone.auc, abs=2e-3)
        if alone.score is not None:
            np.testing.assert_allclose(scores.decision[site, :, 0], alone.score, atol=1e-3)


def test_auto_is_the_reference_for_a_single_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target, alias = some_sites(2)
    used: list[str] = []

    def noting(name: str, decide: Callable[..., object]) -> Callable[..., object]:
        def noted(*arguments: object) -> object:
            used.append(name)
            return decide(*arguments)

        return noted

    for name in ("_torch_decisions", "_scikit_learn_decisions"):
        monkeypatch.setattr(grid, name, noting(name, getattr(grid, name)))
    for sites, shuffles in ((1, 0), (2, 0), (1, 1)):
        cross_validate_grid(x[:sites], target, alias, config=config("ridge"), shuffles=shuffles)
    assert used == ["_scikit_learn_decisions", "_torch_decisions", "_torch_decisions"]


@SOLVERS
@CLASSES
def test_the_choice_of_the_regularisation_is_that_of_a_single_probe(
    n_classes: int, solver: grid.Solver
) -> None:
    """Noise shared by two features hides the signal from a strong penalty, but at the last site there is none."""
    x, target, alias = some_sites(n_classes, features=6)
    shared = 6 * torch.randn(2, 120, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x[:2] += shared
    several = ProbeConfig(method="ridge", regularisation=(1.0, 1e5), n_folds=3)
    scores = cross_validate_grid(x, target, alias, config=several, shuffles=1, solver=solver)
    for site in range(3):
        alone = cross_validate(x[site].numpy(), target, alias, config=several)
        assert tuple(scores.regularisation[site]) == alone.regularisation
        assert scores.balanced_accuracy[site, 0] == pytest.approx(alone.balanced_accuracy)
        assert scores.auc[site, 0] == pytest.approx(alone.auc)
    assert len(np.unique(scores.regularisation)) > 1


@pytest.mark.parametrize("rare", [2, 3])
@SOLVERS
def test_the_choice_is_made_for_rare_classes_too(rare: int, solver: grid.Solver) -> None:
    """Two or three aliases of a class: some training fold has one, some shuffle has them in one inner fold."""
    rng = np.random.default_rng(1)
    target = np.repeat([0, 1, 2], [20, 20, rare])
    x = torch.tensor(rng.normal(size=(2, len(target), 4)))
    several = ProbeConfig(method="ridge", regularisation=(1.0, 1e3), n_folds=3)
    shuffles = 20 if solver == "torch" else 1
    scores = cross_validate_grid(
        x, target, np.arange(len(target)), config=several, shuffles=shuffles, solver=solver
    )
    assert np.isfinite(scores.balanced_accuracy).all()
    for site in range(2):
        alone = cross_validate(x[site].numpy(), target, np.arange(len(target)), config=several)
        assert tuple(scores.regularisation[site]) == alone.regularisation


@pytest.mark.parametrize("method", METHODS)
def test_directions_are_those_of_the_middle_value(method: Method) -> None:
    x, target, _ = some_sites(2)
    values = (0.9, 0.01, 0.1)
    several = ProbeConfig(method=method, regularisation=values)
    found = grid.directions(x, target[None], config=several)
    expected = grid.directions(x, target[None], config=grid.single(several, 0.1))
    torch.testing.assert_close(found, expected)
    assert found.shape == (3, 1, 8, 1)
    truth = torch.tensor([-1.0, 1.0], dtype=torch.float64) / 2**0.5
    assert (found[:, 0, :2, 0] @ truth > 0.7).all()


# Labellings


def test_shuffles_keep_the_classes_of_each_fold_and_the_label_of_an_alias() -> None:
    _, target, alias = some_sites(3)
    fold = np.empty(len(alias), dtype=np.int64)
    for k, (_, test) in enumerate(alias_folds(alias, target, n_folds=5, seed=0)):
        fold[test] = k
    codes = labellings(target, alias, fold, shuffles=6, seed=1)
    np.testing.assert_array_equal(codes[0], target)
    assert len(np.unique(codes, axis=0)) == 7
    for code in codes:
        for k in range(5):
            np.testing.assert_array_equal(
                np.bincount(code[fold == k], minlength=3), np.bincount(target[fold == k], minlength=3)
            )
        assert all(len(np.unique(code[alias == a])) == 1 for a in np.unique(alias))


def test_shuffles_of_a_split_across_aliases_are_free() -> None:
    """Where an alias is in several folds its label cannot stay in one: labels move among all aliases."""
    _, target, alias = some_sites(3)
    fold = np.empty(len(alias), dtype=np.int64)
    fold[np.argsort(alias, kind="stable")] = np.tile([0, 1], 60)
    codes = labellings(target, alias, fold, shuffles=3, seed=1)
    assert len(np.unique(codes, axis=0)) == 4
    for code in codes:
        assert all(len(np.unique(code[alias == a])) == 1 for a in np.unique(alias))


def test_scores_depend_on_the_seed_and_not_on_the_order() -> None:
    x, target, alias = some_sites(2)
    order = np.random.default_rng(2).permutation(len(alias))
    first = cross_validate_grid(x, target, alias, config=config("ridge"), shuffles=3)
    mixed = cross_validate_grid(
        x[:, torch.as_tensor(order)], target[order], alias[order], config=config("ridge"), shuffles=3
    )
    other = cross_validate_grid(x, target, alias, config=config("ridge", seed=1), shuffles=3)
    np.testing.assert_allclose(first.auc, mixed.auc, atol=1e-9)
    np.testing.assert_allclose(first.decision[:, order], mixed.decision, atol=1e-9)
    assert (first.auc != other.auc).any()


# Leaks and bad inputs


def folds_over_examples(alias: np.ndarray, *_: object, **__: object) -> list[tuple[np.ndarray, np.ndarray]]:
    """The mistake that alias folds prevent: aliases on both sides."""
    return list(KFold(5, shuffle=True, random_state=0).split(alias))


def test_a_leak_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    x, target, alias = some_sites(2)
    monkeypatch.setattr(grid, "alias_folds", folds_over_examples)
    with pytest.raises(
        ValueError, match=r"\d+ aliases are both in training and test: .* more; split by alias"
    ):
        cross_validate_grid(x, target, alias, config=config("ridge"), shuffles=0)


def test_a_leak_of_what_a_group_is_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds by alias where integers were asked to be apart; and groups that do not hold their aliases together."""
    x, target, alias = some_sites(2)
    by_alias = alias_folds(alias, target, n_folds=5, seed=0)
    with pytest.raises(ValueError, match=r"\d+ aliases are both in training and test"):
        cross_validate_grid(
            x, target, alias, config=config("ridge"), shuffles=0, group=np.arange(len(alias)), what="integer"
        )
    monkeypatch.setattr(grid, "alias_folds", lambda *_, **__: by_alias)
    with pytest.raises(ValueError, match=r"\d+ integers are both in training and test: .*; split by integer"):
        cross_validate_grid(
            x,
            target,
            alias,
            config=config("ridge"),
            shuffles=0,
            group=united(alias, alias // 7),
            what="integer",
        )


def test_a_probe_of_integers_in_disguise_fails_on_new_integers() -> None:
    """Activations say which integer an alias has, and the label goes by the integer: 12 of them, five aliases each.

    Split by alias the probe looks the integer's label up. Split by integer it knows nothing of a new one; the
    standard error of a share of 12 integers is .14, .07 averaged over five sites.
    """
    rng = np.random.default_rng(3)
    alias = np.arange(60)
    integer = alias % 12
    target = rng.permutation(np.arange(12) % 2)[integer]
    x = torch.tensor(rng.normal(size=(5, 12, 50))[:, integer] + 0.1 * rng.normal(size=(5, 60, 50)))
    by_alias, by_integer = (
        cross_validate_grid(x, target, alias, config=config("logistic", n_folds=3), shuffles=0, group=g)
        for g in (alias, united(alias, integer))
    )
    assert (by_alias.balanced_accuracy > 0.95).all()
    assert by_integer.balanced_accuracy.mean() == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_are_refused(bad: float) -> None:
    x, target, alias = some_sites(2)
    x[1, 7, 3] = x[1, 7, 4] = x[2, 0, 0] = bad
    with pytest.raises(ValueError, match=r"2 activations are not finite, the first at site 1, example 7;"):
        cross_validate_grid(x, target, alias, config=config("ridge"), shuffles=0)


def test_too_few_aliases_to_choose() -> None:
    several = ProbeConfig(method="ridge", regularisation=(1.0, 10.0), n_folds=2)
    x = torch.zeros(2, 4, 1, dtype=torch.float64)
    with pytest.raises(
        ValueError, match="too few aliases to choose among 2 values of regularisation; give one"
    ):
        cross_validate_grid(x, np.array([0, 0, 1, 1]), np.arange(4), config=several, shuffles=0)


def test_inputs_are_not_modified() -> None:
    x, target, alias = some_sites(2)
    before = x.clone()
    for array in (target, alias):
        array.setflags(write=False)
    cross_validate_grid(x, target, alias, config=config("whitened-difference-of-means"), shuffles=2)
    assert torch.equal(x, before)


# What is there is found, what is not is not


def layer_stack(
    *, aliases: int, features: int, strength: float, seed: int
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    """Residual streams (layer × position, alias, feature) with a direction from one layer on, at one position.

    Noise has unit variance, half of it shared by the layers of a position, half of a layer's own; the classes are at
    ∓`strength` / 2 on a random unit direction, which is returned too.
    """
    rng = np.random.default_rng(seed)
    target = rng.permutation(np.arange(aliases) % 2)
    shared = rng.normal(size=(1, POSITIONS, aliases, features))
    x = (shared + rng.normal(size=(LAYERS, POSITIONS, aliases, features))) / np.sqrt(2)
    axis = rng.normal(size=features)
    axis /= np.linalg.norm(axis)
    x[PLANTED_LAYER:, PLANTED_POSITION] += np.outer(target - 0.5, strength * axis)
    return (
        torch.tensor(x.reshape(-1, aliases, features), dtype=torch.float32),
        target,
        torch.tensor(axis, dtype=torch.float32),
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_planted_direction_is_found_where_it_is(method: Method) -> None:
    """Corrected p below .05 at the planted position from the planted layer on, and nowhere else."""
    x, target, _ = layer_stack(aliases=120, features=12, strength=2.0, seed=0)
    scores = cross_validate_grid(x, target, np.arange(120), config=config(method), shuffles=59)
    planted = np.zeros((LAYERS, POSITIONS), dtype=bool)
    planted[PLANTED_LAYER:, PLANTED_POSITION] = True
    np.testing.assert_array_equal(p_values(scores).reshape(LAYERS, POSITIONS) < 0.05, planted)


def test_nothing_is_found_where_nothing_is_planted() -> None:
    """The same noise without the direction: the test above would fail if noise alone were significant there."""
    x, target, _ = layer_stack(aliases=120, features=12, strength=0.0, seed=0)
    scores = cross_validate_grid(x, target, np.arange(120), config=config("logistic"), shuffles=59)
    assert (p_values(scores) > 0.05).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_score_at_the_planted_place_is_the_bayes_rate(method: Method, strength: float) -> None:
    """Unit Gaussians at ∓d/2: the best AUC is Φ(d/√2), elsewhere .5. 2000 aliases: standard error .012 at most.

    Twelve weights estimated from 1600 aliases cost less than .01.
    """
    x, target, _ = layer_stack(aliases=2000, features=12, strength=strength, seed=1)
    scores = cross_validate_grid(x, target, np.arange(2000), config=config(method), shuffles=0)
    expected = np.full((LAYERS, POSITIONS), 0.5)
    expected[PLANTED_LAYER:, PLANTED_POSITION] = norm.cdf(strength / np.sqrt(2))
    np.testing.assert_allclose(scores.auc[:, 0].reshape(LAYERS, POSITIONS), expected, atol=0.045)
    there = scores.auc[:, 0].reshape(LAYERS, POSITIONS)[PLANTED_LAYER:, PLANTED_POSITION]
    assert there == pytest.approx(norm.cdf(strength / np.sqrt(2)), abs=0.025)


@pytest.mark.parametrize("method", ["logistic", "difference-of-means"])
def test_the_planted_direction_itself_is_recovered(method: Method) -> None:
    """With its sign: from the first class to the second. Elsewhere noise has a direction of its own."""
    x, target, axis = layer_stack(aliases=2000, features=12, strength=2.0, seed=1)
    directions = grid.directions(x, target[None], config=config(method))[:, 0, :, 0]
    cosines = (directions @ axis).reshape(LAYERS, POSITIONS)
    planted = cosines[PLANTED_LAYER:, PLANTED_POSITION].clone()
    assert (planted > 0.98).all()
    cosines[PLANTED_LAYER:, PLANTED_POSITION] = 0
    assert (cosines.abs() < 0.9).all()


def test_one_grid_of_noise_in_twenty_is_significant() -> None:
    """250 experiments on 12 sites of noise, 39 shuffles: the smallest corrected p is .05 or less in 5 % of them.

    With a p of (1 + k) / 40 the level is 2 / 40 exactly, but for ties, which make it smaller. p-values that are not
    corrected are that small somewhere in 1 − .95¹² = 46 % of experiments: without the correction this test fails.
    """
    n, level = 250, 0.05 + 1e-9
    target = np.arange(40) % 2
    corrected, uncorrected = 0, 0
    for seed in range(n):
        x = torch.randn(12, 40, 6, generator=torch.Generator().manual_seed(seed))
        probe = config("difference-of-means", n_folds=2, seed=1000 * seed)
        scores = cross_validate_grid(x, target, np.arange(40), config=probe, shuffles=39)
        own = (1 + (scores.auc[:, 1:] >= scores.auc[:, :1] - 1e-12).sum(axis=1)) / 40
        corrected += bool(p_values(scores).min() <= level)
        uncorrected += bool(own.min() <= level)
    low, high = binom.interval(0.999, n, 0.05)
    assert low <= corrected <= high
    assert uncorrected > 0.25 * n > high
