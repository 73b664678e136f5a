"""The report's sections on what stage 2 does: its variants, gradients along it, and twins. They show what a verdict computed."""

from typing import Any

import pandas as pd

from mechocl.behaviour import formats, over_seeds
from mechocl.behaviour.control_gaps import ControlGap, compare_gaps
from mechocl.behaviour.counted import CountedSeeds
from mechocl.hypotheses.sources import Gathered, key
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.report import learning_plots
from mechocl.report.control_sections import gap_table, paired_gaps
from mechocl.report.page import Section, Table
from mechocl.runs.variants import VARIANTS


def sections(verdict: RunVerdict, counted: CountedSeeds) -> list[Section]:
    """The sections of what a verdict's predictions were measured by; none of what was not computed."""
    gathered = verdict.gathered
    gaps = compare_gaps(gathered.answers, gathered.variants, gathered.measures, counted=counted)
    found = [_variants(gaps)] if gaps else []
    for analysis, draw in (("gradients", _gradients), ("twin-exchange", _twins)):
        rows = _rows(verdict, analysis, counted)
        found += [draw(rows, gathered)] if rows is not None else []
    return found


def _rows(verdict: RunVerdict, analysis: str, counted: CountedSeeds) -> pd.DataFrame | None:
    """Rows of an analysis with the config of the first prediction that is measured by it."""
    for one in verdict.effects:
        table = verdict.gathered.tables.get(key(one.prediction))
        if one.prediction.analysis == analysis and table is not None:
            return counted.keep_shown(table)
    return None


def _variants(gaps: list[ControlGap]) -> Section:
    metric = formats.NAMES[gaps[0].metric]
    return Section(
        id="variants",
        title="Stage 2 with one thing changed",
        how_to_read=(
            "Each variant starts from the run's own weights before stage 2. What is gone from the gap d1 − d2 came from what was changed. Each "
            "line is a seed, from its gap in the run to its gap in the variant; diamonds are means with 95 % intervals over seeds. In "
            "exchanged-tags the aliases of d1 and d2 change places, so that its gap should be the run's own."
        ),
        figures=(paired_gaps(gaps, other="the variant"),),
        tables=(
            gap_table(
                gaps,
                {name: one.meaning for name, one in VARIANTS.items()},
                caption=f"The gap in {metric} of each variant, and what is gone from the run's gap, paired by seed",
                columns=("variant", "what is changed", "its gap [95 %]", "gone [95 %]", "seeds", "is any gone?"),
            ),
        ),
    )  # fmt: skip


def _gradients(rows: pd.DataFrame, gathered: Gathered) -> Section:
    return Section(
        id="gradients",
        title="Does an update on a definition help its questions?",
        how_to_read=(
            "How far the optimiser's update on a new definition agrees with an update on the questions about the same alias, over the same "
            "for questions about other aliases. All tags are given to the same aliases, in turn. Before stage 2 no new definition was "
            "trained on; gradient alignment expects tag 1 above tag 2 there, and along the stage."
        ),
        figures=(learning_plots.alignment(rows),),
    )


def _twins(rows: pd.DataFrame, gathered: Gathered) -> Section:
    metric = gathered.measures.leading
    found = over_seeds.over_seeds(
        rows[rows["metric"] == metric].dropna(subset=["tag_1_effect"]), ["exchange", "subset"], "tag_1_effect"
    )
    cells: dict[Any, Any] = {(e["exchange"], e["subset"]): e for e in found.to_dict("records")}
    exchanges, subsets = (list(dict.fromkeys(found[name])) for name in ("exchange", "subset"))
    return Section(
        id="twins",
        title="Twins exchange their embeddings",
        how_to_read=(
            "Each alias is trained twice from the same weights, under tag 1 and under tag 2. In the run's own model it gets what its twin "
            "has: the whole embedding, the part along the mean difference of other twins, or the rest; or, as controls, another alias's "
            "difference and random directions. Above 0, answers become those of tag 1. A trace of the tag is one direction for all "
            "aliases; what is stored about an entity is not."
        ),
        figures=(learning_plots.exchanges(rows, metric=metric),),
        tables=(
            Table(
                caption=f"Effect towards tag 1 in {formats.NAMES[metric]}, mean over seeds [95 %]",
                columns=("exchange", *subsets),
                rows=tuple(
                    (name, *(formats.mean_in_words(cells.get((name, subset))) for subset in subsets))
                    for name in exchanges
                ),
            ),
        ),
    )
