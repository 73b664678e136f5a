"""The report is one file that opens anywhere: its content, and what a reader meets in a real browser."""

import errno
import json
import re
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import OpenedPage, open_page
from plotly.offline import get_plotlyjs

from mechocl.report import page as page_module
from mechocl.report.page import Report, Section, SummaryRow, Table, render, write

EXPLORER = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>e</title></head>
<body><button id="theme">Dark</button><p id="said">An alias</p></body></html>"""

HOSTILE = "</script><img src=x onerror=alert(1)>&<!-- <script>"


def a_report(**changes: object) -> Report:
    """A small report with everything in it: lines, a heatmap, a wide figure, a table, a page in a frame."""
    steps = list(range(0, 2000, 100))
    lines = go.Figure(
        [go.Scatter(x=steps, y=1 - np.exp(-np.array(steps) / k), name=f"rate {k}") for k in (300, 900)]
    )
    lines.update_layout(
        title="Accuracy during stage 1", xaxis_title="step", yaxis_title="accuracy", width=2400
    )
    cells = np.random.default_rng(0).normal(size=(4, 9))
    heatmap = go.Figure(go.Heatmap(z=cells), layout={"width": 600, "height": 380, "title": "Patching effect"})
    table = Table(
        caption="Accuracy on test questions, mean over 5 seeds",
        columns=("Subset", "Accuracy", "95 % interval"),
        rows=(("Ḋ₁ᶜᵒⁿˢQA₁", "0.912", "[0.881, 0.940]"), ("QA₃", "0.601", "–")),
    )
    content: dict[str, object] = {
        "title": "Integer-set model: does it learn out of context?",
        "summary": (
            SummaryRow(label="Weak internalization", answer="yes", sentence="Better by 0.27 [0.21, 0.33]."),
            SummaryRow(
                label="Strong internalization", answer="not separable", sentence="0.01 [−0.02, 0.04]."
            ),
        ),
        "facts": {"Recipe": "integer-set/cpu.toml", "Seeds": "0, 1, 2, 3, 4"},
        "sections": (
            Section(
                id="internalization",
                title="Internalization by subset",
                how_to_read="Each line is a subset. Look whether they part.",
                figures=(lines,),
                tables=(table,),
                finding="Aliases defined by the reliable tag are answered better by 0.21.",
            ),
            Section(
                id="patching",
                title="Where it is read",
                how_to_read="Each cell is a site. Look for bright ones.",
                figures=(heatmap,),
                html="<p>More <em>trusted</em> text.</p>",
            ),
        ),
        "explorer": EXPLORER,
        "warning": "smoke test: one seed, small task",
    }
    return Report(**(content | changes))  # type: ignore[arg-type]


def embedded_json(html: str, element_id: str) -> object:
    found = re.findall(rf'<script type="application/json" id="{element_id}">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


@pytest.fixture(scope="module")
def html() -> str:
    return render(a_report())


@pytest.fixture(scope="module")
def report_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write(a_report(), path)
    return path


# The file


def test_size_is_reported_and_below_the_limit(report_file: Path) -> None:
    size = write(a_report(), report_file)
    assert size == report_file.stat().st_size < page_module.SIZE_LIMIT


def test_plotly_is_embedded_once(html: str) -> None:
    assert html.count("plotly.js v") == get_plotlyjs().count("plotly.js v") == 1
    assert html.count(get_plotlyjs()) == 1


def test_scripts_that_nothing_needs_are_left_out() -> None:
    html = render(a_report(sections=(), explorer=""))
    assert len(html) < 30_000
    assert "Integer-set model" in html


def test_rendering_is_reproducible_and_changes_no_figure(html: str) -> None:
    report = a_report()
    before = [figure.to_json() for section in report.sections for figure in section.figures]
    assert render(report) == html
    assert [figure.to_json() for section in report.sections for figure in section.figures] == before


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    ours = html.replace(get_plotlyjs(), "")
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?\s*(?:https?:)?//""", ours, re.IGNORECASE)
    assert "@import" not in ours
    assert "sourceMappingURL" not in ours
    assert not re.findall(r"<(?:script|iframe|object|embed|img|audio|video)\b[^>]*\bsrc", ours, re.IGNORECASE)
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', ours)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "http" not in policy[1]
    assert "unsafe-eval" not in policy[1]


def test_text_is_escaped_everywhere() -> None:
    table = Table(caption=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),))
    figure = go.Figure(go.Bar(y=[1], name=HOSTILE), layout={"title": HOSTILE})
    section = Section(
        id="one", title=HOSTILE, how_to_read=HOSTILE, finding=HOSTILE, tables=(table,), figures=(figure,)
    )
    report = Report(
        title=HOSTILE,
        summary=(SummaryRow(label=HOSTILE, sentence=HOSTILE, answer=HOSTILE),),
        facts={HOSTILE: HOSTILE},
        sections=(section,),
        explorer=EXPLORER.replace("An alias", HOSTILE),
        explorer_note=HOSTILE,
        warning=HOSTILE,
    )
    html = render(report).replace(get_plotlyjs(), "")
    assert "<img" not in html
    assert "<!-- " not in html
    assert len(re.findall(r"<script\b", html)) == html.count("</script>") == 5
    assert HOSTILE in str(embedded_json(html, "explorer-page"))
    assert embedded_json(html, "plot-one-0-data")["data"][0]["name"] == HOSTILE  # type: ignore[index,call-overload]


def test_words_between_backticks_are_code_everywhere() -> None:
    said = "run `a < b`"
    section = Section(
        id="one", title=said, how_to_read=said, finding=said, left_out=(said,), html='<p title="`x`">more `c` &amp; d</p>',
        tables=(Table(caption=said, columns=(said, "other"), rows=((said, said),)),), figures=(go.Figure(layout={"title": "t"}),),
    )  # fmt: skip
    summary = (SummaryRow(label=said, sentence=said, answer=said),)
    report = Report(
        title=said, summary=summary, facts={said: said}, sections=(section,), explorer_note=said, warning=said
    )
    html = re.sub(r"<script.*?</script>", "", render(report).replace(get_plotlyjs(), ""), flags=re.DOTALL)
    assert html.count("`") == 2, "those of an attribute that was trusted"
    assert '<p title="`x`">more <code>c</code> &amp; d</p>' in html
    assert html.count("<code>a &lt; b</code>") == 17
    assert "<title>run a &lt; b</title>" in html


def test_trusted_html_is_inserted_as_it_is(html: str) -> None:
    assert "<p>More <em>trusted</em> text.</p>" in html


def test_figures_lose_only_their_fixed_width(html: str) -> None:
    shown = embedded_json(html, "plot-patching-0-data")
    original = json.loads(a_report().sections[1].figures[0].to_json())
    assert shown["data"] == original["data"]  # type: ignore[index,call-overload]
    assert "width" not in shown["layout"]  # type: ignore[index,call-overload]
    assert 'id="plot-patching-0" style="max-width: 600px; height: 380px"' in html


def test_columns_of_numbers_are_recognised() -> None:
    table = Table(
        caption="c",
        columns=("words", "plain", "intervals", "percent", "mixed", "nothing"),
        rows=(
            ("d1 alias", "1e-3", "0.61 [0.55, 0.67]", "12 %", "0.5", "–"),
            ("3 layers", "−0.2", "0.61 ± 0.02", "", "tag 1", ""),
        ),
    )
    assert table.numeric == (False, True, True, True, False, False)


# Writing


def test_writing_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write(a_report(), path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == render(a_report())


def test_failed_write_keeps_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, "disk full")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(OSError, match="disk full"):
        write(a_report(), path)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"make this folder first.*nowhere"):
        write(a_report(), tmp_path / "nowhere" / "report.html")
    assert not (tmp_path / "nowhere").exists()


# What does not fit


def test_an_explorer_that_does_not_fit_is_left_out_and_named() -> None:
    html = render(a_report(explorer=EXPLORER.replace("An alias", "x" * 12_000_000)))
    assert len(html.encode()) <= page_module.SIZE_LIMIT
    assert "explorer-page" not in html.replace(page_module.script("explorer"), "")
    assert (
        "the explorer of single aliases (12.0 MB) is not in it. <code>mechocl share</code> writes it" in html
    )
    assert "So that the file can be sent" not in render(a_report())


def heavy_section(name: str, *sizes: int, rows: int = 3) -> Section:
    figures = tuple(
        go.Figure(go.Scatter(y=np.random.default_rng(i).random(size)), layout={"title": f"{name} {size}"})
        for i, size in enumerate(sizes)
    )
    table = Table(
        caption=f"Table of {name}", columns=("a", "b"), rows=tuple((str(i), "x" * 90) for i in range(rows))
    )
    return Section(id=name, title=name, how_to_read="Read it.", figures=figures, tables=(table,))


def test_the_largest_figures_are_left_out_first_and_named() -> None:
    sections = (heavy_section("one", 1000, 500_000), heavy_section("two", 2000, 450_000))
    html = render(a_report(sections=sections))
    assert len(html.encode()) <= page_module.SIZE_LIMIT
    assert [f"one {n}" in html for n in (1000, 500_000)] == [True, False]
    assert [f"two {n}" in html for n in (2000, 450_000)] == [True, True]  # one was enough
    assert html.count("1 of the 2 figures here, the largest of the page, are not in it") == 1


def test_long_tables_are_shortened_after_the_figures() -> None:
    html = render(a_report(sections=(heavy_section("one", 1000, rows=240_000), heavy_section("two"))))
    assert len(html.encode()) <= page_module.SIZE_LIMIT
    assert "has its first 120000 of 240000 rows" in html or "has its first 60000 of 240000 rows" in html
    assert "Table of two" in html
    assert html.count("has its first") == 1


@pytest.mark.parametrize("limit", [0, 30_000, 1_000_000, 5_000_000])
def test_no_page_is_refused_for_its_size(limit: int) -> None:
    """The page holds its text in any case, and everything else only where there is room."""
    sections = (heavy_section("one", 300_000, rows=500), heavy_section("two", 1000))
    html = render(a_report(sections=sections), limit=limit)
    text = len(render(a_report(sections=(), explorer="")))
    assert len(html.encode()) <= max(limit, 10_000 + text)
    assert "So that the file can be sent" in html


# What cannot be shown


@pytest.mark.parametrize("name", ["", "Two", "a b", "1st", "explorer", "summary", 'x"y'])
def test_section_ids_must_be_link_targets(name: str) -> None:
    with pytest.raises(ValueError, match="section id"):
        Section(id=name, title="t", how_to_read="h")


def test_section_ids_must_differ() -> None:
    section = Section(id="same", title="t", how_to_read="h")
    with pytest.raises(ValueError, match="repeat: same"):
        Report(title="t", summary=(), sections=(section, section))


def test_table_rows_must_fit_the_columns() -> None:
    with pytest.raises(ValueError, match="2 columns"):
        Table(caption="c", columns=("a", "b"), rows=(("1",),))


# In a real browser


def assert_drawn(opened: OpenedPage, *, figures: int) -> None:
    """Every figure shows traces."""
    plots = opened.page.locator(".plot")
    assert plots.count() == figures
    for i in range(figures):
        plot = plots.nth(i)
        plot.scroll_into_view_if_needed()
        plot.locator("svg.main-svg").first.wait_for(state="attached")
        assert plot.locator(".scatterlayer .trace path.js-line, .heatmaplayer image, .bars path").count() > 0


def assert_within_width(opened: OpenedPage) -> None:
    """Nothing is wider than the window, and each figure's drawing is inside its own box."""
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = opened.page.evaluate(
        """() => {
             const right = (element) => element.getBoundingClientRect().right;
             const drawn = [...document.querySelectorAll(".plot .main-svg, iframe")];
             return drawn.filter((element) => right(element) > right(document.body)).length;
           }"""
    )
    assert outside == 0


def test_everything_is_drawn_at_every_width(report_file: Path) -> None:
    with open_page(report_file, width=1280) as opened:
        assert_drawn(opened, figures=2)
        assert_within_width(opened)
        for width in (800, 400, 1280):
            opened.page.set_viewport_size({"width": width, "height": 900})
            opened.page.wait_for_function(
                "() => document.querySelector('.plot .main-svg').clientWidth <= document.body.clientWidth"
            )
            opened.page.wait_for_timeout(300)
            assert_drawn(opened, figures=2)
            assert_within_width(opened)
        opened.assert_clean()


def test_the_page_has_contents_and_no_way_out(report_file: Path) -> None:
    with open_page(report_file, width=800) as opened:
        assert_drawn(opened, figures=2)
        assert_within_width(opened)
        links = opened.page.locator("a[href]")
        for target in links.evaluate_all("links => links.map(link => link.getAttribute('href'))"):
            assert opened.page.locator(target).count() == 1
        assert links.all_text_contents() == [
            "Skip the contents",
            "Summary",
            "What was trained",
            "Internalization by subset",
            "Where it is read",
            "What happens for one alias",
        ]
        buttons = opened.page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
        assert "Zoom" in buttons
        assert not [
            title for title in buttons if re.search("share|cloud|send|edit", title or "", re.IGNORECASE)
        ]
        opened.assert_clean()


def test_hostile_text_stays_text_in_the_browser(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(a_report(title=HOSTILE, explorer_note=HOSTILE), path)
    with open_page(path) as opened:
        assert_drawn(opened, figures=2)
        assert opened.page.locator("h1").inner_text() == HOSTILE
        assert opened.page.locator("#explorer .left-out").inner_text() == HOSTILE
        assert opened.page.locator("img").count() == 0
        opened.assert_clean()


def test_the_browser_check_can_fail(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(
        """<!DOCTYPE html><link rel="icon" href="data:,">
        <script>console.error("broken"); console.warn("careful")</script>
        <script>undefinedFunction()</script>
        <img src="http://127.0.0.1:9/x.png">
        <script src="neighbour.js"></script>"""
    )
    with open_page(path) as opened:
        opened.page.wait_for_load_state("networkidle")
        assert {"error: broken", "warning: careful"} < set(opened.problems)
        assert any("exception:" in problem and "undefinedFunction" in problem for problem in opened.problems)
        assert sorted(opened.requests) == [(tmp_path / "neighbour.js").as_uri(), "http://127.0.0.1:9/x.png"]
        with pytest.raises(AssertionError):
            opened.assert_clean()
        opened.problems.clear()
        with pytest.raises(AssertionError):
            opened.assert_clean()


def test_a_missing_browser_is_a_failure_that_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(pytest.fail.Exception, match="apt-get install chromium"),
        open_page(tmp_path / "page.html"),
    ):
        pass
