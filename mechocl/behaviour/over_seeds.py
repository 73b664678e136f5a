"""What the seeds of a run say together: estimates of subsets and contrasts.

Functions that take `measures` read the rows by them; without, by those that the rows' columns tell.
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
    """One quantity of one subset."""

    subset: str
    metric: str
    estimate: Estimate


@dataclass(frozen=True, slots=True)
class ContrastEstimate:
    """One contrast in one quantity."""

    name: str
    metric: str
    estimate: Estimate
    positive_seeds: int
    """Seeds in which the difference is above 0."""


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """One quantity by some keys: what each seed has, and what the seeds have together."""

    quantity: str
    """The column that the values come from."""
    by_seed: pd.DataFrame
    """The keys, `seed` and `value`: rows of one seed and key are averaged; NaN where none of them has a value."""
    estimates: pd.DataFrame
    """As from `over_seeds`."""


MIN_SEEDS: Final = 8
"""Fewer seeds (but one, which speaks of its own aliases) conclude nothing: they differ a lot, also in sign."""


def questions_per_alias(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the evaluate analysis, one per seed and alias: where there are several tests, the means over the alias's
    held-out questions, without the other tests."""
    if "test" not in rows.columns:
        return rows
    asked = rows[rows["test"] == "questions"]
    return (
        asked.groupby(["seed", "alias", "subset"], sort=False)[list(measures_of(rows).names)]
        .mean()
        .reset_index()
    )


def leading(rows: pd.DataFrame, measures: Measures | None = None) -> tuple[str, str]:
    """The quantity that answers are given in, and the one beside it."""
    measures = measures or measures_of(rows)
    return measures.leading, measures.second


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the evaluate analysis → one row per seed and subset."""
    rows = questions_per_alias(rows)
    tables = [internalization.by_subset(part).assign(seed=seed) for seed, part in rows.groupby("seed")]
    return pd.concat(tables, ignore_index=True)


def without_failed(
    rows: pd.DataFrame, measures: Measures | None = None
) -> tuple[pd.DataFrame, dict[int, str]]:
    """Rows of the evaluate analysis without the seeds that failed to learn their definitions, and why each did.

    Where no seed is left, all rows are given back: the caller says that they are of failed trainings.
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
    """Mean and interval of each quantity in each subset; unit seed, or alias when there is one seed."""
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
    """Mean, interval and test of each contrast whose subsets are in the run; paired by seed.

    With a single seed: a difference over its aliases, which speaks of that one model.
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

    Rows of one seed and key are averaged first. The interval is NaN with a single seed; seeds without the value are
    left out, and a key without any has no row.
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
    """A value by the keys, seed by seed and over the seeds, in the order of the rows."""
    each = _average_within_seeds(rows, keys, value).rename(columns={value: "value"})
    by_seed = rows[[*keys, "seed"]].drop_duplicates().merge(each, how="left")
    return SeedSummary(value, by_seed, over_seeds(rows, keys, value))


def _average_within_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean of the value for each key and seed that has one, in the order of the rows."""
    known = rows.dropna(subset=[value])
    return known.groupby([*keys, "seed"], sort=False)[value].mean().reset_index()


def site_names(rows: pd.DataFrame) -> pd.Series:
    """`L0 attn_out`, `L0H1 z`, `L0N17 mlp_post`: where each row of `patching.PatchingResult.rows` patches."""
    index = rows["site"].map(lambda site: "N" if site == "mlp_post" else "H") + rows["index"].astype(str)
    names: pd.Series = (
        "L" + rows["layer"].astype(str) + index.where(rows["index"] >= 0, "") + " " + rows["site"]
    )
    return names


def site_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of a value, sites as rows (in the order of the rows, lowest first) and positions as columns."""
    sites, positions = rows["site"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["site", "position"])[value].mean().unstack().loc[list(sites), list(positions)]
