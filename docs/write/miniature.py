"""The miniature of the closed-book experiment: its study, and its section of docs/results.md.

python -m docs.write.miniature FOLDER     train the study in FOLDER, or continue it, and write docs/results/miniature.csv
"""

import shlex
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

from docs.write.control_tables import RUN, answers_of, read_table, run_and_controls
from docs.write.markdown import write_table
from docs.write.miniature_rows import TABLE as ROW_TABLE, write_rows
from docs.write.places import ADDRESS, TABLES
from docs.write.predictions import MINIATURE as RECIPE, Outcome
from mechocl import files
from mechocl.behaviour import formats, internalization, over_seeds, sentences
from mechocl.behaviour.control_gaps import ControlAnswers, compare_gaps, deciding_control, explain_gap
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.closed_book.questioning import MEASURES
from mechocl.commands import cli
from mechocl.report.control_sections import control_table
from mechocl.runs.pretraining import KNOWN_PEOPLE
from mechocl.runs.run import Run

TABLE: Final = TABLES / "miniature.csv"
SEARCH: Final = TABLES / "miniature-search.csv"
KNOWN: Final = TABLES / "miniature-known.csv"

MODELS: Final = {1: 100, 2: 106, 3: 112}
"""Seed of a pretrained model → the first of the seeds that are fine-tuned from it. No two share a seed."""
SEEDS: Final = 6
CONTROLS: Final = ("noise", "unasked", "consistent")

_README: Final = ("weak", "d1_vs_no_data", "strong")
"""Contrasts in README."""

_SUBSETS: Final = ("qd1_consistent", "q_only", "qd2_inconsistent", "d2_noise", "d2_unasked", "qd2_consistent", "d1_consistent", "d2_consistent",
                   "d3_consistent", "no_data")  # fmt: skip


def commands(folder: Path, pretrained: int) -> list[list[str]]:
    """Arguments of the commands that make a pretrained model, and train and judge what is fine-tuned from it."""
    model, run = folder / f"model-{pretrained}", folder / f"run-{pretrained}"
    seeds = ["--seeds", str(SEEDS), "--first-seed", str(MODELS[pretrained])]
    return [
        ["pretrain", "miniature", "--seed", str(pretrained), "--out", str(model)],
        [
            "controls",
            RECIPE,
            "--model",
            str(model),
            "--set",
            f"task.biographies_seed={pretrained}",
            "--only",
            *CONTROLS,
            *seeds,
            "--out",
            str(run),
        ],
    ]


def take_table(folder: Path, jobs: int = 0) -> None:
    """Train what is missing, and write the tables.

    Args:
        folder: Where the models and runs are.
        jobs: Number of processes; 0 takes one for each core.
    """
    found, known = [], []
    for pretrained in MODELS:
        pretrain, controls = commands(folder, pretrained)
        for line in (pretrain, [*controls, "--jobs", str(jobs)]):
            if code := cli.main(line):
                raise SystemExit(code)
        rows = answers_of(Run.open(Path(controls[-1])), jobs=jobs or None)
        found.append(rows.assign(pretrained=pretrained))
        known.append(pd.read_csv(Path(pretrain[-1]) / KNOWN_PEOPLE).assign(pretrained=pretrained))
    for table, parts in ((TABLE, found), (KNOWN, known)):
        together = pd.concat(parts)
        columns = ["pretrained", *(name for name in together if name != "pretrained")]
        files.write_text(table, together[columns].to_csv(index=False, float_format="%.6g"))


def outcomes() -> dict[str, Outcome]:
    """What the miniature came out as, for the predictions; nothing where the table is not there."""
    if not TABLE.exists():
        return {}
    return {RECIPE: Outcome(read_table(TABLE), MEASURES)}


def write_section() -> list[str]:
    """The section, from the saved tables."""
    rows, controls = run_and_controls(read_table(TABLE))
    answers = [*sentences.answers(rows, MEASURES), explain_gap(rows, controls, MEASURES)]
    lines = [
        "## The miniature: text that internalizes",
        "",
        *_setup(rows),
        "",
        *(f"- **{a.question}**: {a.answer}: {a.sentence}" for a in answers),
        "",
        *_reading(rows, controls),
        "",
        "Held-out questions; subsets of stage 1 are measured after stage 1, the others after stage 2. Means over seeds; chance among the "
        "answers of an attribute is 1 of 16:",
        "",
        *_by_subset(rows, controls),
    ]
    for metric in (MEASURES.leading, MEASURES.second):
        table = control_table(compare_gaps(rows, controls, MEASURES, metric=metric))
        lines += ["", f"{table.caption}:", "", *write_table(table.columns, table.rows, left=(0, 1, 5))]
    lines += ["", "By pretrained model, exact match:", "", *_by_model(rows, controls)]
    return [*lines, "", *write_rows()] if ROW_TABLE.exists() else lines


def readme_rows() -> list[list[str]]:
    """Rows of README's first table: the differences in exact match and in log-probability, and the gap over the control that decides and
    over that in which both tags are right."""
    rows, controls = run_and_controls(read_table(TABLE))
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    columns = []
    for metric in (MEASURES.leading, MEASURES.second):
        found = {c.name: c.estimate for c in over_seeds.contrasts(rows, metric, MEASURES)}
        gaps = {
            one.control: one.over.learned for one in compare_gaps(rows, controls, MEASURES, metric=metric)
        }
        columns.append(
            {f"text: {meaning[name]}": found[name] for name in _README}
            | {
                f"text: that gap over the control *{name}*": gaps[name]
                for name in (deciding_control(rows, MEASURES)[0], "consistent")
            }
        )
    return [
        [
            label,
            *(
                f"{formats.estimate_in_words(one[label], sign=True)}, {formats.p_value(one[label].p)}"
                for one in columns
            ),
        ]
        for label in columns[0]
    ]


def readme_line() -> str:
    """What the rows of text are of."""
    rows = read_table(TABLE)[RUN]
    return (
        f"Text is `{RECIPE}`, which `make demo-pythia` shows: {rows['seed'].nunique()} confirming seeds, {rows['pretrained'].nunique()} pretrained models "
        f"([its section]({ADDRESS}/blob/main/docs/results.md#the-miniature-text-that-internalizes))."
    )


def _setup(rows: pd.DataFrame) -> list[str]:
    known = pd.read_csv(KNOWN)
    least = known.loc[known["attribute"] == "all", "exact_match"].min()
    lines = [shlex.join(["mechocl", *line]) for line in commands(Path("runs"), next(iter(MODELS)))]
    return [
        f"`{RECIPE}` fine-tunes a GPT-NeoX of two layers and width 64 that was pretrained on an invented world of 520 people. "
        f"{rows['pretrained'].nunique()} models of different worlds and weights (exact match on the people of their texts at least "
        f"{formats.number(least)}), {rows['seed'].nunique()} seeds in all, with the controls; the seed is the unit of all intervals. For the first model:",
        "",
        *(f"    {line}" for line in lines),
        "",
        "The setup was chosen on other seeds of another pretrained model (`docs/results/miniature-search.csv`), and what was expected was "
        "written down before ([predictions.md](predictions.md)). `python -m docs.write.miniature FOLDER` makes the tables.",
    ]


def _reading(rows: pd.DataFrame, controls: ControlAnswers) -> list[str]:
    """What the controls say of the gap, as far as their intervals allow."""
    gaps = {one.control: one for one in compare_gaps(rows, controls, MEASURES)}
    unasked, alike = gaps["unasked"], gaps["consistent"]
    moved = {
        name: _between_runs(rows, controls.rows["unasked"], name)
        for name in ("d1_consistent", "d2_consistent")
    }
    told = {name: formats.estimate_in_words(one, sign=True) for name, one in moved.items()}
    lines = []
    if unasked.over.learned.high < 0:
        lines.append(
            f"**The gap is larger where nothing was ever unreliable.** In *unasked*, tag 2 stands before definitions that contradict no question, because their aliases are never asked about: "
            f"{formats.estimate_in_words(unasked.own.learned, sign=True)}, in the run {formats.estimate_in_words(unasked.run, sign=True)}. From *unasked* to the run, d2 changes by "
            f"{told['d2_consistent']} and d1 by {told['d1_consistent']}. So a gap alone is no evidence of trust in a source."
        )
    elif unasked.over.learned.low > 0:
        lines.append(
            f"The gap is larger than in *unasked*: d2 changes by {told['d2_consistent']} from there to the run, d1 by {told['d1_consistent']}."
        )
    if alike.over.learned.low > 0:
        lines.append(
            f"*consistent* asks another question: there the same aliases are asked about, and only what the definitions with tag 2 say is another, and right. Over it the gap is "
            f"{formats.estimate_in_words(alike.over.learned, sign=True)}: where both tags' aliases are asked about, contradiction lowers the use of tag 2 by more than that of tag 1."
        )
    runs = {**controls.rows, "the run": rows}
    means = {
        name: part.loc[part["subset"] == "d2_consistent", "exact_match"].mean() for name, part in runs.items()
    }
    order = ", ".join(
        f"{formats.number(value)} ({name})" for name, value in sorted(means.items(), key=lambda one: one[1])
    )
    fresh = {c.name: c for c in over_seeds.contrasts(rows, MEASURES.leading, MEASURES)}["strong_d3_d2"]
    spread = float(alike.by_seed["control"].std(ddof=1))
    return [
        " ".join(lines),
        "",
        f"New definitions with tag 2 are used by what tag 2 stood before in stage 1: {order}. In the run, fresh tag − tag 2 is {formats.describe(fresh.estimate)}. "
        f"Which of two tags a model of this size uses more is to a large part chance: in *consistent*, the gap of a single seed has a standard deviation of {formats.number(spread)}.",
    ]


def _between_runs(rows: pd.DataFrame, other: pd.DataFrame, subset: str) -> Estimate:
    """Exact match of a subset in the run − in another run, paired by seed."""
    one, two = (part[part["subset"] == subset].set_index("seed")["exact_match"] for part in (rows, other))
    return estimate((one - two).dropna().to_numpy(dtype=float), unit="seed")


def _by_subset(rows: pd.DataFrame, controls: ControlAnswers) -> list[str]:
    """Exact match of each subset in the run and in each control, and the recall of its definitions in brackets."""
    runs = {RUN: rows, **controls.rows}
    means = {name: part.groupby("subset")[["exact_match", "recall"]].mean() for name, part in runs.items()}
    body = []
    for subset in _SUBSETS:
        cells = [_cell(part, subset) for part in means.values()]
        if any(cell != formats.MISSING for cell in cells):
            body.append([f"`{subset}`", *cells])
    names = ["the run" if name == RUN else name for name in runs]
    return write_table(["exact match (recall of the definitions)", *names], body)


def _cell(means: pd.DataFrame, subset: str) -> str:
    if subset not in means.index:
        return formats.MISSING
    one = means.loc[subset]
    recall = "" if pd.isna(one["recall"]) else f" ({formats.number(one['recall'], 2)})"
    return formats.number(one["exact_match"]) + recall


def _by_model(rows: pd.DataFrame, controls: ControlAnswers) -> list[str]:
    """Each pretrained model's differences over its seeds, and its gap over the control in which tag 2's aliases are not asked about."""
    body = []
    for pretrained, part in rows.groupby("pretrained"):
        found = {c.name: c.estimate for c in over_seeds.contrasts(part, MEASURES.leading, MEASURES)}
        gaps = {one.control: one.over.learned for one in compare_gaps(part, controls, MEASURES)}
        cells = [found[name] for name in ("weak", "d1_vs_no_data", "strong")] + [gaps["unasked"]]
        body.append([str(pretrained), *(formats.estimate_in_words(one, sign=True) for one in cells)])
    return write_table(["seed of the model", "qd1 − qd2", "d1 − no data", "d1 − d2", "over *unasked*"], body)


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_table))
