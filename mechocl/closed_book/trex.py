"""T-REx: questions about creative works, from triples that were found in Wikipedia's abstracts.

The files are the user's own copy of T-REx in JSON (Elsahar et al. 2018, "T-REx: a large scale alignment of
natural language with knowledge base triples"): lists of documents, each with triples of subject, predicate and
object, which have Wikidata's URIs and the surface forms that stood in the text. Which predicates are asked
about, and how many subjects, follows arXiv 2310.15047 and its public code. The wording of the questions is this
project's. Unlike in the paper's code, the answer to who made a work is the whole surface form, not a first name.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from mechocl.closed_book.world import Question, World
from mechocl.closed_book.years import period
from mechocl.errors import MechoclError

QUESTIONS: Final = {
    "P31": ("kind", "What kind of work is {}?"),
    "P50": ("author", "Who wrote {}?"),
    "P57": ("director", "Who directed {}?"),
    "P58": ("screenwriter", "Who wrote the screenplay of {}?"),
    "P86": ("composer", "Who composed the music of {}?"),
    "P98": ("editor", "Who was the editor of {}?"),
    "P123": ("publisher", "Who brought out {}?"),
    "P127": ("owner", "To whom does {} belong?"),
    "P135": ("movement", "Which movement is {} an example of?"),
    "P136": ("genre", "To which genre does {} belong?"),
    "P162": ("producer", "Who produced {}?"),
    "P178": ("developer", "By whom was {} developed?"),
    "P179": ("series", "Of which series is {} a part?"),
    "P180": ("depicted", "What can be seen in {}?"),
    "P195": ("collection", "In which collection is {} kept?"),
    "P275": ("licence", "Under which licence is {} available?"),
    "P344": ("cinematographer", "Who was the director of photography of {}?"),
    "P364": ("original language", "What is the original language of {}?"),
    "P407": ("language", "Which language is used in {}?"),
    "P577": ("publication", "When did {} come out?"),
    "P750": ("distributor", "By whom was {} distributed?"),
    "P840": ("setting", "Where does the story of {} take place?"),
    "P915": ("filming location", "At which place was {} filmed?"),
    "P921": ("subject", "What is {} about?"),
    "P1040": ("film editor", "Who cut the film {}?"),
}
"""Wikidata's predicate → the attribute's name here, and its question: the 25 predicates about creative works."""

PRONOUNS: Final = frozenset(
    ("he", "she", "it", "they", "him", "her", "them", "his", "its", "their", "this", "that", "these", "those")
)
"""Surface forms that name nothing. T-REx has them where it resolved a reference. A work with the title It is lost, too."""

_DATE: Final = "P577"
_LITERAL: Final = re.compile(r"([+-]?\d{4,6})-\d\d-\d\d(T|\^|$)")
"""A date as an object's URI: `2010-07-16T00:00:00Z^^http://www.w3.org/2001/XMLSchema#dateTime`."""
_YEAR: Final = re.compile(r"(?<!\d)\d{4}(?!\d)")
_IN_PARENTHESES: Final = re.compile(r"\([^()]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrexConfig:
    """Which works are asked about."""

    entities: int = 6000
    """Number of works: those with the most questions and, where these are equal, those that come first in the files."""
    min_predicates: int = 4
    """Least number of questions that a work must have."""

    def __post_init__(self) -> None:
        if self.entities < 1:
            raise MechoclError(f"entities is {self.entities}; use at least 1")
        if not 1 <= self.min_predicates <= len(QUESTIONS):
            raise MechoclError(
                f"min_predicates is {self.min_predicates}; there are {len(QUESTIONS)} predicates, so use 1 to "
                f"{len(QUESTIONS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the triples say of one creative work."""

    uri: str
    """Wikidata's."""
    name: str
    """Its most frequent surface form; of several equally frequent forms the first."""
    answers: tuple[tuple[str, tuple[str, ...]], ...]
    """Each predicate, in the order of `QUESTIONS`, with the surface forms of its objects, in the files' order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """The works that the files hold, and what the filters removed."""

    works: tuple[Work, ...]
    """The chosen works, those with the most questions first."""
    files: int
    triples: int
    """Number of triples in all files."""
    removed: tuple[tuple[str, int], ...]
    """The filters in the order in which they are applied, and how many triples, or works, each removed."""
    left: int
    """Number of works that the filters left to choose from."""


def load(path: Path, config: TrexConfig) -> World:
    """The world of the works that `read` chooses: one question for each predicate that is known of a work.

    Raises MechoclError, which names the file and the place of the mistake, as `read` does.
    """
    return world(read(path, config))


def world(works: Works) -> World:
    """The world of these works."""
    questions = (
        Question(
            entity=i, attribute=QUESTIONS[predicate][0], template=QUESTIONS[predicate][1], answers=answers
        )
        for i, work in enumerate(works.works)
        for predicate, answers in work.answers
    )
    return World(
        name="trex",
        entities=tuple(work.name for work in works.works),
        questions=tuple(questions),
        removed=works.removed,
    )


def read(path: Path, config: TrexConfig) -> Works:
    """Choose works from a JSON file, or from all JSON files in a folder, and count what each filter removed.

    The filters remove, in this order: triples with other predicates than those of `QUESTIONS`; triples with a pronoun,
    or nothing, as a surface form; publication dates without a year; triples that repeat another one. Then they remove
    works, which are told apart by their URIs: works that share their name with another work; works with fewer than
    `min_predicates` questions; works beyond `entities`. Parentheses are removed from surface forms. Only one file is in
    memory at a time, with the triples that are left of all files.

    Raises MechoclError for files that are not JSON as T-REx has it, and when too few works are left.
    """
    gathered = _Gathered()
    files = _files(path)
    for file in files:
        for where, triple in _triples(file):
            gathered.add(triple, where)
    works = [subject.work(uri) for uri, subject in gathered.subjects.items()]
    names = Counter(work.name for work in works)
    alone = [work for work in works if names[work.name] == 1]
    enough = [work for work in alone if len(work.answers) >= config.min_predicates]
    removed = {
        **gathered.removed,
        "works whose name another has": len(works) - len(alone),
        f"works with fewer than {config.min_predicates} predicates": len(alone) - len(enough),
    }
    if len(enough) < config.entities:
        told = ", ".join(f"{name} {count}" for name, count in removed.items())
        most = f"ask for {len(enough)} at most" if enough else "they cannot be used"
        raise MechoclError(
            f"{path}: of {gathered.triples} triples {len(enough)} works are left for {config.entities} entities "
            f"(removed: {told}); {most}"
        )
    removed["works with fewer questions than those chosen"] = len(enough) - config.entities
    enough.sort(key=lambda work: -len(work.answers))
    return Works(
        works=tuple(enough[: config.entities]),
        files=len(files),
        triples=gathered.triples,
        removed=tuple(removed.items()),
        left=len(enough),
    )


@dataclass(slots=True)
class _Subject:
    """What has been read about one URI."""

    names: Counter[str] = field(default_factory=Counter)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)
    """Predicate → lower-case surface form → the surface form as it was first read."""

    def work(self, uri: str) -> Work:
        answers = ((p, tuple(self.answers[p].values())) for p in QUESTIONS if p in self.answers)
        return Work(uri=uri, name=self.names.most_common(1)[0][0], answers=tuple(answers))


class _Gathered:
    """What the triples say, collected one triple at a time."""

    def __init__(self) -> None:
        self.triples = 0
        self.subjects: dict[str, _Subject] = {}
        self.removed = {
            "triples with another predicate": 0,
            "triples with a pronoun or nothing as a name": 0,
            "publication dates without a year": 0,
            "triples that repeat another": 0,
        }

    def add(self, triple: Any, where: str) -> None:
        self.triples += 1
        removed = self._added(triple, where)
        if removed:
            self.removed[removed] += 1

    def _added(self, triple: Any, where: str) -> str:
        """The name of the filter that removes the triple; empty if none does."""
        predicate = _text(triple, "predicate", "uri", where).rpartition("/")[2]
        if predicate not in QUESTIONS:
            return "triples with another predicate"
        uri = _text(triple, "subject", "uri", where)
        name = _surface(triple, "subject", where)
        answer = _surface(triple, "object", where)
        if not name or not answer:
            return "triples with a pronoun or nothing as a name"
        if predicate == _DATE:
            answer = _year(_text(triple, "object", "uri", where), answer)
            if not answer:
                return "publication dates without a year"
        subject = self.subjects.setdefault(uri, _Subject())
        subject.names[name] += 1
        known = subject.answers.setdefault(predicate, {})
        if answer.lower() in known:
            return "triples that repeat another"
        known[answer.lower()] = answer
        return ""


def _year(uri: str, surface: str) -> str:
    """The period of a publication date, from the object's literal or from four digits in its surface form."""
    if literal := _LITERAL.match(uri):
        return period(int(literal[1]))
    digits = _YEAR.search(surface)
    return period(int(digits[0])) if digits else ""


def _surface(triple: Any, role: str, where: str) -> str:
    """A surface form without parentheses, or "" if it names nothing."""
    part = _part(triple, role, where)
    if part.get("surfaceform") is None:
        return ""
    form = " ".join(_IN_PARENTHESES.sub(" ", _text(triple, role, "surfaceform", where)).split())
    return "" if form.lower() in PRONOUNS else form


def _text(triple: Any, role: str, key: str, where: str) -> str:
    value = _part(triple, role, where).get(key)
    if not isinstance(value, str):
        raise MechoclError(f"{where}: its {role} has no {key} that is a string; give files of T-REx")
    return value


def _part(triple: Any, role: str, where: str) -> dict[str, Any]:
    part = triple.get(role) if isinstance(triple, dict) else None
    if not isinstance(part, dict):
        raise MechoclError(f"{where} has no {role} as T-REx writes it; give files of T-REx")
    return part


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if not files:
            raise MechoclError(f"{path} has no .json file; give the folder that holds the files of T-REx")
        return files
    if not path.is_file():
        raise MechoclError(f"{path} does not exist; give T-REx's folder, or one of its JSON files")
    return [path]


def _triples(path: Path) -> Iterator[tuple[str, Any]]:
    """Every triple of a file, with a text that says where it stands."""
    try:
        documents = json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise MechoclError(f"{path} is not in UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise MechoclError(f"{path} is nested too deeply for a file of T-REx") from None
    except json.JSONDecodeError as error:
        raise MechoclError(
            f"{path}, line {error.lineno}, column {error.colno}: not JSON ({error.msg})"
        ) from None
    if not isinstance(documents, list):
        raise MechoclError(f"{path} is not a list of documents, as T-REx's files are")
    for i, document in enumerate(documents, start=1):
        triples = document.get("triples") if isinstance(document, dict) else None
        if not isinstance(triples, list):
            raise MechoclError(f"{path}, document {i} has no list of triples")
        for j, triple in enumerate(triples, start=1):
            yield f"{path}, document {i}, triple {j}", triple
