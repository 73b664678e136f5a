"""The internalization of a run as one object: values by subset, contrasts, and the plain answers, as text and HTML."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from mechocl.behaviour import over_seeds, sentences
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.formats import NAMES, describe, estimate_in_words
from mechocl.behaviour.internalization import CONTRASTS, measures_of
from mechocl.behaviour.over_seeds import ContrastEstimate, SubsetEstimate
from mechocl.behaviour.sentences import Answer
from mechocl.errors import MechoclError
from toy_models.measures import Measures
from toy_models.shown import MISSING, Shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Internalization:
    """What a run answers. `print` it, let a notebook show it, or `plot` it."""

    rows: pd.DataFrame
    """Rows of the evaluate analysis, one per seed and alias."""
    measures: Measures
    counted: CountedSeeds
    """Which seeds count."""
    subsets: tuple[SubsetEstimate, ...]
    contrasts: tuple[ContrastEstimate, ...]
    """In the measure that conclusions are drawn from, and in the one beside it."""
    answers: tuple[Answer, ...]

    def __repr__(self) -> str:
        seeds = len(self.counted.shown)
        found = ", ".join(f"{one.question}: {one.answer}" for one in self.answers)
        return f"Internalization({seeds} seed{'s' * (seeds != 1)}; {found})"

    def __str__(self) -> str:
        return str(self.shown())

    def _repr_html_(self) -> str:
        return self.shown()._repr_html_()

    def shown(self) -> Shown:
        """The tables of subsets and contrasts, under the answers."""
        caution = sentences.caution(self.counted)
        facts = [*([caution] if caution else []), *sentences.failures_in_words(self.counted)]
        facts += [one.in_words for one in self.answers]
        unit = self.subsets[0].estimate.unit
        return Shown(
            title=repr(self),
            facts=tuple(facts),
            tables=(
                (f"By subset, mean [95 % interval over {'seeds' if unit == 'seed' else 'the aliases of one seed'}]:", self._by_subset()),
                ("Differences:", self._differences()),
            ),
        )  # fmt: skip

    def plot(self) -> Any:
        """The plotly figure of the values by subset (`mechocl.plots.subset_values`)."""
        import mechocl

        return mechocl.plots.subset_values(
            list(self.subsets), over_seeds.by_seed(self.counted.keep_shown(self.rows))
        )

    def _by_subset(self) -> pd.DataFrame:
        cells: dict[str, dict[str, str]] = {}
        for one in self.subsets:
            cells.setdefault(one.subset, {})[NAMES[one.metric]] = estimate_in_words(one.estimate)
        names = [NAMES[name] for name in self.measures.names]
        rows = [
            {"subset": subset} | {name: own.get(name, MISSING) for name in names}
            for subset, own in cells.items()
        ]
        return pd.DataFrame(rows)

    def _differences(self) -> pd.DataFrame:
        meanings = {one.name: one.meaning for one in CONTRASTS}
        rows: dict[str, dict[str, str]] = {}
        for one in self.contrasts:
            row = rows.setdefault(one.name, {"difference": meanings[one.name]})
            row[NAMES[one.metric]] = describe(one.estimate).removesuffix(" (over the aliases of one seed)")
            if one.metric == self.measures.leading:
                row["there?"] = one.verdict.answer
        return pd.DataFrame(list(rows.values()))


def summarize_internalization(rows: pd.DataFrame) -> Internalization:
    """Weak and strong internalization and out-of-context learning, from rows with one alias each.

    `rows` are those of `per_alias` (of one model), or of `analyse_run(run, "evaluate")` (of the seeds of a run). Intervals are over seeds;
    of a single seed, over its aliases. Raises MechoclError for a table that is neither.
    """
    needed = {"alias", "subset"} - set(rows.columns)
    if needed or rows.empty:
        raise MechoclError(
            "summarize_internalization takes rows of per_alias, or of analyse_run(run, 'evaluate'); "
            + (f"this table has no column {min(needed)!r}" if needed else "this table has none")
        )
    rows = rows if "seed" in rows.columns else rows.assign(seed=0)
    measures = measures_of(rows)
    counted = count_seeds(rows, measures)
    contrasts = [
        one
        for metric in (measures.leading, measures.second)
        for one in over_seeds.contrasts(rows, metric, measures, counted=counted)
    ]
    return Internalization(
        rows=rows,
        measures=measures,
        counted=counted,
        subsets=tuple(over_seeds.subsets(counted.keep_shown(rows), measures)),
        contrasts=tuple(contrasts),
        answers=tuple(sentences.answers(rows, measures, counted=counted)),
    )
