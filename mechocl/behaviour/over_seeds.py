"""Estimates of subsets and contrasts over the seeds of a run.

A function with a parameter `measures` reads the rows by these measures. If it is None, it takes the measures that the
rows' columns show.
"""

from dataclasses import dataclass
from typing import Final

import pandas as pd

from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import CONTRASTS, measures_of
from mechocl.behaviour.statistics import Estimate, difference_over_aliases, estimate
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
    positive_seeds: int
    """Number of seeds in which the difference is above 0."""


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """One quantity for each value of some keys: the values of each seed, and estimates over the seeds."""

    quantity: str
    """The column that the values come from."""
    by_seed: pd.DataFrame
    """Columns: the keys, `seed`, and `value`, the mean over the rows of one seed and key; NaN if none has a value."""
    estimates: pd.DataFrame
    """The table that `over_seeds` returns."""


MIN_SEEDS: Final = 8
"""Least number of seeds to conclude from. Seeds differ a lot, also in sign. A single seed is not judged by it, since its
estimates are about its own aliases."""


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
    rows = questions_per_alias(rows)
    tables = [internalization.by_subset(part).assign(seed=seed) for seed, part in rows.groupby("seed")]
    return pd.concat(tables, ignore_index=True)


def without_failed(
    rows: pd.DataFrame, measures: Measures | None = None
) -> tuple[pd.DataFrame, dict[int, str]]:
    """Rows of the evaluate analysis without the seeds that failed, which did not learn their definitions; and why.

    The second value is seed → the reason. If no seed is left, all rows are returned, and the caller must say that their
    trainings failed.
    """
    measures = measures or measures_of(rows)
    reasons: dict[int, str] = {}
    if measures.least_recall is None:
        return rows, reasons
    for seed in sorted(set(rows["seed"])):
        reason = internalization.failure(internalization.by_subset(rows[rows["seed"] == seed]), measures)
        if reason:
            reasons[int(seed)] = reason
    kept = rows[~rows["seed"].isin(reasons)]
    return (kept if len(kept) else rows), reasons


def subsets(rows: pd.DataFrame) -> list[SubsetEstimate]:
    """Mean and interval of each quantity in each subset. The unit is the seed, or the alias if there is one seed."""
    rows = questions_per_alias(rows)
    single = rows["seed"].nunique() == 1
    table = rows if single else by_seed(rows)
    found = []
    for name in SUBSETS:
        part = table[table["subset"] == name]
        for metric in measures_of(rows).names:
            values = part[metric].dropna().to_numpy(dtype=float)
            if len(values):
                summary = estimate(values, unit="alias" if single else "seed")
                found.append(SubsetEstimate(name, metric, summary))
    return found


def contrasts(rows: pd.DataFrame, metric: str, measures: Measures | None = None) -> list[ContrastEstimate]:
    """Mean, interval and test of each contrast whose subsets are in the run, paired by seed.

    With a single seed, it is a difference over its aliases, which is about that one model.
    """
    measures = measures or measures_of(rows)
    rows = questions_per_alias(rows)
    per_seed = by_seed(rows).pivot(index="seed", columns="subset", values=metric)
    table = per_seed.apply(
        lambda values: internalization.contrasts(values.dropna(), metric, measures), axis=1
    )
    found = []
    for contrast in CONTRASTS:
        if contrast.name not in table.columns:
            continue
        values = table[contrast.name].to_numpy(dtype=float)
        if len(values) > 1:
            result = estimate(values, unit="seed")
        else:
            better = rows.loc[rows["subset"] == contrast.better, metric].to_numpy(dtype=float)
            if contrast.worse:
                worse = rows.loc[rows["subset"] == contrast.worse, metric].to_numpy(dtype=float)
                result = difference_over_aliases(better, worse)
            else:
                result = estimate(better - measures.chance[metric], unit="alias")
        found.append(ContrastEstimate(contrast.name, metric, result, int((values > 0).sum())))
    return found


def layer_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of `value` over the rows, with layers as rows (bottom first) and positions as columns, in order."""
    layers, positions = rows["layer"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["layer", "position"])[value].mean().unstack().loc[list(layers), list(positions)]


def over_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean of a value over seeds by the keys, in the order of the rows: `mean`, `low`, `high`, `p`, `seeds`, `positive`.

    Rows of one seed and key are averaged first. The interval is NaN with a single seed. Seeds without a value are left
    out, and a key that has no value in any seed has no row.
    """
    each = _average_within_seeds(rows, keys, value)
    found = []
    for key, part in each.groupby(keys, sort=False):
        values = part[value].to_numpy(dtype=float)
        e = estimate(values, unit="seed")
        numbers = {"mean": e.mean, "low": e.low, "high": e.high, "p": e.p, "seeds": e.n}
        names = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        found.append(names | numbers | {"positive": int((values > 0).sum())})
    return pd.DataFrame(found, columns=[*keys, "mean", "low", "high", "p", "seeds", "positive"])


def summarize_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> SeedSummary:
    """A value for each of the keys, in each seed and over the seeds, in the order of the rows."""
    each = _average_within_seeds(rows, keys, value).rename(columns={value: "value"})
    by_seed = rows[[*keys, "seed"]].drop_duplicates().merge(each, how="left")
    return SeedSummary(value, by_seed, over_seeds(rows, keys, value))


def _average_within_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean of the value for each key and seed that has one, in the order of the rows."""
    known = rows.dropna(subset=[value])
    return known.groupby([*keys, "seed"], sort=False)[value].mean().reset_index()


def site_names(rows: pd.DataFrame) -> pd.Series:
    """Where each row of `patching.PatchingResult.rows` patches: `L0 attn_out`, `L0H1 z`, `L0N17 mlp_post`."""
    index = rows["site"].map(lambda site: "N" if site == "mlp_post" else "H") + rows["index"].astype(str)
    names: pd.Series = (
        "L" + rows["layer"].astype(str) + index.where(rows["index"] >= 0, "") + " " + rows["site"]
    )
    return names


def site_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of a value, with sites as rows (in the order of `rows`, lowest first) and positions as columns."""
    sites, positions = rows["site"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["site", "position"])[value].mean().unstack().loc[list(sites), list(positions)]
