"""Is it the same mechanism in text? The verdict's effects in fine-tuned models beside those of the integer set.

python -m docs.write.text_verdicts NAME RUN     judge a run, its controls beside it, and write docs/results/text-verdicts.csv
"""

import shlex
from pathlib import Path
from typing import Final

import pandas as pd
import tyro

import mechocl
from docs.write.markdown import write_table, write_text_table
from docs.write.places import TABLES
from docs.write.verdict_first_round import SIGNS
from docs.write.verdict_studies import effect_rows, finding_rows, read_table
from mechocl import files
from mechocl.behaviour import formats
from mechocl.behaviour.verdict import CANNOT_TELL
from mechocl.hypotheses import predictions
from mechocl.runs.controls import open_controls
from mechocl.runs.run import Run

TABLE: Final = TABLES / "text-verdicts.csv"

BESIDE: Final = ("cpu", "memorised")
"""The studies of the integer set that stand beside the runs of text."""


def take_table(name: tyro.conf.Positional[str], run: tyro.conf.Positional[Path]) -> None:
    """Judge a run, and replace its rows.

    Args:
        name: What the run is called in the tables.
        run: The run's folder.
    """
    opened = Run.open(run)
    found = mechocl.verdict(opened)
    of = {
        "study": name,
        "recipe": opened.recipe_name,
        "controls": " ".join(open_controls(opened)),
        "seeds": " ".join(str(seed) for seed in opened.seeds),
        "file": files.sha256(predictions.own_file())[:12],
    }
    rows = [of | {"kind": "effect"} | row for row in effect_rows(found)]
    rows += [of | {"kind": "finding"} | row for row in finding_rows(found)]
    old = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame({"study": []})
    together = pd.concat([old[old["study"] != name], pd.DataFrame(rows)], ignore_index=True)
    files.write_text(TABLE, together.to_csv(index=False, float_format="%.6g"))


def write_section() -> list[str]:
    """The section, from the saved table; nothing where there is none."""
    if not TABLE.exists():
        return []
    table = pd.read_csv(TABLE, keep_default_na=False, na_values=["nan", ""])
    names = list(table["study"].unique())
    lines = ["## Inside text: the same mechanism as in integers?", "", *_setups(table, names)]
    for name in names:
        lines += ["", *_compared(table, name)]
    return [*lines, "", *_findings(table, names), "", *_effects(table, names), ""]


def _setups(table: pd.DataFrame, names: list[str]) -> list[str]:
    lines = [
        "The predictions of [verdict.md](verdict.md), measured in fine-tuned models by the same analyses. Effects are in each world's own unit, so signs and shares of the "
        "gap are compared, not sizes.",
        "",
    ]
    for name in names:
        line = table[table["study"] == name].iloc[0]
        seeds = str(line["seeds"]).split()
        lines.append(
            f"- **{name}**: `{line['recipe']}`, {len(seeds)} seeds from one pretrained model, controls {line['controls'].replace(' ', ', ')}. "
            f"`{shlex.join(['python', '-m', 'docs.write.text_verdicts', name, 'RUN'])}` judges a run."
        )
    return lines


def _compared(table: pd.DataFrame, name: str) -> list[str]:
    """Which predictions come out alike here and in the integer set, as far as both are decided."""
    own = _of(table, name)
    integers = read_table("effects")
    lines = []
    for study in BESIDE:
        theirs = _of(integers.assign(kind="effect"), study)
        both = [
            one for one in own.index if one in theirs.index and _decided(own, one) and _decided(theirs, one)
        ]
        alike = [f"`{one}`" for one in both if own.loc[one, "answer"] == theirs.loc[one, "answer"]]
        other = [
            f"`{one}` ({own.loc[one, 'answer']}; there {theirs.loc[one, 'answer']})"
            for one in both
            if own.loc[one, "answer"] != theirs.loc[one, "answer"]
        ]
        lines.append(
            f"- **{name} beside {study}**: {len(both)} predictions are decided in both; {len(alike)} come out alike ({', '.join(alike) or 'none'}), "
            f"{len(other)} do not ({', '.join(other) or 'none'})."
        )
    missing = [f"`{one}`" for one in own.index if own.loc[one, "answer"] == formats.NOT_MEASURED]
    lines.append(f"- Not measured in {name}: {', '.join(missing) or 'nothing'}.")
    return lines


def _of(table: pd.DataFrame, name: str) -> pd.DataFrame:
    rows = table[(table["study"] == name) & (table["kind"] == "effect")]
    return rows.set_index("prediction")


def _decided(effects: pd.DataFrame, prediction: str) -> bool:
    return bool(effects.loc[prediction, "answer"] not in (CANNOT_TELL, formats.NOT_MEASURED))


def _findings(table: pd.DataFrame, names: list[str]) -> list[str]:
    integers = read_table("findings")
    found = pd.concat([table[table["kind"] == "finding"], integers[integers["study"].isin(BESIDE)]])
    by = found.set_index(["explanation", "study"])["verdict"]
    columns = [*names, *BESIDE]
    rows = [
        [f"`{one.name}`", *(_sign(by.get((one.name, study))) for study in columns)]
        for one in predictions.load().explanations
    ]
    return ["Explanations:", "", *write_text_table(("explanation", *columns), rows)]


def _sign(verdict: str | None) -> str:
    return formats.MISSING if verdict is None else SIGNS.get(verdict, verdict)


def _effects(table: pd.DataFrame, names: list[str]) -> list[str]:
    integers = read_table("effects").assign(kind="effect")
    sides = {name: _of(table, name) for name in names} | {name: _of(integers, name) for name in BESIDE}
    rows = []
    for one in predictions.load().predictions:
        cells = [
            _effect(side.loc[one.name]) if one.name in side.index else formats.MISSING
            for side in sides.values()
        ]
        units = [str(side.loc[one.name, "unit"]) for side in sides.values() if one.name in side.index]
        told = [unit for unit in dict.fromkeys(units) if unit not in ("", "nan")]
        rows.append([f"`{one.name}`", "; ".join(told), *cells])
    return [
        "Effects, and in parentheses shares of the gap; **bold**: decided after the correction for the family.",
        "",
        *write_table(("prediction", "unit", *sides), rows, left=(0, 1)),
    ]


def _effect(row: pd.Series) -> str:
    if row["answer"] == formats.NOT_MEASURED:
        return formats.NOT_MEASURED
    told = formats.interval(float(row["mean"]), float(row["low"]), float(row["high"]), 3, sign=True)
    share = pd.to_numeric(row["share"], errors="coerce")
    told = told if row["answer"] == CANNOT_TELL else f"**{told}**"
    return told if pd.isna(share) else f"{told} ({share:.2f})".replace("(-", f"({formats.MINUS}")


if __name__ == "__main__":
    tyro.cli(take_table)
