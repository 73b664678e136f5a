"""Figures of circuits hold the numbers of their tables."""

import numpy as np
import pandas as pd
import pytest

from mechocl.errors import MechoclError
from mechocl.interventions.summaries import summarize_circuits
from mechocl.report import circuit_plots


def edges(*found: tuple[str, str, str, float]) -> pd.DataFrame:
    columns = ["sender", "receiver", "place", "value"]
    return pd.DataFrame(found, columns=columns).assign(seed=3, contrast="d1-to-d2", kind="edge")


EDGES = (
    ("L1 mlp", "logits", "=", 4.0),
    ("embed", "L0H1 v", "alias", -2.0),
    ("L0H1", "L1 mlp", "=", 1.0),
    ("embed", "L0H1 k", "match", 0.0),
)


def test_an_edge_is_as_thick_as_its_score_is_large() -> None:
    figure = circuit_plots.circuit(edges(*EDGES), contrast="d1-to-d2", seed=3)
    lines = {t.text[0]: t.line for t in figure.data if t.mode == "lines"}
    assert set(lines) == {
        "L1 mlp → logits at =: +4.000",
        "embed → L0H1 v at alias: -2.000",
        "L0H1 → L1 mlp at =: +1.000",
    }
    widths = [lines[name].width for name in lines]
    assert sorted(widths) == pytest.approx([1 + 11 / 4, 1 + 11 / 2, 12])
    colors = {name[-6:]: line.color for name, line in lines.items()}
    assert colors["+4.000"] == colors["+1.000"] != colors["-2.000"]


def test_layers_go_upward_and_places_across() -> None:
    figure = circuit_plots.circuit(edges(*EDGES), contrast="d1-to-d2", seed=3)
    (nodes,) = [t for t in figure.data if t.mode == "markers"]
    at = dict(zip(nodes.text, zip(nodes.x, nodes.y, strict=True), strict=True))
    assert at["embed"][1] < at["L0H1"][1] < at["L1 mlp"][1] < at["logits"][1]
    assert list(figure.layout.xaxis.ticktext) == ["alias", "="]
    assert at["embed"][0] == 0  # the value edge runs from the alias to where the head writes
    assert at["L0H1"][0] == at["logits"][0] == 1


def test_heads_of_a_layer_stand_beside_each_other() -> None:
    found = edges(("L0H0", "logits", "=", 1.0), ("L0H1", "logits", "=", 1.0))
    figure = circuit_plots.circuit(found, contrast="d1-to-d2", seed=3)
    (nodes,) = [t for t in figure.data if t.mode == "markers"]
    assert len({(x, y) for x, y in zip(nodes.x, nodes.y, strict=True)}) == 3


def test_a_key_value_head_that_heads_share_stands_beside_them() -> None:
    """At the place that it reads."""
    found = edges(
        ("embed", "L0KV0 v", "alias", 2.0), ("L0H1", "logits", "=", 1.0), ("embed", "L0H1 q", "alias", 1.0)
    )
    figure = circuit_plots.circuit(found, contrast="d1-to-d2", seed=3)
    (nodes,) = [t for t in figure.data if t.mode == "markers"]
    at = dict(zip(nodes.text, zip(nodes.x, nodes.y, strict=True), strict=True))
    assert len(set(zip(nodes.x, nodes.y, strict=True))) == len(nodes.x) == 5
    assert at["L0KV0"][1] == at["L0H1"][1]
    assert abs(at["L0KV0"][0]) <= 0.45
    assert "embed → L0KV0 v at alias: +2.000" in {t.text[0] for t in figure.data if t.mode == "lines"}


def test_positions_come_in_their_order() -> None:
    found = edges(*(("embed", "L0H0 v", place, 1.0) for place in ("n10", "=", "n2", "alias")))
    figure = circuit_plots.circuit(found, contrast="d1-to-d2", seed=3)
    assert list(figure.layout.xaxis.ticktext) == ["alias", "n2", "n10", "="]


def test_only_the_largest_edges_are_drawn() -> None:
    figure = circuit_plots.circuit(edges(*EDGES), contrast="d1-to-d2", seed=3, edges=1)
    assert sum(t.mode == "lines" for t in figure.data) == 1


def test_no_edge_with_a_score_is_said() -> None:
    with pytest.raises(MechoclError, match="no edge of seed 3 has a score"):
        circuit_plots.circuit(edges(EDGES[-1]), contrast="d1-to-d2", seed=3)


def test_curves_are_means_over_seeds_and_random_draws() -> None:
    rows = [
        {"contrast": "a", "kind": kind, "seed": seed, "edges": size, "normalised": value + seed}
        for kind in ("circuit", "without", "random")
        for seed in (0, 2)
        for size, value in ((0.0, 0.0), (5.0, 1.0))
    ]
    figure = circuit_plots.curves(summarize_circuits(pd.DataFrame(rows)))
    bold = [t for t in figure.data if t.name]
    thin = [t for t in figure.data if not t.name]
    assert [t.name for t in bold] == [
        "these edges alone",
        "all edges but these",
        "as many random edges alone",
    ]
    assert len(thin) == 6
    for trace in bold:
        np.testing.assert_allclose(trace.x, [0, 5])
        np.testing.assert_allclose(trace.y, [1, 2])


def test_suppression_shows_the_judging_half_alone() -> None:
    rows = pd.DataFrame(
        [
            {
                "seed": 0,
                "kind": "neuron",
                "component": "L0N1",
                "subset": subset,
                "half": half,
                "effect": effect,
            }
            for subset, effect in (("d1_consistent", 0.1), ("d2_consistent", 0.4))
            for half, effect in (("choosing", -9.0), ("judging", effect))
        ]
    )
    figure = circuit_plots.suppression(rows, raised="d2_consistent", spared="d1_consistent")
    shown = [t for t in figure.data if len(t.x)]
    assert len(shown) == 2  # among all components, and among the neurons
    for trace in shown:
        np.testing.assert_allclose([trace.x[0], trace.y[0]], [0.1, 0.4])
        assert trace.text[0] == "seed 0, L0N1"
