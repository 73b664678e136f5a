"""Activation patching: planted answers, TransformerLens's own functions, plain hooks, and properties."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import contract
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from hypothesis import given, settings, strategies as st
from planted import Mechanism, planted_model, small_task
from torch import Tensor
from transformer_lens import patching as theirs

from mechocl.analyses import jobs
from mechocl.errors import MechoclError
from mechocl.interventions.metrics import metric_named, normalised
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.other_examples import resampled
from mechocl.interventions.pairs import ROLE_NAMES, Pairs, given_pairs
from mechocl.interventions.patching import PatchingConfig, PatchingResult, patch, patch_activations
from mechocl.models.components import take_apart
from mechocl.models.sites import SITES, hook_name, sites_of
from toy_models.task import Task

MODES = ("denoise", "noise", "zero", "mean", "resample")
SHAPE = {"num_attention_heads": 2, "intermediate_size": 16}
POSITIONS = ("alias", "%", "n1", "n2", "n3", "n4", "=")


@cache
def task() -> Task:
    return small_task()


def neox(*, parallel: bool = True) -> Any:
    """Random, of two layers and two heads."""
    return contract.loaded(0, **SHAPE, use_parallel_residual=parallel)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Task]:
    """A model after each stage of a short training, and its task."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny.recipe(folder, "training.stages.0.epochs=12")
    run = jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    seed = run.seed(0)
    before, after = (seed.model_at(seed.final(stage), device="cpu") for stage in (1, 2))
    return before, after, seed.load_task()


@pytest.fixture(params=["parallel", "sequential", "trained"])
def subject(request: pytest.FixtureRequest) -> tuple[Any, Pairs]:
    if request.param == "trained":
        _, model, of = request.getfixturevalue("trained")
        return model, pairs_named(of, "qd1-to-other-qd2", n_pairs=10, seed=0)
    model = neox(parallel=request.param == "parallel")
    return model, pairs_named(contract.task(), "d1-to-other-d2", n_pairs=10, seed=0)


# ------------------------------------------------------------------------------------------ TransformerLens

BY_POSITION: dict[str, Any] = {
    "resid_pre": theirs.get_act_patch_resid_pre,
    "resid_mid": theirs.get_act_patch_resid_mid,
    "attn_out": theirs.get_act_patch_attn_out,
    "mlp_out": theirs.get_act_patch_mlp_out,
    "z": theirs.get_act_patch_attn_head_out_by_pos,
    "q": theirs.get_act_patch_attn_head_q_by_pos,
    "k": theirs.get_act_patch_attn_head_k_by_pos,
    "v": theirs.get_act_patch_attn_head_v_by_pos,
    "pattern": theirs.get_act_patch_attn_head_pattern_by_pos,
}
ALL_POSITIONS: dict[str, Any] = {
    "z": theirs.get_act_patch_attn_head_out_all_pos,
    "q": theirs.get_act_patch_attn_head_q_all_pos,
    "k": theirs.get_act_patch_attn_head_k_all_pos,
    "v": theirs.get_act_patch_attn_head_v_all_pos,
    "pattern": theirs.get_act_patch_attn_head_pattern_all_pos,
}


def their_metric(pairs: Pairs, logits: Tensor) -> Tensor:
    """Mean of target − foil where the answer is read."""
    i = torch.arange(len(pairs))
    at = logits[i, pairs.read]
    return (at[i, pairs.target] - at[i, pairs.foil]).mean()


@pytest.mark.parametrize("site", BY_POSITION)
def test_equals_transformer_lens(
    site: str, subject: tuple[Any, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Position by position, and (heads) at all positions at once."""
    model, pairs = subject
    if site not in sites_of(take_apart(model)):
        pytest.skip("attention and MLP in parallel")
    monkeypatch.setattr(theirs, "tqdm", lambda iterator, **_: iterator)
    forms = [("position", BY_POSITION[site])]
    forms += [("all", ALL_POSITIONS[site])] if site in ALL_POSITIONS else []
    with torch.no_grad():
        _, kept = model.run_with_cache(pairs.clean)
        base = float(their_metric(pairs, model(pairs.corrupted)))
        for by, function in forms:
            expected = function(model, pairs.corrupted, kept, partial(their_metric, pairs))
            if (by, site) == ("position", "pattern"):
                expected = expected.transpose(1, 2)  # theirs: layer head pos
            found = patch_activations(model, pairs, sites=[site], by=by)
            rows, exchanged = found.rows, found.rows["exchanged"] > 0
            assert (rows[["value", "effect"]].notna().all(axis=1) == exchanged).all()
            value, effect = rows["value"].fillna(base), rows["effect"].fillna(0.0)
            np.testing.assert_allclose(value, expected.flatten(), atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(effect, expected.flatten() - base, atol=2e-5, rtol=1e-5)
            assert found.rows["effect"].abs().max() > 1e-3
            assert found.corrupted == pytest.approx(base, abs=1e-5)
            assert found.clean == pytest.approx(float(their_metric(pairs, model(pairs.clean))), abs=1e-5)


# ------------------------------------------------------------------------------------------ plain hooks


def masks(pairs: Pairs, by: str) -> dict[str, Tensor]:
    n, length = pairs.clean.shape
    if by == "all":
        return {"all": torch.ones(n, length, dtype=torch.bool)}
    if by == "position":
        return {label: (torch.arange(length) == i).repeat(n, 1) for i, label in enumerate(pairs.labels)}
    names = [name for name in ROLE_NAMES if (pairs.roles == ROLE_NAMES.index(name)).any()]
    return {name: pairs.roles == ROLE_NAMES.index(name) for name in names}


def by_unit(site: str, x: Tensor) -> Tensor:
    """A view with the axes pair, position (of a pattern: the query's), unit, …"""
    if site == "pattern":
        return x.transpose(1, 2)
    return x if site in ("q", "k", "v", "z", "mlp_post") else x[:, :, None]


def per_pair(logits: Tensor, clean: Tensor, pairs: Pairs, metric: str) -> Tensor:
    i = torch.arange(len(pairs))
    at, right = logits[i, pairs.read], clean[i, pairs.read]
    if metric == "logit_difference":
        return at[i, pairs.target] - at[i, pairs.foil]
    if metric == "log_probability":
        return at.softmax(-1)[i, pairs.target].log()
    return -(right.softmax(-1) * (right.softmax(-1) / at.softmax(-1)).log()).sum(-1)


@torch.no_grad()
def by_hooks(
    model: Any,
    pairs: Pairs,
    *,
    site: str,
    by: str = "position",
    mode: str = "denoise",
    each_unit: bool = True,
    source: Any = None,
    metric: str = "logit_difference",
) -> Tensor:
    """Every patch in a forward pass of its own; values of the metric, patch by pair."""
    origin = source or model
    names = [hook_name(site, layer) for layer in range(model.cfg.n_layers)]
    base = pairs.corrupted if mode == "denoise" else pairs.clean
    given = {"denoise": pairs.clean, "noise": pairs.corrupted}.get(mode, pairs.clean)
    if mode == "resample":
        given = given[resampled(pairs.read, 0)]
    _, kept = origin.run_with_cache(given, names_filter=names)
    right = (origin if mode == "denoise" else model)(pairs.clean)
    rows = []
    for name in names:
        new = by_unit(site, kept[name])
        if mode == "zero":
            new = torch.zeros_like(new)
        if mode == "mean":
            reached = torch.arange(new.shape[1]) <= pairs.read[:, None]
            own = torch.where(reached.reshape(*reached.shape, *(1 for _ in new.shape[2:])), new, torch.nan)
            new = own.nanmean(0, keepdim=True).nan_to_num().expand_as(new)
        for where in masks(pairs, by).values():
            for unit in range(new.shape[2]) if each_unit else [slice(None)]:
                chosen = where[:, :, None].repeat(1, 1, new.shape[2])
                chosen[:, :, [u for u in range(new.shape[2]) if each_unit and u != unit]] = False

                def put(x: Tensor, hook: Any, chosen: Tensor = chosen, new: Tensor = new) -> Tensor:
                    x = x.clone()
                    by_unit(site, x)[chosen] = new[chosen]
                    return x

                logits = model.run_with_hooks(base, fwd_hooks=[(name, put)])
                rows.append(per_pair(logits, right, pairs, metric))
    return torch.stack(rows)


def assert_equal_to_hooks(found: PatchingResult, expected: Tensor) -> None:
    """With the base run's values where nothing was exchanged, whose rows have no value."""
    np.testing.assert_allclose(found.per_pair, expected, atol=2e-5, rtol=1e-5)
    base = found.corrupted if found.mode == "denoise" else found.clean
    measured = found.rows["exchanged"] > 0
    assert (found.rows["value"].notna() == measured).all()
    np.testing.assert_allclose(found.rows["value"].fillna(base), expected.mean(1), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(found.rows["effect"], found.rows["value"] - base, atol=1e-6)


@pytest.mark.parametrize("site", SITES)
def test_equals_plain_hooks(site: str, subject: tuple[Any, Pairs]) -> None:
    """At every site by role; neurons together."""
    model, pairs = subject
    if site not in sites_of(take_apart(model)):
        pytest.skip("attention and MLP in parallel")
    options: dict[str, Any] = {"by": "role", "each_unit": site != "mlp_post"}
    found = patch_activations(model, pairs, sites=[site], **options)
    assert_equal_to_hooks(found, by_hooks(model, pairs, site=site, **options))
    assert found.rows["effect"].abs().max() > 1e-3


@pytest.mark.parametrize("mode", MODES[1:])
@pytest.mark.parametrize("site", SITES)
def test_modes_equal_plain_hooks(site: str, mode: str) -> None:
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=4, seed=0)
    options: dict[str, Any] = {"by": "all", "mode": mode, "each_unit": False}
    found = patch_activations(neox(parallel=False), pairs, sites=[site], **options)
    assert_equal_to_hooks(found, by_hooks(neox(parallel=False), pairs, site=site, **options))
    assert found.rows["effect"].abs().max() > 1e-3


def test_the_check_above_can_fail(subject: tuple[Any, Pairs]) -> None:
    model, pairs = subject
    found = patch_activations(model, pairs, sites=["z"], by="role")
    for wrong in (
        {"by": "position"},
        {"mode": "noise"},
        {"mode": "zero"},
        {"site": "v"},
        {"each_unit": False},
    ):
        with pytest.raises(AssertionError):
            assert_equal_to_hooks(found, by_hooks(model, pairs, **({"site": "z", "by": "role"} | wrong)))


def test_neurons_one_at_a_time(trained: tuple[Any, Any, Task]) -> None:
    _, model, of = trained
    pairs = pairs_named(of, "qd1-to-other-qd2", n_pairs=4, seed=0)
    found = patch_activations(model, pairs, sites=["mlp_post"], by="role")
    assert_equal_to_hooks(found, by_hooks(model, pairs, site="mlp_post", by="role"))
    of_one = found.rows[(found.rows["layer"] == 0) & (found.rows["position"] == "=")]
    assert of_one["index"].tolist() == list(range(32))


@pytest.mark.parametrize("each_unit", [True, False])
@pytest.mark.parametrize("site", ["v", "pattern", "attn_out", "mlp_post", "resid_post"])
def test_units_together_or_apart(site: str, each_unit: bool) -> None:
    pairs = pairs_named(contract.task(), "d1-to-d2", n_pairs=3, seed=0)
    options: dict[str, Any] = {"by": "all", "each_unit": each_unit}
    found = patch_activations(neox(), pairs, sites=[site], **options)
    assert_equal_to_hooks(found, by_hooks(neox(), pairs, site=site, **options))
    heads, neurons = (2, 16) if each_unit else (1, 1)
    units = {"v": heads, "pattern": heads, "mlp_post": neurons}.get(site, 1)
    assert found.rows["index"].tolist() == (list(range(units)) if units > 1 else [-1]) * 2


@pytest.mark.parametrize("metric", ["log_probability", "kl_to_clean"])
@pytest.mark.parametrize("mode", MODES)
def test_metrics_of_all_tokens(metric: str, mode: str) -> None:
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=5, seed=0)
    options: dict[str, Any] = {"mode": mode, "metric": metric, "by": "role"}
    found = patch_activations(neox(), pairs, sites=["attn_out"], batch_size=3, **options)
    assert_equal_to_hooks(found, by_hooks(neox(), pairs, site="attn_out", **options))
    if metric == "kl_to_clean":
        assert found.clean == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_two_models(mode: str, trained: tuple[Any, Any, Task]) -> None:
    """Activations of one checkpoint in another, on the same examples."""
    before, after, of = trained
    pairs = pairs_named(of, "d1-to-d2", n_pairs=6, seed=0)
    pairs = replace(pairs, corrupted=pairs.clean)
    for site in ("resid_post", "k", "pattern"):
        found = patch_activations(after, pairs, sites=[site], by="role", mode=mode, source_model=before)
        assert_equal_to_hooks(found, by_hooks(after, pairs, site=site, by="role", mode=mode, source=before))
        assert found.rows["effect"].abs().max() > 1e-3
    with torch.no_grad():
        values = {m: float(their_metric(pairs, m(pairs.clean))) for m in (before, after)}
    ours, others = ("corrupted", "clean") if mode == "denoise" else ("clean", "corrupted")
    assert getattr(found, ours) == pytest.approx(values[after], abs=1e-5)
    assert getattr(found, others) == pytest.approx(values[before], abs=1e-5)


def scattered() -> Pairs:
    """Answers read at other positions in every pair, and before the end; tokens at random."""
    draws = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 40, (2, 6, 6), generator=draws)
    read = torch.tensor([1, 2, 4, 3, 3, 0])
    roles = torch.randint(-1, 3, (6, 6), generator=draws)
    target, foil = torch.randint(0, 20, (6,), generator=draws), torch.randint(20, 40, (6,), generator=draws)
    return replace(given_pairs(tokens[0], tokens[1], target=target, foil=foil, read=read), roles=roles)


@pytest.mark.parametrize(
    ("parallel", "by", "batch_size"),
    [(False, "position", 1024), (True, "position", 1024), (False, "role", 2), (True, "all", 1)],
)
def test_answers_read_at_different_positions(parallel: bool, by: str, batch_size: int) -> None:
    pairs, model = scattered(), neox(parallel=parallel)
    sites = ("resid_pre", "v", "pattern", "mlp_out") if parallel or batch_size < 3 else SITES
    for site in sites:
        options: dict[str, Any] = {"by": by, "each_unit": False}
        found = patch_activations(model, pairs, sites=[site], batch_size=batch_size, **options)
        assert_equal_to_hooks(found, by_hooks(model, pairs, site=site, **options))


def test_patches_behind_the_answer_leave_it_as_it_was() -> None:
    pairs = scattered()
    found = patch_activations(neox(), pairs, sites=["resid_pre", "v"], each_unit=False)
    base = patch_activations(neox(), pairs, sites=["z"], mode="noise", each_unit=False, by="all")
    position, read = np.arange(6)[:, None], pairs.read.numpy()
    values = found.per_pair.reshape(4, 6, 6)
    unpatched = values[:, 5]  # nothing is read there
    assert found.corrupted == pytest.approx(unpatched[0].mean(), abs=1e-5)
    assert base.clean == pytest.approx(found.clean, abs=1e-6)
    effect = values - unpatched[:, None]
    np.testing.assert_allclose(effect[:, position > read], 0, atol=1e-6)
    assert (
        np.abs(effect[0][position == read]) > 1e-3
    ).sum() == 5  # one pair has the same token there in both


@pytest.mark.parametrize("mode", ["mean", "resample", "zero", "noise"])
def test_modes_where_answers_are_read_at_different_positions(mode: str) -> None:
    pairs, model = scattered(), neox(parallel=False)
    for site in ("pattern", "resid_mid"):
        options: dict[str, Any] = {"mode": mode, "by": "role", "each_unit": False}
        found = patch_activations(model, pairs, sites=[site], batch_size=2, **options)
        assert_equal_to_hooks(found, by_hooks(model, pairs, site=site, **options))


# ------------------------------------------------------------------------------------------ properties


def assert_alike_in_every_batch_size(model: Any, pairs: Pairs, *, mode: str) -> None:
    sites = ["blocks.0.attn.hook_v", "blocks.1.hook_resid_post"]
    run = partial(patch_activations, model, pairs, sites=sites, by="all", mode=mode)
    whole = run(batch_size=100_000)
    for batch_size in (1, 7, 8) if mode == "denoise" else (3,):
        part = run(batch_size=batch_size)
        pd.testing.assert_frame_equal(part.rows, whole.rows, rtol=0, atol=1e-5)
        np.testing.assert_allclose(part.per_pair, whole.per_pair, atol=1e-5)


def test_batch_size_changes_nothing(subject: tuple[Any, Pairs]) -> None:
    """Pairs one by one, in unequal parts, all at once, and with many patches in one pass."""
    assert_alike_in_every_batch_size(subject[0], subject[1][:8], mode="denoise")


@pytest.mark.parametrize("mode", MODES[1:])
def test_batch_size_changes_nothing_in_any_mode(mode: str) -> None:
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=8, seed=0)
    assert_alike_in_every_batch_size(neox(parallel=False), pairs, mode=mode)


def test_batch_size_changes_nothing_in_neurons(subject: tuple[Any, Pairs]) -> None:
    model, pairs = subject
    run = partial(patch_activations, model, pairs[:4], sites=["blocks.0.mlp.hook_post"], by="all")
    for batch_size in (3, 50):
        np.testing.assert_allclose(run(batch_size=batch_size).per_pair, run().per_pair, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    site=st.sampled_from(["resid_pre", "resid_post"]),
    seed=st.integers(0, 100),
    parallel=st.booleans(),
    mode=st.sampled_from(["denoise", "noise"]),
)
def test_patching_all_of_the_stream_gives_the_other_run(
    site: str, seed: int, parallel: bool, mode: str
) -> None:
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=5, seed=seed)
    found = patch_activations(neox(parallel=parallel), pairs, sites=[site], by="all", mode=mode)
    other = found.clean if mode == "denoise" else found.corrupted
    np.testing.assert_allclose(found.rows["value"], other, atol=1e-5)
    assert abs(found.clean - found.corrupted) > 1e-3


def test_patching_the_answers_position_at_the_top_gives_the_clean_run(subject: tuple[Any, Pairs]) -> None:
    model, pairs = subject
    found = patch_activations(model, pairs, sites=["blocks.1.hook_resid_post"])
    np.testing.assert_allclose(found.rows["effect"].iloc[:-1], 0, atol=1e-6)
    assert found.rows["value"].iloc[-1] == pytest.approx(found.clean, abs=1e-5)


@pytest.mark.parametrize("mode", ["denoise", "noise"])
def test_patching_a_run_into_itself_changes_nothing(mode: str, subject: tuple[Any, Pairs]) -> None:
    model, pairs = subject
    same = replace(pairs, corrupted=pairs.clean)
    found = patch_activations(model, same, sites=sites_of(take_apart(model)), mode=mode, each_unit=False)
    assert (found.rows["exchanged"] == 0).all()
    assert found.rows["effect"].isna().all()
    np.testing.assert_allclose(found.per_pair - found.per_pair[:1], 0, atol=1e-6)


@pytest.mark.parametrize("n", [2, 3, 50])
def test_resampling_takes_another_pair(n: int) -> None:
    for seed in range(20):
        others = resampled(torch.zeros(n, dtype=torch.int64), seed)
        assert sorted(others.tolist()) == list(range(n))
        assert (others != torch.arange(n)).all()
    assert (
        len({tuple(resampled(torch.zeros(50, dtype=torch.int64), seed).tolist()) for seed in range(5)}) == 5
    )
    assert resampled(torch.zeros(1, dtype=torch.int64), 0).tolist() == [0]


@pytest.mark.parametrize("site", ["resid_pre", "pattern", "z"])
def test_padding_is_in_no_mean_and_in_no_other_pair(site: str) -> None:
    """Three short examples beside three long ones: what is put into the long ones comes from long ones alone."""
    model = neox()
    draws = torch.Generator().manual_seed(0)
    clean, corrupted = torch.randint(1, 40, (2, 6, 7), generator=draws)
    target, foil = torch.arange(6), torch.arange(6, 12)
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[[0, 2, 4], 5:] = False
    mixed = given_pairs(clean, corrupted, target=target, foil=foil, mask=mask)
    alone = mixed[torch.tensor([1, 3, 5])]
    for batch_size in (2, 6):
        found = patch_activations(model, mixed, sites=[site], mode="mean", batch_size=batch_size)
        long_ones = patch_activations(model, alone, sites=[site], mode="mean")
        assert found.source.endswith("at each position of those that reach it")
        late = found.rows["position"].isin(["5", "6"]).to_numpy()
        np.testing.assert_allclose(found.per_pair[late][:, [1, 3, 5]], long_ones.per_pair[late], atol=1e-5)
    others = resampled(mixed.read, 0)
    assert torch.equal(mixed.read[others], mixed.read)
    assert (others != torch.arange(6)).all()


def test_a_pair_without_a_role_has_no_effect_there() -> None:
    """`rival` stands in the list only where the clean alias's integer does not."""
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=20, seed=0)
    found = patch_activations(neox(), pairs, sites=["resid_pre"], by="role", mode="zero")
    chosen = (found.rows["position"] == "rival").to_numpy()
    effect = (
        found.per_pair[chosen]
        - patch_activations(neox(), pairs, sites=["resid_pre"], by="all", mode="denoise").per_pair[:1]
    )
    lacks = ~(pairs.roles == ROLE_NAMES.index("rival")).any(1).numpy()
    assert 0 < lacks.sum() < 20
    np.testing.assert_allclose(effect[:, lacks], 0, atol=1e-5)
    assert (np.abs(effect[:, ~lacks]).max(0) > 1e-4).all()


def test_the_auc_over_split_pairs(trained: tuple[Any, Any, Task]) -> None:
    """Pooled over all pairs, wherever they were split."""
    _, model, of = trained
    asked = pairs_named(of, "qd1-to-itself", n_pairs=40, seed=0)
    run = partial(
        patch_activations, model, asked, sites=["z"], by="all", mode="mean", metric="within_alias_auc"
    )
    found, parts = run(), run(batch_size=3)
    pd.testing.assert_frame_equal(found.rows, parts.rows)
    pool = metric_named("within_alias_auc").pool
    expected = [float(pool(torch.from_numpy(values), asked)) for values in found.per_pair]
    np.testing.assert_allclose(found.rows["value"], expected)
    assert found.clean == found.corrupted


# ------------------------------------------------------------------------------------------ planted answers


def assert_planted_effects(found: PatchingResult, *, retrieval_layer: int, effect: float) -> None:
    """`effect` at the alias up to the retrieval layer's input and at `=` from its output on, else 0."""
    expected = {
        (layer, position): effect * (position == ("=" if layer >= retrieval_layer else "alias"))
        for layer in range(4)
        for position in POSITIONS
    }
    rows = found.rows.set_index(["layer", "position"])["effect"].fillna(
        0
    )  # missing where nothing was exchanged
    assert set(rows.index) == set(expected)
    np.testing.assert_allclose(rows, [expected[key] for key in rows.index], atol=1e-5)


@pytest.mark.parametrize("retrieval_layer", [0, 1, 2])
def test_planted_same_integer(retrieval_layer: int) -> None:
    """Tag 2 is suppressed: +20 on the questions whose list contains the integer, 0 on the others."""
    mechanism = Mechanism(
        n_layers=4, retrieval_layer=retrieval_layer, comparison_layer=retrieval_layer + 1, tag2_gain=0
    )
    pairs = pairs_named(task(), "d1-to-d2", n_pairs=30, seed=0)
    found = patch_activations(planted_model(task(), mechanism), pairs, sites=["resid_post"])
    share = float(pairs.contains.float().mean())
    assert 0 < share < 1
    assert found.clean == pytest.approx(10, abs=1e-5)
    assert found.corrupted == pytest.approx(10 - 20 * share, abs=1e-5)
    assert_planted_effects(found, retrieval_layer=retrieval_layer, effect=20 * share)
    contains = found.per_pair[-1][pairs.contains.numpy()], found.per_pair[-1][~pairs.contains.numpy()]
    np.testing.assert_allclose(contains[0], 10, atol=1e-5)
    np.testing.assert_allclose(contains[1], 10, atol=1e-5)


@pytest.mark.parametrize("retrieval_layer", [0, 1])
def test_planted_different_integers(retrieval_layer: int) -> None:
    """Nothing suppressed, exactly one integer in the list: from −10 to +10 in every pair, and back by noising."""
    mechanism = Mechanism(n_layers=4, retrieval_layer=retrieval_layer, comparison_layer=2)
    model = planted_model(task(), mechanism)
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=30, seed=0)
    for mode, effect in (("denoise", 20.0), ("noise", -20.0)):
        found = patch_activations(model, pairs, sites=["resid_post"], mode=mode)
        assert (found.clean, found.corrupted) == pytest.approx((10, -10), abs=1e-5)
        assert_planted_effects(found, retrieval_layer=retrieval_layer, effect=effect)


def test_the_planted_check_can_fail() -> None:
    model = planted_model(task(), Mechanism(n_layers=4, comparison_layer=2))
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=30, seed=0)
    found = patch_activations(model, pairs, sites=["resid_post"])
    assert_planted_effects(found, retrieval_layer=0, effect=20)
    for wrong in ({"retrieval_layer": 1, "effect": 20}, {"retrieval_layer": 0, "effect": 19.9}):
        with pytest.raises(AssertionError):
            assert_planted_effects(found, **wrong)


def test_planted_heads() -> None:
    """The retrieval is head 0's value at the alias in layer 0, its output at `=`; and head 0's in the comparison.

    By role: the list item that decides is the clean integer (`match`) or the corrupted one (`rival`); both ask the
    same list, so nothing else moves.
    """
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=30, seed=0)
    found = patch_activations(planted_model(task(), Mechanism()), pairs, sites=["v", "z"], by="role")
    large = found.rows[found.rows["effect"].abs() > 1e-4]
    cells = large[["layer", "site", "index", "position"]].apply(tuple, axis=1).tolist()
    assert cells == [(0, "v", 0, "alias"), (0, "z", 0, "="), (1, "z", 0, "=")]
    np.testing.assert_allclose(large["effect"], 20, atol=1e-4)


def test_planted_ablation() -> None:
    """Without the comparison's head `=` answers 0; without the other head of that layer, as before."""
    pairs = pairs_named(task(), "d1-to-itself", n_pairs=30, seed=0)
    model = planted_model(task(), Mechanism())
    found = patch_activations(model, pairs, sites=["blocks.1.attn.hook_z"], mode="zero", by="all")
    np.testing.assert_allclose(found.per_pair.mean(1), [0, 10], atol=1e-5)
    np.testing.assert_allclose(found.rows["effect"], [-10, np.nan], atol=1e-5)  # the other head writes zeros


def test_planted_definitions_have_no_tag_effect() -> None:
    """The embeddings of tags are the same, so tag pairs exchange nothing."""
    pairs = pairs_named(task(), "tag1-to-tag2", n_pairs=10, seed=0)
    model = planted_model(task(), Mechanism())
    found = patch_activations(model, pairs, sites=["resid_pre"], metric="log_probability")
    assert (found.rows["exchanged"] == 0).all()
    np.testing.assert_allclose(np.ptp(found.per_pair, axis=0), 0.0, atol=1e-6)
    assert found.table()["normalised"].isna().all()


# ------------------------------------------------------------------------------------------ results


def test_rows_are_in_the_order_of_the_layers(trained: tuple[Any, Any, Task]) -> None:
    _, model, of = trained
    pairs = pairs_named(of, "qd1-to-qd2", n_pairs=5, seed=0)
    names = ["resid_post", "z", "blocks.0.hook_mlp_out"]
    rows = patch_activations(model, pairs, sites=names, by="all").rows
    assert list(rows.columns) == [
        "layer", "site", "part", "index", "position", "value", "effect", "exchanged",
    ]  # fmt: skip
    assert rows["part"].tolist() == ["head", "head", "whole", "whole", "head", "head", "whole"]
    order = [(0, "z", 0), (0, "z", 1), (0, "mlp_out", -1), (0, "resid_post", -1), (1, "z", 0), (1, "z", 1)]
    found = rows[["layer", "site", "index"]].apply(tuple, axis=1).tolist()
    assert found == [*order, (1, "resid_post", -1)]


def test_table_and_shares() -> None:
    pairs = pairs_named(task(), "d1-to-other-d2", n_pairs=30, seed=0)
    found = patch_activations(planted_model(task(), Mechanism()), pairs, sites=["resid_pre"])
    shares = found.normalised()
    np.testing.assert_allclose(shares["normalised"], (shares["value"] + 10) / 20, atol=1e-6)
    table = found.table()
    ends = {"clean": found.clean, "corrupted": found.corrupted, "metric": "logit_difference", "unit": "nats"}
    ends |= {"contrast": "d1_consistent-to-other-d2_consistent", "mode": "denoise", "pairs": 30}
    ends |= {"source": "clean example of the pair"}
    assert table[[*ends]].drop_duplicates().to_dict("records") == [ends]
    for row in table.itertuples():
        expected = normalised(row.value, clean=row.clean, corrupted=row.corrupted)
        assert row.normalised == pytest.approx(expected, nan_ok=True)
    same = patch_activations(
        planted_model(task(), Mechanism()), replace(pairs, corrupted=pairs.clean), sites=["z"]
    )
    with pytest.raises(MechoclError, match="hardly differ"):
        same.normalised()
    assert same.table()["normalised"].isna().all()


def test_the_analysis_is_one_table_of_all_its_contrasts() -> None:
    model = neox(parallel=False)
    config = PatchingConfig(pairs=("d1-to-d2", "d1-with-to-without"), n_pairs=6, by="role")
    table = patch(model, contract.task(), config)
    sites = ["resid_pre", *["attn_out", "resid_mid", "mlp_out", "resid_post"] * 2]
    first = table[table["contrast"] == "d1_consistent-to-d2_consistent"]
    assert first.drop_duplicates(["layer", "site"])["site"].tolist() == sites
    assert table["contrast"].unique().tolist()[1:] == ["d1_consistent-with-to-without"]
    pairs = pairs_named(contract.task(), "d1-to-d2", n_pairs=6, seed=0)
    alone = patch_activations(model, pairs, sites=first["site"].unique().tolist(), by="role").table()
    alone = alone[~((alone["layer"] == 1) & (alone["site"] == "resid_pre"))].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, alone)


# ------------------------------------------------------------------------------------------ what is refused


def model_with(change: Callable[[Mapping[str, Tensor]], None]) -> Any:
    """Another copy of the random model, spoiled."""
    model = contract.loaded.__wrapped__(0, **SHAPE, use_parallel_residual=False)
    with torch.no_grad():
        change(dict(model.named_parameters()))
    return model


def parameters() -> Iterator[tuple[str, str]]:
    """A parameter, and where the activations first are not finite."""
    yield "embed.W_E", "after the embedding are"
    for layer, names in ((0, ("attn.W_Q", "attn.b_V", "mlp.W_in")), (1, ("attn.W_K", "mlp.b_out", "ln2.w"))):
        for name in names:
            yield f"blocks.{layer}.{name}", f"after layer {layer} are"
    for name in ("ln_final.w", "ln_final.b", "unembed.W_U", "unembed.b_U"):
        yield name, "logit_difference of d1_consistent-to-d2_consistent is"


@pytest.mark.parametrize(("name", "where"), list(parameters()))
def test_a_model_that_diverged(name: str, where: str) -> None:
    model = model_with(lambda weights: weights[name].fill_(float("nan")))
    pairs = pairs_named(contract.task(), "d1-to-d2", n_pairs=3, seed=0)
    with pytest.raises(MechoclError, match=f"{where} not finite.*: the model has diverged$") as raised:
        patch_activations(model, pairs, sites=["resid_pre"])
    assert "\n" not in str(raised.value)


def test_a_model_that_diverged_on_one_pair() -> None:
    """Which is named, whatever the batches; in the model that activations are taken from, too."""
    pairs = pairs_named(contract.task(), "d1-to-other-d2", n_pairs=8, seed=0)
    alias = int(pairs.clean[5, 0])
    first = pairs.clean[:, 0].tolist().index(alias)
    model = model_with(lambda weights: weights["embed.W_E"][alias].fill_(float("nan")))
    for batch_size in (1, 3, 1024):
        with pytest.raises(MechoclError, match=rf"embedding are not finite \(pair {first} of d1_"):
            patch_activations(model, pairs, sites=["z"], mode="noise", batch_size=batch_size)
    with pytest.raises(MechoclError, match=rf"the last layer are not finite \(pair {first} of d1_"):
        patch_activations(neox(parallel=False), pairs, sites=["z"], source_model=model, batch_size=3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": []}, "no site is named; the model has resid_pre, q"),
        ({"sites": ["resid_psot"]}, "no site 'resid_psot'.* did you mean 'resid_post'"),
        ({"sites": ["resid_mid"]}, "attention and MLP run in parallel"),
        ({"metric": "accuracy"}, "no metric is called 'accuracy'; choose from logit_difference, log_prob"),
        ({"metric": "within_alias_auc"}, "needs aliases asked about with and without"),
        ({"batch_size": 0}, "batch_size is 0; use at least 1"),
    ],
)
def test_choices_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    pairs = pairs_named(contract.task(), "d1-with-to-without", n_pairs=3, seed=0)
    with pytest.raises(MechoclError, match=message) as raised:
        patch_activations(neox(), pairs, **({"sites": ["z"]} | changes))
    assert "\n" not in str(raised.value)


def test_pairs_without_roles_or_foil() -> None:
    pairs = scattered()
    with pytest.raises(MechoclError, match="given pairs has no roles; patch by position"):
        patch_activations(
            neox(), replace(pairs, roles=torch.full_like(pairs.roles, -1)), sites=["z"], by="role"
        )
    with pytest.raises(MechoclError, match="given pairs has none; use log_probability"):
        patch_activations(neox(), replace(pairs, foil=torch.full_like(pairs.foil, -1)), sites=["z"])


def test_a_source_of_another_shape(trained: tuple[Any, Any, Task]) -> None:
    """One without the site, and one with other heads."""
    pairs = pairs_named(contract.task(), "d1-to-d2", n_pairs=3, seed=0)
    with pytest.raises(MechoclError, match="run in parallel"):
        patch_activations(neox(parallel=False), pairs, sites=["resid_mid"], source_model=neox())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": ()}, "pairs is empty; name at least one contrast"),
        ({"n_pairs": 0}, "n_pairs is 0; use at least 1"),
        ({"metric": "recall"}, "no metric is called 'recall'"),
    ],
)
def test_configs_that_make_no_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        PatchingConfig(**changes)
