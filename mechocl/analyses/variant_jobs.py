"""Train the variants of a run, and collect their answers and histories."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mechocl.analyses import control_jobs, jobs as analysis_jobs, registry
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.errors import MechoclError
from mechocl.runs.run import Run
from mechocl.runs.train_toy import SAVE_EVERY_S, draw_task
from mechocl.runs.variants import (
    EXCHANGED,
    VARIANTS,
    open_variant,
    require_variants,
    start_variant,
    variant_named,
    variant_path,
    variant_recipe,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trained:
    """What the finished seeds of a run, or of one of its variants, answer after their last stage."""

    rows: pd.DataFrame
    """Rows of the evaluate analysis."""
    history: pd.DataFrame
    """Evaluations during the last stage, with the column `seed`."""


def train_variants(
    run: Run, names: Sequence[str], *, jobs: int | None, save_every_s: float = SAVE_EVERY_S
) -> dict[str, Trained]:
    """Train or continue the named variants of a run, in all of its finished seeds. Returns name → what they answer.

    They are trained on the run's own device. A variant that diverged in every seed has no rows. Raises MechoclError for an
    unknown name, and as `start_variant` does; then nothing is trained.
    """
    require_variants(run)
    wanted = [variant_named(name) for name in dict.fromkeys(names)]
    for variant in wanted:
        check_variant(run, variant.name)
    device = run.manifest["device"]
    evaluated = (("evaluate", registry.EvaluateConfig()),)
    found = {}
    for variant in wanted:
        started = start_variant(run, variant)
        trained = analysis_jobs.train_run(
            started.path, started.recipe, recipe_name=started.recipe_name, seeds=started.seeds, device=device,
            jobs=jobs, then=evaluated, save_every_s=save_every_s,
        )  # fmt: skip
        found[variant.name] = collect_answers(trained, jobs=jobs)
    return found


def check_variant(run: Run, name: str) -> None:
    """Raise MechoclError when a run cannot have this variant: it changes nothing, or the task lacks what it needs."""
    changed = variant_recipe(require_variants(run), variant_named(name))
    draw_task(changed, seed=run.finished_seeds()[0].seed)


def find_possible_variants(run: Run, names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Those of the named variants that a run can have, and of the others the reason why not.

    Raises MechoclError when it can have none.
    """
    possible, impossible = [], {}
    for name in names:
        try:
            check_variant(run, name)
            possible.append(name)
        except MechoclError as error:
            impossible[name] = str(error)
    if not possible:
        raise MechoclError(next(iter(impossible.values())))
    return possible, impossible


def collect_answers(run: Run, *, jobs: int | None) -> Trained:
    """The answers of a run's finished seeds after the last stage, and the history of that stage."""
    if len(run.failures()) == len(run.seeds):
        return Trained(pd.DataFrame(), pd.DataFrame())
    rows = analysis_jobs.analyse_run(run, "evaluate", device=run.manifest["device"], jobs=jobs)
    last = len(run.recipe.training.stages)
    histories = [folder.history().assign(seed=folder.seed) for folder in run.finished_seeds()]
    history = pd.concat(histories, ignore_index=True)
    return Trained(rows, history[history["stage"] == last].reset_index(drop=True))


def evaluate_variants(run: Run, *, device: str, jobs: int | None) -> ControlAnswers:
    """The answers of each variant run that lies in a run's folder; what is left out is as in `evaluate_controls`.

    Raises MechoclError for a run that can have no variant, such as one of a single stage, and as `open_variant` does.
    """
    variant_recipe(require_variants(run), VARIANTS[EXCHANGED])
    there = [name for name in VARIANTS if (variant_path(run.path, name) / "manifest.json").exists()]
    return control_jobs.collect_answers(
        {name: open_variant(run, name) for name in there},
        lambda name: f"`mechocl variants {run.path} --only {name}`",
        device=device,
        jobs=jobs,
    )
