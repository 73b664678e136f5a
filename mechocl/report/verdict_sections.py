"""The first page of a report: the verdict, its predictions, and how far it goes."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from mechocl.behaviour import formats
from mechocl.behaviour.over_seeds import within
from mechocl.hypotheses import pages
from mechocl.hypotheses.evidence import Effect
from mechocl.hypotheses.for_reports import NoVerdict
from mechocl.hypotheses.predictions import Prediction
from mechocl.hypotheses.trust import trust
from mechocl.hypotheses.verdict import RunVerdict
from mechocl.report import verdict_plots
from mechocl.report.intervals import difference_bounds
from mechocl.report.page import Section, Table
from mechocl.report.page_parts import template

HOW_TO_CALIBRATE: Final = "mechocl verdict --calibrate FILE.csv"

_SECTIONS: Final = {
    "evaluate": "internalization", "controls": "controls", "history": "training", "suppression": "suppression",
    "graft": "weights", "steering": "weights", "subspace": "subspaces", "lens": "lens", "patch": "patching", "circuit": "circuits",
    "variants": "variants", "gradients": "gradients", "twin-exchange": "twins",
}  # fmt: skip
"""Analysis → the section of the report that shows it; a probe has one of its own."""

_LOOKS: Final = {
    "yes": "yes", "supported": "yes", "met so far": "so-far", "no": "no", "no: the reverse": "no", "contradicted": "no",
}  # fmt: skip
"""Answer or status → its colour on the page."""

_ORDER: Final = ("supported", "met so far", "undecided", "contradicted", "nothing to explain")
"""What is said of explanations, in the order of the page."""

_HOW_TO_READ: Final = (
    "Each row is a measured quantity: the mean with its 95 % interval over seeds, and under it a point for each seed. Units differ, so "
    "each row is in units of its own smallest effect that matters; in the green band an effect is too small to matter. Beyond the "
    "band the axis is logarithmic. An answer must also hold after correction for all rows. Point at a mark for the numbers; click it "
    "for the analysis."
)
_WHERE_REFUSED: Final = (
    " Since there is nothing to explain, analyses of the models were not computed for the predictions."
)


@dataclass(frozen=True, slots=True)
class FirstPage:
    """What a report begins with."""

    verdict: RunVerdict | NoVerdict
    calibration: pd.DataFrame | None
    """The confusion table of the predictions (`hypotheses.calibrated`); None where it is not measured."""


def sections(first: FirstPage, *, shown: Collection[str] = ()) -> list[Section]:
    """The sections before the summary. `shown`: ids of the other sections of the report, to which predictions lead."""
    verdict, calibration = first.verdict, first.calibration
    if isinstance(verdict, NoVerdict):
        return [
            Section(
                id="verdict",
                title="Verdict",
                leading=True,
                how_to_read="Which explanations of the gap between tags the measurements support.",
                finding=f"There is no verdict. {verdict.why}",
            )
        ]
    links = {one.prediction.name: to for one in verdict.effects if (to := _link(one.prediction, shown))}
    seeds = f"{verdict.seeds} seed{'s' * (verdict.seeds != 1)}"
    return [
        Section(
            id="verdict", title=f"Verdict of {seeds}", leading=True, how_to_read="", html=_html("verdict", v=verdict, finding=_finding(verdict), findings=sorted(verdict.findings, key=lambda one: _ORDER.index(one.status)), links={}, gap=_gap(verdict), trust=trust(verdict), measure=verdict.gathered.measures.says),
        ),
        Section(
            id="predictions", title="The predictions", leading=True, how_to_read=_HOW_TO_READ + (_WHERE_REFUSED if verdict.refusal else ""),
            figures=(verdict_plots.effects(verdict, links=links),),
            html=_html("predictions", links=links, rows=[_row(one) for one in verdict.effects]),
        ),
        Section(
            id="verdict-limits", title="How far the verdict goes", leading=True, how_to_read=_calibrated(calibration),
            tables=() if calibration is None else (_confusion(calibration),),
            html=_html("limits", links={}, lists=[(title, lines) for title, lines in _limits(verdict).items() if lines]),
        ),
    ]  # fmt: skip


def _finding(verdict: RunVerdict) -> str:
    """What the verdict comes to, in one sentence; "" where there is nothing to explain, which the page says beside the gap."""
    if verdict.refusal:
        return ""
    named: dict[str, list[str]] = {}
    for status in _ORDER[:2]:
        for one in (one for one in verdict.findings if one.status == status):
            said_of_it = f"{status}, but it alone does not make the gap" if one.not_alone else status
            named.setdefault(said_of_it, []).append(_spaced(one.explanation.name))
    said = [f"{', '.join(names)} ({said_of_it})" for said_of_it, names in named.items()]
    return f"What explains it: {'; '.join(said)}." if said else "No explanation is supported."


def _spaced(text: str) -> str:
    """Names of explanations as words."""
    return text.replace("_", " ")


def _html(part: str, **values: Any) -> str:
    return template("verdict.html.j2").render(part=part, looks=_LOOKS, **values)


def _link(one: Prediction, shown: Collection[str]) -> str:
    """The place of the report that shows what a prediction is measured by; "" if there is none."""
    section = (
        f"probe-{one.arguments.get('probe')}" if one.analysis == "probe" else _SECTIONS.get(one.analysis)
    )
    return f"#{section}" if section in shown else ""


def _gap(verdict: RunVerdict) -> str:
    measures = verdict.gathered.measures
    return f"{formats.NAMES[measures.leading]} of d1 − that of d2: {formats.describe(within(verdict.gap.learned, difference_bounds(measures.leading)))}, {verdict.seeds} seeds."


def _row(one: Effect) -> dict[str, str]:
    prediction, measured = one.prediction, one.verdict is not None
    tests = [f"{_spaced(name)}: {one.outcome(prediction.expects[name])}" for name in prediction.tests]
    alone = [
        f"{_spaced(name)}: not alone"
        for name, expected in prediction.expects.items()
        if name not in prediction.tests and one.outcome(expected) == "contradicted"
    ]
    return {
        "name": prediction.name,
        "says": prediction.says,
        "effect": f"{formats.estimate_in_words(within(one.verdict.learned, difference_bounds(one.unit)), sign=True)} {one.unit}"
        if one.verdict
        else formats.NOT_MEASURED,
        "smallest": f"{one.verdict.margin:g}" if one.verdict else formats.MISSING,
        "answer": verdict_plots.read_answer(one) if measured else formats.MISSING,
        "tests": "; ".join([*tests, *alone]) or formats.MISSING,
    }


def _limits(verdict: RunVerdict) -> Mapping[str, list[str]]:
    return {
        "What cannot be told apart": [_spaced(f"{pair.in_words}.") for pair in verdict.pairs],
        "What is not measured": pages.not_measured(verdict),
        "Threats": pages.threats(verdict),
    }


def _calibrated(calibration: pd.DataFrame | None) -> str:
    if calibration is None:
        return (
            "How often such a verdict is right where the answer is known is not measured for these predictions: "
            f"`{HOW_TO_CALIBRATE}` measures it in worlds in which the answer is known."
        )
    return (
        "Verdicts were made in worlds, hand-made and trained, in which the answer is known. The table says in which share of a world's instances each "
        "explanation was supported or met so far; docs/verdict.md says what was planted in each."
    )


def _confusion(calibration: pd.DataFrame) -> Table:
    names = [name for name in calibration.columns if name != "instances"]
    return Table(
        caption="Share of the instances of each world (rows) in which an explanation (columns) was supported or met so far",
        columns=("world", "instances", *(_spaced(name) for name in names)),
        rows=tuple(
            (str(world), str(int(row["instances"])), *(formats.number(row[name], 2) for name in names))
            for world, row in calibration.iterrows()
        ),
    )
