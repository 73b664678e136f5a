"""The command that compares gradients. It computes missing rows, prints them over the seeds, and says where they are."""

from typing import TYPE_CHECKING, Annotated, Any, Final

import tyro

from mechocl.commands.analysis import On, analysed, say_where
from mechocl.learning.study import GradientsConfig

if TYPE_CHECKING:
    import pandas as pd

    from mechocl.runs.run import Run

_COSINE: Final = (-1.0, 1.0)
"""Least and greatest value of a cosine."""


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


def _print_along(along: "pd.DataFrame") -> None:
    """Print the raw cosine of new aliases with their own tags, from checkpoint to checkpoint."""
    from mechocl.commands import printing

    raw = along[along["correction"] == "raw"].sort_values("tag", kind="stable")
    print("\nalong the stage, definitions as they are trained on, raw")
    printing.over_seeds(raw, ["tag", "moment"], "cosine", bounds=_COSINE)


def _say_what_lacks(run: "Run", rows: "pd.DataFrame", config: GradientsConfig) -> None:
    """Say which tags and checkpoints the run does not have, and what an optimiser other than Adam means."""
    from mechocl.runs.recipes import Recipe
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
    assert isinstance(run.recipe, Recipe)  # the analysis refuses other runs
    for number, settings in enumerate(run.recipe.training.stages[stage - 2 : stage], start=stage - 1):
        if settings.optimizer != "adamw":
            print(
                f"stage {number} is trained with {settings.optimizer}; preconditioned is what Adam would do in its place"
            )
    if (alone := rows.loc[rows["aliases"] < 2, "subset"].unique()).size:
        print(f"one alias alone has no null: {', '.join(alone)}")
