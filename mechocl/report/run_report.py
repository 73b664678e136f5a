"""A run → the report that answers its questions."""

from collections.abc import Callable
from typing import Any, Final

import pandas as pd

from mechocl.behaviour import formats, internalization, over_seeds, sentences
from mechocl.behaviour.statistics import Estimate
from mechocl.lenses import attention
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
from mechocl.runs.recipes import Recipe, integer_set
from mechocl.runs.run import Run
from toy_models.subsets import SUBSETS
from toy_models.training import StageConfig


def build(run: Run, rows: dict[str, pd.DataFrame], *, warning: str = "") -> Report:
    """The report of a run from the saved rows of each analysis (`pipeline.REPORTED`)."""
    history = pd.concat([f.history().assign(seed=f.seed) for f in run.finished_seeds()], ignore_index=True)
    failures = run.failures()
    if failures:
        diverged = f"Training diverged in {len(failures)} of {len(run.seeds)} seeds, which are left out of everything below."
        warning = f"{warning} {diverged}".strip()
    if "lens" not in rows:
        closed = "The models are not of a family that lenses, patches and probes take apart (GPT-NeoX, GPT-2): answers only."
        warning = f"{warning} {closed}".strip()
    answered, unlearned = over_seeds.without_failed(rows["evaluate"])
    said = sentences.failures_in_words(unlearned, rows["evaluate"]["seed"].nunique())
    warning = " ".join([warning, *(f"S{line[1:]}." for line in said)]).strip()
    return Report(
        title=f"mechocl: {run.recipe.description}",
        warning=warning,
        summary=tuple(
            SummaryRow(label=a.question, sentence=a.sentence, answer=a.answer)
            for a in sentences.answers(answered)
        ),
        facts=_facts(run),
        sections=(
            *([] if run.is_text else [_training(history)]),
            *([text_sections.training(history)] if run.is_text else []),
            _internalization(answered),
            *([text_sections.other_tests(answered)] if run.is_text else []),
            *([_lens(rows, text_sections.LENS if run.is_text else _LENS)] if "lens" in rows else []),
            *(
                [_patching(rows["patch"], text_sections.PATCHING if run.is_text else _PATCHING)]
                if "patch" in rows
                else []
            ),
            *([toolbox_sections.circuit(rows["circuit"])] if "circuit" in rows else []),
            *([toolbox_sections.suppression(rows["suppression"])] if "suppression" in rows else []),
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
        **(text_sections.facts(run) if run.is_text else _integer_set(integer_set(run.recipe))),
        "Seeds": f"{', '.join(map(str, run.seeds))}; failed: {len(run.failures())}",
        "Time": "; ".join(f"{what}: {seconds:.0f} s" for what, seconds in m["seconds"].items()),
        "Machine": f"{m['machine']} ({m['device']}, {m['precision']}, threads per seed: {m['threads']})",
        "Versions": ", ".join(f"{name} {version}" for name, version in m["packages"].items()),
        "Source": f"commit {git['commit'][:12]}{' with uncommitted changes' if git['dirty'] else ''}"
        if git
        else "not a git checkout",
        "Created": m["created"],
    }


def _integer_set(r: Recipe) -> dict[str, str]:
    model = r.model.resolve()
    stages = "; ".join(
        f"data of stage {' and '.join(map(str, s.data))}: {s.epochs} epochs of {s.optimizer}, learning rate "
        f"{s.learning_rate:g}{_embedding_rate(s)}, batch {s.batch_size}, trains {s.trains.replace('_', ' ')}"
        for s in r.training.stages
    )
    return {
        "Task": f"{r.task.aliases} aliases of {r.task.integers} integers, lists of {r.task.list_length}, "
        f"definitions in order {r.task.word_order}, tag reliability {r.task.tag_reliability:g}",
        "Model": f"{model.n_layers} layer{'s' * (model.n_layers > 1)}, d_model {model.d_model}, {model.n_heads} heads, positions {model.positions}",
        "Stages": stages,
    }


def _embedding_rate(stage: StageConfig) -> str:
    return "" if stage.embedding_rate == 1 else f" (token embeddings: {stage.embedding_rate:g} times that)"


def _training(history: pd.DataFrame) -> Section:
    return Section(
        id="training",
        title="Training",
        how_to_read=(
            "Each line follows one subset's held-out questions (top: within-alias AUC, .5 is chance) and its own "
            "definitions (bottom: share recalled) through the stages; bold is the mean, thin lines are seeds. "
            "Look for the green line leaving .5 in stage 1, and for blue (tag 1) rising above red (tag 2) in stage 2."
        ),
        figures=(plots.training_curves(history),),
    )


def _internalization(rows: pd.DataFrame) -> Section:
    estimates = over_seeds.subsets(rows)
    cells = {(e.subset, e.metric): e.estimate for e in estimates}
    leading = over_seeds.leading(rows)
    metrics = internalization.metrics_of(rows)
    present = [s for s in SUBSETS if (s, leading[0]) in cells]
    unit = estimates[0].estimate.unit
    trained = "the last stage on its data" if leading[0] == "exact_match" else "training"
    subset_table = Table(
        caption=f"Each subset after {trained}: mean and 95 % interval over {'aliases' if unit == 'alias' else 'seeds'}",
        columns=("subset", *(formats.NAMES[m] for m in metrics)),
        rows=tuple((plots.label(s), *(_interval(cells.get((s, m))) for m in metrics)) for s in present),
    )
    tables = [subset_table]
    meanings = {c.name: c.meaning for c in internalization.CONTRASTS}
    for metric in leading:
        found = over_seeds.contrasts(rows, metric)
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
                        _interval(c.estimate, sign=True),
                        formats.p_value(c.estimate.p).removeprefix("p = ").removeprefix("p "),
                        f"{c.positive_seeds} of {n_seeds}",
                        f"{c.estimate.seeds_for_power:.0f}"
                        if c.estimate.seeds_for_power < float("inf")
                        else "–",
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
            + ("no_data" if leading[0] == "exact_match" else ".5")
            + " is a model that knows nothing of the alias. Compare Ḋ₅ (tag 1) with D̄₆ (tag 2) and D̃₈ (the fresh tag): none of these aliases was ever asked "
            "about in training."
        ),
        figures=tuple(
            plots.subset_values(estimates, over_seeds.by_seed(rows), metric=metric)
            for metric in (leading if leading[0] == "exact_match" else leading[:1])
        ),
        tables=tuple(tables),
    )


_LENS: Final = (
    "First figure: the residual stream, and what each head and MLP writes, go straight to the unembedding; the number "
    "is the mean rank of the alias's integer among all integers (1 is the top) on questions whose list does not contain "
    "it, so bright cells show where the integer is at hand. Second: the same through translators trained on the run's "
    "own data (tuned lens). Third: what each component adds at = to the right answer's logit over the other's."
)


def _lens(rows: dict[str, pd.DataFrame], how_to_read: str) -> Section:
    return Section(
        id="lens",
        title="Lenses",
        how_to_read=how_to_read,
        figures=(
            lens_plots.component_lens(rows["lens"], value="rank"),
            lens_plots.lenses_compared(rows["lens"], rows["tuned-lens"], value="rank"),
            lens_plots.attribution(rows["attribution"], quantity="difference"),
        ),
    )


_PATCHING: Final = (
    "A question about a tag-2 alias is answered with one activation taken from the same list asked about a tag-1 "
    "alias; the number says how far that moves the logit difference towards the tag-1 alias's right answer. "
    "To another alias (of a different integer) it shows where the integer enters the answer; with the same integer, "
    "whether being defined by tag 1 itself matters, and there clean − corrupted is the whole effect that can be had."
)


def _patching(rows: pd.DataFrame, how_to_read: str) -> Section:
    return Section(
        id="patching",
        title="Activation patching",
        how_to_read=how_to_read,
        figures=(plots.patching(rows),),
    )


def _probes(run: Run, rows: pd.DataFrame) -> tuple[Section, ...]:
    """The probes of a run's last checkpoint."""
    where: dict[str, Any] = {
        "run": run.path.name,
        "word_order": run.recipe.task.word_order,
        "stage": 0,
        "step": 0,
    }
    rows = rows.assign(recipe=ProbingConfig().recipe, **where)
    return probe_sections.sections(probe_grids(rows), rows)


def attention_views(run: Run, rows: pd.DataFrame) -> tuple[AttentionView, ...]:
    """The first seed's patterns, one view per question."""
    seed = int(rows["seed"].iloc[0])
    task = run.seed(seed).analysed_task()
    views = []
    own = rows[rows["seed"] == seed]
    for question in own["question"].drop_duplicates().astype(int).tolist():
        part = own[own["question"] == question]
        row = task.table.loc[question]
        length = len(position_labels(task, question)) - 1
        contains = "with" if row["answer"] else "without"
        difference = float(part["difference"].iloc[0])
        if run.is_text:
            views.append(
                text_sections.attention_view(task, question, seed, difference, attention.as_array(part))
            )
            continue
        views.append(
            AttentionView(
                title=f"{row['subset']}, list {contains} its integer",
                tokens=task.vocabulary.decode(task.tokens[question, :length].tolist()),
                patterns=attention.as_array(part),
                caption=f"seed {seed}; tag {row['tag']}; the alias stands for {row['entity']}; true − false logit "
                f"{difference:+.2f}: the model says {'true' if difference > 0 else 'false'}, "
                f"right is {'true' if row['answer'] else 'false'}",
            )
        )
    return tuple(views)


def _interval(e: Estimate | None, *, sign: bool = False) -> str:
    if e is None:
        return "–"
    show: Callable[[Any], str] = formats.signed if sign else (lambda v: f"{v:.3f}".replace("-", "−"))
    return show(e.mean) if e.n < 2 else f"{show(e.mean)} [{show(e.low)}, {show(e.high)}]"
