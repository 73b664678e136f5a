"""A model that was loaded is the Hugging Face model, or is not returned.

On random checkpoints over the product of what a GPT-NeoX may be and how it may be saved; and every wrong reading
of a configuration is caught, at the layer where it first shows.
"""

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from checkpoints import (
    VOCABULARY,
    adapter,
    gemma,
    gemma2,
    gemma3,
    gpt2,
    llama,
    mistral,
    neox,
    qwen2,
    qwen3,
    saved,
    with_tokenizer,
)
from torch import nn
from transformer_lens import HookedTransformer

from mechocl.errors import MechoclError
from mechocl.models import convert, loading, parity
from mechocl.models.parity import Parity
from mechocl.models.sites import residual_sites

SHAPES = {
    "shallow": {"num_hidden_layers": 1, "hidden_size": 16, "intermediate_size": 40},
    "deep": {"num_hidden_layers": 3, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 24},
}


def assert_parity(found: Parity, *, layers: int) -> None:
    """Rounding and no more, everywhere; all the report's parts are there."""
    assert found.parts_at() is None
    assert found.max_abs_logit_difference < 1e-4
    assert found.top1_agreement == 1
    assert list(found.residual) == list(residual_sites(layers))
    assert max(found.residual.values()) < 1e-4
    assert found.tokens == 32 + 2 * 24 + 4 * 8  # the longest batch is cut at the model's positions
    assert found.tolerance == 1e-4


# --------------------------------------------------------------------------------- the same forward pass


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("parallel", [False, True], ids=["sequential", "parallel"])
@pytest.mark.parametrize("rotary", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kind_of_neox_in_every_kind_of_folder(
    shape: dict[str, int], rotary: float, parallel: bool, tied: bool, tmp_path: Path
) -> None:
    """Single or sharded, whole or padded vocabulary, with or without an adapter, as trained or folded and centred."""
    theirs = neox(rotary_pct=rotary, use_parallel_residual=parallel, tie_word_embeddings=tied, **shape)
    for shards, padding in ((False, 7), (True, 0)) if tied else ((False, 0), (True, 7)):
        folder = saved(theirs, tmp_path / f"{shards}-{padding}", shards=shards)
        assert (folder / "model.safetensors").exists() != shards
        with_tokenizer(folder, ids=VOCABULARY - padding)
        adapted = adapter(folder, tmp_path / f"{shards}-{padding}-adapter")
        for source, processed in itertools.product((folder, adapted), (False, True)):
            loaded = loading.load_with_parity(source, fold=processed, centre=processed)
            assert_parity(loaded.parity, layers=shape["num_hidden_layers"])
            assert loaded.parity.compared == ("log probabilities" if processed else "logits")
            assert len(loaded.tokenizer) == VOCABULARY - padding
            assert isinstance(loaded.model, HookedTransformer)
            assert not loaded.model.training
            assert loaded.model.cfg.d_vocab == VOCABULARY
    bridge = loading.load_with_parity(adapted, bridge=True)
    assert_parity(bridge.parity, layers=shape["num_hidden_layers"])


OTHERS: dict[str, Callable[[], Any]] = {
    "no rotation": lambda: neox(rotary_pct=0.0),
    "no attention bias": lambda: neox(attention_bias=False),
    "epsilon": lambda: neox(layer_norm_eps=0.1),
    "silu": lambda: neox(hidden_act="silu"),
    "GPT-2": gpt2,
    "GPT-2, untied, narrow MLP": lambda: gpt2(tie_word_embeddings=False, n_inner=20),
    "GPT-2, scaled by layer": lambda: gpt2(scale_attn_by_inverse_layer_idx=True),
    "Llama": llama,
    "Llama, a key for each head": lambda: llama(num_key_value_heads=4),
    "Llama, wide heads, tied": lambda: llama(head_dim=8, tie_word_embeddings=True),
    "Llama 3": lambda: llama(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        }
    ),
    "Mistral": lambda: mistral(sliding_window=None),
    "Mistral with a window": lambda: mistral(sliding_window=5),
    "Qwen2": qwen2,
    "Qwen2 with a window": lambda: qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "Qwen3": qwen3,
    "Gemma": gemma,
    "Gemma 2, with caps and a window": gemma2,
    "Gemma 3, with a window": gemma3,
}


@pytest.mark.parametrize("build", OTHERS.values(), ids=OTHERS)
def test_other_options_and_families(build: Callable[[], Any], tmp_path: Path) -> None:
    """In both classes, as trained and folded; and centred where the norms centre."""
    folder = saved(build(), tmp_path)
    layers = len(convert.layers_of(build()))
    for options in ({}, {"bridge": True}, {"fold": True}, {"bridge": True, "fold": True}):
        assert_parity(loading.load_with_parity(folder, **options).parity, layers=layers)
    if "rms_norm_eps" in json.loads((folder / "config.json").read_text()):
        with pytest.raises(MechoclError, match="norms that do not subtract the mean"):
            loading.load_with_parity(folder, centre=True)
    else:
        for options in ({"centre": True}, {"bridge": True, "centre": True}, {"fold": True, "centre": True}):
            found = loading.load_with_parity(folder, **options).parity
            assert_parity(found, layers=layers)
            assert found.compared == "log probabilities"


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(stored: torch.dtype, tmp_path: Path) -> None:
    theirs = neox().to(stored)
    loaded = loading.load_with_parity(saved(theirs, tmp_path, shards=True))
    assert_parity(loaded.parity, layers=3)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert torch.equal(loaded.model.W_E, theirs.gpt_neox.embed_in.weight.float())


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept_when_asked_for(dtype: torch.dtype, bridge: bool, tmp_path: Path) -> None:
    """The comparison is of the rounded weights, in float32: as exact as any; the model then computes in half."""
    folder = saved(neox(), tmp_path / "whole")
    loaded = loading.load_with_parity(folder, dtype=dtype, bridge=bridge)
    assert_parity(loaded.parity, layers=3)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {dtype}
    tokens = torch.arange(20)[None]
    logits = loaded.model(tokens, return_type="logits")
    assert logits.dtype == dtype
    exact = loading.load(folder)(tokens, return_type="logits")
    assert 1e-4 < (logits - exact).abs().max() < 0.5
    adapted = adapter(folder, tmp_path / "adapter")
    assert_parity(loading.load_with_parity(adapted, dtype=dtype, bridge=bridge).parity, layers=3)


def test_widening_is_undone(tmp_path: Path) -> None:
    """Also where a forward pass fails: no hook stays, and no parameter is wide."""
    theirs = neox().bfloat16()
    with pytest.raises(IndexError), parity.widened(theirs):
        theirs(torch.tensor([[VOCABULARY]]))
    with parity.widened(theirs):
        inside = theirs(torch.arange(5)[None]).logits
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, theirs.float()(torch.arange(5)[None]).logits)
    theirs = theirs.bfloat16()
    assert theirs(torch.arange(5)[None]).logits.dtype == torch.bfloat16


def test_tolerance_grows_with_the_values(tmp_path: Path) -> None:
    """Logits of several hundred: their rounding alone exceeds 1e-4, and no more than their scale allows."""
    theirs = neox()
    theirs.lm_head.weight.data *= 3000
    found = loading.load_with_parity(saved(theirs, tmp_path)).parity
    assert found.scale["logits"] > 300
    assert 1e-4 < found.max_abs_logit_difference < 1e-4 * found.scale["logits"]
    assert found.top1_agreement == 1


# ------------------------------------------------------------------------------------------ what is caught


def wrong(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the configuration be read wrongly."""
    right = convert.shape_of
    monkeypatch.setattr(convert, "shape_of", lambda *a, **k: right(*a, **k) | changes)


WRONG: dict[str, dict[str, Any]] = {
    "rotary fraction": {"rotary_dim": 8},
    "rotary base": {"rotary_base": 500.0},
    "adjacent pairs": {"rotary_adjacent_pairs": True},
    "residual": {"parallel_attn_mlp": False},
    "epsilon": {"eps": 1e-3},
    "activation": {"act_fn": "gelu_new"},
    "scale": {"use_attn_scale": False},
}


@pytest.mark.parametrize("processed", [False, True], ids=["as trained", "folded and centred"])
@pytest.mark.parametrize("changes", WRONG.values(), ids=WRONG)
def test_a_wrong_option_is_caught_at_the_first_layer(
    changes: dict[str, Any], processed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(neox(rotary_pct=0.25, hidden_size=32), tmp_path)
    options = {"fold": processed, "centre": processed}
    loading.load(folder, **options)
    wrong(monkeypatch, **changes)
    report = tmp_path / "report" / "parity.json"
    with pytest.raises(MechoclError, match="differs from the Hugging Face model at layer 0") as raised:
        loading.load(folder, record=report, **options)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    stored = json.loads(report.read_text())
    assert stored["parts_at"] == "layer 0"
    assert stored["residual"]["embed"] < 1e-6 < 1e-4 < stored["residual"]["layer 0"]


def test_a_wrong_epsilon_of_a_small_initialisation_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1e-6 for 1e-5, where the stream's variance is that of an untrained model."""
    theirs = neox()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" not in name:
                parameter *= 0.1
    folder = saved(theirs, tmp_path)
    wrong(monkeypatch, eps=1e-6)
    with pytest.raises(MechoclError, match=r"differs from .* at layer 0"):
        loading.load(folder)


@pytest.mark.parametrize(
    ("weight", "place"),
    [
        ("embed.W_E", "embed"),
        ("blocks.1.attn.W_O", "layer 1"),
        ("blocks.2.mlp.b_in", "layer 2"),
        ("ln_final.w", "the logits, above the last layer"),
        ("unembed.W_U", "the logits, above the last layer"),
    ],
)
def test_a_wrong_weight_is_caught_where_it_is(
    weight: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = convert.weights_of

    def spoilt(theirs: Any, config: Any) -> dict[str, torch.Tensor]:
        weights = right(theirs, config)
        return weights | {weight: weights[weight] + 0.01}

    monkeypatch.setattr(convert, "weights_of", spoilt)
    with pytest.raises(MechoclError, match=f"differs from the Hugging Face model at {place}: "):
        loading.load(saved(neox(), tmp_path))


def test_a_number_that_is_none_is_caught(tmp_path: Path) -> None:
    theirs = neox()
    model = loading.load(saved(theirs, tmp_path))
    recorded = parity.record(
        theirs, convert.layers_of(theirs), [torch.arange(6)[None], torch.arange(9)[None]]
    )
    assert parity.compare(model, recorded, centred=False).parts_at() is None
    model.blocks[1].mlp.b_out.data[3] = math.nan
    found = parity.compare(model, recorded, centred=False)
    assert found.parts_at() == "layer 1"
    assert found.complaint() == (
        "differs from the Hugging Face model at layer 1: the largest difference is nan, "
        f"{1e-4 * found.scale['layer 1']:.2g} is allowed"
    )


@dataclass(frozen=True)
class Shape:
    n_layers: int = 1
    n_heads: int = 1
    d_model: int = 2
    d_vocab: int = 2


class Answers(nn.Module):
    """What a model must have, and the numbers that it always answers with."""

    cfg = Shape()
    W_U = b_U = torch.zeros(1)
    hook_dict: ClassVar[dict[str, Any]] = {}

    def hooks(self, fwd_hooks: Any) -> Any:
        raise NotImplementedError

    def run_with_cache(self, tokens: Any, *, names_filter: list[str], return_type: str | None) -> Any:
        cache = {
            "blocks.0.hook_resid_pre": torch.tensor([[[0.0, 0.5], [1.0, 0.0]]]),
            "blocks.0.hook_resid_post": torch.tensor([[[3.0, 4.5], [0.0, 0.0]]]),
        }
        return torch.tensor([[[1.0, 2.0], [2.0, 1.0]]]), cache


def test_the_report_is_as_worked_out_by_hand() -> None:
    theirs = parity.Recorded(
        torch.tensor([[0, 1]]),
        {
            "embed": torch.tensor([[[0.0, 0.5], [1.0, 0.25]]]),
            "layer 0": torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]),
        },
        torch.tensor([[[1.0, 2.0], [1.0, 4.0]]]),
    )
    found = parity.compare(Answers(), [theirs], centred=False)
    assert found.max_abs_logit_difference == 3
    assert found.top1_agreement == 0.5
    assert found.residual == {"embed": 0.25, "layer 0": 0.5}
    # root mean squares: of (0, 0.25, 1, 0.0625), which is below 1; of (9, 16, 0, 0); of (1, 4, 1, 16)
    assert found.scale == pytest.approx({"embed": 1, "layer 0": 2.5, "logits": math.sqrt(5.5)})
    assert found.tokens == 2
    assert found.parts_at() == "embed"
    assert replace(found, tolerance=0.24).parts_at() == "embed"
    assert replace(found, tolerance=0.3).parts_at() == "logits"  # layer 0 parts below 0.5 / 2.5
    assert replace(found, tolerance=2.0).parts_at() is None
    # without their means: ours is taken to write none; log probabilities: of (1, 2) the same, of (2, 1) and (1, 4) not
    centred = parity.compare(Answers(), [theirs], centred=True)
    assert centred.compared == "log probabilities"
    assert centred.residual == {"embed": 0.625, "layer 0": 5.0 - 0.5 + 0.5 - 1.0}
    expected = math.log1p(math.exp(3)) - math.log1p(math.exp(-1))
    assert centred.max_abs_logit_difference == pytest.approx(expected, rel=1e-6)


def test_a_massive_activation_is_rounded_by_more_than_the_root_mean_square_allows() -> None:
    """One value of 30000 among zeros: its own size decides, from fifty root mean squares on."""
    stream = torch.zeros(1, 64, 64)
    stream[0, 3, 5] = 30000.0

    class Massive(Answers):
        def run_with_cache(self, tokens: Any, *, names_filter: list[str], return_type: str | None) -> Any:
            before = torch.zeros(1, 64, 64)
            return torch.zeros(1, 64, 2), {
                "blocks.0.hook_resid_pre": before,
                "blocks.0.hook_resid_post": stream + 0.05 * (stream > 0),
            }

    recorded = parity.Recorded(
        torch.zeros(1, 64, dtype=torch.long),
        {"embed": torch.zeros(1, 64, 64), "layer 0": stream},
        torch.zeros(1, 64, 2),
    )
    found = parity.compare(Massive(), [recorded], centred=False)
    assert found.residual["layer 0"] == pytest.approx(0.05, rel=0.05)
    assert found.scale["layer 0"] == 30000 / parity.MASSIVE > 30000 / 64
    assert found.parts_at() is None
    assert replace(found, residual={"embed": 0.0, "layer 0": 0.1}).parts_at() == "layer 0"


def test_the_rounding_of_a_massive_activation_stays_in_the_stream() -> None:
    sizes = {"embed": 2.0, "layer 0": 3.0, "layer 1": 2.0, "logits": 1.5}
    largest = {"embed": 10.0, "layer 0": 5000.0, "layer 1": 10.0, "logits": 10.0}
    assert parity._scale(sizes, largest) == {"embed": 2.0, "layer 0": 100.0, "layer 1": 100.0, "logits": 1.5}


# ------------------------------------------------------------------------------------------------- folding


@pytest.mark.parametrize("build", [neox, gpt2, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3])
@pytest.mark.parametrize(("fold", "centre"), [(True, False), (False, True), (True, True)])
def test_folding_is_transformer_lens_s(
    build: Callable[[], Any], fold: bool, centre: bool, tmp_path: Path
) -> None:
    """Weight by weight, and folded norms have none."""
    folder = saved(build(), tmp_path)
    expected = loading.load(folder)
    if centre and expected.cfg.normalization_type == "RMS":
        return
    ours = dict(loading.load(folder, fold=fold, centre=centre).named_parameters())
    expected.load_and_process_state_dict(
        expected.state_dict(),
        fold_ln=fold,
        center_writing_weights=centre,
        center_unembed=centre,
        fold_value_biases=False,
    )
    theirs = dict(expected.named_parameters())
    assert ours.keys() == theirs.keys()
    assert any("ln" in name and "_post" not in name for name in ours) != fold
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=1e-6, rtol=1e-5)


def test_the_model_is_a_copy(tmp_path: Path) -> None:
    """Its weights are no views of anything: spoiling the file afterwards changes nothing."""
    folder = saved(neox(), tmp_path)
    model = loading.load(folder)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(4000)
        file.write(b"\xff" * 4000)
    for name, parameter in model.named_parameters():
        assert parameter.is_contiguous()
        assert torch.equal(parameter, before[name])
