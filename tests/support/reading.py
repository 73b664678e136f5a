"""What a reader meets on a page in the browser: contrast of its text, labels that overlap, stops of the Tab key, tables that scroll."""

from typing import Any

import pytest
from browser import wait_until
from playwright.sync_api import Page

LEAST_CONTRAST = 4.5
"""Of text on its ground (WCAG AA)."""

_LOW_CONTRAST = """async (least) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const channels = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = ([r, g, b]) => [r, g, b].map((x) => x / 255).map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => { const [low, high] = [light(a), light(b)].sort((x, y) => x - y); return (high + 0.05) / (low + 0.05); };
  const images = new Map();
  const pictured = async (image) => {  // the pixels of a heatmap, which is an image
    const href = image.getAttribute("href") || image.getAttribute("xlink:href");
    if (!images.has(href)) {
      const loaded = new Image();
      loaded.src = href;
      await loaded.decode();
      const own = Object.assign(document.createElement("canvas"), {width: loaded.width, height: loaded.height}).getContext("2d", {willReadFrequently: true});
      own.drawImage(loaded, 0, 0);
      images.set(href, own);
    }
    return images.get(href);
  };
  const groundOf = async (element) => {
    const cells = element.closest(".heatmap-label") && element.closest(".hm").querySelector("image");
    if (cells) {
      const [box, own, pixels] = [cells.getBoundingClientRect(), element.getBoundingClientRect(), await pictured(cells)];
      const x = Math.floor(((own.x + own.width / 2 - box.x) / box.width) * pixels.canvas.width);
      const y = Math.floor(((own.y + own.height / 2 - box.y) / box.height) * pixels.canvas.height);
      return channels(`rgb(${[...pixels.getImageData(x, y, 1, 1).data].slice(0, 3).join(",")})`);
    }
    const layers = [];
    for (let one = element; one; one = one.parentElement) {
      layers.push(channels(getComputedStyle(one).backgroundColor));
      if (one.classList.contains("annotation-text-g")) {
        const rect = one.querySelector("rect.bg");
        const paint = rect && getComputedStyle(rect);
        if (paint) layers.push([...channels(paint.fill).slice(0, 3), channels(paint.fill)[3] * Number(paint.fillOpacity)]);
      }
    }
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const element = node.parentElement, box = element.getBoundingClientRect();
    if (!node.textContent.trim() || element.closest("script, style, noscript, option, :disabled, .skip") || !box.width || !box.height) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden") continue;
    let opacity = 1;
    for (let one = element; one; one = one.parentElement) opacity *= Number(getComputedStyle(one).opacity);
    if (opacity === 0) continue;
    const ground = await groundOf(element), ink = channels(element instanceof SVGElement ? style.fill : style.color);
    const ratio = contrast(over([...ink.slice(0, 3), ink[3] * opacity], ground), ground);
    if (ratio < least) found.push(`${ratio.toFixed(2)}: ${node.textContent.trim().slice(0, 40)} (${element.localName}.${element.getAttribute("class")}, ${ink} on ${ground})`);
  }
  return found;
}"""

_OVERLAPPING = """(inside) => {
  const cornersOf = (text) => {  // of the text as it is turned, so that slanted names beside each other do not count
    const { x, y, width, height } = text.getBBox(), to = text.getScreenCTM();
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]].map(([a, b]) => new DOMPoint(a, b).matrixTransform(to));
  };
  const sides = (corners) => [0, 1].map((i) => {
    const [a, b] = [corners[i], corners[i + 1]], length = Math.hypot(b.x - a.x, b.y - a.y);
    return {x: (b.x - a.x) / length, y: (b.y - a.y) / length, least: i ? 2 : 1};
  });
  const along = (corners, side) => corners.map((one) => one.x * side.x + one.y * side.y);
  const covers = (one, other) => [...sides(one), ...sides(other)].every((side) => {
    const [own, its] = [along(one, side), along(other, side)];
    return Math.min(Math.max(...own), Math.max(...its)) - Math.max(Math.min(...own), Math.min(...its)) > side.least;
  });
  const texts = [...document.querySelectorAll(`${inside} svg text`)].filter((one) => one.textContent.trim())
    .filter((one) => one.getBoundingClientRect().width && one.getBoundingClientRect().height && Number(getComputedStyle(one).opacity))
    .map((one) => ({words: one.textContent, corners: cornersOf(one)}));
  const found = [];
  texts.forEach((one, i) => texts.slice(i + 1).forEach((other) => {
    if (covers(one.corners, other.corners)) found.push(`${one.words} / ${other.words}`);
  }));
  return found;
}"""

_WIDER = """() => {
  const most = document.documentElement.clientWidth;
  return [...document.querySelectorAll("body *")].filter((one) => !one.closest(".wide *, .skip, script, style, #js-plotly-tester, svg *"))
    .filter((one) => one.getBoundingClientRect().width > most + 1).map((one) => `${one.localName}.${one.getAttribute("class")}`);
}"""

_CUT = """() => [...document.querySelectorAll(".plot")].flatMap((plot) => {
  const place = plot.getBoundingClientRect(), scrolls = plot.closest(".overflowing") ? [`${plot.id} scrolls`] : [];
  return [...plot.querySelectorAll(".main-svg text")].filter((one) => one.textContent.trim()).filter((one) => {
    const box = one.getBoundingClientRect();
    return box.width && (box.left < place.left - 1 || box.right > place.right + 1 || box.top < place.top - 1 || box.bottom > place.bottom + 1);
  }).map((one) => `${plot.id}: ${one.textContent}`).concat(scrolls);
})"""

_MARKS = """() => {
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (node.textContent.includes("`") && !node.parentElement.closest("script, style, noscript")) found.push(node.textContent.trim());
  }
  return found;
}"""

_FIGURES_FOLLOW = """[...document.querySelectorAll(".plot")].every((one) => !one._fullLayout
  || one._fullLayout.paper_bgcolor === getComputedStyle(document.documentElement).getPropertyValue("--page").trim())"""

_PASSED = """(of) => {
  const first = document.querySelector(of), now = document.activeElement;
  return first.contains(now) || Boolean(first.compareDocumentPosition(now) & Node.DOCUMENT_POSITION_FOLLOWING);
}"""


def set_scheme(page: Page, scheme: Any) -> None:
    """Make the system light or dark, and wait until the page is."""
    page.emulate_media(color_scheme=scheme)
    wait_until(page, f"document.documentElement.dataset.theme === '{scheme}'")
    wait_until(page, _FIGURES_FOLLOW)
    page.wait_for_timeout(300)


def low_contrast(page: Page, least: float = LEAST_CONTRAST) -> list[str]:
    """Every visible text, of the page and of its figures, whose contrast on what is behind it is below `least`."""
    found: list[str] = page.evaluate(_LOW_CONTRAST, least)
    return found


def overlapping_labels(page: Page, inside: str) -> list[str]:
    """Pairs of labels of the figures inside an element that cover each other."""
    found: list[str] = page.evaluate(_OVERLAPPING, inside)
    return found


def cut_labels(page: Page) -> list[str]:
    """Texts of figures that reach out of their figure, where they are not seen, and figures that scroll to the side."""
    found: list[str] = page.evaluate(_CUT)
    return found


def draw_all(page: Page) -> None:
    """Scroll to each figure, as they are drawn when they come near, and then to the top."""
    for i in range(page.locator(".plot").count()):
        page.locator(".plot").nth(i).scroll_into_view_if_needed()
        wait_until(page, f"!document.querySelectorAll('.plot')[{i}].matches('.waiting')")
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")


def text_with_marks(page: Page) -> list[str]:
    """Texts that are shown, of the page and of its figures, in which backticks stand as they were written."""
    found: list[str] = page.evaluate(_MARKS)
    return found


def wider_than_the_page(page: Page) -> list[str]:
    """Elements that are wider than the window, but for what is inside a table that scrolls."""
    found: list[str] = page.evaluate(_WIDER)
    return found


def tab_stops_before(page: Page, element: str, most: int = 200) -> int:
    """How often Tab stops before it comes to an element, or to what follows it."""
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    for count in range(most):
        page.keyboard.press("Tab")
        if page.evaluate(_PASSED, element):
            return count
    pytest.fail(f"{most} stops of Tab do not reach {element}")
