"""The report's section on sparse autoencoders: of those that the run has trained, searched and tested."""

import pandas as pd

from mechocl import analyses
from mechocl.features import dictionaries, plots, summaries
from mechocl.features.effects import EffectsConfig
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.runs import Run
from mechocl.sharing.page import Section, Table
from mechocl.summaries import described, signed

_QUALITY = (
    ("explained_variance", "all"),
    ("l0", "all"),
    ("dead", "all"),
    ("loss", "recovered"),
    ("auc_recovered", "d1_consistent"),
    ("auc_recovered", "d2_consistent"),
    ("found_again", "all"),
)


def section(run: Run) -> Section | None:
    """What the saved searches and tests of the run's dictionaries say; None where there are none."""
    names = [name for name in dictionaries.names(run.path) if "-crosscoder-" not in name]
    searched = {
        name: rows
        for name in names
        if (rows := _saved(run, "sae-search", SearchConfig(sae=name))) is not None
    }
    if not searched:
        return None
    tested = {
        name: rows for name in names if (rows := _saved(run, "sae-test", EffectsConfig(sae=name))) is not None
    }
    tables = [_quality(run, names)]
    for name, rows in searched.items():
        tables.append(
            _frame(
                f"{name}: AUC on held-out aliases in questions, by position",
                summaries.existing(rows).head(14),
            )
        )
    figures = [
        plots.selectivity([(name, summaries.existing(rows)) for name, rows in list(searched.items())[:4]])
    ]
    findings = []
    for name, rows in tested.items():
        tables.append(
            _frame(f"{name}: share of the answers' gap that patching moves", summaries.causal(rows))
        )
        figures.append(plots.shares(rows).update_layout(title={"text": name, "font": {"size": 13}}))
        patched = rows[rows["intervention"] == "patch"]
        seeds = patched[patched["retrieval"]]["seed"].nunique()
        findings.append(
            f"{name}: {int(patched['retrieval'].sum())} of {len(patched)} tested features are retrieval features, "
            f"in {seeds} of {rows['seed'].nunique()} seeds."
        )
    return Section(
        id="features",
        title="Sparse autoencoders",
        how_to_read=(
            "A feature stands for a property if it is active on one kind of alias and not on the other, among aliases that "
            "neither the dictionary nor the choice has seen (AUC 1 or 0; .5 is chance). It is a retrieval feature if, besides, "
            "exchanging its activation between two questions moves the answer more than exchanging 95 % of features of "
            "like firing rate and norm does (diamonds above the grey ticks). `mechocl sae dashboard` shows every feature."
        ),
        finding=" ".join(findings),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def _saved(run: Run, analysis: str, config: object) -> pd.DataFrame | None:
    """Rows over the seeds that have them."""
    name = str(getattr(config, "sae", ""))
    there = [
        folder
        for folder in run.finished_seeds()
        if (dictionaries.path_of(run.path, name, folder.seed) / dictionaries.RECORD).exists()
    ]
    seeds = [
        folder.seed
        for folder in there
        if run.load_result(analysis, analyses.inputs(folder, analysis, config, None)) is not None
    ]
    return analyses.load(run, analysis, config, seeds=seeds) if seeds else None


def _quality(run: Run, names: list[str]) -> Table:
    """One line for each dictionary, with those of other initial weights as they were judged."""
    lines = []
    for name in names:
        others = tuple(
            other for other in names if other != name and other.rsplit("-s", 1)[0] == name.rsplit("-s", 1)[0]
        )
        rows = _saved(run, "sae-quality", QualityConfig(sae=name, others=others))
        if rows is None:
            continue
        found = {
            (r["measure"], r["part"]): described(r).lstrip("+")
            for r in summaries.quality(rows).to_dict("records")
        }
        lines.append((name, *(found.get(key, "–") for key in _QUALITY)))
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
    def cell(value: object) -> str:
        if isinstance(value, float):
            return "–" if value != value else signed(value).lstrip("+")
        return str(value)

    return Table(
        caption=caption,
        columns=tuple(map(str, table.columns)),
        rows=tuple(tuple(cell(value) for value in row) for row in table.itertuples(index=False)),
    )
