"""The report of a run as a file."""

from pathlib import Path

from mechocl.analyses.report_rows import ReportRows
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.hypotheses import predictions
from mechocl.hypotheses.calibrated import read_confusion
from mechocl.hypotheses.for_reports import NoVerdict
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.report import page, run_report
from mechocl.report.explorer_section import Embedded
from mechocl.report.verdict_sections import FirstPage
from mechocl.runs.run import Run

_SMOKE = "Smoke test: one seed of a small task. It shows that everything runs, not what a model does."


def write_run_page(
    run: Run,
    found: ReportRows,
    controls: ControlAnswers | None,
    path: Path,
    *,
    verdict: RunVerdict | NoVerdict | None = None,
    explorer: Embedded | None = None,
) -> int:
    """Write the report of a run into the file `path`, whose folder is made, and return its size in bytes.

    `found` is what `analyses.report_rows.complete_report` gives, and `controls` are the rows of `control_rows` there. The `verdict`
    comes first, the `explorer` last; None leaves them out. The page of a smoke test says that it is one, and every page which analyses are left out.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    said = [_SMOKE] if "smoke test" in run.recipe_name else []
    said += [
        f"Left out, because the run has too little data: {name} ({why})."
        for name, why in found.left_out.items()
    ]
    first = None if verdict is None else FirstPage(verdict, read_confusion(predictions.load()))
    report = run_report.build(
        run, found.rows, controls, first=first, explorer=explorer, warning=" ".join(said)
    )
    return page.write(report, path)
