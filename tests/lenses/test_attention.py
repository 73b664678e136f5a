"""Attention patterns, on a model whose heads are known."""

from functools import cache

import numpy as np
import pytest
import torch
from planted import Mechanism, planted_model, small_task

from mechocl.errors import MechoclError
from mechocl.lenses.attention import AttentionConfig, attention_array, attention_patterns
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

ALIAS, SEPARATOR, EQUALS = 0, 1, 6
RETRIEVAL, COMPARISON = 0, 1


@cache
def task() -> Task:
    return small_task()


def test_planted_heads() -> None:
    """`=` reads the alias, unless tag 2 suppresses it, and then finds the integer in the list, or reads `%`."""
    table = attention_patterns(planted_model(task(), Mechanism(tag2_gain=0)), task(), AttentionConfig())
    assert list(table.columns) == ["question", "layer", "head", "query", "key", "value", "difference"]
    assert table["question"].nunique() == 10  # five subsets, one question of each answer
    for row, rows in table.groupby("question", sort=False):
        question = task().table.iloc[row]
        array = attention_array(rows)
        assert array.shape == (2, 2, 7, 7)
        known = question["tag"] != 2
        found = known and question["answer"]
        listed = task().tokens[row, 2:6] - task().vocabulary.integers[0]
        retrieval, comparison = np.zeros(7), np.zeros(7)
        retrieval[ALIAS if known else SEPARATOR] = 1
        comparison[listed.tolist().index(question["entity"]) + 2 if found else SEPARATOR] = 1
        np.testing.assert_array_equal(array[RETRIEVAL, 0, EQUALS], retrieval)
        np.testing.assert_array_equal(array[COMPARISON, 0, EQUALS], comparison)
        assert array[RETRIEVAL, 1, EQUALS, ALIAS] == 1  # the copy of the tag is never suppressed
        assert (array[RETRIEVAL, 0, SEPARATOR:EQUALS, SEPARATOR] == 1).all()
        np.testing.assert_allclose(rows["difference"], 10 if found else -10, atol=1e-5)


def test_which_questions() -> None:
    subsets = ("d3_consistent", "qd1_consistent")
    table = attention_patterns(planted_model(task(), Mechanism()), task(), AttentionConfig(subsets=subsets))
    chosen = task().table.iloc[table["question"].drop_duplicates()]
    assert chosen["subset"].tolist() == ["d3_consistent"] * 2 + ["qd1_consistent"] * 2
    assert chosen["answer"].tolist() == [True, False] * 2
    assert (chosen["split"] == "test").all()


def test_array_is_the_models_pattern() -> None:
    """Of a random model, against its own cache: causal, and each query's weights sum to 1."""
    model = architectures.build(
        architectures.ARCHITECTURES["nano"],
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=0,
    )
    table = attention_patterns(model, task(), AttentionConfig(subsets=("d1_consistent", "d2_consistent")))
    for row, rows in table.groupby("question"):
        array = attention_array(rows.sample(frac=1, random_state=0))  # the rows' order does not matter
        with torch.no_grad():
            _, cache = model.run_with_cache(task().tokens[row : row + 1])
        expected = np.stack([cache["pattern", layer][0, :, :7, :7].numpy() for layer in range(2)])
        np.testing.assert_allclose(array, expected, atol=1e-6)
        np.testing.assert_allclose(array.sum(-1), 1, atol=1e-5)
        assert (np.triu(array, 1) == 0).all()


def test_absent_subsets_are_left_out() -> None:
    model = planted_model(task(), Mechanism())
    table = attention_patterns(model, task(), AttentionConfig(subsets=("no_data", "d1_consistent")))
    assert table["question"].nunique() == 2


def test_none_of_the_subsets_is_refused() -> None:
    with pytest.raises(MechoclError, match="no questions about any of no_data, q_only"):
        attention_patterns(
            planted_model(task(), Mechanism()), task(), AttentionConfig(subsets=("no_data", "q_only"))
        )


def test_different_layouts_are_refused() -> None:
    """Names of two letters, and an integer in the place of a name."""
    fractions = Fractions(qd1=0.5, qd2=0.0, q_entity=0.5, d1=0.0, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=20, integers=12, list_length=4, tokens_per_alias=2, fractions=fractions)
    mixed = build(config, seed=0)
    model = planted_model(task(), Mechanism())
    with pytest.raises(MechoclError, match="different layouts"):
        attention_patterns(model, mixed, AttentionConfig(subsets=("qd1_consistent", "q_entity")))
