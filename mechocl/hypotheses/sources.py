"""The rows that predictions are judged by: of one run or of several of the same recipe, computed where they are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from mechocl import files
from mechocl.analyses import jobs as analysis_jobs
from mechocl.analyses.control_jobs import evaluate_controls
from mechocl.analyses.variant_jobs import evaluate_variants
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.behaviour.counted import CountedSeeds
from mechocl.errors import MechoclError
from mechocl.hypotheses.predictions import BESIDE, CONTROLS, HISTORY, VARIANTS, Prediction
from mechocl.hypotheses.quantities import TAG_1, TAG_2, control_named
from mechocl.learning.course import refuse_adapters
from mechocl.learning.examples import find_tag_tokens
from mechocl.learning.exchange import why_no_exchange
from mechocl.learning.gradients import differentiable
from mechocl.models.seam import resolve_device
from mechocl.runs.controls import control_path, is_control_run
from mechocl.runs.recipes import Recipe
from mechocl.runs.run import Run
from toy_models.measures import Measures

COMPARE_STAGES: Final = (
    "graft",
    "steering",
    "gradients",
    "alias-gradients",
    "one-update",
    "twin-exchange",
    "twin-probe",
)
"""Analyses that need the model before the last stage."""


OF_GRADIENTS: Final = ("gradients", "alias-gradients", "one-update")
"""Analyses that differentiate losses of single examples."""

OF_TWINS: Final = ("twin-exchange", "twin-probe")
"""Analyses that exchange or read the embeddings of aliases, which must be of one token each, and compare with a variant of a
training from scratch."""


def key(prediction: Prediction) -> str:
    """What tells the rows of a prediction from others: its analysis and the config."""
    return f"{prediction.analysis} {files.fingerprint(prediction.config)}"


def control_key(prediction: Prediction, control: str) -> str:
    """The same of the rows of a control run."""
    return f"{key(prediction)} of {control}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What is known of a run."""

    answers: pd.DataFrame
    """Rows of the evaluate analysis."""
    counted: CountedSeeds
    measures: Measures
    controls: ControlAnswers
    variants: ControlAnswers = field(default_factory=lambda: ControlAnswers(rows={}))
    """The answers of the variant runs, in the same form."""
    tables: Mapping[str, pd.DataFrame]
    """Rows by `key`."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """`key` → why there are no rows, as a clause."""
    cannot: frozenset[str] = frozenset()
    """Those of `missing` that a run of this recipe cannot have, whatever is trained or computed."""
    run: str = ""
    """The run's folder; "" if there is none."""
    seconds_per_seed: float | None = None
    """Seconds that a seed of the run takes with its controls, where that is known."""


def open_alike(runs: Sequence[Run]) -> list[Run]:
    """The runs, which can be judged together. Raises MechoclError when they cannot."""
    first = runs[0]
    for run in runs:
        if is_control_run(run):
            raise MechoclError(f"{run.path} is itself a control; give the run that it is the control of")
        if run.recipe != first.recipe:
            raise MechoclError(
                f"{run.path} and {first.path} are of different recipes, so their seeds are no sample of one; give one verdict to each"
            )
    seeds = [seed for run in runs for seed in run.seeds]
    if twice := [seed for seed in seeds if seeds.count(seed) > 1]:
        raise MechoclError(
            f"seed {twice[0]} is in two of the runs, and would count twice; leave one of them out"
        )
    return list(runs)


def gather_answers(run: Run, *, device: str, jobs: int | None) -> Gathered:
    """What is known of a run without any analysis of its models: answers, controls, and the history of its training.

    Raises MechoclError when the run has no aliases for the gap.
    """
    counted = analysis_jobs.count_run(run, device=device, jobs=jobs)
    answers = analysis_jobs.evaluate_run(run, device=device, jobs=jobs)
    if not {TAG_1, TAG_2} <= set(answers["subset"]):
        raise MechoclError(f"{run.path} has no aliases for the gap d1 − d2; use a recipe with both fractions")
    controls = evaluate_controls(run, device=device, jobs=jobs)
    history = [folder.history().assign(seed=folder.seed) for folder in run.finished_seeds()]
    tables = {
        CONTROLS: _labelled(controls, "control"),
        HISTORY: pd.concat(history, ignore_index=True),
        "evaluate": answers,
    }
    variants, missing, cannot = ControlAnswers(rows={}), {}, frozenset[str]()
    if why := why_no_variants(run):
        missing[_plain_key(VARIANTS)], cannot = why, frozenset({_plain_key(VARIANTS)})
    else:
        try:
            variants = evaluate_variants(run, device=device, jobs=jobs)
            tables[VARIANTS] = _labelled(variants, "variant")
        except MechoclError as error:
            missing[_plain_key(VARIANTS)] = str(error)
    seconds = [
        analysis_jobs.seconds_per_seed(one, what, device=device)
        for one in (run, *(Run.open(control_path(run.path, name)) for name in controls.rows))
        for what in ("training", "training and analysing")
    ]
    known = [one for one in seconds if one is not None]
    return Gathered(
        answers=answers,
        counted=counted,
        measures=run.questioning.measures,
        controls=controls,
        variants=variants,
        tables={_plain_key(name): table for name, table in tables.items()},
        missing=missing,
        cannot=cannot,
        run=str(run.path),
        seconds_per_seed=sum(known) if known else None,
    )


def _plain_key(name: str) -> str:
    """The key of the rows of an analysis with its config as by default, or of what is no analysis."""
    return f"{name} {files.fingerprint({})}"


def _labelled(found: ControlAnswers, column: str) -> pd.DataFrame:
    """The rows of several runs, with a column that names the run."""
    rows = [table.assign(**{column: name}) for name, table in found.rows.items()]
    return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame({column: pd.Series(dtype=str)})


def gather_analyses(
    run: Run, gathered: Gathered, predictions: Sequence[Prediction], *, device: str, jobs: int | None
) -> Gathered:
    """The same, with the rows of the analyses of its models that predictions need. Missing rows are computed and kept."""
    tables, missing, cannot = dict(gathered.tables), dict(gathered.missing), set(gathered.cannot)
    wanted: dict[str, tuple[Run, Prediction]] = {}
    for one in predictions:
        if one.analysis in BESIDE:
            continue
        if why := why_not(run, one):
            missing[key(one)] = why
            cannot.add(key(one))
            continue
        variant = one.arguments.get("variant")
        if variant and variant not in gathered.variants.rows:
            missing[key(one)] = gathered.variants.left_out.get(
                variant,
                f"the variant {variant} was not trained; `mechocl variants` with --only {variant} trains it",
            )
        wanted[key(one)] = (run, one)
        if one.minus_control:
            name = control_named(one.minus_control, gathered.answers, gathered.measures)
            if name in gathered.controls.rows:
                wanted[control_key(one, name)] = (Run.open(control_path(run.path, name)), one)
    wanted = {where: one for where, one in wanted.items() if where not in tables and where not in missing}
    tables |= _computed(wanted, device=device, jobs=jobs)
    return replace(gathered, tables=tables, missing=missing, cannot=frozenset(cannot))


def _computed(
    wanted: Mapping[str, tuple[Run, Prediction]], *, device: str, jobs: int | None
) -> dict[str, pd.DataFrame]:
    """The rows of each wanted analysis. What a run lacks is computed together, so that its progress is shown as one."""
    by_run: dict[Path, tuple[Run, list[tuple[str, Any]]]] = {}
    for run, one in wanted.values():
        by_run.setdefault(run.path, (run, []))[1].append((one.analysis, one.analysis_config()))
    for run, analyses in by_run.values():
        analysis_jobs.complete_run(run, tuple(analyses), stage=None, device=resolve_device(device), jobs=jobs)
    return {
        where: analysis_jobs.analyse_run(run, one.analysis, one.analysis_config(), device=device, jobs=jobs)
        for where, (run, one) in wanted.items()
    }


def why_not(run: Run, one: Prediction) -> str:
    """Why a run cannot have the analysis of a prediction, as a clause; "" if it can."""
    if not run.kind.takes(run, one.analysis):
        return "models of this shape cannot be taken apart"
    if one.analysis in COMPARE_STAGES and len(run.recipe.training.stages) < 2:
        return "the run has a single stage, so there is no model before it"
    if one.analysis in OF_GRADIENTS:
        return why_no_gradients(run)
    if one.analysis in OF_TWINS and not isinstance(run.recipe, Recipe):
        return "it compares with a variant of a training from scratch, and this run is fine-tuned"
    if one.analysis in OF_TWINS:
        return why_no_exchange(run.finished_seeds()[0].load_task())
    return ""


def why_no_gradients(run: Run) -> str:
    """Why gradients cannot be taken of the models of a run, as a clause; "" if they can."""
    folder = run.finished_seeds()[0]
    task, model = folder.analysed_task(), folder.model_at(folder.final(), device="cpu")
    try:
        refuse_adapters(run.recipe)
        find_tag_tokens(task)
        differentiable(model, task)
    except MechoclError as error:
        return str(error)
    return ""


def why_no_variants(run: Run) -> str:
    """Why a run cannot have variants that train its last stage again, as a clause; "" if it can."""
    if not isinstance(run.recipe, Recipe):
        return "variants are of models that are trained from scratch, and this run is fine-tuned"
    if len(run.recipe.training.stages) < 2:
        return (
            "the run has a single stage, so there is no stage of new definitions that a variant could train"
        )
    return ""


def pool(found: Sequence[Gathered]) -> Gathered:
    """What is known of several runs of one recipe, as of one run. What one of them lacks is missing.

    So is a control that one of them lacks, also in the rows of all controls; `ControlAnswers.left_out` names the run.
    """
    if len(found) == 1:
        return found[0]
    missing = {name: why for one in found for name, why in one.missing.items()}
    names = [name for name in found[0].tables if all(name in one.tables for one in found)]
    tables = {name: _joined([one.tables[name] for one in found]) for name in names}
    controls = _pool_answers([one.controls for one in found], _left_out(found, "controls"))
    variants = _pool_answers([one.variants for one in found], _left_out(found, "variants"))
    for name, column, there in ((CONTROLS, "control", controls), (VARIANTS, "variant", variants)):
        if (rows := tables.get(_plain_key(name))) is not None:
            tables[_plain_key(name)] = rows[rows[column].isin(list(there.rows))]
    seconds = [one.seconds_per_seed for one in found if one.seconds_per_seed is not None]
    return Gathered(
        answers=_joined([one.answers for one in found]),
        counted=CountedSeeds(
            tuple(seed for one in found for seed in one.counted.learned),
            {seed: why for one in found for seed, why in one.counted.failed.items()},
            {seed: why for one in found for seed, why in one.counted.diverged.items()},
        ),
        measures=found[0].measures,
        controls=controls,
        variants=variants,
        tables=tables,
        missing=missing,
        cannot=frozenset().union(*(one.cannot for one in found)),
        seconds_per_seed=max(seconds) if seconds else None,
    )


def _pool_answers(found: Sequence[ControlAnswers], left_out: Mapping[str, str]) -> ControlAnswers:
    """The answers of the controls, or of the variants, that all runs have."""
    names = [name for name in found[0].rows if all(name in one.rows for one in found)]
    return ControlAnswers(
        rows={name: _joined([one.rows[name] for one in found]) for name in names},
        diverged={name: [s for one in found for s in one.diverged.get(name, ())] for name in names},
        left_out=left_out,
    )


def _left_out(found: Sequence[Gathered], kind: Literal["controls", "variants"]) -> dict[str, str]:
    """Control, or variant → why it is left out of several runs: one of them has begun it alone, or does not have it."""
    left_out: dict[str, str] = {}
    answers = {one.run or "one of the runs": getattr(one, kind) for one in found}
    for name in dict.fromkeys(name for one in answers.values() for name in (*one.rows, *one.left_out)):
        begun = [one.left_out[name] for one in answers.values() if name in one.left_out]
        lacking = [
            f"{run} does not have it, and `mechocl {kind}` with --only {name} trains it"
            for run, one in answers.items()
            if name not in one.rows and name not in one.left_out
        ]
        if begun or lacking:
            left_out[name] = "; ".join([*begun, *lacking])
    return left_out


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)
