"""Runs of the worlds that are trained from scratch (`toy_models.worlds`)."""

from collections.abc import Sequence
from typing import Any, Final

from mechocl.errors import MechoclError
from mechocl.runs.folders import SeedFolder
from mechocl.runs.kinds import RunKind
from mechocl.runs.progress import Progress
from mechocl.runs.recipes import ConvNetRecipe, Recipe
from toy_models.stages import StageConfig
from toy_models.task import Questioning
from toy_models.worlds import world_of

_OF_CONVNETS: Final = ("evaluate", "graft", "patch", "probe")
"""The analyses that a ConvNet takes, too."""


class ToyRuns(RunKind):
    """Runs of small transformers that are trained from scratch. The seeds of a stack train together."""

    command = "train"
    reported = (
        "evaluate", "lens", "tuned-lens", "attribution", "patch", "circuit", "suppression", "graft", "steering", "subspace",
        "probe",
    )  # fmt: skip

    def questioning(self, recipe: Any) -> Questioning:
        return world_of(recipe.task).questioning

    def folder(self, run: Any, seed: int) -> SeedFolder:
        path = run.path / f"seed-{seed}"
        return SeedFolder(
            path, seed, run.recipe, command=self.command_for(run.path), owner=run.owner_of(seed)
        )

    def train(
        self,
        run: Any,
        seeds: Sequence[int],
        *,
        device: str,
        save_every_s: float,
        progress: Progress,
    ) -> None:
        from mechocl.runs.train_toy import train_stack  # that module imports runs, which import their kinds

        stack = next(stack for stack in run.stacks() if stack.seeds == tuple(seeds))
        train_stack(run, stack, device=device, save_every_s=save_every_s, progress=progress)

    def can_be_taken_apart(self, run: Any) -> bool:
        """Transformers can; a ConvNet cannot."""
        return not isinstance(run.recipe, ConvNetRecipe)

    def takes(self, run: Any, analysis: str) -> bool:
        return analysis in _OF_CONVNETS if isinstance(run.recipe, ConvNetRecipe) else True

    def require_transformers(self, run: Any, what: str) -> None:
        if isinstance(run.recipe, ConvNetRecipe):
            raise MechoclError(
                f"the models of {run.path} are ConvNets, and {what} is for transformers, with attention and a stream between their "
                "layers; of this run there are evaluate, dynamics, graft, patch, probe, controls, verdict and report"
            )

    def count_examples(self, recipe: Any, stage: int) -> int:
        from mechocl.runs.train_toy import draw_task  # that module imports runs, which import their kinds

        return len(draw_task(recipe, seed=0).training_rows(recipe.training.stages[stage].data))

    def facts(self, run: Any) -> dict[str, str]:
        recipe = run.recipe
        assert isinstance(recipe, Recipe)
        return {
            "Task": world_of(recipe.task).describe(recipe.task),
            "Model": _model(recipe),
            "Stages": "; ".join(map(_stage, recipe.training.stages)),
        }


def _model(recipe: Recipe[Any]) -> str:
    if isinstance(recipe, ConvNetRecipe):
        shape = recipe.model
        return (
            f"ConvNet: convolutions of {', '.join(map(str, shape.channels))} channels, fully connected layers of "
            f"{', '.join(map(str, shape.hidden))}, {shape.d_model} numbers a cell"
        )
    model = recipe.model.resolve()
    return (
        f"{model.n_layers} layer{'s' * (model.n_layers > 1)}, d_model {model.d_model}, {model.n_heads} heads, "
        f"positions {model.positions}"
    )


def _stage(stage: StageConfig) -> str:
    rate = "" if stage.embedding_rate == 1 else f" (token embeddings: {stage.embedding_rate:g} times that)"
    stop = stage.stop_at_definition_loss
    what = {"stage": "the stage", "alias": "each alias", "tag_2": "each alias of tag 2"}[stage.stops]
    until = f", {what} until the definition loss is {stop:g} nats" if stop else ""
    return (
        f"data of stage {' and '.join(map(str, stage.data))}: {stage.epochs} epochs of {stage.optimizer}, learning rate "
        f"{stage.learning_rate:g}{rate}, batch {stage.batch_size}, trains "
        f"{stage.trains.replace('_', ' ')}{until}"
    )
