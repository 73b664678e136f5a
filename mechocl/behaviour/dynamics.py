"""When internalization appears: curves over training, and the order in which its parts are learned.

They are computed from the evaluations that training wrote (`SeedFolder.history`). The more evaluations a recipe asks
for (`training.stages.N.evaluations`), the more precise the times are.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import scipy.stats

from mechocl.behaviour.statistics import Estimate, estimate

CURVES: Final = (
    "questions", "weak", "d1", "d2", "d3", "strong", "recall_tag_1", "recall_tag_2", "recall_new", "loss",
    "gradient_norm",
)  # fmt: skip
"""Columns of the table of `curves`, besides seed, stage, step and epoch."""


@dataclass(frozen=True, slots=True)
class Event:
    """A part of the behaviour, and when it counts as learned: halfway from `floor` to `top`."""

    name: str
    curve: str
    new_aliases: bool
    """Whether it is about the aliases of stage 2's data. Then it can be learned only in the stage that trains on them."""
    top: float | None
    """Value of the curve when all is learned; None means the curve's own final value."""
    meaning: str


EVENTS: Final = (
    Event("question circuit", "questions", False, 1.0, "test questions of qd1 are answered"),
    Event("recall, tag 1", "recall_tag_1", False, 1.0, "definitions of qd1 are recalled"),
    Event("recall, tag 2", "recall_tag_2", False, 1.0, "stage-1 definitions with tag 2 are recalled"),
    Event("right against wrong definition", "weak", False, None, "qd1 is answered better than qd2"),
    Event("recall, new aliases", "recall_new", True, 1.0, "definitions of d1, d2 and d3 are recalled"),
    Event(
        "new aliases answered", "d1", True, 1.0, "questions about d1 are answered, though never trained on"
    ),
    Event("tag effect on new aliases", "strong", True, None, "d1 is answered better than d2"),
)

SMALLEST_EFFECT: Final = 0.02
"""Smallest tag effect (in AUC). A tag effect whose final value is smaller counts as never learned in that seed."""


_OF_TAG_2: Final = ("qd2_inconsistent", "d2_noise", "d2_unasked")


def curves(history: pd.DataFrame) -> pd.DataFrame:
    """One row per seed, stage and evaluation, with the columns `CURVES`.

    `questions` is the AUC of `qd1_consistent`, and `weak` is that minus the AUC of `qd2_inconsistent`. `d1`, `d2` and
    `d3` are the AUC of these subsets, and `strong` is d1 − d2. `recall_…` is the share of definitions that are recalled
    (`recall_tag_2`: of the stage-1 definitions that make tag 2 unreliable, or stand in their place in a control),
    `loss` the mean in nats per token since the last evaluation, and `gradient_norm` the norm in the last batch. What the
    run does not have is NaN.
    """
    keys = ["seed", "stage", "step", "epoch"]
    auc, recall = (history.pivot_table(index=keys, columns="subset", values=v) for v in ("auc", "recall"))
    each = history.groupby(keys)[["loss", "gradient_norm"]].first()
    missing = pd.Series(np.nan, index=each.index)

    def column(table: pd.DataFrame, subset: str) -> "pd.Series[float]":
        return table[subset].reindex(each.index) if subset in table else missing

    of_tag_2 = next((s for s in _OF_TAG_2 if s in recall), _OF_TAG_2[0])
    new = [s for s in ("d1_consistent", "d2_consistent", "d3_consistent") if s in recall]
    found = pd.DataFrame(
        {
            "questions": column(auc, "qd1_consistent"),
            "weak": column(auc, "qd1_consistent") - column(auc, "qd2_inconsistent"),
            "d1": column(auc, "d1_consistent"),
            "d2": column(auc, "d2_consistent"),
            "d3": column(auc, "d3_consistent"),
            "strong": column(auc, "d1_consistent") - column(auc, "d2_consistent"),
            "recall_tag_1": column(recall, "qd1_consistent"),
            "recall_tag_2": column(recall, of_tag_2),
            "recall_new": recall[new].reindex(each.index).mean(axis=1) if new else missing,
            "loss": each["loss"],
            "gradient_norm": each["gradient_norm"],
        }
    )
    return found[list(CURVES)].reset_index()


def onsets(table: pd.DataFrame, *, integers: int, new_in_stage: int) -> pd.DataFrame:
    """When each event happened in each seed, from the rows of `curves`: `seed`, `event`, `stage`, `epoch`.

    An event happens in its stage (1, or `new_in_stage` for new aliases). It happens when its curve rises for good above
    half of the way from knowing nothing (AUC .5, recall 1 / `integers`, no effect) to its top, interpolated between
    evaluations. `epoch` counts within the stage. It is NaN for an event that did not happen.
    """
    rows = []
    for seed, part in table.groupby("seed"):
        for event in EVENTS:
            stage = new_in_stage if event.new_aliases else 1
            curve = part.loc[part["stage"] == stage, ["epoch", event.curve]].dropna()
            if curve.empty:
                continue
            values, epochs = curve[event.curve].to_numpy(), curve["epoch"].to_numpy()
            floor = {"recall": 1 / integers, "weak": 0.0, "strong": 0.0}.get(event.curve.split("_")[0], 0.5)
            top = float(values[-1]) if event.top is None else event.top
            never = event.top is None and top < SMALLEST_EFFECT
            when = np.nan if never else lasting_crossing(epochs, values, (floor + top) / 2)
            rows.append({"seed": seed, "event": event.name, "stage": stage, "epoch": when})
    return pd.DataFrame(rows, columns=["seed", "event", "stage", "epoch"])


def lasting_crossing(x: np.ndarray, y: np.ndarray, level: float) -> float:
    """The `x` from which on the line through the points stays at or above `level`; NaN if the line ends below it.

    It need not be the first crossing, since a difference of two noisy curves crosses any low level by chance.
    """
    below = np.flatnonzero(y < level)
    if len(below) == 0:
        return float(x[0])
    i = int(below[-1])
    if i == len(y) - 1:
        return float("nan")
    return float(x[i] + (level - y[i]) / (y[i + 1] - y[i]) * (x[i + 1] - x[i]))


@dataclass(frozen=True, slots=True)
class Order:
    """The order of two events, over the seeds in which both happened."""

    first: str
    second: str
    """The event that comes later on average."""
    seeds: int
    before: int
    """Number of seeds in which `first` came before `second`. A tie does not count."""
    lead: Estimate
    """Number of epochs from `first` to `second`."""
    p: float
    """Two-sided p of the sign test, without ties."""


def order(events: pd.DataFrame) -> list[Order]:
    """The order of every two events of one stage that both happened in at least 2 seeds. The earlier event comes first."""
    found = []
    for _, part in events.groupby("stage"):
        times = part.pivot(index="seed", columns="event", values="epoch")
        names = [e.name for e in EVENTS if e.name in times]
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                both = times[[a, b]].dropna()
                if len(both) < 2:
                    continue
                first, second = (a, b) if (both[b] - both[a]).mean() >= 0 else (b, a)
                lead = (both[second] - both[first]).to_numpy(dtype=float)
                untied = int((lead != 0).sum())
                before = int((lead > 0).sum())
                p = float(scipy.stats.binomtest(before, untied).pvalue) if untied else 1.0
                found.append(Order(first, second, len(both), before, estimate(lead, unit="seed"), p))
    return found
