"""A layer × token grid of linear probes, side by side with the procedure of the reference code, written plainly.

ours     mechocl.probing.probe.probe: questions in batches, one site's activations kept, all probes solved together
theirs   one question at a time through run_with_cache with everything cached (and kept: a loop that dropped what
         it does not need would take less memory and the same time), then scikit-learn's LogisticRegression
         (C = 0.01, features scaled) in a 5-fold cross-validation for each layer and token

Both sides read which define tag an alias had, from 800 questions about 800 aliases, after every layer and at every
token. The model has six layers and d_model 512. It is untrained, except that a direction was put into the aliases'
embeddings. Both use the same folds. No balanced accuracy may differ by more than half a point, otherwise the exit
status is 1. Each side runs in a process of its own, so that its peak memory can be measured. The memory that is
compared is what a side takes above the model and the questions.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import measuring
import numpy as np
import torch

from mechocl.models.seam import Transformer
from mechocl.probing.examples import draw_examples
from mechocl.probing.probe import probe as score_probes
from mechocl.probing.recipe import Probe
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.activation_cache import directly
from probes.splits import alias_folds
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

TOLERANCE: Final = 0.005
"""Largest difference of a balanced accuracy that is allowed."""

PROBE: Final = Probe(
    name="tag",
    question="tag 1 or tag 2",
    at="question",
    target="tag",
    subsets=("d1_consistent", "d2_consistent"),
    method="logistic",
    regularisation=(0.01,),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large the comparison is."""

    name: str
    n_layers: int
    d_model: int
    questions: int
    list_length: int
    rounds: int


FULL: Final = Size(
    name="6 layers, d_model 512", n_layers=6, d_model=512, questions=800, list_length=8, rounds=2
)
FAST: Final = Size(
    name="2 layers, d_model 128", n_layers=2, d_model=128, questions=200, list_length=4, rounds=1
)


def subject(size: Size) -> tuple[Any, Task]:
    """An untrained model, in whose alias embeddings tag 1 and tag 2 differ along a direction, and the task."""
    fractions = Fractions(qd1=0.0, qd2=0.0, d1=0.5, d2=0.5, d3=0.0)
    config = IntegerSetConfig(
        aliases=size.questions,
        integers=100,
        list_length=size.list_length,
        test_questions=2,
        fractions=fractions,
    )
    task = build(config, seed=0)
    model = architectures.build(
        architectures.Architecture(
            n_layers=size.n_layers, d_model=size.d_model, n_heads=8, d_mlp=4 * size.d_model
        ),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=0,
    )
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(size.d_model, generator=generator)
    tags = task.table.drop_duplicates("alias").set_index("alias")["tag"]
    first = len(task.vocabulary) - size.questions
    with torch.no_grad():
        ids = torch.tensor(tags.index.to_list()) + first
        sign = torch.tensor([1.0 if tag == 1 else -1.0 for tag in tags])
        model.W_E[ids] += (
            0.06 * model.W_E[ids].norm(dim=1).mean() * sign[:, None] * direction / direction.norm()
        )
    return model, task


def ours(model: Transformer, task: Task) -> np.ndarray:
    """Balanced accuracy after each layer (rows) and at each token up to `=` (columns)."""
    config = ProbingConfig(
        sites=("resid_post",), permutations=0, controls=False, n_pairs=0, aliases_per_subset=len(task)
    )
    rows, _ = score_probes(model, task, config, untrained=model, collect=directly(model), probes=[PROBE])
    rows = rows[(rows["subset"] == "all") & (rows["site"] == "resid_post")]
    grid: np.ndarray = rows["accuracy"].to_numpy(dtype=float).reshape(model.cfg.n_layers, -1)
    return grid


def theirs(model: Any, task: Task) -> np.ndarray:
    """The same grid by the plain procedure."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    examples = draw_examples(
        task, "question", aliases_per_subset=len(task), positions=(), seed=ProbingConfig().seed
    )
    tag, alias = (examples.table[name].to_numpy() for name in ("tag", "alias"))
    caches = []
    with torch.no_grad():
        for question in examples.tokens:
            _, cache = model.run_with_cache(question[None])
            caches.append(cache)
    folds = alias_folds(alias, tag, n_folds=PROBE.n_folds, seed=0)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    grid = np.empty((model.cfg.n_layers, examples.tokens.shape[1]))
    for layer, token in np.ndindex(grid.shape):
        x = np.stack([cache["resid_post", layer][0, token].numpy() for cache in caches])
        grid[layer, token] = cross_val_score(probe, x, tag, cv=folds, scoring="balanced_accuracy").mean()
    return grid


SIDES: Final = {"ours": ours, "theirs": theirs}


def side(name: str, size: Size) -> dict[str, Any]:
    """One side's seconds, its memory above that of the model and the questions, and its grid."""
    model, task = subject(size)
    before = measuring.peak_mib()
    started = time.perf_counter()
    grid = SIDES[name](model, task)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "mib": measuring.peak_mib() - before, "grid": grid.tolist()}


def in_a_process(name: str, *, fast: bool, threads: int) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--side",
        name,
        "--threads",
        str(threads),
        *(["--fast"] if fast else []),
    ]
    found = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        raise RuntimeError(f"the process of {name} ended with exit status {found.returncode}")
    result: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return result


class Disagreement(Exception):
    """The sides do not give the same grid."""


def measure(size: Size, *, threads: int, fast: bool) -> dict[str, Any]:
    """The line of this benchmark. Raises Disagreement when an accuracy differs."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in SIDES}
    for turn in range(size.rounds):
        for name in list(SIDES)[:: 1 if turn % 2 == 0 else -1]:
            found[name].append(in_a_process(name, fast=fast, threads=threads))
    grids = {name: np.array(results[0]["grid"]) for name, results in found.items()}
    difference = float(np.abs(grids["ours"] - grids["theirs"]).max())
    if not difference <= TOLERANCE:  # true also when one is not a number
        raise Disagreement(f"a balanced accuracy differs by {difference:.4f}, more than {TOLERANCE}")
    seconds = {name: [r["seconds"] for r in results] for name, results in found.items()}
    mib = {name: statistics.median(r["mib"] for r in results) for name, results in found.items()}
    flags = " --fast" if fast else ""
    return measuring.line(
        "probing",
        size.name,
        ours_s=statistics.median(seconds["ours"]),
        theirs_s=statistics.median(seconds["theirs"]),
        ratio=measuring.median_ratio(seconds["ours"], seconds["theirs"]),
        peak_mib=mib["ours"],
        theirs_mib=round(mib["theirs"]),
        memory_ratio=float(f"{mib['ours'] / max(mib['theirs'], 1):.3g}"),
        difference=float(f"{difference:.2g}"),
        accuracies=[float(f"{v:.3f}") for v in (grids["ours"].min(), grids["ours"].max())],
        questions=size.questions,
        places=int(grids["ours"].size),
        rounds=size.rounds,
        threads=threads,
        command=f"python benchmarks/probing.py{flags} --threads {threads} --record",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument(
        "--threads", type=int, metavar="N", default=torch.get_num_threads(), help="CPU threads"
    )
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    size = FAST if options.fast else FULL
    torch.set_num_threads(options.threads)
    if options.side:
        print(json.dumps(side(options.side, size)))
        return 0
    try:
        line = measure(size, threads=options.threads, fast=options.fast)
    except (Disagreement, RuntimeError) as error:
        print(f"not comparable: {error}", file=sys.stderr)
        return 1
    print(f"{size.name}, {line['questions']} questions, {line['places']} places, {line['machine']}")
    measuring.print_table(
        ["side", "seconds", "MiB above model and questions"],
        [
            ["ours", f"{line['ours_s']:.2f}", str(line["peak_mib"])],
            ["theirs", f"{line['theirs_s']:.2f}", str(line["theirs_mib"])],
        ],
    )
    print(
        f"ours / theirs: {line['ratio']:.3f}, {1 / line['ratio']:.1f} times as fast; memory {line['memory_ratio']:.2f}"
    )
    measuring.finish([line], record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
