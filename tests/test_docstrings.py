"""Docstrings name modules and what is in them as they are called now."""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("mechocl", "probes", "toy_models")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
STEMS = {name.rsplit(".", 1)[-1] for name in MODULES} - {"__main__"}
"""Last parts of the names of modules: what a dotted name in a docstring may begin with."""


def strings(source: str) -> Iterator[tuple[int, str]]:
    """Line and text of every string that is a statement: docstrings of modules, classes, functions and fields."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


def named(text: str) -> list[str]:
    """Dotted names in backticks that begin with a package or a module of ours, as `edges.patch_paths`."""
    found = re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+)(?:\(.*?\))?`", text)
    return [
        name
        for name in found
        if name.split(".")[0] in STEMS and name not in KEYS and not name.endswith(ENDINGS)
    ]


ENDINGS = (".toml", ".py", ".json", ".csv", ".html", ".parquet", ".safetensors", ".md", ".j2")

KEYS = {"task.world", "training.stages.N.evaluations"}
"""Keys of recipes, which look like names of modules."""


def leads_somewhere(name: str) -> bool:
    """Whether a module of ours ends with the first parts of the name, and has what the last parts say."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        prefix = ".".join(parts[:n])
        for module in MODULES:
            if not f".{module}".endswith(f".{prefix}"):
                continue
            found = importlib.import_module(module)
            instance = getattr(found, prefix.capitalize(), None)  # `run.seed`: of a Run
            if _has(found, parts[n:]) or (instance is not None and _has(instance, parts[n:])):
                return True
    return False


def _has(thing: ModuleType | type, path: list[str]) -> bool:
    for part in path:
        fields = getattr(thing, "__annotations__", {})
        if not hasattr(thing, part) and part not in fields:
            return False
        thing = getattr(thing, part, None)  # type: ignore[assignment]
    return True


@pytest.mark.parametrize("module", MODULES)
def test_what_docstrings_name_exists(module: str) -> None:
    source = MODULES[module].read_text(encoding="utf-8")
    wrong = [
        f"{MODULES[module].relative_to(ROOT)}:{line}: {name}"
        for line, text in strings(source)
        for name in named(text)
        if not leads_somewhere(name)
    ]
    assert not wrong, "\n".join(wrong)


def test_what_does_not_exist_is_found() -> None:
    assert named("`edges.patch_paths` and `edges.gone`, `table.csv`, `run.seed(0)`, `np.ndarray`") == [
        "edges.patch_paths",
        "edges.gone",
        "run.seed",
    ]
    assert leads_somewhere("edges.patch_paths")
    assert leads_somewhere("mechocl.runs.run.Run.open")
    assert leads_somewhere("run.seed")
    assert leads_somewhere("circuits.CircuitConfig.along")
    assert not leads_somewhere("edges.gone")
    assert not leads_somewhere("run.gone")
