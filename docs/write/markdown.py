"""Tables of a Markdown document."""

from collections.abc import Collection, Sequence

import pandas as pd


def write_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)
) -> list[str]:
    """The lines of a Markdown table whose cells are written already.

    `left`: numbers of the columns that are aligned to the left; the others, which hold numbers, are aligned to
    the right. A `|` within a cell is escaped. Raises ValueError where a row has not one cell for each column.
    """
    for row in rows:
        if len(row) != len(columns):
            raise ValueError(
                f"a row of {len(row)} cells in a table of {len(columns)} columns: {' | '.join(row)}"
            )
    table = pd.DataFrame([[cell.replace("|", r"\|") for cell in row] for row in rows], columns=list(columns))
    alignment = ["left" if i in left else "right" for i in range(len(columns))]
    # the cells are texts, and stay as they are: tabulate would write +0.250 as 0.25
    text = table.to_markdown(index=False, disable_numparse=True, colalign=alignment)
    return text.splitlines()


def write_text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of texts: every column is aligned to the left."""
    return write_table(columns, rows, left=range(len(columns)))
