"""Attention patterns that the reader of a report can explore: a question, a layer, its heads.

CircuitsVis draws the heads. Its Python wrapper is not used, because it asks the network whether it is
online and repeats its bundle for every figure; its JavaScript bundle is read from the package instead.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float
from jinja2 import Environment

DECIMALS = 4
"""Number of decimals that attention weights are rounded to on the page."""

TOLERANCE = 1e-3
"""How far weights in half precision may lie outside of [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionView:
    """The attention of every layer and head on one question. Raises ValueError when it cannot be drawn."""

    title: str
    """What the reader selects, such as "d1 alias, list contains its integer"."""
    tokens: list[str]
    """One string per position."""
    patterns: Float[np.ndarray, "layer head query key"]
    """Causal attention weights in [0, 1]; row `query` is what that position attends to."""
    caption: str
    """Subset, tag, stage, entity and the model's answer, as one short sentence."""

    def __post_init__(self) -> None:
        if self.patterns.ndim != 4 or 0 in self.patterns.shape:
            raise ValueError(
                f"attention view {self.title!r}: patterns must have the shape (layer, head, query, key) without a 0, "
                f"but they have {self.patterns.shape}"
            )
        if self.patterns.shape[2:] != (len(self.tokens), len(self.tokens)):
            raise ValueError(
                f"attention view {self.title!r}: {len(self.tokens)} tokens need patterns of "
                f"{len(self.tokens)} queries and keys, but these have {self.patterns.shape[2:]}"
            )
        if not ((self.patterns > -TOLERANCE) & (self.patterns < 1 + TOLERANCE)).all():  # refuses NaN too
            raise ValueError(
                f"attention view {self.title!r}: patterns must be weights in [0, 1], "
                "after the softmax (TransformerLens's `hook_pattern`, not `hook_attn_scores`)"
            )
        if (np.triu(self.patterns, k=1) > TOLERANCE).any():
            raise ValueError(
                f"attention view {self.title!r}: a query attends to a later key; give causal patterns"
            )


def attention_explorer_html(views: Sequence[AttentionView]) -> str:
    """An HTML fragment with one explorer over `views`: it selects question, layer and head, and draws the heads.

    The page must also hold `circuitsvis_bundle()` in a script, once, and at most one explorer. Only the
    selected layer of the selected question is drawn. Raises ValueError when there is no view.
    """
    if not views:
        raise ValueError("the attention explorer needs at least one view")
    data = json_for_script(json.dumps([_as_json(view) for view in views], separators=(",", ":")))
    titles = [view.title for view in views]
    return Environment(autoescape=True).from_string(_FRAGMENT).render(titles=titles, data=data)


def circuitsvis_bundle() -> str:
    """CircuitsVis's browser bundle, which defines `CircuitsVis`, ready to stand in an HTML script element."""
    spec = find_spec("circuitsvis")  # finds it without importing it (and torch with it)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the attention explorer needs the package circuitsvis", name="circuitsvis")
    bundle = Path(spec.submodule_search_locations[0]) / "dist" / "cdn" / "iife.js"
    source = bundle.read_text(encoding="utf-8").rstrip()
    return javascript_for_script(source.removesuffix("//# sourceMappingURL=iife.js.map"))


def javascript_for_script(source: str) -> str:
    """JavaScript whose strings may name script tags, made safe to stand inside a script element."""
    return source.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def json_for_script(text: str) -> str:
    """JSON made safe to stand inside a script element. It has no `<`, and it parses to the same value."""
    return text.replace("<", r"\u003c")


def _as_json(view: AttentionView) -> dict[str, object]:
    rounded = np.round(view.patterns.astype(np.float64), DECIMALS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return {
        "title": view.title,
        "caption": view.caption,
        "tokens": view.tokens,
        "patterns": _shorter_zeros(rounded.tolist()),
    }


def _shorter_zeros(values: object) -> object:
    """Nested lists with `0` for `0.0`. Half of a causal pattern is zeros, so this makes the page smaller."""
    if isinstance(values, list):
        return [_shorter_zeros(value) for value in values]
    return 0 if values == 0.0 else values


_FRAGMENT = """\
<style>
  .explorer-selects { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: baseline;
    margin-bottom: .7rem; }
  .explorer-selects span { max-width: 100%; }
  .explorer-selects label { font-weight: 600; }
  .explorer-selects select { font: inherit; font-weight: 400; max-width: min(34rem, 100%);
    padding: .15rem .3rem; }
  .explorer-tokens { display: flex; flex-wrap: wrap; gap: .25rem; list-style: none;
    margin: .5rem 0; padding: 0; font: .85rem/1.4 ui-monospace, "DejaVu Sans Mono", monospace; }
  .explorer-tokens li { border: 1px solid #d5d9e0; border-radius: 3px; padding: 0 .35rem;
    white-space: pre-wrap; }
  .explorer-tokens small { color: #5b6472; margin-right: .35rem; }
  .explorer-scale { display: flex; align-items: center; gap: .4rem; font-size: .85rem; color: #3c4452; }
  .explorer-scale i { width: 8rem; height: .7rem; border: 1px solid #b9c0cb;
    background: linear-gradient(to right in lab, white, blue); }
  .explorer-scale i.masked { width: .7rem; background: rgb(200, 200, 200); margin-left: 1rem; }
  .explorer-stage { min-height: 30rem; }
  /* CircuitsVis lays out for a wide notebook and styles its elements inline, hence the !important. */
  .explorer-drawing { display: grid; grid-template: auto 1fr / 21.2rem minmax(0, 37rem); column-gap: 1.5rem;
    max-width: none !important; padding: 0 !important; margin: 0 !important; }
  .explorer-drawing h3 { font-size: .85rem; margin: .8rem 0 .4rem !important; }
  .explorer-drawing h4 { font-size: .72rem; font-weight: 600; line-height: 1.2; padding: 1px 3px !important;
    background: #ffffffe6 !important; color: #1b2230 !important; }
  .explorer-thumbnails { grid-area: 2 / 1; align-content: flex-start; margin: 0 !important; }
  .explorer-thumbnails > div { flex: 0 0 7rem !important; width: 7rem !important;
    max-width: 7rem !important; }
  .explorer-thumbnails > div > div { cursor: pointer; }
  .explorer-zoom { grid-area: 1 / 2 / 3 / 2; margin: 0 !important; }
  .explorer-zoom > div { padding: 0 !important; }
  .explorer-zoom h3 { padding-left: 15px; }
  .explorer-zoom h2 { display: none; } /* the same words as its heading, over the pattern */
  .explorer-zoom ~ div { display: none; }
  @media print {
    .explorer-scale, .explorer-drawing { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
    .explorer-thumbnails, .explorer-zoom { break-inside: avoid; }
    .explorer-zoom { max-width: 30rem; }
    .explorer-zoom canvas { width: 100% !important; height: auto !important; }
  }
  @media (max-width: 940px) {
    .explorer-drawing { grid-template: none / minmax(0, 40rem); }
    .explorer-thumbnails, .explorer-zoom { grid-area: auto; }
  }
</style>
<div id="attention-explorer">
  <div class="explorer-selects">
    <span><label for="attention-question">Question</label>
      <select id="attention-question">
        {%- for title in titles %}<option>{{ title }}</option>{% endfor -%}
      </select></span>
    <span><label for="attention-layer">Layer</label> <select id="attention-layer"></select></span>
    <span><label for="attention-head">Head</label> <select id="attention-head"></select></span>
  </div>
  <p id="attention-caption" aria-live="polite"></p>
  <ol id="attention-tokens" class="explorer-tokens" aria-label="Tokens of the question, with positions"></ol>
  <div class="explorer-scale">attention 0 <i></i> 1 <i class="masked"></i> later token, cannot be seen</div>
  <div id="attention-stage" class="explorer-stage"></div>
</div>
<script type="application/json" id="attention-data">{{ data | safe }}</script>
<script>
(() => {
  const byId = (id) => document.getElementById("attention-" + id);
  const options = (select, names, chosen) => {
    select.replaceChildren(...names.map((name) => new Option(name)));
    select.selectedIndex = chosen;
  };

  const visible = (token) => token.replaceAll("\\n", "↵");
  const short = (token) => (token.length > 14 ? token.slice(0, 13) + "…" : token);  // room for the pattern

  const start = () => {
    const views = JSON.parse(byId("data").textContent);
    const [question, layer, head, stage] = ["question", "layer", "head", "stage"].map(byId);
    let drawings = 0;
    let pickedLayer = null;  // null until the reader picks one: the last layer

    const labels = () => [...stage.querySelectorAll("h4")];

    // CircuitsVis draws after a moment; then mark its parts for the style, and lock the chosen head again.
    const whenDrawn = new MutationObserver(() => {
      const drawn = labels();
      if (drawn.length === 0 || drawn.length !== head.length) return;
      whenDrawn.disconnect();
      const thumbnails = drawn[0].parentElement.parentElement.parentElement.parentElement;
      thumbnails.parentElement.classList.add("explorer-drawing");
      thumbnails.classList.add("explorer-thumbnails");
      drawn.forEach((label) => {
        label.parentElement.querySelector("canvas").ariaLabel = `Attention pattern of ${label.textContent}`;
      });
      const zoom = thumbnails.nextElementSibling;
      zoom.classList.add("explorer-zoom");
      zoom.querySelector("canvas").ariaLabel = "Attention pattern of the chosen head";
      drawn[head.selectedIndex].click();
    });

    // A drawing cannot be updated from outside, so each selection gets a fresh element with its own id.
    const draw = () => {
      const view = views[question.selectedIndex];
      const fresh = document.createElement("div");
      fresh.id = `attention-drawing-${drawings++}`;
      stage.replaceChildren(fresh);
      whenDrawn.observe(stage, {childList: true, subtree: true});
      CircuitsVis.render(fresh.id, CircuitsVis.AttentionHeads, {
        attention: view.patterns[layer.selectedIndex],
        tokens: view.tokens.map(visible).map(short),
        attentionHeadNames: [...head.options].map((option) => option.text),
        minValue: -1,
        maxValue: 1,
        maskUpperTri: true,
      });
    };

    const showLayer = () => {
      const heads = views[question.selectedIndex].patterns[layer.selectedIndex];
      const chosen = Math.min(Math.max(head.selectedIndex, 0), heads.length - 1);
      options(head, heads.map((_, i) => `L${layer.selectedIndex}H${i}`), chosen);
      draw();
    };

    const showQuestion = () => {
      const view = views[question.selectedIndex];
      const last = view.patterns.length - 1;
      options(layer, view.patterns.map((_, i) => `${i}`), Math.min(pickedLayer ?? last, last));
      byId("caption").textContent = view.caption;
      byId("tokens").replaceChildren(...view.tokens.map((token, position) => {
        const item = document.createElement("li");
        const number = document.createElement("small");
        number.textContent = position;
        item.append(number, visible(token));
        return item;
      }));
      showLayer();
    };

    question.addEventListener("change", showQuestion);
    layer.addEventListener("change", () => { pickedLayer = layer.selectedIndex; showLayer(); });
    head.addEventListener("change", () => labels()[head.selectedIndex]?.click());
    stage.addEventListener("click", (event) => {
      const clicked = labels().findIndex((label) => label.parentElement.contains(event.target));
      if (clicked >= 0) head.selectedIndex = clicked;
    });
    question.selectedIndex = 0;
    showQuestion();
  };

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
</script>
"""
