"""What holds a model to be the one that it was: small models of both of TransformerLens's classes, and every analysis with small settings."""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from planted import Mechanism, planted_model
from sae_lens import StandardSAE, StandardSAEConfig
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from mechocl.analyses import registry
from mechocl.analyses.registry import ANALYSES
from mechocl.analyses.subject import Subject
from mechocl.features.candidates import EffectsConfig
from mechocl.features.dictionaries import Dictionary
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.interventions.circuits import CircuitConfig
from mechocl.interventions.grafting import GraftConfig
from mechocl.interventions.patching import PatchingConfig
from mechocl.interventions.steering import SteeringConfig
from mechocl.interventions.subspace_study import SubspaceConfig
from mechocl.interventions.suppression import SuppressionConfig
from mechocl.learning.course import Course
from mechocl.learning.exchange import TwinExchangeConfig
from mechocl.learning.one_update import OneUpdateConfig
from mechocl.learning.twin_probe import TwinProbeConfig
from mechocl.lenses.attention import AttentionConfig
from mechocl.lenses.logit_lens import LensConfig
from mechocl.lenses.tuned_lens import TunedLensConfig
from mechocl.models import loading
from mechocl.probing.scoring import ProbingConfig
from mechocl.runs.activation_cache import directly
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.stages import StageConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

CONFIGS: dict[str, Any] = {
    "lens": LensConfig(aliases_per_subset=10),
    "tuned-lens": TunedLensConfig(aliases_per_subset=10, examples=200, steps=5),
    "patch": PatchingConfig(pairs=("d1-to-other-d2", "tag1-to-tag2"), n_pairs=10, metric="log_probability"),
    "circuit": CircuitConfig(pairs=("d1-to-other-d2",), n_pairs=10, steps=2, random_circuits=1),
    "suppression": SuppressionConfig(n_questions=200),
    "graft": GraftConfig(aliases_per_subset=3, by_layer=False),
    "steering": SteeringConfig(steps=3, random_vectors=1),
    "subspace": SubspaceConfig(n_pairs=20, steps=2, ks=(2,), positions=("=",)),
    "probe": ProbingConfig(aliases_per_subset=30, permutations=2, n_pairs=10),
    "sae-quality": QualityConfig(sae="random"),
    "sae-search": SearchConfig(sae="random", group=("tag", "integer"), best=1, sets=(1, 2)),
    "sae-test": EffectsConfig(
        sae="random",
        features=("3", "5,7"),
        property="new alias of tag 1, not 2",
        position="alias",
        n_pairs=20,
        n_questions=40,
        controls=3,
    ),
    "attention": AttentionConfig(),
    "one-update": OneUpdateConfig(aliases_per_subset=10),
    "twin-exchange": TwinExchangeConfig(draws=1),
    "twin-probe": TwinProbeConfig(shuffles=2),
}
"""Small settings; analyses that are not named here run with their defaults."""


@cache
def task() -> Task:
    """The planted tests' small task with lists of 2: fewer positions to look at."""
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=1 / 6, d2=1 / 6, d3=1 / 6)
    config = IntegerSetConfig(aliases=360, integers=12, list_length=2, test_questions=4, fractions=fractions)
    return build(config, seed=0)


def neox(seed: int = 0, **changes: Any) -> GPTNeoXForCausalLM:
    """Random, with larger weights than an initialisation's, so that every part of the model matters."""
    config = GPTNeoXConfig(
        **{
            "vocab_size": len(task().vocabulary),
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
            "max_position_embeddings": 16,
            "rotary_pct": 0.25,
            "use_parallel_residual": True,
        }
        | changes
    )
    return _drawn(GPTNeoXForCausalLM(config), seed)


def gpt2(seed: int = 0) -> GPT2LMHeadModel:
    """As `neox`."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 64, "n_positions": 16}
    return _drawn(GPT2LMHeadModel(GPT2Config(vocab_size=len(task().vocabulary), **shape)), seed)


@torch.no_grad()
def _drawn(model: Any, seed: int) -> Any:
    draws = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        centre = 1.0 if "norm.weight" in name or (".ln_" in name and "weight" in name) else 0.0
        parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=draws))
    return model


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@cache
def loaded(
    seed: int,
    *,
    bridge: bool = False,
    gpt_2: bool = False,
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Any:
    """A GPT-NeoX (or GPT-2) of random weights, as `load` opens it with these options."""
    with tempfile.TemporaryDirectory() as folder:
        path = saved(gpt2(seed) if gpt_2 else neox(seed=seed, **changes), Path(folder))
        model = warm(loading.load(path, bridge=bridge, fold=fold, dtype=dtype))
    model.opened = {"bridge": bridge, "gpt_2": gpt_2, "fold": fold, "dtype": dtype}
    return model


def warm(model: Any) -> Any:
    """After a first pass, in which a bridge attaches hooks of its own, once and for all."""
    model.run_with_cache(task().tokens[:1])
    return model


@cache
def planted(**mechanism: Any) -> HookedTransformer:
    return planted_model(task(), Mechanism(**mechanism))


def companion(model: Any) -> Any:
    """Another model of the same class and shape, to be compared with."""
    if model.cfg.attn_only:
        return planted()
    return loaded(2, **getattr(model, "opened", {"bridge": isinstance(model, TransformerBridge)}))


@cache
def dictionary(width: int) -> Dictionary:
    """Random features of the embeddings, which both classes hold to the last bit, so that no rank can turn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=40))
    site = "blocks.0.hook_resid_pre"
    return Dictionary(sae.eval(), site, site, {"held_out": 0.34, "seed": 0})


def subject(model: Any) -> Subject:
    """The model as analyses see it, with a companion for the models beside it."""
    return Subject(
        model=model,
        task=task(),
        after=lambda stage: companion(model),
        untrained=lambda: companion(model),
        stage=2,
        collect=directly(model),
        dictionary=lambda name, site: dictionary(int(model.cfg.d_model)),
        rows=lambda name, config: compute(name, model),
        course=lambda: course(model),
        variant=lambda name: companion(model),
    )


def course(model: Any) -> Course:
    """A stage that ends with the model."""
    return Course(
        stage=2,
        earlier=StageConfig(data=(1,), epochs=1),
        settings=StageConfig(data=(2,), epochs=1),
        before=lambda: companion(model),
        steps_before=1,
        kept=(1,),
        at=lambda step: model,
    )


OF_HOOKED = ("gradients", "alias-gradients", "one-update", "twin-exchange", "twin-probe")
"""Analyses of a `HookedTransformer` alone: they compute with the forward pass of training."""

OF_ANY_MODEL = tuple(name for name in ANALYSES if name not in OF_HOOKED)


def compute(name: str, model: Any) -> pd.DataFrame:
    return registry.compute(name, subject(model), CONFIGS.get(name) or ANALYSES[name].config()).rows


COUNTED = ("rank", "vocabulary_rank", "first", "accuracy", "auc", "recall", "calibration_error")
"""Columns that count comparisons of two numbers: rounding may turn a comparison where they almost tie."""

NOT_SHARED = {"graft": ["change"]}
"""Columns that differ by class: a bridge keeps `q`, `k` and `v` twice, so the norm of their change is another."""


def assert_tables_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Labels the same, numbers within 1e-4; of the counted columns, 1 % of the cells may differ."""
    assert list(ours.columns) == list(theirs.columns)
    counted = [column for column in ours.columns if column in COUNTED]
    exact = ours.columns.difference(counted)
    pd.testing.assert_frame_equal(ours[exact], theirs[exact], rtol=0, atol=1e-4)
    for column in counted:
        same = np.isclose(ours[column].astype(float), theirs[column].astype(float), atol=1e-4, equal_nan=True)
        assert same.mean() >= 0.99, f"{column} differs in {(~same).sum()} of {len(same)} rows"


def fingerprint(model: Any) -> tuple[str, int]:
    """Hash of all weights, and the number of hooks on hook points and modules."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode() + parameter.detach().numpy().tobytes() + bytes([parameter.requires_grad]))
    points = {id(point): point for point in model.hook_dict.values()}
    modules = points | {id(module): module for module in model.modules()}
    hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in points.values())
    for module in modules.values():
        hooks += len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
    return digest.hexdigest(), hooks


@contextmanager
def assert_unchanged(model: Any) -> Iterator[None]:
    """The block leaves the model's weights and hooks as they were, whether or not it raises."""
    before = fingerprint(model)
    try:
        yield
    finally:
        weights, hooks = fingerprint(model)
        assert weights == before[0], "the weights have changed"
        assert hooks == before[1], f"there were {before[1]} hooks, and there are {hooks}"


VARIANTS: dict[str, dict[str, Any]] = {
    "Pythia": {},
    "sequential": {"use_parallel_residual": False},
    "half rotary": {"rotary_pct": 0.5},
    "all rotary": {"rotary_pct": 1.0},
    "rotary base": {
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}
    },
    "silu": {"hidden_act": "silu"},
    "tied": {"tie_word_embeddings": True},
    "epsilon": {"layer_norm_eps": 0.1},
}
