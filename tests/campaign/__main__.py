"""The whole campaign (`make campaign`): continues where it was stopped, and writes docs/reliability.md in the end.

python -m campaign --write                      everything, and the document
python -m campaign --only kill "file: flip"     these kinds alone
python -m campaign --case kill train 3          one case again, as the campaign tried it
"""

import argparse
import csv
import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from campaign import children, plan
from campaign.outcomes import GOOD, Case, table
from campaign.plan import Planned
from campaign.worlds import Trees

ROOT: Final = Path(__file__).parent.parent.parent
PACKAGES: Final = ("mechocl", "toy_models", "probes", "tests/campaign")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m campaign", description=__doc__)
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "campaign")
    parser.add_argument("--seed", type=int, default=plan.SEED)
    parser.add_argument("--only", nargs="+", default=[], help="kinds of attacks")
    parser.add_argument("--case", nargs=3, metavar=("KIND", "WHAT", "NUMBER"))
    parser.add_argument("--write", action="store_true", help="write docs/reliability.md and its table")
    parser.add_argument("--every", type=int, default=1, help="only every so-manieth case of each kind")
    given = parser.parse_args()
    children.import_everything()
    folder = _of_this_code(given.folder.absolute(), given.seed)
    trees = Trees(folder)
    if given.case:
        kind, what, number = given.case
        case = plan.attempt(trees, Planned(kind, what, int(number)), seed=given.seed)
        print(case)
        return int(case.outcome not in GOOD)
    cases = _tried(folder)
    done = {(case.kind, case.what, case.number) for case in cases}
    for number, planned in enumerate(plan.whole(trees, given.only or tuple(plan.ATTACKS))):
        if number % given.every:
            continue
        if (planned.kind, planned.what, planned.number) not in done:
            cases.append(case := plan.attempt(trees, planned, seed=given.seed))
            _note(folder, case)
            if case.outcome not in GOOD:
                print(case, flush=True)
    print(table(cases).to_string(index=False))
    if given.write:
        from docs.write import reliability

        reliability.write(table(cases))
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
        mark.write_text(digest.hexdigest())
    return folder


def _tried(folder: Path) -> list[Case]:
    path = folder / "cases.csv"
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            Case(kind, what, int(number), outcome, detail)
            for kind, what, number, outcome, detail in csv.reader(file)
        ]  # type: ignore[arg-type]


def _note(folder: Path, case: Case) -> None:
    with (folder / "cases.csv").open("a", newline="", encoding="utf-8", errors="backslashreplace") as file:
        csv.writer(file).writerow([case.kind, case.what, case.number, case.outcome, case.detail])


if __name__ == "__main__":
    sys.exit(main())
