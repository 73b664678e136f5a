"""Tables of documents: what is written, how it is aligned, and that every committed table is so."""

import re
from pathlib import Path

import pytest

from docs.write.markdown import write_table, write_text_table
from docs.write.places import DOCS, README

WRITTEN = [DOCS / f"{name}.md" for name in ("results", "toolbox", "scale", "benchmarks", "reliability")] + [
    README
]


def test_a_table() -> None:
    assert write_table(["", "AUC", "AUC"], [["d1", "+0.250", "–"], ["d2, alias", "−1.5 [x]", "007"]]) == [
        "|           |      AUC |   AUC |",
        "|:----------|---------:|------:|",
        "| d1        |   +0.250 |     – |",
        "| d2, alias | −1.5 [x] |   007 |",
    ]  # fmt: skip


def test_columns_of_texts_are_aligned_to_the_left() -> None:
    assert write_table(["a", "b", "c"], [["x", "y", "10"]], left=(0, 1))[1] == "|:----|:----|----:|"
    assert write_text_table(["a", "b"], [["x", "1.50"]]) == [
        "| a   | b    |",
        "|:----|:-----|",
        "| x   | 1.50 |",
    ]


def test_a_table_without_rows_has_its_head() -> None:
    assert write_table(["a", "b"], [])[0] == "| a   | b   |"
    assert len(write_table(["a", "b"], [])) == 2


def test_a_bar_within_a_cell_does_not_end_it() -> None:
    assert r"\|cosine\|" in write_table(["a"], [["|cosine|"]])[2]


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 1 cells in a table of 2 columns: x"):
        write_table(["a", "b"], [["x"]])


@pytest.mark.parametrize("document", WRITTEN, ids=lambda path: path.name)
def test_the_lines_of_a_table_are_equally_long(document: Path) -> None:
    """Also where a package is installed that knows the widths of characters, which tabulate would then use."""
    text = document.read_text(encoding="utf-8")
    if document == README:
        text = text.split("<!-- results")[1].split("<!-- end of results")[0]
    if document.name == "scale.md":
        text = text.split("<!-- scale -->")[1]
    tables = re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(line) for line in table.splitlines()}) == 1, table
