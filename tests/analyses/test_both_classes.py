"""The model seam: what analyses may rely on, held for both of TransformerLens's model classes.

Every analysis runs on a `HookedTransformer` and on a `TransformerBridge` of the same GPT-NeoX weights, and
must give the same table; and none of them changes a model's weights or leaves a hook behind.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import (
    NOT_SHARED,
    OF_ANY_MODEL,
    OF_HOOKED,
    VARIANTS,
    assert_tables_equal,
    assert_unchanged,
    companion,
    compute,
    fingerprint,
    loaded,
    neox,
    planted,
    saved,
    task,
    warm,
)
from planted import Mechanism, planted_model
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXForCausalLM

from mechocl.analyses.registry import ANALYSES
from mechocl.errors import MechoclError
from mechocl.models import activations, loading, seam
from mechocl.models.sites import residual_sites


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(neox(), tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="module")
def hooked(folder: Path) -> HookedTransformer:
    return loading.load(folder)


@pytest.fixture(scope="module")
def bridge(folder: Path) -> TransformerBridge:
    return warm(loading.load(folder, bridge=True))


# --------------------------------------------------------------------------------------- equal results


@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_analysis_gives_the_same_table_and_leaves_the_model_unchanged(
    name: str, hooked: Any, bridge: Any
) -> None:
    """On both classes; and another table for other weights, so that equality says something."""
    tables = []
    for model in (hooked, bridge, loaded(1)):
        with assert_unchanged(model), assert_unchanged(companion(model)):
            tables.append(compute(name, model).drop(columns=NOT_SHARED.get(name, [])))
    table, same, other = tables
    assert len(table) > 0
    declared = {n for n, column in ANALYSES[name].columns.items() if column.only != "closed-book runs"}
    assert set(table.columns) == declared - set(NOT_SHARED.get(name, []))
    assert_tables_equal(table, same)
    with pytest.raises(AssertionError):
        assert_tables_equal(table, other)


@pytest.mark.parametrize("name", OF_HOOKED)
def test_an_analysis_that_differentiates_refuses_a_bridge(name: str, bridge: Any) -> None:
    with (
        assert_unchanged(bridge),
        pytest.raises(MechoclError, match="of a HookedTransformer, and this is a TransformerBridge"),
    ):
        compute(name, bridge)


def test_equality_of_tables_can_fail() -> None:
    table = pd.DataFrame({"alias": range(200), "value": np.linspace(0, 1, 200), "rank": np.arange(200.0)})
    assert_tables_equal(table, table.copy())
    one_rank = table.assign(rank=table["rank"].where(table["alias"] != 3, 9))
    assert_tables_equal(table, one_rank)
    for changed in (
        table.assign(rank=table["rank"].where(table["alias"] > 2, 9)),
        table.assign(value=table["value"].where(table["alias"] != 3, 0.016)),
        table.assign(rank=table["rank"].where(table["alias"] > 2, np.nan)),
        table.rename(columns={"value": "effect"}),
        table.iloc[1:],
    ):
        with pytest.raises(AssertionError):
            assert_tables_equal(table, changed)


def test_activations_are_the_same(hooked: Any, bridge: Any) -> None:
    """At every hook point that analyses name."""
    sites = [
        *residual_sites(2).values(),
        "blocks.0.attn.hook_pattern",
        "blocks.1.attn.hook_pattern",
    ]
    ours, theirs = (activations.collect(model, task().tokens[-50:], sites) for model in (hooked, bridge))
    for site in sites:
        torch.testing.assert_close(ours[site], theirs[site], atol=1e-5, rtol=1e-4)
        assert ours[site].std() > 0.1


def test_residual_stream_is_hugging_faces(folder: Path, hooked: Any, bridge: Any) -> None:
    """No folded layer norms, nothing centred; the last state there has been through the final norm."""
    tokens = task().tokens[-20:]
    with torch.no_grad():
        states = GPTNeoXForCausalLM.from_pretrained(folder)(tokens, output_hidden_states=True).hidden_states
    for model in (hooked, bridge):
        found = activations.collect(model, tokens, ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"])
        torch.testing.assert_close(found["blocks.0.hook_resid_pre"], states[0])
        torch.testing.assert_close(found["blocks.1.hook_resid_pre"], states[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(seam.final_residual(model, tokens), states[2], atol=1e-5, rtol=1e-4)


def test_unknown_hook_points_are_refused(hooked: Any, bridge: Any) -> None:
    for model in (hooked, bridge):
        with pytest.raises(MechoclError, match=r"no hook point 'blocks\.2\.hook_resid_post'"):
            activations.collect(model, task().tokens[-2:], ["blocks.2.hook_resid_post"])


def test_protocol_is_what_both_share(hooked: Any, bridge: Any) -> None:
    for model in (hooked, bridge):
        assert isinstance(model, seam.Transformer)
        assert isinstance(model.cfg, seam.ModelShape)
        shape = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_vocab)
        assert shape == (2, 4, 32, len(task().vocabulary))
        assert seam.device_of(model) == torch.device("cpu")
        assert not model.training
    assert isinstance(hooked, HookedTransformer)
    assert isinstance(bridge, TransformerBridge)
    assert not isinstance(neox(), seam.Transformer)


# ------------------------------------------------------------------------------------- no side effects


@pytest.mark.parametrize("kind", ["hooked", "bridge", "planted"])
def test_unchanged_can_fail(kind: str, request: pytest.FixtureRequest) -> None:
    model = planted_model(task(), Mechanism()) if kind == "planted" else request.getfixturevalue(kind)
    before = fingerprint(model)

    def add_hook() -> None:
        model.add_hook("blocks.1.hook_resid_post", lambda x, hook: x)

    def add_hook_and_raise() -> None:
        add_hook()
        raise RuntimeError

    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        add_hook()
    with assert_unchanged(model):
        pass  # the same hook before and after
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        model.reset_hooks()
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        add_hook_and_raise()
    model.reset_hooks()
    handle = model.unembed.register_forward_hook(lambda *_: None)
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        handle.remove()
    parameter = next(model.parameters()).data
    was = parameter[0, 0].item()
    with pytest.raises(AssertionError, match="weights have changed"), assert_unchanged(model):
        parameter[0, 0] = was + 1e-6
    parameter[0, 0] = was
    assert fingerprint(model) == before


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    if request.param == "planted":
        return planted(tag2_gain=0.0)
    return request.getfixturevalue(request.param)


SUBJECTS = pytest.mark.parametrize("subject", ["hooked", "bridge", "planted"], indirect=True)


@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_analysis_leaves_the_planted_model_unchanged(name: str) -> None:
    """Attention alone, no layer norm, no rotary positions."""
    model = planted(tag2_gain=0.0)
    with assert_unchanged(model), assert_unchanged(companion(model)):
        assert len(compute(name, model)) > 0


class Stop(Exception):
    pass


@SUBJECTS
@pytest.mark.parametrize("name", OF_ANY_MODEL)
def test_analysis_that_raises_inside_leaves_the_model_unchanged(name: str, subject: Any) -> None:
    """The caller's own hook is all that is there before and after: it interrupts the forward pass, or is refused."""

    def stop(x: torch.Tensor, hook: Any) -> None:
        raise Stop

    before = fingerprint(subject)
    subject.add_hook("blocks.1.hook_resid_post", stop)
    try:
        with pytest.raises((Stop, MechoclError)) as raised, assert_unchanged(subject):
            compute(name, subject)
        if raised.type is not Stop:
            assert "the model has a hook at blocks.1." in str(raised.value)
    finally:
        subject.reset_hooks()
    assert fingerprint(subject) == before


@SUBJECTS
def test_callers_hooks_survive_and_take_part(subject: Any) -> None:
    """In every forward pass that internalization needs: all logits are equal, so nothing is known."""
    subject.add_hook("unembed.hook_in", lambda x, hook: torch.zeros_like(x))
    try:
        with assert_unchanged(subject):
            table = compute("evaluate", subject)
        assert table["logit_difference"].abs().max() == pytest.approx(0, abs=1e-6)
        assert (table["auc"] == 0.5).all()
    finally:
        subject.reset_hooks()


# --------------------------------------------------------------------------------------------- loading


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_hugging_faces(changes: dict[str, Any], bridge: bool, tmp_path: Path) -> None:
    """Also from the lean forward pass, where it covers the model. (More in `test_parity.py`.)"""
    path = saved(neox(**changes), tmp_path)
    model = loading.load(path, bridge=bridge)
    tokens = task().tokens[-30:]
    with torch.no_grad():
        expected = GPTNeoXForCausalLM.from_pretrained(path)(tokens).logits
    torch.testing.assert_close(model(tokens, return_type="logits"), expected, atol=1e-4, rtol=1e-4)
    everything = torch.arange(len(task().vocabulary))
    last = torch.full((30,), task().n_ctx - 1)
    found = seam.logits_at(model, tokens, last, everything)
    torch.testing.assert_close(found, expected[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", list(VARIANTS.values())[1:], ids=list(VARIANTS)[1:])
def test_variants_differ(changes: dict[str, Any]) -> None:
    """Each variant changes the logits of the same weights by far more than parity allows."""
    tokens, base = task().tokens[-30:], VARIANTS["half rotary"] if "rope_parameters" in changes else {}
    with torch.no_grad():
        difference = neox(**changes)(tokens).logits - neox(**base)(tokens).logits
    assert difference.abs().max() > 1e-3
