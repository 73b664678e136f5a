"""Features → plotly figures. As in `mechocl.report.plots`, nothing here computes a result, shows or saves."""

import textwrap
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechocl.behaviour.statistics import estimate
from mechocl.features import summaries
from mechocl.report import plots

_KINDS: Final = {
    "feature": ("surest feature", "#1f78c8"),
    "4 features": ("set of 4", "#e08214"),
    "16 features": ("set of 16", "#7a3b9a"),
}
_CONTROL: Final = "#8a8a8a"


def selectivity(panels: list[tuple[str, pd.DataFrame]]) -> go.Figure:
    """AUC of the best feature of each property at each position; panels of `summaries.existing`."""
    grids = []
    shown = _first_seen(pd.concat([table for _, table in panels]))  # the same rows in all panels
    for name, table in panels:
        positions = _in_order(table["position"])
        wide = table.pivot(index="property", columns="position", values="auc")
        wide = wide.reindex(index=shown, columns=positions)
        grids.append((name, wide.set_axis([_wrapped(name) for name in wide.index])))
    figure = plots.heatmaps(
        grids,
        scale="RdBu_r",
        low=0.0,
        high=1.0,
        title="AUC,<br>held-out<br>aliases",
        digits=2,
        bottom_up=False,
    )
    return figure.update_yaxes(showticklabels=False, col=2) if len(panels) > 1 else figure


def _first_seen(table: pd.DataFrame) -> list[str]:
    rank = {name: i for i, name in enumerate(summaries.SHOWN)}
    ordered = table.assign(rank=table["group"].map(rank)).sort_values(["rank", "property"], kind="stable")
    return list(dict.fromkeys(ordered["property"]))


def _in_order(positions: pd.Series) -> list[str]:
    """alias, %, n1 …, = in the order of a question."""
    rank = {"alias": 0, "%": 1, "=": 99}
    names = dict.fromkeys(positions)
    return sorted(names, key=lambda p: (rank.get(p.split(" ")[0], 2), len(p), p))


def shares(rows: pd.DataFrame, *, title: str) -> go.Figure:
    """The share of the gap that patching moves, by property: dots are seeds, diamonds means with 95 % intervals.

    `rows` of `sae-test` over seeds, or `summaries.surest_patches` of them. Grey ticks: the 95th percentile of the controls.
    """
    best = rows if "kind" in rows else summaries.surest_patches(rows)
    best = best.dropna(subset=["share"])
    names = sorted(dict.fromkeys(best["property"]), key=_rank)
    figure = go.Figure()
    for j, (kind, (words, color)) in enumerate(_KINDS.items()):
        part = (
            best[best["kind"] == kind]
            .groupby(["property", "seed"], sort=False)[["share", "control"]]
            .mean()
            .reset_index()
        )
        if part.empty:
            continue
        at = part["property"].map(names.index) + 0.24 * (j - 1)
        figure.add_trace(
            go.Scatter(
                x=at,
                y=part["share"],
                mode="markers",
                marker={"color": color, "size": 5, "opacity": 0.4},
                text=[f"{p}<br>seed {s}" for p, s in zip(part["property"], part["seed"], strict=True)],
                hovertemplate="%{text}: %{y:.2f}<extra></extra>",
                showlegend=False,
            )
        )
        groups = [(str(name), own) for name, own in part.groupby("property", sort=False)]
        found = [estimate(own["share"].to_numpy(dtype=float), unit="seed") for _, own in groups]
        x = [names.index(name) + 0.24 * (j - 1) for name, _ in groups]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[e.mean for e in found],
                mode="markers",
                marker={"color": color, "size": 9, "symbol": "diamond"},
                error_y={
                    "array": np.nan_to_num([e.high - e.mean for e in found]),
                    "thickness": 1.5,
                    "width": 4,
                },
                name=words,
                hovertemplate="mean %{y:.2f}<extra></extra>",
            )
        )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=[own["control"].mean() for _, own in groups],
                mode="markers",
                marker={
                    "color": _CONTROL,
                    "size": 16,
                    "symbol": "line-ew",
                    "line": {"width": 2, "color": _CONTROL},
                },
                name="95th percentile of controls",
                showlegend=j == 0,
                legendrank=2000,
                hovertemplate="controls %{y:.2f}<extra></extra>",
            )
        )
    figure.add_hline(y=0, line={"color": "#999", "width": 1})
    figure.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[_wrapped(name) for name in names],
        range=[-0.6, len(names) - 0.4],
    )
    figure.update_yaxes(title="share of the gap in the answers")
    figure.update_layout(
        height=450,
        title={"text": title, "x": 0.01, "y": 0.98, "yanchor": "top", "font": {"size": 14}},
        margin={"t": 90},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.03},
    )
    return plots.styled(figure)


def _rank(name: str) -> tuple[int, str]:
    """New aliases' tags first, then asked-about ones', then the rest."""
    for i, start in enumerate(("new alias", "asked-about")):
        if name.startswith(start):
            return i, name
    return 2, name


def _wrapped(name: str) -> str:
    return "<br>".join(textwrap.wrap(name, 17))
