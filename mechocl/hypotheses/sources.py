"""The rows that predictions are judged by: of one run or of several of the same recipe, computed where they are missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd

from mechocl import files
from mechocl.analyses import jobs as analysis_jobs
from mechocl.analyses.control_jobs import evaluate_controls
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.behaviour.counted import CountedSeeds
from mechocl.errors import MechoclError
from mechocl.hypotheses.predictions import BESIDE, CONTROLS, HISTORY, Prediction
from mechocl.hypotheses.quantities import TAG_1, TAG_2
from mechocl.runs.controls import is_control_run
from mechocl.runs.run import Run
from toy_models.measures import Measures

COMPARE_STAGES: Final = ("graft", "steering")
"""Analyses that need the model before the last stage."""


def key(prediction: Prediction) -> str:
    """What tells the rows of a prediction from others: its analysis and the config."""
    return f"{prediction.analysis} {files.fingerprint(prediction.config)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """What is known of a run."""

    answers: pd.DataFrame
    """Rows of the evaluate analysis."""
    counted: CountedSeeds
    measures: Measures
    controls: ControlAnswers
    tables: Mapping[str, pd.DataFrame]
    """Rows by `key`."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """`key` → why there are no rows, as a clause."""
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
    rows = [table.assign(control=name) for name, table in controls.rows.items()]
    empty = pd.DataFrame({"control": pd.Series(dtype=str)})
    history = [folder.history().assign(seed=folder.seed) for folder in run.finished_seeds()]
    tables = {
        CONTROLS: pd.concat(rows, ignore_index=True) if rows else empty,
        HISTORY: pd.concat(history, ignore_index=True),
        "evaluate": answers,
    }
    seconds = [
        analysis_jobs.seconds_per_seed(one, what, device=device)
        for one in (run, *(Run.open(run.path / "controls" / name) for name in controls.rows))
        for what in ("training", "training and analysing")
    ]
    known = [one for one in seconds if one is not None]
    return Gathered(
        answers=answers,
        counted=counted,
        measures=run.questioning.measures,
        controls=controls,
        tables={f"{name} {files.fingerprint({})}": table for name, table in tables.items()},
        run=str(run.path),
        seconds_per_seed=sum(known) if known else None,
    )


def gather_analyses(
    run: Run, gathered: Gathered, predictions: Sequence[Prediction], *, device: str, jobs: int | None
) -> Gathered:
    """The same, with the rows of the analyses of its models that predictions need. Missing rows are computed and kept."""
    tables, missing = dict(gathered.tables), dict(gathered.missing)
    apart = run.kind.can_be_taken_apart(run)
    several = len(run.recipe.training.stages) > 1
    for one in predictions:
        name = key(one)
        if one.analysis in BESIDE or name in tables or name in missing:
            continue
        if one.analysis != "evaluate" and not apart:
            missing[name] = "models of this shape cannot be taken apart"
        elif one.analysis in COMPARE_STAGES and not several:
            missing[name] = "the run has a single stage, so there is no model before it"
        else:
            config: Any = one.analysis_config()
            tables[name] = analysis_jobs.analyse_run(run, one.analysis, config, device=device, jobs=jobs)
    return Gathered(
        answers=gathered.answers,
        counted=gathered.counted,
        measures=gathered.measures,
        controls=gathered.controls,
        tables=tables,
        missing=missing,
        run=gathered.run,
        seconds_per_seed=gathered.seconds_per_seed,
    )


def pool(found: Sequence[Gathered]) -> Gathered:
    """What is known of several runs of one recipe, as of one run. What one of them lacks is missing.

    So is a control that one of them lacks, also in the rows of all controls; `ControlAnswers.left_out` names the run.
    """
    if len(found) == 1:
        return found[0]
    missing = {name: why for one in found for name, why in one.missing.items()}
    names = [name for name in found[0].tables if all(name in one.tables for one in found)]
    controls = [name for name in found[0].controls.rows if all(name in one.controls.rows for one in found)]
    tables = {name: _joined([one.tables[name] for one in found]) for name in names}
    of_controls = f"{CONTROLS} {files.fingerprint({})}"
    if of_controls in tables:
        rows = tables[of_controls]
        tables[of_controls] = rows[rows["control"].isin(controls)]
    seconds = [one.seconds_per_seed for one in found if one.seconds_per_seed is not None]
    return Gathered(
        answers=_joined([one.answers for one in found]),
        counted=CountedSeeds(
            tuple(seed for one in found for seed in one.counted.learned),
            {seed: why for one in found for seed, why in one.counted.failed.items()},
            {seed: why for one in found for seed, why in one.counted.diverged.items()},
        ),
        measures=found[0].measures,
        controls=ControlAnswers(
            rows={name: _joined([one.controls.rows[name] for one in found]) for name in controls},
            diverged={
                name: [s for one in found for s in one.controls.diverged.get(name, ())] for name in controls
            },
            left_out=_controls_left_out(found),
        ),
        tables=tables,
        missing=missing,
        seconds_per_seed=max(seconds) if seconds else None,
    )


def _controls_left_out(found: Sequence[Gathered]) -> dict[str, str]:
    """Control → why it is left out of several runs: one of them has begun it alone, or does not have it."""
    left_out: dict[str, str] = {}
    for name in dict.fromkeys(name for one in found for name in (*one.controls.rows, *one.controls.left_out)):
        begun = [one.controls.left_out[name] for one in found if name in one.controls.left_out]
        lacking = [
            f"{one.run or 'one of the runs'} does not have it, and `mechocl controls` with --only {name} trains it"
            for one in found
            if name not in one.controls.rows and name not in one.controls.left_out
        ]
        if begun or lacking:
            left_out[name] = "; ".join([*begun, *lacking])
    return left_out


def _joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True)
