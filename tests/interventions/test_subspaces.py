"""Subspaces: planted tags, TransformerLens's hooks, the theorem of LEACE, and controls that must not work."""

import copy
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import Mechanism, planted_model, small_task, subspaces
from torch import Tensor
from transformer_lens import HookedTransformer
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from mechocl.errors import MechoclError
from mechocl.interventions.alignment_search import fit_rotations
from mechocl.interventions.erasure import fit_erasure, readout
from mechocl.interventions.metrics import METRICS
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.subspace_study import SubspaceConfig, both_ways, halves, subspace_study
from mechocl.interventions.subspaces import (
    STREAM_SITES,
    Interchange,
    Place,
    Subspace,
    SwapResult,
    activation,
    difference_of_means,
    interchange,
    swap,
)
from mechocl.interventions.summaries import summarize_subspaces
from mechocl.models import loading
from mechocl.models.components import take_apart
from mechocl.models.sites import hook_name, sites_of
from mechocl.report.subspace_plots import subspace_effects
from toy_models import architectures
from toy_models.task import Task

ALIAS = Place(layer=0, site="resid_pre", position="alias")
GATED = Mechanism(tag2_gain=0, name_dims=4)
"""Both tags store alike; `=` does not read the aliases of tag 2."""
SOFT = replace(GATED, sharpness=12.0)
"""The same, its softmax not saturated, so that gradients pass."""
SMALL = SubspaceConfig(ks=(2, 4), n_pairs=100, steps=50, sites=("blocks.0.hook_resid_pre",))


@cache
def task() -> Task:
    return small_task()


@cache
def planted(mechanism: Mechanism) -> HookedTransformer:
    return planted_model(task(), mechanism)


@cache
def random_model(seed: int = 0) -> HookedTransformer:
    """Untrained, of GPT-NeoX's shape, attention and MLP one after the other."""
    return architectures.build(
        architectures.ARCHITECTURES["nano"],
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=seed,
    )


@pytest.fixture(scope="module")
def parallel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A bridge of a random GPT-NeoX: attention and MLP side by side, all parts large enough to matter."""
    config = GPTNeoXConfig(
        vocab_size=len(task().vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        use_parallel_residual=True,
    )
    model, draws = GPTNeoXForCausalLM(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(("norm.weight" in name) + 0.2 * torch.randn(parameter.shape, generator=draws))
    folder = tmp_path_factory.mktemp("neox")
    model.save_pretrained(folder)
    return loading.load(folder, device="cpu", bridge=True)


@cache
def pairs(name: str, n_pairs: int = 60) -> Pairs:
    return pairs_named(task(), name, n_pairs=n_pairs, seed=0)


def everything(d_model: int) -> Tensor:
    return torch.eye(d_model)


def runs_of(model: Any, of: Pairs, place: Place = ALIAS) -> Interchange:
    return interchange(take_apart(model), of, place, tokens=METRICS["logit_difference"].tokens(of))


def tag_space(mechanism: Mechanism) -> Subspace:
    where = subspaces(task(), mechanism)
    return Subspace(name="tag", place=ALIAS, basis=everything(where.name.stop)[:, where.tag])


# --------------------------------------------------------------------------------- planted: swapping


def test_swapping_the_planted_tag() -> None:
    """Tag 2 is not read: "false" whatever the list, so −10 in the terms of the pairs that contain the integer and
    +10 of the others. With tag 1's coordinates in place of tag 2's all are right: +10. And back."""
    both = pairs("d1-to-d2")
    before = torch.where(both.contains, -10.0, 10.0)
    there = swap(planted(GATED), both, tag_space(GATED), metric="logit_difference")
    torch.testing.assert_close(there.corrupted_values, before)
    torch.testing.assert_close(there.swapped_values, torch.full_like(before, 10.0))
    assert there.normalised == pytest.approx(1)
    assert there.effect == pytest.approx(20 * float(both.contains.float().mean()))
    back = swap(planted(GATED), both.swapped, tag_space(GATED), metric="logit_difference")
    torch.testing.assert_close(back.corrupted_values, torch.full_like(before, 10.0))
    torch.testing.assert_close(back.swapped_values, before)


def test_the_planted_tag_does_not_carry_the_integer() -> None:
    """Then the corrupted alias's own integer is answered about, always wrong for the clean one: −10."""
    other = pairs("d1-to-other-d2")
    result = swap(planted(GATED), other, tag_space(GATED), metric="logit_difference")
    torch.testing.assert_close(result.swapped_values, torch.full((len(other),), -10.0))


def test_the_planted_integer_alone_moves_nothing_while_the_tag_hides_it() -> None:
    where = subspaces(task(), GATED)
    stored = Subspace(name="integer", place=ALIAS, basis=everything(where.name.stop)[:, where.stored])
    hidden = swap(planted(GATED), pairs("d1-to-other-d2"), stored, metric="logit_difference")
    assert hidden.effect == 0
    free = replace(GATED, tag2_gain=1.0)
    seen = swap(planted(free), pairs("d1-to-other-d2"), stored, metric="logit_difference")
    assert seen.normalised == pytest.approx(1)


def test_explained_by_hand() -> None:
    """Differences 2 and 2; the change takes the first to 1 and leaves the second: 1 − (1 + 4) / 8."""
    values = {"clean_values": torch.tensor([1.0, 3.0]), "corrupted_values": torch.tensor([-1.0, 1.0])}
    result = SwapResult(
        exchanged=2,
        metric="logit_difference", unit="nats", clean=2.0, corrupted=0.0, swapped=0.5,
        swapped_values=torch.tensor([0.0, 1.0]), **values,
    )  # fmt: skip
    assert result.explained == pytest.approx(3 / 8)
    assert result.normalised == pytest.approx(1 / 4)
    assert result.effect == 0.5
    with pytest.raises(MechoclError, match="hardly differ"):
        _ = replace(result, clean=0.0).normalised


# --------------------------------------------------------------------------------- parity with hooks


def hooked_swap(model: Any, of: Pairs, place: Place, projection: Tensor) -> Tensor:
    """Logit difference of each pair by TransformerLens's hooks."""
    name, at = hook_name(place.site, place.layer), of.labels.index(place.position)
    with torch.no_grad():
        _, cache = model.run_with_cache(of.clean, names_filter=[name], return_type=None)

        def put_in(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[:, at] = x[:, at] + (cache[name][:, at] - x[:, at]) @ projection
            return x

        with model.hooks(fwd_hooks=[(name, put_in)]):
            logits = model(of.corrupted, return_type="logits")[torch.arange(len(of)), of.read]
    return (logits.gather(1, of.target[:, None]) - logits.gather(1, of.foil[:, None]))[:, 0]


def assert_equals_hooks(model: Any) -> None:
    """All sites of the stream, both layers, two positions; all of d_model, 3 random directions, and none."""
    c, of = take_apart(model), pairs("d1-to-other-d2", 6)
    width = c.W_E.shape[1]
    some = torch.linalg.qr(torch.randn(width, 3, generator=torch.Generator().manual_seed(0))).Q
    largest = 0.0
    for layer in range(c.n_layers):
        for site in (name for name in STREAM_SITES if name in sites_of(c)):
            for position in ("alias", "="):
                place = Place(layer=layer, site=site, position=position)
                for basis in (everything(width), some, everything(width)[:, :0]):
                    ours = swap(
                        model, of, Subspace(name="", place=place, basis=basis), metric="logit_difference"
                    )
                    theirs = hooked_swap(model, of, place, basis @ basis.T)
                    torch.testing.assert_close(ours.swapped_values, theirs, atol=1e-5, rtol=1e-5)
                    if basis.shape[1] == 0:
                        torch.testing.assert_close(
                            ours.swapped_values, ours.corrupted_values, atol=1e-5, rtol=0
                        )
                    largest = max(largest, float((theirs - ours.corrupted_values).abs().max()))
    assert largest > 0.01


def test_equals_hooks_one_after_the_other() -> None:
    assert_equals_hooks(random_model())


def test_equals_hooks_side_by_side(parallel: Any) -> None:
    assert_equals_hooks(parallel)


def test_equals_hooks_without_an_mlp() -> None:
    assert_equals_hooks(planted(SOFT))


def test_the_check_above_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of one direction in another's place."""
    right = Interchange.logits
    monkeypatch.setattr(Interchange, "logits", lambda self, change: right(self, change.roll(1, -1)))
    with pytest.raises(AssertionError):
        assert_equals_hooks(random_model())


def test_the_top_of_the_stream_gives_the_clean_run() -> None:
    place = Place(layer=1, site="resid_post", position="=")
    result = swap(
        random_model(),
        pairs("d1-to-other-d2"),
        Subspace(name="all", place=place, basis=everything(random_model().cfg.d_model)),
        metric="within_alias_auc",
    )
    assert result.swapped == result.clean
    assert result.normalised == pytest.approx(1)


# --------------------------------------------------------------------------------- difference of means


def test_difference_of_means_is_the_planted_tag() -> None:
    """For each integer one alias of each tag: what they store cancels, and so do their names, of which there are
    none here: (tag 1 − tag 2) / √2."""
    mechanism = replace(GATED, name_dims=0)
    where = subspaces(task(), mechanism)
    of = pairs("d1-to-d2", 240)
    tokens = torch.cat([of.clean, of.corrupted])
    first = torch.arange(len(tokens)) < len(of)
    x = activation(take_apart(planted(mechanism)), tokens, ALIAS, of.labels)
    expected = torch.zeros(where.name.stop, 1)
    expected[where.tag.start], expected[where.tag.start + 1] = 0.5**0.5, -(0.5**0.5)
    direction = difference_of_means(x, first)
    torch.testing.assert_close(direction, expected)
    result = swap(
        planted(mechanism),
        of,
        Subspace(name="means", place=ALIAS, basis=direction),
        metric="logit_difference",
    )
    torch.testing.assert_close(result.swapped_values, torch.full((len(of),), 10.0))


def test_difference_of_means_by_hand() -> None:
    x = torch.tensor([[3.0, 0.0], [3.0, 8.0], [0.0, 0.0]])
    direction = difference_of_means(x, torch.tensor([True, True, False]))
    torch.testing.assert_close(direction, torch.tensor([[0.6], [0.8]]))


# --------------------------------------------------------------------------------- rotation


def effects(control: bool) -> tuple[list[SwapResult], list[Tensor]]:
    """What rotations of 1, 2 and 4 dimensions, fitted on half of the aliases, do to the others."""
    train, test = halves(task(), seed=0)
    fitting, judging = (pairs_named(part, "d1-to-d2", n_pairs=120, seed=0) for part in (train, test))
    fitting = both_ways(fitting)
    found = fit_rotations(runs_of(planted(SOFT), fitting), ks=(1, 2, 4), steps=60, seed=0, shuffled=control)
    results = [
        swap(planted(SOFT), judging, Subspace(name="", place=ALIAS, basis=basis), metric="logit_difference")
        for basis in found
    ]
    return results, found


def test_a_rotation_finds_the_planted_tag() -> None:
    results, bases = effects(False)
    assert [basis.shape[1] for basis in bases] == [1, 2, 4]
    for result in results:
        assert result.normalised > 0.75
        assert result.explained > 0.75
    where = subspaces(task(), SOFT)
    direction = torch.zeros(where.name.stop)
    direction[where.tag.start], direction[where.tag.start + 1] = 0.5**0.5, -(0.5**0.5)
    for basis in bases:  # moving the gain past ½ is enough, which a slanted direction does too
        assert float((basis.T @ direction).norm()) > 0.5


def test_a_rotation_to_shuffled_answers_does_not() -> None:
    for result in effects(True)[0]:
        assert result.normalised < 0.5


def test_rotations_are_drawn_from_their_seed_alone() -> None:
    runs = runs_of(planted(SOFT), pairs("d1-to-d2"))
    state = torch.get_rng_state()
    first = fit_rotations(runs, ks=(1, 3), steps=3, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(1)
    again, other = (fit_rotations(runs, ks=(1, 3), steps=3, seed=seed) for seed in (0, 1))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c)
        torch.testing.assert_close(a.T @ a, torch.eye(a.shape[1]), atol=1e-5, rtol=0)
    torch.set_rng_state(state)


# --------------------------------------------------------------------------------- erasure


@cache
def tag_examples() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Activations at the alias and whether the tag is 1, of two halves of the aliases."""
    found: list[Tensor] = []
    for part in halves(task(), seed=0):
        rows = part.rows(kind="question", split="test", subset=("d1_consistent", "d2_consistent"))
        x = activation(take_apart(planted(GATED)), part.tokens[torch.from_numpy(rows)][:, :7], ALIAS, LABELS)
        found += [x, torch.from_numpy(np.array(part.table["tag"].iloc[rows] == 1))]
    return found[0], found[1], found[2], found[3]


LABELS = ("alias", "%", "n1", "n2", "n3", "n4", "=")


def test_erasure_leaves_no_tag_to_be_read() -> None:
    """The theorem: on the fitted examples the classes' means become equal, and no linear readout is left."""
    x, first, other, other_first = tag_examples()
    before = readout(x, first, other=other, other_first=other_first)
    assert before.fitted_accuracy == before.other_accuracy == 1
    erase = fit_erasure(x, first)
    erased = erase(x)
    torch.testing.assert_close(erased[first].mean(0), erased[~first].mean(0), atol=1e-6, rtol=0)
    after = readout(erased, first, other=erase(other), other_first=other_first)
    assert after.fitted_accuracy == pytest.approx(0.5, abs=0.01)
    assert after.other_accuracy == pytest.approx(0.5, abs=0.05)
    torch.testing.assert_close(erase(erased), erased, atol=1e-5, rtol=0)
    torch.testing.assert_close(erased.mean(0), x.mean(0), atol=1e-5, rtol=0)


def test_erasing_another_thing_leaves_the_tag() -> None:
    """So the check above can fail."""
    x, first, other, other_first = tag_examples()
    noise = torch.rand(len(x), generator=torch.Generator().manual_seed(0)) < 0.5
    erase = fit_erasure(x, noise)
    assert readout(erase(x), first, other=erase(other), other_first=other_first).other_accuracy > 0.95


# --------------------------------------------------------------------------------- the study


@cache
def studied() -> pd.DataFrame:
    return subspace_study(planted(SOFT), random_model(), task(), SMALL)


def value(
    method: str, control: str = "none", contrast: str = "d1-to-d2", column: str = "normalised"
) -> pd.Series:
    rows = studied()
    chosen = rows[(rows["method"] == method) & (rows["control"] == control) & (rows["contrast"] == contrast)]
    chosen = chosen[
        (chosen["metric"] == "logit_difference") & (chosen["layer"] == 0) & (chosen["site"] == "resid_pre")
    ]
    return chosen.loc[chosen["position"] == "alias", column]


@pytest.mark.parametrize("contrast", ["d1-to-d2", "d2-to-d1"])
def test_the_planted_tag_is_found_by_each_method_and_by_no_control(contrast: str) -> None:
    assert value("whole site", contrast=contrast).item() == pytest.approx(1, abs=1e-5)
    for method in ("difference of means", "rotation"):
        assert (value(method, contrast=contrast) > 0.7).all()
        assert (value(method, "shuffled", contrast).abs() < 0.6).all()
        assert (value(method, "random model", contrast).abs() < 0.1).all()
    assert value("difference of means", column="decoding").item() > 0.95
    assert value("erasure", column="decoding_before").item() == 1
    assert value("erasure", column="decoding").item() == pytest.approx(0.5, abs=0.05)
    assert value("erasure", "shuffled", column="decoding_before").item() < 0.8


def test_the_tag_moves_no_integer() -> None:
    assert (value("difference of means", contrast="d1-to-other-d2") < 0.1).all()


@pytest.mark.parametrize("loud", [1.0, 1e3, 1e5])
def test_the_rounding_of_large_logits_is_no_difference(loud: float) -> None:
    """At `=` before layer 0 both runs have the same embedding, however large the logits are that follow."""
    model = copy.deepcopy(random_model())
    with torch.no_grad():
        model.unembed.W_U *= loud
    place = replace(SMALL, positions=("=",), sites=("blocks.0.hook_resid_pre",))
    rows = subspace_study(model, model, task(), place)
    assert set(rows["method"]) == {"whole site"}


def test_the_studys_table() -> None:
    rows = studied()
    keys = ["method", "k", "layer", "site", "position", "control", "contrast", "metric"]
    assert rows.columns.tolist() == [
        *keys, "clean", "corrupted", "swapped", "effect", "normalised", "explained", "decoding", "decoding_before", "exchanged", "pairs",
    ]  # fmt: skip
    assert not rows.duplicated(keys).any()
    np.testing.assert_allclose(rows["effect"], rows["swapped"] - rows["corrupted"])
    unread = rows[(rows["position"] == "=") & (rows["site"] == "resid_pre")]
    assert set(unread["method"]) == {"whole site"}
    assert unread["effect"].isna().all()  # `=` is the same in both runs
    assert set(rows.loc[rows["method"] == "rotation", "k"]) == {2, 4}


def test_halves_share_no_alias() -> None:
    first, second = halves(task(), seed=0)
    assert not set(first.table["alias"]) & set(second.table["alias"])
    assert len(first) + len(second) == len(task())
    for subset, aliases in first.table.groupby("subset", observed=True)["alias"]:
        rest = second.table.loc[second.table["subset"] == subset, "alias"]
        assert abs(aliases.nunique() - rest.nunique()) <= 1
    mine, others = (
        set(pairs_named(part, "d1-to-d2", n_pairs=50, seed=0).corrupted[:, 0].tolist())
        for part in (first, second)
    )
    assert not mine & others


def fingerprint(model: Any) -> str:
    """Weights, whether they are trained, and hooks."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {parameter.requires_grad} {parameter.grad is None}".encode())
        digest.update(parameter.detach().numpy().tobytes())
    digest.update(str([name for name, point in model.hook_dict.items() if point.fwd_hooks]).encode())
    return digest.hexdigest()


def test_the_study_leaves_everything_alone(parallel: Any) -> None:
    fresh, tokens = random_model(1), task().tokens.clone()
    before, state = (fingerprint(parallel), fingerprint(fresh)), torch.get_rng_state()
    config = SubspaceConfig(ks=(2,), n_pairs=40, steps=2, sites=("attn_out",), positions=("alias",))
    rows = subspace_study(parallel, fresh, task(), config)
    assert set(rows["site"]) == {"attn_out"}
    assert (fingerprint(parallel), fingerprint(fresh)) == before
    assert torch.equal(task().tokens, tokens)
    assert torch.equal(torch.get_rng_state(), state)


# --------------------------------------------------------------------------------- figure and refusals


def test_the_figure_shows_the_table() -> None:
    rows = pd.concat(
        [studied().assign(seed=0), studied().assign(seed=1, normalised=lambda r: r["normalised"] + 0.2)]
    )
    figure = subspace_effects(summarize_subspaces(rows))
    titles = [note.text for note in figure.layout.annotations]
    assert "d1-to-d2: alias, resid_pre 0" in titles
    assert not any("=, resid_pre 0" in title for title in titles)
    fitted = next(trace for trace in figure.data if trace.name == "fitted")
    assert fitted.y[0] == pytest.approx(1.1, abs=1e-5)  # the whole site: 1 and 1.2
    assert len(fitted.y) == 5
    drawn = sum(len(trace.y) for trace in figure.data if trace.name is None)
    kept = rows.groupby(["layer", "site", "position"]).filter(
        lambda part: (part["method"] == "rotation").any()
    )
    assert drawn == len(kept[kept["metric"] == "logit_difference"].dropna(subset=["normalised"]))
    assert (
        subspace_effects(summarize_subspaces(rows, value="explained")).layout.yaxis.title.text
        == "share of squared difference gone"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: Place(layer=0, site="z", position="="), "site 'z' is not in the residual stream"),
        (lambda: Subspace(name="s", place=ALIAS, basis=torch.ones(4, 2)), "not orthonormal"),
        (
            lambda: swap(random_model(), pairs("d1-to-d2"), tag_space(GATED), metric="logit_difference"),
            "d_model is",
        ),
        (lambda: runs_of(random_model(), pairs("d1-to-d2"), replace(ALIAS, layer=7)), "no layer 7"),
        (
            lambda: runs_of(random_model(), pairs("d1-to-d2"), replace(ALIAS, position="tag")),
            "no position is called 'tag'",
        ),
        (
            lambda: runs_of(planted(GATED), pairs("d1-to-d2"), replace(ALIAS, site="resid_mid")),
            "no site 'resid_mid'",
        ),
        (
            lambda: fit_rotations(runs_of(random_model(), pairs("d1-to-d2")), ks=(0,), steps=1, seed=0),
            "use 1 to",
        ),
        (lambda: difference_of_means(torch.ones(2, 3), torch.tensor([True, True])), "both kinds"),
        (lambda: difference_of_means(torch.ones(2, 3), torch.tensor([True, False])), "means are equal"),
        (lambda: fit_erasure(torch.ones(2, 3), torch.tensor([True, True])), "both kinds"),
        (lambda: fit_erasure(torch.ones(2, 3), torch.tensor([True, False])), "nothing to erase"),
        (lambda: SubspaceConfig(n_pairs=0), "n_pairs is 0"),
        (lambda: SubspaceConfig(ks=()), "at least one"),
        (
            lambda: summarize_subspaces(studied().assign(seed=0), value="effect"),
            "use normalised or explained",
        ),
    ],
)
def test_refusals(wrong: Callable[[], object], message: str) -> None:
    with pytest.raises(MechoclError, match=message):
        wrong()
