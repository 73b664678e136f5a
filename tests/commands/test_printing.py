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


def test_a_grid_over_seeds_says_where_some_have_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    nan = float("nan")
    rows = pd.DataFrame(
        {
            "seed": [0, 0, 0, 1, 1, 1],
            "part": ["a", "b", "c"] * 2,
            "subset": "d1",
            "share": [0.5, 1.0, nan, 0.75, nan, nan],
        }
    )
    numbers = printing.grid_over_seeds(rows, "part", "subset", "share")
    assert capsys.readouterr().out.splitlines() == [
        "part  d1",
        "a     +0.625",
        "b     +1.000 (1 of 2)",
        "c     –",
        "(n of N): the mean of the n seeds alone that have a value, which is no measure of all N",
    ]
    assert numbers["d1"].tolist()[:2] == [0.625, 1.0]


def test_a_frame_has_a_title_and_three_digits(capsys: pytest.CaptureFixture[str]) -> None:
    printing.frame("what", pd.DataFrame({"name": ["a", "b"], "value": [1 / 3, float("nan")], "n": [1, 2]}))
    assert capsys.readouterr().out.splitlines() == [
        "",
        "what",
        "name  value  n",
        "a     0.333  1",
        "b     –      2",
    ]
