"""Ledgers: which files of a folder are finished, with their checksums, and what the folder is made for."""

from pathlib import Path
from typing import Final

from mechocl import files
from mechocl.errors import MechoclError

LEDGER: Final = "checksums.json"
"""Name of the file of a `Ledger`."""
_OWNER: Final = "made for"
"""Key in it of what the folder is made for."""


class Ledger:
    """`checksums.json` of one folder with one writer: the files that are finished, and their sha256.

    A file counts as finished only when it is recorded. If a kill comes between writing and recording, the file is
    written again. Reading checks the recorded checksum. `remedy` is what brings back a file that is lost or damaged.
    `again` brings back the ledger itself; by default it is deleted before the remedy. `owner` says what the folder is made
    for. A folder that was made for something else is refused.
    """

    def __init__(
        self, folder: Path, *, remedy: str = "run the same command again", again: str = "", owner: str = ""
    ) -> None:
        self.folder = folder
        self.again = again or f"delete it and {remedy}"
        self.owner = owner
        self.path = folder / LEDGER
        self.remedy = remedy

    def entries(self) -> dict[str, str]:
        if not self.path.exists():
            return {}
        found = files.read_json(self.path, remedy=f"restore it, or {self.again}")
        owner = found.pop(_OWNER, "")  # "" in what an older version wrote
        if self.owner and owner and owner != self.owner:
            raise MechoclError(
                f"{self.folder} was made by another run, or for another seed; move it back, or delete it and {self.remedy}"
            )
        return found

    def is_owned(self) -> bool:
        """Whether it says that the folder was made for the owner."""
        return self.path.exists() and files.read_json(self.path).get(_OWNER) == self.owner

    def record(self, *names: str) -> None:
        self._write(self.entries() | {name: files.sha256(self.folder / name) for name in names})

    def _write(self, entries: dict[str, str]) -> None:
        files.write_json(self.path, ({_OWNER: self.owner} if self.owner else {}) | entries)

    def forget(self, name: str) -> None:
        """Drop a finished file: first from the record, then from the disk."""
        self._write({k: v for k, v in self.entries().items() if k != name})
        (self.folder / name).unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        return name in self.entries()

    def damaged(self) -> frozenset[str]:
        """Names of the recorded files that are missing or altered."""
        return frozenset(
            name
            for name, recorded in self.entries().items()
            if not (self.folder / name).is_file() or files.sha256(self.folder / name) != recorded
        )

    def checked(self, name: str) -> Path:
        """Path of a recorded file, after its checksum was compared.

        Raises MechoclError, which names the file and the remedy, when it is missing, not recorded or altered.
        """
        path = self.folder / name
        recorded = self.entries().get(name)
        if recorded is None or not path.exists():
            raise MechoclError(f"{path} is missing or unfinished; {self.remedy}")
        if files.sha256(path) != recorded:
            raise MechoclError(
                f"{path} does not match its checksum: it was truncated or altered; restore it, or {self.remedy}"
            )
        return path
