"""Which code a result comes from: a hash of everything of ours that the functions behind it use.

In the module of a function, the function's own definition counts, and so do the definitions that it names. The
modules that these import count as a whole, and so do all modules that these import in turn, also inside functions.
Comments, docstrings, blank lines and the ends of lines do not count, so an edit of prose keeps the revision.
Every other edit of a module that counts changes the revision, even a new line break.

Some modules do not count, since they compute nothing: the package's own `__init__`, the front door, which names everything, and
those that say how objects look in a notebook.
"""

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec
from typing import Any, Final

PACKAGES: Final = ("mechocl", "probes", "toy_models")
"""The packages whose code counts."""

_COMPUTES_NOTHING: Final = frozenset({"mechocl", "mechocl.runs.overview", "toy_models.shown"})
"""Modules that do not count."""

_TOKEN: Final = re.compile(
    r"""
    \#[^\n]*
    | [A-Za-z]{0,2} (?: \"\"\"(?:[^\\]|\\.)*?\"\"\" | '''(?:[^\\]|\\.)*?''' )
    | [A-Za-z]{0,2} (?: "(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*' )
    """,
    re.VERBOSE | re.DOTALL,
)
"""Comments and string literals."""

_BLANK: Final = re.compile(r"[ \t]*\n(?:[ \t]*\n)*")
_IMPORT: Final = re.compile(
    r"^[ \t]*((?:from[ \t]+[\w.]+[ \t]+)?import\b[ \t]*(?:\([^)]*\)|[^\n]*))", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Code:
    """The code that a result comes from."""

    modules: frozenset[str]
    """Names of the modules that count as a whole."""
    definitions: frozenset[str]
    """Definitions that count by themselves, as `module:name`."""
    sha256: str

    @property
    def revision(self) -> str:
        """The short form of the hash that stands in the keys of results."""
        return self.sha256[:16]


def follow_code(*functions: Callable[..., Any]) -> Code:
    """The code that some functions or classes use. A process reads it once, until `forget_sources` is called.

    The functions and classes must stand at the top level of their modules.
    """
    return _code_of(functions)


def forget_sources() -> None:
    """Have the sources read anew. This is for a session in which modules were edited and loaded again."""
    for cached in (_code_of, _module, _opened, _spec):
        cached.cache_clear()


@functools.cache
def _code_of(functions: tuple[Callable[..., Any], ...]) -> Code:
    definitions: dict[str, str] = {}
    imported: set[str] = set()
    for function in functions:
        module = function.__module__
        found, below = _reached(module, function.__qualname__)
        definitions |= {f"{module}:{name}": text for name, text in found.items()}
        imported |= below
    modules = _followed(imported)
    parts = [f"{name}\n{text}" for name, text in sorted(definitions.items())]
    parts += [f"{name}\n{_module(name).text}" for name in sorted(modules)]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return Code(frozenset(modules), frozenset(definitions), digest)


def read_source(module: str) -> str:
    """The source of one of our modules."""
    spec = _spec(module)
    assert spec is not None, f"there is no module {module}"
    assert isinstance(spec.loader, InspectLoader), f"the source of {module} cannot be read"
    source = spec.loader.get_source(module)
    assert source is not None, (
        f"{module} is installed without its source, so its results cannot be told apart"
    )
    return source


def without_prose(source: str) -> str:
    """Source without comments, strings that are statements (docstrings), blank lines and the ends of lines."""
    source += "\n"
    kept: list[str] = []
    pending = ""  # code since the last string that is kept; blanks within a string stay
    depth = end = 0
    for match in _TOKEN.finditer(source):
        between = source[end : match.start()]
        end = match.end()
        pending += between
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        if match[0].startswith("#"):
            continue
        begins = not source[source.rfind("\n", 0, match.start()) + 1 : match.start()].strip(" \t")
        ends = source[end : source.index("\n", end)].split("#")[0].strip() == ""
        if not (depth == 0 and begins and ends):
            kept += [_BLANK.sub("\n", pending), match[0]]
            pending = ""
    kept.append(_BLANK.sub("\n", pending + source[end:]))
    return "".join(kept).strip()


# --------------------------------------------------------------------------------------- modules


@dataclass(frozen=True, slots=True)
class _Module:
    text: str
    """Its source without prose."""
    imports: frozenset[str]
    """Our modules that it imports anywhere, and the packages that these are in."""


@functools.cache
def _module(name: str) -> _Module:
    source = read_source(name)
    text = without_prose(source)
    try:
        tree = ast.parse("\n".join(match[1] for match in _IMPORT.finditer(text)))
    except SyntaxError:  # a line of a longer string looks like an import
        tree = ast.parse(source)
    found = {one for _, names in _imports(tree, name) for one in names}
    return _Module(text, frozenset(_with_packages(found)))


@functools.cache
def _spec(module: str) -> ModuleSpec | None:
    return importlib.util.find_spec(module)


def _is_module(package: str, name: str) -> bool:
    """Whether a name that is imported from a package is a module. A module that is no package is not imported for this."""
    found = _spec(package)
    inside = found is not None and found.submodule_search_locations is not None
    return inside and _spec(f"{package}.{name}") is not None


def _followed(names: Iterable[str]) -> set[str]:
    """The modules, and all modules that they import."""
    found: set[str] = set()
    todo = set(_with_packages(names))
    while todo:
        name = todo.pop()
        found.add(name)
        todo |= _module(name).imports - found
    return found


def _with_packages(names: Iterable[str]) -> Iterator[str]:
    """The modules, and the packages that they are in, except for those that compute nothing."""
    for name in set(names) - _COMPUTES_NOTHING:
        parts = name.split(".")
        packages = (".".join(parts[: n + 1]) for n in range(len(parts)))
        yield from (package for package in packages if package not in _COMPUTES_NOTHING)


def _imports(tree: ast.AST, module: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names that import statements bind, and our modules that each name stands for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if _ours(alias.name):
                    yield alias.asname or alias.name.split(".")[0], (alias.name,)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import, which is not followed"
            if _ours(node.module or ""):
                base = str(node.module)
                for alias in node.names:
                    inner = (f"{base}.{alias.name}",) if _is_module(base, alias.name) else (base,)
                    yield alias.asname or alias.name, inner


def _ours(module: str) -> bool:
    return module.split(".")[0] in PACKAGES


# ----------------------------------------------------------------------------- definitions of one module


@dataclass(frozen=True, slots=True)
class _Opened:
    """A module, split into its definitions."""

    source: str
    definitions: Mapping[str, ast.stmt]
    bound: Mapping[str, frozenset[str]]
    """Names that the import statements at its top level bind, and our modules that they stand for."""


@functools.cache
def _opened(module: str) -> _Opened:
    source = read_source(module)
    tree = ast.parse(source)
    bound: dict[str, frozenset[str]] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for label, modules in _imports(statement, module):
                bound[label] = bound.get(label, frozenset()) | set(modules)
    return _Opened(source, _definitions(tree), bound)


def _reached(module: str, name: str) -> tuple[dict[str, str], set[str]]:
    """The definitions that one definition of a module names, including itself, and the modules that they import."""
    opened = _opened(module)
    own = opened.definitions
    assert name in own, f"{name} does not stand at the top of {module}"
    found: dict[str, str] = {}
    imported: set[str] = set()
    todo = {name}
    while todo:
        label = todo.pop()
        found[label] = without_prose(_text(opened.source, own[label]))
        for node in ast.walk(own[label]):
            if isinstance(node, ast.Name):
                imported |= opened.bound.get(node.id, frozenset())
                todo |= {node.id} & (own.keys() - found.keys())
        imported |= {one for _, modules in _imports(own[label], module) for one in modules}
    return found, imported


def _definitions(tree: ast.Module) -> Mapping[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def _text(source: str, node: ast.stmt) -> str:
    decorators = node.decorator_list if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
    first = min([node.lineno, *(one.lineno for one in decorators)])
    return "\n".join(source.splitlines()[first - 1 : node.end_lineno])
