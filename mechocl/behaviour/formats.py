"""How numbers are written: signed values, intervals, p-values, cells of tables."""

from collections.abc import Mapping
from typing import Any, Final

from mechocl.behaviour.statistics import Estimate

NAMES: Final = {
    "auc": "AUC", "accuracy": "accuracy", "exact_match": "exact match", "log_probability": "log-probability",
    "logit_difference": "logit difference", "recall": "recall",
}  # fmt: skip
"""Quantities in words."""


def describe(e: Estimate) -> str:
    """`+.108 [+.041, +.175], p = .004` with the unit where it is the alias."""
    if e.n < 2:
        return signed(e.mean)
    text = f"{signed_interval(e)}, {p_value(e.p)}"
    return text if e.unit == "seed" else text + " (over the aliases of one seed)"


def signed_interval(e: Estimate) -> str:
    """`+.108 [+.041, +.175]`; the mean alone where there is no interval."""
    return signed(e.mean) if e.n < 2 else f"{signed(e.mean)} [{signed(e.low)}, {signed(e.high)}]"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def p_value(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def mean_in_words(row: Mapping[Any, Any]) -> str:
    """`+.108 [+.041, +.175]` of a row of `over_seeds`."""
    mean = signed(row["mean"])
    return mean if row["seeds"] < 2 else f"{mean} [{signed(row['low'])}, {signed(row['high'])}]"


def value_in_words(row: Mapping[Any, Any]) -> str:
    """`.108 [.041, .175]` of a row of `over_seeds`: a value, not a difference."""
    show = [f"{row[k]:.3f}".replace("-", "−") for k in ("mean", "low", "high")]
    return show[0] if row["seeds"] < 2 else f"{show[0]} [{show[1]}, {show[2]}]"
