"""What probes found, as sections of a page. Each probe has its figures and its table of verdicts."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from mechocl.analyses import probe_sweep
from mechocl.behaviour.formats import MISSING, interval, number
from mechocl.probing import directions, summaries
from mechocl.probing.at_landmarks import compare_runs, summarize_emergence
from mechocl.probing.recipe import Probe, load
from mechocl.probing.summaries import Grid
from mechocl.report import plots, probe_plots
from mechocl.report.page import Section, Table

HOW_TO_READ: Final = (
    "A linear classifier reads from the activations of a text about an alias; aliases are never shared between "
    "training and test. Every number stands beside its controls: what counts is the distance from shuffled labels and "
    "from the untrained model. A star holds for the whole grid at once; decodable is not used, unless a swap along the "
    "probe's direction moves the answer."
)

_SHOWN: Final = 8
"""Number of places in the table of verdicts of a run: the landmarks, then the best other places."""


def sections(
    grids: Sequence[Grid], rows: pd.DataFrame, *, gaps: pd.DataFrame | None = None
) -> tuple[Section, ...]:
    """A section for each probe of a sweep's table.

    `grids` are those of `probing.summaries.probe_grids(rows)`. `gaps` are those of `analyses.jobs.iml_gaps`, which stand
    beside the comparison of word orders.
    """
    found: list[Section] = []
    for recipe, name in dict.fromkeys((one.recipe, one.probe) for one in grids):
        probe = next(one for one in load(recipe) if one.name == name)
        own = [one for one in grids if (one.recipe, one.probe) == (recipe, name)]
        every = rows[(rows["recipe"] == recipe) & (rows["probe"] == name)]
        found.append(_section(own, every, probe, gaps, _section_id(name, [one.id for one in found])))
    return tuple(found)


def _section_id(name: str, taken: Sequence[str]) -> str:
    """The id of a probe's section, whatever characters its name has, and also where two recipes have a probe of one name."""
    plain = "-".join(["probe", *re.findall("[a-z0-9]+", name.lower())])
    numbered = (f"{plain}-{n}" for n in itertools.count(2))
    return next(one for one in itertools.chain([plain], numbered) if one not in taken)


def direction_sections(units: Sequence[probe_sweep.Unit]) -> tuple[Section, ...]:
    """Sections on how alike the directions of the two-class probes of finished units are. Empty without shuffles."""
    found = []
    for run, recipe in dict.fromkeys((unit.run, unit.config.recipe) for unit in units):
        own = [u for u in units if (u.run, u.config.recipe) == (run, recipe)]
        saved = [(u.checkpoint, probe_sweep.probe_directions(u)) for u in own]
        for name in dict.fromkeys(key.rsplit("/", 2)[0] for _, arrays in saved for key in arrays):
            pairs = directions.compare(saved, probe=name)
            if len(pairs):
                found.append((Path(run).name, name, probe_plots.cosines(pairs), pairs))
    if not found:
        return ()
    lines = []
    for owner, name, _, part in found:
        for compared, pairs in part.groupby("compared", sort=False):
            above = (pairs["cosine"].abs() > pairs["null"]).mean()
            lines.append((owner, name, str(compared), str(len(pairs)), number(pairs["cosine"].abs().mean()),
                          number(pairs["null"].mean()), f"{above:.0%}"))  # fmt: skip
    return (
        Section(
            id="directions",
            title="Are the directions alike?",
            how_to_read=(
                "Each dot is the |cosine| of two probe directions at the same position: of two places of one model, of two "
                "checkpoints, or of two seeds, whose bases are unrelated. The bar is what 95 % stay below when both "
                "are fitted on the same shuffled labels; more dots above it than one in twenty mean a shared direction."
            ),
            figures=tuple(_titled(figure, f"{run}: {name}") for run, name, figure, _ in found),
            tables=(
                Table(
                    caption="Pairs of directions",
                    columns=(
                        "run",
                        "probe",
                        "compared",
                        "pairs",
                        "mean |cosine|",
                        "95 % of shuffled",
                        "pairs above",
                    ),
                    rows=tuple(lines),
                ),
            ),
        ),
    )


def _section(
    grids: Sequence[Grid], rows: pd.DataFrame, probe: Probe, gaps: pd.DataFrame | None, section_id: str
) -> Section:
    figures, lines, findings = [], [], []
    if len(grids) > 1:
        figure = probe_plots.word_orders(compare_runs(summaries.last_checkpoint(rows), gaps))
        figures.append(_titled(figure, f"{probe.question}: run beside run"))
    for one in grids:
        name = f"{one.run}, {one.word_order}"
        figures.append(_titled(probe_plots.grid(one), f"{name}: {probe.question}{_embedding(one)}"))
        every = rows[rows["run"] == one.run]
        if every[["stage", "step"]].drop_duplicates().shape[0] > 1:
            figure = probe_plots.emergence(summarize_emergence(every))
            figures.append(_titled(figure, f"{name}: {probe.question}, over training"))
        lines += [(name, *line) for line in _lines(one)]
        findings.append(f"{name}: {described(one)}")
    value = grids[0].statistic
    tables = [
        Table(
            caption=f"{probe.question}: {probe_plots.TITLES[value]}, mean over seeds [95 %]",
            columns=(
                "run",
                "where",
                "score",
                "corrected p",
                "verdict",
                *_CONTROL_COLUMNS,
                "swapped, nats",
                "swapped, share",
                "shuffled, share",
            ),
            rows=tuple(lines),
        )
    ]
    if value == "accuracy":
        tables.append(_subsets(grids))
    return Section(
        id=section_id,
        title=f"Probe: {probe.name.replace('-', ' ')}",
        how_to_read=HOW_TO_READ,
        finding=" ".join(findings),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def described(grid: Grid) -> str:
    """One sentence that says where the probe's target can be read, and whether it is used."""
    cells = grid.cells
    if not grid.permutations:
        return "no significance was computed (no permutations)."
    significant = cells[cells["p"] < summaries.LEVEL]
    text = f"readable at {len(significant)} of {len(cells)} places (corrected p < .05, {grid.permutations} permutations)"
    if len(significant):
        best = significant.sort_values("mean", ascending=False, kind="stable").to_dict("records")[0]
        text += f", best at {where(best)}: {number(best['mean'])}"
    if grid.recency == "confounded":
        text += "; its classes differ in when they were learned, so it may read that instead"
    counts = cells["verdict"].value_counts()
    tried = {v: int(counts.get(v, 0)) for v in (summaries.USED, summaries.NOT_USED)}
    if sum(tried.values()):
        text += "; " + ", ".join(f"{v}: {n}" for v, n in tried.items())
    return text + "."


_CONTROL_COLUMNS: Final = ("shuffled", "untrained", "matched recency", "selectivity")


def _lines(grid: Grid) -> list[tuple[str, ...]]:
    """Lines of the table of verdicts: the landmarks, then the best of the other places."""
    cells, landmarks = grid.cells, summaries.landmarks(grid.cells)
    keys = list(zip(cells["site"], cells["layer"], cells["position"], strict=True))
    first = [keys.index(key) for key in landmarks if key in keys]
    others = [i for i in cells["mean"].sort_values(ascending=False).index if i not in first]
    lines, records = [], cells.to_dict("records")
    for i in (first + others)[:_SHOWN]:
        row: Any = records[i]
        lines.append(
            (
                where(row),
                interval(row["mean"], row["low"], row["high"]),
                number(row["p"]),
                str(row["verdict"]),
                *(number(row.get(control)) for control in _CONTROL_COLUMNS),
                number(row["swap_effect"], sign=True),
                interval(row["swap_share"], row["swap_low"], row["swap_high"]),
                number(row["swap_shuffled"]),
            )
        )
    return lines


def _subsets(grids: Sequence[Grid]) -> Table:
    """Table of the accuracy of each subset at the landmarks, which says which aliases carry the result."""
    present = {s for one in grids for s in one.subsets["subset"].unique()}
    subsets = [s for s in plots.COLORS if s in present]
    lines = []
    for one in grids:
        cells: dict[Any, Any] = {
            (e["site"], e["layer"], e["position"], e["subset"]): e for e in one.subsets.to_dict("records")
        }
        for site, layer, position in summaries.landmarks(one.cells):
            shown = [
                interval(e["mean"], e["low"], e["high"]) if e else MISSING
                for e in (cells.get((site, layer, position, s)) for s in subsets)
            ]
            place = {"site": site, "layer": layer, "position": position}
            lines.append((f"{one.run}, {one.word_order}", where(place), *shown))
    return Table(
        caption="Accuracy by subset, mean over seeds [95 %]",
        columns=("run", "where", *(plots.label(s) for s in subsets)),
        rows=tuple(lines),
    )


def where(row: Any) -> str:
    """The name of a row's place, such as `alias, embedding` or `=, L0 resid_post`."""
    place = (
        "embedding" if (row["site"], row["layer"]) == ("resid_pre", 0) else f"L{row['layer']} {row['site']}"
    )
    return f"{row['position']}, {place}"


def _embedding(grid: Grid) -> str:
    alone = grid.token_embedding
    return f" (alias's token embedding alone: {number(alone)})" if np.isfinite(alone) else ""


def _titled(figure: Any, text: str) -> Any:
    figure.update_layout(
        title={"text": text, "x": 0, "font": {"size": 15}}, margin={"t": 100, "b": 50, "l": 100, "r": 30}
    )
    return figure
