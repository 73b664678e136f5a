"""What internalization says, on hand-worked numbers and on a model whose answers are known."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from planted import Mechanism, planted_model, small_task
from sklearn.metrics import roc_auc_score
from transformer_lens import HookedTransformer

from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import by_subset, contrasts, per_alias, recalled
from mechocl.models import seam
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.measures import YES_OR_NO, within_alias_auc
from toy_models.subsets import SUBSETS, Fractions
from toy_models.task import Task, WordOrder

COLUMNS = ["alias", "subset", "accuracy", "logit_difference", "auc", "recall"]


@cache
def task() -> Task:
    return small_task()


@cache
def every_kind() -> Task:
    """A task that also has aliases without definitions, without data, and questions that name the entity."""
    fractions = Fractions(qd1=0.2, qd2=0.2, q_only=0.1, q_entity=0.1, d1=0.1, d2=0.1, d3=0.1, no_data=0.1)
    config = IntegerSetConfig(
        aliases=200, integers=12, list_length=4, test_questions=4, fractions=fractions, tag_reliability=0.8
    )
    return build(config, seed=0)


@cache
def in_order(word_order: WordOrder) -> Task:
    config = IntegerSetConfig(
        aliases=200, integers=12, list_length=4, test_questions=4, word_order=word_order
    )
    return build(config, seed=0)


def random_model(task: Task, seed: int = 0, **changes: object) -> HookedTransformer:
    """Untrained, of GPT-NeoX's shape: rotary positions, parallel blocks, layer norms."""
    return architectures.build(
        replace(architectures.ARCHITECTURES["nano"], **changes),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=seed,
    )


def test_auc_by_hand() -> None:
    """Alias 5: 3 > 2, 3 > 0, 1 < 2, 1 > 0: three of four pairs. Alias 2: each 1 ties with 1 and beats 0."""
    difference = np.array([3.0, 1.0, 2.0, 0.0, 1.0, 1.0, 1.0, 0.0])
    contains = np.array([True, True, False, False] * 2)
    alias = np.array([5, 5, 5, 5, 2, 2, 2, 2])
    expected = pd.Series([0.75, 0.75], index=pd.Index([2, 5], name="alias"), name="auc")
    pd.testing.assert_series_equal(within_alias_auc(difference, contains, alias), expected)


@pytest.mark.parametrize(("values", "auc"), [([2, 1], 1.0), ([1, 2], 0.0), ([1, 1], 0.5)])
def test_auc_of_one_pair(values: list[float], auc: float) -> None:
    found = within_alias_auc(np.array(values, dtype=float), np.array([True, False]), np.array([0, 0]))
    assert found[0] == auc


def test_auc_compares_only_questions_of_one_alias() -> None:
    """Alias 0 is answered at 11 and 10, alias 1 at 1 and 0: pooled, alias 0's false one beats alias 1's true."""
    difference, alias = np.array([11.0, 10.0, 1.0, 0.0]), np.array([0, 0, 1, 1])
    contains = np.array([True, False, True, False])
    assert within_alias_auc(difference, contains, alias).tolist() == [1.0, 1.0]
    assert roc_auc_score(contains, difference) == 0.75


question = st.tuples(st.integers(0, 3), st.booleans(), st.integers(-3, 3))


@settings(max_examples=30, deadline=None)
@given(st.lists(question, max_size=40))
def test_auc_is_scikit_learns_per_alias(questions: list[tuple[int, bool, int]]) -> None:
    """Few distinct values, so that there are ties."""
    questions += [(a, c, 0) for a in range(4) for c in (True, False)]
    alias, contains, value = (np.array(column) for column in zip(*questions, strict=True))
    found = within_alias_auc(value.astype(float), contains, alias)
    for a in range(4):
        assert found[a] == pytest.approx(roc_auc_score(contains[alias == a], value[alias == a]))


def test_auc_needs_both_kinds_of_question() -> None:
    with pytest.raises(ValueError, match="only one kind of question"):
        within_alias_auc(np.zeros(3), np.array([True, False, True]), np.array([0, 0, 1]))


def test_auc_refuses_a_model_that_diverged() -> None:
    with pytest.raises(ValueError, match="not finite"):
        within_alias_auc(np.array([np.nan, 0.0]), np.array([True, False]), np.array([0, 0]))


def test_planted_model_with_one_tag_suppressed() -> None:
    """Gain 1: +10 or −10, always right. Gain 0: −10 to every question, so right on the false half."""
    table = per_alias(planted_model(task(), Mechanism(tag2_gain=0)), task())
    assert list(table.columns) == COLUMNS
    assert len(table) == table["alias"].nunique() == 360
    suppressed = table["subset"].isin(["qd2_inconsistent", "d2_consistent"])
    known, unknown = table[~suppressed], table[suppressed]
    assert (known[["accuracy", "auc"]] == 1).all(axis=None)
    np.testing.assert_allclose(known["logit_difference"], 10, atol=1e-5)
    assert (unknown[["accuracy", "auc"]] == 0.5).all(axis=None)
    np.testing.assert_allclose(unknown["logit_difference"], 0, atol=1e-5)


def test_by_subset_of_the_planted_model() -> None:
    table = by_subset(per_alias(planted_model(task(), Mechanism(tag2_gain=0)), task()))
    assert table["subset"].tolist() == [name for name in SUBSETS if name in set(table["subset"])]
    table = table.set_index("subset")
    assert table["aliases"].to_dict() == {
        "qd1_consistent": 90,
        "qd2_inconsistent": 90,
        "d1_consistent": 60,
        "d2_consistent": 60,
        "d3_consistent": 60,
    }
    assert table["auc"].to_dict() == {
        "qd1_consistent": 1,
        "qd2_inconsistent": 0.5,
        "d1_consistent": 1,
        "d2_consistent": 0.5,
        "d3_consistent": 1,
    }
    found = of_one(table["auc"].to_dict(), "auc")
    expected = {"weak": 0.5, "strong": 0.5, "strong_d1_d3": 0, "strong_d3_d2": 0.5}
    assert found == expected | {"ocl_d1": 0.5, "ocl_d2": 0, "ocl_d3": 0.5}


def test_auc_does_not_depend_on_the_threshold() -> None:
    """Gain ½: 0 where the list contains the integer, else −10. Ranked rightly, but not answered rightly."""
    table = per_alias(planted_model(task(), Mechanism(tag1_gain=0.5)), task(), aliases_per_subset=10)
    tag1 = table[table["subset"].isin(["qd1_consistent", "d1_consistent"])]
    assert len(tag1) == 20
    assert (tag1["auc"] == 1).all()
    np.testing.assert_allclose(tag1["logit_difference"], 5, atol=1e-4)


def test_subset_means_by_hand() -> None:
    aliases = pd.DataFrame(
        {
            "alias": [3, 1, 2],
            "subset": ["d2_consistent", "qd1_consistent", "d2_consistent"],
            "accuracy": [0.5, 1.0, 1.0],
            "logit_difference": [-1.0, 4.0, 2.0],
            "auc": [0.25, 1.0, 0.75],
            "recall": [0.0, np.nan, 1.0],
        }
    )
    table = by_subset(aliases).set_index("subset")
    assert table.index.tolist() == ["qd1_consistent", "d2_consistent"]
    assert table.loc["d2_consistent"].to_dict() == {
        "auc": 0.5,
        "accuracy": 0.75,
        "logit_difference": 0.5,
        "recall": 0.5,
        "aliases": 2,
    }
    assert np.isnan(table.loc["qd1_consistent", "recall"])


def of_one(values: dict[str, float], metric: str) -> dict[str, float]:
    """Contrasts of one seed."""
    return contrasts(pd.DataFrame([values]), metric, YES_OR_NO).loc[0].to_dict()


@pytest.mark.parametrize(("metric", "ocl"), [("auc", 0.4), ("accuracy", 0.4), ("logit_difference", 0.9)])
def test_contrasts_by_hand(metric: str, ocl: float) -> None:
    found = of_one(
        {"qd1_consistent": 0.8, "q_only": 0.75, "d1_consistent": 0.9, "d2_consistent": 0.6}, metric
    )
    assert list(found) == ["weak_vs_q_only", "strong", "ocl_d1", "ocl_d2"]
    assert list(found.values()) == pytest.approx([0.05, 0.3, ocl, ocl - 0.3])


def test_a_seed_that_lacks_a_subset_has_no_contrast_with_it() -> None:
    values = pd.DataFrame(
        {"d1_consistent": [0.9, 0.8], "d2_consistent": [0.6, np.nan], "d3_consistent": [np.nan, np.nan]},
        index=pd.Index([4, 7], name="seed"),
    )
    found = contrasts(values, "auc", YES_OR_NO)
    assert found.columns.tolist() == ["strong", "ocl_d1", "ocl_d2"]
    assert found["strong"].to_dict() == {4: pytest.approx(0.3), 7: pytest.approx(np.nan, nan_ok=True)}
    assert found["ocl_d1"].to_dict() == pytest.approx({4: 0.4, 7: 0.3})


def test_recall_has_no_chance_to_compare_with() -> None:
    assert list(of_one({"d1_consistent": 0.9, "d2_consistent": 0.6}, "recall")) == ["strong"]


def test_every_contrast_names_subsets() -> None:
    for contrast in internalization.CONTRASTS:
        assert set(contrast.subsets) <= set(SUBSETS)
        assert contrast.better


def test_the_effect_of_the_tag_is_apart_from_that_of_a_right_definition() -> None:
    """Right definitions give +.2 with either tag, and tag 1 makes its own count .05 more: .25 − .20."""
    values = {
        "qd1_consistent": 0.9,
        "qd1_inconsistent": 0.65,
        "qd2_consistent": 0.85,
        "qd2_inconsistent": 0.65,
    }
    found = of_one(values, "auc")
    assert found["weak"] == pytest.approx(0.25)
    assert found["weak_tag"] == pytest.approx(0.05)
    del values["qd1_inconsistent"]
    assert "weak_tag" not in of_one(values, "auc")


def recall_of(task: Task, model: HookedTransformer) -> pd.DataFrame:
    """Recall beside what the alias's definition and questions say."""
    table = per_alias(model, task, aliases_per_subset=20)
    known = task.table.drop_duplicates("alias").set_index("alias")
    return table.join(known[["entity", "defined_entity"]], on="alias")


@pytest.mark.parametrize("word_order", ["TVE", "VTE"])
def test_recall_after_the_separator(word_order: WordOrder) -> None:
    """`%` retrieves nothing, and there the planted model's first choice is always 0."""
    table = recall_of(in_order(word_order), planted_model(in_order(word_order), Mechanism()))
    np.testing.assert_array_equal(table["recall"], table["defined_entity"] == 0)
    assert table["recall"].sum() > 0


def test_recall_after_the_alias() -> None:
    """In VET the integer follows the alias, which the planted model knows the questions' integer of."""
    table = recall_of(in_order("VET"), planted_model(in_order("VET"), Mechanism()))
    np.testing.assert_array_equal(table["recall"], table["defined_entity"] == table["entity"])
    assert 0 < table["recall"].mean() < 1


@pytest.mark.parametrize("word_order", ["TEV", "EVT", "ETV"])
def test_no_recall_where_the_alias_follows_the_entity(word_order: WordOrder) -> None:
    table = recall_of(in_order(word_order), planted_model(in_order(word_order), Mechanism()))
    assert len(table) == 100
    assert table["recall"].isna().all()
    assert table["auc"].notna().all()


def test_recalled_refuses_definitions_that_begin_with_the_integer() -> None:
    rows = in_order("EVT").rows(kind="definition")
    with pytest.raises(ValueError, match="begin with their integer"):
        recalled(planted_model(in_order("EVT"), Mechanism()), in_order("EVT"), rows)


def test_aliases_without_definition_have_no_recall() -> None:
    table = per_alias(random_model(every_kind()), every_kind())
    assert set(table["subset"]) == set(SUBSETS) - {"d2_noise", "d2_unasked"}
    undefined = table["subset"].isin(["q_only", "q_entity", "no_data"])
    assert table.loc[undefined, "recall"].isna().all()
    assert table.loc[~undefined, "recall"].notna().all()
    assert table["alias"].is_unique
    assert len(table) == 200


def test_limit_takes_the_first_aliases_of_each_subset() -> None:
    model = random_model(every_kind())
    everything, some = (per_alias(model, every_kind(), aliases_per_subset=n) for n in (None, 3))
    assert (some.groupby("subset").size() == 3).all()
    first = everything.groupby("subset").head(3)
    assert set(some["alias"]) == set(first["alias"])
    same = first.set_index("alias").loc[some["alias"]].reset_index()
    pd.testing.assert_frame_equal(some, same, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(batch_size=st.integers(1, 50), n=st.integers(1, 40))
def test_batch_size_changes_nothing(batch_size: int, n: int) -> None:
    model, tokens = random_model(task()), task().tokens[-n:]
    ids, where = torch.tensor([3, 4, 17]), torch.arange(n) % task().n_ctx
    whole = seam.final_residual(model, tokens)
    assert whole.shape == (n, task().n_ctx, model.cfg.d_model)
    torch.testing.assert_close(seam.final_residual(model, tokens, batch_size=batch_size), whole)
    found = seam.logits_at(model, tokens, where, ids, batch_size=batch_size)
    with torch.no_grad():
        expected = model(tokens)[torch.arange(n), where][:, ids]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@dataclass
class Counter:
    calls: int = 0

    def __call__(self, x: torch.Tensor, hook: object) -> None:
        self.calls += 1


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"parallel_attn_mlp": False},
        {"positions": "learned"},
        {"positions": "none", "d_mlp": 0},
        {"normalization": "none", "activation": "relu"},
    ],
    ids=str,
)
def test_lean_path_equals_hook_path(changes: dict[str, object]) -> None:
    model, tokens = random_model(task(), **changes), task().tokens[-50:]
    lean, hook = seam.final_residual(model, tokens), Counter()
    with model.hooks([("blocks.0.hook_resid_pre", hook)]):
        hooked = seam.final_residual(model, tokens)
    assert hook.calls == 1  # the second one did take the model's own forward pass
    torch.testing.assert_close(lean, hooked, atol=1e-5, rtol=1e-5)


def test_what_the_lean_path_does_not_cover_takes_the_hook_path() -> None:
    """With another activation function (the lean path would raise) the result is still the model's own."""
    model, tokens = random_model(task()), task().tokens[-20:]
    model.cfg.act_fn = "silu"
    for block in model.blocks:
        block.mlp.act_fn = torch.nn.functional.silu
    with torch.no_grad():
        expected = model(tokens)
    found = seam.final_residual(model, tokens) @ model.W_U + model.b_U
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_callers_hooks_take_part() -> None:
    """Under an ablation of the retrieval head, the planted model answers false to everything."""
    model = planted_model(task(), Mechanism())
    with model.hooks([("blocks.0.hook_attn_out", lambda x, hook: torch.zeros_like(x))]):
        ablated = per_alias(model, task(), aliases_per_subset=5)
    assert (ablated[["accuracy", "auc"]] == 0.5).all(axis=None)
    assert (per_alias(model, task(), aliases_per_subset=5)["auc"] == 1).all()
