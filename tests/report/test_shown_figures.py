"""Figures that show themselves in a notebook, tried in a browser without network."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import IPython
import numpy as np
import pytest
from browser import open_page
from plotly import graph_objects as go, io

from mechocl.report import plots, shown_figures
from mechocl.report.shown_figures import JSON, ShownFigure, plain_json, repr_of


@pytest.fixture(autouse=True)
def notebook(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """A notebook whose cell and execution can be set."""
    shell = SimpleNamespace(execution_count=1, cell="a")
    shell.get_parent = lambda: {"metadata": {"cellId": shell.cell}}
    monkeypatch.setattr(
        io.renderers, "default", "plotly_mimetype"
    )  # first: plotly asks where it is when this is loaded, and keeps it
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)
    shown_figures._holder.clear()
    yield shell
    shown_figures._holder.clear()


def figure(title: str = "Ḋ₅ᶜᵒⁿˢ") -> ShownFigure:
    made = go.Figure(go.Heatmap(z=np.array([[1.0, np.nan], [0.5, 2.0]])))
    return plots.styled(made.update_layout(title={"text": title}, height=300))


def holds_library(made: ShownFigure) -> bool:
    return len(made._repr_mimebundle_()["text/html"]) > 4_000_000


def test_the_first_cell_holds_plotlys_script(notebook: SimpleNamespace) -> None:
    assert holds_library(figure())
    assert not holds_library(figure())  # a second figure of the same cell
    notebook.cell, notebook.execution_count = "b", 2
    assert not holds_library(figure())
    notebook.cell, notebook.execution_count = "a", 3  # that cell runs again, and its old output is gone
    assert holds_library(figure())
    notebook.cell, notebook.execution_count = None, 4  # a page that does not name its cells
    assert not holds_library(figure())


def test_numbers_are_lists_that_any_plotly_reads() -> None:
    bundle = figure()._repr_mimebundle_()
    assert "bdata" not in json.dumps(bundle[JSON])
    assert bundle[JSON]["data"][0]["z"] == [[1.0, None], [0.5, 2.0]]
    assert bundle["text/plain"] == "Figure(1 traces: Ḋ₅ᶜᵒⁿˢ)"
    assert plain_json(figure())["layout"]["height"] == 300


def test_a_page_draws_them_without_network(tmp_path: Path) -> None:
    """Beside a module loader, another plotly, and a title that would end the script."""
    shown = [figure("</script><b>x</b>"), figure("two")]
    body = "".join(one._repr_mimebundle_()["text/html"] for one in shown)
    page = tmp_path / "page.html"
    loader = "<script>window.define = () => {}; window.define.amd = {}; window.Plotly = 'theirs';</script>"
    page.write_text(f"<!doctype html><meta charset='utf-8'>{loader}<body>{body}", encoding="utf-8")
    with open_page(page) as opened:
        opened.page.wait_for_selector(".js-plotly-plot >> nth=1")
        assert opened.page.locator(".heatmaplayer image").count() == 2
        assert opened.page.evaluate("window.Plotly") == "theirs"
        assert "does not draw" not in opened.page.inner_text("body")
        opened.assert_clean()


def test_a_page_that_runs_no_script_says_what_to_do() -> None:
    html = figure("<i>a</i> < b & c")._repr_mimebundle_()["text/html"]
    before = html[: html.index("<script")]
    assert "a &lt; b &amp; c: this page does not draw it yet. Trust the notebook" in before


def test_a_chosen_renderer_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(io.renderers, "default", "json")
    assert set(figure()._repr_mimebundle_()) == {"application/json"}
    shown: list[Any] = []
    monkeypatch.setattr(go.Figure, "show", lambda self, *args: shown.append(args))
    figure().show()
    monkeypatch.setattr(io.renderers, "default", "plotly_mimetype")
    figure().show("png")
    assert shown == [(), ("png",)]


def test_showing_gives_one_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Any, bool]] = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: shown.append((bundle, raw)))
    figure().show()
    ((bundle, raw),) = shown
    assert raw
    assert set(bundle) == {"text/html", JSON, "text/plain"}


def test_other_figures_stay_as_they_were() -> None:
    assert io.renderers.default == "plotly_mimetype"
    assert "text/html" not in go.Figure()._repr_mimebundle_()
    made = figure()
    assert isinstance(made, go.Figure)
    assert made.to_dict()["data"] == go.Figure(made).to_dict()["data"]


def test_one_line_has_the_first_line_of_the_title_as_text() -> None:
    made = figure("its <b>9</b> edges<br><span style='font-size:11px'>and what colours mean</span>")
    assert repr_of(made).endswith(": its 9 edges)")
