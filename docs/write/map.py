"""The map of docs/results.md: every study, its settings, and the paper's finding beside ours."""

from typing import Any

import pandas as pd

from docs.write import studies
from docs.write.map_predictions import write_map_predictions
from docs.write.markdown import write_text_table
from mechocl.behaviour import formats, internalization
from mechocl.behaviour.statistics import Estimate
from mechocl.runs import sweep_folder, sweep_summaries
from toy_models.measures import YES_OR_NO


def write_map() -> list[str]:
    """The section with every study that has a table: command, settings, and the paper's finding beside ours."""
    done = [(study, table) for study in studies.read() if (table := study.table()) is not None]
    lines = [
        "## The map: where internalization lives",
        "",
        "Every table below is what the command above it trains and `mechocl sweep --table docs/results/sweeps/NAME.parquet` "
        "prints. AUC after the last stage, means over the seeds that did not fail; *gap* is d1 − d2 (strong "
        "internalization) with its 95 % interval over seeds. A run fails when its loss is not finite or when it recalls "
        f"fewer than {100 * (YES_OR_NO.least_recall or 0):.0f} % of the new aliases' definitions; failed runs are counted and left out.",
        "",
        *_findings(done),
        "",
        *write_map_predictions(),
    ]
    for study, table in done:
        if study.of:
            continue
        lines += ["", f"### {study.title}", "", f"    {study.command}", ""]
        lines += [text for note in (study.note, _own_rows(study)) if note for text in (note, "")]
        lines += _settings_table(table)
        if study.over:
            lines += ["", f"![{study.title}](figures/{study.name}.svg)"]
    missing = [study for study in studies.read() if study.table() is None]
    if missing:
        lines += ["", "### Not measured", "", "Each with the command that measures it:", ""]
        lines += [f"- {study.title}: `{study.command}`" for study in missing]
    return lines


def _own_rows(study: studies.Study) -> str:
    """Where the rows of the recipe itself come from."""
    if not study.base:
        return ""
    base = next(one for one in studies.read() if one.name == study.base)
    return (
        f"The rows of the recipe itself ({study.key.split('.')[-1]} {studies.own_value(study)}) are those of "
        f"[{base.title}](#{_anchor(base.title)})."
    )


def _findings(done: list[tuple[studies.Study, pd.DataFrame]]) -> list[str]:
    """The table of the paper's finding and ours, one line for each study."""
    meaning = {c.name: c.meaning for c in internalization.CONTRASTS}
    rows = []
    for study, table in done:
        found = studies.evidence(study, table)
        by = formats.MISSING
        if found is not None:
            by = f"{meaning[study.contrast]}; {studies.QUANTITY[study.judged]}: {formats.describe(found.learned)}; {found.reason}"
        over = formats.MISSING
        if (control := studies.control_of(table)) and (
            beyond := studies.evidence(study, table, over=control)
        ):
            over = f"*{control}*: {formats.describe(beyond.learned)}: {studies.verdict(study, beyond)}"
        where = next(s.title for s, _ in done if s.name == (study.of or study.name))
        title = f"[{study.title}](#{_anchor(where)})"
        rows.append([title, study.paper, studies.verdict(study, found), by, over])
    return write_text_table(
        ["study", "the paper", "here", "decided by", "the same of the gap over its control"], rows
    )


def _anchor(title: str) -> str:
    kept = "".join(c for c in title.lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _settings_table(table: pd.DataFrame) -> list[str]:
    found = sweep_summaries.summaries(table)
    keys = sweep_folder.axes(table)
    two_stages = any(one.before == one.before for one in found)
    subsets = ("qd1_consistent", "qd2_inconsistent", "d1_consistent", "d2_consistent", "d3_consistent")
    head = [k.split(".")[-1] for k in keys] + ["runs (failed)"]
    head += ["qd1 before stage 2"] if two_stages else []
    head += [s.split("_")[0] for s in subsets] + ["weak", "gap", "gap in accuracy", "d1 − d3"]
    over = sweep_summaries.over_controls(table, "strong")
    controls = sorted({name for each in over.values() for name in each})
    head += [f"gap over {name}" for name in controls]
    rows = []
    for one in found:
        aucs = [one.auc[s].mean if s in one.auc else None for s in subsets]
        compared = (one.contrasts.get("weak"), one.contrasts.get("strong"), one.accuracy.get("strong"),
                    one.contrasts.get("strong_d1_d3"))  # fmt: skip
        rows.append(
            [
                *(str(one.setting[k]) for k in keys),
                f"{one.runs} ({one.failed})",
                *map(formats.number, [one.before, *aucs] if two_stages else aucs),
                *map(formats.describe, compared),
                *(_over_control(one.setting, name, over) for name in controls),
            ]
        )
    return write_text_table(head, rows)


def _over_control(
    setting: dict[str, Any], name: str, over: dict[tuple[Any, ...], dict[str, Estimate]]
) -> str:
    """The gap of a setting over a control, in words; – for the control itself."""
    if setting.get(sweep_summaries.CONTROLLED) != "inconsistent":
        return formats.MISSING
    others = tuple(value for key, value in setting.items() if key != sweep_summaries.CONTROLLED)
    return formats.describe(over.get(others, {}).get(name))
