"""What the rows of the gradient study say, in the parts that are looked at."""

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


def tag_differences(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """The value with tag 1 − with tag 2, and with tag 3 − with tag 2, of the same aliases: a column `tags` and the value.

    `rows` as from `before_the_stage`. Tags that the run lacks have no rows. The values of a seed are means over its subsets.
    """
    keys = ["seed", "group", "correction"]
    wide = rows.pivot_table(index=keys, columns="tag", values=value, sort=False).reset_index()
    pairs = [(tag, 2) for tag in (1, 3) if {tag, 2} <= set(wide.columns)]
    tables = [
        wide[keys].assign(tags=f"{tag} − {other}", **{value: wide[tag] - wide[other]}) for tag, other in pairs
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*keys, "tags", value])
