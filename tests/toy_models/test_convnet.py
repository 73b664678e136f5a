"""The ConvNet that draws its tokens: what it sees, that hooks act, and that several train as one does."""

import copy
from typing import Any

import grids
import numpy as np
import pytest
import torch
from torch import Tensor

from mechocl.models import seam
from toy_models import convnet, digit_grid
from toy_models.convnet import HookedConvNet, StackedConvNets
from toy_models.convnet_config import ConvNetConfig, refuse_stages
from toy_models.stages import StageConfig
from toy_models.task import Task
from toy_models.training import train_stage

CELLS = grids.CONFIG.cells


def build(seed: int = 0, config: ConvNetConfig | None = None) -> HookedConvNet:
    vocabulary = digit_grid.vocabulary(grids.CONFIG)
    return convnet.build(
        config or ConvNetConfig(channels=(4, 8), hidden=(24,), d_model=8),
        digit_grid.pictures(grids.CONFIG),
        d_vocab=len(vocabulary),
        d_vocab_out=vocabulary.outputs,
        seed=seed,
    )


@pytest.fixture(scope="module")
def task() -> Task:
    return digit_grid.build(grids.CONFIG, seed=0)


def test_the_picture_by_hand(task: Task) -> None:
    model = build()
    first = model.pictures.first_image
    for kind in ("definition", "question"):
        row = task.rows(kind=kind)[0]
        picture = model.draw(task.tokens[row : row + 1])[0]
        assert picture.shape == (2, 24, 16)
        for cell in range(CELLS):
            y, x = 8 + 8 * (cell // 2), 8 * (cell % 2)
            image = model.pixels[task.tokens[row, cell] - first]
            assert torch.equal(picture[0, y : y + 8, x : x + 8], image)
            is_asked = kind == "question" and int(task.table["cell"].iloc[row]) == cell
            assert (picture[1, y : y + 8, x : x + 8] == float(is_asked)).all()
        strip = picture[0, :8]
        tag = int(task.table["tag"].iloc[row])
        expected = model.patterns[tag - 1].repeat(1, 2) if kind == "definition" else torch.zeros(8, 16)
        assert torch.equal(strip, expected)
        assert (picture[1, :8] == 0).all()


def test_it_does_not_see_the_labels(task: Task) -> None:
    model = build()
    tokens = task.tokens[:9]
    other = tokens.clone()
    other[:, CELLS + 1 :] = 1
    assert torch.equal(model(tokens), model(other))


def test_logits_are_those_of_the_cells(task: Task) -> None:
    """Before the label of each cell; nothing is predicted at the images."""
    model = build()
    tokens = task.tokens[:9]
    logits = model(tokens)
    assert logits.shape == (9, task.n_ctx, task.vocabulary.outputs)
    assert torch.equal(logits[:, : CELLS + 1], model.b_U.expand(9, CELLS + 1, -1))
    assert not torch.equal(logits[:, CELLS + 1], logits[:, CELLS + 2])
    assert model(tokens, return_type=None) is None
    short = model(tokens[:, : CELLS + 3])
    torch.testing.assert_close(short, logits[:, : CELLS + 3])


def test_hooks_act_and_are_seen(task: Task) -> None:
    model = build()
    tokens = task.tokens[:9]
    logits, cache = model.run_with_cache(
        tokens, names_filter=["hook_pixels", "layers.1.hook_post"], return_type="logits"
    )
    assert torch.equal(logits, model(tokens))
    assert cache["hook_pixels"].shape == (9, 2, 24, 16)
    assert cache["layers.1.hook_post"].shape == (9, 8, 12, 8)

    def swap(x: Tensor, hook: Any) -> Tensor:
        return x.flip(0)

    with model.hooks([("layers.1.hook_post", swap)]):
        assert torch.equal(model(tokens), logits.flip(0))
    with model.hooks([("unembed.hook_in", swap)]):
        torch.testing.assert_close(model(tokens), logits.flip(0))
    ids = torch.arange(1, 4)
    at = torch.full((9,), CELLS + 2)
    torch.testing.assert_close(seam.logits_at(model, tokens, at, ids), logits[:, CELLS + 2, 1:4])


def test_several_compute_as_each_does_alone(task: Task) -> None:
    models = [build(seed) for seed in (0, 1)]
    tokens = torch.stack([task.tokens[:6], task.tokens[6:12]])
    stacked = {
        name: torch.stack([dict(model.named_parameters())[name] for model in models])
        for name, _ in models[0].named_parameters()
    }
    both = StackedConvNets(models[0]).residual(stacked, tokens)
    for k, model in enumerate(models):
        torch.testing.assert_close(both[k], model.residual(tokens[k]))
    with pytest.raises(ValueError, match="no attention"):
        StackedConvNets(models[0]).residual(stacked, tokens, cut=torch.zeros(2, 6, 10, 10, dtype=torch.bool))


def test_a_step_is_that_of_plain_torch(task: Task) -> None:
    """One batch of the whole stage: the mean cross-entropy over the labels, and SGD, whose step is the gradient itself."""
    stage = StageConfig(
        data=(1,), epochs=1, batch_size=10_000, optimizer="sgd", learning_rate=1e-2, weight_decay=0.1
    )
    model = build()
    plain, before = copy.deepcopy(model), dict(build().named_parameters())
    for _ in train_stage([model], [task], stage, seeds=[0], precision="float32"):
        pass
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-2, weight_decay=0.1)
    assert task.fresh is not None
    tokens = task.fresh(0)[0][torch.from_numpy(task.training_rows((1,)))]
    logits = plain(tokens)[:, CELLS + 1 : -1]
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, CELLS + 2 :].flatten()).backward()
    optimizer.step()
    for (name, mine), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        moved = float((theirs - before[name]).detach().abs().max())
        assert float((mine - theirs).detach().abs().max()) <= 1e-3 * moved, name
    assert torch.equal(model.patterns, build().patterns)


def test_training_together_gives_what_each_gets_alone(task: Task) -> None:
    tasks = [task, digit_grid.build(grids.CONFIG, seed=1)]
    stage = StageConfig(data=(2,), epochs=2, batch_size=8, optimizer="sgd", learning_rate=0.1)
    together = [build(0), build(1)]
    for _ in train_stage(together, tasks, stage, seeds=[0, 1], precision="float32"):
        pass
    for seed, model in enumerate(together):
        alone = build(seed)
        for _ in train_stage([alone], [tasks[seed]], stage, seeds=[seed], precision="float32"):
            pass
        for (name, mine), theirs in zip(model.named_parameters(), alone.parameters(), strict=True):
            np.testing.assert_allclose(mine.detach(), theirs.detach(), atol=1e-5, err_msg=name)


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, again, other = build(0), build(0), build(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c) == (
            ".norm." in name or name.startswith(("ln_final", "images")) or name == "unembed.b_U"
        ), name
    assert torch.equal(one.images_sha256, other.images_sha256)
    assert set(one.patterns.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": ()}, r"channels is \[\]"),
        ({"hidden": (0,)}, r"hidden is \[0\]"),
        ({"d_model": 0}, "d_model is 0"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        ConvNetConfig(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"trains": "embeddings"},
        {"embedding_rate": 2.0},
        {"tag_embedding": "tag_1"},
        {"cut_tag": True},
        {"alias_step": "onto_questions"},
    ],
)
def test_a_stage_of_embeddings_or_attention_is_refused(changes: dict[str, Any]) -> None:
    stages = (StageConfig(data=(1,), epochs=1), StageConfig(data=(2,), epochs=1, **changes))
    with pytest.raises(ValueError, match=rf"training.stages.1.{next(iter(changes))} is .* leave it out"):
        refuse_stages(stages)
