"""Which values the columns of a task's table can be asked for."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, Final

import numpy as np
import pandas as pd

from toy_models.subsets import nearest

WORDS: Final[dict[str, tuple[str, ...]]] = {
    "kind": ("definition", "question"),
    "split": ("train", "test"),
    "order": ("", "TVE", "TEV", "VTE", "VET", "EVT", "ETV"),
}
"""Column → the values that it can have in every task, whether or not this one has them."""

NUMBERS: Final[dict[str, tuple[int, ...]]] = {"tag": (0, 1, 2, 3), "stage": (0, 1, 2)}
"""The same of numbers."""


def require_known(column: "pd.Series[Any]", values: Sequence[object], *, also: Sequence[str] = ()) -> None:
    """Raise ValueError for a value that the column of a task's table cannot have, as a slip of the pen would be.

    `also`: more values that a column of words can have. A column of numbers takes whole numbers, one of yes or no True
    and False, and neither any of the other.
    """
    name = str(column.name)
    if pd.api.types.is_bool_dtype(column):
        odd = [value for value in values if not isinstance(value, bool | np.bool_)]
        takes = "; it takes True or False"
    elif pd.api.types.is_numeric_dtype(column):
        known = NUMBERS.get(name)
        odd = [value for value in values if not _is_whole(value) or (known and value not in known)]
        takes = f"; it takes {', '.join(map(str, known))}" if known else "; it takes whole numbers"
    else:
        present = list(dict.fromkeys([*WORDS.get(name, ()), *also, *column.dropna().unique()]))
        odd = [value for value in values if value not in present]
        takes = nearest(odd[0], present) if odd else ""
    if odd:
        raise ValueError(f"the task has no {name} {odd[0]!r}{takes}")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)
