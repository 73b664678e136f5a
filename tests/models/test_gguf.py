"""GGUF files: a tiny Llama is written by the package gguf, and read back as an ordinary folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from mechocl.errors import MechoclError
from mechocl.models import gguf, hub, loading

CONFIG = LlamaConfig(
    vocab_size=264, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
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


def write(model: LlamaForCausalLM, path: Path, *, quantisation: str = "F32") -> None:
    """The model as llama.cpp would write it, with a byte-level tokenizer of no merges but one."""
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
    letters = ["<|end|>", "a", "b", "ab", *(f"x{i}" for i in range(256))]
    writer.add_token_list(letters)
    writer.add_token_types([TokenType.CONTROL, *[TokenType.NORMAL] * (len(letters) - 1)])
    writer.add_token_merges(["a b"])
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
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model(torch.arange(24).view(2, 12)).logits
    return found


def test_the_folder_has_the_weights_of_the_file(tmp_path: Path) -> None:
    """In full precision the model is the one that was written; both its forward passes agree, and its tokenizer is the file's."""
    original = llama()
    write(original, tmp_path / "m.gguf")
    gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    read = hub.read_model(tmp_path / "out")
    torch.testing.assert_close(logits(read), logits(original), atol=1e-5, rtol=1e-4)
    found = loading.load_with_parity(tmp_path / "out")
    assert found.parity.parts_at() is None
    assert found.tokenizer("ab").input_ids[-1] == 3
    config = hub.read_config(tmp_path / "out")
    assert (config.architectures, config.context) == (("LlamaForCausalLM",), 32)


def test_quantised_weights_are_rounded_ones(tmp_path: Path) -> None:
    original = llama()
    write(original, tmp_path / "m.gguf", quantisation="Q8_0")
    gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    read = hub.read_model(tmp_path / "out")
    ours, theirs = read.model.layers[1].mlp.up_proj.weight, original.model.layers[1].mlp.up_proj.weight
    assert 0 < (ours - theirs).abs().max() < theirs.abs().max() / 100
    assert loading.load_with_parity(tmp_path / "out").parity.parts_at() is None


def test_the_same_file_again_and_another_one(tmp_path: Path, fails: Callable[..., str]) -> None:
    write(llama(), tmp_path / "m.gguf")
    gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    write(llama(), tmp_path / "other.gguf", quantisation="Q8_0")
    said = fails("gguf", tmp_path / "other.gguf", "--out", tmp_path / "out")
    assert "exists and is not the model of" in said
    assert "choose another --out" in said


def test_what_cannot_be_read(
    tmp_path: Path, fails: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.gguf").write_text("words")
    assert "is no GGUF file" in fails("gguf", tmp_path / "text.gguf", "--out", tmp_path / "out")
    assert "is no GGUF file" in fails("gguf", tmp_path / "nowhere.gguf", "--out", tmp_path / "out")
    assert "`mechocl gguf` makes one of this GGUF file" in fails("parity", tmp_path / "text.gguf")
    write(llama(), tmp_path / "m.gguf")
    spoilt = (tmp_path / "m.gguf").read_bytes()
    (tmp_path / "cut.gguf").write_bytes(spoilt[: len(spoilt) // 2])
    (tmp_path / "other.gguf").write_bytes(spoilt.replace(b"llama", b"lxama"))
    for name in ("cut.gguf", "other.gguf"):
        assert "cannot be read: " in fails("gguf", tmp_path / name, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for module in ("transformers.utils.import_utils", "transformers.modeling_gguf_pytorch_utils"):
        monkeypatch.setattr(f"{module}.is_gguf_available", lambda *_: False)
    with pytest.raises(MechoclError, match="GGUF files need the package gguf"):
        gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")
