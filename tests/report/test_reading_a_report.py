"""A report is read in light and dark, on a phone, by keyboard, and beside its contents; driven in a real browser."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import OpenedPage, open_page, wait_until
from effects import made_up
from plotly.subplots import make_subplots
from reading import (
    cut_labels,
    draw_all,
    low_contrast,
    overlapping_labels,
    set_scheme,
    tab_stops_before,
    text_with_marks,
    wider_than_the_page,
)

from mechocl.hypotheses import citing, predictions
from mechocl.hypotheses.calibrated import read_confusion
from mechocl.hypotheses.verdict import judge_gathered
from mechocl.report import explorer_section, plots, verdict_sections
from mechocl.report.page import Report, Section, SummaryRow, Table, write
from mechocl.runs.run import Run

PHONE = 390
TABLET = 760
NARROW = 700


def curves() -> go.Figure:
    """Two columns and two rows, whose second column has no ticks of its own."""
    figure = make_subplots(rows=2, cols=2, shared_yaxes=True, subplot_titles=["stage 1", "stage 2", "", ""])
    for row in (1, 2):
        for col in (1, 2):
            for subset in ("qd1_consistent", "d1_consistent", "d2_consistent", "no_data"):
                line = {"color": plots.COLORS[subset]}
                trace = go.Scatter(
                    x=[0, 1, 2],
                    y=[0.5, 0.7, 0.8],
                    name=plots.label(subset),
                    line=line,
                    showlegend=row == col == 1,
                )
                figure.add_trace(trace, row=row, col=col)
    figure.update_layout(height=600, legend={"orientation": "h", "yanchor": "bottom", "y": 1.08, "x": 0})
    return plots.styled(figure)


def grid() -> go.Figure:
    """Cells of every lightness, with their numbers, in two columns."""
    panel = np.linspace(-1, 1, 40).reshape(4, 10)
    figure = make_subplots(rows=1, cols=2, subplot_titles=["first", "second"])
    for col in (1, 2):
        cells = go.Heatmap(
            z=panel * (3 - 2 * col),
            coloraxis="coloraxis",
            texttemplate="%{z:.1f}",
            x=[f"n{i}" for i in range(10)],
        )
        figure.add_trace(cells, row=1, col=col)
    figure.update_layout(
        height=300, coloraxis={"colorscale": "RdBu", "cmin": -1, "cmax": 1, "colorbar": {"title": "effect"}}
    )
    return plots.styled(figure)


def a_report(explorer: str = "") -> Report:
    own = predictions.load()
    verdict = replace(judge_gathered(made_up(), own, runs=["runs/made-up"]), cited=citing.cite())
    wide = Table(
        caption="A wide table",
        columns=("weights", *(f"column {i}" for i in range(12))),
        rows=tuple((f"layer {i} attention", *("+0.123 [+0.101, +0.145]",) * 12) for i in range(4)),
    )
    small = Table(caption="A small table", columns=("a", "b"), rows=(("x", "1"),))
    rest = (
        Section(id="internalization", title="Internalization", how_to_read="Curves.", figures=(curves(),), tables=(small,)),
        Section(id="patching", title="Patching", how_to_read="Cells.", figures=(grid(),)),
        Section(id="weights", title="Weights", how_to_read="Numbers.", tables=(wide,)),
        *(Section(id=f"more-{i}", title=f"Section {i}", how_to_read="Words. " * 200) for i in range(12)),
    )  # fmt: skip
    first = verdict_sections.FirstPage(verdict, read_confusion(own))
    leading = verdict_sections.sections(first, shown=[one.id for one in rest])
    summary = tuple(
        SummaryRow(label=answer, sentence="s", answer=answer) for answer in ("yes", "no", "cannot tell")
    )
    return Report(
        title="A report", summary=summary, facts={"Recipe": "r"}, sections=(*leading, *rest), explorer=explorer, warning="Careful."
    )  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading") / "report.html"
    write(a_report(), path)
    return path


@pytest.fixture
def desktop(file: Path) -> Iterator[OpenedPage]:
    with open_page(file) as opened:
        draw_all(opened.page)
        yield opened
        opened.assert_clean()


@pytest.fixture
def phone(file: Path) -> Iterator[OpenedPage]:
    with open_page(file, width=PHONE) as opened:
        draw_all(opened.page)
        yield opened
        opened.assert_clean()


@pytest.fixture
def tablet(file: Path) -> Iterator[OpenedPage]:
    with open_page(file, width=TABLET) as opened:
        yield opened
        opened.assert_clean()


# By keyboard


def test_few_stops_of_tab_lead_to_the_first_figure(desktop: OpenedPage) -> None:
    assert tab_stops_before(desktop.page, ".plot") < 30


def test_few_stops_of_tab_lead_to_the_first_figure_on_a_phone(phone: OpenedPage) -> None:
    assert tab_stops_before(phone.page, ".plot") < 30


def test_the_contents_and_a_figure_s_buttons_are_one_stop_with_arrow_keys(desktop: OpenedPage) -> None:
    page = desktop.page
    names = page.locator("#contents a").all_inner_texts()
    page.locator("#contents a").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == names[1]
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == names[-1]
    assert page.locator("#contents a[tabindex='0']").count() == 1
    bar = page.locator("#plot-internalization-0 .modebar-btn")
    assert bar.evaluate_all("all => all.filter((one) => one.tabIndex === 0).length") == 1
    bar.first.focus()
    first = page.evaluate("document.activeElement.getAttribute('aria-label')")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") not in ("", first)


# Colours


@pytest.mark.parametrize("width", [1280, PHONE])
def test_every_text_is_read_in_light_and_dark(file: Path, width: int) -> None:
    with open_page(file, width=width) as opened:
        draw_all(opened.page)
        for scheme in ("light", "dark"):
            set_scheme(opened.page, scheme)
            assert low_contrast(opened.page) == [], scheme
        opened.assert_clean()


def test_the_check_of_contrast_can_fail(desktop: OpenedPage) -> None:
    desktop.page.evaluate("document.querySelector('#verdict .how').style.color = '#c0c0c0'")
    found = low_contrast(desktop.page)
    assert len(found) >= 1
    assert all("192,192,192" in one for one in found)


def test_the_theme_follows_the_system_and_can_be_switched_with_its_figures(desktop: OpenedPage) -> None:
    page = desktop.page
    ground = "document.querySelector('#plot-internalization-0')._fullLayout.paper_bgcolor"
    light = page.evaluate(ground)
    set_scheme(page, "dark")
    wait_until(page, f"{ground} !== '{light}'")
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light").click()
    wait_until(page, f"{ground} === '{light}'")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    page.get_by_role("button", name="Dark").click()
    wait_until(page, f"{ground} === '{dark}'")


# Room


def test_a_phone_shows_the_page_at_its_width(phone: OpenedPage) -> None:
    page = phone.page
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE
    assert wider_than_the_page(page) == []
    for section in ("#verdict", "#predictions", "#internalization"):
        assert overlapping_labels(page, section) == [], section
    assert cut_labels(page) == []


def test_the_check_of_overlaps_can_fail(phone: OpenedPage) -> None:
    phone.page.evaluate(
        "document.querySelectorAll('#internalization .xtick text').forEach((one) => { one.setAttribute('transform', 'translate(60, 0)'); })"
    )
    assert overlapping_labels(phone.page, "#internalization") != []


def test_two_columns_become_one_where_there_is_little_room(desktop: OpenedPage) -> None:
    page = desktop.page
    starts = "new Set(Object.entries(document.querySelector('#plot-internalization-0')._fullLayout).filter(([name]) => /^xaxis/.test(name)).map(([, axis]) => axis.domain[0])).size"
    assert page.evaluate(starts) == 2
    page.set_viewport_size({"width": NARROW - 20, "height": 900})
    wait_until(page, f"{starts} === 1")
    page.set_viewport_size({"width": 1280, "height": 900})
    wait_until(page, f"{starts} === 2")


def test_a_table_that_is_too_wide_scrolls_under_shades_and_keeps_its_rows_names(tablet: OpenedPage) -> None:
    page = tablet.page
    frame, box = page.locator("#weights .shaded"), page.locator("#weights .wide")
    wait_until(
        page, "getComputedStyle(document.querySelector('#weights .shaded'), '::after').opacity === '1'"
    )
    assert frame.evaluate("one => getComputedStyle(one, '::before').opacity") == "0"
    assert "goes on to the side" in page.locator("#weights .scrolls").inner_text()
    box.evaluate("one => { one.scrollLeft = one.scrollWidth; }")
    wait_until(
        page, "getComputedStyle(document.querySelector('#weights .shaded'), '::after').opacity === '0'"
    )
    wait_until(
        page, "getComputedStyle(document.querySelector('#weights .shaded'), '::before').opacity === '1'"
    )
    name, last = (
        page.locator("#weights tbody th").first.bounding_box(),
        page.locator("#weights tbody td").last.bounding_box(),
    )
    assert name is not None
    assert last is not None
    assert 0 <= name["x"] <= 20
    assert last["x"] + last["width"] <= TABLET
    assert box.get_attribute("tabindex") == "0"
    assert page.locator("#internalization .scrolls").evaluate("one => one.hidden")
    assert page.locator("#internalization .wide").get_attribute("tabindex") is None


def test_rows_of_a_table_without_room_are_cards_whose_cells_have_their_column_s_name(
    phone: OpenedPage,
) -> None:
    page = phone.page
    assert page.locator("table.cards").count() == 3, "predictions, calibration and the wide one"
    assert page.locator("#internalization table.cards").count() == 0, "it has room"
    assert page.locator(".overflowing").count() == 0
    assert not page.locator(".scrolls").first.is_visible()
    assert page.locator("#weights .wide").get_attribute("tabindex") is None
    row = page.locator("#weights tbody tr").first
    name, cells = row.locator("th").bounding_box(), row.locator("td").evaluate_all(_PLACES)
    assert name is not None
    assert name["y"] < cells[0]["top"]
    assert [one["words"] for one in cells] == [f'"column {i}"' for i in range(12)]
    assert all(one["right"] <= PHONE for one in cells)
    assert all(one["top"] < other["top"] for one, other in pairwise(cells))
    said = page.locator("#predictions tbody tr").first.locator("td").evaluate_all(_PLACES)
    assert [one["words"] for one in said][:2] == ['"what it says"', '"effect [95 %]"']


_PLACES = """cells => cells.map((cell) => ({
  words: getComputedStyle(cell, "::before").content.split(" / ")[0], top: cell.getBoundingClientRect().top, right: cell.getBoundingClientRect().right,
}))"""


def test_cards_are_a_table_to_a_screen_reader(phone: OpenedPage) -> None:
    """Chromium's tree of what it tells one: rows with their header and cells, and names of columns that are told once, not in each cell."""
    page = phone.page
    tree = page.locator("#weights .wide").aria_snapshot()
    assert "- table" in tree
    assert tree.count("- columnheader") == 13
    assert tree.count('- rowheader "layer') == 4
    assert tree.count('- cell "+0.123 [+0.101, +0.145]"') == 4 * 12


def test_cards_become_a_table_again_where_there_is_room(phone: OpenedPage) -> None:
    page = phone.page
    page.set_viewport_size({"width": 1400, "height": 900})
    wait_until(page, "!document.querySelector('table.cards')")
    page.set_viewport_size({"width": PHONE, "height": 900})
    wait_until(page, "document.querySelectorAll('table.cards').length === 3")


def test_a_figure_s_buttons_come_with_the_pointer_and_cover_nothing(desktop: OpenedPage) -> None:
    page = desktop.page
    for name in ("predictions", "internalization", "patching"):
        plot = page.locator(f"#plot-{name}-0")
        plot.scroll_into_view_if_needed()
        bar = plot.locator(".modebar")
        page.mouse.move(2, 2)
        wait_until(
            page, f"getComputedStyle(document.querySelector('#plot-{name}-0 .modebar-group')).opacity === '0'"
        )
        plot.hover(position={"x": 200, "y": 100})
        wait_until(
            page, f"getComputedStyle(document.querySelector('#plot-{name}-0 .modebar-group')).opacity === '1'"
        )
        buttons, drawing = bar.bounding_box(), plot.locator(".main-svg").first.bounding_box()
        assert buttons is not None
        assert drawing is not None
        assert buttons["y"] >= drawing["y"] + drawing["height"] - 1


# Contents


def test_the_contents_keep_their_place_and_mark_the_section(desktop: OpenedPage) -> None:
    page = desktop.page
    page.locator("#contents a[href='#more-3']").click()
    wait_until(page, "document.querySelector('#contents a[aria-current]').hash === '#more-3'")
    box = page.locator("#contents").bounding_box()
    assert box is not None
    assert 0 <= box["y"] < 20
    assert page.locator("#contents a[aria-current]").count() == 1


def test_the_contents_are_folded_on_a_phone(phone: OpenedPage) -> None:
    page = phone.page
    first = page.locator("#contents a").first
    assert not first.is_visible()
    page.locator("#contents summary").click()
    assert first.is_visible()
    page.locator("#contents a[href='#more-3']").click()
    wait_until(page, "document.querySelector('#contents a[aria-current]').hash === '#more-3'")
    assert not first.is_visible()
    assert page.locator("#contents summary").inner_text() == "Contents · Section 3"


# Code


def test_no_text_has_marks_of_code_as_they_are_written(phone: OpenedPage) -> None:
    """What a verdict did not measure names the commands that would."""
    assert text_with_marks(phone.page) == []
    assert "mechocl controls" in phone.page.locator("code").all_inner_texts()
    phone.page.evaluate("document.querySelector('#verdict p').append('`mechocl`')")
    assert text_with_marks(phone.page) == ["`mechocl`"]


# The explorer


@pytest.fixture(scope="module")
def embedded(trained: Run) -> explorer_section.Embedded:
    return explorer_section.embed_explorer(trained, trained.seeds, device="cpu", jobs=1)


def test_the_explorer_works_inside_the_report(embedded: explorer_section.Embedded, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    size = write(a_report(embedded.page), path)
    assert size < 15_000_000
    assert "seeds 0, 1" in embedded.note
    with open_page(path) as opened:
        page = opened.page
        set_scheme(page, "light")
        page.locator("#explorer").scroll_into_view_if_needed()
        inside = page.frame_locator("#explorer iframe")
        inside.locator("#scatter svg").wait_for()
        assert not inside.locator("#theme").is_visible()
        inside.locator("#seed").select_option("1")
        inside.locator("#said", has_text="Seed 1").wait_for()
        assert not inside.locator("#links").is_visible(), "its address is that of the report"
        page.locator("header #theme").click()
        inside.locator(":root[data-theme=dark]").wait_for(state="attached")
        page.set_viewport_size({"width": PHONE, "height": 900})
        wait_until(page, "document.querySelector('#explorer iframe').clientHeight > 1500")
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE
        opened.assert_clean()


def test_the_explorer_inside_the_report_is_tapped(
    embedded: explorer_section.Embedded, tmp_path: Path
) -> None:
    """A tap lands where the finger is."""
    path = tmp_path / "report.html"
    write(a_report(embedded.page), path)
    with open_page(path, width=PHONE, height=844, touch=True) as opened:
        opened.page.locator("#explorer").scroll_into_view_if_needed()
        inside = opened.page.frame_locator("#explorer iframe")
        inside.locator("#scatter svg").wait_for()
        for head in (1, 0):
            inside.locator(f"#heads [data-pick='head:0.{head}']").tap()
            inside.locator("#pattern h2", has_text=f"head {head}").wait_for()
        opened.assert_clean()


def test_an_explorer_that_cannot_be_made_is_a_sentence(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechocl.errors import MechoclError
    from mechocl.report.explorer import page as explorer

    def refuse(*_: object, **__: object) -> str:
        raise MechoclError("the questions have different layouts")

    monkeypatch.setattr(explorer, "build_page", refuse)
    found = explorer_section.embed_explorer(trained, trained.seeds, device="cpu", jobs=1)
    assert found.page == ""
    assert found.note == "There is no explorer of single aliases here: the questions have different layouts"
