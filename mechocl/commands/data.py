"""`mechocl data …`: says whether the user's own data sets can be used, and what is made of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from mechocl.closed_book.cvdb import CvdbConfig
from mechocl.closed_book.trex import TrexConfig

if TYPE_CHECKING:
    from mechocl.closed_book.world import World

_CVDB: Final = CvdbConfig()
_TREX: Final = TrexConfig()
_SHOWN: Final = 3
"""Number of entities whose questions are shown."""


def cvdb(
    check: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    entities: int = _CVDB.entities,
) -> None:
    """Say what is made of a cross-verified-database.csv, and whether it holds enough people.

    The exit code is 0 if the file can be used, and 2, with one line, if it cannot. Nothing is written.

    Args:
        check: The file, a CSV in Latin-1, which may be packed as .gz or .xz.
        entities: Number of people who are asked about. Half are the most-read men, half the most-read women.
    """
    from mechocl.closed_book import cvdb

    found = cvdb.read(check, CvdbConfig(entities=entities))
    _print_removed(f"{check}: {found.rows} rows", found.removed)
    chosen = entities // 2
    _print(
        "",
        ["gender", "left to choose from", "chosen"],
        [["male", found.men, chosen], ["female", found.women, chosen]],
    )
    _print_questions(cvdb.world(found))
    most = 2 * min(found.men, found.women)
    print(f"\nusable: {entities} entities, {most} at most")


def trex(
    check: Annotated[Path, tyro.conf.arg(metavar="FOLDER_OR_FILE")],
    entities: int = _TREX.entities,
    min_predicates: int = _TREX.min_predicates,
) -> None:
    """Say what is made of T-REx's JSON files, and whether they hold enough creative works.

    The exit code is 0 if the files can be used, and 2, with one line, if they cannot. Nothing is written.

    Args:
        check: The folder of the JSON files, or one of them.
        entities: Number of works that are asked about. They are the works with the most questions.
        min_predicates: Number of questions that a work must have.
    """
    from mechocl.closed_book import trex

    found = trex.read(check, TrexConfig(entities=entities, min_predicates=min_predicates))
    files = f"{found.files} file{'s' * (found.files != 1)}"
    _print_removed(f"{check}: {found.triples} triples in {files}", found.removed)
    world = trex.world(found)
    asked = [q.attribute for q in world.questions]
    rows = [[name, asked.count(name)] for name, _ in trex.QUESTIONS.values() if name in asked]
    _print("", ["attribute", "works asked about"], rows)
    _print_questions(world)
    print(f"\nusable: {entities} entities, {found.left} at most; {len(asked)} questions")


def _print_removed(title: str, removed: tuple[tuple[str, int], ...]) -> None:
    _print(title, ["filter", "removed"], removed)


def _print_questions(world: "World") -> None:
    rows = [
        [q.ask(world.entities[q.entity]), " / ".join(q.answers)] for q in world.questions if q.entity < _SHOWN
    ]
    _print(f"the first questions of {len(world.questions)}", ["question", "answers"], rows)


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from mechocl.commands import printing

    print(f"\n{title}" if title else "")
    printing.table(columns, [[str(cell) for cell in row] for row in rows])
