"""Plotly figures of sweeps and dynamics. As in `mechocl.report.plots`, nothing here computes, shows or saves."""

from collections.abc import Sequence
from numbers import Real
from typing import Final

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl.behaviour import formats
from mechocl.behaviour.equal_loss import GapCurves, summarize_gap
from mechocl.behaviour.over_seeds import SeedSummary
from mechocl.errors import MechoclError
from mechocl.report.given import Given, all_are, rows_of
from mechocl.report.intervals import error_bar
from mechocl.report.plots import COLORS, label, styled
from mechocl.runs import sweep_summaries
from mechocl.runs.sweep_summaries import Summary
from toy_models.subsets import SUBSETS


def phase_diagram(settings: Sequence[Summary] | Given, *, contrast: str = "strong") -> go.Figure:
    """Draw where internalization lives: one contrast in AUC over the settings of a sweep.

    With one swept field the figure shows AUC by subset, and the contrast with its 95 % interval, over the field's values.
    With more fields it is a map, with the first field down and the other fields across. Each cell has the difference, the
    half-width of its interval, and the number of runs and of failures.
    """
    if not all_are(settings, Summary):
        settings = sweep_summaries.summaries(rows_of(settings, "seed", "failed"))
    assert isinstance(settings, Sequence)
    keys = list(settings[0].setting)
    return _phase_map(settings, keys, contrast) if len(keys) > 1 else _phase_line(settings, keys, contrast)


def _phase_line(settings: Sequence[Summary], keys: Sequence[str], contrast: str) -> go.Figure:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.55, 0.45])
    values = [one.setting[keys[0]] if keys else "" for one in settings]
    x = [str(value) for value in values]
    ordered = all(isinstance(value, Real) for value in values)  # no line between words
    mode = "lines+markers" if ordered else "markers"
    for subset in [s for s in SUBSETS if any(s in one.auc for one in settings)]:
        y = [one.auc[subset].mean if subset in one.auc else np.nan for one in settings]
        trace = go.Scatter(x=x, y=y, mode=mode, name=label(subset), line={"color": COLORS[subset]})
        figure.add_trace(trace, row=1, col=1)
    for name, color in (("weak", "#6c6c6c"), (contrast, "#1f78c8")):
        estimates = [one.contrasts.get(name) for one in settings]
        mean = [e.mean if e else np.nan for e in estimates]
        ends = [(e.low, e.high) if e else (np.nan, np.nan) for e in estimates]
        trace = go.Scatter(
            x=x,
            y=mean,
            error_y=error_bar(mean, [low for low, _ in ends], [high for _, high in ends], bounds=(-1.0, 1.0)),
            mode=mode,
            name=f"{name} internalization",
            line={"color": color, "dash": "dot" if name == "weak" else "solid"},
        )
        figure.add_trace(trace, row=2, col=1)
    figure.add_hline(y=0.5, line={"color": "#bbbbbb", "width": 1}, row=1, col=1)
    figure.add_hline(y=0, line={"color": "#bbbbbb", "width": 1}, row=2, col=1)
    figure.update_yaxes(title="AUC", row=1, col=1)
    figure.update_yaxes(title="AUC difference", row=2, col=1)
    figure.update_xaxes(title=keys[0] if keys else "", type="category", row=2, col=1)
    return styled(figure).update_layout(height=620, width=860, margin={"t": 30, "b": 60})


def _phase_map(settings: Sequence[Summary], keys: Sequence[str], contrast: str) -> go.Figure:
    down = list(dict.fromkeys(str(one.setting[keys[0]]) for one in settings))
    names = [", ".join(f"{k.split('.')[-1]} {one.setting[k]}" for k in keys[1:]) for one in settings]
    across = list(dict.fromkeys(names))
    values = np.full((len(down), len(across)), np.nan)
    text = np.full(values.shape, "", dtype=object)
    for one, name in zip(settings, names, strict=True):
        cell = down.index(str(one.setting[keys[0]])), across.index(name)
        e = one.contrasts.get(contrast)
        failed = f", {one.failed} failed" if one.failed else ""
        text[cell] = f"{one.runs} runs{failed}"
        if e is not None:
            values[cell] = e.mean
            half = f" ± {e.high - e.mean:.3f}" if e.n > 1 else ""
            text[cell] = f"{e.mean:+.3f}{half}<br>{text[cell]}"
    limit = float(np.nanmax(np.abs(values), initial=0.01))
    heat = go.Heatmap(
        z=values,
        x=across,
        y=down,
        text=text,
        texttemplate="%{text}",
        colorscale="RdBu",
        zmin=-limit,
        zmax=limit,
        colorbar={"title": f"{contrast}<br>(AUC)"},
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
    )
    figure = go.Figure(heat)
    figure.update_xaxes(type="category", tickangle=-30 if len(across) > 4 else 0)
    figure.update_yaxes(title=keys[0], type="category", autorange="reversed")
    return styled(figure).update_layout(
        height=160 + 90 * len(down),
        width=max(560, 220 + 150 * len(across)),
        margin={"t": 30, "b": 80},
    )


_DYNAMICS: Final = (
    ("what is answered (AUC)", ("questions", "d1", "d2", "d3")),
    ("tag effects (AUC)", ("weak", "strong")),
    ("definition recall", ("recall_tag_1", "recall_tag_2", "recall_new")),
    ("gradient norm", ("gradient_norm",)),
)

_CURVES: Final = {
    "questions": ("known aliases (qd1)", COLORS["qd1_consistent"]),
    "d1": ("new, tag 1 (d1)", COLORS["d1_consistent"]),
    "d2": ("new, tag 2 (d2)", COLORS["d2_consistent"]),
    "d3": ("new, fresh tag (d3)", COLORS["d3_consistent"]),
    "weak": ("weak: qd1 − qd2", COLORS["qd1_consistent"]),
    "strong": ("strong: d1 − d2", COLORS["d1_consistent"]),
    "recall_tag_1": ("tag 1, known aliases", COLORS["qd1_consistent"]),
    "recall_tag_2": ("tag 2, known aliases", COLORS["qd2_inconsistent"]),
    "recall_new": ("new aliases", COLORS["d1_consistent"]),
    "gradient_norm": ("gradient norm", "#6c6c6c"),
}


def dynamics(curves: Given) -> go.Figure:
    """Draw the curves of `dynamics.curves`, one column per stage. The mean over seeds is bold, the seeds are thin."""
    curves = rows_of(curves, "stage", "epoch")
    stages = sorted(curves["stage"].unique())
    figure = make_subplots(
        rows=len(_DYNAMICS),
        cols=len(stages),
        shared_xaxes=True,
        shared_yaxes=True,
        vertical_spacing=0.04,
        horizontal_spacing=0.04,
        column_titles=[f"stage {s}" for s in stages],
    )
    named: set[str] = set()
    for row, (title, names) in enumerate(_DYNAMICS, start=1):
        figure.update_yaxes(title=title, row=row, col=1)
        for col, stage in enumerate(stages, start=1):
            part = curves[curves["stage"] == stage]
            for name in names:
                text, color = _CURVES[name]
                group = f"{row} {name}"
                lines = part[["seed", "epoch", name]].dropna()
                for _, seed in lines.groupby("seed"):
                    thin = go.Scatter(
                        x=seed["epoch"],
                        y=seed[name],
                        mode="lines",
                        line={"color": color, "width": 1},
                        opacity=0.25,
                        showlegend=False,
                        legendgroup=group,
                        hoverinfo="skip",
                    )
                    figure.add_trace(thin, row=row, col=col)
                mean = lines.groupby("epoch")[name].mean()
                if mean.empty:
                    continue
                bold = go.Scatter(
                    x=mean.index,
                    y=mean,
                    mode="lines",
                    name=text,
                    line={"color": color, "width": 2.5},
                    legendgroup=group,
                    legendgrouptitle={"text": title} if group not in named and name == names[0] else None,
                    showlegend=group not in named,
                )
                named.add(group)
                figure.add_trace(bold, row=row, col=col)
    figure.update_yaxes(type="log", row=len(_DYNAMICS))
    figure.update_xaxes(title="epoch", row=len(_DYNAMICS))
    return styled(figure).update_layout(height=900, width=1000, legend={"groupclick": "togglegroup"})


def gap_curves(curves: GapCurves | Given, *, measure: str = "auc") -> go.Figure:
    """Draw the gap d1 − d2 along the last stage: by epoch, and at equal definition loss if the history holds it.

    `curves` come from `equal_loss.summarize_gap`, or are the history of a seed, as from `run.seed(0).history()`. Seeds are
    thin. The mean over seeds is bold, with its 95 % interval as a band.
    """
    if not isinstance(curves, GapCurves):
        found = summarize_gap(rows_of(curves, "stage", "epoch", "subset", measure), measure=measure)
        if found is None:
            raise MechoclError("the history has no d1 and d2, so there is no gap to draw")
        curves = found
    panels = [(curves.by_epoch, "epoch", "epoch of the stage")]
    if curves.by_loss is not None:
        panels.append((curves.by_loss, "definition_loss", "definition loss of both (nats)"))
    titles = ["at the same epoch", "at equal definition loss"][: len(panels)]
    figure = make_subplots(
        rows=1, cols=len(panels), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.05
    )
    for col, (summary, key, title) in enumerate(panels, start=1):
        figure.add_traces(_curve_with_interval(summary, key), rows=1, cols=col)
        figure.add_hline(y=0, line={"color": "#bbbbbb", "width": 1}, row=1, col=col)
        figure.update_xaxes(title=title, row=1, col=col)
        if key == "definition_loss":
            levels = summary.by_seed[key]
            ticks = [tick for tick in _TICKS if levels.min() <= tick <= levels.max()]
            figure.update_xaxes(
                type="log", autorange="reversed", tickvals=ticks, ticktext=[f"{t:g}" for t in ticks],
                row=1, col=col,
            )  # fmt: skip
    figure.update_yaxes(title=f"d1 − d2, {formats.NAMES[curves.measure]}", row=1, col=1)
    return styled(figure).update_layout(height=380, showlegend=False)


def _curve_with_interval(summary: SeedSummary, key: str) -> list[go.Scatter]:
    """A thin line for each seed, a band for the interval, and a bold line for the mean."""
    color, e = COLORS["d1_consistent"], summary.estimates
    seeds = [
        go.Scatter(
            x=part[key], y=part["value"], mode="lines", line={"color": color, "width": 1}, opacity=0.3,
            hovertemplate=f"seed {seed}: %{{y:+.3f}}<extra></extra>",
        )
        for seed, part in summary.by_seed.dropna(subset=["value"]).groupby("seed")
    ]  # fmt: skip
    inside = e.dropna(subset=["low", "high"])
    band = go.Scatter(
        x=[*inside[key], *inside[key][::-1]], y=[*inside["low"], *inside["high"][::-1]], fill="toself",
        fillcolor="rgba(31, 120, 200, 0.15)", line={"width": 0}, mode="lines", hoverinfo="skip", name="95 %",
    )  # fmt: skip
    mean = go.Scatter(
        x=e[key], y=e["mean"], mode="lines+markers", marker={"size": 4}, line={"color": color, "width": 2.5},
        name="mean", customdata=e[["low", "high", "seeds"]],
        hovertemplate="%{x:.3g}: %{y:+.3f} [%{customdata[0]:+.3f}, %{customdata[1]:+.3f}], "
        "%{customdata[2]} seeds<extra></extra>",
    )  # fmt: skip
    return [*seeds, band, mean]


_TICKS: Final = [m * 10.0**power for power in range(-4, 5) for m in (1, 2, 3, 5)]


def scaling(table: Given) -> go.Figure:
    """Draw the time of an epoch over each axis, both logarithmic. Dots are measured, the line is fitted.

    `table` has the columns axis, value, seconds_per_epoch, fitted and exponent, as `benchmarks/training_scaling.py` writes it.
    """
    table = rows_of(table, "axis", "value", "seconds_per_epoch", "fitted", "exponent")
    axes = list(table["axis"].unique())
    exponents = table.groupby("axis")["exponent"].first()
    figure = make_subplots(
        rows=-(-len(axes) // 2),
        cols=2,
        subplot_titles=[f"{axis}: exponent {exponents[axis]:.2f}" for axis in axes],
        horizontal_spacing=0.14,
        vertical_spacing=0.2,
    )
    for i, axis in enumerate(axes):
        part = table[table["axis"] == axis]
        row, col = i // 2 + 1, i % 2 + 1
        line = go.Scatter(
            x=part["value"], y=part["fitted"], mode="lines", line={"color": "#adadad"}, hoverinfo="skip"
        )
        dots = go.Scatter(
            x=part["value"],
            y=part["seconds_per_epoch"],
            mode="markers",
            marker={"color": "#1f78c8", "size": 8},
            hovertemplate=f"%{{x}} {axis}: %{{y:.3g}} s<extra></extra>",
        )
        figure.add_traces([line, dots], rows=row, cols=col)
        ticks = part["value"].tolist()
        figure.update_xaxes(
            type="log", tickvals=ticks, ticktext=[str(t) for t in ticks], title=axis, row=row, col=col
        )
        figure.update_yaxes(
            type="log",
            tickvals=_TICKS,
            ticktext=[f"{t:g}" for t in _TICKS],
            title="seconds an epoch",
            row=row,
            col=col,
        )
    return styled(figure).update_layout(showlegend=False, height=640)
