"""Write docs/benchmarks.md from benchmarks/results.jsonl and docs/results/training-scaling.csv."""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import measuring
import pandas as pd
import training_scaling

PAGE: Final = Path(__file__).parent.parent / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """A measurement that the page shows even when nobody has made it."""

    case: str
    device: str
    command: str
    aim: float | None = None
    """Largest ratio that the measurement should give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    benchmark: str
    title: str
    text: str
    ours: str  # heading of the column
    theirs: str
    expected: tuple[Expected, ...]


_TRAINING: Final = "python benchmarks/training.py"

SECTIONS: Final = (
    Section(
        benchmark="training",
        title="Training",
        text=(
            "`toy_models.training.train_stage` against `transformers.Trainer` on a `GPTNeoXForCausalLM` of the "
            "same shape, on the same examples with the same batch size, precision and optimiser, without "
            "evaluating, saving or logging; neither is compiled. The losses of both are checked to agree "
            "first. Times are of a step; *stack*: several seeds together, per seed. `cpu` is the recipe "
            "`integer-set/cpu`, batch 64, whose unembedding GPT-NeoX computes for the whole vocabulary; "
            "`pythia-70m` is `integer-set/paper` in float32 with batch 32; `paper` the same in bf16 with "
            "batch 512. Memory is the peak of each side's own process (on a GPU: of its allocator)."
        ),
        ours="ours",
        theirs="Trainer",
        expected=(
            *(
                Expected(
                    case=f"{case}, {threads} thread{'s' * (threads > 1)}",
                    device="cpu",
                    command=f"{_TRAINING} --device cpu --threads {threads} --record",
                    aim=aim,
                )
                for case, aim in (("cpu", 1 / 2), ("pythia-70m", 1 / 1.3))
                for threads in (1, 2)
            ),
            Expected(case="paper", device="cuda", command=f"{_TRAINING} --device cuda --record"),
        ),
    ),
    Section(
        benchmark="training-whole",
        title="Whole recipes on a GPU",
        text=(
            "The training steps of all stages, without evaluations. The first is trained to its end; the "
            "others are extrapolated from 200 steps of each stage. The limits are the aims: 2 minutes for a "
            "seed of `integer-set/paper`, 30 minutes for 20 seeds of it together, and for 20 seeds of "
            "`integer-set/cpu` 3 times what one takes (*limit* is that, measured)."
        ),
        ours="measured",
        theirs="limit",
        expected=tuple(
            Expected(case=case, device="cuda", command=f"{_TRAINING} --whole --device cuda --record", aim=1.0)
            for case in ("paper, 1 seed", "paper, 20 seeds", "cpu, 20 seeds")
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
        benchmark="patching",
        title="Activation patching",
        text=(
            "`mechocl.interventions.patching.patch_activations` against `transformer_lens.patching`, on the same model (six "
            "layers, shaped like `integer-set/paper`'s, not trained) and the same 256 pairs: the residual stream "
            "by layer × position, and heads × positions. Both fill the whole grid, and all values agree within "
            "1e-5. Ours begins each forward pass where the patch is and skips a patch that puts in what is "
            "already there. With *alias* pairs, which differ in the alias alone, those are all patches before "
            "layer 0 but one; *apart* pairs are random tokens of which clean and corrupted share none. The "
            "ratio is the worst of the cases; memory is the peak of ours, in a process of its own, with 1024 "
            "examples in a forward pass."
        ),
        ours="ours",
        theirs="TransformerLens",
        expected=(
            Expected(
                case="6 layers, d_model 512",
                device="cpu",
                command="python benchmarks/patching.py --threads 2 --record",
                aim=1 / 4,
            ),
        ),
    ),
    Section(
        benchmark="probing",
        title="Linear probes",
        text=(
            "`mechocl.probing.probe.probe` against the procedure of the earlier tag probe, written plainly: one question at a "
            "time through `run_with_cache` with everything cached, then scikit-learn's logistic regression with a 5-fold "
            "cross-validation for each layer and token. The same 800 questions and folds, every layer and token of an "
            "untrained model with a direction put into its alias embeddings; no balanced accuracy may differ by more than "
            "half a point. Each side has a process of its own; memory is what it takes above the model and the questions. "
            "Theirs keeps all caches; a loop that dropped what it does not need would take less memory and the same time."
        ),
        ours="ours",
        theirs="plain procedure",
        expected=(
            Expected(
                case="6 layers, d_model 512",
                device="cpu",
                command="python benchmarks/probing.py --threads 2 --record",
                aim=1 / 10,
            ),
        ),
    ),
    Section(
        benchmark="features",
        title="Sparse autoencoders",
        text=(
            "`mechocl.features.training.train` against SAELens's own `LanguageModelSAETrainingRunner`: a TopK SAE of 1024 "
            "features, k 16, on the residual stream of an untrained `integer-set/cpu` model, the same number of "
            "activations of the same texts in the same mix, batch 1024, the same learning rates, nothing logged or "
            "saved. The trainer is SAELens's on both sides; what differs is where the activations come from. Theirs gets "
            "the texts pretokenised, as many at a time as ours (`default_ratio` in the results: with its own 32 at a "
            "time). Both must explain the same share of the variance of unseen aliases' activations within 0.03. Each "
            "side has a process of its own; memory is what it takes above the model, the texts and the imported packages."
        ),
        ours="ours",
        theirs="SAELens's runner",
        expected=(
            Expected(
                case="1024 features, k 16",
                device="cpu",
                command="python benchmarks/features.py --threads 2 --record",
                aim=1.0,
            ),
        ),
    ),
    Section(
        benchmark="demo",
        title="The demo",
        text=(
            "`mechocl demo` from start to written report, in a process of its own, against its limit. Memory "
            "is that of the process and its workers together. Aim: eight seeds in 6 minutes and 3000 MiB, the "
            "smoke test (`--fast`) in 75 s, on two cores."
        ),
        ours="measured",
        theirs="limit",
        expected=(
            Expected(case="8 seeds", device="cpu", command="python benchmarks/demo.py --record"),
            Expected(case="smoke test", device="cpu", command="python benchmarks/demo.py --fast --record"),
        ),
    ),
)

_HEAD: Final = """# Benchmarks

Each script in `benchmarks/` measures both sides in turns in one run and reports medians. The ratio is
ours / theirs: lower is better. `--fast` takes about a minute or less on two cores; `--record` puts the
result into `benchmarks/results.jsonl`, from which `python benchmarks/write_docs.py` writes this page.
"""


def page(results: Sequence[Mapping[str, Any]], scaling: pd.DataFrame | None) -> str:
    """The whole page. Raises ValueError for a result of a benchmark that has no section here."""
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
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _row(r: Mapping[str, Any], aim: float | None) -> list[str]:
    ours = _duration(r["ours_s"])
    ratio = f"**{r['ratio']:.2f}**" if r["ratio"] >= 0.1 else f"**{r['ratio']:.3f}**"
    if "many_ratio" in r:
        ours += f" (stack of {r['models']}: {_duration(r['many_ratio'] * r['theirs_s'])})"
        ratio += f" (stack: {r['many_ratio']:.2f})"
    if aim is not None:
        ratio += f", {_aim(aim)}"
    memory = "not measured" if r["peak_mib"] is None else f"{r['peak_mib']} MiB"
    if "memory_ratio" in r:
        memory += f" (theirs {r['theirs_mib']} MiB: ratio {r['memory_ratio']:.2f}, aim: at most 0.33)"
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
    """Grids, edges and memory of one result."""
    cases = [
        [
            case["grid"],
            case["pairs"],
            str(case["patches"]),
            _duration(case["ours_s"]),
            _duration(case["theirs_s"]),
            f"**{case['ratio']:.2f}**",
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
    return "" if aim is None else f"aim: at most {aim:.2f}"


def _duration(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _scaling(scaling: pd.DataFrame | None) -> str:
    text = (
        "How the time of an epoch of `integer-set/cpu`'s first stage grows when one thing is changed: the "
        "exponent is the slope of log time over log value, by least squares."
    )
    command = f"`{_TRAINING} --scaling --record`"
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
                f"**{part['exponent'].iloc[0]:.2f}**",
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
    PAGE.write_text(page(measuring.read(), training_scaling.read()), encoding="utf-8")
    print(PAGE.relative_to(PAGE.parent.parent))
    return 0


if __name__ == "__main__":
    sys.exit(main())
