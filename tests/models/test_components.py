"""A transformer taken apart equals the model's own hook points; what is built differently is refused."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from contract import VARIANTS, neox, saved, task
from planted import Mechanism, planted_model
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechocl.errors import MechoclError
from mechocl.models import forward, loading, sites
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import Keys, forward_block
from mechocl.models.sites import find_sites, hook_name, sites_of
from toy_models.architectures import Architecture, build, hooked_transformer_allowed

TOY = {
    "learned positions": {"positions": "learned"},
    "no positions": {"positions": "none", "activation": "relu"},
    "no layer norm": {"normalization": "none", "parallel_attn_mlp": False},
    "attention alone": {"d_mlp": 0},
    "one head": {"n_heads": 1, "rotary_fraction": 0.5},
}


def tokens() -> Tensor:
    return task().tokens[-20:]


@cache
def toy(name: str, seed: int = 0) -> HookedTransformer:
    """Random, with weights large enough that every part matters."""
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_mlp": 24} | TOY[name]
    outputs = task().vocabulary.outputs
    model = build(
        Architecture(**shape),
        d_vocab=len(task().vocabulary),
        d_vocab_out=outputs,
        n_ctx=task().n_ctx,
        seed=seed,
    )
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=draws)
    return model


def recorded(c: Components) -> tuple[dict[tuple[int, str], Tensor], Tensor]:
    """Activations at every site, and the stream after the last layer."""
    found: dict[tuple[int, str], Tensor] = {}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        assert (layer, site) not in found
        found[layer, site] = x
        return x

    return found, forward.forward(c, tokens(), tap=tap)


@torch.no_grad()
def assert_equal_to_the_model(c: Components, model: Any) -> None:
    """Every site that the model has, in the order of `SITES`, and the logits."""
    found, end = recorded(c)
    names = {key: hook_name(key[1], key[0]) for key in found}
    expected_order = [(layer, site) for layer in range(c.n_layers) for site in sites_of(c)]
    assert sorted(found, key=expected_order.index) == expected_order
    logits, kept = model.run_with_cache(tokens(), names_filter=list(names.values()))
    for key, name in names.items():
        torch.testing.assert_close(found[key], kept[name], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(c.logits(end), logits, atol=1e-4, rtol=1e-4)
    ids = torch.tensor([2, 0, 5])
    torch.testing.assert_close(c.logits(end, ids), c.logits(end)[..., ids])


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("name", VARIANTS)
def test_sites_of_gpt_neox(name: str, bridge: bool, tmp_path: Path) -> None:
    model = loading.load(saved(neox(**VARIANTS[name]), tmp_path), device="cpu", bridge=bridge)
    c = take_apart(model)
    assert ("resid_mid" in sites_of(c)) == (name == "sequential")
    assert_equal_to_the_model(c, model)


@pytest.mark.parametrize("name", TOY)
def test_sites_of_toy_models(name: str) -> None:
    assert_equal_to_the_model(take_apart(toy(name)), toy(name))


def test_sites_of_the_planted_model() -> None:
    model = planted_model(task(), Mechanism(tag2_gain=0.25))
    c = take_apart(model)
    assert sites_of(c) == ("resid_pre", "q", "k", "v", "z", "pattern", "attn_out", "resid_post")
    assert_equal_to_the_model(c, model)


@pytest.mark.parametrize("name", ["W_Q", "b_K", "W_V", "b_O", "W_in", "b_out", "W_E", "W_U"])
def test_the_check_above_can_fail(name: str) -> None:
    """With one number of a weight changed."""
    model = toy("no positions")
    with hooked_transformer_allowed():
        other = HookedTransformer(model.cfg)
    other.load_state_dict(model.state_dict())
    weight = dict(other.named_parameters())[
        next(n for n, _ in other.named_parameters() if n.endswith(f".{name}"))
    ]
    with torch.no_grad():
        weight.view(-1)[task().tokens[-1, 0] * 16 if name == "W_E" else 0] += 0.1
    with pytest.raises(AssertionError):
        assert_equal_to_the_model(take_apart(other), model)


def test_the_model_is_only_read() -> None:
    model = toy("no positions")
    c = take_apart(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    _, end = recorded(c)
    assert not end.requires_grad
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name])
    assert all(p.requires_grad for name, p in model.named_parameters() if "W_pos" not in name)


def test_head_results_sum_to_the_attention_output() -> None:
    """And each is the head's own z through its own W_O."""
    model = toy("learned positions")
    c = take_apart(model)
    found, _ = recorded(c)
    results = forward.head_results(c, 1, found[1, "z"])
    torch.testing.assert_close(results.sum(2) + model.b_O[1], found[1, "attn_out"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(results[:, :, 1], found[1, "z"][:, :, 1] @ model.W_O[1, 1])


def test_one_input_for_each_head() -> None:
    c = take_apart(toy("learned positions"))
    x = torch.randn(3, 4, 16, generator=torch.Generator().manual_seed(0))
    for name in ("q", "k", "v"):
        shared = forward.project(c, 0, name, x)
        torch.testing.assert_close(forward.project(c, 0, name, x[:, :, None].expand(-1, -1, 2, -1)), shared)


@pytest.mark.parametrize("name", ["learned positions", "no layer norm", "one head"])
@pytest.mark.parametrize("first", [0, 1, 3])
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(-1, None)])
def test_part_of_a_layer_is_a_slice_of_the_whole(name: str, first: int, rows: slice) -> None:
    """`past` holds the keys of the positions before `first`."""
    c = take_apart(toy(name))
    full, _ = recorded(c)
    k, v = forward.prepare(c, 1, "k", full[1, "k"], first=0), full[1, "v"]
    past = Keys(k[:, :first], v[:, :first]) if first else None
    x = full[1, "resid_pre"][:, first:]
    seen: dict[str, Tensor] = {}

    def tap(site: str, value: Tensor) -> Tensor:
        seen[site] = value
        return value

    found = forward_block(c, 1, x, tap=tap, past=past, rows=rows)
    torch.testing.assert_close(found, full[1, "resid_post"][:, first:][:, rows], atol=1e-5, rtol=1e-4)
    for site, value in seen.items():
        whole = full[1, site]
        if site in ("k", "v"):
            expected = whole[:, first:]
        elif site == "pattern":
            expected = whole[:, :, first:][:, :, rows]
        else:
            expected = whole[:, first:][:, rows]
        torch.testing.assert_close(value, expected, atol=1e-5, rtol=1e-4)
    assert set(seen) == set(sites_of(c)) - {"resid_pre"}


@pytest.mark.parametrize(
    "site", ["q", "k", "v", "z", "pattern", "attn_out", "mlp_post", "mlp_out", "resid_mid"]
)
def test_what_a_tap_gives_back_takes_the_activations_place(site: str) -> None:
    """Halved at the first layer, against the same hook."""
    model = toy("no layer norm")
    c = take_apart(model)

    def tap(layer: int, name: str, x: Tensor) -> Tensor:
        return x / 2 if (layer, name) == (0, site) else x

    with torch.no_grad():
        expected = model.run_with_hooks(
            tokens(), fwd_hooks=[(hook_name(site, 0), lambda x, hook: x / 2)], return_type="logits"
        )
        found = c.logits(forward.forward(c, tokens(), tap=tap))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert (found - model(tokens())).abs().max() > 1e-2


# ------------------------------------------------------------------------------------------ refusals

SHAPE = {
    "n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "n_ctx": 8, "d_vocab": 5, "act_fn": "relu",
    "positional_embedding_type": "rotary", "rotary_dim": 4, "device": "cpu",
}  # fmt: skip


def with_config(**changes: Any) -> HookedTransformer:
    with hooked_transformer_allowed():
        return HookedTransformer(HookedTransformerConfig(**(SHAPE | changes)))


def test_a_model_with_a_hook_is_refused() -> None:
    model = with_config()
    model.add_hook("blocks.0.hook_attn_out", lambda x, hook: x)
    with pytest.raises(
        MechoclError,
        match=r"hook at blocks.0.hook_attn_out.*; call model.reset_hooks\(including_permanent=True\)$",
    ):
        take_apart(model)
    model.reset_hooks(including_permanent=True)
    take_apart(model)


# ------------------------------------------------------------------------------------------ names of sites


def test_names_of_sites() -> None:
    c = take_apart(toy("no layer norm"))
    assert find_sites(c, ["z"]) == [(0, "z"), (1, "z")]
    assert find_sites(
        c, ["blocks.1.mlp.hook_post", "resid_pre", "blocks.0.attn.hook_pattern", "resid_pre"]
    ) == [
        (0, "resid_pre"),
        (0, "pattern"),
        (1, "resid_pre"),
        (1, "mlp_post"),
    ]
    assert set(sites_of(c)) == set(sites.SITES)
    for site in sites.SITES:
        assert hook_name(site, 1) in toy("no layer norm").hook_dict
        assert find_sites(c, [hook_name(site, 1)]) == [(1, site)]


@pytest.mark.parametrize(
    ("name", "model", "message"),
    [
        ("resid_psot", "no layer norm", r"no site 'resid_psot'; did you mean 'resid_post'\?"),
        ("blocks.1.attn.hook_zz", "no layer norm", r"did you mean 'blocks.1.attn.hook_z'\?"),
        (
            "blocks.7.attn.hook_z",
            "no layer norm",
            r"did you mean 'blocks.[01].attn.hook_z'\?.*in layers 0 to 1",
        ),
        ("nonsense", "no layer norm", r"Its sites: resid_pre, q, k, v, z, pattern, attn_out, resid_mid"),
        ("", "no layer norm", "no site ''"),
        ("resid_mid", "learned positions", r"no site 'resid_mid' \(attention and MLP run in parallel\)"),
        ("blocks.0.hook_resid_mid", "learned positions", "no site 'blocks.0.hook_resid_mid'"),
        ("mlp_out", "attention alone", r"no site 'mlp_out' \(its blocks have no MLP\)"),
        ("resid_mid", "attention alone", r"no site 'resid_mid' \(its blocks have no MLP\)"),
    ],
)
def test_a_site_that_is_not_there_is_refused(name: str, model: str, message: str) -> None:
    with pytest.raises(MechoclError, match=message) as raised:
        find_sites(take_apart(toy(model)), [name])
    assert "\n" not in str(raised.value)
    assert name == "" or "did you mean" in str(raised.value)


def test_every_name_among_several_is_checked() -> None:
    with pytest.raises(MechoclError, match="no site 'zz'"):
        find_sites(take_apart(toy("no layer norm")), ["z", "zz"])
