"""Intervals as figures draw them: from the lower to the upper end, each within what its quantity can be.

An interval by Student's t can reach beyond the possible, such as an AUC above 1. Its ends are then cut off at the possible values, which
keeps its coverage, since the true mean is never beyond them. A mean is never changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd

Values = Sequence[float] | np.ndarray | pd.Series
"""Numbers, in whatever they come."""

DIFFERENCE: Final = (-1.0, 1.0)
"""Least and greatest difference of two shares, of two accuracies and of two AUCs."""

SHARES: Final = frozenset({"auc", "accuracy", "exact_match", "recall"})
"""Quantities that are shares."""


def error_bar(
    means: Values,
    lows: Values,
    highs: Values,
    *,
    bounds: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """Plotly's error bar around some means, with unequal sides; `bounds` are the least and the greatest possible value.

    A mean without an interval (NaN) has a bar of no length.
    """
    mean, low, high = (np.asarray(values, dtype=float) for values in (means, lows, highs))
    if bounds is not None:
        low, high = np.maximum(low, bounds[0]), np.minimum(high, bounds[1])
    over, under = (np.nan_to_num(np.maximum(side, 0.0), nan=0.0) for side in (high - mean, mean - low))
    return {"type": "data", "array": over.tolist(), "arrayminus": under.tolist(), "symmetric": False}


def difference_bounds(quantity: str) -> tuple[float, float] | None:
    """What a difference in a quantity (`auc`, …) or of a unit (`AUC`, `share of …`) can be; None where nothing bounds it."""
    name = quantity.lower().replace(" ", "_")
    return DIFFERENCE if name in SHARES or name.startswith("share") else None


def row_within(row: Mapping[Any, Any], bounds: tuple[float, float] | None) -> dict[Any, Any]:
    """A row of `over_seeds.over_seeds` whose interval is cut off at the possible values."""
    if bounds is None:
        return dict(row)
    low, high = np.clip([row["low"], row["high"]], *bounds).tolist()
    return {**row, "low": low, "high": high}
