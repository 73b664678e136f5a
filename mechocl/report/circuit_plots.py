"""Figures of circuits: the drawing, the curves, and the search for components that hold tag 2 back."""

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.accepted import require_count
from mechocl.behaviour.over_seeds import SeedSummary
from mechocl.errors import MechoclError
from mechocl.interventions.pairs import ROLE_NAMES
from mechocl.interventions.summaries import summarize_circuits
from mechocl.report.given import Given, rows_of
from mechocl.report.plots import COLORS, label, styled

_FOR: Final = "#1f78c8"
_AGAINST: Final = "#c2255c"
_CURVES: Final = {
    "circuit": ("these edges alone", _FOR),
    "without": ("all edges but these", _AGAINST),
    "random": ("as many random edges alone", "#8a8f98"),
}

_SYMBOLS: Final = {"neuron": "circle", "head": "square", "mlp": "diamond"}


@dataclass(frozen=True, slots=True)
class _Line:
    """An edge as it is drawn."""

    start: tuple[str, str]
    """Component and place."""
    end: tuple[str, str]
    letter: str
    """q, k or v of a head's inputs."""
    hover: str
    value: float


def circuit(
    rows: Given, *, contrast: str | None = None, seed: int | None = None, edges: int = 12
) -> go.Figure:
    """Draw one seed's circuit. Places run across, layers run upward, and a thick edge has a score of large size.

    `rows` are those of `circuits.circuit_study`, with a seed column. Blue edges speak for the clean answer, red ones
    against it. An edge into a head's keys or values runs from the place that is read to the places where the head
    writes. None stands for the first contrast and the first seed of the rows. Raises MechoclError when no edge has a score.
    """
    require_count("circuit", "edges", edges)
    rows = rows_of(rows, "contrast", "kind", "value")
    contrast = str(rows["contrast"].iloc[0]) if contrast is None else contrast
    seed = int(rows["seed"].iloc[0]) if seed is None else seed
    own = rows[(rows["seed"] == seed) & (rows["contrast"] == contrast) & (rows["kind"] == "edge")]
    chosen = own[own["value"].abs() > 1e-6].head(edges)
    if chosen.empty:
        raise MechoclError(f"{contrast}: no edge of seed {seed} has a score, so there is no circuit to draw")
    lines = _lines(chosen)
    nodes = list(dict.fromkeys(node for line in lines for node in (line.start, line.end)))
    places = sorted({place for _, place in nodes}, key=_place_order)
    at = {node: (places.index(node[1]) + _aside(node, nodes), _level(node[0], nodes)) for node in nodes}
    largest = max(abs(line.value) for line in lines)
    figure = go.Figure()
    for line in sorted(lines, key=lambda line: abs(line.value)):
        _draw_line(figure, line, at[line.start], at[line.end], largest=largest)
    _draw_letters(figure, lines, at)
    figure.add_trace(
        go.Scatter(
            x=[x for x, _ in at.values()],
            y=[y for _, y in at.values()],
            text=[name for name, _ in at],
            mode="markers",
            marker={"size": 15, "color": "#fff", "line": {"color": "#1b2230", "width": 1.5}},
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )
    for (name, _), (x, y) in at.items():
        aside = {"yshift": -18} if name == "embed" else {"xanchor": "left", "xshift": 12}
        figure.add_annotation(x=x, y=y, text=name, showarrow=False, bgcolor="rgba(255,255,255,.85)", **aside)
    top = max(y for _, y in at.values())
    figure.update_xaxes(
        tickvals=list(range(len(places))), ticktext=places, range=[-0.6, len(places) - 0.4], zeroline=False
    )
    figure.update_yaxes(visible=False, range=[-0.4, top + 0.5])
    figure.update_layout(
        title={
            "text": f"{contrast}, seed {seed}: its {len(chosen)} largest edges<br><span style='font-size:11px'>"
            "blue: towards the clean answer; red: away from it; wider: larger</span>",
            "x": 0.01,
            "font": {"size": 14},
        },
        height=int(150 + 85 * top),
        width=380 + 170 * len(places),
        meta={"least_width": 60 + 70 * len(places)},
        margin={"t": 60, "b": 40, "l": 30, "r": 30},
    )
    return styled(figure)


def _draw_line(
    figure: go.Figure, line: _Line, start: tuple[float, float], end: tuple[float, float], *, largest: float
) -> None:
    """Add an edge to the figure. Its colour shows the sign of its score, its width the share of the `largest` score."""
    (x0, y0), (x1, y1) = start, end
    along = np.linspace(0, 1, 15)  # points to hover over
    color = _FOR if line.value > 0 else _AGAINST
    figure.add_trace(
        go.Scatter(
            x=x0 + along * (x1 - x0),
            y=y0 + along * (y1 - y0),
            mode="lines",
            opacity=0.75,
            line={"color": color, "width": 1 + 11 * abs(line.value) / largest},
            text=[line.hover] * len(along),
            hovertemplate="%{text}<extra></extra>",
            showlegend=False,
        )
    )


def _draw_letters(
    figure: go.Figure, lines: list[_Line], at: dict[tuple[str, str], tuple[float, float]]
) -> None:
    """Name the inputs of a head to which edges lead, such as "k, v" where two edges lie on one line."""
    found: dict[tuple[tuple[str, str], tuple[str, str]], set[str]] = {}
    for line in lines:
        if line.letter:
            found.setdefault((line.start, line.end), set()).add(line.letter)
    for (start, end), letters in found.items():
        (x0, y0), (x1, y1) = at[start], at[end]
        x, y = x0 + 0.55 * (x1 - x0), y0 + 0.55 * (y1 - y0)
        text = ", ".join(sorted(letters))
        figure.add_annotation(x=x, y=y, text=text, showarrow=False, bgcolor="#fff", borderpad=1)


def _lines(chosen: pd.DataFrame) -> list[_Line]:
    """The edges as lines. An edge into keys or values has one line for every place at which its head writes; a key/value head that
    several heads share is a node of its own, at the place that it reads."""
    edges = [{k: str(v) for k, v in row.items()} for row in chosen.to_dict("records")]
    writes: dict[str, list[str]] = {}
    for edge in edges:
        writes.setdefault(edge["sender"], []).append(edge["place"])
        if edge["receiver"].endswith(" q"):
            writes.setdefault(edge["receiver"].removesuffix(" q"), []).append(edge["place"])
    lines = []
    for edge in edges:
        receiver, place, value = edge["receiver"], edge["place"], float(edge["value"])
        found = re.fullmatch(r"(L\d+(?:H|KV)\d+) ([qkv])", receiver)
        node, letter = (found[1], found[2]) if found else (receiver, "")
        ends = list(dict.fromkeys(writes.get(node, [place]))) if letter in ("k", "v") else [place]
        hover = f"{edge['sender']} → {receiver} at {place}: {value:+.3f}"
        lines += [_Line((edge["sender"], place), (node, end), letter, hover, value) for end in ends]
    return lines


def _place_order(place: str) -> tuple[int, str]:
    """Key that sorts roles in the order of a question, then positions by their number."""
    number = re.search(r"\d+", place)
    known = ROLE_NAMES.index(place) if place in ROLE_NAMES else 3 if number else len(ROLE_NAMES)
    return known, number[0].zfill(6) if number else place


def _level(name: str, nodes: list[tuple[str, str]]) -> float:
    """Height of a component: from bottom to top the embedding, the heads and MLP of each layer, and the logits."""
    found = re.fullmatch(r"L(\d+)(H\d+|KV\d+| mlp)", name)
    if found:
        return 1.2 + 2.4 * int(found[1]) + (1.2 if name.endswith("mlp") else 0.0)
    if name == "embed":
        return 0.0
    return 1.2 + max(_level(other, nodes) for other, _ in nodes if other != "logits")


def _aside(node: tuple[str, str], nodes: list[tuple[str, str]]) -> float:
    """Shift to the side, by which heads (and key/value heads) of one layer at one place stand beside each other."""
    name, place = node
    head = re.fullmatch(r"(L\d+)(H|KV)\d+", name)
    if head is None:
        return 0.0
    beside = sorted(n for n, p in nodes if p == place and re.fullmatch(rf"{head[1]}(H|KV)\d+", n))
    spread = min(0.45, 0.9 / len(beside))
    return (beside.index(name) - (len(beside) - 1) / 2) * spread


def curves(summary: SeedSummary | Given) -> go.Figure:
    """Draw faithfulness and completeness over the number of edges, with one panel for each contrast.

    `summary` comes from `interventions.summaries.summarize_circuits`, or is the rows of `circuits.circuit_study`. Bold
    lines are means over seeds, thin ones seeds.
    """
    if not isinstance(summary, SeedSummary):
        summary = summarize_circuits(rows_of(summary, "contrast", "kind", "edges", "normalised"))
    contrasts = list(summary.by_seed["contrast"].drop_duplicates())
    figure = make_subplots(
        rows=1, cols=len(contrasts), subplot_titles=contrasts, shared_yaxes=True, horizontal_spacing=0.06
    )
    seeds, means = summary.by_seed.dropna(subset=["value"]), summary.estimates
    for column, contrast in enumerate(contrasts, start=1):
        for kind, (name, color) in _CURVES.items():
            part = seeds[(seeds["contrast"] == contrast) & (seeds["kind"] == kind)]
            each = part.pivot(index="edges", columns="seed", values="value")
            for seed in each.columns:
                thin = {"color": color, "width": 1}
                figure.add_trace(
                    go.Scatter(
                        x=each.index, y=each[seed], mode="lines", line=thin, opacity=0.25, showlegend=False,
                        hoverinfo="skip", legendgroup=kind,
                    ),
                    row=1, col=column,
                )  # fmt: skip
            mean = means[(means["contrast"] == contrast) & (means["kind"] == kind)].sort_values("edges")
            figure.add_trace(
                go.Scatter(
                    x=mean["edges"], y=mean["mean"], mode="lines+markers", marker={"size": 5}, name=name,
                    line={"color": color, "width": 2.5}, legendgroup=kind, showlegend=column == 1,
                    customdata=mean[["low", "high", "seeds"]],
                    hovertemplate="%{x} edges: %{y:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}], %{customdata[2]} seeds<extra></extra>",
                ),
                row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title="edges", row=1, col=column)
    figure.update_yaxes(title="0 corrupted … 1 clean", row=1, col=1)
    figure.update_layout(
        height=400,
        legend={"orientation": "h", "y": 1.25, "x": 0},
        margin={"t": 100, "b": 50, "l": 70, "r": 30},
    )
    return styled(figure)


def suppression(rows: Given, *, raised: str = "d2_consistent", spared: str = "d1_consistent") -> go.Figure:
    """Draw what ablating each component does to the answers about two subsets, on the judging half of their aliases.

    `rows` are those of `suppression.ablate_components`, with a seed column. There is a dot for each component of each
    seed that was measured in both subsets. A component that holds back `raised` alone lies above 0 and near the vertical line.
    """
    rows = rows_of(rows, "half", "kind", "component", "subset", "effect")
    judged = rows[rows["half"] == "judging"]
    wide = judged.pivot(index=["seed", "kind", "component"], columns="subset", values="effect").reset_index()
    figure = make_subplots(
        rows=1, cols=2, subplot_titles=["all components", "neurons"], horizontal_spacing=0.12
    )
    for column, kinds in enumerate((("neuron", "head", "mlp"), ("neuron",)), start=1):
        for kind in kinds:
            part = wide[wide["kind"] == kind]
            marker = {"symbol": _SYMBOLS[kind], "size": 6 if kind == "neuron" else 10, "opacity": 0.5}
            figure.add_trace(
                go.Scatter(
                    x=part[spared],
                    y=part[raised],
                    mode="markers",
                    name=kind,
                    legendgroup=kind,
                    showlegend=column == 1 and len(part) > 0,
                    marker=marker | {"color": COLORS[raised]},
                    text=[f"seed {s}, {c}" for s, c in zip(part["seed"], part["component"], strict=True)],
                    hovertemplate="%{text}<br>"
                    + f"{spared} %{{x:+.3f}}, {raised} %{{y:+.3f}}<extra></extra>",
                ),
                row=1,
                col=column,
            )
        figure.update_xaxes(title=f"effect on {label(spared)} (AUC)", row=1, col=column)
    figure.add_hline(y=0, line={"color": "#999", "width": 1})
    figure.add_vline(x=0, line={"color": "#999", "width": 1})
    figure.update_yaxes(title=f"effect on {label(raised)} (AUC)", row=1, col=1)
    figure.update_layout(height=430, legend={"orientation": "h", "y": 1.2, "x": 0}, margin={"t": 90, "b": 60})
    return styled(figure)
