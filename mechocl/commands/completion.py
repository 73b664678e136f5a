"""`mechocl completion`: what a shell needs to complete commands and options."""

import contextlib
import io
from typing import Annotated, Any, Final, Literal, Union

import tyro

_FILES: Final = {
    "bash": ("complete -F ", "complete -o bashdefault -o default -F "),
    "zsh": ('if [[ "$completions" == ', 'if [[ -z "$completions" || "$completions" == '),
    "fish": ("complete --no-files ", "complete "),
}
"""What tyro writes for a shell, and what stands in its place so that files are proposed where nothing else is: runs are folders."""


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional, tyro.conf.arg(metavar="SHELL")],
) -> None:
    """Print what a shell needs to complete commands, options and their choices.

    Args:
        shell: The shell: bash, zsh or fish. `docs/commands.md` says where each looks for what is printed.
    """
    from mechocl.commands import overview
    from mechocl.commands.cli import COMMANDS, GROUPS, command_named

    def chosen(name: str) -> Any:
        """A command, as tyro's parser takes it."""
        return Annotated[
            Any,
            tyro.conf.subcommand(
                name=name.split()[-1],
                description=overview.summary(COMMANDS[name]),
                constructor=command_named(name),
            ),
        ]

    parts = [chosen(name) for name in COMMANDS if " " not in name]
    for group, line in GROUPS.items():
        inner = Union[tuple(chosen(name) for name in COMMANDS if name.startswith(f"{group} "))]  # noqa: UP007
        parts.append(Annotated[inner, tyro.conf.subcommand(name=group, description=line)])
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(Union[tuple(parts)], prog="mechocl", args=["--tyro-write-completion", shell, "-"])  # type: ignore[call-overload]  # noqa: UP007
    print(written.getvalue().rstrip().replace(*_FILES[shell]))
