"""How the time of an epoch grows with aliases, layers, width and seeds: exponents, a table, a figure.

Each axis changes one thing of the recipe `integer-set/short`, stage 1. The width changes the MLP's width too,
which is 4 times as large. All points take turns. The time of an epoch is the median time of a step × the
number of its steps.
"""

import datetime
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import measuring
import numpy as np
import pandas as pd
import torch
from training_sides import build_ours

from mechocl.runs import recipes
from toy_models import integer_set
from toy_models.training import Moment, train_stage

RECIPE: Final = "integer-set/short"
RESULT: Final = Path(__file__).parent.parent / "docs" / "results" / "training-scaling.csv"
AXES: Final[dict[str, tuple[int, ...]]] = {
    "aliases": (250, 500, 1000, 2000),
    "layers": (1, 2, 4),
    "width": (32, 64, 128, 256),
    "seeds": (1, 2, 4, 8, 16),
}
ROUNDS: Final = 9
FAST_ROUNDS: Final = 2
STEPS: Final = 10
FAST_STEPS: Final = 3
WARM_UP: Final = 3


class Point:
    """Models in training, for one value of one axis."""

    def __init__(self, axis: str, value: int, changes: Sequence[str], device: str) -> None:
        recipe = recipes.load_recipe(RECIPE, (*changes, *_changes(axis, value)))
        seeds = range(value if axis == "seeds" else 1)
        stage = recipe.training.stages[0]
        tasks = [integer_set.build(recipe.task, seed=seed) for seed in seeds]
        models = [
            build_ours(recipe, task, seed=seed).to(device, print_details=False)
            for seed, task in zip(seeds, tasks, strict=True)
        ]
        self.moments: Iterator[Moment] = train_stage(
            models, tasks, stage, seeds=seeds, precision=recipe.training.precision
        )
        self.steps_per_epoch = next(self.moments).total_steps // stage.epochs

    def train(self, steps: int) -> None:
        for _ in range(steps):
            next(self.moments)


def _changes(axis: str, value: int) -> tuple[str, ...]:
    return {
        "aliases": (f"task.aliases={value}",),
        "layers": (f"model.n_layers={value}",),
        "width": (f"model.d_model={value}", f"model.d_mlp={4 * value}"),
        "seeds": (),
    }[axis]


def measure(*, device: str, fast: bool, changes: Sequence[str] = ()) -> pd.DataFrame:
    """Time all points. Returns a row for each, as `fitted` does. `changes` are made to the recipe for all points."""
    points = {
        (axis, value): Point(axis, value, changes, device)
        for axis, values in AXES.items()
        for value in values
    }
    for point in points.values():
        point.train(WARM_UP)
    steps = FAST_STEPS if fast else STEPS
    blocks = {f"{axis} {value}": _block(point, steps) for (axis, value), point in points.items()}
    times = measuring.in_turns(blocks, rounds=FAST_ROUNDS if fast else ROUNDS, device=device)
    rows = [
        (axis, value, statistics.median(times[f"{axis} {value}"]) / steps * point.steps_per_epoch)
        for (axis, value), point in points.items()
    ]
    table = fitted(pd.DataFrame(rows, columns=["axis", "value", "seconds_per_epoch"]))
    return table.assign(
        threads=torch.get_num_threads(),
        machine=measuring.machine(device),
        torch=torch.__version__,
        date=datetime.date.today().isoformat(),
    )


def _block(point: Point, steps: int) -> Any:
    return lambda: point.train(steps)


def fitted(table: pd.DataFrame) -> pd.DataFrame:
    """Add each axis's `exponent` (slope of log time over log value by least squares) and the `fitted` times."""
    parts = []
    for _, part in table.groupby("axis", sort=False):
        x, y = np.log(part["value"]), np.log(part["seconds_per_epoch"])
        slope, intercept = np.polyfit(x, y, 1)
        parts.append(part.assign(exponent=slope, fitted=np.exp(intercept + slope * x)))
    return pd.concat(parts)


def finish(table: pd.DataFrame, *, record: bool) -> None:
    """Print the table. With `record`, save it."""
    measuring.print_table(
        ["axis", "value", "seconds an epoch", "fitted", "exponent"],
        [
            [str(r.axis), str(r.value), f"{r.seconds_per_epoch:.4g}", f"{r.fitted:.4g}", f"{r.exponent:.2f}"]
            for r in table.itertuples()
        ],
    )
    if record:
        new = RESULT.with_suffix(".tmp")
        table.to_csv(new, index=False, float_format="%.4g")
        new.replace(RESULT)
        print(f"{RESULT.name} written; `python -m docs.write.benchmarks` writes docs/benchmarks.md anew")


def read(path: Path = RESULT) -> pd.DataFrame | None:
    """The recorded table. None when no table is recorded."""
    return pd.read_csv(path) if path.exists() else None
