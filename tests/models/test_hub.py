"""The door to Hugging Face by itself: models of both kinds, configs, tokenizers, fingerprints, errors in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import text_worlds
import torch
from checkpoints import VOCABULARY, adapter, gpt2, llama, neox, saved, with_tokenizer
from safetensors.torch import load_file, save_file
from transformers import GPTNeoXForCausalLM

from mechocl.errors import MechoclError, describe_error
from mechocl.models import hub, hub_files


def assert_refused(act: Callable[[], object], message: str) -> None:
    with pytest.raises(MechoclError, match=message) as raised:
        act()
    assert "\n" not in str(raised.value)


# the model -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [neox, gpt2, llama, text_worlds.t5])
def test_a_model_has_exactly_its_weights(build: Callable[[], Any], tmp_path: Path) -> None:
    theirs = build().eval()
    folder = saved(theirs, tmp_path / "model")
    model = hub.read_model(folder)
    assert type(model) is type(theirs)
    assert not model.training
    expected = theirs.state_dict()
    assert model.state_dict().keys() == expected.keys()
    for name, weight in model.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, expected[name]), name
    # the model is in memory: what becomes of its file does not matter to it
    (folder / "model.safetensors").write_bytes(b"\0" * (folder / "model.safetensors").stat().st_size)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


def test_precision_and_attention_are_as_asked(tmp_path: Path) -> None:
    folder = saved(neox(), tmp_path)
    half = hub.read_model(folder, dtype=torch.bfloat16, attention="eager")
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    assert half.config._attn_implementation == "eager"
    assert hub.read_model(folder).config._attn_implementation != "eager"


def test_weights_of_a_sequence_to_sequence_model_are_checked_too(tmp_path: Path) -> None:
    folder = saved(text_worlds.t5(), tmp_path)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    gone = tensors.pop("encoder.block.1.layer.0.layer_norm.weight")
    assert len(gone) == 16
    save_file(tensors, file, metadata={"format": "pt"})
    assert_refused(
        lambda: hub.read_model(folder),
        r"model\.safetensors is incomplete: weight encoder\.block\.1\.layer\.0\.layer_norm\.weight is missing$",
    )


def test_an_adapter_beside_weights_is_refused(tmp_path: Path) -> None:
    """Hugging Face would put it into the model."""
    base = saved(neox(), tmp_path / "base")
    folder = adapter(base, tmp_path / "both")
    for path in base.iterdir():
        shutil.copy(path, folder)
    assert_refused(
        lambda: hub.read_model(folder), r"both holds an adapter \(adapter_config\.json\); merge it"
    )
    hub.read_model(base)


def test_random_weights_are_those_of_the_seed(tmp_path: Path) -> None:
    folder = saved(neox(), tmp_path)
    state = torch.random.get_rng_state()
    one, same, other = (
        hub.initialise_model(folder, seed=seed).get_output_embeddings().weight for seed in (0, 0, 1)
    )
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, hub.read_model(folder).get_output_embeddings().weight)


# the config ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (neox, ("gpt_neox", "GPTNeoXForCausalLM", "causal", 32, VOCABULARY, 3, 16)),
        (gpt2, ("gpt2", "GPT2LMHeadModel", "causal", 32, VOCABULARY, 2, 16)),
        (text_worlds.t5, ("t5", "T5ForConditionalGeneration", "seq2seq", 512, 420, 4, 16)),
    ],
)
def test_configs(build: Callable[[], Any], expected: tuple[Any, ...], tmp_path: Path) -> None:
    model_type, architecture, kind, context, vocabulary, layers, width = expected
    assert hub.read_config(saved(build(), tmp_path)) == hub.ModelConfig(
        model_type=model_type,
        architectures=(architecture,),
        kind=kind,
        context=context,
        vocabulary=vocabulary,
        layers=layers,
        width=width,
    )


def test_a_config_of_no_language_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert_refused(lambda: hub.read_config(tmp_path), r"config\.json names no vocab_size; give the folder of")


@pytest.mark.parametrize(
    ("build", "key"),
    [
        (neox, "max_position_embeddings"),
        (neox, "num_hidden_layers"),
        (neox, "num_attention_heads"),
        (neox, "hidden_size"),
        (gpt2, "n_positions"),
        (gpt2, "vocab_size"),
        (text_worlds.t5, "d_model"),
    ],
)
def test_a_config_of_a_model_without_a_size_is_refused(
    build: Callable[[], Any], key: str, tmp_path: Path
) -> None:
    path = saved(build(), tmp_path) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 0}))
    assert_refused(
        lambda: hub.read_config(path.parent), "config.json says .* must be at least 1|cannot be read"
    )


def test_weights_are_counted(tmp_path: Path) -> None:
    model = neox()
    expected = sum(weight.numel() for weight in model.parameters())
    assert hub_files.count_weights(saved(model, tmp_path / "one")) == expected
    assert hub_files.count_weights(saved(model, tmp_path / "shards", shards=True)) == expected


# the tokenizer -------------------------------------------------------------------------------------


def test_a_tokenizer_that_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(neox(), tmp_path)
    assert hub.read_tokenizer(folder, d_vocab=VOCABULARY) is None
    assert_refused(
        lambda: hub.require_tokenizer(folder), r"has no tokenizer \(tokenizer\.json, .*\); save it"
    )
    with_tokenizer(folder, ids=VOCABULARY + 1)
    assert_refused(
        lambda: hub.require_tokenizer(folder), f"ids up to {VOCABULARY}, .* up to {VOCABULARY - 1}"
    )
    assert len(hub.read_tokenizer(folder, d_vocab=VOCABULARY + 1) or ()) == VOCABULARY + 1
    with_tokenizer(folder, ids=VOCABULARY)
    assert len(hub.require_tokenizer(folder)) == VOCABULARY
    slow = hub.require_tokenizer(folder)
    monkeypatch.setattr(type(slow), "is_fast", False)
    assert_refused(lambda: hub.require_tokenizer(folder), "does not say which characters a token comes from")


# the hub -------------------------------------------------------------------------------------------


def test_weights_are_fetched_only_where_they_are_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def fetch(name: str, *, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert hub.locate("some/model", weights=False) == tmp_path
    assert_refused(lambda: hub.locate("some/model"), "some/model has no safetensors on the hub")
    assert ["*.safetensors" in patterns for patterns in asked] == [False, True]
    assert all("*.json" in patterns for patterns in asked)


def test_a_fingerprint_is_of_all_that_a_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_tokenizer(saved(neox(), tmp_path / "model"), ids=VOCABULARY)
    before = hub.fingerprint_model(folder)
    named = {"config.json", "model.safetensors", "tokenizer.json"}
    assert {str(folder / name) for name in named} <= before.keys()
    (folder / "notes.txt").write_text("not the model")
    assert hub.fingerprint_model(str(folder)) == before
    saved(neox(initializer_range=0.5), folder)
    after = hub.fingerprint_model(folder)
    assert {Path(name).name for name in before if before[name] != after[name]} == {"config.json"}
    commit = tmp_path / "models--some--model" / "snapshots" / "c0ffee"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: str(commit))
    assert hub.fingerprint_model("some/model") == {"some/model": "c0ffee"}


# errors --------------------------------------------------------------------------------------------


def test_an_error_of_a_library_is_one_line() -> None:
    assert describe_error(KeyError("d_sae")) == "KeyError: 'd_sae'"
    assert describe_error(RuntimeError("while loading:\n\tsize mismatch\n")) == (
        "RuntimeError: while loading: size mismatch"
    )
    assert describe_error(TimeoutError()) == "TimeoutError"
    long = describe_error(ValueError("word " * 1000))
    assert len(long) <= 300
    assert long.endswith("[...]")


def tied_folder(path: Path) -> Path:
    config = text_worlds.neox().config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return text_worlds.folder(path, GPTNeoXForCausalLM(config))


@pytest.mark.parametrize("name", ["embed_out.weight", "lm_head.weight"])
def test_a_file_that_contradicts_tied_embeddings(name: str, tmp_path: Path) -> None:
    """Another unembedding is refused; a copy of the embedding is the embedding; and with the remedy the file is read as it is."""
    folder = tied_folder(tmp_path / "model")
    file = folder / "model.safetensors"
    weights = load_file(file)
    embedding = weights["gpt_neox.embed_in.weight"]
    save_file({**weights, name: embedding.clone()}, file, metadata={"format": "pt"})
    model = hub.read_model(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    save_file({**weights, name: embedding + 1.0}, file, metadata={"format": "pt"})
    assert_refused(
        lambda: hub.read_model(folder),
        r"says tie_word_embeddings, and the weights beside it hold an unembedding",
    )
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    assert torch.equal(hub.read_model(folder).get_output_embeddings().weight, embedding + 1.0)
