"""What `models.load` reads and what it refuses: folders, hub names, adapters, bad input, memory.

That what it returns is the same model is `test_parity.py`'s.
"""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import text_worlds
import torch
from checkpoints import POSITIONS, VOCABULARY, adapter, gpt2, llama, neox, saved, with_adapter, with_tokenizer
from safetensors.torch import load_file, save_file
from transformers import BertConfig, GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXModel

from mechocl.errors import MechoclError
from mechocl.models import hub_files, loading, lora, parity

WEIGHTS = "model.safetensors"
HUB = "EleutherAI/pythia-70m"


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`single`, `sharded` and `adapter` (of `single`)."""
    folder = tmp_path_factory.mktemp("originals")
    with_tokenizer(saved(neox(), folder / "single"), ids=VOCABULARY - 5)
    saved(neox(), folder / "sharded", shards=True)
    adapter(folder / "single", folder / "adapter")
    return folder


@pytest.fixture
def single(originals: Path, tmp_path: Path) -> Path:
    """A copy that may be spoilt."""
    return Path(shutil.copytree(originals / "single", tmp_path / "single"))


@pytest.fixture
def sharded(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "sharded", tmp_path / "sharded"))


@pytest.fixture
def adapted(originals: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(originals / "adapter", tmp_path / "adapter"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Whoever asks for the network is noted, and gets none; nobody has been told to stay offline."""
    asked: list[Any] = []

    def refuse(*args: Any, **kwargs: Any) -> Any:
        asked.append(args)
        raise OSError("no network here")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return asked


def changed(folder: Path, name: str, **changes: Any) -> Path:
    """The folder, with entries of a JSON file changed."""
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def edited(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def assert_refused(source: str | Path, message: str, **options: Any) -> None:
    with pytest.raises(MechoclError, match=message) as raised:
        loading.load(source, **options)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 600


# ------------------------------------------------------------------------------------------------- reading


def test_a_local_path_asks_no_hub(originals: Path, no_network: list[Any]) -> None:
    """Nor does its adapter, its tokenizer or a bridge."""
    for name in ("single", "sharded", "adapter"):
        for options in ({}, {"bridge": True}, {"fold": True}):
            loading.load(originals / name, **options)
            loading.load(str(originals / name), **options)
    assert no_network == []
    with pytest.raises(OSError, match="no network here"):
        socket.create_connection(("localhost", 1))
    assert len(no_network) == 1


def test_loading_is_silent(originals: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And progress bars and the log level stay as they were."""
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    capfd.readouterr()
    for name in ("single", "sharded", "adapter"):
        loading.load(originals / name)
        loading.load(originals / name, bridge=True)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
    assert before == (logging.is_progress_bar_enabled(), logging.get_verbosity())


def test_a_folder_wins_over_a_hub_name(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any]
) -> None:
    shutil.copytree(originals / "single", tmp_path / HUB)
    monkeypatch.chdir(tmp_path)
    assert loading.load_with_parity(HUB).source == Path(HUB)
    assert no_network == []


def test_a_hub_name_without_network(no_network: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    assert_refused(HUB, rf"^{HUB} cannot be fetched: .* no network or no such model .*give the folder$")
    assert_refused(HUB, rf"^{HUB} at revision step1000 cannot be fetched", revision="step1000")
    assert no_network
    assert_refused("no such name", "^no such name cannot be fetched")
    assert capfd.readouterr().err == ""


def test_a_hub_name_is_fetched_once_and_read_as_a_folder(
    originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(originals / "sharded" if name == HUB else tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    loaded = loading.load_with_parity(HUB, revision="step1000")
    assert loaded.source == originals / "sharded"
    ((name, options),) = asked
    assert (name, options["revision"]) == (HUB, "step1000")
    assert "*.safetensors" in options["allow_patterns"]
    assert not any("bin" in pattern or "py" in pattern for pattern in options["allow_patterns"])
    assert_refused(
        "some/pickles", r"some/pickles has no safetensors on the hub.*python -c .* some/pickles FOLDER$"
    )


@pytest.mark.parametrize("path", ["./nowhere", "../nowhere", "/nowhere/at/all", "runs/of/mine", Path("a/b")])
def test_a_path_that_does_not_exist_is_no_hub_name(path: str | Path, no_network: list[Any]) -> None:
    assert_refused(path, "does not exist; give the folder")
    assert no_network == []


def test_the_parts_of_what_is_loaded(originals: Path, tmp_path: Path) -> None:
    """The tokenizer is the folder's own; the report can be kept; the tokens can be given."""
    tokens = torch.tensor([[3, 1, 4], [1, 5, 9]])
    report = tmp_path / "kept" / "parity.json"
    loaded = loading.load_with_parity(originals / "single", tokens=tokens, record=report)
    assert loaded.tokenizer.convert_ids_to_tokens(3) == "w3"
    assert loaded.parity.tokens == 6
    stored = json.loads(report.read_text())
    assert stored["source"] == str(originals / "single")
    assert stored["weights"] == "torch.float32"
    assert stored["max_abs_logit_difference"] == loaded.parity.max_abs_logit_difference
    assert list(stored["residual"]) == ["embed", "layer 0", "layer 1", "layer 2"]
    assert stored["parts_at"] is None
    assert loading.load_with_parity(originals / "sharded").tokenizer is None


def test_random_tokens_are_the_tokenizer_s(originals: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that pad a vocabulary are embeddings of nothing; all positions that a batch can have are tried."""
    seen: list[Any] = []
    right = parity.record

    def record(theirs: Any, layers: Any, batches: Any) -> Any:
        seen.extend(batches)
        return right(theirs, layers, batches)

    monkeypatch.setattr(parity, "record", record)
    loading.load(originals / "single")
    assert max(int(batch.max()) for batch in seen) == VOCABULARY - 6
    assert max(batch.shape[1] for batch in seen) == POSITIONS
    again = parity.random_batches(d_vocab=VOCABULARY - 5, n_ctx=POSITIONS)
    assert all(torch.equal(a, b) for a, b in zip(seen, again, strict=True))


@pytest.mark.parametrize("build", [neox, gpt2, llama])
def test_fewer_positions_than_the_model_has(build: Callable[[], Any], tmp_path: Path) -> None:
    folder = saved(build(), tmp_path)
    model = loading.load(folder, n_ctx=8)
    assert model.cfg.n_ctx == 8
    tokens = torch.arange(8)[None]
    torch.testing.assert_close(model(tokens), build().eval()(tokens).logits, atol=1e-4, rtol=1e-4)


def test_long_contexts_are_cut(tmp_path: Path) -> None:
    folder = saved(llama(max_position_embeddings=100_000), tmp_path)
    assert loading.load(folder).cfg.n_ctx == 8192
    assert loading.load(folder, n_ctx=9000).cfg.n_ctx == 9000


def test_old_checkpoints_store_masks_and_frequencies(single: Path) -> None:
    """As the hub's Pythia files do."""
    odd = ("attention.bias", "attention.masked_bias", "attention.rotary_emb.inv_freq")
    extra = {f"gpt_neox.layers.{layer}.{name}": torch.ones(2) for layer in range(3) for name in odd}
    edited(single / WEIGHTS, lambda tensors: tensors.update(extra))
    loading.load(single)


def test_old_configs_name_the_rotation_otherwise(single: Path) -> None:
    config = json.loads((single / "config.json").read_text())
    rope = config.pop("rope_parameters")
    old = {"rotary_pct": rope["partial_rotary_factor"], "rotary_emb_base": rope["rope_theta"]}
    (single / "config.json").write_text(json.dumps(config | old | {"torch_dtype": "float16"}))
    assert loading.load(single).cfg.rotary_dim == 2


def test_code_beside_a_checkpoint_is_never_run(single: Path, adapted: Path) -> None:
    spoor = single / "was here"
    (single / "custom.py").write_text(f"open({str(spoor)!r}, 'w')\nclass X: pass\n")
    code = {
        "AutoConfig": "custom.X",
        "AutoModelForCausalLM": "custom.X",
        "AutoTokenizer": ["custom.X", "custom.X"],
    }
    changed(single, "config.json", auto_map=code)
    changed(single, "tokenizer_config.json", auto_map=code)
    loading.load(single)
    loading.load(single, bridge=True)
    loading.load(adapted, base=single)
    assert not spoor.exists()


# ------------------------------------------------------------------------------------------------ adapters


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": ["query_key_value"], "use_rslora": True},
        {"target_modules": ["dense"], "use_dora": True},
        {"target_modules": ["dense_4h_to_h"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_in", "dense"]},
        {"bias": "lora_only"},
    ],
    ids=["all linear", "rank-stabilised", "dora", "with a head", "with embeddings", "with biases"],
)
def test_an_adapter_is_merged(config: dict[str, Any], originals: Path, tmp_path: Path) -> None:
    """The model is the one that was in memory when it was saved, and not the base."""
    theirs = with_adapter(originals / "single", **config)
    theirs.save_pretrained(tmp_path)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
    loaded = loading.load_with_parity(tmp_path)
    torch.testing.assert_close(loaded.model(tokens), expected, atol=1e-4, rtol=1e-4)
    assert (loaded.model(tokens) - loading.load(originals / "single")(tokens)).abs().max() > 0.01
    assert loaded.source == tmp_path
    assert len(loaded.tokenizer) == VOCABULARY - 5  # the base's


def test_an_adapter_that_was_not_trained_is_said_to_change_nothing(originals: Path, tmp_path: Path) -> None:
    """As peft makes it: B is 0. Loading one that was trained is silent (every other test here)."""
    theirs = with_adapter(originals / "single")
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    theirs.save_pretrained(tmp_path)
    for bridge in (False, True):
        with pytest.warns(UserWarning, match=f"the adapter in {tmp_path} changes no weight") as warned:
            model = loading.load(tmp_path, bridge=bridge)
        assert [str(one.message).count("\n") for one in warned] == [0]
        base = loading.load(originals / "single", bridge=bridge)
        assert torch.equal(model(torch.arange(9)[None]), base(torch.arange(9)[None]))


@pytest.mark.parametrize("named", [[3, VOCABULARY], {"embed_in": [VOCABULARY + 7]}, [-1]], ids=str)
def test_an_adapter_of_tokens_that_its_base_has_not(named: Any, adapted: Path, originals: Path) -> None:
    changed(adapted, "adapter_config.json", trainable_token_indices=named)
    assert_refused(
        adapted, rf"trains the embedding of token (\d+|-1), and its base has those of 0 to {VOCABULARY - 1}"
    )


def test_an_adapter_of_tokens_is_merged_into_the_base_that_has_them(originals: Path, tmp_path: Path) -> None:
    """The remedy of the refusal above: the base of the adapter, where its config names a smaller one."""
    theirs = with_adapter(originals / "single", trainable_token_indices=[3, VOCABULARY - 1])
    theirs.save_pretrained(tmp_path / "adapter")
    small = saved(neox(vocab_size=VOCABULARY - 5), tmp_path / "small")
    changed(tmp_path / "adapter", "adapter_config.json", base_model_name_or_path=str(small))
    assert_refused(tmp_path / "adapter", f"trains the embedding of token {VOCABULARY - 1}.* give the base")
    tokens = torch.tensor([[3, VOCABULARY - 1, 7]])
    with torch.no_grad():
        expected = theirs.eval()(tokens).logits
    model = loading.load(tmp_path / "adapter", base=originals / "single")
    torch.testing.assert_close(model(tokens), expected, atol=1e-4, rtol=1e-4)


def test_where_an_adapter_s_base_is(
    originals: Path, adapted: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any]
) -> None:
    """As the config says, from the working directory, or from the adapter's folder; or as told."""
    tokens = torch.arange(9)[None]
    expected = loading.load(originals / "adapter")(tokens)

    def assert_same(**options: Any) -> None:
        torch.testing.assert_close(loading.load(adapted, **options)(tokens), expected)

    monkeypatch.chdir(originals)
    changed(adapted, "adapter_config.json", base_model_name_or_path="single")
    assert_same()
    shutil.copytree(originals / "single", adapted / "under")
    changed(adapted, "adapter_config.json", base_model_name_or_path="under")
    assert_same()
    changed(adapted, "adapter_config.json", base_model_name_or_path="/nowhere/at/all")
    assert_same(base=originals / "sharded")
    assert_refused(adapted, "^/nowhere/at/all does not exist")
    changed(adapted, "adapter_config.json", base_model_name_or_path=None)
    assert_refused(adapted, r"adapter_config\.json does not name the model .* give it as base=")
    assert no_network == []
    changed(adapted, "adapter_config.json", base_model_name_or_path="some/name")
    assert_refused(adapted, "^some/name cannot be fetched")


ADAPTER = "adapter_model.safetensors"


def test_adapters_that_do_not_fit(originals: Path, adapted: Path, tmp_path: Path) -> None:
    base = originals / "single"
    assert_refused(
        adapted, r"does not fit its base .*size mismatch", base=saved(neox(hidden_size=32), tmp_path / "wide")
    )
    assert_refused(adapted, "does not fit its base .*not found", base=saved(gpt2(), tmp_path / "gpt2"))
    short = saved(neox(num_hidden_layers=2), tmp_path / "short")
    assert_refused(adapted, rf"{ADAPTER} does not fit .*layers\.2\..* is unexpected", base=short)
    assert_refused(adapted, "is an adapter itself; merge and save it first", base=adapted)
    assert_refused(base, "is not an adapter .*; leave base out", base=base)
    edited(adapted / ADAPTER, lambda tensors: tensors.pop(min(tensors)))
    assert_refused(adapted, rf"{ADAPTER} does not fit its base: weight \S+lora_A\S+ is missing")
    (adapted / ADAPTER).write_bytes(b"spoilt")
    assert_refused(adapted, f"{ADAPTER} is damaged")
    (adapted / ADAPTER).unlink()
    assert_refused(adapted, f"has no {ADAPTER}")
    changed(adapted, "adapter_config.json", peft_type="IA3")
    assert_refused(adapted, "is a IA3 adapter; only LoRA")


def test_a_pickled_adapter_is_refused_with_the_command_that_converts_it(adapted: Path) -> None:
    expected = loading.load(adapted)(torch.arange(9)[None])
    torch.save(load_file(adapted / ADAPTER), adapted / "adapter_model.bin")
    (adapted / ADAPTER).unlink()
    assert_refused(adapted, r"adapter_model\.bin is a pickle")
    run(lora.conversion_command(adapted))
    assert torch.equal(loading.load(adapted)(torch.arange(9)[None]), expected)


# ----------------------------------------------------------------------------------------------- bad input


def run(command: str) -> None:
    """A command that a message shows, by this interpreter."""
    program, *arguments = shlex.split(command)
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True, timeout=300)


def test_a_pickle_is_refused_with_the_command_that_converts_it(single: Path) -> None:
    expected = loading.load(single)(torch.arange(9)[None])
    folder = single.rename(single.with_name("a name with spaces"))
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    loading.load(folder)  # where there are both, safetensors is read
    (folder / WEIGHTS).unlink()
    with pytest.raises(
        MechoclError, match=r"pytorch_model\.bin is a pickle.*only safetensors is read"
    ) as raised:
        loading.load(folder)
    command = hub_files.conversion_command(folder, folder)
    assert str(raised.value).endswith(command)
    run(command)
    assert torch.equal(loading.load(folder)(torch.arange(9)[None]), expected)


def drop(name: str) -> Callable[[Path], object]:
    return lambda folder: edited(folder / WEIGHTS, lambda tensors: tensors.pop(name))


def config(**changes: Any) -> Callable[[Path], object]:
    return lambda folder: changed(folder, "config.json", **changes)


def write(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def add_weights(folder: Path) -> None:
    extra = {"gpt_neox.surplus": torch.ones(1), "other": torch.ones(1)}
    edited(folder / WEIGHTS, lambda tensors: tensors.update(extra))


def reshape_a_weight(folder: Path) -> None:
    edited(
        folder / WEIGHTS, lambda tensors: tensors.update({"gpt_neox.final_layer_norm.bias": torch.ones(3)})
    )


BIAS = "gpt_neox.layers.1.mlp.dense_h_to_4h.bias"
SCALED = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0, "partial_rotary_factor": 0.25}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, r"single does not exist; give the folder"),
        (lambda folder: (folder / "config.json").unlink(), r"single has no config\.json"),
        (write("config.json", b"{"), r"config\.json is not JSON"),
        (write("config.json", b"[]"), r"config\.json is not a JSON object"),
        (config(architectures=None), "single holds no architecture; only causal"),
        (
            config(architectures=["OPTForCausalLM"]),
            "single holds OPTForCausalLM; only causal .*GPTNeoXForCausalLM",
        ),
        (
            config(architectures=["GPT2LMHeadModel"]),
            r"config\.json contradicts itself: its architecture is GPT2LMHeadModel and its model_type gpt_neox; .* again$",
        ),
        (config(hidden_size="wide"), "single cannot be read: .*hidden_size"),
        (config(num_attention_heads=5), "single cannot be read: .*attention heads"),
        (config(hidden_act="unheard of"), "single cannot be read: .*unheard of"),
        (config(hidden_act="mish"), "single has the activation function mish; known are"),
        (config(rope_parameters=SCALED), "single has linear rotary embeddings; only"),
        (
            config(rope_parameters=SCALED | {"rope_type": "default", "partial_rotary_factor": 0.4}),
            "single rotates 3 dimensions of each head; only even",
        ),
        (
            config(quantization_config={"quant_method": "gptq"}),
            r"config\.json says that the weights are quantized",
        ),
        (
            config(hidden_size=64),
            rf"{WEIGHTS} does not fit config\.json: weight \S+ has shape .* is expected",
        ),
        (
            config(num_hidden_layers=2),
            rf"{WEIGHTS} does not .*weight gpt_neox\.layers\.2\.\S+ is unexpected \(and",
        ),
        (
            config(num_hidden_layers=4),
            rf"{WEIGHTS} is incomplete: weight gpt_neox\.layers\.3\.\S+ is missing \(and",
        ),
        (config(vocab_size=VOCABULARY + 1), rf"{WEIGHTS} does not fit config\.json: weight \S+ has shape"),
        (lambda folder: (folder / WEIGHTS).unlink(), f"single has no weights: neither {WEIGHTS} nor"),
        (write(WEIGHTS, b"spoilt"), f"{WEIGHTS} is damaged"),
        (drop(BIAS), rf"{WEIGHTS} is incomplete: weight {BIAS} is missing$"),
        (add_weights, rf"{WEIGHTS} does not .*: weight gpt_neox\.surplus is unexpected \(and 1 more\)"),
        (reshape_a_weight, r"weight gpt_neox\.final_layer_norm\.bias has shape \(3,\), \(16,\) is expected$"),
        (
            lambda folder: with_tokenizer(folder, ids=VOCABULARY + 1),
            rf"tokenizer in \S+single does not match the model: it has ids up to {VOCABULARY}, .* up to {VOCABULARY - 1}",
        ),
        (write("tokenizer.json", b"{"), "tokenizer in .*single cannot be read"),
        (write("tokenizer.json", b"{}"), "tokenizer in .*single cannot be read"),
    ],
)
@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
def test_what_cannot_be_loaded(
    single: Path, spoil: Callable[[Path], object], message: str, bridge: bool
) -> None:
    spoil(single)
    assert_refused(single, message, bridge=bridge)


def third_shard(folder: Path) -> Path:
    return next(folder.glob("*-00003-of-*"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda folder: third_shard(folder).unlink(),
            r"model-00003-of-\S+ is missing, which \S+index\.json names",
        ),
        (lambda folder: os.truncate(third_shard(folder), 900), r"model-00003-of-\S+ is damaged"),
        (write("model.safetensors.index.json", b"{}"), r"index\.json names no files"),
        (write("model.safetensors.index.json", b"{"), r"index\.json is not JSON"),
        (
            lambda folder: edited(third_shard(folder), lambda tensors: tensors.update(surplus=torch.ones(1))),
            r"model-00003-of-\S+ does not fit config\.json: weight surplus is unexpected",
        ),
        (
            lambda folder: edited(third_shard(folder), lambda tensors: tensors.pop(min(tensors))),
            r"index\.json is incomplete: weight \S+ is missing",
        ),
    ],
)
def test_what_cannot_be_loaded_in_shards(
    sharded: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(sharded)
    assert_refused(sharded, message)


def test_random_weights_need_an_architecture_that_can_be_converted(originals: Path, tmp_path: Path) -> None:
    folder = saved(text_worlds.t5(), tmp_path / "t5")
    for act in (loading.load, lambda folder: loading.initialised_like(folder, seed=0, device="cpu")):
        with pytest.raises(MechoclError, match="t5 holds T5ForConditionalGeneration; only causal"):
            act(folder)
    assert loading.initialised_like(originals / "single", seed=0, device="cpu").cfg.n_layers == 3


def test_what_is_not_a_causal_language_model(tmp_path: Path) -> None:
    base = GPTNeoXModel(neox().config)
    assert_refused(saved(base, tmp_path / "base"), "holds GPTNeoXModel; only causal")
    assert_refused(
        saved(BertConfig(architectures=["BertForMaskedLM"]), tmp_path / "bert"), "holds BertForMaskedLM"
    )
    assert_refused(
        saved(llama(mlp_bias=True), tmp_path / "llama"), "has mlp_bias, which TransformerLens's converter"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "no CUDA device"),
        ({"device": "toaster"}, "device 'toaster' is not known"),
        ({"dtype": torch.float64}, "weights cannot be held in torch.float64"),
        (
            {"dtype": torch.bfloat16, "fold": True},
            "folding and centring would round torch.bfloat16 weights once more",
        ),
        ({"n_ctx": POSITIONS + 1}, f"has {POSITIONS} positions; n_ctx={POSITIONS + 1} must be between"),
        ({"n_ctx": 8, "bridge": True}, "a bridge keeps the model's own positions"),
        ({"n_ctx": 0}, "n_ctx=0 must be between 1 and that"),
        ({"revision": "step1"}, "is a local folder, which has no revisions"),
        (
            {"tokens": torch.tensor([[VOCABULARY]])},
            f"ids outside the model's vocabulary, 0 to {VOCABULARY - 1}",
        ),
        ({"tokens": torch.zeros(1, POSITIONS + 1, dtype=torch.long)}, f"the model has {POSITIONS} positions"),
        ({"tokens": torch.zeros(0, 3, dtype=torch.long)}, r"tokens have shape \(0, 3\)"),
    ],
)
def test_options_that_make_no_sense(originals: Path, options: dict[str, Any], message: str) -> None:
    if options.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert_refused(originals / "single", message, **options)


# -------------------------------------------------------------------------------------------------- memory


MEASURE = """
import json, os, sys
from pathlib import Path
import torch, peft, transformer_lens
from mechocl.models import loading

def memory(line):
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(x for x in status if x.startswith(line)).split()[1])

small, big, adapter = sys.argv[1:]
CASES = {
    "float32": (big, {}),
    "folded and centred": (big, {"fold": True, "centre": True}),
    "adapter": (adapter, {}),
    "bfloat16": (big, {"dtype": torch.bfloat16}),
}
for options in ({}, {"fold": True, "centre": True}, {"dtype": torch.bfloat16}):  # what is imported and made once
    loading.load_with_parity(small, **options)
peft.PeftModel
for name, (folder, options) in 3 * list(CASES.items()):
    read, write = os.pipe()
    if os.fork() == 0:  # so that each has a peak of its own
        before = memory("VmRSS")
        model = loading.load_with_parity(folder, **options).model
        weights = 4 * sum(parameter.numel() for parameter in model.parameters())
        os.write(write, json.dumps({name: (memory("VmHWM") - before) / weights, "weights": weights}).encode())
        os._exit(0)
    assert os.wait()[1] == 0, name
    print(os.read(read, 1000).decode())
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_peaks_at_2_2_times_the_float32_weights(originals: Path, tmp_path: Path) -> None:
    """Of 160 MB; half precision at less (the file is read in float32). A process of its own, and three for each way to load, of which the
    least counts: pages that the system took back before a load began, and that the load reads again, are counted with it."""
    shape = {"vocab_size": 8000, "hidden_size": 768, "num_hidden_layers": 4, "num_attention_heads": 12}
    config = GPTNeoXConfig(**shape, intermediate_size=3072, bos_token_id=None, eos_token_id=None)
    big = saved(GPTNeoXForCausalLM(config), tmp_path / "big")
    adapted = adapter(big, tmp_path / "adapter", std=0.01)
    arguments = [str(originals / "single"), str(big), str(adapted)]
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True, timeout=300
    )
    peaks: dict[str, float] = {}
    for line in done.stdout.splitlines():
        peaks |= {name: min(value, peaks.get(name, value)) for name, value in json.loads(line).items()}
    assert peaks.pop("weights") > 150e6
    assert peaks.keys() == {"float32", "folded and centred", "adapter", "bfloat16"}
    assert peaks["bfloat16"] < peaks["float32"], peaks
    assert max(peaks.values()) < 2.2, peaks
    assert min(peaks.values()) > 0.5, peaks  # it measures something
