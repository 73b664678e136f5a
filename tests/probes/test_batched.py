"""All probes of a grid at once, against scikit-learn's one by one."""

import dataclasses

import numpy as np
import pytest
import torch

from probes import batched, linear
from probes.linear import METHODS, Method, ProbeConfig

VALUE: dict[Method, float] = {
    "logistic": 0.1,
    "ridge": 10.0,
    "difference-of-means": 1.0,
    "whitened-difference-of-means": 0.2,
}
EVERY = pytest.mark.parametrize("method", METHODS)
CLASSES = pytest.mark.parametrize("n_classes", [2, 5])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


@dataclasses.dataclass(frozen=True)
class Design:
    """The same examples at several sites, with several labellings: classes of unequal size, on axes of their own."""

    x: torch.Tensor
    labels: torch.Tensor
    fold: torch.Tensor
    n_classes: int

    def cross_validated(self, method: Method, value: float) -> torch.Tensor:
        return batched.cross_validated(
            self.x, self.labels, self.fold, n_classes=self.n_classes, method=method, regularisation=value
        )

    def by_scikit_learn(self, site: int, draw: int, method: Method, value: float) -> np.ndarray:
        config = ProbeConfig(method=method, regularisation=(value,))
        x = self.x[site].numpy().astype(np.float64)
        example = np.arange(x.shape[0])
        return linear.held_out(x, self.labels[draw].numpy(), example, self.fold.numpy(), config)[0]


def design(
    n_classes: int,
    *,
    sites: int = 2,
    examples: int = 75,
    features: int = 12,
    draws: int = 2,
    dtype: torch.dtype = torch.float64,
    signal: float = 1.5,
) -> Design:
    rng = np.random.default_rng(0)
    target = rng.permutation(np.arange(examples) % (n_classes + 1) % n_classes)  # class 0 twice as frequent
    x = rng.normal(size=(sites, examples, features)) * rng.uniform(0.3, 3, size=(sites, 1, features)) + 2
    x += signal * np.eye(n_classes, features)[target]
    labels = np.stack([target] + [rng.permutation(target) for _ in range(draws - 1)])
    return Design(
        torch.tensor(x, dtype=dtype), torch.tensor(labels), torch.arange(examples) % 5, n_classes=n_classes
    )


def fitted(d: Design, method: Method, value: float) -> batched.Fits:
    """On all examples."""
    return batched.fit(d.x, d.labels, n_classes=d.n_classes, method=method, regularisation=value)


def beside_constants(d: Design) -> Design:
    """With three constant features more."""
    constant = torch.tensor([7.0, 0.1, 0.0], dtype=d.x.dtype).expand(*d.x.shape[:2], 3)
    return dataclasses.replace(d, x=torch.cat([d.x, constant], dim=2))


# Parity


@DTYPES
@CLASSES
@pytest.mark.parametrize("features", [12, 64], ids=["narrow", "more features than examples"])
@pytest.mark.parametrize("c", [0.001, 0.01, 1.0])
def test_logistic_is_scikit_learns(c: float, features: int, n_classes: int, dtype: torch.dtype) -> None:
    """In single precision the last steps of a search among weak penalties are below rounding error."""
    d = design(n_classes, features=features, dtype=dtype)
    found = d.cross_validated("logistic", c)
    assert found.dtype == dtype
    for i in range(2):
        expected = linear.probability(d.by_scikit_learn(i, i, "logistic", c))
        likely = linear.probability(found[i, i].numpy().astype(np.float64))
        hard = dtype == torch.float32 and c == 1.0 and features == 64
        np.testing.assert_allclose(likely, expected, atol=3e-3 if hard else 3e-4)


def test_a_large_grid_in_single_precision_is_as_exact_as_a_small_one() -> None:
    """1200 fits are one problem: what each adds to the loss is small beside the rounding of a single-precision sum."""
    d = design(2, sites=30, draws=40, features=24, dtype=torch.float32)
    found = d.cross_validated("logistic", 1.0).numpy().astype(np.float64)
    for site, draw in [(0, 0), (7, 20), (29, 39)]:
        expected = linear.probability(d.by_scikit_learn(site, draw, "logistic", 1.0))
        np.testing.assert_allclose(linear.probability(found[site, draw]), expected, atol=2e-4)


@DTYPES
@CLASSES
@pytest.mark.parametrize("features", [12, 64], ids=["narrow", "more features than examples"])
@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("ridge", 1.0),
        ("ridge", 100.0),
        ("whitened-difference-of-means", 0.3),
        ("whitened-difference-of-means", 1.0),
    ],
)
def test_closed_forms_are_scikit_learns(
    method: Method, value: float, features: int, n_classes: int, dtype: torch.dtype
) -> None:
    d = design(n_classes, features=features, dtype=dtype)
    found = d.cross_validated(method, value)
    for i in range(2):
        expected = d.by_scikit_learn(i, i, method, value)
        np.testing.assert_allclose(found[i, i].numpy(), expected, atol=1e-4, rtol=1e-5)


@CLASSES
def test_the_difference_of_means_ranks_as_scikit_learns(n_classes: int) -> None:
    """scikit-learn's values are in units of the variance: the same but for a factor and constants in each fold."""
    d = design(n_classes)
    found = d.cross_validated("difference-of-means", 1.0)
    for draw in range(2):
        expected = d.by_scikit_learn(0, draw, "difference-of-means", 1.0)
        for k in range(5):
            test = (d.fold == k).numpy()
            ours, theirs = (a - a.mean(0) for a in (found[0, draw].numpy()[test], expected[test]))
            factor = (ours * theirs).sum() / (theirs**2).sum()
            assert factor > 0
            np.testing.assert_allclose(ours, factor * theirs, atol=1e-9)
        if n_classes == 2:
            np.testing.assert_array_equal(found[0, draw].numpy() > 0, expected > 0)
        else:
            np.testing.assert_array_equal(found[0, draw].numpy().argmax(1), expected.argmax(1))


# Many at once


@EVERY
@CLASSES
def test_together_as_alone(method: Method, n_classes: int) -> None:
    d = design(n_classes, draws=3)
    together = d.cross_validated(method, VALUE[method])
    for site in range(2):
        for draw in range(3):
            one = dataclasses.replace(d, x=d.x[[site]], labels=d.labels[[draw]])
            alone = one.cross_validated(method, VALUE[method])[0, 0]
            atol = 1e-3 if method == "logistic" else 1e-9
            torch.testing.assert_close(together[site, draw], alone, atol=atol, rtol=atol)


@EVERY
@CLASSES
def test_the_block_size_does_not_matter(
    method: Method, n_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = design(n_classes, draws=5)
    whole = d.cross_validated(method, VALUE[method])
    blocks = []
    name = {"logistic": "_logistic", "ridge": "_ridge"}.get(method, "_means")
    original = getattr(batched, name)

    def counted(z: torch.Tensor, labels: torch.Tensor, *rest: object) -> object:
        blocks.append(len(labels))
        return original(z, labels, *rest)

    monkeypatch.setattr(batched, name, counted)
    monkeypatch.setattr(batched, "_ELEMENTS", 300)
    parts = d.cross_validated(method, VALUE[method])
    folds_at_once = method == "logistic"
    assert len(blocks) >= 5
    assert sum(blocks) == 5 * (1 if folds_at_once else 5)
    atol = 1e-3 if method == "logistic" else 1e-9
    torch.testing.assert_close(parts, whole, atol=atol, rtol=atol)


def test_large_systems_are_solved_with_several_threads() -> None:
    """A batch of matrices of more than 150 rows, of which torch's own batched LU makes errors at random."""
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(3, 3, 200, 200, generator=draws, dtype=torch.float64)
    a, b = x @ x.mT + 200 * torch.eye(200), torch.randn(3, 3, 200, 2, generator=draws, dtype=torch.float64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for _ in range(20):
            torch.testing.assert_close(a @ batched._solve(a, b), b, atol=1e-9, rtol=0)
    finally:
        torch.set_num_threads(threads)


@EVERY
def test_inputs_are_not_modified(method: Method) -> None:
    d = design(2)
    before = d.x.clone(), d.labels.clone()
    d.cross_validated(method, VALUE[method])
    assert torch.equal(d.x, before[0])
    assert torch.equal(d.labels, before[1])


# Classes and features


@EVERY
def test_the_frequent_class_does_not_pull_the_decision(method: Method) -> None:
    """Classes at ±1 on an axis, one ten times as frequent, weighted equally: the border is at 0.

    Repeating the rarer class's examples until both are equally frequent changes the border of no method by more
    than the standardisation (pooled moments) explains, here a few hundredths.
    """
    rng = np.random.default_rng(1)
    labels = (np.arange(4400) % 11 == 0).astype(np.int64)
    x = torch.tensor(rng.normal(size=(1, 4400, 1)) + (2 * labels - 1)[None, :, None])
    probe = batched.fit(
        x, torch.tensor(labels)[None], n_classes=2, method=method, regularisation=VALUE[method]
    )
    decision = probe.decision(torch.tensor([[[-0.2], [0.2]]], dtype=torch.float64)).flatten()
    assert decision[0] < 0 < decision[1]


@pytest.mark.parametrize("method", METHODS[:3])
@CLASSES
def test_constant_features_change_nothing(method: Method, n_classes: int) -> None:
    d = design(n_classes)
    wider = beside_constants(d)
    plain, beside = d.cross_validated(method, VALUE[method]), wider.cross_validated(method, VALUE[method])
    torch.testing.assert_close(plain, beside, atol=1e-3 if method == "logistic" else 1e-9, rtol=1e-6)
    assert (fitted(wider, method, VALUE[method]).direction[:, :, 12:] == 0).all()


@CLASSES
def test_constant_features_shrink_a_covariance_less(n_classes: int) -> None:
    """It is shrunk towards its mean diagonal τ, to which three constant features beside twelve add nothing.

    (1 − s) Σ + s τ 12/15 is a multiple of (1 − r) Σ + r τ where r / (1 − r) = 12/15 · s / (1 − s): for s = 0.2,
    r = 1/6. So the directions are the same.
    """
    d = design(n_classes)
    beside = fitted(beside_constants(d), "whitened-difference-of-means", 0.2).direction
    plain = fitted(d, "whitened-difference-of-means", 1 / 6).direction
    torch.testing.assert_close(beside[:, :, :12], plain)
    assert (beside[:, :, 12:] == 0).all()


@EVERY
@CLASSES
@DTYPES
def test_constant_activations_tie_all_decisions(method: Method, n_classes: int, dtype: torch.dtype) -> None:
    d = design(n_classes, dtype=dtype)
    x = d.x.clone()
    x[1] = 0.1
    found = dataclasses.replace(d, x=x).cross_validated(method, VALUE[method])
    for k in range(5):
        values = found[1][:, d.fold == k]
        assert (values == values[:, :1]).all()
    assert (found[0, 0].std(0) > 0.01).all()
    probe = fitted(dataclasses.replace(d, x=x), method, VALUE[method])
    assert (probe.direction[1] == 0).all()


# Directions


@EVERY
@CLASSES
def test_decisions_rise_along_the_direction(method: Method, n_classes: int) -> None:
    """A step along the unit direction raises the decision by the length of the gradient, more than any other step."""
    d = design(n_classes)
    probe = fitted(d, method, VALUE[method])
    outputs = 1 if n_classes == 2 else n_classes
    assert probe.direction.shape == (2, 2, 12, outputs)
    torch.testing.assert_close(probe.direction.norm(dim=2), torch.ones(2, 2, outputs, dtype=torch.float64))
    gradient = torch.stack(
        [
            (probe.decision(d.x + torch.eye(12, dtype=torch.float64)[f]) - probe.decision(d.x))[:, :, 0]
            for f in range(12)
        ],
        dim=2,
    )
    torch.testing.assert_close(probe.direction, gradient / gradient.norm(dim=2, keepdim=True))
    for output in range(outputs):
        for draw in range(2):
            step = probe.direction[:, draw, :, output][:, None]
            rise = (probe.decision(d.x + 2 * step) - probe.decision(d.x))[:, draw, :, output]
            torch.testing.assert_close(
                rise, 2 * gradient[:, draw, :, output].norm(dim=1)[:, None].expand(2, 75)
            )


def test_the_difference_of_means_by_hand() -> None:
    """Class 0 has its mean at (0, 0), class 1 at (3, 4): the border is half way, at 25/2 of 3x + 4y."""
    x = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [3.0, 5.0], [3.0, 3.0]]])
    probe = batched.fit(
        x,
        torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]]),
        n_classes=2,
        method="difference-of-means",
        regularisation=1.0,
    )
    torch.testing.assert_close(probe.direction[0, 0, :, 0], torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(probe.direction[0, 1, :, 0], torch.tensor([-0.6, -0.8]))
    there = probe.decision(torch.tensor([[[0.0, 0.0], [1.5, 2.0], [3.0, 4.0]]]))[0, :, :, 0]
    torch.testing.assert_close(there, torch.tensor([[-12.5, 0.0, 12.5], [12.5, 0.0, -12.5]]))


@pytest.mark.parametrize("shrinkage", [0.05, 1.0])
def test_the_whitened_direction_undoes_correlated_noise(shrinkage: float) -> None:
    """Classes differ by d = (1, 1) and noise has covariance [[2, 1], [1, 1]] within a class.

    Standardising divides by the deviations s of class and noise together. With little shrinkage the direction is
    Σ⁻¹ d = (0, 1) however features are scaled; with full shrinkage it is d / s², feature by feature.
    """
    rng = np.random.default_rng(2)
    labels = np.arange(40_000) % 2
    noise = rng.normal(size=(40_000, 2)) @ np.linalg.cholesky([[2.0, 1.0], [1.0, 1.0]]).T
    x = torch.tensor(noise + labels[:, None])[None]
    probe = batched.fit(
        x,
        torch.tensor(labels)[None],
        n_classes=2,
        method="whitened-difference-of-means",
        regularisation=shrinkage,
    )
    raw = np.array([0.0, 1.0]) if shrinkage < 0.1 else 1 / np.array([2.25, 1.25])
    expected = torch.tensor(raw / np.linalg.norm(raw))
    torch.testing.assert_close(probe.direction[0, 0, :, 0], expected, atol=0.1, rtol=0)


# Refusals


@EVERY
def test_a_class_that_training_lacks_is_refused(method: Method) -> None:
    labels = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 2, 1, 0], [2, 1, 0, 0, 1, 0]])
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(
        ValueError,
        match=r"^labelling 2 has no example of class 2 to learn from; use fewer folds or more aliases$",
    ):
        batched.cross_validated(
            x,
            labels,
            torch.tensor([0, 1, 1, 1, 1, 1]),
            n_classes=3,
            method=method,
            regularisation=VALUE[method],
        )
