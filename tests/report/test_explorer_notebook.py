"""The explorer in Python: what a notebook shows works in an exported page, and `share` writes what the command does."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import open_page
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook, new_output

import mechocl
from mechocl.errors import MechoclError
from mechocl.report.explorer import page as explorer
from mechocl.runs.run import Run


@pytest.fixture(scope="module")
def shown(trained: Run) -> mechocl.Explorer:
    return mechocl.explore(trained, seeds=[1], aliases=6, checkpoints=2, patching=False, height=600, jobs=1)


def test_an_exported_notebook_shows_it(shown: mechocl.Explorer, tmp_path: Path) -> None:
    """By `jupyter nbconvert --to html`, without the scripts that its template asks for elsewhere: they are not the explorer's."""
    output = new_output(
        "execute_result", {"text/html": shown._repr_html_(), "text/plain": repr(shown)}, execution_count=1
    )
    cell = new_code_cell("run.explore()", execution_count=1, outputs=[output])
    exporter = HTMLExporter(template_name="basic")
    exported, _ = exporter.from_notebook_node(new_notebook(cells=[cell]))
    (tmp_path / "notebook.html").write_text(exported, encoding="utf-8")
    with open_page(tmp_path / "notebook.html") as opened:
        frame = opened.page.frame_locator("iframe")
        frame.locator("#scatter svg").wait_for()
        before = frame.locator("#said").inner_text()
        assert before.startswith("Seed 1, ")
        frame.locator("#list").select_option("1")
        frame.locator("#said", has_text="question 2").wait_for()
        assert frame.locator("#said").inner_text() != before
        frame.locator("#heads .figure").focus()
        opened.page.keyboard.press("ArrowRight")
        frame.locator("#pattern h2", has_text="head 1").wait_for()
        assert not frame.locator("#links").is_visible(), "its address is that of the notebook"
        assert opened.page.url == (tmp_path / "notebook.html").as_uri()
        box = opened.page.locator("iframe").bounding_box()
        assert box is not None
        assert box["height"] >= 600
        opened.assert_clean()


@pytest.mark.parametrize(
    ("body", "dark"), [("data-jp-theme-light='false'", True), ("class='vscode-light'", False)]
)
def test_it_takes_the_notebooks_theme(shown: mechocl.Explorer, tmp_path: Path, body: str, dark: bool) -> None:
    path = tmp_path / "notebook.html"
    path.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body {body}>{shown._repr_html_()}", encoding="utf-8"
    )
    with open_page(path) as opened:
        opened.page.emulate_media(color_scheme="light" if dark else "dark")
        opened.page.frame_locator("iframe").locator("#scatter svg").wait_for()
        root = opened.page.frame_locator("iframe").locator("html")
        assert root.get_attribute("data-theme") == ("dark" if dark else "light")


def test_it_says_what_it_is_and_how_large(shown: mechocl.Explorer, tmp_path: Path) -> None:
    assert repr(shown) == (
        f"<explorer of run (seed 1; 6 aliases of each, at most 2 checkpoints); {shown.size / 1e6:.1f} MB; "
        "a notebook shows it, .save(path) writes it>"
    )
    assert f"{shown.size / 1e6:.1f} MB</div>" in shown._repr_html_()
    saved = shown.save(tmp_path / "new" / "page.html")
    assert saved.read_bytes() == shown.page.encode()
    assert saved.stat().st_size == shown.size


def test_a_run_shows_itself(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run.explore` is `mechocl.explore`, with its defaults: few seeds, aliases and checkpoints."""
    asked = {}

    def built(run: Run, seeds: tuple[int, ...], **options: object) -> str:
        asked.update(options, seeds=seeds)
        return "<!DOCTYPE html>"

    monkeypatch.setattr("mechocl.report.explorer.notebook.build_page", built)
    monkeypatch.setattr(
        "mechocl.analyses.jobs.count_run", lambda run, **how: SimpleNamespace(shown=(0, 1, 2))
    )
    assert isinstance(trained.explore(aliases=3), mechocl.Explorer)
    assert (asked["seeds"], asked["aliases"], asked["checkpoints"]) == ((0, 1), 3, 4)
    trained.explore(seeds=[1], checkpoints=2, height=500)
    assert (asked["seeds"], asked["aliases"], asked["checkpoints"]) == ((1,), 12, 2)


def test_share_writes_what_the_command_writes(trained: Run, tmp_path: Path) -> None:
    out = mechocl.share(
        trained, out=tmp_path / "a.html", seeds=[0], aliases=4, checkpoints=1, patching=False, jobs=1
    )
    explorer.write_explorer(
        trained, (0,), tmp_path / "b.html", aliases=4, checkpoints=1, patching=False, device="cpu", jobs=1
    )
    assert out.read_bytes() == (tmp_path / "b.html").read_bytes()


def test_mistakes_are_one_line(trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for options, said in (
        ({"seeds": [7]}, "has no seed 7; it has 0, 1"),
        ({"seeds": []}, "seeds is empty; name at least one"),
        ({"aliases": 0}, "aliases is 0; use at least 1"),
        ({"checkpoints": 0}, "checkpoints is 0; use at least 1"),
        ({"height": 5}, "height is 5; use at least 100"),
    ):
        with pytest.raises(MechoclError, match=said):
            mechocl.explore(trained, **({"jobs": 1} | options))
    with pytest.raises(MechoclError, match="is a folder"):
        mechocl.share(trained, out=tmp_path)
    monkeypatch.setattr(explorer, "MOST", 20_000)
    small = {"seeds": [0], "checkpoints": 1, "patching": False, "jobs": 1}
    with pytest.raises(
        MechoclError, match=r"aliases is 40; .* use at most (\d+), or fewer checkpoints or seeds"
    ) as found:
        mechocl.explore(trained, aliases=40, **small)
    fits = int(str(found.value).partition("use at most ")[2].partition(",")[0])
    mechocl.explore(trained, aliases=fits, **small)
