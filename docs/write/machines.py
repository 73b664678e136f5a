"""How the numbers of the recipes vary between machines: the same seeds with other kernels of the processor.

torch has kernels for several instruction sets and takes the best that the processor has; `ATEN_CPU_CAPABILITY` chooses
another. Sums are rounded differently, and training amplifies the difference, as on another machine.

python -m docs.write.machines                train 24 seeds of each recipe in each setting, and save the table
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write.markdown import write_table
from docs.write.places import ADDRESS, TABLES
from mechocl.analyses.jobs import evaluate_run
from mechocl.behaviour import formats, over_seeds
from mechocl.behaviour.internalization import METRICS
from mechocl.behaviour.verdict import decide
from mechocl.runs.run import Run
from toy_models.measures import YES_OR_NO

SETTINGS: Final = ("default", "avx2", "avx512")
"""Values of ATEN_CPU_CAPABILITY."""

RECIPES: Final = ("integer-set/cpu", "integer-set/memorised")
SEEDS: Final = 24
RUNS: Final = Path("runs/studies/machines")
_TABLE: Final = TABLES / "machines.csv"
_NEW: Final = ("d1_consistent", "d2_consistent", "d3_consistent")


def train_settings(recipes: tuple[str, ...] = RECIPES, jobs: int = 2, seeds: int = SEEDS) -> None:
    """Train the seeds of each recipe in each setting, as far as they are not trained, and save the table.

    Args:
        recipes: The recipes.
        jobs: Number of seeds' stacks that train at a time.
        seeds: Number of seeds of each recipe in each setting.
    """
    for recipe in recipes:
        for setting in SETTINGS:
            out = RUNS / f"{recipe.replace('/', '-')}-{setting}"
            command = ["train", recipe, "--out", out, "--seeds", seeds, "--jobs", jobs, "--device", "cpu"]
            subprocess.run(
                [sys.executable, "-m", "mechocl", *map(str, command)],
                env=os.environ | {"ATEN_CPU_CAPABILITY": setting},
                check=True,
            )
            rows = evaluate_run(Run.open(out), device="cpu", jobs=jobs)
            columns = ["recipe", "setting", "seed", "subset", "aliases", *METRICS]
            found = over_seeds.by_seed(rows).assign(recipe=recipe, setting=setting)[columns]
            old = pd.read_csv(_TABLE) if _TABLE.exists() else found.iloc[:0]
            kept = old[(old["recipe"] != recipe) | (old["setting"] != setting)]
            pd.concat([kept, found]).to_csv(_TABLE, index=False, float_format="%.6g")


def write_section() -> list[str]:
    """The section on how numbers vary between machines."""
    lines = ["## How numbers vary between machines", ""]
    if not _TABLE.exists():
        return [*lines, "Not measured: `python -m docs.write.machines`."]
    table = pd.read_csv(_TABLE)
    seeds = table.groupby(["recipe", "setting"])["seed"].nunique().max()
    lines += [
        f"`python -m docs.write.machines` trains {seeds} seeds of these recipes with each set of kernels that torch has for an x86-64 "
        "processor (`ATEN_CPU_CAPABILITY`). The same seed draws the same task, the same first weights and the same batches; "
        "only the last bits of sums differ, and training amplifies them. So a single seed's number is another on another machine, "
        "and what is compared is the mean over seeds. *least recall* is that of the worst seed, whose limit is "
        f"{formats.number(YES_OR_NO.least_recall, 2)}. One thread computes in every setting. *default* is the name of torch's smallest kernels, and not its usual choice.",
        "",
    ]
    body = []
    for (recipe, setting), rows in table.groupby(["recipe", "setting"], sort=False):
        rows = rows.assign(alias=0)
        counted = over_seeds.count_seeds(rows, YES_OR_NO)
        differences = over_seeds.differences_by_seed(rows, "auc", YES_OR_NO)
        new = rows[rows["subset"].isin(_NEW)].groupby("seed")["recall"].mean()
        cells = []
        for name in ("weak", "strong", "strong_d1_d3"):
            each = {int(k): float(v) for k, v in differences[name].items() if k in counted.learned}
            lost = {int(k): float(v) for k, v in differences[name].items() if k in counted.failed}
            verdict = decide(each, lost, margin=YES_OR_NO.smallest["auc"])
            cells.append(f"{formats.estimate_in_words(verdict.learned, sign=True)}: {verdict.answer}")
        body.append(
            [
                f"`{recipe}`",
                str(setting),
                f"{len(counted.learned)} of {counted.total}",
                formats.number(new.min()),
                *cells,
            ]
        )
    columns = ["recipe", "kernels", "seeds that learned", "least recall", "weak", "strong", "d1 − d3"]
    lines += write_table(columns, body, left=(0, 1))
    return [*lines, "", *_spread(table)]


def between_machines(table: pd.DataFrame, recipe: str, contrast: str) -> float:
    """Half the range of a contrast's mean over seeds between the settings, in AUC."""
    means = [
        over_seeds.differences_by_seed(rows.assign(alias=0), "auc", YES_OR_NO)[contrast].mean()
        for _, rows in table[table["recipe"] == recipe].groupby("setting")
    ]
    return (max(means) - min(means)) / 2


def write_line() -> list[str]:
    """How much the demo's gap varies between machines, as a line for README."""
    table = read_table()
    if table is None:
        return []
    spread = {
        name: between_machines(table, RECIPES[0], name)
        for name in ("weak", "strong", "strong_d1_d3", "strong_d3_d2")
    }
    seeds = table.loc[table["recipe"] == RECIPES[0], "seed"].nunique()
    said = ", ".join(f"{_SHORT[name]} ±{formats.number(value)}" for name, value in spread.items())
    return [
        f"Between machines means over {seeds} seeds vary by ({said}; half the range over three sets of kernels, "
        f"[how]({ADDRESS}/blob/main/docs/results.md#how-numbers-vary-between-machines)).",
        "",
    ]


_SHORT: Final = {"weak": "weak", "strong": "strong", "strong_d1_d3": "d1 − d3", "strong_d3_d2": "d3 − d2"}


def read_table() -> pd.DataFrame | None:
    """The saved table: one row for each recipe, setting, seed and subset. None if it was not measured."""
    return pd.read_csv(_TABLE) if _TABLE.exists() else None


def _spread(table: pd.DataFrame) -> list[str]:
    found = []
    for recipe in table["recipe"].unique():
        part = table[table["recipe"] == recipe].assign(alias=0)
        gaps = pd.DataFrame(
            {
                setting: over_seeds.differences_by_seed(rows, "auc", YES_OR_NO)["strong"]
                for setting, rows in part.groupby("setting", sort=False)
            }
        )
        found.append(
            f"- `{recipe}`: the mean gap varies by ±{formats.number(between_machines(table, recipe, 'strong'))} between settings. "
            f"The gap of one seed varies with a standard deviation of {formats.number(gaps.std(axis=1).mean())} between settings, "
            f"and of {formats.number(gaps.std().mean())} between seeds."
        )
    return found


if __name__ == "__main__":
    tyro.cli(train_settings)
