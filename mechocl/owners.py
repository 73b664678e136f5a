"""Whether `probes` and `toy_models`, which come with mechocl, are its own: other distributions may install packages of these names.

pip does not look for such a clash. It lets the distribution that is installed later overwrite the files of the earlier one, and removing
either removes the files of both. So the command line and the front door look before they load anything else.
"""

import functools
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mechocl.errors import MechoclError

BUNDLED: Final = ("probes", "toy_models")
"""Packages that come with mechocl, under names that others use, too."""


@functools.cache
def refuse_other_owners() -> None:
    """Look once in a process whether `probes` and `toy_models` are those that came with mechocl.

    Only names of files and the lists of installed files are read. Raises MechoclError when another distribution has installed
    a package of one of these names, when another module of that name would be imported, and when the package is missing.
    """
    home = Path(__file__).resolve().parent.parent
    for name in BUNDLED:
        for place in _places_with(name, [home, *(Path(entry or ".") for entry in sys.path)]):
            if owners := other_owners(name, place):
                raise MechoclError(
                    f"{' and '.join(owners)} also has a package called {name}, in {place}, and pip lets one distribution overwrite the other's files; install mechocl in an "
                    f"environment of its own (python -m venv ENV), and install {owners[0].split()[0]} anew where it was"
                )
        found = importlib.util.find_spec(name)
        if found is None or found.origin is None:
            raise MechoclError(
                f"the package {name}, which comes with mechocl, is missing in {home}; "
                "install mechocl anew with pip install --force-reinstall --no-deps"
            )
        if (path := Path(found.origin).resolve()).parent.parent != home:
            raise MechoclError(
                f"import {name} finds {path}, which is not mechocl's; rename it, or start Python in another folder"
            )


def other_owners(name: str, place: Path) -> list[str]:
    """Distributions other than mechocl that have installed a package or module of this name in a folder, as "name version"."""
    found = []
    for record in sorted(place.glob("*.dist-info/RECORD")):
        distribution, _, version = record.parent.name.removesuffix(".dist-info").partition("-")
        if distribution.lower() == "mechocl":
            continue
        if re.search(
            rf"^{name}(/|\.py,)", record.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
        ):
            found.append(f"{distribution} {version}".strip())
    return found


def _places_with(name: str, places: Sequence[Path]) -> Iterator[Path]:
    """The folders that hold a package or a module of this name, each once."""
    for place in dict.fromkeys(place.resolve() for place in places):
        if (place / name).is_dir() or (place / f"{name}.py").is_file():
            yield place
