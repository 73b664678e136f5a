"""The part of docs/results.md that says when each thing is learned, and the tables that it is written from."""

from pathlib import Path

import pandas as pd

from docs.write.markdown import write_text_table
from docs.write.places import TABLES
from mechocl import files
from mechocl.analyses import jobs
from mechocl.behaviour import dynamics, formats
from mechocl.runs.run import Run

RUNS = {
    "dynamics-two-stage": (
        "Two stages",
        "mechocl train integer-set/short --seeds 8 --first-seed 200 --out runs/dynamics-two-stage "
        "--set training.stages.0.evaluations=48 training.stages.1.evaluations=40",
    ),
    "dynamics-one-stage": (
        "One stage",
        "mechocl train integer-set/one-stage --seeds 8 --first-seed 200 --out runs/dynamics-one-stage "
        "--set training.stages.0.evaluations=60",
    ),
}
"""Title and command of each run behind the section on dynamics."""


def take_dynamics(runs: Path) -> None:
    """Write the curves and onsets of those runs of `RUNS` that are in the folder."""
    for name in RUNS:
        if (runs / name).exists():
            curves, onsets = jobs.measure_dynamics(Run.open(runs / name))
            files.write_table(TABLES / f"{name}-curves.parquet", curves)
            files.write_table(TABLES / f"{name}-onsets.parquet", onsets)


def write_dynamics() -> list[str]:
    """The section that says when each part is learned, and in which order, from the saved onsets."""
    lines = [
        "## When it appears",
        "",
        "`mechocl dynamics` on runs with many evaluations. A part counts as learned where its curve passes half of its way "
        f"for good (a tag effect: half of its own final value, where that is at least {dynamics.SMALLEST_EFFECT}); the order of two "
        "parts is tested over seeds by a sign test.",
    ]
    for name, (title, command) in RUNS.items():
        path = TABLES / f"{name}-onsets.parquet"
        if not path.exists():
            continue
        onsets = pd.read_parquet(path)
        lines += [
            "",
            f"### {title}: order of learning",
            "",
            f"    {command}",
            f"    mechocl dynamics runs/{name}",
            "",
        ]
        lines += [*_onsets(onsets), "", *_order(onsets), "", f"![{title}](figures/{name}.svg)"]
    return lines


def _onsets(onsets: pd.DataFrame) -> list[str]:
    """The table that says when each part is learned."""
    rows = []
    for event in dynamics.EVENTS:
        part = onsets[onsets["event"] == event.name]
        if part.empty:
            continue
        e = part["epoch"].dropna()
        low, middle, high = (formats.number(value, 1) for value in (e.min(), e.median(), e.max()))
        times = f"{middle} ({low} … {high})" if len(e) else formats.MISSING
        stage = str(part["stage"].iloc[0])
        rows.append([event.name, stage, times, f"{len(e)} of {len(part)}", event.meaning])
    return write_text_table(["part", "stage", "epoch: median (range)", "seeds", "meaning"], rows)


def _order(onsets: pd.DataFrame) -> list[str]:
    """The table that says which of two parts is learned first."""
    rows = [
        [
            o.first,
            o.second,
            f"{o.before} of {o.seeds}",
            formats.estimate_in_words(o.lead, 1, minus=formats.HYPHEN),
            formats.p_value(o.p),
        ]
        for o in dynamics.order(onsets)
    ]
    return write_text_table(["first", "then", "seeds in this order", "epochs between", "sign test"], rows)
