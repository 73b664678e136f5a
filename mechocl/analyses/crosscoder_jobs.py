"""Train the crosscoders of a run's seeds in parallel, keep them, compare their checkpoints and name their features."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from mechocl.analyses import revision
from mechocl.analyses.feature_columns import CROSSCODER
from mechocl.analyses.inputs import DICTIONARIES, OF_QUESTIONS, OF_TRAINING, Asked, key_of, values_of
from mechocl.analyses.rows import check_rows
from mechocl.analyses.sae_jobs import map_seeds
from mechocl.errors import MechoclError
from mechocl.features import checkpoint_comparison, crosscoders, dictionaries, search
from mechocl.features.candidates import ALPHA
from mechocl.features.crosscoders import Crosscoder, CrosscoderConfig, Which
from mechocl.features.dictionaries import Dictionary, flat
from mechocl.features.search import SearchConfig
from mechocl.models import activations
from mechocl.models.seam import Transformer
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from toy_models.task import Task

ANALYSIS: Final = "crosscoder"

INPUTS: Final = (*OF_QUESTIONS, DICTIONARIES)
"""Everything that the rows depend on, besides their code."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does for one seed."""

    run: str
    seed: int
    config: CrosscoderConfig
    which: Which
    device: str
    attribute: str = ""
    """Attribute of a closed-book run: the crosscoder is trained on the questions about it. "" is the run's default."""


def crosscoder_name(config: CrosscoderConfig, which: Which, *, attribute: str = "") -> str:
    """Name of the crosscoder among the run's SAEs. It ends with the attribute, if one is given."""
    asked = f"-{attribute}" if attribute else ""
    return f"{config.site}-crosscoder-{config.width}-k{config.k}-{which}{asked}"


def crosscode(
    run: Run, config: CrosscoderConfig, *, which: Which, seeds: Sequence[int], device: str, jobs: int | None
) -> pd.DataFrame:
    """Return one row for each feature of each seed's crosscoder. A crosscoder that exists already is not trained again.

    The columns are `feature_columns.CROSSCODER`: what the comparison of the checkpoints says of the feature, how much of the
    first and the last checkpoint's variance the crosscoder explains, and the surest property that the search finds for
    the feature.

    In a closed-book run it is trained on the questions about the run's attribute, and the search looks at them too.

    Raises MechoclError for a run of one stage.
    """
    if which == "stages" and len(run.recipe.training.stages) < 2:
        raise MechoclError(
            f"{run.path} has one stage, so there are no two stages to compare; use a run of two stages, or --checkpoints all"
        )
    work = [
        Job(str(run.path), seed, config, which, device, run.attribute)
        for seed in seeds
        if _rows(run, seed, config, which) is None
    ]
    map_seeds(run, crosscode_seed, work, title="training crosscoders", device=device, jobs=jobs)
    return saved_rows(run, config, which=which, seeds=seeds)


def saved_rows(run: Run, config: CrosscoderConfig, *, which: Which, seeds: Sequence[int]) -> pd.DataFrame:
    """The saved rows of `crosscode`. Nothing is trained."""
    found = [_rows(run, seed, config, which) for seed in seeds]
    there = [rows for rows in found if rows is not None]
    return pd.concat(there, ignore_index=True) if there else pd.DataFrame()


def crosscode_seed(job: Job, progress: Progress) -> None:
    """Train one seed's crosscoder if it is missing, compare its checkpoints, and search its features."""
    run = Run.open(Path(job.run), attribute=job.attribute)
    folder = run.seed(job.seed)
    chosen = _checkpoints(folder, job.which)
    loaded = [folder.model_at(checkpoint, device=job.device) for checkpoint in chosen]
    task = folder.analysed_task()
    name = crosscoder_name(job.config, job.which, attribute=job.attribute)
    path = dictionaries.path_of(run.path, name, job.seed)
    asked = _asked(run, folder, job.config, job.which)
    if not _trained(path, asked, job.attribute):
        sae = crosscoders.train_crosscoder(
            loaded, task, job.config, progress=lambda done: progress("training", 0.8 * done)
        )
        crosscoders.save(
            sae,
            path,
            config=job.config,
            checkpoints=[_named(c) for c in chosen],
            attribute=job.attribute,
            inputs=values_of(OF_TRAINING, asked),
        )
    crosscoder = crosscoders.load(path, device=job.device)
    rows = describe_features(crosscoder, loaded, task, job.config, progress=progress)
    check_rows(ANALYSIS, rows, CROSSCODER)
    rows.insert(0, "seed", job.seed)
    run.save_result(ANALYSIS, crosscoder_key(asked), rows)
    progress("done", 1.0)


def describe_features(
    crosscoder: Crosscoder,
    loaded: Sequence[Transformer],
    task: Task,
    config: CrosscoderConfig,
    *,
    progress: Progress,
) -> pd.DataFrame:
    """One row for each feature of a crosscoder of the loaded checkpoints, with the columns `feature_columns.CROSSCODER`."""
    progress("comparing", 0.8)
    compared = checkpoint_comparison.compare(
        crosscoder, loaded, task, share=config.held_out, seed=config.seed
    )

    def collect(tokens: Tensor, sites: Sequence[str]) -> dict[str, Tensor]:
        """The checkpoints' activations side by side, as the crosscoder takes them."""
        parts = [activations.collect(model, tokens, sites) for model in loaded]
        return {site: torch.cat([flat(part[site]) for part in parts], dim=-1) for site in sites}

    progress("searching", 0.9)
    whole = Dictionary(crosscoder.sae, crosscoder.site, crosscoder.site, crosscoder.record)
    found = search.search(
        task, whole, SearchConfig(group=("tag", "contains", "integer", "stage"), best=10), collect=collect
    )
    explained = compared.checkpoints["explained_variance"].to_numpy()
    rows = compared.features.assign(explained_first=explained[0], explained_last=explained[-1])
    return rows.merge(_surest(found), on="feature", how="left")


def _surest(rows: pd.DataFrame) -> pd.DataFrame:
    """For each feature, the property that it stands for best."""
    sure = rows[(rows["what"] == "feature") & (rows["q"] < ALPHA)]
    first = sure.sort_values("auc", ascending=False, kind="stable").drop_duplicates("features")
    columns = ["property", "group", "text", "position", "sign", "auc", "q"]
    # of a feature without a property the sign is missing, and the type must not depend on whether there is one
    return first[columns].assign(feature=first["features"].astype(int), sign=first["sign"].astype(float))


def _checkpoints(folder: SeedFolder, which: Which) -> list[Checkpoint]:
    if which == "stages":
        return [folder.final(number + 1) for number in range(len(folder.recipe.training.stages))]
    return [checkpoint for checkpoint in folder.checkpoints() if checkpoint.step > 0]


def _named(checkpoint: Checkpoint) -> dict[str, Any]:
    return {"stage": checkpoint.stage, "step": checkpoint.step, "sha256": checkpoint.sha256}


def _asked(run: Run, folder: SeedFolder, config: CrosscoderConfig, which: Which) -> Asked:
    name = crosscoder_name(config, which, attribute=run.attribute)
    return Asked(folder=folder, checkpoints=tuple(_checkpoints(folder, which)), config=config, saes=(name,))


def _trained(path: Path, asked: Asked, attribute: str) -> bool:
    """Whether the folder holds the crosscoder that is asked for, trained on these weights and on this attribute."""
    record = crosscoders.record_of(asked.config, [_named(c) for c in asked.checkpoints], attribute)
    wanted = record | {crosscoders.ATTRIBUTE: attribute} | values_of(OF_TRAINING, asked)
    return dictionaries.is_trained(path, wanted)


def follow_crosscoder_code(folder: type[SeedFolder]) -> revision.Code:
    """The code that the rows come from, as in `Analysis.follow_code`. The training's code does not count: its weights do."""
    return revision.follow_code(describe_features, crosscoders.load, folder)


def crosscoder_key(asked: Asked) -> dict[str, Any]:
    """The key of the rows of one seed, whose crosscoder must exist."""
    return key_of(INPUTS, asked, revision=follow_crosscoder_code(type(asked.folder)).revision)


def _rows(run: Run, seed: int, config: CrosscoderConfig, which: Which) -> pd.DataFrame | None:
    """Saved rows of a seed. None where its crosscoder is missing, or was trained otherwise."""
    asked = _asked(run, run.seed(seed), config, which)
    path = dictionaries.path_of(run.path, asked.saes[0], seed)
    if not _trained(path, asked, run.attribute):
        return None
    return run.load_result(ANALYSIS, crosscoder_key(asked))
