"""The quantities that predictions are about: small functions from the rows of a run to one value of each seed.

A quantity never looks across seeds. Where it chooses a place among many, it chooses by another number than the one that it
gives, or it chooses in the same way in the control that it subtracts; so a choice alone does not make an effect.

Those of answers and of the training are here, those of gradients, probes and interventions in `model_quantities`. A quantity of an
analysis that is new is one more function under `@quantity`, and a prediction in a TOML file that names it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd

from mechocl.behaviour import equal_loss, over_seeds
from mechocl.behaviour.control_gaps import GAP, deciding_control
from mechocl.errors import MechoclError
from mechocl.learning.twins import pair_twins
from toy_models.measures import Measures

TAG_1, TAG_2 = "d1_consistent", "d2_consistent"

Values = dict[int, float]
"""Seed → value, of the seeds that have one."""


class NotMeasured(Exception):
    """A run does not have what a quantity needs. The message is a clause that says what is missing, and what to do."""


@dataclass(frozen=True, slots=True)
class Data:
    """What a quantity is computed from."""

    answers: pd.DataFrame
    """Rows of the evaluate analysis of the run."""
    rows: pd.DataFrame
    """Rows of the prediction's analysis."""
    measures: Measures
    column: str
    """The column whose values are compared; by default the measure in which the run's answers are given."""


Measure = Callable[..., Values]

CONTROL_ARGUMENTS: Final = ("control", "other_control")
"""Arguments of quantities that name a control run."""

QUANTITIES: Final[dict[str, Measure]] = {}
"""Every quantity by its name. Its docstring says what it is; its keyword arguments are those of a prediction."""


def quantity(measure: Measure) -> Measure:
    """Make a function a quantity, under its own name."""
    QUANTITIES[measure.__name__] = measure
    return measure


def arguments_of(name: str) -> list[str]:
    """Names of the arguments that a quantity takes besides its data."""
    return list(inspect.signature(QUANTITIES[name]).parameters)[1:]


def describe(name: str) -> str:
    """What a quantity is: the first sentence of its docstring."""
    return " ".join((QUANTITIES[name].__doc__ or "").split("\n\n")[0].split())


# answers ---------------------------------------------------------------------------------------------------------


@quantity
def between_subsets(data: Data, *, better: str, worse: str) -> Values:
    """Mean of the column over the aliases of one subset − that of another one."""
    table = by_subset(data.rows, data.column)
    missing = [name for name in (better, worse) if name not in table or table[name].isna().all()]
    if missing:
        raise NotMeasured(f"the run has no {data.column} of {missing[0]}")
    return values_of(table[better] - table[worse])


@quantity
def over_chance(data: Data, *, subset: str) -> Values:
    """Mean of the column over the aliases of a subset − its value of chance; for a measure without such a value, − its mean over the
    aliases without training data."""
    table = by_subset(data.rows, data.column)
    chance = data.measures.chance.get(data.column)
    needed = [subset] if chance is not None else [subset, "no_data"]
    missing = next((name for name in needed if name not in table), None)
    if missing is not None:
        raise NotMeasured(f"the run has no {missing}")
    return values_of(table[subset] - (table["no_data"] if chance is None else chance))


# control runs ----------------------------------------------------------------------------------------------------
# The arguments of `CONTROL_ARGUMENTS` name the controls that a quantity reads; a seed must have learned its definitions there, too
# (`evidence.count_for`).


@quantity
def control_gap(data: Data, *, control: str) -> Values:
    """Gap d1 − d2 of a control run."""
    return _gaps(_control(data, control), data)


@quantity
def between_controls(data: Data, *, control: str, other_control: str) -> Values:
    """Gap d1 − d2 of a control run − that of another control run of the same seed."""
    one, other = (_gaps(_control(data, name), data) for name in (control, other_control))
    return {seed: one[seed] - other[seed] for seed in one if seed in other}


@quantity
def over_control(data: Data, *, control: str) -> Values:
    """Gap d1 − d2 of the run − that of a control run of the same seed; `deciding` is the control that decides."""
    own, other = _gaps(data.answers, data), _gaps(_control(data, control), data)
    return {seed: own[seed] - other[seed] for seed in own if seed in other}


def control_named(name: str, answers: pd.DataFrame, measures: Measures) -> str:
    """The control that a prediction's argument `control` means; `answers` are those of the run."""
    return deciding_control(answers, measures)[0] if name == "deciding" else name


def _control(data: Data, name: str) -> pd.DataFrame:
    name = control_named(name, data.answers, data.measures)
    found = data.rows[data.rows["control"] == name] if "control" in data.rows else data.rows[:0]
    if found.empty:
        raise NotMeasured(
            f"the control {name} was not trained; `mechocl controls` with --only {name} trains it"
        )
    return found


# variant runs ----------------------------------------------------------------------------------------------------
# The argument `variant` names the variant run that a quantity reads, and counts as `control` does.


@quantity
def removed(data: Data, *, variant: str) -> Values:
    """Gap d1 − d2 of the run − that of a variant, whose last stage was trained again with one thing changed."""
    own, other = _gaps(data.answers, data), _gaps(_variant(data, variant), data)
    return {seed: own[seed] - other[seed] for seed in own if seed in other}


@quantity
def twin_gap(data: Data, *, variant: str) -> Values:
    """Mean over aliases of the column where the alias was defined by tag 1 − where the same alias was defined by tag 2."""
    pairs = pair_twins(
        over_seeds.questions_per_alias(data.answers),
        over_seeds.questions_per_alias(_variant(data, variant)),
        data.column,
    )
    return values_of(pairs.groupby("seed")["gap"].mean())


def _variant(data: Data, name: str) -> pd.DataFrame:
    found = data.rows[data.rows["variant"] == name]
    if found.empty:
        raise NotMeasured(
            f"the variant {name} was not trained; `mechocl variants` with --only {name} trains it"
        )
    return found


# training --------------------------------------------------------------------------------------------------------


@quantity
def loss_between_tags(data: Data) -> Values:
    """Definition loss of d2 − that of d1, at the end of the last stage."""
    rows = _definitions(data)
    losses = by_subset(
        rows[rows["epoch"] == rows.groupby("seed")["epoch"].transform("max")], "definition_loss"
    )
    return values_of(losses[TAG_2] - losses[TAG_1])


@quantity
def gone_at_equal_loss(data: Data) -> Values:
    """Gap d1 − d2 at the end of the last stage − the gap where both subsets have the lowest definition loss they share."""
    found = {}
    for seed, curves in _curves(data).items():
        level = max(losses.min() for _, losses, _ in curves)
        at = [
            equal_loss.interpolate_at_losses(losses, values, np.array([level]))[0]
            for _, losses, values in curves
        ]
        end = [values[-1] for _, _, values in curves]
        found[seed] = (end[0] - end[1]) - (at[0] - at[1])
    return finite(found)


@quantity
def learned_later(data: Data) -> Values:
    """When d1's definitions came to half of their first loss − when d2's did, as a share of the last stage."""
    return finite({seed: (t[0] - t[1]) / end for seed, (t, end) in _times(data).items()})


@quantity
def gone_at_equal_age(data: Data) -> Values:
    """Gap d1 − d2 at the end of the last stage − the gap where both subsets were learned equally long ago."""
    times, found = _times(data), {}
    for seed, curves in _curves(data).items():
        (t, end), values = times[seed], [values for _, _, values in curves]
        if not np.isfinite(t).all():
            continue
        age = end - max(t)
        at = [np.interp(t[i] + age, curves[i][0], values[i]) for i in (0, 1)]
        found[seed] = float((values[0][-1] - values[1][-1]) - (at[0] - at[1]))
    return found


Curve = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Epochs, definition losses and answers of a subset, in the order of time."""


def _definitions(data: Data) -> pd.DataFrame:
    """Rows of the last stage's history, with definition losses of d1 and d2."""
    rows = data.rows
    if "definition_loss" not in rows or data.measures.leading not in rows:
        raise NotMeasured("the run's history holds no definition losses")
    last: pd.DataFrame = rows[(rows["stage"] == rows["stage"].max()) & rows["subset"].isin([TAG_1, TAG_2])]
    last = last.dropna(subset=["definition_loss"])
    if last["subset"].nunique() < 2:
        raise NotMeasured("the run's history holds no definition losses of d1 and d2")
    return last


def _curves(data: Data) -> dict[int, list[Curve]]:
    """Seed → the curves of d1 and of d2."""
    found: dict[int, list[Curve]] = {}
    for seed, rows in seeds_of(_definitions(data).sort_values("epoch")):
        parts = [rows[rows["subset"] == subset] for subset in (TAG_1, TAG_2)]
        if all(len(part) for part in parts):
            found[seed] = [
                (
                    part["epoch"].to_numpy(dtype=float),
                    part["definition_loss"].to_numpy(dtype=float),
                    part[data.measures.leading].to_numpy(dtype=float),
                )
                for part in parts
            ]
    return found


def _times(data: Data) -> dict[int, tuple[list[float], float]]:
    """Seed → the epochs at which d1's and d2's definitions came to half of the lower of their first losses, and the last epoch."""
    found = {}
    for seed, curves in _curves(data).items():
        half = min(losses[0] for _, losses, _ in curves) / 2
        at = [
            equal_loss.interpolate_at_losses(losses, epochs, np.array([half]))[0]
            for epochs, losses, _ in curves
        ]
        found[seed] = ([float(one) for one in at], float(curves[0][0][-1]))
    return found


# -----------------------------------------------------------------------------------------------------------------


def gaps(answers: pd.DataFrame, measures: Measures, column: str = "") -> Values:
    """Seed → the gap d1 − d2, from rows of the evaluate analysis; empty if the run lacks one of the two."""
    table = over_seeds.differences_by_seed(answers, column or measures.leading, measures)
    return values_of(table[GAP]) if GAP in table.columns else {}


def _gaps(answers: pd.DataFrame, data: Data) -> Values:
    found = gaps(answers, data.measures, data.column)
    if not found:
        raise NotMeasured("the run has no aliases for the gap, d1 − d2")
    return found


def by_subset(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean of a column, with seeds as rows (the index) and subsets as columns."""
    if "subset" not in rows or column not in rows:
        raise MechoclError(f"the rows have no subsets, or no column {column!r}")
    if "alias" in rows and "test" in rows:
        rows = over_seeds.questions_per_alias(rows)
    return rows.assign(subset=rows["subset"].astype(str)).groupby(["seed", "subset"])[column].mean().unstack()


def seeds_of(rows: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Each seed and its rows."""
    return [(seed, rows[rows["seed"] == seed]) for seed in sorted(map(int, rows["seed"].unique()))]


def values_of(values: pd.Series) -> Values:
    """Seed → value, of a column whose index is the seed; without those that are not finite."""
    return finite(dict(zip(values.index.astype(int).tolist(), values.astype(float).tolist(), strict=True)))


def finite(values: dict[int, Any]) -> Values:
    """The values that are finite."""
    return {int(seed): float(value) for seed, value in values.items() if np.isfinite(value)}
