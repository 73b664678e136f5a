"""The documentation as a site: it builds without a warning, has what it should, and asks no other host for anything."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import browser
import pytest

import mechocl
from docs.write import diagrams, reference
from docs.write.tutorials import tutorials
from mechocl.analyses.registry import ANALYSES

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Building documentation" in done.stderr
    assert not re.findall("^WARNING.*", done.stderr, re.MULTILINE)
    return folder


def test_every_page_is_there(site: Path) -> None:
    for document in (ROOT / "docs").glob("*.md"):
        assert (site / f"{document.stem}.html").exists(), document.name
    for page in (*(one.path for one in tutorials()), *(one.path for one in reference.pages())):
        assert (site / page).with_suffix(".html").exists(), page
    assert not (site / "results").exists()
    assert not (site / "write").exists()
    start = (site / "index.html").read_text(encoding="utf-8")
    assert start.count("<img alt=") >= 3


def test_tutorials_show_what_the_notebooks_print(site: Path) -> None:
    for one in tutorials():
        page = (site / one.path).with_suffix(".html").read_text(encoding="utf-8")
        assert one.title in page
        assert "mechocl" in page
        for place in one.pictures:
            assert (site / place).stat().st_size > 1000
            assert Path(place).name in page


def test_the_reference_has_every_name_of_the_front_door(site: Path) -> None:
    door = (site / "reference" / "index.html").read_text(encoding="utf-8")
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    for name, home in mechocl._HOME.items():
        where = f"{home}.{name}"
        assert f"mechocl.{name}</code>" in door, name
        assert f'id="{where}"' in pages, where


def test_the_reference_says_what_fields_of_configs_mean(site: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (site / "reference").glob("*.html"))
    for config in {analysis.config for analysis in ANALYSES.values()}:
        for field in dataclasses.fields(config):
            where = f'id="{config.__module__}.{config.__name__}.{field.name}"'
            assert where in pages, where
            said = re.search(r'<div class="doc doc-contents ?">\s*<p>', pages[pages.index(where) :])
            assert said is not None
            assert said.start() < 3000, where


def test_pages_ask_no_other_host(site: Path) -> None:
    """What a browser would load of itself: links that a reader may follow are another thing."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|video)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b(?![^>]*rel=[\"']?(?:canonical|prev|next))[^>]*href=[\"']?(?:https?:)?//"
    )
    for path in site.rglob("*.html"):
        assert not loads.findall(path.read_text(encoding="utf-8")), path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_it_works_from_disk_without_a_network(site: Path) -> None:
    """In a browser: nothing is asked for, every picture is seen, and the search finds a page."""
    with browser.open_page(site / "index.html") as opened:
        page = opened.page
        assert page.evaluate("[...document.images].every(one => one.complete && one.naturalWidth > 0)")
        page.keyboard.press("/")
        page.keyboard.type("internalization")
        page.locator(".md-search-result__item a").first.wait_for()
        assert not [one for one in opened.requests if not one.startswith("file:")]
        for name in ("design.html", "results.html", "reference/mechocl.interventions.html", "tutorials"):
            path = site / name if name.endswith(".html") else min((site / name).glob("*.html"))
            page.goto(path.as_uri())
            assert not [one for one in opened.requests if not one.startswith("file:")], name
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth + 1"), name


def test_every_diagram_has_its_picture() -> None:
    assert len(diagrams.diagrams()) >= 2
    for text in diagrams.diagrams():
        picture = diagrams.picture_of(text).read_text(encoding="utf-8")
        for words in re.findall(r'\["([a-z_]+)<br/>', text):
            assert words in picture


def test_diagrams_are_drawn_for_what_is_there() -> None:
    wanted = {diagrams.picture_of(text).name for text in diagrams.diagrams()}
    assert {path.name for path in (ROOT / "docs" / "images").glob("diagram-*.svg")} == wanted
