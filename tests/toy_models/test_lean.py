"""The lean forward pass against the hooked model; the named architectures against GPT-NeoX itself."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from toy_models import architectures, lean
from toy_models.architectures import ARCHITECTURES, Architecture, ModelConfig, hooked_transformer_allowed

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

TINY = Architecture(n_layers=2, d_model=24, n_heads=3, d_mlp=40, rotary_fraction=0.5, init_std=0.3)
VOCAB, OUTPUTS, CONTEXT = 19, 13, 9


def tiny(seed: int = 0, **changes: Any) -> "HookedTransformer":
    architecture = dataclasses.replace(TINY, **changes)
    return architectures.build(architecture, d_vocab=VOCAB, d_vocab_out=OUTPUTS, n_ctx=CONTEXT, seed=seed)


@torch.no_grad()
def roughen(model: "HookedTransformer", *, std: float = 0.3, seed: int = 5) -> None:
    """As after training: every parameter moved, biases and layer norms included."""
    draws = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.empty_like(parameter).normal_(0.0, std, generator=draws))
    if model.cfg.tie_word_embeddings:
        architectures.tie(model)


def some_tokens(vocabulary: int, batch: int = 6, length: int = CONTEXT, seed: int = 1) -> Tensor:
    return torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def stack_logits(models: "Sequence[HookedTransformer]", tokens: Tensor) -> Tensor:
    """(model, batch, pos, d_vocab) for tokens (model, batch, pos)."""
    parameters = lean.parameters_of(models)
    x = lean.residual(parameters, tokens, lean.shape_of(models[0]))
    return lean.logits(parameters, x.flatten(1, 2)).view(*tokens.shape, -1)


def lean_logits(model: "HookedTransformer", tokens: Tensor) -> Tensor:
    return stack_logits([model], tokens[None])[0]


def assert_lean_equals_hooked(models: "Sequence[HookedTransformer]", tokens: Tensor) -> None:
    with torch.no_grad():
        residuals = lean.residual(lean.parameters_of(models), tokens, lean.shape_of(models[0]))
        logits = stack_logits(models, tokens)
        assert len(residuals) == len(logits) == len(models)
        for k, model in enumerate(models):
            hooked, cache = model.run_with_cache(tokens[k])
            expected = cache["blocks.1.hook_resid_post"]
            if model.cfg.normalization_type:  # the layer norm's hook sits before its weights
                expected = cache["ln_final.hook_normalized"] * model.ln_final.w + model.ln_final.b
            torch.testing.assert_close(residuals[k], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(logits[k], hooked, atol=1e-5, rtol=1e-5)
            assert hooked.std() > 0.3  # large enough that a missing part would show


@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
@pytest.mark.parametrize("normalization", ["LN", "none"])
@pytest.mark.parametrize(
    "blocks",
    [{"parallel_attn_mlp": True}, {"parallel_attn_mlp": False}, {"d_mlp": 0}, {"activation": "relu"}],
)
def test_lean_equals_hooked(positions: str, normalization: str, blocks: dict[str, Any]) -> None:
    scale = 0.3 if normalization == "LN" else 0.15  # without norms the stream would grow too large to compare
    models = []
    for seed in range(3):
        model = tiny(seed, positions=positions, normalization=normalization, init_std=scale, **blocks)
        roughen(model, std=scale, seed=5 + seed)
        models.append(model)
    for length in (CONTEXT, 4, 1):
        tokens = torch.stack([some_tokens(VOCAB, length=length, seed=seed) for seed in (1, 2, 3)])
        assert_lean_equals_hooked(models[:1], tokens[:1])
        assert_lean_equals_hooked(models, tokens)


def test_the_comparison_of_a_stack_notices_exchanged_models_and_tokens() -> None:
    models = [tiny(seed) for seed in (0, 1)]
    for model in models:
        roughen(model)
    tokens = torch.stack([some_tokens(VOCAB, seed=seed) for seed in (1, 2)])
    with torch.no_grad():
        hooked = torch.stack([model(rows) for model, rows in zip(models, tokens, strict=True)])
        torch.testing.assert_close(stack_logits(models, tokens), hooked, atol=1e-5, rtol=1e-5)
        for wrong in (stack_logits(models[::-1], tokens), stack_logits(models, tokens.flip(0))):
            assert (wrong - hooked).abs().amax((1, 2, 3)).min() > 0.1


def test_a_model_of_a_stack_is_not_touched_by_the_others() -> None:
    """Bit for bit, whatever the others compute: NaN too."""
    models = [tiny(seed) for seed in (0, 1, 2)]
    tokens = some_tokens(VOCAB).expand(3, -1, -1)
    changed = tokens.clone()
    changed[1] = some_tokens(VOCAB, seed=2)
    with torch.no_grad():
        before, after = stack_logits(models, tokens), stack_logits(models, changed)
        models[1].blocks[0].attn.W_Q[0, 0, 0] = torch.nan
        sick = stack_logits(models, tokens)
    assert torch.equal(before[::2], after[::2])
    assert torch.equal(before[::2], sick[::2])
    assert not torch.equal(before[1], after[1])
    assert sick[1].isnan().any()


def test_one_models_parameters_are_seen_and_several_are_copied() -> None:
    models = [tiny(seed) for seed in (0, 1)]
    alone, stacked = lean.parameters_of(models[:1]), lean.parameters_of(models)
    rotary = lean.rotary_tables(models[0])
    assert {name.rsplit(".", 1)[1] for name in rotary} == {"rotary_sin", "rotary_cos"}
    assert lean.rotary_tables(tiny(positions="learned")) == {}
    for name, value in models[0].named_parameters():
        assert alone[name].shape == (1, *value.shape)
        assert alone[name].data_ptr() == value.data_ptr()
        assert stacked[name].data_ptr() != value.data_ptr()
        for k, model in enumerate(models):
            assert torch.equal(stacked[name][k], model.get_parameter(name))
    assert alone.keys() == stacked.keys() == dict(models[0].named_parameters()).keys() | rotary.keys()


def _without_bias(model: "HookedTransformer") -> None:
    model.blocks[1].attn.b_V.data.zero_()


def _other_epsilon(model: "HookedTransformer") -> None:
    model.cfg.eps = 0.1


@pytest.mark.parametrize("break_it", [_without_bias, _other_epsilon])
def test_the_comparison_notices_a_small_difference(break_it: Callable[["HookedTransformer"], None]) -> None:
    model, broken = tiny(), tiny()
    roughen(model)
    roughen(broken)
    break_it(broken)
    tokens = some_tokens(VOCAB)
    parameters, shape = (
        lean.parameters_of([broken]),
        dataclasses.replace(lean.shape_of(model), eps=broken.cfg.eps),
    )
    with torch.no_grad():
        x = lean.residual(parameters, tokens[None], shape)
        found = lean.logits(parameters, x.flatten(1, 2)).view(*tokens.shape, -1)
        expected = model(tokens)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_equal_the_hooked_models() -> None:
    """Through the stack, to each model's own parameters."""
    models = [tiny(seed) for seed in (0, 1)]
    for seed, model in enumerate(models):
        roughen(model, seed=5 + seed)
    tokens = torch.stack([some_tokens(VOCAB, seed=seed) for seed in (1, 2)])
    weight = torch.randn(2, 6, CONTEXT, OUTPUTS, generator=torch.Generator().manual_seed(2))
    parameters = [p for model in models for p in model.parameters()]
    hooked = torch.stack([model(rows) for model, rows in zip(models, tokens, strict=True)])
    theirs = torch.autograd.grad((hooked * weight).sum(), parameters)
    ours = torch.autograd.grad((stack_logits(models, tokens) * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    own = list(models[0].parameters())
    alone = torch.autograd.grad((lean_logits(models[0], tokens[0]) * weight[0]).sum(), own)
    for a, b in zip(alone, theirs[: len(own)], strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(6, 3, 9, 8), (1, 1, 1, 4), (2, 4, 2, 16)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_causal_attention_equals_torchs_own(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(0)
    q, k, v, weight = (2 * torch.randn(4, *shape, generator=draws, dtype=dtype)).requires_grad_().unbind()
    ours = lean.causal_attention(q, k, v)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(ours, theirs)
    if shape[2] > 1:
        assert (ours - F.scaled_dot_product_attention(q, k, v)).abs().max() > 0.1
    gradients = [torch.autograd.grad((z * weight).sum(), (q, k, v)) for z in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_what_follows_changes_nothing_before_it() -> None:
    """Right padding is harmless: earlier positions are computed without it."""
    model = tiny()
    roughen(model)
    tokens = some_tokens(VOCAB)
    changed = tokens.clone()
    changed[:, 5:] = 0
    with torch.no_grad():
        torch.testing.assert_close(lean_logits(model, tokens)[:, :5], lean_logits(model, changed)[:, :5])
        assert (lean_logits(model, tokens)[:, 5:] - lean_logits(model, changed)[:, 5:]).abs().max() > 0.1


def test_a_forward_pass_leaves_the_model_alone() -> None:
    model, twin = tiny(), tiny()
    with torch.no_grad():
        lean_logits(model, some_tokens(VOCAB))
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "change",
    [
        {"normalization_type": "RMS"},
        {"positional_embedding_type": "shortformer"},
        {"act_fn": "silu"},
        {"gated_mlp": True, "act_fn": "gelu"},
        {"n_key_value_heads": 1},
        {"rotary_adjacent_pairs": True, "positional_embedding_type": "rotary"},
        {"attention_dir": "bidirectional"},
        {"use_local_attn": True, "window_size": 2, "attn_types": ["local", "local"]},
        {"use_attn_scale": False},
        {"attn_scale": 1.0},
        {"scale_attn_by_inverse_layer_idx": True},
        {"attn_scores_soft_cap": 5.0},
        {"output_logits_soft_cap": 5.0},
        {"post_embedding_ln": True},
    ],
    ids=lambda change: ",".join(change),
)
def test_shapes_that_lean_does_not_cover_are_refused(change: dict[str, Any]) -> None:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    base = {"n_layers": 2, "d_model": 8, "d_head": 4, "n_heads": 2, "n_ctx": 5, "d_vocab": 7, "d_mlp": 8}
    plain = base | {"act_fn": "relu", "positional_embedding_type": "standard", "device": "cpu"}
    with hooked_transformer_allowed():
        lean.shape_of(HookedTransformer(HookedTransformerConfig(**plain)))
        model = HookedTransformer(HookedTransformerConfig(**plain | change))
    with pytest.raises(ValueError, match="the lean forward pass covers"):
        lean.shape_of(model)


# ---------------------------------------------------------------------------------------- architectures


def neox(architecture: Architecture, *, vocabulary: int, context: int) -> Any:
    """EleutherAI's own model, as transformers implements it, with random weights and biases."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    a = architecture
    config = GPTNeoXConfig(
        vocab_size=vocabulary,
        hidden_size=a.d_model,
        num_hidden_layers=a.n_layers,
        num_attention_heads=a.n_heads,
        intermediate_size=a.d_mlp,
        rotary_pct=a.rotary_fraction,
        use_parallel_residual=a.parallel_attn_mlp,
        hidden_act=a.activation,
        max_position_embeddings=context,
        layer_norm_eps=a.layer_norm_eps,
        tie_word_embeddings=False,
    )
    return GPTNeoXForCausalLM(config).eval()


def weights_from_neox(source: Any, n_heads: int) -> dict[str, Tensor]:
    """GPT-NeoX's parameters under TransformerLens's names; q, k and v lie head by head in one matrix."""
    found: dict[str, Tensor] = {}
    for name, value in source.state_dict().items():
        parts = name.removeprefix("gpt_neox.").split(".")
        if parts[0] == "embed_in":
            found["embed.W_E"] = value
        elif parts[0] in ("embed_out", "lm_head"):
            found["unembed.W_U"] = value.T
        elif parts[0] == "final_layer_norm":
            found["ln_final." + parts[1][0]] = value
        else:
            block, inner, kind = f"blocks.{parts[1]}.", ".".join(parts[2:-1]), parts[-1]
            if inner in ("input_layernorm", "post_attention_layernorm"):
                found[block + ("ln1." if inner[0] == "i" else "ln2.") + kind[0]] = value
            elif inner == "attention.query_key_value":
                by_head = value.unflatten(0, (n_heads, 3, -1))
                for i, letter in enumerate("QKV"):
                    part = by_head[:, i]
                    key = block + f"attn.{kind[0].upper() if kind == 'weight' else 'b'}_{letter}"
                    found[key] = part.transpose(1, 2) if kind == "weight" else part
            elif inner == "attention.dense":
                found[block + ("attn.W_O" if kind == "weight" else "attn.b_O")] = (
                    value.T.unflatten(0, (n_heads, -1)) if kind == "weight" else value
                )
            else:
                end = "in" if inner == "mlp.dense_h_to_4h" else "out"
                found[block + ("mlp.W_" if kind == "weight" else "mlp.b_") + end] = (
                    value.T if kind == "weight" else value
                )
    return found


PYTHIA_LIKE = dataclasses.replace(ARCHITECTURES["pythia-70m"], n_layers=3, d_model=64, n_heads=2, d_mlp=256)


def neox_and_ours(ours: Architecture) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of GPT-NeoX, of `ours` as a hooked model, and lean, from the same weights."""
    source = neox(PYTHIA_LIKE, vocabulary=50, context=12)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.empty_like(parameter).normal_(0.0, 0.15, generator=draws))
    model = architectures.build(ours, d_vocab=50, d_vocab_out=50, n_ctx=12, seed=0)
    weights = weights_from_neox(source, PYTHIA_LIKE.n_heads)
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys() - {"unembed.b_U"}
    tokens = some_tokens(50, length=12)
    with torch.no_grad():
        for name, value in weights.items():
            parameters[name].copy_(value)
        return source(tokens).logits, model(tokens), lean_logits(model, tokens)


def test_pythia_computes_what_gpt_neox_computes() -> None:
    theirs, hooked, leaned = neox_and_ours(PYTHIA_LIKE)
    assert theirs.std() > 0.5
    torch.testing.assert_close(hooked, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(leaned, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"parallel_attn_mlp": False}, {"rotary_fraction": 0.5}, {"activation": "relu"}, {"layer_norm_eps": 0.1}],
    ids=lambda change: next(iter(change)),
)
def test_the_parity_notices_another_wiring(change: dict[str, Any]) -> None:
    theirs, hooked, leaned = neox_and_ours(dataclasses.replace(PYTHIA_LIKE, **change))
    assert (hooked - theirs).abs().max() > 1e-2
    torch.testing.assert_close(hooked, leaned, atol=1e-4, rtol=1e-4)


def test_pythia_70m_has_its_published_size() -> None:
    """18,915,328 parameters outside the embeddings (the model card of EleutherAI/pythia-70m)."""
    architecture = ARCHITECTURES["pythia-70m"]
    model = architectures.build(architecture, d_vocab=50, d_vocab_out=50, n_ctx=12, seed=0)
    ours = sum(p.numel() for n, p in model.named_parameters() if not n.startswith(("embed.", "unembed.")))
    with torch.device("meta"):
        source = neox(architecture, vocabulary=50, context=12)
    theirs = sum(p.numel() for p in source.parameters()) - 2 * 50 * 512
    assert ours == theirs == 18_915_328
    assert (architecture.rotary_dim, architecture.d_head) == (16, 64)


def test_the_small_architectures_have_the_shape_they_say() -> None:
    for name, shape in {"nano": (2, 32, 2, 128), "small": (2, 64, 4, 256)}.items():
        cfg = architectures.build(ARCHITECTURES[name], d_vocab=9, d_vocab_out=7, n_ctx=5, seed=0).cfg
        assert (cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp) == shape
        assert (cfg.d_vocab, cfg.d_vocab_out, cfg.n_ctx) == (9, 7, 5)


@pytest.mark.parametrize("embedding_std", [None, 0.4])
@pytest.mark.parametrize("positions", ["rotary", "learned", "none"])
def test_initialisation_has_its_distribution(positions: Any, embedding_std: float | None) -> None:
    model = architectures.build(
        dataclasses.replace(
            ARCHITECTURES["small"], positions=positions, init_std=0.05, embedding_std=embedding_std
        ),
        d_vocab=200,
        d_vocab_out=150,
        n_ctx=40,
        seed=0,
    )
    for name, parameter in model.named_parameters():
        last = name.rsplit(".", 1)[1]
        if name == "pos_embed.W_pos" and positions == "none":
            assert not parameter.any()
            assert not parameter.requires_grad
        elif last.startswith("W_"):
            std = embedding_std if name == "embed.W_E" and embedding_std else 0.05
            assert abs(parameter.std().item() / std - 1) < 0.1
            assert abs(parameter.mean().item()) < std * 5 / parameter.numel() ** 0.5
            assert parameter.requires_grad
        else:
            assert (parameter == (1.0 if last == "w" else 0.0)).all()
    assert ("pos_embed.W_pos" in dict(model.named_parameters())) == (positions != "rotary")


def test_initialisation_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = dict(tiny(seed=0).named_parameters())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (dict(tiny(seed=seed).named_parameters()) for seed in (0, 1))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name])
        if ".W_" in name:
            assert not torch.equal(parameter, other[name])


def test_the_tie_makes_the_unembedding_the_embeddings_transpose() -> None:
    model = tiny(tied_embeddings=True)
    assert torch.equal(model.W_U, model.W_E[:OUTPUTS].T)
    assert not model.unembed.W_U.requires_grad
    with torch.no_grad():
        model.embed.W_E += 1.0
    assert not torch.equal(model.W_U, model.W_E[:OUTPUTS].T)
    architectures.tie(model)
    assert torch.equal(model.W_U, model.W_E[:OUTPUTS].T)
    roughen(model)
    assert_lean_equals_hooked([model], some_tokens(VOCAB)[None])
    assert tiny().unembed.W_U.requires_grad


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Architecture)])
def test_every_field_can_be_changed(field: str) -> None:
    changes: dict[str, Any] = {
        "n_layers": 3, "d_model": 128, "n_heads": 8, "d_mlp": 0, "activation": "relu", "positions": "none",
        "rotary_fraction": 0.5, "parallel_attn_mlp": False, "normalization": "none", "layer_norm_eps": 1e-3,
        "tied_embeddings": True, "init_std": 0.5, "embedding_std": 1.0,
    }  # fmt: skip
    resolved = ModelConfig(architecture="small", **{field: changes[field]}).resolve()
    assert resolved == dataclasses.replace(ARCHITECTURES["small"], **{field: changes[field]})
    assert resolved != ARCHITECTURES["small"]
    assert ModelConfig(architecture="small").resolve() == ARCHITECTURES["small"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layers": 0}, "n_layers is 0; it must be at least 1"),
        ({"d_model": 0}, "d_model is 0; it must be at least 1"),
        ({"n_heads": -1}, "n_heads is -1; it must be at least 1"),
        ({"d_mlp": -1}, "d_mlp is -1; use 0 for attention-only blocks"),
        ({"n_heads": 5}, "d_model 64 is not divisible by n_heads 5"),
        ({"rotary_fraction": 0.0}, r"rotary_fraction 0\.0 of d_head 16 rotates 0 dimensions"),
        ({"rotary_fraction": 0.2}, r"rotary_fraction 0\.2 of d_head 16 rotates 3 dimensions"),
        ({"rotary_fraction": 1.5}, r"rotary_fraction 1\.5 of d_head 16 rotates 24 dimensions"),
        ({"layer_norm_eps": -1.0}, r"layer_norm_eps is -1\.0; it must be above 0"),
        ({"init_std": 0.0}, r"init_std is 0\.0; it must be above 0"),
        ({"embedding_std": 0.0}, r"embedding_std is 0\.0; it must be above 0"),
        ({"architecture": "gpt-5"}, "unknown architecture 'gpt-5'; known: nano, small, pythia-70m"),
    ],
)
def test_architectures_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelConfig(**{"architecture": "small"} | changes)
