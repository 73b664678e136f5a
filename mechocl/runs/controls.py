"""Control runs: the same experiment without unreliable definitions.

A gap between tags may come from what tag 2 stands before and not from its being unreliable. A control run is a run of
the same recipe in which the stage-1 definitions with tag 2 contradict no question (`toy_models.subsets.Unreliable`), or
in which both tags are right equally often. The same seeds draw the same aliases, entities and other definitions, so a run
and its controls are paired by seed.

Where the aliases of tag 2 are not asked about, stage 1 has fewer examples. A control is therefore trained in two ways: at
*equal exposure*, with the same number of epochs, so that each question is seen as often as in the run itself; and at
*equal steps*, with more epochs, so that the number of optimiser steps is that of the run itself.

The control runs of a run lie in its folder: RUN/controls/NAME. They are ordinary runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mechocl.closed_book.stages import FinetuneStage
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from mechocl.runs.kinds import CONTROLS_FOLDER
from mechocl.runs.recipes import AnyRecipe
from mechocl.runs.run import Run, kind_of
from toy_models.stages import StageConfig
from toy_models.subsets import Unreliable

FOLDER: Final = CONTROLS_FOLDER
"""Folder inside a run that holds its control runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """One way to run an experiment without its supposed cause."""

    name: str
    unreliable: Unreliable
    """What the stage-1 definitions with tag 2 are."""
    equal_steps: bool = False
    """Whether stages that train on stage-1 data have as many steps as in the run itself. If not, they have as many
    epochs."""
    tag_reliability: float | None = None
    """The control's α; None keeps the recipe's."""
    meaning: str
    """What is the case in the control, for tables and pages."""


CONTROLS: Final[dict[str, Control]] = {
    c.name: c
    for c in (
        Control(name="noise", unreliable="noise", meaning="tag 2 before noise, about aliases never asked about"),
        Control(
            name="noise-equal-steps", unreliable="noise", equal_steps=True,
            meaning="tag 2 before noise, about aliases never asked about; as many steps as the run",
        ),
        Control(
            name="unasked", unreliable="unasked",
            meaning="tag 2 before fixed definitions of aliases never asked about",
        ),
        Control(
            name="unasked-equal-steps", unreliable="unasked", equal_steps=True,
            meaning="tag 2 before fixed definitions of aliases never asked about; as many steps as the run",
        ),
        Control(name="consistent", unreliable="consistent", meaning="tag 2 as reliable as tag 1"),
        Control(
            name="half", unreliable="inconsistent", tag_reliability=0.5,
            meaning="both tags right half of the time (α = 0.5)",
        ),
    )
}  # fmt: skip
"""The controls by name."""


def is_control(recipe: AnyRecipe) -> bool:
    """Whether the recipe is itself a control: no definition with tag 2 is there to contradict questions."""
    unreliable: str = recipes.plain(recipe)["task"].get("unreliable", "inconsistent")
    return unreliable != "inconsistent"


def is_control_run(run: Run) -> bool:
    """Whether a run is a control run: by its recipe, or because it lies among the controls of another run."""
    return is_control(run.recipe) or run.path.resolve().parent.name == FOLDER


def control_recipe(recipe: AnyRecipe, control: Control) -> AnyRecipe:
    """The recipe of a control run of a recipe.

    Raises MechoclError for a recipe that is itself a control, since its gap does not come from unreliable definitions; for a
    recipe that the control does not differ from; and for a recipe whose first stage ends at a definition loss, since a
    control's definitions come to that loss at another time or never.
    """
    if is_control(recipe):
        raise MechoclError(
            "this recipe is itself a control, since its task.unreliable is not inconsistent; give the recipe of the experiment"
        )
    changes = [f'task.unreliable="{control.unreliable}"']
    if control.tag_reliability is not None:
        changes.append(f"task.tag_reliability={control.tag_reliability}")
    stages: Sequence[StageConfig | FinetuneStage] = recipe.training.stages
    changed = recipes.change_recipe(recipe, tuple(changes))
    if changed == recipe:
        raise MechoclError(f"the control {control.name} of this recipe is the recipe itself; leave it out")
    if any(1 in stage.data and stage.stop_at_definition_loss for stage in recipe.training.stages):
        raise MechoclError(
            "a stage of this recipe ends at a definition loss, which its controls reach at another time or never; give it "
            "a number of epochs (stop_at_definition_loss=0)"
        )
    if not control.equal_steps:
        return changed
    epochs = tuple(
        f"training.stages.{index}.epochs={_epochs(stage, recipe, changed, index)}"
        for index, stage in enumerate(stages)
        if 1 in stage.data
    )
    return recipes.change_recipe(changed, epochs)


def _epochs(stage: StageConfig | FinetuneStage, recipe: AnyRecipe, changed: AnyRecipe, index: int) -> int:
    """Epochs with which a stage of the changed recipe has as many steps as in the recipe, to the nearest epoch."""
    kind = kind_of(recipe)
    steps, fewer = (math.ceil(kind.count_examples(r, index) / stage.batch_size) for r in (recipe, changed))
    return max(1, round(stage.epochs * steps / fewer))


def control_path(run: Path, name: str) -> Path:
    """Folder of a control run. Raises MechoclError when no control has this name."""
    if name not in CONTROLS:
        raise MechoclError(f"there is no control {name!r}; there are {', '.join(CONTROLS)}")
    return run / FOLDER / name


def open_controls(run: Run) -> dict[str, Run]:
    """The control runs that lie in a run's folder, by name, in the order of `CONTROLS`.

    Raises MechoclError when one of them is not the control of this run's recipe, because a difference from it would not
    show what its name says.
    """
    found = {}
    for name, control in CONTROLS.items():
        path = control_path(run.path, name)
        if not (path / "manifest.json").exists():
            continue
        opened = Run.open(path, attribute=run.attribute)
        if opened.recipe != control_recipe(run.recipe, control):
            raise MechoclError(
                f"{path} is not the control {name!r} of {run.path}: its recipe differs in more than that; delete it, and "
                "train it with `mechocl controls`"
            )
        found[name] = opened
    return found
