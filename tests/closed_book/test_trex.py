"""T-REx: the small files by hand, drawn triples by another way, and what is wrong with other files."""

import itertools
import json
import random
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mechocl.closed_book import trex
from mechocl.closed_book.trex import QUESTIONS, TrexConfig
from mechocl.closed_book.world import World
from mechocl.commands import cli
from mechocl.errors import MechoclError

SMALL = Path(__file__).parent.parent / "data" / "trex"
ALL_OF_SMALL = TrexConfig(entities=12)
ENTITY = "http://www.wikidata.org/entity/"
PROPERTY = "http://www.wikidata.org/prop/direct/"
DATE = "^^http://www.w3.org/2001/XMLSchema#dateTime"


def triple(
    predicate: str, answer: str | None, *, subject: str = "Q1", name: str | None = "Inception", uri: str = ""
) -> Any:
    return {
        "subject": {"uri": ENTITY + subject, "surfaceform": name},
        "predicate": {"uri": PROPERTY + predicate, "surfaceform": None},
        "object": {"uri": uri or f"{ENTITY}Q2", "surfaceform": answer},
    }


def write(path: Path, *documents: list[Any]) -> Path:
    """A file of documents, each of them these triples."""
    content = [
        {"docid": f"{i}", "title": "A title", "triples": triples} for i, triples in enumerate(documents)
    ]
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def only(path: Path, *triples: Any) -> dict[str, tuple[str, ...]]:
    """What is known of the one work of these triples."""
    (work,) = trex.read(write(path / "a.json", list(triples)), TrexConfig(entities=1, min_predicates=1)).works
    return dict(work.answers)


def refused(path: Path, *, entities: int = 1) -> str:
    """The one line with which files are refused, without the name of the file or folder, which it must begin with."""
    with pytest.raises(MechoclError) as caught:
        trex.load(path, TrexConfig(entities=entities))
    line = str(caught.value)
    assert line.startswith(str(path))
    assert len(line.splitlines()) == 1
    return line.removeprefix(str(path))


# the small files, by hand --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> World:
    return trex.load(SMALL, ALL_OF_SMALL)


def answers(world: World, name: str) -> dict[str, str]:
    entity = world.entities.index(name)
    return {q.attribute: "/".join(q.answers) for q in world.questions if q.entity == entity}


def test_answers_about_works(small: World) -> None:
    assert answers(small, "Inception") == {
        "director": "Christopher Nolan",  # "It" is no name of a work, so who wrote the screenplay is not known
        "composer": "Hans Zimmer/Zimmer",  # in the other file
        "producer": "Emma Thomas/Christopher Nolan",
        "cinematographer": "Wally Pfister",
        "publication": "2010",
        "distributor": "Warner Bros.",
        "film editor": "Lee Smith",
    }
    assert answers(small, "War and Peace") == {
        "author": "Leo Tolstoy",  # in a document about him; "He", in the one about the book, is nobody
        "genre": "historical novel",
        "language": "Russian",
        "publication": "19 century",
        "setting": "Russia",
    }
    assert answers(small, "Aeneid") == {
        "author": "Virgil",
        "genre": "epic poetry",
        "language": "Latin",
        "publication": "1 century BC",
        "subject": "Aeneas",
    }
    assert answers(small, "Mona Lisa") == {
        "kind": "painting",
        "movement": "High Renaissance",
        "depicted": "Lisa del Giocondo",
        "collection": "Louvre",
    }
    assert answers(small, "The Hobbit")["publication"] == "1930s"  # no literal, so of its surface form
    assert answers(small, "Minecraft")["genre"] == "sandbox game/survival game"


def test_those_with_the_most_questions_come_first(small: World) -> None:
    assert small.name == "trex"
    assert small.entities == (
        "Inception",
        "The Godfather",
        "The Hobbit",
        "Blade Runner",
        "Spirited Away",
        "War and Peace",
        "Nineteen Eighty-Four",
        "Don Quixote",
        "Aeneid",
        "Minecraft",
        "Mona Lisa",
        "Hamlet",
    )
    assert [q.entity for q in small.questions] == sorted(q.entity for q in small.questions)
    assert trex.load(SMALL, TrexConfig(entities=5)).entities == small.entities[:5]


def test_what_each_filter_removed(small: World) -> None:
    """Solaris is a novel and a film; Anna Karenina, Guernica, Linux and Interstellar have too few questions."""
    assert small.removed == (
        ("triples with another predicate", 2),
        ("triples with a pronoun or nothing as a name", 2),
        ("publication dates without a year", 1),
        ("triples that repeat another", 1),
        ("works whose name another has", 2),
        ("works with fewer than 4 predicates", 4),
        ("works with fewer questions than those chosen", 0),
    )
    less = trex.load(SMALL, TrexConfig(entities=11, min_predicates=3)).removed[-2:]
    assert less == (
        ("works with fewer than 3 predicates", 3),
        ("works with fewer questions than those chosen", 2),
    )


def test_one_file_alone_and_the_same_file_twice(tmp_path: Path, small: World) -> None:
    file = SMALL / "re-nlg_0-8.json"
    alone = trex.load(file, TrexConfig(entities=5))
    assert alone.entities == ("Inception", "The Godfather", "Blade Runner", "Spirited Away", "War and Peace")
    assert "composer" in answers(alone, "Inception")
    for name in ("1.json", "2.json", "not read.txt"):
        shutil.copy(file, tmp_path / name)
    twice = trex.load(tmp_path, TrexConfig(entities=5))
    assert (twice.entities, twice.questions) == (alone.entities, alone.questions)


# the questions -------------------------------------------------------------------------------------


def test_25_predicates_each_asked_in_its_own_words() -> None:
    attributes, templates = zip(*QUESTIONS.values(), strict=True)
    assert len(QUESTIONS) == len(set(attributes)) == len(set(templates)) == 25
    assert all(re.fullmatch(r"P\d+", predicate) for predicate in QUESTIONS)
    assert all(text.count("{}") == 1 and text.endswith("?") for text in templates)


@pytest.mark.parametrize(
    ("surface", "uri", "said"),
    [
        ("1972", f"1972-03-24T00:00:00Z{DATE}", "1970s"),
        ("March", f"1972-03-24T00:00:00Z{DATE}", "1970s"),
        ("16 July 2010", f"{ENTITY}Q1", "2010"),
        ("about 1605", "", "17 century"),
        ("1599 or 1603", "", "16 century"),
        ("19 BC", f"-0019-01-01T00:00:00Z{DATE}", "1 century BC"),
        ("the year 800", f"0800-01-01T00:00:00Z{DATE}", "8 century"),
        ("spring", f"{ENTITY}Q1605", None),
        ("12345", "", None),
        ("1999 (2nd edition 2003)", "", "1990s"),
    ],
)
def test_publication_dates(tmp_path: Path, surface: str, uri: str, said: str | None) -> None:
    found = only(tmp_path, triple("P577", surface, uri=uri), triple("P50", "Somebody"))
    assert found.get("P577") == ((said,) if said else None)


def test_names_and_answers_are_surface_forms(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json",
        [
            triple("P50", "Stanisław  Lem (writer)", name="Solaris (novel)"),
            triple("P50", "LEM", name="The book"),
        ],
        [triple("P50", "Lem", name="The novel"), triple("P136", "novel", name=" Solaris")],
        [
            triple("P136", None),
            triple("P407", "Polish", name=None),
            triple("P407", "(Polish)"),
            triple("P50", "her"),
        ],
    )
    (work,) = trex.read(path, TrexConfig(entities=1, min_predicates=2)).works
    assert work == trex.Work(
        uri=f"{ENTITY}Q1", name="Solaris", answers=(("P50", ("Stanisław Lem", "LEM")), ("P136", ("novel",)))
    )


def test_two_works_of_one_name_are_both_removed_whatever_is_known_of_them(tmp_path: Path) -> None:
    well_known = [triple(p, f"{p}", subject="Q1", name="Emma") for p in list(QUESTIONS)[:6]]
    path = write(tmp_path / "a.json", well_known, [triple("P57", "Autumn de Wilde", subject="Q2", name="Emma")],
                 [triple(p, f"{p}", subject="Q3", name="Persuasion") for p in list(QUESTIONS)[:4]])  # fmt: skip
    found = trex.read(path, TrexConfig(entities=1))
    assert [work.name for work in found.works] == ["Persuasion"]
    assert dict(found.removed)["works whose name another has"] == 2


# drawn triples, by another way ---------------------------------------------------------------------


def drawn(folder: Path, *, triples: int, seed: int) -> Path:
    """Triples in which every filter has work to do, in files of 50 documents of several triples."""
    rng = random.Random(seed)
    predicates = [*list(QUESTIONS)[:8], "P577", "P577", "P19", "P20"]
    drawn = []
    for _ in range(triples):
        subject = rng.randrange(triples // 12)
        predicate = rng.choice(predicates)
        called = f"Work {subject - (subject % 30 == 1)}"  # every 30th has the name of the one before
        name = rng.choice([called, f"{called} (novel)", "It"])
        years = [f"{rng.randrange(1000, 2020)}", "July"]
        answer = rng.choice(years if predicate == "P577" else [*"abcdefgh", "A", "He", "Bob  Dylan"])
        drawn.append(triple(predicate, answer, subject=f"Q{subject}", name=name))
    documents = []
    while drawn:
        size = rng.randrange(9)
        documents.append(drawn[:size])
        drawn = drawn[size:]
    for i in range(0, len(documents), 50):
        write(folder / f"{i:05}.json", *documents[i : i + 50])
    return folder


def in_memory(folder: Path, config: TrexConfig) -> tuple[list[tuple[str, str, str, str]], list[int]]:
    """URI, name, predicate and answers of every question, and what was removed: by tables of all triples at once."""
    rows = [
        (t["subject"]["uri"], t["subject"]["surfaceform"], t["predicate"]["uri"][len(PROPERTY) :], t["object"]["surfaceform"])
        for file in sorted(folder.iterdir())
        for document in json.loads(file.read_text(encoding="utf-8"))
        for t in document["triples"]
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["uri", "name", "predicate", "answer"])
    table["name"] = table["name"].str.replace(" (novel)", "")
    table["answer"] = table["answer"].str.replace("  ", " ")
    sizes = [len(table)]
    table = table[table["predicate"].isin(list(QUESTIONS))]
    sizes.append(len(table))
    table = table[(table["name"] != "It") & (table["answer"] != "He")]
    sizes.append(len(table))
    table = table[(table["predicate"] != "P577") | (table["answer"] != "July")].copy()
    sizes.append(len(table))
    dates = table["predicate"] == "P577"
    table.loc[dates, "answer"] = [trex.period(int(year)) for year in table.loc[dates, "answer"]]
    table["key"] = table["answer"].str.lower()
    table = table.drop_duplicates(["uri", "predicate", "key"])
    sizes.append(len(table))

    works = table.groupby("uri", sort=False).agg(name=("name", "first"), known=("predicate", "nunique"))
    counts = [len(works)]
    works = works[~works["name"].duplicated(keep=False)]
    counts.append(len(works))
    works = works[works["known"] >= config.min_predicates]
    counts.append(len(works))
    works = works.sort_values("known", ascending=False, kind="stable").head(config.entities)
    counts.append(len(works))

    found = []
    for uri, name in works["name"].items():
        of_work = table[table["uri"] == uri]
        for predicate in QUESTIONS:
            if len(known := of_work[of_work["predicate"] == predicate]):
                found.append((str(uri), str(name), predicate, "/".join(known["answer"])))
    steps = [*itertools.pairwise(sizes), *itertools.pairwise(counts)]
    return found, [a - b for a, b in steps]


@pytest.mark.parametrize("seed", range(4))
def test_file_by_file_as_all_at_once(tmp_path: Path, seed: int) -> None:
    config = TrexConfig(entities=30, min_predicates=5)
    found = trex.read(drawn(tmp_path, triples=3000, seed=seed), config)
    questions, removed = in_memory(tmp_path, config)
    assert [count for _, count in found.removed] == removed
    assert all(count > 0 for count in removed)
    assert [(w.uri, w.name, p, "/".join(a)) for w in found.works for p, a in w.answers] == questions
    assert found.triples == 3000
    assert found.files == len(list(tmp_path.iterdir())) > 5


def test_how_documents_are_put_into_files_does_not_matter(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    many = drawn(tmp_path / "many", triples=2000, seed=0)
    documents = [d["triples"] for file in sorted(many.iterdir()) for d in json.loads(file.read_text())]
    one = write(tmp_path / "one.json", *documents)
    config = TrexConfig(entities=20)
    assert trex.load(one, config) == trex.load(many, config)


# what is wrong with other files --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"triples": []},\n {"triples": [}]', ", line 2, column 15: not JSON (Expecting value)"),
        ("", ", line 1, column 1: not JSON (Expecting value)"),
        ("[" * 100_000, " is nested too deeply for a file of T-REx"),
        ('{"triples": []}', " is not a list of documents, as T-REx's files are"),
        ("[[]]", ", document 1 has no list of triples"),
        ('[{"triples": []}, {"title": "x"}]', ", document 2 has no list of triples"),
        ('[{"triples": [1]}]', ", document 1, triple 1 has no predicate as T-REx writes it; give files of T-REx"),
        ('[{"triples": [{"predicate": "P50"}]}]', ", document 1, triple 1 has no predicate as T-REx writes it; give files of T-REx"),
        ('[{"triples": [{"predicate": {}}]}]', ", document 1, triple 1: its predicate has no uri that is a string; give files of T-REx"),
        ('[{"triples": [{"predicate": {"uri": "x/P50"}}]}]', ", document 1, triple 1 has no subject as T-REx writes it; give files of T-REx"),
        (json.dumps([{"triples": [triple("P50", "a"), {**triple("P50", "a"), "object": None}]}]),
         ", document 1, triple 2 has no object as T-REx writes it; give files of T-REx"),
        (json.dumps([{"triples": [triple("P50", 5)]}]),  # type: ignore[arg-type]
         ", document 1, triple 1: its object has no surfaceform that is a string; give files of T-REx"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_t_rex(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content, encoding="utf-8")
    assert refused(path) == message


def test_the_file_of_a_folder_is_named(tmp_path: Path) -> None:
    shutil.copytree(SMALL, tmp_path / "t")
    (tmp_path / "t" / "re-nlg_9.json").write_text("[", encoding="utf-8")
    assert refused(tmp_path / "t").startswith("/re-nlg_9.json, line 1, column 2: not JSON")


def test_what_is_not_there_or_not_text(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing") == " does not exist; give T-REx's folder, or one of its JSON files"
    assert refused(tmp_path) == " has no .json file; give the folder that holds the files of T-REx"
    path = tmp_path / "a.json"
    path.write_bytes('[{"title": "Édith"}]'.encode("latin-1"))
    assert refused(path) == " is not in UTF-8 (byte 12)"


def test_more_entities_than_works(tmp_path: Path) -> None:
    assert refused(SMALL, entities=13) == (
        ": of 87 triples 12 works are left for 13 entities (removed: triples with another predicate 2, triples with a "
        "pronoun or nothing as a name 2, publication dates without a year 1, triples that repeat another 1, works whose "
        "name another has 2, works with fewer than 4 predicates 4); ask for 12 at most"
    )
    assert refused(write(tmp_path / "a.json", [])).endswith("; they cannot be used")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"entities": 0}, "entities is 0; use at least 1"),
        ({"min_predicates": 0}, "min_predicates is 0; there are 25 predicates, so use 1 to 25"),
        ({"min_predicates": 26}, "min_predicates is 26; there are 25"),
    ],
)
def test_settings_that_make_no_sense(change: dict[str, int], message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        TrexConfig(**change)


# the command ---------------------------------------------------------------------------------------


def test_usable_files_are_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "trex", "--check", str(SMALL), "--entities", "10"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    cells = [re.split(r"  +", line) for line in captured.out.splitlines()]
    assert [f"{SMALL}: 87 triples in 2 files"] in cells
    for line in (
        ["works whose name another has", "2"],
        ["works with fewer questions than those chosen", "2"],
        ["director", "4"],
        ["Who composed the music of Inception?", "Hans Zimmer / Zimmer"],
    ):
        assert line in cells
    assert captured.out.splitlines()[-1] == "usable: 10 entities, 12 at most; 54 questions"
    assert cli.main(["data", "trex", "--check", str(SMALL / "re-nlg_0-8.json"), "--entities", "1"]) == 0
    assert "triples in 1 file\n" in capsys.readouterr().out


def test_files_that_cannot_be_used_end_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in (
        ([str(SMALL)], f"{SMALL}: of 87 triples 12 works are left for 6000 entities"),
        ([str(SMALL), "--min-predicates", "0"], "min_predicates is 0"),
        ([str(tmp_path)], f"{tmp_path} has no .json file"),
    ):
        assert cli.main(["data", "trex", "--check", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith(f"mechocl: {message}")
