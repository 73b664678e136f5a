"""`mechocl pretrain` and `mechocl finetune`: models of text worlds."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.commands.analysis import Device, jobs_of
from mechocl.errors import MechoclError
from mechocl.runs.pretraining import PretrainingConfig
from mechocl.runs.train_toy import SAVE_EVERY_S

_WORLD: Final = BiographiesConfig()
_MODEL: Final = PretrainingConfig()

Changes = Annotated[
    tuple[tuple[str, ...], ...],
    tyro.conf.arg(name="set", metavar="KEY=VALUE ..."),
    tyro.conf.UseAppendAction,
]


def pretrain(
    world: Annotated[Literal["biographies"], tyro.conf.Positional],
    out: Path,
    people: int = _WORLD.people,
    call_signs: float = _WORLD.call_signs,
    told: int = _WORLD.told,
    asked: int = _WORLD.asked,
    letters: int = _WORLD.letters,
    n_layers: int = _MODEL.n_layers,
    d_model: int = _MODEL.d_model,
    n_heads: int = _MODEL.n_heads,
    vocabulary: int = _MODEL.vocabulary,
    context: int = _MODEL.context,
    epochs: int = _MODEL.epochs,
    batch_tokens: int = _MODEL.batch_tokens,
    learning_rate: float = _MODEL.learning_rate,
    seed: int = 0,
    device: Device = "auto",
    save_every: float = 60.0,
) -> None:
    """Pretrain a small GPT-NeoX on an invented world, for those without the weights of Pythia.

    Saves an ordinary Hugging Face folder; the same command again continues one that was stopped.

    Args:
        world: The world that it reads about.
        out: Folder of the model, new or the same one's.
        people: People of the world.
        call_signs: Share of the people with a call sign, a second name that the corpus uses.
        told: Biographies of each person in the corpus, each in other words and another order.
        asked: Times that the corpus asks each question about each person, each in other words.
        letters: Letters of a call sign.
        n_layers: Transformer blocks.
        d_model: Width of the residual stream.
        n_heads: Attention heads per block.
        vocabulary: Tokens of the byte-level BPE tokenizer.
        context: Longest text in tokens.
        epochs: Passes over the corpus.
        batch_tokens: Tokens of one update, in texts of like length.
        learning_rate: Peak learning rate of AdamW; falls to 0 in the last fifth.
        seed: Of the world, the weights and the order of the texts.
        device: Where to compute; auto takes a GPU if there is one.
        save_every: Seconds between resume points.
    """
    import torch

    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs.pretraining import pretrain as train
    from mechocl.runs.processes import cores
    from mechocl.runs.progress import Display

    try:
        biographies = BiographiesConfig(
            people=people, call_signs=call_signs, told=told, asked=asked, letters=letters
        )
        config = PretrainingConfig(
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            vocabulary=vocabulary,
            context=context,
            epochs=epochs,
            batch_tokens=batch_tokens,
            learning_rate=learning_rate,
        )
    except ValueError as error:
        raise MechoclError(str(error)) from None
    torch.set_num_threads(cores())
    with Display(f"pretraining on {world}", ["model"]) as display:
        known = train(
            out,
            biographies,
            config,
            seed=seed,
            device=seam.resolve_device(device),
            save_every_s=_seconds(save_every),
            progress=display.reporter(0),
        )
    printing.frame("exact match on questions about known people", known)
    print(f"model: {out}")


def finetune(
    recipe: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RECIPE")],
    out: Path | None = None,
    model: str = "",
    seeds: int = 1,
    first_seed: int = 0,
    set: Changes = (),
    device: Device = "auto",
    jobs: int = 0,
    save_every: float = SAVE_EVERY_S * 3,
    dry_run: bool = False,
) -> None:
    """Fine-tune a Hugging Face model on definitions and questions; the same command again continues.

    Several GPUs or nodes: `accelerate launch -m mechocl finetune …` with the same arguments.

    Args:
        recipe: Name of a recipe that comes with the package (closed-book/two-stage …), or a TOML file.
        out: Folder of the run, new or the same run's.
        model: Name on the hub or folder of a Hugging Face model, instead of the recipe's.
        seeds: Number of seeds.
        first_seed: The first seed; the others follow it.
        set: Changes to the recipe, as task.entities=500 or training.stages.0.epochs=10.
        device: Where to compute; auto takes a GPU if there is one.
        jobs: Seeds at a time; 0: one per core on a CPU, one on a GPU.
        save_every: Seconds between resume points.
        dry_run: Only say what it would cost: tokens, memory, time.
    """
    from mechocl.analyses import jobs as jobs_
    from mechocl.closed_book import cost
    from mechocl.commands import printing
    from mechocl.models import seam
    from mechocl.runs import finetune as finetune_
    from mechocl.runs import recipes
    from mechocl.runs.train_toy import seeds_from

    changes = tuple(change for group in set for change in group)
    resolved = recipes.load_closed_book(recipe, (*changes, *([f'model="{model}"'] if model else [])))
    wanted = seeds_from(seeds, first_seed)
    first = finetune_.is_first()
    if first:
        print(cost.cost_in_words(cost.estimate_cost(resolved), seeds=len(wanted)))
    if dry_run:
        return
    if out is None:
        raise MechoclError("give --out DIR, the folder of the run; or --dry-run")
    finetune_.refuse(resolved)
    processes = finetune_.processes()
    run = jobs_.train_run(
        out,
        resolved,
        recipe_name=recipe,
        seeds=wanted,
        device=seam.resolve_device(device),
        jobs=1 if processes > 1 else jobs_of(jobs),
        save_every_s=_seconds(save_every),
    )
    if first:
        printing.failures(run)
    if len(run.failures()) == len(run.seeds):
        run.finished_seeds()  # says so
    if first:
        print(f"run: {out}")


def _seconds(value: float) -> float:
    if not value >= 0:
        raise MechoclError(f"--save-every {value}: give seconds, 0 or more")
    return value


COMMANDS: Final[dict[str, Callable[..., None]]] = {"pretrain": pretrain, "finetune": finetune}
