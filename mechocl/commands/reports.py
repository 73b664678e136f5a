"""`mechocl report`: write the page of a run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mechocl.commands.options import Attribute, Computing, PositionalRun, jobs_of
from mechocl.destinations import require_file

if TYPE_CHECKING:
    from mechocl.runs.run import Run


def write_report(
    run: PositionalRun,
    out: Path | None = None,
    attribute: Attribute = "",
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
) -> None:
    """Write the report of a run, computing the analyses that it lacks.

    Args:
        run: Folder of a run.
        out: The HTML file. By default it is report.html in the run.
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
    print_report(
        opened,
        path,
        device=computing.device,
        jobs=jobs_of(computing.jobs),
    )


def print_report(run: "Run", path: Path, *, device: str, jobs: int | None) -> None:
    """Write the report of a run into the file `path`, and say where it is; `device` is one of `--device`.

    Raises MechoclError where the file cannot be written.
    """
    from mechocl.analyses import report_rows
    from mechocl.models import seam
    from mechocl.report import run_page

    require_file(path)
    computed_on = seam.resolve_device(device)
    found = report_rows.complete_report(run, device=computed_on, jobs=jobs)
    controls = report_rows.control_rows(run, device=computed_on, jobs=jobs)
    size = run_page.write_run_page(run, found, controls, path)
    print(f"report ({size / 1e6:.1f} MB): {path.resolve().as_uri()}")
