"""Plain values from outside, such as those of a TOML file: what no setting can hold is refused before it is looked at."""

import datetime
import tomllib
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

from mechocl.errors import MechoclError

_DEEPEST: Final = 20
"""Largest number of tables and lists inside one another. Recipes have five."""

LARGEST: Final = 10**15
"""Largest integer of a setting. Every integer up to it is exact in float64."""

_SHOWN: Final = 100
"""Largest number of characters of a value or a key that a message shows."""


def read_toml(path: Path) -> dict[str, Any]:
    """The values of a TOML file. Raises MechoclError when it is not TOML, and as `refuse_odd_values` does.

    Raises OSError when the file cannot be read.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise MechoclError(f"{path} is not a text file in UTF-8") from None
    except RecursionError:
        raise MechoclError(f"{path} is nested too deeply for a recipe") from None
    except ValueError as error:  # also of an integer of more digits than Python reads
        raise MechoclError(f"{path} is not valid TOML: {shorten(str(error), 2 * _SHOWN)}") from None
    refuse_odd_values(values, source=str(path))
    return values


def refuse_odd_values(values: dict[str, Any], *, source: str) -> None:
    """Raise MechoclError for values that no setting can hold, wherever they are.

    They are dates, texts that are not Unicode, integers above `LARGEST` and tables of tables of tables without end.
    `source` says in messages where the values come from.
    """
    for keys, value in _walk(values):
        where = f"{source}: {in_short('.'.join(map(str, keys)))}".encode(errors="backslashreplace").decode()
        if len(keys) > _DEEPEST:
            raise MechoclError(f"{where} is nested too deeply for a recipe")
        if isinstance(value, datetime.date | datetime.time):
            raise MechoclError(f"{where} is a date or a time, which no key takes; put a text in quotes")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise MechoclError(f"{where} is an integer above 10^15; give a smaller one")
        for text in (value, *keys[-1:]):
            if isinstance(text, str) and not _is_unicode(text):
                raise MechoclError(f"{where} holds a character that is not Unicode; write it in UTF-8")


def in_short(text: str) -> str:
    """A text of the user in one line of at most 100 characters, for a message."""
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _walk(values: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value, its keys from the outermost on. It needs no recursion, and goes one level deeper than it may."""
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), values)]
    while waiting:
        keys, value = waiting.pop()
        yield keys, value
        inside = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        waiting += [((*keys, key), one) for key, one in inside]


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text
