"""The figure of a verdict: each prediction's effect beside the smallest effect that matters."""

import math
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any, Final

import plotly.graph_objects as go

from mechocl.behaviour import formats
from mechocl.behaviour.over_seeds import within
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES
from mechocl.errors import MechoclError
from mechocl.hypotheses.evidence import Effect
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.report.intervals import difference_bounds
from mechocl.report.plots import styled

ROW: Final = 34
"""Height of a prediction's row in pixels."""

_LOOKS: Final = {
    YES: ("above 0", "#1f78c8", "diamond"),
    REVERSE: ("below 0", "#c2255c", "diamond"),
    NOTHING: ("no effect that matters", "#0b6e4f", "square"),
    CANNOT_TELL: ("cannot tell", "#8a94a3", "circle-open"),
}
"""Answer → its name in the legend, its colour and its symbol."""

_TICKS: Final = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


def effects(verdict: RunVerdict, *, links: Mapping[str, str] | None = None) -> go.Figure:
    """Draw each prediction's mean with its 95 % interval, and a point for each seed.

    Each row is in units of its own smallest effect that matters, so that ± 1, the band, is the same for all. Within the
    band the axis is linear; beyond it, logarithmic. `links`: name of a prediction → what a click on its marks leads to.
    """
    if not isinstance(verdict, RunVerdict):
        raise MechoclError(
            f"effects draws a verdict, such as mechocl.verdict(run) gives, not {type(verdict).__name__}"
        )
    rows, links = verdict.effects, links or {}
    figure = go.Figure()
    for index, one in enumerate(rows):
        link = links.get(one.prediction.name, "")
        if not _has_mean(one):
            figure.add_trace(_not_measured(one, index))
        else:
            figure.add_trace(_seeds(one, index, link))
    for answer, (name, color, symbol) in _LOOKS.items():
        chosen = [(i, one) for i, one in enumerate(rows) if _has_mean(one) and one.answer == answer]
        if chosen:
            mark = {"color": color, "size": 10, "symbol": symbol, "line": {"width": 2, "color": color}}
            figure.add_trace(_means(chosen, links).update(name=name, marker=mark))
    figure.add_vrect(x0=-1, x1=1, fillcolor="#0b6e4f", opacity=0.1, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": "#5c6675", "width": 1}, layer="below")
    values, texts = _ticks([place for one in rows for place in _places(one)])
    figure.update_layout(
        height=ROW * len(rows) + 130,
        margin={"t": 50, "b": 80, "l": 10, "r": 16},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0, "xanchor": "left"},
        xaxis={
            "title": "effect ÷ the smallest that matters<br>(green: too small to matter)", "tickvals": values, "ticktext": texts,
            "tickangle": 0, "zeroline": False, "fixedrange": True, "range": [values[0] - 0.3, values[-1] + 0.3],
        },
        yaxis={
            "tickvals": list(range(len(rows))), "range": [len(rows) - 0.4, -0.6], "automargin": True, "zeroline": False, "fixedrange": True,
            "ticktext": [one.prediction.name for one in rows],
        },
        hoverlabel={"align": "left", "bgcolor": "#ffffff", "font": {"color": "#1b2230"}},
        hovermode="closest",
        dragmode=False,
    )  # fmt: skip
    return styled(figure)


def read_answer(one: Effect) -> str:
    """Where an effect lies, in words: its answer, which may be yes where a prediction says that something is below 0."""
    return _LOOKS[one.answer][0]


def place_on_axis(value: float) -> float:
    """Where an effect in units of the smallest that matters lies: itself within ± 1, and beyond it ± (1 + 2 log10 of its size)."""
    return value if abs(value) <= 1 else math.copysign(1 + 2 * math.log10(abs(value)), value)


def _ticks(places: Sequence[float]) -> tuple[list[float], list[str]]:
    """Ticks at 0, ± 1, ± 3, ± 10 … that reach around everything which is drawn."""
    ends = [max([1.0, *(sign * place for place in places)]) for sign in (-1, 1)]
    sides = []
    for end in ends:
        inside = [tick for tick in _TICKS if place_on_axis(float(tick)) < end]
        sides.append([*inside, *_TICKS[len(inside) : len(inside) + 1]])
    numbers = [-tick for tick in reversed(sides[0])] + [0, *sides[1]]
    named = [f"{tick:+,d}".replace("-", formats.MINUS) if tick else "0" for tick in numbers]
    texts = [
        "" if str(abs(tick)).startswith("3") else text for tick, text in zip(numbers, named, strict=True)
    ]
    return [place_on_axis(float(tick)) for tick in numbers], texts


def _places(one: Effect) -> list[float]:
    """Where the seeds of an effect, and the ends of its interval, lie on the axis."""
    if one.verdict is None:
        return []
    e = within(one.verdict.learned, difference_bounds(one.unit))
    drawn = (*one.values.values(), e.low, e.high)
    return [place_on_axis(value / one.verdict.margin) for value in drawn if math.isfinite(value)]


def _has_mean(one: Effect) -> bool:
    """Whether a seed that counts has a value."""
    return one.verdict is not None and math.isfinite(one.verdict.learned.mean)


def _not_measured(one: Effect, index: int) -> go.Scatter:
    why = _wrapped(f"{one.prediction.says} {formats.NOT_MEASURED.capitalize()}: {one.reason}.")
    return go.Scatter(
        x=[0.0], y=[index], mode="text", text=[formats.NOT_MEASURED], textfont={"color": "#6b7482"}, showlegend=False,
        hovertemplate=f"<b>{one.prediction.name}</b><br>{why}<extra></extra>",
    )  # fmt: skip


def _seeds(one: Effect, index: int, link: str) -> go.Scatter:
    """A point for each seed that counts, under the mean."""
    assert one.verdict is not None
    seeds = sorted(one.values)
    said = [
        f"<b>{one.prediction.name}</b>, seed {seed}: {formats.number(one.values[seed], sign=True)} {one.unit}"
        for seed in seeds
    ]
    return go.Scatter(
        x=[place_on_axis(one.values[seed] / one.verdict.margin) for seed in seeds], y=[index + 0.27] * len(seeds),
        mode="markers", marker={"size": 6, "color": "#5c6675", "opacity": 0.55}, showlegend=False,
        text=said, customdata=[link] * len(seeds), hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _means(chosen: Sequence[tuple[int, Effect]], links: Mapping[str, str]) -> go.Scatter:
    """The means with their intervals, of predictions with the same answer."""
    drawn: list[dict[str, Any]] = []
    for index, one in chosen:
        assert one.verdict is not None
        e, margin = within(one.verdict.learned, difference_bounds(one.unit)), one.verdict.margin
        x = place_on_axis(e.mean / margin)
        low, high = (place_on_axis(end / margin) if math.isfinite(end) else x for end in (e.low, e.high))
        told = (
            f"<b>{one.prediction.name}</b><br>{_wrapped(one.prediction.says)}<br>{formats.estimate_in_words(e, sign=True)} "
            f"{one.unit}, {e.n} seeds; {one.verdict.margin:g} matters<br>{_wrapped(f'{read_answer(one)}: {one.reason}')}"
        )
        drawn.append({"x": x, "y": index, "over": high - x, "under": x - low, "text": told} | {"to": links.get(one.prediction.name, "")})  # fmt: skip
    return go.Scatter(
        x=[d["x"] for d in drawn], y=[d["y"] for d in drawn], mode="markers", text=[d["text"] for d in drawn],
        error_x={"array": [d["over"] for d in drawn], "arrayminus": [d["under"] for d in drawn], "thickness": 2.5, "width": 5},
        customdata=[d["to"] for d in drawn], hovertemplate="%{text}<extra></extra>",
    )  # fmt: skip


def _wrapped(text: str) -> str:
    return "<br>".join(wrap(text, 60))
