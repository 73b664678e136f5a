"""Activation patching and its pairs: planted answers, TransformerLens's own functions, and properties."""

from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import Mechanism, planted_model, small_task
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens import patching as theirs

from mechocl import activations
from mechocl.contrasts import Pairs, alias_pairs
from mechocl.errors import MechoclError
from mechocl.patching import PatchingConfig, patch_residual_stream
from toy_models import architectures
from toy_models.integer_set import IntegerSetConfig, build
from toy_models.subsets import Fractions
from toy_models.task import ROLE, Task

POSITIONS = ("alias", "%", "n1", "n2", "n3", "n4", "=")
DEFINED = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent", "d3_consistent")


@cache
def task() -> Task:
    return small_task()


@cache
def random_model(seed: int = 0) -> HookedTransformer:
    """Untrained, of GPT-NeoX's shape."""
    return architectures.build(
        architectures.ARCHITECTURES["nano"],
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=seed,
    )


def pairs_of(*, same_integer: bool, n_pairs: int = 30, seed: int = 0) -> Pairs:
    return alias_pairs(
        task(),
        clean="d1_consistent",
        corrupted="d2_consistent",
        same_integer=same_integer,
        n_pairs=n_pairs,
        seed=seed,
    )


def metric(pairs: Pairs, logits: Tensor) -> Tensor:
    """Mean over pairs of true − false at `=`, its sign turned where the list lacks the clean integer."""
    at = logits[:, len(pairs.labels) - 1]
    difference = at[:, task().vocabulary.true] - at[:, task().vocabulary.false]
    return torch.where(pairs.contains, difference, -difference).mean()


def assert_planted_effects(table: pd.DataFrame, *, retrieval_layer: int, effect: float) -> None:
    """`effect` at the alias up to the retrieval layer's input and at `=` from its output on, else 0."""
    expected = []
    for layer in table["layer"].drop_duplicates():
        done = layer != "embed" and int(layer.removeprefix("layer ")) >= retrieval_layer
        expected += [effect * (position == ("=" if done else "alias")) for position in POSITIONS]
    assert table["position"].tolist() == list(POSITIONS) * (len(table) // len(POSITIONS))
    np.testing.assert_allclose(table["effect"], expected, atol=1e-5)


@pytest.mark.parametrize("retrieval_layer", [0, 1, 2])
def test_planted_same_integer(retrieval_layer: int) -> None:
    """Tag 2 is suppressed: +20 on the questions whose list contains the integer, 0 on the others."""
    mechanism = Mechanism(
        n_layers=4, retrieval_layer=retrieval_layer, comparison_layer=retrieval_layer + 1, tag2_gain=0
    )
    pairs = pairs_of(same_integer=True)
    table = patch_residual_stream(planted_model(task(), mechanism), task(), pairs)
    share = float(pairs.contains.float().mean())
    assert 0 < share < 1
    assert list(table.columns) == ["layer", "position", "effect", "clean", "corrupted", "pairs"]
    assert table["layer"].drop_duplicates().tolist() == ["embed", *(f"layer {i}" for i in range(4))]
    assert (table["pairs"] == 30).all()
    np.testing.assert_allclose(table["clean"], 10, atol=1e-5)
    np.testing.assert_allclose(table["corrupted"], 10 - 20 * share, atol=1e-5)
    assert_planted_effects(table, retrieval_layer=retrieval_layer, effect=20 * share)


@pytest.mark.parametrize(("contains", "effect"), [(True, 20.0), (False, 0.0)])
def test_planted_same_integer_by_answer(contains: bool, effect: float) -> None:
    pairs = pairs_of(same_integer=True)
    of = pairs.contains == contains
    pairs = Pairs(pairs.clean[of], pairs.corrupted[of], pairs.contains[of], pairs.labels)
    table = patch_residual_stream(planted_model(task(), Mechanism(tag2_gain=0)), task(), pairs)
    assert_planted_effects(table, retrieval_layer=0, effect=effect)


@pytest.mark.parametrize("retrieval_layer", [0, 1])
def test_planted_different_integers(retrieval_layer: int) -> None:
    """Nothing suppressed, exactly one integer in the list: from −10 to +10 in every pair."""
    mechanism = Mechanism(n_layers=3, retrieval_layer=retrieval_layer, comparison_layer=2)
    table = patch_residual_stream(planted_model(task(), mechanism), task(), pairs_of(same_integer=False))
    np.testing.assert_allclose(table["clean"], 10, atol=1e-5)
    np.testing.assert_allclose(table["corrupted"], -10, atol=1e-5)
    assert_planted_effects(table, retrieval_layer=retrieval_layer, effect=20)


def test_the_check_above_can_fail() -> None:
    table = patch_residual_stream(
        planted_model(task(), Mechanism(n_layers=3, comparison_layer=2)), task(), pairs_of(same_integer=False)
    )
    for wrong in ({"retrieval_layer": 1, "effect": 20}, {"retrieval_layer": 0, "effect": 19.9}):
        with pytest.raises(AssertionError):
            assert_planted_effects(table, **wrong)


@pytest.mark.parametrize("same_integer", [True, False])
def test_equals_transformer_lens(same_integer: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Every residual stream before a layer, and the one after the last, at every position."""
    model, pairs = random_model(), pairs_of(same_integer=same_integer, n_pairs=20)
    table = patch_residual_stream(model, task(), pairs)
    with torch.no_grad():
        _, cache = model.run_with_cache(pairs.clean)
        corrupted = metric(pairs, model(pairs.corrupted))
        before = theirs.get_act_patch_resid_pre(model, pairs.corrupted, cache, partial(metric, pairs))
        after = theirs.generic_activation_patch(
            model,
            pairs.corrupted,
            cache,
            partial(metric, pairs),
            patch_setter=theirs.layer_pos_patch_setter,
            activation_name="resid_post",
            index_axis_names=["layer", "pos"],
        )
    capsys.readouterr()  # their progress bars
    expected = torch.cat([before, after[-1:]])[:, : len(pairs.labels)] - corrupted
    ours = table["effect"].to_numpy().reshape(expected.shape)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    assert np.abs(ours).max() > 0.01
    assert table["corrupted"].iloc[0] == pytest.approx(float(corrupted), abs=1e-5)


@settings(max_examples=6, deadline=None)
@given(model=st.integers(0, 3), seed=st.integers(0, 100), same_integer=st.booleans())
def test_patching_the_answers_position_at_the_top_gives_the_clean_run(
    model: int, seed: int, same_integer: bool
) -> None:
    pairs = pairs_of(same_integer=same_integer, n_pairs=5, seed=seed)
    table = patch_residual_stream(random_model(model), task(), pairs)
    top = table[(table["layer"] == "layer 1") & (table["position"] == "=")].iloc[0]
    assert top["corrupted"] + top["effect"] == pytest.approx(top["clean"], abs=1e-5)


@settings(max_examples=6, deadline=None)
@given(
    model=st.integers(0, 3), seed=st.integers(0, 100), site=st.sampled_from(["embed", "layer 0", "layer 1"])
)
def test_patching_every_position_gives_the_clean_run(model: int, seed: int, site: str) -> None:
    """At any one layer, all positions together."""
    pairs, transformer = pairs_of(same_integer=False, n_pairs=5, seed=seed), random_model(model)
    name = activations.residual_sites(2)[site]
    clean = activations.collect(transformer, pairs.clean, [name])[name]
    with torch.no_grad(), transformer.hooks([(name, lambda x, hook: clean)]):
        patched = transformer(pairs.corrupted)
    with torch.no_grad():
        torch.testing.assert_close(patched, transformer(pairs.clean), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(patched, transformer(pairs.corrupted), atol=1e-3)


def test_patching_a_run_into_itself_changes_nothing() -> None:
    pairs = pairs_of(same_integer=True)
    same = Pairs(pairs.clean, pairs.clean, pairs.contains, pairs.labels)
    table = patch_residual_stream(random_model(), task(), same)
    np.testing.assert_allclose(table["effect"], 0, atol=1e-6)


# ------------------------------------------------------------------------------------------------ pairs


def facts(pairs: Pairs) -> pd.DataFrame:
    """What the two questions of each pair are about, read from their tokens alone."""
    questions = task().table.iloc[task().rows(kind="question", split="test")]
    entity_of = dict(zip(task().tokens[questions.index, 0].tolist(), questions["entity"], strict=True))
    subset_of = dict(zip(task().tokens[questions.index, 0].tolist(), questions["subset"], strict=True))
    first = task().vocabulary.integers[0]
    rows = []
    for clean, corrupted in zip(pairs.clean.tolist(), pairs.corrupted.tolist(), strict=True):
        assert clean[1:] == corrupted[1:]  # the same list
        listed = [token - first for token in clean[2:6]]
        a, b = clean[0], corrupted[0]
        rows.append((a, b, subset_of[a], subset_of[b], entity_of[a], entity_of[b], listed))
    columns = ["alias", "other", "subset", "other_subset", "entity", "other_entity", "list"]
    return pd.DataFrame(rows, columns=columns)


@settings(max_examples=40, deadline=None)
@given(
    clean=st.sampled_from(DEFINED),
    corrupted=st.sampled_from(DEFINED),
    same_integer=st.booleans(),
    n_pairs=st.integers(1, 40),
    seed=st.integers(0, 1000),
)
def test_pairs(clean: str, corrupted: str, same_integer: bool, n_pairs: int, seed: int) -> None:
    draw = partial(
        alias_pairs, task(), clean=clean, corrupted=corrupted, same_integer=same_integer, n_pairs=n_pairs
    )
    pairs = draw(seed=seed)
    assert pairs.labels == POSITIONS
    assert len(pairs.clean) == len(pairs.corrupted) == len(pairs.contains) == n_pairs
    found = facts(pairs)
    assert (found["subset"] == clean).all()
    assert (found["other_subset"] == corrupted).all()
    assert (found["alias"] != found["other"]).all()
    assert ((found["entity"] == found["other_entity"]) == same_integer).all()
    listed = np.array([entity in row for entity, row in zip(found["entity"], found["list"], strict=True)])
    other = np.array(
        [entity in row for entity, row in zip(found["other_entity"], found["list"], strict=True)]
    )
    np.testing.assert_array_equal(listed, pairs.contains)
    assert ((listed == other) == same_integer).all()
    again = draw(seed=seed)
    assert torch.equal(again.clean, pairs.clean)
    assert torch.equal(again.corrupted, pairs.corrupted)


def test_pairs_depend_on_the_seed() -> None:
    first, second = (pairs_of(same_integer=True, seed=seed) for seed in (0, 1))
    assert not torch.equal(first.clean, second.clean)
    assert not torch.equal(first.corrupted, second.corrupted)


def test_pairs_leave_the_task_alone() -> None:
    before, table = task().tokens.clone(), task().table.copy()
    pairs_of(same_integer=False)
    assert torch.equal(task().tokens, before)
    pd.testing.assert_frame_equal(task().table, table)


def test_fewer_pairs_than_asked_for() -> None:
    """Each question about an alias of d1 that has a partner of d2 is used once."""
    pairs = pairs_of(same_integer=True, n_pairs=10_000)
    questions = task().rows(kind="question", split="test", subset="d1_consistent")
    assert 0 < len(pairs.clean) <= len(questions)
    assert len(pairs.clean.unique(dim=0)) == len(pairs.clean)


def names_of_two_letters(**fractions: float) -> Task:
    none = dict.fromkeys(("qd1", "qd2", "q_only", "q_entity", "d1", "d2", "d3", "no_data"), 0.0)
    config = IntegerSetConfig(
        aliases=60, integers=8, list_length=3, tokens_per_alias=2, fractions=Fractions(**(none | fractions))
    )
    return build(config, seed=0)


def test_names_of_several_tokens() -> None:
    task = names_of_two_letters(qd1=0.5, qd2=0.5)
    pairs = alias_pairs(
        task, clean="qd1_consistent", corrupted="qd2_inconsistent", same_integer=True, n_pairs=10, seed=0
    )
    assert pairs.labels == ("alias 1", "alias 2", "%", "n1", "n2", "n3", "=")
    assert torch.equal(pairs.clean[:, 2:], pairs.corrupted[:, 2:])
    rows = task.rows(kind="question", split="test", subset="qd2_inconsistent")
    assert (task.roles[rows][:, :2] == ROLE["alias"]).all()
    names = {tuple(name) for name in task.tokens[rows][:, :2].tolist()}
    assert {tuple(name) for name in pairs.corrupted[:, :2].tolist()} <= names
    assert (pairs.clean[:, :2] != pairs.corrupted[:, :2]).any(1).all()


def test_names_of_different_lengths_are_refused() -> None:
    """An alias of two letters, and an integer in the place of a name."""
    task = names_of_two_letters(qd1=0.5, q_entity=0.5)
    for clean, corrupted in (("qd1_consistent", "q_entity"), ("q_entity", "qd1_consistent")):
        with pytest.raises(MechoclError, match="different numbers of tokens"):
            alias_pairs(task, clean=clean, corrupted=corrupted, same_integer=True, n_pairs=5, seed=0)


@pytest.mark.parametrize(("clean", "corrupted"), [("no_data", "d1_consistent"), ("d1_consistent", "no_data")])
def test_an_empty_subset_is_refused(clean: str, corrupted: str) -> None:
    with pytest.raises(MechoclError, match="no questions about no_data; choose another subset"):
        alias_pairs(task(), clean=clean, corrupted=corrupted, same_integer=True, n_pairs=5, seed=0)


def test_no_partner_is_refused() -> None:
    """One alias in each subset, of different integers."""
    fractions = Fractions(qd1=0.5, qd2=0.5, d1=0.0, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=2, integers=50, list_length=3, fractions=fractions)
    tiny = build(config, seed=0)
    assert tiny.table["entity"].nunique() == 2
    with pytest.raises(MechoclError, match="no question about qd1_consistent has a partner"):
        alias_pairs(
            tiny, clean="qd1_consistent", corrupted="qd2_inconsistent", same_integer=True, n_pairs=5, seed=0
        )


def test_no_pairs_at_all_are_refused() -> None:
    with pytest.raises(MechoclError, match="pairs is 0"):
        PatchingConfig(pairs=0)
