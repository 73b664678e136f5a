"""The model seam: what analyses may rely on, held for both of TransformerLens's model classes.

Every analysis runs on a `HookedTransformer` and on a `TransformerBridge` of the same GPT-NeoX weights, and
must give the same table; and none of them changes a model's weights or leaves a hook behind.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model
from sae_lens import StandardSAE, StandardSAEConfig
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mechocl import activations, analyses, models
from mechocl.analyses import ANALYSES, Subject
from mechocl.attention import AttentionConfig
from mechocl.circuits import CircuitConfig
from mechocl.errors import MechoclError
from mechocl.features.candidates import EffectsConfig
from mechocl.features.dictionaries import Dictionary
from mechocl.features.search import SearchConfig
from mechocl.features.settings import QualityConfig
from mechocl.grafting import GraftConfig
from mechocl.lenses import LensConfig
from mechocl.patching import PatchingConfig
from mechocl.probing import ProbingConfig, directly
from mechocl.steering import SteeringConfig
from mechocl.subspace_study import SubspaceConfig
from mechocl.suppression import SuppressionConfig
from mechocl.tuned_lens import TunedLensConfig
from toy_models.integer_set import IntegerSetConfig, build
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
}
"""Small settings; analyses that are not named here run with their defaults."""

COUNTED = ("rank", "vocabulary_rank", "first", "accuracy", "auc", "recall", "calibration_error")
"""Columns that count comparisons of two numbers: rounding may turn a comparison where they almost tie."""

NOT_SHARED = {"graft": ["change"]}
"""Columns that differ by class: a bridge keeps `q`, `k` and `v` twice, so the norm of their change is another."""


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
    model = GPTNeoXForCausalLM(config)
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm.weight" in name else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=draws))
    return model


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(neox(), tmp_path_factory.mktemp("neox"))


@pytest.fixture(scope="module")
def hooked(folder: Path) -> HookedTransformer:
    return models.load(folder)


@pytest.fixture(scope="module")
def bridge(folder: Path) -> TransformerBridge:
    return warm(models.load(folder, bridge=True))


@cache
def loaded(seed: int, *, bridge: bool = False, **changes: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = saved(neox(seed=seed, **changes), Path(folder))
        return warm(models.load(path, bridge=bridge))


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
    return loaded(2, bridge=isinstance(model, TransformerBridge))


@cache
def dictionary(width: int) -> Dictionary:
    """Random features of the embeddings, which both classes hold to the last bit, so that no rank can turn."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = StandardSAE(StandardSAEConfig(d_in=width, d_sae=40))
    site = "blocks.0.hook_resid_pre"
    return Dictionary(sae.eval(), site, site, {"held_out": 0.34, "seed": 0})


def compute(name: str, model: Any) -> pd.DataFrame:
    subject = Subject(
        model=model,
        task=task(),
        after=lambda stage: companion(model),
        untrained=lambda: companion(model),
        stage=2,
        collect=directly(model),
        dictionary=lambda name, site: dictionary(int(model.cfg.d_model)),
        rows=lambda name, config: compute(name, model),
    )
    return analyses.compute(name, subject, CONFIGS.get(name) or ANALYSES[name].config()).rows


# --------------------------------------------------------------------------------------- equal results


def assert_tables_equal(ours: pd.DataFrame, theirs: pd.DataFrame) -> None:
    """Labels the same, numbers within 1e-4; of the counted columns, 1 % of the cells may differ."""
    assert list(ours.columns) == list(theirs.columns)
    counted = [column for column in ours.columns if column in COUNTED]
    exact = ours.columns.difference(counted)
    pd.testing.assert_frame_equal(ours[exact], theirs[exact], rtol=0, atol=1e-4)
    for column in counted:
        same = np.isclose(ours[column].astype(float), theirs[column].astype(float), atol=1e-4, equal_nan=True)
        assert same.mean() >= 0.99, f"{column} differs in {(~same).sum()} of {len(same)} rows"


@pytest.mark.parametrize("name", ANALYSES)
def test_analysis_gives_the_same_table_and_leaves_the_model_unchanged(
    name: str, hooked: Any, bridge: Any
) -> None:
    """On both classes; and another table for other weights, so that equality says something."""
    tables = []
    for model in (hooked, bridge, loaded(1)):
        with assert_unchanged(model), assert_unchanged(companion(model)):
            tables.append(compute(name, model).drop(columns=NOT_SHARED.get(name, [])))
    table, same, other = tables
    assert len(table) > 0
    assert_tables_equal(table, same)
    with pytest.raises(AssertionError):
        assert_tables_equal(table, other)


def test_equality_of_tables_can_fail() -> None:
    table = pd.DataFrame({"alias": range(200), "value": np.linspace(0, 1, 200), "rank": np.arange(200.0)})
    assert_tables_equal(table, table.copy())
    one_rank = table.assign(rank=table["rank"].where(table["alias"] != 3, 9))
    assert_tables_equal(table, one_rank)
    for changed in (
        table.assign(rank=table["rank"].where(table["alias"] > 2, 9)),
        table.assign(value=table["value"].where(table["alias"] != 3, 0.016)),
        table.assign(rank=table["rank"].where(table["alias"] > 2, np.nan)),
        table.rename(columns={"value": "effect"}),
        table.iloc[1:],
    ):
        with pytest.raises(AssertionError):
            assert_tables_equal(table, changed)


def test_activations_are_the_same(hooked: Any, bridge: Any) -> None:
    """At every hook point that analyses name."""
    sites = [
        *activations.residual_sites(2).values(),
        "blocks.0.attn.hook_pattern",
        "blocks.1.attn.hook_pattern",
    ]
    ours, theirs = (activations.collect(model, task().tokens[-50:], sites) for model in (hooked, bridge))
    for site in sites:
        torch.testing.assert_close(ours[site], theirs[site], atol=1e-5, rtol=1e-4)
        assert ours[site].std() > 0.1


def test_residual_stream_is_hugging_faces(folder: Path, hooked: Any, bridge: Any) -> None:
    """No folded layer norms, nothing centred; the last state there has been through the final norm."""
    tokens = task().tokens[-20:]
    with torch.no_grad():
        states = GPTNeoXForCausalLM.from_pretrained(folder)(tokens, output_hidden_states=True).hidden_states
    for model in (hooked, bridge):
        found = activations.collect(model, tokens, ["blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre"])
        torch.testing.assert_close(found["blocks.0.hook_resid_pre"], states[0])
        torch.testing.assert_close(found["blocks.1.hook_resid_pre"], states[1], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(models.final_residual(model, tokens), states[2], atol=1e-5, rtol=1e-4)


def test_unknown_hook_points_are_refused(hooked: Any, bridge: Any) -> None:
    for model in (hooked, bridge):
        with pytest.raises(MechoclError, match=r"no hook point 'blocks\.2\.hook_resid_post'"):
            activations.collect(model, task().tokens[-2:], ["blocks.2.hook_resid_post"])


def test_protocol_is_what_both_share(hooked: Any, bridge: Any) -> None:
    for model in (hooked, bridge):
        assert isinstance(model, models.Transformer)
        assert isinstance(model.cfg, models.ModelShape)
        shape = (model.cfg.n_layers, model.cfg.n_heads, model.cfg.d_model, model.cfg.d_vocab)
        assert shape == (2, 4, 32, len(task().vocabulary))
        assert models.device_of(model) == torch.device("cpu")
        assert not model.training
    assert isinstance(hooked, HookedTransformer)
    assert isinstance(bridge, TransformerBridge)
    assert not isinstance(neox(), models.Transformer)


# ------------------------------------------------------------------------------------- no side effects


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


@pytest.mark.parametrize("kind", ["hooked", "bridge", "planted"])
def test_unchanged_can_fail(kind: str, request: pytest.FixtureRequest) -> None:
    model = planted_model(task(), Mechanism()) if kind == "planted" else request.getfixturevalue(kind)
    before = fingerprint(model)

    def add_hook() -> None:
        model.add_hook("blocks.1.hook_resid_post", lambda x, hook: x)

    def add_hook_and_raise() -> None:
        add_hook()
        raise RuntimeError

    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        add_hook()
    with assert_unchanged(model):
        pass  # the same hook before and after
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        model.reset_hooks()
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        add_hook_and_raise()
    model.reset_hooks()
    handle = model.unembed.register_forward_hook(lambda *_: None)
    with pytest.raises(AssertionError, match="hooks, and there are"), assert_unchanged(model):
        handle.remove()
    parameter = next(model.parameters()).data
    was = parameter[0, 0].item()
    with pytest.raises(AssertionError, match="weights have changed"), assert_unchanged(model):
        parameter[0, 0] = was + 1e-6
    parameter[0, 0] = was
    assert fingerprint(model) == before


@pytest.fixture
def subject(request: pytest.FixtureRequest) -> Any:
    if request.param == "planted":
        return planted(tag2_gain=0.0)
    return request.getfixturevalue(request.param)


SUBJECTS = pytest.mark.parametrize("subject", ["hooked", "bridge", "planted"], indirect=True)


@pytest.mark.parametrize("name", ANALYSES)
def test_analysis_leaves_the_planted_model_unchanged(name: str) -> None:
    """Attention alone, no layer norm, no rotary positions."""
    model = planted(tag2_gain=0.0)
    with assert_unchanged(model), assert_unchanged(companion(model)):
        assert len(compute(name, model)) > 0


class Stop(Exception):
    pass


@SUBJECTS
@pytest.mark.parametrize("name", ANALYSES)
def test_analysis_that_raises_inside_leaves_the_model_unchanged(name: str, subject: Any) -> None:
    """The caller's own hook is all that is there before and after: it interrupts the forward pass, or is refused."""

    def stop(x: torch.Tensor, hook: Any) -> None:
        raise Stop

    before = fingerprint(subject)
    subject.add_hook("blocks.1.hook_resid_post", stop)
    try:
        with pytest.raises((Stop, MechoclError)) as raised, assert_unchanged(subject):
            compute(name, subject)
        if raised.type is not Stop:
            assert "the model has a hook at blocks.1." in str(raised.value)
    finally:
        subject.reset_hooks()
    assert fingerprint(subject) == before


@SUBJECTS
def test_callers_hooks_survive_and_take_part(subject: Any) -> None:
    """In every forward pass that internalization needs: all logits are equal, so nothing is known."""
    subject.add_hook("unembed.hook_in", lambda x, hook: torch.zeros_like(x))
    try:
        with assert_unchanged(subject):
            table = compute("evaluate", subject)
        assert table["logit_difference"].abs().max() == pytest.approx(0, abs=1e-6)
        assert (table["auc"] == 0.5).all()
    finally:
        subject.reset_hooks()


# --------------------------------------------------------------------------------------------- loading


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


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_logits_are_hugging_faces(changes: dict[str, Any], bridge: bool, tmp_path: Path) -> None:
    """Also from the lean forward pass, where it covers the model. (More in `test_parity.py`.)"""
    path = saved(neox(**changes), tmp_path)
    model = models.load(path, bridge=bridge)
    tokens = task().tokens[-30:]
    with torch.no_grad():
        expected = GPTNeoXForCausalLM.from_pretrained(path)(tokens).logits
    torch.testing.assert_close(model(tokens, return_type="logits"), expected, atol=1e-4, rtol=1e-4)
    everything = torch.arange(len(task().vocabulary))
    last = torch.full((30,), task().n_ctx - 1)
    found = models.logits_at(model, tokens, last, everything)
    torch.testing.assert_close(found, expected[:, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("changes", list(VARIANTS.values())[1:], ids=list(VARIANTS)[1:])
def test_variants_differ(changes: dict[str, Any]) -> None:
    """Each variant changes the logits of the same weights by far more than parity allows."""
    tokens, base = task().tokens[-30:], VARIANTS["half rotary"] if "rope_parameters" in changes else {}
    with torch.no_grad():
        difference = neox(**changes)(tokens).logits - neox(**base)(tokens).logits
    assert difference.abs().max() > 1e-3
