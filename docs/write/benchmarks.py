"""Write docs/benchmarks.md from benchmarks/results.jsonl and docs/results/training-scaling.csv."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pandas as pd

from docs.write.benchmark_sections import SECTIONS, TRAINING, Section
from docs.write.markdown import write_text_table
from docs.write.places import DOCS
from mechocl.behaviour.formats import number

# the benchmarks are scripts that import each other from their own folder
sys.path.append(str(Path(__file__).parent.parent.parent / "benchmarks"))
import measuring
import training_scaling

PAGE: Final = DOCS / "benchmarks.md"

_HEAD: Final = """# Benchmarks

Each script in `benchmarks/` measures both sides in turns in one run and reports medians. The ratio is
ours / theirs: lower is better. `--fast` takes about a minute or less on two cores; `--record` puts the
result into `benchmarks/results.jsonl`, from which `python -m docs.write.benchmarks` writes this page.
"""


def write_page(results: Sequence[Mapping[str, Any]], scaling: pd.DataFrame | None) -> str:
    """The whole page. Raises ValueError when the benchmark of a result has no section."""
    unknown = {str(r["benchmark"]) for r in results} - {s.benchmark for s in SECTIONS}
    if unknown:
        raise ValueError(f"no section is written for the benchmark {min(unknown)!r}; add it to SECTIONS")
    return "\n".join([_HEAD, *(_section(s, results) for s in SECTIONS), _scaling(scaling)])


def _section(section: Section, results: Sequence[Mapping[str, Any]]) -> str:
    measured = [r for r in results if r["benchmark"] == section.benchmark]
    aims = {(e.case, e.device): e.aim for e in section.expected}
    rows = [_row(r, aims.get((r["case"], r["device"]))) for r in measured]
    done = {(r["case"], r["device"]) for r in measured}
    rows += [
        [e.case, _NAMES[e.device], "not measured", "", _aim(e.aim), "", "", f"`{e.command}`"]
        for e in section.expected
        if (e.case, e.device) not in done
    ]
    columns = ["what", "machine", section.ours, section.theirs, "ratio", "peak memory", "date", "command"]
    text = f"## {section.title}\n\n{section.text}\n\n{_table(columns, rows)}"
    sides = [_side(r, side) for r in measured for side in r.get("sides", ())]
    if sides:
        columns = ["what", "machine", "side", "examples a second", "GFLOP/s", "of the ceiling", "peak memory"]
        text += f"\n{_CEILING}\n\n{_table(columns, sides)}"
    return text + "".join(_patching(r) for r in measured if "cases" in r)


_CEILING: Final = (
    "GFLOP/s are the same useful work for all sides, whatever they compute beside it "
    "(`flops_per_example` in `benchmarks/training_work.py`): three times the forward pass's products, at "
    "positions that a loss depends on, with logits where there is loss. The ceiling is the fastest matrix "
    "product seen during the run, in the same precision with as many threads."
)
_NAMES: Final = {"cpu": "a CPU", "cuda": "a GPU"}


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"{line}\n" for line in write_text_table(columns, rows))


def _row(r: Mapping[str, Any], aim: float | None) -> list[str]:
    ours = _duration(r["ours_s"])
    ratio = f"**{number(r['ratio'], 2 if r['ratio'] >= 0.1 else 3)}**"
    if "many_ratio" in r:
        ours += f" (stack of {r['models']}: {_duration(r['many_ratio'] * r['theirs_s'])})"
        ratio += f" (stack: {number(r['many_ratio'], 2)})"
    if aim is not None:
        ratio += f", {_aim(aim)}"
    memory = "not measured" if r["peak_mib"] is None else f"{r['peak_mib']} MiB"
    if "memory_ratio" in r:
        memory += f" (theirs {r['theirs_mib']} MiB: ratio {number(r['memory_ratio'], 2)}, aim: at most 0.33)"
    command = f"`{r['command']}`"
    return [r["case"], _machine(r), ours, _duration(r["theirs_s"]), ratio, memory, r["date"], command]


def _side(r: Mapping[str, Any], side: Mapping[str, Any]) -> list[str]:
    return [
        r["case"],
        _machine(r),
        side["side"],
        f"{side['examples_s']:.4g}",
        f"{side['gflops']:.4g}",
        f"{side['share']:.1%} of {r['ceiling_gflops']:.4g}",
        f"{side['peak_mib']} MiB",
    ]


def _patching(r: Mapping[str, Any]) -> str:
    """The tables of grids, edges and memory of one result."""
    cases = [
        [
            case["grid"],
            case["pairs"],
            str(case["patches"]),
            _duration(case["ours_s"]),
            _duration(case["theirs_s"]),
            f"**{number(case['ratio'], 2)}**",
            str(case["rounds"]),
        ]
        for case in r["cases"]
    ]
    columns = ["grid", "pairs", "patches", "ours", "TransformerLens", "ratio", "rounds"]
    memory = [
        [str(row["batch_size"]), row["grid"], str(row["patches"]), f"{row['peak_mib']} MiB"]
        for row in r["memory"]
    ]
    e = r["edges"]
    edges = (
        f"All {e['edges']} edges by EAP-IG with {e['steps']} steps, {e['pairs']} pairs in one batch: "
        f"{e['backward_passes']} backward passes (aim: at most {3 * e['steps']}), {_duration(e['eap_ig_s'])}. Path "
        f"patching takes {_duration(e['path_s'])} an edge."
    )
    bounded = (
        "Memory is bounded by the examples in a forward pass, and a grid that does not fit is split: the peak of one "
        "process, that filled one grid after the other. The activations of each patched layer are kept (for a batch of "
        "pairs), and the result has 4 bytes for each patch and pair."
    )
    return (
        f"\n{r['case']}, {r['threads']} thread{'s' * (r['threads'] > 1)}, {_machine(r)}:\n\n{_table(columns, cases)}"
        f"\n{edges}\n\n{bounded}\n\n"
        f"{_table(['examples in a pass', 'after the grid', 'patches', 'peak so far'], memory)}"
    )


def _machine(r: Mapping[str, Any]) -> str:
    return f"{r['machine']}, torch {r['torch']}"


def _aim(aim: float | None) -> str:
    return "" if aim is None else f"aim: at most {number(aim, 2)}"


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _scaling(scaling: pd.DataFrame | None) -> str:
    text = (
        "How the time of an epoch of `integer-set/short`'s first stage grows when one thing is changed: the "
        "exponent is the slope of log time over log value, by least squares."
    )
    command = f"`{TRAINING} --scaling --record`"
    columns = ["axis", "values", "seconds an epoch", "exponent"]
    if scaling is None:
        rows = [[axis, _listed(values), "not measured", ""] for axis, values in training_scaling.AXES.items()]
        text += f" Command: {command}."
    else:
        rows = [
            [
                str(axis),
                _listed(part["value"]),
                _listed(f"{s:.3g}" for s in part["seconds_per_epoch"]),
                f"**{number(part['exponent'].iloc[0], 2)}**",
            ]
            for axis, part in scaling.groupby("axis", sort=False)
        ]
        r = scaling.iloc[0]
        text += (
            f" {r['machine']}, {r['threads']} thread{'s' * int(r['threads'] > 1)}, torch {r['torch']}, "
            f"{r['date']}: {command}, table: `docs/results/training-scaling.csv`."
        )
    figure = "" if scaling is None else "\n\n![Scaling of training](figures/training-scaling.svg)"
    return f"## Scaling of training\n\n{text}\n\n{_table(columns, rows)}{figure}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(str(value) for value in values)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    PAGE.write_text(write_page(measuring.read(), training_scaling.read()), encoding="utf-8")
    print(PAGE.relative_to(PAGE.parent.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
