"""Stopping at a definition loss, beside loops that are written out; stacks, resuming, and what is refused."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from small_stage import OPTIMIZERS, STAGE, TASK, alias_tokens, make_model, make_task, weights_of
from torch import Tensor

from toy_models.definition_loss import measure_definition_losses
from toy_models.frozen import EMBEDDING
from toy_models.randomness import generator
from toy_models.stages import StageConfig
from toy_models.stopping import check_stopping
from toy_models.task import Task
from toy_models.training import Moment, train_stage

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

LONG = dataclasses.replace(STAGE, epochs=60, learning_rate=1e-2)
PER_EPOCH = 4  # 10 definitions in batches of 3
RATES = {"adamw": 1e-2, "sgd": 0.05, "adafactor": 1e-2}


def losses_of(model: "HookedTransformer", task: Task) -> np.ndarray:
    return measure_definition_losses(model, task, task.rows(kind="definition", stage=2))


def train(models: Any, tasks: list[Task], stage: StageConfig, **options: Any) -> list[Moment]:
    seeds = options.pop("seeds", range(len(tasks)))
    return list(train_stage(models, tasks, stage, seeds=seeds, precision="float32", **options))


def mean_losses_by_epoch(task: Task, seed: int, stage: StageConfig) -> list[float]:
    """Mean definition loss at the end of each epoch of a training that never stops."""
    model = make_model(task, seed)
    never = dataclasses.replace(stage, stop_at_definition_loss=0.0, stops="stage")
    found = []
    for moment in train_stage([model], [task], never, seeds=[seed], precision="float32"):
        if moment.step and moment.step % PER_EPOCH == 0:
            found.append(float(losses_of(model, task).mean()))
    return found


def between(values: list[float], epoch: int) -> float:
    """A value that the curve comes under in this epoch (from 1) and not before, far from what rounding could change."""
    before, now = min(values[: epoch - 1]), values[epoch - 1]
    assert now < before - 1e-3
    return (before + now) / 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_stage_stops_after_the_epoch_in_which_the_mean_is_at_or_under_the_value(optimizer: Any) -> None:
    """Its weights are those of the unbroken training at that step, and the moments say so."""
    task = make_task()
    stage = dataclasses.replace(LONG, optimizer=optimizer, learning_rate=RATES[optimizer])
    value = between(mean_losses_by_epoch(task, 0, stage), 7)
    stopping, plain = make_model(task), make_model(task)
    moments = train([stopping], [task], dataclasses.replace(stage, stop_at_definition_loss=value))
    last = 7 * PER_EPOCH
    assert [m.step for m in moments] == list(range(last + 1))
    assert {m.total_steps for m in moments} == {60 * PER_EPOCH}
    assert [m.ends for m in moments] == [(False,)] * last + [(True,)]
    assert [m.stopped for m in moments] == [(0.0,)] * last + [(1.0,)]
    assert len(moments[-1].losses) == 1
    assert not moments[-1].evaluate
    for moment in train_stage([plain], [task], stage, seeds=[0], precision="float32"):
        if moment.step == last:
            break
    for name, weights in weights_of(stopping).items():
        torch.testing.assert_close(weights, weights_of(plain)[name], atol=1e-5, rtol=0)
    assert losses_of(stopping, task).mean() <= value


def test_a_value_that_is_never_reached_ends_with_the_epochs() -> None:
    task = make_task()
    for stops in ("stage", "alias"):
        stage = dataclasses.replace(STAGE, stop_at_definition_loss=1e-9, stops=stops)
        moments = train([make_model(task)], [task], stage)
        assert len(moments) == 5 * PER_EPOCH + 1
        assert [m.ends for m in moments] == [(False,)] * 5 * PER_EPOCH + [(True,)]
        assert moments[-1].stopped == (0.0,)
    assert train([make_model(task)], [task], STAGE)[-1].stopped == ()


def plain_alias_training(
    model: "HookedTransformer", task: Task, stage: StageConfig, seed: int
) -> tuple[list[set[int]], int]:
    """The same training by SGD without momentum, written out.

    Returns the definitions that had stopped at the start of each epoch, and the number of steps.
    """
    rows = task.training_rows(stage.data)
    tokens, mask = task.tokens[torch.from_numpy(rows)], task.loss_mask[torch.from_numpy(rows)]
    names = alias_tokens(task, rows)
    stopped: set[int] = set()
    history, steps = [], 0
    for epoch in range(stage.epochs):
        stopped |= set(np.flatnonzero(losses_of(model, task) <= stage.stop_at_definition_loss).tolist())
        history.append(set(stopped))
        if len(stopped) == len(rows):
            return history, steps
        order = torch.randperm(len(rows), generator=generator(seed, "order", stage.data, epoch)).tolist()
        for start in range(0, len(rows), stage.batch_size):
            batch = [k for k in order[start : start + stage.batch_size] if k not in stopped]
            steps += 1
            if not batch:
                continue
            logits = model(tokens[batch])[:, :-1].log_softmax(-1)
            picked = -logits.gather(2, tokens[batch][:, 1:, None])[..., 0]
            parameters = dict(model.named_parameters())
            gradients = torch.autograd.grad(picked[mask[batch][:, :-1]].mean(), list(parameters.values()))
            with torch.no_grad():
                for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
                    kept = parameter[names[sorted(stopped)]].clone() if name == EMBEDDING else None
                    parameter -= stage.learning_rate * gradient
                    if kept is not None:
                        parameter[names[sorted(stopped)]] = kept
    return history, steps


def test_an_alias_stops_at_the_start_of_the_epoch_in_which_its_loss_is_at_or_under_the_value() -> None:
    task = make_task()
    stage = dataclasses.replace(
        LONG, optimizer="sgd", momentum=0.0, learning_rate=0.3, stop_at_definition_loss=0.7, stops="alias"
    )
    model, plain = make_model(task), make_model(task)
    names = alias_tokens(task, task.training_rows((2,)))
    expected, steps = plain_alias_training(plain, task, stage, seed=0)
    sizes = [len(stopped) for stopped in expected]
    assert sizes[0] == 0
    assert sizes[-1] == 10
    assert len(set(sizes)) > 4
    embeddings: dict[int, Tensor] = {}
    shares = []
    for moment in train_stage([model], [task], stage, seeds=[0], precision="float32"):
        if moment.step % PER_EPOCH == 0:
            shares.append(moment.stopped[0])
        epoch = moment.step // PER_EPOCH
        for k in expected[epoch]:
            now = model.W_E.detach()[names[k]]
            assert torch.equal(embeddings.setdefault(k, now.clone()), now)
    assert moment.step == steps < 60 * PER_EPOCH
    assert moment.ends == (True,)
    assert shares == pytest.approx([size / 10 for size in sizes])
    for name, weights in weights_of(model).items():
        torch.testing.assert_close(weights, weights_of(plain)[name], atol=1e-4, rtol=0)


def test_questions_of_the_stage_train_on_when_definitions_stop() -> None:
    """At a value that all definitions but the last are under at once, only the other rows and questions move."""
    task = make_task(fresh_questions=True)
    model = make_model(task)
    rows = task.rows(kind="definition", stage=(1, 2), split="train")
    losses = measure_definition_losses(model, task, rows)
    value = float(np.sort(losses)[-2:].mean())
    stage = dataclasses.replace(
        STAGE, data=(1, 2), batch_size=1000, epochs=1, stop_at_definition_loss=value, stops="alias"
    )
    before = weights_of(model)[EMBEDDING]
    moments = train([model], [task], stage)
    assert moments[0].stopped == (17 / 18,)
    moved = set((model.W_E.detach() != before).any(1).nonzero()[:, 0].tolist())
    names = alias_tokens(task, rows)
    stopped = losses <= value
    asked = alias_tokens(task, task.rows(kind="question", subset="q_only", split="train"))
    assert not moved & set(names[torch.from_numpy(stopped)].tolist())
    assert set(names[torch.from_numpy(~stopped)].tolist()) <= moved
    assert set(asked.tolist()) <= moved


# Adafactor makes so much of the last bit that a single alias may stop an epoch later
@pytest.mark.parametrize(
    ("optimizer", "stops"),
    [("adamw", "stage"), ("adamw", "alias"), ("sgd", "stage"), ("sgd", "alias"), ("adafactor", "stage")],
)
@pytest.mark.parametrize("tied", [False, True])
def test_models_that_stop_at_different_times_become_what_each_becomes_alone(
    stops: Any, optimizer: Any, tied: bool
) -> None:
    """Weights, losses and the step of the stop; each with a learning rate of its own."""
    tasks = [make_task(seed) for seed in (0, 1, 2)]
    rate = RATES[optimizer]
    rates = [rate, rate / 2, rate / 3]
    stage = dataclasses.replace(
        LONG,
        optimizer=optimizer,
        learning_rate=rate,
        stop_at_definition_loss=1.2,
        stops=stops,
        weight_decay=0.01,
    )
    stacked = [make_model(task, seed, tied_embeddings=tied) for seed, task in enumerate(tasks)]
    moments = train(stacked, tasks, stage, learning_rates=rates)
    ends = [next(m.step for m in moments if m.ends[k]) for k in range(3)]
    assert len(set(ends)) == 3
    assert moments[-1].step == max(ends)
    assert [m.trained for m in moments] == [tuple(m.step <= end for end in ends) for m in moments]
    for k, task in enumerate(tasks):
        alone = make_model(task, k, tied_embeddings=tied)
        single = train([alone], [task], stage, seeds=[k], learning_rates=[rates[k]])
        assert single[-1].step == ends[k]
        here, there = moments[ends[k]], single[-1]
        atol = 5e-3 if optimizer == "adafactor" else 1e-4
        assert here.losses[k] == pytest.approx(there.losses[0], abs=atol)
        assert here.stopped[k] == there.stopped[0] == 1.0
        for name, weights in weights_of(stacked[k]).items():
            if not name.endswith("b_K"):  # its gradient is zero but for rounding
                torch.testing.assert_close(weights, weights_of(alone)[name], atol=atol, rtol=0)


def test_a_stopped_model_and_its_optimisers_state_stay_bit_for_bit() -> None:
    tasks = [make_task(seed) for seed in (0, 1)]
    stage = dataclasses.replace(LONG, stop_at_definition_loss=1.2, weight_decay=0.1)
    models = [make_model(task, seed) for seed, task in enumerate(tasks)]
    kept = None
    for moment in train_stage(
        models, tasks, stage, seeds=[0, 1], precision="float32", learning_rates=[1e-2, 2e-3]
    ):
        if moment.ends[0]:
            kept = weights_of(models[0]), moment.capture(), moment.step
    assert kept is not None
    weights, state, step = kept
    assert moment.step > step + PER_EPOCH
    for name, value in weights_of(models[0]).items():
        assert torch.equal(value, weights[name]), name
    last = moment.capture()
    own = [
        name for name in state.tensors if name.startswith("optimizer/") and not int(name.split("/")[1]) % 2
    ]
    assert len(own) > 20
    assert all(torch.equal(state.tensors[name], last.tensors[name]) for name in own)
    assert not all(torch.equal(state.tensors[name], last.tensors[name]) for name in state.tensors)


@pytest.mark.parametrize("stops", ["stage", "alias"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_continuing_ends_in_the_same_place(stops: Any, optimizer: Any) -> None:
    """Bit for bit, from states at the ends of epochs and within them, before and after a model has stopped."""
    tasks = [make_task(seed) for seed in (0, 1)]
    rate = RATES[optimizer]
    stage = dataclasses.replace(
        LONG, optimizer=optimizer, learning_rate=rate, stop_at_definition_loss=1.2, stops=stops, batch_size=4
    )
    rates = [rate, rate / 3]

    def models() -> "list[HookedTransformer]":
        return [make_model(task, seed) for seed, task in enumerate(tasks)]

    def said(moment: Moment) -> Any:
        return moment.step, moment.losses, moment.gradient_norms, moment.ends, moment.stopped, moment.trained

    whole = models()
    states, expected = {}, []
    for moment in train_stage(whole, tasks, stage, seeds=[0, 1], precision="float32", learning_rates=rates):
        states[moment.step] = moment.capture()
        expected.append(moment)
    first, last = sorted(next(m.step for m in expected if m.ends[k]) for k in (0, 1))
    assert 6 < first < last
    for step in {0, 4, 6, first - 1, first, first + 1, first + 3, last - 1}:
        continued = models()
        found = train(continued, tasks, stage, learning_rates=rates, state=states[step])
        after = [m for m in expected if m.step > step or step == 0]
        assert list(map(said, found)) == list(map(said, after))
        for one, other in zip(continued, whole, strict=True):
            for name, value in weights_of(one).items():
                assert torch.equal(value, weights_of(other)[name]), (step, name)


def test_continuing_without_what_has_stopped_would_be_noticed() -> None:
    task = make_task()
    stage = dataclasses.replace(LONG, stop_at_definition_loss=1.2, stops="alias")
    whole, continued = make_model(task), make_model(task)
    moments = train_stage([whole], [task], stage, seeds=[0], precision="float32")
    state = next(m.capture() for m in moments if 0.2 < m.stopped[0] < 0.9 and m.step % PER_EPOCH == 1)
    list(moments)
    forgotten = state.tensors | {"stopped": torch.zeros_like(state.tensors["stopped"])}
    train([continued], [task], stage, state=dataclasses.replace(state, tensors=forgotten))
    assert not torch.equal(whole.W_E, continued.W_E)


def test_a_model_that_diverges_stops_and_holds_nobody_up() -> None:
    tasks = [make_task(seed) for seed in (0, 1)]
    models = [make_model(task, seed) for seed, task in enumerate(tasks)]
    with torch.no_grad():
        models[1].blocks[0].mlp.W_in[0, 0] = math.nan
    moments = train(models, tasks, dataclasses.replace(LONG, stop_at_definition_loss=1.2))
    assert moments[PER_EPOCH].ends == (False, True)
    assert math.isnan(moments[PER_EPOCH].losses[1])
    assert PER_EPOCH < moments[-1].step < 60 * PER_EPOCH
    assert moments[-1].ends == (True, False)
    assert all(bool(value.isfinite().all()) for value in weights_of(models[0]).values())


def test_a_stage_whose_aliases_have_all_stopped_before_it_ends_at_once() -> None:
    task = make_task()
    model = make_model(task)
    before = weights_of(model)
    stage = dataclasses.replace(STAGE, stop_at_definition_loss=100.0, stops="alias")
    (moment,) = train([model], [task], stage)
    assert (moment.step, moment.ends, moment.stopped, moment.evaluate) == (0, (True,), (1.0,), True)
    assert all(torch.equal(value, before[name]) for name, value in weights_of(model).items())


@pytest.mark.parametrize(
    ("of_task", "of_stage", "message"),
    [
        (
            {"word_order": "EVT"},
            {},
            "there is no definition loss where the alias does not come before the entity",
        ),
        (
            {"fractions": dataclasses.replace(TASK.fractions, qd1=0.0, qd2=0.0, q_only=0.5)},
            {"data": (1,)},
            "the data of stage 1 have no definitions",
        ),
        (
            {"fractions": dataclasses.replace(TASK.fractions, d2=0.0, d3=0.3)},
            {"stops": "tag_2"},
            "stops is tag_2, and no definition of the stage has tag 2; give its subset a share in task.fractions",
        ),
        ({"tokens_per_alias": 2}, {"stops": "alias"}, "single aliases can stop only if each is one token"),
    ],
)
def test_definitions_without_a_loss_are_refused(
    of_task: dict[str, Any], of_stage: dict[str, Any], message: str
) -> None:
    task = make_task(**of_task)
    stage = dataclasses.replace(STAGE, stop_at_definition_loss=0.5, **of_stage)
    with pytest.raises(ValueError, match=message):
        check_stopping(task, stage)
    with pytest.raises(ValueError, match=message):
        train([make_model(task)], [task], stage)
    check_stopping(task, dataclasses.replace(stage, stop_at_definition_loss=0.0, stops="stage"))


def test_with_tag_2_only_its_definitions_stop() -> None:
    """Their losses stay near the value at which they stopped, and all epochs are trained, in which those of tag 1 go on falling."""
    task, stage = make_task(), dataclasses.replace(LONG, stop_at_definition_loss=1.2, stops="tag_2")
    model, alike = make_model(task), make_model(task)
    moments = train([model], [task], stage)
    train([alike], [task], dataclasses.replace(LONG, stop_at_definition_loss=0.0, stops="stage"))
    of_tag_2 = len(task.rows(kind="definition", stage=2, tag=2)) / len(task.rows(kind="definition", stage=2))
    assert moments[-1].stopped == (pytest.approx(of_tag_2),)
    assert moments[-1].step == moments[-1].total_steps
    tags = task.table["tag"].to_numpy()[task.rows(kind="definition", stage=2)]
    found, never = losses_of(model, task), losses_of(alike, task)
    assert found[tags == 2].mean() > 2 * never[tags == 2].mean()
    assert found[tags != 2].mean() < found[tags == 2].mean() / 2
