"""Result → plotly figure. Nothing here computes a result, shows, saves or touches a model."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mechocl import sweeps
from mechocl.summaries import SubsetEstimate, layer_by_position
from toy_models.subsets import SUBSETS

COLORS: Final = {
    "qd1_consistent": "#0b6e4f",
    "qd1_inconsistent": "#73bfa0",
    "qd2_consistent": "#e7a977",
    "qd2_inconsistent": "#b5460f",
    "q_only": "#6c6c6c",
    "q_entity": "#9b9b9b",
    "d1_consistent": "#1f78c8",
    "d2_consistent": "#c2255c",
    "d3_consistent": "#7048a8",
    "no_data": "#adadad",
}

_TITLES: Final = {
    "auc": "within-alias AUC",
    "accuracy": "accuracy",
    "logit_difference": "true-logit difference (nats)",
    "recall": "definition recall",
}


def label(subset: str) -> str:
    """The paper's notation and our name: `Ḋ₅ᶜᵒⁿˢ d1_consistent`."""
    return f"{SUBSETS[subset].notation} {subset}"


def training_curves(history: pd.DataFrame, *, metrics: Sequence[str] = ("auc", "recall")) -> go.Figure:
    """Evaluations during training by subset: mean over seeds in bold, single seeds thin.

    `history`: columns seed, stage, epoch, subset and the metrics.
    """
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
    figure.update_layout(height=280 * len(metrics) + 120, legend=_legend_above(len(metrics)))
    return _styled(figure)


def subset_values(
    estimates: list[SubsetEstimate], per_seed: pd.DataFrame, *, metric: str = "auc"
) -> go.Figure:
    """Each subset's value: one dot per seed, the mean with its 95 % interval beside them."""
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
        half = {"array": [e.estimate.high - e.estimate.mean], "thickness": 2, "width": 6}
        figure.add_trace(
            go.Scatter(
                x=[i + 0.12],
                y=[e.estimate.mean],
                mode="markers",
                marker={"color": COLORS[e.subset], "size": 11, "symbol": "diamond"},
                error_y=half if np.isfinite(e.estimate.high) else None,
                hovertemplate=f"{e.subset}<br>mean %{{y:.3f}} over {e.estimate.n} {'aliases' if e.estimate.unit == 'alias' else 'seeds'}<extra></extra>",
                showlegend=False,
            )
        )
    if metric in ("auc", "accuracy"):
        figure.add_hline(y=0.5, line={"dash": "dot", "color": "#999", "width": 1}, annotation_text="chance")
    ticks = {
        "tickvals": list(range(len(chosen))),
        "ticktext": [f"{SUBSETS[e.subset].notation}<br>{e.subset}" for e in chosen],
    }
    figure.update_layout(xaxis=ticks, yaxis={"title": _TITLES[metric]}, height=400)
    return _styled(figure)


def lens(rows: pd.DataFrame, *, contains: bool = False) -> go.Figure:
    """Mean rank of the alias's integer, layer × position, one panel per subset, over all seeds.

    `rows` as from `lenses.logit_lens`, with a seed column. `contains`: lists with the integer, or without.
    """
    rows = rows[rows["contains"] == contains]
    wanted = (
        "qd1_consistent",
        "qd2_inconsistent",
        "d1_consistent",
        "d2_consistent",
        "d3_consistent",
        "no_data",
    )
    present = [s for s in wanted if s in set(rows["subset"])]
    panels = [(label(s), layer_by_position(rows[rows["subset"] == s], "rank")) for s in present]
    highest = max(float(np.nanmax(grid.to_numpy())) for _, grid in panels)
    return _heatmaps(panels, scale="Viridis_r", low=1.0, high=highest, title="mean rank", digits=1)


def patching(rows: pd.DataFrame) -> go.Figure:
    """Mean effect of patching one site, layer × position, one panel per contrast, over all seeds."""
    panels = []
    for name, part in rows.groupby("contrast", sort=False):
        clean, corrupted = part["clean"].mean(), part["corrupted"].mean()
        title = f"{name}: clean {clean:+.2f}, corrupted {corrupted:+.2f}"
        panels.append((title, layer_by_position(part, "effect")))
    limit = max(float(np.abs(grid.to_numpy()).max()) for _, grid in panels)
    return _heatmaps(panels, scale="RdBu", low=-limit, high=limit, title="effect (nats)", digits=2)


def probe(rows: pd.DataFrame, name: str) -> go.Figure:
    """Held-out accuracy of one probe, layer × position: all aliases, its control, and each subset."""
    rows = rows[rows["probe"] == name]
    subsets = [s for s in SUBSETS if s in set(rows["subset"])]
    chance = float(rows["chance"].mean())
    panels = [
        ("all aliases", layer_by_position(rows[(rows["subset"] == "all") & (rows["control"] == "none")], "accuracy")),
        ("control: labels shuffled", layer_by_position(rows[(rows["subset"] == "all") & (rows["control"] == "shuffled")], "accuracy")),
    ]  # fmt: skip
    if chance < 0.5:  # with two classes a subset is one class: its accuracy alone says nothing
        panels += [
            (
                label(s),
                layer_by_position(rows[(rows["subset"] == s) & (rows["control"] == "none")], "accuracy"),
            )
            for s in subsets
        ]
    low = chance if chance < 0.5 else 0.4
    return _heatmaps(panels, scale="Viridis", low=low, high=1.0, title="accuracy", digits=2)


def attention(pattern: np.ndarray, tokens: Sequence[str], *, layer: int) -> go.Figure:
    """Attention probabilities of the heads of one layer: query rows, key columns.

    `pattern`: shape (layer, head, query, key).
    """
    names = [f"{i}: {t}" for i, t in enumerate(tokens)]
    panels = [
        (f"L{layer}H{h}", pd.DataFrame(pattern[layer, h], index=names, columns=names))
        for h in range(pattern.shape[1])
    ]
    return _heatmaps(
        panels, scale="Blues", low=0.0, high=1.0, title="attention", digits=None, bottom_up=False
    )


def _heatmaps(
    panels: list[tuple[str, pd.DataFrame]],
    *,
    scale: str,
    low: float,
    high: float,
    title: str,
    digits: int | None,
    bottom_up: bool = True,
) -> go.Figure:
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
            hovertemplate=f"{name}<br>%{{y}}, %{{x}}: %{{z:.3f}}<extra></extra>",
        )
        figure.add_trace(heatmap, row=row + 1, col=col + 1)
        if not bottom_up:
            figure.update_yaxes(autorange="reversed", row=row + 1, col=col + 1)
    figure.update_layout(
        height=n_rows * per_row + 110,
        coloraxis={"colorscale": scale, "cmin": low, "cmax": high, "colorbar": {"title": title}},
    )
    figure.update_annotations(font_size=13)
    return _styled(figure)


def _legend_above(rows: int) -> dict[str, object]:
    return {"orientation": "h", "yanchor": "bottom", "y": 1 + 0.16 / rows, "x": 0}


def _styled(figure: go.Figure) -> go.Figure:
    return figure.update_layout(template="plotly_white", font={"size": 12})


def phase_diagram(found: Sequence[sweeps.Summary], *, contrast: str = "strong") -> go.Figure:
    """Where internalization lives: one contrast in AUC over the settings of a sweep.

    One swept field: AUC by subset, and the contrast with its 95 % interval, against its values. More: a map,
    the first field down and the others across, each cell with the difference, its interval's half-width and
    the number of runs (and failures).
    """
    keys = list(found[0].setting)
    return _phase_map(found, keys, contrast) if len(keys) > 1 else _phase_line(found, keys, contrast)


def _phase_line(found: Sequence[sweeps.Summary], keys: Sequence[str], contrast: str) -> go.Figure:
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08, row_heights=[0.55, 0.45])
    x = [str(one.setting[keys[0]]) if keys else "" for one in found]
    for subset in [s for s in SUBSETS if any(s in one.auc for one in found)]:
        y = [one.auc[subset].mean if subset in one.auc else np.nan for one in found]
        trace = go.Scatter(x=x, y=y, mode="lines+markers", name=label(subset), line={"color": COLORS[subset]})
        figure.add_trace(trace, row=1, col=1)
    for name, color in (("weak", "#6c6c6c"), (contrast, "#1f78c8")):
        estimates = [one.contrasts.get(name) for one in found]
        mean = [e.mean if e else np.nan for e in estimates]
        half = [e.high - e.mean if e else np.nan for e in estimates]
        trace = go.Scatter(
            x=x,
            y=mean,
            error_y={"type": "data", "array": half},
            mode="lines+markers",
            name=f"{name} internalization",
            line={"color": color, "dash": "dot" if name == "weak" else "solid"},
        )
        figure.add_trace(trace, row=2, col=1)
    figure.add_hline(y=0.5, line={"color": "#bbbbbb", "width": 1}, row=1, col=1)
    figure.add_hline(y=0, line={"color": "#bbbbbb", "width": 1}, row=2, col=1)
    figure.update_yaxes(title="AUC", row=1, col=1)
    figure.update_yaxes(title="AUC difference", row=2, col=1)
    figure.update_xaxes(title=keys[0] if keys else "", type="category", row=2, col=1)
    return figure.update_layout(height=620, width=860, template="plotly_white", margin={"t": 30, "b": 60})


def _phase_map(found: Sequence[sweeps.Summary], keys: Sequence[str], contrast: str) -> go.Figure:
    down = list(dict.fromkeys(str(one.setting[keys[0]]) for one in found))
    names = [", ".join(f"{k.split('.')[-1]} {one.setting[k]}" for k in keys[1:]) for one in found]
    across = list(dict.fromkeys(names))
    values = np.full((len(down), len(across)), np.nan)
    text = np.full(values.shape, "", dtype=object)
    for one, name in zip(found, names, strict=True):
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
    return figure.update_layout(
        height=160 + 90 * len(down),
        width=max(560, 220 + 150 * len(across)),
        template="plotly_white",
        margin={"t": 30, "b": 80},
    )


_DYNAMICS: Final = (
    ("what is answered (AUC)", ("questions", "d1", "d2", "d3")),
    ("tag effects (AUC difference)", ("weak", "strong")),
    ("definition recall", ("recall_tag_1", "recall_tag_2", "recall_new")),
    ("gradient norm (last batch)", ("gradient_norm",)),
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


def dynamics(curves: pd.DataFrame) -> go.Figure:
    """The curves of `dynamics.curves`: mean over seeds in bold, the seeds thin; one column a stage."""
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
    return _styled(figure).update_layout(height=900, width=1000, legend={"groupclick": "togglegroup"})
