"""`mechocl` and `python -m mechocl`. Ctrl-C ends in one line also while Python is still importing."""

import sys


def main() -> int:
    """Run the command of the process's arguments, and return its exit code."""
    try:
        from mechocl.commands.cli import main as run_command

        return run_command()
    except KeyboardInterrupt:
        print("mechocl: interrupted; run the same command again to continue", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
