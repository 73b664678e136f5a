"""`mechocl probe`: linear probes over runs, seeds and checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import tyro

from mechocl.commands.options import (
    Attribute,
    Computing,
    Place,
    SeedList,
    jobs_of,
    listed,
    numbers,
)
from mechocl.destinations import require_folder
from mechocl.errors import MechoclError
from mechocl.probing.scoring import ProbingConfig

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.analyses.probe_sweep import Unit


_NOT_NAMED: Final = {"recipe", "attribute", "cache_gb"}
"""Options that have another place in the name of a table's folder, or change no row."""

_LONGEST: Final = 100
"""Largest number of characters in the name of a table's folder. Longer names become a hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """Which models of the runs are probed, and what is kept of their activations."""

    checkpoints: Literal["final", "stages", "all"] = "final"
    """final probes the last checkpoint. stages probes the last one of each stage. all probes every one that training kept."""
    seeds: SeedList = "all"
    attribute: Attribute = ""
    cache_gb: float = 4.0
    """GB of activations that each run may keep on the disk, to be used again. 0 keeps none."""
    cache_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Precision in which the activations are kept."""


def probe(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN ...")] = (),
    config: Annotated[ProbingConfig, tyro.conf.OmitArgPrefixes] = ProbingConfig(),  # noqa: B008
    probed: Annotated[Probed, tyro.conf.OmitArgPrefixes] = Probed(),
    out: Path | None = None,
    table: Path | None = None,
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    place: Annotated[Place, tyro.conf.OmitArgPrefixes] = Place(),  # noqa: B008
) -> None:
    """Fit linear probes at each site, layer and position, to see what can be read where, beside controls.

    Sweeps runs, seeds and checkpoints. The same command continues a sweep that was stopped. Writes one table
    (table.parquet) and one page of figures (probes.html). Lists may be written with commas.

    Args:
        runs: Folders of runs. Several are compared, for example two word orders.
        config: Which probes are fitted, where, and with which controls.
        probed: Which models are probed.
        out: Folder of the table and the page. By default it is probes/<recipe> in the first run, with the options that
            were changed in its name, so that probes of other options stay.
        table: Probe nothing. Print and draw the results in this table, or in the table in this folder.
        computing: How the probes are computed.
        place: Where the probes are computed.
    """
    from mechocl.analyses import jobs, probe_sweep

    if table is not None:
        rows = probe_sweep.read_table(table)
        out = out or (table if table.is_dir() else table.parent)
        require_folder(out)
        _print_and_draw(rows, out)
    else:
        if not runs:
            raise MechoclError("give one or more RUN folders to probe, or --table to look at a table")
        if out is not None:
            require_folder(out)
        executor = place.executor(computing.jobs)
        device = executor.device(computing.device)
        units = _listed_units(runs, config, probed, device=device, jobs=computing.jobs)
        out = out or runs[0] / "probes" / _folder(runs, config, probed)
        rows = probe_sweep.sweep_probes(units, out=out, executor=executor)
        gaps = None
        if len(runs) > 1:
            gaps = jobs.iml_gaps(runs, device=device, jobs=jobs_of(computing.jobs))
        _print_and_draw(rows, out, units=units, gaps=gaps)
        _print_left_out(rows)
        if probed.cache_gb:
            folders = ", ".join(f"{run}/activations" for run in runs)
            print(f"activations: {probe_sweep.kept_gb(runs):.3g} GB in {folders}")
    print(
        f"figures: {(out / 'probes.html').resolve().as_uri()}; table: {out / 'table.parquet'} ({len(rows)} rows)"
    )


def _folder(runs: Sequence[Path], config: ProbingConfig, probed: Probed) -> str:
    """Name of the folder of a table: the recipes, and everything that was chosen otherwise than by default."""
    from mechocl import files

    recipes = [Path(recipe).stem for recipe in listed((config.recipe,))]
    chosen = {
        field.name: getattr(values, field.name)
        for values, default in ((config, ProbingConfig()), (probed, Probed()))
        for field in fields(values)
        if getattr(values, field.name) != getattr(default, field.name)
    }
    told = [probed.attribute] if probed.attribute else []
    told += ["beside", *(run.name for run in runs[1:])] if len(runs) > 1 else []
    for name in sorted(chosen.keys() - _NOT_NAMED):
        value = chosen[name]
        text = ",".join(listed(tuple(map(str, value))) if isinstance(value, tuple) else [str(value)])
        told.append(f"{name.replace('_', '-')}={text}")
    short = "-".join([*recipes, *told])
    if len(short) <= _LONGEST and "/" not in short:
        return short
    return "-".join([*recipes, files.fingerprint(told)])


def _listed_units(
    runs: Sequence[Path], config: ProbingConfig, probed: Probed, *, device: str, jobs: int
) -> "list[Unit]":
    """The units that the sweep computes, in order. Without `--seeds`, they are of the seeds that count."""
    from mechocl.analyses import probe_sweep
    from mechocl.analyses.jobs import count_run
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs.run import Run

    units = probe_sweep.list_units(
        runs,
        recipes=listed((config.recipe,)),
        checkpoints=probed.checkpoints,
        seeds=None if probed.seeds == "all" else numbers(probed.seeds),
        config=replace(config, sites=listed(config.sites), positions=listed(config.positions)),
        device=device,
        cache_gb=probed.cache_gb,
        dtype=probed.cache_dtype,
        attribute=probed.attribute,
    )
    if probed.seeds != "all":
        return units
    here = seam.resolve_device("auto")  # `device` may be that of workers on other machines
    shown = {}
    for run in runs:
        counted = count_run(Run.open(run), device=here, jobs=jobs_of(jobs))
        printing.failures(counted, of=run.name if len(runs) > 1 else "")
        shown[str(run.absolute())] = counted.shown
    return [unit for unit in units if unit.checkpoint.seed in shown[unit.run]]


def _print_left_out(rows: "pd.DataFrame") -> None:
    """Name the probes of the recipes that a run was not asked, such as those of tags in a control run."""
    from mechocl.probing import recipe

    for (run, name), own in rows.groupby(["run", "recipe"], sort=False):
        missing = [probe.name for probe in recipe.load(str(name)) if probe.name not in set(own["probe"])]
        if missing:
            print(f"not asked of {run}: {', '.join(missing)}; it lacks the subsets that they compare")


def _print_and_draw(
    rows: "pd.DataFrame", out: Path, *, units: "Sequence[Unit]" = (), gaps: "pd.DataFrame | None" = None
) -> None:
    """Print the grid of each probe, and write the page into the folder `out`."""
    from mechocl.commands import printing
    from mechocl.probing.summaries import probe_grids
    from mechocl.report import page, probe_page

    grids = probe_grids(rows)
    printing.probes(grids)
    out.mkdir(parents=True, exist_ok=True)
    page.write(probe_page.probe_report(grids, rows, units=units, gaps=gaps), out / "probes.html")
