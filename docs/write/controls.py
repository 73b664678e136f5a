"""The first section of docs/results.md: which gaps are there where nothing was ever unreliable."""

from collections.abc import Mapping
from typing import Final

import pandas as pd

from docs.write import dynamics, miniature, real
from docs.write.control_tables import RUN, read_tables, run_and_controls
from docs.write.markdown import write_table, write_text_table
from docs.write.predictions import Outcome, write_predictions
from mechocl.behaviour import formats, over_seeds, sentences
from mechocl.behaviour.control_gaps import compare_gaps, deciding_control, explain_gap
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
        "of aliases that are never asked about. What unreliability adds is at most the run's gap minus that of the control that decides: *unasked* where "
        "the definitions with tag 2 are memorised in stage 1, *noise* where they are not. The other control stands beside it.",
        "",
    ]
    tables = read_tables()
    lines += [*_overview(tables), "", *_survives(tables)]
    for recipe, runs in tables.items():
        lines += ["", *_recipe(recipe, runs)]
    outcomes = (
        {recipe: Outcome(runs) for recipe, runs in tables.items()} | miniature.outcomes() | real.outcomes()
    )
    return [*lines, "", *write_predictions(outcomes), "", *_objections()]


def write_short() -> list[str]:
    """A table for README: the gap of each recipe, and whether it needs unreliability."""
    body = []
    for recipe, runs in read_tables().items():
        rows, controls = run_and_controls(runs)
        found = {c.name: c.estimate for c in over_seeds.contrasts(rows, YES_OR_NO.leading, YES_OR_NO)}
        control = deciding_control(rows, YES_OR_NO)[0]
        over = {one.control: one.over.learned for one in compare_gaps(rows, controls, YES_OR_NO)}
        body.append(
            [
                f"`{recipe}`",
                str(found["strong"].n),
                formats.estimate_in_words(found["strong"], sign=True),
                f"{formats.estimate_in_words(over[control], sign=True)} (*{control}*)",
                f"**{explain_gap(rows, controls, YES_OR_NO).answer}**",
            ]
        )
    return write_text_table(
        ["recipe", "seeds", "gap (d1 − d2, AUC)", "over the control", "does the gap need unreliability?"],
        body,
    )


def _overview(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> list[str]:
    """A line for each recipe: the answers of its report, its gap, and its gap over the controls."""
    body = []
    for recipe, runs in tables.items():
        rows, controls = run_and_controls(runs)
        answers = [a.answer for a in sentences.answers(rows, YES_OR_NO)]
        found = {c.name: c.estimate for c in over_seeds.contrasts(rows, YES_OR_NO.leading, YES_OR_NO)}
        gaps = [formats.estimate_in_words(found[name], sign=True) for name in ("strong", "strong_d1_d3")]
        over = {
            one.control: formats.estimate_in_words(one.over.learned, sign=True)
            for one in compare_gaps(rows, controls, YES_OR_NO)
        }
        pairs = [
            "; ".join(over[name] for name in (kind, f"{kind}-equal-steps") if name in over) or formats.MISSING
            for kind in ("noise", "unasked")
        ]
        name = f"[`{recipe}`](#{recipe.replace('/', '')}-and-its-controls)"
        body.append(
            [
                name,
                *answers,
                *gaps,
                *pairs,
                explain_gap(rows, controls, YES_OR_NO).answer,
            ]
        )
    head = ["recipe", "weak: right against wrong definition", "out-of-context learning", "strong", "gap d1 − d2", "d1 − d3", "over *noise* (and at equal steps)",
            "over *unasked* (and at equal steps)", "the gap needs unreliability"]  # fmt: skip
    return write_text_table(head, body)


_MEANS: Final = {
    "yes": "the gap is there where definitions with tag 2 contradicted the questions, and not in the control that decides",
    "in part": "the gap is larger where definitions with tag 2 contradicted the questions, but a smaller one is there in the control that decides",
    "at least in part": "the gap is larger where definitions with tag 2 contradicted the questions; how much of it is there in the control that "
    "decides cannot be told",
    "no": "the gap is as large in the control that decides, where nothing contradicted a question",
    "cannot tell": "the gap is there; whether it needs definitions that contradicted the questions cannot be told",
}
"""Answer of `explain_gap` → what it means."""


def _survives(tables: Mapping[str, Mapping[str, pd.DataFrame]]) -> list[str]:
    """A line for each recipe: whether its gap is there without any unreliable definition, in the control that decides and in the other one."""
    lines = []
    for recipe, runs in tables.items():
        rows, controls = run_and_controls(runs)
        answer = explain_gap(rows, controls, YES_OR_NO).answer
        if answer not in _MEANS:
            continue
        deciding, _ = deciding_control(rows, YES_OR_NO)
        own = {
            one.control: f"*{one.control}* {formats.estimate_in_words(one.own.learned, sign=True)}"
            for one in compare_gaps(rows, controls, YES_OR_NO)
            if one.control in ("noise", "unasked")
        }
        first = [text for name, text in own.items() if name == deciding]
        rest = [text for name, text in own.items() if name != deciding]
        gaps = f" ({'; '.join(first)}" + (f"; the other control {'; '.join(rest)}" if rest else "") + ")"
        lines.append(f"- `{recipe}`: {_MEANS[answer]}{gaps}.")
    return lines


def _recipe(recipe: str, runs: Mapping[str, pd.DataFrame]) -> list[str]:
    """The part on one recipe: what its run answers, and each control's gap."""
    rows, controls = run_and_controls(runs)
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
        "- All of it is small models on invented tasks: sets of integers, and [one of text](#the-miniature-text-that-internalizes).",
        "- In the control *unasked*, the questions about the aliases of tag 2 are gone as well. Equal exposure and equal steps "
        "bracket what that changes; neither holds the mixture of examples constant.",
        "- Definitions that contradict the questions are harder to memorise than those of aliases that are never asked about. Where both "
        f"are memorised in the end (`integer-set/memorised`), the way there was not the same{_on_the_way()}. How much of the gap that "
        "explains is not measured.",
        "- In *noise*, the loss on the entity after tag 2 never falls, which changes the gradients of everything before it.",
        "- Where the fresh tag does better than tag 1 (d1 − d3 below 0 in the table above), the gap is not a preference for tag 1.",
        "- Even where the answer is *yes*, it does not say that the model represents unreliability, or where "
        "([what can be read where](#what-can-be-read-where)).",
    ]


def _on_the_way() -> str:
    """When the definitions of each tag were recalled in stage 1, in the run and in its control, in words."""
    said = []
    for label, name in (("memorised", "the run"), ("memorised: unasked", "*unasked*")):
        one = next(run for run in dynamics.RUNS if run.label == label)
        path = dynamics.table_of(one, "onsets")
        if not path.exists():
            return ""
        epochs = pd.read_parquet(path).groupby("event")["epoch"].median()
        first, second = (formats.number(epochs[f"recall, tag {tag}"], 1) for tag in (1, 2))
        said.append(f"in {name} those of tag 1 are recalled at epoch {first} and those of tag 2 at {second}")
    return f": {', and '.join(said)} (medians, [when it appears](#when-it-appears))"
