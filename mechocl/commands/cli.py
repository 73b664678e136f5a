"""The command line: parse, call, print where the result is."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

from mechocl.commands import analysis, data, features, text
from mechocl.commands import models as models_
from mechocl.commands.analysis import Device, jobs_of
from mechocl.errors import Fault, MechoclError
from mechocl.runs.train_toy import SAVE_EVERY_S, seeds_from

Changes = Annotated[
    tuple[tuple[str, ...], ...],  # `--set a=1 b=2` and `--set a=1 --set b=2` say the same
    tyro.conf.arg(name="set", metavar="KEY=VALUE ..."),
    tyro.conf.UseAppendAction,
]
PositionalRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]

_FAST: Final = (
    "task.aliases=600",
    "task.integers=12",
    "task.list_length=3",
    "training.stages.0.epochs=20",
    "training.stages.0.evaluations=5",
    "training.stages.1.evaluations=4",
)


def demo(
    out: Path = Path("runs/demo"), seeds: int = 8, fast: bool = False, device: Device = "auto", jobs: int = 0
) -> None:
    """Train the small integer-set recipe over several seeds, run every analysis, write the report.

    Args:
        out: Folder that holds the whole demo: a run and its report.html.
        seeds: Number of seeds.
        fast: A smoke test instead: one seed of a smaller task, in about a minute.
        device: Where to compute; auto takes a GPU if there is one.
        jobs: Seeds at a time; 0: one per core.
    """
    from mechocl.analyses import jobs as jobs_
    from mechocl.analyses import registry
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs import recipes

    name = "integer-set/cpu"
    recipe = recipes.load(name, _FAST if fast else ())
    run = jobs_.train_run(
        out,
        recipe,
        recipe_name=f"{name} (smoke test)" if fast else name,
        seeds=seeds_from(1 if fast else seeds, 0),
        device=seam.resolve_device(device),
        jobs=jobs_of(jobs),
        then=jobs_.reported_analyses(recipe),
    )
    printing.failures(run)
    answers = registry.load_rows(run, "evaluate", registry.EvaluateConfig())
    assert answers is not None
    printing.answers(printing.learned(answers))
    _write_report(run, out / "report.html", device="cpu", jobs=jobs)


def train(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
    out: Path,
    seeds: int = 4,
    first_seed: int = 0,
    set: Changes = (),
    device: Device = "auto",
    jobs: int = 0,
    save_every: float = SAVE_EVERY_S,
) -> None:
    """Train a recipe over several seeds; the same command again continues a run that was stopped.

    Args:
        recipe: Name of a recipe that comes with the package (integer-set/cpu, integer-set/paper,
            integer-set/one-stage), or a TOML file.
        out: Folder of the run, new or the same run's.
        seeds: Number of seeds.
        first_seed: The first seed; the others follow it.
        set: Changes to the recipe, as task.aliases=500 or training.stages.0.epochs=10.
        device: Where to compute; auto takes a GPU if there is one.
        jobs: Seeds at a time; 0: one per core on a CPU, one on a GPU.
        save_every: Seconds between resume points: the training that a kill can cost.
    """
    from mechocl.analyses import jobs as jobs_
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs import recipes

    if not save_every >= 0:
        raise MechoclError(f"--save-every {save_every}: give seconds, 0 or more")
    resolved = recipes.load(recipe, tuple(change for group in set for change in group))
    run = jobs_.train_run(
        out,
        resolved,
        recipe_name=recipe,
        seeds=seeds_from(seeds, first_seed),
        device=seam.resolve_device(device),
        jobs=jobs_of(jobs),
        save_every_s=save_every,
    )
    printing.failures(run)
    if len(run.failures()) == len(run.seeds):
        run.finished_seeds()  # says so
    print(f"run: {out}")


def sweep(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")] = "",
    over: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.arg(metavar="KEY=V1,V2 ..."), tyro.conf.UseAppendAction
    ] = (),
    out: Path | None = None,
    seeds: int = 8,
    first_seed: int = 0,
    set: Changes = (),
    table: Path | None = None,
    figure: Path | None = None,
    device: Device = "auto",
    jobs: int = 0,
    on: Literal["here", "ray"] = "here",
    address: str = "",
    gpus_per_task: float = 0.0,
) -> None:
    """Train a recipe at every setting of some of its fields; the same command again continues.

    Prints one line a setting: seeds, failures, AUC by subset, weak and strong internalization. Several
    processes may work on one directory.

    Args:
        recipe: Name of a recipe that comes with the package, or a TOML file.
        over: A field and its values, as task.word_order=TVE,VTE; several: every combination.
        out: Folder of the sweep, new or the same sweep's.
        seeds: Number of seeds of each setting.
        first_seed: The first seed; the others follow it.
        set: Changes to the recipe that all settings share, as task.aliases=500.
        table: Train nothing; print what this sweep's folder, or a table saved from one, holds.
        figure: Write the phase diagram here (HTML); default: phase-diagram.html in the sweep's folder.
        device: Where to compute; auto takes a GPU if there is one.
        jobs: Processes; 0: one per core on a CPU, one on a GPU.
        on: Train in processes here, or as tasks of Ray, on many machines that share the folder.
        address: Ray's head, host:port, or auto for one that runs here; default: start Ray here and stop it.
        gpus_per_task: GPUs of a task on Ray; under 1, several tasks share one.
    """
    from mechocl.commands import printing
    from mechocl.report import page, plots, training_plots
    from mechocl.runs import on_ray, sweep_folder, sweep_summaries
    from mechocl.runs.sweeps import run_sweep

    if table is None:
        if not recipe or out is None:
            raise MechoclError("give a RECIPE and --out DIR to train, or --table DIR to look at a sweep")
        executor = on_ray.executor_named(on, address=address, gpus_per_task=gpus_per_task, jobs=jobs_of(jobs))
        frame = run_sweep(
            out,
            recipe_name=recipe,
            changes=tuple(change for group in set for change in group),
            over=tuple(axis for group in over for axis in group),
            seeds=seeds_from(seeds, first_seed),
            device=executor.device(device),
            executor=executor,
        )
    else:
        if recipe or over:
            raise MechoclError("--table only looks at a sweep; leave out the recipe and --over")
        frame = sweep_folder.read_sweep(table)
    found = sweep_summaries.summaries(frame)
    keys = sweep_folder.axes(frame)
    names = ("weak", "strong", "strong_d1_d3")
    subsets = [s for s in plots.COLORS if any(s in summary.auc for summary in found)]
    columns = [
        *keys,
        "runs",
        "failed",
        *(f"AUC {s}" for s in subsets),
        *(f"{n} [95 %]" for n in names),
        "s/run",
    ]
    body = []
    for one in found:
        auc = [f"{one.auc[s].mean:.3f}" if s in one.auc else "–" for s in subsets]
        gaps = [sweep_summaries.described(one.contrasts.get(n)) for n in names]
        cells = [str(one.setting[k]) for k in keys]
        body.append([*cells, str(one.runs), str(one.failed), *auc, *gaps, f"{one.seconds:.0f}"])
    printing.table(columns, body)
    for row in frame[frame["failed"] != ""].to_dict("records"):
        setting = "".join(f"{k}={row[k]}, " for k in keys)
        print(f"failed, left out of the means: {setting}seed {row['seed']}: {row['failed']}")
    where = figure or (out / "phase-diagram.html" if out else None)
    if where is not None:
        page.write_figure(training_plots.phase_diagram(found), where)
        print(f"phase diagram: {where}")
    print(f"table: {table or (out or Path()) / 'table.parquet'} ({len(frame)} runs)")


def dynamics(run: PositionalRun, out: Path | None = None) -> None:
    """When each part of the behaviour was learned, over the seeds: curves, onsets and their order.

    Reads the evaluations that training wrote; `--set training.stages.0.evaluations=50` makes them finer.

    Args:
        run: Folder of a run.
        out: The figure (HTML); default: dynamics.html in the run.
    """
    from mechocl import files
    from mechocl.analyses import jobs as jobs_
    from mechocl.behaviour import dynamics as learning
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.report import page, training_plots
    from mechocl.runs.run import Run

    opened = Run.open(run)
    curves, onsets = jobs_.measure_dynamics(opened)
    printing.failures(opened)
    body = []
    for event in learning.EVENTS:
        part = onsets[onsets["event"] == event.name]
        if len(part):
            e = part["epoch"].dropna()
            times = f"{e.median():.1f} ({e.min():.1f} … {e.max():.1f})" if len(e) else "–"
            body.append(
                [event.name, str(part["stage"].iloc[0]), times, f"{len(e)} of {len(part)}", event.meaning]
            )
    printing.table(["event", "stage", "epoch: median (range)", "seeds", "halfway to: meaning"], body)
    print()
    lines = [
        [o.first, o.second, f"{o.before} of {o.seeds}", f"{o.lead.mean:.1f}", formats.p_value(o.p)]
        for o in learning.order(onsets)
    ]
    printing.table(["first", "then", "seeds in this order", "epochs between", "sign test"], lines)
    figure = out or run / "dynamics.html"
    page.write_figure(training_plots.dynamics(curves), figure)
    folder = run / "results" / "dynamics"
    files.write_table(folder / "curves.parquet", curves)
    files.write_table(folder / "onsets.parquet", onsets)
    print(f"curves: {figure}; tables: {folder}")


def report(
    run: PositionalRun,
    out: Path | None = None,
    attribute: str = "",
    device: Device = "auto",
    jobs: int = 0,
) -> None:
    """Write the report of a run, computing the analyses that it lacks.

    Args:
        run: Folder of a run.
        out: The HTML file; default: report.html in the run.
        attribute: Of a closed-book run: which question is looked at, as birth; default: the one with the most even answers.
        device: Where to compute; auto takes a GPU if there is one.
        jobs: Seeds at a time; 0: one per core.
    """
    from mechocl.commands import printing
    from mechocl.runs.run import Run

    opened = Run.open(run, attribute=attribute)
    printing.failures(opened)
    _write_report(opened, out or run / "report.html", device=device, jobs=jobs)


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
) -> None:
    """List the runs in a folder.

    Args:
        folder: Folder that holds run folders.
    """
    from mechocl.commands import printing
    from mechocl.runs.run import Run, find_runs

    found = find_runs(folder)
    body = []
    unreadable = []
    for path in found:
        try:
            run = Run.open(path)
            failed = run.failures()
            done = sum(run.seed(s).finished() for s in run.seeds)
        except MechoclError as error:
            unreadable.append(str(error))
            continue
        state = f"{done} of {len(run.seeds)} seeds" + (f", {len(failed)} failed" if failed else "")
        body.append([str(path), run.recipe_name, state, run.manifest["created"]])
    printing.table(["run", "recipe", "trained", "created"], body)
    for why in unreadable:
        print(f"cannot be read: {why}")
    print(f"{len(found)} run{'' if len(found) == 1 else 's'} in {folder}")


COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "demo": demo,
    "train": train,
    "sweep": sweep,
    **text.COMMANDS,
    **analysis.COMMANDS,
    **features.COMMANDS,
    **data.COMMANDS,
    **models_.COMMANDS,
    "dynamics": dynamics,
    "report": report,
    "runs": runs,
}


GROUPS: Final[dict[str, dict[str, Callable[..., None]]]] = {
    "sae": features.SAE_COMMANDS,
    "data": data.DATA_COMMANDS,
}
"""Commands that have commands of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code; all but 0 come with one line on stderr.

    0; 2 for what the user can mend; 1 for a fault; 130 after Ctrl-C. Any other exception is a bug, and
    raised.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    group = given.pop(0) if given and given[0] in GROUPS else ""
    try:
        tyro.extras.subcommand_cli_from_dict(
            GROUPS.get(group, COMMANDS),
            prog=f"mechocl {group}".strip(),
            description="A laboratory for out-of-context (implicit meta-) learning.",
            args=given,
        )
    except MechoclError as error:
        return _fail(str(error), 2)
    except Fault as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # the reader of the output has gone, as in `mechocl evaluate RUN | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _MENDABLE:
            return _fail(where + _MENDABLE[error.errno], 2)
        return _fail(f"{where}{error.strerror}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue", 130)
    return 0


_MENDABLE: Final = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.EACCES: "permission denied; choose another place",
    errno.EPERM: "permission denied; choose another place",
    errno.ENOENT: "no such file or folder, and it cannot be made; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
"""What the user can do about errors of the operating system."""


def _fail(message: str, code: int) -> int:
    print(f"mechocl: {message}", file=sys.stderr)
    return code


def _write_report(run: Any, path: Path, *, device: Device, jobs: int) -> None:
    from mechocl.analyses import registry
    from mechocl.analyses.jobs import complete_run, evaluate_run, reported_analyses
    from mechocl.models import seam
    from mechocl.report import page, run_report

    if path.is_dir():
        raise MechoclError(f"{path} is a folder; give the HTML file, for example {path / 'report.html'}")
    wanted = reported_analyses(run.recipe)
    if not run.kind.can_be_taken_apart(run):
        wanted = tuple(one for one in wanted if one[0] == "evaluate")
    complete_run(run, wanted, stage=None, device=seam.resolve_device(device), jobs=jobs_of(jobs))
    path.parent.mkdir(parents=True, exist_ok=True)
    found = {name: registry.load_rows(run, name, config) for name, config in wanted}
    rows = {name: table for name, table in found.items() if table is not None}
    assert rows.keys() == found.keys()
    if "evaluate" in rows:
        rows["evaluate"] = evaluate_run(run, device=seam.resolve_device(device), jobs=jobs_of(jobs))
    smoke = "smoke test" in run.recipe_name
    warning = (
        "Smoke test: one seed of a small task. It shows that everything runs, not what a model does."
        if smoke
        else ""
    )
    size = page.write(run_report.build(run, rows, warning=warning), path)
    print(f"report ({size / 1e6:.1f} MB): {path.resolve().as_uri()}")
