"""How numbers are written for people: single values, intervals, p-values, cells of tables."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, SupportsFloat

from mechocl.behaviour.statistics import Estimate

NAMES: Final = {
    "auc": "AUC", "accuracy": "accuracy", "exact_match": "exact match", "log_probability": "log-probability",
    "logit_difference": "logit difference", "recall": "recall",
}  # fmt: skip
"""Name of a quantity → the quantity in words."""

MISSING: Final = "–"
"""What stands in the place of a value that does not exist."""

NOT_MEASURED: Final = "not measured"
"""What is said of an intervention that exchanged nothing."""

WHY_NOT_MEASURED: Final = f"{NOT_MEASURED}: nothing was exchanged there in any pair"
"""What is said of the cells of a grid in which an intervention exchanged nothing."""

MINUS: Final = "−"
HYPHEN: Final = "-"
"""The minus sign in places that write a hyphen."""


def number(value: SupportsFloat | None, digits: int = 3, *, sign: bool = False, minus: str = MINUS) -> str:
    """`0.108` or `−0.250`; with `sign` also `+0.108`. A value that is None or not finite is `–`."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{float(value):{'+' if sign else ''}.{digits}f}".replace("-", minus)


def interval(
    mean: SupportsFloat | None,
    low: SupportsFloat | None,
    high: SupportsFloat | None,
    digits: int = 3,
    *,
    sign: bool = False,
    minus: str = MINUS,
) -> str:
    """`0.108 [0.041, 0.175]`; the mean alone if either end is None or not finite."""
    shown = [number(value, digits, sign=sign, minus=minus) for value in (mean, low, high)]
    return shown[0] if MISSING in shown else f"{shown[0]} [{shown[1]}, {shown[2]}]"


def count_range(values: Iterable[SupportsFloat]) -> str:
    """A count that each seed has: `96` if they all have the same, or else the range `80–96`; `–` if there is none."""
    known = sorted({round(float(value)) for value in values if math.isfinite(value)})
    return "–".join(map(str, known[:1] + known[1:][-1:])) or MISSING


def said_of_all(texts: Iterable[str]) -> str:
    """What is said of several seeds, in one text: where they differ in numbers alone, each number is the range of them all.

    `the 96 pairs` and `the 80 pairs` become `the 80–96 pairs`. Texts that differ in words stand one after another.
    """
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for text in dict.fromkeys(texts):
        parts = re.split(r"(\d+)", text)
        alike.setdefault(tuple(parts[::2]), []).append(parts[1::2])
    merged = []
    for words, numbers in alike.items():
        ranges = [count_range(map(int, each)) for each in zip(*numbers, strict=True)]
        merged.append("".join(part for pair in zip(words, [*ranges, ""], strict=True) for part in pair))
    return "; ".join(merged)


def p_value(p: float) -> str:
    """`p = .004` or `p < .001`; `–` if there was no test."""
    if math.isnan(p):
        return MISSING
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def p_in_table(p: float) -> str:
    """`.004` or `< .001`, for a column of p-values."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")


def estimate_in_words(e: Estimate | None, digits: int = 3, *, sign: bool = False, minus: str = MINUS) -> str:
    """`0.108 [0.041, 0.175]`; `–` if there is no estimate."""
    return MISSING if e is None else interval(e.mean, e.low, e.high, digits, sign=sign, minus=minus)


def describe(e: Estimate | None) -> str:
    """`+0.108 [+0.041, +0.175], p = .004`, with the unit if it is the alias; `–` if there is no estimate."""
    if e is None or e.n < 2:
        return estimate_in_words(e, sign=True)
    text = f"{estimate_in_words(e, sign=True)}, {p_value(e.p)}"
    return text if e.unit == "seed" else text + " (over the aliases of one seed)"


def mean_in_words(row: Mapping[Any, Any] | None) -> str:
    """`+0.108 [+0.041, +0.175]` for a row of `over_seeds.over_seeds` that is a difference; `–` if there is no row.

    Where some of the seeds have no value, it ends with how many have one: `+0.108 [+0.041, +0.175] (7 of 8 seeds)`.
    """
    return _row_in_words(row, sign=True)


def value_in_words(row: Mapping[Any, Any] | None) -> str:
    """`0.108 [0.041, 0.175]` for a row of `over_seeds.over_seeds` that is a value, not a difference; `–` if there is none.

    It ends as `mean_in_words` does where some of the seeds have no value.
    """
    return _row_in_words(row, sign=False)


def _row_in_words(row: Mapping[Any, Any] | None, *, sign: bool) -> str:
    if row is None:
        return MISSING
    some = f" ({row['seeds']} of {row['of']} seeds)" if row["seeds"] < row.get("of", 0) else ""
    if row["seeds"] < 2:  # one model has no interval, whatever the row says
        return number(row["mean"], sign=sign) + some
    return interval(row["mean"], row["low"], row["high"], sign=sign) + some


def cell(value: object, *, minus: str = MINUS) -> str:
    """The text of a table's cell: a float with three digits (`–` if it is missing), anything else as it is."""
    return number(value, minus=minus) if isinstance(value, float) else str(value)
