"""The notebooks: what is committed, and that they still give it.

A text states a number that it relies on with the range in which it lies: "`gap` lies between 0.02 and 0.3". A cell of the same
notebook prints it as "gap: 0.130". Both the outputs that are committed and those of a run are compared with the ranges.
"""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_BYTES = 1_500_000

_BAND = re.compile(r"`(\w+)`[^`.]*? (?:lies )?between (-?[\d.]+\d|-?\d) and (-?[\d.]+\d|-?\d)")
_PRINTED = re.compile(r"^(\w+): ([+−-]?\d[\d.]*)", re.MULTILINE)

sys.path.insert(0, str(ROOT / "tools"))
import notebooks  # noqa: E402  (the tool that makes them)


def bands(notebook: Any) -> dict[str, tuple[float, float]]:
    """Name of a number → the range that the text states."""
    texts = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    found = [match for text in texts for match in _BAND.findall(text)]
    return {name: (float(low), float(high)) for name, low, high in found}


def printed(notebook: Any) -> dict[str, float]:
    """Name of a number → what a cell printed."""
    texts = [
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if output.get("name") == "stdout"
    ]
    return {name: float(value.replace("−", "-")) for text in texts for name, value in _PRINTED.findall(text)}


def assert_within_bands(notebook: Any) -> None:
    """Every number of which the text states a range was printed, and lies in it."""
    stated, values = bands(notebook), printed(notebook)
    assert stated
    for name, (low, high) in stated.items():
        assert name in values, f"no cell prints {name}"
        assert low <= values[name] <= high, f"{name} is {values[name]}, and the text says {low} to {high}"


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_is_short_and_installs_itself_in_colab(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert len(notebook.cells) <= 15
    assert path.stat().st_size <= MOST_BYTES
    first = next(cell for cell in notebook.cells if cell.cell_type == "code")
    assert 'if "google.colab" in sys.modules:' in first.source
    assert notebook.cells[0].source.startswith("# ")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_its_outputs_are_kept(path: Path) -> None:
    """From the first cell to the last, with a picture of every figure, and without what differs between two runs."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata == nbformat.from_dict(notebooks.METADATA)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    figures = 0
    for cell in code:
        assert cell.metadata == {}
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr"
            data = output.get("data", {})
            if notebooks.FIGURE in data:
                figures += 1
                assert "image/png" in data
                assert "text/html" not in data
            assert notebooks.WIDGET not in data
            assert "plotly.js v" not in data.get("text/html", "")
    assert figures
    assert not re.search(r"/(?:tmp|work|home|root|Users)/", path.read_text(encoding="utf-8"))
    assert_within_bands(notebook)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs_and_its_numbers_lie_where_the_text_says(path: Path) -> None:
    made = notebooks.execute(path)
    assert_within_bands(made)
    shown = [
        set(output.data)
        for cell in made.cells
        for output in cell.get("outputs", ())
        if notebooks.FIGURE in output.get("data", {})
    ]
    assert shown
    assert all("text/html" in kinds for kinds in shown)


def test_a_number_outside_its_range_is_found() -> None:
    cell = nbformat.v4.new_code_cell("", outputs=[nbformat.v4.new_output("stream", text="gap: −0.4, no\n")])
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("The `gap` lies between -0.5 and 0.")]
    )
    notebook.cells.append(cell)
    notebook.cells.append(nbformat.v4.new_markdown_cell("Of others, `auc_d1`, lies between 0.8 and 1."))
    assert bands(notebook) == {"gap": (-0.5, 0.0), "auc_d1": (0.8, 1.0)}
    assert printed(notebook) == {"gap": -0.4}
    with pytest.raises(AssertionError, match="no cell prints auc_d1"):
        assert_within_bands(notebook)
    notebook.cells.pop()
    assert_within_bands(notebook)
    cell.outputs[0].text = "gap: 0.010\n"
    with pytest.raises(AssertionError, match=r"gap is 0.01, and the text says -0.5 to 0.0"):
        assert_within_bands(notebook)
