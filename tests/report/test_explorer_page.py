"""The explorer in a real browser: choose, slide, link, go back, keys, a phone, dark, saving, and no request at all."""

import csv
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import OpenedPage, open_page, wait_until
from playwright.sync_api import Page

from mechocl.analyses.variant_jobs import train_variants
from mechocl.behaviour import internalization
from mechocl.report.explorer import page as explorer
from mechocl.report.explorer.story import Story, View
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED

STORY = Story(
    title="Two views",
    views=(
        View(caption="The first caption.", subset="d1_consistent", position="alias"),
        View(
            caption="The second caption.", subset="d2_consistent", checkpoint="first", head="0.1", question=2
        ),
    ),
)


def written(run: Run, path: Path, *, story: Story | None = None, patching: bool = True) -> Path:
    explorer.write_explorer(
        run, run.seeds, path, aliases=10, checkpoints=3, patching=patching, device="cpu", jobs=1, story=story
    )
    return path


@pytest.fixture(scope="module")
def file(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(trained, tmp_path_factory.mktemp("explorer") / "page.html")


@pytest.fixture
def opened(file: Path) -> Iterator[OpenedPage]:
    with open_page(file) as opened:
        drawn(opened.page)
        yield opened
        opened.assert_clean()


def drawn(page: Page) -> None:
    """Wait until what was asked for is drawn."""
    wait_until(page, "document.documentElement.dataset.ready === String(turn)")


def fields(page: Page) -> dict[str, str]:
    """What the address names."""
    found: dict[str, str] = page.evaluate("Object.fromEntries(new URLSearchParams(location.hash.slice(1)))")
    return found


def state(page: Page) -> dict[str, object]:
    found: dict[str, object] = page.evaluate("current")
    return found


# Choosing


def test_every_panel_is_drawn_or_says_why_not(opened: OpenedPage) -> None:
    page = opened.page
    panels = page.locator(".panel").evaluate_all("all => all.map((one) => one.id)")
    assert panels == ["tokens", "heads", "pattern", "lens", "ranks", "answers", "patching", "scatter"]
    for name in panels:
        assert page.locator(f"#{name} .figure > svg").count() == 1


def test_a_page_without_twins_says_so_in_one_line_where_their_panel_would_be(opened: OpenedPage) -> None:
    page = opened.page
    line = page.locator("#answers + .absent")
    assert re.fullmatch(
        r"Twins under the other tag are not on this page: run has no variant .*mechocl twins run.*",
        line.inner_text(),
    )
    assert line.locator("code").inner_text() == "mechocl twins run"
    assert page.locator("#twin").count() == 0
    assert "`" not in page.locator("body").inner_text()


def test_the_numbers_on_the_page_are_those_of_the_models(opened: OpenedPage, trained: Run) -> None:
    """Logits of the answers, as the page unpacked them, beside the model's own."""
    page, folder = opened.page, trained.seed(0)
    shown = page.evaluate(
        "({row: drawnView.question.row, logits: Array.from(part(drawnView.arrays.logits, drawnView.index))})"
    )
    tokens = folder.task.tokens[[shown["row"]]][:, : page.evaluate("drawnView.seed.labels.length")]
    logits = folder.model(tokens)[0, -1]
    wanted = logits[folder.task.questioning.answer_ids(folder.task.vocabulary)].tolist()
    assert shown["logits"] == pytest.approx(wanted, rel=2**-10, abs=1e-3)
    heads = page.evaluate("Array.from(patternRow(part(drawnView.arrays.patterns, drawnView.index, 0, 0), 2))")
    _, cache = folder.model.run_with_cache(tokens)
    assert heads == pytest.approx(cache["blocks.0.attn.hook_pattern"][0, 0, 2, :3].tolist(), rel=2**-10)


def test_choices_change_what_is_shown_and_the_address(opened: OpenedPage) -> None:
    page = opened.page
    before = page.locator("#said").inner_text()
    page.select_option("#seed", "1")
    drawn(page)
    assert fields(page)["seed"] == "1"
    page.select_option("#subset", "d2_consistent")
    drawn(page)
    assert "d2_consistent" in page.locator("#said").inner_text() != before
    page.select_option("#list", "1")
    drawn(page)
    assert fields(page)["question"] == "2"
    assert "right answer is false" in page.locator("#said").inner_text()
    page.locator("#heads [data-pick='head:0.1']").click()
    drawn(page)
    assert fields(page)["head"] == "0.1"
    assert "head 1" in page.locator("#pattern h2").inner_text()
    for seed in (
        "0",
        "1",
    ):  # its first alias of the subset that is chosen, where the number is of another subset there
        page.select_option("#seed", seed)
        drawn(page)
        assert fields(page)["subset"] == "d2_consistent"
        assert "(d2_consistent" in page.locator("#said").inner_text()


def test_an_alias_is_found_by_typing(opened: OpenedPage) -> None:
    page = opened.page
    names = page.evaluate("CONTENT.seeds[0].aliases.map((one) => one.name)")
    for typed in (names[-1], names[1].split()[-1]):
        page.fill("#alias", typed)
        page.keyboard.press("Enter")
        drawn(page)
        assert page.input_value("#alias") == next(n for n in names if n == typed or n.split()[-1] == typed)
    page.fill("#alias", "nothing like it")
    page.keyboard.press("Enter")
    assert "No alias of this page is called “nothing like it”" in page.locator("#notice").inner_text()


def test_the_slider_goes_through_training(opened: OpenedPage) -> None:
    page = opened.page
    keys = page.evaluate("CONTENT.seeds[0].checkpoints.map((one) => one.key)")
    page.focus("#checkpoint")
    for key in reversed(keys[:-1]):
        page.keyboard.press("ArrowLeft")
        drawn(page)
        assert fields(page)["checkpoint"] == key
    assert (
        page.get_attribute("#checkpoint", "aria-valuetext") == page.locator("#checkpoint-name").inner_text()
    )


def test_a_click_in_the_scatter_chooses_an_alias(opened: OpenedPage) -> None:
    page = opened.page
    other = page.evaluate("CONTENT.seeds[0].aliases.at(-1).alias")
    page.locator(f"#scatter [data-pick='alias:{other}']").dispatch_event("click")
    drawn(page)
    assert fields(page)["alias"] == str(other)


# Links


def test_a_link_opens_the_same_view(opened: OpenedPage) -> None:
    page = opened.page
    page.select_option("#seed", "1")
    drawn(page)
    page.locator("#heads [data-pick='head:0.1']").click()
    page.locator("#tokens [data-pick='position:1']").click()
    drawn(page)
    other = page.context.new_page()
    other.goto(page.url)
    drawn(other)
    for name in ("pattern", "lens", "scatter"):
        assert other.locator(f"#{name} .figure").inner_html() == page.locator(f"#{name} .figure").inner_html()


def test_back_and_forward(opened: OpenedPage) -> None:
    page = opened.page
    page.select_option("#seed", "1")
    drawn(page)
    page.select_option("#list", "1")
    drawn(page)
    page.go_back()
    drawn(page)
    assert (state(page)["seed"], state(page)["list"]) == (1, 0)
    assert page.input_value("#list") == "0"
    page.go_back()
    drawn(page)
    assert state(page)["seed"] == 0
    page.go_forward()
    page.go_forward()
    drawn(page)
    assert (state(page)["seed"], state(page)["list"]) == (1, 1)


def test_a_link_to_what_is_not_there_says_so(opened: OpenedPage) -> None:
    page = opened.page
    page.evaluate("location.hash = '#seed=77&alias=x&head=9.9&position=%3D'")
    page.wait_for_selector("#notice:not([hidden])")
    assert "seed 77, alias x, head 9.9" in page.locator("#notice").inner_text()


# Keys, sizes, colours


def test_by_keyboard_alone_in_few_stops(opened: OpenedPage) -> None:
    page = opened.page
    page.locator("#theme").focus()
    stops = [page.evaluate("document.activeElement.id")]
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.id || (document.activeElement.closest('.panel') || {}).id + '/' + document.activeElement.className"
        )
        if page.evaluate("document.activeElement === document.body"):
            break
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", name
        stops.append(name)
    assert len(stops) <= 24, stops
    assert {"seed", "checkpoint", "subset", "alias", "list", "heads/figure", "scatter/figure"} <= set(stops)


def test_arrow_keys_in_panels(opened: OpenedPage) -> None:
    page = opened.page
    page.focus("#heads .figure")
    page.keyboard.press("ArrowRight")
    drawn(page)
    pinned = fields(page)["head"]
    page.focus("#pattern .figure")
    page.keyboard.press("ArrowUp")
    drawn(page)
    assert fields(page) | {"head": pinned} == fields(page)
    assert state(page)["position"] == page.evaluate("drawnView.seed.labels.length") - 2
    before = state(page)["alias"]
    page.focus("#scatter .figure")
    page.keyboard.press("ArrowRight")
    drawn(page)
    assert state(page)["alias"] != before
    assert page.evaluate("document.activeElement.closest('.panel').id") == "scatter"


@pytest.mark.parametrize("width", [390, 768, 1280, 1920])
def test_no_width_is_too_small(opened: OpenedPage, width: int) -> None:
    page = opened.page
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for panel in page.locator(".figure > svg").all():
        box = panel.bounding_box()
        assert box is not None
        assert box["x"] + box["width"] <= width


def test_dark_follows_the_system_and_can_be_switched(opened: OpenedPage) -> None:
    page = opened.page
    paper = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(paper) == "rgb(255, 255, 255)"
    page.emulate_media(color_scheme="dark")
    wait_until(page, "document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate(paper) == "rgb(20, 24, 31)"
    assert page.locator("#lens .figure > svg > rect").first.get_attribute("fill") == "#14181f"
    page.click("#theme")
    assert page.evaluate(paper) == "rgb(255, 255, 255)"


# Saving


@pytest.mark.parametrize(
    "names",
    [("tokens", "heads", "pattern"), ("lens", "ranks", "answers"), ("patching", "scatter")],
    ids="+".join,
)
def test_panels_are_saved(opened: OpenedPage, tmp_path: Path, names: tuple[str, ...]) -> None:
    """A few panels on one page, since Chromium asks the reader after ten files."""
    page = opened.page
    for name in names:
        saved = {}
        for kind in ("SVG", "PNG", "CSV"):
            with page.expect_download() as download:
                page.locator(f"#{name} .tools button", has_text=kind).click()
            assert download.value.suggested_filename.startswith(f"{name}-seed-0-checkpoint-")
            saved[kind] = tmp_path / f"{name}.{kind}"
            download.value.save_as(saved[kind])
        assert saved["PNG"].read_bytes().startswith(b"\x89PNG")
        assert saved["PNG"].stat().st_size > 2000
        text = saved["SVG"].read_text()
        assert text.startswith("<svg")
        assert not re.findall(r"""href="(?!data:)""", text)
        with saved["CSV"].open() as lines:
            rows = list(csv.reader(lines))
        assert len(rows) > 1
        assert {len(row) for row in rows} == {len(rows[0])}


def test_the_csv_of_the_lens_is_what_the_page_holds(opened: OpenedPage, tmp_path: Path) -> None:
    page = opened.page
    with page.expect_download() as download:
        page.locator("#lens .tools button", has_text="CSV").click()
    download.value.save_as(tmp_path / "lens.csv")
    with (tmp_path / "lens.csv").open() as lines:
        found = [float(row["logit"]) for row in csv.DictReader(lines)]
    wanted = page.evaluate(
        "drawnView.seed.sites.flatMap((_, i) => Array.from(lensAt(drawnView, i, drawnView.state.position)))"
    )
    assert found == wanted


# Stories, twins, and what is left out


def test_a_story_leads_through_its_views(trained: Run, tmp_path: Path) -> None:
    with open_page(written(trained, tmp_path / "story.html", story=STORY)) as opened:
        page = opened.page
        drawn(page)
        assert page.locator("#caption").inner_text() == "The first caption."
        assert page.locator("#story-back").is_disabled()
        page.click("#story-next")
        drawn(page)
        assert page.locator("#caption").inner_text() == "The second caption."
        assert fields(page)["story"] == "2"
        assert (fields(page)["head"], fields(page)["question"]) == ("0.1", "2")
        assert state(page)["checkpoint"] == page.evaluate("CONTENT.seeds[0].checkpoints[0].key")
        page.go_back()
        drawn(page)
        assert page.locator("#caption").inner_text() == "The first caption."
        page.select_option("#list", "1")
        drawn(page)
        assert "another view" in page.locator("#caption").inner_text()
        opened.assert_clean()


def test_twins_stand_beside_each_other(run: Run, tmp_path: Path) -> None:
    train_variants(run, [EXCHANGED], jobs=1)
    with open_page(written(run, tmp_path / "twins.html", patching=False)) as opened:
        page = opened.page
        drawn(page)
        assert page.locator("#twin .figure > svg").count() == 1
        rows = page.evaluate("twinRows(drawnView)")
        twin = run.path / "variants" / EXCHANGED
        folder, other = run.seed(0), Run.open(twin).seed(0)
        alias = state(page)["alias"]
        for (name, own, under_other), measure in zip(rows[:2], ("auc", "logit_difference"), strict=True):
            for value, one in ((own, folder), (under_other, other)):
                found = internalization.per_alias(one.model, one.task).set_index("alias")
                assert value == pytest.approx(found.loc[alias, measure], rel=2**-10, abs=1e-3), name
        page.select_option("#model", "twin")
        drawn(page)
        assert fields(page)["twin"] == "1"
        assert page.locator("#checkpoint").is_disabled()
        assert "d2_consistent, defined with tag 2" in page.locator("#said").inner_text()
        difference = page.evaluate("part(drawnView.arrays.difference, drawnView.index)[0]")
        assert difference == {name: under for name, _, under in rows}["logits, question 1"]
        page.go_back()
        drawn(page)
        assert not page.locator("#checkpoint").is_disabled()
        page.select_option("#subset", "qd1_consistent")
        drawn(page)
        assert "this one is of another subset" in page.locator("#twin .figure").inner_text()
        assert "--no-patching" in page.locator("#patching .figure").inner_text()
        opened.assert_clean()


def test_content_is_one_json_text(file: Path) -> None:
    found = re.findall(
        r'<script type="application/json" id="content">(.*?)</script>', file.read_text(), re.DOTALL
    )
    assert len(found) == 1
    content = json.loads(found[0])
    assert [seed["seed"] for seed in content["seeds"]] == [0, 1]
