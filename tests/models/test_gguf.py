"""GGUF files: a tiny Llama is written by the package gguf, and read back as an ordinary folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import llama, write

from mechocl.errors import MechoclError
from mechocl.models import gguf, hub, loading


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


def test_neither_the_working_folder_nor_what_lies_beside_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of the same name where one works, and a tokenizer beside the file."""
    original = llama()
    (tmp_path / "there").mkdir()
    write(original, tmp_path / "there" / "m.gguf")
    (tmp_path / "there" / "tokenizer.json").write_text("{}")
    other = llama()
    with torch.no_grad():
        other.model.norm.weight += 1.0
    write(other, tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    gguf.dequantise(Path("there/m.gguf"), Path("out"))
    torch.testing.assert_close(logits(hub.read_model(Path("out"))), logits(original), atol=1e-5, rtol=1e-4)
    tokenizer = hub.require_tokenizer(Path("out"))
    assert len(tokenizer) == 260
    assert tokenizer("ab").input_ids == [3]


def test_scaled_rotations_are_refused(tmp_path: Path) -> None:
    write(llama(), tmp_path / "m.gguf", scaled=True)
    with pytest.raises(
        MechoclError,
        match=r"scales rotary embeddings \(rope_freqs.weight\), which transformers does not read",
    ):
        gguf.dequantise(tmp_path / "m.gguf", tmp_path / "out")


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
    (tmp_path / "m.gguf").rename(tmp_path / "renamed.gguf")
    gguf.dequantise(tmp_path / "renamed.gguf", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    gguf.dequantise(tmp_path / "renamed.gguf", tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").exists()
    write(llama(), tmp_path / "other.gguf", quantisation="Q8_0")
    said = fails("gguf", tmp_path / "other.gguf", "--out", tmp_path / "out")
    assert "exists and is not the model of" in said
    assert "choose another --out" in said
    gguf.dequantise(tmp_path / "other.gguf", tmp_path / "another")
    assert (tmp_path / "another" / "model.safetensors").exists()


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
