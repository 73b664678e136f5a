"""Change where the repository is read: `python -m docs.write.address https://github.com/OWNER/mechocl`.

The address is said in pyproject.toml (`Repository` of the project's URLs), and stands in links of README, in CITATION.cff, in the site's
settings and in first cells of notebooks. Until there is one, it is of the domain `.example`, which nobody can own.
"""

import re
from pathlib import Path
from typing import Annotated

import tyro

from docs.write.places import ADDRESS, README
from mechocl.errors import MechoclError
from mechocl.files import write_text

ROOT = README.parent


def files_with_address() -> list[Path]:
    """The files in which the address stands."""
    named = [ROOT / name for name in ("pyproject.toml", "README.md", "CITATION.cff", "mkdocs.yml")]
    books = sorted((ROOT / "notebooks").glob("*.ipynb"))
    return [path for path in (*named, *books) if ADDRESS in path.read_text(encoding="utf-8")]


def main(url: Annotated[str, tyro.conf.Positional]) -> None:
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", url):
        raise MechoclError(f"the address is {url!r}; give it as https://github.com/OWNER/NAME")
    for path in files_with_address():
        write_text(path, path.read_text(encoding="utf-8").replace(ADDRESS, url))
        print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    tyro.cli(main)
