"""A laboratory for out-of-context (implicit meta-) learning.

`import mechocl` is the front door: what a notebook needs, by name (`mechocl.open_run`, `mechocl.patch_activations`, …).
Importing it is cheap and has no effect. Each name is loaded from its module when it is first used. A function takes a list for a
tuple, a text for a path and None for the device `auto`, and refuses an argument of another type in one line (`mechocl.accepted`).
"""

import importlib
import types
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:  # what _NAMES says, for type checkers and editors
    from mechocl.analyses.control_jobs import (
        add_controls as add_controls,
        evaluate_controls as evaluate_controls,
    )
    from mechocl.analyses.jobs import analyse_run as analyse_run, train as train
    from mechocl.analyses.sae_jobs import train_dictionaries as train_dictionaries
    from mechocl.behaviour.control_gaps import compare_gaps as compare_gaps, explain_gap as explain_gap
    from mechocl.behaviour.internalization import by_subset as by_subset, per_alias as per_alias
    from mechocl.behaviour.internalized import summarize_internalization as summarize_internalization
    from mechocl.behaviour.sentences import answers as answers
    from mechocl.behaviour.verdict import decide as decide
    from mechocl.errors import MechoclError as MechoclError
    from mechocl.features.candidates import EffectsConfig as EffectsConfig
    from mechocl.features.search import SearchConfig as SearchConfig
    from mechocl.features.settings import TrainingConfig as TrainingConfig
    from mechocl.hypotheses.verdict import verdict as verdict
    from mechocl.interventions.attribution_patching import attribute_activations as attribute_activations
    from mechocl.interventions.circuits import (
        CircuitConfig as CircuitConfig,
        circuit_study as circuit_study,
        find_circuit as find_circuit,
    )
    from mechocl.interventions.edge_attribution import attribute_edges as attribute_edges
    from mechocl.interventions.edges import patch_edges as patch_edges, patch_paths as patch_paths
    from mechocl.interventions.grafting import (
        GraftConfig as GraftConfig,
        graft as graft,
        graft_study as graft_study,
    )
    from mechocl.interventions.metrics import own_metric as own_metric
    from mechocl.interventions.named_pairs import pairs_named as pairs_named
    from mechocl.interventions.pairs import Pairs as Pairs, given_pairs as given_pairs
    from mechocl.interventions.patching import (
        PatchingConfig as PatchingConfig,
        patch_activations as patch_activations,
    )
    from mechocl.interventions.steering import (
        SteeringConfig as SteeringConfig,
        steering_study as steering_study,
    )
    from mechocl.interventions.subspaces import (
        Place as Place,
        Subspace as Subspace,
        activation as activation,
        difference_of_means as difference_of_means,
        swap as swap,
    )
    from mechocl.interventions.summaries import (
        summarize_circuits as summarize_circuits,
        summarize_patching as summarize_patching,
    )
    from mechocl.lenses.attention import (
        AttentionConfig as AttentionConfig,
        attention_array as attention_array,
        attention_patterns as attention_patterns,
    )
    from mechocl.lenses.direct_attribution import direct_logit_attribution as direct_logit_attribution
    from mechocl.lenses.logit_lens import LensConfig as LensConfig, logit_lens as logit_lens
    from mechocl.lenses.tuned_lens import TunedLensConfig as TunedLensConfig, tuned_lens as tuned_lens
    from mechocl.models.components import take_apart as take_apart
    from mechocl.models.loading import load as load, load_with_parity as load_with_parity
    from mechocl.probing.probe import probe as probe
    from mechocl.probing.scoring import ProbingConfig as ProbingConfig
    from mechocl.report import (
        circuit_plots as circuit_plots,
        feature_plots as feature_plots,
        graft_plots as graft_plots,
        learning_plots as learning_plots,
        lens_plots as lens_plots,
        plots as plots,
        probe_plots as probe_plots,
        subspace_plots as subspace_plots,
        training_plots as training_plots,
        verdict_plots as verdict_plots,
    )
    from mechocl.report.explorer.notebook import Explorer as Explorer, explore as explore, share as share
    from mechocl.runs.building import build_model as build_model
    from mechocl.runs.recipes import load_recipe as load_recipe
    from mechocl.runs.run import Run as Run, open_run as open_run
    from mechocl.runs.train_toy import draw_task as draw_task
    from toy_models.tokenizer import give_tokenizer as give_tokenizer
    from toy_models.training import train_stage as train_stage

__version__ = "0.1.0"

_NAMES: Final = {
    "mechocl.analyses.control_jobs": ("add_controls", "evaluate_controls"),
    "mechocl.analyses.jobs": ("analyse_run", "train"),
    "mechocl.analyses.sae_jobs": ("train_dictionaries",),
    "mechocl.behaviour.control_gaps": ("compare_gaps", "explain_gap"),
    "mechocl.behaviour.internalization": ("by_subset", "per_alias"),
    "mechocl.behaviour.internalized": ("summarize_internalization",),
    "mechocl.behaviour.sentences": ("answers",),
    "mechocl.behaviour.verdict": ("decide",),
    "mechocl.errors": ("MechoclError",),
    "mechocl.features.candidates": ("EffectsConfig",),
    "mechocl.features.search": ("SearchConfig",),
    "mechocl.features.settings": ("TrainingConfig",),
    "mechocl.hypotheses.verdict": ("verdict",),
    "mechocl.interventions.attribution_patching": ("attribute_activations",),
    "mechocl.interventions.circuits": ("CircuitConfig", "circuit_study", "find_circuit"),
    "mechocl.interventions.edge_attribution": ("attribute_edges",),
    "mechocl.interventions.edges": ("patch_edges", "patch_paths"),
    "mechocl.interventions.grafting": ("GraftConfig", "graft", "graft_study"),
    "mechocl.interventions.metrics": ("own_metric",),
    "mechocl.interventions.named_pairs": ("pairs_named",),
    "mechocl.interventions.pairs": ("Pairs", "given_pairs"),
    "mechocl.interventions.patching": ("PatchingConfig", "patch_activations"),
    "mechocl.interventions.steering": ("SteeringConfig", "steering_study"),
    "mechocl.interventions.subspaces": ("Place", "Subspace", "activation", "difference_of_means", "swap"),
    "mechocl.interventions.summaries": ("summarize_circuits", "summarize_patching"),
    "mechocl.lenses.attention": ("AttentionConfig", "attention_array", "attention_patterns"),
    "mechocl.lenses.direct_attribution": ("direct_logit_attribution",),
    "mechocl.lenses.logit_lens": ("LensConfig", "logit_lens"),
    "mechocl.lenses.tuned_lens": ("TunedLensConfig", "tuned_lens"),
    "mechocl.models.components": ("take_apart",),
    "mechocl.models.loading": ("load", "load_with_parity"),
    "mechocl.probing.probe": ("probe",),
    "mechocl.probing.scoring": ("ProbingConfig",),
    "mechocl.report": (
        "circuit_plots",
        "feature_plots",
        "graft_plots",
        "learning_plots",
        "lens_plots",
        "plots",
        "probe_plots",
        "subspace_plots",
        "training_plots",
        "verdict_plots",
    ),
    "mechocl.report.explorer.notebook": ("Explorer", "explore", "share"),
    "mechocl.runs.building": ("build_model",),
    "mechocl.runs.recipes": ("load_recipe",),
    "mechocl.runs.run": ("Run", "open_run"),
    "mechocl.runs.train_toy": ("draw_task",),
    "toy_models.tokenizer": ("give_tokenizer",),
    "toy_models.training": ("train_stage",),
}
"""Module → what the front door offers of it; of `mechocl.report` whole modules of figures."""

_HOME: Final = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A name of the front door, loaded when it is first used (PEP 562)."""
    if name not in _HOME:
        near = importlib.import_module("mechocl.errors").nearest(name, [*_HOME])
        like = f"; did you mean {near}?" if near else "; dir(mechocl) lists what it offers"
        raise AttributeError(f"mechocl has no {name!r}{like}")
    importlib.import_module("mechocl.owners").refuse_other_owners()
    if _HOME[name] == "mechocl.report":
        value: Any = importlib.import_module(f"mechocl.report.{name}")
    else:
        value = getattr(importlib.import_module(_HOME[name]), name)
        if isinstance(value, types.FunctionType):
            value = importlib.import_module("mechocl.accepted").checked(value)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*_HOME, *(name for name in globals() if name.startswith("__"))})
