"""Seconds of one training step: this project's loop, against a plain PyTorch model of the same shape.

ours    toy_models.training.train_stage: the lean forward pass over a HookedTransformer's parameters,
        logits only where there is loss, and everything else that the loop does between two steps
plain   nn.Embedding, nn.LayerNorm, nn.Linear (q, k, v in one), scaled_dot_product_attention, logits at
        every position, cross-entropy that ignores the positions without loss
hooked  HookedTransformer's own forward pass, with the same loss (for information)

All take the same batches, start from the same weights and step the same fused AdamW; nobody compiles.
On a CPU everything is float32; on a GPU the forward pass is bf16 under autocast. Before timing, the
losses of all sides must agree, at the first weights and after some steps; otherwise the exit status is 1.
"""

import copy
import dataclasses
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import measuring
import plain_gpt
import torch
import torch.nn.functional as F
from torch import Tensor

from mechocl import models, recipes
from mechocl.errors import MechoclError
from toy_models import architectures, integer_set, lean
from toy_models.randomness import generator
from toy_models.task import Task
from toy_models.training import StageConfig, token_loss, train_stage

TOLERANCE: Final = 1e-4
"""Largest difference (nats) of the losses at the same weights, in float32."""
STEPPED_TOLERANCE: Final = {"cpu": 1e-3, "cuda": 5e-2}
"""The same after `CHECKED_STEPS` of each side's own, in float32 and bf16: each rounds in its own way."""
CHECKED_STEPS: Final = 2
IGNORED: Final = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is trained, and how long it is watched."""

    name: str
    recipe: str
    changes: tuple[str, ...] = ()
    batch_size: int
    gpu_batch_size: int
    steps: int  # in a row, of each side in turn
    rounds: int
    fast_rounds: int


CASES: Final = (
    Case(
        name="small",
        recipe="integer-set/cpu",
        batch_size=64,
        gpu_batch_size=64,
        steps=40,
        rounds=40,
        fast_rounds=6,
    ),
    Case(
        name="pythia-70m",
        recipe="integer-set/paper",
        changes=("training.stages.0.optimizer=adamw",),
        batch_size=64,
        gpu_batch_size=512,
        steps=1,
        rounds=15,
        fast_rounds=3,
    ),
)


class Disagreement(Exception):
    """The sides do not compute the same loss, so that comparing their speed would mean nothing."""


class Side:
    """One of the competitors: `loss(batch)`, and `step()`, which trains on the next batch."""

    def __init__(
        self,
        task: Task,
        stage: StageConfig,
        module: torch.nn.Module,
        loss: Callable[[Tensor], Tensor],
        device: str,
    ) -> None:
        self.loss, self.device = loss, device
        trained = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            trained,
            lr=stage.learning_rate,
            betas=(stage.momentum, stage.beta2),
            weight_decay=stage.weight_decay,
            fused=True,
        )
        self.batches = _batches(task, stage)

    def step(self) -> None:
        batch = next(self.batches).to(self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            loss = self.loss(batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()


def measure(case: Case, *, device: str, fast: bool) -> dict[str, Any]:
    """Check and time one case, print its table, return its line."""
    batch_size = case.batch_size if device == "cpu" else case.gpu_batch_size
    recipe = recipes.load(case.recipe, case.changes)
    task = integer_set.build(recipe.task, seed=0)
    stage = dataclasses.replace(
        recipe.training.stages[0],
        batch_size=batch_size,
        schedule="constant",
        warmup=0.0,
        evaluations=1,
        checkpoints=1,
    )
    architecture = recipe.model.resolve()
    sizes = {"d_vocab": len(task.vocabulary), "d_vocab_out": task.vocabulary.outputs, "n_ctx": task.n_ctx}
    model = architectures.build(architecture, **sizes, seed=0).to(device, print_details=False)
    plain = plain_gpt.PlainGPT(architecture, **sizes).to(device)
    plain_gpt.copy_weights(plain, model)
    hooked = copy.deepcopy(model)

    moments = train_stage(model, task, stage, seed=0, precision="float32" if device == "cpu" else "bf16")
    next(moments)  # step 0: nothing is trained yet
    losses = {
        "ours": _our_loss(task, model, device),
        "plain": _plain_loss(task, plain, device),
        "hooked": _hooked_loss(task, hooked, device),
    }
    steps = {
        "ours": lambda: next(moments),
        "plain": Side(task, stage, plain, losses["plain"], device).step,
        "hooked": Side(task, stage, hooked, losses["hooked"], device).step,
    }
    first = next(_batches(task, stage)).to(device)
    check(losses, first, TOLERANCE, "at the same weights")
    for step in steps.values():  # warms up, too
        for _ in range(CHECKED_STEPS):
            step()
    check(losses, first, STEPPED_TOLERANCE[device], f"after {CHECKED_STEPS} steps")

    blocks = {name: _repeated(step, case.steps) for name, step in steps.items()}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = measuring.in_turns(blocks, rounds=case.fast_rounds if fast else case.rounds, device=device)
    return _summarised(case, seconds, batch_size=batch_size, device=device, fast=fast)


def check(losses: dict[str, Callable[[Tensor], Tensor]], batch: Tensor, tolerance: float, when: str) -> None:
    """Raise Disagreement unless every side's loss on `batch` is that of the first, within `tolerance`."""
    with torch.no_grad():
        values = {name: float(loss(batch)) for name, loss in losses.items()}
    spread = max(values.values()) - min(values.values())
    if not spread <= tolerance:  # also when one is not a number
        shown = ", ".join(f"{name} {value:.6f}" for name, value in values.items())
        raise Disagreement(f"losses {when} differ by {spread:.2g}, more than {tolerance:g}: {shown}")
    print(f"losses agree {when}: {next(iter(values.values())):.4f} nats, largest difference {spread:.1g}")


def _batches(task: Task, stage: StageConfig) -> Any:
    """Row numbers, batch after batch, in the order that `train_stage` draws for seed 0."""
    rows = torch.from_numpy(task.training_rows(stage.data))
    for epoch in range(stage.epochs):
        draws = generator(0, "order", stage.data, epoch)
        yield from rows[torch.randperm(len(rows), generator=draws)].split(stage.batch_size)


def _our_loss(task: Task, model: Any, device: str) -> Callable[[Tensor], Tensor]:
    shape, parameters = lean.shape_of(model), lean.parameters_of(model)
    tokens, mask = task.tokens.to(device), task.loss_mask.to(device)
    return lambda batch: token_loss(parameters, shape, tokens[batch], mask[batch])


def _plain_loss(task: Task, plain: plain_gpt.PlainGPT, device: str) -> Callable[[Tensor], Tensor]:
    targets = F.pad(task.tokens[:, 1:], (0, 1)).masked_fill(~task.loss_mask, IGNORED).to(device)
    tokens = task.tokens.to(device)

    def loss(batch: Tensor) -> Tensor:
        logits = plain(tokens[batch])
        return F.cross_entropy(logits.flatten(0, 1), targets[batch].flatten(), ignore_index=IGNORED)

    return loss


def _hooked_loss(task: Task, model: Any, device: str) -> Callable[[Tensor], Tensor]:
    targets = F.pad(task.tokens[:, 1:], (0, 1)).masked_fill(~task.loss_mask, IGNORED).to(device)
    tokens = task.tokens.to(device)
    parameters = dict(model.named_parameters())
    if model.cfg.tie_word_embeddings:
        # TransformerLens keeps two tensors; training must see one
        parameters["unembed.W_U"] = model.embed.W_E[: model.cfg.d_vocab_out].T

    def loss(batch: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, parameters, (tokens[batch],))
        return F.cross_entropy(logits.flatten(0, 1), targets[batch].flatten(), ignore_index=IGNORED)

    return loss


def _repeated(step: Callable[[], object], times: int) -> Callable[[], None]:
    def block() -> None:
        for _ in range(times):
            step()

    return block


def _summarised(
    case: Case, seconds: dict[str, list[float]], *, batch_size: int, device: str, fast: bool
) -> dict[str, Any]:
    name = f"{case.name}, batch {batch_size}"
    medians = {side: statistics.median(values) / case.steps for side, values in seconds.items()}
    ratios = {side: measuring.median_ratio(values, seconds["plain"]) for side, values in seconds.items()}
    threads = torch.get_num_threads()
    print(f"{name} ({case.recipe}), {measuring.machine(device)}, {threads} thread{'s' * (threads > 1)}")
    measuring.print_table(
        ["side", "ms a step", "side / plain (lower is better)"],
        [[side, f"{1e3 * medians[side]:.2f}", f"{ratios[side]:.2f}"] for side in seconds],
    )
    print()
    assert all(math.isfinite(r) for r in ratios.values())
    flags = f"{' --device cuda' if device == 'cuda' else ''}{' --fast' if fast else ''}"
    return measuring.line(
        "training-step",
        name,
        ours_s=medians["ours"],
        theirs_s=medians["plain"],
        ratio=ratios["ours"],
        peak_mib=measuring.peak_mib(device),
        device=device,
        hooked_s=float(f"{medians['hooked']:.4g}"),
        threads=threads,
        command=f"python benchmarks/training_step.py{flags} --record",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = measuring.parser(__doc__)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--threads", type=int, default=1, help="torch's threads on a CPU (default: 1, as a seed of the demo)"
    )
    options = parser.parse_args(argv)
    try:
        device = models.resolve_device(options.device)
    except MechoclError as error:
        print(error, file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    try:
        lines = [measure(case, device=device, fast=options.fast) for case in CASES]
    except Disagreement as error:
        print(f"not timed: {error}", file=sys.stderr)
        return 1
    measuring.finish(lines, record=options.record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
