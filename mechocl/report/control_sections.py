"""The section of a report on control runs: the gap where nothing was unreliable, beside the run's own."""

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from mechocl.behaviour import formats
from mechocl.behaviour.control_gaps import ControlAnswers, ControlGap, compare_gaps
from mechocl.behaviour.counted import CountedSeeds
from mechocl.behaviour.over_seeds import within
from mechocl.behaviour.verdict import beside_numbers
from mechocl.report.intervals import difference_bounds, error_bar
from mechocl.report.page import Section, Table
from mechocl.report.plots import styled
from mechocl.runs.controls import CONTROLS
from toy_models.measures import Measures


def sections(
    rows: pd.DataFrame, controls: ControlAnswers, measures: Measures, counted: CountedSeeds
) -> list[Section]:
    """The section of a run's control runs, from rows of the evaluate analysis of the run; none without a control's gap.

    `counted` says which seeds of the run count.
    """
    leading = compare_gaps(rows, controls, measures, counted=counted)
    second = compare_gaps(rows, controls, measures, metric=measures.second, counted=counted)
    if not leading:
        return []
    return [
        Section(
            id="controls",
            title="Controls",
            how_to_read=(
                "The gap is d1 − d2: how much better new definitions are used with tag 1 than with tag 2. In each control run, no "
                "definition with tag 2 ever contradicted a question, or both tags were right equally often. In noise and unasked, the "
                "questions about the aliases of tag 2 are gone as well. A gap that is there in a control, too, does not come from "
                "unreliability. Each line is a seed, from its gap in the run to its gap in the control; diamonds are means with 95 % "
                "intervals over seeds."
            ),
            figures=(paired_gaps(leading),),
            tables=(control_table(leading), control_table(second)),
        )
    ]


def control_table(gaps: list[ControlGap]) -> Table:
    """A line for each control: its own gap, the run's gap over it, and the verdict on that."""
    metric = formats.NAMES[gaps[0].metric] if gaps else ""
    return gap_table(
        gaps,
        {name: one.meaning for name, one in CONTROLS.items()},
        caption=f"The gap in {metric} of each control, and the run's gap over it, paired by seed",
        columns=("control", "what is the case in it", "its gap [95 %]", "the run's gap over it [95 %]", "seeds", "is it larger?"),
    )  # fmt: skip


def gap_table(
    gaps: list[ControlGap], meanings: Mapping[str, str], *, caption: str, columns: tuple[str, ...]
) -> Table:
    """A line for each run that is compared: its name, what is the case in it, its gap, the run's gap over it, seeds, and the verdict on that."""
    return Table(
        caption=caption,
        columns=columns,
        rows=tuple(
            (
                one.control,
                meanings[one.control],
                formats.estimate_in_words(within(one.own.learned, difference_bounds(one.metric)), sign=True),
                formats.estimate_in_words(one.over.learned, sign=True),
                str(one.over.learned.n),
                beside_numbers(one.over.answer),
            )
            for one in gaps
        ),
    )


def paired_gaps(gaps: list[ControlGap], *, other: str = "the control") -> go.Figure:
    """Draw, for each control, every seed's gap in the run and in the control, and both means with their intervals. `other` is what the
    controls are called."""
    figure = go.Figure()
    for index, one in enumerate(gaps):
        for row in one.by_seed.itertuples():
            figure.add_trace(
                go.Scatter(
                    x=[index - 0.15, index + 0.15], y=[row.run, row.control], mode="lines+markers",
                    line={"color": "#9aa5b1", "width": 1}, marker={"size": 5, "color": ["#1f78c8", "#d9822b"]},
                    hovertemplate=f"seed {row.seed}: %{{y:+.3f}}<extra></extra>", showlegend=False,
                )
            )  # fmt: skip
    drawn = (
        ("the run", [one.run for one in gaps], "#1f78c8", -0.25),
        (other, [one.own.learned for one in gaps], "#d9822b", 0.25),
    )
    bounds = difference_bounds(gaps[0].metric) if gaps else None
    for name, estimates, color, shift in drawn:
        means, lows, highs = ([getattr(e, end) for e in estimates] for end in ("mean", "low", "high"))
        bars = error_bar(means, lows, highs, bounds=bounds)
        figure.add_trace(
            go.Scatter(
                x=[index + shift for index in range(len(gaps))], y=[e.mean for e in estimates], mode="markers",
                name=name, marker={"color": color, "size": 11, "symbol": "diamond"},
                error_y=bars | {"thickness": 2, "width": 6},
                hovertemplate=f"{name}: mean %{{y:+.3f}}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_hline(y=0, line={"dash": "dot", "color": "#999", "width": 1})
    ticks = {
        "tickvals": list(range(len(gaps))),
        "ticktext": [one.control.replace("-equal-steps", "<br>equal steps") for one in gaps],
    }
    metric = formats.NAMES[gaps[0].metric] if gaps else ""
    figure.update_layout(xaxis=ticks, yaxis={"title": f"gap d1 − d2 in {metric}"}, height=400)
    return styled(figure)
