"""`mechocl controls`: train a recipe and its control runs, and say whether its gap needs unreliable definitions."""

from pathlib import Path
from typing import Annotated, Final

import tyro

from mechocl.commands.options import (
    Changes,
    Computing,
    PositionalRecipe,
    SaveEvery,
    SeedRange,
    jobs_of,
    joined,
    seconds_of,
)
from mechocl.runs.train_toy import SAVE_EVERY_S

_SEEDS: Final = SeedRange(seeds=8)

_DEFAULT: Final = ("noise", "noise-equal-steps", "unasked", "unasked-equal-steps", "consistent")


def controls(
    recipe: PositionalRecipe,
    out: Path,
    only: tuple[str, ...] = _DEFAULT,
    model: str = "",
    seeds: Annotated[SeedRange, tyro.conf.OmitArgPrefixes] = _SEEDS,
    changes: Changes = (),
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    save_every: SaveEvery = SAVE_EVERY_S,
) -> None:
    """Train a recipe and its controls, in which no definition is unreliable, and compare their gaps, paired by seed.

    The run is in the folder --out, and the control runs are in the folder controls inside it. They are ordinary runs.
    The same command continues what was stopped, and adds controls and seeds to a run that is there.

    Args:
        recipe: Name of a recipe that comes with the package, or a TOML file.
        out: Folder of the run. It is new, or holds the same run.
        only: The controls that are trained: noise, noise-equal-steps, unasked, unasked-equal-steps, consistent and half.
        model: For a closed-book recipe: name on the hub, or folder, of a Hugging Face model that is taken instead of
            the recipe's model.
        seeds: The seeds that are trained, of the run and of each control.
        computing: How the seeds are computed.
    """
    from mechocl.analyses import control_jobs
    from mechocl.commands import printing
    from mechocl.runs import recipes

    resolved = recipes.load_any_recipe(recipe, (*joined(changes), *([f'model="{model}"'] if model else [])))
    run = control_jobs.train_controls(
        out,
        resolved,
        only,
        recipe_name=recipe,
        seeds=seeds.numbers(),
        device=computing.resolved_device(),
        jobs=jobs_of(computing.jobs),
        save_every_s=seconds_of(save_every),
    )
    printing.trained(run, device=computing.resolved_device(), jobs=jobs_of(computing.jobs))
    printing.controls(run, device=computing.resolved_device(), jobs=jobs_of(computing.jobs))
    print(f"run: {out}")
