"""Write docs/columns.md, the meaning of every column of every analysis, from what the analyses declare.

python -m docs.write.columns
"""

from collections.abc import Mapping
from typing import Final

from docs.write.markdown import write_text_table
from docs.write.places import DOCS
from mechocl import files
from mechocl.analyses import columns
from mechocl.analyses.rows import Column, Columns

PAGE: Final = DOCS / "columns.md"

_ABOVE: Final = """\
# The columns of every analysis

`python -m docs.write.columns` writes this page from `mechocl/analyses/columns.py`. The rows that an analysis makes are
checked against these tables. Saved rows (`RUN/results/ANALYSIS/KEY/rows.parquet`) have the column `seed` in front.
"""


def write_page() -> str:
    """The page: the conventions, then one table for each set of columns."""
    conventions = (columns.__doc__ or "").split("\n\n", 1)[1].strip()
    sections = [
        f"## {', '.join(names)}\n\n{_table(declared)}"
        for names, declared in _together(columns.ALL | {"All saved rows": {"seed": columns.SEED}})
    ]
    return "\n\n".join([_ABOVE.strip(), conventions, *sections]) + "\n"


def _together(declared: Mapping[str, Columns]) -> list[tuple[list[str], Columns]]:
    """Put together the analyses that have the same columns, which share a table."""
    found: dict[int, tuple[list[str], Columns]] = {}
    for name, own in declared.items():
        found.setdefault(id(own), ([], own))[0].append(name)
    return list(found.values())


def _table(declared: Columns) -> str:
    rows = [(f"`{name}`", _type(column), column.unit, _meaning(column)) for name, column in declared.items()]
    return "\n".join(write_text_table(("column", "type", "unit", "meaning"), rows))


def _type(column: Column) -> str:
    return "float32 or float64" if column.dtype == "float" else column.dtype


def _meaning(column: Column) -> str:
    whose = f"For {column.only} alone. " if column.only else ""
    return whose + column.meaning


if __name__ == "__main__":
    files.write_text(PAGE, write_page())
