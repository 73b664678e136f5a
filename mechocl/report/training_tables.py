"""Tables of strings on sweeps and dynamics, for the terminal and for pages."""

from collections.abc import Sequence

import pandas as pd

from mechocl.behaviour import dynamics, formats
from mechocl.report.page import Table
from mechocl.report.plots import COLORS
from mechocl.runs.sweep_folder import axes
from mechocl.runs.sweep_summaries import Summary

_CONTRASTS = ("weak", "strong", "strong_d1_d3")


def settings_table(settings: Sequence[Summary]) -> Table:
    """One line for each setting of a sweep: values, runs and failures, AUC by subset, contrasts, seconds of a run."""
    keys = list(settings[0].setting) if settings else []
    subsets = [name for name in COLORS if any(name in one.auc for one in settings)]
    return Table(
        caption="Settings",
        columns=(
            *keys,
            "runs",
            "failed",
            *(f"AUC {name}" for name in subsets),
            *(f"{name} [95 %]" for name in _CONTRASTS),
            "s/run",
        ),
        rows=tuple(
            (
                *(str(one.setting[key]) for key in keys),
                str(one.runs),
                str(one.failed),
                *(
                    formats.number(one.auc[name].mean) if name in one.auc else formats.MISSING
                    for name in subsets
                ),
                *(formats.describe(one.contrasts.get(name)) for name in _CONTRASTS),
                f"{one.seconds:.0f}",
            )
            for one in settings
        ),
    )


def failed_runs(frame: pd.DataFrame) -> list[str]:
    """One line for each run of a sweep's table that failed: its setting, its seed, and why."""
    keys = axes(frame)
    return [
        "".join(f"{key}={row[key]}, " for key in keys) + f"seed {row['seed']}: {row['failed']}"
        for row in frame[frame["failed"] != ""].to_dict("records")
    ]


def onset_table(onsets: pd.DataFrame) -> Table:
    """When each event of `behaviour.dynamics.EVENTS` happened: the median epoch over the seeds, and its range."""
    rows = []
    for event in dynamics.EVENTS:
        part = onsets[onsets["event"] == event.name]
        if len(part):
            e = part["epoch"].dropna()
            low, middle, high = (formats.number(value, 1) for value in (e.min(), e.median(), e.max()))
            times = f"{middle} ({low} … {high})" if len(e) else formats.MISSING
            rows.append(
                (event.name, str(part["stage"].iloc[0]), times, f"{len(e)} of {len(part)}", event.meaning)
            )
    return Table(
        caption="Onsets",
        columns=("event", "stage", "epoch: median (range)", "seeds", "halfway to: meaning"),
        rows=tuple(rows),
    )


def order_table(onsets: pd.DataFrame) -> Table:
    """Which event came before which, in how many seeds, with the sign test of `behaviour.dynamics.order`."""
    return Table(
        caption="Order",
        columns=("first", "then", "seeds in this order", "epochs between", "sign test"),
        rows=tuple(
            (
                o.first,
                o.second,
                f"{o.before} of {o.seeds}",
                formats.number(o.lead.mean, 1, minus=formats.HYPHEN),
                formats.p_value(o.p),
            )
            for o in dynamics.order(onsets)
        ),
    )
