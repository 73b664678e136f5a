"""What `make docs` adds to the pages of docs/: notebooks as tutorials, the reference, and pages from outside docs/. A hook of MkDocs.

Links that lead out of docs/ are made to lead to the site's own pages where it has them, and to the repository where not. Diagrams are
shown as the pictures that `docs.write.diagrams` has drawn of them, for a page that draws them itself asks another host for a program.
"""

import posixpath
import re
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docs.write import reference
from docs.write.diagrams import picture_of
from docs.write.places import ADDRESS, DOCS
from docs.write.tutorials import tutorials

ROOT: Final = DOCS.parent

OUTSIDE: Final = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Page of the site → file of the repository that it shows."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the two parts of the navigation that follow the repository."""
    filled: dict[str, list[Any]] = {
        "Tutorials": [{one.title: one.path} for one in tutorials()],
        "Reference": [{page.title: page.path} for page in reference.pages()],
    }
    config.nav = [
        {name: filled.get(name, inner)} for part in config.nav or [] for name, inner in part.items()
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    for page, name in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for tutorial in tutorials():
        files.append(File.generated(config, tutorial.path, content=tutorial.text))
        for place, picture in tutorial.pictures.items():
            files.append(File.generated(config, place, content=picture))
    for written in reference.pages():
        files.append(File.generated(config, written.path, content=written.text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show diagrams as pictures, and mend the links that lead out of docs/."""
    here = page.file.src_uri
    of_root = OUTSIDE.get(here)
    base = posixpath.dirname(of_root or f"docs/{here}")
    if here.startswith("tutorials/"):
        base = "notebooks"
    shown = {name: page_name for page_name, name in OUTSIDE.items()}
    shown |= {
        f"notebooks/{Path(name).stem}.ipynb": name for name in files.src_uris if name.startswith("tutorials/")
    }

    pictures = {posixpath.basename(place) for one in tutorials() for place in one.pictures}

    def mended(found: re.Match[str]) -> str:
        target, _, anchor = found[2].partition("#")
        if not target or target in pictures or re.match(r"[a-z]+:", target):
            return found[0]
        path = posixpath.normpath(posixpath.join(base, target))
        inside = path.removeprefix("docs/") if path.startswith("docs/") else shown.get(path, "")
        if inside in files.src_uris and not inside.endswith((".csv", ".parquet")):
            target = posixpath.relpath(inside, posixpath.dirname(here) or ".")
        elif (ROOT / path).exists():
            target = f"{ADDRESS}/blob/main/{path}"
        return f"{found[1]}{target}{'#' * bool(anchor)}{anchor})"

    markdown = re.sub(r"(\]\()([^)\s]+)\)", mended, markdown)
    return re.sub(
        r"^```mermaid\n(.*?)^```$",
        lambda found: f"![{page.file.name}: diagram]({picture_of(found[1]).relative_to(DOCS)}){{ .diagram }}",
        markdown,
        flags=re.MULTILINE | re.DOTALL,
    )


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Take the program with which the search works from disk from the site itself. Raises PluginError if it is asked for elsewhere."""
    return _own_search(output, posixpath.relpath(_SHIM, posixpath.dirname(page.url) or "."))


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """The same for pages without Markdown, such as 404.html."""
    return _own_search(output_content, _SHIM) if template_name.endswith(".html") else output_content


def _own_search(html: str, place: str) -> str:
    html = re.sub(r"https://unpkg\.com/iframe-worker/shim", place, html)
    if asked := re.search(
        r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(https?://[^"'\s>]+\.(?:js|css|woff2?|png|svg))""",
        html,
    ):
        raise PluginError(f"a page of the site would ask another host: {asked[1]}")
    return html


_SHIM: Final = "javascripts/iframe-worker.js"
