"""Files hold one idea and functions one step of it: neither is longer than a reader takes in at once."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGES: Final = ("mechocl", "probes", "toy_models")
FILE_LINES: Final = 350
FUNCTION_LINES: Final = 60
"""Lines from `def` to the last statement, the docstring among them."""

LONGER: Final = {
    "toy_models/training.py: train_stage": "a training loop, which is read from top to bottom",
}
"""Functions that may be longer, each with its reason."""


def long_files(lines_of: dict[str, str]) -> list[str]:
    """Files with too many lines, as `name: count`. `lines_of`: name → text."""
    counts = {name: len(text.splitlines()) for name, text in lines_of.items()}
    return [f"{name}: {count}" for name, count in counts.items() if count > FILE_LINES]


def functions(name: str, text: str) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function of a file, methods and inner functions among them."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name}: {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every module of the three packages: its path from the root → its text."""
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def test_no_file_is_too_long(sources: dict[str, str]) -> None:
    assert len(sources) > 100
    assert long_files(sources) == []


def test_no_script_of_a_page_is_too_long() -> None:
    paths = [path for ending in ("js", "css") for path in sorted((ROOT / "mechocl").rglob(f"*.{ending}"))]
    assert len(paths) > 10
    assert long_files({path.name: path.read_text(encoding="utf-8") for path in paths}) == []


def test_no_function_is_too_long(sources: dict[str, str]) -> None:
    found = [entry for name, text in sources.items() for entry in functions(name, text)]
    assert len(found) > 1000
    assert [(name, lines) for name, lines in found if lines > FUNCTION_LINES and name not in LONGER] == []


def test_what_may_be_longer_is(sources: dict[str, str]) -> None:
    found = [entry for name, text in sources.items() for entry in functions(name, text)]
    assert set(LONGER) <= {name for name, lines in found if lines > FUNCTION_LINES}


def test_lines_are_counted() -> None:
    body = "    x = 1\n"
    text = 'def outer() -> None:\n    """Two lines\n    of words."""\n' + 56 * body + "    return\n"
    method = "class A:\n    def method(self) -> None:\n" + 60 * ("    " + body)
    assert dict(functions("a.py", text)) == {"a.py: outer": 60}
    assert dict(functions("b.py", method)) == {"b.py: method": 61}
    assert long_files({"short.py": "\n" * 350, "long.py": "\n" * 351}) == ["long.py: 351"]
