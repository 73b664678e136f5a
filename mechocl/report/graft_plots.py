"""Plotly figure of weight grafts. As in `mechocl.report.plots`, nothing here computes, shows or saves."""

from collections.abc import Sequence
from typing import Final, Literal

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.interventions import grafting
from mechocl.interventions.grafting import ALL_BUT, ALONE, GraftEstimate
from mechocl.report.given import Given, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import COLORS, label, styled
from toy_models.subsets import SUBSETS

_KINDS: Final = {
    ALONE: "grafted alone: 1 = enough for the gain",
    ALL_BUT: "all but it grafted: 0 = needed for the gain",
}

_QUANTITIES: Final = {
    "share": "share of stage 2's gain",
    "effect": "effect",
    "value": "value",
}

_METRICS: Final = {"auc": "within-alias AUC", "accuracy": "accuracy", "recall": "definition recall"}


def grafts(
    estimates: Sequence[GraftEstimate] | Given,
    rows: pd.DataFrame | None = None,
    *,
    metric: str = "auc",
    column: Literal["value", "effect", "share"] = "share",
) -> go.Figure:
    """Draw what each group of weights carries, by subset. Bars are means over seeds with 95 % intervals, dots are seeds.

    `estimates` come from `grafting.estimates` of the same rows, metric and column; or they are the rows alone. The upper panel has groups that are
    grafted alone, and the steering vectors. In the lower panel all groups except one are grafted. Groups that stage 2 did
    not change are left out.
    """
    if rows is None:
        rows = rows_of(estimates, "group", "kind", "subset", "metric", "change", column)
        estimates = grafting.estimates(rows, metric=metric, column=column)
    rows = rows[(rows["metric"] == metric) & (rows["change"] > 0) & (rows["group"] != "all")]
    rows = rows[rows["subset"].map(lambda name: SUBSETS[name].stage == 2)]
    groups = list(dict.fromkeys(rows["group"]))
    subsets = [name for name in SUBSETS if name in set(rows["subset"])]
    width = 0.8 / max(1, len(subsets))
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.18, subplot_titles=list(_KINDS.values())
    )
    for i, kind in enumerate(_KINDS, start=1):
        for j, subset in enumerate(subsets):
            at = {group: k + (j - (len(subsets) - 1) / 2) * width for k, group in enumerate(groups)}
            here = [e for e in estimates if (e.kind, e.subset) == (kind, subset) and e.group in at]
            figure.add_trace(_bars(here, at, subset, width, first=i == 1), row=i, col=1)
            seeds = rows[(rows["kind"] == kind) & (rows["subset"] == subset)].dropna(subset=[column])
            figure.add_trace(_dots(seeds, at, subset, width, column), row=i, col=1)
        for y in (0, 1) if column == "share" else (0,):
            figure.add_hline(
                y=y, line={"color": "#999", "width": 1, "dash": "dot" if y else "solid"}, row=i, col=1
            )
        figure.update_yaxes(title=f"{_QUANTITIES[column]}<br>({_METRICS[metric]})", row=i, col=1)
    ticks = {
        "tickvals": list(range(len(groups))),
        "ticktext": ["<br>".join(g.rsplit(" ", 1)) for g in groups],
    }
    figure.update_xaxes(**ticks, range=[-0.6, len(groups) - 0.4], showgrid=False, showticklabels=True)
    figure.update_layout(
        height=760, barmode="overlay", legend={"orientation": "h", "yanchor": "bottom", "y": 1.06}
    )
    return styled(figure)


def _bars(
    estimates: Sequence[GraftEstimate], at: dict[str, float], subset: str, width: float, *, first: bool
) -> go.Bar:
    ends = [[e.estimate.low, e.estimate.high] for e in estimates]
    bars = error_bar(
        [e.estimate.mean for e in estimates], [low for low, _ in ends], [high for _, high in ends]
    )
    return go.Bar(
        x=[at[e.group] for e in estimates],
        y=[e.estimate.mean for e in estimates],
        width=width * 0.92,
        error_y=bars | {"thickness": 1.5, "width": 4, "color": "#222"},
        marker={"color": COLORS[subset], "opacity": 0.75},
        name=label(subset),
        legendgroup=subset,
        showlegend=first,
        customdata=[[e.group, e.estimate.n, *end] for e, end in zip(estimates, ends, strict=True)],
        hovertemplate=f"%{{customdata[0]}}, {subset}<br>%{{y:.3f}} [%{{customdata[2]:.3f}}, %{{customdata[3]:.3f}}] over %{{customdata[1]}} seeds<extra></extra>",
    )


def _dots(seeds: pd.DataFrame, at: dict[str, float], subset: str, width: float, column: str) -> go.Scatter:
    # the dots are to the left of the interval, each seed at its own place
    number = seeds["seed"].rank(method="dense").to_numpy() - 1
    spread = number / max(1.0, float(number.max(initial=0))) - 1.0
    return go.Scatter(
        x=seeds["group"].map(at).to_numpy(dtype=float) + 0.4 * width * spread,
        y=seeds[column],
        mode="markers",
        marker={"color": COLORS[subset], "size": 5, "line": {"color": "#fff", "width": 0.7}},
        text=[f"seed {seed}" for seed in seeds["seed"]],
        hovertemplate="%{text}: %{y:.3f}<extra></extra>",
        legendgroup=subset,
        showlegend=False,
    )
