"""The section on gradients by the batch size of stage 1, from docs/results/gradients-batch-size.csv.

python -m docs.write.batch_sizes     train what is missing in runs/, and write the table
"""

import shlex
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from docs.write.markdown import write_table
from docs.write.places import TABLES
from mechocl import files
from mechocl.analyses import jobs
from mechocl.behaviour.control_gaps import GAP
from mechocl.behaviour.formats import estimate_in_words, number
from mechocl.behaviour.over_seeds import differences_by_seed
from mechocl.behaviour.statistics import estimate
from mechocl.commands import cli
from mechocl.hypotheses.quantities import TAG_1, TAG_2
from mechocl.learning import summaries
from mechocl.learning.study import GradientsConfig
from mechocl.runs.run import Run

_TABLE: Final = TABLES / "gradients-batch-size.csv"
_RECIPE: Final = "integer-set/cpu"
_SIZES: Final = (32, 64, 128, 256, 512)
_SEEDS: Final = 8
_FIRST_SEED: Final = 300
_GROUP: Final = {"group": "all", "correction": "raw"}
"""What the published curve is of: all weights, as they are."""


def command(size: int) -> list[str]:
    """Arguments of the command that trains the models of a batch size."""
    return [
        "train", _RECIPE, "--set", f"training.stages.0.batch_size={size}", "--seeds", str(_SEEDS),
        "--first-seed", str(_FIRST_SEED), "--out", f"runs/batch-size-{size}",
    ]  # fmt: skip


def take_table() -> None:
    """Train the models that are missing, follow their gradients, and write the table."""
    found = []
    for size in _SIZES:
        if code := cli.main(command(size)):
            raise SystemExit(code)
        found.append(_rows(Run.open(Path(f"runs/batch-size-{size}"))).assign(batch_size=size))
        columns = ["batch_size", "seed", "learned", "gap", "tag", "cosine", "cosine_effect"]
        files.write_text(
            _TABLE, pd.concat(found, ignore_index=True)[columns].to_csv(index=False, float_format="%.6g")
        )


def _rows(run: Run) -> pd.DataFrame:
    """A line for each seed and tag: cosines of d1's and d2's would-be definitions before stage 2, and the gap after it."""
    device = run.manifest["device"]
    config = GradientsConfig(aliases_per_subset=50, between=False)
    rows = summaries.before_the_stage(jobs.analyse_run(run, "gradients", config, device=device))
    rows = rows[rows["subset"].isin([TAG_1, TAG_2]) & rows["tag"].isin([1, 2])]
    for column, value in _GROUP.items():
        rows = rows[rows[column] == value]
    means = rows.groupby(["seed", "tag"])[["cosine", "cosine_effect"]].mean().reset_index()
    measures = run.questioning.measures
    answers = jobs.evaluate_run(run, device=device, jobs=None)
    gaps = differences_by_seed(answers, measures.leading, measures)[GAP]
    learned = jobs.count_run(run, device=device, jobs=None).learned
    return means.assign(gap=means["seed"].map(gaps), learned=means["seed"].isin(learned))


def write_section() -> list[str]:
    """The section, from the saved table."""
    lines = ["## Gradients, by the batch size of stage 1", ""]
    if not _TABLE.exists():
        return [*lines, "Not measured: `python -m docs.write.batch_sizes`.", ""]
    table = pd.read_csv(_TABLE)
    body = []
    for size, part in table.groupby("batch_size"):
        kept = part[part["learned"]]
        wide = kept.pivot(index="seed", columns="tag", values="cosine")
        values = [wide[1], wide[2], wide[1] - wide[2], kept.drop_duplicates("seed")["gap"]]
        told = [_told(one.to_numpy(dtype=float), sign=at > 1) for at, one in enumerate(values)]
        body.append([str(size), f"{len(wide)} of {part['seed'].nunique()}", *told])
    columns = (
        "batch size",
        "seeds that learned",
        "cosine, tag 1",
        "cosine, tag 2",
        "tag 1 − tag 2",
        "gap d1 − d2 (AUC)",
    )
    return [
        *lines,
        "Before stage 2: the cosine of the gradient of a would-be definition's loss, written with either tag, and of the loss of the questions about the same alias, over all weights and as they "
        f"are (*raw*), of the same new aliases. Means over seeds with 95 % intervals. `{_RECIPE}`, with as many epochs at every size, so larger batches make fewer steps. The "
        "published curve (arXiv 2310.15047, 128 to 4k) has .232 to .187 for d1 and .216 to .174 for d2, falling with the batch size. `python -m docs.write.batch_sizes` runs, for each size:",
        "",
        f"    {shlex.join(['mechocl', *command(_SIZES[0])])}",
        f"    mechocl gradients runs/batch-size-{_SIZES[0]} --aliases-per-subset 50 --no-between",
        "",
        *write_table(columns, body),
        "",
        f"Over all {len(_differences(table))} models that learned, Spearman's ρ between tag 1 − tag 2 and the gap is {number(_rank_correlation(table), 2, sign=True)}. Gradient alignment as the cause of the gap expects it above 0.",
        "",
    ]


def _differences(table: pd.DataFrame) -> pd.DataFrame:
    """Cosine of tag 1 − of tag 2, and the gap, of each model that learned."""
    kept = table[table["learned"]]
    wide = kept.pivot(index=["batch_size", "seed"], columns="tag", values="cosine")
    gaps = kept.drop_duplicates(["batch_size", "seed"]).set_index(["batch_size", "seed"])["gap"]
    return pd.DataFrame({"difference": wide[1] - wide[2], "gap": gaps})


def _rank_correlation(table: pd.DataFrame) -> float:
    found = _differences(table)
    return float(found["difference"].corr(found["gap"], method="spearman"))


def _told(values: np.ndarray, *, sign: bool) -> str:
    return estimate_in_words(estimate(values, unit="seed"), sign=sign)


if __name__ == "__main__":
    take_table()
