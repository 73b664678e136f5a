"""Steering vectors where it is known what a constant can do, and what it cannot."""

import copy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from planted import Mechanism, planted_model, small_task, subspaces

from mechocl.behaviour.internalization import per_alias, true_logit_difference
from mechocl.errors import MechoclError
from mechocl.interventions.grafting import GraftConfig, graft_study
from mechocl.interventions.steering import (
    NEW,
    RANDOM,
    STEERING,
    SteeringConfig,
    best_vector,
    split_aliases,
    steered_logits,
    steering_study,
)
from mechocl.interventions.weight_groups import parameters
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

CONFIG = SteeringConfig(steps=25, batch_size=48, learning_rate=3.0, random_vectors=2)


@cache
def task() -> Task:
    return small_task()


def planted(*, stored: bool = True, bias: float = 0.0) -> Any:
    """The planted model; without what stage-2 aliases store, or with `bias` nats for false."""
    model = planted_model(task(), Mechanism())
    if not stored:
        tokens = task().tokens[task().rows(kind="question", split="test", subset=NEW), 0].unique()
        model.embed.W_E.data[tokens, subspaces(task(), Mechanism()).stored] = 0
    model.unembed.b_U.data[task().vocabulary.true] -= bias / 2
    model.unembed.b_U.data[task().vocabulary.false] += bias / 2
    return model


def random_model(**changes: Any) -> Any:
    settings = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 32, "positions": "learned"} | changes
    return architectures.build(
        architectures.Architecture(**settings, init_std=0.4),
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=0,
    )


def hooked_logits(model: Any, rows: Any, vector: Any, *, layer: int, position: int) -> Any:
    """The model's own logits at `=`, with a hook that adds the vector."""

    def add(x: Any, hook: Any) -> Any:
        x = x.clone()
        x[:, position] += vector
        return x

    site = f"blocks.{layer}.hook_resid_pre" if layer < 2 else "blocks.1.hook_resid_post"
    with torch.no_grad(), model.hooks(fwd_hooks=[(site, add)]):
        return model(task().tokens[rows])[:, 6].double()


def test_a_constant_cannot_tell_lists_apart() -> None:
    """What stage-2 aliases store is missing: grafting it gives everything, a constant gives nothing."""
    before, after = planted(stored=False), planted()
    rows = steering_study(before, after, task(), CONFIG)
    auc = rows[rows["metric"] == "auc"]
    assert auc["subset"].tolist() == [*NEW, *NEW]
    np.testing.assert_allclose(auc["value"], 0.5, atol=0.05)
    np.testing.assert_allclose(auc["share"], 0.0, atol=0.1)
    assert (auc["aliases"] == 30).all()  # the other half of 60
    grafted = graft_study(before, after, task(), GraftConfig(aliases_per_subset=10))
    won = grafted[(grafted["group"] == "alias embeddings") & (grafted["kind"] == "alone")]
    assert (won[(won["metric"] == "auc") & won["subset"].isin(NEW)]["share"] == 1).all()


def test_a_constant_can_shift_a_threshold() -> None:
    """With 11 nats for false, true − false is −1 or −21: accuracy ½, though lists are told apart.

    A constant that adds 1 to 21 nats mends it.
    """
    before, after = planted(bias=11.0), planted()
    rows = steering_study(before, after, task(), CONFIG).set_index(["group", "metric"])
    assert (rows.loc[(STEERING, "accuracy"), "value"] == 1).all()
    assert (rows.loc[(STEERING, "accuracy"), "share"] == 1).all()
    assert (rows.loc[(STEERING, "auc"), "value"] == 1).all()
    assert rows.loc[(STEERING, "auc"), "share"].isna().all()  # nothing to gain
    # a random direction of the same norm does not
    assert (rows.loc[(RANDOM, "accuracy"), "share"] < 0.7).all()


def steered_difference(model: Any, task: Task, rows: np.ndarray, **where: Any) -> np.ndarray:
    """True − false with each vector added."""
    true, false = steered_logits(model, task, rows, **where).unbind(-1)
    return (true - false).numpy()


def test_after_the_last_layer_a_constant_adds_a_constant() -> None:
    """Without a final norm the difference moves by v · (W_U of true − false), for every question alike."""
    model = random_model(normalization="none")
    rows = task().rows(kind="question", split="test", subset=NEW)[:50]
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    last = 6  # alias % n1 n2 n3 n4 =
    found = steered_difference(model, task(), rows, vectors=vectors, layer=2, position=last)
    direction = model.W_U[:, task().vocabulary.true] - model.W_U[:, task().vocabulary.false]
    expected = true_logit_difference(model, task(), rows)[:, None] + (vectors @ direction).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize(("layer", "position"), [(0, 0), (0, 6), (1, 2), (1, 6), (2, 6)])
def test_steering_is_a_hook_that_adds(layer: int, position: int, parallel: bool) -> None:
    model = random_model(parallel_attn_mlp=parallel)
    rows = task().rows(kind="question", split="test", subset=NEW)[:40]
    vector = torch.randn(1, 16, generator=torch.Generator().manual_seed(1))
    found = steered_difference(model, task(), rows, vectors=vector, layer=layer, position=position)
    assert (np.abs(found[:, 0] - true_logit_difference(model, task(), rows)) > 1e-3).any()
    logits = hooked_logits(model, rows, vector[0], layer=layer, position=position)
    expected = logits[:, task().vocabulary.true] - logits[:, task().vocabulary.false]
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)


def test_training_raises_the_probability_of_the_right_answer() -> None:
    """With 11 nats for false, a vector that mends it is found where the answer is made, at `=`."""
    model = planted(bias=11.0)
    training, _ = split_aliases(task(), seed=0)
    best = best_vector(model, task(), training, CONFIG)
    assert best.labels[1] == "="
    sign = np.where(task().table["answer"].to_numpy()[training], 1.0, -1.0)

    def log_probability(vector: Any) -> float:  # of the right one of true and false
        site = {"layer": best.layer, "position": best.position}
        steered = steered_difference(model, task(), training, vectors=vector[None], **site)[:, 0]
        return float(-np.logaddexp(0, -sign * steered).mean())

    # half of the answers at −1, half at +21
    assert log_probability(0 * best.vector) == pytest.approx(-np.log1p(np.e) / 2, abs=1e-4)
    assert log_probability(best.vector) > -0.02
    logits = hooked_logits(model, training, best.vector, layer=best.layer, position=best.position)
    right = torch.where(torch.tensor(sign > 0), task().vocabulary.true, task().vocabulary.false)
    among_all = logits.log_softmax(-1).gather(1, right[:, None]).mean()
    assert best.training_log_probability == pytest.approx(float(among_all), abs=1e-4)


def test_the_split_is_by_alias_within_subsets() -> None:
    training, held_out = split_aliases(task(), seed=0)
    table = task().table
    first, second = (set(table["alias"].iloc[rows]) for rows in (training, held_out))
    assert not first & second
    for rows in (training, held_out):
        aliases = table.iloc[rows].groupby("subset", observed=True)["alias"].nunique()
        assert aliases.to_dict() == dict.fromkeys(NEW, 30)
    assert set(split_aliases(task(), seed=1)[0]) != set(training)
    assert np.array_equal(split_aliases(task(), seed=0)[0], training)


def test_only_the_first_aliases_are_split() -> None:
    """They are those that the graft study measures with the same option."""
    table = task().table
    halves = split_aliases(task(), seed=0, aliases_per_subset=4)
    rows = np.concatenate(halves)
    assert not set(table["alias"].iloc[halves[0]]) & set(table["alias"].iloc[halves[1]])
    assert (table.iloc[rows].groupby("subset", observed=True)["alias"].nunique() == 4).all()
    measured = per_alias(planted(), task(), aliases_per_subset=4)
    assert set(table["alias"].iloc[rows]) <= set(measured["alias"])
    every = split_aliases(task(), seed=0, aliases_per_subset=table["alias"].nunique())
    assert np.array_equal(np.concatenate(every), np.concatenate(split_aliases(task(), seed=0)))
    with pytest.raises(MechoclError, match="at least 2, one to train it and one to judge it"):
        SteeringConfig(aliases_per_subset=1)


def test_the_study_is_reproducible_and_random_vectors_have_its_norm() -> None:
    before, after = planted(stored=False), planted()
    config = SteeringConfig(steps=5)
    one, two = (steering_study(before, after, task(), config) for _ in range(2))
    assert one.equals(two)
    assert one["change"].nunique() == 1
    assert one["site"].nunique() == 1


def test_nothing_is_changed() -> None:
    before = random_model()
    after = copy.deepcopy(before)
    kept = copy.deepcopy(parameters(before))
    flags = [p.requires_grad for p in before.parameters()]
    with torch.no_grad():  # a caller's setting is no obstacle
        steering_study(before, after, task(), SteeringConfig(steps=2))
        assert not torch.is_grad_enabled()
    assert all(torch.equal(parameters(before)[name], weight) for name, weight in kept.items())
    assert [p.requires_grad for p in before.parameters()] == flags
    assert all(p.grad is None for p in before.parameters())
    assert not any(point.fwd_hooks for point in before.hook_dict.values())


def test_mistakes_are_refused() -> None:
    for changes in ({"steps": 0}, {"batch_size": 0}, {"random_vectors": 0}, {"learning_rate": 0.0}):
        with pytest.raises(MechoclError, match=next(iter(changes))):
            SteeringConfig(**changes)
    with pytest.raises(MechoclError, match="differ in shape"):
        steering_study(random_model(), random_model(d_mlp=64), task(), CONFIG)
    fractions = Fractions(qd1=0.5, qd2=0.5, d1=0.0, d2=0.0, d3=0.0)
    old = build(IntegerSetConfig(aliases=20, integers=12, list_length=4, fractions=fractions), seed=0)
    with pytest.raises(MechoclError, match="no aliases that are first defined in stage 2"):
        split_aliases(old, seed=0)
    fractions = Fractions(qd1=0.5, qd2=0.45, d1=0.05, d2=0.0, d3=0.0)
    few = build(IntegerSetConfig(aliases=20, integers=12, list_length=4, fractions=fractions), seed=0)
    with pytest.raises(MechoclError, match="d1_consistent has one alias"):
        split_aliases(few, seed=0)
