"""Results of a sweep: a summary of each setting, and comparisons between settings, paired by seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from mechocl.behaviour import internalization
from mechocl.behaviour.statistics import SHARE, Estimate, estimate
from mechocl.errors import MechoclError
from mechocl.runs.sweep_folder import axes
from toy_models.measures import YES_OR_NO
from toy_models.subsets import SUBSETS


@dataclass(frozen=True, slots=True)
class Summary:
    """One setting: its runs, and estimates over the runs that did not fail."""

    setting: dict[str, Any]
    runs: int
    failed: int
    auc: dict[str, Estimate]
    """AUC of each subset after the last stage."""
    before: float
    """Mean AUC of `qd1_consistent` after stage 1, before later stages; NaN for a recipe of one stage."""
    contrasts: dict[str, Estimate]
    """Estimate of each contrast of `internalization.CONTRASTS` in AUC."""
    accuracy: dict[str, Estimate]
    """Estimate of each of these contrasts in accuracy."""
    seconds: float
    """Mean wall-clock seconds of a run."""


def summaries(frame: pd.DataFrame) -> list[Summary]:
    """One summary for each setting, in the table's order. Failed runs are counted, and left out of every mean.

    Raises MechoclError when a seed is twice in one setting.
    """
    keys = _require_seeds_once(frame)
    groups = frame.groupby(keys, sort=False, dropna=False) if keys else [((), frame)]
    found = []
    for values, part in groups:
        setting = dict(zip(keys, values if isinstance(values, tuple) else (values,), strict=True))
        good = part[part["failed"] == ""].dropna(axis=1, how="all")
        last = _last_stage(good)
        auc = {
            s: estimate(good[f"{last}.auc.{s}"].to_numpy(dtype=float), unit="seed", bounds=SHARE)
            for s in _subsets(good, last)
        }
        first = good.get("stage1.auc.qd1_consistent")
        before = first.mean() if last == "stage2" and first is not None else math.nan
        found.append(
            Summary(
                setting=setting,
                runs=len(part),
                failed=int((part["failed"] != "").sum()),
                auc=auc,
                before=float(before),
                contrasts=_contrasts(good, last, "auc"),
                accuracy=_contrasts(good, last, "accuracy"),
                seconds=float(part["seconds"].mean()) if "seconds" in part else math.nan,
            )
        )
    return found


def _require_seeds_once(frame: pd.DataFrame) -> list[str]:
    """The swept fields of a table that has each seed once in each setting; any other would count a seed as if it were two."""
    keys = axes(frame)
    again = frame[frame.duplicated([*keys, "seed"])].to_dict("records")
    if again:
        setting = ", ".join(f"{key}={again[0][key]}" for key in keys) or "the one setting"
        raise MechoclError(
            f"the table has seed {again[0]['seed']} twice at {setting}; give the rows of one sweep, each once"
        )
    return keys


def _last_stage(frame: pd.DataFrame) -> str:
    stages = {str(c).split(".")[0] for c in frame.columns if str(c).startswith("stage")}
    return max(stages, default="stage1")


def _subsets(frame: pd.DataFrame, stage: str) -> list[str]:
    return [s for s in SUBSETS if f"{stage}.auc.{s}" in frame.columns]


def _contrasts(frame: pd.DataFrame, stage: str, metric: str) -> dict[str, Estimate]:
    prefix = f"{stage}.{metric}."
    values = frame[[c for c in frame.columns if str(c).startswith(prefix)]]
    values = values.rename(columns=lambda c: str(c).removeprefix(prefix))
    per_run = internalization.contrasts(values, metric, YES_OR_NO)
    return {
        str(name): estimate(per_run[name].dropna().to_numpy(dtype=float), unit="seed")
        for name in per_run.columns
    }


# comparisons between the settings of one field, paired by seed -----------------------------------


def by_run(frame: pd.DataFrame, contrast: str, metric: str = "auc") -> pd.DataFrame:
    """One row per run that did not fail: the swept fields, `seed`, and `value`, the contrast after its last stage.

    Raises MechoclError when a seed is twice in one setting.
    """
    _require_seeds_once(frame)
    good = frame[frame["failed"] == ""].dropna(axis=1, how="all")
    prefix = f"{_last_stage(good)}.{metric}."
    columns = {c: str(c).removeprefix(prefix) for c in good.columns if str(c).startswith(prefix)}
    found = internalization.contrasts(good[list(columns)].rename(columns=columns), metric, YES_OR_NO)
    return good[[*axes(good), "seed"]].assign(value=found.get(contrast, math.nan))


def slopes(runs: pd.DataFrame, key: str) -> "pd.Series[float]":
    """Seed → slope of `value` from each value of the field to the next, of the seeds that have runs at all values."""
    table = runs.pivot(index="seed", columns=key, values="value").dropna()
    steps = np.arange(table.shape[1])
    return pd.Series(
        [float(np.polyfit(steps, row, 1)[0]) for row in table.to_numpy()], index=table.index, dtype=float
    )


def differences(
    runs: pd.DataFrame, key: str, *, high: Sequence[Any], low: Sequence[Any]
) -> "pd.Series[float]":
    """Seed → mean `value` at the settings `high` minus that at `low`, of the seeds that have runs at all of them."""
    table = runs.pivot(index="seed", columns=key, values="value")[[*high, *low]].dropna()
    return table[list(high)].mean(axis=1) - table[list(low)].mean(axis=1)


CONTROLLED: Final = "task.unreliable"
"""The field whose other values are controls of the value "inconsistent"."""


def over_controls(
    frame: pd.DataFrame, contrast: str, metric: str = "auc"
) -> dict[tuple[Any, ...], dict[str, Estimate]]:
    """The contrast over that of each control, paired by seed, in a sweep over the field `CONTROLLED`.

    The keys are the values of the other swept fields, in the order of `sweep_folder.axes`; the inner keys are the controls, at
    equal exposure. It is empty for a sweep over other fields alone.
    """
    runs = by_run(frame, contrast, metric)
    if CONTROLLED not in runs.columns:
        return {}
    others = [key for key in axes(frame) if key != CONTROLLED]
    groups = runs.groupby(others, sort=False) if others else [((), runs)]
    found: dict[tuple[Any, ...], dict[str, Estimate]] = {}
    for values, part in groups:
        table = part.pivot(index="seed", columns=CONTROLLED, values="value")
        controls = [name for name in table.columns if name != "inconsistent" and "inconsistent" in table]
        found[values if isinstance(values, tuple) else (values,)] = {
            str(name): estimate(
                (table["inconsistent"] - table[name]).dropna().to_numpy(dtype=float), unit="seed"
            )
            for name in controls
        }
    return found
