"""Circuits: the planted mechanism is found, whole, alone sufficient and necessary; curves by hand."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged
from edge_models import ANSWER, K, Q, V, attention_only, planted_pairs, random_pairs, task
from planted import Mechanism, planted_model

from mechocl.errors import MechoclError
from mechocl.interventions import circuits
from mechocl.interventions.circuits import (
    CircuitConfig,
    CircuitResult,
    find_circuit,
    score_edges,
)
from mechocl.interventions.edges import EdgeScores, patch_edges
from mechocl.models import components

Edge = tuple[str, str, str]
MATCH = ("embed", "L1H0 k", "match")
TO_OTHER, TO_D2, TO_WITHOUT = "d1-to-other-d2", "d1-to-d2", "d1-with-to-without"
CONTRASTS: dict[str, tuple[Mechanism, set[Edge]]] = {
    TO_OTHER: (Mechanism(), {V, Q, ANSWER}),
    TO_D2: (Mechanism(tag2_gain=0.0), {K, Q, ANSWER}),
    TO_WITHOUT: (Mechanism(), {MATCH, ANSWER}),
}
"""Edges of the planted mechanism on which clean and corrupted differ; see edge_models.py."""


def found_for(name: str, **changes: Any) -> CircuitResult:
    both = planted_pairs(name, n=40)
    config = CircuitConfig(**({"random_circuits": 4} | changes))
    half = len(both) // 2
    return find_circuit(planted_model(task(), CONTRASTS[name][0]), both[:half], both[half:], config=config)


@cache
def found(name: str) -> CircuitResult:
    return found_for(name)


def curve_of(result: CircuitResult, kind: str) -> pd.Series:
    rows = result.curve[result.curve["kind"] == kind]
    return rows.groupby("edges")["normalised"].mean()


def assert_recovered(scores: EdgeScores, expected: set[Edge], threshold: float) -> None:
    """The edges above the threshold are these, and no others."""
    graph = scores.graph
    above = (scores.scores.abs() > threshold).nonzero().tolist()
    assert {(graph.senders[i], graph.receivers[j], graph.places[k]) for i, j, k in above} == expected


@pytest.mark.parametrize("name", CONTRASTS)
def test_the_planted_mechanism_is_recovered(name: str) -> None:
    """Each of its edges moves 20 where the list decides (of d1-to-d2: in a quarter of the pairs at least); others 0."""
    mechanism, expected = CONTRASTS[name]
    scores = patch_edges(planted_model(task(), mechanism), planted_pairs(name))
    for threshold in (0.01, 4.0):
        assert_recovered(scores, expected, threshold)
    for wrong in (20.5, -1.0):  # nothing; everything
        with pytest.raises(AssertionError):
            assert_recovered(scores, expected, wrong)


def test_a_gate_on_storage_is_told_from_one_on_retrieval() -> None:
    model = planted_model(task(), Mechanism(tag2_gain=0.0, gate="storage"))
    assert_recovered(patch_edges(model, planted_pairs(TO_D2)), {V, Q, ANSWER}, 0.01)


@pytest.mark.parametrize("name", CONTRASTS)
def test_faithfulness_of_planted_circuits(name: str) -> None:
    """A chain: 0 until all its edges are kept, then 1; and without its first edge nothing is left."""
    result, chain = found(name), len(CONTRASTS[name][1])
    edges = int(result.scores.graph.possible.sum())
    circuit, without = curve_of(result, "circuit"), curve_of(result, "without")
    assert circuit.index.tolist() == without.index.tolist()
    assert circuit.index[0] == 0
    assert circuit.index[-1] == edges
    # the last sizes corrupt only edges that carry the same in both runs, so they are not measured
    kept = result.curve[result.curve["kind"] == "circuit"].set_index("edges")["exchanged"]
    assert circuit[circuit.isna()].index.tolist() == kept.index[kept == 0].tolist()[:-1]
    np.testing.assert_allclose(circuit.fillna(1), np.where(circuit.index < chain, 0.0, 1.0), atol=1e-5)
    np.testing.assert_allclose(without, np.where(without.index < 1, 1.0, 0.0), atol=1e-5)
    assert result.needed() == result.needed(1e-3) == chain
    assert result.clean == pytest.approx(10, abs=1e-4)
    assert result.corrupted < 8


@pytest.mark.parametrize("name", CONTRASTS)
def test_random_circuits_fail(name: str) -> None:
    """A few random edges miss the chain, a quarter of them nearly always; all are no choice, and reach 1."""
    random = curve_of(found(name), "random")
    np.testing.assert_allclose(random[random.index <= 10], 0, atol=1e-5)
    assert random[random.index <= random.index[-1] / 4].mean() < 0.1
    assert random.iloc[-1] == pytest.approx(1, abs=1e-5)


def test_edges_are_ranked_by_size() -> None:
    """Tag 2 at gain ½; scores as in test_edges.py: q and answer 10 + 10 s, value 10, key −10 (1 − s), others 0.

    Judged on pairs of which a share s lists the clean integer. Key and value corrupted: the corrupted run,
    −10 s. The key alone: ½ e_i, so 0 where i is listed, and 10 elsewhere: 10 (1 − s), which is 1 / (1 + s)
    of the way to 10. So the key is the fourth edge, though its score is below 0.
    """
    both = planted_pairs(TO_OTHER, n=40)
    model = planted_model(task(), Mechanism(tag2_gain=0.5))
    result = find_circuit(model, both[:20], both[20:], config=CircuitConfig(random_circuits=0))
    s = float(both[20:].contains.float().mean())
    assert (result.clean, result.corrupted) == pytest.approx((10, -10 * s), abs=1e-4)
    circuit = curve_of(result, "circuit")
    np.testing.assert_allclose(circuit.iloc[:6], [0, 0, 0, 1 / (1 + s), 1, 1], atol=1e-5)


def test_ends_are_the_models_own_runs() -> None:
    both = planted_pairs(TO_OTHER, n=40)
    whole = patch_edges(planted_model(task(), Mechanism()), both[20:])
    assert (found(TO_OTHER).clean, found(TO_OTHER).corrupted) == pytest.approx((whole.clean, whole.corrupted))
    rows = found(TO_OTHER).curve
    share = (rows["value"] - whole.corrupted) / (whole.clean - whole.corrupted)
    np.testing.assert_allclose(rows["normalised"], share, atol=1e-6)


@pytest.mark.parametrize("method", ["patching", "eap-ig", "eap"])
def test_methods_of_a_random_model(method: circuits.Method) -> None:
    """0 at no edges and 1 at all of them, whatever ranks the edges; few random edges differ from the chosen ones."""
    pairs = random_pairs(n=6, length=2, vocabulary=20)
    config = CircuitConfig(method=method, steps=2, along="position", random_circuits=2)
    result = find_circuit(attention_only(), pairs[:3], pairs[3:], config=config)
    assert (
        result.scores.method
        == {"patching": "path patching", "eap-ig": "EAP-IG, 2 steps", "eap": "EAP"}[method]
    )
    for kind, ends in (("circuit", (0, 1)), ("without", (1, 0)), ("random", (0, 1))):
        curve = curve_of(result, kind)
        assert (curve.iloc[0], curve.iloc[-1]) == pytest.approx(ends, abs=1e-5)
    assert abs(curve_of(result, "circuit") - curve_of(result, "random")).max() > 0.01


def test_the_seed_draws_random_circuits_and_nothing_else() -> None:
    again, other = found_for(TO_OTHER), found_for(TO_OTHER, seed=1)
    first = found(TO_OTHER).curve
    pd.testing.assert_frame_equal(again.curve, first)
    drawn = first["kind"] == "random"
    pd.testing.assert_frame_equal(other.curve[~drawn], first[~drawn])
    assert not other.curve[drawn].equals(first[drawn])
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pd.testing.assert_frame_equal(found_for(TO_OTHER).curve, first)


def test_where_clean_and_corrupted_hardly_differ() -> None:
    pairs = planted_pairs("d1-to-itself", n=8)
    result = find_circuit(
        planted_model(task(), Mechanism()), pairs[:4], pairs[4:], config=CircuitConfig(random_circuits=1)
    )
    assert result.curve["normalised"].isna().all()
    assert (result.curve["exchanged"] == 0).all()
    whole = (result.curve["edges"] == 0) == (result.curve["kind"] == "without")
    untouched = whole & result.curve["edges"].isin([0, result.curve["edges"].max()])
    assert result.curve["value"].notna().equals(untouched)
    assert result.curve.loc[untouched, "value"].tolist() == pytest.approx([result.clean] * 3)
    assert result.needed() is None


def test_pairs_that_score_and_judge_must_have_the_same_roles() -> None:
    """Else an edge's place would be another role there: `match` in the one, `rival` in the other."""
    pairs = planted_pairs(TO_OTHER)
    scoring, judging = pairs[pairs.contains], pairs[~pairs.contains]
    model = planted_model(task(), Mechanism())
    with (
        assert_unchanged(model),
        pytest.raises(MechoclError, match=r"alias, %, match.*alias, %, rival.*more pairs"),
    ):
        find_circuit(model, scoring, judging, config=CircuitConfig())


# ------------------------------------------------------------------------------------------ by hand


def curve(**values: list[float]) -> pd.DataFrame:
    """Seeds (`s0`, `s1`, …) with circuits of 0, 1, 2, … edges."""
    rows = [
        {"seed": int(seed[1:]), "kind": "circuit", "edges": float(i), "normalised": value}
        for seed, shares in values.items()
        for i, value in enumerate(shares)
    ]
    return pd.DataFrame(rows)


def test_edges_needed_by_hand() -> None:
    """From there on, so a circuit that reaches the share and falls back does not count."""
    table = curve(s0=[0, 0.95, 0.5, 0.9, 1.0], s1=[0, 0, 0, 0, 1], s2=[0, 1.2, 1, 1, 1], s3=[math.nan] * 5)
    assert circuits.sizes_needed(table) == {0: 3, 1: 4, 2: 1, 3: None}
    assert circuits.sizes_needed(table, share=0.4) == {0: 1, 1: 4, 2: 1, 3: None}
    assert circuits.sizes_needed(table, share=1.1) == {0: None, 1: None, 2: None, 3: None}
    assert circuits.sizes_needed(table, share=-1.0) == {0: 0, 1: 0, 2: 0, 3: None}


def test_described_by_hand() -> None:
    """Median of 3, 4 and 1 edges; random circuits of as many edges or the next size."""
    table = curve(s0=[0, 0.95, 0.5, 0.9, 1.0], s1=[0, 0, 0, 0, 1], s2=[0, 1.2, 1, 1, 1], s3=[math.nan] * 5)
    edges = pd.DataFrame({"seed": [0, 1, 2, 3] * 4, "kind": "edge"})
    random = pd.DataFrame({"seed": [0, 1, 2] * 2, "kind": "random", "edges": [2.0] * 3 + [4.0] * 3}).assign(
        normalised=[1.0, 1.0, 1.0, 0.1, 0.2, 0.3]
    )
    assert circuits.circuit_in_words(pd.concat([table, edges, random])) == (
        "3 of 4 edges (median over 3 of 4 seeds; 1 to 4) reach 90% of clean − corrupted on other pairs; "
        "random circuits of 4 edges reach 20%"
    )
    low = pd.concat([curve(s0=[0.0, 0.5]), edges[:1]])
    assert circuits.circuit_in_words(low) == "no circuit reaches 90% of clean − corrupted"


def test_pooled_by_hand() -> None:
    rows = pd.DataFrame(
        [
            (0, "edge", "L0H0", "L1H0 q", "=", 1.0),
            (0, "edge", "L0H1", "L1H1 q", "=", 2.0),
            (0, "edge", "L0H1", "L1KV1 k", "=", 4.0),
            (0, "edge", "L0H1", "L1 mlp", "=", 8.0),
            (0, "edge", "L0H1", "L1H1 q", "%", 16.0),
            (1, "edge", "L0H1", "L1H1 q", "=", 32.0),
            (1, "circuit", None, None, None, 64.0),
        ],
        columns=["seed", "kind", "sender", "receiver", "place", "value"],
    )
    pooled = circuits.pool_heads(rows)
    keys = ["seed", "sender", "receiver", "place"]
    assert pooled.set_index(keys)["value"].to_dict() == {
        (0, "L0 heads", "L1 heads q", "="): 3.0,
        (0, "L0 heads", "L1 heads k", "="): 4.0,
        (0, "L0 heads", "L1 mlp", "="): 8.0,
        (0, "L0 heads", "L1 heads q", "%"): 16.0,
        (1, "L0 heads", "L1 heads q", "="): 32.0,
    }


@pytest.mark.parametrize("n_edges", [1, 2, 10, 11, 29, 1000])
def test_sizes(n_edges: int) -> None:
    sizes = circuits._sizes(n_edges)
    assert sizes[: min(n_edges, 10) + 1] == list(range(min(n_edges, 10) + 1))
    assert sizes[-1] == n_edges
    assert sizes == sorted(set(sizes))
    assert all(b <= 1.35 * a or a < 11 for a, b in pairwise(sizes))


# ------------------------------------------------------------------------------------------ the table


def test_the_table() -> None:
    """Edges and curves of each contrast; scoring and judging halves are different pairs."""
    model = planted_model(task(), Mechanism())
    config = CircuitConfig(pairs=(TO_OTHER, TO_WITHOUT), n_pairs=12, random_circuits=2, steps=2)
    with assert_unchanged(model):
        table = circuits.circuit_study(model, task(), config)
    assert list(table.columns) == [
        "contrast", "kind", "sender", "receiver", "place", "value", "attributed", "exchanged", "edges", "draw",
        "normalised", "clean", "corrupted", "pairs",
    ]  # fmt: skip
    for name in config.pairs:
        part = table[table["contrast"] == name]
        assert (part["pairs"] == 12).all()
        np.testing.assert_allclose(part["clean"], 10, atol=1e-4)
        np.testing.assert_allclose(part["corrupted"], -10, atol=1e-4)
        edges = part[part["kind"] == "edge"]
        top = edges[edges["value"].abs() > 0.01]
        assert set(zip(top["sender"], top["receiver"], top["place"], strict=True)) == CONTRASTS[name][1]
        assert edges["value"].dropna().abs().is_monotonic_decreasing
        assert (edges["value"].isna() == (edges["exchanged"] == 0)).all()
        answer = edges[(edges["receiver"] == "logits") & (edges["sender"] == "L1H0")]
        assert answer["attributed"].tolist() == pytest.approx([20], abs=1e-4)
        assert (edges["attributed"].notna() == (edges["exchanged"] > 0)).all()
        assert circuits.sizes_needed(part.assign(seed=0)) == {0: len(CONTRASTS[name][1])}
        sizes = part[part["kind"] == "circuit"]["edges"]
        assert (part["kind"] == "random").sum() == 2 * len(sizes)
        assert (part["kind"] == "without").sum() == len(sizes)


@pytest.mark.parametrize(
    ("method", "metric"), [("eap", "logit_difference"), ("patching", "within_alias_auc")]
)
def test_the_table_without_attributions_beside_it(method: circuits.Method, metric: str) -> None:
    config = CircuitConfig(pairs=(TO_OTHER,), n_pairs=30, random_circuits=0, method=method, metric=metric)
    table = circuits.circuit_study(planted_model(task(), Mechanism()), task(), config)
    assert table["attributed"].isna().all()
    assert set(table["kind"]) == {"edge", "circuit", "without"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pairs": ()}, "pairs is empty; name at least one contrast"),
        ({"n_pairs": 1}, "n_pairs is 1; use at least 2"),
        ({"steps": 0}, "steps is 0; use at least 1"),
        ({"random_circuits": -1}, "random_circuits is -1; use at least 0"),
        ({"metric": "loss"}, "no metric is called 'loss'"),
    ],
)
def test_config_errors(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        CircuitConfig(**changes)
    with pytest.raises(MechoclError, match=message):
        replace(CircuitConfig(), **changes)


def test_what_is_refused_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = planted_model(task(), Mechanism())
    for config, message in (
        (CircuitConfig(method="eap", metric="within_alias_auc"), "has no gradient"),
        (CircuitConfig(pairs=("d1-to-d9",)), "'d9' names no subset"),
        (CircuitConfig(pairs=("nothing",)), "no pairs are called 'nothing'"),
    ):
        with assert_unchanged(model), pytest.raises(MechoclError, match=message) as raised:
            circuits.circuit_study(model, task(), config)
        assert "\n" not in str(raised.value)
    no_roles = random_pairs(vocabulary=20)
    with pytest.raises(MechoclError, match="without a role; look at edges by position"):
        score_edges(attention_only(), no_roles, CircuitConfig(along="role"))

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(components.Components, "logits", stop)
    with assert_unchanged(model), pytest.raises(KeyboardInterrupt):
        circuits.circuit_study(model, task(), CircuitConfig())
