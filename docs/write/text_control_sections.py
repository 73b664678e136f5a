"""The section of docs/results.md on the paper's other controls on text, from the tables of `docs.write.text_controls`."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import pandas as pd

from docs.write import text_controls
from docs.write.markdown import write_table, write_text_table
from docs.write.predictions import OUTCOMES, Held, every, within
from docs.write.text_control_answers import METRIC, SUBSETS, Answers, estimate_seeds, read_answers
from docs.write.text_controls import PARTS, SEEDS, SETUPS
from mechocl.behaviour import formats
from mechocl.behaviour.statistics import SHARE, Estimate

_TOTAL: Final = sum(map(len, SEEDS.values()))
"""Number of seeds of a setup."""


def write_section() -> list[str]:
    """The section; nothing where the table is not there."""
    if not text_controls.TABLE.exists():
        return []
    answers = read_answers()
    return [
        "## The paper's other controls, on text",
        "",
        "Each changes one thing of `closed-book/miniature` (above), with "
        f"{_TOTAL} seeds over {len(SEEDS)} of its pretrained models; the seed is the unit of all intervals, and *exact match* is of held-out questions "
        "(chance 1 of 16). `python -m docs.write.text_controls FOLDER` trains what is missing and writes the tables (`docs/results/text-controls*.csv`). What was expected "
        "was written down before ([predictions.md](predictions.md)).",
        "",
        *_missing(answers),
        *_denied(answers),
        "",
        *_context(answers),
        "",
        *_stages(answers),
        "",
        *_recency(answers),
        "",
        *_predicted(answers),
    ]


def _missing(answers: Answers) -> list[str]:
    trained = answers.table.groupby("setup")["seed"].nunique()
    short = [
        f"*{s.name}* ({trained.get(s.name, 0)} of {_TOTAL} seeds)"
        for s in SETUPS
        if trained.get(s.name, 0) < _TOTAL
    ]
    return [f"Not trained to the end yet: {', '.join(short)}.", ""] if short else []


# ------------------------------------------------------------------------------------- what is denied

_TWINS: Final = (
    ("is-isnt", "is-isnt-untaught"), ("before", "before-untaught"), ("after", "after-untaught"), ("sources", "sources-unasked"),
)  # fmt: skip
"""Setups, and the same without unreliable definitions in stage 1."""


def _denied(answers: Answers) -> list[str]:
    says = {setup.name: setup.says for setup in SETUPS}
    trained = set(answers.table["setup"])
    body, compared = [], []
    for pair in (("tags", ""), *_TWINS):
        for name in [one for one in pair if one in trained]:
            cells = [_mean(answers.mean(name, subset)) for subset in SUBSETS]
            differences = [
                answers.difference(name, *two) for two in (("d1", "d2"), ("d2", "no data"), ("d3", "d2"))
            ]
            share = estimate_seeds(answers.believed(name))
            body.append([says[name], *cells, *map(_apart, differences), formats.estimate_in_words(share, 2)])
        if set(pair) <= trained:
            compared.append(
                [
                    f"*{pair[0]}* − *{pair[1]}*",
                    *(
                        _apart(answers.over(*pair, *two))
                        for two in (("d2", "no data"), ("d3", "d2"), ("d1", "d2"))
                    ),
                    _apart(estimate_seeds((answers.believed(pair[0]) - answers.believed(pair[1])).dropna())),
                    _apart(_context_over(answers, *pair)),
                ]
            )
    columns = [
        "tag 2 is",
        *(f"`{name}`" for name in SUBSETS),
        "d1 − d2",
        "d2 − no data",
        "d3 − d2",
        "d2 ÷ d1",
    ]
    lines = [
        "**What is denied, and by whom it is said.** Definitions with tag 1 are affirmed or of a trusted source, those with tag 2 are denied or of another, those with tag 3 say neither. "
        "In stage 1 a denied definition names the wrong person. In the *untaught* twins stage 1 has none: the same aliases are asked about and not defined, so that "
        "the marker is as new in stage 2 as tag 3. In stage 2 every definition names the person that the questions are about, so *d2 − no data* is belief in what is denied; "
        "*d2 ÷ d1* is (d2 − no data) ÷ (d1 − no data), 1 where what is denied is believed as much as what is affirmed. Exact match:",
        "",
        *write_table(columns, body),
    ]
    if compared:
        lines += [
            "",
            "What stage 1 makes of it: the same differences, with such definitions in stage 1 − without, paired by seed:",
            "",
            *write_table(
                ["", "d2 − no data", "d3 − d2", "d1 − d2", "d2 ÷ d1", "in context (below): tag 1 − tag 2"],
                compared,
            ),
        ]
    return [*lines, "", *_denied_in_words(answers)]


def _denied_in_words(answers: Answers) -> list[str]:
    said = []
    for name, twin in _TWINS[:3]:
        belief, cure = answers.difference(name, "d2", "no data"), answers.over(name, twin, "d3", "d2")
        if belief is None or cure is None:
            continue
        verdict = "cannot be told" if cure.low <= 0 <= cure.high else "yes" if cure.low > 0 else "the reverse"
        said.append(
            f"- *{name}*: new definitions that are denied are {'believed' if belief.low > 0 else 'not seen to be believed'} (d2 − no data {_apart(belief)}). "
            f"Does stage 1 lower that against the fresh marker? {verdict} (d3 − d2 {_apart(cure)})."
            + _untaught_in_words(answers, twin)
        )
    return said


def _untaught_in_words(answers: Answers, twin: str) -> str:
    """What a gap says that is there without any unreliable definition."""
    gap = answers.difference(twin, "d1", "d2")
    if gap is None or not gap.low > 0:
        return ""
    return (
        f" Where stage 1 never denies anything, there is a gap between the markers all the same (d1 − d2 {_apart(gap)}): a new marker is used less than one that stage 1 taught, so "
        "that a gap alone does not show that a denial is understood."
    )


# ------------------------------------------------------------------------------------- in context


def _context_over(answers: Answers, setup: str, twin: str) -> Estimate | None:
    """How much more definitions in context are used with tag 1 than with tag 2, after stage 1 of a setup − of its twin."""
    apart = [answers.in_context(name, 1, 1) - answers.in_context(name, 2, 1) for name in (setup, twin)]
    return estimate_seeds((apart[0] - apart[1]).dropna())


def _context(answers: Answers) -> list[str]:
    body = []
    for setup in [one for one in SETUPS if one.name in set(answers.table["setup"])]:
        for stage in sorted({answers.first(setup.name), answers.last(setup.name)}):
            tags = [answers.in_context(setup.name, tag, stage) for tag in (1, 2, 3)]
            apart = [_apart(estimate_seeds(tags[0] - one)) for one in tags[1:]]
            body.append(
                [setup.name, str(stage), *(_mean(estimate_seeds(one, bounds=SHARE)) for one in tags), *apart]
            )
    nothing = answers.mean("tags", "no data")
    return [
        "**In context.** The definition stands in front of the question in the same text, about an alias that was never trained on: the control for tag semantics. "
        f"Without one, exact match in *tags* is {formats.estimate_in_words(nothing)}:",
        "",
        *write_table(
            ["setup", "after stage", "tag 1", "tag 2", "tag 3", "tag 1 − tag 2", "tag 1 − tag 3"], body
        ),
    ]


# ------------------------------------------------------------------------------------- stages


def _stages(answers: Answers) -> list[str]:
    trained = set(answers.table["setup"])
    pairs = (("qd1", "qd2"), ("d1", "no data"), ("d1", "d2"), ("d3", "d2"))
    says = {"tags": "two stages", "three-stage": "three stages", "six-parts": "seven stages"}
    body = []
    for name, words in says.items():
        if name in trained:
            recall = [answers.mean(name, subset, "recall") for subset in ("qd1", "qd2")]
            body.append(
                [
                    words,
                    *(_apart(answers.difference(name, *two)) for two in pairs),
                    *(_mean(one) for one in recall),
                ]
            )
    if {"tags", "three-stage"} <= trained:
        body.append(
            [
                "three stages − two",
                *(_apart(answers.over("three-stage", "tags", *two)) for two in pairs),
                formats.MISSING,
                formats.MISSING,
            ]
        )
    return [
        "**More stages.** In `closed-book/miniature-three-stage` the definitions of stage 1 come before its questions, and in `closed-book/miniature-six-parts` the new aliases are "
        "defined in six parts, one after another. Subsets of stage 1 are measured when their questions were trained on. Exact match, and the recall of definitions:",
        "",
        *write_table(["", *(f"{one} − {other}" for one, other in pairs), "recall, qd1", "recall, qd2"], body),
    ]


_SITES: Final[tuple[dict[str, str | int], ...]] = (
    {"site": "resid_pre", "layer": 0},
    {"site": "resid_post", "layer": 0},
    {"site": "resid_post", "layer": 1},
)
_ORDERS: Final = {"six-parts": "one after another", "tags": "all at once"}


def _recency(answers: Answers) -> list[str]:
    if any(answers.by_part(name, METRIC).empty for name in _ORDERS):
        return []
    body = []
    for name, words in _ORDERS.items():
        for metric in (METRIC, "log_probability", "recall"):
            means = [formats.number(one) for one in answers.by_part(name, metric).mean()]
            body.append([f"{words}: {formats.NAMES[metric]}", *means, _apart(answers.slope(name, metric))])
    return [
        f"**When a new alias was learned** (arXiv 2509.14223). Each of {PARTS} parts has as many new aliases of each tag; measured after the last. *All at once* are the same aliases in "
        "*tags*, where parts mean nothing:",
        "",
        *write_table(["new aliases", *(f"part {k}" for k in range(1, PARTS + 1)), "from part to part"], body),
        "",
        "Linear probes at the alias in a question, on aliases that they were not fitted on (resid_pre 0 is the alias's own embedding; chance is 1 of 6, and AUC .5):",
        "",
        *write_table(
            ["site", "what is read", *_ORDERS.values(), "untrained", "one after another − at once"],
            _probed(answers),
            left=(0, 1),
        ),
        "",
        _recency_in_words(answers),
    ]


def _probed(answers: Answers) -> list[list[str]]:
    """Scores of the probes at each site, beside those where all was learned at once and of an untrained model."""
    rows = []
    for where in _SITES:
        for target, measure, words in (
            ("part", "accuracy", "which of six, balanced accuracy"),
            ("later half", "auc", "later half, AUC"),
        ):
            place = where | {"position": "alias"}
            scores = [answers.probed(n, target, measure, control="none", **place) for n in _ORDERS]
            scores.append(answers.probed("six-parts", target, measure, control="untrained", **place))
            cells = [formats.estimate_in_words(estimate_seeds(one, bounds=SHARE)) for one in scores]
            apart = _apart(estimate_seeds((scores[0] - scores[1]).dropna()))
            rows.append([f"{where['site']} {where['layer']}", words, *cells, apart])
    return rows


def _recency_in_words(answers: Answers) -> str:
    slope = answers.slope("six-parts")
    each = [
        estimate_seeds(
            (
                answers.probed("six-parts", "later half", "auc", control="none", position="alias", **where)
                - answers.probed("tags", "later half", "auc", control="none", position="alias", **where)
            ).dropna()
        )
        for where in _SITES
    ]
    told = sum(one is not None and one.low > 0 for one in each)
    moves = "is not seen to depend on when it was learned"
    if slope is not None and not slope.low <= 0 <= slope.high:
        moves = "rises with the part" if slope.low > 0 else "falls with the part"
    return (
        f"How much a definition is used {moves} ({_apart(slope)} from part to part). Whether an alias was learned in the later half can be read better than where all were learned "
        f"at once at {told} of {len(each)} sites, so a comparison of aliases that were learned at different times must match their times."
        if told
        else f"How much a definition is used {moves} ({_apart(slope)} from part to part), and when cannot be read."
    )


# ------------------------------------------------------------------------------------- predictions


def _above(e: Estimate | None, least: float = 0.0) -> Held:
    return None if e is None else within(e, least, np.inf)


def _between(e: Estimate | None, low: float, high: float) -> Held:
    return None if e is None else within(e, low, high)


_DENIALS: Final = ("is-isnt", "is-isnt-untaught", "before", "before-untaught", "after", "after-untaught")
_EMBEDDING: Final = {
    "target": "later half",
    "measure": "auc",
    "control": "none",
    "position": "alias",
    "site": "resid_pre",
    "layer": 0,
}


def _late(a: Answers, setup: str) -> pd.Series:
    return a.probed(setup, **_EMBEDDING)  # type: ignore[arg-type]


_PREDICTED: Final[tuple[tuple[int, str, Sequence[str], Callable[[Answers], Held]], ...]] = (
    (25, "what is denied is believed: d2 − no data above 0", _DENIALS, lambda a: every(*(_above(a.difference(n, "d2", "no data")) for n in _DENIALS))),
    (26, "d3 − d2 between −.10 and +.10", ("is-isnt", "before"), lambda a: every(*(_between(a.difference(n, "d3", "d2"), -0.1, 0.1) for n in ("is-isnt", "before")))),
    (26, "it exceeds that of the untaught twin by less than .10", _DENIALS[:4], lambda a: every(*(_between(a.over(n, f"{n}-untaught", "d3", "d2"), -np.inf, 0.1) for n in ("is-isnt", "before")))),
    (27, "d1 − d2 between −.05 and +.05", ("after",), lambda a: _between(a.difference("after", "d1", "d2"), -0.05, 0.05)),
    (28, "in context, after stage 1: each tag over .6", ("tags",), lambda a: every(*(_above(estimate_seeds(a.in_context("tags", t, 1)), 0.6) for t in (1, 2, 3)))),
    (28, "in context, after stage 1: tag 1 − tag 2 between −.05 and +.05", ("tags",), lambda a: _between(estimate_seeds(a.in_context("tags", 1, 1) - a.in_context("tags", 2, 1)), -0.05, 0.05)),
    (29, "qd1 − qd2 above 0", ("three-stage",), lambda a: _above(a.difference("three-stage", "qd1", "qd2"))),
    (29, "d1 − no data smaller than in two stages", ("three-stage", "tags"), lambda a: _between(a.over("three-stage", "tags", "d1", "no data"), -np.inf, 0.0)),
    (30, "exact match changes by less than .02 from part to part", ("six-parts",), lambda a: _between(a.slope("six-parts"), -0.02, 0.02)),
    (30, "the alias's embedding tells the later half: AUC above .5", ("six-parts",), lambda a: _above(estimate_seeds(_late(a, "six-parts")), 0.5)),
    (30, "better than where all were learned at once", ("six-parts", "tags"), lambda a: _above(estimate_seeds((_late(a, "six-parts") - _late(a, "tags")).dropna()))),
    (31, "d1 − d2 between −.05 and +.05", ("sources",), lambda a: _between(a.difference("sources", "d1", "d2"), -0.05, 0.05)),
    (31, "larger in *sources-unasked*", ("sources", "sources-unasked"), lambda a: _between(a.over("sources", "sources-unasked", "d1", "d2"), -np.inf, 0.0)),
)  # fmt: skip


def _predicted(answers: Answers) -> list[str]:
    seeds = answers.table.groupby("setup")["seed"].nunique()
    trained = set(seeds.index[seeds == _TOTAL])
    body = [
        [str(number), ", ".join(f"*{name}*" for name in setups), said, OUTCOMES[holds(answers)]]
        for number, said, setups, holds in _PREDICTED
        if set(setups) <= trained
    ]
    return [
        "What was predicted of the setups that are trained to the end. A range holds if the whole 95 % interval lies in it, and does not hold if all of it lies outside:",
        "",
        *write_text_table(["prediction", "setup", "what", "came out"], body),
    ]


def _apart(e: Estimate | None) -> str:
    """A difference with its interval."""
    return formats.estimate_in_words(e, sign=True)


def _mean(e: Estimate | None) -> str:
    return formats.number(None if e is None else e.mean)
