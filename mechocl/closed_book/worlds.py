"""The world of a recipe, and what distinguishes it and the model from others."""

import dataclasses
from pathlib import Path
from typing import Any, Final

from mechocl import files
from mechocl.closed_book import biographies
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.closed_book.world import World
from mechocl.errors import MechoclError
from mechocl.models import hub

RECORD: Final = "biographies.json"
"""File beside the weights of a model that was pretrained on the invented world: it says how that world was drawn."""


def build_world(recipe: ClosedBookRecipe) -> World:
    """The world of a recipe.

    Raises MechoclError for a database that cannot be used, and for an invented world other than the one that the
    recipe's model was pretrained on.
    """
    task = recipe.task
    refuse_file(task)
    if task.world == "cvdb":
        from mechocl.closed_book import cvdb

        return cvdb.load(Path(task.file), cvdb.CvdbConfig(entities=task.entities))
    if task.world == "trex":
        from mechocl.closed_book import trex

        return trex.load(Path(task.file), trex.TrexConfig(entities=task.entities))
    path = Path(recipe.model).expanduser() / RECORD
    if path.exists():
        known = files.read_json(path)
        if known != drawing_record(task.biographies, task.biographies_seed):
            raise MechoclError(
                f"{path} says that the model knows another invented world ({_difference(known, task)}); set "
                "task.biographies and task.biographies_seed to the values in that file"
            )
    return biographies.world(task.biographies, seed=task.biographies_seed)


def corpus(recipe: ClosedBookRecipe) -> list[str]:
    """The texts that the recipe's model was pretrained on. Raises MechoclError as `refuse_replay` does."""
    refuse_replay(recipe)
    task = recipe.task
    return biographies.corpus(task.biographies, seed=task.biographies_seed)


def refuse_replay(recipe: ClosedBookRecipe) -> None:
    """Raise MechoclError when a stage replays texts, and the world is not an invented one, whose texts can be drawn."""
    world = recipe.task.world
    for number, stage in enumerate(recipe.training.stages):
        if stage.replay and world != "biographies":
            raise MechoclError(
                f"training.stages.{number}.replay is {stage.replay:g}, and the texts that a model of the world {world} was pretrained on are not known; leave "
                "replay out, or use the world biographies"
            )


def refuse_file(task: ClosedBookConfig) -> None:
    """Raise MechoclError when the world needs a database and none is named, or it does not exist."""
    if task.world == "biographies":
        return
    if not task.file:
        raise MechoclError(
            f"world {task.world} needs a database, which you must get yourself; name it with --set task.file=PATH"
        )
    if not Path(task.file).exists():
        raise MechoclError(
            f"task.file is {task.file}, which does not exist; give the database of {task.world}"
        )


def drawing_record(config: BiographiesConfig, seed: int) -> dict[str, Any]:
    """The content of the file `RECORD`."""
    return dataclasses.asdict(config) | {"seed": seed}


def _difference(known: dict[str, Any], task: Any) -> str:
    own = drawing_record(task.biographies, task.biographies_seed)
    return ", ".join(
        f"{key} {known.get(key)}, not {value}" for key, value in own.items() if known.get(key) != value
    )


def fingerprint(recipe: ClosedBookRecipe) -> dict[str, str]:
    """What a run begins with: the fingerprint of its model (`hub.fingerprint_model`), and path → sha256 of the files of
    its database."""
    found = hub.fingerprint_model(recipe.model)
    file = Path(recipe.task.file) if recipe.task.file else None
    if file is not None:
        parts = sorted(file.glob("*.json")) if file.is_dir() else [file]
        found |= {str(path): files.sha256(path) for path in parts if path.is_file()}
    return found
