"""The part of docs/results.md that says when each thing is learned, and the tables that it is written from."""

from pathlib import Path
from typing import Final, Literal

import pandas as pd

from docs.write import inside
from docs.write.inside import Inside
from docs.write.markdown import write_text_table
from docs.write.places import TABLES
from mechocl import files
from mechocl.analyses import jobs
from mechocl.behaviour import dynamics, formats
from mechocl.runs.run import Run

ONE_STAGE: Final = Inside(
    "one stage",
    "dynamics-one-stage",
    "mechocl train integer-set/one-stage --seeds 8 --first-seed 200 --out runs/dynamics-one-stage "
    "--set training.stages.0.evaluations=60",
)

RUNS: Final = (*(one for one in inside.RUNS if "VTE" not in one.label), ONE_STAGE)
"""The runs behind the section on dynamics."""


def table_of(one: Inside, what: Literal["curves", "onsets"]) -> Path:
    """The saved table of a run."""
    return TABLES / f"dynamics-{inside.file_name(one.label)}-{what}.parquet"


def take_dynamics(runs: Path) -> None:
    """Write the curves and onsets of those runs of `RUNS` that are in the folder."""
    for one in RUNS:
        if (runs / one.folder).exists():
            curves, onsets = jobs.measure_dynamics(Run.open(runs / one.folder))
            files.write_table(table_of(one, "curves"), curves)
            files.write_table(table_of(one, "onsets"), onsets)


def write_dynamics() -> list[str]:
    """The section that says when each part is learned, and in which order, from the saved onsets."""
    lines = [
        "## When it appears",
        "",
        "`mechocl dynamics` on runs with many evaluations. A part counts as learned where its curve passes half of its way "
        f"for good (a tag effect: half of its own final value, where that is at least {dynamics.SMALLEST_EFFECT}); the order of two "
        "parts is tested over seeds by a sign test.",
    ]
    for one in RUNS:
        path = table_of(one, "onsets")
        if not path.exists():
            continue
        onsets = pd.read_parquet(path)
        commands = [
            f"    {command}" for command in (one.command, f"mechocl dynamics runs/{one.folder}") if command
        ]
        lines += [
            "",
            f"### Order of learning: {one.label}",
            "",
            *commands,
            "",
            *_onsets(onsets),
            "",
            *_order(onsets),
        ]
        lines += ["", f"![{one.label}](figures/{path.stem.removesuffix('-onsets')}.svg)"]
    return [*lines, "", *_late()]


def _late() -> list[str]:
    """Whether the tag effect comes late with an unreliable tag 2, and without one, in a sentence from the saved onsets."""
    said = []
    for one in RUNS:
        if not table_of(one, "onsets").exists():
            continue
        onsets = pd.read_parquet(table_of(one, "onsets"))
        effect = onsets.loc[onsets["event"] == "tag effect on new aliases", "epoch"]
        stage = onsets.loc[onsets["event"] == "tag effect on new aliases", "stage"].iloc[0]
        if effect.notna().sum() < 2:
            said.append(f"{one.label}: no tag effect in {effect.isna().sum()} of {len(effect)} seeds")
            continue
        said.append(
            f"{one.label}: {formats.number(effect.median(), 1)} of stage {stage} ({effect.notna().sum()} of {len(effect)} seeds)"
        )
    if not said:
        return []
    return [
        "The epoch at which the tag effect on new aliases has half of its own final size (median; a final size under "
        f"{dynamics.SMALLEST_EFFECT} counts as none), in the runs and in controls where no definition contradicts a question: "
        + "; ".join(said)
        + ".",
    ]


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
