"""Declared rows: what is checked, and that the document says what the code declares."""

import dataclasses
import importlib.util
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from contract import CONFIGS, planted, subject

from mechocl.analyses import columns, crosscoder_jobs, registry
from mechocl.analyses.crosscoder_jobs import ANALYSIS
from mechocl.analyses.registry import ANALYSES, Result
from mechocl.analyses.rows import Column, UndeclaredRows, check_rows

ROOT = Path(__file__).parent.parent.parent

DECLARED = {
    "alias": Column("int64", "A number."),
    "value": Column("float", "A number."),
    "name": Column("str", "A word."),
    "norm_{n}": Column("float64", "A number for each."),
    "auc": Column("float64", "Of one kind.", only="one kind"),
    "recall": Column("float64", "Of one kind.", only="one kind"),
    "generated": Column("str", "Of another.", only="another kind"),
}


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "alias": [1, 2],
            "value": [0.5, float("nan")],
            "name": ["a", None],
            "norm_0": [1.0, 2.0],
            "norm_1": [1.0, 2.0],
            "auc": [0.5, 0.5],
            "recall": [1.0, 0.0],
        }
    )


def test_rows_as_declared_pass() -> None:
    check_rows("lens", rows(), DECLARED)
    check_rows("lens", rows().astype({"value": "float32", "name": object}), DECLARED)
    check_rows("lens", rows().drop(columns=["auc", "recall"]).assign(generated="word"), DECLARED)
    check_rows("lens", rows().iloc[:0].astype(object), DECLARED)  # a table without rows has no types


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (rows().drop(columns="alias"), r"lens: the rows lack the column 'alias'"),
        (rows().drop(columns="recall"), r"lens: the rows lack the column 'recall'"),
        (rows().drop(columns=["norm_0", "norm_1"]), r"lens: the rows lack the column 'norm_\{n\}'"),
        (rows().drop(columns=["auc", "recall"]), r"lens: the rows lack the column 'auc'"),
        (rows().assign(norm_x=1.0), r"lens: the rows have the column 'norm_x', which is not declared"),
        (rows().assign(generated="word"), r"lens: rows have columns of another kind and of one kind at once"),
        (rows().astype({"alias": float}), r"lens: the column 'alias' is of type float64, and declared as int64"),
        (rows().astype({"auc": "float32"}), r"lens: the column 'auc' is of type float32"),
        (rows().assign(value=1), r"lens: the column 'value' is of type int64, and declared as float"),
        (rows().assign(name=[1, "a"]), r"lens: the column 'name' is of type object, and declared as str"),
        (rows().iloc[:0].drop(columns="alias"), r"lens: the rows lack the column 'alias'"),
    ],
)  # fmt: skip
def test_other_rows_are_refused_by_name(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(UndeclaredRows, match=message):
        check_rows("lens", table, DECLARED)


def test_an_analysis_that_makes_other_rows_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    of = subject(planted())
    found = registry.compute("attention", of, CONFIGS["attention"])
    assert isinstance(found, Result)
    assert found.arrays == {}

    def other(*_: object) -> Result:
        return Result(found.rows.rename(columns={"value": "probability"}))

    changed = dataclasses.replace(ANALYSES["attention"], compute=other)
    monkeypatch.setitem(ANALYSES, "attention", changed)
    with pytest.raises(UndeclaredRows, match="attention: the rows lack the column 'value'"):
        registry.compute("attention", of, CONFIGS["attention"])


def test_every_analysis_is_declared_once_with_whole_sentences() -> None:
    assert set(columns.ALL) == {*ANALYSES, ANALYSIS}
    for name, declared in columns.ALL.items():
        assert name == ANALYSIS or ANALYSES[name].columns is declared
        for column, what in declared.items():
            assert what.meaning.endswith("."), f"{name}: {column}"
            assert "  " not in what.meaning, f"{name}: {column}"


def _writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("columns_writer", ROOT / "docs" / "write" / "columns.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_document_is_what_the_writer_makes() -> None:
    writer = _writer()
    page = writer.write_page()
    assert writer.PAGE.read_text(encoding="utf-8") == page
    for name, declared in columns.ALL.items():
        assert name in page
        for column, what in declared.items():
            assert f"`{column}`" in page
            assert what.meaning.replace("|", r"\|") in page


@pytest.mark.parametrize("q", [0.01, 0.5])
def test_the_sign_of_a_feature_has_one_type_with_and_without_a_property(q: float) -> None:
    """Where every feature had a property, rows once had another type than is declared, and the command failed at its end."""
    found = pd.DataFrame({"what": ["feature"] * 2, "features": ["0", "1"], "q": [0.01, q], "auc": [0.9, 0.8]})
    found = found.assign(property="tag 1", group="tag", text="tag 1", position="=", sign=[1, -1])
    features = pd.DataFrame({"feature": [0, 1]})
    rows = features.merge(crosscoder_jobs._surest(found), on="feature", how="left")
    assert rows["sign"].dtype == "float64"
    assert rows["sign"].isna().sum() == (q > 0.05)
