"""CVDB: questions about the most-read people of a database of 2.3 million.

The database is the user's own copy of `cross-verified-database.csv` (Laouenan et al. 2022, "A cross-verified
database of notable people, 3500BC-2018AD", Scientific Data 9:290). What is asked, and about whom, follows
arXiv 2310.15047. The file is read as a stream, twice: once to choose the people, once to read what is known of them.
"""

import hashlib
import re
from array import array
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64, UInt64

from mechocl.closed_book.cvdb_file import refuse_utf8, rows_of
from mechocl.closed_book.world import Question, World
from mechocl.closed_book.years import period
from mechocl.errors import MechoclError

MISSING: Final = frozenset(
    ("", ".", "NA", "N/A", "n/a", "NaN", "nan", "None", "NULL", "null", "Missing", "missing")
)
"""Texts in the file that mean that a value is missing."""

QUESTIONS: Final = {
    "birth": "When was {} born?",
    "death": "When did {} die?",
    "region": "In which part of the world did {} live?",
    "occupation": "What was the occupation of {}?",
    "nationality": "Of which country was {} a citizen?",
    "gender": "Which gender was {}?",
}
"""Attribute → the question that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CvdbConfig:
    """How many people are asked about."""

    entities: int = 4000
    """Number of people: half of them the most-read men, half the most-read women."""

    def __post_init__(self) -> None:
        if self.entities < 2 or self.entities % 2:
            raise MechoclError(
                f"entities is {self.entities}; half are men and half women, so give an even number, 2 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """What the database knows of one person, in the words of the answers."""

    name: str
    """Name, with spaces where the file has underscores."""
    birth: int
    """Year of birth; negative before Christ."""
    death: int
    """Year of death; negative before Christ."""
    region: str
    """One of the United Nations' regions, such as Europe."""
    occupation: str
    nationalities: tuple[str, ...]
    """Countries of citizenship, in the file's order."""
    gender: Literal["male", "female"]
    readers: float
    """Number of readers of the person's Wikipedia pages, 2015–2018."""
    line: int
    """Line of the file, from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """The people that a file holds, and what the filters removed."""

    people: tuple[Person, ...]
    """The chosen people, the most-read first; of equally read people the earlier in the file comes first."""
    rows: int
    """Number of rows of the file, without its header."""
    removed: tuple[tuple[str, int], ...]
    """The filters in the order in which they are applied, and the number of rows that each removed."""
    men: int
    """Number of men whom the filters left to choose from."""
    women: int
    """Number of women whom the filters left to choose from."""


def load(path: Path, config: CvdbConfig) -> World:
    """The world of the people whom `read` chooses, with six questions about each.

    Raises MechoclError, which names the file and the line of a bad value, as `read` does.
    """
    return world(read(path, config))


def world(people: People) -> World:
    """The world of these people."""
    return World(
        name="cvdb",
        entities=tuple(person.name for person in people.people),
        questions=tuple(q for i, person in enumerate(people.people) for q in _questions(i, person)),
        removed=people.removed,
    )


def read(path: Path, config: CvdbConfig) -> People:
    """Choose the most-read men and as many of the most-read women of a file, and count what each filter removed.

    The filters are those of arXiv 2310.15047, the second one made precise. They remove, in this order:

    1. Rows without a value in one of `cvdb_file.COLUMNS`, and rows whose name has only underscores.
    2. All but one of several rows with the same name, whatever their gender. The most-read row remains, or the first of
       equally read rows. It counts for the name even if a later filter removes it, since a less-read person of that
       name would be mistaken for the most-read one.
    3. Rows whose name, occupation or citizenship has other characters than letters, digits, spaces and underscores. A
       citizenship may have apostrophes.
    4. Rows with another gender than male and female.
    5. The less-read people.

    Only 25 bytes of each row are kept: an eight-byte digest of the name, the readers, the line and the verdict.
    Raises MechoclError for a file that is not CSV in Latin-1 (plain, .gz or .xz), that lacks a column, that has a bad
    year or number of readers, or that has too few people.
    """
    if not path.is_file():
        raise MechoclError(f"{path} is not a file; give the path of cross-verified-database.csv")
    refuse_utf8(path)
    ranking = _ranking(path)
    kept = ranking.most_read_of_each_name()
    allowed = [kept[ranking.verdicts[kept] == verdict] for verdict in (_MAN, _WOMAN)]
    men, women = (len(rows) for rows in allowed)
    half = config.entities // 2
    removed = {
        "missing value": ranking.rows - len(ranking.lines),
        "name that a more-read row has": len(ranking.lines) - len(kept),
        "other characters": int((ranking.verdicts[kept] == _CHARACTERS).sum()),
        "other gender": int((ranking.verdicts[kept] == _OTHER_GENDER).sum()),
    }
    if min(men, women) < half:
        told = ", ".join(f"{name} {count}" for name, count in removed.items())
        most = f"ask for {2 * min(men, women)} at most" if min(men, women) else "the file cannot be used"
        raise MechoclError(
            f"{path}: {config.entities} entities are {half} men and {half} women, but of {ranking.rows} rows "
            f"{men} men and {women} women are left (removed: {told}); {most}"
        )
    removed["less read than those chosen"] = men + women - config.entities
    chosen = np.concatenate([ranking.ranked(rows)[:half] for rows in allowed])
    return People(
        people=_people(path, ranking.lines[ranking.ranked(chosen)]),
        rows=ranking.rows,
        removed=tuple(removed.items()),
        men=men,
        women=women,
    )


def nationalities(text: str) -> tuple[str, ...]:
    """The countries of a citizenship, each of them once: `'Germany'_'United_States'` → Germany, United States."""
    parts = (shown(part.strip(" _'")) for part in text.split("'_'"))
    return tuple(dict.fromkeys(part for part in parts if part))


def shown(text: str) -> str:
    """A value of the file with spaces in place of underscores: `football_player` → football player."""
    return " ".join(text.replace("_", " ").split())


def _questions(entity: int, person: Person) -> Iterator[Question]:
    answers = {
        "birth": (period(person.birth),),
        "death": (period(person.death),),
        "region": (person.region,),
        "occupation": (person.occupation,),
        "nationality": person.nationalities,
        "gender": (person.gender,),
    }
    for attribute, template in QUESTIONS.items():
        yield Question(entity=entity, attribute=attribute, template=template, answers=answers[attribute])


# who is chosen -------------------------------------------------------------------------------------

_MAN, _WOMAN, _OTHER_GENDER, _CHARACTERS = range(4)
"""Verdicts on a row: what the filters after the filter for names say of it."""

_GENDERS: Final = {"male": _MAN, "female": _WOMAN}
_WORDS: Final = re.compile(r"[\w ]*")
_COUNTRIES: Final = re.compile(r"[\w ']*")
_YEAR: Final = re.compile(r"[+-]?[0-9]{1,6}(\.0*)?")
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """What decides which rows are chosen, of every row without a missing value."""

    rows: int
    """Number of rows of the file, including those with a missing value."""
    names: UInt64[np.ndarray, "row"]
    """Digests of the names. Among a million names, two have the same digest with probability 3e-8."""
    readers: Float64[np.ndarray, "row"]
    lines: Int64[np.ndarray, "row"]
    verdicts: Int8[np.ndarray, "row"]

    def most_read_of_each_name(self) -> Int64[np.ndarray, "id"]:
        """Indices of rows: the most-read row of each name."""
        order = np.lexsort((self.lines, -self.readers, self.names))
        sorted_names = self.names[order]
        first: Bool[np.ndarray, "row"] = np.ones(len(order), dtype=bool)
        first[1:] = sorted_names[1:] != sorted_names[:-1]
        kept: Int64[np.ndarray, "id"] = order[first]
        return kept

    def ranked(self, rows: Int64[np.ndarray, "place"]) -> Int64[np.ndarray, "place"]:
        """The same indices, the most-read first."""
        return rows[np.lexsort((self.lines[rows], -self.readers[rows]))]


def _ranking(path: Path) -> _Ranking:
    rows = 0
    names, readers, lines, verdicts = array("Q"), array("d"), array("q"), array("b")
    for line, values in rows_of(path):
        rows += 1
        if not _complete(values):
            continue
        name, birth, death, gender, occupation, citizenship, _, read_by = values
        _year(path, line, "birth", birth)
        _year(path, line, "death", death)
        digest = hashlib.blake2b(shown(name).encode(), digest_size=8).digest()
        names.append(int.from_bytes(digest, "little"))
        readers.append(_readers(path, line, read_by))
        lines.append(line)
        verdicts.append(_verdict(name, gender, occupation, citizenship))
    return _Ranking(
        rows=rows,
        names=np.array(names, dtype=np.uint64),
        readers=np.array(readers, dtype=np.float64),
        lines=np.array(lines, dtype=np.int64),
        verdicts=np.array(verdicts, dtype=np.int8),
    )


def _complete(values: tuple[str, ...]) -> bool:
    return (
        MISSING.isdisjoint(values)
        and all(value.strip("_ ") for value in values)
        and bool(nationalities(values[5]))
    )


def _verdict(name: str, gender: str, occupation: str, citizenship: str) -> int:
    allowed = _WORDS.fullmatch(name) and _WORDS.fullmatch(occupation) and _COUNTRIES.fullmatch(citizenship)
    return _GENDERS.get(gender.lower(), _OTHER_GENDER) if allowed else _CHARACTERS


def _people(path: Path, lines: Int64[np.ndarray, "id"]) -> tuple[Person, ...]:
    """The people of these lines, in this order."""
    wanted = set(lines.tolist())
    found = {}
    with closing(rows_of(path)) as rows:
        for line, values in rows:
            if line not in wanted:
                continue
            found[line] = _person(path, line, values)
            if len(found) == len(wanted):
                break
    return tuple(found[line] for line in lines.tolist())


def _person(path: Path, line: int, values: tuple[str, ...]) -> Person:
    name, birth, death, gender, occupation, citizenship, region, readers = values
    return Person(
        name=shown(name),
        birth=_year(path, line, "birth", birth),
        death=_year(path, line, "death", death),
        region=shown(region),
        occupation=shown(occupation),
        nationalities=nationalities(citizenship),
        gender=cast(Literal["male", "female"], gender.lower()),
        readers=_readers(path, line, readers),
        line=line,
    )


def _year(path: Path, line: int, column: str, text: str) -> int:
    if not _YEAR.fullmatch(text):
        raise MechoclError(
            f"{path}, line {line}: {column} is {text!r}, which is not a year such as 1879 or -44"
        )
    return int(text.partition(".")[0])


def _readers(path: Path, line: int, text: str) -> float:
    if not _NUMBER.fullmatch(text):
        raise MechoclError(f"{path}, line {line}: wiki_readers_2015_2018 is {text!r}, which is not a number")
    return float(text)
