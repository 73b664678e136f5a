"""The report is one file that opens anywhere: its content, and what a reader meets in a real browser."""

import base64
import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from browser import OpenedPage, open_page
from plotly.offline import get_plotlyjs

from mechocl.report import page as page_module
from mechocl.report.attention_explorer import AttentionView, attention_explorer_html
from mechocl.report.page import Report, Section, SummaryRow, Table, render, write

TOKENS = ["Define", "qwe", "var17", "[", "3", "12", "44", "9", "]"]
HOSTILE = "</script><img src=x onerror=alert(1)>&<!-- <script>"


def causal_patterns(*, layers: int, heads: int, positions: int, seed: int) -> np.ndarray:
    """Random attention [layer, head, query, key]: rows sum to 1, no weight on later keys."""
    weights = np.random.default_rng(seed).exponential(size=(layers, heads, positions, positions)) ** 3
    weights *= np.tri(positions)
    return weights / weights.sum(-1, keepdims=True)


def a_view(
    title: str, *, layers: int = 2, heads: int = 4, positions: int = 9, seed: int = 0
) -> AttentionView:
    return AttentionView(
        title=title,
        tokens=TOKENS[:positions],
        patterns=causal_patterns(layers=layers, heads=heads, positions=positions, seed=seed),
        caption=f"Subset Ḋ₅ᶜᵒⁿˢ, tag 1, stage 2, entity {positions}; the model answers true.",
    )


def a_report(**changes: object) -> Report:
    """A small report with everything in it: lines, a heatmap, a wide figure, a table, two questions."""
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
        "attention": (
            a_view("d1 alias, list contains its integer"),
            a_view("d2 alias, list lacks its integer", layers=3, heads=6, positions=7, seed=1),
        ),
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


def test_size_is_reported_and_below_8_mb(report_file: Path) -> None:
    size = write(a_report(), report_file)
    assert size == report_file.stat().st_size < 8_000_000


def test_plotly_is_embedded_once(html: str) -> None:
    assert html.count("plotly.js v") == get_plotlyjs().count("plotly.js v") == 1
    assert html.count(get_plotlyjs()) == 1


def test_scripts_that_nothing_needs_are_left_out() -> None:
    html = render(a_report(sections=(), attention=()))
    assert len(html) < 20_000
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
    view = AttentionView(
        title=HOSTILE, tokens=[HOSTILE, "b"], patterns=np.tri(2)[None, None] / 2, caption=HOSTILE
    )
    report = Report(
        title=HOSTILE,
        summary=(SummaryRow(label=HOSTILE, sentence=HOSTILE, answer=HOSTILE),),
        facts={HOSTILE: HOSTILE},
        sections=(section,),
        attention=(view,),
        warning=HOSTILE,
    )
    html = render(report).replace(get_plotlyjs(), "")
    assert "<img" not in html
    assert "<!-- " not in html
    assert len(re.findall(r"<script\b", html)) == html.count("</script>") == 5
    assert embedded_json(html, "attention-data")[0]["tokens"] == [HOSTILE, "b"]  # type: ignore[index]
    assert embedded_json(html, "plot-one-0-data")["data"][0]["name"] == HOSTILE  # type: ignore[index,call-overload]


def test_trusted_html_is_inserted_as_it_is(html: str) -> None:
    assert "<p>More <em>trusted</em> text.</p>" in html


def unpacked(view: dict[str, Any]) -> np.ndarray:
    """The patterns that a view on the page holds, read as the page reads them; heads that it leaves out are NaN."""
    size = len(view["tokens"])
    places = [(head["layer"], head["head"]) for head in view["heads"]]
    shape = tuple(1 + max(place[axis] for place in places) for axis in (0, 1))
    found = np.full((*shape, size, size), np.nan)
    for place, head in zip(places, view["heads"], strict=True):
        pattern = np.zeros((size, size))
        packed = base64.b64decode(head["pattern"])
        pattern[np.tril_indices(size)] = np.frombuffer(packed, dtype="<u2") / 10_000
        found[place] = pattern
    return found


def test_patterns_round_trip(html: str) -> None:
    for shown, view in zip(embedded_json(html, "attention-data"), a_report().attention, strict=True):  # type: ignore[call-overload]
        assert shown["tokens"] == view.tokens
        assert shown["caption"] == view.caption
        np.testing.assert_allclose(unpacked(shown), view.patterns, rtol=0, atol=0.5e-4 + 1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_weight_takes_two_bytes_whatever_its_type(dtype: type) -> None:
    view = AttentionView(
        title="t", tokens=["a"], patterns=np.full((1, 1, 1, 1), 0.5001, dtype=dtype), caption="c"
    )
    weight = unpacked(embedded_json(attention_explorer_html([view]), "attention-data")[0]).item()  # type: ignore[index]
    assert weight == pytest.approx(0.5001, abs=3e-4 if dtype is np.float16 else 1e-9)


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


def big_views(count: int = 5, *, positions: int = 40, heads: int = 16) -> tuple[AttentionView, ...]:
    """Views of a model of Pythia-410M's shape, 24 layers of 16 heads; the heads that look back most are known."""
    patterns = causal_patterns(layers=24, heads=heads, positions=positions, seed=0).astype(np.float32)
    names = [f"token {i}" for i in range(positions)]
    return tuple(
        AttentionView(title=f"question {i}", tokens=names, patterns=patterns, caption="")
        for i in range(count)
    )


def test_views_that_do_not_fit_are_left_out_from_the_end(tmp_path: Path) -> None:
    """Five questions of 24 × 16 heads: the page stays under its limit, and says what it lacks."""
    path = tmp_path / "report.html"
    size = write(a_report(attention=big_views()), path)
    html = path.read_text(encoding="utf-8")
    shown = embedded_json(html, "attention-data")
    assert 6_500_000 < size <= page_module.SIZE_LIMIT
    assert [view["title"] for view in shown] == [f"question {i}" for i in range(3)]  # type: ignore[attr-defined]
    assert all(len(view["heads"]) == 24 * 16 for view in shown)  # type: ignore[attr-defined]
    assert "it shows 3 of 5 questions, the first ones" in html
    assert "mechocl.plots.attention(" in html
    assert "So that the file can be sent" not in render(a_report())


def test_of_a_question_that_does_not_fit_the_heads_that_look_back_most_are_shown() -> None:
    patterns = np.zeros((24, 16, 150, 150), dtype=np.float32)
    patterns[..., np.arange(150), np.arange(150)] = 1
    patterns[:, :, -1, -1] = 0
    patterns[:, :, -1, 0] = 1  # almost all rest at the first token
    for layer, head in ((3, 5), (20, 0)):
        patterns[layer, head, -1, 0], patterns[layer, head, -1, 70] = 0, 1
    view = AttentionView(title="long", tokens=["x"] * 150, patterns=patterns, caption="")
    html = attention_explorer_html([view, view], room=150_000)
    (shown,) = embedded_json(html, "attention-data")  # type: ignore[misc]
    places = [(head["layer"], head["head"]) for head in shown["heads"]]
    assert len(html) <= 150_000
    assert {(3, 5), (20, 0)} <= set(places)
    assert places == sorted(places)
    assert (
        f"1 of 2 questions, the first ones in the report&#39;s order with {len(places)} of its 384 heads"
        in html
    )


@pytest.mark.parametrize("room", [-10, 0, 12_000])
def test_without_room_the_explorer_is_a_sentence(room: int) -> None:
    html = attention_explorer_html(big_views(2), room=room)
    assert "it shows 0 of 2 questions" in html
    assert "<script" not in html


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
    sections = (heavy_section("one", 1000, 200_000), heavy_section("two", 2000, 190_000))
    html = render(a_report(sections=sections))
    assert len(html.encode()) <= page_module.SIZE_LIMIT
    assert [f"one {n}" in html for n in (1000, 200_000)] == [True, False]
    assert [f"two {n}" in html for n in (2000, 190_000)] == [True, True]  # one was enough
    assert html.count("1 of the 2 figures here, the largest of the page, are not in it") == 1


def test_long_tables_are_shortened_after_the_figures() -> None:
    html = render(a_report(sections=(heavy_section("one", 1000, rows=120_000), heavy_section("two"))))
    assert len(html.encode()) <= page_module.SIZE_LIMIT
    assert "has its first 60000 of 120000 rows" in html or "has its first 30000 of 120000 rows" in html
    assert "Table of two" in html
    assert html.count("has its first") == 1


@pytest.mark.parametrize("limit", [0, 30_000, 1_000_000, 5_000_000])
def test_no_page_is_refused_for_its_size(limit: int) -> None:
    """The page holds its text in any case, and everything else only where there is room."""
    sections = (heavy_section("one", 300_000, rows=500), heavy_section("two", 1000))
    html = render(a_report(sections=sections, attention=big_views(1)), limit=limit)
    text = len(render(a_report(sections=(), attention=())))
    assert len(html.encode()) <= max(limit, 10_000 + text)
    assert "So that the file can be sent" in html


# What cannot be shown


@pytest.mark.parametrize(
    ("shape", "tokens"),
    [((1, 1, 3, 3), 2), ((1, 1, 2, 3), 3), ((1, 0, 2, 2), 2), ((0, 1, 2, 2), 2), ((1, 1, 0, 0), 0)],
)
def test_patterns_must_fit_their_tokens(shape: tuple[int, ...], tokens: int) -> None:
    with pytest.raises(ValueError, match="attention view 'q'"):
        AttentionView(title="q", tokens=["x"] * tokens, patterns=np.zeros(shape), caption="")


@pytest.mark.parametrize("weight", [np.nan, np.inf, -np.inf, -0.5, 1.5])
def test_patterns_must_be_weights(weight: float) -> None:
    with pytest.raises(ValueError, match="not `hook_attn_scores`"):
        AttentionView(title="q", tokens=["x"], patterns=np.full((1, 1, 1, 1), weight), caption="")


def test_patterns_must_be_causal() -> None:
    """The drawing greys out later keys, so weight on them would be hidden."""
    with pytest.raises(ValueError, match="give causal patterns"):
        AttentionView(title="q", tokens=["x", "y"], patterns=np.full((1, 1, 2, 2), 0.5), caption="")


def test_an_explorer_needs_a_view() -> None:
    with pytest.raises(ValueError, match="at least one view"):
        attention_explorer_html([])


@pytest.mark.parametrize("name", ["", "Two", "a b", "1st", "attention", "summary", 'x"y'])
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


def zoomed_head(opened: OpenedPage) -> str:
    return opened.page.locator(".explorer-zoom h3").inner_text().split(":")[0]


def zoomed_pixels(opened: OpenedPage) -> str:
    return str(opened.page.locator(".explorer-zoom canvas").evaluate("canvas => canvas.toDataURL()"))


def head_names(opened: OpenedPage) -> list[str]:
    return opened.page.locator(".explorer-thumbnails button").all_inner_texts()


def shown_tokens(opened: OpenedPage) -> list[str]:
    items = opened.page.locator("#attention-tokens li")
    return [
        str(text) for text in items.evaluate_all("items => items.map(item => item.lastChild.textContent)")
    ]


def assert_drawn(opened: OpenedPage, *, figures: int) -> None:
    """Every figure shows traces, and every head's canvas has more than one colour."""
    plots = opened.page.locator(".plot")
    assert plots.count() == figures
    for i in range(figures):
        plot = plots.nth(i)
        plot.locator("svg.main-svg").first.wait_for(state="attached")
        assert plot.locator(".scatterlayer .trace path.js-line, .heatmaplayer image, .bars path").count() > 0
    opened.page.wait_for_selector(".explorer-zoom canvas")
    for canvas in opened.page.locator(".explorer-thumbnails canvas").all():
        canvas.scroll_into_view_if_needed()  # it is painted when it comes into sight
    opened.page.wait_for_function(
        # reads a copy: reading the page's own canvases would make the browser warn about this test
        """() => [...document.querySelectorAll("#attention-stage canvas")].every((canvas) => {
             const {width, height} = canvas;
             if (!width || !height) return false;
             const copy = Object.assign(document.createElement("canvas"), {width, height});
             const context = copy.getContext("2d", {willReadFrequently: true});
             context.drawImage(canvas, 0, 0);
             return new Set(new Uint32Array(context.getImageData(0, 0, width, height).data.buffer)).size > 1;
           })"""
    )


def assert_within_width(opened: OpenedPage) -> None:
    """Nothing is wider than the window, and each figure's drawing is inside its own box."""
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    outside = opened.page.evaluate(
        """() => {
             const right = (element) => element.getBoundingClientRect().right;
             const drawn = [...document.querySelectorAll(".plot .main-svg, #attention-stage canvas")];
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
        assert links.all_inner_texts() == [
            "Summary",
            "What was trained",
            "Internalization by subset",
            "Where it is read",
            "Attention",
        ]
        buttons = opened.page.locator(".modebar-btn").evaluate_all("all => all.map(b => b.dataset.title)")
        assert "Zoom" in buttons
        assert not [
            title for title in buttons if re.search("share|cloud|send|edit", title or "", re.IGNORECASE)
        ]
        opened.assert_clean()


def test_attention_follows_the_pointer_and_the_selects(report_file: Path) -> None:
    first, second = a_report().attention
    with open_page(report_file) as opened:
        page = opened.page
        assert_drawn(opened, figures=2)
        assert head_names(opened) == ["L1H0", "L1H1", "L1H2", "L1H3"]  # the last layer
        assert shown_tokens(opened) == first.tokens
        assert zoomed_head(opened) == "L1H0"

        def changes(act: Callable[[], object], *, to: str) -> None:
            before = zoomed_pixels(opened)
            act()
            page.wait_for_function(
                "to => document.querySelector('.explorer-zoom h3')?.innerText.startsWith(to + ':')", arg=to
            )
            assert_drawn(opened, figures=2)
            assert zoomed_pixels(opened) != before

        thumbnails = page.locator(".explorer-thumbnails button")
        changes(lambda: thumbnails.nth(2).hover(), to="L1H2")
        changes(lambda: page.locator("#attention-caption").hover(), to="L1H0")
        thumbnails.nth(3).click()
        page.locator("#attention-caption").hover()
        assert zoomed_head(opened) == "L1H3"
        assert page.locator("#attention-head").input_value() == "L1H3"

        changes(lambda: page.get_by_label("Layer", exact=True).select_option("0"), to="L0H3")
        assert head_names(opened) == ["L0H0", "L0H1", "L0H2", "L0H3"]
        changes(lambda: page.get_by_label("Question", exact=True).select_option(second.title), to="L0H3")
        assert head_names(opened) == [f"L0H{i}" for i in range(6)]
        assert shown_tokens(opened) == second.tokens
        assert page.locator("#attention-caption").inner_text() == second.caption
        changes(lambda: page.get_by_label("Layer", exact=True).select_option("2"), to="L2H3")
        changes(lambda: page.get_by_label("Head", exact=True).select_option("L2H5"), to="L2H5")
        changes(lambda: page.get_by_label("Question", exact=True).select_option(first.title), to="L1H3")
        opened.assert_clean()


def test_hostile_text_stays_text_in_the_browser(tmp_path: Path) -> None:
    view = AttentionView(
        title=HOSTILE, tokens=[HOSTILE, "b\n"], patterns=np.tri(2)[None, None] / 2, caption=HOSTILE
    )
    path = tmp_path / "report.html"
    write(a_report(title=HOSTILE, attention=(view,)), path)
    with open_page(path) as opened:
        assert_drawn(opened, figures=2)
        assert opened.page.locator("h1").inner_text() == HOSTILE
        assert opened.page.locator("#attention-question option").inner_text() == HOSTILE
        assert shown_tokens(opened) == [HOSTILE, "b↵"]
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
