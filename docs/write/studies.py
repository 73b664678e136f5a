"""The studies behind docs/results.md: train them, and say what they find.

python -m docs.write.studies list             the commands
python -m docs.write.studies run [NAME ...]   train what is missing in runs/studies, save tables in docs/results/sweeps
"""

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
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES, Verdict, decide
from mechocl.commands import cli
from mechocl.runs import recipes, sweep_folder, sweep_summaries
from toy_models.measures import YES_OR_NO

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
    `low`, it is above 0, it is 0 as far as it matters, or there is no finding to compare
    with."""
    high: tuple[Any, ...] = ()
    low: tuple[Any, ...] = ()
    note: str = ""
    """A note with what else a reader must know."""
    contrast: str = "strong"
    """The contrast of `internalization.CONTRASTS` that is judged."""
    of: str = ""
    """Name of another study. If given, the finding is read from its table and nothing is trained."""
    base: str = ""
    """Name of a study of the same recipe and seeds whose table has the runs at the recipe's own values. They stand in this
    study's table, too, and are not trained twice."""

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
        if not path.exists():
            return None
        return joined(pd.read_parquet(path), self._base_table(), self.recipe)

    def _base_table(self) -> pd.DataFrame | None:
        path = SWEEPS / f"{self.base}.parquet"
        return pd.read_parquet(path) if self.base and path.exists() else None


def read(path: Path = DOCS / "studies.toml") -> list[Study]:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return pydantic.TypeAdapter(list[Study]).validate_python(values["study"])


def joined(table: pd.DataFrame, base: pd.DataFrame | None, recipe: str) -> pd.DataFrame:
    """The table of a sweep, with the runs of `base` at the recipe's own values for what both sweeps do not share."""
    if base is None:
        return table
    swept = sweep_folder.axes(table)
    for key in sweep_folder.axes(base):
        if key not in swept:
            base = base[base[key] == value_in(recipe, key)].drop(columns=key)
    base = base.assign(**{key: value_in(recipe, key) for key in swept if key not in base.columns})
    both = pd.concat([table, base[base["seed"].isin(table["seed"])]], ignore_index=True)
    return both.sort_values([*swept, "seed"], kind="stable", key=sweep_folder.order).reset_index(drop=True)


def value_in(name: str, key: str) -> Any:
    """A recipe's own value of a field, also where it is that of the recipe's architecture."""
    recipe = recipes.load_recipe(name)
    value = sweep_folder.looked_up(recipes.plain(recipe), key)
    return getattr(recipe.model.resolve(), key.removeprefix("model.")) if value is None else value


def own_value(study: Study) -> Any:
    """The recipe's own value of the field that a study sweeps first."""
    return value_in(study.recipe, study.key)


def control_of(frame: pd.DataFrame) -> str:
    """The control that a sweep has beside each setting; "" if it has none."""
    column = frame.get(sweep_summaries.CONTROLLED)
    names = [] if column is None else [str(name) for name in column.unique() if name != "inconsistent"]
    return names[0] if names else ""


def evidence(study: Study, frame: pd.DataFrame, *, over: str = "") -> Verdict | None:
    """The verdict on the difference that decides, with the sign that makes the paper's finding positive.

    With `over`, the name of a control, each gap is taken over that of its control. A seed with a failed run at a setting that is
    compared counts as lost. None if nothing is judged.
    """
    runs = sweep_summaries.by_run(frame, study.contrast)
    if sweep_summaries.CONTROLLED in runs.columns:
        keys = [study.key, "seed"] if study.over else ["seed"]
        each = {
            name: part.set_index(keys)["value"] for name, part in runs.groupby(sweep_summaries.CONTROLLED)
        }
        values = each["inconsistent"] - each[over] if over else each["inconsistent"]
        runs = values.dropna().reset_index()
    if study.judged in ("rises", "falls"):
        values = sweep_summaries.slopes(runs, study.key) * (1 if study.judged == "rises" else -1)
    elif study.judged == "differs":
        values = sweep_summaries.differences(runs, study.key, high=study.high, low=study.low)
    elif study.judged:
        values = runs.groupby("seed")["value"].mean()
    else:
        return None
    each = dict(zip(values.index.astype(int).tolist(), values.astype(float).tolist(), strict=True))
    lost = frame["seed"].nunique() - len(each)
    return decide(each, diverged=lost, margin=YES_OR_NO.smallest["auc"])


QUANTITY = {
    "rises": "slope from one value to the next",
    "falls": "minus the slope from one value to the next",
    "differs": "difference between the two groups of settings",
    "positive": "the difference",
    "zero": "the difference",
    "": "",
}
"""What `evidence` is, in words."""


_READ: Final = {YES: "agrees", REVERSE: "disagrees", NOTHING: "disagrees", CANNOT_TELL: "cannot tell"}
_READ_ZERO: Final = {YES: "disagrees", REVERSE: "disagrees", NOTHING: "agrees", CANNOT_TELL: "cannot tell"}


def verdict(study: Study, found: Verdict | None) -> str:
    """Whether the study agrees with the paper, disagrees, or cannot tell."""
    if found is None:
        return "–"
    return (_READ_ZERO if study.judged == "zero" else _READ)[found.answer]


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
