"""Recipes: a TOML file says everything about an experiment except its seeds and its machine."""

import dataclasses
import difflib
import functools
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from textwrap import shorten
from typing import Any, Final, Generic, TypeVar

import pydantic

from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.errors import MechoclError, nearest
from mechocl.runs import plain_values
from toy_models.architectures import ModelConfig
from toy_models.convnet_config import ConvNetConfig, refuse_stages
from toy_models.stages import TrainingConfig
from toy_models.worlds import DEFAULT, WORLDS

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe(Generic[Config]):
    """An experiment on a world on which models are trained from scratch (`toy_models.worlds`)."""

    description: str
    """One line for listings and reports."""
    task: Config
    """The world."""
    model: ModelConfig
    """The architecture."""
    training: TrainingConfig
    """The stages."""

    @property
    def small(self) -> bool:
        """Whether the model is so small that one thread computes it as fast as several do."""
        return self.model.resolve().d_model < 256

    @property
    def stackable(self) -> bool:
        """Whether several seeds can train together."""
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvNetRecipe(Recipe[Config]):
    """An experiment on a world of pictures, whose models are ConvNets."""

    model: ConvNetConfig  # type: ignore[assignment]
    """The shape of the ConvNet."""

    def __post_init__(self) -> None:
        refuse_stages(self.training.stages)


AnyRecipe = Recipe[Any] | ClosedBookRecipe
"""Any recipe that a run may have."""

_RECIPES: Final = (Recipe, ConvNetRecipe, ClosedBookRecipe)


def named() -> dict[str, Path]:
    """Name → file of the recipes of the integer-set task in the package, such as "integer-set/cpu"."""
    return _under("toy_models", "")


def named_closed_book() -> dict[str, Path]:
    """Name → file of the closed-book recipes in the package, such as "closed-book/two-stage"."""
    return _under("mechocl.closed_book", "closed-book/")


def _under(package: str, prefix: str) -> dict[str, Path]:
    root = Path(str(resources.files(package) / "recipes"))
    return {prefix + str(p.relative_to(root).with_suffix("")): p for p in sorted(root.rglob("*.toml"))}


def load_recipe(name: str, changes: tuple[str, ...] = ()) -> Recipe[Any]:
    """Read a recipe by name ("integer-set/cpu") or path, with `key=value` changes made.

    A change names a key with dots and gives a TOML value: `task.aliases=500`,
    `training.stages.1.epochs=20`, `task.word_order="VTE"` (quotes may be left out).
    Raises MechoclError, which names the file, the key and what was expected, for a recipe that is not valid.
    """
    recipe = None if name in named_closed_book() else _load(name, changes, named())
    if not isinstance(recipe, Recipe):
        raise MechoclError(f"{name} is a closed-book recipe; `mechocl finetune` trains those")
    return recipe


def load_closed_book_recipe(name: str, changes: tuple[str, ...] = ()) -> ClosedBookRecipe:
    """Read a closed-book recipe by name ("closed-book/two-stage") or path, with changes as for `load_recipe`.

    Raises MechoclError as `load_recipe` does.
    """
    other = MechoclError(
        f"{name} is a recipe of a model that is trained from scratch; `mechocl train` trains it"
    )
    if name in named():
        raise other
    values, source = _changed(name, changes, named_closed_book())
    if isinstance(values.get("task"), dict) and str(_world_of(values)) in WORLDS:
        raise other
    recipe = parse(values, source=source)
    assert isinstance(recipe, ClosedBookRecipe)
    return recipe


def load_any_recipe(name: str, changes: tuple[str, ...] = ()) -> AnyRecipe:
    """Read a recipe of either kind by name or path, with changes as for `load_recipe`.

    Raises MechoclError as `load_recipe` does.
    """
    return _load(name, changes, {**named(), **named_closed_book()})


def _load(name: str, changes: tuple[str, ...], known: Mapping[str, Path]) -> AnyRecipe:
    values, source = _changed(name, changes, known)
    return parse(values, source=source)


def _changed(name: str, changes: tuple[str, ...], known: Mapping[str, Path]) -> tuple[dict[str, Any], str]:
    """The values of a recipe's file with changes made, and where they come from in words."""
    values, path = read(name, known)
    for change in changes:
        _apply(values, change)
    return values, f"{path} with --set {' '.join(changes)}" if changes else str(path)


def _world_of(values: dict[str, Any]) -> Any:
    """What a recipe's values say of its world; the default where they do not name one."""
    task = values.get("task")
    return task.get("world", DEFAULT) if isinstance(task, dict) else DEFAULT


def change_recipe(recipe: AnyRecipe, changes: tuple[str, ...]) -> AnyRecipe:
    """The recipe with `key=value` changes made, which are written as for `load_recipe`.

    Raises MechoclError, which names the key, for a change that is not valid.
    """
    values = plain(recipe)
    for change in changes:
        _apply(values, change)
    return parse(values, source=f"the recipe with {' '.join(changes)}")


def read(name: str, known: Mapping[str, Path]) -> tuple[dict[str, Any], Path]:
    """The values of a TOML file, and its path. `name` is one of the `known` names, or a path.

    Raises MechoclError when there is no such file, or when it is not TOML.
    """
    path = known.get(name, Path(name))
    try:
        return plain_values.read_toml(path), path
    except FileNotFoundError:
        near = nearest(name, list(known))
        raise MechoclError(
            f"no recipe {plain_values.in_short(repr(name))}: not a file, and not one of {', '.join(known)}"
            + (f"; did you mean {near}?" if near else "")
        ) from None
    except IsADirectoryError:
        raise MechoclError(f"{path} is a folder; give a recipe file or one of {', '.join(known)}") from None


def parse(values: dict[str, Any], *, source: str) -> AnyRecipe:
    """The recipe that plain values describe.

    `task.world` names one of `toy_models.worlds.WORLDS` (by default the integer set), or a text world. Raises
    MechoclError, which names the key, for a value that is not valid.
    """
    task, name = values.get("task"), _world_of(values)
    if isinstance(name, str) and name in WORLDS:
        if isinstance(task, dict):
            values = values | {"task": {key: value for key, value in task.items() if key != "world"}}
        adapter: pydantic.TypeAdapter[Any] = _adapter(WORLDS[name].config)
    else:
        adapter = _CLOSED_BOOK
    recipe: AnyRecipe = checked(adapter, values, source=source)
    return recipe


def checked(adapter: Any, values: dict[str, Any], *, source: str) -> Any:
    """The object that a `pydantic.TypeAdapter` makes of plain values.

    Raises MechoclError, which names the key, for a value that is not valid.
    """
    plain_values.refuse_odd_values(values, source=source)
    try:
        # JSON is strict about types and still turns arrays into tuples and integers into floats
        return adapter.validate_json(json.dumps(values))
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise MechoclError(f"{source}: {_explain(first)}{more}") from None


def plain(recipe: AnyRecipe) -> dict[str, Any]:
    """The resolved recipe as plain values, which the manifest holds and `parse` reads."""
    adapter = _CLOSED_BOOK if isinstance(recipe, ClosedBookRecipe) else _adapter(recipe.task.__class__)
    values: dict[str, Any] = json.loads(adapter.dump_json(recipe, exclude_none=True))
    world = next((name for name, world in WORLDS.items() if type(recipe.task) is world.config), DEFAULT)
    if world != DEFAULT:
        values["task"] = {"world": world} | values["task"]
    return values


def strict(config: type) -> None:
    """Make pydantic refuse unknown keys, and numbers that are not finite, in this dataclass and in all dataclasses inside it."""
    config.__pydantic_config__ = pydantic.ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # type: ignore[attr-defined]


def _dataclasses_in(config: type, found: dict[str, type]) -> dict[str, type]:
    found[config.__name__] = config
    for field in dataclasses.fields(config):
        for kind in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                _dataclasses_in(kind, found)
    return found


def configs() -> dict[str, type]:
    """Every dataclass that a recipe consists of, of all worlds, by its name."""
    found: dict[str, type] = {}
    for root in (*_RECIPES, *(world.config for world in WORLDS.values())):
        _dataclasses_in(root, found)
    return found


for _config in configs().values():
    strict(_config)
_CLOSED_BOOK: Final[pydantic.TypeAdapter[Any]] = pydantic.TypeAdapter(ClosedBookRecipe)


@functools.cache
def _adapter(config: type) -> Any:
    """The pydantic adapter that reads and writes recipes of a world, whose config is of this class."""
    for held in _dataclasses_in(config, {}).values():
        strict(held)
    of_pictures = next(world for world in WORLDS.values() if world.config is config).model is ConvNetConfig
    return pydantic.TypeAdapter(ConvNetRecipe[config] if of_pictures else Recipe[config])


def _explain(error: Any) -> str:
    where = plain_values.in_short(".".join(str(part) for part in error["loc"]))
    if error["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        near = _nearest_key(tuple(map(str, error["loc"])))
        return f"unknown key {where!r}" + (f"; did you mean {near!r}?" if near else "")
    if error["type"] in ("missing", "missing_argument"):
        return f"the key {where!r} is missing"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "value_error":
        message = shorten(message, 300)
        return f"{where}: {message}" if where else message
    return f"{where}: {message[0].lower() + message[1:]}, not {plain_values.in_short(repr(error['input']))}"


def _nearest_key(place: tuple[str, ...]) -> str | None:
    """The whole key that is most like an unknown one: a field beside it, or else one of this name elsewhere in a recipe."""
    *holder, last = place
    known = [key for root in _RECIPES for key in _keys(root)]
    beside = [
        key[-1] for key in known if list(key[:-1]) == ["0" if part.isdecimal() else part for part in holder]
    ]
    elsewhere = {key[-1]: key for key in reversed(known)} if beside else {}
    for cutoff in (1.0, 0.6):  # the very name elsewhere comes before one that is only like it here
        if close := difflib.get_close_matches(last.strip(), beside, n=1, cutoff=cutoff):
            return ".".join([*holder, close[0]])
        if close := difflib.get_close_matches(last.strip(), list(elsewhere), n=1, cutoff=cutoff):
            return ".".join(elsewhere[close[0]])
    return None


def _keys(config: type, before: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The keys of all fields of a config and of those inside it; the entries of a list are all called 0."""
    found = []
    for field in dataclasses.fields(config):
        key = (*before, field.name)
        found.append(key)
        kinds = (field.type, *getattr(field.type, "__args__", ()))
        if field.type is Config:
            kinds = tuple(world.config for world in WORLDS.values())
        entry = ("0",) if getattr(field.type, "__origin__", None) is tuple else ()
        for kind in kinds:
            if isinstance(kind, type) and dataclasses.is_dataclass(kind):
                found += _keys(kind, (*key, *entry))
    return found


def _apply(values: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals:
        raise MechoclError(f"--set {change!r} has no '='; write key=value, for example task.aliases=500")
    *parents, last = key.split(".")
    holder: Any = values
    for part in parents:
        if isinstance(holder, list):
            if not part.isdecimal() or int(part) >= len(holder):
                raise MechoclError(
                    f"--set {key}: there is no entry {part!r}; entries count from 0 to {len(holder) - 1}"
                )
            holder = holder[int(part)]
        else:
            holder = holder.setdefault(part, {})
        if not isinstance(holder, dict | list):
            raise MechoclError(f"--set {key}: {part!r} is a value, not a table")
    if isinstance(holder, list):
        raise MechoclError(f"--set {key}: name a field of one entry, as in {'.'.join(parents)}.0.epochs")
    holder[last] = value(text)


def value(text: str) -> Any:
    """The value of a TOML text. A text that is not TOML is itself the value, as a word without quotes."""
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):  # ValueError: it is not TOML, or a number of very many digits
        return text
