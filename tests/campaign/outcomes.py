"""What came of a case, and the table of all cases."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import pandas as pd

from campaign.children import Ended

Outcome = Literal["identical", "named", "silent", "traceback", "box", "dead end", "unclear"]

OUTCOMES: Final[dict[Outcome, str]] = {
    "identical": "ends as if nothing had happened",
    "named": "one line says what is wrong, and what it says to do works",
    "silent": "exit code 0 and another result, or a wrong input taken",
    "traceback": "a traceback",
    "box": "a usage box",
    "dead end": "the remedy that the line names, or the same command again, does not work",
    "unclear": "ends with no line, with several, or not at all",
}
"""The outcomes, the good ones first, and what each means."""

GOOD: Final = ("identical", "named")

_BOX: Final = re.compile("[\u2500-\u257f]")
_LINE: Final = re.compile(r"^mechocl: .+$", re.MULTILINE)

_OLD: Final = "was written by an older version"
"""The warning about files without checksums, which comes before whatever else is said."""


@dataclass(frozen=True, slots=True)
class Case:
    """One attack and what came of it."""

    kind: str
    """What kind of attack it was: kill, flip, cut …"""
    what: str
    """What was attacked, such as a command or a kind of file."""
    number: int
    """Its number in the campaign, of which, and of the seed, all its random choices are made."""
    outcome: Outcome
    detail: str
    """How to do the same by hand, and what was seen."""

    def __str__(self) -> str:
        return f"{self.outcome}: {self.kind} {self.number} of {self.what}: {self.detail}"


def ending(ended: Ended) -> Outcome | None:
    """What is wrong with the end of a command or `named`; None when it ended well (exit code 0)."""
    shown = ended.out + ended.err
    if "Traceback" in shown:
        return "traceback"
    if ended.too_long or ended.code < 0:
        return "unclear"
    if ended.code == 0:
        return None
    if _BOX.search(ended.err):
        return "box"
    said = [line for line in _LINE.findall(ended.err) if _OLD not in line]
    return "named" if len(said) == 1 else "unclear"


def last_line(ended: Ended) -> str:
    """What a command said at its end, for the detail of a case."""
    lines = [line.strip() for line in ended.err.splitlines() if re.search("[a-z]", line)]
    said = _LINE.findall(ended.err) or lines[-1:]
    how = "took too long" if ended.too_long else f"exit {ended.code}"
    return f"`mechocl {' '.join(map(ascii_word, ended.command))}` {how}: {' '.join(said)[:300]}"


def ascii_word(word: str) -> str:
    """A word of a command as a shell would need it."""
    return word if re.fullmatch(r"[\w./=,:+-]+", word, re.ASCII) else ascii(word)


def table(cases: Sequence[Case]) -> pd.DataFrame:
    """One row for each kind of attack and what was attacked: how many cases were tried, and what came of them."""
    found = pd.DataFrame([(c.kind, c.what, c.outcome) for c in cases], columns=["kind", "what", "outcome"])
    counts = found.groupby(["kind", "what"], sort=False)["outcome"].value_counts().unstack(fill_value=0)
    counts = counts.reindex(columns=list(OUTCOMES), fill_value=0)
    counts.insert(0, "tried", counts.sum(axis=1))
    return counts.reset_index().rename_axis(columns=None)
