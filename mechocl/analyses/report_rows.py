"""The rows that the report of a run is made of."""

import pandas as pd

from mechocl.analyses import jobs as analysis_jobs, results
from mechocl.analyses.control_jobs import evaluate_controls
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.runs.controls import is_control_run
from mechocl.runs.run import Run


def complete_report(run: Run, *, device: str, jobs: int | None) -> dict[str, pd.DataFrame]:
    """Rows of every analysis that the report of a run shows, by its name. Missing rows are computed first.

    They are of the seeds that are shown (`jobs.count_run`), the answers of every finished seed. If the models of the run cannot be taken apart, these are the answers alone.
    """
    wanted = analysis_jobs.reported_analyses(run.recipe)
    if not run.kind.can_be_taken_apart(run):
        wanted = tuple(one for one in wanted if one[0] == "evaluate")
    shown = analysis_jobs.count_run(run, device=device, jobs=jobs).shown
    analysis_jobs.complete_run(run, wanted, stage=None, device=device, jobs=jobs, seeds=shown)
    saved = {name: results.load_rows(run, name, config, seeds=shown) for name, config in wanted}
    rows = {name: table for name, table in saved.items() if table is not None}
    assert rows.keys() == saved.keys()
    if "evaluate" in rows:
        rows["evaluate"] = analysis_jobs.evaluate_run(run, device=device, jobs=jobs)
    return rows


def control_rows(run: Run, *, device: str, jobs: int | None) -> ControlAnswers | None:
    """The answers of each control run that lies in a run's folder.

    None for a run that is itself a control. Raises MechoclError as `control_jobs.evaluate_controls` does.
    """
    return None if is_control_run(run) else evaluate_controls(run, device=device, jobs=jobs)
