"""How tasks look in a notebook."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import text_worlds
import tiny

from mechocl.closed_book import examples
from mechocl.runs.train_toy import draw_task
from toy_models.shown import MISSING, Shown, alias_name
from toy_models.task import Task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return draw_task(tiny.recipe(tmp_path_factory.mktemp("recipe")), seed=0)


@pytest.fixture(scope="module")
def texts() -> Task:
    tokenizer = text_worlds.tokenizer()
    return examples.build(text_worlds.config(), text_worlds.world(), tokenizer, seed=0, context=128)


def test_one_line(task: Task) -> None:
    assert "\n" not in repr(task)
    assert len(repr(task)) < 150
    assert f"{len(task):,} examples" in repr(task)
    assert (
        repr(task.vocabulary)
        == f"Vocabulary({len(task.vocabulary)} tokens, logits of {task.vocabulary.outputs})"
    )


def test_an_alias_shows_its_definition_and_questions(task: Task) -> None:
    alias = int(task.table["alias"][task.rows(subset="d1")[0]])
    rows = task.rows(alias=alias)
    ((_, table),) = task.show(alias).tables
    assert len(table) == len(rows)
    definition = table[table["what"] == "definition, train"]
    assert definition["tag"].tolist() == [1]
    assert definition["stage"].tolist() == [2]
    entity = task.table["entity"][rows[0]]
    assert definition["text"].tolist() == [f"tag 1 alias {alias} % {entity}"]
    assert set(table["what"]) == {"definition, train", "question, test"}
    assert table.loc[table["what"] == "question, test", "stage"].eq(MISSING).all()
    for text in table["text"]:
        assert task.vocabulary.decode(task.vocabulary.encode(text))  # no padding, and it can be read again
    assert str(task.show(f"alias {alias}")) == str(task.show(alias))
    assert "in stage 2 as what its questions are about" in str(task.show(alias))


def test_a_wrong_definition_is_said_to_be_wrong(task: Task) -> None:
    alias = int(task.table["alias"][task.rows(subset="qd2_inconsistent")[0]])
    assert "in stage 1 as something else than its questions are about" in str(task.show(alias))


def test_an_alias_of_a_text_is_found_by_its_name(texts: Task) -> None:
    alias = int(texts.table["alias"][texts.rows(subset="d1")[0]])
    name = alias_name(texts, alias)
    shown = texts.show(name)
    assert shown.title == name
    assert str(shown) == str(texts.show(alias))
    ((_, table),) = shown.tables
    assert {"definition, train", "question, test"} <= set(table["what"])
    assert all(name in text for text in table["text"])


@pytest.mark.parametrize("alias", [-1, 10**6, "alias 999999", "nobody"])
def test_an_alias_that_is_not_there_is_refused(task: Task, alias: int | str) -> None:
    with pytest.raises(ValueError, match="the task has no alias"):
        task.show(alias)


def test_texts_of_a_world_cannot_become_html(texts: Task) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    table = texts.table.assign(prompt=evil, attribute=evil)
    page = replace(texts, table=table).show(0)._repr_html_() + replace(texts, table=table)._repr_html_()
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    page = Shown(title=evil, facts=(evil,), tables=((evil, pd.DataFrame({evil: [evil]})),))._repr_html_()
    tags = set(re.findall(r"<(\w+)", page))
    assert tags <= {"div", "p", "b", "br", "table", "thead", "tbody", "tr", "th", "td"}


def test_long_texts_are_whole_and_missing_values_are_dashes() -> None:
    long = "word " * 60
    shown = Shown(title="t", tables=(("", pd.DataFrame({"a": [long, None, np.nan, -0.12345]})),))
    for form in (str(shown), shown._repr_html_()):
        assert long.strip() in form
        assert "…" not in form
        assert form.count(MISSING) == 2
        assert "−0.123" in form


def test_the_overview_counts(task: Task, tmp_path: Path) -> None:
    page = task._repr_html_()
    for subset in task.table["subset"].unique():
        assert subset in page
    assert str(len(task.rows(kind="question", subset="d1", split="test"))) in page
