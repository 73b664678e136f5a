"""The command line as a whole: its commands, and how each of them may end."""

import contextlib
import dataclasses
import errno
import functools
import io
import math
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import tyro

from mechocl.commands import (
    analysis,
    closed_book,
    controls,
    data,
    features,
    parity,
    probing,
    reports,
    training,
)
from mechocl.errors import Fault, MechoclError

COMMANDS: Final[dict[str, Callable[..., None]]] = {
    "demo": training.demo,
    "train": training.train,
    "sweep": training.sweep,
    "controls": controls.controls,
    "pretrain": closed_book.pretrain,
    "finetune": closed_book.finetune,
    "evaluate": analysis.evaluate,
    "lens": analysis.lens,
    "patch": analysis.patch,
    "circuit": analysis.circuit,
    "graft": analysis.graft,
    "subspace": analysis.subspace,
    "probe": probing.probe,
    "sae": features.sae,
    "crosscoder": features.crosscoder,
    "data": data.data,
    "parity": parity.parity,
    "dynamics": training.dynamics,
    "report": reports.write_report,
    "runs": reports.runs,
}
"""The commands, in the order in which the help lists them."""

GROUPS: Final[dict[str, dict[str, Callable[..., None]]]] = {
    "sae": features.SAE_COMMANDS,
    "data": data.DATA_COMMANDS,
}
"""Commands that have commands of their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A code other than 0 comes with one line on stderr.

    The code is 0 after success, 2 for an error that the user can mend, 1 for a fault, and 130 after Ctrl-C. Any other
    exception is a bug, and is raised.
    """
    try:
        call = _parsed(list(sys.argv[1:] if arguments is None else arguments))
        call()
    except MechoclError as error:
        return _fail(str(error), 2)
    except Fault as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # the reader of the output has gone, as in `mechocl evaluate RUN | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        if error.errno in _MENDABLE:
            return _fail(where + _MENDABLE[error.errno], 2)
        return _fail(f"{where}{error.strerror}", 1)
    except KeyboardInterrupt:
        return _fail("interrupted; run the same command again to continue", 130)
    return 0


def _parsed(given: list[str]) -> Callable[[], None]:
    """The call that the arguments stand for.

    Raises MechoclError when a config refuses a value. Raises SystemExit after the help is printed, and after the usage
    is printed because the arguments cannot be parsed.
    """
    group = given.pop(0) if given and given[0] in GROUPS else ""
    parse: Callable[..., Callable[[], None]] = functools.partial(
        tyro.extras.subcommand_cli_from_dict,
        {name: _deferred(command) for name, command in GROUPS.get(group, COMMANDS).items()},
        prog=f"mechocl {group}".strip(),
        description="A laboratory for out-of-context (implicit meta-) learning.",
        args=given,
    )
    try:
        with contextlib.redirect_stderr(
            io.StringIO()
        ):  # what a config refuses is shown in spite of the argument
            return parse(console_outputs=False)
    except SystemExit as end:
        if (refusal := _refusal_behind(end)) is not None:
            raise refusal from None
    return parse()  # this time it says what is wrong, or shows the help


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


_MENDABLE: Final = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is read-only; choose another place",
    errno.EACCES: "permission denied; choose another place",
    errno.EPERM: "permission denied; choose another place",
    errno.ENOENT: "the file or folder does not exist and cannot be made; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; choose another place",
    errno.EEXIST: "a file stands where a folder is needed; choose another place",
    errno.EISDIR: "a folder stands where a file is needed; choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
"""What the user can do about errors of the operating system."""


def _fail(message: str, code: int) -> int:
    print(f"mechocl: {message}", file=sys.stderr)
    return code
