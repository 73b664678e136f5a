"""Which files a call opens: those in some folders by the kernel's own watch (Linux), all others by Python's audit events.

The watch also sees readers that are not written in Python, such as those of safetensors, parquet and tokenizers.
"""

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechocl import files, ledgers
from mechocl.errors import MechoclError

_OPENED, _IS_FOLDER = 0x20, 0x40000000  # IN_OPEN and IN_ISDIR of <sys/inotify.h>
_HEADER = struct.Struct("iIII")

_listening: list[set[str]] = []


def _listen(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listening and isinstance(arguments[0], str | bytes | os.PathLike):
        _listening[-1].add(os.path.abspath(os.fsdecode(arguments[0])))


sys.addaudithook(_listen)


def opened(call: Callable[[], object], *, watched: list[Path]) -> set[Path]:
    """The existing files that a call opens, of those in the watched folders and of all that Python opens."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = libc.inotify_init1(os.O_NONBLOCK)
    assert handle >= 0, os.strerror(ctypes.get_errno())
    folders = {}
    for root in watched:
        for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
            folders[libc.inotify_add_watch(handle, os.fsencode(folder), _OPENED)] = folder
    heard: set[str] = set()
    _listening.append(heard)
    try:
        call()
        content = _drained(handle)
    finally:
        _listening.remove(heard)
        os.close(handle)
    found = {Path(path) for path in heard}
    at = 0
    while at < len(content):
        watch, mask, _, length = _HEADER.unpack_from(content, at)
        name = content[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0")
        at += _HEADER.size + length
        if name and not mask & _IS_FOLDER:
            found.add(folders[watch] / os.fsdecode(name))
    return {path for path in found if path.is_file()}


def _drained(handle: int) -> bytes:
    content = b""
    while True:
        try:
            content += os.read(handle, 1 << 20)
        except BlockingIOError:
            return content


NOT_INPUTS = {
    "manifest.json": "of which analyses read the recipe, which is an input of its own",
    "checksums.json": "whose entries are the values of the inputs that are files of the run",
    "activations": "which only keep what the weights and the task give; their precision is an input",
    "results": "which keep rows of the same seed, whose inputs are among those of the analysis that reads them",
}
"""Files and folders of a run that are opened while an analysis computes, and why their content is not in its key."""


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the watch is Linux's own")


def alter(path: Path) -> None:
    """Change what a file says, so that it can still be read, and record the change where the file is recorded."""
    match path.suffix:
        case ".safetensors":
            tensors, said = files.read_tensors(path)
            files.write_tensors(path, tensors, said | {"altered": "yes"})
        case ".parquet":
            files.write_table(path, pd.read_parquet(path).iloc[::-1])
        case ".json":
            files.write_json(path, files.read_json(path) | {"altered": 1})
        case _:
            path.write_bytes(path.read_bytes() + b"\n")
    for folder in path.parents:
        ledger = ledgers.Ledger(folder)
        if (name := str(path.relative_to(folder))) in ledger:
            ledger.record(name)


def exempt(path: Path, run: Path) -> bool:
    parts = path.relative_to(run).parts if path.is_relative_to(run) else ()
    return bool(parts) and (parts[0] in NOT_INPUTS or parts[-1] in NOT_INPUTS)


def read_by(compute: Callable[[], object], *, watched: Path) -> set[Path]:
    """The files that are opened, but for the programs themselves and what the computer says of itself."""
    found = opened(compute, watched=[watched])  # nobody else opens files there while the test runs
    programs = [
        Path(sys.prefix),
        Path(sys.base_prefix),
        *map(Path, ("/proc", "/sys", "/dev", "/etc", "/usr")),
    ]
    found = {
        path for path in found if path.suffix not in (".py", ".pyc") and "site-packages" not in path.parts
    }
    return {path for path in found if not any(path.is_relative_to(one) for one in programs)}


def assert_in_the_key(found: set[Path], key: Callable[[], dict[str, Any]], *, run: Path) -> None:
    """A change of each file that was read gives another key, or is refused because other files do not fit it any more."""
    first = key()
    for path in sorted(path for path in found if not exempt(path, run)):
        ledgers = [
            folder / "checksums.json" for folder in path.parents if (folder / "checksums.json").exists()
        ]
        before = {one: one.read_bytes() for one in (path, *ledgers)}
        alter(path)
        with contextlib.suppress(MechoclError):
            assert key() != first, f"{path} is read, and is not in the key"
        for one, content in before.items():
            one.write_bytes(content)
        assert key() == first
