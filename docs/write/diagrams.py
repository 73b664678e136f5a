"""Draw the diagrams of docs/*.md as pictures for the site: `python -m docs.write.diagrams mermaid.min.js`.

The program is that of the npm package mermaid (`npm pack mermaid`, `dist/mermaid.min.js`). A picture's name has a checksum of its
diagram's text, so that the site cannot show an old one: `make docs` ends where a picture is missing.
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final

import tyro

from docs.write.places import DOCS
from mechocl.files import write_text

_SETTINGS: Final = {
    "startOnLoad": False,
    "theme": "neutral",
    "fontFamily": "sans-serif",
    "htmlLabels": False,
    "flowchart": {"htmlLabels": False},
}


def diagrams() -> list[str]:
    """The texts of all diagrams in docs/*.md."""
    return [
        text
        for path in sorted(DOCS.glob("*.md"))
        for text in re.findall(
            r"^```mermaid\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
    ]


def picture_of(diagram: str) -> Path:
    """Where the picture of a diagram lies."""
    return DOCS / "images" / f"diagram-{hashlib.sha256(diagram.encode()).hexdigest()[:12]}.svg"


def main(program: Annotated[Path, tyro.conf.Positional], chromium: str = "/usr/bin/chromium") -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.set_content("<!doctype html>")
        tab.add_script_tag(path=program)
        tab.evaluate("settings => mermaid.initialize(settings)", _SETTINGS)
        for old in (DOCS / "images").glob("diagram-*.svg"):
            old.unlink()
        for number, text in enumerate(diagrams()):
            drawn = tab.evaluate(
                "async ([name, text]) => (await mermaid.render(name, text)).svg", [f"diagram{number}", text]
            )
            write_text(picture_of(text), drawn + "\n")
            print(f"written: {picture_of(text)}")
        browser.close()


if __name__ == "__main__":
    tyro.cli(main)
