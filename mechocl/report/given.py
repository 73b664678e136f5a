"""What a figure function is given: a summary over seeds, or whatever an analysis returned."""

from typing import Any, Protocol, runtime_checkable

import pandas as pd

from mechocl.errors import MechoclError


@runtime_checkable
class HasTable(Protocol):
    """A result that gives its rows as a table, such as `patching.PatchingResult`."""

    def table(self) -> pd.DataFrame: ...


Given = Any
"""What `rows_of` takes."""


def rows_of(result: object, *needed: str) -> pd.DataFrame:
    """The rows of what an analysis returned: a table, a result with a `table()`, or a pair of rows and arrays.

    A list of these is taken as one of each seed, 0, 1 …, and rows without the column `seed` are of seed 0. Raises MechoclError
    for anything else, for a table without rows, and for one that lacks a needed column.
    """
    if isinstance(result, list):
        if not result:
            raise MechoclError("there is nothing to draw: the list is empty; give the rows of an analysis")
        tables = [rows_of(one, *needed) for one in result]
        if len(tables) > 1:
            tables = [table.assign(seed=seed) for seed, table in enumerate(tables)]
        return pd.concat(tables, ignore_index=True)
    if isinstance(result, tuple) and result:  # rows and arrays
        return rows_of(result[0], *needed)
    rows = result.table() if isinstance(result, HasTable) else result
    if not isinstance(rows, pd.DataFrame):
        raise MechoclError(
            f"a figure draws the rows of an analysis (a DataFrame), its result, or a summary, not {type(result).__name__}"
        )
    if missing := [column for column in needed if column not in rows.columns]:
        raise MechoclError(
            f"the rows to draw have no column {missing[0]!r}; they have {', '.join(map(str, rows.columns))}: give those of "
            "the analysis that this figure is of"
        )
    if rows.empty:
        raise MechoclError("there is nothing to draw: the table has no rows")
    return rows if "seed" in rows.columns else rows.assign(seed=0)


def all_are(given: object, kind: type) -> bool:
    """Whether this is a sequence of summaries of a kind, and not what an analysis returned."""
    return isinstance(given, list | tuple) and len(given) > 0 and all(isinstance(one, kind) for one in given)
