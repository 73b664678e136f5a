"""What the commands do: train and analyse the seeds of a run in parallel, and collect the rows."""

import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechocl import files
from mechocl.accepted import seed_number
from mechocl.analyses import registry, results
from mechocl.behaviour import dynamics as learning
from mechocl.behaviour.counted import CountedSeeds, count_seeds
from mechocl.destinations import require_folder
from mechocl.errors import MechoclError
from mechocl.interventions.named_pairs import PairsCut, say_cuts
from mechocl.models.seam import resolve_device
from mechocl.runs import provenance, recipes
from mechocl.runs.needed_memory import require_recipe_memory
from mechocl.runs.processes import default_jobs, default_threads, default_together, map_jobs
from mechocl.runs.progress import Progress, say_how_long, seeds_in_words
from mechocl.runs.recipes import AnyRecipe
from mechocl.runs.run import Run, kind_of
from mechocl.runs.train_toy import SAVE_EVERY_S, seeds_from
from toy_models.subsets import SUBSETS

_TRAINING_SHARE: Final = 0.85


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does for some seeds. Seeds that are to be trained are the seeds of one stack."""

    run: str
    seeds: tuple[int, ...]
    device: str
    train: bool
    analyses: tuple[tuple[str, Any], ...]
    """Names and configs of the analyses that are computed."""
    stage: int | None = None
    attribute: str = ""
    """Attribute of a text world that the analyses look at."""
    save_every_s: float = SAVE_EVERY_S
    done_before: int = 0
    """Number of wanted analyses that are there already, which the progress counts as done."""


def train_and_analyse(job: Job, progress: Progress) -> None:
    """Train the seeds if the job says so, then compute the analyses that are missing."""
    run = Run.open(Path(job.run), attribute=job.attribute)
    share = (_TRAINING_SHARE if job.analyses else 1.0) if job.train else 0.0
    if job.train:
        run.kind.train(
            run,
            job.seeds,
            device=job.device,
            save_every_s=job.save_every_s,
            progress=lambda text, done: progress(text, share * done),
        )
    folders = [run.seed(seed) for seed in job.seeds]
    todo = [(f, name, config) for f in folders if f.failure() is None for name, config in job.analyses]
    for i, (folder, name, config) in enumerate(todo):
        what = name if len(job.seeds) == 1 else f"seed {folder.seed}: {name}"

        def say(within: float, i: int = i, what: str = what) -> None:
            done = (job.done_before + i + within) / (job.done_before + len(todo))
            progress(what, share + (1 - share) * done)

        say(0.0)
        results.analyse_seed(run, folder, name, config, stage=job.stage, device=job.device, progress=say)
    progress("done", 1.0)


def train(
    recipe: str,
    out: str | Path,
    *,
    seeds: int | Sequence[int] = 1,
    changes: Sequence[str] = (),
    device: str = "auto",
    jobs: int | None = None,
) -> Run:
    """Train a recipe and return its run. A run that exists already is opened, or continued where it was stopped.

    `recipe`: a name such as "integer-set/cpu", or the path of a TOML file. `out`: the folder of the run. `seeds`:
    the number of seeds, which are counted from 0, or the seeds themselves. `changes`: fields of the recipe to change,
    such as "task.aliases=500". `device`: cpu, cuda, or auto, which takes a GPU where there is one. `jobs`: number of
    seeds that are computed at a time; None takes one for each core of a CPU.

    Raises MechoclError when the recipe cannot be used, and when the folder holds something else.
    """
    numbers = seeds_from(seeds, 0) if isinstance(seeds, int) else tuple(map(seed_number, seeds))
    return train_run(
        Path(out),
        recipes.load_recipe(recipe, tuple(changes)),
        recipe_name=recipe,
        seeds=numbers,
        device=resolve_device(device),
        jobs=jobs,
    )


def train_run(
    path: Path,
    recipe: AnyRecipe,
    *,
    recipe_name: str,
    seeds: tuple[int, ...],
    device: str,
    jobs: int | None,
    then: tuple[tuple[str, Any], ...] = (),
    save_every_s: float = SAVE_EVERY_S,
) -> Run:
    """Train or continue a run. Stacks of seeds are trained in parallel, and each is followed by the given analyses."""
    jobs = min(jobs or default_jobs(len(seeds), device), len(seeds))
    together = default_together(recipe, len(seeds), jobs, device)
    require_recipe_memory(recipe, together=min(jobs * together, len(seeds)))
    run = Run.create(
        path,
        recipe,
        recipe_name=recipe_name,
        seeds=seeds,
        device=device,
        threads=default_threads(recipe, jobs),
        together=together,
    )
    work = [
        Job(str(path), stack.seeds, device, True, then, save_every_s=save_every_s)
        for stack in run.stacks()
        if set(stack.seeds) & set(seeds)
    ]
    title = "training and analysing" if then else "training"
    left = len(set(seeds) & set(run.unfinished_seeds()))
    known = seconds_per_seed(run, title, device=device)
    say_how_long(title, known and known * left, known_from="the seeds of this run that are trained already")
    started = time.monotonic()
    try:
        _compute_jobs(work, title, jobs, run.manifest["threads"])
    finally:
        run = run.note_seconds(title, time.monotonic() - started)
    return run


def analyse_run(
    run: Run,
    name: str,
    config: Any = None,
    *,
    stage: int | None = None,
    device: str = "auto",
    jobs: int | None = None,
) -> pd.DataFrame:
    """The rows of one analysis over all finished seeds of a run. Missing rows are computed and kept beside the run.

    `name`: a name of `registry.ANALYSES`, such as "lens". `config`: None takes the analysis's defaults. `stage`: the
    analysis looks at the models after this stage, from 1; None takes the last one. `device` and `jobs` are those of
    `train`. `docs/columns.md` says what the columns mean. Raises MechoclError when no analysis has this name.
    """
    if name not in registry.ANALYSES:
        raise MechoclError(f"there is no analysis {name!r}; there are {', '.join(registry.ANALYSES)}")
    config = registry.ANALYSES[name].config() if config is None else config
    for line in cuts_of(run, config, option="n_pairs="):
        warnings.warn(line, PairsCut, stacklevel=2)
    complete_run(run, ((name, config),), stage=stage, device=resolve_device(device), jobs=jobs)
    rows = results.load_rows(run, name, config, stage=stage)
    assert rows is not None
    return rows


def seconds_per_seed(run: Run, what: str, *, device: str) -> float | None:
    """Recorded wall-clock seconds of an activity for each seed that is trained; None where this machine has no record of it."""
    seconds = run.manifest["seconds"].get(what)
    trained = len(run.seeds) - len(run.unfinished_seeds())
    if not seconds or not trained or run.manifest["machine"] != provenance.machine(device):
        return None
    return float(seconds) / trained


def cuts_of(run: Run, config: Any, *, option: str) -> list[str]:
    """A line for each file of pairs in the config of an analysis of which only the first pairs are used.

    It names the number that takes all of them; `option` is how that number is given, such as "--n-pairs ".
    """
    pairs = getattr(config, "pairs", ())
    if not any(name.endswith(".csv") for name in pairs):
        return []
    task = run.finished_seeds()[0].analysed_task()
    return say_cuts(task, pairs, n_pairs=config.n_pairs, most=config.most_pairs, option=option)


def evaluate_run(run: Run, *, device: str, jobs: int | None) -> pd.DataFrame:
    """Rows of the evaluate analysis. Each subset is evaluated after the stage that it is judged after.

    That is the last stage, except for the subsets of stage 1 in a closed-book run (`RunKind.judging_stage`).
    """
    config = registry.EvaluateConfig()
    last = analyse_run(run, "evaluate", config, stage=None, device=device, jobs=jobs)
    number = run.kind.judging_stage(run.recipe)
    if number == len(run.recipe.training.stages):
        return last
    first = analyse_run(run, "evaluate", config, stage=number, device=device, jobs=jobs)
    early = [name for name, subset in SUBSETS.items() if subset.stage == 1]
    kept = (first[first["subset"].isin(early)], last[~last["subset"].isin(early)])
    return pd.concat(kept, ignore_index=True)


def count_run(run: Run, *, device: str, jobs: int | None) -> CountedSeeds:
    """Which seeds of a run count: those that were trained to the end and learned their definitions.

    The answers after the last stage decide, and are computed where they are missing. Every command and report that
    takes means over the seeds of a run takes them over these. Raises MechoclError as `Run.finished_seeds` does.
    """
    measures, diverged = run.questioning.measures, run.failures()
    if measures.least_recall is None:
        return CountedSeeds(tuple(folder.seed for folder in run.finished_seeds()), {}, diverged)
    config = registry.EvaluateConfig()
    rows = analyse_run(run, "evaluate", config, stage=None, device=device, jobs=jobs)
    return count_seeds(rows, measures, diverged=diverged)


def complete_run(
    run: Run,
    wanted: tuple[tuple[str, Any], ...],
    *,
    stage: int | None,
    device: str,
    jobs: int | None,
    seeds: Sequence[int] | None = None,
) -> None:
    """Compute the analyses that a run, or some of its seeds, lacks. What killed writes left in its folder is removed."""
    files.remove_temporary(run.path)
    for name, _ in wanted:
        if not run.kind.takes(run, name):
            run.kind.require_transformers(run, f"the analysis {name}")
    missing = []
    for folder in [f for f in run.finished_seeds() if seeds is None or f.seed in seeds]:
        todo = tuple(
            (name, config)
            for name, config in wanted
            if run.load_result(name, results.result_key(folder, name, config, stage)) is None
        )
        if todo:
            there = len(wanted) - len(todo)
            missing.append(
                Job(
                    str(run.path),
                    (folder.seed,),
                    device,
                    False,
                    todo,
                    stage,
                    run.attribute,
                    done_before=there,
                )
            )
    if missing:
        require_folder(run.path)
        jobs = min(jobs or default_jobs(len(missing), device), len(missing))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PairsCut)  # whoever asks for the rows says it, also of saved ones
            _compute_jobs(missing, "analysing", jobs, run.manifest["threads"])


def measure_dynamics(run: Run, *, seeds: Sequence[int] | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The curves of a run's finished seeds over training, and when each event happened (`mechocl.behaviour.dynamics`).

    `seeds`: only these seeds are measured; None takes all that are finished.
    """
    folders = [f for f in run.finished_seeds() if seeds is None or f.seed in seeds]
    history = pd.concat([f.history().assign(seed=f.seed) for f in folders], ignore_index=True)
    if "auc" not in history.columns:
        raise MechoclError(
            f"{run.path} has no AUC in its history, and dynamics needs it; see the curves in its report "
            f"(mechocl report {run.path})"
        )
    curves = learning.curves(history)
    data = [stage.data for stage in run.recipe.training.stages]
    new_in_stage = next(number for number, stages in enumerate(data, start=1) if 2 in stages)
    entities = len(folders[0].load_task().entity_ids)
    return curves, learning.onsets(curves, integers=entities, new_in_stage=new_in_stage)


def iml_gaps(runs: Sequence[Path], *, device: str, jobs: int | None) -> pd.DataFrame:
    """The IML gap, d1 − d2, of each seed, in the columns `run`, `seed`, `gap` and `metric`.

    The metric is the AUC, or for closed-book runs the exact match. Runs that lack one of the two subsets have
    no rows. Seeds that failed to learn their definitions are left out.
    """
    from mechocl.behaviour import formats, over_seeds

    found = []
    for path in runs:
        run = Run.open(path)
        rows = analyse_run(run, "evaluate", registry.EvaluateConfig(), stage=None, device=device, jobs=jobs)
        metric = over_seeds.leading(rows)[0]
        each = over_seeds.by_seed(over_seeds.without_failed(rows)[0]).pivot(
            index="seed", columns="subset", values=metric
        )
        if {"d1_consistent", "d2_consistent"} <= set(each.columns):
            gap = (each["d1_consistent"] - each["d2_consistent"]).rename("gap").reset_index()
            found.append(gap.assign(run=path.name, metric=formats.NAMES[metric]))
    columns = ["run", "seed", "gap", "metric"]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=columns)


def reported_analyses(recipe: AnyRecipe) -> tuple[tuple[str, Any], ...]:
    """The analyses of a report on a recipe's runs, with their default configs.

    Those that compare stages are among them where the recipe has several stages.
    """
    several = len(recipe.training.stages) > 1
    return tuple(
        (name, registry.ANALYSES[name].config())
        for name in kind_of(recipe).reported
        if several or name not in ("graft", "steering")
    )


def _compute_jobs(work: list[Job], title: str, jobs: int, threads: int) -> None:
    names = [seeds_in_words(job.seeds) for job in work]
    map_jobs(train_and_analyse, work, names=names, title=title, jobs=min(jobs, len(work)), threads=threads)
