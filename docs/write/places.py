"""Where the documents are, and where the tables are that they are written from."""

import tomllib
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parent.parent
TABLES: Final = DOCS / "results"
README: Final = DOCS.parent / "README.md"
ADDRESS: Final[str] = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "urls"
]["Repository"]
"""Where the repository is read, as pyproject.toml says. `python -m docs.write.address URL` changes it everywhere."""
