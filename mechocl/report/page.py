"""A self-contained HTML report: first the verdicts, then sections of figures and tables, then the explorer of single aliases.

The page needs no network and its Content-Security-Policy forbids any: plotly's script, the data and the style are all inside
the one file. What makes the file larger than `SIZE_LIMIT` is left out, and the page says so.
"""

import errno
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from mechocl.files import write_text
from mechocl.report.page_parts import javascript_for_script, json_for_script, script, style, template

SIZE_LIMIT = 15_000_000
"""Largest size of a report in bytes, which most mail and chat still carry. Plotly's script alone takes 4.8 million."""

EXPLORER_TITLE = "What happens for one alias"

DEFAULT_HEIGHT = 420
"""Height in pixels of a figure that names no height."""

COMPACT_MARGIN = {"t": 60, "b": 60, "l": 70, "r": 30}
"""Margins in pixels of a figure that names no margin. Plotly's own margins leave much of a report empty."""

_SECTION_ID = re.compile(r"[a-z][a-z0-9-]*")
_RESERVED_IDS = frozenset({"summary", "trained", "explorer", "contents", "theme"})

_LONG_CELL = 30
"""Letters from which the cells of a column keep the width of a sentence, so that a narrow page does not make them towers."""
_NUMBER = re.compile(r"[\s\d.,:;+\-−–±×*/%()\[\]e^<>≤≥=~]*\d[\s\d.,:;+\-−–±×*/%()\[\]e^<>≤≥=~]*")
_NO_NUMBER = frozenset({"", "-", "–", "—", "n/a", "nan"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table of strings that are ready to show. Raises ValueError when a row does not have one cell per column."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.caption!r}: {len(self.columns)} columns, but the row {row!r}")

    @property
    def numeric(self) -> tuple[bool, ...]:
        """For each column, whether its cells are numbers, which may have intervals, signs or %, and are not all empty."""
        return tuple(_is_numeric([row[i] for row in self.rows]) for i in range(len(self.columns)))

    @property
    def names_rows(self) -> bool:
        """Whether the first column says what each row is of, so that it stays in its place where the table scrolls."""
        return len(self.columns) > 1 and not self.numeric[0] and all(row[0].strip() for row in self.rows)

    @property
    def long(self) -> tuple[bool, ...]:
        """For each column, whether some cell is a sentence."""
        return tuple(
            any(len(row[i]) > _LONG_CELL for row in self.rows) and not numeric
            for i, numeric in enumerate(self.numeric)
        )

    @property
    def bytes_per_row(self) -> float:
        """How many bytes a row takes on the page, at least; 0 without rows."""
        cells = sum(len(cell.encode()) + len("<td></td>") for row in self.rows for cell in row)
        return cells / len(self.rows) + len("      <tr></tr>\n") if self.rows else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One question and its evidence. Raises ValueError when `id` cannot be the target of a link."""

    id: str
    """Lower-case letters, digits and hyphens; none of the page's own: summary, trained, explorer, contents, theme."""
    title: str
    how_to_read: str
    """Two sentences that say what is drawn, and what to look for."""
    figures: tuple[Figure, ...] = ()
    """Figures, one below the other at the page's width. A figure's own width is kept as its greatest width; with a `least_width`
    in its layout's `meta`, in pixels, it scrolls on a narrower page."""
    tables: tuple[Table, ...] = ()
    html: str = ""
    """More HTML, which is trusted and inserted as it is."""
    finding: str = ""
    """What was found, as a plain sentence, which is shown in bold at the top."""
    leading: bool = False
    """Whether it stands before the summary."""
    left_out: tuple[str, ...] = ()
    """What the page does not show so that it stays small, one sentence each. `render` adds to them."""

    def __post_init__(self) -> None:
        if not _SECTION_ID.fullmatch(self.id) or self.id in _RESERVED_IDS:
            raise ValueError(
                f"section id {self.id!r}: expected lower-case letters, digits and hyphens, "
                f"and none of {', '.join(sorted(_RESERVED_IDS))}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SummaryRow:
    """One line of the summary, such as "Strong internalization", "yes", "d1 above d2 by 0.21 ± 0.06"."""

    label: str
    sentence: str
    answer: str = ""
    """A word or two. "yes" and "no" have colours of their own, any other text has a neutral one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything on the page. Raises ValueError when two sections have the same id."""

    title: str
    summary: tuple[SummaryRow, ...] = ()
    """What a reader who has one minute should know. Without any, the page has no summary."""
    facts: dict[str, str] = field(default_factory=dict)
    """What was trained: recipe, seeds, time, versions."""
    sections: tuple[Section, ...] = ()
    explorer: str = ""
    """The page of the explorer of single aliases (`explorer.page`), which is shown in a frame."""
    explorer_note: str = ""
    """What a reader should know of the explorer: what it leaves out, or why there is none. Without it and a page there is no such section."""
    warning: str = ""
    """A reason for caution that every reader must see, such as "smoke test: one seed, small task"."""

    def __post_init__(self) -> None:
        ids = [section.id for section in self.sections]
        repeated = sorted({name for name in ids if ids.count(name) > 1})
        if repeated:
            raise ValueError(f"section ids must differ, but these repeat: {', '.join(repeated)}")


def render(report: Report, *, limit: int | None = None) -> str:
    """The report as one HTML page of at most `limit` bytes (default: `SIZE_LIMIT`). The same report always gives the same text.

    If the page would be larger, the explorer is left out first. If it is too large without, the largest figures are left out,
    one by one, and then the longest tables are shortened. The page says what is not there and how to see it. Text is never left
    out, so a page of more text than the limit is larger.
    """
    limit = SIZE_LIMIT if limit is None else limit
    page = _rendered(report)
    if report.explorer and len(page.encode("utf-8")) > limit:
        megabytes = len(report.explorer.encode("utf-8")) / 1e6
        said = (
            f"So that the file can be sent, the explorer of single aliases ({megabytes:.1f} MB) is not in it. "
            "`mechocl share` writes it as a page of its own."
        )
        report = replace(report, explorer="", explorer_note=f"{report.explorer_note} {said}".strip())
        page = _rendered(report)
    if (excess := len(page.encode("utf-8")) - limit) > 0:
        page = _rendered(_smaller(report, excess))
    return page


def _rendered(report: Report) -> str:
    """The report as one HTML page with everything that it holds."""
    plots = {
        section.id: [_plot(section, i) for i in range(len(section.figures))] for section in report.sections
    }
    drawn = any(plots.values())
    return template("report.html.j2").render(
        report=report,
        links=_contents(report),
        plots=plots,
        plotly=javascript_for_script(get_plotlyjs()) if drawn else "",
        style=style("page", "report"),
        script=script(
            "theme", "tables", "cards", "contents", *(["colors", "narrow", "labels", "figures"] if drawn else []),
            *(["explorer"] if report.explorer else []),
        ),
        drawing=script("nearby") if drawn else "",
        explorer=_framed(report.explorer) if report.explorer else "",
    )  # fmt: skip


def _framed(explorer: str) -> str:
    """The explorer's page as JSON, with the script that speaks with the report around it."""
    inside = f"<script>{script('explorer_inside')}</script>\n</body>"
    return json_for_script(json.dumps(explorer.replace("</body>", inside, 1), ensure_ascii=False))


def _contents(report: Report) -> list[tuple[str, str]]:
    """Id and title of everything that the contents lead to, in the order of the page."""
    leading = [(one.id, one.title) for one in report.sections if one.leading]
    rest = [(one.id, one.title) for one in report.sections if not one.leading]
    own = (
        ("summary", "Summary", bool(report.summary)),
        ("trained", "What was trained", bool(report.facts)),
        ("explorer", EXPLORER_TITLE, bool(report.explorer or report.explorer_note)),
    )
    summary, trained, explorer = ([(name, title)] if there else [] for name, title, there in own)
    return [*leading, *summary, *trained, *rest, *explorer]


def _smaller(report: Report, excess: int) -> Report:
    """The report with at least `excess` bytes less of figures and tables, and sentences on what is not there."""
    excess += 800 * (1 + len(report.sections))  # room for these sentences
    weights = {
        (s, f): len(_plot(section, f)["json"].encode())
        for s, section in enumerate(report.sections)
        for f in range(len(section.figures))
    }
    dropped: set[tuple[int, int]] = set()
    for place in sorted(weights, key=lambda place: -weights[place]):
        if excess <= 0:
            break
        dropped.add(place)
        excess -= weights[place]
    if weights and len(dropped) == len(weights):
        excess -= len(get_plotlyjs())
    lengths = {
        (s, t): len(table.rows)
        for s, section in enumerate(report.sections)
        for t, table in enumerate(section.tables)
    }
    per_row = {(s, t): report.sections[s].tables[t].bytes_per_row for s, t in lengths}
    while excess > 0 and max(lengths.values(), default=0) > 1:
        longest = max(lengths, key=lambda place: lengths[place] * per_row[place])
        half = lengths[longest] // 2
        excess -= round((lengths[longest] - half) * per_row[longest])
        lengths[longest] = half
    sections = [
        _part_of(
            section,
            [f for f in range(len(section.figures)) if (s, f) not in dropped],
            [lengths[s, t] for t in range(len(section.tables))],
        )
        for s, section in enumerate(report.sections)
    ]
    return replace(report, sections=tuple(sections))


def _part_of(section: Section, figures: list[int], lengths: list[int]) -> Section:
    """The section with these of its figures and so many rows of its tables."""
    said = []
    if missing := len(section.figures) - len(figures):
        said.append(
            f"So that the file can be sent, {missing} of the {len(section.figures)} figures here, the largest of the page, "
            "are not in it. In Python, mechocl.analyse_run(run, ANALYSIS) has the rows that they draw, and mechocl.plots, "
            "lens_plots, circuit_plots and probe_plots draw them."
        )
    for table, length in zip(section.tables, lengths, strict=True):
        if length < len(table.rows):
            said.append(
                f"So that the file can be sent, the table “{table.caption}” has its first {length} of {len(table.rows)} "
                "rows. In Python, mechocl.analyse_run(run, ANALYSIS) has the rows behind all of them."
            )
    return replace(
        section,
        figures=tuple(section.figures[f] for f in figures),
        tables=tuple(
            replace(table, rows=table.rows[:length])
            for table, length in zip(section.tables, lengths, strict=True)
        ),
        left_out=section.left_out + tuple(said),
    )


def write(report: Report, path: Path) -> int:
    """Render `report` into the file `path`, atomically, and return its size in bytes. It is never refused for its size (`render`).

    Raises FileNotFoundError when the folder is missing; then nothing is written.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, "cannot write the report: make this folder first", str(path.parent)
        )
    page = render(report)
    write_text(path, page)
    return len(page.encode("utf-8"))


def write_figure(figure: Figure, path: Path, *, title: str, tables: tuple[Table, ...] = ()) -> None:
    """Write a plotly figure, and tables under it, as a page of their own, which works without a network.

    Raises OSError when it cannot be written.
    """
    section = Section(id="figure", title="", how_to_read="", figures=(figure,), tables=tables)
    write_text(path, render(Report(title=title, sections=(section,))))


def _plot(section: Section, index: int) -> dict[str, Any]:
    """What the template needs to know of one figure: its name, its size, and its JSON without a fixed width."""
    figure = json.loads(section.figures[index].to_json())
    layout = figure["layout"]
    width = layout.pop("width", None)
    layout["autosize"] = True
    if "margin" not in layout and "margin" not in layout.get("template", {}).get("layout", {}):
        layout["margin"] = COMPACT_MARGIN
    title = layout.get("title", {}).get("text") or f"{section.title}, figure {index + 1}"
    return {
        "id": f"plot-{section.id}-{index}",
        "label": re.sub(r"<[^>]*>", " ", title),
        "width": f"{width}px" if width else "none",
        "least": int((layout.get("meta") or {}).get("least_width", 0)),
        "height": f"{layout.setdefault('height', DEFAULT_HEIGHT)}px",
        "json": json_for_script(json.dumps(figure, separators=(",", ":"))),
    }


def _is_numeric(cells: list[str]) -> bool:
    shown = [cell.strip() for cell in cells if cell.strip().lower() not in _NO_NUMBER]
    return bool(shown) and all(_NUMBER.fullmatch(cell) for cell in shown)
