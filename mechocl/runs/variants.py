"""Variant runs: the last stage of a run trained again with one thing changed.

A variant begins with the weights that the run itself had before its last stage, and trains that stage with the same
seeds, the same aliases and the same order of examples. So a seed of the run and of a variant differ in what the variant
changes alone. A variant that changed nothing would end with the run's own weights, bit for bit.

The variant runs of a run lie in its folder: RUN/variants/NAME. They are ordinary runs, whose recipe says what is
changed. The weights and histories of the stages before are copies of the run's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.runs import recipes
from mechocl.runs.kinds import VARIANTS_FOLDER
from mechocl.runs.recipes import Recipe
from mechocl.runs.run import Run

EXCHANGED: Final = "exchanged-tags"
"""Name of the variant in which the aliases of d1 and d2 have changed places."""

FROZEN_TAGS: Final = "frozen-tags"
"""Name of the variant in which the tags do not learn."""

_LOCK_PATIENCE_S: Final = 10.0
"""Seconds to wait for another process that copies the same weights. Copying takes less than a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to train the last stage of a run."""

    name: str
    changes: tuple[str, ...]
    """Fields of the last stage that are changed, as `field=value`."""
    meaning: str
    """What is the case in the variant, for tables."""


def _tag_embeddings() -> list[Variant]:
    found = []
    for name, value, meaning in (
        ("tag-1", "tag_1", "tag 1's embedding in place of every tag's"),
        ("tag-2", "tag_2", "tag 2's embedding in place of every tag's"),
        ("tag-3", "tag_3", "tag 3's embedding in place of every tag's"),
        ("no-tag", "none", "nothing in place of the tags' embeddings"),
    ):
        found.append(Variant(name=name, changes=(f"tag_embedding={value}",), meaning=meaning))
        for one in ("forward", "backward"):
            changes = (f"tag_embedding={value}", f"tag_embedding_in={one}")
            found.append(
                Variant(name=f"{name}-{one}", changes=changes, meaning=f"{meaning}, in the {one} pass only")
            )
    return found


def _projected_steps() -> list[Variant]:
    found = []
    for tags, of, those, ways in (
        ("tag-2", (), "aliases defined with tag 2", ("onto", "away_from")),
        ("all-tags", ("alias_step_of=all_tags",), "new aliases", ("onto",)),
    ):
        for way in ways:
            for name, meaning in (
                ("questions", "the subspace of the questions' gradients"),
                ("random", "a random subspace of as many dimensions"),
            ):
                changes = (f"alias_step={way}_{name}", *of)
                where = f"{'in' if way == 'onto' else 'out of'} {meaning} alone"
                found.append(
                    Variant(
                        name=f"{tags}-{way.replace('_', '-')}-{name}", changes=changes,
                        meaning=f"the embeddings of {those} learn {where}",
                    )
                )  # fmt: skip
    return found


VARIANTS: Final[dict[str, Variant]] = {
    one.name: one
    for one in (
        Variant(
            name=EXCHANGED, changes=("exchange_tags=true",), meaning="the aliases of d1 and d2 change places"
        ),
        Variant(
            name="only-alias-embeddings", changes=("trains=alias_embeddings",),
            meaning="only the embeddings of the aliases' names are trained",
        ),
        Variant(name="only-embeddings", changes=("trains=embeddings",), meaning="only token embeddings are trained"),
        Variant(
            name="frozen-aliases", changes=("trains=all_but_alias_embeddings",),
            meaning="all is trained but the embeddings of the aliases' names",
        ),
        Variant(
            name="frozen-embeddings", changes=("trains=all_but_embeddings",),
            meaning="all is trained but the token embeddings",
        ),
        Variant(
            name=FROZEN_TAGS, changes=("trains=all_but_tag_embeddings",),
            meaning="all is trained but the embeddings of the tags",
        ),
        Variant(
            name="cut-tag", changes=("cut_tag=true",), meaning="no later position of a definition attends to its tag"
        ),
        *_tag_embeddings(),
        *_projected_steps(),
    )
}  # fmt: skip
"""The variants by name."""


def variant_recipe(recipe: Recipe[Any], variant: Variant) -> Recipe[Any]:
    """The recipe of a variant of a run with this recipe.

    Raises MechoclError where there is no such variant: where the recipe has a single stage, or definitions of new aliases
    before its last stage, or where the variant changes nothing in it.
    """
    stages = recipe.training.stages
    if len(stages) < 2 or any(2 in stage.data for stage in stages[:-1]) or 2 not in stages[-1].data:
        raise MechoclError(
            "a variant trains again the stage in which the new aliases are defined, which must be the last of two or more; give a run of "
            "two stages, such as one of integer-set/cpu"
        )
    last = len(stages) - 1
    changed = recipes.change_recipe(
        recipe, tuple(f"training.stages.{last}.{change}" for change in variant.changes)
    )
    assert isinstance(changed, Recipe)
    if changed == recipe:
        raise MechoclError(f"the variant {variant.name} of this recipe is the recipe itself; leave it out")
    return changed


def is_variant_run(run: Run) -> bool:
    """Whether a run lies among the variants of another run."""
    return run.path.resolve().parent.name == VARIANTS_FOLDER


def require_variants(run: Run) -> Recipe[Any]:
    """The recipe of a run that can have variants.

    Raises MechoclError for a closed-book run, for a run that is itself a variant, and for one that is not trained to its end.
    """
    if not isinstance(run.recipe, Recipe):
        raise MechoclError(
            f"{run.path} is a closed-book run; variants are for runs of models that are trained from scratch"
        )
    run.kind.require_transformers(run, "a variant")
    if is_variant_run(run):
        raise MechoclError(
            f"{run.path} is itself a variant; give the run that it lies in, {run.path.parent.parent}"
        )
    run.finished_seeds()
    return run.recipe


def variant_named(name: str) -> Variant:
    """The variant with a name. Raises MechoclError when none has it."""
    if name not in VARIANTS:
        raise MechoclError(f"there is no variant {name!r}; there are {', '.join(VARIANTS)}")
    return VARIANTS[name]


def variant_path(run: Path, name: str) -> Path:
    """Folder of a variant run."""
    return run / VARIANTS_FOLDER / name


def open_variant(run: Run, name: str) -> Run:
    """A variant run that lies in a run's folder.

    Raises MechoclError when it is not there, when it is not that variant of this run's recipe, and when it began with other
    weights than this run has.
    """
    recipe = require_variants(run)
    path = variant_path(run.path, name)
    opened = Run.open(path, attribute=run.attribute)
    if opened.recipe != variant_recipe(recipe, variant_named(name)):
        raise MechoclError(
            f"{path} is not the variant {name!r} of {run.path}: its recipe differs in more than that; delete it, and run "
            "the same command again"
        )
    for seed in set(opened.seeds) & set(run.seeds):
        _require_same_start(run, opened, seed)
    return opened


def start_variant(run: Run, variant: Variant) -> Run:
    """The variant's run, which is made if it is not there, with the stages before the last one copied from the run.

    It has the run's finished seeds in the run's stacks, its device and its number of threads, since the last bits of the
    weights depend on them. Raises MechoclError as `open_variant` and `variant_recipe` do.
    """
    recipe = variant_recipe(require_variants(run), variant)
    path = variant_path(run.path, variant.name)
    if (path / "manifest.json").exists():
        open_variant(run, variant.name)
    finished = {folder.seed for folder in run.finished_seeds()}
    found = None
    for stack in run.stacks():
        seeds = tuple(seed for seed in stack.seeds if seed in finished)
        if seeds:
            found = Run.create(
                path, recipe, recipe_name=f"{run.recipe_name} (variant: {variant.name})", seeds=seeds,
                device=run.manifest["device"], threads=run.manifest["threads"], together=len(seeds),
            )  # fmt: skip
    assert found is not None
    with files.locked(path / "copying.lock", patience=_LOCK_PATIENCE_S):
        for seed in finished:
            _copy_start(run, found, seed)
    return found


def _copied_files(run: Run) -> list[str]:
    """What is copied of each seed, in this order: of each stage the weights first, since its history says that it ended."""
    stages = range(1, len(run.recipe.training.stages))
    return [
        f"stage-{number}/{name}" for number in stages for name in ("final.safetensors", "history.parquet")
    ]


def _copy_start(run: Run, variant: Run, seed: int) -> None:
    """Copy what a seed of the variant lacks of the stages before the last one."""
    source, target = run.seed(seed), variant.seed(seed)
    _require_same_start(run, variant, seed)
    damaged = target.ledger.damaged()
    for name in _copied_files(run):
        if name not in target.ledger or name in damaged:
            files.write_bytes(target.path / name, source.ledger.checked(name).read_bytes())
            target.ledger.record(name)


def _require_same_start(run: Run, variant: Run, seed: int) -> None:
    """Raise MechoclError when a seed of the variant began with other weights than the run's."""
    own, copied = run.seed(seed).ledger.entries(), variant.seed(seed).ledger.entries()
    for name in _copied_files(run):
        if name.endswith("final.safetensors") and copied.get(name, own.get(name)) != own.get(name):
            raise MechoclError(
                f"{variant.path} began with other weights than {run.path} has now; delete it, and run the same command again"
            )
