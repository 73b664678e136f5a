"""What an intervention is judged by: pure functions of the logits where the answer is read.

Every metric is larger the more the run behaves like the clean one, so an effect above 0 always speaks for
the clean answer. Normalised, 0 is the corrupted run and 1 the clean one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.pairs import Pairs

Logits = Float[Tensor, "*batch pair token"]
Values = Float[Tensor, "*batch pair"]

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

    def check(self, pairs: Pairs, outputs: int) -> None:
        """Raises MechoclError when a token that it looks at has no logit, or a pair lacks what it needs."""
        if self.needs_foil and bool((pairs.foil < 0).any()):
            raise MechoclError(
                f"{self.name} compares the target with a foil, and {pairs.name} has none; use log_probability, "
                "which needs none"
            )
        for what, ids in (("target", pairs.target), ("foil", pairs.foil)):
            wrong = ids[(ids < 0) | (ids >= outputs)]
            if len(wrong) and (what == "target" or self.needs_foil):
                raise MechoclError(
                    f"{self.name} needs the logit of {what} token {int(wrong[0])} of {pairs.name}, but the model has "
                    f"logits for tokens 0 to {outputs - 1} alone"
                )
        if not self.differentiable:
            _kinds(pairs)

    def tokens(self, pairs: Pairs) -> Int[Tensor, "token"] | None:
        """Ids of the logits that it needs, ascending; None means all."""
        if self.all_tokens:
            return None
        needed = torch.cat([pairs.target, pairs.foil]) if self.needs_foil else pairs.target
        ids: Tensor = torch.unique(needed)
        return ids


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
    if name not in METRICS:
        raise MechoclError(f"no metric is called {name!r}; known: {', '.join(METRICS)}")
    return METRICS[name]


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
