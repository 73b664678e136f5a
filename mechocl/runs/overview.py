"""How a run and a seed look in a notebook: in one line, and as HTML."""

from typing import TYPE_CHECKING

import pandas as pd

from mechocl.behaviour.formats import count_range
from toy_models.shown import MISSING, Shown

if TYPE_CHECKING:
    from mechocl.runs.folders import SeedFolder
    from mechocl.runs.run import Run


def run_line(run: "Run") -> str:
    """`Run('runs/demo', integer-set/cpu, 12 seeds: 0–11)`, without a look at the disk."""
    count = f"{len(run.seeds)} seed{'s' * (len(run.seeds) != 1)}"
    looks_at = f", attribute {run.attribute}" if run.attribute else ""
    return f"Run({str(run.path)!r}, {run.recipe_name}, {count}: {count_range(run.seeds)}{looks_at})"


def seed_line(seed: "SeedFolder") -> str:
    """`SeedFolder('runs/demo/seed-0')`, without a look at the disk."""
    return f"{type(seed).__name__}({str(seed.path)!r})"


def run_html(run: "Run") -> str:
    """A run's seeds, and which results, controls and variants it has, as HTML."""
    rows = [_seed_row(run.seed(number)) for number in run.seeds]
    facts = [run.recipe.description] if run.recipe.description else []
    for name in ("results", "controls", "variants", "saes"):
        if there := sorted(path.name for path in (run.path / name).glob("*/")):
            facts.append(f"{name}: {', '.join(there)}")
    facts.append("run.seed(0) is a seed, with .model and .task.")
    return Shown(title=run_line(run), facts=tuple(facts), tables=(("", pd.DataFrame(rows)),))._repr_html_()


def _seed_row(seed: "SeedFolder") -> dict[str, object]:
    stages = len(seed.recipe.training.stages)
    done = sum(seed.stage_finished(number) for number in range(1, stages + 1))
    failure = seed.failure()
    state = f"diverged: {failure}" if failure else "trained" if done == stages else "not trained to the end"
    return {"seed": seed.seed, "state": state, "stages": f"{done} of {stages}", "checkpoints": len(seed.checkpoints())}  # fmt: skip


def seed_html(seed: "SeedFolder") -> str:
    """A seed's stages, with their checkpoints, as HTML."""
    there = seed.checkpoints()
    rows = []
    for number in range(1, len(seed.recipe.training.stages) + 1):
        steps = [one.step for one in there if one.stage == number]
        state = "trained" if seed.stage_finished(number) else "not trained to the end"
        rows.append({"stage": number, "state": state, "checkpoints": len(steps), "at steps": ", ".join(map(str, steps)) or MISSING})  # fmt: skip
    facts = [f"diverged: {failure}"] if (failure := seed.failure()) else []
    facts.append(
        "seed.task is what it was trained on; seed.model is the model after the last stage, and "
        "seed.model_at(seed.checkpoints()[0]) that of a checkpoint."
    )
    return Shown(title=seed_line(seed), facts=tuple(facts), tables=(("", pd.DataFrame(rows)),))._repr_html_()
