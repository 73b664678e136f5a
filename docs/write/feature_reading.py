"""What the tables of features say, in words. Every number and every yes and no comes from the tables."""

from collections.abc import Mapping
from typing import Any, Final

import pandas as pd

from docs.write.feature_tables import TAGS, WIDTH, has_table, read_table
from mechocl.behaviour.formats import HYPHEN, interval, number

_TEST: Final = ["run", "site", "property", "kind"]
"""Columns that identify a row of the table `causal`."""


def write_reading() -> list[str]:
    """The paragraph that the section ends with."""
    existing, causal = read_table("existing"), read_table("causal").set_index(_TEST)
    return [
        "**What that says**",
        "",
        *(f"- *{o}*, embeddings. {_tag_in_words(o, existing, causal)}" for o in existing["run"].unique()),
        *_matches(existing, causal),
        *_conjunctions(),
        *_integers(existing, causal),
        *_stability(),
        *_stage_2(),
        "",
    ]


def share_in_words(row: Mapping[Any, Any]) -> str:
    """The share of a gap that a patch moves, from a row of the table `causal`."""
    return interval(row["share"], row["low"], row["high"], 2, sign=True, minus=HYPHEN)


def _passed(row: Mapping[Any, Any]) -> str:
    return f"{row['retrieval']:.0f} of {row['tested']:.0f}"


def _matches(existing: pd.DataFrame, causal: pd.DataFrame) -> list[str]:
    """Is there a feature at `=` that says that the list contains the alias's integer?"""
    matches = []
    for run, site in existing[["run", "site"]].drop_duplicates().itertuples(index=False):
        key = (run, site, "list contains the integer", "feature")
        part = existing[(existing["run"] == run) & (existing["site"] == site)]
        part = part[(part["property"] == key[2]) & (part["position"] == "=")]
        if site != "resid_pre" and len(part) and key in causal.index:
            row, auc = causal.loc[key], part["auc"].iloc[0]
            matches.append(
                f"{run} {site}: AUC {number(auc, 2)}, {share_in_words(row)} of the gap, {_passed(row)} pass"
            )
    if not matches:
        return []
    return [
        f'- *The list contains the alias\'s integer* ("retrieve now" succeeded), at `=`: {"; ".join(matches)}.'
    ]


def _conjunctions() -> list[str]:
    """Which conjunctions of two properties have a feature of their own?"""
    pairs = read_table("conjunctions")
    often = pairs[pairs["selective"] >= pairs["dictionaries"] / 2]
    said = [
        f"{r['run']} {r['site']}: {r['property']} (`{r['position']}`, AUC {number(r['auc'], 2)}, {r['selective']} of "
        f"{r['dictionaries']})"
        for r in often.groupby(["run", "site"], sort=False).head(2).to_dict("records")
    ]
    return [
        "- *Conjunctions* of two properties with a feature of their own (against either property alone) in at least half of "
        f"the dictionaries: {'; '.join(said) or 'none'}."
    ]


def _integers(existing: pd.DataFrame, causal: pd.DataFrame) -> list[str]:
    """How many integers have a feature, as the alias's own and as the one that an unreliable definition named?"""
    counted = read_table("counted").set_index(["run", "site", "group"])

    def count(run: str, site: str, group: str) -> str:
        row = counted.loc[(run, site, group)]
        return f"{number(row['found'], 1)} of {number(row['of'], 0)}"

    own = [
        f"{run} {site}: {count(run, site, 'integer')}, {_passed(row)} tested pass"
        for (run, site, name, _), row in causal.iterrows()
        if name == "any integer"
    ]
    wrong = [
        f"{run} {site} {count(run, site, 'defined as')}"
        for run, site in existing[["run", "site"]].drop_duplicates().itertuples(index=False)
        if (run, site, "defined as") in counted.index
    ]
    return [
        f"- *The alias's integer.* Integers with a feature of their own: {'; '.join(own)}.",
        "- *The integer that an unreliable definition named* (qd2, where the questions say another): features for "
        f"{'; '.join(wrong)} integers.",
    ]


def _stability() -> list[str]:
    quality = read_table("quality")
    again = quality[(quality["measure"] == "found_again") & (quality["part"] == "all")]["mean"]
    return [
        f"- *Stability.* {again.min():.0%} to {again.max():.0%} of the live features of a dictionary are found again from other initial weights."
    ]


def _stage_2() -> list[str]:
    """Did stage 2 make or remove features?"""
    if not has_table("crosscoders"):
        return []
    verdicts = read_table("crosscoders")
    most = {v: verdicts[verdicts["verdict"] == v]["mean"].max() for v in ("new", "removed", "shrunken")}
    said = ", ".join(f"{number(0 if m != m else m, 1)} {v}" for v, m in most.items())
    meaning = (
        "the crosscoders found hardly a feature of one checkpoint alone."
        if all(m != m or m < 1 for m in most.values())
        else "some features belong to one checkpoint alone."
    )
    return [
        f"- *Stage 2.* At most (mean over seeds, any site and run) {said} features, out of {WIDTH}: {meaning}"
    ]


def _tag_in_words(run: str, existing: pd.DataFrame, causal: pd.DataFrame) -> str:
    """Is there a feature of the tag of new aliases, how much of the tag is in it, and what does it do?"""
    embeddings = existing[(existing["run"] == run) & (existing["site"] == "resid_pre")]
    at_alias = embeddings[embeddings["position"] == "alias"].set_index("property")
    top = at_alias.loc[TAGS[0]]
    text = (
        f"At the alias, a feature tells new aliases of tag 1 from those of tag 2 in {top['selective']} of {top['dictionaries']} dictionaries: "
        f"AUC {number(top['auc'], 2)} alone, {number(top['k=16'], 2)} with sixteen, {number(top['dense'], 2)} of the embeddings "
        "themselves. "
    )
    moved = []
    for kind, words in (
        ("feature", "Exchanging the surest one"),
        ("4 features", "a set of 4"),
        ("16 features", "a set of 16"),
    ):
        key = (run, "resid_pre", TAGS[0], kind)
        if key in causal.index:
            row = causal.loc[key]
            control = number(row["control"], 2, sign=True, minus=HYPHEN)
            moved.append(
                f"{words} moves {share_in_words(row)} of the gap of {number(row['gap'], 2, minus=HYPHEN)} nats (controls {control}; "
                f"{_passed(row)} tested pass)"
            )
    text += f"{'; '.join(moved)}. " if moved else ""
    text += "Compare the swap along one dense direction, under *Is it used?* above. " if run == "cpu" else ""
    if TAGS[3] not in at_alias.index:  # in a control nothing is asked about the aliases of tag 2
        return text.rstrip()
    asked = at_alias.loc[TAGS[3]]
    return text + (
        f"The tag of asked-about aliases has a feature there in {asked['selective']} of {asked['dictionaries']} dictionaries "
        f"(AUC {number(asked['auc'], 2)})."
    )
