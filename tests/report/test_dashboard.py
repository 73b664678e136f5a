"""Pages of features whose directions are set by hand, and the dashboard of them in a real browser."""

import dataclasses
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sae_lens
import torch
from browser import open_page, wait_until
from planted import Mechanism, planted_model, small_task, subspaces
from reading import low_contrast, set_scheme, tab_stops_before, wider_than_the_page
from torch import Tensor
from transformer_lens import HookedTransformer

from mechocl.errors import MechoclError
from mechocl.features import properties
from mechocl.features.decoder_rows import frozen_rows
from mechocl.features.dictionaries import Dictionary
from mechocl.features.pages import FeaturePage, pages
from mechocl.models.components import Norm, take_apart
from mechocl.report.dashboard import dashboard_html, write
from mechocl.runs.activation_cache import directly
from toy_models.task import ROLE, Task

SITE = "blocks.0.hook_resid_pre"
HOSTILE = "</script><img src=x onerror=alert(1)>&<!-- <script>"
TAG, EQUALS, THREE, DEAD, SIZE = range(5)
WIDTH = 5


@cache
def task() -> Task:
    return small_task()


@cache
def model() -> HookedTransformer:
    """The planted model; the token of tag 1 has 3 in the coordinate that says tag 1 at an alias."""
    made = planted_model(task(), Mechanism())
    with torch.no_grad():
        made.embed.W_E[tag_token(1), subspaces(task(), Mechanism()).tag.start] = 3
    return made


def tag_token(tag: int) -> int:
    row = int(task().rows(kind="definition", tag=tag)[0])
    return int(task().tokens[row][task().roles[row] == ROLE["tag"]])


@cache
def dictionary(site: str = SITE) -> Dictionary:
    """Features of the embedding, by what they read → what they write.

    TAG     the coordinate of tag 1 → the same
    EQUALS  the coordinate of `=` → twice the coordinate of the answer
    THREE   the coordinate of a listed 3 → the coordinate of a retrieved 3
    DEAD    nothing
    SIZE    i times the coordinate of a listed i → the coordinate of `=`
    """
    space = subspaces(task(), Mechanism())
    config = sae_lens.StandardSAEConfig(d_in=model().cfg.d_model, d_sae=WIDTH)
    sae = sae_lens.StandardSAE(config)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.zero_()
        sae.W_enc[space.tag.start, TAG] = sae.W_dec[TAG, space.tag.start] = 1
        sae.W_enc[space.equals, EQUALS] = 1
        sae.W_dec[EQUALS, space.answer] = 2
        sae.W_enc[space.listed.start + 3, THREE] = sae.W_dec[THREE, space.retrieved.start + 3] = 1
        sae.W_enc[space.listed, SIZE] = torch.arange(12.0)
        sae.W_dec[SIZE, space.equals] = 1
    return Dictionary(sae.eval(), site, site, {})


def search_rows() -> pd.DataFrame:
    """Rows of a search: TAG stands for tag 1 at two positions and for a hostile name, SIZE for nothing surely."""
    columns = ["what", "features", "property", "text", "position", "sign", "auc", "mutual_information", "q"]
    rows: list[tuple[Any, ...]] = [
        ("feature", str(SIZE), "odd integer", "question", "n1", 1, 0.6, 0.01, 0.2),
        ("feature", str(TAG), "tag 1, not 2", "question", "%", 1, 0.8, 0.4, 1e-5),
        ("feature", str(TAG), "tag 1, not 2", "question", "alias", 1, 1.0, 0.9, 1e-9),
        ("feature", str(TAG), HOSTILE, "definition", "tag", -1, 0.9, 0.5, 1e-7),
        ("set", f"{TAG},{SIZE}", "tag 1, not 2", "question", "alias", 1, 1.0, np.nan, 1e-9),
        ("feature", str(EQUALS), "role =", "question", "any", 1, 0.95, 1.0, 1e-30),
        ("feature", str(THREE), "token 3", "question", "n1", 1, 0.99, 0.3, 1e-8),
    ]
    return pd.DataFrame(rows, columns=columns)


def effect_rows() -> pd.DataFrame:
    """A retrieval feature's patch, one of a set, and an ablation that was made for two properties."""
    base = {
        "property": "tag 1, not 2",
        "position": "alias",
        "features": str(TAG),
        "k": 1,
        "intervention": "ablate",
        "subset": "d1",
        "metric": "logit_difference",
        "effect": -2.0,
        "share": np.nan,
        "predicted": -1,
        "control_95": 0.5,
        "beats": 1.0,
        "retrieval": False,
    }
    patch = base | {"intervention": "patch", "subset": "pairs", "predicted": 1, "effect": 3.0}
    rows = [
        patch | {"features": f"{TAG},{SIZE}", "k": 2, "effect": 5.0, "share": 0.5},
        patch | {"share": 0.25, "retrieval": True},
        base | {"property": "odd integer", "predicted": 0, "control_95": np.nan},
        base,
    ]
    return pd.DataFrame(rows)


def make(**changes: Any) -> list[FeaturePage]:
    options: dict[str, Any] = {"search_rows": search_rows(), "tested": effect_rows(), "seed": 0}
    of = changes.pop("dictionary", dictionary())
    return pages(model(), task(), of, collect=directly(model()), **(options | changes))


@cache
def made() -> dict[int, FeaturePage]:
    return {page.number: page for page in make()}


# The pages


def test_a_feature_that_is_active_nowhere_has_no_page() -> None:
    assert list(made()) == [TAG, EQUALS, THREE, SIZE]


def test_top_examples_of_the_tag_are_of_the_tag() -> None:
    examples = made()[TAG].examples
    assert {e.text.tag for e in examples} == {1}
    by_kind = {kind: [e for e in examples if e.text.kind == kind] for kind in ("question", "definition")}
    assert [len(found) for found in by_kind.values()] == [7, 7]
    for example in by_kind["question"]:  # 1 at the alias, nothing after it
        assert example.activations == (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        assert example.text.positions[example.peak] == "alias"
    for example in by_kind["definition"]:  # 3 at the tag, 1 at the alias
        assert example.text.tokens[example.peak] == "tag 1"
        assert dict(zip(example.text.positions, example.activations, strict=True)) == {
            "tag": 3.0,
            "alias": 1.0,
            "%": 0.0,
            "entity": 0.0,
        }
    for kind in by_kind.values():
        assert [e.rank for e in kind[:4]] == [1, 2, 3, 4]
        assert [e.quantile for e in kind] == [None] * 4 + [0.75, 0.5, 0.25]


def test_examples_go_down_by_their_largest_activation() -> None:
    """SIZE is i at a listed integer i, so a question's largest activation is its largest listed integer."""
    questions = [e for e in made()[SIZE].examples if e.text.kind == "question"]
    for example in questions:
        numbers = [int(token) if token.isdigit() else 0 for token in example.text.tokens]
        assert list(example.activations) == numbers
        assert example.peak == int(np.argmax(numbers))
        assert example.text.contains == (str(example.text.integer) in example.text.tokens[2:6])
    read = properties.texts(task(), seed=0)[0]
    listed = read.tokens[:, 2:6] - task().vocabulary.integers[0]
    largest = listed.amax(1).sort(descending=True).values
    for example in questions:
        assert max(example.activations) == largest[example.rank - 1]
    assert [e.rank for e in questions[4:]] == [1 + int(share * 359) for share in (0.25, 0.5, 0.75)]


def test_activity_by_role_and_subset() -> None:
    question, definition = made()[TAG].activity
    assert (question.kind, definition.kind) == ("question", "definition")
    assert question.roles == ("alias", "%", "list", "=")
    for i, name in enumerate(question.subsets):
        of_tag = 1.0 if name in ("qd1_consistent", "d1_consistent") else 0.0
        assert question.mean[i] == question.rate[i] == (of_tag, 0.0, 0.0, 0.0)
        assert definition.mean[i][definition.roles.index("tag")] == 3 * of_tag
    listed = made()[THREE].activity[0]
    share = (properties.texts(task(), seed=0)[0].tokens[:, 2:6] == task().vocabulary.integers[0] + 3).float()
    subset = properties.texts(task(), seed=0)[0].table["subset"].to_numpy()
    for i, name in enumerate(listed.subsets):
        assert listed.rate[i][2] == pytest.approx(float(share[subset == name].mean()))


def test_rate_and_mean_are_of_the_tokens() -> None:
    tokens = sum(one.tokens.numel() for one in properties.texts(task(), seed=0))
    assert made()[EQUALS].rate == pytest.approx(360 / tokens)
    assert made()[EQUALS].mean == 1
    assert made()[EQUALS].norm == 2
    assert made()[TAG].mean == pytest.approx(2 / 3 * 1 + 1 / 3 * 3)  # alias twice, tag once


def test_direct_effect_by_hand() -> None:
    """Without layer norm: 2 in the answer's coordinate gives +2 to true and −2 to false."""
    direct = made()[EQUALS].direct
    assert direct is not None
    assert direct.difference == pytest.approx(4)
    assert all(value == pytest.approx(0) for _, value in direct.highest + direct.lowest)
    # a retrieved 3 gives 1 to the integer 3 of 12, and the mean of all is 1/12
    direct = made()[THREE].direct
    assert direct is not None
    assert direct.difference == pytest.approx(0)
    assert direct.highest[0] == (3, pytest.approx(11 / 12))
    assert 3 not in dict(direct.lowest)
    assert all(value == pytest.approx(-1 / 12) for _, value in direct.lowest)
    assert len(direct.highest) == len(direct.lowest) == 5


def test_frozen_norm_by_hand() -> None:
    """Standard deviations 2 and 4 have the mean 3; (4, 0, 0, 0) less its mean is (3, −1, −1, −1)."""
    norm = Norm(torch.tensor([2.0, 1.0, 1.0, 1.0]), torch.ones(4), 0.0)
    c = dataclasses.replace(take_apart(model()), ln_final=norm)
    stream = torch.tensor([[2.0, -2.0, 2.0, -2.0], [4.0, -4.0, 4.0, -4.0]])
    rows = frozen_rows(c, torch.tensor([[4.0, 0.0, 0.0, 0.0]]), stream=stream)
    torch.testing.assert_close(rows, torch.tensor([[2.0, -1 / 3, -1 / 3, -1 / 3]]))


def test_nearest_directions() -> None:
    nearest = {near.name: near.cosine for near in made()[TAG].near}
    assert made()[TAG].near[0].name == "embedding of tag 1"
    assert nearest["embedding of tag 1"] == pytest.approx(1)
    # d1 − d2 at the alias: +1 for tag 1, −1 for tag 2, and a little from the integers they happen to have
    assert nearest["means of d1 against d2, at alias"] == pytest.approx(0.5**0.5, abs=0.05)
    assert nearest["means of d3 against d2, at alias"] == pytest.approx(0, abs=1e-6)
    assert not any(name.endswith("at =") for name in nearest)  # the embedding of = is the same everywhere
    assert made()[TAG].chance_cosine == pytest.approx(1.96 / model().cfg.d_model ** 0.5)
    sizes = [abs(near.cosine) for near in made()[TAG].near]
    assert sizes == sorted(sizes, reverse=True)


def test_probe_directions_are_compared_too() -> None:
    direction = torch.zeros(model().cfg.d_model)
    direction[subspaces(task(), Mechanism()).answer] = -1
    page = next(p for p in make(probes={"answer": direction}) if p.number == EQUALS)
    assert (page.near[0].name, page.near[0].cosine) == ("probe answer", pytest.approx(-1))
    with pytest.raises(MechoclError, match=r"probe|direction of short has 3 dimensions"):
        make(probes={"short": torch.ones(3)})


def test_properties_come_best_first_and_once() -> None:
    meanings = made()[TAG].meanings
    assert [(m.property, m.position, m.also, m.sign) for m in meanings] == [
        ("tag 1, not 2", "alias", ("%",), 1),
        (HOSTILE, "tag", (), -1),
    ]
    assert made()[SIZE].meanings == ()  # q is 0.2, and a set is not the feature


def test_effects_of_a_feature() -> None:
    page = made()[TAG]
    assert page.tested
    assert page.retrieval
    assert [(p.features, p.effect, p.retrieval) for p in page.patches] == [
        ((TAG,), 3.0, True),
        ((TAG, SIZE), 5.0, False),
    ]
    [change] = page.changes  # the same change, made for two properties
    assert (change.predicted, change.control_95) == (-1, 0.5)
    assert [p.features for p in made()[SIZE].patches] == [(TAG, SIZE)]
    assert not made()[SIZE].retrieval
    assert made()[SIZE].changes == ()


def test_without_a_causal_test() -> None:
    page = make(tested=None)[0]
    assert not page.tested
    assert page.patches == page.changes == ()


def test_pages_are_reproducible_and_change_nothing() -> None:
    before: dict[str, Tensor] = {name: x.clone() for name, x in model().state_dict().items()}
    assert make() == list(made().values())
    for name, x in model().state_dict().items():
        torch.testing.assert_close(x, before[name], rtol=0, atol=0, equal_nan=True)


# The file


def hostile() -> list[FeaturePage]:
    """The pages, with a name of a token that would be a script."""

    def spoilt(page: FeaturePage) -> FeaturePage:
        first = page.examples[0]
        text = dataclasses.replace(first.text, tokens=(HOSTILE, *first.text.tokens[1:]))
        return dataclasses.replace(page, examples=(dataclasses.replace(first, text=text), *page.examples[1:]))

    return [spoilt(page) for page in made().values()]


def html(of: list[FeaturePage]) -> str:
    return dashboard_html(of, width=WIDTH, title=HOSTILE, facts={HOSTILE: HOSTILE}, warning=HOSTILE)


def embedded(page: str) -> dict[str, Any]:
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return dict(json.loads(text))


def test_hostile_strings_are_escaped() -> None:
    page = html(hostile())
    assert "<img" not in page
    assert "<!-- " not in page
    assert len(re.findall(r"<script\b", page)) == page.count("</script>") == 2
    assert HOSTILE in embedded(page)["strings"]


def test_nothing_is_loaded_from_elsewhere() -> None:
    page = html(hostile())
    assert "http:" not in page
    assert "https:" not in page
    assert not re.findall(r"<(?:script|iframe|object|embed|img)\b[^>]*\bsrc", page.replace(HOSTILE, ""))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]


def test_the_data_say_what_the_pages_say() -> None:
    page = html(list(made().values()))
    assert page == html(list(made().values()))
    data = embedded(page)
    strings = data["strings"]
    feature = data["features"][0]
    assert (feature["n"], feature["retrieval"]) == (TAG, True)
    assert [strings[m[0]] for m in feature["meanings"]] == ["tag 1, not 2", HOSTILE]
    text, rank, quantile, peak, active = feature["examples"][0]
    assert (rank, quantile, peak, active) == (1, None, 0, [[0, 1]])
    assert [strings[i] for i in data["texts"][text][1]] == list(made()[TAG].examples[0].text.tokens)
    assert "NaN" not in page.partition('id="data"')[2].partition("</script>")[0]


def test_pages_that_do_not_belong_together_are_refused() -> None:
    some = list(made().values())
    with pytest.raises(ValueError, match="two pages of one feature"):
        html([some[0], some[0]])
    with pytest.raises(ValueError, match="feature 4 has a page"):
        dashboard_html(some, width=4, title="", facts={})


# In a browser


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile pages, and 30 more of the feature that nothing was found of."""
    path = tmp_path_factory.mktemp("dashboard") / "dashboard.html"
    bare = dataclasses.replace(made()[SIZE], patches=(), direct=None, near=(), activity=made()[TAG].activity)
    more = [dataclasses.replace(bare, number=100 + i, rate=0.9 + i / 1000) for i in range(30)]
    size = write(
        [*hostile(), *more], path, width=200, title="SAE", facts={"Site": SITE, "Held out": "a third"}
    )
    assert size == path.stat().st_size
    return path


def test_a_reader_finds_and_opens_features(dashboard: Path) -> None:
    with open_page(dashboard) as opened:
        page = opened.page
        rows, article = page.locator("#table tbody tr"), page.locator("#page")
        assert page.locator("#count").inner_text() == "34 of 34 features"
        assert rows.count() == 12
        assert article.locator("h2").inner_text() == f"Feature {TAG}"  # the retrieval feature is first

        page.get_by_label("Search").fill("token 3")
        assert rows.count() == 1
        rows.first.click()
        assert page.url.endswith(f"#feature-{THREE}")
        assert article.locator("h2").inner_text() == f"Feature {THREE}"
        assert article.locator(".strips").first.locator("tbody tr").count() == 7
        peak = article.locator(".strips .peak").nth(1)
        assert peak.inner_text().split() == ["3", "1"]
        assert peak.evaluate("e => getComputedStyle(e).backgroundColor") != "rgba(0, 0, 0, 0)"
        assert "+0.92" in article.inner_text()  # 11/12, of the integer 3

        for words, expected in {"retrieval": [TAG], "110": [110], "tag  1, NOT": [TAG], "ag 1": []}.items():
            page.get_by_label("Search").fill(words)
            shown = [int(text) for text in page.locator("#table tbody tr[data-feature] a").all_inner_texts()]
            assert shown == expected, words
        page.get_by_label("Search").fill("")

        heading = page.locator("#table th", has_text="Fires")
        rarest = min(made().values(), key=lambda one: one.rate).number
        for direction, first in (("descending", 129), ("ascending", rarest)):
            heading.get_by_role("button").click()
            assert heading.get_attribute("aria-sort") == direction
            assert page.locator("#table th[aria-sort=none]").count() == 8
            assert rows.first.get_attribute("data-feature") == str(first)
        page.get_by_role("button", name="Next rows").click()
        assert page.locator("#rows").inner_text() == "rows 13 to 24 of 34"
        rows.nth(2).press("Enter")
        assert page.url.endswith(f"#feature-{rows.nth(2).get_attribute('data-feature')}")
        assert rows.nth(2).get_attribute("aria-current") == "true"
        for reason in ("not among the surest", "not among the features that were tested", "no direct path"):
            assert reason in article.inner_text()
        opened.assert_clean()


def test_an_address_opens_its_feature(dashboard: Path) -> None:
    with open_page(dashboard, width=800) as opened:
        page = opened.page
        for number, text in ((TAG, HOSTILE), (DEAD, "active on no token"), (777, "features 0 to 199")):
            page.evaluate(f"location.hash = '#feature-{number}'")
            page.wait_for_function(f"document.querySelector('#page h2').textContent === 'Feature {number}'")
            assert text in page.locator("#page").inner_text()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        opened.assert_clean()


def test_dark_is_readable(dashboard: Path) -> None:
    """The ink on the strongest shading has a contrast of at least 4.5 in both colour schemes (WCAG AA)."""
    with open_page(dashboard) as opened:
        for scheme in ("light", "dark"):
            set_scheme(opened.page, scheme)
            ink, heat = (
                opened.page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('{name}')")
                for name in ("--ink", "--heat")
            )
            low, high = sorted(luminance(color) for color in (ink, heat))
            assert (high + 0.05) / (low + 0.05) >= 4.5, scheme
            assert low_contrast(opened.page) == [], scheme
        opened.assert_clean()


def test_the_dashboard_is_read_on_a_phone(dashboard: Path) -> None:
    """Nothing is wider than the page, tables scroll under shades, and the number of a feature stays beside its row."""
    with open_page(dashboard, width=390) as opened:
        page = opened.page
        assert wider_than_the_page(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        frame = page.locator(".shaded:has(#table)")
        assert "more-right" in str(frame.get_attribute("class"))
        page.locator(".wide:has(#table)").evaluate("box => { box.scrollLeft = 1000; }")
        wait_until(page, "document.querySelector('.shaded:has(#table)').classList.contains('more-left')")
        cell = page.locator("#table tbody .row-name").first.bounding_box()
        assert cell is not None
        assert 0 <= cell["x"] <= 20
        opened.assert_clean()


def test_the_dashboard_changes_between_light_and_dark(dashboard: Path) -> None:
    with open_page(dashboard) as opened:
        set_scheme(opened.page, "light")
        before = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        opened.page.get_by_role("button", name="Dark").click()
        assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        assert tab_stops_before(opened.page, "#page") < 30
        opened.assert_clean()


def luminance(color: str) -> float:
    """Relative luminance of #rrggbb."""
    parts = [int(color.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_a_dictionary_without_active_features(tmp_path: Path) -> None:
    write([], tmp_path / "none.html", width=7, title="SAE", facts={})
    with open_page(tmp_path / "none.html") as opened:
        assert "No feature is active" in opened.page.locator("#table").inner_text()
        opened.assert_clean()


def test_a_page_that_is_too_large_shows_the_surest_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TAG is the retrieval feature; EQUALS has the smallest q of the others."""
    shown = list(made().values())
    options: dict[str, Any] = {"width": WIDTH, "title": "t", "facts": {}}
    whole = write(shown, tmp_path / "all.html", **options)
    assert "retrieval features first" not in (tmp_path / "all.html").read_text()
    monkeypatch.setattr("mechocl.report.dashboard.SIZE_LIMIT", whole - 1)
    assert write(shown, tmp_path / "some.html", **options) < whole
    html = (tmp_path / "some.html").read_text()
    assert "it shows 3 of 4 features: retrieval features first" in html
    monkeypatch.setattr("mechocl.report.dashboard.SIZE_LIMIT", 10)
    write(shown, tmp_path / "one.html", **options)  # at least one, whatever the limit
    found = re.search(r'"features":\[\{"n":(\d+)', (tmp_path / "one.html").read_text())
    assert found is not None
    assert int(found[1]) == TAG
