"""Plotly figures of features. As in `mechocl.report.plots`, nothing here computes a result, shows or saves."""

import textwrap
from typing import Final

import pandas as pd
import plotly.graph_objects as go

from mechocl.features import summaries
from mechocl.features.summaries import PatchedShares
from mechocl.report import plots
from mechocl.report.given import Given, all_are, rows_of
from mechocl.report.intervals import error_bar

_KINDS: Final = {
    "feature": ("surest feature", "#1f78c8"),
    "4 features": ("set of 4", "#e08214"),
    "16 features": ("set of 16", "#7a3b9a"),
}
_CONTROL: Final = "#8a8a8a"


def selectivity(panels: list[tuple[str, pd.DataFrame]] | Given) -> go.Figure:
    """Draw the AUC of the best feature of each property at each position.

    Panels come from `summaries.existing`; or `panels` are the rows of "sae-search".
    """
    if not all_are(panels, tuple):
        panels = [("", summaries.existing(rows_of(panels, "what", "property", "position", "auc")))]
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
    """The positions in the order of a question: alias, %, n1 …, =."""
    rank = {"alias": 0, "%": 1, "=": 99}
    names = dict.fromkeys(positions)
    return sorted(names, key=lambda p: (rank.get(p.split(" ")[0], 2), len(p), p))


def shares(patched: PatchedShares | Given, *, title: str = "") -> go.Figure:
    """Draw the share of the gap that patching moves, by property. Dots are seeds, diamonds means with 95 % intervals.

    `patched` comes from `summaries.summarize_shares`, or is the rows of "sae-test". Grey ticks are the 95th percentile of the controls.
    """
    if not isinstance(patched, PatchedShares):
        rows = rows_of(patched, "property", "intervention", "effect", "gap")
        patched = summaries.summarize_shares(summaries.surest_patches(rows.assign(sae=rows.get("sae", ""))))
    names = sorted(dict.fromkeys(patched.share.by_seed["property"]), key=_rank)
    figure = go.Figure()
    for j, (kind, (words, color)) in enumerate(_KINDS.items()):
        seeds, means, controls = (
            table[table["kind"] == kind]
            for table in (patched.share.by_seed, patched.share.estimates, patched.control.estimates)
        )
        if seeds.empty:
            continue
        shift = 0.24 * (j - 1)
        x = [names.index(name) + shift for name in means["property"]]
        figure.add_trace(_seed_dots(seeds, seeds["property"].map(names.index) + shift, color))
        figure.add_trace(_diamonds(means, x, color, words))
        control = controls.set_index("property")["mean"].reindex(means["property"])
        figure.add_trace(_ticks(control, x, showlegend=j == 0))
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


def _seed_dots(seeds: pd.DataFrame, x: pd.Series, color: str) -> go.Scatter:
    """A dot for each seed and property."""
    return go.Scatter(
        x=x,
        y=seeds["value"],
        mode="markers",
        marker={"color": color, "size": 5, "opacity": 0.4},
        text=[f"{p}<br>seed {s}" for p, s in zip(seeds["property"], seeds["seed"], strict=True)],
        hovertemplate="%{text}: %{y:.2f}<extra></extra>",
        showlegend=False,
    )


def _diamonds(means: pd.DataFrame, x: list[float], color: str, words: str) -> go.Scatter:
    """The mean of each property with its interval. There is no bar where there is one seed."""
    return go.Scatter(
        x=x,
        y=means["mean"].tolist(),
        mode="markers",
        marker={"color": color, "size": 9, "symbol": "diamond"},
        error_y=error_bar(means["mean"], means["low"], means["high"]) | {"thickness": 1.5, "width": 4},
        name=words,
        hovertemplate="mean %{y:.2f}<extra></extra>",
    )


def _ticks(control: pd.Series, x: list[float], *, showlegend: bool) -> go.Scatter:
    """The share that the controls of each property move."""
    line = {"width": 2, "color": _CONTROL}
    return go.Scatter(
        x=x,
        y=control.tolist(),
        mode="markers",
        marker={"color": _CONTROL, "size": 16, "symbol": "line-ew", "line": line},
        name="95th percentile of controls",
        showlegend=showlegend,
        legendrank=2000,
        hovertemplate="controls %{y:.2f}<extra></extra>",
    )


def _rank(name: str) -> tuple[int, str]:
    """Key that sorts the tags of new aliases first, then those of asked-about aliases, then other properties."""
    for i, start in enumerate(("new alias", "asked-about")):
        if name.startswith(start):
            return i, name
    return 2, name


def _wrapped(name: str) -> str:
    return "<br>".join(textwrap.wrap(name, 17))
