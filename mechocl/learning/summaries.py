"""What the rows of the gradient study, and of single updates, say, in the parts that are looked at."""

from typing import Final

import pandas as pd

from toy_models.subsets import SUBSETS


def before_the_stage(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of new aliases before any of their definitions was trained on.

    `rows` are those of `study.gradient_study`, with a column `seed`.
    """
    new = of_new_aliases(rows)
    first: pd.DataFrame = new[new["stage"] == new["stage"].min()]
    return first


def of_new_aliases(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the subsets that are defined in stage 2."""
    return rows[rows["subset"].map(lambda name: SUBSETS[name].stage == 2)]


def along_the_stage(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of new aliases with their own tags, with a column `moment`: before the stage, or a step of it."""
    own = of_new_aliases(rows)
    own = own[own["own_tag"]]
    first = own["stage"] == own["stage"].min()
    return own.assign(moment=("step " + own["step"].astype(str)).mask(first, "before"))


def tag_differences(
    rows: pd.DataFrame, value: str, *, by: tuple[str, ...] = ("group", "correction")
) -> pd.DataFrame:
    """The value with tag 1 − with tag 2, and with tag 3 − with tag 2, of the same aliases: a column `tags` and the value.

    `rows` as from `before_the_stage`, or those of `one_update.update_study`, by the columns in `by`. Tags that the run lacks have no rows. The values of a seed are means over its subsets.
    """
    keys = ["seed", *by]
    wide = rows.pivot_table(index=keys, columns="tag", values=value, sort=False).reset_index()
    pairs = [(tag, 2) for tag in (1, 3) if {tag, 2} <= set(wide.columns)]
    tables = [
        wide[keys].assign(tags=f"{tag} − {other}", **{value: wide[tag] - wide[other]}) for tag, other in pairs
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*keys, "tags", value])


CORRELATED: Final = {
    "loss: to first order, and in fact": ("loss_predicted", "loss_change"),
    "loss: in one step, and in the stage": ("loss_change", "stage_loss_change"),
    "AUC: in one step, and in the stage": ("auc_change", "stage_auc_change"),
}
"""Pairs of columns of `one_update.update_study` that are correlated over aliases."""


def correlate_updates(rows: pd.DataFrame) -> pd.DataFrame:
    """Pearson correlations over the aliases of each subset, with their own tags: `seed`, `step`, `subset`, `between`, `correlation`.

    `rows` are those of `one_update.update_study`, with a column `seed`. NaN where a column is constant.
    """
    found = []
    for (seed, step, subset), part in rows[rows["own_tag"]].groupby(["seed", "step", "subset"], sort=False):
        for between, (first, second) in CORRELATED.items():
            varies = part[first].nunique() > 1 and part[second].nunique() > 1
            value = part[first].corr(part[second]) if varies else float("nan")
            found.append(
                {"seed": seed, "step": step, "subset": subset, "between": between, "correlation": value}
            )
    return pd.DataFrame(found)
