"""From the words of a command line to the call of a command, and the help of a command."""

import contextlib
import dataclasses
import functools
import io
import math
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from mechocl.commands import examples, needs, valid_names
from mechocl.commands.arguments import options_of
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
    except SystemExit as end:
        refusal = _refusal_behind(end)
        raise refusal or MechoclError(
            f"{name}: its options cannot be understood; `mechocl {name} --help` explains them"
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
