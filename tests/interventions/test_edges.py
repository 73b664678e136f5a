"""Edges: a forward pass edge by edge, path patching and edge attribution.

Held against the models' own logits, a planted mechanism, TransformerLens's split inputs, and brute force.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from contract import assert_unchanged, neox, saved, task as short_task
from edge_models import (
    ANSWER,
    K,
    Q,
    V,
    attention_only,
    planted_pairs,
    random_hooked,
    random_pairs,
    task,
    trained,
)
from planted import Mechanism, planted_model
from scipy.stats import spearmanr
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions import edge_graph, edge_runs
from mechocl.interventions.circuits import CircuitConfig, find_circuit
from mechocl.interventions.edge_attribution import attribute_edges
from mechocl.interventions.edge_graph import graph_of
from mechocl.interventions.edge_runs import run_with_edges, split_run
from mechocl.interventions.edges import EdgeScores, patch_edges, patch_paths
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.models import components, loading
from toy_models import architectures
from toy_models.architectures import Architecture

Edge = tuple[str, str, str]


@pytest.fixture(scope="module", params=["parallel", "sequential"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {"use_parallel_residual": request.param == "parallel"}
    return saved(neox(**changes), tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def hooked(folder: Path) -> Any:
    return loading.load(folder, device="cpu")


@pytest.fixture(scope="module")
def bridge(folder: Path) -> Any:
    return loading.load(folder, device="cpu", bridge=True)


# ------------------------------------------------------------------------------------- the split run


def assert_splits(model: Any, tokens: Tensor) -> None:
    """`split_run` ends in the model's own logits, and what its senders wrote adds up to the residual stream."""
    c = components.take_apart(model)
    with torch.no_grad():
        end, senders = split_run(c, c.embed(tokens))
        logits, kept = model.run_with_cache(tokens)
        torch.testing.assert_close(c.logits(end), logits, atol=2e-5, rtol=1e-5)
        biases = sum(block.b_O for block in c.blocks)
        last = kept[f"blocks.{c.n_layers - 1}.hook_resid_post"]
        torch.testing.assert_close(torch.stack(senders).sum(0) + biases, last, atol=2e-5, rtol=1e-5)
    assert len(senders) == 1 + c.n_layers * (c.n_heads + (not c.attn_only))


def test_split_run_is_the_models_own(hooked: Any, bridge: Any) -> None:
    tokens = short_task().tokens[:20]
    assert_splits(hooked, tokens)
    assert_splits(bridge, tokens)


def test_the_check_above_can_fail(hooked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    split = edge_runs.split_run

    def forgetful(c: Any, embedded: Tensor) -> Any:
        end, senders = split(c, embedded)
        return end, [*senders[:-1], senders[-1] * 1.001]

    monkeypatch.setitem(globals(), "split_run", forgetful)
    with pytest.raises(AssertionError):
        assert_splits(hooked, short_task().tokens[:20])


def test_split_run_of_other_models() -> None:
    assert_splits(planted_model(task(), Mechanism(tag2_gain=0.5)), task().tokens[:50])
    assert_splits(attention_only(), random_pairs(vocabulary=20).clean)


@pytest.mark.parametrize("base", ["clean", "corrupted"])
@pytest.mark.parametrize("along", ["position", "role"])
def test_all_edges_are_the_other_run_and_none_the_base(
    hooked: Any, base: Literal["clean", "corrupted"], along: edge_graph.Along
) -> None:
    pairs = pairs_named(short_task(), "d1-to-other-d2", n_pairs=12, seed=0)
    graph = graph_of(hooked, pairs, along=along)
    nothing, embedding = torch.zeros_like(graph.possible), torch.zeros_like(graph.possible)
    embedding[0] = graph.possible[0]  # what is behind follows
    one_less = embedding.clone()
    one_less[graph.index("embed", "L0H0 v", "alias")] = False
    chosen = torch.stack([nothing, graph.possible, embedding, one_less])
    found = run_with_edges(hooked, pairs, chosen, metric="logit_difference", along=along, base=base)
    ends = {name: their_value(hooked, getattr(pairs, name), pairs) for name in ("clean", "corrupted")}
    other = "corrupted" if base == "clean" else "clean"
    np.testing.assert_allclose(found[:3], [ends[base], ends[other], ends[other]], atol=1e-5)
    assert abs(ends["clean"] - ends["corrupted"]) > 1e-3
    assert abs(float(found[3]) - ends[other]) > 5e-5


def test_own_pairs_are_taken_by_position_with_the_defaults(hooked: Any) -> None:
    """Pairs that have no roles have positions; pairs whose every position has a role are told apart by it."""
    own, named = random_pairs(n=4), pairs_named(short_task(), "d1-to-other-d2", n_pairs=4, seed=0)
    for pairs, along in ((own, "position"), (named, "role")):
        for find in (attribute_edges, patch_edges):
            plain, asked = find(hooked, pairs), find(hooked, pairs, along=along)
            assert plain.graph.places == asked.graph.places
            torch.testing.assert_close(plain.scores, asked.scores, atol=0, rtol=0, equal_nan=True)
    path = ("embed", "L0H0 v", own.labels[1])
    expected = patch_edges(hooked, own).scores[graph_of(hooked, own).index(*path)]
    assert float(patch_paths(hooked, own, [path])) == pytest.approx(float(expected), abs=1e-6)
    result = find_circuit(hooked, own, random_pairs(n=4, seed=1), config=CircuitConfig(random_circuits=1))
    assert result.scores.graph.places == own.labels
    with pytest.raises(MechoclError, match="positions without a role"):
        patch_edges(hooked, own, along="role")


def their_value(model: Any, tokens: Tensor, pairs: Pairs) -> float:
    """The logit difference of the model's own forward pass."""
    with torch.no_grad():
        logits = model(tokens)[torch.arange(len(pairs)), pairs.read]
    at = torch.arange(len(pairs))
    return float((logits[at, pairs.target] - logits[at, pairs.foil]).mean())


# ------------------------------------------------------------------------------------- planted edges


def assert_edges(scores: EdgeScores, expected: dict[Edge, float]) -> None:
    """These edges have these scores, to the last digit that matters, and all others 0."""
    rows = scores.rows()
    keys = zip(rows["sender"], rows["receiver"], rows["place"], strict=True)
    assert (rows["score"].isna() == (rows["exchanged"] == 0)).all()
    found = dict(zip(keys, rows["score"].fillna(0), strict=True))
    assert set(expected) <= set(found)
    for edge, score in found.items():
        assert score == pytest.approx(expected.get(edge, 0.0), abs=1e-4), edge


@pytest.mark.parametrize("along", ["role", "position"])
def test_planted_other_integer(along: edge_graph.Along) -> None:
    """−10 → +10. Alone, the stored integer (v), the retrieved one (q) and the answer each move all of it: +20."""
    scores = patch_edges(planted_model(task(), Mechanism()), planted_pairs("d1-to-other-d2"), along=along)
    assert (scores.clean, scores.corrupted) == pytest.approx((10, -10), abs=1e-4)
    assert_edges(scores, {V: 20.0, Q: 20.0, ANSWER: 20.0})
    for wrong in ({V: 20.0, Q: 20.0}, {V: 20.0, Q: 19.9, ANSWER: 20.0}, {V: 20.0, Q: 20.0, ANSWER: -20.0}):
        with pytest.raises(AssertionError):
            assert_edges(scores, wrong)


@pytest.mark.parametrize(("gate", "gated"), [("retrieval", K), ("storage", V)])
@pytest.mark.parametrize("gain", [0.0, 0.5])
def test_planted_suppressed_tag(gate: Literal["retrieval", "storage"], gated: Edge, gain: float) -> None:
    """The same integer. Where the list holds it (a share s of the pairs), tag 2 answers −10 at gain 0 and 0 at ½.

    Tag 1's key (or value) opens the gate: +20 s or +10 s. Elsewhere both answer −10, and right.
    """
    pairs = planted_pairs("d1-to-d2")
    model = planted_model(task(), Mechanism(tag2_gain=gain, gate=gate))
    effect = float(pairs.contains.float().mean()) * (20 if gain == 0 else 10)
    scores = patch_edges(model, pairs)
    assert scores.clean == pytest.approx(10, abs=1e-4)
    assert_edges(scores, {gated: effect, Q: effect, ANSWER: effect})


def test_planted_half_gain_other_integer() -> None:
    """Clean integer i (gain 1), corrupted j (gain ½); one of them is in the list; s: the share where i is.

    i in the list (true is right): corrupted retrieves ½ e_j, j is not there: −10. Value of i alone: ½ e_i: 0,
    so +10. Key alone: e_j, still not there: 0. Retrieved e_i: +10, so +20.
    j in the list (false is right): corrupted ½ e_j: 0. Value alone: ½ e_i, not there: +10 for false, so +10.
    Key alone: e_j, there: −10 for false, so −10. Retrieved e_i: +10, so +10.
    """
    pairs = planted_pairs("d1-to-other-d2")
    model = planted_model(task(), Mechanism(tag2_gain=0.5))
    s = float(pairs.contains.float().mean())
    assert 0.2 < s < 0.8
    expected = {V: 10.0, K: -10 * (1 - s), Q: 10 + 10 * s, ANSWER: 10 + 10 * s}
    assert_edges(patch_edges(model, pairs), expected)
    alone = patch_paths(model, pairs, list(expected))
    np.testing.assert_allclose(alone, list(expected.values()), atol=1e-4)
    together = patch_paths(model, pairs, [V, K], together=True)
    np.testing.assert_allclose(together, [10 + 10 * s], atol=1e-4)  # not the sum, 10 s


def test_planted_list() -> None:
    """The integer in the list, or another there: the comparison's key at it, and the answer, move −10 → +10."""
    scores = patch_edges(planted_model(task(), Mechanism()), planted_pairs("d1-with-to-without"))
    assert_edges(scores, {("embed", "L1H0 k", "match"): 20.0, ANSWER: 20.0})


def test_planted_later_layers() -> None:
    """The same mechanism in layers 1 and 3 of 4: the same edges under other names."""
    model = planted_model(task(), Mechanism(n_layers=4, retrieval_layer=1, comparison_layer=3))
    renamed: list[Edge] = [("embed", "L1H0 v", "alias"), ("L1H0", "L3H0 q", "="), ("L3H0", "logits", "=")]
    scores = patch_edges(model, planted_pairs("d1-to-other-d2", n=10))
    assert_edges(scores, dict.fromkeys(renamed, 20.0))


# --------------------------------------------------------------- TransformerLens's own split inputs


def split_inputs(model: Any) -> Any:
    """A copy whose attention and MLPs read inputs of their own, and whose heads write apart."""
    copy = deepcopy(model)
    copy.set_use_split_qkv_input(True)
    copy.set_use_attn_result(True)
    copy.set_use_hook_mlp_in(True)
    return copy.requires_grad_(True)


def sender_points(n_layers: int) -> list[tuple[str, str]]:
    points = [("blocks.0.hook_resid_pre", "embed")]
    for layer in range(n_layers):
        points += [
            (f"blocks.{layer}.attn.hook_result", f"L{layer}H"),
            (f"blocks.{layer}.hook_mlp_out", f"L{layer} mlp"),
        ]
    return points


def noting(name: str, into: dict[str, Tensor], value: Tensor, hook: Any) -> None:
    if name.endswith("H"):
        into.update({f"{name}{h}": value[:, :, h] for h in range(value.shape[2])})
    else:
        into[name] = value


def receiver_point(receiver: str, n_layers: int) -> tuple[str, int | None]:
    """Hook point of what a receiver reads, and its head."""
    if receiver == "logits":
        return f"blocks.{n_layers - 1}.hook_resid_post", None
    who, what = receiver.split()
    if what == "mlp":
        return f"blocks.{who[1:]}.hook_mlp_in", None
    layer, head = who[1:].split("H")
    return f"blocks.{layer}.hook_{what}_input", int(head)


def their_paths(split: Any, pairs: Pairs, some: list[Edge]) -> float:
    """All these edges at once, with TransformerLens's hooks alone: patched − corrupted logit difference."""
    n_layers = split.cfg.n_layers
    clean: dict[str, Tensor] = {}
    now: dict[str, Tensor] = {}
    noted = {"clean": clean, "now": now}
    notes = {
        of: [(point, partial(noting, name, into)) for point, name in sender_points(n_layers)]
        for of, into in noted.items()
    }

    def put(sender: str, place: str, head: int | None, value: Tensor, hook: Any) -> Tensor:
        at = pairs.labels.index(place)
        value = value.clone()
        change = (clean[sender] - now[sender])[:, at]
        if head is None:
            value[:, at] += change
        else:
            value[:, at, head] += change
        return value

    puts: list[tuple[str, Callable[..., Any]]] = []
    for sender, receiver, place in some:
        point, head = receiver_point(receiver, n_layers)
        puts.append((point, partial(put, sender, place, head)))
    with torch.no_grad():
        split.run_with_hooks(pairs.clean, fwd_hooks=notes["clean"])
        logits = split.run_with_hooks(pairs.corrupted, fwd_hooks=[*notes["now"], *puts])
    at = torch.arange(len(pairs))
    own = logits[at, pairs.read]
    value = float((own[at, pairs.target] - own[at, pairs.foil]).mean())
    return value - their_value(split, pairs.corrupted, pairs)


def test_path_patching_equals_transformer_lens(hooked: Any) -> None:
    """Edges of every kind of receiver one at a time, and thirty at once."""
    pairs = random_pairs(read=[2, 3, 3])
    rows = patch_edges(hooked, pairs, along="position").rows()
    kinds = rows["receiver"].str.split().str[-1]
    assert set(kinds) == {"q", "k", "v", "mlp", "logits"}
    some = rows.groupby(kinds, group_keys=False).sample(12, random_state=0, replace=True)
    split = split_inputs(hooked)
    chosen: list[Edge] = list(zip(some["sender"], some["receiver"], some["place"], strict=True))
    expected = [their_paths(split, pairs, [edge]) for edge in chosen]
    np.testing.assert_allclose(some["score"], expected, atol=1e-5)
    np.testing.assert_allclose(patch_paths(hooked, pairs, chosen, along="position"), expected, atol=1e-5)
    assert np.median(np.abs(expected)) > 1e-3
    several = list(dict.fromkeys(chosen))[:30]
    together = patch_paths(hooked, pairs, several, along="position", together=True)
    at_once = their_paths(split, pairs, several)
    assert float(together[0]) == pytest.approx(at_once, abs=1e-5)
    assert at_once != pytest.approx(their_paths(split, pairs, several[1:]), abs=1e-3)


def their_attribution(split: Any, pairs: Pairs, shares: list[float]) -> dict[Edge, float]:
    """(clean − corrupted) · mean gradient at each receiver's input, by autograd through TransformerLens."""
    n_layers = split.cfg.n_layers
    written: dict[str, dict[str, Tensor]] = {"clean": {}, "corrupted": {}}
    for of, into in written.items():
        notes = [(point, partial(noting, name, into)) for point, name in sender_points(n_layers)]
        with torch.no_grad():
            split.run_with_hooks(getattr(pairs, of), fwd_hooks=notes)
    graph = graph_of(split, pairs, along="position")
    points = {receiver: receiver_point(receiver, n_layers) for receiver in graph.receivers}
    gradient: dict[str, Tensor] = {}
    between = written["clean"]["embed"] - written["corrupted"]["embed"]
    for share in shares:
        inputs: dict[str, Tensor] = {}

        def embed(value: Tensor, hook: Any, share: float = share) -> Tensor:
            return (written["corrupted"]["embed"] + share * between).requires_grad_(True)

        def keep(value: Tensor, hook: Any, inputs: dict[str, Tensor] = inputs) -> None:
            value.retain_grad()
            inputs[hook.name] = value

        hooks = [("blocks.0.hook_resid_pre", embed)]
        hooks += [(point, keep) for point in dict.fromkeys(point for point, _ in points.values())]
        logits = split.run_with_hooks(pairs.corrupted, fwd_hooks=hooks)
        at = torch.arange(len(pairs))
        own = logits[at, pairs.read]
        (own[at, pairs.target] - own[at, pairs.foil]).mean().backward()
        for point, value in inputs.items():
            assert value.grad is not None
            gradient[point] = gradient.get(point, torch.zeros(())) + value.grad / len(shares)
    split.zero_grad()
    found: dict[Edge, float] = {}
    for i, j, k in graph.possible.nonzero().tolist():
        sender, receiver, place = graph.senders[i], graph.receivers[j], graph.places[k]
        point, head = points[receiver]
        slope = gradient[point][:, k] if head is None else gradient[point][:, k, head]
        change = (written["clean"][sender] - written["corrupted"][sender])[:, k]
        found[sender, receiver, place] = float((change * slope).sum())
    return found


@pytest.mark.parametrize("steps", [0, 3])
def test_edge_attribution_equals_transformer_lens(hooked: Any, steps: int) -> None:
    """Every edge. The gradients are of the corrupted run, or at 1/6, 3/6 and 5/6 of the way."""
    pairs = random_pairs(read=[2, 3, 3])
    rows = attribute_edges(hooked, pairs, along="position", steps=steps).rows()
    shares = [1 / 6, 3 / 6, 5 / 6] if steps else [0.0]
    expected = their_attribution(split_inputs(hooked), pairs, shares)
    keys = list(zip(rows["sender"], rows["receiver"], rows["place"], strict=True))
    assert set(keys) == set(expected)
    np.testing.assert_allclose(rows["score"], [expected[key] for key in keys], atol=1e-4)
    other = their_attribution(split_inputs(hooked), pairs, [0.5])
    assert np.abs(rows["score"] - [other[key] for key in keys]).max() > 1e-2


def test_both_model_classes(hooked: Any, bridge: Any) -> None:
    pairs = pairs_named(short_task(), "d1-to-other-d2", n_pairs=8, seed=0)
    for method in (patch_edges, partial(attribute_edges, steps=2)):
        ours, theirs = method(hooked, pairs), method(bridge, pairs)
        assert ours.graph.senders == theirs.graph.senders
        torch.testing.assert_close(ours.scores, theirs.scores, atol=1e-4, rtol=0, equal_nan=True)
        assert ours.scores.nan_to_num().abs().max() > 1e-2


# ------------------------------------------------------------------------------- which edges there are


@pytest.mark.parametrize("read", [[3, 3, 3], [2, 1, 2], [0, 0, 0]])
def test_possible_edges_by_brute_force(hooked: Any, read: list[int]) -> None:
    """Every triple overridden, impossible ones too: those and no others leave the answer as it was.

    The first position attends to itself alone, so its query says nothing; nor does what comes after the answer.
    """
    pairs = random_pairs(read=read)
    graph = graph_of(hooked, pairs, along="position")
    every = torch.eye(graph.possible.numel(), dtype=torch.bool).view(-1, *graph.possible.shape)
    every = torch.cat([every, torch.zeros_like(every[:1])])
    values = run_with_edges(
        hooked, pairs, every, metric="logit_difference", along="position", base="corrupted", batch_size=600
    )
    effects = (values[:-1] - values[-1]).view(graph.possible.shape).abs()
    assert effects[~graph.possible].max() < 2e-6
    moved = (effects[graph.possible] > 2e-6).float().mean()
    assert moved > 0.995


def test_possible_edges_by_role_are_those_of_its_positions() -> None:
    model, pairs = planted_model(task(), Mechanism()), planted_pairs("d1-to-other-d2", n=20)
    graph = graph_of(model, pairs, along="role")
    by_position = graph_of(model, pairs, along="position")
    assert graph.places == ("alias", "%", "match", "rival", "others", "=")
    columns = {place: by_position.possible[..., i] for i, place in enumerate(by_position.places)}
    for i, place in enumerate(graph.places):
        position = place if place in columns else "n1"
        assert torch.equal(graph.possible[..., i], columns[position]), place


def test_edges_that_are_not_there() -> None:
    model, pairs = planted_model(task(), Mechanism()), planted_pairs("d1-to-other-d2", n=4)
    for path, message in (
        (("L2H0", "logits", "="), "no sender is called 'L2H0'; there are embed, L0H0"),
        (("embed", "L0H0", "="), "no receiver is called 'L0H0'; there are L0H0 q"),
        (("embed", "L0H0 q", "n1"), "no place is called 'n1'; there are alias, %, match"),
        (("L0H0", "L0H1 q", "="), "L0H1 q does not read L0H0 at ="),
        (("L1H0", "L0H0 k", "="), "L0H0 k does not read L1H0 at ="),
        (("L1H0", "logits", "alias"), "or the answer cannot depend on it"),
        (("embed", "L0H0 q", "alias"), "or the answer cannot depend on it"),
    ):
        with assert_unchanged(model), pytest.raises(MechoclError, match=message) as raised:
            patch_paths(model, pairs, [V, path])
        assert "\n" not in str(raised.value)
    assert patch_paths(model, pairs, []).shape == (0,)


def test_pairs_without_roles(hooked: Any) -> None:
    for analysis in (graph_of, patch_edges, attribute_edges):
        with assert_unchanged(hooked), pytest.raises(MechoclError, match="without a role; look at edges by"):
            analysis(hooked, random_pairs(), along="role")


# ------------------------------------------------------------------------------------ edge attribution


def test_attribution_is_exact_where_the_model_is_linear() -> None:
    """No layer norm, no MLP, even attention: path patching's scores, whatever the steps; and they add up."""
    model, pairs = attention_only(linear=True), random_pairs(vocabulary=20, read=[2, 3, 3])
    exact = patch_edges(model, pairs, along="position")
    for steps in (0, 1, 5):
        found = attribute_edges(model, pairs, along="position", steps=steps)
        torch.testing.assert_close(found.scores, exact.scores, atol=1e-5, rtol=0, equal_nan=True)
        assert (found.clean, found.corrupted) == pytest.approx((exact.clean, exact.corrupted), abs=1e-5)
        logits = found.scores[:, -1].nansum()
        assert float(logits) == pytest.approx(exact.clean - exact.corrupted, abs=1e-5)
    assert (exact.scores.abs() > 1e-2).sum() > 20
    curved = attention_only()
    with pytest.raises(AssertionError):
        torch.testing.assert_close(
            attribute_edges(curved, pairs, along="position", steps=0).scores,
            patch_edges(curved, pairs, along="position").scores,
            atol=1e-5,
            rtol=0,
        )


@pytest.mark.parametrize("steps", [0, 4])
def test_attribution_of_the_planted_logits(steps: int) -> None:
    """Without layer norm the edges into the logits are exact, and add up to clean − corrupted.

    Behind the comparison no gradient passes: its softmax is saturated.
    """
    pairs = planted_pairs("d1-to-other-d2")
    scores = attribute_edges(planted_model(task(), Mechanism()), pairs, steps=steps)
    assert scores.method == ("EAP-IG, 4 steps" if steps else "EAP")
    assert scores.scores[:, -1].nansum() == pytest.approx(scores.clean - scores.corrupted)
    if steps == 0:
        assert_edges(scores, {ANSWER: 20.0})


def test_integrated_gradients_converge() -> None:
    """One nonlinearity, read by the embedding alone: the edge's exact effect as the steps grow, and not before."""
    model = architectures.build(
        Architecture(n_layers=1, d_model=16, n_heads=2, d_mlp=32, normalization="none", init_std=0.5),
        d_vocab=20,
        d_vocab_out=20,
        n_ctx=8,
        seed=0,
    )
    with torch.no_grad():
        model.blocks[0].attn.W_O.zero_()
    pairs = random_pairs(vocabulary=20)
    edge = [("embed", "L0 mlp", "3")]
    exact = float(patch_paths(model, pairs, edge, along="position")[0])

    def error(steps: int) -> float:
        scores = attribute_edges(model, pairs, along="position", steps=steps)
        return abs(float(scores.scores[scores.graph.index(*edge[0])]) - exact)

    errors = [error(steps) for steps in (0, 4, 16, 64)]
    assert errors[0] > 0.1
    assert errors[-1] < 1e-3
    assert errors[0] > errors[1] > errors[2] > errors[3]


@pytest.mark.parametrize(("steps", "passes"), [(0, 1), (1, 1), (8, 8)])
def test_cost_does_not_grow_with_the_edges(steps: int, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """`steps` backward passes per batch, of models with few edges and many."""
    calls: list[int] = []
    grad = torch.autograd.grad

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return grad(*args, **kwargs)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    for n_layers, n_pairs, batches in ((2, 4, 2), (2, 1, 1), (3, 5, 3)):
        model = planted_model(task(), Mechanism(n_layers=n_layers))
        for along in ("role", "position"):
            calls.clear()
            pairs = planted_pairs("d1-to-other-d2", n=n_pairs)
            attribute_edges(model, pairs, along=along, steps=steps, batch_size=2)
            assert len(calls) == passes * batches


@pytest.mark.parametrize("metric", ["logit_difference", "kl_to_clean"])
def test_batches_and_order_change_nothing(metric: str) -> None:
    model, pairs = attention_only(), random_pairs(n=3, length=2, vocabulary=20)
    for method in (patch_edges, partial(attribute_edges, steps=2)):
        whole = method(model, pairs, along="position", metric=metric)
        assert whole.scores.nan_to_num().abs().max() > 1e-2
        backwards = pairs[torch.arange(2, -1, -1)]
        for some, batch_size in ((pairs, 2), (pairs, 7), (backwards, 2)):
            parts = method(model, some, along="position", metric=metric, batch_size=batch_size)
            torch.testing.assert_close(parts.scores, whole.scores, atol=1e-5, rtol=1e-5, equal_nan=True)
            ends = (parts.clean, parts.corrupted)
            assert ends == pytest.approx((whole.clean, whole.corrupted), abs=1e-5)


def test_scores_along_roles_add_up_positions() -> None:
    """Of one pair: each role's score is the sum over its positions. Of several: their mean."""
    model, pairs = random_hooked(), pairs_named(task(), "d1-to-other-d2", n_pairs=6, seed=0)
    of_roles = attribute_edges(model, pairs, along="role", steps=2)
    expected = torch.zeros(of_roles.scores.shape)
    for i in range(len(pairs)):
        pair = pairs[i : i + 1]
        positions = attribute_edges(model, pair, along="position", steps=2)
        for place, score in enumerate(positions.scores.nan_to_num().unbind(-1)):
            role = ROLE_NAMES[int(pair.roles[0, place])]
            expected[..., of_roles.graph.places.index(role)] += score / len(pairs)
    torch.testing.assert_close(of_roles.scores.nan_to_num(), expected, atol=1e-5, rtol=0)
    assert of_roles.scores.nan_to_num().abs().max() > 1e-2


@pytest.mark.parametrize("name", ["qd1-with-to-without", "qd1-to-other-qd1"])
def test_attribution_ranks_edges_as_path_patching_does(name: str) -> None:
    """Over the edges that have an effect, in a trained model: EAP-IG and (here) EAP; signs included."""
    model, learned = trained()
    pairs = pairs_named(learned, name, n_pairs=60, seed=0)
    exact = patch_edges(model, pairs)
    moved = exact.scores.abs() > 1e-6
    assert moved.sum() > 40
    large = (
        exact.scores.abs() > 0.05 * exact.scores.nan_to_num().abs().max()
    )  # the order of tiny effects hangs on the last bits
    for steps in (0, 8):
        found = attribute_edges(model, pairs, steps=steps)
        assert (found.clean, found.corrupted) == pytest.approx((exact.clean, exact.corrupted), abs=1e-5)
        if steps:
            assert spearmanr(found.scores[large], exact.scores[large]).statistic > 0.6
        assert float((found.scores * exact.scores).nansum()) > 0
    backwards = attribute_edges(model, pairs.swapped, steps=8)
    assert spearmanr(backwards.scores[large], exact.scores[large]).statistic < -0.5


def test_nothing_changes(hooked: Any, bridge: Any) -> None:
    """Weights, their requires_grad and hooks; in a caller's no_grad too."""
    pairs = random_pairs(n=2, length=2)
    for model in (hooked, bridge, planted_model(task(), Mechanism())):
        with assert_unchanged(model), torch.no_grad():
            some = pairs if model.cfg.d_vocab_out > 300 else planted_pairs("d1-to-other-d2", n=2)
            graph = graph_of(model, some, along="position")
            edge = (graph.senders[0], graph.receivers[-1], graph.places[-1])
            patch_paths(model, some, [edge], along="position")
            attribute_edges(model, some, along="position", steps=2)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_analysis_that_raises_inside_leaves_the_model_unchanged(
    hooked: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(components.Components, "logits", stop)
    for analysis in (patch_edges, attribute_edges):
        with assert_unchanged(hooked), pytest.raises(KeyboardInterrupt):
            analysis(hooked, random_pairs(), along="position")


def test_callers_hooks_are_not_passed_by(hooked: Any) -> None:
    hooked.add_hook("blocks.0.hook_resid_pre", lambda x, hook: x)
    try:
        for analysis in (graph_of, patch_edges, attribute_edges):
            with assert_unchanged(hooked), pytest.raises(MechoclError, match="has a hook at blocks"):
                analysis(hooked, random_pairs(), along="position")
    finally:
        hooked.reset_hooks()


def test_rows_are_the_possible_edges_the_largest_first() -> None:
    scores = patch_edges(attention_only(), random_pairs(vocabulary=20), along="position")
    rows = scores.rows()
    assert len(rows) == int(scores.graph.possible.sum())
    assert rows["score"].abs().is_monotonic_decreasing
    assert (scores.scores[~scores.graph.possible] == 0).all()
    for row in rows.itertuples():
        assert row.score == scores.scores[scores.graph.index(row.sender, row.receiver, row.place)]


def test_what_attribution_refuses(hooked: Any) -> None:
    pairs = random_pairs()
    for arguments, message in (
        ({"metric": "within_alias_auc"}, "within_alias_auc has no gradient; use logit_difference"),
        ({"metric": "loss"}, "no metric is called 'loss'"),
        ({"steps": -1}, "steps is -1; use 0"),
        ({"batch_size": 0}, "batch_size is 0; use at least 1"),
    ):
        with assert_unchanged(hooked), pytest.raises(MechoclError, match=message):
            attribute_edges(hooked, pairs, along="position", **arguments)
    with assert_unchanged(hooked), pytest.raises(MechoclError, match="batch_size is 0; use at least 1"):
        patch_edges(hooked, pairs, along="position", batch_size=0)
    wrong = torch.zeros(1, 2, 2, 2, dtype=torch.bool)
    with assert_unchanged(hooked), pytest.raises(MechoclError, match=r"chosen edges are .* the model has"):
        run_with_edges(hooked, pairs, wrong, metric="logit_difference", along="position", base="clean")
