"""The settings of a sweep: what `--over` names, as recipes. Each of them trains other models than the rest."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Final

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from mechocl.runs.needed_memory import require_recipe_memory
from mechocl.runs.recipes import Recipe
from mechocl.runs.sweep_folder import looked_up

TRAINS_NOTHING: Final = ("description", "evaluations", "evaluates_first", "checkpoints")
"""Fields of a recipe and of its stages that no weight depends on: prose, and what is looked at or kept on the way."""


def axis(text: str) -> tuple[str, tuple[str, ...]]:
    """The key and the texts of the values of an axis such as `task.aliases=500,1000`.

    Commas inside brackets do not separate values. Raises MechoclError for a text that is not an axis.
    """
    key, equals, values = text.partition("=")
    depth, parts = 0, [""]
    for character in values:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    parts = [part.strip() for part in parts]
    if not equals or not key or "" in parts:
        raise MechoclError(f"--over {text!r}: write key=value,value, for example task.aliases=500,1000")
    if len(set(parts)) < len(parts):
        raise MechoclError(f"--over {text!r} names a value twice")
    return key, tuple(parts)


def _axes(over: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
    """The axes. Raises MechoclError for a key that is there twice, and for one that no weight depends on."""
    axes = [axis(text) for text in over]
    keys = [key for key, _ in axes]
    if len(set(keys)) < len(keys):
        raise MechoclError(f"--over names {max(keys, key=keys.count)} twice; give all its values at once")
    for key in keys:
        if key.rpartition(".")[2] in TRAINS_NOTHING:
            raise MechoclError(
                f"--over {key}: the same models are trained whatever it is; leave it out, or write one value with --set"
            )
    return axes


def settings(
    recipe_name: str, changes: tuple[str, ...], over: Sequence[str], *, here: bool = True
) -> tuple[list[tuple[dict[str, Any], Recipe[Any]]], list[tuple[dict[str, Any], str]]]:
    """All settings, the product of the axes: those that are valid with their recipes, and the others with the reason.

    With `here`, they are trained on this machine, and those that do not fit into its memory are not valid.

    The values are those of the resolved recipes, so 1 is 1.0 for a field of real numbers. Raises MechoclError when the
    recipe itself is not valid, when none of its settings is or when a value is valid in none, and when two settings
    train the same models.
    """
    recipes.load_recipe(recipe_name, changes)
    axes = _axes(over)
    keys = [key for key, _ in axes]
    allowed, refused = [], []
    unfit: dict[tuple[str, str], str] = {}
    valid: set[tuple[str, str]] = set()
    trained: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for values in itertools.product(*(values for _, values in axes)):
        chosen = list(zip(keys, values, strict=True))
        pairs = [f"{key}={text}" for key, text in chosen]
        try:
            recipe = recipes.load_recipe(recipe_name, (*changes, *pairs))
        except MechoclError as error:
            refused.append(({key: recipes.value(text) for key, text in chosen}, str(error)))
            for one in chosen:
                unfit.setdefault(one, str(error))
            continue
        valid.update(chosen)
        plain = recipes.plain(recipe)
        setting = {key: looked_up(plain, key) for key in keys}
        twin, its = trained.setdefault(_what_trains(recipe), (pairs, plain))
        if twin != pairs:
            same = (
                "are the same setting; name it once"
                if its == plain
                else "train the same models; name one of them"
            )
            raise MechoclError(f"--over {' '.join(twin)} and {' '.join(pairs)} {same}")
        try:
            if here:
                require_recipe_memory(recipe)
        except MechoclError as error:
            refused.append((setting, str(error)))
            continue
        allowed.append((setting, recipe))
    for (
        one,
        why,
    ) in (
        unfit.items()
    ):  # a corner of a grid may be no recipe; a value that is none with any other is a mistake
        if one not in valid:
            raise MechoclError(why)
    if not allowed:
        raise MechoclError(refused[0][1])
    return allowed, refused


def _what_trains(recipe: Recipe[Any]) -> str:
    """A hash of all in a recipe that the weights of a seed depend on."""
    plain = recipes.plain(recipe)
    stages = [
        {key: value for key, value in stage.items() if key not in TRAINS_NOTHING}
        for stage in plain["training"]["stages"]
    ]
    return files.fingerprint(
        {
            "task": plain["task"],
            "model": dataclasses.asdict(recipe.model.resolve()),
            "training": plain["training"] | {"stages": stages},
        }
    )
