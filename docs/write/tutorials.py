"""The notebooks as pages of the site: what they say, do and show, with figures as pictures."""

import functools
import json
import posixpath
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from docs.write.places import DOCS

NOTEBOOKS: Final = DOCS.parent / "notebooks"

_BEST_FIRST: Final = ["image/svg+xml", "image/png", "text/html", "text/markdown", "image/jpeg", "text/plain"]
"""Kinds of output, in the order in which the page prefers them: a picture needs no program."""


@dataclass(frozen=True, slots=True)
class Tutorial:
    """A notebook as a page."""

    notebook: Path
    """The file."""
    title: str
    """Its first heading."""
    text: str
    """Its Markdown."""
    pictures: dict[str, bytes]
    """Place in the site → content, of the pictures that the page shows."""

    @property
    def path(self) -> str:
        """Its place in the site."""
        return f"tutorials/{self.notebook.stem}.md"


@functools.cache
def tutorials() -> tuple[Tutorial, ...]:
    """All notebooks, in the order of their numbers. Raises ValueError for one without a heading."""
    return tuple(_page(path) for path in sorted(NOTEBOOKS.glob("*.ipynb")))


def title_of(notebook: Path) -> str:
    """The first heading of a notebook. Raises ValueError if it has none."""
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and (found := re.search(r"^# (.+)", text, re.MULTILINE)):
            return found[1].strip()
    raise ValueError(f"{notebook.name} has no heading")


def _page(notebook: Path) -> Tutorial:
    from nbconvert import MarkdownExporter
    from traitlets.config import Config

    settings = Config()
    settings.NbConvertBase.display_data_priority = _BEST_FIRST
    text, resources = MarkdownExporter(config=settings).from_filename(str(notebook))
    pictures: dict[str, bytes] = {}
    for name, content in (resources.get("outputs") or {}).items():
        own = f"{notebook.stem}-{posixpath.basename(name)}"
        text = text.replace(f"({name})", f"({own})")
        pictures[f"tutorials/{own}"] = content
    # the page's own heading is its title, and scoped styles of tables would show as text
    text = re.sub(r"<style scoped>.*?</style>\n?", "", text, flags=re.DOTALL)
    note = f"*This page is the notebook `notebooks/{notebook.name}`, with what it printed.*"
    text = re.sub(r"^(# .+)$", rf"\1\n\n{note}", text, count=1, flags=re.MULTILINE)
    return Tutorial(notebook, title_of(notebook), text, pictures)
