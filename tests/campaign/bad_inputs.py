"""Inputs that are wrong or odd, made from the commands' own options and the recipe's own fields: each gets one line."""

import dataclasses
import random
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from campaign import bad_files, bad_folders
from campaign.outcomes import Outcome, ending, last_line
from campaign.worlds import CPU, NAME, SAE, Trees
from mechocl.commands import cli

MADE: Final = ("train", "evaluate", "sae train", "sweep", "pretrain biographies")
"""The writers that made the tree in which wrong inputs are given."""

LIMIT_S: Final = 20.0
"""Seconds of a processor after which an odd input that is no mistake has been taken."""

CALLS: Final[dict[str, tuple[str, ...]]] = {
    "demo": ("demo", "--fast", "--out", "new"),
    "train": ("train", "tiny.toml", "--out", "new", "--seeds", "1"),
    "sweep": ("sweep", "tiny.toml", "--out", "new", "--seeds", "1", "--over", "task.word_order=TVE"),
    "controls": ("controls", "tiny.toml", "--out", "new", "--seeds", "1", "--only", "noise"),
    "twins": ("twins", "run"),
    "variants": ("variants", "run", "--only", "cut-tag"),
    "pretrain miniature": ("pretrain", "miniature", "--out", "new", "--entities", "40", "--texts", "60", "--epochs", "1"),
    "pretrain biographies": ("pretrain", "biographies", "--out", "new", "--people", "40", "--told", "1", "--asked", "1", "--epochs", "1"),
    "finetune": ("finetune", "text.toml", "--model", "base", "--out", "new", "--seeds", "1"),
    "evaluate": ("evaluate", "run"),
    "lens": ("lens", "run", "--aliases-per-subset", "8"),
    "patch": ("patch", "run", "--n-pairs", "8"),
    "circuit": ("circuit", "run", "--n-pairs", "8"),
    "graft": ("graft", "run", "--aliases-per-subset", "8", "--no-steering"),
    "gradients": ("gradients", "run", "--aliases-per-subset", "8"),
    "updates": ("updates", "run", "--aliases-per-subset", "8"),
    "subspace": ("subspace", "run", "--n-pairs", "40", "--steps", "2"),
    "probe": ("probe", "run", "--recipe", "probe.toml", "--permutations", "2", "--n-pairs", "8"),
    "crosscoder": ("crosscoder", "run", *SAE),
    "parity": ("parity", "base"),
    "gguf": ("gguf", "tiny.gguf", "--out", "new"),
    "model patch": ("model", "patch", "base", "--pairs", "pairs.csv"),
    "model lens": ("model", "lens", "base", "--pairs", "pairs.csv"),
    "model attribute": ("model", "attribute", "base", "--pairs", "pairs.csv"),
    "dynamics": ("dynamics", "run"),
    "verdict": ("verdict", "run"),
    "report": ("report", "run"),
    "share": ("share", "run", "--aliases", "6", "--checkpoints", "2"),
    "serve": ("serve", "run", "--port", "0", "--no-browser"),
    "runs": ("runs", "."),
    "completion": ("completion", "bash"),
    "sae train": ("sae", "train", "run", *SAE),
    "sae search": ("sae", "search", "run", NAME),
    "sae test": ("sae", "test", "run", NAME),
    "sae dashboard": ("sae", "dashboard", "run", NAME),
    "data cvdb": ("data", "cvdb", "--check", "tiny.toml"),
    "data trex": ("data", "trex", "--check", "tiny.toml"),
    "data facts": ("data", "facts", "--model", "base", "--out", "new.json", "--min-population", "9000000"),
}  # fmt: skip
"""How each command is called; the wrong option comes after."""

NOT_TRIED: Final = ("--wandb", "--address", "--on", "--gpus-per-task")
"""Options that would look for other machines."""


@dataclass(frozen=True, slots=True)
class Bad:
    """One wrong or odd input."""

    what: str
    command: tuple[str, ...]
    wrong: bool = True
    """Whether it is a mistake for certain, so that taking it would be one, too."""
    prepare: Callable[[Path], None] = field(default=lambda work: None)
    """Makes its files in the work folder."""
    shown: str = ""
    """What the files hold, in words."""


def give(trees: Trees, bad: Bad) -> tuple[Outcome, str]:
    """What comes of one input."""
    trees.restore(trees.made(MADE))
    bad.prepare(trees.work)
    ended = trees.run(bad.command, limit_s=LIMIT_S)
    detail = " ".join(filter(None, [bad.shown, last_line(ended)]))
    if ended.too_long and not bad.wrong and "Traceback" not in ended.err:
        return "identical", detail
    wrong = ending(ended)
    if wrong is None:
        return ("silent" if bad.wrong else "identical"), detail
    return wrong, detail


def give_words(trees: Trees, given: tuple[str, ...], wrong: bool) -> tuple[Outcome, str]:
    """What comes of a command line, which is wrong or not."""
    return give(trees, Bad("words", given, wrong=wrong))


def give_at(trees: Trees, place: int) -> tuple[Outcome, str]:
    """What comes of the wrong input at a place in `every`."""
    return give(trees, list(every())[place])


def attack(trees: Trees, what: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """The number-th input of a kind."""
    return give(trees, of_kind(what)[number])


def of_kind(what: str) -> list[Bad]:
    return [bad for bad in every() if bad.what == what]


def every() -> Iterator[Bad]:
    """All wrong and odd inputs, in an order that stays."""
    yield from _words()
    for name, call in CALLS.items():
        for option, kind in options(name).items():
            if option not in NOT_TRIED:
                yield from _values(call, option, kind)
    yield from _settings()
    for what, command, prepare, shown, wrong in (*bad_files.every(), *bad_folders.every()):
        yield Bad(what, (*command, *_cpu(command)), wrong, prepare, shown)


def _cpu(command: tuple[str, ...]) -> tuple[str, ...]:
    return CPU if command[0] in ("train", "patch", "probe", "evaluate", "lens", "sae") else ()


def _words() -> Iterator[Bad]:
    """Commands that there are not, and too few or too many words."""
    for words in ((), ("nothing",), ("trian",), ("sae",), ("sae", "nothing"), ("data",), ("data", "nothing"), ("",), ("\udcff",), ("--nothing",)):  # fmt: skip
        yield Bad("words", words)
    for call in CALLS.values():
        yield Bad("words", (*call, "--nothing"))
        yield Bad("words", (*call, "--seedz", "1"))
        if call[0] not in ("probe", "verdict"):  # which take several runs
            yield Bad("words", (*call, "superfluous"))
        yield Bad(
            "words",
            call[:1] if call[0] not in cli.GROUPS else call[:2],
            wrong=call[0] not in ("demo", "runs"),
        )
        position = 2 if call[0] == "sae" else 1
        if call[0] not in ("demo", "data"):
            for other in ("missing", "tiny.toml", "sweep", "\udcff", "", "ü ✓", "x" * 300):
                changed = (*call[:position], other, *call[position + 1 :])
                odd = (call[0], other) in {
                    ("train", "tiny.toml"),
                    ("sweep", "tiny.toml"),
                    ("controls", "tiny.toml"),
                    ("runs", "sweep"),
                    ("runs", ""),
                    ("sweep", ""),
                }
                yield Bad("words", changed, wrong=not odd)


# options ------------------------------------------------------------------------------------------


def options(name: str) -> dict[str, Any]:
    """A command's options → the types of their values, from its signature."""
    from mechocl.commands import cli

    found = {}
    for key, kind in typing.get_type_hints(cli.command_named(name)).items():
        found.update({} if key == "return" else _flat(key, kind))
    positional = {
        "--model" if name == "parity" else "",
        "--run",
        "--runs",
        "--recipe" if name in ("train", "sweep", "controls", "finetune") else "",
        "--sae",
        "--folder",
        "--world",
    }
    return {option: kind for option, kind in found.items() if option not in positional}


def _flat(key: str, kind: Any) -> dict[str, Any]:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return {o: k for f in dataclasses.fields(kind) for o, k in _flat(f.name, hints[f.name]).items()}
    return {"--set" if key == "changes" else f"--{key.replace('_', '-')}": kind}


def _values(call: tuple[str, ...], option: str, kind: Any) -> Iterator[Bad]:
    """An option with values that are wrong for its type, or odd."""
    if option in call:  # once, with the other value
        at = call.index(option)
        call = (*call[:at], *call[at + (2 if kind is not bool else 1) :])
    if isinstance(kind, types.UnionType):
        kind = next(one for one in typing.get_args(kind) if one is not type(None))
    holder, of = typing.get_origin(kind), typing.get_args(kind)
    if holder is tuple:
        kind = of[0]
        holder, of = typing.get_origin(kind), typing.get_args(kind)
    if holder is typing.Literal:
        wrong, odd = ("nothing", "", f"{of[0]}x"), ()
    elif kind is bool:
        wrong, odd = (), ()
        yield Bad("options", (*call, f"{option}=maybe"))
    elif kind in (int, float):
        wrong = ("many", "", "nan", "1.5.2") + (("inf", "1e400") if kind is float else ("1.5",))
        odd = ("-1", "0", "1000000000000", "١")
    elif kind is Path:
        wrong = ("tiny.toml/x", "sweep") if option in ("--figure", "--table") else ("tiny.toml/x",)
        odd = ("\udcff", "ü ✓", "", "x" * 300, "/proc/x")
        if option == "--table" and call[0] == "sweep":
            wrong, odd = ("tiny.toml", "missing"), ("\udcff",)
    else:
        wrong = ("nothing\udcff", "é ✓", "nothing", "../..")
        odd = ("", "0", "-1")
        if option in ("--set", "--over"):
            wrong += ("=", "task.aliases=", "=3", "task=3", "training.stages.9.epochs=1", "task.aliases=[")
    for value in wrong:
        yield Bad(
            "options",
            (
                *call,
                f"{option}={value}" if value.startswith("-") else option,
                *([] if value.startswith("-") else [value]),
            ),
        )
    for value in odd:
        yield Bad("options", (*call, f"{option}={value}"), wrong=False)


# fields of recipes --------------------------------------------------------------------------------


def _settings() -> Iterator[Bad]:
    """`--set` of every field of a recipe, and of those of a text world, to values that are wrong for its type, or odd."""
    import text_worlds
    import tiny

    from mechocl.runs import recipes

    for what, text, call in (
        ("--set", tiny.TOML, CALLS["train"]),
        ("--set of text worlds", text_worlds.TOML, ("finetune", "text.toml", "--model", "base", "--dry-run")),
    ):
        for key, old in _leaves(recipes.plain(_parsed(text, recipes)), ""):
            number = isinstance(old, int | float) and not isinstance(old, bool)
            for value in ("nan", "inf", "text", "[]", "") if number else ("[1]", "nothing", "{}"):
                free = isinstance(old, str) and key in ("description", "model")
                yield Bad(
                    what,
                    (*call, "--set", f"{key}={value}"),
                    wrong=not (free and value == "nothing") and old not in ([], {}),
                )
            for value in ("-1", "0", "1000000000000") if number else ("",):
                yield Bad(what, (*call, "--set", f"{key}={value}"), wrong=False)


def _parsed(text: str, recipes: Any) -> Any:
    import tomllib

    values = tomllib.loads(text)
    values["model"] = values["model"] if isinstance(values["model"], dict) else "base"
    return recipes.parse(values, source="the campaign")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in entries:
        inner = f"{key}.{name}" if key else str(name)
        if (
            isinstance(one, dict | list)
            and one
            and isinstance(one if isinstance(one, dict) else one[0], dict)
        ):
            yield from _leaves(one, inner)
        else:
            yield inner, one
