"""Tables of runs and their control runs, by seed and subset, from which docs/results.md is written.

python -m docs.write.control_tables RUN     take the tables from a run that `mechocl controls` made
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write.places import TABLES
from mechocl.analyses.control_jobs import evaluate_controls
from mechocl.analyses.jobs import evaluate_run
from mechocl.behaviour import over_seeds
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.runs.run import Run

RUN: Final = "run"
"""Value of the column `control` for the run itself."""


def take_tables(path: Path, *, jobs: int | None = None) -> Path:
    """Write docs/results/controls-RECIPE.csv from a run and the control runs in it. Returns the table's path."""
    run = Run.open(path)
    target = TABLES / f"controls-{run.recipe_name.replace('/', '-')}.csv"
    answers_of(run, jobs=jobs).to_csv(target, index=False, float_format="%.6g")
    return target


def answers_of(run: Run, *, jobs: int | None = None) -> pd.DataFrame:
    """What a run and its controls answer, by `control` (`RUN` for the run itself), seed and subset, in every measure of their world."""
    answered = {
        RUN: evaluate_run(run, device="cpu", jobs=jobs),
        **evaluate_controls(run, device="cpu", jobs=jobs).rows,
    }
    columns = ["control", "seed", "subset", "aliases", *run.questioning.measures.names]
    return pd.concat(
        [over_seeds.by_seed(rows).assign(control=name)[columns] for name, rows in answered.items()]
    )


def read_table(path: Path) -> dict[str, pd.DataFrame]:
    """Name of the run or control → its rows, one for each seed and subset, of a saved table."""
    table = pd.read_csv(path).assign(alias=0)
    return {str(name): part for name, part in table.groupby("control", sort=False)}


def run_and_controls(runs: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, ControlAnswers]:
    """The rows of the run, and those of its controls."""
    return runs[RUN], ControlAnswers(rows={name: rows for name, rows in runs.items() if name != RUN})


def read_tables() -> dict[str, dict[str, pd.DataFrame]]:
    """Recipe → name of the run or control → its rows, one for each seed and subset, of every table that is saved."""
    found = {}
    for path in sorted(TABLES.glob("controls-*.csv")):
        recipe = path.stem.removeprefix("controls-").replace("integer-set-", "integer-set/", 1)
        found[recipe] = read_table(path)
    return found


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
