"""Train a run and its control runs, and collect their answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mechocl.analyses import jobs as analysis_jobs, registry
from mechocl.errors import MechoclError
from mechocl.runs.controls import CONTROLS, control_path, control_recipe, open_controls
from mechocl.runs.recipes import AnyRecipe
from mechocl.runs.run import Run
from mechocl.runs.train_toy import SAVE_EVERY_S


def train_controls(
    path: Path,
    recipe: AnyRecipe,
    names: Sequence[str],
    *,
    recipe_name: str,
    seeds: tuple[int, ...],
    device: str,
    jobs: int | None,
    then: tuple[tuple[str, Any], ...] = (),
    save_every_s: float = SAVE_EVERY_S,
) -> Run:
    """Train or continue a run and the named controls of its recipe, all with the same seeds. Returns the run.

    The seeds of the run are followed by the analyses `then`, as in `jobs.train_run`, and those of the controls by the
    evaluate analysis.

    Raises MechoclError for a name that no control has, and for a recipe that is itself a control.
    """
    work = [
        (control_path(path, name), control_recipe(recipe, CONTROLS[name]), f"{recipe_name} (control: {name})")
        for name in names
    ]
    options: dict[str, Any] = {"seeds": seeds, "device": device, "jobs": jobs, "save_every_s": save_every_s}
    run = analysis_jobs.train_run(path, recipe, recipe_name=recipe_name, then=then, **options)
    evaluated = (("evaluate", registry.EvaluateConfig()),)
    for where, changed, title in work:
        analysis_jobs.train_run(where, changed, recipe_name=title, then=evaluated, **options)
    return run


def evaluate_controls(run: Run, *, device: str, jobs: int | None) -> dict[str, pd.DataFrame]:
    """Rows of the evaluate analysis of each control run that lies in a run's folder, by the control's name.

    Raises MechoclError as `open_controls` does, and when a control run is not trained to its end.
    """
    controls = open_controls(run)
    for name, control in controls.items():
        if unfinished := control.unfinished_seeds():
            raise MechoclError(
                f"{control.path} is incomplete: seed {', '.join(map(str, unfinished))} is not trained to the end; run "
                f"`mechocl controls` again with --only {name} --out {run.path}"
            )
    return {
        name: analysis_jobs.evaluate_run(control, device=device, jobs=jobs)
        for name, control in controls.items()
    }
