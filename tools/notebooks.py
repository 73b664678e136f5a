"""Execute the notebooks and keep their outputs, with a static picture of each figure: `python tools/notebooks.py [NAME …]`.

Figures are kept as numbers, which pages with plotly's extension draw, and as PNG, which every other page shows; plotly's script, 4.8 MB, is left
out. The pictures are drawn by Chromium. Metadata is set to what is always the same, so a second run changes outputs alone.
"""

import base64
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from playwright.sync_api import Page, sync_playwright
from plotly.offline import get_plotlyjs

ROOT = Path(__file__).parent.parent
FIGURE = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
TIMEOUT = 1200
"""Seconds that a cell may take."""

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

_DRAW = """async (figure) => {
  const layout = {...figure.layout, width: figure.layout.width || 900, height: figure.layout.height || 450};
  const place = document.body.appendChild(document.createElement("div"));
  await Plotly.newPlot(place, figure.data, layout, {staticPlot: true});
  const url = await Plotly.toImage(place, {format: "png", width: layout.width, height: layout.height, scale: 1.5});
  place.remove();
  return url;
}"""


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run from its first cell to its last in its own folder. Raises CellExecutionError."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", resources=resources).execute()
    return notebook


def normalise(notebook: nbformat.NotebookNode) -> None:
    """Set metadata to what every run has, and join the texts of one stream, in place."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), start=1):
        cell.metadata, cell.execution_count = nbformat.from_dict({}), number
        for output in cell.outputs:
            if "execution_count" in output:
                output.execution_count = number
            if "metadata" in output:
                output.metadata = nbformat.from_dict({})
        # progress and warnings of this machine are no results
        cell.outputs = [
            one for one in cell.outputs if one.get("name") != "stderr" and WIDGET not in one.get("data", {})
        ]


def add_pictures(notebook: nbformat.NotebookNode, page: Page) -> None:
    """Put a PNG beside the numbers of each figure, in the place of its HTML, which needs plotly's script; in place."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if FIGURE in data:
                url: str = page.evaluate(_DRAW, data[FIGURE])
                data.pop("text/html", None)
                data["image/png"] = url.removeprefix("data:image/png;base64,")
                assert base64.b64decode(data["image/png"])[1:4] == b"PNG"


@contextmanager
def drawing() -> Iterator[Page]:
    """A page in Chromium on which plotly draws, without network."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    from browser import ARGUMENTS, find_browser

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=list(ARGUMENTS))
        try:
            page = browser.new_page()
            page.context.set_offline(True)
            page.set_content("<!doctype html><meta charset='utf-8'><body></body>")
            page.add_script_tag(content=get_plotlyjs())
            yield page
        finally:
            browser.close()


def make(paths: list[Path]) -> None:
    """Execute notebooks and write them with their outputs."""
    for path in paths:
        notebook: Any = execute(path)
        normalise(notebook)
        with drawing() as page:
            add_pictures(notebook, page)
        made = path.with_suffix(".tmp")
        nbformat.write(notebook, made)
        made.replace(path)
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["*"]
    make(sorted({path for name in chosen for path in (ROOT / "notebooks").glob(f"{name}.ipynb")}))
