"""What users give to public functions and configs: made into what is declared, or refused in one line.

A list stands for a tuple, one text for a tuple of texts, a text for a path, and None for the device `auto`. What counts
something (`counts`) is at least 1.
"""

import functools
import inspect
import re
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from mechocl.errors import MechoclError

Function = TypeVar("Function", bound=Callable[..., Any])

_WORDS: Final = {
    "Transformer": "a model (HookedTransformer or TransformerBridge)",
    "Task": "a task (run.seed(0).task, or mechocl.draw_task)",
    "Pairs": "pairs (mechocl.pairs_named or mechocl.given_pairs)",
    "Run": "a run (mechocl.open_run)",
    "DataFrame": "a table (DataFrame)",
    "str": "a text",
    "Path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "True or False",
    "tuple": "a tuple or a list",
    "Sequence": "a list",
    "Tensor": "a tensor",
    "NoneType": "None",
}
"""How a type is called in a message."""

_UNKNOWN: Final = object()

_COUNTS: Final = re.compile(r"n_\w+|\w+_per_\w+|most|batch_size|steps|edges|jobs|aliases|checkpoints")
"""Names of parameters that count something."""


def counts(name: str) -> bool:
    """Whether a parameter of this name counts something, of which there must be at least one."""
    return _COUNTS.fullmatch(name) is not None


def require_count(owner: str, name: str, given: Any) -> None:
    """Raise MechoclError for a count that is below 1. None, where it is taken, stands for no limit."""
    if isinstance(given, Real) and not isinstance(given, bool) and given < 1:
        raise MechoclError(f"{owner}: {name} is {given}; use at least 1")


def seed_number(given: Any, *, known: Collection[int] = (), owner: object = "") -> int:
    """A seed as an int, whatever kind of whole number it is.

    Raises MechoclError, which names the `owner`, for anything else, and for a seed that is none of the `known` ones.
    """
    before, there = f"{owner}: " if owner else "", ", ".join(map(str, known))
    if not isinstance(given, Integral) or isinstance(given, bool):
        raise MechoclError(
            f"{before}a seed is a whole number, not {_shown(given)}" + (f"; it has {there}" if known else "")
        )
    seed = int(given)
    if seed < 0:
        raise MechoclError(
            f"{before}a seed is 0 or more, not {seed}" + (f"; it has {there}" if known else "")
        )
    if known and seed not in known:
        raise MechoclError(f"{owner} has no seed {seed}; it has {there}")
    return seed


def settle(config: Any) -> None:
    """Make the fields of a frozen dataclass what they are declared to be; called in its `__post_init__`.

    Raises MechoclError for a value that cannot be what its field declares.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        given = getattr(config, field.name)
        found = _made(given, hints[field.name])
        if found is _UNKNOWN:
            raise MechoclError(_refusal(type(config).__name__, field.name, given, hints[field.name]))
        if found is not given:
            object.__setattr__(config, field.name, found)


def checked(function: Function) -> Function:
    """The function, which makes its arguments what they are declared to be.

    The function that is returned raises MechoclError for an argument that is missing, unknown or of another type.
    """
    signature = inspect.signature(function)
    hints = _hints(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            wanted = ", ".join(signature.parameters)
            raise MechoclError(f"{function.__name__}: {error}; its arguments are {wanted}") from None
        for name, given in bound.arguments.items():
            if counts(name):
                require_count(function.__name__, name, given)
        for name, given in bound.arguments.items():
            if name not in hints or signature.parameters[name].kind in (
                inspect.Parameter.VAR_KEYWORD,
                inspect.Parameter.VAR_POSITIONAL,
            ):
                continue
            hint = hints[name]
            if given is None and name == "device":
                given = "auto"
            bound.arguments[name] = _made(given, hint)
            if bound.arguments[name] is _UNKNOWN:
                raise MechoclError(_refusal(function.__name__, name, given, hint))
        return function(*bound.args, **bound.kwargs)

    return call  # type: ignore[return-value]


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The declared types; none where they name what is imported for type checkers alone."""
    try:
        return get_type_hints(function)
    except NameError:
        return {}


def _refusal(owner: str, name: str, given: Any, hint: Any) -> str:
    return f"{owner}: {name} is {_shown(given)}; it takes {_words(hint)}"


def _shown(given: Any) -> str:
    if hasattr(given, "shape") and hasattr(given, "dtype"):
        return f"{type(given).__name__} of shape {tuple(given.shape)} and {given.dtype}"
    return repr(given) if isinstance(given, str | int | float | bool | None) else type(given).__name__


def _words(hint: Any) -> str:
    """A type in words."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, inside)))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inside))
    name = getattr(origin or hint, "__name__", str(hint))
    return _WORDS.get(name, name)


def _made(given: Any, hint: Any) -> Any:
    """The value as its declared type; `_UNKNOWN` if it cannot be that. Types that cannot be looked at pass."""
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        tried = [_made(given, part) for part in inside]
        same = [one for one in tried if one is given]
        return same[0] if same else next((one for one in tried if one is not _UNKNOWN), _UNKNOWN)
    if origin is Literal:
        return (
            given if given is None or isinstance(given, str | int) else _UNKNOWN
        )  # functions name the words themselves
    if origin is tuple:
        return _tuple(given, inside)
    kind = origin or hint
    if not isinstance(kind, type) or hint is Any:
        return given
    if kind is str and isinstance(given, Path):
        return str(given)
    if kind is Path:
        return Path(given) if isinstance(given, str) else given if isinstance(given, Path) else _UNKNOWN
    if kind in (int, float):
        number = Integral if kind is int else Real
        fits = isinstance(given, number) and not isinstance(given, bool)
        return (given if isinstance(given, int | float) else kind(given)) if fits else _UNKNOWN
    if hasattr(given, "tolist") and issubclass(kind, Sequence):
        return given.tolist()
    if isinstance(given, str) and kind is not str and issubclass(kind, Collection):
        return [given] if inside == (str,) and not issubclass(kind, Mapping) else _UNKNOWN
    try:
        return given if isinstance(given, kind) else _UNKNOWN
    except TypeError:  # a protocol or a shape that cannot be looked at
        return given


def _tuple(given: Any, inside: tuple[Any, ...]) -> Any:
    """A tuple of a list, or of one text or number where many may stand; each part as it is declared."""
    if len(inside) != 2 or inside[1] is not Ellipsis:
        return given if isinstance(given, tuple) else tuple(given) if isinstance(given, list) else _UNKNOWN
    parts = [given] if isinstance(given, str | int | float) else given
    if not isinstance(parts, list | tuple | range):
        return _UNKNOWN
    made = tuple(_made(part, inside[0]) for part in parts)
    if any(part is _UNKNOWN for part in made):
        return _UNKNOWN
    return given if made == given else made
