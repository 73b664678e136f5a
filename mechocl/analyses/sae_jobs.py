"""Train the dictionaries of a run's seeds in parallel, and keep them, so that none is trained twice."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechocl import files
from mechocl.analyses import results
from mechocl.analyses.inputs import OF_TRAINING, Asked, values_of
from mechocl.analyses.jobs import complete_run
from mechocl.destinations import require_folder
from mechocl.features import dictionaries
from mechocl.features.settings import QualityConfig, TrainingConfig
from mechocl.runs import processes
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.processes import default_jobs
from mechocl.runs.progress import Job as SeedJob, Progress
from mechocl.runs.run import Run


@dataclass(frozen=True, slots=True)
class Job:
    """What one process does for one seed."""

    run: str
    seed: int
    config: TrainingConfig
    stage: int | None
    device: str
    attribute: str = ""
    """Which question of a closed-book run the rows on quality look at. The dictionaries do not depend on it."""


def train_dictionaries(
    run: Run,
    config: TrainingConfig,
    *,
    seeds: Sequence[int],
    stage: int | None,
    device: str,
    jobs: int | None,
) -> dict[str, QualityConfig]:
    """Train the missing dictionaries of some seeds, and judge all dictionaries.

    In a closed-book run a dictionary is trained on all texts. It is judged on the questions about the run's attribute, so
    another attribute is judged without training anything again. Returns the config of the `sae-quality` analysis of each
    dictionary, by the dictionary's name.
    """
    last = len(run.recipe.training.stages)
    stage = None if stage == last else stage
    judged = _judged(config, stage)
    work = [
        Job(str(run.path), seed, config, stage, device, run.attribute)
        for seed in seeds
        if not _done(run, seed, config, stage)
    ]
    map_seeds(run, train_seed, work, title="training sparse autoencoders", device=device, jobs=jobs)
    wanted = tuple(("sae-quality", one) for one in judged.values())
    complete_run(run, wanted, stage=stage, device=device, jobs=jobs, seeds=seeds)
    return judged


def map_seeds(
    run: Run, compute: SeedJob, work: Sequence[Any], *, title: str, device: str, jobs: int | None
) -> None:
    """Do one job for each of some seeds, several at a time. Without seeds nothing is done.

    Each job has as many threads as the run's training had, however many jobs work beside it, because the number of
    threads changes the bits of the result.
    """
    files.remove_temporary(run.path)
    run.kind.require_transformers(run, title)
    if work:
        require_folder(run.path)
        processes.map_jobs(
            compute,
            work,
            names=[f"seed {job.seed}" for job in work],
            title=title,
            jobs=min(jobs or default_jobs(len(work), device), len(work)),
            threads=run.manifest["threads"],
        )


def train_seed(job: Job, progress: Progress) -> None:
    """Train the missing dictionaries of one seed in one pass over its activations, then judge them."""
    from mechocl.features import training

    run = Run.open(Path(job.run), attribute=job.attribute)
    folder = run.seed(job.seed)
    checkpoint = folder.final(job.stage)
    model = folder.model_at(checkpoint, device=job.device)
    progress("training", 0.0)
    saes = training.train(
        model,
        folder.streamed_task(),
        job.config,
        stage=job.stage,
        progress=lambda done: progress("training", 0.9 * done),
    )
    for name, sae in saes.items():
        path = dictionaries.path_of(run.path, name, job.seed)
        dictionaries.save(sae, path, _record(folder, job.config, checkpoint) | {"name": name})
    for config in _judged(job.config, job.stage).values():
        progress("judging", 0.95)
        results.analyse_seed(run, folder, "sae-quality", config, stage=job.stage, device=job.device)
    progress("done", 1.0)


def _judged(config: TrainingConfig, stage: int | None) -> dict[str, QualityConfig]:
    names = config.names(stage=stage)
    kinds = {name: (site, width) for name, (site, width, _) in names.items()}
    return {
        name: QualityConfig(
            sae=name, others=tuple(other for other, k in kinds.items() if k == kind and other != name)
        )
        for name, kind in kinds.items()
    }


def _record(folder: SeedFolder, config: TrainingConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """What a dictionary was trained on, and how. A saved dictionary is used again only if this is the same."""
    asked = Asked(folder=folder, checkpoints=(checkpoint,), config=config)
    how = dataclasses.asdict(config)
    for name in ("wandb", "site", "width", "sae_seeds"):
        how.pop(name)  # the dictionaries that train beside it change nothing
    record = {dictionaries.CHECKPOINT: checkpoint.sha256, "held_out": config.held_out, "seed": config.seed}
    return record | {"config": how} | values_of(OF_TRAINING, asked)


def _done(run: Run, seed: int, config: TrainingConfig, stage: int | None) -> bool:
    """Whether all dictionaries of a seed exist, and were trained with this config on these weights."""
    folder = run.seed(seed)
    wanted = _record(folder, config, folder.final(stage))
    # the name says what the record leaves out: site, width and initial weights
    return all(
        dictionaries.is_trained(dictionaries.path_of(run.path, name, seed), wanted | {"name": name})
        for name in config.names(stage=stage)
    )
