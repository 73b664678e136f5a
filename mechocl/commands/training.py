"""`mechocl demo`, `train`, `sweep` and `dynamics`: train models of the integer-set task, and see how they learned."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from mechocl.commands.options import (
    Changes,
    Computing,
    Place,
    PositionalRecipe,
    PositionalRun,
    SaveEvery,
    SeedRange,
    jobs_of,
    joined,
    seconds_of,
)
from mechocl.destinations import require_file, require_folder
from mechocl.errors import MechoclError
from mechocl.runs.train_toy import SAVE_EVERY_S

if TYPE_CHECKING:
    import pandas as pd

_SWEPT: Final = SeedRange(seeds=8)

DEMO_SEEDS: Final = 12
"""Number of seeds of the demo, so that a seed that fails changes no answer."""

DEMO_CONTROLS: Final = ("noise", "noise-equal-steps", "unasked")
"""The controls of the demo's recipe that it trains."""

FAST: Final = (
    "task.aliases=600",
    "task.integers=12",
    "task.list_length=3",
    "training.stages.0.epochs=20",
    "training.stages.0.evaluations=5",
    "training.stages.1.evaluations=4",
)
"""Changes of the demo's recipe that make it a smoke test."""


def demo(
    out: Path = Path("runs/demo"),
    seeds: int = DEMO_SEEDS,
    fast: bool = False,
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
) -> None:
    """Train the small integer-set recipe and three controls over several seeds, run every analysis, print the verdict, and write the report.

    Args:
        out: Folder that holds the whole demo: a run and its report.html.
        seeds: Number of seeds that are trained, of the recipe and of each control.
        fast: Run a smoke test instead: one seed of a smaller task, in about a minute.
        computing: How it is computed.
    """
    from mechocl.analyses import control_jobs, jobs, registry, results
    from mechocl.commands import printing
    from mechocl.commands.reports import judge, print_report
    from mechocl.commands.verdicts import print_verdict
    from mechocl.hypotheses.verdict import RunVerdict
    from mechocl.runs import recipes

    name = "integer-set/cpu"
    recipe = recipes.load_recipe(name, FAST if fast else ())
    device, at_a_time = computing.resolved_device(), jobs_of(computing.jobs)
    run = control_jobs.train_controls(
        out,
        recipe,
        DEMO_CONTROLS,
        recipe_name=f"{name} (smoke test)" if fast else name,
        seeds=SeedRange(seeds=1 if fast else seeds).numbers(),
        device=device,
        jobs=at_a_time,
        then=jobs.reported_analyses(recipe),
    )
    counted = jobs.count_run(run, device=device, jobs=at_a_time)
    printing.failures(counted)
    answers = results.load_rows(run, "evaluate", registry.EvaluateConfig())
    assert answers is not None
    printing.answers(answers, counted=counted)
    printing.controls(run, device=device, jobs=at_a_time)
    verdict = judge(run, device="cpu", jobs=at_a_time)
    if isinstance(verdict, RunVerdict):
        print(f"\nverdict of {verdict.seeds} seeds of {name}, a demonstration\n")
        print_verdict(verdict)
        print()
    print_report(run, out / "report.html", device="cpu", jobs=at_a_time, verdict=verdict)


def train(
    recipe: PositionalRecipe,
    out: Path,
    seeds: Annotated[SeedRange, tyro.conf.OmitArgPrefixes] = SeedRange(),  # noqa: B008
    changes: Changes = (),
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    save_every: SaveEvery = SAVE_EVERY_S,
) -> None:
    """Train a recipe over several seeds. The same command continues a run that was stopped.

    Says at the end which seeds failed, and why: those that diverged, and those that did not learn their definitions.

    Args:
        recipe: Name of a recipe that comes with the package (integer-set/cpu, integer-set/paper,
            integer-set/one-stage), or a TOML file.
        out: Folder of the run. It is new, or holds the same run.
        seeds: The seeds that are trained.
        computing: How the seeds are computed.
    """
    from mechocl.analyses import jobs
    from mechocl.commands import printing
    from mechocl.runs import recipes

    save_every_s = seconds_of(save_every)
    resolved = recipes.load_recipe(recipe, joined(changes))
    run = jobs.train_run(
        out,
        resolved,
        recipe_name=recipe,
        seeds=seeds.numbers(),
        device=computing.resolved_device(),
        jobs=jobs_of(computing.jobs),
        save_every_s=save_every_s,
    )
    printing.trained(run, device=computing.resolved_device(), jobs=jobs_of(computing.jobs))
    print(f"run: {out}")


def sweep(
    recipe: PositionalRecipe = "",
    over: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.arg(metavar="KEY=V1,V2 ..."), tyro.conf.UseAppendAction
    ] = (),
    out: Path | None = None,
    seeds: Annotated[SeedRange, tyro.conf.OmitArgPrefixes] = _SWEPT,
    changes: Changes = (),
    table: Path | None = None,
    figure: Path | None = None,
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = Place(),  # noqa: B008
) -> None:
    """Train a recipe at every setting of some of its fields. The same command continues a sweep that was stopped.

    Prints one line for each setting: seeds, failures, AUC by subset, weak and strong internalization. Several
    processes may work on one folder.

    Args:
        recipe: Name of a recipe that comes with the package, or a TOML file.
        over: A field and its values, such as task.word_order=TVE,VTE. With several fields, every combination is trained.
        out: Folder of the sweep. It is new, or holds the same sweep.
        seeds: The seeds that are trained.
        table: Train nothing. Print the results in this folder of a sweep, or in this table that a sweep wrote.
        figure: Write the phase diagram here (HTML). By default it is phase-diagram.html in the sweep's folder.
        computing: How the sweep is computed.
        place: Where the sweep is computed.
    """
    from mechocl.runs.sweep_folder import read_sweep
    from mechocl.runs.sweeps import missing_runs, run_sweep, wanted_runs

    left = 0
    if figure is not None:
        require_file(figure)
    if table is None:
        if not recipe or out is None:
            raise MechoclError("give a RECIPE and --out DIR to train, or --table DIR to look at a sweep")
        executor = place.executor(computing.jobs)
        frame = run_sweep(
            out,
            recipe_name=recipe,
            changes=joined(changes),
            over=joined(over),
            seeds=seeds.numbers(),
            device=executor.device(computing.device),
            executor=executor,
        )
        wanted = wanted_runs(recipe, joined(changes), joined(over), seeds.numbers())
        left = len(missing_runs(out, wanted))
    else:
        frame = read_sweep(table)
    _print_sweep(frame, figure or (out / "phase-diagram.html" if out else None))
    if left:
        print(
            f"{left} of {len(wanted)} runs are missing: another process trains them; if it is stopped, run the same "
            "command again"
        )
    print(f"table: {table or (out or Path()) / 'table.parquet'} ({len(frame)} runs)")


def _print_sweep(frame: "pd.DataFrame", figure: Path | None) -> None:
    """Print a line for each setting and each failure. Write the phase diagram if `figure` names its file."""
    from mechocl.commands import printing
    from mechocl.report import page, training_plots, training_tables
    from mechocl.runs.sweep_summaries import summaries

    settings = summaries(frame)
    table = training_tables.settings_table(settings)
    printing.table(table.columns, table.rows)
    for line in training_tables.failed_runs(frame):
        print(f"failed, left out of the means: {line}")
    if figure is not None:
        # the page of a sweep that was stopped and continued is as that of another one, so it says no seconds
        table = replace(table, columns=table.columns[:-1], rows=tuple(row[:-1] for row in table.rows))
        page.write_figure(
            training_plots.phase_diagram(settings),
            figure,
            title="mechocl: phase diagram of a sweep",
            tables=(table,),
        )
        print(f"phase diagram: {figure}")


def dynamics(run: PositionalRun, out: Path | None = None) -> None:
    """Show when each part of the behaviour was learned, over the seeds: curves, onsets and their order.

    Reads the evaluations that training wrote. `--set training.stages.0.evaluations=50` makes them finer.

    Args:
        run: Folder of a run.
        out: File of the figure (HTML). By default it is dynamics.html in the run.
    """
    from mechocl import files
    from mechocl.analyses import jobs
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.report import page, training_plots, training_tables
    from mechocl.runs.run import Run

    opened = Run.open(run)
    figure, folder = out or run / "dynamics.html", run / "results" / "dynamics"
    require_file(figure)
    require_folder(folder)
    counted = jobs.count_run(opened, device=seam.resolve_device("auto"), jobs=None)
    curves, onsets = jobs.measure_dynamics(opened, seeds=counted.shown)
    printing.failures(counted)
    events, order = training_tables.onset_table(onsets), training_tables.order_table(onsets)
    printing.table(events.columns, events.rows)
    print()
    printing.table(order.columns, order.rows)
    page.write_figure(
        training_plots.dynamics(curves),
        figure,
        title=f"mechocl: what {run.name} learns when",
        tables=(events, order),
    )
    files.write_table(folder / "curves.parquet", curves)
    files.write_table(folder / "onsets.parquet", onsets)
    print(f"curves: {figure}; tables: {folder}")
