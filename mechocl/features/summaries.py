"""Features summarised over the seeds of a run: their quality, which exist, and which are causal."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from mechocl.behaviour.over_seeds import SeedSummary, over_seeds, summarize_seeds
from mechocl.features.candidates import ALPHA

SHOWN: Final = ("tag", "contains", "stage")
"""Groups whose properties tables show by name; the properties of all other groups are counted."""

TRAINED_ON: Final[dict[str, str]] = {
    "these": "",
    "others": "The dictionary was trained on other weights than those that it is used on here (--transfer).",
    "unknown": "The dictionary does not say which weights it was trained on.",
}
"""Value of the column `trained_on` → what a reader must know of it."""


def quality(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of each measure over the seeds with its interval: `measure`, `part`, `mean`, `low`, `high`, `seeds`, `of`.

    `seeds` are those that have a value, `of` all of them.
    """
    rows = rows.assign(part=rows["part"].where(rows["measure"] != "found_again", "all"))
    return over_seeds(rows, ["measure", "part"], "value").drop(columns=["p", "positive"])


def existing(rows: pd.DataFrame) -> pd.DataFrame:
    """Which properties have features of their own, in questions, by position; rows of `sae-search` over seeds.

    Columns: `property`, `group`, `position`; `selective`, the number of dictionaries with a feature of q < 0.05 there,
    of the `dictionaries` in which the property was tested there (one for each seed, or several: column `sae`); `auc` of the feature that was best where it was
    chosen, on held-out aliases, the mean over dictionaries (`auc_chosen` is its AUC where it was chosen); and the AUC of
    sets of k features (`k=4` …), of `all` features, and of the site's own activations (`dense`).
    """
    asked = _told_apart(rows[(rows["text"] == "question") & rows["group"].isin(SHOWN)])
    single = asked[asked["what"] == "feature"]
    keys, one = ["property", "group", "position"], ["seed", "sae"]
    ranked = single.sort_values("auc_chosen", ascending=False, kind="stable")
    best = ranked.groupby([*one, *keys], sort=False).head(1)
    found = best.groupby(keys, sort=False)[["auc", "auc_chosen"]].mean()
    sure = single[single["q"] < ALPHA].drop_duplicates([*one, *keys]).groupby(keys, sort=False).size()
    found.insert(0, "selective", sure.reindex(found.index).fillna(0).astype(int))
    found.insert(1, "dictionaries", best.groupby(keys, sort=False).size())
    sets = asked[asked["what"] == "set"]
    for k in sorted(set(sets["k"].tolist()) - {1}):
        found[f"k={k}"] = sets[sets["k"] == k].groupby(keys, sort=False)["auc"].mean()
    for name, column in (("all", "all_auc"), ("dense", "dense_auc")) if len(sets) else ():
        found[name] = sets.drop_duplicates([*one, *keys]).groupby(keys, sort=False)[column].mean()
    return found.sort_values("auc_chosen", ascending=False, kind="stable").reset_index()


def conjunctions(rows: pd.DataFrame) -> pd.DataFrame:
    """Pairs of properties that have a feature of their own in questions of some dictionary, the most frequent first.

    Columns: `property`, `position`, `selective` (number with q < 0.05) of `dictionaries`, and the mean `auc` over all
    dictionaries."""
    asked = _told_apart(rows[(rows["what"] == "conjunction") & (rows["text"] == "question")])
    found = asked.assign(sure=asked["q"] < ALPHA).groupby(["property", "position"], sort=False)
    table = found.agg(selective=("sure", "sum"), auc=("auc", "mean")).reset_index()
    table.insert(3, "dictionaries", len(_told_apart(rows)[["seed", "sae"]].drop_duplicates()))
    table = table[table["selective"] > 0]
    return table.sort_values(["selective", "auc"], ascending=False, kind="stable").reset_index(drop=True)


def _told_apart(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `sae`, because a seed may have several dictionaries."""
    return rows if "sae" in rows else rows.assign(sae="")


def counted(rows: pd.DataFrame) -> pd.DataFrame:
    """How many properties of a group have a feature of q < 0.05 in questions: `group`, `of`, `found`; means over dictionaries."""
    asked = _told_apart(rows[(rows["text"] == "question") & (rows["what"] == "feature")])
    keys = ["seed", "sae", "group"]
    of = asked.groupby(keys, sort=False)["property"].nunique()
    sure = asked[asked["q"] < ALPHA].groupby(keys, sort=False)["property"].nunique()
    each = pd.DataFrame({"of": of, "found": sure.reindex(of.index).fillna(0)})
    return each.groupby("group", sort=False).mean().reset_index()


def causal(rows: pd.DataFrame) -> pd.DataFrame:
    """What patching the features does to the logit difference; rows of `sae-test` over seeds.

    For each `property` and `kind` ("feature": the surest of a dictionary; "4 features" …: sets): `tested` and `retrieval`
    (of all that was tested), `dictionaries`, `with_retrieval` (those that have a retrieval feature or set), `gap` in nats
    (mean over the dictionaries), and, as shares of that gap, the effect with its 95 % interval over the `seeds` (`share`,
    `low`, `high`; dictionaries of one seed are averaged) and the 95th percentile of the controls (`control`). Integers
    are pooled as one property: the mean over those tested.
    """
    surest = surest_patches(rows)
    table = []
    for (name, kind), part in patches(rows).groupby(["property", "kind"], sort=False):
        own = surest[(surest["property"] == name) & (surest["kind"] == kind)]
        known = over_seeds(own.assign(all="all"), ["all"], "share").to_dict("records")
        numbers = known[0] if known else dict.fromkeys(("mean", "low", "high"), np.nan) | {"seeds": 0}
        table.append(
            {
                "property": name,
                "kind": kind,
                "tested": len(part),
                "retrieval": int(part["retrieval"].sum()),
                "dictionaries": len(part[["seed", "sae"]].drop_duplicates()),
                "with_retrieval": len(part[part["retrieval"]][["seed", "sae"]].drop_duplicates()),
                "gap": float(own["gap"].mean()),
                "share": numbers["mean"],
                "low": numbers["low"],
                "high": numbers["high"],
                "seeds": numbers["seeds"],
                "control": float(own["control"].mean()),
            }
        )
    return pd.DataFrame(table)


def patches(rows: pd.DataFrame) -> pd.DataFrame:
    """The patches of the logit difference, with `kind` ("feature", "4 features" …); integers as one property."""
    patched = _told_apart(rows[(rows["intervention"] == "patch") & (rows["metric"] == "logit_difference")])
    return patched.assign(
        property=patched["property"].where(patched["group"] != "integer", "any integer"),
        kind=patched["k"].map(lambda k: "feature" if k == 1 else f"{k} features"),
    )


def surest_patches(rows: pd.DataFrame) -> pd.DataFrame:
    """For each dictionary, property and kind, the patch that the search was surest of; for integers the mean of all.

    `share` is the effect, and `control` the 95th percentile of the controls, divided by the mean gap of the property
    over dictionaries and seeds (a single gap may be near 0). They are NaN if this gap is not above 0.
    """
    keys = ["seed", "sae", "property", "kind", "group"]
    patched = patches(rows)
    numbers = ["effect", "gap", "control_95"]
    integers = patched[patched["group"] == "integer"].groupby(keys, sort=False)[numbers].mean().reset_index()
    first = patched[patched["group"] != "integer"].groupby(keys, sort=False).head(1)[[*keys, *numbers]]
    surest = pd.concat([first, integers], ignore_index=True)
    gap = surest.groupby(["property", "kind"])["gap"].transform("mean")
    gap = gap.where(gap > 0)
    return surest.assign(share=surest["effect"] / gap, control=surest["control_95"] / gap)


@dataclass(frozen=True, slots=True)
class PatchedShares:
    """Share of a property's gap that patching moves, by `kind` and `property`; dictionaries of a seed are averaged."""

    share: SeedSummary
    """Share that patching the features moves."""
    control: SeedSummary
    """The 95th percentile of the share that the controls move."""


def summarize_shares(surest: pd.DataFrame) -> PatchedShares:
    """Summarise `surest`, as from `surest_patches`; patches without a share are left out."""
    known = surest.dropna(subset=["share"])
    keys = ["kind", "property"]
    return PatchedShares(summarize_seeds(known, keys, "share"), summarize_seeds(known, keys, "control"))


def on_subsets(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """What ablating and clamping the surest feature of each property does to d1, d2 and d3, over the seeds.

    Columns: `property`, `intervention`, `subset`, `mean`, `low`, `high`, `seeds`, `control` (mean effect of controls).
    """
    part = rows[
        (rows["intervention"] != "patch")
        & (rows["group"] == "tag")
        & (rows["k"] == 1)
        & (rows["metric"] == metric)
    ]
    keys = ["property", "intervention", "subset"]
    first = _told_apart(part).groupby(["seed", "sae", *keys], sort=False).head(1)
    found = over_seeds(first, keys, "effect").drop(columns=["p", "positive", "of"])
    control = first.groupby(keys, sort=False)["control_mean"].mean().rename("control").reset_index()
    return found.merge(control, on=keys, how="left")


def verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """How many features of a crosscoder are shared, new …: `verdict`, and over the seeds `mean`, `low`, `high`, `seeds`."""
    count = rows.groupby("seed")["verdict"].value_counts().unstack(fill_value=0)
    long = count.reset_index().melt(id_vars="seed", value_name="features", var_name="verdict")
    return over_seeds(long, ["verdict"], "features").drop(columns=["p", "positive", "of"])


def properties_of_verdicts(rows: pd.DataFrame) -> pd.DataFrame:
    """Features of a crosscoder that stand for a property, by verdict: `group`, then one column a verdict (mean of seeds)."""
    known = rows[rows["group"].notna()]
    count = known.groupby(["group", "verdict"])["feature"].count() / rows["seed"].nunique()
    return count.unstack().fillna(0.0).reset_index()
