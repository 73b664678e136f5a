"""The arguments of a command, read from its signature: what the parser checks, and what the tests walk."""

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import tyro

_WORDS: Final = {int: "a whole number", float: "a number", str: "a word", Path: "a path"}
"""Type of a value → what it is called."""

Takes = Literal["nothing", "one", "many", "lists"]
"""How many words an option takes; `lists` are many words, and the option may be repeated."""


@dataclass(frozen=True, slots=True)
class Option:
    """One argument of a command."""

    flag: str
    """`--n-pairs`; of a positional argument its metavar, `RUN`."""
    kind: Any
    """Its type without what tyro is told of it."""
    default: Any
    """Its default. It is `inspect.Parameter.empty` or `dataclasses.MISSING` if there is none."""
    place: int | None
    """Which positional argument it is; None for an option."""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default in (inspect.Parameter.empty, dataclasses.MISSING)

    @property
    def takes(self) -> Takes:
        """How many words it takes."""
        if self.kind is bool:
            return "nothing"
        depth = 0
        kind = self.kind
        while typing.get_origin(kind) is tuple:
            kind, depth = typing.get_args(kind)[0], depth + 1
        return ("one", "many", "lists")[depth]

    @property
    def flags(self) -> tuple[str, ...]:
        """All words of the command line that name it; none for a positional argument."""
        if self.place is not None:
            return ()
        return (self.flag, f"--no-{self.flag[2:]}") if self.kind is bool else (self.flag,)

    @property
    def choices(self) -> tuple[str, ...]:
        """The values among which one chooses; () if other values are possible."""
        inner = self._inner()
        return tuple(map(str, typing.get_args(inner))) if typing.get_origin(inner) is Literal else ()

    @property
    def value(self) -> str:
        """What one of its values is, in words."""
        return _WORDS.get(self._inner(), "a value")

    def fits(self, word: str) -> bool:
        """Whether a word is a value of its type."""
        if self.choices:
            return word in self.choices
        inner = self._inner()
        if inner not in (int, float) or (word == "None" and self._may_be_none()):
            return True
        try:
            inner(word)
        except ValueError:
            return False
        return True

    def _inner(self) -> Any:
        """The type of one of its values."""
        kind = self.kind
        while typing.get_origin(kind) is tuple:
            kind = typing.get_args(kind)[0]
        if typing.get_origin(kind) in (types.UnionType, typing.Union):
            kind = next(one for one in typing.get_args(kind) if one is not type(None))
        return kind

    def _may_be_none(self) -> bool:
        return type(None) in typing.get_args(self.kind)


@functools.cache
def options_of(command: Callable[..., None]) -> tuple[Option, ...]:
    """Every argument of a command: its parameters, and the fields of those that are dataclasses, in their order."""
    hints = typing.get_type_hints(command, include_extras=True)
    found: list[tuple[str, Any, Any]] = []
    for name, parameter in inspect.signature(command).parameters.items():
        kind, _ = _bare(hints[name])
        if not dataclasses.is_dataclass(kind):
            found.append((name, hints[name], parameter.default))
            continue
        inner = typing.get_type_hints(kind, include_extras=True)
        defaults = None if parameter.default is inspect.Parameter.empty else parameter.default
        found += [
            (one.name, inner[one.name], getattr(defaults, one.name, one.default))
            for one in dataclasses.fields(typing.cast(Any, kind))
        ]
    options = []
    places = iter(range(len(found)))
    suppressed = _bare(tyro.conf.Suppress[str])[1][0]
    for name, hint, default in found:
        kind, told = _bare(hint)
        if suppressed in told:
            continue
        said = {
            key: value for one in told for key in ("name", "metavar") if (value := getattr(one, key, None))
        }
        if tyro.conf.Positional in told:
            flag = said.get("metavar", name.upper()).split()[0]
            options.append(Option(flag, kind, default, next(places)))
        else:
            options.append(Option("--" + said.get("name", name).replace("_", "-"), kind, default, None))
    return tuple(options)


def _bare(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without its annotations, and the annotations."""
    if typing.get_origin(hint) is Annotated:
        return hint.__origin__, hint.__metadata__
    return hint, ()
