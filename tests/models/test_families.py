"""Models of today, taken apart: each family equals its `HookedTransformer` and Hugging Face, also under interventions.

Tiny random models with grouped heads, gated MLPs, RMS norms, norms of queries and keys. Interventions are compared with
plain PyTorch hooks on the Hugging Face model (`their_sites`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import their_sites
import torch
from checkpoints import (
    LLAMA,
    VOCABULARY,
    gemma,
    gemma2,
    gemma3,
    llama,
    mistral,
    qwen2,
    qwen3,
    randomised,
    saved,
)
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.attribution_patching import attribute_activations
from mechocl.interventions.circuits import CircuitConfig, find_circuit
from mechocl.interventions.edge_graph import graph_of
from mechocl.interventions.edge_runs import run_with_edges
from mechocl.interventions.edges import patch_paths
from mechocl.interventions.pairs import Pairs, given_pairs
from mechocl.interventions.patching import patch_activations
from mechocl.lenses.direct_attribution import direct_logit_attribution
from mechocl.models import forward, loading
from mechocl.models.components import Components, take_apart
from mechocl.models.sites import hook_name, sites_of

LLAMA_3 = {
    "rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip

FAMILIES: dict[str, Callable[[], Any]] = {
    "Llama with grouped heads": llama,
    "Llama, tied, a key for each head": lambda: llama(tie_word_embeddings=True, num_key_value_heads=4),
    "Llama 3": lambda: llama(rope_parameters=LLAMA_3),
    "Mistral without a window": lambda: mistral(sliding_window=None),
    "Mistral with a window": lambda: mistral(sliding_window=8),
    "Qwen2 with biases": qwen2,
    "Qwen3": qwen3,
    "Gemma": gemma,
    "Gemma 3": lambda: gemma3(sliding_window=8),
}

LENGTH = 8
"""Tokens of an example; no window is shorter."""


@dataclass(frozen=True)
class Subject:
    theirs: Any
    """The Hugging Face model."""
    model: Any
    """The `HookedTransformer` that was loaded from its folder."""


@pytest.fixture(scope="module", params=FAMILIES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    theirs = randomised(FAMILIES[request.param](), seed=1, std=0.3).eval()
    theirs.config._attn_implementation = "eager"
    folder = saved(theirs, tmp_path_factory.mktemp("family"))
    return Subject(
        theirs,
        loading.load(folder, n_ctx=8 if "window" in request.param or request.param == "Gemma 3" else None),
    )


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def some_pairs(n: int = 3) -> Pairs:
    clean, corrupted = draw(n, LENGTH, seed=2), draw(n, LENGTH, seed=3)
    target = draw(n, seed=4)
    return given_pairs(clean, corrupted, target=target, foil=(target + 7) % VOCABULARY)


def differences(logits: Tensor, pairs: Pairs) -> Tensor:
    """Target − foil where the answer is read, of each pair."""
    i = torch.arange(len(pairs))
    at = logits[i, pairs.read]
    return at[i, pairs.target] - at[i, pairs.foil]


@torch.no_grad()
def logits_of(theirs: Any, tokens: Tensor) -> Tensor:
    found: Tensor = theirs(tokens, use_cache=False).logits
    return found


# ------------------------------------------------------------------------------------------ the same forward pass


@torch.no_grad()
def test_every_site_and_the_logits(subject: Subject) -> None:
    """Of the pieces, of the `HookedTransformer`, and of Hugging Face."""
    c, tokens = take_apart(subject.model), draw(3, LENGTH)
    found: dict[tuple[int, str], Tensor] = {}

    def tap(layer: int, site: str, x: Tensor) -> Tensor:
        found[layer, site] = x
        return x

    logits = c.logits(forward.forward(c, tokens, tap=tap))
    names = {key: hook_name(key[1], key[0]) for key in found}
    own, kept = subject.model.run_with_cache(tokens, names_filter=list(names.values()))
    assert set(found) == {(layer, site) for layer in range(c.n_layers) for site in sites_of(c)}
    for key, name in names.items():
        torch.testing.assert_close(found[key], kept[name], atol=1e-5, rtol=1e-5)
        if key[1] in their_sites.PLACES:
            theirs = their_sites.record(subject.theirs, tokens, *key)
            torch.testing.assert_close(found[key].flatten(2), theirs, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, own, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits, logits_of(subject.theirs, tokens), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_every_weight_matters(subject: Subject) -> None:
    """So that a piece that is left out is found out: each weight of Hugging Face's model, changed a little, changes logits."""
    before = logits_of(subject.theirs, draw(3, LENGTH))
    draws = torch.Generator().manual_seed(0)
    for name, parameter in subject.theirs.named_parameters():
        kept = parameter.clone()
        parameter += 0.1 * torch.randn(parameter.shape, generator=draws)
        difference = (logits_of(subject.theirs, draw(3, LENGTH)) - before).abs().max()
        parameter.copy_(kept)
        if not name.endswith(
            "k_proj.bias"
        ):  # a bias of keys adds the same to all scores of a query, but for rotation
            assert difference > 1e-3, name
        assert difference > 1e-5, name


# ------------------------------------------------------------------------------------------ interventions

SITES = ("resid_post", "attn_out", "mlp_out", "mlp_post", "z", "q", "k", "v")


@pytest.mark.parametrize("site", SITES)
def test_patches_are_those_of_plain_hooks(subject: Subject, site: str) -> None:
    """At each layer and position, of each head, or key/value head, from the clean into the corrupted run."""
    c, pairs = take_apart(subject.model), some_pairs()
    heads = {"q": c.n_heads, "z": c.n_heads, "k": c.n_key_value_heads, "v": c.n_key_value_heads}.get(site, 1)
    found = patch_activations(subject.model, pairs, sites=[site], each_unit=site != "mlp_post")
    expected = []
    for layer in range(c.n_layers):
        new = their_sites.record(subject.theirs, pairs.clean, layer, site)
        width = new.shape[-1] // heads
        for position in range(LENGTH):
            for head in range(heads):
                part = slice(head * width, (head + 1) * width)
                logits = their_sites.exchange(
                    subject.theirs, pairs.corrupted, new, layer, site, position=position, part=part
                )
                expected.append(differences(logits, pairs))
    np.testing.assert_allclose(found.per_pair, torch.stack(expected), atol=1e-5, rtol=1e-5)
    effects = found.rows["effect"].abs()
    assert effects.max() > 1e-2
    shared = site in ("k", "v") and c.n_key_value_heads < c.n_heads
    assert set(found.rows["part"]) == {"key/value head" if shared else "head" if heads > 1 else "whole"}
    assert set(found.rows["index"]) == (set(range(heads)) if heads > 1 else {-1})


@pytest.mark.parametrize("site", ["q", "v", "mlp_out"])
def test_gradients_are_those_of_hugging_face(subject: Subject, site: str) -> None:
    """Attribution is (clean − corrupted) · gradient, of each head or key/value head at each position."""
    c, pairs = take_apart(subject.model), some_pairs()
    heads = {"q": c.n_heads, "v": c.n_key_value_heads}.get(site, 1)
    found = attribute_activations(subject.model, pairs, sites=[site])
    expected = []
    for layer in range(c.n_layers):
        new, old = (
            their_sites.record(subject.theirs, x, layer, site) for x in (pairs.clean, pairs.corrupted)
        )
        leaf = torch.zeros_like(new, requires_grad=True)
        with their_sites.altered(subject.theirs, layer, site, lambda x, leaf=leaf: x + leaf):
            base = differences(subject.theirs(pairs.corrupted, use_cache=False).logits, pairs)
        (gradient,) = torch.autograd.grad(base.sum(), [leaf])
        products = ((new - old) * gradient).unflatten(-1, (heads, -1)).sum(-1)
        expected.append(base.detach() + products.permute(1, 2, 0).flatten(0, 1))
    np.testing.assert_allclose(found.per_pair, torch.cat(expected), atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ edges and lenses


def test_edges_read_by_key_value_head(subject: Subject) -> None:
    """What the embedding sends to a key/value head of layer 0 is all that it reads: the edge is the patch of that head."""
    model, pairs = subject.model, some_pairs()
    c, graph = take_apart(model), graph_of(subject.model, pairs)
    shared = c.n_key_value_heads < c.n_heads
    receivers = [name for name in graph.receivers if name.startswith("L0") and name.endswith(" v")]
    assert receivers == [f"L0{'KV' if shared else 'H'}{h} v" for h in range(c.n_key_value_heads)]
    paths = [("embed", receiver, label) for receiver in receivers for label in pairs.labels]
    rows = patch_activations(model, pairs, sites=["blocks.0.attn.hook_v"]).rows
    expected = rows.sort_values(["index", "position"])["effect"]
    np.testing.assert_allclose(patch_paths(model, pairs, paths), expected, atol=2e-5, rtol=1e-4)


def test_a_circuit_of_all_edges_is_the_clean_run(subject: Subject) -> None:
    pairs = some_pairs()
    config = CircuitConfig(method="eap", random_circuits=0)
    found = find_circuit(subject.model, pairs, pairs, config=config)
    ends = [differences(logits_of(subject.theirs, x), pairs).mean() for x in (pairs.clean, pairs.corrupted)]
    assert (found.clean, found.corrupted) == pytest.approx(tuple(map(float, ends)), abs=1e-5)
    graph = graph_of(subject.model, pairs)
    every = torch.stack([graph.possible, torch.zeros_like(graph.possible)])
    values = run_with_edges(
        subject.model, pairs, every, metric="logit_difference", along=None, base="corrupted"
    )
    assert values.tolist() == pytest.approx(list(map(float, ends)), abs=1e-5)


def test_contributions_sum_to_the_logits(subject: Subject) -> None:
    tokens, read = draw(3, LENGTH), torch.tensor([LENGTH - 1] * 3)
    plus, minus = draw(3, seed=4), draw(3, 2, seed=5)
    found = direct_logit_attribution(subject.model, tokens, read=read, plus=plus, minus=minus)
    torch.testing.assert_close(found.values.sum(0), found.total, atol=1e-5, rtol=1e-4)
    logits = logits_of(subject.theirs, tokens)[:, -1]
    expected = logits.gather(1, plus[:, None])[:, 0] - logits.gather(1, minus).mean(1)
    torch.testing.assert_close(found.total, expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------------------------------ bridges and refusals


@pytest.mark.parametrize("build", [llama, mistral, qwen2, qwen3])
def test_a_bridge_is_taken_apart_into_the_same_pieces(build: Callable[[], Any], tmp_path: Any) -> None:
    folder, tokens = saved(build(), tmp_path), draw(3, LENGTH)
    pieces: list[Components] = [take_apart(loading.load(folder, bridge=bridge)) for bridge in (False, True)]
    first, second = (c.logits(forward.forward(c, tokens)) for c in pieces)
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (
            lambda: mistral(sliding_window=5),
            {},
            r"local attention, which looks back 5 of its 32 positions \(load .* n_ctx=5",
        ),
        (
            lambda: mistral(sliding_window=5),
            {"bridge": True},
            "local attention, which looks back 5 of its 32 positions .*n_ctx=5",
        ),
        (gemma3, {}, "local attention, which looks back 5 of its 32 positions"),
        (gemma2, {"n_ctx": 5}, "capped attention scores, which this analysis does not cover"),
        (lambda: gemma2(attn_logit_softcapping=None), {"n_ctx": 5}, "capped logits"),
        (lambda: gemma3(query_pre_attn_scalar=9), {"n_ctx": 5}, "first at blocks.0.attn.hook_attn_scores"),
        (gemma, {"bridge": True}, "first at embed"),
    ],
)
def test_what_is_loaded_but_not_taken_apart(
    build: Callable[[], Any], options: dict[str, Any], message: str, tmp_path: Any
) -> None:
    model = loading.load(saved(build(), tmp_path), **options)
    with pytest.raises(MechoclError, match=message) as raised:
        take_apart(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: qwen3(attention_bias=True), {}, "has attention_bias, which"),
        (lambda: gemma(use_bidirectional_attention=True), {}, "has use_bidirectional_attention; only causal"),
        (gemma, {"dtype": torch.bfloat16}, "torch.bfloat16 would round once more; use dtype float32"),
    ],
)
def test_what_is_not_loaded(
    build: Callable[[], Any], options: dict[str, Any], message: str, tmp_path: Any
) -> None:
    with pytest.raises(MechoclError, match=message) as raised:
        loading.load(saved(build(), tmp_path), **options)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("build", "positions"),
    [
        (llama, None),
        (lambda: mistral(sliding_window=5), 5),
        (lambda: mistral(sliding_window=64), None),
        (lambda: qwen3(use_sliding_window=True, sliding_window=6, max_window_layers=1), 6),
        (lambda: qwen3(use_sliding_window=True, sliding_window=6, max_window_layers=2), None),
        (gemma3, 5),
    ],
)
def test_positions_with_which_windows_do_not_matter(
    build: Callable[[], Any], positions: int | None, tmp_path: Any
) -> None:
    folder = saved(build(), tmp_path)
    assert loading.positions_within_windows(folder) == positions
    take_apart(loading.load(folder, n_ctx=positions))
    take_apart(loading.initialised_like(folder, seed=0, device="cpu", n_ctx=positions))


def test_the_families_share_heads() -> None:
    """What the tests above are about is there."""
    assert LLAMA["num_key_value_heads"] < LLAMA["num_attention_heads"]
