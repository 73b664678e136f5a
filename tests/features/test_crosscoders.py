"""Crosscoders of checkpoints in which it is known what is shared, new and removed."""

import dataclasses
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sae_lens
import torch
from torch import Tensor
from transformer_lens import HookedTransformer

from mechocl.errors import MechoclError
from mechocl.features import checkpoint_comparison, crosscoders, dictionaries
from mechocl.features.checkpoint_comparison import Comparison
from mechocl.features.crosscoder_training import CrosscoderTraining, CrosscoderTrainingConfig, fit_crosscoder
from mechocl.features.crosscoders import Crosscoder, CrosscoderConfig
from toy_models import architectures
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

SITE = "blocks.0.hook_resid_post"
D = 24
KINDS = np.array(["shared"] * 14 + ["removed"] * 5 + ["new"] * 5)
TURNED = slice(0, 3)  # of the shared features: their direction is another one in the second checkpoint
CHECKPOINTS = [{"stage": 1, "step": 40, "sha256": "a"}, {"stage": 2, "step": 80, "sha256": "b"}]
TINY = CrosscoderConfig(
    site=SITE, width=24, k=4, activations=4096, batch_size=256, buffer=1024, held_out=0.4, seed=3
)


@cache
def truth() -> Tensor:
    """Unit directions of 24 features in 24 dimensions, not orthogonal, for each checkpoint; 0 where it lacks one."""
    draws = torch.Generator().manual_seed(0)
    first = torch.nn.functional.normalize(torch.randn(len(KINDS), D, generator=draws), dim=-1)
    last = first.clone()
    last[TURNED] = torch.nn.functional.normalize(first[TURNED] + 0.2 * torch.randn(3, D, generator=draws))
    first[KINDS == "new"] = 0
    last[KINDS == "removed"] = 0
    return torch.stack([first, last])


def stream(*, seed: int, factors: tuple[float, float] = (1.0, 1.0)) -> Iterator[dict[str, Tensor]]:
    """Each feature is active on an eighth of the tokens, with strengths from ½ to 1½."""
    draws = torch.Generator().manual_seed(seed)
    while True:
        f = torch.rand(512, len(KINDS), generator=draws)
        f = (f < 1 / 8) * (0.5 + torch.rand(f.shape, generator=draws))
        yield {f"{m}:x": factors[m] * (f @ truth()[m]) for m in (0, 1)}


@cache
def trained(factors: tuple[float, float] = (1.0, 1.0)) -> tuple[Crosscoder, Comparison, float]:
    """A crosscoder of the stream, what it says of another part of it, and how far its reconstruction is off."""
    config = CrosscoderConfig(
        site="x", width=32, k=3, activations=900 * 512, batch_size=512, learning_rate=1e-2
    )
    crosscoder = crosscoders.crosscoder_from(
        fit_crosscoder(stream(seed=0, factors=factors), "x", config.training()), {}
    )
    unseen = stream(seed=1, factors=factors)
    batches = [list(next(unseen).values()) for _ in range(6)]
    made = crosscoder.reconstruct(batches[0])
    off = max(float((x - y).square().sum() / x.square().sum()) for x, y in zip(batches[0], made, strict=True))
    return crosscoder, checkpoint_comparison.compare_activations(crosscoder, batches), off


def found_features(crosscoder: Crosscoder) -> dict[int, int]:
    """True feature → the crosscoder's, with a cosine above 0.9 in all checkpoints that have it."""
    rows = torch.nn.functional.normalize(crosscoder.decoders, dim=-1)
    matches = {}
    for j, kind in enumerate(KINDS):
        at = {"shared": [0, 1], "removed": [0], "new": [1]}[kind]
        cosine = (rows[at] @ truth()[at, j, :, None]).squeeze(-1).amin(0)
        if cosine.max() > 0.9:
            matches[j] = int(cosine.argmax())
    return matches


@pytest.mark.parametrize("factors", [(1.0, 1.0), (20.0, 0.5)], ids=["alike", "of other sizes"])
def test_true_features_are_found_and_told_apart(factors: tuple[float, float]) -> None:
    crosscoder, comparison, off = trained(factors)
    matches = found_features(crosscoder)
    assert len(matches) >= 0.9 * len(KINDS)
    features = comparison.features
    said = features["verdict"].to_numpy()[list(matches.values())]
    assert np.mean(said == KINDS[list(matches)]) >= 0.9
    assert (comparison.checkpoints["explained_variance"] > 0.97).all()
    assert off < 0.03
    assert features["firing_rate"].sum() == pytest.approx(3, rel=0.1)
    # which direction has turned, and by how much
    true = torch.cosine_similarity(*truth(), dim=-1)
    shared = [(j, i) for j, i in matches.items() if KINDS[j] == "shared"]
    assert true[TURNED].max() < 0.9
    for j, i in shared:
        assert features["cosine"][i] == pytest.approx(float(true[j]), abs=0.06)


def test_a_checkpoint_that_is_the_other_has_nothing_new_and_nothing_removed() -> None:
    def twice() -> Iterator[dict[str, Tensor]]:
        for batch in stream(seed=0):
            yield {"0:x": batch["0:x"], "1:x": 3 * batch["0:x"]}

    config = CrosscoderConfig(site="x", width=24, k=3, activations=50 * 512, batch_size=512)
    crosscoder = crosscoders.crosscoder_from(fit_crosscoder(twice(), "x", config.training()), {})
    features = checkpoint_comparison.compare_activations(crosscoder, [list(next(twice()).values())]).features
    assert set(features["kind"]) <= {"shared", "dead"}
    assert (features["relative_norm"] - 0.5).abs().max() < 1e-3


def by_hand(*, factor: float = 1.0) -> tuple[Crosscoder, list[Tensor]]:
    """Seven features whose weights are set, and twelve tokens: six concepts with the strengths 1 and 2.

    concept  in the first   in the last   features: what each reads, its decoders of the first and the last
    0        s              s             0: reads the first; 1, 1
    1        0              s             1: reads the last; 0, 1: is new
    2        s/2            s             2: reads the last; 0, 1: was shrunk, half of it is in the first as well
    3        s              s             3: reads the last; 0, 1. 4: reads the first; 1, 0: decoupled
    4        s              0             5: reads the first; 1, 0: is removed
    5        s              4 s           6: reads the first; 1, 4

    A last feature reads nothing. `factor`: in which the last checkpoint's activations are measured.
    """
    reads = [(0, 0), (1, 1), (1, 2), (1, 3), (0, 3), (0, 4), (0, 5)]
    decodes = [(1, 1), (0, 1), (0, 1), (0, 1), (1, 0), (1, 0), (1, 4)]
    cfg = sae_lens.JumpReLUSAEConfig(d_in=12, d_sae=8)
    sae = sae_lens.JumpReLUSAE(cfg)
    units = (1.0, factor)
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.W_dec.zero_()
        for j, ((part, concept), rows) in enumerate(zip(reads, decodes, strict=True)):
            sae.W_enc[6 * part + concept, j] = 1 / units[part]
            for m in (0, 1):
                sae.W_dec[j, 6 * m + concept] = rows[m] * units[m]
    cfg.metadata.hook_name = SITE
    cfg.metadata.scales = [1.0, 1 / factor]
    strengths = torch.eye(6).repeat_interleave(2, 0) * torch.tensor([1.0, 2.0]).repeat(6)[:, None]
    parts = [
        strengths * torch.tensor([1.0, 0.0, 0.5, 1.0, 1.0, 1.0]),
        strengths * torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0, 4.0]) * factor,
    ]
    return crosscoders.crosscoder_from(sae, {}), parts


@pytest.mark.parametrize("factor", [1.0, 8.0])
def test_what_is_said_of_features_is_what_was_worked_out_by_hand(factor: float) -> None:
    """β of the first checkpoint's error for feature 2: Σ s · s/2 / Σ s² = ½, of the last's own: 1.

    Of feature 3 the error is 0 in both, but the first's reconstruction is s in its direction, by feature 4.
    Explained variance of the first: of feature 2 (½)² + 1² = 1.25 are missing; Σ‖x‖² = 4 · 5 + 1.25 and the mean is
    ¼ for four concepts and ⅛ for one: 21.25 − 12 (4/16 + 1/64) = 18.0625.
    """
    crosscoder, parts = by_hand(factor=factor)
    found = checkpoint_comparison.compare_activations(crosscoder, [parts])
    table = found.features
    nan = np.nan
    assert table["norm_0"].tolist() == [1, 0, 0, 0, 1, 1, 1, 0]
    assert table["norm_1"].tolist() == [1, 1, 1, 1, 0, 0, 4, 0]
    assert table["relative_norm"].tolist() == [0.5, 1, 1, 1, 0, 0, 0.8, 0]
    assert table["kind"].tolist() == ["shared", "new", "new", "new", "removed", "removed", "other", "dead"]
    assert table["firing_rate"].tolist() == pytest.approx([1 / 6] * 7 + [0])
    np.testing.assert_allclose(table["cosine"], [1, 0, 0, 0, 0, 0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(table["nu_error"], [nan, 0, 0.5, 0, 0, 0, nan, nan], atol=1e-12)
    np.testing.assert_allclose(table["nu_reconstruction"], [nan, 0, 0, 1, 1, 0, nan, nan], atol=1e-12)
    assert table["verdict"].tolist() == [
        *("shared", "new", "shrunken", "shrunken", "shrunken", "removed", "other", "dead")
    ]
    explained = found.checkpoints.set_index("checkpoint")["explained_variance"]
    assert explained.to_dict() == pytest.approx({0: 1 - 1.25 / 18.0625, 1: 1.0})


def test_batches_and_the_bias_do_not_change_what_is_said() -> None:
    crosscoder, parts = by_hand()
    whole = checkpoint_comparison.compare_activations(crosscoder, [parts])
    split = checkpoint_comparison.compare_activations(
        crosscoder, zip(*(x.split(5) for x in parts), strict=True)
    )
    pd.testing.assert_frame_equal(split.features, whole.features)
    pd.testing.assert_frame_equal(split.checkpoints, whole.checkpoints)
    with torch.no_grad():
        crosscoder.sae.b_dec += 3  # subtracted before the encoder, added after the decoder
    moved = checkpoint_comparison.compare_activations(crosscoder, [[x + 3 for x in parts]])
    pd.testing.assert_frame_equal(moved.features, whole.features)
    pd.testing.assert_frame_equal(moved.checkpoints, whole.checkpoints)


def test_features_are_ranked_by_the_sum_of_their_decoders_norms() -> None:
    """A: rows of norm 1 and 1; B: 1.8 and 0. Both activations are 1: 2 > 1.8, but of the whole rows √2 < 1.8."""
    sae = CrosscoderTraining(CrosscoderTrainingConfig(d_in=4, d_sae=2, k=1.0, parts=2))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.8, 0.0, 0.0]]))
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    acts = sae.encode(x)
    assert (acts > 0).tolist() == [[True, False]]
    torch.testing.assert_close(sae.decode(acts), torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
    sae.update_topk_threshold(acts)
    assert sae.topk_threshold.item() == pytest.approx(0.01 * 2)  # its rate is 0.01


def test_the_saved_threshold_is_of_the_same_ranking(tmp_path: Path) -> None:
    """f Σ‖d‖ > 1.9: A (f = 1: 2) is active, B (1.8) not. Saved rows have norm 1 as a whole: f = √2 and 1.8."""
    sae = CrosscoderTraining(CrosscoderTrainingConfig(d_in=4, d_sae=2, k=1.0, parts=2))
    with torch.no_grad():
        sae.W_enc.copy_(torch.eye(4)[:, :2])
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.8, 0.0, 0.0]]))
        sae.topk_threshold.fill_(1.9)
    sae.save_inference_model(tmp_path)
    opened = sae_lens.SAE.load_from_disk(tmp_path)
    ones = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    torch.testing.assert_close(opened.encode(ones), torch.tensor([[2**0.5, 0.0]]))
    torch.testing.assert_close(opened(2 * ones), torch.tensor([[2.0, 3.6, 0.0, 2.0]]))


@cache
def task() -> Task:
    fractions = Fractions(qd1=0.25, qd2=0.25, d1=0.2, d2=0.2, d3=0.1)
    return build(
        IntegerSetConfig(aliases=80, integers=10, list_length=3, test_questions=2, fractions=fractions),
        seed=0,
    )


def model(seed: int, *, d_model: int = 8) -> HookedTransformer:
    return architectures.build(
        architectures.Architecture(n_layers=1, d_model=d_model, n_heads=1, d_mlp=0),
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=seed,
    )


@cache
def checkpoints() -> tuple[HookedTransformer, HookedTransformer]:
    return model(0), model(1)


def train(**changes: Any) -> Any:
    return crosscoders.train_crosscoder(checkpoints(), task(), dataclasses.replace(TINY, **changes))


@cache
def tiny() -> Any:
    return train()


def test_what_was_saved_opens_in_saelens_and_here(tmp_path: Path) -> None:
    crosscoders.save(tiny(), tmp_path / "cc", config=TINY, checkpoints=CHECKPOINTS)
    record = json.loads((tmp_path / "cc" / dictionaries.RECORD).read_text())
    assert record["checkpoints"] == CHECKPOINTS
    assert (record["held_out"], record["seed"], record["config"]["width"]) == (0.4, 3, 24)

    sae = sae_lens.SAE.load_from_disk(tmp_path / "cc")
    assert (sae.cfg.architecture(), sae.cfg.d_in, sae.cfg.d_sae) == ("jumprelu", 16, 24)
    assert (sae.cfg.metadata.hook_name, sae.cfg.metadata.parts) == (SITE, 2)
    parts = [torch.randn(50, 8, generator=torch.Generator().manual_seed(m)) for m in (0, 1)]
    pre = (torch.cat(parts, -1) - sae.b_dec) @ sae.W_enc + sae.b_enc
    plain = torch.where(pre > sae.threshold, pre.relu(), 0.0)
    opened = crosscoders.load(tmp_path / "cc", device="cpu")
    assert opened.scales == tuple(tiny().cfg.metadata.scales)
    assert (plain > 0).any()
    for one in (crosscoders.crosscoder_from(sae, {}), opened):
        torch.testing.assert_close(one.encode(parts), plain, atol=1e-6, rtol=0)
        for m, made in enumerate(one.reconstruct(parts)):
            expected = plain @ sae.W_dec[:, 8 * m : 8 * m + 8] + sae.b_dec[8 * m : 8 * m + 8]
            torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
            torch.testing.assert_close(one.decoders[m], sae.W_dec.detach()[:, 8 * m : 8 * m + 8])
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(24))


def test_one_seed_is_one_crosscoder_and_models_stay_as_they_are() -> None:
    before = {name: value.clone() for m in checkpoints() for name, value in m.state_dict().items()}
    again, other = train(), train(seed=4)
    for name, value in tiny().state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    assert not torch.equal(other.W_enc, tiny().W_enc)
    after = {name: value for m in checkpoints() for name, value in m.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_checkpoints_of_a_task_are_compared_on_aliases_that_were_not_seen() -> None:
    said = {"held_out": TINY.held_out, "seed": TINY.seed}
    crosscoder = crosscoders.crosscoder_from(tiny(), said)
    found = checkpoint_comparison.compare(crosscoder, checkpoints(), task(), share=0.9, seed=77)
    same = checkpoint_comparison.compare(
        crosscoders.crosscoder_from(tiny(), {}), checkpoints(), task(), share=0.4, seed=3
    )
    pd.testing.assert_frame_equal(found.features, same.features)  # the record comes first
    others = checkpoint_comparison.compare(
        crosscoders.crosscoder_from(tiny(), {}), checkpoints(), task(), share=0.4, seed=77
    )
    assert not others.features["firing_rate"].equals(found.features["firing_rate"])
    assert found.features["relative_norm"].between(0, 1).all()
    assert (found.checkpoints["explained_variance"] > 0).all()
    assert set(found.features["kind"]) <= {"shared", "new", "removed", "other", "dead"}


def test_what_cannot_be_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(MechoclError, match="compares checkpoints, and there is 1"):
        crosscoders.train_crosscoder(checkpoints()[:1], task(), TINY)
    with pytest.raises(MechoclError, match="8 and 16 dimensions"):
        crosscoders.train_crosscoder([model(0), model(0, d_model=16)], task(), TINY)
    with pytest.raises(MechoclError, match=r"no hook point 'blocks\.7'"):
        train(site="blocks.7")
    with pytest.raises(MechoclError, match="no more features than k = 4"):
        dataclasses.replace(TINY, width=4)
    crosscoder = crosscoders.crosscoder_from(tiny(), {})
    with pytest.raises(MechoclError, match="of 2 checkpoints, and 1 models"):
        checkpoint_comparison.compare(crosscoder, checkpoints()[:1], task(), share=0.4, seed=0)
    with pytest.raises(MechoclError, match="has 16; it is a crosscoder of another model"):
        checkpoint_comparison.compare(crosscoder, [model(0, d_model=16)] * 2, task(), share=0.4, seed=0)
    with pytest.raises(MechoclError, match="of 2 checkpoints, and 1 are named"):
        crosscoders.save(tiny(), tmp_path / "cc", config=TINY, checkpoints=CHECKPOINTS[:1])
    cfg = sae_lens.JumpReLUSAEConfig(d_in=4, d_sae=8)
    cfg.metadata.hook_name = SITE
    dictionaries.save(sae_lens.JumpReLUSAE(cfg), tmp_path / "sae", {})
    with pytest.raises(MechoclError, match="is no crosscoder"):
        crosscoders.load(tmp_path / "sae", device="cpu")
    zeros = iter([{"0:x": torch.zeros(64, 4), "1:x": torch.ones(64, 4)}] * 9)
    with pytest.raises(MechoclError, match="all 0, or not finite"):
        fit_crosscoder(zeros, "x", TINY.training())
