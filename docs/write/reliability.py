"""docs/reliability.md: what came of the attacks of `make campaign`, from the table docs/results/campaign.csv."""

from typing import Final

import pandas as pd

from docs.write.markdown import write_table
from docs.write.places import DOCS, TABLES

PAGE: Final = DOCS / "reliability.md"
TABLE: Final = TABLES / "campaign.csv"

COUNTS: Final = {
    "tried": "tried",
    "identical": "identical",
    "named": "named in one line",
    "silent": "silent",
    "traceback": "tracebacks",
    "box": "boxes",
    "dead end": "dead ends",
    "unclear": "unclear",
}
"""Columns of the table of cases, and their heads in the document."""

ATTACKS: Final = {
    "kill": "SIGKILL at a random moment of a command; then the same command again",
    "disk full at a write": "no space from the n-th write of a command on; then the same command with space",
    "small disk": "a file system in memory that is full somewhere in a command; then a larger one",
    "two processes": "the same command twice at a time",
    "file: flip": "one bit of a file is flipped; then everything is read back",
    "file: cut": "a file is cut at a random place",
    "file: remove": "a file is removed",
    "file: edit": "one value of a JSON file is another",
    "input": "a wrong or odd option, setting or file",
    "Ray's worker killed": "SIGKILL for a worker of a sweep on Ray, while it trains",
}
"""The kinds of attack, in words."""

_HEAD: Final = """# Reliability

`make campaign` attacks every command that writes, every kind of file that is read back, and every option and file that a
user gives. This page and [its table](results/campaign.csv) are written by it; a part of it runs in `make test`. The whole
is about 4200 cases and takes hours; a campaign that was stopped earlier (`make campaign CAMPAIGN="--minutes 60"`) has tried cases
of every kind alike, and the column *tried* counts them. All random choices come from the campaign's
seed and the case's number, so each case can be tried again by itself
(`PYTHONPATH=tests:tests/support python -m campaign --case KIND WHAT NUMBER`).

What came of a case:

- **identical**: everything ends as if nothing had happened. Files and what is printed are compared byte for byte, but for
  times (when something was done, how long it took) and the state of the source tree in the manifest.
- **named in one line**: one line of stderr says what is wrong, and doing what it says leads to the identical result.
- **silent**: exit code 0 and another result, files left over, or a mistake that was taken.
- **tracebacks** and **boxes** are what they are called. A **dead end** is a line whose remedy does not work.
- **unclear**: the command ends with no line, with several, or not at all.
"""


def write_page(table: pd.DataFrame | None = None) -> str:
    """The document, from the committed table or another one like it."""
    table = pd.read_csv(TABLE) if table is None else table
    commit = next(iter(table["commit"]), "") if "commit" in table.columns else ""
    of = [f"The code that was attacked is that of commit {commit}.", ""] if commit else []
    lines = [_HEAD, *of, "## By kind of attack", ""]
    lines += _by(table.assign(attack=table["kind"].map(lambda kind: ATTACKS.get(kind, kind))), "attack")
    on_files = table["kind"].str.startswith("file: ")
    commands = ~on_files & (table["kind"] != "input")
    for title, part in (
        ("By command", table[commands].rename(columns={"what": "command"})),
        ("By file", _of_files(table[on_files])),
        ("By input", table[table["kind"] == "input"].rename(columns={"what": "input"})),
    ):
        if not part.empty:
            lines += ["", f"## {title}", "", *_by(part, title.split()[1])]
    return "\n".join(lines) + "\n"


def _of_files(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column `file`: the file, and of which tree of the campaign it is."""
    split = [what.partition(": ") for what in table["what"]]
    return table.assign(file=[f"`{name}` of {tree}" for tree, _, name in split])


def _by(table: pd.DataFrame, column: str) -> list[str]:
    sums = table.groupby(column, sort=False)[list(COUNTS)].sum()
    sums.loc["all"] = sums.sum()
    rows = [[str(name), *map(str, counts)] for name, counts in zip(sums.index, sums.to_numpy(), strict=True)]
    return write_table([column, *COUNTS.values()], rows)


def write(table: pd.DataFrame, *, commit: str) -> None:
    """Write the table of a campaign on the code of a commit, and the document."""
    table.assign(commit=commit).to_csv(TABLE, index=False)
    PAGE.write_text(write_page(), encoding="utf-8")


if __name__ == "__main__":
    PAGE.write_text(write_page(), encoding="utf-8")
