"""Weight grafting on planted differences: which group carries the gain is known, and so is every share."""

import copy
import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from planted import Mechanism, planted_model, small_task, subspaces
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mechocl.behaviour.internalization import by_subset, per_alias
from mechocl.errors import MechoclError
from mechocl.interventions.grafting import (
    ALL_BUT,
    ALONE,
    GraftConfig,
    compared,
    estimates,
    graft,
    graft_study,
)
from mechocl.interventions.weight_groups import groups, layer_groups, parameters
from mechocl.models import loading
from mechocl.report import graft_plots
from toy_models import architectures
from toy_models.subsets import SUBSETS
from toy_models.task import ROLE, Task

NEW = ["d1_consistent", "d2_consistent", "d3_consistent"]
OLD = ["qd1_consistent", "qd2_inconsistent"]
MECHANISM = Mechanism(tag2_gain=0.6, gate="storage")
CONFIG = GraftConfig(aliases_per_subset=10)


@cache
def task() -> Task:
    return small_task()


def planted(*, without: tuple[str, ...] = ()) -> Any:
    """The planted model; `without` takes away what stage-2 aliases store, or what the retrieval head reads."""
    model = planted_model(task(), MECHANISM)
    if "storage" in without:
        rows = task().rows(kind="question", split="test", subset=tuple(NEW))
        tokens = task().tokens[rows, 0].unique()
        model.embed.W_E.data[tokens, subspaces(task(), MECHANISM).stored] = 0
    if "retrieval" in without:
        model.blocks[0].attn.W_V.data.zero_()
    return model


def random_model(*, tied: bool = False, seed: int = 0, **changes: Any) -> Any:
    """Two layers with every kind of weight, none of them at its initial 0 or 1."""
    settings = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 32, "positions": "learned"} | changes
    model = architectures.build(
        architectures.Architecture(**settings, init_std=0.3, tied_embeddings=tied),
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=seed,
    )
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if ".b" in name or ".w" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=draws)
    return model


def neox(folder: Path, *, seed: int, bridge: bool) -> Any:
    config = GPTNeoXConfig(
        vocab_size=len(task().vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
    )
    theirs = GPTNeoXForCausalLM(config)
    draws = torch.Generator().manual_seed(seed)
    for parameter in theirs.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws)
    theirs.save_pretrained(folder / str(seed))
    return loading.load(folder / str(seed), device="cpu", bridge=bridge)


def assert_same(one: Any, other: Any) -> None:
    ours, theirs = parameters(one), parameters(other)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]), name


def shares(table: pd.DataFrame, kind: str, *, metric: str = "auc") -> dict[str, list[float]]:
    """Shares of d1, d2 and d3, by group."""
    chosen = table[(table["kind"] == kind) & (table["metric"] == metric) & table["subset"].isin(NEW)]
    return {group: part["share"].tolist() for group, part in chosen.groupby("group", sort=False)}


# ------------------------------------------------------------------------------------------ analytic


def test_what_is_stored_is_carried_by_the_alias_embeddings() -> None:
    """Before: stage-2 aliases store nothing, so their questions read false: AUC ½. After: 1, and accuracy too."""
    table = graft_study(planted(without=("storage",)), planted(), task(), CONFIG)
    alone, all_but = shares(table, ALONE), shares(table, ALL_BUT)
    assert alone.pop("all") == alone.pop("alias embeddings") == [1, 1, 1]
    assert alone.pop("none") == [0, 0, 0]
    assert np.isnan([*alone.values()]).all()  # nothing was grafted
    assert all_but.pop("alias embeddings") == [0, 0, 0]
    assert np.isnan([*all_but.values()]).all()
    values = table[(table["metric"] == "auc") & table["subset"].isin(NEW)].set_index("group")["value"]
    assert (values["none"] == 0.5).all()
    assert (values["all"] == 1.0).all()
    # stage 1's aliases gain nothing, so there is nothing to take a share of
    assert table[table["subset"].isin(OLD)]["share"].isna().all()
    changed = table.groupby("group")["change"].first()
    # one-hot rows that were taken away: 1 for each alias of d1 and d3, .6 for each of d2
    expected = np.sqrt(sum(60 * gain**2 for gain in (1, 0.6, 1)))
    assert changed["all"] == changed["alias embeddings"] == pytest.approx(expected)
    assert changed.drop(["all", "alias embeddings"]).eq(0).all()


def test_what_is_read_is_carried_by_attention() -> None:
    table = graft_study(planted(without=("retrieval",)), planted(), task(), CONFIG)
    alone, all_but = shares(table, ALONE), shares(table, ALL_BUT)
    carrying = ("layer 0 attention", "layer 0")
    for group in alone:
        carries = group in (*carrying, "all")
        if carries or group == "none":
            assert alone[group] == ([1, 1, 1] if carries else [0, 0, 0])
        else:  # the stage did not change it
            assert np.isnan(alone[group]).all()
        if group not in ("none", "all"):
            assert all_but[group] == [0, 0, 0] if carries else np.isnan(all_but[group]).all()
    assert set(carrying) < set(alone)


def test_two_changes_that_need_each_other() -> None:
    """What is stored and what reads it both came in stage 2: each is needed for d1–d3, neither is enough."""
    before = planted(without=("storage", "retrieval"))
    table = graft_study(before, planted(), task(), CONFIG)
    alone, all_but = shares(table, ALONE), shares(table, ALL_BUT)
    for group in ("alias embeddings", "layer 0 attention"):
        assert alone[group] == all_but[group] == [0, 0, 0]
    both = graft(before, planted(), task(), groups=["layer 0 attention", "alias embeddings"])
    assert_same(both, planted())
    old = table[table["subset"].isin(OLD) & (table["metric"] == "auc") & (table["kind"] == ALONE)]
    assert (old[old["group"] == "layer 0 attention"]["share"] == 1).all()  # stage 1's are stored all along


def test_the_shares_can_fail() -> None:
    """Another planted difference has other shares."""
    stored = shares(graft_study(planted(without=("storage",)), planted(), task(), CONFIG), ALONE)
    read = shares(graft_study(planted(without=("retrieval",)), planted(), task(), CONFIG), ALONE)
    assert stored["alias embeddings"] != read["alias embeddings"]
    assert stored["layer 0 attention"] != read["layer 0 attention"]


def test_shares_by_hand() -> None:
    """From ½ to .9, a value of .8 is ¾ of the way; a gain of .005 and a loss have no share."""
    subsets = {"subset": ["d1_consistent", "d2_consistent", "d3_consistent"], "aliases": [4, 4, 4]}
    none, all_, values = (
        pd.DataFrame(subsets | {"auc": auc})
        for auc in ([0.5, 0.5, 0.6], [0.9, 0.505, 0.5], [0.8, 0.505, 0.55])
    )
    rows = compared(values, none, all_, group="a")
    np.testing.assert_allclose(rows["effect"], [0.3, 0.005, -0.05])
    np.testing.assert_allclose(rows["share"], [0.75, np.nan, np.nan])


# ------------------------------------------------------------------------------------------ groups


@pytest.mark.parametrize(
    "kind", ["learned", "rotary", "tied", "attention only", "planted", "hooked", "bridge"]
)
def test_groups_partition_all_weights(kind: str, tmp_path: Path) -> None:
    model = {
        "learned": lambda: random_model(),
        "rotary": lambda: random_model(positions="rotary", rotary_fraction=0.5),
        "tied": lambda: random_model(tied=True),
        "attention only": lambda: random_model(d_mlp=0, normalization="none"),
        "planted": planted,
        "hooked": lambda: neox(tmp_path, seed=0, bridge=False),
        "bridge": lambda: neox(tmp_path, seed=0, bridge=True),
    }[kind]()
    counts = {name: torch.zeros_like(weight) for name, weight in parameters(model).items()}
    for group in groups(model, task()).values():
        for part in group.parts:
            count = counts[part.parameter]
            part.write(count, part.read(count) + 1)
    for name, count in counts.items():
        assert (count == 1).all(), name


def test_the_groups_are_what_their_names_say() -> None:
    found = groups(random_model(), task())
    assert list(found) == [
        "alias embeddings",
        "tag embeddings",
        "other embeddings",
        "position embeddings",
        *(f"layer {layer} {part}" for layer in (0, 1) for part in ("attention", "MLP")),
        "layer norms",
        "unembedding",
    ]
    tokens = {name: found[name].parts[0].tokens for name in list(found)[:3]}
    vocabulary = task().vocabulary
    assert vocabulary.decode(tokens["tag embeddings"].tolist()) == ["tag 1", "tag 2", "tag 3"]
    assert all(t.startswith("alias") for t in vocabulary.decode(tokens["alias embeddings"].tolist()))
    assert {"%", "=", "true", "0", "11"} < set(vocabulary.decode(tokens["other embeddings"].tolist()))
    assert {p.parameter for p in found["layer 1 MLP"].parts} == {
        f"blocks.1.mlp.{name}" for name in ("W_in", "b_in", "W_out", "b_out")
    }
    assert {p.parameter for p in found["unembedding"].parts} == {"unembed.W_U", "unembed.b_U"}
    assert {p.parameter for p in found["layer norms"].parts} >= {"ln_final.w", "blocks.1.ln2.b"}
    layer = {p.parameter for p in layer_groups(random_model(), task())["layer 1"].parts}
    assert layer == {name for name in parameters(random_model()) if name.startswith("blocks.1.")}


def test_a_graft_of_tied_models_is_tied() -> None:
    before, after = random_model(tied=True), random_model(tied=True, seed=1)
    for chosen in ([], ["alias embeddings"], ["other embeddings", "unembedding"], ["layer 0 MLP"]):
        model = graft(before, after, task(), groups=chosen)
        outputs = task().vocabulary.outputs
        assert torch.equal(model.unembed.W_U, model.embed.W_E[:outputs].T)
    moved = graft(before, after, task(), groups=["tag embeddings"])
    tags = task().tokens[task().roles == ROLE["tag"]].unique()
    assert torch.equal(moved.unembed.W_U[:, tags], after.unembed.W_U[:, tags])
    assert (moved.unembed.W_U != before.unembed.W_U).any(0).nonzero()[:, 0].tolist() == tags.tolist()


# ------------------------------------------------------------------------------------------ properties


@cache
def two() -> tuple[Any, Any, list[str]]:
    before, after = random_model(), random_model(seed=1)
    return before, after, list(groups(before, task()))


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_grafts_in_any_order_and_their_complements(data: st.DataObject) -> None:
    before, after, names = two()
    order = data.draw(st.permutations(names))
    cut = data.draw(st.integers(0, len(names)))
    chosen, rest = order[:cut], order[cut:]
    assert_same(graft(before, after, task(), groups=order), after)
    halfway = graft(before, after, task(), groups=chosen)
    assert_same(halfway, graft(after, before, task(), groups=rest))  # undoing the rest
    assert_same(graft(halfway, after, task(), groups=rest), after)


def test_a_graft_moves_its_own_group_alone() -> None:
    before, after, names = two()
    for name, others in ((n, [o for o in names if o != n]) for n in names):
        model = graft(before, after, task(), groups=[name])
        source = {name: after} | dict.fromkeys(others, before)
        for group, known in groups(before, task()).items():
            for part in known.parts:
                expected = part.read(parameters(source[group])[part.parameter])
                assert torch.equal(part.read(parameters(model)[part.parameter]), expected)
        with pytest.raises(AssertionError):
            assert_same(model, before)
        with pytest.raises(AssertionError):
            assert_same(model, after)


def test_none_and_all_are_the_two_models() -> None:
    before, after, _ = two()
    table = graft_study(before, after, task(), GraftConfig(aliases_per_subset=3, by_layer=False))
    for group, model in (("none", before), ("all", after)):
        expected = by_subset(per_alias(model, task(), aliases_per_subset=3))
        for metric in ("auc", "accuracy", "recall"):
            found = table[(table["group"] == group) & (table["metric"] == metric)]
            assert found["subset"].tolist() == expected["subset"].tolist()
            np.testing.assert_array_equal(found["value"], expected[metric])
            if group == "none":
                assert found["effect"].fillna(0).eq(0).all()
    assert_same(graft(before, after, task(), groups=list(groups(before, task()))), after)
    assert_same(graft(before, after, task(), groups=[]), before)


def test_hooked_and_bridged_models_give_the_same_table(tmp_path: Path) -> None:
    tables = []
    for bridge in (False, True):
        before, after = (neox(tmp_path, seed=seed, bridge=bridge) for seed in (0, 1))
        tables.append(graft_study(before, after, task(), GraftConfig(aliases_per_subset=2)))
        assert_same(graft(before, after, task(), groups=list(groups(before, task()))), after)
    labels = ["group", "kind", "subset", "metric"]
    pd.testing.assert_frame_equal(tables[0][labels], tables[1][labels])
    np.testing.assert_allclose(tables[0]["value"], tables[1]["value"], atol=0.05)  # rounding turns near ties
    np.testing.assert_allclose(tables[0]["value"].mean(), tables[1]["value"].mean(), atol=0.002)


def test_nothing_is_changed() -> None:
    before, after = planted(without=("storage",)), planted()
    before.embed.W_E.requires_grad_(False)
    kept = [copy.deepcopy(parameters(m)) for m in (before, after)]
    flags = [[p.requires_grad for p in m.parameters()] for m in (before, after)]
    model = graft(before, after, task(), groups=["alias embeddings"])
    graft_study(before, after, task(), GraftConfig(aliases_per_subset=2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)  # a graft shares no memory with the two
    for m, weights, flag in zip((before, after), kept, flags, strict=True):
        assert all(torch.equal(parameters(m)[name], weight) for name, weight in weights.items())
        assert [p.requires_grad for p in m.parameters()] == flag
        assert not any(point.fwd_hooks for point in m.hook_dict.values())


# ------------------------------------------------------------------------------------------ refusals


def test_models_of_different_shapes_are_refused() -> None:
    for other, tensor in (
        (random_model(d_mlp=64), "blocks.0.mlp.W_in"),
        (random_model(n_layers=3), "blocks.2"),
    ):
        with pytest.raises(MechoclError, match=f"differ in shape: {tensor}"):
            graft_study(random_model(), other, task(), CONFIG)
        with pytest.raises(MechoclError, match="differ in shape"):
            graft(random_model(), other, task(), groups=[])


def test_other_mistakes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match="no group of weights 'layer 7 MLP'; it has alias embeddings"):
        graft(random_model(), random_model(), task(), groups=["layer 7 MLP"])
    with pytest.raises(MechoclError, match="aliases_per_subset is 0"):
        GraftConfig(aliases_per_subset=0)
    small = architectures.build(
        architectures.ARCHITECTURES["nano"], d_vocab=9, d_vocab_out=9, n_ctx=task().n_ctx, seed=0
    )
    with pytest.raises(MechoclError, match="the model embeds 9 tokens, the task has"):
        groups(small, task())
    strange = random_model()
    strange.register_parameter("experts", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(MechoclError, match="does not know what the model's parameter experts is"):
        groups(strange, task())


# ------------------------------------------------------------------------------------------ estimates, figure


def rows_over_seeds() -> pd.DataFrame:
    """Two groups, three subsets, both kinds, three seeds; one seed's share of d3 is not defined."""
    rows = []
    for i, (seed, group, kind, subset) in enumerate(
        itertools.product(range(3), ["alias embeddings", "layer norms"], [ALONE, ALL_BUT], [*NEW, "no_data"])
    ):
        share = np.nan if (seed, subset) == (0, NEW[2]) else i / 50
        rows.append((seed, group, kind, subset, "auc", i / 100 + 0.5, i / 100, share, 1.0))
    for seed in range(3):
        rows.append((seed, "steering vector", ALONE, NEW[0], "auc", 0.5, 0.0, 0.01 * seed, 1.0))
        rows.append((seed, "tag embeddings", ALONE, NEW[0], "auc", 0.5, 0.0, 0.0, 0.0))
    columns = ["seed", "group", "kind", "subset", "metric", "value", "effect", "share", "change"]
    return pd.DataFrame(rows, columns=columns)


def test_estimates_over_seeds() -> None:
    rows = rows_over_seeds()
    found = {(e.group, e.kind, e.subset): e.estimate for e in estimates(rows)}
    one = found["layer norms", ALL_BUT, NEW[1]]
    assert (one.n, one.unit) == (3, "seed")
    assert one.mean == pytest.approx(np.mean([13, 29, 45]) / 50)
    assert found["layer norms", ALL_BUT, NEW[2]].n == 2
    assert len(estimates(rows, column="value")) == len(found)


def test_the_figure_shows_the_estimates() -> None:
    rows = rows_over_seeds()
    found = estimates(rows)
    figure = graft_plots.grafts(found, rows)
    by = {(e.group, e.kind, e.subset): e.estimate for e in found}
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert len(bars) == 6  # three subsets of stage 2, two panels
    for i, bar in enumerate(bars):
        kind, subset = (ALONE, ALL_BUT)[i // 3], NEW[i % 3]
        assert subset in bar.name
        for data, mean, half in zip(bar.customdata, bar.y, bar.error_y.array, strict=True):
            shown = by[data[0], kind, subset]
            assert (mean, half) == (shown.mean, shown.high - shown.mean)
    first = bars[0].customdata
    assert [data[0] for data in first] == ["alias embeddings", "layer norms", "steering vector"]
    ticks = [t.replace("<br>", " ") for t in figure.layout.xaxis.ticktext]
    assert ticks == ["alias embeddings", "layer norms", "steering vector"]  # tags did not change
    dots = [trace for trace in figure.data if trace.type == "scatter"]
    expected = rows[(rows["kind"] == ALONE) & (rows["subset"] == NEW[2])]["share"].dropna()
    np.testing.assert_array_equal(np.sort(dots[2].y), np.sort(expected))
    assert all(SUBSETS[subset].notation in bars[i].name for i, subset in enumerate(NEW))


def test_parts_are_copies() -> None:
    weight: Tensor = torch.arange(6.0).view(2, 3)
    part = groups(random_model(tied=True), task())["tag embeddings"].parts[-1]
    assert (part.parameter, part.axis) == ("unembed.W_U", 1)
    whole = groups(random_model(), task())["layer norms"].parts[0]
    whole.read(weight).zero_()
    assert weight.sum() == 15
