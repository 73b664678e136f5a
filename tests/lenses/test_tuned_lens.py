"""The tuned lens: where an affine map can do it all, it does; and it never sees a test question."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from contract import assert_unchanged, neox, saved, task as short_task
from planted import Mechanism, planted_model, small_task
from scipy.special import softmax
from scipy.stats import entropy
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

from mechocl.errors import MechoclError
from mechocl.lenses.logit_lens import LensConfig, kl_divergence, logit_lens, stream_layers
from mechocl.lenses.tuned_lens import (
    TunedLens,
    TunedLensConfig,
    fit_on_task,
    fit_tuned_lens,
    predicted_positions,
    stream_at,
    tuned_lens,
)
from mechocl.models import loading
from mechocl.models.components import take_apart
from mechocl.report import lens_plots
from toy_models import architectures
from toy_models.architectures import hooked_transformer_allowed
from toy_models.list_questioning import WORDS
from toy_models.randomness import generator
from toy_models.task import Task

CONFIG = TunedLensConfig(aliases_per_subset=5, examples=300, steps=40, batch=64)


@cache
def task() -> Task:
    return small_task()


@cache
def random_model() -> HookedTransformer:
    architecture = architectures.Architecture(n_layers=2, d_model=16, n_heads=2, d_mlp=32, init_std=0.3)
    vocabulary = task().vocabulary
    return architectures.build(
        architecture, d_vocab=len(vocabulary), d_vocab_out=vocabulary.outputs, n_ctx=task().n_ctx, seed=0
    )


@torch.no_grad()
def lens_kl(model: Any, tokens: Tensor, *, at: Tensor, lens: TunedLens | None) -> Tensor:
    """Mean KL(model ‖ lens) over the marked positions, in nats, at each layer but the last; without a lens, of the
    logit lens."""
    c = take_apart(model)
    stream = stream_at(c, tokens, at=at)
    found = []
    for layer, x in zip(stream_layers(c)[:-1], stream[:-1], strict=True):
        translated = x if lens is None else lens.translate(layer, x)
        found.append(kl_divergence(c.logits(translated), target=c.logits(stream[-1])).mean())
    return torch.stack(found)


def affine_model(*, d_vocab: int = 120) -> HookedTransformer:
    """Two attention-only layers without norms. In a sequence of one token all attention is on itself, so each
    layer is the affine map x ↦ x + Σ_h (x W_V + b_V) W_O + b_O."""
    config = HookedTransformerConfig(
        n_layers=2, d_model=8, n_heads=2, d_head=4, attn_only=True, d_vocab=d_vocab, d_vocab_out=12, n_ctx=4,
        positional_embedding_type="standard", normalization_type=None, init_weights=False, device="cpu",
    )  # fmt: skip
    with hooked_transformer_allowed():
        model = HookedTransformer(config)
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=draws))
    return model


def test_an_affine_model_is_translated_without_loss() -> None:
    """Fitted on half of the tokens, the lens knows the other half: it has found the layers' affine maps."""
    model, everything = affine_model(), torch.ones(60, 1, dtype=torch.bool)
    known, unseen = torch.arange(60)[:, None], torch.arange(60, 120)[:, None]
    config = TunedLensConfig(steps=800, batch=60, lr=0.03)
    lens = fit_tuned_lens(model, known, at=everything, config=config)
    assert lens.layers == ("embed", "layer 0")
    plain = lens_kl(model, unseen, at=everything, lens=None)
    tuned = lens_kl(model, unseen, at=everything, lens=lens)
    assert (plain > 0.5).all()
    assert (tuned < 0.002 * plain).all()
    attn = model.blocks[1].attn
    by_hand = torch.eye(8) + (attn.W_V @ attn.W_O).sum(0).detach()
    learned, needed = (of_logits(model, x - by_hand) for x in (lens.W[1], torch.eye(8)))
    assert learned.norm() < 0.3 * needed.norm()


def of_logits(model: HookedTransformer, x: torch.Tensor) -> torch.Tensor:
    """Rows of a translator as logits, less the constant that no probability feels."""
    logits = x @ model.W_U.detach()
    return logits - logits.mean(-1, keepdim=True)


def test_the_check_above_can_fail() -> None:
    """Sequences of two tokens are no affine map of the last one: something remains."""
    model, at = affine_model(), torch.tensor([[False, True]]).expand(60, 2)
    draws = torch.Generator().manual_seed(1)
    tokens = torch.randint(120, (60, 2), generator=draws)
    lens = fit_tuned_lens(model, tokens, at=at, config=TunedLensConfig(steps=400, batch=60, lr=0.03))
    other = torch.randint(120, (60, 2), generator=draws)
    tuned, plain = lens_kl(model, other, at=at, lens=lens), lens_kl(model, other, at=at, lens=None)
    assert (tuned > 0.02 * plain).all()


def test_without_steps_it_is_the_logit_lens() -> None:
    found = tuned_lens(random_model(), task(), replace(CONFIG, steps=0))
    expected = logit_lens(random_model(), task(), LensConfig(of=("stream",), aliases_per_subset=5))
    pd.testing.assert_frame_equal(found, expected, atol=1e-5)


def test_training_lowers_the_held_out_divergence_and_leaves_the_last_layer() -> None:
    tuned = tuned_lens(random_model(), task(), replace(CONFIG, steps=200))
    logit = logit_lens(random_model(), task(), LensConfig(of=("stream",), aliases_per_subset=5))
    columns = ["subset", "contains", "component", "layer", "position", "questions"]
    pd.testing.assert_frame_equal(tuned[columns], logit[columns])
    for layer in ("embed", "layer 0"):
        here = tuned["layer"] == layer
        assert tuned.loc[here, "kl"].mean() < 0.7 * logit.loc[here, "kl"].mean()
    top = tuned["layer"] == "layer 1"
    pd.testing.assert_frame_equal(tuned[top], logit[top])


def test_same_seed_same_lens() -> None:
    first, again = (fit_on_task(random_model(), task(), CONFIG) for _ in range(2))
    other = fit_on_task(random_model(), task(), replace(CONFIG, seed=1))
    assert torch.equal(first.W, again.W)
    assert torch.equal(first.b, again.b)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.W, other.W)
    assert first.loss.shape == (2, CONFIG.steps)


def test_test_questions_are_held_out() -> None:
    """Other test questions give the same lens; other training examples another one."""
    lens = fit_on_task(random_model(), task(), CONFIG)
    for split, same in (("test", True), ("train", False)):
        tokens = task().tokens.clone()
        rows = torch.from_numpy(task().rows(kind="question", split=split))
        tokens[rows] = tokens[rows].flip(0)
        found = fit_on_task(random_model(), replace(task(), tokens=tokens), CONFIG)
        assert torch.equal(found.W, lens.W) == same


def test_training_is_a_linear_layers() -> None:
    """One site alone: a `Linear` after TransformerLens's activations, with its norm and unembedding."""
    model, config = random_model(), TunedLensConfig(steps=5, batch=8, lr=0.01)
    tokens, at = task().tokens[:20, :3], torch.ones(20, 3, dtype=torch.bool)
    lens = fit_tuned_lens(model, tokens, at=at, config=config)
    with torch.no_grad():
        logits, hidden = model.run_with_cache(tokens)
    x, target = hidden["blocks.0.hook_resid_post"].flatten(0, 1), logits.flatten(0, 1).log_softmax(-1)
    linear = torch.nn.Linear(16, 16)
    torch.nn.init.eye_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    adam = torch.optim.Adam(linear.parameters(), lr=config.lr)
    draws = generator(config.seed, "tuned lens", "batches")
    for step, rows in enumerate(torch.randint(60, (5, 8), generator=draws)):
        adam.param_groups[0]["lr"] = 0.01 * (5 - step) / 5
        ours = model.unembed(model.ln_final(linear(x[rows])[None]))[0].log_softmax(-1)
        loss = torch.nn.functional.kl_div(ours, target[rows], log_target=True, reduction="batchmean")
        loss.backward()
        adam.step()
        linear.zero_grad()
        assert lens.loss[1, step].item() == pytest.approx(loss.item(), rel=1e-3)
    torch.testing.assert_close(lens.W[1], linear.weight.detach().T, atol=1e-3, rtol=0)
    torch.testing.assert_close(lens.b[1], linear.bias.detach(), atol=1e-3, rtol=0)
    assert lens.b[1].abs().median() > 0.01
    model.zero_grad()


def test_kl_is_scipys() -> None:
    draws = torch.Generator().manual_seed(0)
    ours, own = torch.randn(2, 5, 9, generator=draws)
    expected = [entropy(softmax(p), softmax(q)) for p, q in zip(own.numpy(), ours.numpy(), strict=True)]
    np.testing.assert_allclose(kl_divergence(ours, target=own), expected, rtol=1e-4)
    assert not np.allclose(kl_divergence(own, target=ours), expected, rtol=1e-2)  # it has a direction


def test_stream_and_divergence_are_the_models_own() -> None:
    """Sites against TransformerLens's cache, the logit lens's divergence against SciPy's."""
    model, tokens = random_model(), task().tokens[:30]
    at = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(0)) < 0.3
    found = stream_at(take_apart(model), tokens, at=at, batch_size=7)
    with torch.no_grad():
        logits, hidden = model.run_with_cache(tokens)
        for site, name in enumerate(("0.hook_resid_pre", "0.hook_resid_post", "1.hook_resid_post")):
            expected = hidden[f"blocks.{name}"]
            torch.testing.assert_close(found[site], expected[at], atol=1e-5, rtol=1e-4)
        lens = model.unembed(model.ln_final(hidden["blocks.0.hook_resid_post"]))
    pairs = zip(softmax(logits[at].numpy(), -1), softmax(lens[at].numpy(), -1), strict=True)
    divergence = np.mean([entropy(p, q) for p, q in pairs])
    assert lens_kl(model, tokens, at=at, lens=None)[1].item() == pytest.approx(divergence, rel=1e-4)


def test_predicted_positions() -> None:
    """Every position before a token of the example that has a logit."""
    small = small_task(loss="every_but_aliases")
    definition, question = small.rows(kind="definition")[0], small.rows(kind="question")[0]
    at = predicted_positions(small, np.array([definition, question]))
    assert at.int().tolist() == [[0, 1, 1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1, 0]]
    whole = predicted_positions(task(), np.array([task().rows(kind="definition")[0]]))
    assert whole.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0]]  # an alias after the tag, where it has a logit


@pytest.mark.parametrize("bridge", [False, True], ids=["hooked", "bridge"])
def test_a_model_is_as_it_was(bridge: bool, tmp_path: Path) -> None:
    """Nothing is trained but the translators, inside `no_grad` too; a hooked model is refused."""
    model = loading.load(saved(neox(), tmp_path), device="cpu", bridge=bridge)
    with assert_unchanged(model), torch.no_grad():
        table = tuned_lens(model, short_task(), CONFIG)
        assert not torch.is_grad_enabled()
    assert all(p.grad is None for p in model.parameters())
    at_embed = table[table["layer"] == "embed"]
    untrained = logit_lens(model, short_task(), LensConfig(of=("stream",), aliases_per_subset=5))
    assert at_embed["kl"].mean() < untrained.loc[untrained["layer"] == "embed", "kl"].mean()
    model.add_hook("blocks.0.hook_resid_post", lambda x, hook: x)
    with pytest.raises(MechoclError, match="has a hook"):
        tuned_lens(model, short_task(), CONFIG)


def test_both_classes_of_model_give_one_lens(tmp_path: Path) -> None:
    folder = saved(neox(), tmp_path)
    lenses: list[TunedLens] = []
    for bridge in (False, True):
        model: Any = loading.load(folder, device="cpu", bridge=bridge)
        lenses.append(fit_on_task(model, short_task(), CONFIG))
    torch.testing.assert_close(lenses[0].loss, lenses[1].loss, atol=1e-3, rtol=1e-3)


def test_planted_model() -> None:
    """One layer below the answer the integer is there; the translator cannot know the list, and leaves it."""
    found = tuned_lens(planted_model(task(), Mechanism()), task(), replace(CONFIG, steps=100))
    at = found[(found["position"] == "=") & (found["layer"] == "layer 0")]
    assert (at["rank"] < 2).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"examples": 0}, "examples is 0"),
        ({"batch": 0}, "batch is 0"),
        ({"aliases_per_subset": 0}, "aliases_per_subset is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"lr": float("nan")}, "lr is nan"),
    ],
)
def test_config_refuses_nonsense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        TunedLensConfig(**changes)


def test_no_position_is_refused() -> None:
    nowhere = torch.zeros(5, 8, dtype=torch.bool)
    with pytest.raises(MechoclError, match="no position to train"):
        fit_tuned_lens(random_model(), task().tokens[:5], at=nowhere, config=CONFIG)


def test_figure_sets_the_two_lenses_side_by_side() -> None:
    logit = logit_lens(random_model(), task(), LensConfig(aliases_per_subset=5, of=("stream", "heads")))
    tuned = tuned_lens(random_model(), task(), CONFIG)
    figure = lens_plots.lenses_compared(logit, tuned, words=WORDS, value="kl", contains=True)
    titles = [annotation.text for annotation in figure.layout.annotations]
    assert len(figure.data) == len(titles) == 2 * 5
    assert all(t.startswith(("logit lens", "tuned lens")[i % 2]) for i, t in enumerate(titles))
    here = "subset == 'qd1_consistent' and contains and component == 'stream'"
    for panel, rows in zip(figure.data, (logit, tuned), strict=False):
        assert list(panel.y) == ["embed", "layer 0", "layer 1"]
        np.testing.assert_allclose(panel.z, rows.query(here)["kl"].to_numpy().reshape(3, 7), atol=1e-12)
    highest = max(
        rows[rows["contains"] & (rows["component"] == "stream")]["kl"].max() for rows in (logit, tuned)
    )
    assert figure.layout.coloraxis.cmax == highest
