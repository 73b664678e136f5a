"""Plotly figures of what updates do: gradients along a stage, and exchanges of twins' embeddings. Nothing here computes a result, shows or saves."""

from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.errors import MechoclError
from mechocl.learning import summaries
from mechocl.learning.exchange import EXCHANGES
from mechocl.report.given import Given, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import COLORS, styled

_TAGS: Final = {1: COLORS["d1_consistent"], 2: COLORS["d2_consistent"], 3: COLORS["d3_consistent"]}

_VALUES: Final = {
    "cosine_effect": "cosine with the own questions − with others'",
    "cosine": "cosine with the own questions",
    "inner_effect": "inner product with the own questions − with others'",
    "inner": "inner product with the own questions",
}


def alignment(
    rows: Given, *, group: str = "all", correction: str = "preconditioned", value: str = "cosine_effect"
) -> go.Figure:
    """Draw how far an update on new definitions agrees with one on questions, along the stage, by the tag that the definitions are given.

    `rows` are those of the gradients analysis, of one group of weights and one correction. All tags are given to the same aliases,
    those of d1 and d2. Diamonds are means over seeds with 95 % intervals, thin lines are seeds. Above 0, the update on the definition
    lowers the loss of the questions about the same alias (more than that of questions about others, for the effects).
    """
    table = rows_of(rows, "stage", "step", "subset", "tag", "group", "correction", value)
    table = table[(table["group"] == group) & (table["correction"] == correction)]
    new = summaries.of_new_aliases(table) if len(table) else table
    new = new[new["subset"].isin(["d1_consistent", "d2_consistent"])]
    if new.empty:
        raise MechoclError(
            f"there are no gradients of {group}, {correction}, of aliases of d1 and d2; draw another group or correction"
        )
    first = new["stage"] == new["stage"].min()
    new = new.assign(moment=("step " + new["step"].astype(str)).mask(first, "before"))
    moments = list(dict.fromkeys(new.sort_values(["stage", "step"])["moment"]))
    figure = go.Figure()
    for tag, color in _TAGS.items():
        wide = (
            new[new["tag"] == tag].pivot_table(index="moment", columns="seed", values=value).reindex(moments)
        )
        wide = wide.dropna(how="all")
        if wide.empty:
            continue
        for seed in wide.columns:
            figure.add_trace(
                go.Scatter(
                    x=wide.index, y=wide[seed], mode="lines", line={"color": color, "width": 1}, opacity=0.25,
                    hoverinfo="skip", showlegend=False, legendgroup=str(tag),
                )
            )  # fmt: skip
        means = _means(wide)
        figure.add_trace(_diamonds(wide.index, means, name=f"tag {tag}", color=color, lines=True))
    figure.add_hline(y=0, line={"dash": "dot", "color": "#999", "width": 1})
    figure.update_xaxes(
        title="model from before the stage, and at its steps", type="category",
        categoryorder="array", categoryarray=moments,
    )  # fmt: skip
    figure.update_yaxes(title=_VALUES.get(value, value))
    figure.update_layout(height=420)
    return styled(figure)


def exchanges(rows: Given, *, metric: str = "auc") -> go.Figure:
    """Draw what exchanges of twins' embeddings do to the answers, towards those of tag 1. Diamonds are means over seeds with 95 %
    intervals, dots are seeds, each the mean over d1 and d2.

    `rows` are those of the twin-exchange analysis. "twin embedding" is the whole, "mean direction" the part along the mean difference of
    other twins, and "random, as long as mean direction" is its control.
    """
    table = rows_of(rows, "exchange", "subset", "metric", "tag_1_effect")
    table = table[table["metric"] == metric].dropna(subset=["tag_1_effect"])
    if table.empty:
        raise MechoclError(f"there are no exchanges in {metric!r}; draw another metric")
    wide = table.pivot_table(index="exchange", columns="seed", values="tag_1_effect")
    names = [name for name in EXCHANGES if name in wide.index]
    labels = [_wrapped(name) for name in names]
    figure = go.Figure()
    spread = np.linspace(-0.3, -0.1, len(wide.columns))
    for shift, seed in zip(spread, wide.columns, strict=True):
        figure.add_trace(
            go.Scatter(
                x=np.arange(len(names)) + shift, y=wide.loc[names, seed], mode="markers",
                marker={"color": "#9aa5b1", "size": 5}, showlegend=False,
                hovertemplate=f"seed {seed}: %{{y:+.3f}}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_trace(
        _diamonds(np.arange(len(names)), _means(wide.loc[names]), name="mean over seeds", color="#1f78c8")
    )
    figure.add_hline(y=0, line={"dash": "dot", "color": "#999", "width": 1})
    figure.update_xaxes(
        tickvals=list(range(len(names))), ticktext=labels, tickangle=0, showgrid=False, zeroline=False
    )
    figure.update_yaxes(title=f"effect towards tag 1<br>({metric.replace('_', ' ')})")
    figure.update_layout(height=440, showlegend=False)
    return styled(figure)


def _means(wide: pd.DataFrame) -> list[Estimate]:
    """The mean over seeds, the columns, of each row."""
    return [estimate(row[np.isfinite(row)], unit="seed") for row in wide.to_numpy(dtype=float)]


def _diamonds(at: object, means: list[Estimate], *, name: str, color: str, lines: bool = False) -> go.Scatter:
    ends = [[e.low, e.high] for e in means]
    bars = error_bar([e.mean for e in means], [e.low for e in means], [e.high for e in means])
    return go.Scatter(
        x=at, y=[e.mean for e in means], mode="lines+markers" if lines else "markers", name=name, legendgroup=name.removeprefix("tag "),
        marker={"color": color, "size": 10, "symbol": "diamond"}, line={"color": color, "width": 2},
        error_y=bars | {"thickness": 2, "width": 5}, customdata=[[e.n, *end] for e, end in zip(means, ends, strict=True)],
        hovertemplate=name + ": %{y:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}] over %{customdata[0]} seeds<extra></extra>",
    )  # fmt: skip


def _wrapped(text: str, *, width: int = 13) -> str:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)
