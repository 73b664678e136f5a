"""Plotly figures of lenses and of direct logit attribution.

Heads have no identity over seeds: `L0H1` of one seed is no relative of `L0H1` of another. So a mean over
seeds is drawn with every seed's own dot beside it wherever there is room.
"""

from typing import Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.behaviour.over_seeds import SeedSummary, layer_by_position
from mechocl.lenses.direct_attribution import TOTAL
from mechocl.lenses.summaries import summarize_attribution
from mechocl.report.given import Given, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import COLORS, heatmaps, label, styled
from toy_models.list_questioning import WORDS
from toy_models.subsets import SUBSETS
from toy_models.words import Words

LensValue = Literal["rank", "vocabulary_rank", "difference", "kl"]


def _titles(words: Words) -> dict[LensValue, str]:
    """Title of the colour scale of each value."""
    return {
        "rank": f"mean rank<br>({words.entities})",
        "vocabulary_rank": "mean rank<br>(vocabulary)",
        "difference": f"{words.difference}<br>(nats)",
        "kl": "KL from the<br>output (nats)",
    }


def attribution(summary: SeedSummary | Given, *, words: Words = WORDS) -> go.Figure:
    """Draw direct logit attribution: a bar for each component and subset, with a dot per seed and the 95 % interval.

    `summary` comes from `lenses.summaries.summarize_attribution`, or is the rows of `direct_attribution.attribute_answers`. The panels are lists with the alias's integer, lists
    without it, and the mean of both. In the mean a push towards false that does not depend on the list cancels out.
    """
    if not isinstance(summary, SeedSummary):
        rows = rows_of(summary, "subset", "contains", "component", "difference")
        summary = summarize_attribution(rows, quantity="difference")
    components, subsets = list(summary.by_seed["component"].drop_duplicates()), _subsets(summary.by_seed)
    panels = list(summary.by_seed["lists"].drop_duplicates())
    figure = make_subplots(rows=len(panels), cols=1, subplot_titles=panels, vertical_spacing=0.09)
    width = 0.8 / len(subsets)
    for panel, lists in enumerate(panels, start=1):
        for i, subset in enumerate(subsets):
            seeds, means = (
                table[(table["lists"] == lists) & (table["subset"] == subset)]
                for table in (summary.by_seed, summary.estimates)
            )
            wide = seeds.pivot(index="seed", columns="component", values="value")[components]
            x = np.arange(len(components)) + (i - (len(subsets) - 1) / 2) * width
            bars, dots = _bars(wide, means.set_index("component").loc[components], x, subset, width)
            figure.add_trace(bars.update(showlegend=panel == 1), row=panel, col=1)
            figure.add_trace(dots, row=panel, col=1)
    figure.update_xaxes(tickvals=list(range(len(components))), ticktext=components)
    figure.update_yaxes(zerolinecolor="#777", matches="y")
    what = words.attributed_difference if summary.quantity == "difference" else words.attributed_entity
    figure.update_yaxes(title=f"contribution {what}", row=min(2, len(panels)), col=1)
    figure.update_layout(
        height=160 + 220 * len(panels),
        barmode="overlay",
        legend={"orientation": "h", "y": 1.05, "yanchor": "bottom"},
    )
    return styled(figure)


def lenses_compared(
    logit: Given,
    tuned: Given,
    *,
    value: LensValue = "rank",
    words: Words = WORDS,
    contains: bool = False,
) -> go.Figure:
    """Draw the logit lens (left) and the tuned lens (right) as layer × position, with a row of panels per subset.

    `logit` and `tuned` come from `lenses.logit_lens` and `tuned_lens.tuned_lens`. Values are means over all seeds.
    """
    panels = []
    logit, tuned = (rows_of(rows, "subset", "contains", "component", value) for rows in (logit, tuned))
    for subset in _subsets(logit):
        for name, rows in (("logit lens", logit), ("tuned lens", tuned)):
            kept = (
                (rows["subset"] == subset) & (rows["contains"] == contains) & (rows["component"] == "stream")
            )
            panels.append((f"{name}, {label(subset)}", layer_by_position(rows[kept], value)))
    return _lens_panels(panels, value, words)


def component_lens(
    rows: Given, *, value: LensValue = "rank", words: Words = WORDS, contains: bool = False
) -> go.Figure:
    """Draw the logit lens of the stream, the heads and the MLPs at each position, with one panel per subset.

    `rows` come from `lenses.logit_lens`. Components run from bottom to top in the order of the table.
    """
    rows = rows_of(rows, "subset", "contains", "component", value)
    rows = rows[rows["contains"] == contains].dropna(subset=[value])
    stream = rows["component"] == "stream"
    rows = rows.assign(layer=rows["component"].where(~stream, "stream, " + rows["layer"]))
    panels = [(label(s), layer_by_position(rows[rows["subset"] == s], value)) for s in _subsets(rows)]
    return _lens_panels(panels, value, words)


def _lens_panels(panels: list[tuple[str, pd.DataFrame]], value: LensValue, words: Words) -> go.Figure:
    highest = max(float(np.nanmax(np.abs(grid.to_numpy()))) for _, grid in panels)
    title = _titles(words)[value]
    if value == "difference":
        return heatmaps(panels, scale="RdBu", low=-highest, high=highest, title=title, digits=1)
    low, digits = (0.0, 2) if value == "kl" else (1.0, 1)
    return heatmaps(panels, scale="Viridis_r", low=low, high=highest, title=title, digits=digits)


def _subsets(rows: pd.DataFrame) -> list[str]:
    return [subset for subset in SUBSETS if subset in set(rows["subset"])]


def _bars(
    seeds: pd.DataFrame, means: pd.DataFrame, x: np.ndarray, subset: str, width: float
) -> tuple[go.Bar, go.Scatter]:
    """Means with intervals as bars, and seeds as dots. `seeds` has a row for each seed, a column for each component."""
    mean = means["mean"].to_numpy(dtype=float)
    ends = means["low"].to_numpy(dtype=float), means["high"].to_numpy(dtype=float)
    names = [TOTAL + " (the model's own)" if c == TOTAL else c for c in seeds]
    bars = go.Bar(
        x=x,
        y=mean,
        width=width * 0.9,
        marker={"color": COLORS[subset], "opacity": 0.75},
        error_y=error_bar(mean, *ends) | {"thickness": 1.2, "width": 2, "color": "#333"}
        if np.isfinite(ends).all()
        else None,
        name=label(subset),
        legendgroup=subset,
        customdata=names,
        hovertemplate=f"{subset}<br>%{{customdata}}: %{{y:.3f}}, mean of {len(seeds)} seeds<extra></extra>",
    )
    dots = go.Scatter(
        x=np.repeat(x[None], len(seeds), 0).ravel(),
        y=seeds.to_numpy().ravel(),
        mode="markers",
        marker={"color": COLORS[subset], "size": 4, "line": {"color": "#fff", "width": 0.5}},
        text=np.repeat([f"seed {s}" for s in seeds.index], len(x)),
        hovertemplate="%{text}: %{y:.3f}<extra></extra>",
        legendgroup=subset,
        showlegend=False,
    )
    return bars, dots
