"""The texts in the code that tell their reader to do something with files, folders and commands."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

_TO_DO: Final = re.compile(
    r"\b(again|another (--out|place)|continue it|convert|copy|correct it|delete|download|free some|iconv|"
    r"install|log in|reset_hooks|make this|merge|move|pip|put the|remove|rename|reset|restore|save (a|it|the)|stop it|"
    r"train one|upgrade|wait)\b|(raise|give|keep nothing with) --|`mechocl"
)
"""Words of what is to be done. Where only another value is to be given, none of them stands."""


def advice() -> Iterator[tuple[str, str]]:
    """Place in the code, and text with `…` for what is filled in, of each such text that is no docstring."""
    for package in ("mechocl", "probes", "toy_models"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            for node in _texts(tree):
                text = _filled(node)
                if _TO_DO.search(text):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def _texts(tree: ast.AST) -> Iterator[ast.Constant | ast.JoinedStr]:
    inner = {
        id(child)
        for node in ast.walk(tree)
        for child in (node.values if isinstance(node, ast.JoinedStr) else [getattr(node, "value", None)])
        if isinstance(node, ast.JoinedStr | ast.Expr)
    }
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.JoinedStr) or (
            isinstance(node, ast.Constant) and isinstance(node.value, str)
        )
        if is_text and id(node) not in inner:
            yield node  # type: ignore[misc]


def _filled(node: ast.Constant | ast.JoinedStr) -> str:
    if isinstance(node, ast.Constant):
        return str(node.value)
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
