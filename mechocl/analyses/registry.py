"""The analyses of a run, one mechanism for all: (subject, config) → tidy rows, saved beside the run."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd
from torch import Tensor

from mechocl import __version__
from mechocl.behaviour import internalization
from mechocl.errors import MechoclError
from mechocl.features import dictionaries, effects, quality, search
from mechocl.features.candidates import EffectsConfig
from mechocl.features.dictionaries import Dictionary
from mechocl.features.settings import HELD_OUT, QualityConfig
from mechocl.interventions import circuits, grafting, patching, steering, subspace_study, suppression
from mechocl.lenses import attention, direct_attribution, logit_lens, tuned_lens
from mechocl.models.seam import Transformer
from mechocl.probing import probe, scoring
from mechocl.runs.activation_cache import ActivationCache, Collect
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.run import Run
from toy_models.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Nothing to choose: every test question is asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One seed's model after a stage of training, and the others that an analysis may compare it with."""

    model: Transformer
    task: Task
    after: Callable[[int], Transformer]
    """The model after a stage, from 1. Raises MechoclError for a stage that the run does not have."""
    untrained: Callable[[], Transformer]
    """A model of the same shape before any training."""
    stage: int
    """After which stage `model` is."""
    collect: Collect
    """Activations of `model`, from the disk where they are kept there."""
    dictionary: Callable[[str, str], Dictionary]
    """A sparse autoencoder by its name or folder, and the hook point of one that names none ("" otherwise)."""
    rows: Callable[[str, Any], pd.DataFrame]
    """Rows of another analysis of the same model: name and config."""

    def before(self) -> Transformer:
        """The model before the stage. Raises MechoclError where there is none."""
        if self.stage < 2:
            raise MechoclError(
                f"stage {self.stage} has no stage before it, so there are no weights to compare with; "
                "use a run of two stages, and its last stage"
            )
        return self.after(self.stage - 1)


def _evaluate(subject: Subject, config: EvaluateConfig) -> pd.DataFrame:
    return internalization.per_alias(subject.model, subject.task)


def _patch(subject: Subject, config: patching.PatchingConfig) -> pd.DataFrame:
    source = None if config.from_stage is None else subject.after(config.from_stage)
    return patching.patch(subject.model, subject.task, config, source_model=source)


def _graft(subject: Subject, config: grafting.GraftConfig) -> pd.DataFrame:
    return grafting.graft_study(subject.before(), subject.model, subject.task, config)


def _steer(subject: Subject, config: steering.SteeringConfig) -> pd.DataFrame:
    return steering.steering_study(subject.before(), subject.model, subject.task, config)


def _subspaces(subject: Subject, config: subspace_study.SubspaceConfig) -> pd.DataFrame:
    return subspace_study.subspace_study(subject.model, subject.untrained(), subject.task, config)


def _probe(subject: Subject, config: scoring.ProbingConfig) -> "Result":
    rows, arrays = probe.probe(
        subject.model, subject.untrained(), subject.task, config, collect=subject.collect
    )
    return Result(rows, arrays)


def _sae_quality(subject: Subject, config: QualityConfig) -> pd.DataFrame:
    return quality.judge(
        subject.model,
        subject.task,
        subject.dictionary(config.sae, config.site),
        others={name: subject.dictionary(name, config.site) for name in config.others},
        share=HELD_OUT,
        seed=0,
    )


def _sae_search(subject: Subject, config: search.SearchConfig) -> pd.DataFrame:
    dictionary = subject.dictionary(config.sae, config.site)
    dictionaries.check_fits(dictionary, subject.model, subject.task)
    return search.search(subject.task, dictionary, config, collect=subject.collect)


def _sae_test(subject: Subject, config: EffectsConfig) -> pd.DataFrame:
    dictionary = subject.dictionary(config.sae, config.site)
    found = subject.rows("sae-search", config.searched())
    return effects.effects(
        subject.model, subject.task, dictionary, config, found=found, collect=subject.collect
    )


@dataclass(frozen=True, slots=True)
class Result:
    """Tidy rows of an analysis, and arrays that belong to them."""

    rows: pd.DataFrame
    arrays: dict[str, Tensor] = field(default_factory=dict)


def _alone(
    compute: Callable[[Transformer, Task, Any], pd.DataFrame],
) -> Callable[[Subject, Any], pd.DataFrame]:
    """An analysis of one model by itself."""
    return lambda subject, config: compute(subject.model, subject.task, config)


@dataclass(frozen=True, slots=True)
class Analysis:
    """A function from (subject, config) to rows (with arrays: `Result`), and its config class."""

    compute: Callable[[Subject, Any], "pd.DataFrame | Result"]
    config: type
    compares: bool = False
    """Whether it looks at the models after other stages."""


ANALYSES: Final[dict[str, Analysis]] = {
    "evaluate": Analysis(_evaluate, EvaluateConfig),
    "lens": Analysis(_alone(logit_lens.logit_lens), logit_lens.LensConfig),
    "tuned-lens": Analysis(_alone(tuned_lens.tuned_lens), tuned_lens.TunedLensConfig),
    "attribution": Analysis(_alone(direct_attribution.attribute), direct_attribution.AttributionConfig),
    "patch": Analysis(_patch, patching.PatchingConfig, compares=True),
    "circuit": Analysis(_alone(circuits.circuit_study), circuits.CircuitConfig),
    "suppression": Analysis(_alone(suppression.ablate_components), suppression.SuppressionConfig),
    "graft": Analysis(_graft, grafting.GraftConfig, compares=True),
    "steering": Analysis(_steer, steering.SteeringConfig, compares=True),
    "subspace": Analysis(_subspaces, subspace_study.SubspaceConfig),
    "probe": Analysis(_probe, scoring.ProbingConfig),
    "sae-quality": Analysis(_sae_quality, QualityConfig),
    "sae-search": Analysis(_sae_search, search.SearchConfig),
    "sae-test": Analysis(_sae_test, EffectsConfig),
    "attention": Analysis(_alone(attention.patterns), attention.AttentionConfig),
}


def compute(name: str, subject: Subject, config: Any) -> Result:
    """What an analysis finds; nothing is saved."""
    found = ANALYSES[name].compute(subject, config)
    return Result(found) if isinstance(found, pd.DataFrame) else found


def result_key(
    folder: SeedFolder,
    name: str,
    config: Any,
    stage: int | None,
    checkpoint: Checkpoint | None = None,
) -> dict[str, Any]:
    """What a result depends on: its key, and what is compared before it is reused."""
    checkpoint = checkpoint or folder.final(stage)
    key = {
        "seed": folder.seed,
        "stage": checkpoint.stage,
        "checkpoint": checkpoint.sha256,
        "config": dataclasses.asdict(config),
        "version": __version__,
    }
    if name != "evaluate" and folder.attribute:
        key["attribute"] = folder.attribute
    if ANALYSES[name].compares:
        key["stages"] = [folder.final(n + 1).sha256 for n in range(_stages(folder))]
    given = [Path(one) for one in getattr(config, "pairs", ()) if one.endswith(".csv")]
    given += [Path(one) for one in [getattr(config, "recipe", "")] if one.endswith(".toml")]
    if given:
        key["files"] = {str(path): _sha256(path) for path in given}
    saes = [name for name in (getattr(config, "sae", ""), *getattr(config, "others", ())) if name]
    if saes:
        key["saes"] = {name: dictionaries.sha256(folder.path.parent, name, folder.seed) for name in saes}
    return key


def _stages(folder: SeedFolder) -> int:
    return len(folder.recipe.training.stages)


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise MechoclError(f"{path} does not exist; give a file that does")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def open_subject(
    folder: SeedFolder,
    *,
    stage: int | None,
    device: str,
    checkpoint: Checkpoint | None = None,
    cache: ActivationCache | None = None,
) -> Subject:
    """A seed's model at a checkpoint (default: the last of a stage), with its task and the models beside it."""

    def after(number: int) -> Transformer:
        if not 1 <= number <= _stages(folder):
            raise MechoclError(f"stage {number}: the run has stages 1 to {_stages(folder)}")
        model: Transformer = folder.model_at(folder.final(number), device=device)
        return model

    run = folder.path.parent

    def rows(name: str, config: Any) -> pd.DataFrame:
        return analyse_seed(
            Run.open(run, attribute=folder.attribute),
            folder,
            name,
            config,
            stage=stage,
            device=device,
            checkpoint=checkpoint,
            cache=cache,
        )

    def dictionary(name: str, site: str) -> Dictionary:
        return dictionaries.load(dictionaries.find(run, name, folder.seed), device=device, site=site or None)

    checkpoint = checkpoint or folder.final(stage)
    model: Transformer = folder.model_at(checkpoint, device=device)
    collect = probe.directly(model)
    return Subject(
        model=model,
        task=folder.analysed_task(),
        after=after,
        untrained=lambda: folder.untrained_model(device=device),
        stage=checkpoint.stage,
        collect=cache.collect(checkpoint, collect) if cache else collect,
        dictionary=dictionary,
        rows=rows,
    )


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
) -> pd.DataFrame:
    """The rows of one analysis of one seed at a checkpoint (default: the last of a stage), with a `seed` column.

    Computed once and then read from the run.
    """
    key = result_key(folder, name, config, stage, checkpoint)
    saved = run.load_result(name, key)
    if saved is not None:
        return saved
    if name == "evaluate":
        found = Result(folder.evaluate(checkpoint or folder.final(stage), device=device))
    else:
        subject = open_subject(folder, stage=stage, device=device, checkpoint=checkpoint, cache=cache)
        found = compute(name, subject, config)
    found.rows.insert(0, "seed", folder.seed)
    run.save_result(name, key, found.rows, found.arrays)
    return found.rows


def load_rows(
    run: Run, name: str, config: Any, *, stage: int | None = None, seeds: Sequence[int] | None = None
) -> pd.DataFrame | None:
    """Saved rows of an analysis over the finished seeds, or some of them; None when one of them is missing."""
    folders = [f for f in run.finished_seeds() if seeds is None or f.seed in seeds]
    tables = [run.load_result(name, result_key(f, name, config, stage)) for f in folders]
    if any(t is None for t in tables):
        return None
    return pd.concat(tables, ignore_index=True)
