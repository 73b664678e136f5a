"""Make the report of a run, which answers its questions."""

from typing import Any

import pandas as pd

from mechocl.behaviour import formats, internalization, over_seeds, sentences
from mechocl.interventions.summaries import summarize_patching
from mechocl.lenses import attention
from mechocl.lenses.summaries import summarize_attribution
from mechocl.models.layout import position_labels
from mechocl.probing.scoring import ProbingConfig
from mechocl.probing.summaries import probe_grids
from mechocl.report import (
    feature_sections,
    lens_plots,
    plots,
    probe_sections,
    text_sections,
    toolbox_sections,
)
from mechocl.report.attention_explorer import AttentionView
from mechocl.report.page import Report, Section, SummaryRow, Table
from mechocl.runs.run import Run
from toy_models.measures import Measures
from toy_models.subsets import SUBSETS
from toy_models.words import Words


def build(run: Run, rows: dict[str, pd.DataFrame], *, warning: str = "") -> Report:
    """The report of a run from the saved rows of its reported analyses (`analyses.jobs.reported_analyses`)."""
    history = pd.concat([f.history().assign(seed=f.seed) for f in run.finished_seeds()], ignore_index=True)
    failures = run.failures()
    if failures:
        diverged = f"Training diverged in {len(failures)} of {len(run.seeds)} seeds, which are left out of everything below."
        warning = f"{warning} {diverged}".strip()
    if "lens" not in rows:
        closed = "The models are not of a family that lenses, patches and probes take apart (GPT-NeoX, GPT-2): answers only."
        warning = f"{warning} {closed}".strip()
    measures, words = run.questioning.measures, run.questioning.words
    answered, unlearned = over_seeds.without_failed(rows["evaluate"], measures)
    said = sentences.failures_in_words(unlearned, rows["evaluate"]["seed"].nunique())
    warning = " ".join([warning, *(f"S{line[1:]}." for line in said)]).strip()
    return Report(
        title=f"mechocl: {run.recipe.description}",
        warning=warning,
        summary=tuple(
            SummaryRow(label=a.question, sentence=a.sentence, answer=a.answer)
            for a in sentences.answers(answered, measures)
        ),
        facts=_facts(run),
        sections=(
            _training(history, words),
            _internalization(answered, measures, words),
            *([text_sections.other_tests(answered)] if "test" in answered.columns else []),
            *([_lens(rows, words)] if "lens" in rows else []),
            *([_patching(rows["patch"], words)] if "patch" in rows else []),
            *([toolbox_sections.circuit(rows["circuit"])] if "circuit" in rows else []),
            *([toolbox_sections.suppression(rows["suppression"], words)] if "suppression" in rows else []),
            *([toolbox_sections.weights(rows["graft"], rows["steering"])] if "graft" in rows else []),
            *([toolbox_sections.subspaces(rows["subspace"])] if "subspace" in rows else []),
            *(_probes(run, rows["probe"]) if "probe" in rows else ()),
            *([features] if (features := feature_sections.section(run)) else []),
        ),
        attention=attention_views(run, rows["attention"]) if "attention" in rows else (),
    )


def _facts(run: Run) -> dict[str, str]:
    m, git = run.manifest, run.manifest["git"]
    return {
        "Recipe": run.recipe_name,
        **run.kind.facts(run),
        "Seeds": f"{', '.join(map(str, run.seeds))}; failed: {len(run.failures())}",
        "Time": "; ".join(f"{what}: {seconds:.0f} s" for what, seconds in m["seconds"].items()),
        "Machine": f"{m['machine']} ({m['device']}, {m['precision']}, threads per seed: {m['threads']})",
        "Versions": ", ".join(f"{name} {version}" for name, version in m["packages"].items()),
        "Source": f"commit {git['commit'][:12]}{' with uncommitted changes' if git['dirty'] else ''}"
        if git
        else "not a git checkout",
        "Created": m["created"],
    }


def _training(history: pd.DataFrame, words: Words) -> Section:
    return Section(
        id="training",
        title=words.training_title,
        how_to_read=words.training,
        figures=(plots.training_curves(history, metrics=words.training_curves),),
    )


def _internalization(rows: pd.DataFrame, measures: Measures, words: Words) -> Section:
    estimates = over_seeds.subsets(rows)
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
    tables = [subset_table]
    meanings = {c.name: c.meaning for c in internalization.CONTRASTS}
    for metric in leading:
        found = over_seeds.contrasts(rows, metric, measures)
        n_seeds = rows["seed"].nunique()
        tables.append(
            Table(
                caption=f"Internalization in {formats.NAMES[metric]}: "
                + (
                    "differences paired by seed"
                    if n_seeds > 1
                    else "differences over the aliases of a single seed"
                ),
                columns=("contrast", "difference [95 %]", "p", "seeds above 0", "seeds for 80 % power"),
                rows=tuple(
                    (
                        meanings[c.name],
                        formats.estimate_in_words(c.estimate, sign=True),
                        formats.p_in_table(c.estimate.p),
                        f"{c.positive_seeds} of {n_seeds}",
                        formats.number(c.estimate.seeds_for_power, 0),
                    )
                    for c in found
                ),
            )
        )
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
            plots.subset_values(estimates, over_seeds.by_seed(rows), metric=metric)
            for metric in (leading[:1] if leading[0] in measures.chance else leading)
        ),
        tables=tuple(tables),
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


def attention_views(run: Run, rows: pd.DataFrame) -> tuple[AttentionView, ...]:
    """The attention patterns of the first seed, with one view per question."""
    seed = int(rows["seed"].iloc[0])
    task = run.seed(seed).analysed_task()
    views = []
    own = rows[rows["seed"] == seed]
    for question in own["question"].drop_duplicates().astype(int).tolist():
        part = own[own["question"] == question]
        length = position_labels(task, question).index("=") + 1
        title, caption = task.questioning.describe(task, question, float(part["difference"].iloc[0]))
        views.append(
            AttentionView(
                title=title,
                tokens=task.vocabulary.decode(task.tokens[question, :length].tolist()),
                patterns=attention.attention_array(part),
                caption=f"seed {seed}; {caption}",
            )
        )
    return tuple(views)
