"""From the words of a command line to the call of a command, and the help of a command."""

import contextlib
import dataclasses
import functools
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from mechocl.commands import examples, needs, valid_names
from mechocl.commands.arguments import Option, options_of
from mechocl.commands.words import read_words
from mechocl.errors import MechoclError


def bound(
    name: str,
    command: Callable[..., None],
    words: Sequence[str],
    *,
    elsewhere: Callable[[str], Sequence[str]] = lambda flag: (),
) -> Callable[[], None]:
    """The call of a command that the words after its name stand for.

    Raises MechoclError for words that cannot be understood, for values that a config refuses, and for options that would
    have no effect. `elsewhere` says which other commands have an option.
    """
    options = options_of(command)
    given = read_words(name, options, words, elsewhere=elsewhere)
    valid_names.check(name, given)
    needs.check(name, given, options)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # what is wrong is said below, in one line
            call: Callable[[], None] = tyro.cli(
                _deferred(command),
                prog=f"mechocl {name}",
                args=given.canonical(options),
                console_outputs=False,
            )
    except MechoclError as refusal:
        raise MechoclError(_with_option(name, str(refusal), options)) from None
    except SystemExit as end:
        behind = _refusal_behind(end)
        raise MechoclError(
            _with_option(name, str(behind), options)
            if behind
            else f"{name}: its options cannot be understood; `mechocl {name} --help` explains them"
        ) from None
    return call


def print_help(name: str, command: Callable[..., None]) -> None:
    """Print the help of a command: its options, the names that they take, and examples."""
    with contextlib.suppress(SystemExit):
        tyro.cli(_deferred(command), prog=f"mechocl {name}", args=["--help"])
    if taken := valid_names.described(name, options_of(command)):
        print("\nnames:")
        for line in taken:
            print(f"  {line}")
    print("\nexamples:")
    for line in examples.EXAMPLES[name]:
        print(f"  mechocl {name} {line}")


def _deferred(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A function with the command's arguments that returns the call and does not run it, so that parsing ends first."""

    @functools.wraps(command)
    def bind(*arguments: Any, **options: Any) -> Callable[[], None]:
        for name, value in options.items():
            refuse_not_finite(name, value)
        return functools.partial(command, *arguments, **options)

    return bind


def refuse_not_finite(name: str, value: Any) -> None:
    """Raise MechoclError for an option that is infinite or not a number, also inside a config."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            refuse_not_finite(field.name, getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for one in value:
            refuse_not_finite(name, one)
    elif isinstance(value, float) and not math.isfinite(value):
        raise MechoclError(f"--{name.replace('_', '-')} {value}: give a finite number")


def _refusal_behind(error: BaseException | None) -> MechoclError | None:
    """The MechoclError of a config that ended the parsing. tyro turns it into a usage message."""
    while error is not None and not isinstance(error, MechoclError):
        error = error.__cause__ or error.__context__
    return error


def _with_option(name: str, refusal: str, options: Sequence[Option]) -> str:
    """The refusal of a config, with the command and the option: `k is 0; use …` → `sae train --k 0: use …`.

    A refusal that does not begin with a field is said after the command's name.
    """
    flags = {option.flag.removeprefix("--").replace("-", "_"): option.flag for option in options}
    found = re.match(r"(?:\w+: )?(\w+) is (.+?); (.+)", refusal)
    if found and found[1] in flags:
        return f"{name} {flags[found[1]]} {found[2]}: {found[3]}"
    field, _, rest = refusal.partition(" ")
    if field in flags:
        return f"{name} {flags[field]} {rest}"
    return f"{name} {refusal}" if refusal.startswith("--") else f"{name}: {refusal}"
