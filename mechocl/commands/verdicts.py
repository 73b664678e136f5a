"""`mechocl verdict`: put the explanations of a gap between tags to the test."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mechocl.commands.options import Attribute, Computing, jobs_of
from mechocl.destinations import require_file
from mechocl.errors import MechoclError

if TYPE_CHECKING:
    from mechocl.hypotheses.verdict import RunVerdict


def verdict(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")] = (),
    predictions: Path | None = None,
    plan: bool = False,
    out: Path | None = None,
    calibrate: Path | None = None,
    attribute: Attribute = "",
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
) -> None:
    """Say which explanations of the gap d1 − d2 the predictions support and contradict, computing the analyses that are missing.

    The control runs are those in the run's folder, which `mechocl controls` trains. Nothing is explained where there is no gap.

    Args:
        runs: Folders of runs of one recipe, with different seeds.
        predictions: TOML file of explanations and predictions. By default it is the package's own.
        plan: Also say how many seeds, aliases and hours the undecided predictions need.
        out: File that the verdict is written to as well: .json or .md.
        calibrate: Judge no run. Judge worlds in which the answer is known, hand-made and trained, 20 instances of each, and
            write a line for each into this CSV file. The same command continues what was stopped.
        computing: How the analyses are computed.
    """
    from mechocl.hypotheses import verdict as judging
    from mechocl.runs.run import Run

    if calibrate is not None:
        _calibrate(calibrate, jobs_of(computing.jobs))
        return
    if not runs:
        raise MechoclError("give one or more RUN folders")
    if out is not None:
        if out.suffix not in (".json", ".md"):
            raise MechoclError(f"--out {out}: give a file that ends in .json or .md")
        require_file(out, "verdict")
    found = judging.verdict(
        [Run.open(run, attribute=attribute) for run in runs],
        predictions=predictions,
        device=computing.resolved_device(),
        jobs=jobs_of(computing.jobs),
    )
    _print(found, plan=plan)
    if out is not None:
        _write(found, out, plan=plan)
        print(f"verdict: {out}")
    else:
        print(f"rows: {', '.join(str(run / 'results') for run in runs)}")


def _calibrate(table: Path, jobs: int | None) -> None:
    from mechocl.commands import printing
    from mechocl.hypotheses import calibration

    require_file(table, "calibration")
    found = calibration.calibrate(table, jobs=jobs, say=print)
    print()
    printing.grid(calibration.confusion(found), ".2f", corner="world")
    print()
    for line in calibration.confusion_in_words(found):
        print(line)
    print(f"calibration: {table}")


def print_verdict(found: "RunVerdict") -> None:
    """Print a verdict: the gap, the explanations, the effects, and what it cannot say."""
    from mechocl.commands import printing
    from mechocl.hypotheses import pages

    for line in pages.head(found):
        print(line)
    print()
    printing.table(pages.FINDINGS, pages.finding_rows(found))
    print()
    printing.table(pages.EFFECTS, pages.effect_rows(found))
    print()
    for line in pages.tail(found):
        print(line)


def _print(found: "RunVerdict", *, plan: bool) -> None:
    from mechocl.hypotheses.plan import plan_in_words

    print_verdict(found)
    if plan:
        print("\nwhat a decision needs")
        for line in plan_in_words(found):
            print(line)


def _write(found: "RunVerdict", out: Path, *, plan: bool) -> None:
    from mechocl import files
    from mechocl.hypotheses import pages
    from mechocl.hypotheses.plan import plan_in_words

    lines = plan_in_words(found) if plan else []
    if out.suffix == ".json":
        files.write_json(out, pages.to_values(found) | ({"plan": lines} if plan else {}))
    else:
        told = "\n".join(["## What a decision needs", "", *(f"- {line}" for line in lines)]) if plan else ""
        files.write_text(out, pages.to_markdown(found, plan=told))
