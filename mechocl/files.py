"""Atomic writes and checksums: no finished file is ever lost, and no altered file is ever read."""

import contextlib
import fcntl
import hashlib
import io
import json
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mechocl.errors import MechoclError, describe_error
from mechocl.seals import EMPTY, Content, check_seal, note_unsealed, sealed

_TEMPORARY: Final = ".tmp"

_CHECKSUM: Final = "checksum"
"""Key of a file's seal: in the object of a JSON file, and in the metadata of a table and of tensors."""
_OURS: Final = "mechocl"
"""The one key in the metadata of a file of tensors. Safetensors writes several keys in an order that is not fixed."""

AGAIN: Final = "restore it, or delete it and run the same command again"
"""What to do about most files that are damaged."""

EDITED: Final = f'restore it, or, if you edited it yourself, remove its line "{_CHECKSUM}"'
"""What to do about a file that is made once and that its user may have edited."""


class Busy(MechoclError):
    """Another process holds a lock."""


def write_bytes(path: Path, content: bytes | Content) -> None:
    """Write a temporary file beside `path`, then rename it into place.

    A kill at any moment leaves either the old file or the new one. It may also leave a temporary file, which
    `remove_temporary` removes. Raises OSError when the disk is full or read-only; the old file is then untouched.
    """
    # callers make the content in memory: safetensors' own writer reports a full disk as an error of its own kind
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = _held(path, tempfile.mkstemp)
    try:
        with open(handle, "wb") as file:
            file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        error.filename = str(path)  # the file that the user knows, not the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _held(path: Path, make: Callable[..., tuple[int, str]]) -> tuple[int, Path]:
    """A new temporary file or folder beside `path`, locked until it is closed, so that nobody removes it as a leftover."""
    while True:
        handle, name = make(prefix=f".{path.name}.", suffix=_TEMPORARY, dir=path.parent)
        with contextlib.suppress(OSError):  # a file system without locks, on which nothing is removed either
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.path.exists(name):
            return handle, Path(name)
        os.close(handle)  # it was removed as a leftover before it was locked


def _open_folder(**options: Any) -> tuple[int, str]:
    name = tempfile.mkdtemp(**options)
    return os.open(name, os.O_RDONLY), name


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside `path`. When the block ends, it stands at `path`, in place of what was there.

    If the block ends with an exception, nothing changes. A kill may leave a folder that `remove_temporary` removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, made = _held(path, _open_folder)
    try:
        (made / path.name).mkdir()
        yield made / path.name
        if path.exists():
            shutil.rmtree(path)
        (made / path.name).rename(path)
    finally:
        os.close(handle)
        shutil.rmtree(made, ignore_errors=True)


def is_temporary(path: Path) -> bool:
    """Whether this is a temporary file or folder that was being filled when its process was killed."""
    return path.name.startswith(".") and path.name.endswith(_TEMPORARY)


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files and folders of killed writes from a folder and its subfolders.

    Those that a living process fills stay: it holds their locks, which the operating system releases when it ends.
    """
    for path in [p for p in folder.rglob(f".*{_TEMPORARY}") if is_temporary(p)]:
        with contextlib.suppress(OSError):  # held, already gone, or in a folder that must not be changed
            handle = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            finally:
                os.close(handle)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Mapping[Any, Any]) -> None:
    """Write an object as JSON, with a checksum of the file as its first entry."""
    whole = {_CHECKSUM: EMPTY, **value} | {_CHECKSUM: EMPTY}  # first, also where it was read before
    text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=True) + "\n"
    write_bytes(path, sealed(text.encode("utf-8")))


def read_json(path: Path, *, remedy: str = AGAIN) -> dict[str, Any]:
    """The object that `write_json` wrote.

    Raises MechoclError, with the remedy, when the file was altered or truncated, or holds anything else. A file of an
    older version has no checksum; it is read, and a line on stderr says so.
    """
    content = path.read_bytes()
    is_sealed = check_seal(path, content, remedy=remedy)
    found = _object(path, content, remedy)
    found.pop(_CHECKSUM, None)
    if not is_sealed:
        note_unsealed(path)
    return found


def read_foreign_json(path: Path, *, remedy: str = AGAIN) -> dict[str, Any]:
    """The object in a JSON file that another program wrote. Raises MechoclError when it holds anything else."""
    return _object(path, path.read_bytes(), remedy)


def _object(path: Path, content: bytes, remedy: str) -> dict[str, Any]:
    try:
        found = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise MechoclError(f"{path} is damaged ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise MechoclError(f"{path} is damaged (it holds no JSON object); {remedy}")
    return found


def pack_tensors(tensors: dict[str, Tensor], metadata: dict[str, str], *, seal: bool = True) -> Content:
    """The content of a file of tensors. Without a seal it is what older versions wrote."""
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    if not seal:
        return (save(contiguous, metadata=metadata),)
    return sealed(save(contiguous, metadata={_OURS: json.dumps({_CHECKSUM: EMPTY, **metadata})}))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file with a checksum of itself."""
    write_bytes(path, pack_tensors(tensors, metadata))


def read_tensors(path: Path, *, remedy: str = AGAIN) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of `write_tensors`. Raises MechoclError, and reads old files, as `read_json` does."""
    with _opened(path, remedy, ours=True) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, _metadata(file)  # noqa: SIM118


def read_foreign_tensors(path: Path, *, remedy: str = AGAIN) -> dict[str, Tensor]:
    """Tensors of a safetensors file that another program wrote. Raises MechoclError when it is missing or damaged."""
    with _opened(path, remedy, ours=False) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_metadata(path: Path, *, remedy: str = AGAIN) -> dict[str, str]:
    """Metadata of a file of tensors, without the tensors. Raises MechoclError as `read_tensors` does."""
    with _opened(path, remedy, ours=True) as file:
        return _metadata(file)


def _metadata(file: Any) -> dict[str, str]:
    found = dict(file.metadata() or {})
    if _OURS in found:
        found = json.loads(found[_OURS])
        del found[_CHECKSUM]
    return found


@contextmanager
def _opened(path: Path, remedy: str, *, ours: bool) -> Iterator[Any]:
    if not path.exists():
        raise MechoclError(f"{path} is missing; {remedy}")
    is_sealed = not ours or (path.stat().st_size > 0 and _check_mapped(path, remedy))
    try:
        with safe_open(path, framework="pt") as file:
            if not is_sealed:
                note_unsealed(path)
            yield file
    except SafetensorError as error:
        raise MechoclError(f"{path} is damaged ({error}); {remedy}") from None


def _check_mapped(path: Path, remedy: str) -> bool:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return check_seal(path, content, remedy=remedy)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as parquet, without its index, with a checksum of the file."""
    buffer = io.BytesIO()
    found = pa.Table.from_pandas(table, preserve_index=False)
    with pq.ParquetWriter(buffer, found.schema) as writer:
        writer.write_table(found)
        writer.add_key_value_metadata({_CHECKSUM: EMPTY})
    write_bytes(path, sealed(buffer.getvalue()))


def read_table(
    path: Path, *, remedy: str = AGAIN, what: str = "a whole table", columns: Collection[str] = ()
) -> pd.DataFrame:
    """A table that `write_table` wrote, with at least these columns. `what` is for messages. Raises MechoclError, and reads files of older versions, as `read_json` does."""
    if not path.is_file():
        raise MechoclError(f"{path} is missing; {remedy}")
    content = path.read_bytes()
    is_sealed = check_seal(path, content, remedy=remedy)
    try:
        found = pd.read_parquet(io.BytesIO(content))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise MechoclError(f"{path} is not {what}: {describe_error(error)}; {remedy}") from None
    if not set(columns) <= set(found.columns):
        raise MechoclError(f"{path} is not {what}; {remedy}")
    if not is_sealed:
        note_unsealed(path)
    return found


def digest(content: Content) -> str:
    """sha256 of a content that is not written yet."""
    found = hashlib.sha256()
    for part in content:
        found.update(part)
    return found.hexdigest()


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


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
