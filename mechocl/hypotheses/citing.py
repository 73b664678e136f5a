"""Which predictions a verdict was made by: their file, its fingerprint, and the commit of the package that read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mechocl import files
from mechocl.hypotheses.predictions import own_file
from mechocl.runs import provenance

_SHOWN: Final = 12
"""Number of digits of a fingerprint and of a commit in sentences."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Citation:
    """A file of predictions as it was when a verdict was made by it."""

    file: str
    """Path of the file; "" for that of the package."""
    sha256: str
    """SHA-256 of the file, as `sha256sum` gives it."""
    commit: str
    """Commit of the source tree that read it; "" outside a checkout."""
    changed: bool
    """Whether that tree had uncommitted changes."""

    @property
    def in_words(self) -> str:
        """Which file, its fingerprint and the commit, in one sentence."""
        named = f"{self.file} (sha256 {self.sha256[:_SHOWN]})"
        if not self.file:
            named = f"predictions.toml of the package (sha256 {self.sha256[:_SHOWN]})"
        read = f"commit {self.commit[:_SHOWN]}" if self.commit else "a package that is no git checkout"
        return f"Predictions: {named}, read by {read}{' with uncommitted changes' if self.changed else ''}."


def cite(path: Path | None = None) -> Citation:
    """The citation of a file of predictions; None cites that of the package. Raises OSError where it cannot be read."""
    state = provenance.git_state()
    return Citation(
        file="" if path is None else str(path),
        sha256=files.sha256(path or own_file()),
        commit=state["commit"] if state else "",
        changed=bool(state and state["dirty"]),
    )
