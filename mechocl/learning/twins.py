"""Twins: one alias, trained twice from the same weights, under tag 1 and under tag 2.

In the run, the aliases of d1 are defined by tag 1 and those of d2 by tag 2. In its variant `exchanged-tags` they have
changed places, and nothing else differs. So each of these aliases has answers under both tags: its *twins*. The *twin
gap* of an alias is its measure under tag 1 minus that under tag 2. Its mean over the aliases is the same quantity as
d1 − d2, without the variance between aliases of different entities and questions.

Twins differ in the tag of their own definition, and in the tags of the other aliases that were trained beside them. Since
as many aliases have each tag in both trainings, that is the same mixture.
"""

from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float

from mechocl.behaviour.statistics import Estimate, difference_over_aliases, estimate

D1: Final = "d1_consistent"
D2: Final = "d2_consistent"


def pair_twins(run: pd.DataFrame, exchanged: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One row per seed and alias of d1 or d2: `seed`, `alias`, `subset` (that of the run), `tag_1`, `tag_2` and `gap`.

    `run` and `exchanged` are rows of the evaluate analysis of the run and of its variant. `tag_1` is the measure of the alias
    in the training in which it was defined by tag 1, and `gap` is `tag_1` − `tag_2`. Seeds that one of the two lacks are left out.
    Raises ValueError when an alias has the same tag in both.
    """
    keys = ["seed", "alias"]
    both = run[[*keys, "subset", measure]].merge(
        exchanged[[*keys, "subset", measure]], on=keys, suffixes=("", "_exchanged")
    )
    both = both[both["subset"].isin([D1, D2])]
    if (both["subset"].astype(str) == both["subset_exchanged"].astype(str)).any():
        raise ValueError("an alias has the same tag in both trainings; these are no twins")
    first = (both["subset"] == D1).to_numpy()
    own, other = both[measure].to_numpy(dtype=float), both[f"{measure}_exchanged"].to_numpy(dtype=float)
    tag_1, tag_2 = np.where(first, own, other), np.where(first, other, own)
    return both[[*keys, "subset"]].assign(tag_1=tag_1, tag_2=tag_2, gap=tag_1 - tag_2).reset_index(drop=True)


def estimate_twins(twins: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, from rows of `pair_twins`.

    - `twin_gap` and `twin_error`: mean of the aliases' gaps and its standard error, over aliases.
    - `gap` and `gap_error`: d1 − d2 of the run, and its standard error (Welch).
    - `unpaired_error`: standard error of the twin gap if the answers of both trainings were not paired by alias. It is
      that of as much training as the twins have, and so `unpaired_error / twin_error` is what pairing alone gains.
    - `correlation`: Pearson correlation between the twins' measures, over aliases.
    - `aliases`: number of aliases that have twins.

    Errors are NaN with fewer than 2 aliases.
    """
    found = []
    for seed in twins["seed"].unique().tolist():
        part = twins[twins["seed"] == seed]
        first = (part["subset"] == D1).to_numpy()
        tag_1, tag_2, gaps = (part[name].to_numpy(dtype=float) for name in ("tag_1", "tag_2", "gap"))
        found.append(
            {
                "seed": seed,
                "twin_gap": gaps.mean(),
                "twin_error": _error(gaps),
                "gap": tag_1[first].mean() - tag_2[~first].mean(),
                "gap_error": np.hypot(_error(tag_1[first]), _error(tag_2[~first])),
                "unpaired_error": np.hypot(_error(tag_1), _error(tag_2)),
                "correlation": pd.Series(tag_1).corr(pd.Series(tag_2)),
                "aliases": len(part),
            }
        )
    return pd.DataFrame(found)


def _error(values: Float[np.ndarray, " value"]) -> float:
    """Standard error of the mean; NaN with fewer than 2 values."""
    return float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else float("nan")


def over_seeds(by_seed: pd.DataFrame, column: str) -> Estimate:
    """A column of `estimate_twins` over seeds."""
    return estimate(by_seed[column].to_numpy(dtype=float), unit="seed")


def over_aliases(twins: pd.DataFrame) -> tuple[Estimate, Estimate]:
    """The twin gap, and d1 − d2, of a single seed, with the alias as the unit."""
    first = twins["subset"] == D1
    better, worse = (
        twins.loc[part, name].to_numpy(dtype=float) for part, name in ((first, "tag_1"), (~first, "tag_2"))
    )
    return estimate(twins["gap"].to_numpy(dtype=float), unit="alias"), difference_over_aliases(better, worse)
