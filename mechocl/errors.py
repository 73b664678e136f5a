"""What is said in one line: the errors that the command line shows, the words that they propose, and notes on stderr."""

import difflib
import sys
from collections.abc import Sequence
from textwrap import shorten


class MechoclError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line."""


class TooLittleData(MechoclError):
    """A run has too few aliases or questions for an analysis. A report is made all the same, without this analysis."""


class Fault(RuntimeError):
    """A failure that the user did not cause, such as a killed process. The message is one line, too."""


class MechoclWarning(UserWarning):
    """What the user should know about a result that is given all the same. The command line shows it as one line."""


def describe_error(error: BaseException) -> str:
    """The type and the message of a library's exception, as one line of at most 300 characters."""
    return shorten(f"{type(error).__name__}: {error}".removesuffix(": "), 300)


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that is most like `word`, or that begins with it or holds it; None if no word is near."""
    lowered = {name.lower(): name for name in reversed(known)}
    if near := difflib.get_close_matches(word.lower(), list(lowered), n=1):
        return lowered[near[0]]
    part = word.lower().strip("-")
    inside = [name for name in known if part and part in name.lower()]
    return inside[0] if inside else None


def suggested(word: str, known: Sequence[str]) -> str:
    """What to write in the place of a mistyped word: the nearest known word, and if none is near, all of them."""
    near = nearest(word, known)
    return f"did you mean {near}?" if near else f"choose from {', '.join(known)}"


def note(message: str) -> None:
    """Say in one line on stderr what the user should know about a result that is given all the same."""
    print(f"mechocl: {' '.join(message.split())}", file=sys.stderr)
