"""Which functions of ours run during a call, and whether a revision of code covers them."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

from mechocl.analyses.revision import PACKAGES, Code

ROOT = Path(__file__).parent.parent.parent
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def traced(call: Callable[[], Any]) -> set[CodeType]:
    """The code of all our functions that run, without that of modules."""
    files = {str(path) for path in SOURCES}
    found: set[CodeType] = set()

    def trace(frame: Any, event: str, argument: object) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename in files and code.co_name != "<module>":
            found.add(code)

    before = sys.getprofile()
    sys.setprofile(trace)
    try:
        call()
    finally:
        sys.setprofile(before)
    return found


def executed(call: Callable[[], Any]) -> set[tuple[str, str]]:
    """(module, outermost function or class) of everything of ours that runs."""
    return outermost(traced(call))


def outermost(codes: set[CodeType]) -> set[tuple[str, str]]:
    """(module, outermost function or class) of some code."""
    return {(module_of(code), code.co_qualname.split(".")[0]) for code in codes}


def module_of(code: CodeType) -> str:
    path = Path(code.co_filename).relative_to(ROOT).with_suffix("")
    return ".".join(path.parts).removesuffix(".__init__")


def edited_source(source: str, code: CodeType) -> str | None:
    """The source of a module with one more statement in the function that has this code. None for a lambda and the like."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first == code.co_firstlineno and node.body[-1].lineno > node.lineno:
                lines = source.splitlines(keepends=True)
                lines.insert(node.body[-1].lineno - 1, " " * node.body[-1].col_offset + "edited = 1\n")
                return "".join(lines)
    return None


def uncovered(ran: set[tuple[str, str]], code: Code) -> set[tuple[str, str]]:
    return {one for one in ran if one[0] not in code.modules and ":".join(one) not in code.definitions}
