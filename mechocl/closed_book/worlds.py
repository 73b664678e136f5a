"""The world of a recipe, and what distinguishes it and the model from others."""

import dataclasses
from pathlib import Path
from typing import Any, Final

from mechocl import files
from mechocl.closed_book import biographies, miniature
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.miniature import MiniatureConfig
from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.closed_book.world import World
from mechocl.errors import MechoclError
from mechocl.models import hub

RECORD: Final = "biographies.json"
"""File beside the weights of a model that was pretrained on an invented world: it says how that world was drawn."""

InventedConfig = BiographiesConfig | MiniatureConfig
"""The config of an invented world."""

INVENTED: Final = ("biographies", "miniature")
"""The invented worlds. A task has the config of each under its name."""


def build_world(recipe: ClosedBookRecipe) -> World:
    """The world of a recipe.

    Raises MechoclError for a database that cannot be used, and for an invented world other than the one that the
    recipe's model was pretrained on.
    """
    task = recipe.task
    refuse_file(recipe)
    if task.world == "cvdb":
        from mechocl.closed_book import cvdb

        return cvdb.load(file_of(recipe), cvdb.CvdbConfig(entities=task.entities))
    if task.world == "trex":
        from mechocl.closed_book import trex

        return trex.load(file_of(recipe), trex.TrexConfig(entities=task.entities))
    if task.world == "facts":
        from mechocl.closed_book import facts

        facts.refuse_other_model(file_of(recipe), recipe.model)
        return facts.world(facts.read_facts(file_of(recipe)))
    path = Path(recipe.model).expanduser() / RECORD
    if path.exists():
        known = files.read_json(path)
        if (of := known.get("world", "biographies")) != task.world:
            raise MechoclError(
                f"{path} says that the model knows the world {of}, not {task.world}; give a model that was pretrained on {task.world}"
            )
        config = config_of(task)
        known = (
            drawing_record(type(config)(), 0) | known
        )  # a setting that is newer than the file had its default
        if known != drawing_record(config, task.biographies_seed):
            raise MechoclError(
                f"{path} says that the model knows another invented world ({_difference(known, task)}); set "
                f"task.{task.world} and task.biographies_seed to the values in that file"
            )
    return draw_world(config_of(task), seed=task.biographies_seed)


def config_of(task: ClosedBookConfig) -> InventedConfig:
    """The config of a task's invented world."""
    found: InventedConfig = getattr(task, task.world)
    return found


def draw_world(config: InventedConfig, *, seed: int) -> World:
    """An invented world."""
    if isinstance(config, MiniatureConfig):
        return miniature.world(config, seed=seed)
    return biographies.world(config, seed=seed)


def draw_corpus(config: InventedConfig, *, seed: int) -> list[str]:
    """The texts of an invented world, that a model is pretrained on."""
    if isinstance(config, MiniatureConfig):
        return miniature.corpus(config, seed=seed)
    return biographies.corpus(config, seed=seed)


def corpus(recipe: ClosedBookRecipe) -> list[str]:
    """The texts that the recipe's model was pretrained on, or, of real facts, true texts about the entities. Raises MechoclError as
    `refuse_replay` does."""
    refuse_replay(recipe)
    task = recipe.task
    if task.world == "facts":
        from mechocl.closed_book import facts

        return facts.corpus(facts.read_facts(file_of(recipe)))
    return draw_corpus(config_of(task), seed=task.biographies_seed)


def refuse_replay(recipe: ClosedBookRecipe) -> None:
    """Raise MechoclError when a stage replays texts, and the world has none: it is neither invented nor one of real facts."""
    world = recipe.task.world
    for number, stage in enumerate(recipe.training.stages):
        if stage.replay and world not in (*INVENTED, "facts"):
            raise MechoclError(
                f"training.stages.{number}.replay is {stage.replay:g}, and the texts that a model of the world {world} was pretrained on are not known; leave "
                "replay out, or use an invented world or facts"
            )


def file_of(recipe: ClosedBookRecipe) -> Path:
    """The database of a recipe, with the last part of the model's name in the place of `{model}`."""
    return Path(recipe.task.file.replace("{model}", Path(recipe.model).name)).expanduser()


def refuse_file(recipe: ClosedBookRecipe) -> None:
    """Raise MechoclError when the world needs a database and none is named, or it does not exist."""
    task = recipe.task
    if task.world in INVENTED:
        return
    path = file_of(recipe)
    if task.world == "facts" and not (task.file and path.exists()):
        there = f"task.file is {path}, which does not exist" if task.file else "world facts needs a file"
        raise MechoclError(
            f"{there}; ask the model for the facts first: mechocl data facts --model {recipe.model} --out {path if task.file else 'FILE'}"
            + ("" if task.file else ", and give it with --set task.file=FILE")
        )
    if not task.file:
        raise MechoclError(
            f"world {task.world} needs a database, which you must get yourself; name it with --set task.file=PATH"
        )
    if not path.exists():
        raise MechoclError(f"task.file is {path}, which does not exist; give the database of {task.world}")


def drawing_record(config: InventedConfig, seed: int) -> dict[str, Any]:
    """The content of the file `RECORD`. One that names no world is of the biographies."""
    named = {"world": "miniature"} if isinstance(config, MiniatureConfig) else {}
    return named | dataclasses.asdict(config) | {"seed": seed}


def _difference(known: dict[str, Any], task: Any) -> str:
    own = drawing_record(config_of(task), task.biographies_seed)
    return ", ".join(
        f"{key} {known.get(key)}, not {value}" for key, value in own.items() if known.get(key) != value
    )


def fingerprint(recipe: ClosedBookRecipe) -> dict[str, str]:
    """What a run begins with: the fingerprint of its model (`hub.fingerprint_model`), and path → sha256 of the files of
    its database."""
    found = hub.fingerprint_model(recipe.model)
    file = file_of(recipe) if recipe.task.file else None
    if file is not None:
        parts = sorted(file.glob("*.json")) if file.is_dir() else [file]
        found |= {str(path): files.sha256(path) for path in parts if path.is_file()}
    return found
