"""What a stage does not train stays as it is, to the last bit; what it trains moves."""

import dataclasses
from typing import Any

import pytest
import small_stage
import torch
from small_stage import OPTIMIZERS, STAGE, make_model, make_task, weights_of

from toy_models.frozen import EMBEDDING, FrozenRows, find_trained_rows
from toy_models.task import Task
from toy_models.training import train_stage

TAGS = (5, 6, 7)
"""Tokens of the integer set's tags, after pad, `%`, `=`, true and false."""


def trained_tokens(task: Task, trains: str) -> set[int]:
    """Worked out from the order of the integer set's vocabulary, not from roles."""
    every, names = set(range(len(task.vocabulary))), set(range(18, 38))
    assert len(every) == 38
    return {
        "all": every,
        "embeddings": every,
        "all_but_tag_embeddings": every - {*TAGS},
        "all_but_alias_embeddings": every - names,
        "all_but_embeddings": set(),
        "alias_embeddings": names,
        "tag_embeddings": {*TAGS},
    }[trains]


@pytest.mark.parametrize("trains", small_stage.TRAINS)
def test_the_trained_rows_are_those_of_the_vocabulary(trains: Any) -> None:
    task = make_task()
    assert set(find_trained_rows(task, trains).nonzero()[:, 0].tolist()) == trained_tokens(task, trains)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("trains", small_stage.TRAINS)
@pytest.mark.parametrize("tied", [False, True])
def test_what_is_not_trained_does_not_move_under_weight_decay(
    optimizer: Any, trains: Any, tied: bool
) -> None:
    """Two models together, with learning rates of their own, momentum, clipping and a large decay."""
    task = make_task()
    models = [make_model(task, seed, tied_embeddings=tied) for seed in (0, 1)]
    before = [weights_of(model) for model in models]
    stage = dataclasses.replace(
        STAGE, data=(1, 2), batch_size=14, trains=trains, optimizer=optimizer, weight_decay=0.5,
        gradient_clip=0.1, learning_rate=1e-2,
    )  # fmt: skip
    moments = train_stage(
        models, [task, task], stage, seeds=[0, 1], precision="float32", learning_rates=[1e-2, 5e-3]
    )
    assert len(list(moments)) > 30
    for model, old in zip(models, before, strict=True):
        new = weights_of(model)
        moved = (new[EMBEDDING] != old[EMBEDDING]).any(1).nonzero()[:, 0].tolist()
        # decay moves every row that is trained, whether it is in the examples or not
        assert set(moved) == trained_tokens(task, trains)
        if tied:
            outputs = task.vocabulary.outputs
            assert torch.equal(new["unembed.W_U"], new[EMBEDDING][:outputs].T)
        others = {name for name, value in new.items() if not torch.equal(value, old[name])} - {EMBEDDING}
        if trains.startswith("all"):
            assert {"blocks.0.mlp.W_in", "blocks.0.attn.W_Q"} <= others
            assert ("unembed.W_U" in others) == (trains != "all_but_embeddings" or not tied)
        else:
            assert others == ({"unembed.W_U"} if tied else set())


def test_a_masked_gradient_alone_would_let_the_decay_move_the_frozen_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The check's own failing example."""
    monkeypatch.setattr(FrozenRows, "put_back", lambda self: None)
    task = make_task()
    model = make_model(task)
    before = weights_of(model)[EMBEDDING]
    stage = dataclasses.replace(STAGE, trains="alias_embeddings", weight_decay=0.5)
    list(train_stage([model], [task], stage, seeds=[0], precision="float32"))
    assert (weights_of(model)[EMBEDDING] != before).any(1).all()


def test_rows_are_frozen_at_the_values_of_that_time_and_can_train_again() -> None:
    task = make_task()
    embeddings = torch.arange(2 * 38 * 2, dtype=torch.float32).view(2, 38, 2)
    frozen = FrozenRows(embeddings, [task, task], "all")
    start = embeddings.clone()
    rows = torch.zeros(2, 38, dtype=torch.bool)
    rows[1, 20] = True
    embeddings += 1
    frozen.freeze(rows)
    gradient = torch.ones_like(embeddings)
    assert (frozen.mask(gradient) == 0).all(2).nonzero().tolist() == [[1, 20]]
    embeddings += 1
    frozen.put_back()
    expected = start + 2
    expected[1, 20] -= 1
    assert torch.equal(embeddings, expected)
    frozen.freeze(~frozen.always & False)
    embeddings += 1
    frozen.put_back()
    assert torch.equal(embeddings, expected + 1)
