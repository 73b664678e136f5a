"""Where nothing was exchanged, no intervention has an effect of 0: it is not measured. Every intervention is walked."""

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from edge_models import planted_pairs, random_hooked, task
from planted import Mechanism, planted_model
from torch import Tensor

from mechocl.analyses.columns import ALL
from mechocl.errors import MechoclError
from mechocl.interventions.attribution_patching import attribute_activations
from mechocl.interventions.circuits import CircuitConfig, find_circuit
from mechocl.interventions.edge_attribution import attribute_edges
from mechocl.interventions.edges import patch_edges, patch_paths
from mechocl.interventions.exchanged import changed_vectors, differing_units
from mechocl.interventions.grafting import GraftConfig, graft_study
from mechocl.interventions.metrics import METRICS, GivenMetric, own_metric
from mechocl.interventions.pairs import Pairs, given_pairs
from mechocl.interventions.patching import patch_activations
from mechocl.interventions.steering import SteeringConfig, steering_study
from mechocl.interventions.subspaces import Place, Subspace, swap
from mechocl.models.components import take_apart
from mechocl.models.sites import sites_of
from toy_models import architectures
from toy_models.architectures import Architecture

Rows = pd.DataFrame
"""Columns `effect` and `exchanged`."""


def _patched(pairs: Pairs, metric: GivenMetric, **how: Any) -> Rows:
    model = random_hooked()
    sites = sites_of(take_apart(model))
    return patch_activations(model, pairs, sites=sites, metric=metric, **how).rows


def _attributed(pairs: Pairs, metric: GivenMetric, **how: Any) -> Rows:
    model = random_hooked()
    sites = sites_of(take_apart(model))
    return attribute_activations(model, pairs, sites=sites, metric=metric, **how).rows


def _paths(pairs: Pairs, metric: GivenMetric) -> Rows:
    paths = [("embed", "L0H0 v", "alias"), ("L0H0", "logits", "=")]
    effect = patch_paths(random_hooked(), pairs, paths, metric=metric, along="position")
    return pd.DataFrame({"effect": effect.numpy(), "exchanged": effect.isfinite().int().numpy()})


def _circuit(pairs: Pairs, metric: GivenMetric) -> Rows:
    """Without the clean run itself, which ends every curve."""
    config = CircuitConfig(random_circuits=1, method="eap", along="position")
    half = len(pairs) // 2
    found = find_circuit(random_hooked(), pairs[:half], pairs[half:], config=config, metric=metric)
    curve = found.curve.assign(effect=found.curve["value"])
    ends = {"circuit": curve["edges"].max(), "random": curve["edges"].max(), "without": 0}
    return curve[curve["edges"] != curve["kind"].map(ends)]


def _swapped(pairs: Pairs, metric: GivenMetric) -> Rows:
    place = Place(layer=0, site="resid_post", position="alias")
    found = swap(
        random_hooked(), pairs, Subspace(name="all", place=place, basis=torch.eye(16)), metric=metric
    )
    return pd.DataFrame({"effect": [found.effect, found.explained], "exchanged": found.exchanged})


EXCHANGES: dict[str, Callable[[Pairs, GivenMetric], Rows]] = {
    "patching, denoise": _patched,
    "patching, noise": lambda pairs, metric: _patched(pairs, metric, mode="noise"),
    "patching, by role": lambda pairs, metric: _patched(pairs, metric, by="role"),
    "patching, all at once": lambda pairs, metric: _patched(pairs, metric, by="all", each_unit=False),
    "attribution patching, denoise": _attributed,
    "attribution patching, noise": lambda pairs, metric: _attributed(pairs, metric, mode="noise"),
    "path patching": _paths,
    "edges": lambda pairs, metric: patch_edges(random_hooked(), pairs, metric=metric, along="role").rows().rename(columns={"score": "effect"}),
    "edge attribution": lambda pairs, metric: attribute_edges(random_hooked(), pairs, metric=metric, steps=2).rows().rename(columns={"score": "effect"}),
    "circuits": _circuit,
    "swaps": _swapped,
}  # fmt: skip
"""Every intervention that exchanges activations of two runs, with any pairs and metric."""


def assert_not_measured(rows: Rows) -> None:
    assert len(rows) > 0
    assert (rows["exchanged"] == 0).all()
    assert rows["effect"].isna().all()


@pytest.mark.parametrize("metric", ["logit_difference", "log_probability", "kl_to_clean"])
@pytest.mark.parametrize("name", EXCHANGES)
def test_clean_and_corrupted_are_the_same(name: str, metric: str) -> None:
    assert_not_measured(EXCHANGES[name](planted_pairs("d1-to-itself", n=4), metric))


@pytest.mark.parametrize("name", EXCHANGES)
def test_what_differs_is_measured(name: str) -> None:
    """The alias differs, so something is exchanged at it and nothing before it; rows say in how many pairs."""
    rows = EXCHANGES[name](planted_pairs("d1-to-other-d2", n=4), "logit_difference")
    assert (rows["exchanged"] > 0).any()
    assert (rows["effect"].notna() == (rows["exchanged"] > 0)).all()
    assert rows["effect"].abs().max() > 1e-3
    with pytest.raises(AssertionError):
        assert_not_measured(rows)


@pytest.mark.parametrize("name", EXCHANGES)
def test_target_and_foil_are_the_same(name: str) -> None:
    """The logit difference of a token and itself is 0 whatever the model does; other metrics need no foil."""
    pairs = planted_pairs("d1-to-other-d2", n=4)
    same = replace(pairs, foil=torch.where(torch.arange(4) == 2, pairs.target, pairs.foil))
    with pytest.raises(
        MechoclError, match=r"target and foil of pair [02] of .* are the same token"
    ) as raised:
        EXCHANGES[name](same, "logit_difference")
    assert "\n" not in str(raised.value)
    assert EXCHANGES[name](same, "log_probability")["effect"].notna().any()


@pytest.mark.parametrize("by", ["position", "role", "all"])
@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_ablation_over_one_pair(mode: str, by: str) -> None:
    assert_not_measured(
        _patched(planted_pairs("d1-to-other-d2", n=1), "log_probability", mode=mode, by=by, each_unit=False)
    )


@pytest.mark.parametrize("mode", ["mean", "resample"])
def test_ablation_over_pairs_that_share_a_token(mode: str) -> None:
    """Behind the first tokens, which all pairs share, there is nothing to put in; where they differ there is."""
    draws = torch.Generator().manual_seed(0)
    clean = torch.randint(12, (5, 4), generator=draws)
    clean[:, :2] = torch.tensor([3, 7])
    pairs = given_pairs(clean, clean, target=clean[:, 0], read=torch.full((5,), 3))
    rows = _patched(pairs, "log_probability", mode=mode, each_unit=False)
    first = rows["position"].isin(["0", "1"])
    assert_not_measured(rows[first])
    last = rows[rows["position"] == "3"]
    assert (last["exchanged"] >= 4).all()
    assert last["effect"].notna().all()


def test_zeros_in_the_place_of_zeros() -> None:
    model = planted_model(task(), Mechanism())
    pairs = planted_pairs("d1-to-itself", n=4)
    rows = patch_activations(model, pairs, sites=["blocks.1.attn.hook_z"], mode="zero", by="all").rows
    assert rows["exchanged"].tolist() == [4, 0]  # the second head writes zeros
    assert_not_measured(rows[1:])


def test_a_swap_behind_the_answer_is_not_measured() -> None:
    draws = torch.Generator().manual_seed(0)
    clean, corrupted = (
        torch.stack([torch.randperm(12, generator=draws)[:4] for _ in range(5)]) for _ in "ab"
    )
    read = torch.tensor([1, 1, 3, 3, 3])
    pairs = given_pairs(clean, corrupted, target=clean[:, 0], read=read)
    for chosen, count in ((torch.tensor([0, 1]), 0), (torch.arange(5), 3)):
        place = Place(position="2", layer=0, site="resid_post")
        whole = Subspace(name="all", place=place, basis=torch.eye(take_apart(random_hooked()).W_E.shape[1]))
        found = swap(random_hooked(), pairs[chosen], whole, metric="log_probability")
        assert found.exchanged == count
        assert np.isnan(found.effect) == (count == 0)


def test_the_source_of_a_mean_is_in_the_rows() -> None:
    pairs = planted_pairs("d1-to-other-d2", n=5)
    run = {
        mode: patch_activations(random_hooked(), pairs, sites=["z"], by="all", mode=mode).table()["source"]
        for mode in ("mean", "resample", "zero", "noise")
    }
    assert set(run["mean"]) == {"mean over the clean examples of the 5 pairs"}
    assert set(run["resample"]) == {"clean example of another of the 5 pairs, drawn with seed 0"}
    assert set(run["zero"]) == {"zeros"}
    assert set(run["noise"]) == {"corrupted example of the pair"}


def test_weights_that_a_stage_did_not_change() -> None:
    model = planted_model(task(), Mechanism())
    rows = graft_study(model, model, task(), GraftConfig(aliases_per_subset=2))
    grafted = rows[~rows["group"].isin(["none", "all"])]
    assert (grafted["change"] == 0).all()
    assert grafted[["value", "effect", "share"]].isna().all(axis=None)
    assert rows.loc[rows["group"] == "none", "value"].notna().any()


def test_a_steering_vector_of_zeros() -> None:
    """Where no logit depends on the stream, training leaves the vector at 0."""
    deaf = copy.deepcopy(random_hooked())
    deaf.unembed.W_U.data.zero_()
    rows = steering_study(deaf, deaf, task(), SteeringConfig(steps=1, random_vectors=1))
    assert (rows["change"] == 0).all()
    assert rows[["value", "effect", "share"]].isna().all(axis=None)


def test_rounding_is_no_exchange() -> None:
    """A few bits of float32 are not; a small part of one coordinate is."""
    old = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    rounded = old * (1 + 2e-7)
    assert not differing_units(rounded, old, "resid_post").any()
    assert not changed_vectors((rounded - old)[None, :, 0], old[:, 0]).any()
    other = old.clone()
    other[1, 2, 3] += 1e-3
    assert differing_units(other, old, "resid_post").nonzero().tolist() == [[1, 2, 0]]
    assert differing_units(other, old, "mlp_post").nonzero().tolist() == [[1, 2, 3]]
    assert differing_units(None, old, "resid_post").all()


def test_every_intervention_declares_how_much_it_exchanged() -> None:
    for name in ("patch", "circuit", "suppression", "subspace", "sae-test"):
        assert ALL[name]["exchanged"].dtype == "int64"
    for name in ("graft", "steering"):  # these change weights, or the same vector everywhere
        assert "change" in ALL[name]
    for name in ("patch", "suppression", "sae-test"):  # these put in means
        assert "source" in ALL[name]


# ------------------------------------------------------------------------------------------ metrics of one's own


def difference(logits: Tensor, pairs: Pairs) -> Tensor:
    at = torch.arange(len(pairs))
    return logits[at, pairs.target] - logits[at, pairs.foil]


@cache
def by_name(name: str) -> Rows:
    return EXCHANGES[name](planted_pairs("d1-to-other-d2", n=4), "logit_difference")


@pytest.mark.parametrize("metric", [difference, own_metric(difference, name="mine", unit="nats")])
@pytest.mark.parametrize("name", EXCHANGES)
def test_every_intervention_takes_a_metric_of_ones_own(name: str, metric: GivenMetric) -> None:
    found = EXCHANGES[name](planted_pairs("d1-to-other-d2", n=4), metric)
    keys = [c for c in by_name(name).columns if by_name(name)[c].dtype == object]
    if "score" not in found and name in ("edges", "edge attribution"):  # ties may come in another order
        found, expected = (rows.sort_values(keys) for rows in (found, by_name(name)))
    else:
        expected = by_name(name)
    np.testing.assert_allclose(found["effect"], expected["effect"], atol=1e-4)
    np.testing.assert_array_equal(found["exchanged"], expected["exchanged"])


def test_names_and_units_of_own_metrics() -> None:
    pairs = planted_pairs("d1-to-other-d2", n=4)
    metrics = {"difference": difference, "own metric": lambda a, b: difference(a, b), "m": own_metric(difference, name="m", unit="nats")}  # fmt: skip
    for name, metric in metrics.items():
        result = patch_activations(random_hooked(), pairs, sites=["z"], by="all", metric=metric)
        assert (result.metric, result.unit) == (name, "nats" if name == "m" else "its own")
        assert set(result.table()["metric"]) == {name}
    assert patch_activations(random_hooked(), pairs, sites=["z"], by="all", metric=METRICS["kl_to_clean"]).metric == "kl_to_clean"  # fmt: skip


def one_number(logits: Tensor, pairs: Pairs) -> Tensor:
    return difference(logits, pairs).mean()


def all_logits(logits: Tensor, pairs: Pairs) -> Tensor:
    return logits


def a_list(logits: Tensor, pairs: Pairs) -> Any:
    return difference(logits, pairs).tolist()


def infinite(logits: Tensor, pairs: Pairs) -> Tensor:
    return difference(logits, pairs) / 0


def of_logits_alone(logits: Tensor) -> Tensor:
    return logits[:, 0]


WRONG = {
    of_logits_alone: r"the metric of_logits_alone cannot be called with logits and pairs \(too many positional arguments\); give a function of",
    one_number: r"the metric one_number gives a tensor of shape \(\) for \d+ pairs; give a tensor with one number for each pair",
    all_logits: r"the metric all_logits gives a tensor of shape \(\d+, \d+\) for \d+ pairs",
    a_list: r"the metric a_list gives 'list' for \d+ pairs",
    infinite: r"the metric infinite gives -?inf for a pair of .*; give a finite number",
}


@pytest.mark.parametrize("metric", WRONG)
@pytest.mark.parametrize("name", EXCHANGES)
def test_own_metrics_that_make_no_sense(name: str, metric: Any) -> None:
    with pytest.raises(MechoclError, match=WRONG[metric]) as raised:
        EXCHANGES[name](planted_pairs("d1-to-other-d2", n=4), metric)
    assert "\n" not in str(raised.value)


def right(logits: Tensor, pairs: Pairs) -> Tensor:
    return logits.argmax(-1) == pairs.target


@pytest.mark.parametrize("name", EXCHANGES)
def test_own_metrics_without_a_gradient(name: str) -> None:
    """Counted answers can be patched, and not attributed."""
    pairs = planted_pairs("d1-to-other-d2", n=4)
    if "attribution" in name or name == "circuits":  # its config scores by gradients
        with pytest.raises(MechoclError, match="right has no gradient, so it cannot be attributed") as raised:
            EXCHANGES[name](pairs, right)
        assert "\n" not in str(raised.value)
        with pytest.raises(MechoclError, match="m has no gradient"):
            EXCHANGES[name](pairs, own_metric(difference, name="m", differentiable=False))
    else:
        assert EXCHANGES[name](pairs, right)["effect"].notna().any()


# ------------------------------------------------------------------------------------------ pairs that do not fit


def with_positions() -> Any:
    """It has embeddings of as many positions as the task's examples have tokens."""
    return architectures.build(
        Architecture(n_layers=2, d_model=16, n_heads=2, d_mlp=32, positions="learned"),
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=0,
    )


@pytest.mark.parametrize("name", EXCHANGES)
def test_pairs_that_the_model_cannot_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "random_hooked", with_positions)
    pairs = planted_pairs("d1-to-other-d2", n=4)
    length, known = pairs.clean.shape[1], len(task().vocabulary)
    longer = replace(
        pairs,
        clean=pairs.clean.repeat(1, 3),
        corrupted=pairs.corrupted.repeat(1, 3),
        roles=pairs.roles.repeat(1, 3),
        read=pairs.read + 2 * length,
        labels=(*map(str, range(2 * length)), *pairs.labels),
    )
    unknown = replace(pairs, clean=pairs.clean + known)
    for wrong, message in (
        (longer, f"its examples have {3 * length} tokens, and the model reads at most {task().n_ctx}"),
        (unknown, f"pair [02] has the token .*, but the model knows tokens 0 to {known - 1} alone"),
    ):
        with pytest.raises(MechoclError, match=message) as raised:
            EXCHANGES[name](wrong, "logit_difference")
        assert "\n" not in str(raised.value)
