"""Time whole recipes on a GPU against their limits: the training steps of all stages, without evaluating.

The first recipe is trained to its end. Other recipes are extrapolated from `STEPS` steps of each stage.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import measuring
import torch
from training_sides import build_ours

from mechocl.runs import recipes
from toy_models import integer_set
from toy_models.training import train_stage

COMMAND: Final = "python benchmarks/training.py --whole --device cuda --record"
WARM_UP: Final = 5
STEPS: Final = 200
FAST_STEPS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A recipe that is trained with some seeds. Its limit is in seconds, or in multiples of the time of one seed."""

    name: str
    recipe: str
    seeds: int
    limit_s: float | None = None
    times_one: float | None = None
    extrapolated: bool


WHOLE: Final = (
    Whole(name="paper, 1 seed", recipe="integer-set/paper", seeds=1, limit_s=120, extrapolated=False),
    Whole(name="paper, 20 seeds", recipe="integer-set/paper", seeds=20, limit_s=1800, extrapolated=True),
    Whole(name="cpu, 20 seeds", recipe="integer-set/short", seeds=20, times_one=3, extrapolated=True),
)


def measure(*, device: str, fast: bool) -> list[dict[str, Any]]:
    """Time all recipes, print the table and return the lines. Without a GPU only the command is named."""
    if device != "cuda":
        measuring.print_table(
            ["what", "measured", "command"], [[one.name, "not measured", COMMAND] for one in WHOLE]
        )
        print()
        return []
    lines = [_timed(one, device=device, fast=fast) for one in WHOLE]
    measuring.print_table(
        ["what", "seconds", "limit", "ratio", "from"],
        [
            [r["case"], f"{r['ours_s']:.4g}", f"{r['theirs_s']:.4g}", f"{r['ratio']:.2f}", _source(r)]
            for r in lines
        ],
    )
    print()
    return lines


def _source(line: dict[str, Any]) -> str:
    return f"{line['from_steps']} steps of each stage" if line["from_steps"] else "every step"


def _timed(whole: Whole, *, device: str, fast: bool) -> dict[str, Any]:
    n = FAST_STEPS if fast else STEPS
    steps = n if whole.extrapolated or fast else None
    torch.cuda.reset_peak_memory_stats()
    took = seconds(recipes.load_recipe(whole.recipe), seeds=whole.seeds, device=device, steps=steps)
    peak = measuring.peak_mib(device)
    limit = whole.limit_s
    if limit is None:
        assert whole.times_one is not None
        limit = whole.times_one * seconds(
            recipes.load_recipe(whole.recipe), seeds=1, device=device, steps=steps
        )
    command = COMMAND.replace(" --record", " --fast --record") if fast else COMMAND
    return measuring.line(
        "training-whole",
        whole.name,
        ours_s=took,
        theirs_s=limit,
        peak_mib=peak,
        device=device,
        from_steps=steps,
        command=command,
    )


def seconds(recipe: recipes.Recipe, *, seeds: int, device: str, steps: int | None) -> float:
    """Seconds of all stages' steps, for all seeds together.

    `steps`: time so many steps of each stage, after some to warm up, and extrapolate. None times all steps.
    """
    tasks = [integer_set.build(recipe.task, seed=seed) for seed in range(seeds)]
    models = [
        build_ours(recipe, task, seed=seed).to(device, print_details=False) for seed, task in enumerate(tasks)
    ]
    return sum(
        _stage_seconds(recipe, stage, models, tasks, device, steps) for stage in recipe.training.stages
    )


def _stage_seconds(
    recipe: recipes.Recipe,
    stage: Any,
    models: Sequence[Any],
    tasks: Sequence[Any],
    device: str,
    steps: int | None,
) -> float:
    moments = train_stage(models, tasks, stage, seeds=range(len(models)), precision=recipe.training.precision)
    total = next(moments).total_steps
    warm_up = 0 if steps is None else min(WARM_UP, total - 1)
    for _ in itertools.islice(moments, warm_up):
        pass
    _wait_for(device)
    started = time.perf_counter()
    timed = sum(1 for _ in itertools.islice(moments, steps))
    _wait_for(device)
    return (time.perf_counter() - started) / timed * total


def _wait_for(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
