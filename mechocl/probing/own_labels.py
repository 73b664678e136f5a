"""Labels of the user's own as the target of a probe: one for each alias."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import pandas as pd
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.probing.recipe import Probe
from toy_models.subsets import SUBSETS
from toy_models.task import Task

TARGET: Final = "label"
"""Target of a probe of own labels, and the column of the task's table that holds them."""

Labels = Mapping[Any, Any] | Sequence[Any] | np.ndarray | pd.Series | Tensor
"""A label for each alias: by the alias's number, or in the order of the aliases. None and NaN: the alias is left out."""


def with_labels(task: Task, labels: Labels) -> Task:
    """The task with the labels in the column `label` of its table, None where an alias has none.

    Raises MechoclError when an array has not one label for each alias, and for labels that are not classes.
    """
    aliases = task.table["alias"].to_numpy()
    by_alias: Mapping[Any, Any]
    if isinstance(labels, Mapping | pd.Series):
        by_alias = dict(labels.items())
    else:
        if isinstance(labels, str) or np.ndim(labels) != 1:
            raise MechoclError(
                "labels are one for each alias: a dict, a Series, or an array of one dimension, in the order of the aliases"
            )
        if len(labels) != aliases.max() + 1:
            raise MechoclError(
                f"there are {len(labels)} labels and the task has the aliases 0 to {aliases.max()}; give one for each alias, "
                "None for those that are left out, or a dict from an alias to its label"
            )
        by_alias = dict(enumerate(labels))
    known = {alias: _plain(label) for alias, label in by_alias.items()}
    if odd := [label for label in known.values() if not isinstance(label, str | int | bool | None)]:
        raise MechoclError(f"a label is {odd[0]!r}; labels are classes: integers, booleans or strings")
    if not set(known) & set(aliases.tolist()):
        raise MechoclError(
            "no label is of an alias of the task; the keys are the numbers in task.table['alias']"
        )
    column = pd.Series([known.get(alias) for alias in aliases.tolist()], dtype=object, index=task.table.index)
    return replace(task, table=task.table.assign(**{TARGET: column}))


def label_probe(task: Task) -> Probe:
    """A probe of the labels at questions, about the aliases of every subset that has questions about aliases."""
    present = set(task.table["subset"].unique()) - {"q_entity"}
    return Probe(
        name="own-labels",
        question="the labels that were given",
        at="question",
        target=TARGET,
        subsets=tuple(name for name in SUBSETS if name in present),
        method="logistic",
        regularisation=(0.01,),
    )


def _plain(label: Any) -> Any:
    """The Python value of a numpy scalar or a tensor of one value; None for NaN."""
    value = label.item() if hasattr(label, "item") else label
    return None if isinstance(value, float) and np.isnan(value) else value
