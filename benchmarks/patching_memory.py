"""Measure peak memory of patching in a process of its own, after grids of more and more patches.

Prints JSON for one number of examples in a forward pass. patching.py starts one process for each number.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import measuring
from patching_subject import FAST, FULL, Size, subject

from mechocl.interventions.patching import patch_activations
from mechocl.models.sites import hook_name


def memory_of_grids(size: Size, *, batch_size: int) -> list[dict[str, Any]]:
    """Peak memory so far of this process, in MiB, after each grid. The grids become larger and larger."""
    made = subject(size)
    last = size.n_layers - 1
    grids = {
        "heads × positions, layer 0": hook_name("z", 0),
        "heads × positions, all layers": "z",
        f"neurons × positions, layer {last}": hook_name("mlp_post", last),
    }
    rows = [{"grid": "none (model and pairs)", "patches": 0, "peak_mib": round(measuring.peak_mib())}]
    for grid, site in grids.items():
        found = patch_activations(made.model, made.pairs["apart"], sites=[site], batch_size=batch_size)
        rows.append({"grid": grid, "patches": len(found.rows), "peak_mib": round(measuring.peak_mib())})
        del found
    return [{"batch_size": batch_size} | row for row in rows]


def memory_of_processes(*, fast: bool, batches: Sequence[int]) -> list[dict[str, Any]]:
    """`memory_of_grids` in one process for each batch size. They run at the same time, with one thread each."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, *(["--fast"] if fast else [])]
    started = [
        subprocess.Popen([*command, str(n)], stdout=subprocess.PIPE, text=True, env=alone) for n in batches
    ]
    rows: list[dict[str, Any]] = []
    for process in started:
        printed, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(f"a process that measures memory ended with exit status {process.returncode}")
        rows += json.loads(printed.splitlines()[-1])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("batch_size", type=int, help="examples in one forward pass")
    parser.add_argument("--fast", action="store_true", help="a small model")
    options = parser.parse_args(argv)
    rows = memory_of_grids(FAST if options.fast else FULL, batch_size=options.batch_size)
    print(json.dumps(rows, ensure_ascii=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
