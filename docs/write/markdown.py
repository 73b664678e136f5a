"""Tables of a Markdown document."""

from collections.abc import Collection, Sequence

import pandas as pd


def write_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Collection[int] = (0,)
) -> list[str]:
    """The lines of a Markdown table whose cells are texts.

    `left`: indices of the columns that are aligned to the left. Other columns, which hold numbers, are aligned to the
    right. A `|` within a cell is escaped. Raises ValueError when a row does not have one cell for each column.
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
    """The lines of a Markdown table of texts, in which every column is aligned to the left."""
    return write_table(columns, rows, left=range(len(columns)))
