"""Patching, grafting and probing of ConvNets, compared with plain PyTorch hooks and with what is known of the parts."""

from typing import Any

import grids
import numpy as np
import pytest
import torch
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.grafting import graft
from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import Pairs
from mechocl.interventions.patching import PatchingConfig, patch, patch_activations
from mechocl.interventions.weight_groups import groups, layer_groups, parameters
from mechocl.probing.probe import probe
from mechocl.probing.scoring import ProbingConfig
from toy_models import convnet, digit_grid
from toy_models.convnet_config import ConvNetConfig
from toy_models.task import ROLE, Task

LAYER = 1


@pytest.fixture(scope="module")
def task() -> Task:
    return digit_grid.build(grids.CONFIG, seed=0)


def model_of(task: Task, seed: int = 0) -> Any:
    return convnet.build(
        ConvNetConfig(channels=(4, 8), hidden=(24,), d_model=8), digit_grid.pictures(grids.CONFIG),
        d_vocab=len(task.vocabulary), d_vocab_out=task.vocabulary.outputs, seed=seed,
    )  # fmt: skip


def differences(model: Any, tokens: Tensor, pairs: Pairs) -> Tensor:
    """Target − foil where each answer is read."""
    at = torch.arange(len(tokens))
    logits = model(tokens)[at, pairs.read].detach()
    return logits[at, pairs.target] - logits[at, pairs.foil]


@pytest.mark.parametrize("name", ["d1-to-d2", "d1-to-other-d2", "qd1-to-other-no_data", "tag1-to-tag2", "d1-to-itself"])  # fmt: skip
def test_pairs_are_about_one_cell(task: Task, name: str) -> None:
    pairs = pairs_named(task, name, n_pairs=30, seed=0)
    cells = grids.CONFIG.cells
    table, words = task.table, task.vocabulary.decode
    for i in range(len(pairs)):
        clean, corrupted = pairs.clean[i].tolist(), pairs.corrupted[i].tolist()
        cell = int(pairs.read[i]) - cells - 1
        assert 0 <= cell < cells
        rows = table[(table["alias"] == int(pairs.alias[i])) & (table["cell"] == cell)]
        labels = {f"label {entity}" for entity in rows["entity"]}
        if name.startswith("tag"):
            assert words([clean[cells], corrupted[cells]]) == ["tag 1", "tag 2"]
            assert clean[:cells] == corrupted[:cells]
            continue
        assert words([clean[cells], corrupted[cells]]) == [f"cell {cell}"] * 2
        assert set(words(pairs.target[i : i + 1])) == labels
        assert pairs.target[i] != pairs.foil[i]
        assert (clean[:cells] == corrupted[:cells]) == (name == "d1-to-itself")


@pytest.mark.parametrize("mode", ["denoise", "noise", "zero", "mean"])
@pytest.mark.parametrize("each_unit", [True, False])
def test_a_patch_is_that_of_a_plain_hook(task: Task, mode: Any, each_unit: bool) -> None:
    model, other = model_of(task), model_of(task, seed=1)
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=9, seed=0)
    found = patch_activations(model, pairs, sites=["layers.1.hook_post"], mode=mode, each_unit=each_unit, source_model=other, batch_size=4)  # fmt: skip
    kept: list[Tensor] = []
    module = other.layers[LAYER].hook_post
    handle = module.register_forward_hook(lambda m, given, out: kept.append(out.detach()))
    other(pairs.corrupted if mode == "noise" else pairs.clean)
    handle.remove()
    source = {
        "zero": torch.zeros_like(kept[0]),
        "mean": kept[0].mean(0, keepdim=True).expand_as(kept[0]),
    }.get(mode, kept[0])
    into = pairs.corrupted if mode == "denoise" else pairs.clean
    base = differences(model, into, pairs).mean()
    size, side = 8, grids.CONFIG.side
    for row in found.rows.to_dict("records"):
        mask = torch.zeros_like(source, dtype=torch.bool)
        channels = [row["index"]] if each_unit else list(range(8))  # 8 channels are 8 groups
        half = size // 2  # the layer halves height and width
        if row["position"] == "tag":
            mask[:, channels, :half] = True
        else:
            r, c = divmod(int(row["position"].split()[1]), side)
            mask[:, channels, half * (r + 1) : half * (r + 2), half * c : half * (c + 1)] = True
        handle = model.layers[LAYER].hook_post.register_forward_hook(
            lambda m, given, out, mask=mask: torch.where(mask, source, out)
        )
        expected = differences(model, into, pairs).mean()
        handle.remove()
        if row["exchanged"]:
            assert row["value"] == pytest.approx(float(expected), abs=1e-5)
            assert row["effect"] == pytest.approx(float(expected - base), abs=1e-5)
        else:
            assert np.isnan(row["effect"])
            assert float(expected) == pytest.approx(float(base), abs=1e-5)


def test_roles_divide_the_picture_and_a_whole_layer_restores_the_clean_run(task: Task) -> None:
    model = model_of(task)
    pairs = pairs_named(task, "d1-to-other-d2", n_pairs=9, seed=0)
    whole = patch_activations(model, pairs, sites=["post"], by="all", each_unit=False)
    assert list(whole.rows["layer"]) == [0, 1, 2]
    assert np.allclose(whole.rows["value"], whole.clean, atol=1e-5)
    by_role = patch_activations(model, pairs, sites=["layers.0.hook_post"], by="role", each_unit=False)
    assert list(by_role.rows["position"]) == ["tag", "asked cell", "other cells"]
    by_cell = patch_activations(model, pairs, sites=["layers.0.hook_post"], each_unit=False)
    cell = (pairs.read - grids.CONFIG.cells - 1).tolist()
    own = [by_cell.per_pair[1 + c, i] for i, c in enumerate(cell)]
    assert np.allclose(by_role.per_pair[1], own, atol=1e-5)
    assert patch(model, task, PatchingConfig(n_pairs=5))["part"].unique().tolist() == ["whole"]


def test_what_cannot_be_patched_is_one_line(task: Task) -> None:
    model = model_of(task)
    pairs = pairs_named(task, "d1-to-d2", n_pairs=3, seed=0)
    with pytest.raises(
        MechoclError, match="the model has no site 'resid_post' that can be patched; its sites: pre, post"
    ):
        patch_activations(model, pairs, sites=["resid_post"])
    with pytest.raises(
        MechoclError, match="no pairs of pictures are called 'd1-with-to-without'; use d1-to-d2"
    ):
        pairs_named(task, "d1-with-to-without", n_pairs=3, seed=0)


def test_weights_are_in_one_group_each_and_a_graft_moves_them(task: Task) -> None:
    before, after = model_of(task), model_of(task, seed=1)
    found = groups(before, task)
    names = [part.parameter for group in found.values() for part in group.parts]
    assert sorted(names) == sorted(parameters(before))
    assert list(found) == ["tag patterns", "layer 0 convolution", "layer 1 convolution", "layer 2 units", "cells", "norms", "unembedding"]  # fmt: skip
    layers = layer_groups(before, task)
    assert {p.parameter for p in layers["layer 2"].parts} == {f"layers.2.{n}" for n in ("inner.weight", "inner.bias", "norm.weight", "norm.bias")}  # fmt: skip
    everything = graft(before, after, task, groups=list(found))
    assert all(torch.equal(parameters(everything)[n], w) for n, w in parameters(after).items())
    one = parameters(graft(before, after, task, groups=["layer 1"]))
    for name, weight in one.items():
        other = after if name.startswith("layers.1.") else before
        assert torch.equal(weight, parameters(other)[name])


def test_a_probe_reads_the_tag_of_a_definition_in_the_picture(task: Task) -> None:
    rows, _ = probe(model_of(task), task, untrained=model_of(task, seed=5), config=ProbingConfig(recipe="reliability-at-definition", permutations=0, solver="scikit-learn"))  # fmt: skip
    assert bool((task.roles == ROLE["tag"]).any())
    own = rows[(rows["control"] == "none") & (rows["subset"] == "all")]
    sites = list(dict.fromkeys(zip(own["layer"], own["site"], strict=True)))
    assert sites == [(0, "pixels"), (0, "post"), (1, "post"), (2, "post")]
    assert set(own["position"]) == {"picture"}
    assert own.loc[own["site"] == "pixels", "auc"].min() > 0.95
    assert "token embedding" not in set(rows["control"])
