"""Places that results go to: one that cannot be written is refused before anything is computed for it."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from mechocl.errors import MechoclError

_LOOKS: Final = {
    "page": re.compile(rb"\s*<(!doctype )?html", re.IGNORECASE),
    "comparison": re.compile(rb'\s*\{.*"top1_agreement"', re.DOTALL),
    "calibration": re.compile(rb"world,planted,instance,"),
    "file of facts": re.compile(rb'\s*\{.*"world": "facts"', re.DOTALL),
    "rows": re.compile(rb"(layer,site|example,(layer|component)),"),
    "verdict": re.compile(rb'\s*(# Verdict|\{.*"verdict")', re.DOTALL),
}
"""How a file that may be replaced begins, by what is to be written there."""


def require_file(
    path: Path,
    what: Literal["page", "comparison", "verdict", "calibration", "file of facts", "rows"] = "page",
) -> None:
    """Raise MechoclError when a page, the comparison of two models, a verdict or its calibration cannot or must not be written at a path.

    A folder is there, or a file that is not an older page (comparison, verdict …), or its folder cannot be written.
    """
    if path.is_dir():
        raise MechoclError(f"{path} is a folder; give a file in it, for example {path / f'{path.name}.html'}")
    if path.exists() and not _may_be_replaced(path, what):
        raise MechoclError(f"{path} is there already and is not a {what} of mechocl; choose another place")
    if path.exists() and not os.access(path, os.W_OK):
        raise MechoclError(
            f"{path} cannot be written: it is read-only; copy the run to a place that can be written, or choose another place for what is new"
        )
    require_folder(path.parent)


def _may_be_replaced(path: Path, what: str) -> bool:
    """Whether an older page (comparison, verdict …) or an empty file is at a path, and not a file of another kind or a device."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        begin = file.read(1 << 16)
    return not begin or _LOOKS[what].match(begin) is not None


def require_folder(path: Path) -> None:
    """Raise MechoclError when no file can be made in a folder, or the folder itself cannot be made."""
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not there.is_dir():
        raise MechoclError(f"{path}: {there} is a file, where a folder is needed; choose another place")
    if not os.access(there, os.W_OK | os.X_OK):
        raise MechoclError(
            f"{there} cannot be written: it is read-only; copy the run to a place that can be written, or choose another place for what is new"
        )


@contextlib.contextmanager
def written_by_library(path: Path) -> Iterator[None]:
    """Raise OSError, which names `path`, where a library's own writer fails in the block, such as on a full disk.

    safetensors and tokenizers are written in Rust. They raise errors of their own kinds, that of tokenizers a bare
    Exception, whose texts end with the number that the operating system gave.
    """
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    except Exception as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error
