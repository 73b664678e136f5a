"""Where the documents are, and where the tables are that they are written from."""

from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parent.parent
TABLES: Final = DOCS / "results"
README: Final = DOCS.parent / "README.md"
