"""The errors that the command line shows as one line."""

from textwrap import shorten


class MechoclError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line."""


class Fault(RuntimeError):
    """Something failed that the user did not do, such as a killed process; one line, too."""


def describe_error(error: BaseException) -> str:
    """An exception of a library as one line of at most 300 characters: its type, and what it says."""
    return shorten(f"{type(error).__name__}: {error}".removesuffix(": "), 300)
