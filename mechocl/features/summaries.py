"""What the features of a run's seeds come to: quality, what exists, what is causal."""

from typing import Final

import pandas as pd

from mechocl.features.effects import ALPHA
from mechocl.summaries import over_seeds

SHOWN: Final = ("tag", "contains", "stage")
"""Groups of properties that tables show by their names; the others are counted."""


def quality(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of each measure over the seeds with its interval: `measure`, `part`, `mean`, `low`, `high`, `seeds`."""
    rows = rows.assign(part=rows["part"].where(rows["measure"] != "found_again", "all"))
    return over_seeds(rows, ["measure", "part"], "value").drop(columns=["p", "positive"])


def existing(rows: pd.DataFrame) -> pd.DataFrame:
    """Which properties have features of their own, in questions, by position; rows of `sae-search` over seeds.

    `property`, `group`, `position`, `selective` (seeds with a feature of q < 0.05 there), `seeds`, `auc` (held-out
    aliases, of the best feature where it was chosen, the mean over seeds), and the same of sets of k features: `k=4` …,
    `all` features, and `dense`: the site's own activations.
    """
    asked = rows[(rows["text"] == "question") & rows["group"].isin(SHOWN)]
    single = asked[asked["what"] == "feature"]
    keys = ["property", "group", "position"]
    best = (
        single.sort_values("auc_chosen", ascending=False, kind="stable")
        .groupby(["seed", *keys], sort=False)
        .head(1)
    )
    seeds = rows["seed"].nunique()
    found = best.groupby(keys, sort=False)["auc"].mean().to_frame("auc")
    sure = single[single["q"] < ALPHA].groupby(keys, sort=False)["seed"].nunique()
    found.insert(0, "selective", sure.reindex(found.index).fillna(0).astype(int))
    found.insert(1, "seeds", seeds)
    sets = asked[asked["what"] == "set"]
    for k in sorted(set(sets["k"].tolist()) - {1}):
        found[f"k={k}"] = sets[sets["k"] == k].groupby(keys, sort=False)["auc"].mean()
    for name, column in (("all", "all_auc"), ("dense", "dense_auc")):
        found[name] = sets.drop_duplicates(["seed", *keys]).groupby(keys, sort=False)[column].mean()
    return found.reset_index()


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """How many properties of a group have a feature of q < 0.05 in questions: `group`, `of`, mean `found` over the seeds."""
    asked = rows[(rows["text"] == "question") & (rows["what"] == "feature")]
    of = asked.groupby(["seed", "group"], sort=False)["property"].nunique()
    sure = asked[asked["q"] < ALPHA].groupby(["seed", "group"], sort=False)["property"].nunique()
    each = pd.DataFrame({"of": of, "found": sure.reindex(of.index).fillna(0)})
    return each.groupby("group", sort=False).mean().reset_index()


def causal(rows: pd.DataFrame) -> pd.DataFrame:
    """What patching the features does; rows of `sae-test` over seeds.

    For each `property` and `kind` ("feature": of a seed the one with the largest share; "set"): `tested` and `retrieval`
    (features, of all seeds), `seeds`, `with_retrieval` (seeds that have a retrieval feature or set), and over the seeds
    `share` of the gap that moves, `low`, `high`, and `control` (the share that 95 % of the controls stay below).

    Integers are pooled as one property.
    """
    patched = rows[rows["intervention"] == "patch"]
    patched = patched.assign(
        property=patched["property"].where(patched["group"] != "integer", "any integer"),
        kind=(patched["k"] > 1).map({False: "feature", True: "set"}),
        control=patched["control_95"] / patched["gap"],
    )
    table = []
    for (name, kind), part in patched.groupby(["property", "kind"], sort=False):
        best = part.sort_values("share", ascending=False, kind="stable").groupby("seed", sort=False).head(1)
        known = over_seeds(best.assign(all="all"), ["all"], "share")
        numbers = known.iloc[0] if len(known) else None
        table.append(
            {
                "property": name,
                "kind": kind,
                "tested": len(part),
                "retrieval": int(part["retrieval"].sum()),
                "seeds": int(part["seed"].nunique()),
                "with_retrieval": int(part[part["retrieval"]]["seed"].nunique()),
                "share": float("nan") if numbers is None else float(numbers["mean"]),
                "low": float("nan") if numbers is None else float(numbers["low"]),
                "high": float("nan") if numbers is None else float(numbers["high"]),
                "control": float(best["control"].mean()),
            }
        )
    return pd.DataFrame(table)


def on_subsets(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What ablating and clamping the surest feature of each property does to d1, d2 and d3, over the seeds.

    `property`, `intervention`, `subset`, `mean`, `low`, `high`, `seeds`, `control` (mean effect of the controls).
    """
    part = rows[
        (rows["intervention"] != "patch")
        & (rows["group"] == "tag")
        & (rows["k"] == 1)
        & (rows["metric"] == metric)
    ]
    keys = ["property", "intervention", "subset"]
    first = part.groupby(["seed", *keys], sort=False).head(1)
    found = over_seeds(first, keys, "effect").drop(columns=["p", "positive"])
    control = first.groupby(keys, sort=False)["control_mean"].mean().rename("control").reset_index()
    return found.merge(control, on=keys, how="left")


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """How many features of a crosscoder are shared, new …: `verdict`, and over the seeds `mean`, `low`, `high`, `seeds`."""
    count = rows.groupby("seed")["verdict"].value_counts().unstack(fill_value=0)
    long = count.reset_index().melt(id_vars="seed", value_name="features", var_name="verdict")
    return over_seeds(long, ["verdict"], "features").drop(columns=["p", "positive"])


def properties_of_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Features of a crosscoder that stand for a property, by verdict: `group`, then one column a verdict (mean of seeds)."""
    known = rows[rows["group"].notna()]
    count = known.groupby(["group", "verdict"])["feature"].count() / rows["seed"].nunique()
    return count.unstack().fillna(0.0).reset_index()
