"""The errors that the command line shows as one line."""

from textwrap import shorten


class MechoclError(ValueError):
    """A user's mistake: the message says what is wrong, where, and what to do, in one line."""


class Fault(RuntimeError):
    """A failure that the user did not cause, such as a killed process. The message is one line, too."""


def describe_error(error: BaseException) -> str:
    """The type and the message of a library's exception, as one line of at most 300 characters."""
    return shorten(f"{type(error).__name__}: {error}".removesuffix(": "), 300)
