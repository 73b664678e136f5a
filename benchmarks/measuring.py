"""What all benchmarks share: time several sides in turns, name the machine, print and record."""

import argparse
import datetime
import json
import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

RESULTS: Final = Path(__file__).with_name("results.jsonl")


def parser(doc: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has. The module's docstring is the help text."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("--fast", action="store_true", help="fewer repeats: under a minute on 2 cores")
    made.add_argument(
        "--record",
        action="store_true",
        help=f"put the result into {RESULTS.name}; it replaces the older result of the same benchmark on this machine",
    )
    return made


def in_turns(
    sides: Mapping[str, Callable[[], float | None]], *, rounds: int, device: str = "cpu"
) -> dict[str, list[float]]:
    """Seconds that each side took in each round. A side that returns a number has measured them itself.

    The sides alternate, and each round starts with another side, so that a slow minute of the machine
    falls on all sides.
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            _wait_for(device)
            started = time.perf_counter()
            own = sides[name]()
            _wait_for(device)
            seconds[name].append(time.perf_counter() - started if own is None else own)
    return seconds


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median over the rounds of ours / theirs, each pair measured one right after the other."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def machine(device: str = "cpu") -> str:
    """The processor, or the GPU, in words."""
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    usable = hasattr(os, "sched_getaffinity")  # not on macOS
    return f"{name}, {len(os.sched_getaffinity(0)) if usable else os.cpu_count()} cores"


def peak_mib(device: str = "cpu") -> float:
    """Largest memory so far of this process, or of the GPU's allocator, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status")
    if status.exists():  # on Linux getrusage starts at the size of the parent process
        found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text(encoding="utf-8"))
        if found:
            return int(found[1]) / 2**10
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def line(
    benchmark: str,
    case: str,
    *,
    ours_s: float,
    theirs_s: float,
    ratio: float | None = None,
    peak_mib: float | None,
    device: str = "cpu",
    command: str,
    **more: Any,
) -> dict[str, Any]:
    """One result. `ratio` is ours / theirs (lower is better). By default it is the ratio of the two times."""
    return {
        "benchmark": benchmark,
        "case": case,
        "ratio": float(f"{ours_s / theirs_s if ratio is None else ratio:.3g}"),
        "ours_s": float(f"{ours_s:.4g}"),
        "theirs_s": float(f"{theirs_s:.4g}"),
        "peak_mib": None if peak_mib is None else round(peak_mib),
        "device": device,
        "machine": machine(device),
        **more,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "command": command,
    }


def finish(lines: Sequence[Mapping[str, Any]], *, record: bool) -> None:
    """Print the results as JSON lines, after all other output. With `record`, save them first."""
    if record:
        write(lines)
        print("recorded; `python -m docs.write.benchmarks` writes docs/benchmarks.md anew")
    for one in lines:
        print(json.dumps(one, ensure_ascii=False))


def read(path: Path = RESULTS) -> list[dict[str, Any]]:
    """The recorded results, in a fixed order. The list is empty when the file does not exist."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text]


def write(lines: Sequence[Mapping[str, Any]], path: Path = RESULTS) -> None:
    """Record results. Each replaces an older result of the same benchmark, case and machine."""
    kept = {_key(one): dict(one) for one in [*read(path), *lines]}
    text = "".join(json.dumps(kept[key], ensure_ascii=False) + "\n" for key in sorted(kept))
    new = path.with_suffix(".tmp")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def _key(result: Mapping[str, Any]) -> tuple[str, str, str]:
    return str(result["benchmark"]), str(result["case"]), str(result["machine"])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]
    for row in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
