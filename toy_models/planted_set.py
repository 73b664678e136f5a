"""The integer set with a planted cause: the stage-1 definitions with tag 2 are not what they are called.

The experiment (`unreliable="inconsistent"`) is built as one of its controls, and its stage-1 aliases of tag 2 are called
`qd2_inconsistent` as in the experiment. So nothing that looks at the task knows that no definition contradicts a question,
and what a model does with tag 2 cannot come from unreliable definitions. The controls are those of the integer set.

In the experiment the questions of each epoch, and what is noise, are other ones than in the controls; all else is the same.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal

import pandas as pd
import torch

from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.task import Task

CALLED: Final = "qd2_inconsistent"
"""What the stage-1 aliases of tag 2 are called."""

_LATER: Final = 100_000
"""Epochs by which the experiment draws later than its controls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantedSetConfig(IntegerSetConfig):
    """The integer set with a planted cause."""

    planted: Literal["noise", "consistent"]
    """What stage-1 definitions with tag 2 are, where `unreliable` says inconsistent. noise: about aliases never asked about,
    with another integer in each epoch, so that what follows tag 2 cannot be predicted; consistent: like those with tag 1,
    so that the tags differ in nothing."""


def build(config: PlantedSetConfig, *, seed: int) -> Task:
    """Draw the task. The result depends on `config` and `seed` alone. Raises ValueError as `integer_set.build` does."""
    if config.unreliable != "inconsistent":
        return integer_set.build(config, seed=seed)
    task = integer_set.build(replace(config, unreliable=config.planted), seed=seed)
    own = {"noise": "d2_noise", "consistent": "qd2_consistent"}[config.planted]
    subset = task.table["subset"]
    labels = pd.Categorical(subset.astype(str).replace({own: CALLED}), categories=subset.cat.categories)
    task = replace(task, table=task.table.assign(subset=labels))
    fresh = task.fresh
    if fresh is None:
        return task

    def later(epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        return fresh(_LATER + epoch)

    return task.with_fresh(later)


def describe(config: PlantedSetConfig) -> str:
    """The config in one line, for reports."""
    return f"{integer_set.describe(config)}, planted: what is called inconsistent is {config.planted}"
