"""`mechocl report`: write the page of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mechocl.commands.options import Attribute, Computing, PositionalRun, jobs_of
from mechocl.destinations import require_file
from mechocl.errors import MechoclError

if TYPE_CHECKING:
    from mechocl.hypotheses.for_reports import NoVerdict
    from mechocl.hypotheses.verdict import RunVerdict
    from mechocl.runs.run import Run


def write_report(
    run: PositionalRun,
    out: Path | None = None,
    verdict: bool = True,
    open: bool = False,
    attribute: Attribute = "",
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
) -> None:
    """Write the report of a run, computing the analyses that it lacks.

    Args:
        run: Folder of a run.
        out: The HTML file. By default it is report.html in the run.
        verdict: Begin with the verdict on the explanations of the gap, computing the analyses that its predictions need.
        open: Open the report in a browser when it is written.
        computing: How it is computed.
    """
    from mechocl.analyses import jobs
    from mechocl.commands import printing
    from mechocl.runs.run import Run

    path = out or run / "report.html"
    opened = Run.open(run, attribute=attribute)
    require_file(path)
    device = computing.resolved_device()
    printing.failures(jobs.count_run(opened, device=device, jobs=jobs_of(computing.jobs)))
    judged = judge(opened, device=computing.device, jobs=jobs_of(computing.jobs)) if verdict else None
    print_report(opened, path, device=computing.device, jobs=jobs_of(computing.jobs), verdict=judged)
    if open:
        open_in_browser(path)


def open_in_browser(path: Path) -> None:
    """Open a page in the reader's browser. Raises MechoclError where there is none."""
    import webbrowser

    address = path.resolve().as_uri()
    if not webbrowser.open(address):
        raise MechoclError(
            f"--open: there is no browser here that can be started; the report is written, so open {address} in one, or set the "
            "environment variable BROWSER to a command that opens pages"
        )


def judge(run: "Run", *, device: str, jobs: int | None) -> "RunVerdict | NoVerdict":
    """The verdict of a run's report, or why it has none, which is printed; `device` is one of `--device`."""
    from mechocl.hypotheses.for_reports import NoVerdict, judge_run
    from mechocl.models import seam

    found = judge_run(run, device=seam.resolve_device(device), jobs=jobs)
    if isinstance(found, NoVerdict):
        print(f"no verdict: {found.why}")
    return found


def print_report(
    run: "Run",
    path: Path,
    *,
    device: str,
    jobs: int | None,
    verdict: "RunVerdict | NoVerdict | None" = None,
) -> None:
    """Write the report of a run into the file `path`, and say where it is; `device` is one of `--device`.

    It begins with the verdict, if there is one. Raises MechoclError where the file cannot be written.
    """
    from mechocl.analyses import jobs as analysis_jobs, report_rows
    from mechocl.models import seam
    from mechocl.report import explorer_section, run_page

    require_file(path)
    computed_on = seam.resolve_device(device)
    found = report_rows.complete_report(run, device=computed_on, jobs=jobs)
    shown = analysis_jobs.count_run(run, device=computed_on, jobs=jobs).shown
    explorer = explorer_section.embed_explorer(run, shown, device=computed_on, jobs=jobs)
    controls = report_rows.control_rows(run, device=computed_on, jobs=jobs)
    size = run_page.write_run_page(run, found, controls, path, verdict=verdict, explorer=explorer)
    print(f"report ({size / 1e6:.1f} MB): {path.resolve().as_uri()}")
