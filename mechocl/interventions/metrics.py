"""What an intervention is judged by: pure functions of the logits where the answer is read.

Every metric is larger the more the run behaves like the clean one, so an effect above 0 always speaks for
the clean answer. Normalised, 0 is the corrupted run and 1 the clean one.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError, suggested
from mechocl.interventions.pairs import Pairs
from mechocl.models.components import Components

Logits = Float[Tensor, "*batch pair token"]
Values = Float[Tensor, "*batch pair"]

OwnFunction = Callable[[Tensor, Pairs], Any]
"""(logits of all tokens where the answer is read, pairs) → one number for each pair."""

SMALLEST_DIFFERENCE: Final = 1e-3
"""A clean − corrupted difference below this is too small to divide by."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A named function from logits to one value per pair, and from these values to one number."""

    name: str
    unit: str
    meaning: str
    per_pair: Callable[[Logits, Pairs, Float[Tensor, "pair token"]], Values]
    """(logits, pairs, clean logits) → values. The tokens are those of `tokens(pairs)`."""
    pool: Callable[[Values, Pairs], Float[Tensor, "*batch"]]
    """Values of all pairs → the metric."""
    all_tokens: bool = False
    """Whether it needs the logits of the whole vocabulary; otherwise it needs those of targets and foils only."""
    needs_foil: bool = False
    differentiable: bool = True

    def check_gradient(self) -> None:
        """Raises MechoclError for a metric without a gradient."""
        if not self.differentiable:
            raise MechoclError(
                f"{self.name} has no gradient; use logit_difference, log_probability, kl_to_clean or a differentiable one of your own"
            )

    def values_with_gradient(
        self, logits: Logits, pairs: Pairs, clean: Float[Tensor, "pair token"]
    ) -> Values:
        """Values of the pairs, through which gradients pass. Raises MechoclError where they do not."""
        values = self.per_pair(logits, pairs, clean)
        if not values.requires_grad:
            raise MechoclError(
                f"{self.name} has no gradient, so it cannot be attributed; compute it from the logits by differentiable functions alone"
            )
        return values

    def check(self, pairs: Pairs, outputs: int) -> None:
        """Raises MechoclError when a token that it looks at has no logit, or a pair lacks what it needs."""
        if self.needs_foil and bool((pairs.foil < 0).any()):
            raise MechoclError(
                f"{self.name} compares the target with a foil, and {pairs.name} has none; use log_probability, "
                "which needs none"
            )
        same = (pairs.target == pairs.foil).nonzero()
        if self.needs_foil and len(same):
            raise MechoclError(
                f"{self.name}: target and foil of pair {int(same[0])} of {pairs.name} are the same token "
                f"({int(pairs.target[same[0]])}), so it is 0 whatever the model does; give another foil"
            )
        for what, ids in (("target", pairs.target), ("foil", pairs.foil)):
            wrong = ids[(ids < 0) | (ids >= outputs)]
            if len(wrong) and (what == "target" or self.needs_foil):
                raise MechoclError(
                    f"{self.name} needs the logit of {what} token {int(wrong[0])} of {pairs.name}, but the model has "
                    f"logits for tokens 0 to {outputs - 1} alone"
                )
        if self.pool is _auc:
            _kinds(pairs)

    def tokens(self, pairs: Pairs) -> Int[Tensor, "token"] | None:
        """Ids of the logits that it needs, ascending; None means all."""
        if self.all_tokens:
            return None
        needed = torch.cat([pairs.target, pairs.foil]) if self.needs_foil else pairs.target
        ids: Tensor = torch.unique(needed)
        return ids


GivenMetric = str | Metric | OwnFunction
"""A metric as it may be given: its name, a `Metric`, or a function of yours."""


def _at(logits: Logits, ids: Int[Tensor, "pair"]) -> Values:
    """The logit of each pair's own token."""
    index = ids.to(logits.device).expand(logits.shape[:-1])[..., None]
    return logits.gather(-1, index)[..., 0]


def _place(ids: Int[Tensor, "pair"], among: Int[Tensor, "token"]) -> Int[Tensor, "pair"]:
    return torch.searchsorted(among, ids)


def _logit_difference(logits: Logits, pairs: Pairs, clean: Tensor) -> Values:
    among = torch.unique(torch.cat([pairs.target, pairs.foil]))
    return _at(logits, _place(pairs.target, among)) - _at(logits, _place(pairs.foil, among))


def _true_minus_false(logits: Logits, pairs: Pairs, clean: Tensor) -> Values:
    sign = torch.where(pairs.contains, 1.0, -1.0).to(logits)
    return _logit_difference(logits, pairs, clean) * sign


def _log_probability(logits: Logits, pairs: Pairs, clean: Tensor) -> Values:
    return _at(logits, pairs.target) - logits.logsumexp(-1)


def _minus_kl(logits: Logits, pairs: Pairs, clean: Tensor) -> Values:
    p, q = clean.to(logits).log_softmax(-1), logits.log_softmax(-1)
    return -(p.exp() * (p - q)).sum(-1)


def answer_metric(pairs: Pairs) -> str:
    """The metric of how well questions are answered: the within-alias AUC, or where an alias's questions are all of one
    kind (in a text world) the logit difference."""
    return (
        "within_alias_auc"
        if bool(pairs.contains.any()) and not bool(pairs.contains.all())
        else "logit_difference"
    )


def _mean(values: Values, pairs: Pairs) -> Tensor:
    return values.mean(-1)


def _kinds(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    """Index pairs (with, without) of questions of one alias, and their weights, which sum to 1."""
    frame = pd.DataFrame({"alias": pairs.alias.numpy(), "question": np.arange(len(pairs))})
    known, contains = frame["alias"] >= 0, pairs.contains.numpy()
    both = frame[known & contains].merge(frame[known & ~contains], on="alias")
    if both.empty:
        raise MechoclError(
            f"within_alias_auc needs aliases asked about with and without their integer; {pairs.name} has none: use "
            "more pairs, or another metric"
        )
    having, lacking = (torch.tensor(both[f"question_{side}"].to_numpy()) for side in "xy")
    _, of, count = torch.unique(pairs.alias[having], return_inverse=True, return_counts=True)
    weight = 1 / (count[of].double() * len(count))
    return having, lacking, weight


def _auc(values: Values, pairs: Pairs) -> Tensor:
    having, lacking, weight = _kinds(pairs)
    a, b = values[..., having], values[..., lacking]
    won = (a > b).double() + (a == b).double() / 2
    # rounded, so that two runs with the same answers have the same AUC to the last bit in any order of summation
    return torch.round(won @ weight.to(won.device), decimals=12)


METRICS: Final[dict[str, Metric]] = {
    m.name: m
    for m in (
        Metric(
            "logit_difference", "nats", "target − foil; in questions true − false, its sign turned where false is right",
            _logit_difference, _mean, needs_foil=True,
        ),
        Metric(
            "log_probability", "nats", "log-probability of the target, among all tokens", _log_probability, _mean,
            all_tokens=True,
        ),
        Metric(
            "kl_to_clean", "nats", "minus the Kullback-Leibler divergence of the run from the clean one", _minus_kl, _mean,
            all_tokens=True,
        ),
        Metric(
            "within_alias_auc", "share", "how often, of one clean alias's questions, one that contains its integer has "
            "the larger true − false; the mean over aliases", _true_minus_false, _auc, needs_foil=True, differentiable=False,
        ),
    )
}  # fmt: skip


def metric_named(name: str) -> Metric:
    """The metric of this name. Raises MechoclError, which lists the known metrics, for an unknown name."""
    if not isinstance(name, str) or name not in METRICS:
        raise MechoclError(f"no metric is called {name!r}; {suggested(str(name), list(METRICS))}")
    return METRICS[name]


def own_metric(
    function: OwnFunction, *, name: str | None = None, unit: str = "its own", differentiable: bool = True
) -> Metric:
    """A metric of your own, for every intervention that takes one.

    Args:
        function: gives one number for each pair, from the logits (pair × token, all tokens that the model has logits for) where
            the answers are read, and the pairs. It should be larger the more a run behaves like the clean one. It is called for
            the clean run, the corrupted run and every changed run alike, with some of the pairs at a time.
        name: stands in the rows and error messages; the function's name, if it is not given.
        unit: unit of the numbers, for rows and figures.
        differentiable: whether gradients pass through it, which attribution needs.

    The metric of all pairs is the mean. Values of another shape, and values that are not finite, raise MechoclError.
    """
    known = name or str(getattr(function, "__name__", "<lambda>"))
    called = "own metric" if known == "<lambda>" else known

    def per_pair(logits: Tensor, pairs: Pairs, clean: Tensor) -> Tensor:
        runs = logits.reshape(-1, *logits.shape[-2:])
        values = torch.stack([_own_values(function, called, one, pairs) for one in runs])
        return values.reshape(logits.shape[:-1])

    return Metric(
        called, unit, "a function of yours", per_pair, _mean, all_tokens=True, differentiable=differentiable
    )


def _own_values(function: OwnFunction, name: str, logits: Tensor, pairs: Pairs) -> Float[Tensor, "pair"]:
    try:
        inspect.signature(function).bind(logits, pairs)
    except TypeError as error:
        raise MechoclError(
            f"the metric {name} cannot be called with logits and pairs ({error}); give a function of the logits, of shape (pair, token), and the pairs"
        ) from None
    except ValueError:  # a function of C, which does not say what it takes
        pass
    values = function(logits, pairs)
    if not isinstance(values, Tensor) or values.shape != (len(pairs),):
        shown = (
            f"a tensor of shape {tuple(values.shape)}"
            if isinstance(values, Tensor)
            else repr(type(values).__name__)
        )
        raise MechoclError(
            f"the metric {name} gives {shown} for {len(pairs)} pairs; give a tensor with one number for each pair, of shape ({len(pairs)},)"
        )
    values = values if values.is_floating_point() else values.to(logits)
    wrong = (~values.isfinite()).nonzero()
    if len(wrong):
        raise MechoclError(
            f"the metric {name} gives {float(values.detach()[wrong[0]])} for a pair of {pairs.name}; give a finite number for every pair"
        )
    return values.to(logits)


def metric_of(given: GivenMetric) -> Metric:
    """The metric that is given by its name, as a `Metric`, or as a function of logits and pairs (see `own_metric`).

    Raises MechoclError for an unknown name, and for anything else.
    """
    if isinstance(given, Metric):
        return given
    if callable(given):
        return own_metric(given)
    return metric_named(given)


def check_pairs(pairs: Pairs, metric: Metric, c: Components) -> None:
    """Raises MechoclError when the model cannot read the pairs, or the metric cannot judge them.

    The pairs may be too long for the model, have a token that it does not know, or lack what the metric looks at.
    """
    length, known = pairs.clean.shape[1], len(c.W_E)
    if c.W_pos is not None and length > len(c.W_pos):
        raise MechoclError(
            f"{pairs.name}: its examples have {length} tokens, and the model reads at most {len(c.W_pos)}; shorten them"
        )
    for side in (pairs.clean, pairs.corrupted):
        wrong = ((side < 0) | (side >= known)).nonzero()
        if len(wrong):
            i, j = wrong[0].tolist()
            raise MechoclError(
                f"{pairs.name}: pair {i} has the token {int(side[i, j])}, but the model knows tokens 0 to {known - 1} alone"
            )
    metric.check(pairs, c.W_U.shape[1])


def normalised(value: float, *, clean: float, corrupted: float) -> float:
    """0 for the corrupted run, 1 for the clean one.

    Raises MechoclError when the two differ by less than `SMALLEST_DIFFERENCE`, because a share of almost nothing
    says nothing.
    """
    if not abs(clean - corrupted) >= SMALLEST_DIFFERENCE:
        raise MechoclError(
            f"clean ({clean:.4g}) and corrupted ({corrupted:.4g}) hardly differ, so there is nothing to take a share of; "
            "read the raw effects, or choose pairs that differ"
        )
    return (value - corrupted) / (clean - corrupted)
