"""The probes of `probes.linear` for many sites and many labellings at once, in torch.

A layer × position grid with a permutation test needs sites × permutations × folds fits of the same examples. They
share the activations: one eigendecomposition of a site's training examples serves all labellings, and the rest is
matrix products, on a CPU or a GPU. scikit-learn is the reference; `tests/probes/test_batched.py` compares with it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.linear import Method

_ITERATIONS: Final = 200
_TOLERANCE: Final = 1e-5
"""Largest gradient entry of the mean loss of a fit at which the search ends, in preconditioned coordinates."""

_ELEMENTS: Final = 2**25
"""Numbers that one block of labellings may hold at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """One linear probe for each site and labelling."""

    mean: Float[Tensor, "site 1 feature"]
    scale: Float[Tensor, "site 1 feature"]
    """Features are (x − mean) / scale; a constant feature is 0."""
    weight: Float[Tensor, "site draw feature output"]
    """Weight of the scaled features. For two classes there is one output (the second class is positive); for more
    classes there is one output for each."""
    intercept: Float[Tensor, "site draw output"]

    def decision(self, x: Float[Tensor, "site example feature"]) -> Float[Tensor, "site draw example output"]:
        """Decision values like scikit-learn's `decision_function`: log-odds or logits (logistic, whitened), or scores."""
        z = _scaled(x, self.mean, self.scale)
        found: Tensor = einsum(z, self.weight, "site n f, site draw f out -> site draw n out")
        return found + self.intercept[:, :, None]

    @property
    def direction(self) -> Float[Tensor, "site draw feature output"]:
        """Unit vectors in the space of the activations along which a decision value rises fastest.

        They are zero where the fit found nothing (all features constant).
        """
        raw = self.weight / rearrange(self.scale, "site 1 f -> site 1 f 1")
        length = raw.norm(dim=2, keepdim=True)
        return torch.where(length > 0, raw / length, raw)


def fit(
    x: Float[Tensor, "site example feature"],
    labels: Int[Tensor, "draw example"],
    *,
    n_classes: int,
    method: Method,
    regularisation: float,
) -> Fits:
    """Fit one probe for each site and labelling, with classes weighted equally, as `probes.linear` does.

    Args:
        x: activations at each site, in floating point, of the same examples.
        labels: labellings of the examples, with codes 0 … n_classes − 1; each must have every class.
        n_classes: number of classes.
        method: see `probes.linear.ProbeConfig`.
        regularisation: value of the method's regularisation.

    Raises:
        ValueError: a labelling lacks a class.
    """
    everyone = torch.ones(1, x.shape[1], dtype=torch.bool, device=x.device)
    return fits(x, labels, everyone, n_classes=n_classes, method=method, regularisation=regularisation)[0]


def fits(
    x: Float[Tensor, "site example feature"],
    labels: Int[Tensor, "draw example"],
    trained: Bool[Tensor, "fold example"],
    *,
    n_classes: int,
    method: Method,
    regularisation: float,
) -> list[Fits]:
    """`fit` on each of several choices of the examples; logistic probes are fitted together, which costs little more."""
    for one in trained:
        _check_classes(labels[:, one], n_classes)
    if method == "logistic":
        mean, scale = _standardisation(x)
        z, outputs = _scaled(x, mean, scale), 1 if n_classes == 2 else n_classes
        size = max(1, _ELEMENTS // (len(x) * x.shape[1] * outputs * len(trained)))
        parts = [
            _logistic(z, block, trained, n_classes, regularisation) for block in torch.split(labels, size)
        ]
        weight, intercept = (torch.cat([part[i] for part in parts], dim=2) for i in (0, 1))
        return [
            Fits(mean=mean, scale=scale, weight=weight[:, k], intercept=intercept[:, k])
            for k in range(len(trained))
        ]
    return [_closed_form(x[:, one], labels[:, one], n_classes, method, regularisation) for one in trained]


def _closed_form(x: Tensor, labels: Tensor, n_classes: int, method: Method, regularisation: float) -> Fits:
    mean, scale = _standardisation(x)
    if method == "difference-of-means":
        scale = torch.where(scale.isfinite(), 1.0, scale)
    z = _scaled(x, mean, scale)
    size = max(1, _ELEMENTS // (len(x) * x.shape[2] * max(x.shape[1:])))
    parts = []
    for block in torch.split(labels, size):
        if method == "ridge":
            parts.append(_ridge(z, block, n_classes, regularisation))
        else:
            whitened = method == "whitened-difference-of-means"
            parts.append(_means(z, block, n_classes, regularisation if whitened else None))
    weight, intercept = (torch.cat([part[i] for part in parts], dim=1) for i in (0, 1))
    return Fits(mean=mean, scale=scale, weight=weight, intercept=intercept)


def cross_validated(
    x: Float[Tensor, "site example feature"],
    labels: Int[Tensor, "draw example"],
    fold: Int[Tensor, "example"],
    *,
    n_classes: int,
    method: Method,
    regularisation: float,
) -> Float[Tensor, "site draw example output"]:
    """Decision value of every example by the probe of the fold that it was held out of.

    Raises ValueError when a labelling lacks a class outside a fold.
    """
    tested = torch.unique(fold)[:, None] == fold
    fitted = fits(x, labels, ~tested, n_classes=n_classes, method=method, regularisation=regularisation)
    return held_out(x, fitted, tested)


def held_out(
    x: Float[Tensor, "site example feature"], fitted: Sequence[Fits], tested: Bool[Tensor, "fold example"]
) -> Float[Tensor, "site draw example output"]:
    """Decision values of the examples that each fold tests, by the probe of this fold."""
    _, draws, _, outputs = fitted[0].weight.shape
    values = torch.empty(len(x), draws, x.shape[1], outputs, dtype=x.dtype, device=x.device)
    for one, test in zip(fitted, tested, strict=True):
        values[:, :, test] = one.decision(x[:, test])
    return values


def _check_classes(labels: Tensor, n_classes: int) -> None:
    """Raises ValueError when a labelling lacks a class."""
    counts = torch.nn.functional.one_hot(labels, n_classes).sum(1)
    if int(counts.min()) == 0:
        draw = int((counts == 0).any(1).nonzero()[0])
        raise ValueError(
            f"labelling {draw} has no example of class {int(counts[draw].argmin())} to learn from; "
            "use fewer folds or more aliases"
        )


def _standardisation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each feature; for a constant feature infinity, which scales it to 0."""
    mean = x.mean(1, keepdim=True)
    deviation = (x - mean).square().mean(1, keepdim=True).sqrt()
    rounding = 10 * torch.finfo(x.dtype).eps * x.abs().amax(1, keepdim=True)
    return mean, torch.where(deviation > rounding, deviation, torch.inf)


def _scaled(x: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    return (x - mean) / scale


def _weights(labels: Tensor, n_classes: int, dtype: torch.dtype) -> Tensor:
    """scikit-learn's `class_weight="balanced"`: examples / (classes × examples of the class); draw × example."""
    counts = torch.nn.functional.one_hot(labels, n_classes).sum(1).to(dtype)
    return (labels.shape[1] / (n_classes * counts)).gather(1, labels)


def _ridge(z: Tensor, labels: Tensor, n_classes: int, alpha: float) -> tuple[Tensor, Tensor]:
    """Weighted least squares on ±1 with an unpenalised intercept, in closed form."""
    w = _weights(labels, n_classes, z.dtype)
    y = 2 * torch.nn.functional.one_hot(labels, n_classes).to(z.dtype) - 1
    y = y[..., 1:] if n_classes == 2 else y
    total = w.sum(1)
    y_mean = einsum(w, y, "draw n, draw n out -> draw out") / total[:, None]
    z_mean = einsum(w, z, "draw n, site n f -> site draw f") / total[:, None]
    gram = _second_moments(w, z)
    gram = gram - total[:, None, None] * z_mean[..., :, None] * z_mean[..., None, :]
    cross = einsum(w[..., None] * (y - y_mean[:, None]), z, "draw n out, site n f -> site draw f out")
    eye = torch.eye(z.shape[2], dtype=z.dtype, device=z.device)
    weight = _solve(gram + alpha * eye, cross)
    return weight, y_mean - einsum(z_mean, weight, "site draw f, site draw f out -> site draw out")


def _solve(a: Tensor, b: Tensor) -> Tensor:
    """The solution x of a x = b for each site and labelling, the two leading axes.

    On a CPU the matrices are taken one by one: with several threads torch's LU of a batch fails at random on good
    matrices of more than 150 rows (pytorch issue 142815).
    """
    if a.is_cuda:
        found: Tensor = torch.linalg.solve(a, b)
        return found
    solved = [torch.linalg.solve(m, v) for m, v in zip(a.flatten(0, 1), b.flatten(0, 1), strict=True)]
    return torch.stack(solved).reshape(*a.shape[:2], *solved[0].shape)


def _second_moments(w: Tensor, z: Tensor) -> Tensor:
    """Σ w z zᵀ over the examples for each site and labelling: one matrix product for a block of features."""
    rows = max(1, _ELEMENTS // (z.shape[0] * z.shape[1] * z.shape[2]))
    parts = []
    for block in torch.split(z, rows, dim=2):
        products = rearrange(einsum(block, z, "site n f, site n g -> site n f g"), "site n f g -> n site f g")
        parts.append(torch.tensordot(w, products, dims=1))  # draw, site, f, g
    return rearrange(torch.cat(parts, dim=2), "draw site f g -> site draw f g")


def _means(z: Tensor, labels: Tensor, n_classes: int, shrinkage: float | None) -> tuple[Tensor, Tensor]:
    """Nearest class mean; with shrinkage, in the metric of the classes' pooled covariance (LDA, equal priors)."""
    hot = torch.nn.functional.one_hot(labels, n_classes).to(z.dtype)
    hot = hot / hot.sum(1, keepdim=True)
    means = einsum(hot, z, "draw n c, site n f -> site draw c f")
    if shrinkage is None:
        towards = means
    else:
        second = _second_moments(hot.mean(2), z)
        covariance = second - einsum(means, means, "s d c f, s d c g -> s d f g") / n_classes
        d = z.shape[2]
        level = covariance.diagonal(dim1=-2, dim2=-1).sum(-1) / d
        eye = torch.eye(d, dtype=z.dtype, device=z.device)
        shrunk = (1 - shrinkage) * covariance + (shrinkage * level + (level == 0))[..., None, None] * eye
        towards = _solve(shrunk, means.mT).mT
    intercept = -0.5 * (means * towards).sum(-1)
    weight = rearrange(towards, "site draw c f -> site draw f c")
    if n_classes == 2:
        weight, intercept = weight[..., 1:] - weight[..., :1], intercept[..., 1:] - intercept[..., :1]
    elif shrinkage is not None:
        intercept = intercept - math.log(n_classes)  # the equal priors, so that values are scikit-learn's
    return weight, intercept


def _logistic(z: Tensor, labels: Tensor, trained: Tensor, n_classes: int, c: float) -> tuple[Tensor, Tensor]:
    """Penalised logistic regression: all fits are one convex problem, solved by torch's L-BFGS.

    Each fold's probe is fitted on the examples that `trained` (fold, example) marks, with the features scaled by these
    alone. All probes read the same z, so that a step costs one pass over it. The search uses the coordinates in which
    Böhning's bound on the Hessian (Böhning & Lindsay 1988, Ann. Inst. Statist. Math. 40:641) is the identity. All
    labellings have the same bound, and all folds use the same coordinates.

    Returns the weight of z (site, fold, draw, feature, output) and the intercept (site, fold, draw, output).
    """
    sites, n, d = z.shape
    outputs, draws, folds = 1 if n_classes == 2 else n_classes, len(labels), len(trained)
    curvature = c * (0.25 if n_classes == 2 else 0.5)  # largest curvature of an example's loss by a logit
    bound = curvature * z.mT @ z + torch.eye(d, dtype=z.dtype, device=z.device)
    root = torch.linalg.cholesky(bound).mT  # rootᵀ root = bound
    unit = (curvature * n) ** -0.5
    mean, scale = _fold_standardisations(z, trained)
    w = _fold_weights(labels, trained, n_classes, like=z)
    loss_of_logits = _logistic_loss(labels, w, n_classes)
    theta = torch.zeros(sites, d, folds * draws * outputs, dtype=z.dtype, device=z.device)
    bias = torch.zeros(sites, folds, draws, outputs, dtype=z.dtype, device=z.device)
    search = torch.optim.LBFGS(
        [theta, bias],
        max_iter=_ITERATIONS,
        tolerance_grad=_TOLERANCE,
        tolerance_change=0.0,
        history_size=8,
        line_search_fn="strong_wolfe",
    )

    def fitted() -> tuple[Tensor, Tensor, Tensor]:
        """Weights of the fold's own scaled features (penalised), and weights and intercept of z."""
        own = torch.linalg.solve_triangular(root, theta, upper=True)
        weight = rearrange(own, "site f (fold rest) -> site f fold rest", fold=folds) / scale
        shift = rearrange((mean * weight).sum(1), "site fold (draw out) -> site fold draw out", out=outputs)
        return own, rearrange(weight, "site f fold rest -> site f (fold rest)"), unit * bias - shift

    def loss() -> Tensor:
        own, weight, intercept = fitted()
        logits = rearrange(z @ weight, "s n (fold draw out) -> s n fold draw out", fold=folds, out=outputs)
        logits = logits + intercept[:, None]
        cost, slope = loss_of_logits(logits)
        by_fold = rearrange(slope, "s n fold draw out -> s n fold (draw out)")
        along_z = z.mT @ rearrange(by_fold, "s n fold rest -> s n (fold rest)")
        along_z = rearrange(along_z, "s f (fold rest) -> s f fold rest", fold=folds)
        along = c * (along_z - mean * by_fold.sum(1)[:, None]) / scale
        gradient = rearrange(along, "s f fold rest -> s f (fold rest)") + own
        theta.grad = torch.linalg.solve_triangular(root.mT, gradient, upper=False).contiguous()
        bias.grad = c * unit * slope.sum(1)
        # In single precision a sum over thousands of fits hides the last steps, and the search ends too soon.
        return c * (w * cost).sum(dtype=torch.float64) + 0.5 * own.square().sum(dtype=torch.float64)

    search.step(loss)  # type: ignore[no-untyped-call]
    _, weight, intercept = fitted()
    shape = {"fold": folds, "out": outputs}
    return rearrange(weight, "site f (fold draw out) -> site fold draw f out", **shape), intercept


def _fold_standardisations(z: Tensor, trained: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of each fold's training examples, both (site, feature, fold, 1)."""
    each = [_standardisation(z[:, one]) for one in trained]
    mean, scale = (torch.stack([one[i][:, 0] for one in each], dim=2)[..., None] for i in (0, 1))
    return mean, scale


def _fold_weights(labels: Tensor, trained: Tensor, n_classes: int, *, like: Tensor) -> Tensor:
    """Weight of each example in each fold's loss (example, fold, draw, 1); 0 where the fold does not train on it."""
    w = torch.zeros(labels.shape[1], len(trained), len(labels), dtype=like.dtype, device=like.device)
    for k, one in enumerate(trained):
        w[one, k] = _weights(labels[:, one], n_classes, like.dtype).T
    return w[..., None]


def _logistic_loss(labels: Tensor, w: Tensor, n_classes: int) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """The loss as a function of logits (site, example, fold, draw, output).

    It returns the loss of each example in nats, without its weight (site, example, fold, draw, 1), and the slope of
    the weighted loss by each logit, in the shape of the logits.
    """
    if n_classes == 2:
        sign = rearrange(2 * labels - 1, "draw n -> n 1 draw 1").to(w.dtype)

        def binary(logits: Tensor) -> tuple[Tensor, Tensor]:
            cost = torch.nn.functional.softplus(-sign * logits)
            return cost, -sign * torch.sigmoid(-sign * logits) * w

        return binary

    hot = rearrange(torch.nn.functional.one_hot(labels, n_classes), "draw n c -> n 1 draw c").to(w.dtype)

    def multinomial(logits: Tensor) -> tuple[Tensor, Tensor]:
        likely = logits.log_softmax(-1)
        return -(hot * likely).sum(-1, keepdim=True), (likely.exp() - hot) * w

    return multinomial
