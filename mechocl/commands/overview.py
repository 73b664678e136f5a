"""The help of the whole command line and of its groups, and the version. Nothing heavy is imported for them."""

import ast
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from mechocl import __version__

_PACKAGES: Final = ("torch", "transformer-lens", "sae-lens")
"""Packages whose versions decide about numbers."""


def version_line() -> str:
    """The version of mechocl, and of the packages that decide about numbers."""
    return f"mechocl {__version__} ({', '.join(f'{name} {_version(name)}' for name in _PACKAGES)})"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def overview(commands: Mapping[str, str], groups: Mapping[str, str], *, group: str = "") -> str:
    """The help of the whole command line, or of one group: a line for each command.

    `commands`: name → "module:function"; `groups`: name → its line. Commands of a group have its name in front.
    """
    lines: dict[str, str] = {}
    for name, where in commands.items():
        first, _, rest = name.partition(" ")
        if group and first == group:
            lines[rest] = summary(where)
        elif not group:
            lines[first] = groups[first] if rest else summary(where)
    width = max(map(len, lines))
    title = groups[group] if group else "A laboratory for out-of-context (implicit meta-) learning."
    return "\n".join(
        [
            f"usage: mechocl {group + ' ' if group else ''}COMMAND ...",
            "",
            title,
            "",
            *(f"  {name:<{width}}  {line}" for name, line in lines.items()),
            "",
            f"mechocl {group + ' ' if group else ''}COMMAND --help explains a command, with two examples."
            + ("" if group else " mechocl --version names the versions."),
        ]
    )


def summary(where: str) -> str:
    """The first line of a command's docstring, read from its source, for importing the module takes seconds."""
    module, _, function = where.partition(":")
    path = Path(__file__).parent / f"{module}.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise AssertionError(f"{path} has no function {function}")
