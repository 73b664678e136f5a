"""The section on the gap along stage 2: at the same epoch, and at equal definition loss.

python -m docs.write.equal_loss RUN...     take the table from runs
"""

from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import tyro

from docs.write.markdown import write_table
from docs.write.places import TABLES
from mechocl.behaviour import formats
from mechocl.behaviour.equal_loss import summarize_gap
from mechocl.behaviour.over_seeds import SeedSummary
from mechocl.runs.run import Run

_TABLE: Final = TABLES / "equal-loss.csv"
_SHOWN: Final = 6
"""Number of epochs, and of losses, in the document's table; the saved table has all."""


def take_tables(paths: tuple[Path, ...]) -> None:
    """Write docs/results/equal-loss.csv from the histories of runs, one for each recipe."""
    found = []
    for path in paths:
        run = Run.open(path)
        history = pd.concat(
            [f.history().assign(seed=f.seed) for f in run.finished_seeds()], ignore_index=True
        )
        curves = summarize_gap(history, measure=run.questioning.measures.leading)
        if curves is None or curves.by_loss is None:
            raise SystemExit(f"{path} has no definition loss in its history; train it anew")
        for key, summary in (("epoch", curves.by_epoch), ("definition_loss", curves.by_loss)):
            found.append(_estimates(summary, key).assign(recipe=run.recipe_name, key=key))
    columns = ["recipe", "key", "at", "mean", "low", "high", "seeds", "positive"]
    pd.concat(found)[columns].to_csv(_TABLE, index=False, float_format="%.6g")


def _estimates(summary: SeedSummary, key: str) -> pd.DataFrame:
    return summary.estimates.rename(columns={key: "at"})


def write_section() -> list[str]:
    """The section, from the saved table."""
    lines = ["## The gap along stage 2, and at equal definition loss", ""]
    if not _TABLE.exists():
        return [*lines, "Not measured: `python -m docs.write.equal_loss RUN...`."]
    table = pd.read_csv(_TABLE)
    lines += [
        "The sign of a gap may depend on when one stops. Definitions with one tag may also be learned faster than with the other. So, "
        "beside the gap at the same epoch of stage 2, the gap at equal *definition loss*: each of d1 and d2 is taken when its own "
        "definitions had come to that loss (nats; training goes from high to low). AUC, means over seeds with 95 % intervals, of the runs "
        "with the kernels *default* in the section above (`python -m docs.write.equal_loss RUN...`); their reports draw the whole curves.",
        "",
    ]
    body = []
    for (recipe, key), part in table.groupby(["recipe", "key"], sort=False):
        part = part.dropna(subset=["low"]).sort_values("at", ascending=key == "epoch")
        chosen = part.iloc[np.unique(np.linspace(0, len(part) - 1, _SHOWN).round().astype(int))]
        for row in chosen.to_dict("records"):
            body.append(
                [
                    f"`{recipe}`",
                    "epoch" if key == "epoch" else "definition loss",
                    formats.number(row["at"], 0 if key == "epoch" else 3),
                    formats.interval(row["mean"], row["low"], row["high"], sign=True),
                    f"{row['positive']} of {row['seeds']}",
                ]
            )
    return [
        *lines,
        *write_table(["recipe", "at equal", "value", "gap d1 − d2", "seeds above 0"], body, left=(0, 1)),
    ]


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_tables))
