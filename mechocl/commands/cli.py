"""The command line as a whole: its commands, and how each of them may end."""

import errno
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import Final

from mechocl.commands import overview
from mechocl.commands.stopping import Stopped, stopped_by_sigterm
from mechocl.commands.warned import warnings_in_lines
from mechocl.errors import Fault, MechoclError, nearest, suggested
from mechocl.owners import refuse_other_owners

COMMANDS: Final[dict[str, str]] = {
    "demo": "training:demo",
    "train": "training:train",
    "sweep": "training:sweep",
    "controls": "controls:controls",
    "twins": "variants:twins",
    "variants": "variants:variants",
    "pretrain biographies": "closed_book:biographies",
    "pretrain miniature": "closed_book:miniature",
    "finetune": "closed_book:finetune",
    "evaluate": "analysis:evaluate",
    "lens": "analysis:lens",
    "patch": "analysis:patch",
    "circuit": "analysis:circuit",
    "graft": "analysis:graft",
    "subspace": "analysis:subspace",
    "gradients": "learning:gradients",
    "updates": "learning:updates",
    "probe": "probing:probe",
    "sae train": "features:train",
    "sae search": "features:search",
    "sae test": "features:causal_test",
    "sae dashboard": "features:dashboard",
    "crosscoder": "features:crosscoder",
    "data cvdb": "data:cvdb",
    "data trex": "data:trex",
    "data facts": "data:facts",
    "parity": "parity:parity",
    "gguf": "gguf:gguf",
    "model patch": "own_models:patch",
    "model lens": "own_models:lens",
    "model attribute": "own_models:attribute",
    "dynamics": "training:dynamics",
    "verdict": "verdicts:verdict",
    "report": "reports:write_report",
    "share": "share:share",
    "serve": "serve:serve",
    "runs": "listing:runs",
    "completion": "completion:completion",
}
"""Command → its module in `mechocl.commands` and its function, in the order of the help. It is imported when it is chosen:
torch and its like take seconds."""

GROUPS: Final[dict[str, str]] = {
    "pretrain": "Pretrain a small GPT-NeoX on an invented world.",
    "model": "Look inside any Hugging Face model with your own pairs, without a run.",
    "sae": "Train, search, test and share sparse autoencoders.",
    "data": "Check the user's own data sets, CVDB and T-REx.",
}
"""Commands that have commands of their own, and what they are for."""

_HELP: Final = ("-h", "--help")


def command_named(name: str) -> Callable[..., None]:
    """The function of a command such as "train" or "sae search"."""
    module, _, function = COMMANDS[name].partition(":")
    found: Callable[..., None] = getattr(importlib.import_module(f"mechocl.commands.{module}"), function)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A code other than 0 comes with one line on stderr.

    The code is 0 after success and after help, 2 for an error that the user can mend, 1 for a fault, 130 after Ctrl-C,
    and 143 after SIGTERM. Any other exception is a bug, and is raised.
    """
    _print_in_any_encoding()
    try:
        with stopped_by_sigterm(), warnings_in_lines():
            _run(list(sys.argv[1:] if arguments is None else arguments))
    except Stopped:
        return _fail("stopped; run the same command again to continue", 143)
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


def _print_in_any_encoding() -> None:
    """Let characters that the terminal's encoding lacks be printed by their number, and not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(given: list[str]) -> None:
    """Run what the arguments stand for: a command, or help. Raises MechoclError when they cannot be understood."""
    first = given[0] if given else ""
    if first in _HELP:
        print(overview.overview(COMMANDS, GROUPS))
    elif first == "--version":
        print(overview.version_line())
    elif first in GROUPS and given[1:2] and given[1] in _HELP:
        print(overview.overview(COMMANDS, GROUPS, group=first))
    else:
        name, words = _chosen(given)
        refuse_other_owners()
        from mechocl.commands import calling

        if any(word in _HELP for word in words[: words.index("--") if "--" in words else None]):
            calling.print_help(name, command_named(name))
        else:
            calling.bound(name, command_named(name), words, elsewhere=_others_with)()


def _chosen(given: list[str]) -> tuple[str, list[str]]:
    """The name of the command, and the words after it. Raises MechoclError, which proposes the nearest command."""
    tops = list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS))
    if not given or not given[0].strip():
        raise MechoclError(f"say what to do: mechocl {'|'.join(tops)}; `mechocl --help` explains them")
    first, rest = given[0], given[1:]
    if first in COMMANDS:
        return first, rest
    if first in GROUPS:
        inner = [name.partition(" ")[2] for name in COMMANDS if name.startswith(f"{first} ")]
        if not rest:
            raise MechoclError(
                f"say what to do: mechocl {first} {'|'.join(inner)}; `mechocl {first} --help` explains them"
            )
        if rest[0] in inner:
            return f"{first} {rest[0]}", rest[1:]
        raise MechoclError(
            f"{first} has no command {rest[0]!r}; {suggested(rest[0], inner)}; `mechocl {first} --help` lists them"
        )
    if first.startswith("-"):
        near = nearest(first, [*_HELP, "--version"])
        raise MechoclError(
            f"{first} stands before the command; "
            + (f"did you mean {near}?" if near else f"write mechocl {tops[0]}|… and then options")
        )
    if first == "help":
        raise MechoclError("there is no command 'help'; write mechocl --help, or mechocl COMMAND --help")
    raise MechoclError(
        f"there is no command {first!r}; {suggested(first, tops)}; `mechocl --help` lists them"
    )


def _others_with(flag: str) -> list[str]:
    """The commands that have an option."""
    from mechocl.commands.arguments import options_of

    found = {name: options_of(command_named(name)) for name in COMMANDS}
    return [name for name, options in found.items() if any(flag in option.flags for option in options)]


_MENDABLE: Final = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EROFS: "the disk is read-only; copy the run to a place that can be written, or choose another place for what is new",
    errno.EACCES: "permission denied; copy the run to a place that can be written, or choose another place for what is new",
    errno.EPERM: "permission denied; copy the run to a place that can be written, or choose another place for what is new",
    errno.ENOENT: "the file or folder does not exist and cannot be made; choose another place",
    errno.ENOTDIR: "a file stands where a folder is needed; remove it, or choose another place",
    errno.EEXIST: "a file stands where a folder is needed; remove it, or choose another place",
    errno.EISDIR: "a folder stands where a file is needed; remove it, or choose another place",
    errno.ELOOP: "its links lead nowhere; remove them, or choose another place",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}
"""What the user can do about errors of the operating system."""


def _fail(message: str, code: int) -> int:
    print(f"mechocl: {' '.join(message.split())}", file=sys.stderr)
    return code
