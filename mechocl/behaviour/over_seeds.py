"""Estimates of subsets and contrasts over the seeds of a run.

A function with a parameter `measures` reads the rows by these measures. If it is None, it takes the measures that the
rows' columns show.
"""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from mechocl.behaviour import internalization
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.internalization import CONTRASTS, Contrast, measures_of
from mechocl.behaviour.statistics import Estimate, difference_over_aliases, estimate
from mechocl.behaviour.verdict import Verdict, decide
from toy_models.measures import Measures
from toy_models.subsets import SUBSETS


@dataclass(frozen=True, slots=True)
class SubsetEstimate:
    """Estimate of one quantity of one subset."""

    subset: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class ContrastEstimate:
    """Estimate of one contrast in one quantity."""

    name: str
    metric: str
    estimate: Estimate
    """The difference over the seeds that are shown (`CountedSeeds.shown`)."""
    positive_seeds: int
    """Number of these seeds in which the difference is above 0."""
    verdict: Verdict
    """Whether the difference is there, judged by the smallest effect that matters in the quantity."""


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """One quantity for each value of some keys: the values of each seed, and estimates over the seeds."""

    quantity: str
    """The column that the values come from."""
    by_seed: pd.DataFrame
    """Columns: the keys, `seed`, and `value`, the mean over the rows of one seed and key; NaN if none has a value."""
    estimates: pd.DataFrame
    """The table that `over_seeds` returns."""


def questions_per_alias(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the evaluate analysis, one per seed and alias.

    If there are several tests, they are the means over the alias's held-out questions, without the other tests.
    """
    if "test" not in rows.columns:
        return rows
    asked = rows[rows["test"] == "questions"]
    return (
        asked.groupby(["seed", "alias", "subset"], sort=False)[list(measures_of(rows).names)]
        .mean()
        .reset_index()
    )


def leading(rows: pd.DataFrame, measures: Measures | None = None) -> tuple[str, str]:
    """The quantity in which answers are given, and the quantity that is shown beside it."""
    measures = measures or measures_of(rows)
    return measures.leading, measures.second


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per seed and subset, from rows of the evaluate analysis."""
    return internalization.by_subset(questions_per_alias(rows), within=["seed"])


def without_failed(
    rows: pd.DataFrame, measures: Measures | None = None
) -> tuple[pd.DataFrame, dict[int, str]]:
    """Rows of the evaluate analysis without the seeds that failed, which did not learn their definitions; and why.

    The second value is seed → the reason. If no seed is left, all rows are returned, and the caller must say that their
    trainings failed.
    """
    counted = count_seeds(rows, measures)
    return counted.keep_shown(rows), dict(counted.failed)


def subsets(rows: pd.DataFrame, measures: Measures | None = None) -> list[SubsetEstimate]:
    """Mean and interval of each quantity in each subset. The unit is the seed, or the alias if there is one seed.

    An interval stays within the values that its quantity can have (`Measures.bounds`).
    """
    measures = measures or measures_of(rows)
    rows = questions_per_alias(rows)
    single = rows["seed"].nunique() == 1
    table = rows if single else by_seed(rows)
    found = []
    for name in SUBSETS:
        part = table[table["subset"] == name]
        for metric in measures.names:
            values = part[metric].dropna().to_numpy(dtype=float)
            if len(values):
                unit: Literal["seed", "alias"] = "alias" if single else "seed"
                summary = estimate(values, unit=unit, bounds=measures.bounds.get(metric))
                found.append(SubsetEstimate(name, metric, summary))
    return found


def differences_by_seed(rows: pd.DataFrame, metric: str, measures: Measures | None = None) -> pd.DataFrame:
    """The value of each contrast whose subsets are in the run: seeds as rows (the index), contrasts as columns."""
    measures = measures or measures_of(rows)
    per_seed = by_seed(rows).pivot(index="seed", columns="subset", values=metric)
    return internalization.contrasts(per_seed, metric, measures)


def contrasts(
    rows: pd.DataFrame,
    metric: str,
    measures: Measures | None = None,
    *,
    counted: CountedSeeds | None = None,
) -> list[ContrastEstimate]:
    """Mean, interval, test and verdict of each contrast whose subsets are in the run, paired by seed.

    `rows` are those of every finished seed. `counted` says which of them count; without it, the rows themselves say it
    (`count_seeds`). The estimate of a single seed is a difference over its aliases, which is about that one model. Intervals stay
    within the differences that are possible.
    """
    measures = measures or measures_of(rows)
    counted = counted or count_seeds(rows, measures)
    rows = questions_per_alias(rows)
    table = differences_by_seed(rows, metric, measures)
    shown = counted.keep_shown(rows)
    found = []
    for contrast in CONTRASTS:
        if contrast.name not in table.columns:
            continue
        each = dict(zip(table.index.tolist(), table[contrast.name].tolist(), strict=True))
        values = np.array([value for seed, value in each.items() if seed in counted.shown])
        verdict = decide(
            {seed: value for seed, value in each.items() if seed in counted.learned},
            {seed: value for seed, value in each.items() if seed in counted.failed},
            diverged=len(counted.diverged),
            margin=measures.smallest[metric],
        )
        if len(values) > 1 or contrast.minus is not None:
            result = estimate(values, unit="seed")
        else:
            better = shown.loc[shown["subset"] == contrast.better, metric].to_numpy(dtype=float)
            if contrast.worse:
                worse = shown.loc[shown["subset"] == contrast.worse, metric].to_numpy(dtype=float)
                result = difference_over_aliases(better, worse)
            else:
                result = estimate(better - measures.chance[metric], unit="alias")
        result = within(result, _possible(contrast, metric, measures))
        found.append(ContrastEstimate(contrast.name, metric, result, int((values > 0).sum()), verdict))
    return found


def _possible(contrast: Contrast, metric: str, measures: Measures) -> tuple[float, float] | None:
    """The least and the greatest value that a contrast can have; None where its quantity has none."""
    ends = measures.bounds.get(metric)
    if ends is None:
        return None
    if not contrast.worse:
        return ends[0] - measures.chance[metric], ends[1] - measures.chance[metric]
    most = (ends[1] - ends[0]) * (2 if contrast.minus else 1)
    return -most, most


def within(e: Estimate, bounds: tuple[float, float] | None) -> Estimate:
    """An estimate whose interval is cut off at the least and the greatest possible value, if there are any. Its mean and p stay."""
    if bounds is None:
        return e
    low, high = np.clip([e.low, e.high], *bounds).tolist()
    return replace(e, low=low, high=high)


def layer_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of `value` over the rows, with layers as rows (bottom first) and positions as columns, in order."""
    layers, positions = rows["layer"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["layer", "position"])[value].mean().unstack().loc[list(layers), list(positions)]


def over_seeds(
    rows: pd.DataFrame, keys: list[str], value: str, *, bounds: tuple[float, float] | None = None
) -> pd.DataFrame:
    """Mean of a value over seeds by the keys, in the order of the rows: `mean`, `low`, `high`, `p`, `seeds`, `positive`, `of`.

    Rows of one seed and key are averaged first. The interval is NaN with a single seed. Seeds without a value are left
    out: `seeds` counts those that have one, `of` those that have rows, and whoever shows the mean says it where they differ
    (`formats.mean_in_words`). A key that has no value in any seed has no row. An interval stays within `bounds`, the least
    and the greatest possible value.
    """
    each = _average_within_seeds(rows, keys, value)
    of = {key: part["seed"].nunique() for key, part in rows.groupby(keys, sort=False)}
    found = []
    for key, part in each.groupby(keys, sort=False):
        values = part[value].to_numpy(dtype=float)
        e = estimate(values, unit="seed", bounds=bounds)
        numbers = {"mean": e.mean, "low": e.low, "high": e.high, "p": e.p, "seeds": e.n}
        names = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        found.append(names | numbers | {"positive": int((values > 0).sum()), "of": of[key]})
    return pd.DataFrame(found, columns=[*keys, "mean", "low", "high", "p", "seeds", "positive", "of"])


def summarize_seeds(
    rows: pd.DataFrame, keys: list[str], value: str, *, bounds: tuple[float, float] | None = None
) -> SeedSummary:
    """A value for each of the keys, in each seed and over the seeds, in the order of the rows; `bounds` as in `over_seeds`."""
    each = _average_within_seeds(rows, keys, value).rename(columns={value: "value"})
    by_seed = rows[[*keys, "seed"]].drop_duplicates().merge(each, how="left")
    return SeedSummary(value, by_seed, over_seeds(rows, keys, value, bounds=bounds))


def _average_within_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean of the value for each key and seed that has one, in the order of the rows."""
    known = rows.dropna(subset=[value])
    return known.groupby([*keys, "seed"], sort=False)[value].mean().reset_index()


def site_names(rows: pd.DataFrame) -> pd.Series:
    """Where each row of `patching.PatchingResult.rows` patches: `L0 attn_out`, `L0H1 z`, `L0KV0 v` (a key/value head that
    several heads share), `L0N17 mlp_post`."""
    letters = {"head": "H", "key/value head": "KV", "neuron": "N", "whole": ""}
    index = rows["part"].map(letters) + rows["index"].astype(str)
    names: pd.Series = (
        "L" + rows["layer"].astype(str) + index.where(rows["index"] >= 0, "") + " " + rows["site"]
    )
    return names


def site_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of a value, with sites as rows (in the order of `rows`, lowest first) and positions as columns."""
    sites, positions = rows["site"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["site", "position"])[value].mean().unstack().loc[list(sites), list(positions)]
