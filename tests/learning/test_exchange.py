"""Exchanges of twins in planted pairs of models, whose answers are worked out by hand."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged
from differentiated import world
from planted import ANSWER, Mechanism, planted_model, small_task, subspaces

from mechocl.analyses import jobs, results, variant_jobs
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.learning import exchange, twin_probe
from mechocl.learning.exchange import (
    ALONG,
    CONSTANT,
    DRAWN,
    EVERYTHING,
    EXCHANGES,
    OF_ENTITY,
    OTHER,
    PARTS,
    RANDOM,
    RANDOM_ALONG,
    REST,
    WEIGHTS,
    WHOLE,
    TwinExchangeConfig,
    exchange_study,
    find_twins,
    list_changes,
)
from mechocl.learning.twin_probe import TwinProbeConfig, probe_study
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED, variant_path
from toy_models.tag_changes import exchange_tags
from toy_models.task import Task

D1, D2 = "d1_consistent", "d2_consistent"
CONFIG = TwinExchangeConfig(draws=2)


@pytest.fixture(scope="module")
def task() -> Task:
    return small_task()


def pair(task: Task, **mechanism: Any) -> tuple[Any, Any]:
    """A planted model, and the model of the same mechanism in which d1 and d2 changed places."""
    return tuple(planted_model(one, Mechanism(**mechanism)) for one in (task, exchange_tags(task)))  # type: ignore[return-value]


def measured(task: Task, models: tuple[Any, Any], metric: str, value: str = "after") -> pd.DataFrame:
    """A value by exchange and subset."""
    rows = exchange_study(*models, task, CONFIG)
    return rows[rows["metric"] == metric].pivot(index="exchange", columns="subset", values=value)


# ------------------------------------------------------------------------------------ hand-worked pairs


def test_a_gate_that_reads_the_tag_is_one_direction(task: Task) -> None:
    """Tag 2 is suppressed when a question is asked: AUC 1 for d1, ½ for d2, which differ in the tag's two coordinates alone.

    Every twin difference is e(tag 1) − e(tag 2), of length √2. So the twin's embedding, the mean direction, the mean differences and
    the difference of another alias are one and the same, the rest is nothing, and the other weights are equal.
    """
    models = pair(task, tag2_gain=0)
    rows = exchange_study(*models, task, CONFIG).set_index(["metric", "exchange", "subset"])
    auc = rows.loc["auc"]
    for subset, first, then in ((D1, 1.0, 0.5), (D2, 0.5, 1.0)):
        assert (auc["before"].xs(subset, level="subset") == first).all()
        for one in (WHOLE, ALONG, CONSTANT, OF_ENTITY, OTHER, EVERYTHING):
            assert auc.loc[(one, subset), "after"] == then
            assert auc.loc[(one, subset), "effect"] == then - first
            assert auc.loc[(one, subset), "tag_1_effect"] == 0.5
            assert auc.loc[(one, subset), "moved"] == pytest.approx(2**0.5)
        assert auc.loc[(WEIGHTS, subset), "effect"] == 0.0
        assert auc.loc[(WEIGHTS, subset), "moved"] == 0.0
        for one in (RANDOM, RANDOM_ALONG):
            assert auc.loc[(one, subset), "moved"] == pytest.approx(2**0.5)
        assert (auc["aliases"] == 60).all()
    # half of the questions contain the integer: they change from −10 to +10, the others stay at +10
    nats = rows.loc["logit_difference"]
    assert nats.loc[(WHOLE, D2), "effect"] == pytest.approx(ANSWER)
    assert nats.loc[(WHOLE, D1), "effect"] == pytest.approx(-ANSWER)


def test_storage_is_in_the_rest(task: Task) -> None:
    """Tag 2 stores nothing: the twin difference is the one-hot of the alias's integer.

    The mean direction is nearly the same in all 12 integers, so its component is about 1/12 in each, of which nothing is
    retrieved, and the rest holds about 11/12 of the integer, which is retrieved as if it were whole. Other aliases of the
    same integer write the same, and another alias in general its own integer.
    """
    models = pair(task, tag2_gain=0, gate="storage", tag_at_alias=False)
    auc = measured(task, models, "auc")
    assert auc.loc[[WHOLE, REST, OF_ENTITY, EVERYTHING], D2].tolist() == [1.0] * 4
    assert auc.loc[[WHOLE, REST, OF_ENTITY, EVERYTHING], D1].tolist() == [0.5] * 4
    assert auc.loc[[ALONG, CONSTANT, WEIGHTS], D2].tolist() == [0.5, 0.5, 0.5]
    assert auc.loc[[ALONG, CONSTANT, WEIGHTS], D1].tolist() == [1.0, 1.0, 1.0]
    assert auc.loc[OTHER, D2] < 0.75
    # 2 draws of 60 aliases; one keeps its integer where the other alias has the same one
    twins = find_twins(*models, task)
    stored = subspaces(task, Mechanism()).stored
    for draw in (0, 1):
        written = list_changes(twins, OTHER, draw=draw)[:, stored].abs().argmax(1)
        own = twins.differences[:, stored].argmax(1)
        assert not torch.equal(written, own)


def test_what_no_training_changed_is_not_measured(task: Task) -> None:
    """Equal twins: nothing is moved, so there is nothing after it."""
    model = planted_model(task, Mechanism())
    rows = exchange_study(model, model, task, CONFIG)
    parts = rows["exchange"].isin(PARTS)
    assert rows.loc[parts, ["after", "effect", "tag_1_effect"]].isna().all(axis=None)
    assert (rows["moved"] == 0).all()
    rest = rows[~parts & (rows["metric"] != "recall")]
    assert (rest["effect"] == 0).all()


def test_weights_are_told_from_embeddings(task: Task) -> None:
    """The embeddings are equal, and the gate is in the other weights: only these change the answers."""
    model, other = planted_model(task, Mechanism(tag2_gain=0)), planted_model(task, Mechanism(tag1_gain=0))
    auc = measured(task, (model, other), "auc", "tag_1_effect")
    assert (auc.loc[[WEIGHTS, EVERYTHING]] == 0.5).all(axis=None)
    assert auc.loc[[one for one in EXCHANGES if one in PARTS]].isna().all(axis=None)


# ------------------------------------------------------------------------------------ its parts


def test_parts_of_the_difference(task: Task) -> None:
    """The direction and the rest are the whole, and at right angles; others are of the same subset, each once; lengths are kept."""
    models = pair(task, tag2_gain=0, gate="storage")
    twins = find_twins(*models, task)
    changes = {one: list_changes(twins, one, draw=1, seed=3) for one in PARTS}
    torch.testing.assert_close(changes[ALONG] + changes[REST], changes[WHOLE])
    assert (changes[ALONG] * changes[REST]).sum(1).abs().max() < 1e-6
    torch.testing.assert_close(twins.own + changes[WHOLE], twins.twin)
    first = np.array(twins.table["subset"] == D1)
    for members in (first, ~first):
        pool, drawn = (
            twins.differences[members],
            twins.differences[exchange._others(twins, torch.Generator())][members],
        )
        assert sorted(map(tuple, pool.tolist())) == sorted(map(tuple, drawn.tolist()))
    assert (exchange._others(twins, torch.Generator()) != np.arange(len(first))).all()
    for drawn_, as_long in ((RANDOM, WHOLE), (RANDOM_ALONG, ALONG)):
        torch.testing.assert_close(changes[drawn_].norm(dim=1), changes[as_long].norm(dim=1))
    for one in DRAWN:
        assert not torch.equal(changes[one], list_changes(twins, one, draw=0, seed=3))
        assert torch.equal(changes[one], list_changes(twins, one, draw=1, seed=3))


def test_the_direction_of_an_alias_is_that_of_others(task: Task) -> None:
    """A change of one alias's embedding changes the mean of the other half alone."""
    models = pair(task, tag2_gain=0, gate="storage")
    twins = find_twins(*models, task)
    before = list_changes(twins, CONSTANT) * twins.towards_tag_1
    twins.own[0] += 100.0
    after = list_changes(twins, CONSTANT) * twins.towards_tag_1
    moved = (before - after).abs().sum(1) > 1e-3
    first = exchange._halves(twins, 0)
    assert torch.equal(moved, torch.from_numpy(first != first[0]))
    assert first.sum() == 60


def test_nothing_is_edited(task: Task) -> None:
    models = pair(task, tag2_gain=0)
    with assert_unchanged(models[0]), assert_unchanged(models[1]):
        exchange_study(*models, task, TwinExchangeConfig(aliases_per_subset=4, draws=1))


def test_the_first_aliases_alone(task: Task) -> None:
    rows = exchange_study(*pair(task, tag2_gain=0), task, TwinExchangeConfig(aliases_per_subset=4, draws=1))
    assert (rows["aliases"] == 4).all()


# ------------------------------------------------------------------------------------ reading the tag


def test_the_tag_is_read_from_twins_and_not_before(task: Task) -> None:
    """A planted tag is read without a fault, from new aliases. Without it there are names alone, and shuffled labels mean nothing."""
    models = pair(task, tag2_gain=0, name_dims=12)
    before = planted_model(task, Mechanism(tag_at_alias=False, name_dims=12))
    found = probe_study(*models, before, task, TwinProbeConfig(shuffles=5)).set_index("embeddings")
    assert found.loc[[twin_probe.PAIRS, twin_probe.CENTRED, twin_probe.RUN], "auc"].tolist() == [
        1.0,
        1.0,
        1.0,
    ]
    assert abs(found.loc[twin_probe.BEFORE, "auc"] - 0.5) < 0.2
    assert ((found["auc_shuffled"] - 0.5).abs() < 0.15).all()
    np.testing.assert_allclose(found["effect"], found["auc"] - found["auc_shuffled"])
    assert found["examples"].tolist() == [240, 240, 120, 120]


def test_a_difference_of_each_alias_of_its_own_is_not_read(task: Task) -> None:
    """Twins that differ by noise: the probe cannot know new aliases' labels from others'."""
    model = planted_model(task, Mechanism(name_dims=12))
    twins = find_twins(model, model, task)
    draws = torch.Generator().manual_seed(1)
    twin = exchange._with_rows(model, twins.tokens, twins.own + torch.randn(twins.own.shape, generator=draws))
    found = probe_study(model, twin, model, task, TwinProbeConfig(shuffles=2)).set_index("embeddings")
    assert abs(found.loc[twin_probe.CENTRED, "auc"] - 0.5) < 0.15


# ------------------------------------------------------------------------------------ what is refused


def test_aliases_without_an_embedding_of_their_own() -> None:
    model, letters = world("letters")
    assert exchange.why_no_exchange(letters).startswith("names of aliases are several tokens")
    with pytest.raises(MechoclError, match="use a run whose aliases of d1 and d2 are one token each"):
        find_twins(model, model, letters)


def test_configs() -> None:
    for config, changes, said in (
        (TwinExchangeConfig, {"draws": 0}, "draws is 0"),
        (TwinExchangeConfig, {"aliases_per_subset": 1}, "use at least 2"),
        (TwinProbeConfig, {"folds": 1}, "folds is 1; use at least 2"),
        (TwinProbeConfig, {"shuffles": 0}, "shuffles is 0; use at least 1"),
        (TwinProbeConfig, {"aliases_per_subset": 3}, "at least one for each of the 5 folds"),
    ):
        with pytest.raises(MechoclError, match=said):
            config(**changes)


# ------------------------------------------------------------------------------------ of a run


def test_a_run_without_its_twins_names_the_command_which_helps(run: Run) -> None:
    for name in ("twin-exchange", "twin-probe"):
        with pytest.raises(MechoclError, match="has no variant exchanged-tags; run `mechocl twins") as caught:
            jobs.analyse_run(run, name, device="cpu", jobs=1)
    command = str(caught.value).split("`")[1].split()
    assert cli.main([*command[1:], "--jobs", "1"]) == 0
    rows = jobs.analyse_run(run, "twin-exchange", device="cpu", jobs=1)
    assert set(rows["seed"]) == {0, 1}
    assert rows.groupby(["seed", "subset", "metric"]).size().unique().tolist() == [len(EXCHANGES)]


def test_everything_is_the_answers_of_the_variant(run: Run) -> None:
    """`everything`, and `before`, are what the evaluate analysis says of the two runs, of the same aliases."""
    found = variant_jobs.train_variants(run, (EXCHANGED,), jobs=1)[EXCHANGED].rows
    own = variant_jobs.collect_answers(run, jobs=1).rows
    rows = jobs.analyse_run(run, "twin-exchange", device="cpu", jobs=1)
    for seed in (0, 1):
        one = rows[(rows["seed"] == seed) & (rows["exchange"] == EVERYTHING) & (rows["metric"] == "auc")]
        for subset, turned in ((D1, D2), (D2, D1)):
            row = one[one["subset"] == subset].iloc[0]
            mean = [
                t[(t["seed"] == seed) & (t["subset"] == s)]["auc"].mean()
                for t, s in ((own, subset), (found, turned))
            ]
            assert [row["before"], row["after"]] == pytest.approx(mean)


def test_the_key_is_of_the_variants_weights(run: Run) -> None:
    variant_jobs.train_variants(run, (EXCHANGED,), jobs=1)
    config = TwinExchangeConfig()
    key = results.result_key(run.seed(0), "twin-exchange", config, None)
    variant = Run.open(variant_path(run.path, EXCHANGED))
    assert key["exchanged tags"] == variant.seed(0).final().sha256
    assert (
        results.result_key(run.seed(1), "twin-exchange", config, None)["exchanged tags"]
        != key["exchanged tags"]
    )


def test_only_the_last_stage_has_twins(run: Run) -> None:
    variant_jobs.train_variants(run, (EXCHANGED,), jobs=1)
    with pytest.raises(
        MechoclError, match=r"stage 1, step 15: the variant exchanged-tags .*leave out --stage"
    ):
        jobs.analyse_run(run, "twin-exchange", stage=1, device="cpu", jobs=1)
    assert len(jobs.analyse_run(run, "twin-exchange", device="cpu", jobs=1))
