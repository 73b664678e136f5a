"""Figure of the subspace study. Nothing here computes a result, shows or saves."""

from typing import Final

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.behaviour.over_seeds import SeedSummary
from mechocl.errors import MechoclError
from mechocl.interventions.summaries import summarize_subspaces
from mechocl.report.given import Given, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import styled

_CONTROLS: Final = {
    "none": ("fitted", "#1f78c8"),
    "shuffled": ("control: shuffled targets", "#e08214"),
    "random model": ("control: random model", "#8a8a8a"),
}
_METHODS: Final = ("whole site", "difference of means", "erasure", "rotation")
_VALUES: Final = {
    "normalised": "effect ÷ (clean − corrupted)",
    "explained": "share of squared difference gone",
}


def subspace_effects(summary: SeedSummary | Given) -> go.Figure:
    """Draw what changing each subspace does, beside its two controls, with one row of panels per contrast.

    `summary` comes from `interventions.summaries.summarize_subspaces`, or is the rows of `subspace_study`. Dots are seeds; beside them is the mean with its
    95 % interval. Places that the answer does not read are left out.

    Raises MechoclError when there is nothing to draw.
    """
    if not isinstance(summary, SeedSummary):
        summary = summarize_subspaces(rows_of(summary, "contrast", "method", "control", "k", "metric"))
    seeds, means = (frame.assign(label=_labels) for frame in (summary.by_seed, summary.estimates))
    fitted = seeds[seeds["method"] == "rotation"]
    places, contrasts = (
        fitted["place"].drop_duplicates().tolist(),
        seeds["contrast"].drop_duplicates().tolist(),
    )
    if not places:
        raise MechoclError("there are no fitted subspaces to draw; choose places that the answer reads")
    labels = _order(seeds)
    figure = make_subplots(
        rows=len(contrasts),
        cols=len(places),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.07,
        horizontal_spacing=0.04,
        subplot_titles=[f"{contrast}: {place}" for contrast in contrasts for place in places],
    )
    for r, contrast in enumerate(contrasts, start=1):
        for c, place in enumerate(places, start=1):
            for i, control in enumerate(_CONTROLS):
                dots, diamonds = (
                    t[(t["contrast"] == contrast) & (t["place"] == place) & (t["control"] == control)]
                    for t in (seeds.dropna(subset=["value"]), means)
                )
                legend = r == c == 1
                for trace in _traces(dots, diamonds, labels, control, offset=0.24 * (i - 1), legend=legend):
                    figure.add_trace(trace, row=r, col=c)
            for level in (0, 1):
                figure.add_hline(y=level, line={"dash": "dot", "color": "#999", "width": 1}, row=r, col=c)
            figure.update_xaxes(
                tickvals=list(range(len(labels))), ticktext=labels, tickangle=-40, row=r, col=c
            )
        figure.update_yaxes(title=_VALUES[summary.quantity], row=r, col=1)
    figure.update_layout(
        height=230 * len(contrasts) + 150,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + 0.14 / len(contrasts), "x": 0},
    )
    figure.update_annotations(font_size=13)
    return styled(figure)


def _labels(rows: pd.DataFrame) -> pd.Series:
    dimensions = "rotation, k = " + rows["k"].astype(str)
    return rows["method"].where(rows["method"] != "rotation", dimensions)


def _order(rows: pd.DataFrame) -> list[str]:
    known = rows[["method", "k", "label"]].drop_duplicates()
    known = known.sort_values(
        ["method", "k"], key=lambda column: column.map(_rank) if column.name == "method" else column
    )
    found: list[str] = known["label"].tolist()
    return found


def _rank(method: str) -> int:
    return _METHODS.index(method)


def _traces(
    seeds: pd.DataFrame, means: pd.DataFrame, labels: list[str], control: str, *, offset: float, legend: bool
) -> list[go.Scatter]:
    """Seeds as dots, means with intervals as diamonds."""
    name, color = _CONTROLS[control]
    dots = go.Scatter(
        x=seeds["label"].map(labels.index).to_numpy(dtype=float) + offset,
        y=seeds["value"],
        mode="markers",
        marker={"color": color, "size": 5, "opacity": 0.35},
        text=[f"{label}<br>seed {seed}" for label, seed in zip(seeds["label"], seeds["seed"], strict=True)],
        hovertemplate="%{text}: %{y:.2f}<extra></extra>",
        legendgroup=control,
        showlegend=False,
    )
    diamonds = go.Scatter(
        x=[labels.index(label) + offset for label in means["label"]],
        y=means["mean"].tolist(),
        mode="markers",
        marker={"color": color, "size": 9, "symbol": "diamond"},
        error_y=error_bar(means["mean"], means["low"], means["high"]) | {"thickness": 1.5, "width": 4},
        name=name,
        text=[f"{label}, {name}" for label in means["label"]],
        hovertemplate="%{text}<br>mean %{y:.2f}<extra></extra>",
        legendgroup=control,
        showlegend=legend,
    )
    return [dots, diamonds]
