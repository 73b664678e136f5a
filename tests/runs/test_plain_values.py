"""Hostile values at every place of every recipe: one line that names the place, quickly, or a recipe."""

import copy
import datetime
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny

from mechocl.errors import MechoclError
from mechocl.probing import recipe as probe_recipe
from mechocl.runs import plain_values, recipes

BAD: list[Any] = [
    {}, {"a": 1}, [], [1], [[1]], [{}], "", "x" * 10_000, True, 0, -1, 1.5, 10**12, 10**18, 10**400, -(10**30), 1e300,
    float("inf"), float("nan"), datetime.date(2026, 1, 1), datetime.time(1, 2), datetime.datetime(2026, 1, 1, 3),
    "\udcff", "a\0b", "two\nlines",
]  # fmt: skip
"""Values of every type that TOML has, and texts that come from a command line."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys of every value inside a value, from the outermost on."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inside:
        yield (*path, key)
        yield from places(one, (*path, key))


def with_value(values: dict[str, Any], path: tuple[Any, ...], bad: Any) -> dict[str, Any]:
    changed = copy.deepcopy(values)
    holder: Any = changed
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = bad
    return changed


def whole(text: str) -> dict[str, Any]:
    """A recipe's values with every key that it leaves to a default."""
    return recipes.plain(recipes.parse(tomllib.loads(text), source="recipe"))


def read_probes(values: dict[str, Any], *, source: str) -> Any:
    return recipes.checked(probe_recipe._ADAPTER, values, source=source)


KINDS = {
    "toy": (whole(tiny.TOML), recipes.parse),
    "closed-book": (whole(recipes.named_closed_book()["closed-book/biographies"].read_text()), recipes.parse),
    "probes": (tomllib.loads(tiny.PROBE), read_probes),
}


def refusal(read: Any, values: dict[str, Any]) -> str:
    """What is said about a recipe's values; "" if they are a recipe."""
    try:
        read(values, source="recipe.toml")
    except MechoclError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_at_every_place_is_one_line_or_a_recipe(kind: str) -> None:
    values, read = KINDS[kind]
    said = [refusal(read, with_value(values, path, bad)) for path in places(values) for bad in BAD]
    refused = [line for line in said if line]
    assert all(line.startswith("recipe.toml: ") for line in refused)
    assert all("\n" not in line and len(line) < 500 for line in refused)
    assert len(refused) > 0.75 * len(said) > 100
    assert refusal(read, values) == ""


DEEP = 5000
TEXTS = {
    "lists": b"a = " + b"[" * DEEP + b"]" * DEEP,
    "tables": b"a = " + b"{b = " * DEEP + b"1" + b"}" * DEEP,
    "keys": b".".join([b"a"] * DEEP) + b" = 1",
    "headers": b"[" + b".".join([b"a"] * DEEP) + b"]",
    "twice": b"a = 1\na = 2",
    "table twice": b"[task]\n[task]",
    "value and table": b"task = 1\n[task]\naliases = 3",
    "digits": b"a = " + b"9" * DEEP,
    "long line": b"a = " + b"x" * 100_000,
    "date": b"description = 2026-01-01",
    "not UTF-8": b"description = '\xff'",
    "UTF-16": "description = 'x'".encode("utf-16"),
    "NUL": b"description = '\0'",
    "escaped NUL": b'description = "\\u0000"',
    "surrogate": b'description = "\\ud800"',
    "empty": b"",
    "comment": b"# nothing",
    "JSON": b'{"description": "x"}',
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("load", [recipes.load_any_recipe, probe_recipe.load])
def test_a_hostile_file_is_one_line_that_names_it(tmp_path: Path, name: str, load: Any) -> None:
    path = tmp_path / "hostile.toml"
    path.write_bytes(TEXTS[name])
    with pytest.raises(MechoclError) as caught:
        load(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path))


@pytest.mark.parametrize("text", ["[" * DEEP + "]" * DEEP, "9" * DEEP, "\udcff", "9" * 17, "2026-01-01"])
@pytest.mark.parametrize("key", ["task.aliases", "task." * 100 + "x", "a." * DEEP + "x"])
def test_a_hostile_change_is_one_line(tmp_path: Path, text: str, key: str) -> None:
    with pytest.raises(MechoclError) as caught:
        tiny.recipe(tmp_path, f"{key}={text}")
    assert "\n" not in str(caught.value)


def test_what_is_refused_and_what_is_not() -> None:
    plain_values.refuse_odd_values({"a": [1.5, "ü", {"b": plain_values.LARGEST}], "c": True}, source="x")
    with pytest.raises(MechoclError, match=r"^x: a\.1\.b is an integer above 10\^15; give a smaller one$"):
        plain_values.refuse_odd_values({"a": [0, {"b": plain_values.LARGEST + 1}]}, source="x")
    with pytest.raises(
        MechoclError, match=r"^x: a is a date or a time, which no key takes; put a text in quotes$"
    ):
        plain_values.refuse_odd_values({"a": datetime.date(2026, 1, 1)}, source="x")
