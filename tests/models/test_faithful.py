"""No forward pass of this package computes something else than the model's own, whatever TransformerLens can build.

Both that are written anew are held to it: the pieces of `take_apart`, and the lean forward pass of training. For every
choice of TransformerLens's config, either they compute what the model computes, or the model is refused in one line.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import neox, saved
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig
from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

from mechocl.errors import MechoclError
from mechocl.models import faithful, loading
from mechocl.models.components import take_apart
from mechocl.models.forward import forward
from toy_models import comparing, lean
from toy_models.architectures import hooked_transformer_allowed

SHAPE: dict[str, Any] = {
    "n_layers": 2, "d_model": 16, "n_heads": 2, "d_head": 8, "n_ctx": 24, "d_vocab": 11, "d_mlp": 20, "act_fn": "relu",
    "positional_embedding_type": "rotary", "rotary_dim": 8, "device": "cpu",
}  # fmt: skip

CHOICES: dict[str, list[dict[str, Any]]] = {
    "act_fn": [{"act_fn": name} for name in SUPPORTED_ACTIVATIONS],
    "attention_dir": [{"attention_dir": "bidirectional"}],
    "attn_only": [{"attn_only": True, "act_fn": None}],
    "attn_scale": [{"attn_scale": 3.0}],
    "attn_scores_soft_cap": [{"attn_scores_soft_cap": cap} for cap in (1.0, 1000.0)],
    "attn_types": [{"use_local_attn": True, "attn_types": ["global", "local"], "window_size": 2}],
    "clip_qkv": [{"clip_qkv": limit} for limit in (0.5, 1000.0)],
    "d_vocab_out": [{"d_vocab_out": 7}],
    "eps": [{"eps": 0.1}],
    "experts_per_token": [{"num_experts": 3, "experts_per_token": 2}],
    "final_rms": [{"final_rms": True}, {"final_rms": True, "normalization_type": "RMS"}],
    "gated_mlp": [{"gated_mlp": True}, {"gated_mlp": True, "normalization_type": "RMS"}],
    "layer_norm_folding": [{"layer_norm_folding": True}],
    "n_key_value_heads": [{"n_key_value_heads": n} for n in (1, 2)],
    "norm_topk_prob": [{"num_experts": 3, "experts_per_token": 2, "norm_topk_prob": True}],
    "normalization_type": [{"normalization_type": kind} for kind in (None, "LN", "LNPre", "RMS", "RMSPre")],
    "num_experts": [{"num_experts": 3, "experts_per_token": 2, "gated_mlp": True}],
    "original_architecture": [
        {"original_architecture": f"{name}ForCausalLM"} for name in ("Olmo2", "Olmoe", "GPT2LMHeadModel")
    ],
    "output_logits_soft_cap": [{"output_logits_soft_cap": cap} for cap in (1.0, 1000.0)],
    "parallel_attn_mlp": [{"parallel_attn_mlp": True}],
    "positional_embedding_type": [
        {"positional_embedding_type": kind}
        for kind in ("rotary", "standard", "shortformer", "alibi", "relative_positional_bias")
    ],
    "post_embedding_ln": [{"post_embedding_ln": True}],
    "rotary_adjacent_pairs": [{"rotary_adjacent_pairs": True}],
    "rotary_base": [{"rotary_base": 50.0}],
    "rotary_base_local": [
        {"rotary_base_local": 50.0},
        {"rotary_base_local": 50.0, "use_local_attn": True, "attn_types": ["global", "local"], "window_size": 2},
    ],
    "rotary_dim": [{"rotary_dim": 4}],
    "rotary_scaling_factor": [{"rotary_scaling_factor": 4.0}],
    "scale_attn_by_inverse_layer_idx": [{"scale_attn_by_inverse_layer_idx": True}],
    "tie_word_embeddings": [{"tie_word_embeddings": True}],
    "train_seq_length": [{"train_seq_length": 4, name: True} for name in ("use_logn_attn", "use_dynamic_ntk_rope")],
    "use_NTK_by_parts_rope": [{"use_NTK_by_parts_rope": True, "NTK_original_ctx_len": 16}],
    "use_attention_sinks": [{"use_attention_sinks": True}],
    "use_attn_in": [{"use_attn_in": True}],
    "use_attn_result": [{"use_attn_result": True}],
    "use_attn_scale": [{"use_attn_scale": False}],
    "use_dynamic_ntk_rope": [{"use_dynamic_ntk_rope": True, "train_seq_length": 100}],
    "use_hook_mlp_in": [{"use_hook_mlp_in": True}],
    "use_hook_tokens": [{"use_hook_tokens": True}],
    "use_local_attn": [{"use_local_attn": True, "attn_types": ["local", "local"], "window_size": 100}],
    "use_logn_attn": [{"use_logn_attn": True, "train_seq_length": 100}],
    "use_normalization_before_and_after": [
        {"use_normalization_before_and_after": True},
        {"use_normalization_before_and_after": True, "normalization_type": "RMS"},
    ],
    "use_qk_norm": [{"use_qk_norm": True}],
    "use_split_qkv_input": [{"use_split_qkv_input": True}],
    "use_yarn_rope": [
        {"use_yarn_rope": True, "yarn_original_max_position_embeddings": 16, "yarn_factor": 4.0},
        {"use_yarn_rope": True, "yarn_attention_factor": 1.3},
    ],
    "uses_rms_norm": [{"uses_rms_norm": True}],
    "ungroup_grouped_query_attention": [{"ungroup_grouped_query_attention": True, "n_key_value_heads": 1}],
    "window_size": [{"window_size": 2}],
}  # fmt: skip
"""For each field of TransformerLens's config that may change what is computed, the values that are tried."""

ELSEWHERE = {
    *SHAPE, "d_mlp", "dtype", "n_devices", "load_in_4bit", "quantization_method", "n_params", "trust_remote_code",
    "init_mode", "init_weights", "initializer_range", "seed", "decoder_start_token_id",
    "model_name", "from_checkpoint", "checkpoint_index", "checkpoint_label_type", "checkpoint_value",
    "default_prepend_bos", "tokenizer_name", "tokenizer_prepends_bos",
    "relative_attention_max_distance", "relative_attention_num_buckets",
    "NTK_by_parts_low_freq_factor", "NTK_by_parts_high_freq_factor", "NTK_by_parts_factor", "NTK_original_ctx_len",
    "yarn_factor", "yarn_attention_factor", "yarn_beta_fast", "yarn_beta_slow", "yarn_original_max_position_embeddings",
    "yarn_truncate", "yarn_global_attn_only",
}  # fmt: skip
"""Fields of the shape, of where weights come from and lie, and the numbers of a choice that is tried itself."""


def built(changes: dict[str, Any], *, std: float = 0.4) -> HookedTransformer:
    """Random weights, large enough that every part of the model matters."""
    with hooked_transformer_allowed():
        model = HookedTransformer(HookedTransformerConfig(**(SHAPE | changes))).eval()
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if name.endswith(".w") else 0.0
            parameter.copy_(centre + std * torch.randn(parameter.shape, generator=draws))
    return model


def tokens() -> Tensor:
    """All positions of the model, and others than those that the models are compared on."""
    return torch.randint(SHAPE["d_vocab"], (3, SHAPE["n_ctx"]), generator=torch.Generator().manual_seed(7))


def pieces_logits(model: Any) -> Tensor:
    c = take_apart(model)
    return c.logits(forward(c, tokens()))


def lean_logits(model: Any) -> Tensor:
    p = lean.parameters_of([model])
    x = lean.residual(p, tokens()[None], lean.shape_of(model))
    return lean.logits(p, x.flatten(1, 2)).view(*tokens().shape, -1)


PASSES: dict[str, Callable[[Any], Tensor]] = {"pieces": pieces_logits, "lean": lean_logits}


def test_every_choice_of_transformer_lens_is_tried() -> None:
    fields = {f.name for f in dataclasses.fields(HookedTransformerConfig)}
    assert set(CHOICES) | ELSEWHERE >= fields, "a field of TransformerLens's config is new: try it"


NOT_BUILT = (
    {"positional_embedding_type": "relative_positional_bias"},
    {"use_normalization_before_and_after": True},
)
"""What TransformerLens itself cannot build."""

TRIED = [change for field in CHOICES for change in CHOICES[field] if change not in NOT_BUILT]


def assert_equal_or_refused(kind: str, model: Any) -> None:
    """A pass gives the model's logits, or raises an error of one line."""
    with torch.no_grad():
        try:
            found = PASSES[kind](model)
        except ValueError as error:  # MechoclError is one
            refusal = str(error)
            found = None
        if found is None:
            assert "\n" not in refusal
            return
        torch.testing.assert_close(found, model(tokens()), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", PASSES)
@pytest.mark.parametrize("change", TRIED, ids=str)
def test_a_model_is_computed_as_it_computes_or_refused(kind: str, change: dict[str, Any]) -> None:
    assert_equal_or_refused(kind, built(change))


COVERED = [
    *(change for field in (
        "final_rms", "gated_mlp", "n_key_value_heads", "normalization_type", "rotary_adjacent_pairs", "rotary_base",
        "rotary_scaling_factor", "ungroup_grouped_query_attention", "use_NTK_by_parts_rope", "use_qk_norm",
    ) for change in CHOICES[field]),
    {"act_fn": "gelu_pytorch_tanh", "gated_mlp": True, "normalization_type": "RMS"},
    {"use_qk_norm": True, "n_key_value_heads": 1, "rotary_dim": 4},
    {"use_local_attn": True, "attn_types": ["global", "local"], "window_size": 24, "rotary_base_local": 50.0},
]  # fmt: skip
"""What the pieces must not refuse."""


@pytest.mark.parametrize("change", COVERED, ids=str)
def test_what_the_pieces_cover(change: dict[str, Any]) -> None:
    model = built(change)
    with torch.no_grad():
        torch.testing.assert_close(pieces_logits(model), model(tokens()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"use_local_attn": True, "attn_types": ["global", "local"], "window_size": 23},
            "local attention, which looks back 23 of its 24 pos",
        ),
        (
            {"use_yarn_rope": True, "yarn_original_max_position_embeddings": 16},
            r"yarn rotary embeddings; only",
        ),
        ({"original_architecture": "Olmo2ForCausalLM"}, "a norm of all heads together"),
        ({"output_logits_soft_cap": 30.0}, "the model has capped logits"),
        ({"attn_scores_soft_cap": 50.0}, "the model has capped attention scores"),
    ],
    ids=str,
)
def test_what_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MechoclError, match=message) as raised:
        take_apart(built(change))
    assert "\n" not in str(raised.value)


def test_more_tokens_than_positions_are_refused() -> None:
    c = take_apart(built({"n_ctx": 8}))
    with pytest.raises(MechoclError, match="the examples have 24 tokens, but the model has 8 positions"):
        c.embed(tokens())


@pytest.mark.parametrize("change", NOT_BUILT, ids=str)
def test_what_transformer_lens_cannot_build_is_not_tried(change: dict[str, Any]) -> None:
    with pytest.raises((ValueError, UnboundLocalError)):
        built(change)(tokens())


def test_equal_or_refused_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is compared, another forward pass is found out by the test."""
    monkeypatch.setattr(faithful, "find_parting", lambda ours, theirs: None)
    monkeypatch.setattr(lean, "find_parting", lambda ours, theirs: None)
    for kind in PASSES:
        with pytest.raises(AssertionError):
            assert_equal_or_refused(kind, built({"use_attention_sinks": True}))


PARTING = {
    "use_attention_sinks": "blocks.0.attn.hook_pattern",
    "attn_scale": "blocks.0.attn.hook_attn_scores",
    "scale_attn_by_inverse_layer_idx": "blocks.1.attn.hook_attn_scores",
    "post_embedding_ln": "embed",
}
"""The first site at which the pieces of models with these choices differ from them."""


@pytest.mark.parametrize("std", [0.4, 0.01])
@pytest.mark.parametrize(("field", "site"), PARTING.items())
def test_the_first_site_that_differs_is_named(field: str, site: str, std: float) -> None:
    """Also in a model of small weights, as before training, where nothing makes the outputs differ much."""
    model = built(CHOICES[field][0], std=std)
    with pytest.raises(MechoclError, match=f"first at {site} ") as raised:
        take_apart(model)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("std", [0.4, 0.01])
@pytest.mark.parametrize(
    "field", ["use_qk_norm", "use_attention_sinks", "attn_scale", "scale_attn_by_inverse_layer_idx"]
)
def test_a_small_model_is_not_trained_as_another_one(field: str, std: float) -> None:
    with pytest.raises(ValueError, match=r"the model has something else at blocks\.[01]\."):
        lean.shape_of(built(CHOICES[field][0], std=std))


LLAMA_3: dict[str, Any] = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip

ROPE: dict[str, dict[str, Any]] = {
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "dynamic": {"factor": 4.0},
    "linear": {"factor": 4.0},
}


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("kind", ROPE)
def test_other_rotary_embeddings_of_a_folder_are_refused(kind: str, bridge: bool, tmp_path: Path) -> None:
    """When it is loaded, or when it is taken apart; without scaling the same folder passes."""
    parameters = {"rope_theta": 10000.0, "partial_rotary_factor": 1.0}
    plain = loading.load(
        saved(neox(rope_parameters=parameters | {"rope_type": "default"}), tmp_path / "a"), bridge=bridge
    )
    take_apart(plain)
    folder = saved(neox(rope_parameters=parameters | {"rope_type": kind} | ROPE[kind]), tmp_path / "b")
    with pytest.raises(
        MechoclError, match=f"{kind} rotary embeddings|first at blocks.0.attn.hook_"
    ) as raised:
        take_apart(loading.load(folder, bridge=bridge))
    assert "\n" not in str(raised.value)


def test_a_bridge_with_llama_3s_rotary_embeddings_is_refused(tmp_path: Path) -> None:
    """The way out is named: a `HookedTransformer`, which has them."""
    folder = saved(
        neox(rope_parameters=LLAMA_3 | {"rope_theta": 100.0, "partial_rotary_factor": 1.0}), tmp_path
    )
    with pytest.raises(
        MechoclError, match=r"bridge has llama3 rotary embeddings; load it with bridge=False$"
    ):
        take_apart(loading.load(folder, bridge=True))
    take_apart(loading.load(folder))


def test_one_weight_is_enough_to_differ() -> None:
    model = built({})
    c = take_apart(model)
    assert faithful.find_difference(c, model) is None
    changed = dataclasses.replace(
        c, blocks=(c.blocks[0], dataclasses.replace(c.blocks[1], b_V=c.blocks[1].b_V + 0.05))
    )
    found = faithful.find_difference(changed, model)
    assert found is not None
    assert found.site == "blocks.1.attn.hook_v"


@pytest.mark.parametrize("kind", PASSES)
def test_a_model_is_compared_once_and_again_when_it_is_another(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def find(ours: Any, theirs: Any) -> Any:
        compared.append(ours)
        return comparing.find_parting(ours, theirs)

    monkeypatch.setattr(faithful, "find_parting", find)
    monkeypatch.setattr(lean, "find_parting", find)
    model = built({})
    counts = []
    for change in (
        lambda: None,
        lambda: None,
        lambda: model.W_E.data.mul_(0.5),
        lambda: setattr(model.cfg, "model_name", "another"),
        lambda: setattr(model.blocks[0], "mlp", built({}).blocks[0].mlp),
        lambda: model.train(),
    ):
        change()
        PASSES[kind](model)
        counts.append(len(compared))
    assert counts == [1, 1, 1, 2, 3, 4]
    hook = model.blocks[0].attn.register_forward_hook(lambda module, given, found: found * 0)
    with pytest.raises(ValueError, match=r"blocks\.0\.hook_attn_out|blocks\.0\.hook_resid_mid"):
        PASSES[kind](model)
    hook.remove()
    PASSES[kind](model)
    model.blocks[1].attn.apply_rotary = lambda x, *_: x
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.hook_attn_scores"):
        PASSES[kind](model)


# ------------------------------------------------------------------------------------------ tolerance


def test_rounding_is_allowed_and_more_is_not() -> None:
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)) * 30
    for factor, parts in ((1 + 1e-5, False), (1 + 1e-2, True)):
        found = comparing.find_parting({"a": x * factor}, {"a": x})
        assert (found is not None) == parts
    assert comparing.find_parting({"a": x + 1e-7}, {"a": x * 0}) is not None
    assert (
        comparing.find_parting({"a": x * 0 + 1e-7}, {"a": x * 0}) is None
    )  # what rounding leaves of a sum of 0
    assert comparing.find_parting({"a": x * torch.nan}, {"a": x}) is not None
    assert comparing.find_parting({"a": x[1:]}, {"a": x}).difference == float("inf")
    assert comparing.find_parting({"b": x}, {"a": x}) is None


def test_products_of_less_precision_are_allowed_more() -> None:
    """TF32 keeps 10 bits of a factor: about 1e-3 of it."""
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    precision = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        assert comparing.find_parting({"a": x * 1.005}, {"a": x}) is None
        assert comparing.find_parting({"a": x * 1.1}, {"a": x}) is not None
    finally:
        torch.set_float32_matmul_precision(precision)
    assert comparing.find_parting({"a": x * 1.005}, {"a": x}) is not None
