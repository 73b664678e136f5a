"""Cosines, inner products, corrections and nulls, worked out by hand; and how Adam would scale a gradient."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from adam_scales import assert_same_scales
from differentiated import world
from torch import Tensor

from mechocl.learning import examples
from mechocl.learning.alignment import CORRECTIONS, align, compare
from mechocl.learning.gradients import alias_gradients, differentiable
from mechocl.learning.layout import ALL, OWN, SHARED
from mechocl.learning.preconditioning import EPSILON, scale_as_adam
from toy_models import training
from toy_models.frozen import find_alias_names
from toy_models.stages import StageConfig


def rows(*values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_by_hand() -> None:
    """Definitions (3, 4), (0, 2), (1, 0) and questions (6, 8), (0, −1), (0, 5) of three aliases.

    The inner products with their own questions are 50, −2, 0, the cosines 1, −1, 0. Those of the first definition with the
    questions of the others are −4 and 20, on average 8, and its cosines −4/5 and 4/5, on average 0.
    """
    found = compare(rows((3, 4), (0, 2), (1, 0)), rows((6, 8), (0, -1), (0, 5))).values()
    assert found["inner"].tolist() == [50, -2, 0]
    assert found["cosine"].tolist() == pytest.approx([1, -1, 0])
    assert found["inner_null"].tolist() == [8, (16 + 10) / 2, (6 + 0) / 2]
    assert found["cosine_null"].tolist() == pytest.approx([0, (0.8 + 1) / 2, (0.6 + 0) / 2])
    assert found["definition_norm"].tolist() == [5, 2, 1]
    assert found["question_norm"].tolist() == [10, 1, 5]


def test_a_gradient_of_0_and_an_alias_alone_are_not_measured() -> None:
    found = compare(rows((0, 0), (1, 0), (1, 1)), rows((1, 0), (1, 0), (0, 0))).values()
    assert found["cosine"].isnan().tolist() == [True, False, True]
    assert found["cosine_null"][1] == pytest.approx(1)  # the questions of the third are 0, and are left out
    assert found["inner"].tolist() == [0, 1, 0]
    alone = compare(rows((1, 2)), rows((2, 4))).values()
    assert alone["cosine"].tolist() == pytest.approx([1])
    assert alone["cosine_null"].isnan().all()
    assert alone["inner_null"].isnan().all()


def test_corrections_by_hand() -> None:
    """Two weights, one of them the own one. The definitions' mean is (2, 1), the questions' (1, 1)."""
    definitions = {OWN: rows((1,), (3,)), "other": rows((1,), (1,))}
    questions = {OWN: rows((2,), (0,)), "other": rows((1,), (1,))}
    scales = {OWN: rows((10,), (100,)), "other": rows((7,))}
    everyone = {"all aliases": torch.ones(2, dtype=torch.bool)}
    found = {
        (group, correction): values
        for group, correction, _, values in align(definitions, questions, scales, everyone)
    }
    assert set(found) == {(g, c) for g in (OWN, "other", SHARED, ALL) for c in CORRECTIONS}
    assert found[OWN, "raw"]["inner"].tolist() == [2, 0]
    assert found[OWN, "centred"]["inner"].tolist() == [-1, -1]
    assert found[OWN, "preconditioned"]["inner"].tolist() == [20, 0]
    assert found[OWN, "preconditioned"]["question_norm"].tolist() == [2, 0]
    assert found[OWN, "preconditioned, centred"]["inner"].tolist() == [-145, -145]  # (10, 300) − 155
    assert found["other", "raw"]["inner"].tolist() == [1, 1]
    assert found["other", "centred"]["cosine"].isnan().all()
    assert found["other", "preconditioned"]["inner"].tolist() == [7, 7]
    assert found[SHARED, "raw"]["inner"].tolist() == [1, 1]
    assert found[ALL, "raw"]["inner"].tolist() == [3, 1]
    assert found[ALL, "raw"]["cosine"].tolist() == pytest.approx(
        [3 / math.sqrt(2 * 5), 1 / math.sqrt(10 * 1)]
    )
    assert found[ALL, "raw"]["inner_null"].tolist() == [0 * 1 + 1, 3 * 2 + 1]


def test_means_are_over_all_subsets_and_nulls_within_one() -> None:
    definitions = {OWN: rows((1, 0), (0, 1), (5, 5))}
    questions = {OWN: rows((1, 2), (3, 4), (6, 7))}
    scales = {OWN: rows((1, 1), (1, 1), (1, 1))}
    members = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False, False, True])}
    found = {
        (correction, subset): values
        for group, correction, subset, values in align(definitions, questions, scales, members)
        if group == OWN
    }
    assert found["raw", "a"]["inner_null"].tolist() == [3, 2]
    assert found["raw", "b"]["inner_null"].isnan().all()
    centred = (
        definitions[OWN] - rows((2, 2)),
        questions[OWN] - definitions[OWN].new_tensor([[10 / 3, 13 / 3]]),
    )
    assert found["centred", "b"]["inner"].tolist() == pytest.approx([float(centred[0][2] @ centred[1][2])])


# ------------------------------------------------------------------------------------ preconditioning

STAGE = StageConfig(data=(2,), epochs=1, batch_size=64, optimizer="adamw", embedding_rate=5.0)


def test_in_one_batch_the_scaled_gradient_is_a_sign() -> None:
    """One batch of all definitions: an alias's row gets its own definition's share alone, so every number becomes ± embedding_rate ÷
    share. And what training's own loss and autograd give for the shared weights."""
    model, task = world("plain")
    of = differentiable(model, task)
    listed = examples.list_defined(task, stage=2, most=None)
    aliases = listed["alias"].to_numpy()
    names = examples.name_tokens(task, aliases)
    definitions = alias_gradients(of, examples.definitions_of(task, aliases), names)
    scales = scale_as_adam(of, STAGE, names, tag=None, seed=0)
    share = len(aliases)  # definitions are equally long
    scaled = definitions[OWN] * scales[OWN]
    known = definitions[OWN].abs() / share > 1e3 * EPSILON
    assert known.double().mean() > 0.9
    torch.testing.assert_close(
        scaled[known].abs(), torch.full_like(scaled[known], 5.0 * share), rtol=2e-3, atol=0
    )
    means = {group: value.mean(0) for group, value in definitions.items() if group != OWN}
    for group, mean in means.items():
        rate = 5.0 if "embeddings" in group else 1.0
        expected = rate / (mean.abs() + EPSILON)
        assert_same_scales(scales[group][0], expected, rtol=1e-4)


def test_several_batches_are_a_mean_of_squares() -> None:
    """Against autograd through the model's own forward pass, batch after batch."""
    model, task = world("tied")
    of = differentiable(model, task)
    names = examples.name_tokens(task, examples.list_defined(task, stage=2, most=2)["alias"].to_numpy())
    small = replace(STAGE, batch_size=7)
    once, again, other = (scale_as_adam(of, small, names, tag=None, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(once[group], again[group]) for group in once)
    assert not torch.equal(once["L0 mlp"], other["L0 mlp"])
    from mechocl.learning.preconditioning import _batches

    batches = list(_batches(of, small, tag=None, seed=0))
    assert sum(len(tokens) for tokens, _ in batches) == len(task.training_rows((2,)))
    assert max(len(tokens) for tokens, _ in batches) <= 7
    squares = torch.zeros_like(model.unembed.b_U)
    for tokens, mask in batches:
        mask = mask[:, :-1]
        loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1])[mask], tokens[:, 1:][mask])
        squares += torch.autograd.grad(loss, model.unembed.b_U)[0].square()
    expected = 1 / ((squares / len(batches)).sqrt() + EPSILON)
    assert_same_scales(once["unembedding"][0], expected.detach(), rtol=1e-4)


def test_a_step_of_adam_is_the_scaled_gradient() -> None:
    """One step of the trainer, from nothing, on one batch: the weights move against the scaled mean gradient, by the rate."""
    model, task = world("plain")
    of = differentiable(model, task)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    aliases = examples.list_defined(task, stage=2, most=None)["alias"].to_numpy()
    names = examples.name_tokens(task, aliases)
    gradient = alias_gradients(of, examples.definitions_of(task, aliases), names)
    scales = scale_as_adam(of, STAGE, names, tag=None, seed=0)
    stage = replace(STAGE, learning_rate=1e-4, evaluations=1, checkpoints=1)
    for _ in training.train_stage([model], [task], stage, seeds=(0,), precision="float32"):
        pass
    moved = model.embed.W_E.detach()[names[:, 0]] - before["embed.W_E"][names[:, 0]]
    step = -1e-4 * scales[OWN] * gradient[OWN] / len(aliases)
    known = gradient[OWN].abs() / len(aliases) > 1e3 * EPSILON
    torch.testing.assert_close(moved[known], step[known], rtol=5e-3, atol=0)
    mlp = model.blocks[0].mlp.W_in.detach() - before["blocks.0.mlp.W_in"]
    assert mlp.abs().max() == pytest.approx(1e-4, rel=1e-2)  # embedding_rate is for embeddings alone


@pytest.mark.parametrize("trains", ["alias_embeddings", "all_but_tag_embeddings", "embeddings"])
def test_what_the_stage_does_not_train_is_scaled_by_0(trains: str) -> None:
    model, task = world("plain")
    of = differentiable(model, task)
    names = examples.name_tokens(task, examples.list_defined(task, stage=2, most=2)["alias"].to_numpy())
    scales = scale_as_adam(of, replace(STAGE, trains=trains), names, tag=None, seed=0)
    moves = {group for group, value in scales.items() if value.any()}
    assert (
        moves
        == {
            "alias_embeddings": {OWN},
            "embeddings": {OWN, "tag embeddings", "other embeddings"},
            "all_but_tag_embeddings": set(scales) - {"tag embeddings"},
        }[trains]
    )


def test_the_tag_that_definitions_are_written_with_changes_the_scale() -> None:
    model, task = world("plain")
    of = differentiable(model, task)
    names = examples.name_tokens(task, examples.list_defined(task, stage=2, most=2)["alias"].to_numpy())
    one, two = (scale_as_adam(of, STAGE, names, tag=tag, seed=0)["tag embeddings"][0] for tag in (1, 2))
    untouched = 5.0 / EPSILON
    width = model.cfg.d_model
    assert (one[width:] == untouched).all()  # no definition has tag 2 or 3
    assert (two[:width] == untouched).all()
    assert (two[width : 2 * width] != untouched).any()
    assert np.isfinite(one.numpy()).all()
    assert not find_alias_names(task)[: task.vocabulary.integers[1]].any()
