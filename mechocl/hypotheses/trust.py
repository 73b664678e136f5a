"""Is it trust in a source? One answer, made from a verdict by one rule."""

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Final

from mechocl.behaviour.control_gaps import AT_LEAST_IN_PART, IN_PART
from mechocl.behaviour.formats import NAMES, describe
from mechocl.behaviour.over_seeds import contrasts
from mechocl.behaviour.sentences import Answer
from mechocl.behaviour.verdict import CANNOT_TELL, NOTHING, REVERSE, YES, Conclusion

if TYPE_CHECKING:
    from mechocl.hypotheses.verdict import RunVerdict

QUESTION: Final = "Is it trust in a source?"

LEFT: Final = ("supported", "met so far", "undecided")
"""What explanations are that may be right."""

_GOOD: Final = LEFT[:2]

_NEEDS: Final = {
    YES: "Definitions that were wrong make the gap, as trust would.",
    IN_PART: "Definitions that were wrong make a part of the gap, as trust would; another part is there without them.",
    AT_LEAST_IN_PART: "Definitions that were wrong make the gap at least in part, as trust would.",
}
"""Whether the gap needs unreliable definitions → what follows for trust."""

_PREFERRED: Final[Mapping[Conclusion, str]] = {
    YES: "Tag 1 is preferred to a tag that was never seen before",
    REVERSE: "A tag that was never seen before does better than tag 1, so tag 1 is not preferred; tag 2 is used less than both",
    NOTHING: "A tag that was never seen before does as well as tag 1, so tag 1 is not preferred; tag 2 is used less than both",
    CANNOT_TELL: "It cannot be told whether tag 1 is preferred to a tag that was never seen before",
}
"""Verdict on d1 − d3 → what follows."""


def is_it_trust(
    needs: str, statuses: Mapping[str, str], by_unreliability: Collection[str]
) -> tuple[str, str]:
    """The answer and its reason.

    `needs`: whether the gap needs unreliable definitions, an answer of `explain_gap`. `statuses`: explanation → its status
    (`verdict.Finding.status`). `by_unreliability`: names of those that need unreliable definitions.

    "it may be": the gap needs them, and an explanation by them is supported. "not shown": it needs them, none is supported, and one
    is not ruled out. "no": it does not need them, or each such explanation is contradicted. "cannot tell", "not asked": the question
    whether it needs them has this answer; or no explanation is about them.
    """
    if needs == CANNOT_TELL:
        return (
            CANNOT_TELL,
            "It cannot be told whether definitions that were wrong make the gap, as trust would.",
        )
    if needs == "no":
        return (
            "no",
            "Trust would need that definitions that were wrong make the gap, and they do not make most of it.",
        )
    if needs not in _NEEDS:
        return (
            "not asked",
            "Trust would need that definitions that were wrong make the gap, of which nothing is known here.",
        )
    if not by_unreliability:
        return "not asked", f"{_NEEDS[needs]} None of the explanations here is about such definitions."
    good = [name for name in by_unreliability if statuses[name] in _GOOD]
    left = [name for name in by_unreliability if statuses[name] in LEFT and name not in good]
    plain = [name for name, status in statuses.items() if status in _GOOD and name not in by_unreliability]
    said = (
        f"{_NEEDS[needs]} Of the explanations by such definitions, supported: {_listed(good) or 'none'}; not ruled out: "
        f"{_listed(left) or 'no other'}. Of the plainer ones, supported: {_listed(plain) or 'none'}."
    )
    return ("it may be" if good else "not shown" if left else "no"), said


def trust(verdict: "RunVerdict") -> Answer:
    """Whether what a verdict found is trust in a source, with its reason, and whether tag 1 is preferred to a fresh tag."""
    statuses = {one.explanation.name: one.status for one in verdict.findings}
    about = [one.explanation.name for one in verdict.findings if one.explanation.beyond_controls]
    answer, reason = is_it_trust(verdict.beyond.answer, statuses, about)
    return Answer(QUESTION, answer, " ".join(filter(None, [reason, _is_tag_1_preferred(verdict)])))


def _is_tag_1_preferred(verdict: "RunVerdict") -> str:
    """A sentence with d1 − d3; "" where no new definition carries a fresh tag, or there is no gap to read it by."""
    gathered = verdict.gathered
    if verdict.refusal:
        return ""
    leading = gathered.measures.leading
    found = contrasts(gathered.answers, leading, gathered.measures, counted=gathered.counted)
    for one in found:
        if one.name == "strong_d1_d3":
            return f"{_PREFERRED[one.verdict.answer]} ({NAMES[leading]} of d1 − that of d3 {describe(one.verdict.learned)})."
    return ""


def _listed(names: Collection[str]) -> str:
    return ", ".join(name.replace("_", " ") for name in names)
