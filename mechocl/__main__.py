"""`mechocl` and `python -m mechocl`. Ctrl-C ends in one line also while Python is still importing."""

import os
import sys


def main() -> int:
    """Run the command of the process's arguments, and return its exit code."""
    _open_closed_streams()
    try:
        from mechocl.commands.cli import main as run_command

        return run_command()
    except KeyboardInterrupt:
        print("mechocl: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


def _open_closed_streams() -> None:
    """Open those of the three standard streams that were closed, as by `>&-`, on nothing.

    Otherwise the next file that is opened gets the number of a closed one, and what a library prints goes into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


if __name__ == "__main__":
    sys.exit(main())
