"""CVDB: the small file by hand, thousands of drawn rows by another way, and what is wrong with other files."""

import csv
import gzip
import hashlib
import lzma
import random
import re
import tracemalloc
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, strategies as st

from mechocl.closed_book import cvdb
from mechocl.closed_book.cvdb import CvdbConfig, People
from mechocl.closed_book.cvdb_file import COLUMNS
from mechocl.closed_book.world import World
from mechocl.closed_book.years import period
from mechocl.commands import cli
from mechocl.errors import MechoclError

SMALL = Path(__file__).parent.parent / "data" / "cvdb-small.csv"
ALL_OF_SMALL = CvdbConfig(entities=64)
"""All 32 women, and as many of the 33 men."""


def write(
    path: Path, rows: list[list[str]], *, header: tuple[str, ...] = COLUMNS, encoding: str = "latin-1"
) -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def row(name: str = "Ada_Lovelace", **changes: str) -> list[str]:
    values = dict(
        zip(
            COLUMNS,
            (name, "1815", "1852", "Female", "mathematician", "'United_Kingdom'", "Europe", "100"),
            strict=True,
        )
    )
    assert changes.keys() <= values.keys()
    return list((values | changes).values())


MAN = row("Charles_Babbage", birth="1791", death="1871", gender="Male", wiki_readers_2015_2018="90")


def refused(path: Path, *, entities: int = 2) -> str:
    """The one line with which a file is refused, without the file's name, which it must begin with."""
    with pytest.raises(MechoclError) as caught:
        cvdb.load(path, CvdbConfig(entities=entities))
    line = str(caught.value)
    assert line.startswith(str(path))
    assert len(line.splitlines()) == 1
    return line.removeprefix(str(path))


def by_name(found: People) -> dict[str, cvdb.Person]:
    return {person.name: person for person in found.people}


# the small file, by hand ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small() -> World:
    return cvdb.load(SMALL, ALL_OF_SMALL)


def answers(world: World, name: str) -> dict[str, tuple[str, ...]]:
    entity = world.entities.index(name)
    return {q.attribute: q.answers for q in world.questions if q.entity == entity}


@pytest.mark.parametrize(
    ("name", "birth", "death", "region", "occupation", "nationality", "gender"),
    [
        ("Albert Einstein", "19 century", "1950s", "Europe", "physicist", "Germany/Switzerland/United States of America", "male"),
        ("Julius Caesar", "1 century BC", "1 century BC", "Europe", "politician", "Ancient Rome", "male"),
        ("Augustus", "1 century BC", "1 century", "Europe", "politician", "Ancient Rome", "male"),
        ("Hatshepsut", "16 century BC", "15 century BC", "Africa", "monarch", "Ancient Egypt", "female"),
        ("Confucius", "6 century BC", "5 century BC", "Asia", "philosopher", "Lu", "male"),
        ("Isaac Newton", "17 century", "18 century", "Europe", "physicist", "Kingdom of England", "male"),
        ("Cleopatra", "1 century BC", "1 century BC", "Africa", "monarch", "Ptolemaic Kingdom", "female"),
        ("Mao Zedong", "19 century", "1970s", "Asia", "politician", "People's Republic of China", "male"),
        ("Oscar Wilde", "19 century", "19 century", "Europe", "writer", "United Kingdom of Great Britain and Ireland", "male"),
        ("Queen Victoria", "19 century", "1900s", "Europe", "monarch", "United Kingdom", "female"),
        ("Marlene Dietrich", "1900s", "1990s", "Europe", "actor", "Germany/United States of America", "female"),
        ("Alec Guinness", "1910s", "2000", "Europe", "actor", "United Kingdom", "male"),
        ("Rosa Parks", "1910s", "2005", "America", "activist", "United States of America", "female"),
        ("Johan Cruyff", "1940s", "2016", "Europe", "football player", "Netherlands", "male"),
        ("Édith Piaf", "1910s", "1960s", "Europe", "singer", "France", "female"),
        ("Oodgeroo Noonuccal", "1920s", "1990s", "Oceania", "poet", "Australia", "female"),
    ],
)  # fmt: skip
def test_answers_about_people(
    small: World,
    name: str,
    birth: str,
    death: str,
    region: str,
    occupation: str,
    nationality: str,
    gender: str,
) -> None:
    assert answers(small, name) == {
        "birth": (birth,),
        "death": (death,),
        "region": (region,),
        "occupation": (occupation,),
        "nationality": tuple(nationality.split("/")),
        "gender": (gender,),
    }


def test_six_questions_each_most_read_first(small: World) -> None:
    assert small.name == "cvdb"
    assert small.entities[:5] == (
        "Albert Einstein",
        "Steve Jobs",
        "Stephen Hawking",
        "Queen Victoria",
        "Elizabeth Taylor",
    )
    assert [q.entity for q in small.questions] == [i for i in range(64) for _ in range(6)]
    assert [q.attribute for q in small.questions] == list(cvdb.QUESTIONS) * 64
    assert [q.ask(small.entities[q.entity]) for q in small.questions[:6]] == [
        "When was Albert Einstein born?",
        "When did Albert Einstein die?",
        "In which part of the world did Albert Einstein live?",
        "What was the occupation of Albert Einstein?",
        "Of which country was Albert Einstein a citizen?",
        "Which gender was Albert Einstein?",
    ]


def test_what_each_filter_removed(small: World) -> None:
    """Counted in the file by hand: the rows of the names below."""
    assert small.removed == (
        ("missing value", 7),
        ("name that a more-read row has", 2),
        ("other characters", 4),
        ("other gender", 1),
        ("less read than those chosen", 1),
    )
    missing = {"Diego Maradona", "Noam Chomsky", "Tim Berners-Lee", "Murasaki Shikibu", "Boudica", "Homer"}
    characters = {"Jean-Paul Sartre", "Gustav Mahler", "Martin Luther King Jr.", "Flannery O'Connor"}
    assert not (missing | characters | {"Herculine Barbin"}) & set(small.entities)
    assert "José Martí" not in small.entities  # the least-read man
    assert {"Søren Kierkegaard", "Émilie du Châtelet", "Gabriel García Márquez"} <= set(small.entities)


def test_of_namesakes_the_most_read_remains(small: World) -> None:
    assert answers(small, "Francis Bacon")["occupation"] == ("philosopher",)
    assert answers(small, "Elizabeth Taylor")["occupation"] == ("actor",)  # the second in the file
    assert answers(small, "John Adams")["occupation"] == ("politician",)  # the other one lacks a value


def test_half_are_men(small: World) -> None:
    genders = [q.answers for q in small.questions if q.attribute == "gender"]
    assert genders.count(("male",)) == genders.count(("female",)) == 32


def test_the_file_is_left_as_it_is() -> None:
    before = hashlib.sha256(SMALL.read_bytes()).hexdigest()
    cvdb.load(SMALL, ALL_OF_SMALL)
    assert hashlib.sha256(SMALL.read_bytes()).hexdigest() == before


# thousands of rows, by another way ----------------------------------------------------------------


def drawn(path: Path, *, rows: int, seed: int) -> Path:
    """Rows in which every filter has work to do: few names, few numbers of readers, so that many are equal."""
    rng = random.Random(seed)
    header = ("wikidata_code", *COLUMNS[::-1], "level3_all_occ")
    body = []
    for i in range(rows):
        name = f"{rng.choice(['Émile', 'Ada', 'Wu', 'Jean'])}{rng.choice('_ ')}{rng.choice(['Nr', 'de', 'X-'])}{rng.randrange(rows // 2)}"
        born = rng.randrange(-600, 1980)
        values = row(
            name + rng.choice(["", "", "", " ", "."]),
            birth=rng.choice(["", "NaN", "nan", *[str(born)] * 9, f"{born}.0"]),
            death=rng.choice(["", *[str(born + 40)] * 9]),
            gender=rng.choice(["Male", "Male", "Male", "Female", "Other"]),
            level3_main_occ=rng.choice(["politician", "football_player", "mixed-up", "Missing", "poet"]),
            string_citizenship_raw_d=rng.choice(["'France'", "'Italy'_'People's_Republic'", "'Austria-Hungary'", "''", "US"]),
            un_region=rng.choice(["Europe", "Asia", "Asia", ""]),
            wiki_readers_2015_2018=rng.choice([str(rng.randrange(300)), f"{rng.randrange(300)}.5", "1e2"]),
        )  # fmt: skip
        body.append([f"Q{i}", *values[::-1], 'a, "b"\nc'])
    return write(path, body, header=header)


def in_memory(path: Path, entities: int) -> tuple[list[tuple[str, str, str, str]], dict[str, int]]:
    """The same people and counts, by pandas, with all rows in memory and every filter a table of its own."""
    table = pd.read_csv(path, encoding="latin-1", dtype=str, keep_default_na=False)[list(COLUMNS)]
    table = table.apply(lambda column: column.str.strip())
    sizes = [len(table)]
    for column in COLUMNS:
        table = table[~table[column].isin(list(cvdb.MISSING))]
    table = table[table["string_citizenship_raw_d"] != "''"]
    sizes.append(len(table))
    table["shown"] = table["name"].str.replace("_", " ")
    table["readers"] = table["wiki_readers_2015_2018"].astype(float)
    table = table.sort_values("readers", ascending=False, kind="stable").drop_duplicates(
        "shown", keep="first"
    )
    sizes.append(len(table))
    for column, others in (("name", "_ "), ("level3_main_occ", "_ "), ("string_citizenship_raw_d", "_ '")):
        plain = table[column].map(lambda text, others=others: all(c.isalnum() or c in others for c in text))
        table = table[plain]
    sizes.append(len(table))
    table = table[table["gender"].isin(["Male", "Female"])]
    sizes.append(len(table))
    table = table.groupby("gender").head(entities // 2)  # which keeps the order by readers, ties by row
    sizes.append(len(table))
    names = (
        "missing value",
        "name that a more-read row has",
        "other characters",
        "other gender",
        "less read than those chosen",
    )
    removed = {name: a - b for name, a, b in zip(names, sizes[:-1], sizes[1:], strict=True)}
    people = table[["shown", "gender", "level3_main_occ", "birth"]].itertuples(index=False, name=None)
    return list(people), removed


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("entities", [2, 50, 120])
def test_streamed_as_in_memory(tmp_path: Path, seed: int, entities: int) -> None:
    path = drawn(tmp_path / "drawn.csv", rows=4000, seed=seed)
    found = cvdb.read(path, CvdbConfig(entities=entities))
    people, removed = in_memory(path, entities)
    assert dict(found.removed) == removed
    assert all(count > 0 for count in removed.values())
    assert found.rows == 4000
    ours = [(p.name, p.gender, p.occupation, p.birth) for p in found.people]
    assert ours == [(n, g.lower(), o.replace("_", " "), int(float(b))) for n, g, o, b in people]
    assert found.rows - sum(removed.values()) == entities == len(found.people)


def test_a_long_file_is_not_held_in_memory(tmp_path: Path) -> None:
    """What is kept of a row is far less than the row; reading the whole file is seen by the same measure."""
    body = [[*row(f"Name_{i}", gender=("Male", "Female")[i % 2]), "x" * 6000] for i in range(2000)]
    path = write(tmp_path / "long.csv", body, header=(*COLUMNS, "level3_all_occ"))

    def peak(read: object) -> int:
        assert callable(read)
        tracemalloc.start()
        read()
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    size = path.stat().st_size
    assert peak(path.read_bytes) >= size
    assert peak(lambda: cvdb.read(path, CvdbConfig(entities=100))) < size / 2


# names and ties ------------------------------------------------------------------------------------


def test_equally_read_people_stand_as_in_the_file(tmp_path: Path) -> None:
    names = ["Zoe", "Ann", "Mia", "Eva"]
    path = write(tmp_path / "a.csv", [MAN, *[row(name) for name in names]])
    found = cvdb.read(path, CvdbConfig(entities=2))
    assert [p.name for p in found.people] == ["Zoe", "Charles Babbage"]


def test_a_namesake_of_another_gender_counts(tmp_path: Path) -> None:
    woman = row("Evelyn_Waugh", wiki_readers_2015_2018="5")
    man = row("Evelyn Waugh", gender="Male", wiki_readers_2015_2018="6")
    found = cvdb.read(write(tmp_path / "a.csv", [woman, man, row()]), CvdbConfig(entities=2))
    assert {p.name: p.gender for p in found.people} == {"Ada Lovelace": "female", "Evelyn Waugh": "male"}
    assert dict(found.removed)["name that a more-read row has"] == 1


def test_a_name_whose_most_read_bearer_is_removed_is_not_another_s(tmp_path: Path) -> None:
    known = row("Mary_Cassatt", string_citizenship_raw_d="'Austria-Hungary'", wiki_readers_2015_2018="9")
    other = row("Mary_Cassatt", wiki_readers_2015_2018="8")
    found = cvdb.read(write(tmp_path / "a.csv", [known, other, row(), MAN]), CvdbConfig(entities=2))
    assert "Mary Cassatt" not in by_name(found)


@pytest.mark.parametrize("missing", ["", " ", "NaN", "NA", ".", "Missing", "_"])
@pytest.mark.parametrize("column", COLUMNS)
def test_a_row_that_lacks_any_value_goes(tmp_path: Path, column: str, missing: str) -> None:
    lacks = row(**({"name": "Mary"} | {column: missing}))
    found = cvdb.read(write(tmp_path / "a.csv", [lacks, row(), MAN]), CvdbConfig(entities=2))
    assert dict(found.removed)["missing value"] == 1


@pytest.mark.parametrize(
    ("column", "value", "kept"),
    [
        ("name", "Zoë_von_X 2", True),
        ("name", "O'Hara", False),
        ("name", "A_B_(painter)", False),
        ("name", "A/B", False),
        ("level3_main_occ", "football_player", True),
        ("level3_main_occ", "singer-songwriter", False),
        ("string_citizenship_raw_d", "'Côte_d'Ivoire'", True),
        ("string_citizenship_raw_d", "'Guinea-Bissau'", False),
        ("un_region", "Europe (East)", True),
    ],
)
def test_characters(tmp_path: Path, column: str, value: str, kept: bool) -> None:
    line = row(**({"name": "Mary"} | {column: value}))
    found = cvdb.read(write(tmp_path / "a.csv", [line, row(), MAN]), CvdbConfig(entities=2))
    assert dict(found.removed)["other characters"] == (not kept)


# years, citizenships -------------------------------------------------------------------------------


@given(st.integers(-5000, 2100))
def test_a_year_lies_in_the_period_that_is_said_of_it(year: int) -> None:
    text = period(year)
    if match := re.fullmatch(r"([1-9]\d*) century( BC)?", text):
        century = range(100 * int(match[1]) - 99, 100 * int(match[1]) + 1)
        assert (max(1, -year) if match[2] else year) in century
        assert year <= 0 if match[2] else 0 < year <= 1900
    elif text.endswith("s"):
        assert int(text[:-1]) % 10 == 0
        assert year - int(text[:-1]) in range(10)
        assert 1900 < year < 2000
    else:
        assert year == int(text) >= 2000


@pytest.mark.parametrize("written", ["{}", "{}.0", "{}.", "{}.00"])
@pytest.mark.parametrize(
    ("year", "said"),
    [("1900", "19 century"), ("1901", "1900s"), ("1999", "1990s"), ("2000", "2000"), ("0", "1 century BC"), ("100", "1 century"),
     ("101", "2 century"), ("-100", "1 century BC"), ("-101", "2 century BC"), ("-3500", "35 century BC")],
)  # fmt: skip
def test_years_at_the_borders(tmp_path: Path, written: str, year: str, said: str) -> None:
    path = write(tmp_path / "a.csv", [row(birth=written.format(year)), MAN])
    assert answers(cvdb.load(path, CvdbConfig(entities=2)), "Ada Lovelace")["birth"] == (said,)


_countries = st.text("abcdéXYZ'_ ", min_size=1, max_size=9).filter(
    lambda text: text == text.strip("'_ ") and "'_'" not in text and not re.search("[_ ]{2}", text)
)


@given(st.lists(_countries, min_size=1, max_size=4, unique_by=cvdb.shown))
def test_citizenships_are_read_as_they_are_written(countries: list[str]) -> None:
    written = "_".join(f"'{country}'" for country in countries)
    assert cvdb.nationalities(written) == tuple(country.replace("_", " ") for country in countries)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("'Germany'_'Austria'", ("Germany", "Austria")),
        ("'Germany'_'Germany'_'Austria'_", ("Germany", "Austria")),
        ("France", ("France",)),
        ("'Côte_d'Ivoire'_'France'", ("Côte d'Ivoire", "France")),
        ("''", ()),
        ("''_'Italy'", ("Italy",)),
    ],
)
def test_citizenships_by_hand(text: str, read: tuple[str, ...]) -> None:
    assert cvdb.nationalities(text) == read


# files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
@pytest.mark.parametrize("name", ["packed.csv.gz", "packed.csv.xz", "packed.csv"])
def test_a_packed_file_says_the_same(tmp_path: Path, pack: object, name: str, small: World) -> None:
    assert callable(pack)
    (tmp_path / name).write_bytes(pack(SMALL.read_bytes()))
    assert cvdb.load(tmp_path / name, ALL_OF_SMALL) == small


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    """Also where the first column is one of those that are read, in quotes or not."""
    for header in (COLUMNS, ('"name"', *COLUMNS[1:])):
        text = "\n".join([",".join(header), ",".join(row()), ",".join(MAN), ""])
        (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.encode("ascii"))
        assert cvdb.load(tmp_path / "a.csv", CvdbConfig(entities=2)).entities == (
            "Ada Lovelace",
            "Charles Babbage",
        )
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + text.replace("Ada", "Zoë").encode("latin-1"))
    assert cvdb.load(tmp_path / "a.csv", CvdbConfig(entities=2)).entities == (
        "Zoë Lovelace",
        "Charles Babbage",
    )


def test_blank_lines_line_ends_and_order_of_columns_do_not_matter(tmp_path: Path) -> None:
    rows = [[*line[1:], line[0]] for line in (row("Zoë"), [""] * 8, MAN)]
    path = write(tmp_path / "a.csv", rows, header=(*COLUMNS[1:], COLUMNS[0]))
    expected = cvdb.load(path, CvdbConfig(entities=2)).entities
    assert expected == ("Zoë", "Charles Babbage")
    path.write_bytes(path.read_bytes().replace(b"\r\n", b"\n\n"))
    assert cvdb.load(path, CvdbConfig(entities=2)).entities == expected


def test_spaces_around_values_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [[f" {value} " for value in row()], MAN])
    assert by_name(cvdb.read(path, CvdbConfig(entities=2)))["Ada Lovelace"] == cvdb.Person(
        name="Ada Lovelace",
        birth=1815,
        death=1852,
        region="Europe",
        occupation="mathematician",
        nationalities=("United Kingdom",),
        gender="female",
        readers=100.0,
        line=2,
    )


def test_a_file_in_utf8(tmp_path: Path) -> None:
    said = refused(write(tmp_path / "a.csv", [row("Zoë"), MAN], encoding="utf-8"))
    assert said.startswith(" is in UTF-8; the published file is in Latin-1")
    assert refused(write(tmp_path / "a.csv", [row("Zoë"), MAN], encoding="utf-8-sig")) == said
    ascii_only = write(tmp_path / "a.csv", [row("Zoe"), MAN], encoding="utf-8")
    assert cvdb.load(ascii_only, CvdbConfig(entities=2)).entities == ("Zoe", "Charles Babbage")


def test_utf8_is_seen_where_a_block_of_the_file_cuts_a_letter(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [row("Zoë"), MAN], encoding="utf-8")
    start = path.read_bytes().index("ë".encode())
    text = path.read_text(encoding="utf-8")
    for shift in (0, 1, 2):
        filler = "x" * ((1 << 20) - start - shift)
        path.write_text(text.replace("Zoë", filler + "Zoë"), encoding="utf-8")
        assert refused(path).startswith(" is in UTF-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", " is empty; its first line must name the columns"),
        (b"name,birth\nAda,1815\n", ", line 1: no column death, gender, level3_main_occ, string_citizenship_raw_d, un_region, wiki_rea"),
        (";".join(COLUMNS).encode(), "commas between its columns (this file has 1: name;birth;death"),
        (b'"na\nme",x\n', "(this file has 2: na me, x)"),
        (b"PK\x03\x04rest", " is a zip archive; unpack it"),
        ("name".encode("utf-16"), " is in UTF-16"),
        (gzip.compress(SMALL.read_bytes())[:-900], " is damaged or not whole"),
        (lzma.compress(SMALL.read_bytes())[:-900], " is damaged or not whole"),
        (b"\x1f\x8bnot gzip", " is damaged or not whole"),
        (b"\xfd7zXZ\x00no", " is damaged or not whole"),
    ],
)  # fmt: skip
def test_what_is_no_such_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cross.csv"
    path.write_bytes(content)
    assert message in refused(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert refused(tmp_path / "nothing.csv").startswith(
        " is not a file; give the path of cross-verified-database.csv"
    )
    assert refused(tmp_path).startswith(" is not a file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"birth": "around 1815"},
            ", line 3: birth is 'around 1815', which is not a year such as 1879 or -44",
        ),
        ({"birth": "1815.5"}, ", line 3: birth is '1815.5', which is not a year"),
        ({"death": "1_852"}, ", line 3: death is '1_852', which is not a year"),
        ({"death": "inf"}, ", line 3: death is 'inf', which is not a year"),
        ({"death": "18\n52"}, ", line 4: death is '18\\n52', which is not a year"),
        (
            {"wiki_readers_2015_2018": "many"},
            ", line 3: wiki_readers_2015_2018 is 'many', which is not a number",
        ),
        ({"wiki_readers_2015_2018": "-3"}, ", line 3: wiki_readers_2015_2018 is '-3', which is not a number"),
    ],
)
def test_a_number_that_is_none(tmp_path: Path, change: dict[str, str], message: str) -> None:
    assert refused(write(tmp_path / "a.csv", [MAN, row(**change)])).startswith(message)


def test_a_number_in_a_row_that_lacks_a_value_is_not_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [MAN, row(), row("Mary", birth="?", death="")])
    assert cvdb.read(path, CvdbConfig(entities=2)).rows == 3


def test_rows_of_another_length(tmp_path: Path) -> None:
    for line in (row()[:-1], [*row(), "more"]):
        said = refused(write(tmp_path / "a.csv", [MAN, line]))
        assert said == f", line 3: {len(line)} values, but the header has 8 columns"


def test_a_quote_that_is_not_closed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [MAN, row()])
    path.write_bytes(path.read_bytes().replace(b"Ada", b'"Ada'))
    assert refused(path) == ", line 3: 1 values, but the header has 8 columns"
    write(tmp_path / "a.csv", [MAN, row(), *[row(f"Name_{i}") for i in range(3000)]])
    path.write_bytes(path.read_bytes().replace(b"Ada", b'"Ada'))
    assert re.match(r", line \d+: not CSV \(field larger than field limit", refused(path))


def test_more_entities_than_people(tmp_path: Path) -> None:
    assert refused(SMALL, entities=66) == (
        ": 66 entities are 33 men and 33 women, but of 79 rows 33 men and 32 women are left (removed: missing value 7, "
        "name that a more-read row has 2, other characters 4, other gender 1); ask for 64 at most"
    )
    nobody = refused(write(tmp_path / "a.csv", [row(), row("B", gender="Male", death="")]))
    assert nobody.endswith("but of 2 rows 0 men and 1 women are left (removed: missing value 1, name that a more-read row "
                           "has 0, other characters 0, other gender 0); the file cannot be used")  # fmt: skip
    assert ", but of 0 rows 0 men and 0 women are left" in refused(write(tmp_path / "a.csv", []))


@pytest.mark.parametrize("entities", [0, -2, 1, 7])
def test_numbers_of_entities_that_make_no_sense(entities: int) -> None:
    with pytest.raises(MechoclError, match=f"entities is {entities}; half are men and half women"):
        CvdbConfig(entities=entities)


# the command ---------------------------------------------------------------------------------------


def test_a_usable_file_is_told_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "cvdb", "--check", str(SMALL), "--entities", "40"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    cells = [re.split(r"  +", line) for line in captured.out.splitlines()]
    assert [f"{SMALL}: 79 rows"] in cells
    for line in (
        ["missing value", "7"],
        ["name that a more-read row has", "2"],
        ["other characters", "4"],
        ["other gender", "1"],
        ["less read than those chosen", "25"],
        ["male", "33", "20"],
        ["female", "32", "20"],
        ["What was the occupation of Albert Einstein?", "physicist"],
        [
            "Of which country was Albert Einstein a citizen?",
            "Germany / Switzerland / United States of America",
        ],
    ):
        assert line in cells
    assert captured.out.splitlines()[-1] == "usable: 40 entities, 64 at most"


def test_a_file_that_cannot_be_used_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write(tmp_path / "a.csv", [row(birth="?")])
    for arguments, message in (
        ([str(SMALL)], f"{SMALL}: 4000 entities are 2000 men and 2000 women, but of 79 rows"),
        ([str(SMALL), "--entities", "3"], "entities is 3; half are men"),
        ([str(bad)], f"{bad}, line 2: birth is '?'"),
        ([str(tmp_path)], f"{tmp_path} is not a file"),
    ):
        assert cli.main(["data", "cvdb", "--check", *arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        assert captured.err.startswith(f"mechocl: {message}")
