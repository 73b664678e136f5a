"""Probes on a model in which what can be read where is known."""

from functools import cache
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model
from transformer_lens import HookedTransformer

from mechocl import probing
from mechocl.errors import MechoclError
from mechocl.probing import ProbingConfig, load_recipe, probe_questions
from probes import splits
from toy_models import architectures
from toy_models.integer_set import IntegerSetConfig, build
from toy_models.subsets import Fractions
from toy_models.task import Task

POSITIONS = ["alias", "%", "n1", "n2", "="]
SITES = ["embed", "layer 0", "layer 1"]
TAGS = ["tag-stage-1", "tag-stage-2"]


@cache
def task() -> Task:
    """The planted tests' small task with lists of 2, so that there are fewer positions to probe."""
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=1 / 6, d2=1 / 6, d3=1 / 6)
    config = IntegerSetConfig(aliases=360, integers=12, list_length=2, test_questions=2, fractions=fractions)
    return build(config, seed=0)


def probe(
    model: HookedTransformer, task: Task, config: ProbingConfig, *, only: tuple[str, ...]
) -> pd.DataFrame:
    """`probe_questions` with some probes of the recipe: each costs seconds."""
    chosen = [entry for entry in load_recipe(config.recipe) if entry["name"] in only]
    with mock.patch.object(probing, "load_recipe", return_value=chosen):
        return probe_questions(model, task, config)


@cache
def probed(mechanism: Mechanism = Mechanism()) -> pd.DataFrame:  # noqa: B008  frozen
    """All probes, with a shuffled control."""
    return probe_questions(planted_model(task(), mechanism), task(), ProbingConfig())


@cache
def tag_probed(mechanism: Mechanism) -> pd.DataFrame:
    return probe(planted_model(task(), mechanism), task(), ProbingConfig(shuffles=0), only=tuple(TAGS))


def scores(
    table: pd.DataFrame, *, probe: str, position: str, subset: str = "all", control: str = "none"
) -> list:
    """Accuracy at each site, from the embedding upwards."""
    chosen = table[
        (table["probe"] == probe)
        & (table["position"] == position)
        & (table["subset"] == subset)
        & (table["control"] == control)
    ]
    assert chosen["layer"].tolist() == SITES
    return chosen["accuracy"].tolist()


def test_rows() -> None:
    table = probed()
    columns = ["probe", "layer", "position", "subset", "control", "chance", "accuracy", "auc", "aliases"]
    assert list(table.columns) == columns
    per_probe = {"tag-stage-1": 3, "tag-stage-2": 3, "defined-entity": 6}  # "all", and each subset
    expected = {name: n * len(SITES) * len(POSITIONS) * 2 for name, n in per_probe.items()}
    assert table["probe"].value_counts().to_dict() == expected
    assert table.groupby("probe")["chance"].unique().map(list).to_dict() == {
        "tag-stage-1": [0.5],
        "tag-stage-2": [0.5],
        "defined-entity": [1 / 12],
    }
    everyone = table[table["subset"] == "all"].groupby("probe")["aliases"].unique().map(list).to_dict()
    assert everyone == {"tag-stage-1": [180], "tag-stage-2": [120], "defined-entity": [360]}
    has_auc = (table["subset"] == "all") & (table["probe"] != "defined-entity")
    assert (table["auc"].notna() == has_auc).all()


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_read_at_the_alias(name: str) -> None:
    assert scores(probed(), probe=name, position="alias") == [1, 1, 1]


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_not_read_where_activations_are_alike(name: str) -> None:
    """`%` is the same in all questions, and so is `=` before retrieval: chance exactly, AUC by ties."""
    table = probed()
    assert scores(table, probe=name, position="%") == [0.5, 0.5, 0.5]
    assert scores(table, probe=name, position="=")[0] == 0.5
    same = table[(table["probe"] == name) & (table["subset"] == "all") & (table["position"] == "%")]
    assert (same["auc"] == 0.5).all()


@pytest.mark.parametrize(
    ("mechanism", "at_least"),
    [
        (Mechanism(tag_at_equals=True), 1.0),
        (Mechanism(tag2_gain=0), 0.95),  # nothing retrieved against one of 12 integers: strongly regularised
        (Mechanism(tag2_gain=0, gate="storage"), 0.95),
    ],
    ids=["copied", "suppressed", "not stored"],
)
def test_tag_is_read_at_the_answer(mechanism: Mechanism, at_least: float) -> None:
    """If it is copied there, or shows in whether anything is retrieved."""
    table = tag_probed(mechanism)
    for name in TAGS:
        assert min(scores(table, probe=name, position="=")[1:]) >= at_least
        assert scores(table, probe=name, position="=")[0] == 0.5


@pytest.mark.parametrize(("name", "n"), [("tag-stage-1", 180), ("tag-stage-2", 120)])
def test_tag_is_not_read_from_integers(name: str, n: int) -> None:
    """With equal gains `=` has the integer alone, and so has an alias without tag; four errors from ½."""
    chance = pytest.approx([0.5] * 3, abs=4 * 0.5 / n**0.5)
    assert scores(probed(), probe=name, position="=") == chance
    assert scores(tag_probed(Mechanism(tag_at_alias=False)), probe=name, position="alias") == chance


def test_integer_is_read_where_it_is() -> None:
    """At the alias from the embedding on; at `=` once retrieved; `%` never knows it."""
    table = probed()
    for subset in ("qd1_consistent", "d1_consistent", "d2_consistent", "d3_consistent"):
        at = {p: scores(table, probe="defined-entity", position=p, subset=subset) for p in POSITIONS}
        assert at["alias"] == [1, 1, 1]
        assert at["="][1:] == [1, 1]
        assert max(at["%"] + at["="][:1]) < 0.3


def test_the_integer_probed_is_the_definitions() -> None:
    """Where an inconsistent alias stores the questions' integer, a probe of the definition's is always
    wrong; where it stores the definition's, right."""
    choose = {"probe": "defined-entity", "position": "alias", "subset": "qd2_inconsistent"}
    assert scores(probed(), **choose) == [0, 0, 0]
    stored = planted_model(task(), Mechanism(stored="defined_entity"))
    table = probe(stored, task(), ProbingConfig(shuffles=0), only=("defined-entity",))
    assert scores(table, **choose) == [1, 1, 1]


@pytest.mark.parametrize("position", ["alias", "="])
def test_shuffled_labels_are_not_read(position: str) -> None:
    table = probed()
    for name, n in (("tag-stage-1", 180), ("tag-stage-2", 120)):
        found = scores(table, probe=name, position=position, control="shuffled")
        assert found == pytest.approx([0.5] * 3, abs=4 * 0.5 / n**0.5)
    found = scores(table, probe="defined-entity", position=position, control="shuffled")
    assert found == pytest.approx([1 / 12] * 3, abs=4 * (1 / 12 * 11 / 12 / 360) ** 0.5)


def test_list_does_not_contain_the_integer() -> None:
    """So the position of a list integer never says which one the alias is: no better than 1 / 11."""
    table = probed()
    for position in ("n1", "n2"):
        found = scores(table, probe="defined-entity", position=position)
        assert max(found) < 1 / 11 + 4 * (1 / 11 * 10 / 11 / 360) ** 0.5


def few_of_each_integer() -> Task:
    """90 aliases over 40 integers: several integers have a single alias."""
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=0.25, d2=0.25, d3=0.0)
    config = IntegerSetConfig(aliases=90, integers=40, list_length=2, test_questions=2, fractions=fractions)
    return build(config, seed=0)


def random_model(task: Task) -> HookedTransformer:
    return architectures.build(
        architectures.Architecture(n_layers=1, d_model=8, n_heads=1, d_mlp=0),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=0,
    )


def test_rare_integers_are_left_out() -> None:
    rare = few_of_each_integer()
    aliases = rare.table.iloc[rare.rows(kind="definition")]
    counts = aliases["defined_entity"].value_counts()
    assert (counts == 1).any()
    kept = splits.scorable(aliases["alias"].to_numpy(), aliases["defined_entity"].to_numpy())
    table = probe(random_model(rare), rare, ProbingConfig(), only=("defined-entity",))
    integers = table[table["subset"] == "all"]
    assert (integers["aliases"] == kept.sum()).all()
    assert kept.sum() == counts[counts > 1].sum() < 90
    np.testing.assert_allclose(integers["chance"], 1 / (counts > 1).sum())
    assert set(integers["control"]) == {"none", "shuffled"}


def test_too_few_aliases_are_refused() -> None:
    with pytest.raises(MechoclError, match=r"probe tag-stage-2: .*folds.*use more aliases"):
        probe_questions(planted_model(task(), Mechanism()), task(), ProbingConfig(aliases_per_subset=2))


def test_a_probe_whose_subsets_are_absent_is_left_out() -> None:
    """Without tag 2 in stage 2 there is nothing to tell tag 1 from; the integers can be read all the same."""
    fractions = Fractions(qd1=0.4, qd2=0.4, d1=0.2, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=120, integers=8, list_length=2, test_questions=2, fractions=fractions)
    partial = build(config, seed=0)
    table = probe_questions(random_model(partial), partial, ProbingConfig(shuffles=0))
    assert set(table["probe"]) == {"tag-stage-1", "defined-entity"}
    assert set(table["control"]) == {"none"}


def test_shuffles_are_averaged() -> None:
    """Two shuffles give the mean of shuffles with the two seeds."""
    rare = few_of_each_integer()
    model = random_model(rare)
    one, two = (probe(model, rare, ProbingConfig(shuffles=n), only=("tag-stage-1",)) for n in (1, 2))
    assert len(one) == len(two)
    unshuffled = one["control"] == "none"
    pd.testing.assert_frame_equal(one[unshuffled], two[unshuffled])
    assert not np.allclose(one.loc[~unshuffled, "accuracy"], two.loc[~unshuffled, "accuracy"])


def test_the_limit_on_aliases() -> None:
    config = ProbingConfig(aliases_per_subset=20, shuffles=0)
    table = probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    assert (table.loc[table["subset"] == "d1_consistent", "aliases"] == 20).all()
    assert (table.loc[table["subset"] == "all", "aliases"] == 40).all()


def test_a_task_without_definitions_is_refused() -> None:
    fractions = Fractions(qd1=0.0, qd2=0.0, q_only=1.0, d1=0.0, d2=0.0, d3=0.0)
    undefined = build(IntegerSetConfig(aliases=20, integers=12, list_length=4, fractions=fractions), seed=0)
    with pytest.raises(MechoclError, match="no defined aliases"):
        probe_questions(random_model(undefined), undefined, ProbingConfig())


def test_no_probe_fits_is_refused() -> None:
    """One stage-1 tag alone, defined inconsistently by tag 1: no subset of the recipe."""
    fractions = Fractions(qd1=0.0, qd2=1.0, d1=0.0, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=30, integers=12, list_length=4, fractions=fractions)
    task = build(config, seed=0)
    task.table["subset"] = task.table["subset"].cat.rename_categories(
        {"qd2_inconsistent": "qd2_consistent", "qd2_consistent": "qd2_inconsistent"}
    )
    with pytest.raises(MechoclError, match="no probe of definition-retrieval fits"):
        probe_questions(random_model(task), task, ProbingConfig())


def test_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(MechoclError, match=r"no probe recipe 'other'; known: .*definition-retrieval"):
        load_recipe("other")


@pytest.mark.parametrize("wrong", [{"shuffles": -1}, {"aliases_per_subset": 0}])
def test_configs_without_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(MechoclError, match=next(iter(wrong))):
        ProbingConfig(**wrong)


def test_global_randomness_is_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  the legacy state is what must not move
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    config = ProbingConfig(aliases_per_subset=20)
    probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
