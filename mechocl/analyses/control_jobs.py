"""Train a run and its control runs, and collect their answers."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mechocl.analyses import jobs as analysis_jobs, registry
from mechocl.behaviour.control_gaps import ControlAnswers
from mechocl.models.seam import resolve_device
from mechocl.runs.controls import CONTROLS, control_path, control_recipe, open_controls
from mechocl.runs.progress import say_how_long
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
    known = analysis_jobs.seconds_per_seed(run, "training", device=device)
    left = sum(len(seeds) - len(_trained(where, seeds)) for where, _, _ in work)
    say_how_long("controls", known and known * left, known_from="the seeds of the run itself")
    for where, changed, title in work:
        analysis_jobs.train_run(where, changed, recipe_name=title, then=evaluated, **options)
    return run


def add_controls(run: Run, names: Sequence[str], *, device: str = "auto", jobs: int | None = None) -> Run:
    """Train the named controls of a run, with its seeds, or continue them. Returns the run, in whose folder they lie.

    `names`: such as ["noise", "unasked"] (`mechocl controls --help` lists them). `device` and `jobs` are those of `train`.

    Raises MechoclError for a name that no control has, and for a run that is itself a control.
    """
    return train_controls(
        run.path,
        run.recipe,
        names,
        recipe_name=run.recipe_name,
        seeds=run.seeds,
        device=resolve_device(device),
        jobs=jobs,
    )


def _trained(path: Path, seeds: tuple[int, ...]) -> set[int]:
    """The seeds whose training in a run, which need not exist, is complete or has diverged."""
    if not (path / "manifest.json").exists():
        return set()
    run = Run.open(path)
    return set(seeds) & set(run.seeds) - set(run.unfinished_seeds())


def evaluate_controls(run: Run, *, device: str, jobs: int | None) -> ControlAnswers:
    """The answers of each control run that lies in a run's folder.

    A control that is not trained to its end, or that diverged in every seed, is left out and named with the reason. Raises
    MechoclError as `open_controls` does.
    """
    return collect_answers(
        open_controls(run),
        lambda name: f"`mechocl controls` with --only {name} --out {run.path}",
        device=device,
        jobs=jobs,
    )


def collect_answers(
    runs: Mapping[str, Run], command: Callable[[str], str], *, device: str, jobs: int | None
) -> ControlAnswers:
    """The answers of runs by name, of those that are trained to their end. `command` says what trains a run, for messages."""
    rows, diverged, left_out = {}, {}, {}
    for name, run in runs.items():
        failures = run.failures()
        if unfinished := run.unfinished_seeds():
            left_out[name] = (
                f"seed {', '.join(map(str, unfinished))} is not trained to the end, which {command(name)} does"
            )
        elif len(failures) == len(run.seeds):
            left_out[name] = f"it diverged in every seed ({next(iter(failures.values()))})"
        else:
            rows[name] = analysis_jobs.evaluate_run(run, device=device, jobs=jobs)
            diverged[name] = tuple(failures)
    return ControlAnswers(rows=rows, diverged=diverged, left_out=left_out)
