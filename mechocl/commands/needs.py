"""Options that have an effect beside some other options alone. Without them they are refused, in one line."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from mechocl.commands.arguments import Option
from mechocl.commands.words import Given
from mechocl.errors import MechoclError


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Options of a command that have an effect only with some values of another option."""

    command: str
    flags: tuple[str, ...]
    """The options; () means all that are not named in `but`."""
    of: str
    """The other option."""
    values: tuple[str, ...]
    """Its values with which they have an effect; "" means that it is not given."""
    why: str
    """What the message says: what the options are for."""
    but: tuple[str, ...] = ()
    """Options that always have an effect."""


_UNIT_SITES: Final = ("q", "k", "v", "z", "pattern", "mlp_post")

NEEDS: Final = (
    Need(command="lens", flags=("--of",), of="--kind", values=("logit",), why="is for the logit lens alone"),
    Need(
        command="circuit", flags=("--steps",), of="--method", values=("patching", "eap-ig"),
        why="is for eap-ig, which is computed beside patching too",
    ),
    Need(command="demo", flags=("--seeds",), of="--fast", values=("", "no"), why="is for the whole demo, for --fast trains one seed"),
    Need(
        command="sweep", flags=(), of="--table", values=("",), but=("--table", "--figure", "--out"),
        why="is for training, and --table only looks at a sweep",
    ),
    Need(
        command="probe", flags=(), of="--table", values=("",), but=("--table", "--out"),
        why="is for probing, and --table only looks at a table",
    ),
    Need(
        command="verdict", flags=(), of="--calibrate", values=("",), but=("--calibrate", "--jobs"),
        why="is for the verdict on runs, and --calibrate judges worlds in which the answer is known",
    ),
    Need(
        command="probe", flags=("--cache-dtype",), of="--cache-gb", values=("", "more than 0"),
        why="is for activations that are kept on the disk",
    ),
    Need(
        command="patch", flags=("--each-unit",), of="--site", values=_UNIT_SITES,
        why="is for sites that have heads or neurons",
    ),
    Need(
        command="sae test", flags=("--best",), of="--features", values=("",),
        why="is for features that the search chooses",
    ),
)  # fmt: skip
"""Every such option."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """An option of a command that has an effect only under a condition on several options, or on what they name."""

    command: str
    flag: str
    fulfilled: Callable[[Given, Sequence[Option]], bool]
    why: str
    """What the message says: what the option is for, and what to do."""


def _words(given: Given, options: Sequence[Option], flag: str) -> list[str]:
    """The words of an option, or its default, without commas."""
    (option,) = (option for option in options if option.flag == flag)
    default = option.default if isinstance(option.default, tuple) else (str(option.default),)
    words = [word for words in given.words.get(flag, []) for word in words] or list(default)
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


def _asks_pairs(given: Given, options: Sequence[Option]) -> bool:
    from mechocl.probing import recipe

    return any(probe.pairs for name in _words(given, options, "--recipe") for probe in recipe.load(name))


def _is_regularised(given: Given, options: Sequence[Option]) -> bool:
    from mechocl.probing import recipe

    methods = (probe.method for name in _words(given, options, "--recipe") for probe in recipe.load(name))
    return any(method != "difference-of-means" for method in methods)


def _draws(given: Given, options: Sequence[Option]) -> bool:
    own = all(name.endswith(".csv") for name in _words(given, options, "--pairs"))
    return not own or _words(given, options, "--mode") == ["resample"]


def _takes_steps(given: Given, options: Sequence[Option]) -> bool:
    by_patching = _words(given, options, "--method") == ["patching"]
    return not by_patching or _words(given, options, "--metric") != ["within_alias_auc"]


CONDITIONS: Final = (
    Condition(
        command="probe", flag="--n-pairs", fulfilled=_asks_pairs,
        why="is for recipes with pairs; leave it out, or give another --recipe",
    ),
    Condition(
        command="probe", flag="--regularisation", fulfilled=_is_regularised,
        why="is for methods that have it, and a difference of means has none; leave it out, or give another --recipe",
    ),
    Condition(
        command="patch", flag="--seed", fulfilled=_draws,
        why="is for pairs that are drawn, and those of a file are its first ones; leave it out, or give --mode resample",
    ),
    Condition(
        command="circuit", flag="--steps", fulfilled=_takes_steps,
        why="is for metrics with a gradient; leave it out, or give another --metric",
    ),
)  # fmt: skip
"""Every such option."""


def check(command: str, given: Given, options: Sequence[Option]) -> None:
    """Raise MechoclError for an option that was given and would have no effect beside the others that were given."""
    for need in NEEDS:
        if need.command != command or _fulfilled(need, given, options):
            continue
        flags = need.flags or [option.flag for option in options if option.flag not in need.but]
        for flag in flags:
            if flag in given.words:
                raise MechoclError(f"{command} {flag} {need.why}; {_remedy(need, flag)}")
    for one in CONDITIONS:
        if one.command == command and one.flag in given.words and not one.fulfilled(given, options):
            raise MechoclError(f"{command} {one.flag} {one.why}")


def _fulfilled(need: Need, given: Given, options: Sequence[Option]) -> bool:
    """Whether the other option has one of the values with which the options have an effect."""
    (other,) = (option for option in options if option.flag == need.of)
    words = [word for words in given.words.get(need.of, []) for word in words]
    if "more than 0" in need.values:
        return not words or float(words[0]) != 0
    if need.of == "--site":
        return any(_site(word) in need.values for word in words)
    if words:
        return any(word in need.values for word in words)
    return str(other.default) in need.values or "" in need.values


def _site(name: str) -> str:
    """`blocks.0.attn.hook_z` → `z`, and `blocks.0.mlp.hook_post` → `mlp_post`."""
    inside = name.rpartition(".hook_")[2]
    return "mlp_post" if name.endswith("mlp.hook_post") else inside


def _remedy(need: Need, flag: str) -> str:
    values = [value for value in need.values if value]
    if "" in need.values:
        return f"leave out {flag}, or {need.of}"
    return f"leave it out, or give {need.of} {' or '.join(values)}"
