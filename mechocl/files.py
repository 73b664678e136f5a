"""Atomic writes and checksums: nothing finished is ever lost, nothing altered is ever read."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mechocl.errors import MechoclError


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then rename it into place.

    A kill at any moment leaves either the old file or the new one. Raises OSError (full or read-only
    disk) with the old file untouched and no temporary file left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise MechoclError(f"{path} is damaged ({error}); restore it or delete it and run again") from None


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, lambda p: save_file(contiguous, p, metadata=metadata))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; MechoclError when it is truncated or not one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise MechoclError(f"{path} is damaged ({error}); delete it and train again") from None


def write_table(path: Path, table: pd.DataFrame) -> None:
    write_atomically(path, lambda p: table.to_parquet(p, index=False))


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


class Ledger:
    """`checksums.json` of one folder with one writer: the files that are finished, and their sha256.

    A file counts only once it is recorded: a kill between writing and recording leaves a file that is
    written again. Reading checks the recorded checksum.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "checksums.json"

    def entries(self) -> dict[str, str]:
        return dict(read_json(self.path)) if self.path.exists() else {}

    def record(self, *names: str) -> None:
        write_json(self.path, self.entries() | {name: sha256(self.folder / name) for name in names})

    def forget(self, name: str) -> None:
        """Drop a finished file: first from the record, then from the disk."""
        write_json(self.path, {k: v for k, v in self.entries().items() if k != name})
        (self.folder / name).unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self.entries()

    def checked(self, name: str) -> Path:
        """Path of a recorded file whose content is as recorded; MechoclError naming it otherwise."""
        path = self.folder / name
        recorded = self.entries().get(name)
        if recorded is None or not path.exists():
            raise MechoclError(
                f"{path} is missing or unfinished; run the same `mechocl train` again to complete it"
            )
        if sha256(path) != recorded:
            raise MechoclError(
                f"{path} does not match its checksum: it was truncated or altered; restore it, or delete "
                f"{self.folder} and train again"
            )
        return path


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`; MechoclError at once when another process holds it."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MechoclError(
                f"{path.parent} is being written by another process; wait for it, or stop it"
            ) from None
        yield


def fingerprint(value: object) -> str:
    """Short stable hash of plain values, for the names of result folders."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def as_numpy(tensor: Tensor) -> np.ndarray:
    return (
        tensor.detach().cpu().to(torch.float32).numpy()
        if tensor.is_floating_point()
        else tensor.cpu().numpy()
    )
