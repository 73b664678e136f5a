"""Seals: the checksum of a file inside the file itself.

A content that is to be sealed holds `EMPTY`, a mark and 64 zeros, once. Sealing puts the sha256 of this content in the
place of the zeros. So whoever reads the file can tell whether any byte of it was altered, in JSON, tables and tensors alike.
"""

import functools
import hashlib
import multiprocessing
import re
from pathlib import Path
from typing import Any, Final

from mechocl.errors import MechoclError, note

Content = tuple[bytes | memoryview, ...]
"""What a file holds, in parts."""

_MARK: Final = "sha256-with-zeros-here:"
_ZEROS: Final = b"0" * 64

EMPTY: Final = _MARK + _ZEROS.decode()
"""Text that a content must hold to be sealed."""

_SEAL: Final = re.compile(_MARK.encode() + rb"([0-9a-f]{64})")
_HALVES: Final = (b"sha256-with", b"zeros-here:")
"""Where one of these is found without a whole seal, the seal itself was damaged."""


def sealed(content: bytes) -> Content:
    """The content with its sha256 in place of the zeros of `EMPTY`. The parts are views; nothing is copied."""
    start = content.index(EMPTY.encode()) + len(_MARK)
    whole = memoryview(content)
    checksum = hashlib.sha256(content).hexdigest().encode()
    return whole[:start], checksum, whole[start + len(_ZEROS) :]


def check_seal(path: Path, content: Any, *, remedy: str) -> bool:
    """Compare the content of a file, bytes or a memory map, with its seal, and return whether it has one.

    Raises MechoclError, with the remedy, when the content was altered.
    """
    found = _SEAL.search(content)
    if found is None:
        if any(content.find(half) >= 0 for half in _HALVES):
            raise _altered(path, remedy)
        return False
    start, end = found.span(1)
    with memoryview(content) as whole:
        checksum = hashlib.sha256(whole[:start])
        checksum.update(_ZEROS)
        checksum.update(whole[end:])
        if checksum.hexdigest().encode() != whole[start:end].tobytes():
            raise _altered(path, remedy)
    return True


def _altered(path: Path, remedy: str) -> MechoclError:
    return MechoclError(
        f"{path} is damaged: it does not match its checksum, so it was cut off or altered; {remedy}"
    )


def note_unsealed(path: Path) -> None:
    """Say, once for each run, that an older version wrote a file without a seal, and that it is read all the same."""
    _note_old(_owner(path.parent))


@functools.cache
def _owner(folder: Path) -> Path:
    """The run or sweep that a folder belongs to, or the folder itself."""
    return next((one for one in (folder, *folder.parents) if (one / "manifest.json").exists()), folder)


@functools.cache
def _note_old(owner: Path) -> None:
    # worker processes leave it to their parent
    if multiprocessing.parent_process() is None:
        note(f"{owner} was written by an older version: its files without checksums are read unchecked")
