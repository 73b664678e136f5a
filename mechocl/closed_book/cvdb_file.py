"""Read the rows of the user's `cross-verified-database.csv`, one at a time. It is in Latin-1, plain or packed."""

import codecs
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, Final, cast

from mechocl.errors import MechoclError

COLUMNS: Final = (
    "name",
    "birth",
    "death",
    "gender",
    "level3_main_occ",
    "string_citizenship_raw_d",
    "un_region",
    "wiki_readers_2015_2018",
)
"""The columns that are read. The file has 49."""

_PACKED: Final[dict[bytes, Callable[..., Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"\xfd7zXZ": lzma.open,
}
"""First bytes of a packed file → the function that opens it."""
_UNUSABLE: Final = {
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\xff\xfe": "in UTF-16",
    b"\xfe\xff": "in UTF-16",
}


def rows_of(path: Path) -> Generator[tuple[int, tuple[str, ...]], None, None]:
    """Line number and values of `COLUMNS`, without spaces around them, of every row that is not blank.

    Raises MechoclError for a file that is not CSV, lacks a column, or is damaged.
    """
    with _opened(path) as file, io.TextIOWrapper(file, encoding="latin-1", newline="") as text:
        reader = csv.reader(text)
        try:
            header = next(reader, [])
            pick = _picker(path, header)
            for fields in reader:
                if len(fields) == len(header):
                    yield reader.line_num, tuple(map(str.strip, pick(fields)))
                elif fields:
                    raise MechoclError(
                        f"{path}, line {reader.line_num}: {len(fields)} values, but the header has "
                        f"{len(header)} columns"
                    )
        except csv.Error as error:
            raise MechoclError(f"{path}, line {reader.line_num}: not CSV ({error})") from None


def _picker(path: Path, header: list[str]) -> Callable[[list[str]], tuple[str, ...]]:
    columns = [name.strip() for name in header]
    if missing := [name for name in COLUMNS if name not in columns]:
        there = " ".join(", ".join(columns[:4]).split())[:80] + (", …" if len(columns) > 4 else "")
        raise MechoclError(
            f"{path}, line 1: no column {', '.join(missing)}; cross-verified-database.csv has it, and commas "
            f"between its columns (this file has {len(columns)}: {there})"
            if any(columns)
            else f"{path} is empty; its first line must name the columns of cross-verified-database.csv"
        )
    first, *others = map(columns.index, COLUMNS)
    return itemgetter(first, *others)


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked, after the byte order mark if it has one."""
    with path.open("rb") as file:
        start = file.read(6)
    for magic, what in _UNUSABLE.items():
        if start.startswith(magic):
            raise MechoclError(f"{path} is {what}; a CSV file in Latin-1 is expected")
    opener = next((opener for magic, opener in _PACKED.items() if start.startswith(magic)), None)
    try:
        with opener(path, "rb") if opener else path.open("rb") as file:
            if file.read(3) != codecs.BOM_UTF8:
                file.seek(0)
            yield cast(IO[bytes], file)
    except (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise MechoclError(f"{path} is damaged or not whole: {error}") from None


def refuse_utf8(path: Path) -> None:
    """Raise MechoclError if the whole file is UTF-8 and has other characters than ASCII.

    Names would be garbled if such a file were read as Latin-1. Reading ends at the first bytes that are not UTF-8. In a
    file in Latin-1, this is the first accented name.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    accents = False
    with _opened(path) as file:
        try:
            while block := file.read(1 << 20):
                accents |= not decoder.decode(block).isascii()
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return
    if accents:
        raise MechoclError(
            f"{path} is in UTF-8; the published file is in Latin-1, and names would be garbled; convert it back "
            "with iconv -f UTF-8 -t LATIN1//TRANSLIT"
        )
