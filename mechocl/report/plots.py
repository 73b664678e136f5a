"""Plotly figures of results. Nothing here computes a result, shows, saves or touches a model."""

from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.behaviour import over_seeds
from mechocl.behaviour.formats import NOT_MEASURED, WHY_NOT_MEASURED
from mechocl.behaviour.over_seeds import SubsetEstimate
from mechocl.errors import MechoclError
from mechocl.interventions.summaries import PatchedGrid, summarize_patching
from mechocl.lenses.attention import attention_array
from mechocl.report.given import Given, all_are, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.shown_figures import ShownFigure
from toy_models.subsets import SUBSETS

COLORS: Final = {
    "qd1_consistent": "#0b6e4f",
    "qd1_inconsistent": "#73bfa0",
    "qd2_consistent": "#e7a977",
    "qd2_inconsistent": "#b5460f",
    "d2_noise": "#d9822b",
    "d2_unasked": "#8f5a2a",
    "q_only": "#6c6c6c",
    "q_entity": "#9b9b9b",
    "d1_consistent": "#1f78c8",
    "d2_consistent": "#c2255c",
    "d3_consistent": "#7048a8",
    "no_data": "#adadad",
}

_GREY: Final = "#d9d9d9"

_TITLES: Final = {
    "auc": "within-alias AUC",
    "accuracy": "accuracy",
    "logit_difference": "true-logit difference (nats)",
    "recall": "definition recall",
    "exact_match": "exact match",
    "log_probability": "log-probability of the answer (nats)",
}


def label(subset: str) -> str:
    """The paper's notation for a subset and our name: `Ḋ₅ᶜᵒⁿˢ d1_consistent`."""
    return f"{SUBSETS[subset].notation} {subset}"


def training_curves(history: Given, *, metrics: Sequence[str] = ("auc", "recall")) -> go.Figure:
    """Draw the evaluations during training by subset. The mean over seeds is bold, single seeds are thin.

    `history` has the columns seed, stage, epoch, subset and the metrics, as from `run.seed(0).history()`.
    """
    history = rows_of(history, "stage", "epoch", "subset", *metrics)
    stages = sorted(history["stage"].unique())
    figure = make_subplots(
        rows=len(metrics),
        cols=len(stages),
        shared_yaxes=True,
        vertical_spacing=0.14,
        horizontal_spacing=0.05,
        subplot_titles=[f"stage {s}" for s in stages] + [""] * len(stages) * (len(metrics) - 1),
    )
    present = [s for s in SUBSETS if s in set(history["subset"])]
    for r, metric in enumerate(metrics, start=1):
        for c, stage in enumerate(stages, start=1):
            for subset in present:
                part = history[(history["stage"] == stage) & (history["subset"] == subset)]
                part = part.dropna(subset=[metric])
                if part.empty:
                    continue
                line = {"color": COLORS[subset]}
                for _, seed in part.groupby("seed"):
                    thin = {"line": line | {"width": 1}, "opacity": 0.25, "hoverinfo": "skip"}
                    trace = go.Scatter(
                        x=seed["epoch"],
                        y=seed[metric],
                        mode="lines",
                        showlegend=False,
                        legendgroup=subset,
                        **thin,
                    )
                    figure.add_trace(trace, row=r, col=c)
                mean = part.groupby("epoch")[metric].mean()
                trace = go.Scatter(
                    x=mean.index,
                    y=mean,
                    mode="lines+markers",
                    marker={"size": 4},
                    line=line | {"width": 2.5},
                    name=label(subset),
                    legendgroup=subset,
                    showlegend=bool(r == 1 and c == 1),
                    hovertemplate=f"{subset}<br>epoch %{{x:.3g}}: %{{y:.3f}}<extra></extra>",
                )
                figure.add_trace(trace, row=r, col=c)
            if metric in ("auc", "accuracy"):
                figure.add_hline(y=0.5, line={"dash": "dot", "color": "#999", "width": 1}, row=r, col=c)
            if r == len(metrics):
                figure.update_xaxes(title="epoch of the stage", row=r, col=c)
        figure.update_yaxes(title=_TITLES[metric], row=r, col=1)
        if metric == "recall":  # where it is 0 everywhere, the axis would reach below 0
            figure.update_yaxes(rangemode="nonnegative", row=r)
    figure.update_layout(height=280 * len(metrics) + 120, legend=_legend_above(len(metrics)))
    return styled(figure)


def subset_values(
    estimates: list[SubsetEstimate] | Given, per_seed: pd.DataFrame | None = None, *, metric: str = "auc"
) -> go.Figure:
    """Draw each subset's value: one dot per seed, and beside them the mean with its 95 % interval.

    `estimates` and `per_seed` are those of `over_seeds.subsets` and `over_seeds.by_seed`; or `estimates` alone are rows of `per_alias`.
    """
    if per_seed is None:
        rows = rows_of(estimates, "alias", "subset", metric)
        estimates, per_seed = over_seeds.subsets(rows), over_seeds.by_seed(rows)
    assert isinstance(estimates, list)
    chosen = [e for e in estimates if e.metric == metric]
    figure = go.Figure()
    for i, e in enumerate(chosen):
        seeds = per_seed[per_seed["subset"] == e.subset]
        figure.add_trace(
            go.Scatter(
                x=np.full(len(seeds), i - 0.12),
                y=seeds[metric],
                mode="markers",
                marker={"color": COLORS[e.subset], "size": 7, "opacity": 0.5},
                text=[f"seed {s}" for s in seeds["seed"]],
                hovertemplate="%{text}: %{y:.3f}<extra></extra>",
                showlegend=False,
            )
        )
        bar = error_bar([e.estimate.mean], [e.estimate.low], [e.estimate.high]) | {"thickness": 2, "width": 6}
        figure.add_trace(
            go.Scatter(
                x=[i + 0.12],
                y=[e.estimate.mean],
                mode="markers",
                marker={"color": COLORS[e.subset], "size": 11, "symbol": "diamond"},
                error_y=bar if np.isfinite(e.estimate.high) else None,
                hovertemplate=f"{e.subset}<br>mean %{{y:.3f}} over {e.estimate.n} {'aliases' if e.estimate.unit == 'alias' else 'seeds'}<extra></extra>",
                showlegend=False,
            )
        )
    if metric in ("auc", "accuracy"):
        figure.add_hline(
            y=0.5,
            line={"dash": "dot", "color": "#999", "width": 1},
            annotation_text="chance",
            annotation_position="bottom left",
        )
    ticks = {
        "tickvals": list(range(len(chosen))),
        "ticktext": [f"{SUBSETS[e.subset].notation}<br>{e.subset}" for e in chosen],
    }
    figure.update_layout(xaxis=ticks, yaxis={"title": _TITLES[metric]}, height=400)
    return styled(figure)


def patching(
    grids: Sequence[PatchedGrid] | Given, *, value: Literal["effect", "normalised"] = "effect"
) -> go.Figure:
    """Draw the mean effect over seeds of patching each site at each position, with one panel per contrast.

    `grids` come from `interventions.summaries.summarize_patching`; or they are what `patch_activations` returned, or the
    rows of "patch". The interval and every seed's value are in the cells' hover text. Cells that were not measured, because
    nothing was exchanged there, are grey. `value`: the effect in the metric's unit, or `normalised`, from 0 (the corrupted run) to 1
    (the clean one). Raises MechoclError for summaries of another value.
    """
    if not all_are(grids, PatchedGrid):
        grids = summarize_patching(rows_of(grids, "contrast", "site", "position", value), value=value)
    shown = grids[0].cells.quantity
    if value not in ("effect", shown):
        raise MechoclError(
            f"value is {value!r}, and the summaries are of {shown!r}; give what patch_activations returned"
        )
    panels = [
        (f"{one.contrast}<br>clean {one.clean:+.2f}, corrupted {one.corrupted:+.2f}", one.means)
        for one in grids
    ]
    sizes = np.concatenate([np.abs(grid.to_numpy(dtype=float)).ravel() for _, grid in panels])
    limit = float(np.nanmax(sizes)) if np.isfinite(sizes).any() else 1.0
    unit = grids[0].unit if shown == "effect" else "share"
    hovers = [_seed_values(one) for one in grids]
    return heatmaps(
        panels, scale="RdBu", low=-limit, high=limit, title=f"{shown} ({unit})", digits=2, hovers=hovers
    )


def _seed_values(grid: PatchedGrid) -> pd.DataFrame:
    """A table with the interval and the values by seed of each cell, as text."""
    found = grid.cells.estimates.set_index(["site", "position"])
    by_seed = grid.cells.by_seed.groupby(["site", "position"])["value"]
    seeds = by_seed.agg(lambda x: ", ".join(f"{v:+.2f}" if np.isfinite(v) else NOT_MEASURED for v in x))
    text = grid.means.astype(object)
    for site in text.index:
        for position in text.columns:
            row = found.loc[(site, position)] if (site, position) in found.index else None
            interval = "" if row is None or row["seeds"] < 2 else f" [{row['low']:+.2f}, {row['high']:+.2f}]"
            each = f"seeds: {seeds[site, position]}" if (site, position) in seeds.index else "no such place"
            text.loc[site, position] = f"{interval}<br>{each}"
    return text


def attention(
    pattern: np.ndarray | Given, tokens: Sequence[str] | None = None, *, layer: int = 0
) -> go.Figure:
    """Draw the attention probabilities of the heads of one layer. Rows are queries, columns are keys.

    `pattern` has the shape (layer, head, query, key); or it is the rows of one question (of the first one, if there are several)
    as `attention_patterns` returns them. Without `tokens`, positions are numbered.
    """
    if not isinstance(pattern, np.ndarray):
        rows = rows_of(pattern, "question", "layer", "head", "query", "key", "value")
        first = (rows["question"] == rows["question"].iloc[0]) & (rows["seed"] == rows["seed"].iloc[0])
        pattern = attention_array(rows[first])
    if not -len(pattern) <= layer < len(pattern):
        raise MechoclError(f"layer {layer}: the pattern has the layers 0 to {len(pattern) - 1}")
    count = pattern.shape[-1]
    if tokens is not None and len(tokens) != count:
        raise MechoclError(
            f"tokens are {len(tokens)}, and the pattern has {count} positions; give one for each"
        )
    names = [str(i) for i in range(count)] if tokens is None else [f"{i}: {t}" for i, t in enumerate(tokens)]
    panels = [
        (f"L{layer}H{h}", pd.DataFrame(pattern[layer, h], index=names, columns=names))
        for h in range(pattern.shape[1])
    ]
    return heatmaps(panels, scale="Blues", low=0.0, high=1.0, title="attention", digits=None, bottom_up=False)


def heatmaps(
    panels: list[tuple[str, pd.DataFrame]],
    *,
    scale: str,
    low: float,
    high: float,
    title: str,
    digits: int | None,
    bottom_up: bool = True,
    hovers: list[pd.DataFrame] | None = None,
) -> go.Figure:
    """Draw tables of numbers as heatmaps on one colour scale, two in a row. `hovers` has more text for each cell.

    Missing numbers are grey cells, and a line above the panels says that they were not measured.
    """
    columns = min(2, len(panels))
    n_rows = -(-len(panels) // columns)
    per_row = 70 + 34 * max(len(grid) for _, grid in panels)
    figure = make_subplots(
        rows=n_rows,
        cols=columns,
        subplot_titles=[name for name, _ in panels],
        horizontal_spacing=0.12,
        vertical_spacing=min(0.3, 75 / (n_rows * per_row + 100)),
    )
    for i, (name, grid) in enumerate(panels):
        row, col = divmod(i, columns)
        heatmap = go.Heatmap(
            z=grid.to_numpy(),
            x=[str(c) for c in grid.columns],
            y=[str(r) for r in grid.index],
            coloraxis="coloraxis",
            texttemplate="" if digits is None else f"%{{z:.{digits}f}}",
            customdata=hovers[i].to_numpy() if hovers else None,
            hovertemplate=f"{name}<br>%{{y}}, %{{x}}: %{{z:.3f}}{'%{customdata}' if hovers else ''}<extra></extra>",
        )
        figure.add_trace(heatmap, row=row + 1, col=col + 1)
        if grid.isna().to_numpy().any():
            figure.add_trace(_unmeasured(name, grid), row=row + 1, col=col + 1)
        if not bottom_up:
            figure.update_yaxes(autorange="reversed", row=row + 1, col=col + 1)
    figure.update_layout(
        height=n_rows * per_row + 110,
        coloraxis={"colorscale": scale, "cmin": low, "cmax": high, "colorbar": {"title": title}},
    )
    figure.update_annotations(font_size=13)
    if any(grid.isna().to_numpy().any() for _, grid in panels):
        figure.add_annotation(
            text=f"grey: {WHY_NOT_MEASURED}", x=0, y=0, xref="paper", yref="paper", yshift=-45, xanchor="left",
            showarrow=False, font={"size": 12},
        )  # fmt: skip
    return styled(figure)


def _unmeasured(name: str, grid: pd.DataFrame) -> go.Heatmap:
    """Grey cells in the places of a table's missing numbers."""
    missing = grid.isna().to_numpy()
    return go.Heatmap(
        z=np.where(missing, 0.0, np.nan),
        x=[str(c) for c in grid.columns],
        y=[str(r) for r in grid.index],
        colorscale=[[0, _GREY], [1, _GREY]],
        showscale=False,
        hoverongaps=False,
        hovertemplate=f"{name}<br>%{{y}}, %{{x}}: {NOT_MEASURED}<extra></extra>",
    )


def _legend_above(rows: int) -> dict[str, object]:
    return {"orientation": "h", "yanchor": "bottom", "y": 1 + 0.16 / rows, "x": 0}


def styled(figure: go.Figure) -> ShownFigure:
    """The figure in the style of all figures here. It shows itself in every notebook (`shown_figures`)."""
    shown = ShownFigure(figure)
    shown.update_layout(template="plotly_white", font={"size": 12})
    for axis in (*shown.select_xaxes(), *shown.select_yaxes()):
        if axis.ticktext:  # the place 0 of a category is no zero
            axis.zeroline = False
    return shown
