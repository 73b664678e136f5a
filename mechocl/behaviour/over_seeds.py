"""What the seeds of a run say together: subsets, contrasts, and plain answers to the three questions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from mechocl.behaviour import internalization
from mechocl.behaviour.internalization import CHANCE, CONTRASTS, TEXT_METRICS, metrics_of
from mechocl.behaviour.statistics import Estimate, difference_over_aliases, estimate
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


MIN_SEEDS: Final = 8
"""Fewer seeds (but one, which speaks of its own aliases) conclude nothing: they differ a lot, also in sign."""


def of_questions(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the evaluate analysis, one per seed and alias: of a text world the means over the alias's held-out
    questions, without the other tests."""
    if "test" not in rows.columns:
        return rows
    asked = rows[rows["test"] == "questions"]
    return asked.groupby(["seed", "alias", "subset"], sort=False)[list(TEXT_METRICS)].mean().reset_index()


def leading(rows: pd.DataFrame) -> tuple[str, str]:
    """The quantity that answers are given in, and the one beside it."""
    return ("exact_match", "log_probability") if metrics_of(rows) == TEXT_METRICS else ("auc", "accuracy")


NAMES: Final = {
    "auc": "AUC", "accuracy": "accuracy", "exact_match": "exact match", "log_probability": "log-probability",
    "logit_difference": "logit difference", "recall": "recall",
}  # fmt: skip
"""Quantities in words."""


def by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of the evaluate analysis → one row per seed and subset."""
    rows = of_questions(rows)
    tables = [internalization.by_subset(part).assign(seed=seed) for seed, part in rows.groupby("seed")]
    return pd.concat(tables, ignore_index=True)


def trained(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[int, str]]:
    """Rows of the evaluate analysis without the seeds that failed to learn their definitions, and why each did.

    Where no seed is left, all rows are given back: the caller says that they are of failed trainings.
    """
    reasons: dict[int, str] = {}
    if metrics_of(rows) == TEXT_METRICS:
        return rows, reasons
    for seed in sorted(set(rows["seed"])):
        reason = internalization.untrained(internalization.by_subset(rows[rows["seed"] == seed]))
        if reason:
            reasons[int(seed)] = reason
    kept = rows[~rows["seed"].isin(reasons)]
    return (kept if len(kept) else rows), reasons


def described_failures(failures: dict[int, str], seeds: int) -> list[str]:
    """A line for each seed that failed, with how many did; of the means it says whether they are left out."""
    left_out = "is left out" if len(failures) < seeds else "is shown all the same, as no seed is better"
    count = f"{len(failures)} of {seeds} failed"
    return [f"seed {seed} failed and {left_out} ({count}): {why}" for seed, why in failures.items()]


def subsets(rows: pd.DataFrame) -> list[SubsetEstimate]:
    """Mean and interval of each quantity in each subset; unit seed, or alias when there is one seed."""
    rows = of_questions(rows)
    single = rows["seed"].nunique() == 1
    table = rows if single else by_seed(rows)
    found = []
    for name in SUBSETS:
        part = table[table["subset"] == name]
        for metric in metrics_of(rows):
            values = part[metric].dropna().to_numpy(dtype=float)
            if len(values):
                summary = estimate(values, unit="alias" if single else "seed")
                found.append(SubsetEstimate(name, metric, summary))
    return found


def contrasts(rows: pd.DataFrame, metric: str) -> list[ContrastEstimate]:
    """Mean, interval and test of each contrast whose subsets are in the run; paired by seed.

    With a single seed: a difference over its aliases, which speaks of that one model.
    """
    rows = of_questions(rows)
    per_seed = by_seed(rows).pivot(index="seed", columns="subset", values=metric)
    table = per_seed.apply(lambda values: internalization.contrasts(values.dropna(), metric), axis=1)
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
                result = estimate(better - CHANCE[metric], unit="alias")
        found.append(ContrastEstimate(contrast.name, metric, result, int((values > 0).sum())))
    return found


def layer_by_position(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean of `value` over the rows, with layers as rows (bottom first) and positions as columns, in order."""
    layers, positions = rows["layer"].drop_duplicates(), rows["position"].drop_duplicates()
    return rows.groupby(["layer", "position"])[value].mean().unstack().loc[list(layers), list(positions)]


@dataclass(frozen=True, slots=True)
class Answer:
    """A plain answer to one question about the run."""

    question: str
    answer: str
    """ "yes", "no", "cannot tell"."""
    sentence: str


_QUESTIONS: Final = (
    (
        "Weak internalization",
        "weak",
        "questions are answered better where the definition carried tag 1 than tag 2",
    ),
    ("Out-of-context learning", "ocl_d1", "aliases only ever defined (tag 1) are answered above chance"),
    (
        "Strong internalization (IML)",
        "strong",
        "new definitions are used more when they carry tag 1 than tag 2",
    ),
)


def answers(rows: pd.DataFrame) -> list[Answer]:
    """Yes, no (the opposite is significant) or cannot tell, by the 95 % interval of the within-alias AUC, accuracy beside
    it; in a text world of exact match, the log-probability beside it."""
    lead, second = leading(rows)
    found = {c.name: c for c in contrasts(rows, lead)}
    accuracy = {c.name: c.estimate for c in contrasts(rows, second)}
    n_seeds = rows["seed"].nunique()
    result = []
    for question, name, claim in _QUESTIONS:
        if lead == "exact_match" and name == "ocl_d1":
            name, claim = (
                "d1_vs_no_data",
                "aliases only ever defined (tag 1) are answered better than undefined ones",
            )
        if name not in found:
            result.append(Answer(question, "not asked", "the run has no aliases for this comparison"))
            continue
        e = found[name].estimate
        verdict = "cannot tell"
        too_few = 1 < n_seeds < MIN_SEEDS
        if e.significant and not too_few:
            verdict = "yes" if e.mean > 0 else "no: the reverse"
        sentence = f"{claim}: {NAMES[lead]} difference {describe(e)}"
        if n_seeds > 1:
            sentence += f", positive in {found[name].positive_seeds} of {n_seeds} seeds"
        if too_few:
            sentence += f"; {n_seeds} seeds are too few to conclude from"
        elif verdict == "cannot tell" and n_seeds > 1 and e.seeds_for_power < float("inf"):
            sentence += f"; about {e.seeds_for_power:.0f} seeds would be needed for 80 % power"
        sentence += f". In {NAMES[second]} {describe(accuracy[name])}"
        if name == "strong" and "strong_d1_d3" in found:
            sentence += f". Fresh tag beside it: d1 − d3 {describe(found['strong_d1_d3'].estimate)}"
            sentence += f", d3 − d2 {describe(found['strong_d3_d2'].estimate)}"
        result.append(Answer(question, verdict, sentence + "."))
    return result


def describe(e: Estimate) -> str:
    """`+.108 [+.041, +.175], p = .004` with the unit where it is the alias."""
    if e.n < 2:
        return signed(e.mean)
    text = f"{signed_interval(e)}, {p_value(e.p)}"
    return text if e.unit == "seed" else text + " (over the aliases of one seed)"


def signed_interval(e: Estimate) -> str:
    """`+.108 [+.041, +.175]`; the mean alone where there is no interval."""
    return signed(e.mean) if e.n < 2 else f"{signed(e.mean)} [{signed(e.low)}, {signed(e.high)}]"


def signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")


def p_value(p: float) -> str:
    return "p < .001" if p < 0.001 else f"p = {p:.3f}".replace("0.", ".")


def over_seeds(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Mean of a value over seeds by the keys, in the order of the rows: `mean`, `low`, `high`, `p`, `seeds`, `positive`.

    Rows of one seed and key are averaged first. The interval is NaN with a single seed; seeds without the value are
    left out, and a key without any has no row.
    """
    each = rows.dropna(subset=[value]).groupby([*keys, "seed"], sort=False)[value].mean().reset_index()
    found = []
    for key, part in each.groupby(keys, sort=False):
        values = part[value].to_numpy(dtype=float)
        e = estimate(values, unit="seed")
        numbers = {"mean": e.mean, "low": e.low, "high": e.high, "p": e.p, "seeds": e.n}
        names = dict(zip(keys, key if isinstance(key, tuple) else (key,), strict=True))
        found.append(names | numbers | {"positive": int((values > 0).sum())})
    return pd.DataFrame(found, columns=[*keys, "mean", "low", "high", "p", "seeds", "positive"])


def described(row: Mapping[Any, Any]) -> str:
    """`+.108 [+.041, +.175]` of a row of `over_seeds`."""
    mean = signed(row["mean"])
    return mean if row["seeds"] < 2 else f"{mean} [{signed(row['low'])}, {signed(row['high'])}]"


def described_value(row: Mapping[Any, Any]) -> str:
    """`.108 [.041, .175]` of a row of `over_seeds`: a value, not a difference."""
    show = [f"{row[k]:.3f}".replace("-", "−") for k in ("mean", "low", "high")]
    return show[0] if row["seeds"] < 2 else f"{show[0]} [{show[1]}, {show[2]}]"


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
