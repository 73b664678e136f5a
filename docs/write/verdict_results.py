"""The results of docs/verdict.md, and their short form in docs/results.md, from the tables docs/results/verdict-*.csv."""

from collections.abc import Sequence
from typing import Final

import pandas as pd

from docs.write import projected_steps
from docs.write.markdown import write_table, write_text_table
from docs.write.places import TABLES
from docs.write.verdict_checks import BY_SUBSET, TABLE as CHECKS, write_checks
from docs.write.verdict_first_round import SIGNS, write_first_round
from docs.write.verdict_studies import FIRST_SEED, STUDIES, Study, read_table
from mechocl.behaviour import formats
from mechocl.behaviour.verdict import YES
from mechocl.hypotheses import calibration, predictions
from mechocl.hypotheses.predictions import Predictions
from mechocl.hypotheses.trust import QUESTION, is_it_trust

_CHANCE: Final = 0.5
"""Within-alias AUC of answers that know nothing."""


def judged() -> list[Study]:
    """The studies whose verdicts by the package's predictions are in the tables."""
    if not (TABLES / "verdict-studies.csv").exists():
        return []
    table = read_table("studies")
    there = set(table.loc[table["predictions"] == calibration.digits(None), "study"])
    return [one for one in STUDIES if one.name in there]


def write_results(wanted: Predictions) -> list[str]:
    """The section of results; a line that says that there are none, if there are none."""
    studies = judged()
    if not studies:
        return [
            "Not measured: `python -m docs.write.verdict_studies run` trains and judges the studies.",
            "",
            *write_first_round([one.name for one in studies]),
        ]
    table = read_table("studies").set_index("study")
    missing = [one.name for one in STUDIES if one not in studies]
    commits = ", ".join(f"`{one}`" for one in table.loc[[one.name for one in studies], "commit"].unique())
    return [
        *_setups(studies, table),
        "",
        f"The predictions are those of commit {commits}, which is older than any model with a seed from {FIRST_SEED} on.",
        *([f"Not measured yet: {', '.join(missing)}."] if missing else []),
        "",
        "### Explanations",
        "",
        *_explanations(studies, wanted),
        "",
        *_answers(studies, wanted),
        "",
        "### Effects",
        "",
        "Mean over seeds with the 95 % interval, before the correction for the family. **Bold**: decided, after it: above 0, below 0, or none (within ± the smallest effect "
        "that matters).",
        "",
        *_effects(studies, wanted),
        "",
        "### Shares of the gap",
        "",
        *_shares(studies),
        "",
        *write_checks([one.name for one in studies]),
        *projected_steps.write_section(),
        "### Each study in its own words",
        "",
        *[line for one in studies for line in _told(one, table)],
        *write_first_round([one.name for one in studies]),
    ]


def write_summary() -> list[str]:
    """The section of docs/results.md."""
    studies = judged()
    lines = [
        "## Verdicts on explanations",
        "",
        "Which explanations of the gap d1 − d2 the predictions support and contradict, on seeds that nothing was chosen on. [docs/verdict.md](verdict.md) has the predictions, the "
        "effects, the calibration and the limits.",
        "",
    ]
    if not studies:
        return [
            *lines,
            "Not measured: `python -m docs.write.verdict_studies run` trains and judges the studies.",
            "",
        ]
    return [
        *lines,
        *_setups(studies, read_table("studies").set_index("study")),
        "",
        *_by_study(studies),
        "",
        *_trust(studies, predictions.load()),
        "",
    ]


def _setups(studies: Sequence[Study], table: pd.DataFrame) -> list[str]:
    rows = []
    for one in studies:
        line = table.loc[one.name]
        recipe = f"`{line['recipe']}`" + (f" with `{line['changes']}`" if line["changes"] else "")
        gap = formats.interval(float(line["gap"]), float(line["low"]), float(line["high"]), 3)
        rows.append(
            [
                one.name,
                recipe,
                str(line["seeds"]),
                gap,
                f"{line['needs_unreliability']} ({line['deciding']})",
                f"{int(line['seconds']) / 60:.0f}",
            ]
        )
    columns = (
        "study",
        "recipe",
        "seeds",
        "gap d1 − d2 (AUC)",
        "it needs unreliability (control that decides)",
        "minutes",
    )
    return [
        *write_table(columns, rows, left=(0, 1, 4)),
        "",
        "*Minutes*: what the analyses of `mechocl verdict` took once the models were trained, on the machine of the study, which did other work beside it.",
    ]


def _explanations(studies: Sequence[Study], wanted: Predictions) -> list[str]:
    found = read_table("findings").set_index(["explanation", "study"])
    rows = [
        [f"`{one.name}`", *(SIGNS[str(found.loc[(one.name, s.name), "verdict"])] for s in studies)]
        for one in wanted.explanations
    ]
    return write_text_table(("explanation", *(s.name for s in studies)), rows)


def _by_study(studies: Sequence[Study]) -> list[str]:
    found = read_table("findings")
    rows = []
    for one in studies:
        mine = found[found["study"] == one.name]
        names = {
            status: [f"`{n}`" for n in mine.loc[mine["verdict"] == status, "explanation"]]
            for status in ("supported", "contradicted", "undecided", "nothing to explain")
        }
        rows.append([one.name, *(", ".join(each) or "–" for each in names.values())])
    return write_text_table(("study", "supported", "contradicted", "undecided", "nothing to explain"), rows)


def _answers(studies: Sequence[Study], wanted: Predictions) -> list[str]:
    """What the table says about each explanation over the studies, and about trust in a source; sentences made from it."""
    found = read_table("findings")
    lines = []
    for one in wanted.explanations:
        mine = found[found["explanation"] == one.name].set_index("study")["verdict"]
        parts = []
        for status in ("supported", "met so far", "contradicted", "undecided", "nothing to explain"):
            names = [s.name for s in studies if mine[s.name] == status]
            parts += [f"{status} in {_all_or_named(names, studies)}"] if names else []
        lines.append(f"- `{one.name}`: {'; '.join(parts)}.")
    return [
        *lines,
        "",
        *_trust(studies, wanted),
    ]


def _trust(studies: Sequence[Study], wanted: Predictions) -> list[str]:
    table, found = read_table("studies").set_index("study"), read_table("findings")
    of_unreliability = [one.name for one in wanted.explanations if one.beyond_controls]
    by_answer: dict[str, list[str]] = {}
    lines = []
    for one in studies:
        statuses = found[found["study"] == one.name].set_index("explanation")["verdict"].to_dict()
        needs = str(table.loc[one.name, "needs_unreliability"])
        answer, reason = is_it_trust(needs, statuses, of_unreliability)
        by_answer.setdefault(answer, []).append(one.name)
        lines.append(" ".join([f"- {one.name}: *{answer}*. {reason}", *_beside_trust(one)]))
    told = "; ".join(f"*{answer}* in {', '.join(names)}" for answer, names in by_answer.items())
    return [f"**{QUESTION}** {told[0].upper()}{told[1:]}.", "", *lines]


def _beside_trust(study: Study) -> list[str]:
    """What speaks against a preference, where it is the case: a gap in noise that the deciding control has not, a fresh tag that does
    better than tag 1, and an alignment of gradients that the deciding control has as well."""
    line = read_table("studies").set_index("study").loc[study.name]
    noise = read_table("effects").set_index(["study", "prediction"]).loc[(study.name, "noise-gap")]
    lines = []
    if line["deciding"] != "noise" and noise["answer"] == YES:
        lines.append(
            f"*Noise* has a gap there, too ({_effect(noise).strip('*')}), so that a gap does not need contradictions."
        )
    checks = pd.read_csv(CHECKS)
    answers = checks[
        (checks["study"] == study.name) & (checks["check"] == BY_SUBSET) & (checks["of"] == "the run")
    ]
    means = answers.set_index("what")
    if means.loc["d2", "high"] < _CHANCE:
        controls = checks[
            (checks["study"] == study.name) & (checks["check"] == BY_SUBSET) & (checks["what"] == "d2")
        ]
        told = ", ".join(f"{row['of']} {row['mean']:.3f}" for row in controls.to_dict("records"))
        lines.append(f"AUC of `d2`, which lies below chance in the run: {told}.")
    if {"d1", "d3"} <= set(means.index) and means.loc["d3", "low"] > means.loc["d1", "high"]:
        lines.append(
            f"A tag that was never trained on before does better than tag 1 (`d3` {means.loc['d3', 'mean']:.3f}, `d1` {means.loc['d1', 'mean']:.3f}), so that tag 1 is not preferred."
        )
    return [*lines, *_aligned_without(checks[checks["study"] == study.name], str(line["deciding"]))]


def _aligned_without(checks: pd.DataFrame, deciding: str) -> list[str]:
    """A sentence where the deciding control has gradients that are aligned along stage 2, and no less than the run's."""
    along = checks[checks["what"] == "along-the-path"].set_index("of")
    if not {"the run", deciding} <= set(along.index):
        return []
    run, control = along.loc["the run"], along.loc[deciding]
    if control["low"] <= 0 or control["high"] < run["low"]:
        return []
    told = [formats.interval(one["mean"], one["low"], one["high"], 3, sign=True) for one in (control, run)]
    return [
        f"In the control that decides, gradients are aligned along stage 2, too ({told[0]}; the run {told[1]}), so that alignment comes without contradictions."
    ]


def _all_or_named(names: Sequence[str], studies: Sequence[Study]) -> str:
    return f"all {len(studies)} studies" if len(names) == len(studies) > 1 else ", ".join(names)


def _effects(studies: Sequence[Study], wanted: Predictions) -> list[str]:
    table = read_table("effects").set_index(["prediction", "study"])
    rows = [
        [f"`{one.name}`", _unit(table, one.name), *(_effect(table.loc[(one.name, s.name)]) for s in studies)]
        for one in wanted.predictions
    ]
    return write_table(("prediction", "unit", *(s.name for s in studies)), rows, left=(0, 1))


def _unit(table: pd.DataFrame, prediction: str) -> str:
    units = [unit for unit in table.loc[prediction, "unit"].unique() if unit]
    return str(units[0]) if units else formats.MISSING


def _effect(row: pd.Series) -> str:
    if row["answer"] == formats.NOT_MEASURED:
        return formats.NOT_MEASURED
    told = formats.interval(float(row["mean"]), float(row["low"]), float(row["high"]), 3, sign=True)
    return told if row["answer"] == "cannot tell" else f"**{told}**"


def _shares(studies: Sequence[Study]) -> list[str]:
    table = read_table("effects")
    table = table[pd.to_numeric(table["share"], errors="coerce").notna()]
    names = list(dict.fromkeys(table["prediction"]))
    indexed = table.set_index(["prediction", "study"])
    rows = []
    for name in names:
        cells = []
        for s in studies:
            if (name, s.name) not in indexed.index:
                cells.append(formats.MISSING)
                continue
            row = indexed.loc[(name, s.name)]
            low, high = float(row["share_low"]), float(row["share_high"])
            cells.append(
                formats.interval(float(row["share"]), low, high, 2)
                if abs(low) < float("inf")
                else "cannot tell"
            )
        rows.append([f"`{name}`", *cells])
    return write_table(("prediction", *(s.name for s in studies)), rows)


def _told(study: Study, table: pd.DataFrame) -> list[str]:
    found = read_table("findings")
    mine = found[found["study"] == study.name]
    return [
        f"**{study.name}**",
        "",
        *[f"    {' '.join(['mechocl', *arguments])}" for arguments in study.commands],
        "",
        *[f"- {line}" for line in str(table.loc[study.name, "lines"]).splitlines()],
        *[
            f"- `{row['explanation']}`, {row['verdict']}: {row['predictions']}."
            for row in mine.to_dict("records")
        ],
        "",
    ]
