"""A self-contained HTML dashboard of a dictionary: a table of its features to search and sort, and a page of each.

The page needs no network and its Content-Security-Policy forbids any. Its data is one JSON text in a script element.
Numbers are rounded. Strings (tokens, properties, positions) and texts stand in it once, and are named by their index.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mechocl.features.firing import Example, Text
from mechocl.features.pages import Change, FeaturePage, Meaning, Patch
from mechocl.files import write_text
from mechocl.report.page_parts import json_for_script, script, style, template
from mechocl.report.plots import COLORS
from toy_models.subsets import SUBSETS

SIZE_LIMIT: Final = 25_000_000
"""Largest size of a dashboard in bytes, which most mail still carries."""

_SCRIPTS: Final = ("dashboard_elements", "dashboard_table", "dashboard_feature", "dashboard_main")

DIGITS: Final = 4
"""Significant digits of the numbers on the page."""


def dashboard_html(
    pages: Sequence[FeaturePage], *, width: int, title: str, facts: Mapping[str, str], warning: str = ""
) -> str:
    """The dashboard as one HTML page. The same pages always give the same text.

    Args:
        pages: Pages of features, as `mechocl.features.pages.pages` makes them.
        width: Number of features of the dictionary. Features without a page are counted as inactive.
        title: Heading of the page.
        facts: What the header says of the dictionary, by name: site, width, quality, run, seed, held-out aliases.
        warning: A reason for caution that every reader must see.

    Raises ValueError when the dictionary does not have the feature of a page, and when a feature has two pages.
    """
    numbers = [page.number for page in pages]
    if len(set(numbers)) != len(numbers):
        raise ValueError("there are two pages of one feature; give each feature's page once")
    if max(numbers, default=-1) >= width:
        raise ValueError(
            f"feature {max(numbers)} has a page, but the dictionary has features 0 to {width - 1}"
        )
    data = json.dumps(_data(pages, width), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return template("dashboard.html.j2").render(
        title=title,
        facts=dict(facts),
        warning=warning,
        width=width,
        shown=len(pages),
        retrieval=sum(page.retrieval for page in pages),
        tested=any(page.tested for page in pages),
        data=json_for_script(data),
        style=style("page", "dashboard"),
        script=script("theme", "tables", *_SCRIPTS),
    )


def write(
    pages: Sequence[FeaturePage],
    path: Path,
    *,
    width: int,
    title: str,
    facts: Mapping[str, str],
    warning: str = "",
) -> int:
    """Write `dashboard_html` into the file `path`, atomically, and return its size in bytes.

    If it would be larger than `SIZE_LIMIT`, the page has fewer features, and says so: retrieval features come first, then
    those that the search is surest of (the smallest q).
    """
    page = dashboard_html(pages, width=width, title=title, facts=facts, warning=warning)
    shown = sorted(
        pages, key=lambda page: (not page.retrieval, min([m.q for m in page.meanings], default=1.0))
    )
    while (size := len(page.encode("utf-8"))) > SIZE_LIMIT and len(shown) > 1:
        shown = shown[: max(1, int(len(shown) * min(0.9, SIZE_LIMIT / size)))]
        said = (
            f"So that the file can be sent, it shows {len(shown)} of {len(pages)} features: retrieval features first, then those "
            'of which the search is surest. In Python, mechocl.analyse_run(run, "sae-search", …) has the rows of all.'
        )
        some = sorted(shown, key=lambda page: page.number)
        page = dashboard_html(
            some, width=width, title=title, facts=facts, warning=" ".join(filter(None, [warning, said]))
        )
    write_text(path, page)
    return len(page.encode("utf-8"))


# ---------------------------------------------------------------------------------------- the data


@dataclass(slots=True)
class _Shared:
    """Strings and texts that stand once on the page, in the order in which they were first asked for."""

    strings: dict[str, int] = field(default_factory=dict)
    texts: dict[Text, int] = field(default_factory=dict)

    def string(self, value: str) -> int:
        return self.strings.setdefault(value, len(self.strings))

    def text(self, value: Text) -> int:
        return self.texts.setdefault(value, len(self.texts))


def _data(pages: Sequence[FeaturePage], width: int) -> dict[str, Any]:
    """The data that `dashboard.html.j2` reads. The names are short, because each occurs a thousand times."""
    shared = _Shared()
    features = [_feature(page, shared) for page in pages]
    texts = [_text(text, shared) for text in shared.texts]  # before the strings are listed
    first = pages[0] if pages else None
    return {
        "width": width,
        "chance": _number(first.chance_cosine) if first else None,
        "tested": bool(first and first.tested),
        "activity": [
            {"kind": one.kind, "subsets": one.subsets, "roles": one.roles}
            for one in (first.activity if first else ())
        ],
        "subsets": {
            name: {"notation": subset.notation, "color": COLORS[name]} for name, subset in SUBSETS.items()
        },
        "texts": texts,
        "features": features,
        "strings": list(shared.strings),
    }


def _text(text: Text, shared: _Shared) -> list[Any]:
    return [
        text.kind,
        [shared.string(token) for token in text.tokens],
        [shared.string(position) for position in text.positions],
        shared.string(text.subset),
        text.tag,
        text.integer,
        text.defined_as,
        text.contains,
    ]


def _feature(page: FeaturePage, shared: _Shared) -> dict[str, Any]:
    direct = page.direct
    return {
        "n": page.number,
        "rate": _number(page.rate),
        "mean": _number(page.mean),
        "norm": _number(page.norm),
        "retrieval": page.retrieval,
        "examples": [_example(example, shared) for example in page.examples],
        "activity": [
            [[_number(x) for row in part for x in row] for part in (one.mean, one.rate)]
            for one in page.activity
        ],
        "direct": None
        if direct is None
        else [
            _number(direct.difference),
            [[integer, _number(x)] for integer, x in direct.highest],
            [[integer, _number(x)] for integer, x in direct.lowest],
        ],
        "near": [[shared.string(near.name), _number(near.cosine)] for near in page.near],
        "meanings": [_meaning(meaning, shared) for meaning in page.meanings],
        "patches": [_patch(patch, page.number, shared) for patch in page.patches],
        "changes": [_change(change, shared) for change in page.changes],
    }


def _example(example: Example, shared: _Shared) -> list[Any]:
    active = [[i, _number(x)] for i, x in enumerate(example.activations) if x != 0]
    return [shared.text(example.text), example.rank, example.quantile, example.peak, active]


def _meaning(meaning: Meaning, shared: _Shared) -> list[Any]:
    return [
        shared.string(meaning.property),
        shared.string(meaning.text),
        shared.string(meaning.position),
        [shared.string(position) for position in meaning.also],
        meaning.sign,
        _number(meaning.auc),
        _number(meaning.mutual_information),
        _number(meaning.q),
    ]


def _patch(patch: Patch, number: int, shared: _Shared) -> list[Any]:
    return [
        shared.string(patch.property),
        shared.string(patch.position),
        [other for other in patch.features if other != number],
        _number(patch.effect),
        _number(patch.share),
        _number(patch.control_95),
        _number(patch.beats),
        patch.retrieval,
    ]


def _change(change: Change, shared: _Shared) -> list[Any]:
    return [
        shared.string(change.intervention),
        shared.string(change.position),
        shared.string(change.subset),
        shared.string(change.metric),
        _number(change.effect),
        change.predicted,
        _number(change.control_95),
        _number(change.beats),
    ]


def _number(x: float | None) -> float | int | None:
    """The number, rounded. A whole number has no point, and a number that is not finite becomes None."""
    if x is None or not math.isfinite(x):
        return None
    rounded = float(f"{x:.{DIGITS}g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e15 else rounded
