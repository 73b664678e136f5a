"""Erasing which tag defined an alias: LEACE (Belrose et al. 2023, arXiv 2306.03819).

LEACE is the least-squares change of an activation after which no linear readout does better than a constant, on
the examples that LEACE was fitted on. A model that still uses the tag after it reads the tag in a non-linear way,
or at another place.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor

from mechocl.errors import MechoclError, TooLittleData


@dataclass(frozen=True, slots=True)
class Erasure:
    """A fitted eraser."""

    eraser: Callable[[Tensor], Tensor]
    """The library's eraser, in double precision on the CPU."""

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations without the concept."""
        return self.eraser(x.double().cpu()).to(x)


def fit_erasure(x: Float[Tensor, "example d_model"], first: Bool[Tensor, "example"]) -> Erasure:
    """Fit an eraser of whether an example is one of the `first` kind.

    The library's two safeguards are off: a limit on the variance after erasure, and a threshold below which a
    correlation is kept. Either would leave some of the concept behind. Raises MechoclError when either kind is
    missing, or all activations are equal.
    """
    if first.all() or not first.any():
        raise TooLittleData("erasure needs examples of both kinds; use more aliases")
    if float(x.var(0).sum()) < 1e-12:
        raise MechoclError(
            "all activations are equal here, so there is nothing to erase; choose another place"
        )
    fitter = _library().LeaceFitter.fit(
        x.double().cpu(), first.double().cpu()[:, None], constrain_cov_trace=False, svd_tol=1e-9
    )
    return Erasure(fitter.eraser)


def _library() -> Any:
    with warnings.catch_warnings():  # one of its modules, which is not used here, compiles with torch.jit
        warnings.filterwarnings(
            "ignore", message=".*torch.jit.script.*deprecated", category=DeprecationWarning
        )
        import concept_erasure
    return concept_erasure


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """How well a logistic regression tells two kinds apart, where it was fitted and on other aliases."""

    fitted_accuracy: float
    """Balanced accuracy on the examples that it was fitted on: .5 where nothing linear is left."""
    other_accuracy: float
    """Balanced accuracy on the other examples. (An AUC would rank by what rounding has left of the weights.)"""


def readout(
    x: Float[Tensor, "example d_model"],
    first: Bool[Tensor, "example"],
    *,
    other: Float[Tensor, "other d_model"],
    other_first: Bool[Tensor, "other"],
) -> Readout:
    """Fit scikit-learn's logistic regression on `x`, and score it on `x` and on `other`.

    Activations are centred and divided by one number. (To standardise each coordinate would enlarge the rounding
    errors of coordinates that hardly vary.)
    """
    mean, scale = x.double().mean(0), x.double().var(0).mean().sqrt().clamp_min(1e-9)
    fitted, unseen = (((part.double() - mean) / scale).cpu().numpy() for part in (x, other))
    y: np.ndarray = first.cpu().numpy()
    probe = LogisticRegression(C=0.1, tol=1e-3).fit(fitted, y)
    return Readout(
        fitted_accuracy=float(balanced_accuracy_score(y, probe.predict(fitted))),
        other_accuracy=float(balanced_accuracy_score(other_first.cpu().numpy(), probe.predict(unseen))),
    )
