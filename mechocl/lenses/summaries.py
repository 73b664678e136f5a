"""What the seeds of a run say together about the logits' attribution to components."""

from typing import Final, Literal

import pandas as pd

from mechocl.behaviour.over_seeds import SeedSummary, summarize_seeds

Quantity = Literal["difference", "integer"]

LISTS: Final = {"list with the integer": (True,), "list without it": (False,), "mean of both": (True, False)}
"""What the list of a question contains. In the mean, what pushes towards false for every list cancels out."""


def summarize_attribution(rows: pd.DataFrame, *, quantity: Quantity, position: str = "=") -> SeedSummary:
    """Contributions to the logits at a position, by `lists`, `subset` and `component`; both kinds of list count alike.

    `rows` as from `direct_attribution.attribute_answers`, with a seed column. `lists` is a key of `LISTS`, or "" in a
    text world, whose questions have no lists.
    """
    rows = rows[rows["position"] == position].sort_values("seed", kind="stable")
    kinds = LISTS if rows["contains"].any() else {"": (False,)}
    parts = [rows[rows["contains"].isin(contains)].assign(lists=name) for name, contains in kinds.items()]
    return summarize_seeds(pd.concat(parts), ["lists", "subset", "component"], quantity)
