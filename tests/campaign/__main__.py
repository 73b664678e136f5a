"""The whole campaign (`make campaign`): continues where it was stopped, and writes docs/reliability.md in the end.

python -m campaign --write                      everything, and the document
python -m campaign --write --minutes 60         what can be tried in an hour, of every kind alike
python -m campaign --part 0 2                   the first of two halves, which two processes may try at a time
python -m campaign --only kill "file: flip"     these kinds alone
python -m campaign --case kill train 3          one case again, as the campaign tried it
"""

import argparse
import csv
import hashlib
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from campaign import children, plan
from campaign.outcomes import GOOD, Case, table
from campaign.plan import Planned
from campaign.worlds import Trees
from mechocl.runs import provenance

ROOT: Final = Path(__file__).parent.parent.parent
PACKAGES: Final = ("mechocl", "toy_models", "probes", "tests/campaign")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "campaign")
    parser.add_argument("--seed", type=int, default=plan.SEED)
    parser.add_argument("--only", nargs="+", default=[], help="kinds of attacks")
    parser.add_argument("--case", nargs=3, metavar=("KIND", "WHAT", "NUMBER"))
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md and its table")
    parser.add_argument(
        "--part", nargs=2, type=int, default=(0, 1), metavar=("K", "N"), help="the K-th of N parts"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no case after so long")
    given = parser.parse_args()
    end = time.monotonic() + 60 * given.minutes
    children.import_everything()
    folder = _of_this_code(given.folder.absolute(), given.seed)
    part, parts = given.part
    own = folder / f"part-{part}-of-{parts}"
    trees = Trees(own)
    if given.case:
        kind, what, number = given.case
        case = plan.attempt(trees, Planned(kind, what, int(number)), seed=given.seed)
        print(case)
        return int(case.outcome not in GOOD)
    done = {(case.kind, case.what, case.number) for case in _tried(folder)}
    for number, planned in enumerate(plan.in_turn(trees, given.only or tuple(plan.ATTACKS))):
        if time.monotonic() > end:
            break
        if number % parts == part and (planned.kind, planned.what, planned.number) not in done:
            case = plan.attempt(trees, planned, seed=given.seed)
            _note(own, case)
            if case.outcome not in GOOD:
                print(case, flush=True)
    cases = _tried(folder)
    print(table(cases).to_string(index=False))
    if given.write:
        from docs.write import reliability

        reliability.write(table(cases), commit=(folder / "commit").read_text())
    return int(any(case.outcome not in GOOD for case in cases))


def _of_this_code(folder: Path, seed: int) -> Path:
    """The campaign's folder; emptied when it is of other code or of another seed."""
    digest = hashlib.sha256(str(seed).encode())
    for path in sorted(path for name in PACKAGES for path in (ROOT / name).rglob("*.*")):
        if path.suffix in (".py", ".toml", ".j2") and not path.name.startswith("test_"):
            digest.update(path.read_bytes())
    mark = folder / "code"
    if not mark.exists() or mark.read_text() != digest.hexdigest():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        state = provenance.git_state() or {"commit": "unknown", "dirty": ""}
        (folder / "commit").write_text(state["commit"][:12] + (" with changes" if state["dirty"] else ""))
        mark.write_text(digest.hexdigest())
    return folder


def _tried(folder: Path) -> list[Case]:
    """The cases that all parts have tried."""
    found = []
    for path in sorted(folder.glob("part-*/cases.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            found += [
                Case(kind, what, int(number), outcome, detail)  # type: ignore[arg-type]
                for kind, what, number, outcome, detail in csv.reader(file)
            ]
    return sorted(found, key=lambda case: (list(plan.ATTACKS).index(case.kind), case.what, case.number))


def _note(folder: Path, case: Case) -> None:
    with (folder / "cases.csv").open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerow([case.kind, case.what, case.number, case.outcome, case.detail])


if __name__ == "__main__":
    sys.exit(main())
