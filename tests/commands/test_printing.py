"""Tables that commands print: texts in columns, numbers as they were written."""

import pandas as pd
import pytest

from mechocl.commands import printing


def test_a_table_keeps_its_cells_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    printing.table(["subset", "a long head", "p"], [["d1", "+0.250", ""], ["no_data", "007", "–"]])
    assert capsys.readouterr().out.splitlines() == [
        "subset   a long head  p",
        "d1       +0.250",
        "no_data  007          –",
    ]


def test_a_table_without_rows_is_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    printing.table(["run", "recipe"], [])
    assert capsys.readouterr().out == "run  recipe\n"


def test_a_grid_of_numbers_texts_and_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    cells = pd.DataFrame({"alias": [0.5, -0.25], "=": ["0.5*", float("nan")]}, index=[0, 1])
    printing.grid(cells, "+.2f")
    assert capsys.readouterr().out.splitlines() == [
        "layer  alias  =",
        "0      +0.50  0.5*",
        "1      -0.25  –",
    ]


def test_a_frame_has_a_title_and_three_digits(capsys: pytest.CaptureFixture[str]) -> None:
    printing.frame("what", pd.DataFrame({"name": ["a", "b"], "value": [1 / 3, float("nan")], "n": [1, 2]}))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "what",
        "name  value  n",
        "a     0.333  1",
        "b     –      2",
    ]
