"""A tiny Llama as a GGUF file, written by the package gguf."""

from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    max_position_embeddings=32, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
)  # fmt: skip

NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def paired(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp orders them: the two dimensions that are turned together are neighbours."""
    rows, columns = weight.shape
    found: np.ndarray = (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )
    return found


def write(model: LlamaForCausalLM, path: Path, *, quantisation: str = "F32", scaled: bool = False) -> None:
    """The model as llama.cpp would write it, with a byte-level tokenizer of few merges."""
    from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quants

    kind = GGMLQuantizationType[quantisation]
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(CONFIG.max_position_embeddings)
    writer.add_embedding_length(CONFIG.hidden_size)
    writer.add_block_count(CONFIG.num_hidden_layers)
    writer.add_feed_forward_length(CONFIG.intermediate_size)
    writer.add_head_count(CONFIG.num_attention_heads)
    writer.add_head_count_kv(CONFIG.num_key_value_heads)
    writer.add_layer_norm_rms_eps(CONFIG.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(CONFIG.vocab_size)
    writer.add_tokenizer_model("gpt2")
    spaced = ["Ġ", "Ġb", "Ġc", "Ġd"]
    letters = ["<|end|>", "a", "b", "ab", "c", "d", *spaced]
    letters += [f"x{i}" for i in range(CONFIG.vocab_size - len(letters))]
    writer.add_token_list(letters)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(letters) - 1)])
    writer.add_token_merges(["a b", *(f"Ġ {one[1]}" for one in spaced[1:])])
    for add in (
        writer.add_bos_token_id,
        writer.add_eos_token_id,
        writer.add_unk_token_id,
        writer.add_pad_token_id,
    ):
        add(0)

    def tensor(name: str, weight: torch.Tensor, heads: int = 0) -> None:
        values = weight.detach().numpy()
        values = paired(values, heads) if heads else values
        if values.ndim > 1 and quantisation != "F32":
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    tensor("token_embd.weight", model.model.embed_tokens.weight)
    tensor("output_norm.weight", model.model.norm.weight)
    for index, layer in enumerate(model.model.layers):
        for theirs, name in NAMES.items():
            heads = {"attn_q": CONFIG.num_attention_heads, "attn_k": CONFIG.num_key_value_heads}.get(name, 0)
            tensor(f"blk.{index}.{name}.weight", layer.get_submodule(theirs).weight, heads)
    if scaled:
        writer.add_tensor(
            "rope_freqs.weight",
            np.ones(CONFIG.hidden_size // CONFIG.num_attention_heads // 2, dtype=np.float32),
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
