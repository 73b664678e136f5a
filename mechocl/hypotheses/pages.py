"""A verdict as text: lines for people, Markdown, and plain values for JSON. All three say the same."""

import math
from dataclasses import asdict
from typing import Any, Final

from mechocl.behaviour import formats
from mechocl.behaviour.verdict import LEAST_SEEDS, beside_numbers
from mechocl.hypotheses.evidence import Effect
from mechocl.hypotheses.trust import LEFT, trust
from mechocl.hypotheses.verdict import RunVerdict

LOOKS_LIKE: Final = "# Verdict"
"""How a verdict's Markdown begins."""

EFFECTS: Final = (
    "prediction",
    "effect [95 %]",
    "p",
    "p, all",
    "n",
    "answer",
    "share of the gap",
    "more seeds",
)
"""Columns of the table of effects."""

FINDINGS: Final = ("explanation", "verdict", "its predictions")
"""Columns of the table of explanations."""

_NO: Final = formats.MISSING


def head(verdict: RunVerdict) -> list[str]:
    """The gap, what it has beyond its control, why there may be nothing to explain, and whether it is trust; one line each."""
    gap = (
        f"Gap d1 − d2: {verdict.gap.answer}. {formats.describe(verdict.gap.learned)}, {verdict.seeds} seeds."
    )
    lines = [gap, verdict.refusal, verdict.beyond.in_words, verdict.beyond_refusal, trust(verdict).in_words]
    return [line for line in lines if line]


def effect_rows(verdict: RunVerdict) -> list[list[str]]:
    """The cells of the table of effects."""
    return [_effect_cells(one) for one in verdict.effects]


def _effect_cells(one: Effect) -> list[str]:
    if one.verdict is None:
        return [one.prediction.name, formats.NOT_MEASURED, *[_NO] * 6]
    return [
        one.prediction.name,
        f"{formats.estimate_in_words(one.verdict.learned, sign=True)} {one.unit}",
        formats.p_in_table(one.p),
        formats.p_in_table(one.adjusted),
        str(one.verdict.learned.n),
        beside_numbers(one.answer),
        _NO if one.share is None else _share(one.share),
        _NO if one.more_seeds is None else str(one.more_seeds),
    ]


def _share(share: tuple[float, float, float]) -> str:
    mean, low, high = share
    return (
        formats.interval(mean, low, high, 2)
        if math.isfinite(low)
        else f"{formats.number(mean, 2)} [cannot tell]"
    )


def finding_rows(verdict: RunVerdict) -> list[list[str]]:
    """The cells of the table of explanations."""
    return [[one.explanation.name, one.status, one.in_words] for one in verdict.findings]


def tail(verdict: RunVerdict) -> list[str]:
    """What was not measured, which explanations cannot be told apart, what no prediction measures, and which predictions these
    are; one line each."""
    kept = [one.explanation for one in verdict.findings if one.status in LEFT]
    return [
        *(f"{one.prediction.name} is not measured: {one.missing}." for one in verdict.effects if one.missing),
        *(f"{pair.in_words}." for pair in verdict.pairs),
        *(f"{one.name}: {one.lacks}" for one in kept if one.lacks),
        *([verdict.cited.in_words] if verdict.cited else []),
    ]


def not_measured(verdict: RunVerdict) -> list[str]:
    """The predictions without a value, those with the same reason in one line, and what no prediction measures; one line each."""
    reasons: dict[str, list[str]] = {}
    for one in verdict.effects:
        if one.missing:
            reasons.setdefault(one.missing, []).append(one.prediction.name)
    kept = [one.explanation for one in verdict.findings if one.status in LEFT]
    return [
        *(f"{', '.join(names)}: {why}." for why, names in reasons.items()),
        *(f"{one.name.replace('_', ' ')}: {one.lacks}" for one in kept if one.lacks),
    ]


def threats(verdict: RunVerdict) -> list[str]:
    """What a reader should hold against the verdict, and which predictions it was made by; one line each."""
    counted = verdict.gathered.counted
    lines = []
    if verdict.seeds < LEAST_SEEDS:
        lines.append(
            f"{verdict.seeds} seeds count, and fewer than {LEAST_SEEDS} decide nothing, whatever they show."
        )
    if counted.total > verdict.seeds:
        lines.append(
            f"{counted.total - verdict.seeds} of {counted.total} seeds failed or diverged. An answer must be the same whichever of those "
            "that failed are counted."
        )
    lines += [
        "The smallest effects that matter are choices. An effect that is there and smaller counts as none.",
        "Supported says that what was predicted came out. It is as strong as the predictions that other explanations do not share.",
        "The seeds are of one recipe. Another world, size or training may need another explanation.",
    ]
    return [*lines, *([verdict.cited.in_words] if verdict.cited else [])]


def to_markdown(verdict: RunVerdict, *, plan: str = "") -> str:
    """The verdict as a page of Markdown. `plan`: lines of the plan, after the tables."""
    parts = [
        f"{LOOKS_LIKE}: {', '.join(verdict.runs) or 'no run'}",
        "\n\n".join(head(verdict)),
        _table(FINDINGS, finding_rows(verdict)),
        _table(EFFECTS, effect_rows(verdict)),
        "\n".join(f"- {line}" for line in tail(verdict)),
        plan,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(columns: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)


def to_values(verdict: RunVerdict) -> dict[str, Any]:
    """The verdict as plain values: every number of its tables, and the value of each seed that counts."""
    gap = verdict.gap.learned
    return {
        "verdict": {one.explanation.name: one.status for one in verdict.findings},
        "runs": list(verdict.runs),
        "seeds": verdict.seeds,
        "gap": {
            "answer": verdict.gap.answer,
            "mean": gap.mean,
            "low": _plain(gap.low),
            "high": _plain(gap.high),
        },
        "needs unreliability": verdict.beyond.answer,
        "trust in a source": trust(verdict).answer,
        "lines": [*head(verdict), *tail(verdict)],
        "explanations": {
            one.explanation.name: {
                "verdict": one.status,
                "met": list(one.met),
                "contradicted": list(one.contradicted),
                "undecided": list(one.undecided),
                "not measured": list(one.not_measured),
                "not alone": list(one.not_alone),
                "more seeds": one.more_seeds,
            }
            for one in verdict.findings
        },
        "effects": {one.prediction.name: _effect_values(one) for one in verdict.effects},
        "predictions": None if verdict.cited is None else asdict(verdict.cited),
        "not told apart": [
            {"explanations": list(p.names), "would tell": list(p.would)} for p in verdict.pairs
        ],
    }


def _effect_values(one: Effect) -> dict[str, Any]:
    if one.verdict is None:
        return {"answer": formats.NOT_MEASURED, "reason": one.missing}
    e = one.verdict.learned
    return {
        "answer": one.answer,
        "reason": one.reason,
        "unit": one.unit,
        "smallest": one.verdict.margin,
        "mean": _plain(e.mean),
        "low": _plain(e.low),
        "high": _plain(e.high),
        "n": e.n,
        "by seed": {str(seed): _plain(value) for seed, value in sorted(one.values.items())},
        "p": _plain(one.p),
        "p of the family": _plain(one.adjusted),
        "share of the gap": None if one.share is None else [_plain(number) for number in one.share],
        "more seeds": one.more_seeds,
        "expected": dict(one.prediction.expects),
    }


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
