"""Write docs/benchmarks.md from benchmarks/results.jsonl."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import measuring

PAGE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A measurement that the page shows even when nobody has made it."""

    case: str
    device: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    benchmark: str
    title: str
    text: str
    ours: str  # heading of the column
    theirs: str
    expected: tuple[Expected, ...]


_STEP: Final = "python benchmarks/training_step.py"

SECTIONS: Final = (
    Section(
        benchmark="training-step",
        title="Training step",
        text=(
            "One step of `toy_models.training.train_stage` against a plain PyTorch model of the same shape "
            "(`nn.Linear`, `nn.LayerNorm`, `scaled_dot_product_attention`, logits at every position), on the "
            "same batches with the same fused AdamW; neither is compiled. The losses of both are checked to "
            "agree first. *hooked* is TransformerLens's own forward pass with the same loss. float32 on a "
            "CPU with one thread, bf16 under autocast on a GPU. `small` is the model of the recipe "
            "`integer-set/cpu`, `pythia-70m` that of `integer-set/paper` with its vocabulary. Memory is the "
            "peak of the whole process, all sides included (on a GPU: of its allocator). Aim: at most 1.2."
        ),
        ours="ours",
        theirs="plain PyTorch",
        expected=(
            Expected(case="small, batch 64", device="cpu", command=f"{_STEP} --device cpu --record"),
            Expected(case="pythia-70m, batch 64", device="cpu", command=f"{_STEP} --device cpu --record"),
            Expected(case="small, batch 64", device="cuda", command=f"{_STEP} --device cuda --record"),
            Expected(case="pythia-70m, batch 512", device="cuda", command=f"{_STEP} --device cuda --record"),
        ),
    ),
    Section(
        benchmark="task-building",
        title="Building the task",
        text=(
            "`toy_models.integer_set.build` at the paper's scale (recipe `integer-set/paper`: 8000 aliases, "
            "12 training and 12 test questions each) against the same protocol written one example at a time "
            "in plain Python. Both results are checked against the protocol. Memory is the peak of the whole "
            "process, both sides included. Aim: under 2 s."
        ),
        ours="ours",
        theirs="plain Python",
        expected=(
            Expected(
                case="8000 aliases", device="cpu", command="python benchmarks/task_building.py --record"
            ),
        ),
    ),
    Section(
        benchmark="demo",
        title="The demo",
        text=(
            "`mechocl demo` from start to written report, in a process of its own, against its limit. Memory "
            "is that of the process and its workers together. Aim: four seeds in 6 minutes and 3000 MiB, the "
            "smoke test (`--fast`) in 75 s, on two cores."
        ),
        ours="measured",
        theirs="limit",
        expected=(
            Expected(case="4 seeds", device="cpu", command="python benchmarks/demo.py --record"),
            Expected(case="smoke test", device="cpu", command="python benchmarks/demo.py --fast --record"),
        ),
    ),
)

_HEAD: Final = """# Benchmarks

Each script in `benchmarks/` measures both sides in turns in one run and reports medians. The ratio is
ours / theirs: lower is better. `--fast` takes about a minute or less on two cores; `--record` puts the
result into `benchmarks/results.jsonl`, from which `python benchmarks/write_docs.py` writes this page.
"""


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """The whole page. Raises ValueError for a result of a benchmark that has no section here."""
    unknown = {str(r["benchmark"]) for r in results} - {s.benchmark for s in SECTIONS}
    if unknown:
        raise ValueError(f"no section is written for the benchmark {min(unknown)!r}; add it to SECTIONS")
    return "\n".join([_HEAD, *(_section(s, results) for s in SECTIONS)])


def _section(section: Section, results: Sequence[Mapping[str, Any]]) -> str:
    measured = [r for r in results if r["benchmark"] == section.benchmark]
    rows = [_row(r) for r in measured]
    done = {(r["case"], r["device"]) for r in measured}
    rows += [
        [e.case, _NAMES[e.device], "not measured", "", "", "", "", f"`{e.command}`"]
        for e in section.expected
        if (e.case, e.device) not in done
    ]
    columns = ["what", "machine", section.ours, section.theirs, "ratio", "peak memory", "date", "command"]
    lines = [columns, ["---"] * len(columns), *rows]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"## {section.title}\n\n{section.text}\n\n{table}\n"


_NAMES: Final = {"cpu": "a CPU", "cuda": "a GPU"}


def _row(r: Mapping[str, Any]) -> list[str]:
    theirs = _duration(r["theirs_s"])
    if "hooked_s" in r:
        theirs += f" (hooked: {_duration(r['hooked_s'])})"
    memory = "not measured" if r["peak_mib"] is None else f"{r['peak_mib']} MiB"
    machine = f"{r['machine']}, torch {r['torch']}"
    ratio = f"**{r['ratio']:.2f}**" if r["ratio"] >= 0.1 else f"**{r['ratio']:.3f}**"
    command = f"`{r['command']}`"
    return [r["case"], machine, _duration(r["ours_s"]), theirs, ratio, memory, r["date"], command]


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    PAGE.write_text(page(measuring.read()), encoding="utf-8")
    print(PAGE.relative_to(PAGE.parent.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
