"""Atomic writes and checksums: no finished file is ever lost, and no altered file is ever read."""

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pandas as pd
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mechocl.errors import MechoclError

_TEMPORARY: Final = ".tmp"


class Busy(MechoclError):
    """Another process holds a lock."""


def write_bytes(path: Path, content: bytes) -> None:
    """Write a temporary file beside `path`, then rename it into place.

    A kill at any moment leaves either the old file or the new one. It may also leave a temporary file, which
    `remove_temporary` removes. Raises OSError when the disk is full or read-only; the old file is then untouched.
    """
    # callers make the content in memory: safetensors' own writer reports a full disk as an error of its own kind
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
    temporary = Path(name)
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # the file that the user knows, not the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def is_temporary(path: Path) -> bool:
    """Whether a file is a temporary one that `write_bytes` was filling when it was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of killed writes from a folder and its subfolders, while nobody writes to them."""
    for path in [p for p in folder.rglob(f".*{_TEMPORARY}") if is_temporary(p)]:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise MechoclError(f"{path} is damaged ({error}); restore it, or delete it and run again") from None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_bytes(path, save(contiguous, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file.

    Raises MechoclError when the file is missing, truncated or not in this format.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """Metadata of a safetensors file, without its tensors. Raises MechoclError as `read_tensors` does."""
    with _opened(path) as file:
        return dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise MechoclError(f"{path} is missing; restore it, or train again") from None
    except SafetensorError as error:
        raise MechoclError(f"{path} is damaged ({error}); restore it, or delete it and train again") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    write_bytes(path, buffer.getvalue())


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Ledger:
    """`checksums.json` of one folder with one writer: the files that are finished, and their sha256.

    A file counts as finished only when it is recorded. If a kill comes between writing and recording, the file is
    written again. Reading checks the recorded checksum.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "checksums.json"

    def entries(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        found = read_json(self.path)
        if not isinstance(found, dict):
            raise MechoclError(f"{self.path} is damaged; restore it, or delete {self.folder} and train again")
        return found

    def record(self, *names: str) -> None:
        write_json(self.path, self.entries() | {name: sha256(self.folder / name) for name in names})

    def forget(self, name: str) -> None:
        """Drop a finished file: first from the record, then from the disk."""
        write_json(self.path, {k: v for k, v in self.entries().items() if k != name})
        (self.folder / name).unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self.entries()

    def checked(self, name: str) -> Path:
        """Path of a recorded file, after its checksum was compared.

        Raises MechoclError, which names the file, when it is missing, not recorded or altered.
        """
        path = self.folder / name
        recorded = self.entries().get(name)
        if recorded is None or not path.exists():
            raise MechoclError(
                f"{path} is missing or unfinished; run the same `mechocl train` (or finetune) again to complete it"
            )
        if sha256(path) != recorded:
            raise MechoclError(
                f"{path} does not match its checksum: it was truncated or altered; restore it, or delete "
                f"{self.folder} and train again"
            )
        return path


@contextmanager
def locked(path: Path, *, patience: float) -> Iterator[None]:
    """Hold an exclusive lock on `path` during the block.

    Raises Busy when another process still holds the lock after `patience` seconds. The operating system releases the
    locks of a killed process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # filelock's soft lock, a file whose mere existence locks, would outlive a kill. The file stays, so that a process
    # that waits for it and a process that comes later lock the same file
    lock = FileLock(path, timeout=patience, fallback_to_soft=False, preserve_lock_file=True)
    try:
        lock.acquire()
    except Timeout:
        raise Busy(f"{path.parent} is being written by another process; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def fingerprint(value: object) -> str:
    """Short stable hash of plain values, for the names of result folders."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
