"""Declared rows: which columns a table has, and the type, unit and meaning of each."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Dtype = Literal["int64", "float64", "float32", "float", "bool", "str"]
"""Type of a column. `float` means float32 or float64."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of an analysis' rows."""

    dtype: Dtype
    meaning: str
    """What the column means, in whole sentences, with the sign convention and when the value is NaN."""
    unit: str = ""
    """Unit of the values. "" for names, numbers and counts."""
    only: str = ""
    """Kind of rows that have the column. "" means all rows."""


Columns = Mapping[str, Column]
"""Columns by name. A name with `{n}` stands for one or more columns with a number in its place: norm_0, norm_1 …"""


class UndeclaredRows(Exception):
    """An analysis has made other rows than it declares. This is a fault of the analysis, not of its user."""


def check_rows(analysis: str, rows: pd.DataFrame, declared: Columns) -> None:
    """Raise UndeclaredRows, with the names of the analysis and the column, where rows are not as they are declared.

    Rows must have all columns that are declared for every kind of rows, all columns of at most one kind, and no other
    columns. The types of a table without rows are not checked.
    """
    kinds = {column.only for name, column in declared.items() if column.only and _matching(name, rows)}
    if len(kinds) > 1:
        raise UndeclaredRows(f"{analysis}: rows have columns of {' and of '.join(sorted(kinds))} at once")
    if not kinds and any(column.only for column in declared.values()):
        kinds = {next(column.only for column in declared.values() if column.only)}
    wanted = {name: column for name, column in declared.items() if column.only in {"", *kinds}}
    known: set[str] = set()
    for name, column in wanted.items():
        there = _matching(name, rows)
        if not there:
            raise UndeclaredRows(f"{analysis}: the rows lack the column {name!r}, which is declared")
        for one in there:
            if len(rows) and not _has_dtype(rows[one], column.dtype):
                raise UndeclaredRows(
                    f"{analysis}: the column {one!r} is of type {rows[one].dtype}, and declared as {column.dtype}"
                )
        known |= set(there)
    if odd := [name for name in rows.columns if name not in known]:
        raise UndeclaredRows(f"{analysis}: the rows have the column {odd[0]!r}, which is not declared")


def _matching(name: str, rows: pd.DataFrame) -> list[str]:
    """Columns that a declared name stands for."""
    pattern = r"\d+".join(map(re.escape, name.split("{n}")))
    return [one for one in rows.columns if re.fullmatch(pattern, str(one))]


def _has_dtype(values: pd.Series, dtype: Dtype) -> bool:
    if dtype == "str":  # missing strings are None or NaN, which depends on the version of pandas
        return isinstance(values.dtype, pd.StringDtype) or (
            values.dtype == object and all(isinstance(value, str) for value in values.dropna())
        )
    allowed = ("float32", "float64") if dtype == "float" else (dtype,)
    return str(values.dtype) in allowed
