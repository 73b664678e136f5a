"""Whether two trees hold the same: byte for byte, but for times and what is made of them."""

import io
import json
import re
from pathlib import Path
from typing import Any, Final

import pandas as pd

from mechocl import files, ledgers

MAY_DIFFER: Final = ("lock", "lock-*", "*.lock", ".gitignore", "__pycache__")
"""Files that hold nothing."""

TIMES: Final = (
    "checksum",
    "created",
    "git",
    "machine",
    "seconds",
    "started",
    "ended",
    "finished",
    "duration",
    "peak_memory_mb",
)
"""Keys and columns that hold when and where something was done, how long it took, the state of the source tree, and the
checksum of a file with these in it."""


def differences(tree: Path, like: Path) -> list[str]:
    """What differs between two trees, in words; a temporary file that was left is a difference."""
    ours, theirs = _files(tree), _files(like)
    found = [f"{name} is missing" for name in sorted(theirs - ours)]
    found += [f"{name} is left over" for name in sorted(ours - theirs)]
    return found + [
        f"{name} differs" for name in sorted(ours & theirs) if content(tree / name) != content(like / name)
    ]


def content(path: Path) -> Any:
    """What a file holds, without times."""
    raw = path.read_bytes()
    if files.is_temporary(path):
        return raw
    try:
        if path.suffix == ".json":
            return _timeless(json.loads(raw))
        if path.suffix == ".parquet":
            table = pd.read_parquet(io.BytesIO(raw))
            return table.drop(columns=[c for c in table if c in TIMES]).to_csv(float_format="%.17g")
    except Exception:
        return raw  # damaged: as it is
    if path.suffix == ".html":
        return words(raw.decode(errors="replace"))
    return raw


def words(text: str) -> str:
    """What a command prints or a page shows, without times and identifiers that are drawn."""
    if "s/run" in text:  # the last column of a sweep's table
        text = re.sub(r" +\d+$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d)?(\.\d+)?(\+\d\d:\d\d|Z| UTC)?", "TIME", text)
    return re.sub(r"\b[\d.]+ (s|seconds|minutes|MB|GB)\b", r"N \1", text)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in TIMES}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _files(tree: Path) -> set[str]:
    """The files of a tree that hold something."""
    found = (path for path in tree.rglob("*") if path.is_file())
    return {
        path.relative_to(tree).as_posix()
        for path in found
        if not any(path.match(pattern) for pattern in MAY_DIFFER)
        and not (path.name == ledgers.LEDGER and content(path) == {})
    }
