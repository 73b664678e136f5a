"""The report's section on the sparse autoencoders that were trained, searched and tested in the run."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from mechocl.analyses import results
from mechocl.behaviour import formats
from mechocl.behaviour.statistics import SHARE
from mechocl.features import dictionaries, summaries
from mechocl.features.candidates import EffectsConfig
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.report import feature_plots
from mechocl.report.intervals import row_within
from mechocl.report.page import Section, Table
from mechocl.runs.run import Run

_PANELS: Final = 4
"""Largest number of kinds of dictionaries that are drawn beside each other."""

_LINES: Final = 10
"""Largest number of lines in the table of what exists."""

_QUALITY: Final = (
    ("explained_variance", "all"),
    ("l0", "all"),
    ("dead", "all"),
    ("loss", "recovered"),
    ("auc_recovered", "d1_consistent"),
    ("auc_recovered", "d2_consistent"),
    ("found_again", "all"),
)

_BOUNDS: Final = {
    "explained_variance": (-np.inf, 1.0),
    "l0": (0.0, np.inf),
    "dead": SHARE,
    "found_again": SHARE,
}
"""Measure → its least and its greatest possible value."""


def section(run: Run, *, seeds: Sequence[int]) -> Section | None:
    """What the saved searches and tests of the run's dictionaries say of these seeds. None if nothing is saved.

    Dictionaries that differ only in their initial weights are shown together.
    """
    names = [name for name in dictionaries.names(run.path) if "-crosscoder-" not in name]
    searched = _together(run, seeds, names, "sae-search", SearchConfig)
    if not searched:
        return None
    tested = _together(run, seeds, names, "sae-test", EffectsConfig)
    tables, findings = [_quality(run, seeds, names)], []
    figures = [
        feature_plots.selectivity(
            [(kind, summaries.existing(rows)) for kind, rows in list(searched.items())[:_PANELS]]
        )
    ]
    for kind, rows in searched.items():
        found = summaries.existing(rows).head(_LINES)
        tables.append(_frame(f"{kind}: AUC on held-out aliases in questions, by position", found))
    for kind, rows in tested.items():
        shares = summaries.causal(rows)
        tables.append(_frame(f"{kind}: share of the answers' gap that patching moves", shares))
        figures.append(
            feature_plots.shares(summaries.summarize_shares(summaries.surest_patches(rows)), title=kind)
        )
        patched = summaries.patches(rows)
        with_one = patched[patched["retrieval"]]["seed"].nunique()
        findings.append(
            f"{kind}: {int(patched['retrieval'].sum())} of {len(patched)} tested features are retrieval features, "
            f"in {with_one} of {rows['seed'].nunique()} seeds."
        )
    return Section(
        id="features",
        title="Sparse autoencoders",
        how_to_read=(
            "A feature stands for a property if it is active on one kind of alias and not on the other, among aliases that "
            "neither the dictionary nor the choice has seen (AUC 1 or 0; .5 is chance). It is a retrieval feature if, besides, "
            "exchanging its activation between two questions moves the answer more than exchanging 95 % of features of "
            "equal firing rate and norm does (diamonds above the grey ticks). `mechocl sae dashboard` shows every feature."
        ),
        finding=" ".join(findings),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _kind(name: str) -> str:
    """A dictionary's name without the number of its initial weights."""
    return name.rsplit("-s", 1)[0]


def _together(
    run: Run, seeds: Sequence[int], names: list[str], analysis: str, config: Callable[..., object]
) -> dict[str, pd.DataFrame]:
    """Saved rows by kind of dictionary. The column `sae` tells the dictionaries of one kind apart.

    Rows of dictionaries that were trained on other weights are a kind of their own, whose name says so.
    """
    found: dict[str, list[pd.DataFrame]] = {}
    for name in names:
        rows = _saved(run, seeds, analysis, config(sae=name))
        if rows is not None:
            unknown = " (trained on unknown weights)" if (rows["trained_on"] == "unknown").any() else ""
            found.setdefault(_kind(name) + unknown, []).append(rows.assign(sae=name))
        rows = _saved(run, seeds, analysis, config(sae=name, transfer=True))
        if rows is not None and (rows["trained_on"] == "others").any():
            others = rows[rows["trained_on"] == "others"].assign(sae=name)
            found.setdefault(f"{_kind(name)} (trained on other weights)", []).append(others)
    return {kind: pd.concat(parts, ignore_index=True) for kind, parts in found.items()}


def _saved(run: Run, seeds: Sequence[int], analysis: str, config: object) -> pd.DataFrame | None:
    """Saved rows of those of the seeds that have them. None if no seed has them."""
    name = str(getattr(config, "sae", ""))
    there = [
        folder
        for folder in run.finished_seeds()
        if folder.seed in seeds
        and (dictionaries.path_of(run.path, name, folder.seed) / dictionaries.RECORD).exists()
    ]
    saved = [
        folder.seed
        for folder in there
        if run.load_result(analysis, results.result_key(folder, analysis, config, None)) is not None
    ]
    return results.load_rows(run, analysis, config, seeds=saved) if saved else None


def _quality(run: Run, seeds: Sequence[int], names: list[str]) -> Table:
    """A table with one line for each dictionary, judged beside the dictionaries with other initial weights."""
    lines = []
    for name in names:
        others = tuple(other for other in names if other != name and _kind(other) == _kind(name))
        rows = _saved(run, seeds, "sae-quality", QualityConfig(sae=name, others=others))
        if rows is None:
            continue
        found = {
            (r["measure"], r["part"]): formats.value_in_words(row_within(r, _BOUNDS.get(r["measure"])))
            for r in summaries.quality(rows).to_dict("records")
        }
        lines.append((name, *(found.get(key, formats.MISSING) for key in _QUALITY)))
    return Table(
        caption="Quality on aliases that the dictionary has not seen, over the seeds",
        columns=(
            "dictionary",
            "explained variance",
            "active features",
            "dead",
            "loss recovered",
            "d1's AUC recovered",
            "d2's AUC recovered",
            "found again",
        ),
        rows=tuple(lines),
    )


def _frame(caption: str, table: pd.DataFrame) -> Table:
    return Table(
        caption=caption,
        columns=tuple(map(str, table.columns)),
        rows=tuple(tuple(formats.cell(value) for value in row) for row in table.itertuples(index=False)),
    )
