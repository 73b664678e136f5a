"""Probes on a model in which what can be read where is known."""

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model
from torch import Tensor
from transformer_lens import HookedTransformer

from mechocl.errors import MechoclError
from mechocl.probing import probe as probe_, recipe
from mechocl.probing.recipe import Probe
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.activation_cache import directly
from probes import splits
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

POSITIONS = ["alias", "%", "n1", "n2", "="]
PLACES = [("resid_pre", 0), ("attn_out", 0), ("resid_post", 0), ("attn_out", 1), ("resid_post", 1)]
STREAM = [("resid_pre", 0), ("resid_post", 0), ("resid_post", 1)]
TAGS = ["tag-stage-1", "tag-stage-2"]
SITES = ("attn_out", "resid_post")
QUICK = ProbingConfig(sites=SITES, permutations=0, controls=False, n_pairs=0)


@cache
def task() -> Task:
    """The planted tests' small task with lists of 2, so that there are fewer positions to probe."""
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=1 / 6, d2=1 / 6, d3=1 / 6)
    config = IntegerSetConfig(aliases=360, integers=12, list_length=2, test_questions=4, fractions=fractions)
    return build(config, seed=0)


def random_model(task: Task, *, seed: int = 0, n_layers: int = 1) -> HookedTransformer:
    return architectures.build(
        architectures.Architecture(n_layers=n_layers, d_model=8, n_heads=1, d_mlp=0),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=seed,
    )


def probe(
    model: HookedTransformer,
    task: Task,
    config: ProbingConfig = QUICK,
    *,
    only: tuple[str, ...] = (),
    probes: tuple[Probe, ...] = (),
) -> tuple[pd.DataFrame, dict[str, Tensor]]:
    """`probing.probe` with some probes of the recipe (or others): each costs seconds."""
    asked = probes or tuple(p for p in recipe.load(config.recipe) if not only or p.name in only)
    untrained = random_model(task, seed=1, n_layers=model.cfg.n_layers)
    return probe_.probe(model, task, config, untrained=untrained, collect=directly(model), probes=asked)


@cache
def probed(mechanism: Mechanism = Mechanism()) -> pd.DataFrame:  # noqa: B008  frozen
    """All probes of the headline, with every control."""
    config = ProbingConfig(sites=SITES, permutations=19, n_pairs=40)
    return probe(planted_model(task(), mechanism), task(), config)[0]


@cache
def tag_probed(mechanism: Mechanism) -> pd.DataFrame:
    return probe(planted_model(task(), mechanism), task(), only=tuple(TAGS))[0]


def rows(table: pd.DataFrame, **equals: object) -> pd.DataFrame:
    for column, value in equals.items():
        table = table[table[column] == value]
    return table


def scores(
    table: pd.DataFrame, *, probe: str, position: str, subset: str = "all", control: str = "none"
) -> list[float]:
    """Accuracy in the residual stream, from the embedding upwards (mean of the shuffles)."""
    chosen = rows(table, probe=probe, position=position, subset=subset, control=control)
    means = chosen.groupby(["site", "layer"])["accuracy"].mean()
    return [float(means[place]) for place in STREAM]


def test_rows() -> None:
    table = probed()
    own = rows(table, control="none")
    assert list(dict.fromkeys(zip(own["site"], own["layer"], strict=True))) == PLACES
    assert list(own["position"].unique()) == POSITIONS
    per_probe = {"tag-stage-1": 3, "tag-stage-2": 3, "three-tags-stage-2": 4, "defined-entity": 6}
    places = len(PLACES) * len(POSITIONS)
    assert own["probe"].value_counts().to_dict() == {name: n * places for name, n in per_probe.items()}
    shuffled = rows(table, control="shuffled")
    assert len(shuffled) == 4 * 19 * places
    assert set(shuffled["draw"]) == set(range(19))
    assert own.groupby("probe")["chance"].unique().map(list).to_dict() == {
        "tag-stage-1": [0.5],
        "tag-stage-2": [0.5],
        "three-tags-stage-2": [1 / 3],
        "defined-entity": [1 / 12],
    }
    everyone = rows(own, subset="all")
    assert everyone.groupby("probe")["aliases"].unique().map(list).to_dict() == {
        "tag-stage-1": [180], "tag-stage-2": [120], "three-tags-stage-2": [180], "defined-entity": [360],
    }  # fmt: skip
    assert everyone["auc"].notna().all()
    has_probability = everyone["probe"] != "defined-entity"
    assert (everyone["log_loss"].notna() == has_probability).all()
    assert (everyone["calibration_error"].notna() == has_probability).all()
    for control in ("untrained", "question split", "control task"):
        assert len(rows(table, control=control)) == 4 * places
    assert len(rows(table, control="token embedding")) == 4
    assert (table["recency"] == "matched").all()


@pytest.mark.parametrize("name", [*TAGS, "three-tags-stage-2"])
def test_tag_is_read_at_the_alias(name: str) -> None:
    assert scores(probed(), probe=name, position="alias") == [1, 1, 1]
    alone = rows(probed(), probe=name, control="token embedding")
    assert alone["accuracy"].tolist() == [1.0]


@pytest.mark.parametrize("name", TAGS)
def test_tag_is_not_read_where_activations_are_alike(name: str) -> None:
    """`%` is the same in all questions, and so is `=` before retrieval: chance exactly, AUC by ties."""
    table = probed()
    assert scores(table, probe=name, position="%") == [0.5, 0.5, 0.5]
    assert scores(table, probe=name, position="=")[0] == 0.5
    for control in ("none", "shuffled"):
        assert (rows(table, probe=name, subset="all", position="%", control=control)["auc"] == 0.5).all()


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
    """If it is copied there, or shows in whether anything is retrieved; from the layer on that does it."""
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
    table, _ = probe(stored, task(), only=("defined-entity",))
    assert scores(table, **choose) == [1, 1, 1]


def test_the_entity_that_questions_imply_is_told_from_the_defined_one() -> None:
    """The other way round for a probe of what the questions are about."""
    config = dataclasses.replace(QUICK, recipe="implied-entity")
    choose = {"position": "alias", "subset": "qd2_inconsistent"}
    for stored, implied, defined in (("entity", 1.0, 0.0), ("defined_entity", 0.0, 1.0)):
        table, _ = probe(planted_model(task(), Mechanism(stored=stored)), task(), config)
        assert scores(table, probe="implied-entity", **choose) == [implied] * 3
        assert scores(table, probe="defined-entity-stage-1", **choose) == [defined] * 3


@pytest.mark.parametrize("position", ["alias", "="])
@pytest.mark.parametrize("control", ["shuffled", "untrained"])
def test_controls_are_not_read(position: str, control: str) -> None:
    table = probed()
    for name, n in (("tag-stage-1", 180), ("tag-stage-2", 120)):
        found = scores(table, probe=name, position=position, control=control)
        assert found == pytest.approx([0.5] * 3, abs=4 * 0.5 / n**0.5)
    found = scores(table, probe="defined-entity", position=position, control=control)
    assert found == pytest.approx([1 / 12] * 3, abs=4 * (1 / 12 * 11 / 12 / 360) ** 0.5)


def test_the_control_task_is_learned_where_aliases_can_be_told_apart() -> None:
    """An alias has a name that nothing reads: with it on both sides of the split, random labels are remembered."""
    table = probed()
    at = {
        p: rows(table, probe="tag-stage-2", control="control task", position=p, site="resid_pre")[
            "accuracy"
        ].item()
        for p in ("alias", "%")
    }
    assert at["alias"] > 0.6
    assert at["%"] == 0.5
    assert scores(table, probe="tag-stage-2", control="question split", position="alias") == [1, 1, 1]


def test_a_direction_that_the_model_uses_moves_the_answer_and_another_does_not() -> None:
    """Tag 2 stops retrieval: tag 1's direction at the alias's embedding brings it back, by 20 nats where the integer
    is listed and 0 where it is not. Once `=` has read the alias, the tag is still there, and nothing reads it."""
    config = dataclasses.replace(QUICK, n_pairs=40, permutations=3)
    table, _ = probe(planted_model(task(), Mechanism(tag2_gain=0)), task(), config, only=("tag-stage-2",))
    at_alias = rows(table, control="none", subset="all", position="alias")
    first = rows(at_alias, site="resid_pre")
    assert first["auc"].item() == 1.0
    assert first["swap_share"].item() == pytest.approx(1, abs=0.05)
    assert first["swap_effect"].item() == pytest.approx(10, abs=2)
    last = rows(at_alias, site="resid_post", layer=1)
    assert last["auc"].item() == 1.0
    assert last["swap_effect"].item() == pytest.approx(0, abs=1e-4)
    shuffled = rows(table, control="shuffled", position="alias", site="resid_pre")
    assert shuffled["swap_share"].abs().max() < 0.5


def test_directions_are_unit_vectors_that_raise_the_decision() -> None:
    """The tag's own coordinates at the alias: tag 2 up, tag 1 down; shuffled ones lie elsewhere."""
    config = dataclasses.replace(QUICK, permutations=12)
    model = planted_model(task(), Mechanism())
    table, arrays = probe(model, task(), config, only=("tag-stage-2",))
    assert len(table) > 0
    assert set(arrays) == {f"tag-stage-2/{site}/{layer}" for site, layer in PLACES}
    found = arrays["tag-stage-2/resid_pre/0"]
    assert found.shape == (len(POSITIONS), 11, model.cfg.d_model, 1)
    alias, separator = found[0, :, :, 0], found[1, :, :, 0]
    torch.testing.assert_close(alias.norm(dim=1), torch.ones(11))
    assert not separator.any()
    aliases = task().table.drop_duplicates("alias").set_index("alias")
    ids = {
        tag: torch.tensor([i for i, row in aliases.iterrows() if row["tag"] == tag and row["stage"] == 2])
        for tag in (1, 2)
    }
    first_alias = len(task().vocabulary) - 360
    means = {tag: model.W_E.detach()[first_alias + i].mean(0) for tag, i in ids.items()}
    towards = (means[2] - means[1]) @ alias.T
    assert float(towards[0]) > 3 * float(towards[1:].abs().max())


def test_list_does_not_contain_the_integer() -> None:
    """So the position of a list integer never says which one the alias is: no better than 1 / 11."""
    table = probed()
    for position in ("n1", "n2"):
        found = scores(table, probe="defined-entity", position=position)
        assert max(found) < 1 / 11 + 4 * (1 / 11 * 10 / 11 / 360) ** 0.5


def test_several_values_of_the_regularisation_have_rows_of_their_own() -> None:
    here = dataclasses.replace(QUICK, positions=("alias", "n1"), sites=("resid_post",))
    config = dataclasses.replace(here, regularisation=(0.001, 0.1))
    table, _ = probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    tried = rows(table, chosen=False)
    assert set(tried["regularisation"]) == {0.001, 0.1}
    assert len(tried) == 2 * len(STREAM) * 2
    single, _ = probe(
        planted_model(task(), Mechanism()),
        task(),
        dataclasses.replace(here, regularisation=(0.1,)),
        only=("tag-stage-2",),
    )
    alone = rows(single, subset="all")["log_loss"].to_numpy()
    np.testing.assert_allclose(rows(tried, regularisation=0.1)["log_loss"].to_numpy(), alone, atol=1e-6)


def test_sites_and_positions_are_chosen() -> None:
    config = dataclasses.replace(QUICK, sites=("z", "blocks.1.hook_resid_post"), positions=("alias", "="))
    table, arrays = probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    assert list(table["position"].unique()) == ["alias", "="]
    sites = list(dict.fromkeys(zip(table["site"], table["layer"], strict=True)))
    assert sites == [("resid_pre", 0), ("z", 0), ("z", 1), ("resid_post", 1)]
    cfg = planted_model(task(), Mechanism()).cfg
    assert arrays["tag-stage-2/z/0"].shape[2] == cfg.n_heads * cfg.d_head
    for wrong, message in (
        ({"sites": ("resid_past",)}, "did you mean 'resid_post'"),
        (
            {"positions": ("alias", "n9")},
            "no position is called 'n9'; these examples have alias, %, n1, n2, =",
        ),
    ):
        with pytest.raises(MechoclError, match=message):
            probe(planted_model(task(), Mechanism()), task(), dataclasses.replace(QUICK, **wrong))


def test_definitions_are_read_at_their_own_positions() -> None:
    """The planted alias has its tag stored; the tag's own token and the entity's say nothing in that model."""
    config = dataclasses.replace(QUICK, recipe="reliability-at-definition")
    table, _ = probe(planted_model(task(), Mechanism()), task(), config)
    assert list(table["position"].unique()) == ["tag", "alias", "%", "entity"]
    assert set(table["probe"]) == {"reliability-stage-1", "reliability-stage-2", "truth-stage-1"}
    assert scores(table, probe="reliability-stage-2", position="alias") == [1, 1, 1]
    assert scores(table, probe="reliability-stage-2", position="tag")[0] == 0.5
    assert scores(table, probe="reliability-stage-2", position="entity")[0] == pytest.approx(0.5, abs=0.2)


def test_stages_are_told_apart_only_by_a_probe_that_may_be_confounded() -> None:
    config = dataclasses.replace(QUICK, recipe="recency", controls=True)
    table, _ = probe(planted_model(task(), Mechanism()), task(), config)
    assert table.groupby("probe")["recency"].first().to_dict() == {
        "stage": "confounded",
        "tag-both-stages": "matched",
    }
    assert "matched recency" not in set(rows(table, probe="stage")["control"])


def test_classes_of_unequal_stages_get_a_control_with_stages_matched() -> None:
    """Three subsets of tag 1 against one of tag 2: matched, each class has 60 of stage 1 and 60 of stage 2."""
    fractions = Fractions(qd1=0.4, qd2=0.2, d1=0.2, d2=0.2, d3=0.0)
    config = IntegerSetConfig(aliases=300, integers=12, list_length=2, test_questions=4, fractions=fractions)
    unequal = build(config, seed=0)
    asked = dataclasses.replace(QUICK, recipe="recency", controls=True)
    table, _ = probe(random_model(unequal), unequal, asked, only=("tag-both-stages",))
    found = rows(table, control="matched recency")
    assert set(found["aliases"]) == {2 * 60 + 2 * 60}


def test_splits_by_integer_hold_out_integers() -> None:
    """A model whose aliases say their integer alone, where each integer has one tag: read by alias, not by integer."""
    base = task()
    even = base.table["entity"] % 2 == 0
    skewed = dataclasses.replace(base, table=base.table.assign(tag=np.where(even, 1, 2)))
    by = {
        split: dataclasses.replace(next(p for p in recipe.load("tag-across-integers")), split=split, pairs="")
        for split in ("alias", "integer", "list")
    }
    model = planted_model(base, Mechanism(tag_at_alias=False))
    found = {
        split: scores(probe(model, skewed, probes=(one,))[0], probe=one.name, position="alias")[0]
        for split, one in by.items()
    }
    assert found["alias"] == found["list"] == 1.0
    assert found["integer"] < 0.7


def few_of_each_integer() -> Task:
    """90 aliases over 40 integers: several integers have a single alias."""
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=0.25, d2=0.25, d3=0.0)
    config = IntegerSetConfig(aliases=90, integers=40, list_length=2, test_questions=2, fractions=fractions)
    return build(config, seed=0)


def test_rare_integers_are_left_out() -> None:
    rare = few_of_each_integer()
    aliases = rare.table.iloc[rare.rows(kind="definition")]
    counts = aliases["defined_entity"].value_counts()
    assert (counts == 1).any()
    kept = splits.scorable(aliases["alias"].to_numpy(), aliases["defined_entity"].to_numpy())
    table, _ = probe(random_model(rare), rare, only=("defined-entity",))
    integers = rows(table, subset="all")
    assert (integers["aliases"] == kept.sum()).all()
    assert kept.sum() == counts[counts > 1].sum() < 90
    np.testing.assert_allclose(integers["chance"], 1 / (counts > 1).sum())


def test_too_few_aliases_are_refused() -> None:
    config = dataclasses.replace(QUICK, aliases_per_subset=2)
    with pytest.raises(MechoclError, match=r"probe tag-stage-2: .*folds"):
        probe(planted_model(task(), Mechanism()), task(), config)


def test_activations_that_are_not_finite_are_refused() -> None:
    model = random_model(task())
    with torch.no_grad():
        model.W_E[-1] = float("nan")
    with pytest.raises(
        MechoclError, match=r"probe .*: \d+ activations are not finite, the first at site \d+"
    ):
        probe(model, task())


def test_a_probe_whose_subsets_are_absent_is_left_out() -> None:
    """Without tag 2 in stage 2 there is nothing to tell tag 1 from; the integers can be read all the same."""
    fractions = Fractions(qd1=0.4, qd2=0.4, d1=0.2, d2=0.0, d3=0.0)
    config = IntegerSetConfig(aliases=120, integers=8, list_length=2, test_questions=2, fractions=fractions)
    partial = build(config, seed=0)
    table, _ = probe(random_model(partial), partial)
    assert set(table["probe"]) == {"tag-stage-1", "defined-entity"}
    assert set(table["control"]) == {"none"}


def test_the_limit_on_aliases() -> None:
    config = dataclasses.replace(QUICK, aliases_per_subset=20)
    table, _ = probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    assert (table.loc[table["subset"] == "d1_consistent", "aliases"] == 20).all()
    assert (table.loc[table["subset"] == "all", "aliases"] == 40).all()


def test_a_task_without_definitions_is_refused() -> None:
    fractions = Fractions(qd1=0.0, qd2=0.0, q_only=1.0, d1=0.0, d2=0.0, d3=0.0)
    undefined = build(IntegerSetConfig(aliases=20, integers=12, list_length=4, fractions=fractions), seed=0)
    with pytest.raises(MechoclError, match="fits this run: it lacks the subsets that they compare"):
        probe(random_model(undefined), undefined)


def test_unknown_recipes_and_keys_are_named(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match=r"no recipe 'other'.*definition-retrieval"):
        recipe.load("other")
    text = (recipe.named()["recency"]).read_text(encoding="utf-8")
    for old, new, message in (
        ('at = "question"', 'at = "question"\nmetod = 1', r"mine.toml: unknown key 'probes.0.metod'"),
        ('"logistic"', '"svm"', r"mine.toml: probes.0.method"),
        (
            '"d1_consistent"',
            '"d1_consistant"',
            "'d1_consistant' names no subset of the run; did you mean 'd1_consistent'",
        ),
        ("[0.01]", "[-1.0]", "values must be positive"),
        ('"tag-both-stages"', '"stage"', "each with a name of its own"),
    ):
        path = tmp_path / "mine.toml"
        path.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(MechoclError, match=message):
            recipe.load(str(path))


@pytest.mark.parametrize("name", recipe.named())
def test_recipes_of_the_package_load(name: str) -> None:
    for one in recipe.load(name):
        assert one.question
        if one.pairs:
            assert one.target == "tag"


@pytest.mark.parametrize(
    "wrong",
    [{"permutations": -1}, {"n_pairs": -1}, {"aliases_per_subset": 0}, {"regularisation": (0.0,)}],
)
def test_configs_without_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(MechoclError, match=next(iter(wrong))):
        ProbingConfig(**wrong)  # type: ignore[arg-type]


def test_global_randomness_is_left_alone() -> None:
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  the legacy state is what must not move
    states = torch.get_rng_state(), np.random.get_state()[1]  # noqa: NPY002
    config = ProbingConfig(aliases_per_subset=20, permutations=2, n_pairs=5)
    probe(planted_model(task(), Mechanism()), task(), config, only=("tag-stage-2",))
    assert torch.equal(states[0], torch.get_rng_state())
    np.testing.assert_array_equal(states[1], np.random.get_state()[1])  # noqa: NPY002
