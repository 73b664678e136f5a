"""Files that were altered on the disk: nothing altered is read without a word, and what the word advises works."""

import json
import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from campaign.children import Ended
from campaign.outcomes import Outcome, ending, last_line
from campaign.same import differences, words
from campaign.worlds import CPU, NAME, WRITERS, Trees

NO_RESULT: Final = ("lock", "lock-*", "*.lock", "*.toml", "*.html")
"""Files that nobody reads back, and those of the user."""


@dataclass(frozen=True, slots=True)
class World:
    """A tree whose files are altered."""

    made: tuple[str, ...]
    """The writers that made it."""
    read: tuple[tuple[str, ...], ...]
    """Commands that read it back. What they had computed before they find again; the others compute from the weights."""


WORLDS: Final = {
    "run": World(
        ("train", "evaluate", "lens", "patch", "dynamics"),
        (
            WRITERS["evaluate"].command,
            WRITERS["lens"].command,
            WRITERS["patch"].command,
            ("lens", "run", "--kind", "direct", "--aliases-per-subset", "5", *CPU),
            WRITERS["dynamics"].command,
            WRITERS["train"].command,
        ),
    ),
    "probes": World(
        ("train", "probe"),
        (
            WRITERS["probe"].command,
            ("probe", "--table", "probed"),
            ("probe", "run", "--recipe", "probe.toml", "--permutations", "2", "--n-pairs", "8", *CPU),
        ),
    ),
    "dictionaries": World(
        ("train", "sae train", "sae search"),
        (
            WRITERS["sae train"].command,
            WRITERS["sae search"].command,
            ("sae", "search", "run", NAME, "--best", "2", *CPU),
            WRITERS["sae dashboard"].command,
        ),
    ),
    "crosscoder": World(("train", "crosscoder"), (WRITERS["crosscoder"].command,)),
    "sweep": World(("sweep",), (("sweep", "--table", "sweep"), WRITERS["sweep"].command)),
    "controls": World(("controls",), (WRITERS["controls"].command, ("evaluate", "controlled", *CPU))),
    "text": World(
        ("pretrain biographies", "finetune", "evaluate text"),
        (
            WRITERS["evaluate text"].command,
            ("lens", "text", "--kind", "direct", "--aliases-per-subset", "3", *CPU),
            WRITERS["finetune"].command,
            WRITERS["pretrain biographies"].command,
        ),
    ),
}


@dataclass(slots=True)
class Reader:
    """Reads a world back, and knows what it reads when nothing is altered."""

    trees: Trees
    world: World

    def read(self) -> list[Ended]:
        return [self.trees.run(command) for command in self.world.read]

    def wanted(self) -> tuple[Path, list[str]]:
        """The tree after reading, and what was printed."""
        path = self.trees.folder / "read" / "+".join(self.world.made).replace(" ", "-")
        said = path.with_name(f"{path.name}.json")
        if not said.exists():
            self.trees.restore(self.trees.made(self.world.made))
            read = self.read()
            assert all(ended.code == 0 for ended in read), read
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(self.trees.work, path, symlinks=True)
            said.write_text(json.dumps([ended.out for ended in read]))
        return path, json.loads(said.read_text())

    def judge(self, read: list[Ended], altered: str) -> tuple[Outcome, str]:
        """What came of reading. `altered`: the file that may still be so; it counts if another result came of it."""
        endings = [ending(ended) for ended in read]
        for outcome in ("traceback", "box", "unclear"):
            if outcome in endings:
                return outcome, last_line(read[endings.index(outcome)])  # type: ignore[return-value]
        like, said = self.wanted()
        noticed = [ended for ended in read if ended.code or (altered and Path(altered).name in ended.err)]
        for ended, out in zip(read, said, strict=True):
            if ended not in noticed and words(ended.out) != words(out):
                return "silent", f"`mechocl {' '.join(ended.command)}` prints something else"
        if noticed:
            return "named", last_line(noticed[0])
        found = [
            one for one in differences(self.trees.work, like) if not altered or not one.startswith(altered)
        ]
        return ("silent", "; ".join(found[:4])) if found else ("identical", "")


def attack(trees: Trees, what: str, number: int, rng: random.Random, *, how: str) -> tuple[Outcome, str]:
    """Alter a file of a kind (`what`: world and pattern), read everything back, and do what the first line advises."""
    name, _, label = what.partition(": ")
    reader = Reader(trees, WORLDS[name])
    reader.wanted()
    trees.restore(trees.made(reader.world.made))
    altered = rng.choice([path for path in files_of(trees.work) if label_of(path) == label])
    relative = altered.relative_to(trees.work).as_posix()
    done = ALTERATIONS[how](altered, rng)
    outcome, detail = reader.judge(reader.read(), relative)
    detail = f"{relative} {done}; {detail}"
    if outcome != "named" or not (advised := _take_advice(reader, detail)):
        return outcome, detail
    read = reader.read()
    after, why = reader.judge(read, "")
    return ("named", detail) if after == "identical" else ("dead end", f"{detail}; {advised}; then {why}")


def _take_advice(reader: Reader, line: str) -> str:
    """Do what a line says: delete a file or folder, run again. Returns it in words; "" if it only says to restore."""
    said = line.split("mechocl: ")[-1]
    paths = [Path(word.strip("`',;:()")) for word in said.split() if "/" in word]
    work = reader.trees.work
    if not re.search(r"\bagain\b|delete |remove (?!its line)", said):
        return ""
    advised = ""
    if (match := re.search(r"(?:delete|remove) (?!its line)(\S+)", said)) and paths:
        named = match[1].strip("`',;:.")
        path = work / (named if "/" in named or (work / named).exists() else paths[0])
        if work in path.parents and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            advised = f"deleted {path.relative_to(work)}, "
    for name in reader.world.made:
        ended = reader.trees.run(WRITERS[name].command)
        if ended.code:
            return f"{advised}run again: {last_line(ended)}"
    return f"{advised}run again"


# how files are altered -----------------------------------------------------------------------------


def _flip(path: Path, rng: random.Random) -> str:
    raw = bytearray(path.read_bytes())
    at = rng.randrange(8 * len(raw))
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    return f"with bit {at} flipped"


def _cut(path: Path, rng: random.Random) -> str:
    left = rng.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(left)
    return f"cut to {left} bytes"


def _remove(path: Path, rng: random.Random) -> str:
    path.unlink()
    return "removed"


def _edit(path: Path, rng: random.Random) -> str:
    """Another value in the place of one in a JSON file, which stays a JSON file."""
    value = json.loads(path.read_text())
    holder, key = rng.choice(list(_leaves(value)))
    old = holder[key]
    new = {bool: not old, int: 1 - 3 * old if isinstance(old, int) else 0, float: -1.5, str: f"{old}x"}.get(
        type(old), 1
    )
    holder[key] = new
    path.write_text(json.dumps(value, indent=2))
    return f"with {key!r}: {old!r} changed to {new!r}"


def _leaves(value: Any) -> Any:
    for key, one in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(one, dict | list) and one:
            yield from _leaves(one)
        else:
            yield value, key


ALTERATIONS: Final = {"flip": _flip, "cut": _cut, "remove": _remove, "edit": _edit}


def files_of(tree: Path) -> list[Path]:
    """The files of a tree that somebody may read back, those with something in them."""
    found = [path for path in sorted(tree.rglob("*")) if path.is_file() and path.stat().st_size]
    return [path for path in found if not any(path.match(pattern) for pattern in NO_RESULT)]


def label_of(path: Path) -> str:
    """The kind of a file: its name, without numbers and keys."""
    name = re.sub(r"[0-9a-f]{12,}", "KEY", path.name)
    return re.sub(r"\d+", "N", name)


def kinds(trees: Trees, name: str) -> list[str]:
    """The kinds of files of a world, as `attack` takes them."""
    return [
        f"{name}: {label}" for label in dict.fromkeys(map(label_of, files_of(trees.made(WORLDS[name].made))))
    ]
