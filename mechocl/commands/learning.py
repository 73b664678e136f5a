"""The commands that look at single updates. They compute missing rows, print them over the seeds, and say where they are."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from mechocl.commands.analysis import On, analysed, say_where
from mechocl.commands.options import Where
from mechocl.learning.one_update import OneUpdateConfig
from mechocl.learning.study import GradientsConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from mechocl.learning.course import Stage
    from mechocl.runs.run import Run

_COSINE: Final = (-1.0, 1.0)
"""Least and greatest value of a cosine, and of a correlation."""


def gradients(
    on: On,
    config: Annotated[GradientsConfig, tyro.conf.OmitArgPrefixes] = GradientsConfig(),  # noqa: B008
    by_alias: bool = True,
) -> None:
    """Compare the gradients of definitions and of questions about the same alias: cosine, inner product, their nulls.

    Args:
        on: The run.
        config: What is compared.
        by_alias: Keep a table of single aliases too, before the stage and at its end.
    """
    from mechocl.behaviour import formats
    from mechocl.commands import printing
    from mechocl.learning import summaries
    from mechocl.learning.layout import OWN

    also: tuple[tuple[str, Any], ...] = (("alias-gradients", config.of_aliases()),) if by_alias else ()
    opened, _, (rows, *_rest) = analysed(on, ("gradients", config), *also)
    _say_what_lacks(opened, rows, config)
    before = summaries.before_the_stage(rows)
    print("\nnew aliases before their definitions are trained on; definitions are written with each tag")
    raw = before[before["correction"] == "raw"].assign(
        weights=before["group"], tag="tag " + before["tag"].astype(str)
    )
    print("raw cosine − that with other aliases' questions, mean over seeds and subsets")
    cells = printing.grid_over_seeds(raw, "weights", "tag", "cosine_effect")
    if cells.isna().to_numpy().any():
        print(
            f"{formats.MISSING} {formats.NOT_MEASURED}: the gradient of the definitions or of the questions is 0 there"
        )
    own = before[before["group"] == OWN]
    print("\nin the alias's own embedding")
    printing.over_seeds(own, ["correction", "tag"], "cosine", bounds=_COSINE)
    printing.over_seeds(own, ["correction", "tag"], "cosine_effect")
    differences = summaries.tag_differences(own, "cosine_effect")
    print("the same aliases with two tags")
    printing.over_seeds(differences, ["correction", "tags"], "cosine_effect")
    _print_along(summaries.along_the_stage(rows[rows["group"] == OWN]))
    old = rows[
        (rows["group"] == OWN) & (rows["correction"] == "raw") & (rows["stage"] == rows["stage"].min())
    ]
    old = old[~old.index.isin(before.index)]
    if len(old):
        print("\naliases of stage 1 at its end, in their own embeddings, raw")
        printing.over_seeds(old, ["subset", "questions"], "cosine_effect")
    if by_alias:
        say_where(opened, "alias-gradients")
    say_where(opened, "gradients")


def updates(
    on: On,
    config: Annotated[OneUpdateConfig, tyro.conf.OmitArgPrefixes] = OneUpdateConfig(),  # noqa: B008
) -> None:
    """Take one step on the definition of each new alias, with each tag, and see what it does to the alias's questions.

    Args:
        on: The run.
        config: What is updated, and asked.
    """
    from mechocl.commands import printing
    from mechocl.learning import summaries

    opened, _, (rows,) = analysed(on, ("one-update", config))
    tags = [f"tag {tag}" for tag in sorted(rows["tag"].unique())]
    print(
        f"one step on one definition, written with {', '.join(tags)}, from the weights before stage {_stage_of(on, opened)}"
    )
    for step, part in rows.groupby("step", sort=False):
        print(f"\n{step}: loss (nats) and AUC of the alias's questions, mean over seeds and subsets")
        columns = ("loss_change", "loss_predicted", "loss_change_other", "auc_change", "auc_change_other")
        shown = part.melt(["seed", "tag"], list(columns), "change", "value")
        shown["tag"] = "tag " + shown["tag"].astype(str)
        printing.grid_over_seeds(shown, "tag", "change", "value")
    rows = rows.sort_values(["step", "tag"], kind="stable")
    for value in ("loss_effect", "auc_effect"):
        print("\nbeyond the same step on another alias")
        printing.over_seeds(rows, ["step", "tag"], value)
        print("the same aliases with two tags")
        printing.over_seeds(summaries.tag_differences(rows, value, by=("step",)), ["step", "tags"], value)
    print("\ncorrelation over the aliases of a subset, with their own tags")
    printing.over_seeds(summaries.correlate_updates(rows), ["step", "between"], "correlation", bounds=_COSINE)
    say_where(opened, "one-update")


def _stage_of(on: Where, run: "Run") -> int:
    return on.stage or len(run.recipe.training.stages)


def _print_along(along: "pd.DataFrame") -> None:
    """Print the raw cosine of new aliases with their own tags, from checkpoint to checkpoint."""
    from mechocl.commands import printing

    raw = along[along["correction"] == "raw"].sort_values("tag", kind="stable")
    print("\nalong the stage, definitions as they are trained on, raw")
    printing.over_seeds(raw, ["tag", "moment"], "cosine", bounds=_COSINE)


def _say_what_lacks(run: "Run", rows: "pd.DataFrame", config: GradientsConfig) -> None:
    """Say which tags and checkpoints the run does not have, and what an optimiser other than Adam means."""
    from toy_models.subsets import TAGS

    stage = int(rows["stage"].max())
    for tag in [tag for tag in TAGS if tag not in set(rows["tag"])]:
        print(f"no definition of the run has tag {tag}, so no definitions are written with it")
    steps = rows.loc[rows["stage"] == stage, "step"].nunique()
    if config.between and steps == 1:
        print(
            f"the run keeps no checkpoints on the way of stage {stage}, so only its ends are measured; train with "
            f"training.stages.{stage - 1}.checkpoints above 1 to see the way"
        )
    stages: "Sequence[Stage]" = run.recipe.training.stages
    for number, settings in enumerate(stages[stage - 2 : stage], start=stage - 1):
        if settings.optimizer != "adamw":
            print(
                f"stage {number} is trained with {settings.optimizer}; preconditioned is what Adam would do in its place"
            )
        if getattr(settings, "replay", 0):
            print(
                f"stage {number} replays texts of pretraining, which are not in the second moments of preconditioned"
            )
    if (alone := rows.loc[rows["aliases"] < 2, "subset"].unique()).size:
        print(f"one alias alone has no null: {', '.join(alone)}")
