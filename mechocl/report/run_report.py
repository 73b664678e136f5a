"""Make the report of a run, which answers its questions."""

from dataclasses import replace
from typing import Any

import pandas as pd

from mechocl.behaviour import formats, internalization, over_seeds, sentences
from mechocl.behaviour.control_gaps import ControlAnswers, explain_gap
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.behaviour.verdict import beside_numbers
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.interventions.summaries import summarize_patching
from mechocl.lenses.summaries import summarize_attribution
from mechocl.probing.scoring import ProbingConfig
from mechocl.probing.summaries import probe_grids
from mechocl.report import (
    control_sections,
    feature_sections,
    learning_sections,
    lens_plots,
    plots,
    probe_sections,
    text_sections,
    toolbox_sections,
    training_sections,
    verdict_sections,
)
from mechocl.report.explorer_section import Embedded
from mechocl.report.page import Report, Section, SummaryRow, Table
from mechocl.runs.run import Run
from toy_models.measures import Measures
from toy_models.subsets import SUBSETS
from toy_models.words import Words


def build(
    run: Run,
    rows: dict[str, pd.DataFrame],
    controls: ControlAnswers | None = None,
    *,
    first: verdict_sections.FirstPage | None = None,
    explorer: Embedded | None = None,
    warning: str = "",
) -> Report:
    """The report of a run from the saved rows of its reported analyses (`analyses.jobs.reported_analyses`).

    `controls` is what the run's control runs answered. None, for a run that is itself a control, leaves out the question whether the gap needs unreliability.
    `first` is the verdict that the report begins with, `explorer` the page of single aliases that it ends with; None leaves them out.

    Every number and figure is of the seeds that count (`behaviour.counted`). If no seed learned its definitions, those
    that failed are shown, and every section says so.
    """
    measures, evaluated = run.questioning.measures, rows["evaluate"]
    counted = count_seeds(evaluated, measures, diverged=run.failures())
    rows = {name: counted.keep_shown(table) for name, table in rows.items()}
    caution = sentences.caution(counted)
    said = [f"S{line[1:]}." for line in sentences.failures_in_words(counted)]
    closed = (
        "The models are not among those that lenses, patches and probes take apart (GPT-NeoX, GPT-2; Llama, Mistral, Qwen2, Qwen3, "
        "Gemma 1 and 3 with options that are covered and windows no shorter than an example): answers only."
    )
    warnings = [warning, *said, caution, "" if run.kind.can_be_taken_apart(run) else closed]
    sections = [
        replace(section, finding=f"{caution} {section.finding}".strip())
        for section in _sections(run, rows, evaluated, counted, controls, first)
    ]
    leading = verdict_sections.sections(first, shown=[one.id for one in sections]) if first else []
    explorer = explorer or Embedded()
    told_above = first is not None and isinstance(first.verdict, RunVerdict)
    return Report(
        title=f"mechocl: {run.recipe.description}",
        warning=" ".join(filter(None, warnings)),
        summary=tuple(
            SummaryRow(label=a.question, sentence=a.sentence, answer=a.answer)
            for a in [
                *sentences.answers(evaluated, measures, counted=counted),
                *(
                    []
                    if controls is None or told_above
                    else [explain_gap(evaluated, controls, measures, counted=counted)]
                ),
            ]
        ),
        facts=_facts(run, counted),
        sections=(*leading, *sections),
        explorer=explorer.page,
        explorer_note=" ".join(filter(None, [explorer.note, caution if explorer.page else ""])),
    )


def _sections(
    run: Run,
    rows: dict[str, pd.DataFrame],
    evaluated: pd.DataFrame,
    counted: CountedSeeds,
    controls: ControlAnswers | None,
    first: verdict_sections.FirstPage | None,
) -> list[Section]:
    """The sections in order. `rows` are of the seeds that are shown, `evaluated` of every finished seed."""
    words = run.questioning.words
    folders = [folder for folder in run.finished_seeds() if folder.seed in counted.shown]
    history = pd.concat([f.history().assign(seed=f.seed) for f in folders], ignore_index=True)
    features = feature_sections.section(run, seeds=counted.shown)
    judged = first.verdict if first and isinstance(first.verdict, RunVerdict) else None
    return [
        training_sections.training(history, words, run.questioning.measures),
        _internalization(evaluated, counted, run.questioning.measures, words),
        *(
            control_sections.sections(evaluated, controls, run.questioning.measures, counted)
            if controls
            else []
        ),
        *(learning_sections.sections(judged, counted) if judged else []),
        *([text_sections.other_tests(rows["evaluate"])] if "test" in evaluated.columns else []),
        *([_lens(rows, words)] if "lens" in rows else []),
        *([_patching(rows["patch"], words)] if "patch" in rows else []),
        *([toolbox_sections.circuit(rows["circuit"])] if "circuit" in rows else []),
        *([toolbox_sections.suppression(rows["suppression"], words)] if "suppression" in rows else []),
        *(
            [toolbox_sections.weights(rows["graft"], rows.get("steering"), run.questioning.measures)]
            if "graft" in rows
            else []
        ),
        *([toolbox_sections.subspaces(rows["subspace"])] if "subspace" in rows else []),
        *(_probes(run, rows["probe"]) if "probe" in rows else ()),
        *([features] if features else []),
    ]


def _facts(run: Run, counted: CountedSeeds) -> dict[str, str]:
    m, git = run.manifest, run.manifest["git"]
    return {
        "Recipe": run.recipe_name,
        **run.kind.facts(run),
        "Seeds": _seeds(counted),
        "Time": "; ".join(f"{what}: {seconds:.0f} s" for what, seconds in m["seconds"].items()),
        "Machine": f"{m['machine']} ({m['device']}, {m['precision']}, threads per seed: {m['threads']})",
        "Versions": ", ".join(f"{name} {version}" for name, version in m["packages"].items()),
        "Source": f"commit {git['commit'][:12]}{' with uncommitted changes' if git['dirty'] else ''}"
        if git
        else "not a git checkout",
        "Created": m["created"],
        **({"Seeds of different versions or machines": mixed} if (mixed := run.mixed_versions()) else {}),
    }


def _seeds(counted: CountedSeeds) -> str:
    """Which seeds were trained, and which of them are in the means."""
    groups = (
        ("learned their definitions, and are in every mean", counted.learned),
        ("did not learn their definitions", counted.failed),
        ("diverged", counted.diverged),
    )
    return "; ".join(f"{', '.join(map(str, sorted(seeds)))}: {what}" for what, seeds in groups if seeds)


def _internalization(rows: pd.DataFrame, counted: CountedSeeds, measures: Measures, words: Words) -> Section:
    """The section on subsets and contrasts. `rows` are those of the evaluate analysis over every finished seed."""
    shown = counted.keep_shown(rows)
    estimates = over_seeds.subsets(shown, measures)
    cells = {(e.subset, e.metric): e.estimate for e in estimates}
    leading = (measures.leading, measures.second)
    metrics = measures.names
    present = [s for s in SUBSETS if (s, leading[0]) in cells]
    unit = estimates[0].estimate.unit
    subset_table = Table(
        caption=f"Each subset after {words.judged_after}: mean and 95 % interval over {'aliases' if unit == 'alias' else 'seeds'}",
        columns=("subset", *(formats.NAMES[m] for m in metrics)),
        rows=tuple(
            (plots.label(s), *(formats.estimate_in_words(cells.get((s, m))) for m in metrics))
            for s in present
        ),
    )
    tables = [
        subset_table,
        *(
            _contrasts(over_seeds.contrasts(rows, m, measures, counted=counted), len(counted.shown))
            for m in leading
        ),
    ]
    return Section(
        id="internalization",
        title="Internalization",
        how_to_read=(
            "Every dot is one seed, every diamond the mean with its 95 % interval; "
            + words.floor
            + " is a model that knows nothing of the alias. Compare Ḋ₅ (tag 1) with D̄₆ (tag 2) and D̃₈ (the fresh tag): none of these aliases was ever asked "
            "about in training."
        ),
        figures=tuple(
            plots.subset_values(estimates, over_seeds.by_seed(shown), metric=metric)
            for metric in (leading[:1] if leading[0] in measures.chance else leading)
        ),
        tables=tuple(tables),
    )


def _contrasts(found: list[over_seeds.ContrastEstimate], n_seeds: int) -> Table:
    """The table of the contrasts in one quantity."""
    how = "paired by seed" if n_seeds > 1 else "over the aliases of a single seed"
    meanings = {c.name: c.meaning for c in internalization.CONTRASTS}
    return Table(
        caption=f"Internalization in {formats.NAMES[found[0].metric]}: differences {how}",
        columns=("contrast", "difference [95 %]", "p", "seeds above 0", "verdict", "seeds that would decide"),
        rows=tuple(
            (
                meanings[c.name],
                formats.estimate_in_words(c.estimate, sign=True),
                formats.p_in_table(c.estimate.p),
                f"{c.positive_seeds} of {n_seeds}",
                beside_numbers(c.verdict.answer),
                formats.number(c.verdict.seeds_to_decide, 0),
            )
            for c in found
        ),
    )


def _lens(rows: dict[str, pd.DataFrame], words: Words) -> Section:
    return Section(
        id="lens",
        title="Lenses",
        how_to_read=words.lens,
        figures=(
            lens_plots.component_lens(rows["lens"], value="rank", words=words),
            lens_plots.lenses_compared(rows["lens"], rows["tuned-lens"], value="rank", words=words),
            lens_plots.attribution(
                summarize_attribution(rows["attribution"], quantity="difference"), words=words
            ),
        ),
    )


def _patching(rows: pd.DataFrame, words: Words) -> Section:
    return Section(
        id="patching",
        title="Activation patching",
        how_to_read=words.patching,
        figures=(plots.patching(summarize_patching(rows)),),
    )


def _probes(run: Run, rows: pd.DataFrame) -> tuple[Section, ...]:
    """Sections on the probes of a run's last checkpoint."""
    where: dict[str, Any] = {
        "run": run.path.name,
        "word_order": run.recipe.task.word_order,
        "stage": 0,
        "step": 0,
    }
    rows = rows.assign(recipe=ProbingConfig().recipe, **where)
    return probe_sections.sections(probe_grids(rows), rows)
