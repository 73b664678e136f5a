"""The rows that the report of a run is made of."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mechocl.analyses import jobs as analysis_jobs, results
from mechocl.analyses.control_jobs import evaluate_controls
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.errors import TooLittleData, note
from mechocl.runs.controls import is_control_run
from mechocl.runs.run import Run


@dataclass(frozen=True, slots=True)
class ReportRows:
    """What a report is made of."""

    rows: dict[str, pd.DataFrame]
    """Rows of every analysis that it shows, by its name."""
    left_out: dict[str, str]
    """Name of every analysis for which the run has too little data → what is missing."""


def complete_report(run: Run, *, device: str, jobs: int | None) -> ReportRows:
    """Rows of every analysis that the report of a run shows. Missing rows are computed first.

    They are of the seeds that are shown (`jobs.count_run`), the answers of every finished seed. They are those that the run's models take (`RunKind.takes`).
    An analysis for which the run has too few aliases or questions is left out, and a line on stderr says so.
    """
    wanted = tuple(one for one in analysis_jobs.reported_analyses(run.recipe) if run.kind.takes(run, one[0]))
    shown = analysis_jobs.count_run(run, device=device, jobs=jobs).shown
    left_out: dict[str, str] = {}

    def complete(some: tuple[tuple[str, Any], ...]) -> None:
        analysis_jobs.complete_run(run, some, stage=None, device=device, jobs=jobs, seeds=shown)

    try:
        complete(wanted)
    except TooLittleData:  # of which analysis is not known, so each is computed by itself
        for one in wanted:
            try:
                complete((one,))
            except TooLittleData as error:
                left_out[one[0]] = str(error)
                note(f"the report leaves out the analysis {one[0]}: {error}")
    wanted = tuple(one for one in wanted if one[0] not in left_out)
    saved = {name: results.load_rows(run, name, config, seeds=shown) for name, config in wanted}
    rows = {name: table for name, table in saved.items() if table is not None}
    assert rows.keys() == saved.keys()
    if "evaluate" in rows:
        rows["evaluate"] = analysis_jobs.evaluate_run(run, device=device, jobs=jobs)
    return ReportRows(rows, left_out)


def control_rows(run: Run, *, device: str, jobs: int | None) -> ControlAnswers | None:
    """The answers of each control run that lies in a run's folder.

    None for a run that is itself a control. Raises MechoclError as `control_jobs.evaluate_controls` does.
    """
    return None if is_control_run(run) else evaluate_controls(run, device=device, jobs=jobs)
