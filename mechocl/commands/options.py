"""The options that several commands share, each declared once, and what their values stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from mechocl.errors import MechoclError
from mechocl.runs.progress import Executor

if TYPE_CHECKING:
    from mechocl.behaviour.counted import CountedSeeds
    from mechocl.runs.run import Run

Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    tyro.conf.arg(help="Where to compute. auto takes a GPU if there is one."),
]
"""The option `--device`."""

Attribute = Annotated[
    str,
    tyro.conf.arg(
        help="Which question of a closed-book run is looked at, such as birth. By default it is the one with the most even answers."
    ),
]
"""The option `--attribute`."""

SeedList = Annotated[
    str,
    tyro.conf.arg(
        help="Which seeds of the run are used, such as 0,1,2. By default all that learned their definitions."
    ),
]
"""The option `--seeds` of a run that is trained already. `numbers` reads it."""

SaveEvery = Annotated[
    float,
    tyro.conf.arg(
        help="Seconds between resume points. So much training is lost at most when the process is killed."
    ),
]
"""The option `--save-every`. `seconds_of` reads it."""

Changes = Annotated[
    tuple[tuple[str, ...], ...],  # `--set a=1 b=2` and `--set a=1 --set b=2` say the same
    tyro.conf.arg(
        name="set",
        metavar="KEY=VALUE ...",
        help="Changes to the recipe, such as task.aliases=500 or training.stages.0.epochs=10.",
    ),
    tyro.conf.UseAppendAction,
]
"""The option `--set`. `joined` reads it."""

PositionalRun = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
PositionalRecipe = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """On which device the work is done, and how many jobs are done at a time."""

    device: Device = "auto"
    jobs: int = 0
    """How many seeds, runs or checkpoints are computed at a time. 0 takes one per core on a CPU, and one on a GPU."""

    def resolved_device(self) -> str:
        """The device that `--device` means on this machine: cpu or cuda. Raises MechoclError when the machine lacks it."""
        from mechocl.models import seam

        return seam.resolve_device(self.device)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where(Computing):
    """The run that is looked at, and how it is computed."""

    run: PositionalRun
    """Folder of a run."""
    stage: int | None = None
    """After which stage of training the model is looked at, from 1. By default it is the last stage."""
    attribute: Attribute = ""

    def opened(self) -> "Run":
        """Open the run to look at the attribute. Raises MechoclError when the run does not have the stage."""
        from mechocl.runs.run import Run

        run = Run.open(self.run, attribute=self.attribute)
        n_stages = len(run.recipe.training.stages)
        if self.stage is not None and not 1 <= self.stage <= n_stages:
            raise MechoclError(f"--stage {self.stage}: {self.run} has stages 1 to {n_stages}")
        return run


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereSeeds(Where):
    """The run and the seeds that are looked at, and how they are computed."""

    seeds: SeedList = "all"

    def chosen(self, run: "Run", counted: "CountedSeeds") -> tuple[int, ...]:
        """The seeds of `--seeds`: of `all`, those that count (`CountedSeeds.shown`); otherwise those that are named.

        Raises MechoclError when the run has not trained one of them to the end.
        """
        return chosen_seeds(self.seeds, run, counted)


def chosen_seeds(given: str, run: "Run", counted: "CountedSeeds | None") -> tuple[int, ...]:
    """The seeds that `--seeds` means: those that are named, or of `all` those that count (`CountedSeeds.shown`); where nothing is counted,
    all that were trained.

    Raises MechoclError when the run has not trained one of them to the end.
    """
    there = tuple(folder.seed for folder in run.finished_seeds())
    if given == "all":
        return there if counted is None else counted.shown
    seeds = numbers(given)
    if missing := set(seeds) - set(there):
        raise MechoclError(f"--seeds {given}: {run.path} has no trained seed {min(missing)}")
    return seeds


@dataclass(frozen=True, slots=True, kw_only=True)
class WhereSae(WhereSeeds):
    """The run and one of its sparse autoencoders, and how they are computed."""

    sae: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SAE")]
    """Name of an SAE of the run, or a folder in which SAELens saved an SAE."""
    transfer: bool = False
    """Use an SAE also on weights that it was not trained on. The rows and the page say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedRange:
    """Which seeds are trained."""

    seeds: int = 4
    """Number of seeds that are trained. A sweep trains as many of each setting."""
    first_seed: int = 0
    """Number of the first seed. The next seeds follow it without gaps."""

    def numbers(self) -> tuple[int, ...]:
        """The numbers of the seeds. Raises MechoclError when there would be no seed."""
        from mechocl.runs.train_toy import seeds_from

        return seeds_from(self.seeds, self.first_seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Whether the work is done here or on a cluster."""

    on: Literal["here", "ray"] = "here"
    """here computes in processes of this machine. ray computes in tasks of Ray, on many machines that share the folders."""
    address: str = ""
    """Address of Ray's head as host:port, or auto for a head on this machine. By default a Ray is started here."""
    gpus_per_task: float = 0.0
    """How many GPUs a task on Ray gets. Under 1, several tasks share a GPU."""

    def executor(self, jobs: int) -> Executor:
        """The executor that runs the jobs, as many at a time. Raises MechoclError when options do not go together."""
        from mechocl.runs import on_ray

        return on_ray.executor_named(
            self.on, address=self.address, gpus_per_task=self.gpus_per_task, jobs=jobs_of(jobs)
        )


def jobs_of(count: int) -> int | None:
    """`--jobs` as a number. None means that the number is chosen later. Raises MechoclError when it is below 0."""
    if count < 0:
        raise MechoclError(f"--jobs {count}: give the number of seeds at a time, or 0 to have it chosen")
    return count or None


def seconds_of(save_every: float) -> float:
    """`--save-every` in seconds. Raises MechoclError when it is not 0 or more."""
    if not save_every >= 0:
        raise MechoclError(f"--save-every {save_every}: give seconds, 0 or more")
    return save_every


def listed(values: Sequence[str]) -> tuple[str, ...]:
    """Split values that may be written with commas: `("a,b", "c")` → `("a", "b", "c")`."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def joined(groups: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Join the values of an option that may be repeated: `(("a", "b"), ("c",))` → `("a", "b", "c")`."""
    return tuple(value for group in groups for value in group)


def numbers(text: str) -> tuple[int, ...]:
    """Read seeds that are written as `0,1,2`. Raises MechoclError when the text is anything else."""
    parts = listed((text,))
    if not parts or not all(part.isdecimal() for part in parts):
        raise MechoclError(f"--seeds {text}: give seeds as 0,1,2, or all")
    return tuple(dict.fromkeys(map(int, parts)))
