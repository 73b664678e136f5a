"""The probe sweep over runs, seeds, checkpoints and recipes. Each unit is saved when it is finished; one table has all."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
from torch import Tensor

from mechocl import files
from mechocl.analyses import results
from mechocl.destinations import require_folder
from mechocl.errors import MechoclError
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs import activation_cache
from mechocl.runs.activation_cache import ActivationCache, Precision
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.processes import default_threads
from mechocl.runs.progress import Executor, Progress
from mechocl.runs.run import Run

Which = Literal["final", "stages", "all"]
"""Which checkpoints are probed: the last one, the last of each stage, or every one that training kept."""

WHERE: Final = ("run", "word_order", "recipe", "seed", "stage", "step", "epoch")
"""Columns of the table that say which unit a row belongs to."""

_UNITS: Final = "units.json"
"""The file beside a table that says which units it is of."""

_TABLE_EVERY_S: Final = 30.0
"""Seconds between two writings of the table while units are finished."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One checkpoint of one seed, and the probes of one recipe."""

    run: str
    checkpoint: Checkpoint
    config: ProbingConfig
    device: str
    cache_gb: float
    dtype: Precision
    attribute: str = ""
    """Which question of a closed-book run is probed. "" is the run's default."""

    def opened(self) -> Run:
        """The run, opened to look at the unit's question."""
        return Run.open(Path(self.run), attribute=self.attribute)

    @property
    def cache(self) -> ActivationCache:
        """Where its activations are kept."""
        return ActivationCache(run=Path(self.run), limit_gb=self.cache_gb, dtype=self.dtype)

    @property
    def name(self) -> str:
        c = self.checkpoint
        return _unit_name(self.config.recipe, Path(self.run).name, c.seed, c.stage, c.step)


def _unit_name(recipe: str, run: str, seed: int, stage: int, step: int) -> str:
    return f"{recipe}, {run} seed {seed}, stage {stage} step {step}"


def probe_unit(unit: Unit, progress: Progress) -> None:
    """Compute a unit if it is missing, and save it in the run, where a second try finds it."""
    run = unit.opened()
    progress("probing", 0.0)
    results.analyse_seed(
        run,
        run.seed(unit.checkpoint.seed),
        "probe",
        unit.config,
        stage=None,
        device=unit.device,
        checkpoint=unit.checkpoint,
        cache=unit.cache,
        progress=lambda share: progress("probing", share),
    )
    progress("done", 1.0)


def list_units(
    runs: Sequence[Path],
    *,
    recipes: Sequence[str],
    checkpoints: Which,
    seeds: Sequence[int] | None,
    config: ProbingConfig,
    device: str,
    cache_gb: float,
    dtype: Precision,
    attribute: str = "",
) -> list[Unit]:
    """Everything that a sweep computes, in order.

    `seeds`: None takes all seeds that were trained to the end. `attribute`: which question of closed-book runs is
    probed; "" takes each run's default.

    Raises MechoclError when a run or a seed is missing, when two runs have the same name, when the limit is negative,
    and when an attribute is given for a run that has none.
    """
    if not cache_gb >= 0:
        raise MechoclError(f"--cache-gb {cache_gb:g}: give GB, 0 or more (0: keep nothing)")
    if len({path.name for path in runs}) < len(runs):
        raise MechoclError(
            "two of the runs have the same name; the table tells them apart by it, so rename one"
        )
    found = []
    for path in runs:
        run = Run.open(path, attribute=attribute)
        if not run.kind.takes(run, "probe"):
            run.kind.require_transformers(run, "a probe sweep")
        folders = run.finished_seeds()
        if seeds is not None:
            absent = set(seeds) - {folder.seed for folder in folders}
            if absent:
                raise MechoclError(
                    f"{path} has no trained seed {min(absent)}; it has {', '.join(str(f.seed) for f in folders)}"
                )
            folders = [folder for folder in folders if folder.seed in seeds]
        for recipe in recipes:
            own = replace(config, recipe=recipe)
            for folder in folders:
                for checkpoint in chosen_checkpoints(folder, checkpoints):
                    where = (device, cache_gb, dtype, attribute)
                    found.append(Unit(str(path.absolute()), checkpoint, own, *where))
    return found


def chosen_checkpoints(folder: SeedFolder, which: Which) -> list[Checkpoint]:
    """Checkpoints of a seed in the order of training."""
    stages = range(1, len(folder.recipe.training.stages) + 1)
    if which == "final":
        return [folder.final()]
    if which == "stages":
        return [folder.final(stage) for stage in stages]
    return folder.checkpoints()


def sweep_probes(wanted: Sequence[Unit], *, out: Path, executor: Executor) -> pd.DataFrame:
    """Compute the units that are missing. Write `out/table.parquet`, again and again while units are finished.

    A sweep that was killed goes on with the missing units. Returns the table: the rows of `probing.probe.probe`, with
    the columns of `WHERE` in front, and for closed-book runs the `attribute`.

    Raises MechoclError when `out` holds the table of a sweep with units that are not `wanted`: of other options, or of
    more runs, seeds or checkpoints. Such a table would be lost.
    """
    _keep_other_table(out, wanted)
    for folder in {out, *(Path(unit.run) for unit in wanted)}:
        files.remove_temporary(folder)
    missing = [unit for unit in wanted if not _saved(unit)]
    last = time.monotonic()
    for folder in (out, *{Path(unit.run) for unit in missing}):
        require_folder(folder)

    def stream(*_: Any) -> None:
        nonlocal last
        if time.monotonic() - last > _TABLE_EVERY_S:
            files.write_table(out / "table.parquet", sweep_table(wanted))
            last = time.monotonic()

    if missing:
        with executor.workers(len(missing), device=missing[0].device) as workers:
            workers.map(
                probe_unit,
                missing,
                names=[unit.name for unit in missing],
                title=f"probing {len(wanted)} checkpoints, {len(missing)} to do",
                threads=workers.threads or default_threads(missing[0].opened().recipe, workers.slots),
                done=stream,
            )
    found = sweep_table(wanted)
    files.write_table(out / "table.parquet", found)
    return found


def _keep_other_table(out: Path, wanted: Sequence[Unit]) -> None:
    """Record which units the table in `out` is of. Raises MechoclError when a table of others would be lost."""
    units = {_identity(unit) for unit in wanted}
    table = out / "table.parquet"
    if (out / "manifest.json").exists():
        raise MechoclError(f"{out} is a run or a sweep; choose another --out, for example {out / 'probes'}")
    if table.exists():
        remedy = f"choose another --out, or delete {table}"
        before = (
            files.read_json(out / _UNITS, remedy=remedy)["units"]
            if (out / _UNITS).exists()
            else [["a version that kept no list"]]
        )
        if lost := {tuple(one) for one in before} - units:
            raise MechoclError(
                f"{out} holds probes that this command would replace ({len(lost)} of {len(before)}, such as "
                f"{min(lost)[0]}); {remedy}"
            )
    files.write_json(out / _UNITS, {"units": sorted(units)})


def _identity(unit: Unit) -> tuple[str, str]:
    """What a unit is called, and a hash of everything that decides about its rows."""
    known = {
        **asdict(unit.config),
        "run": Path(unit.run).name,
        "dtype": unit.dtype,
        "attribute": unit.attribute,
    }
    return unit.name, files.fingerprint(known)


def sweep_table(wanted: Sequence[Unit]) -> pd.DataFrame:
    """The rows of the finished units, each unit once."""
    parts = []
    for unit in dict.fromkeys(wanted):
        opened = unit.opened()
        rows = opened.load_result("probe", _key(opened, unit))
        if rows is not None:
            c = unit.checkpoint
            where: dict[str, Any] = {
                "run": Path(unit.run).name,
                "word_order": opened.recipe.task.word_order,
                "recipe": unit.config.recipe,
                "seed": c.seed,
                "stage": c.stage,
                "step": c.step,
                "epoch": _epoch(opened, c),
            }
            if attribute := opened.seed(c.seed).attribute:
                where["attribute"] = attribute
            parts.append(rows.drop(columns="seed").assign(**where))
    if not parts:
        return pd.DataFrame(columns=[*WHERE])
    found = pd.concat(parts, ignore_index=True)
    return found[[*WHERE, *(column for column in found if column not in WHERE)]]


def probe_directions(unit: Unit) -> dict[str, Tensor]:
    """The probe directions of a finished unit (`probing.probe`)."""
    opened = unit.opened()
    return opened.load_arrays("probe", _key(opened, unit))


def read_table(path: Path) -> pd.DataFrame:
    """Read the table of a sweep from its file or its folder.

    Raises MechoclError when it is not such a table, and when a sweep that was stopped has written only a part of it.
    """
    file = path / "table.parquet" if path.is_dir() else path
    found = files.read_table(
        file,
        remedy="give one that `mechocl probe` wrote, or run the same `mechocl probe` again, which writes it again",
        what="a table of a probe sweep",
        columns=(*WHERE, "probe", "control", "auc"),
    )
    if (file.parent / _UNITS).exists():
        remedy = f"restore it, or delete {file} and run the same `mechocl probe` again"
        wanted = [name for name, _ in files.read_json(file.parent / _UNITS, remedy=remedy)["units"]]
        parts = found[["recipe", "run", "seed", "stage", "step"]].drop_duplicates().itertuples(index=False)
        missing = sorted(set(wanted) - {_unit_name(*part) for part in parts})
        if missing:
            raise MechoclError(
                f"{file} is unfinished: {len(missing)} of {len(wanted)} checkpoints are missing, such as {missing[0]}; run the "
                "same `mechocl probe` again, which writes it again"
            )
    return found


def kept_gb(runs: Sequence[Path]) -> float:
    """GB of activations that the runs keep on the disk."""
    return sum(activation_cache.size(path) for path in runs) / 1e9


def _key(opened: Run, unit: Unit) -> dict[str, Any]:
    folder = opened.seed(unit.checkpoint.seed)
    return results.result_key(folder, "probe", unit.config, None, unit.checkpoint, unit.cache)


def _saved(unit: Unit) -> bool:
    opened = unit.opened()
    return opened.load_result("probe", _key(opened, unit)) is not None


def _epoch(opened: Run, checkpoint: Checkpoint) -> float:
    """Epoch of the stage at a checkpoint."""
    stage = opened.recipe.training.stages[checkpoint.stage - 1]
    last = opened.seed(checkpoint.seed).final(checkpoint.stage).step
    return stage.epochs * checkpoint.step / last
