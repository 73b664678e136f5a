"""The runs that the sections on dynamics, probes and features look into: both recipes, their controls, and another word order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

_OFTEN: Final = "training.stages.0.evaluations=48 training.stages.1.evaluations=40"
"""Many evaluations, for the section on dynamics. They do not change what is trained."""


@dataclass(frozen=True, slots=True)
class Inside:
    """One run, its name in the tables, and where it lies."""

    label: str
    folder: str
    """Its folder below runs/."""
    command: str = ""
    """The command that trains it. Empty for a control, which the command of its run trains, too."""

    @property
    def name(self) -> str:
        """The name of its folder, which is its name in a table of probes."""
        return Path(self.folder).name


def _with_control(recipe: str, control: str) -> tuple[Inside, Inside]:
    folder = f"inside-{recipe}"
    command = (
        f"mechocl controls integer-set/{recipe} --only {control} --seeds 8 --first-seed 200 --out runs/{folder} "
        f"--set {_OFTEN}"
    )
    control_run = Inside(f"{recipe}: {control}", f"{folder}/controls/{control}")
    return Inside(recipe, folder, command), control_run


def _with_order(recipe: str, order: str) -> Inside:
    folder = f"inside-{recipe}-{order}"
    return Inside(
        f"{recipe}: {order}",
        folder,
        f"mechocl train integer-set/{recipe} --set task.word_order={order} --seeds 8 --first-seed 200 --out runs/{folder}",
    )


RUNS: Final = (
    *_with_control("cpu", "noise"),
    _with_order("cpu", "VTE"),
    *_with_control("memorised", "unasked"),
    _with_order("memorised", "VTE"),
)

RECIPES: Final = tuple(one for one in RUNS if ":" not in one.label)
"""Those of the recipes as they are."""

CONTROLS: Final = tuple(one for one in RUNS if "/controls/" in one.folder)
"""The control of each recipe that decides whether its gap needs unreliability."""

LABELS: Final = {one.name: one.label for one in RUNS}
"""Name of the folder → label."""


def write_commands(runs: tuple[Inside, ...] = RUNS) -> list[str]:
    """The commands that train these runs, as lines of a page."""
    return [f"    {one.command}" for one in runs if one.command]


def file_name(label: str) -> str:
    """A run's label as a part of a file's name."""
    return label.replace(": ", "-").replace(" ", "-")
