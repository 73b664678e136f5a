"""Files that a user gives and that are wrong: recipes, pairs, recipes of probes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import tiny

Prepare = Callable[[Path], None]
Wrong = tuple[str, tuple[str, ...], Prepare, str, bool]
"""Kind, command, what makes the file, what it holds in words, and whether it is a mistake for certain."""


def every() -> Iterator[Wrong]:
    yield from _recipes()
    yield from _pairs()
    yield from _probe_recipes()


def text(name: str, said: str | bytes) -> Prepare:
    """Makes a file that says this."""

    def prepare(work: Path) -> None:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(said if isinstance(said, bytes) else said.encode(errors="surrogateescape"))

    return prepare


NOT_TOML: Final[dict[str, str | bytes]] = {
    "empty": "",
    "not TOML": "[[[",
    "unclosed": 'description = "',
    "binary": bytes(range(256)),
    "Latin-1": "description = \"ü\"".encode("latin-1"),
    "twice": "[task]\n[task]\n",
    "an unknown table": tiny.TOML + "\n[nothing]\nx = 1\n",
    "a number": "description = 3",
    "nested": "x = " + "[" * 5000 + "]" * 5000,
    "nested tables": "x = " + "{a=" * 3000 + "1" + "}" * 3000,
    "null bytes": "description = \"\0\"",
    "a byte-order mark": "\ufeff" + "x = 1",
    "a date": tiny.TOML.replace("aliases = 120", "aliases = 2020-01-01"),
    "a huge number": tiny.TOML.replace("aliases = 120", f"aliases = {10**30}"),
    "a negative number": tiny.TOML.replace("aliases = 120", "aliases = -120"),
    "nan": tiny.TOML.replace("learning_rate = 0.1", "learning_rate = nan"),
    "inf": tiny.TOML.replace("learning_rate = 0.1", "learning_rate = inf"),
    "a million layers": tiny.TOML.replace("d_mlp = 32", "d_mlp = 32\nn_layers = 1000000"),
    "a huge width": tiny.TOML.replace("d_model = 16", "d_model = 1000000000"),
    "no stages": tiny.TOML.split("[[training")[0],
    "an unknown field": tiny.TOML.replace("aliases = 120", "aliases = 120\naliasses = 3"),
    "another world": tiny.TOML.replace("aliases = 120", 'world = "nothing"'),
    "no data": tiny.TOML.replace("data = [1]", "data = []"),
    "data of stage 7": tiny.TOML.replace("data = [2]", "data = [7]"),
    "unknown fractions": tiny.TOML.replace("qd1 = 0.25", "qd9 = 0.25"),
    "fractions above 1": tiny.TOML.replace("qd1 = 0.25", "qd1 = 25.0"),
    "an odd head count": tiny.TOML.replace("d_mlp = 32", "d_mlp = 32\nn_heads = 3"),
    "no heads": tiny.TOML.replace("d_mlp = 32", "d_mlp = 32\nn_heads = 0"),
}  # fmt: skip


def _recipes() -> Iterator[Wrong]:
    for shown, said in NOT_TOML.items():
        yield (
            "recipes",
            ("train", "bad.toml", "--out", "new", "--seeds", "1"),
            text("bad.toml", said),
            shown,
            True,
        )
    for name in ("folder.toml", "missing.toml", "bad.json", "\udcff.toml"):
        prepare = (
            (lambda work: (work / "folder.toml").mkdir()) if name == "folder.toml" else (lambda work: None)
        )
        yield "recipes", ("train", name, "--out", "new", "--seeds", "1"), prepare, ascii(name), True


def _pairs() -> Iterator[Wrong]:
    good = "alias 1 5 6 7 =,alias 2 5 6 7 =,true,false\n"
    head = "clean,corrupted,target,foil\n"
    texts: dict[str, str | bytes] = {
        "empty": "",
        "head alone": head,
        "no head": good,
        "binary": bytes(range(256)),
        "a column missing": "clean,target\na,b\n",
        "unknown tokens": f"{head}nothing,nothing,nothing,nothing\n",
        "empty cells": f"{head},,,\n",
        "too few cells": f"{head}alias 1\n",
        "too many cells": f"{head}{good.strip()},x,y\n",
        "unclosed quote": f'{head}"alias 1,alias 2,true,false\n',
        "other lengths": f"{head}alias 1 =,alias 2 = =,true,false\n",
        "target = foil": f"{head}alias 1 % =,alias 2 % =,true,true\n",
        "clean = corrupted": f"{head}alias 1 % =,alias 1 % =,true,false\n",
        "long": f"{head}{'alias 1 ' * 500},{'alias 2 ' * 500},true,false\n",
        "two target tokens": f"{head}alias 1 =,alias 2 =,true true,false\n",
        "UTF-16": head.encode("utf-16"),
        "null bytes": f"{head}alias 1\0,alias 2,true,false\n",
        "a huge cell": f"{head}{'x' * 200_000},alias 2,true,false\n",
    }
    for shown, said in texts.items():
        yield (
            "pairs",
            ("patch", "run", "--pairs", "bad.csv", "--n-pairs", "8"),
            text("bad.csv", said),
            shown,
            True,
        )
    for name in ("folder.csv", "missing.csv", "\udcff.csv", "nothing", ""):
        prepare = (
            (lambda work: (work / "folder.csv").mkdir()) if name == "folder.csv" else (lambda work: None)
        )
        yield "pairs", ("patch", "run", "--pairs", name, "--n-pairs", "8"), prepare, ascii(name), True


def _probe_recipes() -> Iterator[Wrong]:
    good = tiny.PROBE
    texts: dict[str, str | bytes] = {
        "empty": "",
        "not TOML": "[[[",
        "binary": bytes(range(256)),
        "no probes": "probes = []",
        "nested": "x = " + "[" * 5000 + "]" * 5000,
        "an unknown field": good + "nothing = 1\n",
        "an unknown subset": good.replace("d1_consistent", "nothing"),
        "one subset": good.replace('"d1_consistent", ', ""),
        "no subsets": good.replace('["d1_consistent", "d2_consistent"]', "[]"),
        "a subset twice": good.replace('"d2_consistent"', '"d1_consistent"'),
        "an unknown target": good.replace('target = "tag"', 'target = "nothing"'),
        "an unknown method": good.replace("difference-of-means", "nothing"),
        "unknown pairs": good.replace("d1-to-d2", "nothing"),
        "nan": good.replace("[1.0]", "[nan]"),
        "inf": good.replace("[1.0]", "[inf]"),
        "negative": good.replace("[1.0]", "[-1.0]"),
        "no regularisation": good.replace("[1.0]", "[]"),
        "one fold": good + "n_folds = 1\n",
        "a million folds": good + "n_folds = 1000000\n",
        "two of a name": good + good,
        "a target of one class": good.replace('target = "tag"', 'target = "stage"'),
    }
    for shown, said in texts.items():
        yield "probe recipes", ("probe", "run", "--recipe", "bad.toml"), text("bad.toml", said), shown, True
    for name in ("Tag", "the_tag", "a/b", "ü", "", " ", "a" * 300, "../x", "a\\\\nb"):
        said = good.replace('name = "tag"', f'name = "{name}"')
        yield (
            "probe recipes",
            ("probe", "run", "--recipe", "bad.toml"),
            text("bad.toml", said),
            f"name {name!r}",
            False,
        )
    for name in ("missing.toml", "nothing", "\udcff", "", "run", "tag,nothing"):
        yield "probe recipes", ("probe", "run", "--recipe", name), lambda work: None, ascii(name), True
