"""Results of a run's seeds: computed once, kept beside the run, and found again while nothing that they depend on changes."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from mechocl.analyses.inputs import Asked, key_of
from mechocl.analyses.registry import ANALYSES, Result, check_result, compute
from mechocl.analyses.subject import Rows, open_subject
from mechocl.analyses.variant_models import variants_of_seed
from mechocl.runs.activation_cache import ActivationCache
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.run import Run
from mechocl.shares import listening


def result_key(
    folder: SeedFolder,
    name: str,
    config: Any,
    stage: int | None,
    checkpoint: Checkpoint | None = None,
    cache: ActivationCache | None = None,
) -> dict[str, Any]:
    """The key of a result, which is compared before the result is reused: what the analysis declares to depend on."""
    asked = Asked(
        folder=folder,
        checkpoints=(checkpoint or folder.final(stage),),
        config=config,
        saes=tuple(filter(None, (getattr(config, "sae", ""), *getattr(config, "others", ())))),
        cache=cache,
    )
    analysis = ANALYSES[name]
    return key_of(analysis.inputs, asked, revision=analysis.follow_code(type(folder)).revision)


def analyse_seed(
    run: Run,
    folder: SeedFolder,
    name: str,
    config: Any,
    *,
    stage: int | None,
    device: str,
    checkpoint: Checkpoint | None = None,
    cache: ActivationCache | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> pd.DataFrame:
    """The rows of one analysis of one seed at a checkpoint (default: the last of a stage), with a `seed` column.

    They are computed once and then read from the run. `progress` is called with the share of the analysis that is done.
    """
    key = result_key(folder, name, config, stage, checkpoint, cache)
    saved = run.load_result(name, key)
    if saved is not None:
        return saved
    if name == "evaluate":
        found = Result(folder.evaluate(checkpoint or folder.final(stage), device=device))
        check_result(name, found)
    else:
        rows = rows_of_seed(folder, stage=stage, device=device, checkpoint=checkpoint, cache=cache)
        variant = variants_of_seed(folder, device=device, at=checkpoint or folder.final(stage))
        subject = open_subject(
            folder,
            stage=stage,
            device=device,
            checkpoint=checkpoint,
            cache=cache,
            rows=rows,
            variant=variant,
        )
        with listening(progress):
            found = compute(name, subject, config)
    found.rows.insert(0, "seed", folder.seed)
    run.save_result(name, key, found.rows, found.arrays)
    return found.rows


def rows_of_seed(
    folder: SeedFolder,
    *,
    stage: int | None,
    device: str,
    checkpoint: Checkpoint | None = None,
    cache: ActivationCache | None = None,
) -> Rows:
    """A function for `open_subject` that gives, as `analyse_seed` does, rows of any analysis of one seed at a checkpoint."""

    def rows(name: str, config: Any) -> pd.DataFrame:
        return analyse_seed(
            Run.open(folder.path.parent, attribute=folder.attribute),
            folder,
            name,
            config,
            stage=stage,
            device=device,
            checkpoint=checkpoint,
            cache=cache,
        )

    return rows


def load_rows(
    run: Run, name: str, config: Any, *, stage: int | None = None, seeds: Sequence[int] | None = None
) -> pd.DataFrame | None:
    """Saved rows of an analysis over all finished seeds, or over some. None when the rows of one seed are missing."""
    folders = [f for f in run.finished_seeds() if seeds is None or f.seed in seeds]
    tables = [run.load_result(name, result_key(f, name, config, stage)) for f in folders]
    if any(t is None for t in tables):
        return None
    return pd.concat(tables, ignore_index=True)
