"""The reference of the site: a page for the front door, and one for each wing, from docstrings. mkdocstrings fills them."""

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import mechocl
from docs.write.places import DOCS

ROOT: Final = DOCS.parent

LEFT_OUT: Final = ("commands", "report")
"""Wings without a page: their functions are for the command line and the pages. Figures have one."""


@dataclass(frozen=True, slots=True)
class Written:
    """One page of the reference."""

    path: str
    """Its place in the site."""
    title: str
    """Its name in the navigation."""
    text: str
    """Its Markdown."""


def pages() -> list[Written]:
    """All pages of the reference: the front door, the figures, the wings, and the two packages beside the laboratory."""
    wings = sorted(path.parent for path in (ROOT / "mechocl").glob("*/__init__.py"))
    figures = [f"mechocl.report.{name}" for name in mechocl._NAMES["mechocl.report"]]
    return [
        Written("reference/index.md", "import mechocl", _front_door()),
        _page("toy_models", _modules(ROOT / "toy_models")),
        _page("probes", _modules(ROOT / "probes")),
        *(_page(f"mechocl.{wing.name}", _modules(wing)) for wing in wings if wing.name not in LEFT_OUT),
        _page("figures", [*figures, "mechocl.report.explorer.notebook"]),
        _page("mechocl.errors", ["mechocl.errors"]),
    ]


def _front_door() -> str:
    """What each name of `import mechocl` is, in a line, with a link to all that its docstring says."""
    lines = [
        "# import mechocl",
        "",
        "Every name that the front door offers. It is loaded when it is first used.",
        "",
        "| name | what it is |",
        "|---|---|",
    ]
    for module, names in mechocl._NAMES.items():
        for name in sorted(names):
            where = f"{module}.{name}"
            shown = _first_line(where if module == "mechocl.report" else module, name)
            lines.append(f"| [`mechocl.{name}`][{where}] | {shown.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def _first_line(module: str, name: str) -> str:
    """The first sentence of a docstring, read from the source: of a module, or of what it defines."""
    tree = ast.parse(_path(module).read_text(encoding="utf-8"))
    nodes = [tree, *(node for node in tree.body if getattr(node, "name", "") == name)]
    text = ast.get_docstring(nodes[-1]) or ""  # type: ignore[arg-type]
    return " ".join(text.split("\n\n")[0].split())


def _path(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _modules(folder: Path) -> list[str]:
    """The modules of a folder, by their names."""
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in sorted(folder.glob("*.py"))
        if not path.name.startswith("_")
    ]


def _page(name: str, modules: list[str]) -> Written:
    text = "\n\n".join(f"::: {module}" for module in modules)
    return Written(f"reference/{name}.md", name, f"# {name}\n\n{text}\n")
