"""Convert a Hugging Face model in memory to a `HookedTransformer` or a `TransformerBridge`.

The shape is read from the Hugging Face configuration here, because TransformerLens guesses it from the model's name and
does not know unusual widths. The weights go through TransformerLens's converters.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mechocl.errors import MechoclError
from mechocl.models import fold as folding
from toy_models import architectures

MAX_POSITIONS: Final = 8192
"""Most positions that a model gets by default. Some models name 131072, for which the tables of rotations alone take
gigabytes."""


def _neox(c: Any) -> dict[str, Any]:
    d_head = c.hidden_size // c.num_attention_heads
    return {
        "n_layers": c.num_hidden_layers,
        "d_model": c.hidden_size,
        "n_heads": c.num_attention_heads,
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "act_fn": c.hidden_act,
        "n_ctx": c.max_position_embeddings,
        "parallel_attn_mlp": c.use_parallel_residual,
        "normalization_type": "LN",
        "eps": c.layer_norm_eps,
    } | _rotary(c.rope_parameters, d_head)


def _gpt2(c: Any) -> dict[str, Any]:
    return {
        "n_layers": c.n_layer,
        "d_model": c.n_embd,
        "n_heads": c.n_head,
        "d_head": c.n_embd // c.n_head,
        "d_mlp": c.n_inner or 4 * c.n_embd,
        "act_fn": c.activation_function,
        "n_ctx": c.n_positions,
        "positional_embedding_type": "standard",
        "use_attn_scale": c.scale_attn_weights,
        "scale_attn_by_inverse_layer_idx": c.scale_attn_by_inverse_layer_idx,
        "normalization_type": "LN",
        "eps": c.layer_norm_epsilon,
    }


def _llama(c: Any, *, rope: dict[str, Any] | None = None) -> dict[str, Any]:
    """`rope`: rotary parameters, where the configuration has several; by default its only ones."""
    for option in ("attention_bias", "mlp_bias"):
        if getattr(c, option, False):
            raise MechoclError(f"has {option}, which TransformerLens's converter of {c.model_type} drops")
    d_head = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    grouped = c.model_type != "llama" or c.num_key_value_heads != c.num_attention_heads
    return (
        {
            "n_layers": c.num_hidden_layers,
            "d_model": c.hidden_size,
            "n_heads": c.num_attention_heads,
            "d_head": d_head,
            "n_key_value_heads": c.num_key_value_heads if grouped else None,
            "d_mlp": c.intermediate_size,
            "act_fn": getattr(c, "hidden_activation", None) or c.hidden_act,
            "n_ctx": c.max_position_embeddings,
            "normalization_type": "RMS",
            "final_rms": True,
            "gated_mlp": True,
            "eps": c.rms_norm_eps,
        }
        | _rotary(c.rope_parameters if rope is None else rope, d_head)
        | window_of(c)
    )


def _qwen3(c: Any) -> dict[str, Any]:
    return _llama(c) | {"use_qk_norm": True}


def _gemma(c: Any) -> dict[str, Any]:
    """Gemma 1, 2 and 3. The scales of its norms, 1 + weight, and of its embeddings become part of the weights."""
    if getattr(c, "use_bidirectional_attention", False):
        raise MechoclError("has use_bidirectional_attention; only causal attention is known")
    rope = c.rope_parameters
    by_layer = "full_attention" in rope  # Gemma 3 turns faster in layers with a window
    found = _llama(c, rope=rope["full_attention"] if by_layer else rope)
    if by_layer:
        local = _rotary(rope["sliding_attention"], found["d_head"])
        if "NTK_by_parts_factor" in local:
            raise MechoclError("has llama3 rotary embeddings in layers with a window; only default is known")
        found["rotary_base_local"] = local["rotary_base"]
    if c.model_type == "gemma":
        return found
    return found | {
        "attn_scale": c.query_pre_attn_scalar**0.5,
        "attn_scores_soft_cap": c.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": c.final_logit_softcapping or -1.0,
        "use_normalization_before_and_after": True,
        "use_qk_norm": c.model_type != "gemma2",
    }


def _rotary(rope: dict[str, Any], d_head: int) -> dict[str, Any]:
    rotary_dim = int(d_head * rope.get("partial_rotary_factor", 1.0))
    if rotary_dim == 0:  # no rotation, so no positions at all: learned embeddings that are zero
        return {"positional_embedding_type": "standard"}
    if rotary_dim % 2:
        raise MechoclError(f"rotates {rotary_dim} dimensions of each head; only even numbers are known")
    found = {
        "positional_embedding_type": "rotary",
        "rotary_dim": rotary_dim,
        "rotary_base": rope["rope_theta"],
        "rotary_adjacent_pairs": False,
    }
    if rope["rope_type"] == "default":
        return found
    if rope["rope_type"] != "llama3":
        raise MechoclError(f"has {rope['rope_type']} rotary embeddings; only default and llama3 are known")
    return found | {
        "use_NTK_by_parts_rope": True,
        "NTK_original_ctx_len": rope["original_max_position_embeddings"],
        "NTK_by_parts_low_freq_factor": rope["low_freq_factor"],
        "NTK_by_parts_high_freq_factor": rope["high_freq_factor"],
        "NTK_by_parts_factor": rope["factor"],
    }


def window_of(c: Any) -> dict[str, Any]:
    """Arguments of `HookedTransformerConfig` for layers in which attention sees only the last positions; none without such."""
    window = getattr(c, "sliding_window", None)
    if not window or getattr(c, "use_sliding_window", True) is False:
        return {}
    layers = getattr(c, "layer_types", None) or ["sliding_attention"] * c.num_hidden_layers
    types = ["local" if layer == "sliding_attention" else "global" for layer in layers]
    if "local" not in types:
        return {}
    return {"use_local_attn": True, "window_size": window, "attn_types": types}


@dataclass(frozen=True, slots=True)
class Family:
    """An architecture that can be converted."""

    shape: Callable[[Any], dict[str, Any]]
    """Hugging Face configuration → arguments of `HookedTransformerConfig`. Raises MechoclError for a configuration that
    these arguments cannot express."""
    converter: str
    """Name of the function in `transformer_lens.pretrained.weight_conversions`."""
    layers: str
    """Path of the attribute in which the Hugging Face model keeps its blocks."""


_GEMMA: Final = "convert_gemma_weights"

FAMILIES: Final[dict[str, Family]] = {
    "GPTNeoXForCausalLM": Family(_neox, "convert_neox_weights", "gpt_neox.layers"),
    "GPT2LMHeadModel": Family(_gpt2, "convert_gpt2_weights", "transformer.h"),
    "LlamaForCausalLM": Family(_llama, "convert_llama_weights", "model.layers"),
    "MistralForCausalLM": Family(_llama, "convert_mistral_weights", "model.layers"),
    "Qwen2ForCausalLM": Family(_llama, "convert_qwen2_weights", "model.layers"),
    "Qwen3ForCausalLM": Family(_qwen3, "convert_qwen3_weights", "model.layers"),
    "GemmaForCausalLM": Family(_gemma, _GEMMA, "model.layers"),
    "Gemma2ForCausalLM": Family(_gemma, _GEMMA, "model.layers"),
    "Gemma3ForCausalLM": Family(_gemma, _GEMMA, "model.layers"),
}


def family_of(theirs: Any) -> Family:
    return FAMILIES[type(theirs).__name__]


def layers_of(theirs: Any) -> list[nn.Module]:
    """The blocks of a Hugging Face model, bottom to top."""
    return list(theirs.get_submodule(family_of(theirs).layers))


def shape_of(theirs: Any, *, n_ctx: int | None) -> dict[str, Any]:
    """Arguments of `HookedTransformerConfig` for a Hugging Face model.

    Raises MechoclError for what `HookedTransformer` cannot represent. The message is a sentence without its subject,
    before which callers put the folder.
    """
    from transformer_lens.utilities.activation_functions import SUPPORTED_ACTIVATIONS

    family = family_of(theirs)
    if family.converter == _GEMMA and theirs.dtype != torch.float32:
        raise MechoclError(
            f"has scales of norms and embeddings that {theirs.dtype} would round once more; use dtype float32"
        )
    shape = family.shape(theirs.config)
    if shape["act_fn"] not in SUPPORTED_ACTIVATIONS:
        raise MechoclError(
            f"has the activation function {shape['act_fn']}; known are {', '.join(SUPPORTED_ACTIVATIONS)}"
        )
    if n_ctx is not None and not 0 < n_ctx <= shape["n_ctx"]:
        raise MechoclError(f"has {shape['n_ctx']} positions; n_ctx={n_ctx} must be between 1 and that")
    return shape | {
        "n_ctx": n_ctx or min(shape["n_ctx"], MAX_POSITIONS),
        "d_vocab": theirs.config.vocab_size,
        "tie_word_embeddings": bool(theirs.config.tie_word_embeddings),
        "original_architecture": type(theirs).__name__,
        "init_weights": False,
        "device": "cpu",
    }


@torch.no_grad()
def _give_zero_biases(theirs: Any) -> None:
    """Give a GPT-NeoX without attention biases biases of 0, because converters expect biases."""
    for module in theirs.modules():
        if type(module).__name__ == "GPTNeoXAttention":
            for linear in (module.query_key_value, module.dense):
                if linear.bias is None:
                    zeros = torch.zeros(linear.out_features, dtype=linear.weight.dtype)
                    linear.bias = nn.Parameter(zeros.to(linear.weight.device))


def weights_of(theirs: Any, config: Any) -> dict[str, Tensor]:
    """The weights by `HookedTransformer`'s names. Where possible they are views of the Hugging Face model's tensors.

    `config` is a `HookedTransformerConfig` made of the arguments that `shape_of` returns.
    """
    from transformer_lens.pretrained import weight_conversions

    _give_zero_biases(theirs)
    found: dict[str, Tensor] = getattr(weight_conversions, family_of(theirs).converter)(theirs, config)
    found.setdefault("unembed.b_U", torch.zeros(config.d_vocab))
    if config.positional_embedding_type == "standard":
        found.setdefault("pos_embed.W_pos", torch.zeros(config.n_ctx, config.d_model))
    return {name: weight.detach().to(theirs.dtype) for name, weight in found.items()}


def hooked(theirs: list[Any], shape: dict[str, Any], *, fold: bool, centre: bool) -> Any:
    """A `HookedTransformer` on the CPU, in evaluation mode, with a Hugging Face model's weights in their precision.

    `theirs` is a list that holds only that model, and is emptied. Each tensor is copied and let go before the next one,
    so that two copies of all weights are never held together. Biases that `HookedTransformer` has and that model has not are 0
    and need no gradients.
    """
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    lacking = () if fold or centre else _lacking_biases(theirs[0])
    weights = weights_of(theirs.pop(), HookedTransformerConfig(**shape))
    if fold:
        folding.fold_layer_norms(
            weights, n_layers=shape["n_layers"], centring=shape["normalization_type"] == "LN"
        )
        shape = folding.folded(shape)
    if centre:
        folding.centre(weights)
    if fold or centre:  # the unembedding is another matrix now
        shape = shape | {"tie_word_embeddings": False}
    with architectures.hooked_transformer_allowed():
        model = HookedTransformer(HookedTransformerConfig(**shape))
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys(), weights.keys() ^ parameters.keys()
    for name, parameter in parameters.items():
        assert parameter.shape == weights[name].shape, name
        parameter.data = weights.pop(name).clone(memory_format=torch.contiguous_format)
        parameter.requires_grad_(name.rpartition(".")[2] not in lacking)
    return model.eval()


def _lacking_biases(theirs: Any) -> tuple[str, ...]:
    """Names in a `HookedTransformer` of biases that a Hugging Face model does not have, as far as they are known here."""
    attention = [module for module in theirs.modules() if type(module).__name__ == "GPTNeoXAttention"]
    of_attention = any(module.query_key_value.bias is None for module in attention)
    of_output = getattr(theirs.get_output_embeddings(), "bias", None) is None
    return (*(("b_Q", "b_K", "b_V", "b_O") if of_attention else ()), *(("b_U",) if of_output else ()))


def bridged(theirs: Any, folder: Path, tokenizer: Any | None, *, fold: bool, centre: bool) -> Any:
    """A `TransformerBridge` in compatibility mode around a float32 Hugging Face model, which becomes part of it."""
    from transformer_lens.model_bridge import TransformerBridge

    _give_zero_biases(theirs)
    model = TransformerBridge.boot_transformers(
        str(folder),
        device=str(theirs.device),
        dtype=torch.float32,
        hf_model=theirs,
        tokenizer=_no_tokenizer()
        if tokenizer is None
        else copy.deepcopy(tokenizer),  # the bridge adds tokens to it
    )
    model.enable_compatibility_mode(
        disable_warnings=True,
        no_processing=not (fold or centre),
        fold_ln=fold,
        center_writing_weights=centre,
        center_unembed=centre,
        fold_value_biases=False,
    )
    return model.eval()


def _no_tokenizer() -> Any:
    """The tokenizer that `TransformerBridge`, which needs one, gets for a folder that has none.

    It knows a single token. That is enough, since analyses pass token ids.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    unknown = "[unknown]"
    words = Tokenizer(WordLevel({unknown: 0}, unk_token=unknown))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=unknown, eos_token=unknown, pad_token=unknown
    )
