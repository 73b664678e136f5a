"""Write what 1, 10 and 100 nodes would do into docs/scale.md, from the measured cost of a task.

python -m docs.write.scale --measure     measure first, on one core of this idle machine (about a minute)
python -m docs.write.scale               only write the page from docs/results/scale.csv
"""

import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import pandas as pd
import torch
import tyro

from docs.write.markdown import write_table
from docs.write.places import DOCS, TABLES
from mechocl import files
from mechocl.analyses import probe_sweep
from mechocl.behaviour.formats import number
from mechocl.commands import cli
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs import provenance, recipes, sweep_folder, sweeps

TABLE: Final = TABLES / "scale.csv"
NODES: Final = (1, 10, 100)
CORES: Final = 32
"""Number of cores of a node."""

_START, _END = "<!-- scale -->", "<!-- end of scale -->"

WORK = {
    "probe": (
        "probing a checkpoint: `mechocl probe`, defaults",
        {"8 seeds of 6 word orders, last checkpoint": 8 * 6, "the same, 14 checkpoints": 8 * 6 * 14, "64 seeds, 14 checkpoints": 64 * 6 * 14},
    ),
    "sweep": (
        "training a run of integer-set/short: `mechocl sweep`",
        {"8 seeds of 6 settings": 8 * 6, "32 seeds of 100 settings": 3200, "100 seeds of 1000 settings": 100_000},
    ),
}  # fmt: skip
"""Kinds of tasks, each with its name and with numbers of tasks that somebody may want."""


def measure() -> None:
    """Measure and save the seconds of a task of each kind on one core, and of a worker's start."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", "import mechocl.runs.sweeps, mechocl.analyses.probe_sweep"], check=True
    )
    start_s = time.perf_counter() - started
    found = []
    recipe = recipes.load_recipe("integer-set/short")
    outcome = sweeps.train_together(
        [sweep_folder.SweepRun({}, recipe, 0)], device="cpu", progress=lambda *_: None
    )[0]
    found.append({"work": "sweep", "seconds": outcome["seconds"]})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        if cli.main(["train", "integer-set/short", "--seeds", "1", "--out", str(out), "--device", "cpu"]):
            raise SystemExit("the run to be probed could not be trained")
        (unit,) = probe_sweep.list_units(
            [out], recipes=["definition-retrieval"], checkpoints="final", seeds=None, config=ProbingConfig(),
            device="cpu", cache_gb=1.0, dtype="float32",
        )  # fmt: skip
        started = time.perf_counter()
        probe_sweep.probe_unit(unit, lambda *_: None)
        found.append({"work": "probe", "seconds": round(time.perf_counter() - started, 2)})
    facts = {
        "start_seconds": round(start_s, 1),
        "machine": provenance.machine("cpu"),
        "torch": torch.__version__,
    }
    table = pd.DataFrame(found).assign(**facts)
    files.write_text(TABLE, table.to_csv(index=False))


def write_section() -> str:
    """The section: the table, and where its numbers come from."""
    measured = pd.read_csv(TABLE).set_index("work")
    first = measured.iloc[0]
    rows = []
    for kind, (_, works) in WORK.items():
        row = measured.loc[kind]
        for work, tasks in works.items():
            times = [
                _duration(math.ceil(tasks / (n * CORES)) * row["seconds"] + row["start_seconds"])
                for n in NODES
            ]
            rows.append([f"{kind}: {work}", str(tasks), *times])
    text = (
        f"Measured by `python -m docs.write.scale --measure` on one core of {first['machine']}, torch {first['torch']}: "
        + "; ".join(f"{WORK[kind][0]}: {number(row['seconds'], 1)} s" for kind, row in measured.iterrows())
        + f"; a worker's start: {number(first['start_seconds'], 1)} s. From that, for nodes of {CORES} such cores (extrapolated, not measured):"
    )
    columns = ["work", "tasks", *(f"{n} node{'s' * (n > 1)}" for n in NODES)]
    return "\n".join([text, "", *write_table(columns, rows)])


def write_page(text: str) -> str:
    """The text of docs/scale.md, with its last section made anew from the table."""
    before, rest = text.split(_START)
    return f"{before}{_START}\n\n{write_section()}\n\n{_END}{rest.split(_END)[1]}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def main(
    measure_first: Annotated[
        bool, tyro.conf.arg(name="measure", help="Measure on this machine first.")
    ] = False,
) -> None:
    if measure_first:
        measure()
    path = DOCS / "scale.md"
    files.write_text(path, write_page(path.read_text(encoding="utf-8")))
    print(f"written: {path}")


if __name__ == "__main__":
    tyro.cli(main)
