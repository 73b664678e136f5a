"""The page of a sweep of probes."""

from collections.abc import Sequence

import pandas as pd

from mechocl.analyses.probe_sweep import Unit
from mechocl.probing.summaries import Grid
from mechocl.report import probe_sections
from mechocl.report.page import Report, SummaryRow


def probe_report(
    grids: Sequence[Grid], rows: pd.DataFrame, *, units: Sequence[Unit] = (), gaps: pd.DataFrame | None = None
) -> Report:
    """The page of a sweep's table: a section for each probe, and sections on how alike the directions are.

    `grids` are those of `probing.summaries.probe_grids(rows)`. Directions are those of the finished units in `units`.
    `gaps` are those of `analyses.jobs.iml_gaps`, which stand beside the comparison of runs.
    """
    sections = probe_sections.sections(grids, rows, gaps=gaps) + probe_sections.direction_sections(units)
    return Report(
        title="mechocl: linear probes",
        summary=tuple(SummaryRow(label=section.title, sentence=section.finding) for section in sections),
        sections=sections,
    )
