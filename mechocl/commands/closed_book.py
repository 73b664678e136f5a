"""`mechocl pretrain` and `mechocl finetune`: models of text worlds."""

from pathlib import Path
from typing import Annotated, Final

import tyro

from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.miniature import MiniatureConfig
from mechocl.commands.options import (
    Changes,
    Computing,
    Device,
    PositionalRecipe,
    SaveEvery,
    SeedRange,
    jobs_of,
    joined,
    seconds_of,
)
from mechocl.destinations import require_folder
from mechocl.errors import MechoclError
from mechocl.runs.pretraining_config import MINIATURE, PretrainingConfig
from mechocl.runs.train_toy import SAVE_EVERY_S

_ONE: Final = SeedRange(seeds=1)


def biographies(
    out: Path,
    people: Annotated[BiographiesConfig, tyro.conf.OmitArgPrefixes] = BiographiesConfig(),  # noqa: B008
    model: Annotated[PretrainingConfig, tyro.conf.OmitArgPrefixes] = PretrainingConfig(),  # noqa: B008
    seed: int = 0,
    device: Device = "auto",
    save_every: SaveEvery = 60.0,
) -> None:
    """Pretrain a small GPT-NeoX on an invented world, for users who do not have the weights of Pythia.

    Saves an ordinary Hugging Face folder. The same command continues a training that was stopped.

    Args:
        out: Folder of the model. It is new, or holds the same model.
        people: The people of the world, and its corpus.
        model: The model, and its training.
        seed: Seed that draws the world, the weights and the order of the texts.
    """
    _pretrain(people, model, out=out, seed=seed, device=device, save_every=save_every)


def miniature(
    out: Path,
    people: Annotated[MiniatureConfig, tyro.conf.OmitArgPrefixes] = MiniatureConfig(),  # noqa: B008
    model: Annotated[PretrainingConfig, tyro.conf.OmitArgPrefixes] = MINIATURE,
    seed: int = 0,
    device: Device = "auto",
    save_every: SaveEvery = 60.0,
) -> None:
    """Pretrain a very small GPT-NeoX on an invented world of one-word names and answers, in minutes of one core.

    Saves an ordinary Hugging Face folder. The same command continues a training that was stopped.

    Args:
        out: Folder of the model. It is new, or holds the same model.
        people: The people of the world, and its corpus.
        model: The model, and its training.
        seed: Seed that draws the world, the weights and the order of the texts.
    """
    _pretrain(people, model, out=out, seed=seed, device=device, save_every=save_every)


def _pretrain(
    world: BiographiesConfig | MiniatureConfig,
    model: PretrainingConfig,
    *,
    out: Path,
    seed: int,
    device: Device,
    save_every: SaveEvery,
) -> None:
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs import pretraining
    from mechocl.runs.processes import cores, torch_threads
    from mechocl.runs.progress import Display

    require_folder(out)
    name = "miniature" if isinstance(world, MiniatureConfig) else "biographies"
    with (
        torch_threads(1 if model.small else cores()),
        Display(f"pretraining on {name}", ["model"]) as display,
    ):
        known = pretraining.pretrain(
            out,
            world,
            model,
            seed=seed,
            device=seam.resolve_device(device),
            save_every_s=seconds_of(save_every),
            progress=display.reporter(0),
        )
    printing.frame("exact match on questions about known people", known)
    print(f"model: {out}")


def finetune(
    recipe: PositionalRecipe,
    out: Path | None = None,
    model: str = "",
    seeds: Annotated[SeedRange, tyro.conf.OmitArgPrefixes] = _ONE,
    changes: Changes = (),
    computing: Annotated[Computing, tyro.conf.OmitArgPrefixes] = Computing(),  # noqa: B008
    save_every: SaveEvery = SAVE_EVERY_S * 3,
    dry_run: bool = False,
) -> None:
    """Fine-tune a Hugging Face model on definitions and questions.

    The same command continues a run that was stopped. For several GPUs or nodes, use `accelerate launch -m mechocl
    finetune …` with the same arguments.

    Args:
        recipe: Name of a recipe that comes with the package (closed-book/two-stage …), or a TOML file.
        out: Folder of the run. It is new, or holds the same run.
        model: Name on the hub, or folder, of a Hugging Face model that is taken instead of the recipe's model.
        seeds: The seeds that are trained.
        computing: How the seeds are computed.
        dry_run: Only say what the training would cost: tokens, memory, time. Options that say where and how it is done
            change nothing then.
    """
    from mechocl.analyses import jobs
    from mechocl.closed_book import cost
    from mechocl.commands import printing
    from mechocl.runs import finetune as fine_tuning, recipes

    resolved = recipes.load_closed_book_recipe(
        recipe, (*joined(changes), *([f'model="{model}"'] if model else []))
    )
    wanted = seeds.numbers()
    first = fine_tuning.is_first()
    if first:
        print(cost.cost_in_words(cost.estimate_cost(resolved), seeds=len(wanted)))
    if dry_run:
        return
    if out is None:
        raise MechoclError("give --out DIR, the folder of the run, or --dry-run")
    fine_tuning.refuse(resolved)
    processes = fine_tuning.processes()
    run = jobs.train_run(
        out,
        resolved,
        recipe_name=recipe,
        seeds=wanted,
        device=computing.resolved_device(),
        jobs=1 if processes > 1 else jobs_of(computing.jobs),
        save_every_s=seconds_of(save_every),
    )
    if first:
        printing.trained(run, device=computing.resolved_device(), jobs=jobs_of(computing.jobs))
        print(f"run: {out}")
    elif len(run.failures()) == len(run.seeds):
        run.finished_seeds()  # raises an error that says so
