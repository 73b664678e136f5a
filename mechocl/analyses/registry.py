"""The analyses of a run. Each computes tidy rows, and arrays that belong to them, from a subject and a config.

Each analysis has one function here, whose definition and imports say which code its results come from.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pandas as pd
from torch import Tensor

from mechocl.analyses import columns, feature_columns, learning_columns, revision
from mechocl.analyses.inputs import (
    ACTIVATIONS,
    COURSE,
    DICTIONARIES,
    EXCHANGED_TAGS,
    OF_A_SEED,
    OF_QUESTIONS,
    PAIRS,
    PROBES,
    STAGES,
    UNTRAINED,
    Input,
)
from mechocl.analyses.rows import Columns, check_rows
from mechocl.analyses.subject import Subject, open_subject
from mechocl.behaviour import internalization
from mechocl.features import dictionaries, effects, quality, search
from mechocl.features.candidates import EffectsConfig
from mechocl.features.settings import HELD_OUT, QualityConfig
from mechocl.interventions import circuits, grafting, patching, steering, subspace_study, suppression
from mechocl.learning import exchange, one_update, study as gradients, twin_probe
from mechocl.lenses import attention, direct_attribution, logit_lens, tuned_lens
from mechocl.probing import probe, scoring
from mechocl.runs.folders import SeedFolder
from mechocl.runs.variants import EXCHANGED


@dataclass(frozen=True, slots=True)
class Result:
    """Tidy rows of an analysis, and arrays that belong to them."""

    rows: pd.DataFrame
    arrays: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig:
    """Config of an analysis that has nothing to choose: every test question is asked."""


def _evaluate(subject: Subject, config: EvaluateConfig) -> Result:
    return Result(internalization.per_alias(subject.model, subject.task))


def _lens(subject: Subject, config: logit_lens.LensConfig) -> Result:
    return Result(logit_lens.logit_lens(subject.model, subject.task, config))


def _tuned_lens(subject: Subject, config: tuned_lens.TunedLensConfig) -> Result:
    return Result(tuned_lens.tuned_lens(subject.model, subject.task, config))


def _attribution(subject: Subject, config: direct_attribution.AttributionConfig) -> Result:
    return Result(direct_attribution.attribute_answers(subject.model, subject.task, config))


def _patch(subject: Subject, config: patching.PatchingConfig) -> Result:
    source = None if config.from_stage is None else subject.after(config.from_stage)
    return Result(patching.patch(subject.model, subject.task, config, source_model=source))


def _circuit(subject: Subject, config: circuits.CircuitConfig) -> Result:
    return Result(circuits.circuit_study(subject.model, subject.task, config))


def _suppression(subject: Subject, config: suppression.SuppressionConfig) -> Result:
    return Result(suppression.ablate_components(subject.model, subject.task, config))


def _graft(subject: Subject, config: grafting.GraftConfig) -> Result:
    return Result(grafting.graft_study(subject.before(), subject.model, subject.task, config))


def _steer(subject: Subject, config: steering.SteeringConfig) -> Result:
    return Result(steering.steering_study(subject.before(), subject.model, subject.task, config))


def _subspaces(subject: Subject, config: subspace_study.SubspaceConfig) -> Result:
    return Result(subspace_study.subspace_study(subject.model, subject.untrained(), subject.task, config))


def _probe(subject: Subject, config: scoring.ProbingConfig) -> Result:
    rows, arrays = probe.probe(
        subject.model, subject.task, config, untrained=subject.untrained(), collect=subject.collect
    )
    return Result(rows, arrays)


def _sae_quality(subject: Subject, config: QualityConfig) -> Result:
    judged = quality.judge(
        subject.model,
        subject.task,
        subject.sae(config.sae, config.site, transfer=config.transfer),
        others={name: subject.sae(name, config.site, transfer=config.transfer) for name in config.others},
        share=HELD_OUT,
        seed=0,
    )
    return Result(judged)


def _sae_search(subject: Subject, config: search.SearchConfig) -> Result:
    dictionary = subject.sae(config.sae, config.site, transfer=config.transfer)
    dictionaries.check_fits(dictionary, subject.model, subject.task)
    return Result(search.search(subject.task, dictionary, config, collect=subject.collect))


def _sae_test(subject: Subject, config: EffectsConfig) -> Result:
    dictionary = subject.sae(config.sae, config.site, transfer=config.transfer)
    found = subject.rows("sae-search", config.searched())
    tested = effects.effects(
        subject.model, subject.task, dictionary, config, search_rows=found, collect=subject.collect
    )
    return Result(tested)


def _attention(subject: Subject, config: attention.AttentionConfig) -> Result:
    return Result(attention.attention_patterns(subject.model, subject.task, config))


def _gradients(subject: Subject, config: gradients.GradientsConfig) -> Result:
    return Result(gradients.gradient_study(subject.course(), subject.task, config))


def _alias_gradients(subject: Subject, config: gradients.AliasGradientsConfig) -> Result:
    return Result(gradients.alias_study(subject.course(), subject.task, config))


def _one_update(subject: Subject, config: one_update.OneUpdateConfig) -> Result:
    return Result(one_update.update_study(subject.course(), subject.task, config))


def _twin_exchange(subject: Subject, config: exchange.TwinExchangeConfig) -> Result:
    return Result(exchange.exchange_study(subject.model, subject.variant(EXCHANGED), subject.task, config))


def _twin_probe(subject: Subject, config: twin_probe.TwinProbeConfig) -> Result:
    twin = subject.variant(EXCHANGED)
    return Result(twin_probe.probe_study(subject.model, twin, subject.before(), subject.task, config))


@dataclass(frozen=True, slots=True)
class Analysis:
    """A function from a subject and a config to a result, and what it declares about the result."""

    compute: Callable[[Subject, Any], Result]
    """The function, which stands in this module."""
    config: type
    columns: Columns
    """Every column of its rows. Saved rows have the column `seed` in front."""
    inputs: tuple[Input, ...]
    """Everything that its rows depend on, besides its code. The keys of its results are made of these alone."""
    beside: tuple[Callable[..., Any], ...] = ()
    """Functions that its rows depend on though `compute` does not name them."""

    def follow_code(self, folder: type[SeedFolder]) -> revision.Code:
        """The code that its results come from in runs whose seeds have this class of folder.

        Its revision changes with every edit that may change a number. It stays the same after an edit of prose.
        """
        return revision.follow_code(self.compute, open_subject, folder, *self.beside)


_PROBED: Final = (*OF_QUESTIONS, PROBES, UNTRAINED, ACTIVATIONS)
_OF_SAES: Final = (*OF_QUESTIONS, DICTIONARIES)

_OF_A_COURSE: Final = (*OF_A_SEED, COURSE)
_OF_TWINS: Final = (*OF_A_SEED, EXCHANGED_TAGS)

ANALYSES: Final[dict[str, Analysis]] = {
    "evaluate": Analysis(_evaluate, EvaluateConfig, columns.EVALUATE, OF_A_SEED),
    "lens": Analysis(_lens, logit_lens.LensConfig, columns.LENS, OF_QUESTIONS),
    "tuned-lens": Analysis(_tuned_lens, tuned_lens.TunedLensConfig, columns.LENS, OF_QUESTIONS),
    "attribution": Analysis(
        _attribution, direct_attribution.AttributionConfig, columns.ATTRIBUTION, OF_QUESTIONS
    ),
    "patch": Analysis(_patch, patching.PatchingConfig, columns.PATCH, (*OF_QUESTIONS, STAGES, PAIRS)),
    "circuit": Analysis(_circuit, circuits.CircuitConfig, columns.CIRCUIT, (*OF_QUESTIONS, PAIRS)),
    "suppression": Analysis(_suppression, suppression.SuppressionConfig, columns.SUPPRESSION, OF_QUESTIONS),
    "graft": Analysis(_graft, grafting.GraftConfig, columns.GRAFT, (*OF_QUESTIONS, STAGES)),
    "steering": Analysis(_steer, steering.SteeringConfig, columns.GRAFT, (*OF_QUESTIONS, STAGES)),
    "subspace": Analysis(
        _subspaces, subspace_study.SubspaceConfig, columns.SUBSPACE, (*OF_QUESTIONS, UNTRAINED)
    ),
    "probe": Analysis(_probe, scoring.ProbingConfig, columns.PROBE, _PROBED),
    "sae-quality": Analysis(_sae_quality, QualityConfig, feature_columns.SAE_QUALITY, _OF_SAES),
    "sae-search": Analysis(_sae_search, search.SearchConfig, feature_columns.SAE_SEARCH, _OF_SAES),
    "sae-test": Analysis(_sae_test, EffectsConfig, feature_columns.SAE_TEST, _OF_SAES, beside=(_sae_search,)),
    "attention": Analysis(_attention, attention.AttentionConfig, columns.ATTENTION, OF_QUESTIONS),
    "gradients": Analysis(_gradients, gradients.GradientsConfig, learning_columns.GRADIENTS, _OF_A_COURSE),
    "alias-gradients": Analysis(
        _alias_gradients, gradients.AliasGradientsConfig, learning_columns.ALIAS_GRADIENTS, _OF_A_COURSE
    ),
    "one-update": Analysis(
        _one_update, one_update.OneUpdateConfig, learning_columns.ONE_UPDATE, _OF_A_COURSE
    ),
    "twin-exchange": Analysis(
        _twin_exchange, exchange.TwinExchangeConfig, learning_columns.TWIN_EXCHANGE, _OF_TWINS
    ),
    "twin-probe": Analysis(
        _twin_probe, twin_probe.TwinProbeConfig, learning_columns.TWIN_PROBE, (*_OF_TWINS, STAGES)
    ),
}


def compute(name: str, subject: Subject, config: Any) -> Result:
    """Compute the result of an analysis. Nothing is saved.

    Raises UndeclaredRows when the rows are not as the analysis declares them.
    """
    found = ANALYSES[name].compute(subject, config)
    check_result(name, found)
    return found


def check_result(name: str, result: Result) -> None:
    """Raise UndeclaredRows when the rows of an analysis are not as it declares them."""
    check_rows(name, result.rows, ANALYSES[name].columns)
