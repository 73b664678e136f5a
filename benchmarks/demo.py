"""Seconds and memory of `mechocl demo`, from start to written report, against its limits.

The demo runs as its users run it, in a process of its own, into a temporary folder. "ratio" is its seconds
÷ the limit. Memory is the sum of the proportional set sizes of the process and its workers, sampled twice a
second. Without Linux's /proc it is not measured. The exit status is 1 when the demo fails or exceeds a limit.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import measuring

from mechocl.commands.training import DEMO_SEEDS
from mechocl.errors import MechoclError
from mechocl.models import seam

SAMPLE_EVERY_S: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    seconds: float
    memory_mib: float


FULL: Final = Limits(seconds=480.0, memory_mib=3000.0)
FAST: Final = Limits(seconds=75.0, memory_mib=3000.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A command that has ended: its exit status, seconds and memory."""

    returncode: int
    seconds: float
    peak_mib: float | None


def watch(command: Sequence[str]) -> Watched:
    """Run a command to its end, sampling the memory of its process tree."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    peak: float | None = None
    while True:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=SAMPLE_EVERY_S)
        if process.returncode is not None:
            return Watched(
                returncode=process.returncode, seconds=time.perf_counter() - started, peak_mib=peak
            )
        now = tree_mib(process.pid)
        peak = now if peak is None or now is None else max(peak, now)


def tree_mib(root: int) -> float | None:
    """Memory in MiB of a process and all processes below it. Shared pages count once. None without /proc."""
    if not Path("/proc/self/smaps_rollup").exists():
        return None
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # a process that has just ended
            # the name in brackets may hold anything; the state and the parent follow it
            parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(folder.name))
    total, left = 0, [root]
    while left:
        pid = left.pop()
        left += children.get(pid, [])
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


def measure(*, fast: bool, seeds: int, device: str) -> tuple[dict[str, Any], bool]:
    """The line of this benchmark, and whether the demo kept within its limits."""
    limits = FAST if fast else FULL
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "demo"
        command = [sys.executable, "-m", "mechocl", "demo", "--out", str(out), "--device", device]
        watched = watch([*command, "--fast"] if fast else [*command, "--seeds", str(seeds)])
        if watched.returncode:
            raise RuntimeError(f"mechocl demo ended with exit status {watched.returncode}")
        report_mb = (out / "report.html").stat().st_size / 1e6
    seeds = 1 if fast else seeds
    print()
    memory = "not measured" if watched.peak_mib is None else f"{watched.peak_mib:.0f} MiB"
    measuring.print_table(
        ["what", "measured", "limit"],
        [
            ["seeds", str(seeds), ""],
            ["time", f"{watched.seconds:.1f} s", f"{limits.seconds:.0f} s"],
            ["peak memory", memory, f"{limits.memory_mib:.0f} MiB"],
            ["report.html", f"{report_mb:.1f} MB", ""],
        ],
    )
    print()
    line = measuring.line(
        "demo",
        "smoke test" if fast else f"{seeds} seeds",
        ours_s=watched.seconds,
        theirs_s=limits.seconds,
        peak_mib=watched.peak_mib,
        device=device,
        report_mb=round(report_mb, 2),
        command=f"python benchmarks/demo.py{' --fast' if fast else ''}"
        f"{' --device cuda' if device == 'cuda' else ''} --record",
    )
    within = watched.seconds <= limits.seconds and (watched.peak_mib or 0) <= limits.memory_mib
    return line, within


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument(
        "--seeds", type=int, default=DEMO_SEEDS, help=f"seeds of the full demo (default: {DEMO_SEEDS})"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="cpu")
    options = parser.parse_args(argv)
    try:
        device = seam.resolve_device(options.device)
        line, within = measure(fast=options.fast, seeds=options.seeds, device=device)
    except MechoclError as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if not within:
        print("over a limit", file=sys.stderr)
    measuring.finish([line], record=options.record)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
