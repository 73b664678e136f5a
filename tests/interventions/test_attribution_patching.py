"""Attribution patching against true patching: equal where the model is linear, close where it is trained."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from contract import assert_unchanged, neox, saved
from edge_models import attention_only, planted_pairs, random_hooked, random_pairs, task, trained
from planted import ANSWER, Mechanism, planted_model
from scipy.stats import spearmanr

from mechocl.errors import MechoclError
from mechocl.interventions.attribution_patching import attribute_activations
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.interventions.patching import By, PatchingResult, patch_activations
from mechocl.models import components, loading
from mechocl.models.sites import SITES

Direction = Literal["denoise", "noise"]
LABELS = ["layer", "site", "index", "position"]
BOTH = pytest.mark.parametrize("mode", ["denoise", "noise"])


def assert_exact(
    model: Any, pairs: Pairs, sites: Sequence[str], *, by: By = "position", mode: Direction = "denoise"
) -> PatchingResult:
    """The same rows as patching, and the same numbers in them, pair by pair."""
    found = attribute_activations(model, pairs, sites=sites, by=by, mode=mode)
    exact = patch_activations(model, pairs, sites=sites, by=by, mode=mode)
    assert found.rows[LABELS].equals(exact.rows[LABELS])
    assert (found.metric, found.unit, found.mode, found.pairs, found.n_pairs) == (
        exact.metric, exact.unit, exact.mode, exact.pairs, exact.n_pairs,
    )  # fmt: skip
    np.testing.assert_allclose(found.rows["effect"], exact.rows["effect"], atol=1e-4)
    np.testing.assert_allclose(found.rows["value"], exact.rows["value"], atol=1e-4)
    np.testing.assert_allclose(found.per_pair, exact.per_pair, atol=1e-4)
    assert (found.clean, found.corrupted) == pytest.approx((exact.clean, exact.corrupted), abs=1e-5)
    return found


@BOTH
def test_planted_after_the_comparison(mode: Direction) -> None:
    """The last residual stream is read linearly: at `=` the whole of −10 → +10, or of +10 → −10; 0 elsewhere."""
    model, pairs = planted_model(task(), Mechanism()), planted_pairs("d1-to-other-d2")
    sites = ["blocks.1.hook_resid_post", "blocks.1.attn.hook_z", "blocks.1.hook_attn_out"]
    found = assert_exact(model, pairs, sites, mode=mode)
    expected = 2 * ANSWER * (1 if mode == "denoise" else -1)
    rows = found.rows
    carries = (rows["position"] == "=") & (rows["index"] <= 0)
    np.testing.assert_allclose(rows["effect"].fillna(0), expected * carries, atol=1e-5)
    assert carries.sum() == 3
    assert found.rows["value"].max() == pytest.approx(ANSWER)


def test_planted_before_the_comparison() -> None:
    """No gradient passes the saturated softmax: estimates of 0 where patching gives +20."""
    model, pairs = planted_model(task(), Mechanism()), planted_pairs("d1-to-other-d2")
    site = ["blocks.1.hook_resid_pre"]
    estimated = attribute_activations(model, pairs, sites=site).rows
    assert (estimated.loc[estimated["exchanged"] > 0, "effect"] == 0).sum() == 2  # the alias and `=`
    assert patch_activations(model, pairs, sites=site).rows["effect"].max() == pytest.approx(2 * ANSWER)
    with pytest.raises(AssertionError):
        assert_exact(model, pairs, site)


@BOTH
@pytest.mark.parametrize("by", ["position", "all"])
def test_exact_where_the_model_is_linear(mode: Direction, by: By) -> None:
    """Without layer norm, MLPs and queries: the stream, values, patterns and heads, in every layer.

    With queries only what comes after the last softmax, patterns fixed: z and v of the last layer.
    """
    pairs = random_pairs(n=4, vocabulary=20, read=[2, 3, 3, 1])
    sites = ["resid_pre", "v", "z", "attn_out", "resid_post"]
    found = assert_exact(attention_only(linear=True), pairs, sites, by=by, mode=mode)
    assert found.rows["effect"].abs().max() > 0.1
    last = [f"blocks.1.{site}" for site in ("attn.hook_z", "attn.hook_v", "attn.hook_pattern")]
    assert_exact(attention_only(), pairs, [*last, "blocks.1.hook_resid_post"], by=by, mode=mode)
    with pytest.raises(AssertionError):
        assert_exact(attention_only(), pairs, ["q"], by=by, mode=mode)


def test_by_role() -> None:
    """A pair's roles are summed over its positions; a pair without the role counts 0."""
    pairs = planted_pairs("d1-to-other-d2", n=12)
    found = attribute_activations(random_hooked(), pairs, sites=["resid_pre", "z"], by="role")
    positions = attribute_activations(random_hooked(), pairs, sites=["resid_pre", "z"])
    assert found.rows["position"].drop_duplicates().tolist() == [
        "alias",
        "%",
        "match",
        "rival",
        "others",
        "=",
    ]
    change = np.zeros((len(found.rows), len(pairs)))
    base = attribute_activations(random_hooked(), pairs, sites=["blocks.0.hook_resid_pre"]).per_pair[1]
    for i, row in enumerate(found.rows.itertuples()):
        same = (positions.rows[LABELS[:3]] == [row.layer, row.site, row.index]).all(axis=1).to_numpy()
        at = (pairs.roles == ROLE_NAMES.index(row.position)).numpy().T
        change[i] = ((positions.per_pair[same] - base) * at).sum(0)
    np.testing.assert_allclose(found.per_pair - base, change, atol=1e-5)
    assert np.abs(change).max() > 0.01


def test_rows_that_are_all_zero() -> None:
    """Sites that the answer cannot depend on have effects of exactly 0; activations that are alike are not measured."""
    model, pairs = random_hooked(), planted_pairs("d1-to-other-d2", n=6)
    rows = attribute_activations(model, pairs, sites=["mlp_out", "resid_pre"]).rows
    last = rows[(rows["layer"] == 1) & (rows["site"] == "mlp_out") & (rows["position"] != "=")]
    embedded = rows[(rows["layer"] == 0) & (rows["site"] == "resid_pre") & (rows["position"] != "alias")]
    assert len(last) == len(embedded) == 6
    assert (last["effect"] == 0).all()
    assert embedded["effect"].isna().all()
    assert (rows["effect"].dropna() != 0).sum() > 6
    nothing = attribute_activations(model, planted_pairs("d1-to-itself", n=6), sites=["z", "mlp_post"])
    assert (nothing.rows["exchanged"] == 0).all()
    assert nothing.rows["effect"].isna().all()
    assert nothing.table()["normalised"].isna().all()


@BOTH
@pytest.mark.parametrize("metric", ["log_probability", "kl_to_clean"])
def test_batches_change_nothing(mode: Direction, metric: str) -> None:
    pairs = random_pairs(n=5, vocabulary=20)
    whole = attribute_activations(attention_only(), pairs, sites=["z", "resid_pre"], metric=metric, mode=mode)
    for size in (2, 7):
        parts = attribute_activations(
            attention_only(), pairs, sites=["z", "resid_pre"], metric=metric, mode=mode, batch_size=size
        )
        np.testing.assert_allclose(parts.per_pair, whole.per_pair, atol=1e-5)
        assert parts.rows[LABELS].equals(whole.rows[LABELS])


@BOTH
@pytest.mark.parametrize("name", ["qd1-with-to-without", "qd1-to-other-qd1"])
def test_ranks_neurons_as_patching_does(name: str, mode: Direction) -> None:
    """Of a trained model, at every position: over the neurons that patching moves, signs included."""
    model, learned = trained()
    pairs = pairs_named(learned, name, n_pairs=40, seed=0)
    found = attribute_activations(model, pairs, sites=["mlp_post"], mode=mode)
    exact = patch_activations(model, pairs, sites=["mlp_post"], mode=mode)
    moved = exact.rows["effect"].abs() > 1e-6
    assert moved.sum() > 100
    assert spearmanr(found.rows["effect"][moved], exact.rows["effect"][moved]).statistic > 0.95
    assert spearmanr(-found.rows["effect"][moved], exact.rows["effect"][moved]).statistic < -0.95


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder = saved(neox(use_parallel_residual=False), tmp_path_factory.mktemp("neox"))
    return tuple(loading.load(folder, device="cpu", bridge=bridge) for bridge in (False, True))


def test_both_model_classes_and_nothing_changes(classes: tuple[Any, Any]) -> None:
    results = []
    for model in classes:
        with assert_unchanged(model), torch.no_grad():
            results.append(attribute_activations(model, random_pairs(), sites=SITES))
        assert all(parameter.grad is None for parameter in model.parameters())
    np.testing.assert_allclose(results[0].per_pair, results[1].per_pair, atol=1e-4)
    assert results[0].rows["effect"].abs().max() > 1e-2


def test_small_steps_agree_with_patching(classes: tuple[Any, Any]) -> None:
    """At every site: of embeddings that hardly differ, the estimate is the effect, to first order."""
    model = classes[0]
    was = model.embed.W_E.data.clone()
    model.embed.W_E.data = was[:1] + 1e-3 * (was - was[:1])
    try:
        pairs = random_pairs()
        found = attribute_activations(model, pairs, sites=SITES).rows["effect"]
        exact = patch_activations(model, pairs, sites=SITES).rows["effect"]
    finally:
        model.embed.W_E.data = was
    assert exact.abs().max() > 1e-4
    np.testing.assert_allclose(found, exact, atol=0.1 * exact.abs().max())


def test_what_it_refuses(classes: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, pairs = classes[0], random_pairs()
    for arguments, message in (
        ({"metric": "within_alias_auc"}, "within_alias_auc has no gradient; use logit_difference"),
        ({"metric": "loss"}, "no metric is called 'loss'"),
        ({"sites": ["hook_z"]}, "no site 'hook_z'; did you mean"),
        ({"by": "role"}, "no roles; patch by position"),
        ({"batch_size": 0}, "batch_size is 0; use at least 1"),
    ):
        with assert_unchanged(model), pytest.raises(MechoclError, match=message) as raised:
            attribute_activations(model, pairs, **({"sites": ["z"]} | arguments))
        assert "\n" not in str(raised.value)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(components.Components, "logits", stop)
    with assert_unchanged(model), pytest.raises(KeyboardInterrupt):
        attribute_activations(model, pairs, sites=["z"])
