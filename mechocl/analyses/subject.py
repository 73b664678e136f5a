"""The subject of an analysis: one seed's model after a stage, its task, and the models that stand beside it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.features.dictionaries import Dictionary
from mechocl.learning.course import Course, refuse_adapters
from mechocl.models.seam import Transformer
from mechocl.runs import activation_cache
from mechocl.runs.activation_cache import ActivationCache, Collect
from mechocl.runs.folders import Checkpoint, SeedFolder
from toy_models.task import Task

Rows = Callable[[str, Any], pd.DataFrame]
"""A function that gives the rows of an analysis of the same model, by the analysis's name and config."""


def _no_variant(name: str) -> Transformer:
    raise AssertionError(f"the variant {name} is asked for, and the subject was opened without any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One seed's model after a stage of training, and the models that an analysis may compare it with."""

    model: Transformer
    task: Task
    after: Callable[[int], Transformer]
    """Gives the model after a stage, counted from 1. Raises MechoclError when the run does not have the stage."""
    untrained: Callable[[], Transformer]
    """Gives a model of the same shape before any training."""
    stage: int
    """The stage after which `model` was taken, from 1."""
    collect: Collect
    """Gives activations of `model`, from the disk if they are kept on it."""
    dictionary: Callable[[str, str], Dictionary]
    """Gives a sparse autoencoder by its name or folder, and by a hook point, which is "" if the SAE names its own.

    `sae` does the same, and refuses one of other weights.
    """
    rows: Rows
    """Rows of another analysis of the same model."""
    course: Callable[[], Course]
    """Gives the stage with its kept weights. Raises MechoclError where no stage comes before it, and for a fine-tuned run."""
    variant: Callable[[str], Transformer] = _no_variant
    """Gives the model after the last stage of a variant of the run (`runs.variants`), by its name."""
    remedy: Callable[[str, Dictionary], str] = lambda name, found: "use it with those"
    """Says what to do about a sparse autoencoder of this name that was trained on other weights."""

    def before(self) -> Transformer:
        """The model before the stage. Raises MechoclError when no stage comes before it."""
        if self.stage < 2:
            raise MechoclError(
                f"stage {self.stage} has no stage before it, so there are no weights to compare with; "
                "use a run of two stages, and its last stage"
            )
        return self.after(self.stage - 1)

    def sae(self, name: str, site: str, *, transfer: bool) -> Dictionary:
        """A sparse autoencoder as `dictionary` gives it.

        Raises MechoclError for one that was trained on other weights than `model` has, unless `transfer` allows it.
        """
        found = self.dictionary(name, site)
        if found.trained_on == "others" and not transfer:
            raise MechoclError(
                f"{name} was trained on other weights than those after stage {self.stage}; {self.remedy(name, found)}, or add "
                "--transfer to use it on these weights all the same"
            )
        return found


def open_subject(
    folder: SeedFolder,
    *,
    stage: int | None,
    device: str,
    checkpoint: Checkpoint | None = None,
    cache: ActivationCache | None = None,
    rows: Rows | None = None,
    variant: Callable[[str], Transformer] | None = None,
) -> Subject:
    """A seed's model at a checkpoint (default: the last of a stage), with its task and the models beside it.

    `rows` gives the rows of other analyses of the same model (`results.rows_of_seed`). Without it an analysis that
    reads such rows cannot be computed. `variant` gives models of the run's variants (`variant_models.variants_of_seed`), and
    without it an analysis that compares with a variant cannot be computed.
    """
    stages = len(folder.recipe.training.stages)
    at = checkpoint or folder.final(stage)

    def after(number: int) -> Transformer:
        if not 1 <= number <= stages:
            raise MechoclError(f"stage {number}: the run has stages 1 to {stages}")
        model: Transformer = folder.model_at(folder.final(number), device=device)
        return model

    def dictionary(name: str, site: str) -> Dictionary:
        path = dictionaries.find(folder.path.parent, name, folder.seed)
        found = dictionaries.load(path, device=device, site=site or None)
        return replace(found, trained_on=dictionaries.weights_of(found.record, at.sha256))

    def remedy(name: str, found: Dictionary) -> str:
        finals = {folder.final(number).sha256: number for number in range(1, stages + 1)}
        if number := finals.get(found.record[dictionaries.CHECKPOINT]):
            return f"use --stage {number}"
        for other in folder.beside():
            for one in other.checkpoints():
                if one.sha256 == found.record[dictionaries.CHECKPOINT]:
                    at_stage = f" --stage {one.stage}" if one.stage != stages else ""
                    return f"use --seeds {other.seed}{at_stage}, as it was trained on that seed"
        if name in dictionaries.names(folder.path.parent):
            return "run its `mechocl sae train` again, which replaces it"
        return "give the run that it was trained in"

    model: Transformer = folder.model_at(at, device=device)
    collect = activation_cache.directly(model)
    return Subject(
        model=model,
        task=folder.analysed_task(),
        after=after,
        untrained=lambda: folder.untrained_model(device=device),
        stage=at.stage,
        collect=cache.collect(at, collect) if cache else collect,
        dictionary=dictionary,
        rows=rows or _no_rows,
        course=lambda: _course(folder, at.stage, device=device),
        variant=variant or _no_variant,
        remedy=remedy,
    )


def _course(folder: SeedFolder, stage: int, *, device: str) -> Course:
    """A stage of a run, as the weights that are kept of it show it."""
    recipe = folder.recipe
    refuse_adapters(recipe)
    if stage < 2:
        raise MechoclError(
            f"stage {stage} has no stage before it, so nothing comes before its definitions; use a run of two stages, and its "
            "last stage"
        )
    kept = {one.step: one for one in folder.checkpoints() if one.stage == stage}
    before = folder.final(stage - 1)
    return Course(
        stage=stage,
        earlier=recipe.training.stages[stage - 2],
        settings=recipe.training.stages[stage - 1],
        before=lambda: folder.model_at(before, device=device),
        steps_before=before.step,
        kept=tuple(kept),
        at=lambda step: folder.model_at(kept[step], device=device),
        trained=folder.load_task,
    )


def _no_rows(name: str, config: Any) -> pd.DataFrame:
    raise AssertionError(f"rows of {name} are asked for, and the subject was opened without any")
