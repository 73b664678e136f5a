"""The studies behind docs/results.md: train them, and say what they find.

python -m docs.write.studies list             the commands
python -m docs.write.studies run [NAME ...]   train what is missing in runs/studies, save tables in docs/results/sweeps
"""

import math
import shlex
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import pydantic
import tyro

from docs.write.places import DOCS, TABLES
from mechocl import files
from mechocl.behaviour import over_seeds
from mechocl.behaviour.statistics import Estimate
from mechocl.commands import cli
from mechocl.runs import sweep_folder, sweep_summaries

SWEEPS: Final = TABLES / "sweeps"
RUNS: Final = Path("runs/studies")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """One sweep, and the finding that it is set beside."""

    name: str
    title: str
    recipe: str
    over: tuple[str, ...] = ()
    set: tuple[str, ...] = ()
    seeds: int = 8
    first_seed: int = 100
    """The first seed. Seeds from 100 up confirm a setup, because setups were chosen on lower seeds."""
    paper: str = ""
    """What the paper found."""
    judged: Literal["rises", "falls", "differs", "positive", "zero", ""] = ""
    """How the finding is judged: the gap rises or falls along the field, it is larger at the settings `high` than at
    `low`, it is above 0, it is 0 (which an interval can contradict, but not prove), or there is no finding to compare
    with."""
    high: tuple[Any, ...] = ()
    low: tuple[Any, ...] = ()
    note: str = ""
    """A note with what else a reader must know."""
    contrast: str = "strong"
    """The contrast of `internalization.CONTRASTS` that is judged."""
    of: str = ""
    """Name of another study. If given, the finding is read from its table and nothing is trained."""

    @property
    def arguments(self) -> list[str]:
        """Arguments of the command that trains the study."""
        found = ["sweep", self.recipe]
        for axis in self.over:
            found += ["--over", axis]
        found += ["--seeds", str(self.seeds), "--first-seed", str(self.first_seed)]
        if self.set:
            found += ["--set", *self.set]
        return [*found, "--out", str(RUNS / self.name)]

    @property
    def command(self) -> str:
        return shlex.join(["mechocl", *self.arguments])

    @property
    def key(self) -> str:
        return self.over[0].partition("=")[0]

    def table(self) -> pd.DataFrame | None:
        path = SWEEPS / f"{self.of or self.name}.parquet"
        return sweep_folder.read_sweep(path) if path.exists() else None


def read(path: Path = DOCS / "studies.toml") -> list[Study]:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return pydantic.TypeAdapter(list[Study]).validate_python(values["study"])


def evidence(study: Study, frame: pd.DataFrame) -> Estimate | None:
    """The number that decides, with the sign that makes the paper's finding positive. None if there is no such number."""
    runs = sweep_summaries.by_run(frame, study.contrast)
    if sweep_summaries.CONTROLLED in runs.columns:
        runs = runs[runs[sweep_summaries.CONTROLLED] == "inconsistent"]
    if study.judged in ("rises", "falls"):
        e = sweep_summaries.trend(runs, study.key)
        return e if study.judged == "rises" else _negated(e)
    if study.judged == "differs":
        return sweep_summaries.difference(runs, study.key, high=study.high, low=study.low)
    if study.judged in ("positive", "zero"):
        per_seed = runs.groupby("seed")["value"].mean().to_numpy(dtype=float)
        return over_seeds.estimate(per_seed, unit="seed")
    return None


QUANTITY = {
    "rises": "slope from one value to the next",
    "falls": "minus the slope from one value to the next",
    "differs": "difference between the two groups of settings",
    "positive": "the difference",
    "zero": "the difference",
    "": "",
}
"""What `evidence` is, in words."""


def _negated(e: Estimate) -> Estimate:
    return Estimate(-e.mean, -e.high, -e.low, e.p, e.n, e.unit, e.deviation)


def verdict(study: Study, e: Estimate | None) -> str:
    """Whether the study agrees, disagrees or cannot tell, by the 95 % interval."""
    if e is None:
        return "–"
    if math.isnan(e.p) or e.low <= 0 <= e.high:
        return "cannot tell"
    if study.judged == "zero":
        return "disagrees"
    return "agrees" if e.mean > 0 else "disagrees"


def train_studies(*names: str) -> None:
    """Train the named studies (default: all) as far as they are not finished, and save their tables."""
    studies = {study.name: study for study in read()}
    unknown = [name for name in names if name not in studies]
    if unknown:
        sys.exit(f"no study {unknown[0]!r}; there are {', '.join(studies)}")
    for study in [studies[name] for name in names] if names else studies.values():
        if study.of:
            continue
        print(study.command, flush=True)
        code = cli.main(study.arguments)
        if code:
            sys.exit(code)
        files.write_table(SWEEPS / f"{study.name}.parquet", sweep_folder.read_sweep(RUNS / study.name))


def main(what: Literal["list", "run"], names: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    if what == "run":
        train_studies(*names)
        return
    for study in read():
        if not study.of:
            print(study.command)


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(main))
