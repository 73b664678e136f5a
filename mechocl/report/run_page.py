"""The report of a run as a file."""

from pathlib import Path

import pandas as pd

from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.report import page, run_report
from mechocl.runs.run import Run

_SMOKE = "Smoke test: one seed of a small task. It shows that everything runs, not what a model does."


def write_run_page(
    run: Run, rows: dict[str, pd.DataFrame], controls: ControlAnswers | None, path: Path
) -> int:
    """Write the report of a run into the file `path`, whose folder is made, and return its size in bytes.

    `rows` are those of `analyses.report_rows.complete_report`, and `controls` those of `analyses.report_rows.control_rows`.
    The page of a smoke test says that it is one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    warning = _SMOKE if "smoke test" in run.recipe_name else ""
    return page.write(run_report.build(run, rows, controls, warning=warning), path)
