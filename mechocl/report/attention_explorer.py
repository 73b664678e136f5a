"""Attention patterns that the reader of a report can explore: a question, a layer, its heads.

The page draws only what is in sight: the patterns of the chosen layer, one pixel a weight, and the chosen head enlarged. Each pattern
is its lower triangle in ten-thousandths of 16 bits, as base64, and is read when it is first drawn. Of views that do not
fit into the room that they are given, the page shows some, and says how many it left out.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Float
from jinja2 import Environment

SCALE = 10_000
"""Attention weights on the page are whole numbers of 1/SCALE."""

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


def attention_explorer_html(views: Sequence[AttentionView], *, room: int | None = None) -> str:
    """An HTML fragment with one explorer over `views`: it selects question, layer and head, and draws the heads.

    `room` is the greatest size of the fragment in bytes; None sets no limit. Views that do not fit are left out from the end, so
    the first ones should be those that say most. If not even the first one fits, it is shown with some of its heads: those
    whose last token, at which the answer is read, attends most to tokens other than itself and the first one. The
    fragment says what was left out and how to see it. A page holds at most one explorer. Raises ValueError when there is no view.
    """
    if not views:
        raise ValueError("the attention explorer needs at least one view")
    if room is None:
        return _fragment([_as_json(view) for view in views], note="")
    left = room - len(_fragment([{"title": ""}], note=_note(1, len(views), 1, 1)).encode()) - 100
    shown = []
    for view in views:
        left -= _size(entry := _as_json(view))
        if left < 0:
            break
        shown.append(entry)
    if shown:
        note = "" if len(shown) == len(views) else _note(len(shown), len(views), 0, 0)
        return _fragment(shown, note=note)
    entry, n_heads = _with_fewer_heads(views[0], left + _size(entry))
    kept = len(entry["heads"])
    return _fragment([entry] if kept else [], note=_note(min(1, kept), len(views), kept, n_heads))


def javascript_for_script(source: str) -> str:
    """JavaScript whose strings may name script tags, made safe to stand inside a script element."""
    return source.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def json_for_script(text: str) -> str:
    """JSON made safe to stand inside a script element. It has no `<`, and it parses to the same value."""
    return text.replace("<", r"\u003c")


def _fragment(shown: list[dict[str, Any]], *, note: str) -> str:
    """The explorer of some views; the note alone, if there is none."""
    data = json_for_script(json.dumps(shown, separators=(",", ":")))
    source = files("mechocl.report").joinpath("attention_explorer.html.j2").read_text("utf-8")
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(source)
    return template.render(titles=[view["title"] for view in shown], data=data, note=note)


def _note(shown: int, views: int, heads: int, of_heads: int) -> str:
    """What was left out, by which rule, and how to see it."""
    some = (
        f" with {heads} of its {of_heads} heads (those whose last token attends most to tokens other than itself and the first)"
        if heads
        else ""
    )
    return (
        f"So that the file can be sent, it shows {shown} of {views} questions, the first ones in the report's order{some}. "
        'In Python, rows = mechocl.analyse_run(run, "attention") has the weights of all, and '
        'mechocl.plots.attention(rows[rows["question"] == Q], layer=L) draws those of one question and layer.'
    )


def _size(entry: dict[str, Any]) -> int:
    """Bytes that a view takes on the page: its data, and its title once more in the menu."""
    return (
        len(json_for_script(json.dumps(entry, separators=(",", ":")))) + 6 * len(entry["title"].encode()) + 40
    )


def _as_json(view: AttentionView) -> dict[str, Any]:
    heads = [
        {"layer": layer, "head": head, "pattern": _packed(view.patterns[layer, head])}
        for layer, head in np.ndindex(view.patterns.shape[:2])
    ]
    return {"title": view.title, "caption": view.caption, "tokens": view.tokens, "heads": heads}


def _packed(pattern: Float[np.ndarray, "query key"]) -> str:
    """The lower triangle of a pattern, row by row."""
    weights = pattern[np.tril_indices(len(pattern))].astype(np.float64)
    return base64.b64encode(np.rint(np.clip(weights, 0, 1) * SCALE).astype("<u2").tobytes()).decode()


def _with_fewer_heads(view: AttentionView, room: int) -> tuple[dict[str, Any], int]:
    """The view with as many heads as fit, chosen by what their last token attends to, in the order of the model; and how many it has."""
    entry = _as_json(view)
    heads = entry["heads"]
    away = view.patterns[:, :, -1, 1:-1].sum(-1).ravel()
    empty = entry | {"heads": []}
    each = max(len(json.dumps(head, separators=(",", ":"))) for head in heads) + 1
    most = max(0, (room - _size(empty)) // each)
    chosen = np.sort(np.argsort(-away, kind="stable")[:most])
    return entry | {"heads": [heads[i] for i in chosen.tolist()]}, len(heads)
