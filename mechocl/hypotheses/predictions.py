"""What each explanation predicts: the format of the data, `predictions.toml`, and what is refused in it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final, Literal

import pydantic

from mechocl.analyses import columns
from mechocl.analyses.registry import ANALYSES
from mechocl.analyses.rows import Column, Columns
from mechocl.errors import MechoclError, suggested
from mechocl.hypotheses import model_quantities as model_quantities, quantities
from mechocl.runs import recipes
from mechocl.runs.controls import CONTROLS as CONTROL_RUNS

Direction = Literal["above", "below", "none", "not above", "not below"]
"""What is expected of a value: above 0, below 0, within ± the smallest effect that matters, or that or on one side of it."""

ANSWERS: Final = "answers"
"""As the smallest effect: the run's own, of the measure in which its answers are given."""

OF_ANSWERS: Final = "of the answers"
"""As the unit: that of the measure in which the run's answers are given."""

CONTROLS: Final = "controls"
VARIANTS: Final = "variants"
HISTORY: Final = "history"

BESIDE: Final[dict[str, Columns]] = {
    CONTROLS: dict(columns.EVALUATE) | {"control": Column("str", "Name of the control run.")},
    VARIANTS: dict(columns.EVALUATE) | {"variant": Column("str", "Name of the variant run.")},
    HISTORY: {
        "stage": Column("int64", "Stage of training, from 1."),
        "epoch": Column("float64", "Epoch of the stage."),
        "subset": Column("str", "Subset of the aliases."),
        "definition_loss": Column("float64", "Mean definition loss of the subset.", "nats"),
        "auc": Column("float64", "Mean within-alias AUC of the subset.", "share"),
        "accuracy": Column("float64", "Mean accuracy of the subset.", "share"),
        "recall": Column("float64", "Share of the definitions that are recalled.", "share"),
    },
}
"""What predictions can be about besides the analyses: the answers of the control runs and of the variant runs (whose last stage was
trained again with one thing changed), and the history of the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One explanation of the gap between tags."""

    name: str
    """Its name in predictions and tables."""
    claim: str
    """What it says, in one sentence."""
    beyond_controls: bool = False
    """Whether it explains only what a run's gap has beyond that of its deciding control: it needs unreliable definitions."""
    lacks: str = ""
    """What it claims and no prediction here measures, in one sentence; "" for nothing. If it lacks something it is never supported."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One quantity, and what the explanations expect of it."""

    name: str
    """Its name in tables."""
    says: str
    """What is measured, in one sentence."""
    quantity: str
    """A name of `quantities.QUANTITIES`."""
    analysis: str
    """The analysis whose rows it is computed from: one of the registry, `controls` or `history`."""
    column: str = ""
    """The column whose values count; "" is the measure in which the run's answers are given."""
    config: dict[str, Any] = field(default_factory=dict)
    """Fields of the analysis's config that are not as by default."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Arguments of the quantity."""
    smallest: float | Literal["answers"]
    """The smallest effect that matters, in the unit of the quantity; `answers` takes the run's own for its answers."""
    unit: str
    """Unit of the quantity; `of the answers` is that of the measure in which the run's are given."""
    expects: dict[str, Direction]
    """Explanation → what it expects, if it alone made the gap. One that is not named expects nothing."""
    tests: tuple[str, ...]
    """The explanations that are refuted where their expectation is contradicted, also if others have a part in the gap. If it is
    empty, the prediction only says what alone does not make the gap."""
    part_of_gap: bool = False
    """Whether the quantity is a part of the gap d1 − d2, so that its share of the gap can be said."""
    minus_control: str = ""
    """Control run whose own quantity, from the same analysis, is subtracted in each seed; `deciding` is the control that decides, "" none."""
    source: str
    """Where the prediction comes from."""

    def analysis_config(self) -> Any:
        """The config of its analysis; None for what is no analysis (`BESIDE`)."""
        if self.analysis not in ANALYSES:
            return None
        values = {key: tuple(one) if isinstance(one, list) else one for key, one in self.config.items()}
        return ANALYSES[self.analysis].config(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """Explanations, and predictions that tell them apart."""

    explanations: tuple[Explanation, ...]
    predictions: tuple[Prediction, ...]

    def __post_init__(self) -> None:
        for what, entries in (("explanation", self.explanations), ("prediction", self.predictions)):
            names = [one.name for one in entries]
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"there are two {what}s {twice[0]!r}; give each its own name")
            if not names:
                raise ValueError(f"there is no {what}; give at least one")
        for one in self.predictions:
            _check(one, self.named)

    @property
    def named(self) -> dict[str, Explanation]:
        """The explanations by name."""
        return {one.name: one for one in self.explanations}

    def of(self, explanation: str) -> list[Prediction]:
        """The predictions that test an explanation."""
        return [one for one in self.predictions if explanation in one.tests]


def _check(one: Prediction, explanations: Mapping[str, Explanation]) -> None:
    """Raise ValueError, which names the prediction, for what is unknown, and for what cannot be evidence."""
    where = f"prediction {one.name!r}"
    for name in (*one.expects, *one.tests):
        _known(name, list(explanations), f"{where}: there is no explanation")
    if missing := [name for name in one.tests if name not in one.expects]:
        raise ValueError(f"{where}: it tests {missing[0]}, of which it expects nothing; name it in expects")
    if len(set(one.expects.values())) < 2:
        raise ValueError(
            f"{where}: all explanations expect the same, so it is no evidence; name one that expects another outcome"
        )
    if one.smallest != ANSWERS and not 0 < float(one.smallest) < float("inf"):
        raise ValueError(f"{where}: smallest is {one.smallest}; give an effect above 0, or {ANSWERS!r}")
    _known(one.analysis, [*ANALYSES, *BESIDE], f"{where}: there is no analysis")
    declared = ANALYSES[one.analysis].columns if one.analysis in ANALYSES else BESIDE[one.analysis]
    if one.column:
        _known(one.column, list(declared), f"{where}: the analysis {one.analysis} has no column")
    _known(one.quantity, list(quantities.QUANTITIES), f"{where}: there is no quantity")
    taken = quantities.arguments_of(one.quantity)
    for name in one.arguments:
        _known(name, taken, f"{where}: the quantity {one.quantity} has no argument")
    if missing := [name for name in taken if name not in one.arguments]:
        raise ValueError(f"{where}: the quantity {one.quantity} needs the argument {missing[0]!r}")
    if one.minus_control:
        if one.analysis in BESIDE:
            raise ValueError(
                f"{where}: {one.analysis} is no analysis of a control's models; leave minus_control out"
            )
        _known(one.minus_control, ["deciding", *CONTROL_RUNS], f"{where}: there is no control")
    _check_config(one, where)


def _check_config(one: Prediction, where: str) -> None:
    if one.analysis in BESIDE:
        if one.config:
            raise ValueError(f"{where}: {one.analysis} has no config; leave it out")
        return
    fields = [each.name for each in dataclasses.fields(ANALYSES[one.analysis].config)]
    for name in one.config:
        _known(name, fields, f"{where}: the config of {one.analysis} has no field")
    try:
        one.analysis_config()
    except (MechoclError, TypeError) as error:
        raise ValueError(f"{where}: {error}") from None


def _known(name: str, known: list[str], what: str) -> None:
    if name not in known:
        raise ValueError(f"{what} {name!r}; {suggested(name, known) if known else 'it has none'}")


for _config in (Explanation, Prediction, Predictions):
    recipes.strict(_config)
_ADAPTER: Final = pydantic.TypeAdapter(Predictions)


def own_file() -> Path:
    """The file of predictions that comes with the package."""
    return Path(str(resources.files("mechocl.hypotheses") / "predictions.toml"))


def load(path: Path | None = None) -> Predictions:
    """The predictions of a TOML file; None takes those of the package.

    Raises MechoclError, which names the file and what is wrong, for a file that cannot be used.
    """
    if path is not None and not path.exists():
        raise MechoclError(
            f"there is no file {path}; give a TOML file of predictions, such as a changed copy of {own_file()}"
        )
    values, found = recipes.read(str(path or own_file()), {})
    predictions: Predictions = recipes.checked(_ADAPTER, values, source=str(found))
    return predictions
