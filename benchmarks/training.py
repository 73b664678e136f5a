"""Training: this project's loop against Hugging Face's Trainer, and against what the machine can do.

ours     toy_models.training.train_stage, one model
stack    the same with several seeds together (--seeds)
Trainer  transformers.Trainer on a GPTNeoXForCausalLM of the same shape: same examples, batch size, precision
         and optimiser, labels of -100 where there is no loss; no evaluation, saving, logging or reporting

GPT-NeoX has logits for every token of the vocabulary, at every position, without bias. If a recipe has fewer
logits (cpu), the Trainer computes some that ours leaves out. Tied embeddings are tied in GPT-NeoX too, and
without positions no dimension is rotated. The Trainer's batches are one look-up, as ours are. It gives biases
and layer norms no weight decay. Before timing, the losses of both sides on a batch must agree, over the logits
that both have. Otherwise the exit status is 1.

Each side has a process of its own and takes turns with the other sides. The Trainer's clock runs from its
on_step_begin to its on_step_end. FLOP/s are useful work by one formula for all sides
(training_work.flops_per_example). The ceiling is the fastest matrix product seen between the rounds, in the
same precision with as many threads.

--scaling measures how the time of an epoch grows with aliases, layers, width and seeds. --whole measures whole
recipes on a GPU against their limits. Each of the two is in a module of its own.
"""

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import hugging_face
import measuring
import torch
import torch.nn.functional as F
import training_scaling
import training_whole
import training_work
from training_sides import Job, Side, SideEnded, build_ours

from mechocl.errors import MechoclError
from mechocl.models import seam
from mechocl.runs import recipes
from toy_models import integer_set, lean
from toy_models.losses import token_losses
from toy_models.stages import StageConfig
from toy_models.task import Task

TOLERANCE: Final = 1e-4
"""Largest difference in nats of the losses at the same weights, in float32, that is allowed."""
WARM_UP: Final = 3
"""Number of steps of each side before the first timed step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained, and how long it is watched."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    device: str
    batch_size: int
    many: int  # models in the stack
    steps: int  # that each side trains in a row in its turn
    rounds: int
    fast_rounds: int


CASES: Final = (
    Case(
        name="cpu",
        recipe="integer-set/short",
        device="cpu",
        batch_size=64,
        many=8,
        steps=20,
        rounds=15,
        fast_rounds=4,
    ),
    Case(
        name="pythia-70m",
        recipe="integer-set/paper",
        changes=("training.precision=float32",),
        device="cpu",
        batch_size=32,
        many=2,
        steps=1,
        rounds=9,
        fast_rounds=2,
    ),
    Case(
        name="paper",
        recipe="integer-set/paper",
        device="cuda",
        batch_size=512,
        many=20,
        steps=10,
        rounds=15,
        fast_rounds=4,
    ),
)


class Disagreement(Exception):
    """The sides do not compute the same loss, so that comparing their speed would mean nothing."""


def measure(case: Case, *, many: int | None, threads: int | None, fast: bool) -> dict[str, Any]:
    """Check and time one case, print its table, return its line."""
    rounds = case.fast_rounds if fast else case.rounds
    job = Job(
        recipe=case.recipe,
        changes=case.changes,
        batch_size=case.batch_size,
        device=case.device,
        threads=threads,
        steps=WARM_UP + case.steps * rounds,
    )
    recipe, stage = job.load()
    task = integer_set.build(recipe.task, seed=0)
    count = many or case.many
    stack = f"stack of {count}"
    sides = {name: Side(job, models=k) for name, k in (("ours", 1), (stack, count), ("Trainer", 0))}
    try:
        check(recipe, task, stage, device=case.device)
        for side in sides.values():  # all sides get ready at the same time
            side.start(WARM_UP)
        for side in sides.values():
            side.wait()
        architecture = recipe.model.resolve()
        products = training_work.model_products(task, architecture, stage.data, case.batch_size)
        ceilings: list[float] = []

        def look() -> None:
            ceilings.append(
                training_work.ceiling(products, device=case.device, precision=recipe.training.precision)
            )

        turns = {name: _block(side, case.steps) for name, side in sides.items()} | {"ceiling": look}
        seconds = measuring.in_turns(turns, rounds=rounds, device=case.device)
        peaks = {name: side.finish() for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.abandon()
    work = Work(
        batch_size=case.batch_size,
        flops=training_work.flops_per_example(task, architecture, stage.data),
        ceiling=max(ceilings),
    )
    del seconds["ceiling"]
    return _summarised(case, seconds, peaks, work, stack=stack, models=count, fast=fast)


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What is needed to compute speeds from the seconds of a step."""

    batch_size: int
    flops: float  # of an example
    ceiling: float  # FLOP/s


def _block(side: Side, steps: int) -> Any:
    return lambda: side.train(steps)


def check(recipe: recipes.Recipe, task: Task, stage: StageConfig, *, device: str) -> None:
    """Raise Disagreement unless both sides' losses on the first examples agree within `TOLERANCE`."""
    model = build_ours(recipe, task, seed=0).to(device, print_details=False)
    theirs = hugging_face.build(recipe.model.resolve(), d_vocab=len(task.vocabulary), n_ctx=task.n_ctx)
    theirs = theirs.to(device)
    hugging_face.copy_weights(theirs, model)
    parameters = {k: v.detach() for k, v in lean.parameters_of([model]).items()}
    # definitions come first, so take examples from all of the data
    rows = torch.from_numpy(task.training_rows(stage.data))
    rows = rows[:: -(-len(rows) // stage.batch_size)]
    mask, tokens = task.loss_mask[rows, :-1].to(device), task.tokens[rows].to(device)
    with torch.no_grad():
        most = int(mask.sum(1).max())
        shape = lean.shape_of(model)
        ours = float(token_losses(parameters, shape, tokens[None], mask[None], most=most))
        # labels are those that the Trainer gets; of its logits, those that ours has too are used
        labels = hugging_face.labels(task)[rows].to(device)
        logits = theirs(input_ids=tokens).logits[:, :-1, : task.vocabulary.outputs]
        other = float(F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()))
    if not abs(ours - other) <= TOLERANCE:  # true also when one is not a number
        raise Disagreement(f"losses differ by more than {TOLERANCE:g}: ours {ours:.6f}, Trainer {other:.6f}")
    print(f"losses agree at the same weights: {ours:.4f} nats, difference {abs(ours - other):.1g}")


def _summarised(
    case: Case,
    seconds: dict[str, list[float]],
    peaks: dict[str, float],
    work: Work,
    *,
    stack: str,
    models: int,
    fast: bool,
) -> dict[str, Any]:
    # seconds of one model
    step_s = {side: statistics.median(values) / case.steps for side, values in seconds.items()}
    step_s[stack] /= models
    ratios = {side: measuring.median_ratio(values, seconds["Trainer"]) for side, values in seconds.items()}
    ratios[stack] /= models
    sides = [
        {
            "side": side,
            "examples_s": float(f"{work.batch_size / s:.4g}"),
            "gflops": float(f"{work.flops * work.batch_size / s / 1e9:.4g}"),
            "share": float(f"{work.flops * work.batch_size / s / work.ceiling:.3g}"),
            "peak_mib": round(peaks[side]),
        }
        for side, s in step_s.items()
    ]
    threads = torch.get_num_threads()
    with_threads = f"{threads} thread{'s' * (threads > 1)}"
    name = case.name if case.device == "cuda" else f"{case.name}, {with_threads}"
    print(
        f"{name} ({case.recipe}, batch {case.batch_size}), {measuring.machine(case.device)}; "
        f"ceiling {work.ceiling / 1e9:.4g} GFLOP/s, {work.flops / 1e6:.4g} MFLOP an example"
    )
    measuring.print_table(
        ["side", "examples/s", "GFLOP/s", "of ceiling", "peak MiB", "time / Trainer's (lower is better)"],
        [
            [
                str(one["side"]),
                f"{one['examples_s']:.4g}",
                f"{one['gflops']:.4g}",
                f"{one['share']:.1%}",
                str(one["peak_mib"]),
                f"{ratios[str(one['side'])]:.2f}",
            ]
            for one in sides
        ],
    )
    print()
    flags = " --device cuda" if case.device == "cuda" else f" --device cpu --threads {threads}"
    return measuring.line(
        "training",
        name,
        ours_s=step_s["ours"],
        theirs_s=step_s["Trainer"],
        ratio=ratios["ours"],
        peak_mib=peaks["ours"],
        device=case.device,
        many_ratio=float(f"{ratios[stack]:.3g}"),
        models=models,
        batch_size=case.batch_size,
        ceiling_gflops=float(f"{work.ceiling / 1e9:.4g}"),
        sides=sides,
        threads=threads,
        command=f"python benchmarks/training.py{flags}{' --fast' if fast else ''} --record",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=1, help="torch's threads on a CPU (default: 1)")
    parser.add_argument("--seeds", type=int, help="models in the stack (default: each case's own)")
    others = parser.add_mutually_exclusive_group()
    others.add_argument(
        "--scaling", action="store_true", help="measure the exponents of the time of an epoch instead"
    )
    others.add_argument("--whole", action="store_true", help="measure whole recipes on a GPU instead")
    options = parser.parse_args(argv)
    try:
        device = seam.resolve_device(options.device)
    except MechoclError as error:
        print(error, file=sys.stderr)
        return 2
    threads = options.threads if device == "cpu" else None
    if threads:
        torch.set_num_threads(threads)
    if options.scaling:
        table = training_scaling.measure(device=device, fast=options.fast)
        training_scaling.finish(table, record=options.record)
        return 0
    if options.whole:
        lines = training_whole.measure(device=device, fast=options.fast)
        measuring.finish(lines, record=options.record and bool(lines))
        return 0
    try:
        lines = [
            measure(case, many=options.seeds, threads=threads, fast=options.fast)
            for case in CASES
            if case.device == device
        ]
    except (Disagreement, SideEnded) as error:
        print(f"not timed: {error}", file=sys.stderr)
        return 1
    measuring.finish(lines, record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
