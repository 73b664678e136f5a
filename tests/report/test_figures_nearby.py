"""Figures of a page are drawn as they come near: nothing moves, and keys, colours, links and paper find them as if they had been there."""

from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go
import pytest
from browser import OpenedPage, open_page, wait_until
from playwright.sync_api import Page
from plotly.subplots import make_subplots
from reading import set_scheme

from mechocl.report import plots
from mechocl.report.page import Report, Section, write

COUNT = 8
PHONE = 390
DRAWN = "[...document.querySelectorAll('.plot')].filter((one) => one.querySelector('.main-svg')).length"


def two_panels() -> go.Figure:
    figure = make_subplots(rows=1, cols=2, subplot_titles=["one", "other"])
    for col in (1, 2):
        figure.add_trace(go.Scatter(x=[0, 1, 2], y=[0.1, 0.4, 0.9], name=f"line {col}"), row=1, col=col)
    figure.update_layout(title="Two panels", height=500)
    return plots.styled(figure)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = tuple(
        Section(id=f"part-{i}", title=f"Part {i}", how_to_read="Words. " * 300, figures=(two_panels(),))
        for i in range(COUNT)
    )
    path = tmp_path_factory.mktemp("nearby") / "report.html"
    write(Report(title="Many figures", sections=sections), path)
    return path


@pytest.fixture
def opened(file: Path) -> Iterator[OpenedPage]:
    with open_page(file) as opened:
        wait_until(opened.page, f"{DRAWN} > 0")
        yield opened
        opened.assert_clean()


def tops(page: Page) -> list[float]:
    """Where the sections begin on the page."""
    found: list[float] = page.evaluate(
        "[...document.querySelectorAll('section')].map((one) => one.getBoundingClientRect().top + scrollY)"
    )
    return found


@pytest.mark.parametrize("width", [1280, PHONE])
def test_figures_are_drawn_as_they_come_near_and_nothing_moves(file: Path, width: int) -> None:
    with open_page(file, width=width) as opened:
        page = opened.page
        page.locator("#plot-part-0-0").scroll_into_view_if_needed()
        wait_until(page, f"{DRAWN} > 0")
        before = tops(page)
        assert page.evaluate(DRAWN) < COUNT - 2
        assert page.locator(f"#plot-part-{COUNT - 1}-0.waiting").count() == 1
        for i in range(COUNT):
            page.locator(f"#plot-part-{i}-0").scroll_into_view_if_needed()
            wait_until(page, f"document.querySelector('#plot-part-{i}-0 .main-svg')")
        assert page.evaluate(DRAWN) == COUNT
        assert tops(page) == pytest.approx(before, abs=1)
        assert page.locator(".plot.waiting").count() == 0
        opened.assert_clean()


@pytest.mark.parametrize("width", [1280, PHONE])
def test_a_link_into_the_page_lands_at_its_section(file: Path, width: int) -> None:
    with open_page(file, width=width) as opened:
        page = opened.page
        wait_until(page, "document.readyState === 'complete'")
        page.evaluate("location.hash = '#part-5'")
        wait_until(page, "document.querySelector('#plot-part-5-0 .main-svg')")
        page.wait_for_timeout(300)
        assert 0 <= page.evaluate("document.querySelector('#part-5').getBoundingClientRect().top") < 120
        opened.assert_clean()


def test_tab_stops_at_a_figure_that_is_not_drawn_yet_and_is_then_at_its_buttons(opened: OpenedPage) -> None:
    page = opened.page
    last = f"#plot-part-{COUNT - 1}-0"
    page.evaluate(f"document.querySelector('#plot-part-{COUNT - 2}-0').focus({{preventScroll: true}})")
    wait_until(page, "document.activeElement.matches('.modebar-btn')")
    page.keyboard.press("Tab")
    wait_until(page, f"document.activeElement.matches('{last} .modebar-btn')")
    assert page.locator(last).get_attribute("tabindex") is None
    page.keyboard.press("Shift+Tab")
    wait_until(page, f"document.activeElement.matches('#plot-part-{COUNT - 2}-0 .modebar-btn')")
    stops = page.evaluate("[...document.querySelectorAll('.plot')].map((plot) => [plot, ...plot.querySelectorAll('*')].filter((one) => one.tabIndex === 0).length)")  # fmt: skip
    assert stops == [1] * COUNT


def test_a_figure_that_is_drawn_later_has_the_theme_and_the_room_of_then(opened: OpenedPage) -> None:
    page = opened.page
    light = page.evaluate("document.querySelector('#plot-part-0-0')._fullLayout.paper_bgcolor")
    set_scheme(page, "dark")
    page.set_viewport_size({"width": PHONE, "height": 900})
    later = f"#plot-part-{COUNT - 1}-0"
    page.locator(later).scroll_into_view_if_needed()
    wait_until(page, f"document.querySelector('{later} .main-svg')")
    layout = f"document.querySelector('{later}')._fullLayout"
    assert page.evaluate(f"{layout}.paper_bgcolor") != light
    assert page.evaluate(f"{layout}.xaxis2.domain[0]") == 0, "panels one below the other"
    drawn = "[...document.querySelectorAll('.plot')].filter((one) => one._fullLayout)"
    wait_until(page, f"{drawn}.every((one) => one._fullLayout.paper_bgcolor === {layout}.paper_bgcolor)")


def test_all_are_drawn_for_paper(opened: OpenedPage) -> None:
    page = opened.page
    assert page.evaluate(DRAWN) < COUNT
    set_scheme(page, "dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(DRAWN) == COUNT
    widths = "[...document.querySelectorAll('.plot')].map((one) => one._fullLayout.width)"
    assert all(width <= 660 for width in page.evaluate(widths))
    grounds = (
        "[...new Set([...document.querySelectorAll('.plot')].map((one) => one._fullLayout.paper_bgcolor))]"
    )
    assert page.evaluate(grounds) == ["#ffffff"]
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    wait_until(page, f"!{grounds}.includes('#ffffff')")
    wait_until(page, f"{widths}.every((width) => width > 660)")


def test_a_printed_page_has_every_figure(opened: OpenedPage, tmp_path: Path) -> None:
    opened.page.pdf(path=tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").stat().st_size > 10_000
    assert opened.page.evaluate(DRAWN) == COUNT
