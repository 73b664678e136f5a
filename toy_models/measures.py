"""How answers are measured: the measures of a world, the values of chance, and the within-alias AUC."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """The measures of a world's answers, and how they are read."""

    names: tuple[str, ...]
    """Columns of the rows of the evaluate analysis, in the order in which they are shown."""
    leading: str
    """The measure that conclusions are drawn from."""
    says: str
    """What a value of the leading measure says, in one plain sentence for a reader who does not know it."""
    second: str
    """The measure that is shown beside it."""
    chance: Mapping[str, float]
    """Value of a measure where nothing is known. A measure without an entry has no such value; compare with `no_data`."""
    smallest: Mapping[str, float]
    """Smallest difference that matters, in the unit of each measure. A difference that is surely smaller counts as none.
    It is a choice, not a finding: a hundredth of the pairs that the AUC ranks, two answers or definitions in a hundred,
    a tenth of a nat."""
    bounds: Mapping[str, tuple[float, float]]
    """Least and greatest possible value. A measure without an entry has neither."""
    least_recall: float | None
    """Least share of the definitions of new aliases that must be recalled, or else the training has failed. None means
    that trainings are not judged by it."""


_NAMES: Final = ("auc", "accuracy", "logit_difference", "recall")
_SMALLEST: Final = MappingProxyType({"auc": 0.01, "accuracy": 0.02, "logit_difference": 0.1, "recall": 0.02})
_BOUNDS: Final = MappingProxyType({"auc": (0.0, 1.0), "accuracy": (0.0, 1.0), "recall": (0.0, 1.0)})

YES_OR_NO: Final = Measures(
    names=_NAMES,
    leading="auc",
    says="AUC: of two questions about one alias, one to which the right answer is true and one to which it is false, how often the "
    "model leans more to true in the first; 0.5 is chance, 1 is always.",
    second="accuracy",
    chance=MappingProxyType({"auc": 0.5, "accuracy": 0.5, "logit_difference": 0.0}),
    smallest=_SMALLEST,
    bounds=_BOUNDS,
    least_recall=0.95,
)
"""Measures of questions that are answered by true or false."""

RANKED: Final = Measures(
    names=_NAMES,
    leading="auc",
    says="AUC: the share of the other possible answers that the model takes for less likely than the right one; 1 is all of them.",
    second="accuracy",
    chance=MappingProxyType({}),
    smallest=_SMALLEST,
    bounds=_BOUNDS,
    least_recall=0.95,
)
"""Measures of questions whose answer is one of several tokens. They have no value of chance, since common answers are
likelier."""


LABELLED: Final = Measures(
    names=_NAMES,
    leading="accuracy",
    says="accuracy: how often the model gives the highlighted cell of a grid its right label, and not another label or none.",
    second="logit_difference",
    chance=MappingProxyType({}),
    smallest=_SMALLEST,
    bounds=_BOUNDS,
    least_recall=0.95,
)
"""Measures of questions about the label of a cell. Compare with `no_data`."""


def within_alias_auc(
    difference: Float[np.ndarray, "question"], contains: np.ndarray, alias: np.ndarray
) -> pd.Series:
    """AUC of each alias from its questions' true-logit-differences, indexed by alias.

    `contains` says whether the list contains the alias's integer. Raises ValueError when an alias has only one kind of
    question, or when a difference is not finite (the model diverged).
    """
    if not np.isfinite(difference).all():
        raise ValueError("a true-logit-difference is not finite; the model has diverged")
    frame = pd.DataFrame({"alias": alias, "contains": contains, "rank": difference})
    frame["rank"] = frame.groupby("alias")["rank"].rank()
    positive = frame["rank"].where(frame["contains"]).groupby(frame["alias"]).agg(["sum", "count"])
    n_positive = positive["count"]
    n_negative = frame.groupby("alias")["rank"].count() - n_positive
    if (n_positive == 0).any() or (n_negative == 0).any():
        raise ValueError("an alias has only one kind of question; its AUC is not defined")
    u = positive["sum"] - n_positive * (n_positive + 1) / 2
    return (u / (n_positive * n_negative)).rename("auc")
