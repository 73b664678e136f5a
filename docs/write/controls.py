"""The first section of docs/results.md: which gaps are there where nothing was ever unreliable."""

from collections.abc import Mapping

import pandas as pd

from docs.write.control_tables import RUN, read_tables
from docs.write.markdown import write_table, write_text_table
from docs.write.predictions import write_predictions
from mechocl.behaviour import formats, over_seeds, sentences
from mechocl.behaviour.control_gaps import ControlAnswers, compare_gaps, explain_gap
from mechocl.behaviour.internalization import METRICS
from mechocl.report.control_sections import control_table
from toy_models.measures import YES_OR_NO


def write_known() -> list[str]:
    """The section on what is known: for each recipe the answers to the four questions of a report."""
    lines = [
        "## What is known: gaps and their controls",
        "",
        "A gap between new definitions with tag 1 and with tag 2 is not yet trust in a reliable source. In stage 1 tag 2 stands "
        "before definitions that contradict the questions; but it also stands before what a model cannot predict. In the control runs of "
        "`mechocl controls`, no definition ever contradicts a question: tag 2 stands before noise, or before fixed definitions "
        "of aliases that are never asked about. The gap over such a control is at most what unreliability adds.",
        "",
    ]
    tables = read_tables()
    lines += write_text_table(
        ["recipe", "question", "answer"], [row for item in tables.items() for row in _answers(*item)]
    )
    for recipe, runs in tables.items():
        lines += ["", *_recipe(recipe, runs)]
    return [*lines, "", *write_predictions(tables), "", *_objections()]


def write_lines() -> list[str]:
    """A line for each recipe, for README: its gap, and whether it needs unreliability."""
    lines = []
    for recipe, runs in read_tables().items():
        rows, controls = _split(runs)
        gap = next(c for c in over_seeds.contrasts(rows, YES_OR_NO.leading, YES_OR_NO) if c.name == "strong")
        answer = explain_gap(rows, controls, YES_OR_NO)
        over = "; ".join(
            f"over *{one.control.replace('-equal-steps', '* at equal steps') + '*' * ('-equal-steps' not in one.control)} "
            f"{formats.estimate_in_words(one.over.learned, sign=True)}"
            for one in compare_gaps(rows, controls, YES_OR_NO)
            if one.control.startswith(("noise", "unasked"))
        )
        lines.append(
            f"- `{recipe}`: gap (d1 − d2, AUC) {formats.estimate_in_words(gap.estimate, sign=True)}, {gap.estimate.n} seeds; {over}. "
            f"{answer.question}: **{answer.answer}**."
        )
    return lines


def _answers(recipe: str, runs: Mapping[str, pd.DataFrame]) -> list[list[str]]:
    """A line for each question about a recipe."""
    rows, controls = _split(runs)
    return [
        [f"[`{recipe}`](#{recipe.replace('/', '')}-and-its-controls)", a.question, a.answer]
        for a in [*sentences.answers(rows, YES_OR_NO), explain_gap(rows, controls, YES_OR_NO)]
    ]


def _split(runs: Mapping[str, pd.DataFrame]) -> tuple[pd.DataFrame, ControlAnswers]:
    return runs[RUN], ControlAnswers(rows={name: rows for name, rows in runs.items() if name != RUN})


def _recipe(recipe: str, runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """The part on one recipe: what its run answers, and each control's gap."""
    rows, controls = _split(runs)
    seeds = sorted(set(rows["seed"]))
    lines = [
        f"### `{recipe}` and its controls",
        "",
        f"    mechocl controls {recipe} --seeds {len(seeds)} --first-seed {seeds[0]} --only {' '.join(controls.rows)} --out runs/{recipe.split('/')[1]}",
        "",
        *(f"- **{a.question}**: {a.answer}: {a.sentence}" for a in sentences.answers(rows, YES_OR_NO)),
        f"- **{(a := explain_gap(rows, controls, YES_OR_NO)).question}**: {a.answer}: {a.sentence}",
        *_effect_of_tag(controls.rows),
        "",
        "Within-alias AUC, means over the seeds that learned their definitions; the recall is that of the subset of stage 1 with tag 2:",
        "",
        *_subsets(runs),
    ]
    for metric in (YES_OR_NO.leading, YES_OR_NO.second):
        table = control_table(compare_gaps(rows, controls, YES_OR_NO, metric=metric))
        lines += ["", f"{table.caption}:", "", *write_table(table.columns, table.rows, left=(0, 1, 5))]
    return lines


def _effect_of_tag(controls: Mapping[str, pd.DataFrame]) -> list[str]:
    """A line on what the tag does for aliases that were asked about, where the tags err half of the time."""
    if "half" not in controls:
        return []
    found = {c.name: c for c in over_seeds.contrasts(controls["half"], YES_OR_NO.leading, YES_OR_NO)}
    weak, tag = found["weak"], found["weak_tag"]
    return [
        f"- **Weak internalization without an effect of the tag**: in the control *half* (α = .5), where the tags say nothing, it is "
        f"{formats.describe(weak.estimate)}, and (right − wrong definition with tag 1) − (the same with tag 2) is "
        f"{formats.describe(tag.estimate)}: {tag.verdict.answer}."
    ]


def _subsets(runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """AUC by subset of the run and of each control."""
    subsets = ("qd1_consistent", "d1_consistent", "d2_consistent", "d3_consistent", "no_data")
    body = []
    for name, rows in runs.items():
        counted = over_seeds.count_seeds(rows, YES_OR_NO)
        means = counted.keep_shown(rows).groupby("subset")[list(METRICS)].mean()
        of_tag_2 = next((s for s in ("qd2_inconsistent", "d2_noise", "d2_unasked") if s in means.index), None)
        body.append(
            [
                "the run" if name == RUN else name,
                f"{len(counted.learned)} of {counted.total}",
                *(formats.number(means["auc"].get(s)) for s in subsets),
                formats.number(means["recall"].get(of_tag_2)) if of_tag_2 else formats.MISSING,
            ]
        )
    return write_table(["", "seeds that learned", *(s.split("_")[0] for s in subsets), "recall, tag 2"], body)


def _objections() -> list[str]:
    """What a critic would still object."""
    return [
        "What a critic would still object:",
        "",
        "- All of it is small models on one invented task. The closed-book sections have no gap to explain yet.",
        "- In the control *unasked*, the questions about the aliases of tag 2 are gone as well. Equal exposure and equal steps "
        "bracket what that changes; neither holds the mixture of examples constant.",
        "- Definitions that contradict the questions are harder to memorise than those of aliases that are never asked about. Where both "
        "are memorised in the end (`integer-set/memorised`), the way there was not the same: during stage 1 tag 2 may have stood before what "
        "was predicted worse. How much of the gap that explains is not measured.",
        "- In *noise*, the loss on the entity after tag 2 never falls, which changes the gradients of everything before it.",
        "- The controls say that a gap needs unreliability. They do not say that the model represents it, or where.",
    ]
