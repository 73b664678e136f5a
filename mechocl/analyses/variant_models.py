"""The models of a run's variants, for analyses that compare a seed with itself in a variant."""

from collections.abc import Callable

from mechocl.errors import MechoclError
from mechocl.models.seam import Transformer
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.run import Run
from mechocl.runs.variants import EXCHANGED, open_variant, require_variants, variant_path


def variant_seed(folder: SeedFolder, name: str, *, at: Checkpoint) -> SeedFolder:
    """The same seed in a variant of its run, to be compared with a checkpoint of this seed.

    Raises MechoclError when the checkpoint is not the end of the last stage, which is what a variant trains again, when the variant
    is not trained to its end in this seed, and as `open_variant` does.
    """
    run = Run.open(folder.path.parent)
    require_variants(run)
    if at != folder.final():
        raise MechoclError(
            f"stage {at.stage}, step {at.step}: the variant {name} trains the last stage again, and is compared with the model after "
            "it; look at that one (leave out --stage)"
        )
    path = variant_path(run.path, name)
    command = (
        f"mechocl twins {run.path}" if name == EXCHANGED else f"mechocl variants {run.path} --only {name}"
    )
    if not (path / "manifest.json").exists():
        raise MechoclError(f"{run.path} has no variant {name}; run `{command}`, which trains it")
    variant = open_variant(run, name)
    if folder.seed not in variant.seeds or folder.seed in variant.unfinished_seeds():
        raise MechoclError(
            f"seed {folder.seed} of {path} is not trained to the end; run `{command}`, which trains it"
        )
    found = variant.seed(folder.seed)
    if found.failure() is not None:
        raise MechoclError(
            f"seed {folder.seed} diverged in {path}, so there is nothing to compare; `{command}` leaves it out"
        )
    return found


def variants_of_seed(folder: SeedFolder, *, device: str, at: Checkpoint) -> Callable[[str], Transformer]:
    """A function for `open_subject` that gives the model after the last stage of a variant, by the variant's name."""

    def variant(name: str) -> Transformer:
        found = variant_seed(folder, name, at=at)
        model: Transformer = found.model_at(found.final(), device=device)
        return model

    return variant
