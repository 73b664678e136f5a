"""The part of docs/results.md that says how the setups were found."""

import pandas as pd

from docs.write.markdown import write_text_table
from docs.write.places import TABLES
from mechocl.behaviour import formats


def write_search() -> list[str]:
    """The section that says how the setups were found."""
    table = pd.read_csv(TABLES / "search.csv", keep_default_na=False)
    seeds = table["seeds"].astype(int)
    table["t"] = table["gap"].astype(float) / (table["gap_sd"].astype(float) / seeds**0.5)
    first_stages = table.groupby("recipe")["changes"].nunique()
    one = table["changes"].str.contains("n_layers=1")
    everything = table["stage_2"].str.contains("adamw") & table["stage_2"].str.contains("trains=all")
    fast = table["stage_2"].str.contains("embedding_rate=")
    starts_small = table["changes"].str.contains("embedding_std")
    untied = table["changes"].str.contains("tied_embeddings=false")
    two_layers = table[~one & everything & ~fast]
    one_layer = table[one & table["stage_2"].str.contains("alias_embeddings")]
    small = table[
        one
        & everything
        & fast
        & starts_small
        & untied
        & ~table["stage_2"].str.contains("embedding_rate=[13] ")
    ]
    decayed = table[table["changes"].str.contains("weight_decay=0.3")]
    return [
        "## How the setups were found",
        "",
        f"By hand, on seeds 0 … 5: {len(table)} trainings of 4 to 6 seeds ({first_stages['cpu']} first stages, each with up to 11 "
        f"second stages, and {first_stages['one-stage']} one-stage setups), all in `docs/results/search.csv`, as changes to the "
        "recipes of commit ac9fc7c. The numbers of the map above are from other seeds. What the search said:",
        "",
        f"- Two layers, everything trained with AdamW at one learning rate in stage 2: gaps from {_range(two_layers)}.",
        f"- One layer, only the aliases' embeddings trained: gaps from {_range(one_layer)}. Fewer layers leave fewer ways around "
        "what stage 1 built (a reading, not a test).",
        f"- Embeddings that start small (standard deviation .01 or .03) and learn at least 10 times as fast as the rest in stage 2, "
        f"untied, one layer, everything trained: gaps from {_range(small)}.",
        f"- Weight decay .3 in stage 1: gaps from {_range(decayed)}; it keeps stage 1 from being learned.",
        "",
        "The eight trainings with the largest t of the gap:",
        "",
        *_best(table.sort_values("t", ascending=False).head(8)),
    ]


def _best(table: pd.DataFrame) -> list[str]:
    columns = ["recipe", "changes", "stage 2", "seeds", "d1", "d2", "d3", "gap", "t"]
    rows = [
        [
            row["recipe"],
            f"`{row['changes']}`",
            f"`{row['stage_2']}`" if row["stage_2"] else formats.MISSING,
            str(row["seeds"]),
            *(formats.number(float(row[c])) for c in ("d1", "d2", "d3", "gap")),
            formats.number(row["t"], 1),
        ]
        for row in table.to_dict("records")
    ]
    return write_text_table(columns, rows)


def _range(table: pd.DataFrame) -> str:
    gaps = table["gap"].astype(float)
    return f"{formats.number(gaps.min(), sign=True)} to {formats.number(gaps.max(), sign=True)} ({len(table)} trainings)"
