"""Warnings of Python, as the command line shows them: one line each, without the path of a source file."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Final

from mechocl.errors import MechoclWarning, note

_OF_PROGRAMMERS: Final = (FutureWarning, DeprecationWarning, PendingDeprecationWarning, ImportWarning)
"""Warnings of libraries about code that calls them, which a user of the command line cannot mend."""


@contextlib.contextmanager
def warnings_in_lines() -> Iterator[None]:
    """Show each warning of the block once, in one line on stderr; those of libraries name the library.

    Nothing changes where the user asked Python for warnings (`python -W`, PYTHONWARNINGS).
    """
    if sys.warnoptions:
        yield
        return
    said: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, *_: Any, **__: Any) -> None:
        line = _line(message, category, filename)
        if line and line not in said:
            said.add(line)
            note(line)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _line(message: Warning | str, category: type[Warning], filename: str) -> str:
    """A warning in one line; "" for one that is not for users."""
    text = " ".join(str(message).split())
    if issubclass(category, MechoclWarning):
        return text
    if issubclass(category, _OF_PROGRAMMERS):
        return ""
    path = filename.replace("\\", "/")
    if path.split("/")[-2:-1] in (["probes"], ["toy_models"]):  # they know no MechoclWarning
        return text
    parts = path.rpartition("/site-packages/")
    library = parts[2].partition("/")[0].removesuffix(".py") if parts[1] else "Python"
    return f"{library} warns: {text}"
