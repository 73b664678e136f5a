"""Figures of probes: the layer × token grid with its controls, emergence over training, and word orders compared."""

from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.behaviour.statistics import SHARE
from mechocl.probing import summaries
from mechocl.probing.at_landmarks import Emergence, RunsCompared, compare_runs, summarize_emergence
from mechocl.probing.summaries import Grid
from mechocl.report.given import Given, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import styled

_PANELS: Final = (
    ("mean", "the probe (* p < .05, corrected for the grid)"),
    ("shuffled", "labels shuffled"),
    ("untrained", "untrained model"),
    ("matched recency", "stages matched"),
    ("question split", "split by question: an alias on both sides"),
    ("control task", "control task: random labels, split so too"),
)

_COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
TITLES: Final = {"auc": "AUC", "accuracy": "balanced accuracy"}


def grid(probed: Grid | Given, *, probe: str = "") -> go.Figure:
    """Draw layer × token heatmaps of a probe, as means over seeds, beside its controls. Sites run from the bottom up.

    `probed` is one of `probing.summaries.probe_grids`, or what `mechocl.probe` returned; of its probes, the one called `probe` is
    drawn, or the first one.
    """
    if not isinstance(probed, Grid):
        probed = summaries.grid_of_probe(rows_of(probed, "probe", "control", "position"), probe)
    found, value, floor = probed.cells, probed.statistic, probed.chance
    panels = [(name, title) for name, title in _PANELS if name in found]
    columns = min(2, len(panels))
    n_rows = -(-len(panels) // columns)
    height = 66 + 26 * found[["site", "layer"]].drop_duplicates().shape[0]
    figure = make_subplots(
        rows=n_rows,
        cols=columns,
        subplot_titles=[title for _, title in panels],
        shared_yaxes=True,
        horizontal_spacing=0.03,
        vertical_spacing=min(0.3, 84 / (n_rows * height + 100)),
    )
    for i, (name, title) in enumerate(panels):
        cells = summaries.grid_table(found, name)
        numbers = cells.to_numpy(dtype=float)
        text = [[f"{v:.2f}".removeprefix("0") if np.isfinite(v) else "" for v in line] for line in numbers]
        hover = [[f"{v:.3f}" for v in line] for line in numbers]
        if name == "mean":
            p = summaries.grid_table(found, "p").to_numpy(dtype=float)
            ends = [summaries.grid_table(found, end).to_numpy(dtype=float) for end in ("low", "high")]
            for r, c in np.ndindex(p.shape):
                text[r][c] += "*" if p[r, c] < summaries.LEVEL else ""
                hover[r][c] += f" [{ends[0][r, c]:.3f}, {ends[1][r, c]:.3f}]<br>corrected p = {p[r, c]:.3f}"
        figure.add_trace(
            go.Heatmap(
                z=numbers,
                x=list(cells.columns),
                y=list(cells.index),
                text=text,
                customdata=hover,
                texttemplate="%{text}",
                coloraxis="coloraxis",
                hovertemplate=f"{title}<br>%{{y}}, %{{x}}: %{{customdata}}<extra></extra>",
            ),
            row=i // columns + 1,
            col=i % columns + 1,
        )
    figure.update_xaxes(tickangle=0, tickfont={"size": 10})
    figure.update_layout(
        height=n_rows * height + 120,
        coloraxis={
            "colorscale": "Viridis",
            "cmin": min(floor, 0.4) if value == "auc" else floor,
            "cmax": 1.0,
            "colorbar": {"title": TITLES[value]},
        },
    )
    figure.update_annotations(font_size=12)
    return styled(figure)


def emergence(emerging: Emergence | Given) -> go.Figure:
    """Draw a probe's statistic at its landmarks over the checkpoints of one run: mean and 95 % interval over seeds.

    The dotted line is the value that a place must exceed to be significant in the whole grid. Dashed lines part the
    stages.
    """
    if not isinstance(emerging, Emergence):
        emerging = summarize_emergence(rows_of(emerging, "stage", "step", "epoch", "control"))
    when = emerging.checkpoints
    labels = [f"stage {r.stage}<br>{float(f'{r.epoch:.2g}'):g}" for r in when.itertuples()]
    at = pd.MultiIndex.from_frame(when[["stage", "step"]])
    figure = go.Figure()
    for place, color in zip(emerging.landmarks, _COLORS, strict=False):
        e = _at(emerging.scores.estimates, place).set_index(["stage", "step"]).reindex(at)
        name = _place_name(place)
        figure.add_trace(
            go.Scatter(
                x=labels,
                y=e["mean"].tolist(),
                error_y=error_bar(e["mean"], e["low"], e["high"], bounds=SHARE)
                | {"thickness": 1.2, "width": 3},
                mode="lines+markers",
                name=name,
                line={"color": color},
                hovertemplate=f"{name}<br>%{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )
    if when["threshold"].notna().any():
        figure.add_trace(
            go.Scatter(
                x=labels,
                y=when["threshold"].tolist(),
                mode="lines",
                name="significant above",
                line={"color": "#999", "dash": "dot"},
            )
        )
    for i in range(1, len(when)):
        if when["stage"].iloc[i] != when["stage"].iloc[i - 1]:
            figure.add_vline(x=i - 0.5, line={"dash": "dash", "color": "#bbb", "width": 1})
    figure.update_layout(
        height=420,
        yaxis={"title": TITLES[emerging.statistic]},
        xaxis={"title": "stage, and its epoch", "type": "category", "tickangle": 0},
    )
    return styled(figure)


def word_orders(compared: RunsCompared | Given) -> go.Figure:
    """Draw one probe at its landmarks, run beside run: a dot per seed, and the mean with its 95 % interval. Gaps are below."""
    if not isinstance(compared, RunsCompared):
        compared = compare_runs(rows_of(compared, "run", "word_order", "control"))
    runs, gaps = compared.runs, compared.gaps
    twice = runs["word_order"].duplicated(keep=False).any()
    names = [f"{r.word_order}<br>{r.run}" if twice else str(r.word_order) for r in runs.itertuples()]
    figure = make_subplots(
        rows=1 if gaps is None else 2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.12,
        subplot_titles=["what the probe reads"]
        + ([] if gaps is None else ["implicit meta-learning, d1 − d2"]),
    )
    line = {"dash": "dot", "color": "#999", "width": 1}
    for j, (place, color) in enumerate(zip(compared.landmarks, _COLORS, strict=False)):
        seeds, means = _at(compared.scores.by_seed, place), _at(compared.scores.estimates, place)
        shift = (j - (len(compared.landmarks) - 1) / 2) * 0.14
        _dots(figure, seeds, means, runs["run"], shift=shift, name=_place_name(place), color=color, row=1)
    if gaps is not None:
        name = f"IML gap ({compared.metric})"
        _dots(figure, gaps.by_seed, gaps.estimates, runs["run"], shift=0.0, name=name, color="#444", row=2)
        figure.add_hline(y=0, line=line, row=2, col=1)
        figure.update_yaxes(title=compared.metric, row=2, col=1)
    figure.add_hline(y=compared.chance, line=line, row=1, col=1)
    figure.update_yaxes(title=TITLES[compared.statistic], row=1, col=1)
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=names, range=[-0.5, len(names) - 0.5])
    figure.update_layout(height=400 if gaps is None else 620)
    return styled(figure)


def _at(table: pd.DataFrame, place: tuple[str, int, str]) -> pd.DataFrame:
    """The rows of one place."""
    site, layer, position = place
    return table[(table["site"] == site) & (table["layer"] == layer) & (table["position"] == position)]


def _place_name(place: tuple[str, int, str]) -> str:
    """The name of a place, such as `=, L0 resid_post`."""
    site, layer, position = place
    return f"{position}, {'embedding' if (site, layer) == ('resid_pre', 0) else f'L{layer} {site}'}"


def _dots(
    figure: go.Figure,
    seeds: pd.DataFrame,
    means: pd.DataFrame,
    runs: pd.Series,
    *,
    shift: float,
    name: str,
    color: str,
    row: int,
) -> None:
    """Draw the seeds of each run as dots, and beside them their mean with its interval."""
    groups = [seeds.loc[seeds["run"] == run, "value"].dropna().to_numpy(dtype=float) for run in runs]
    x = np.concatenate([np.full(len(g), i + shift - 0.03) for i, g in enumerate(groups)])
    figure.add_trace(
        go.Scatter(
            x=x, y=np.concatenate(groups), mode="markers", showlegend=False, legendgroup=name,
            marker={"color": color, "size": 5, "opacity": 0.4}, hovertemplate=f"{name}: %{{y:.3f}}<extra></extra>",
        ),
        row=row,
        col=1,
    )  # fmt: skip
    e = means.set_index("run").reindex(runs)
    figure.add_trace(
        go.Scatter(
            x=np.arange(len(groups)) + shift + 0.03, y=e["mean"].tolist(), mode="markers", name=name,
            legendgroup=name, marker={"color": color, "size": 9, "symbol": "diamond"},
            error_y=error_bar(e["mean"], e["low"], e["high"]) | {"thickness": 1.5, "width": 4},
            hovertemplate=f"{name}<br>mean %{{y:.3f}}<extra></extra>",
        ),
        row=row,
        col=1,
    )  # fmt: skip


def cosines(pairs: Given) -> go.Figure:
    """Draw how alike probe directions are between places, checkpoints and seeds (`probe_directions.compare`).

    There is one dot for each pair. 95 % of the pairs with shuffled labels stay below the bar.
    """
    pairs = rows_of(pairs, "compared", "cosine", "null")
    figure = go.Figure()
    kinds = list(dict.fromkeys(pairs["compared"]))
    for i, kind in enumerate(kinds):
        part = pairs[pairs["compared"] == kind]
        spread = np.linspace(-0.3, 0.3, len(part)) if len(part) > 1 else np.zeros(1)
        figure.add_trace(
            go.Scatter(
                x=i + spread, y=part["cosine"].abs(), mode="markers", name=kind, text=part["first"] + " – " + part["second"],
                marker={"color": _COLORS[i], "size": 5, "opacity": 0.5},
                hovertemplate="%{text}: %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
        figure.add_trace(
            go.Scatter(
                x=[i - 0.35, i + 0.35], y=[part["null"].mean()] * 2, mode="lines", line={"color": "#444", "dash": "dot"},
                name="95 % of shuffled", showlegend=i == 0, hovertemplate="shuffled, 95 %%: %{y:.3f}<extra></extra>",
            )
        )  # fmt: skip
    figure.update_layout(
        height=380,
        xaxis={"tickvals": list(range(len(kinds))), "ticktext": kinds},
        yaxis={"title": "|cosine|", "range": [0, 1.02]},
    )
    return styled(figure)
