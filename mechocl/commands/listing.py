"""`mechocl runs`: list the runs in a folder."""

from pathlib import Path
from typing import Annotated

import tyro


def runs(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs"),
) -> None:
    """List the runs in a folder.

    Args:
        folder: Folder that holds run folders.
    """
    from mechocl.commands.tables import table
    from mechocl.runs.listing import list_runs

    listing = list_runs(folder)
    body = [[str(one.path), one.recipe, one.state, one.created] for one in listing.readable]
    table(["run", "recipe", "trained", "created"], body)
    for one in listing.readable:
        if one.mixed:
            print(f"{one.path} has seeds of different versions or machines: {one.mixed}")
    for why in listing.unreadable:
        print(f"cannot be read: {why}")
    count = len(listing.readable) + len(listing.unreadable)
    print(f"{count} run{'' if count == 1 else 's'} in {folder}")
