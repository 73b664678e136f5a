"""A table of texts, printed."""

from collections.abc import Sequence

import tabulate


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table whose cells are texts."""
    # The cells are texts and stay as they are: tabulate would print +0.250 as 0.25. The head is a row like the
    # others, for tabulate makes a column wider than a head that it knows of.
    lines = [
        [" ".join(cell.split()) if "\n" in cell or "\r" in cell else cell for cell in row] for row in rows
    ]
    text = tabulate.tabulate([columns, *lines], tablefmt="plain", disable_numparse=True)
    for line in text.splitlines():
        print(line.rstrip())
