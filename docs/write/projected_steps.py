"""The section of docs/verdict.md on projected steps, from docs/results/verdict-projected.csv.

python -m docs.write.projected_steps [NAME ...]    train the variants of studies that are trained, and write the table
"""

import shlex
from collections.abc import Sequence
from typing import Final

import pandas as pd
import tyro

from docs.write.learning import compare_variants, variant_table
from docs.write.places import TABLES
from docs.write.verdict_studies import STUDIES, Study
from mechocl import files
from mechocl.behaviour.formats import estimate_in_words
from mechocl.behaviour.statistics import estimate, share_removed
from mechocl.commands import cli
from mechocl.runs.run import Run
from mechocl.runs.variants import VARIANTS
from toy_models import lean
from toy_models.projected_steps import SHARE, find_directions, question_gradients

TABLE: Final = TABLES / "verdict-projected.csv"

_NAMES: Final = tuple(name for name, one in VARIANTS.items() if "alias_step" in one.changes[0])

_STUDIES: Final = ("cpu", "memorised")


def command(study: Study) -> list[str]:
    """Arguments of the command that trains the variants of a study."""
    return ["variants", str(study.run), "--only", *_NAMES]


def take_table(names: Sequence[str]) -> None:
    """Train the variants that are missing, and replace the rows of these studies."""
    for study in [one for one in STUDIES if one.name in (names or _STUDIES)]:
        if code := cli.main(command(study)):
            raise SystemExit(code)
        run = Run.open(study.run)
        rows = compare_variants(run, _NAMES).merge(_dimensions(run), on="seed").assign(study=study.name)
        old = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame(columns=["study"])
        together = pd.concat([old[old["study"] != study.name], rows], ignore_index=True)
        columns = ["study", *(name for name in together if name != "study")]
        together = together.sort_values("study", kind="stable")[columns]
        files.write_text(TABLE, together.to_csv(index=False, float_format="%.5g"))


def _dimensions(run: Run) -> pd.DataFrame:
    """Seed, dimensions of its question subspace before the last stage (`dimensions`), and all that there are (`d_model`)."""
    found = []
    for folder in run.finished_seeds():
        model = folder.model_at(folder.final(len(run.recipe.training.stages) - 1))
        gradients = question_gradients(
            lean.parameters_of([model]), lean.shape_of(model), folder.analysed_task()
        )
        found.append(
            {
                "seed": folder.seed,
                "dimensions": find_directions(gradients).shape[1],
                "d_model": model.cfg.d_model,
            }
        )
    return pd.DataFrame(found)


def write_section() -> list[str]:
    """The section, from the saved table."""
    asked = "*Where does a step under tag 2 go?*"
    if not TABLE.exists():
        return [f"{asked} Not measured: `python -m docs.write.projected_steps`.", ""]
    table = pd.read_csv(TABLE)
    lines = [
        f"{asked} The gradient of questions with respect to the embedding of their alias, before stage 2, says in which directions that embedding would have to move. The *question subspace* holds {SHARE:.0%} of the "
        "squared length of these gradients, of the aliases asked about in stage 1; new aliases have no part in it. In variants of stage 2, what the optimiser adds to the embeddings of `d2`, or of all new aliases, is "
        "projected onto this subspace, away from it, or onto or away from a random one of as many dimensions. All other weights learn as ever. If the gap is there because a step under tag 2 "
        "goes where no question reads it, then `tag-2-onto-questions` removes it, also at equal definition loss, and the random subspace does not. If the constraint alone helps answers, whatever the tag, "
        "`all-tags-onto-questions` leaves the gap as it is, and raises `d1`. The step is projected, and not the gradient: Adam would lead a projected gradient out of the subspace.",
        "",
    ]
    for name, rows in table.groupby("study", sort=False):
        study = next(one for one in STUDIES if one.name == name)
        seeds = rows.drop_duplicates("seed")
        told = estimate_in_words(estimate(seeds["dimensions"].to_numpy(dtype=float), unit="seed"), 1)
        run = rows[rows["metric"] == "auc"].drop_duplicates("seed")
        lines += [
            f"**{name}**, {len(seeds)} seeds: the question subspace has {told} of {seeds['d_model'].iloc[0]} dimensions; the run's own gap is {estimate_in_words(estimate(run['run_gap'].to_numpy(dtype=float), unit='seed'), sign=True)}.",
            "",
            f"    {shlex.join(['mechocl', *command(study)])}",
            "",
            *variant_table(rows),
            _reading(rows),
            "",
        ]
    return lines


def _reading(rows: pd.DataFrame) -> str:
    """What the projections onto the question subspace remove of the AUC gap at equal definition loss, in a sentence."""
    auc = rows[rows["metric"] == "auc"].dropna(subset=["run_gap_at_loss", "gap_at_loss"])
    tag_2, everyone = (
        share_removed(
            *(part[name].to_numpy(dtype=float) for name in ("run_gap_at_loss", "gap_at_loss")), unit="seed"
        )
        for variant in ("tag-2-onto-questions", "all-tags-onto-questions")
        for part in [auc[auc["variant"] == variant]]
    )
    if tag_2.low <= 0:
        return "At equal definition loss, projecting steps under tag 2 onto the question subspace is not shown to remove any of the gap."
    if everyone.high < tag_2.low:
        return (
            "At equal definition loss, projecting steps under tag 2 alone removes a part of the gap, and projecting those of all tags removes less: that part is what the "
            "constraint does to any alias, and not where tag 2 leads."
        )
    return "At equal definition loss, projecting steps under tag 2 removes a part of the gap, and projecting those of all tags is not shown to remove less."


def main(names: tyro.conf.Positional[tuple[str, ...]] = ()) -> None:
    """Train the variants with projected steps of studies whose runs are trained, and write the table.

    Args:
        names: Names of studies. cpu and memorised, if none is given.
    """
    take_table(names)


if __name__ == "__main__":
    tyro.cli(main)
