"""The training loop against loops written out plainly; continuing, freezing and schedules exactly."""

import copy
import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from small_stage import OPTIMIZERS, make_model, weights_of
from torch import Tensor

from toy_models import integer_set, lean
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.losses import token_losses
from toy_models.randomness import generator
from toy_models.stages import StageConfig, TrainingConfig, evaluation_steps, log_steps, schedule
from toy_models.subsets import Fractions
from toy_models.task import Task
from toy_models.trainer import TrainingState, gradient_norms
from toy_models.training import Moment, train_stage

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

TASK = IntegerSetConfig(
    aliases=12,
    integers=10,
    list_length=3,
    train_questions=6,
    test_questions=2,
    fractions=Fractions(qd1=0.25, qd2=0.25, q_entity=0.1, d1=0.2, d2=0.2, d3=0.0),
)
STAGE = StageConfig(
    data=(1,), epochs=3, batch_size=14, learning_rate=3e-3, evaluations=3, checkpoints=3, momentum=0.9
)
DECAYED: dict[str, Any] = {"weight_decay": 0.1, "gradient_clip": 0.5, "schedule": "cosine", "warmup": 0.2}

Weights = dict[str, Tensor]


def make_task(seed: int = 0, **changes: Any) -> Task:
    return integer_set.build(dataclasses.replace(TASK, **changes), seed=seed)


def train(
    model: "HookedTransformer",
    task: Task,
    stage: StageConfig,
    *,
    seed: int = 0,
    precision: Literal["float32", "bf16"] = "float32",
    state: TrainingState | None = None,
) -> list[Moment]:
    return list(train_stage([model], [task], stage, seeds=[seed], precision=precision, state=state))


def losses(moments: list[Moment]) -> list[tuple[int, float]]:
    return [(m.step, m.losses[0]) for m in moments if m.losses]


def token_loss(model: "HookedTransformer", tokens: Tensor, mask: Tensor, most: int | None = None) -> Tensor:
    """Of one model, as the loop calls it: the last position is only predicted."""
    read = mask[:, :-1]
    most = int(read.sum(1).max()) if most is None else most
    parameters, shape = lean.parameters_of([model]), lean.shape_of(model)
    return token_losses(parameters, shape, tokens[None], read[None], most=most)[0]


def assert_identical(a: Weights, b: Weights) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        assert torch.equal(value, b[name]), name


# ------------------------------------------------------------------------------------- the loop itself


def test_the_loss_falls_from_chance_and_the_moments_say_where_it_stands() -> None:
    task = make_task()
    model = make_model(task)
    moments = train(model, task, dataclasses.replace(STAGE, epochs=40, evaluations=4, checkpoints=4))
    per_epoch = math.ceil(len(task.training_rows((1,))) / STAGE.batch_size)
    total = 40 * per_epoch
    assert [m.step for m in moments] == list(range(total + 1))
    assert {m.total_steps for m in moments} == {total}
    assert [m.epoch for m in moments] == [step / per_epoch for step in range(total + 1)]
    assert {m.step for m in moments if m.evaluate} == {0} | evaluation_steps(total, 4)
    assert {m.step for m in moments if m.checkpoint} == log_steps(total, 4)
    for m in moments:
        assert len(m.losses) == len(m.gradient_norms) == (1 if m.step and m.evaluate else 0)
    found = [loss for _, loss in losses(moments)]
    assert found == sorted(found, reverse=True)
    assert found[0] < math.log(task.vocabulary.outputs)
    assert found[-1] < 0.75 * found[0]
    assert all(parameter.grad is None for parameter in model.parameters())


def plain_loop(
    model: "HookedTransformer", task: Task, stage: StageConfig, steps: int, *, seed: int
) -> list[float]:
    """The same training, without the lean forward pass or any of the loop's parts; losses per step."""
    from transformers.optimization import Adafactor

    trained = [p for p in model.parameters() if p.requires_grad]
    lr, decay = stage.learning_rate, stage.weight_decay
    optimizer: torch.optim.Optimizer
    if stage.optimizer == "adamw":
        betas = (stage.momentum, stage.beta2)
        optimizer = torch.optim.AdamW(trained, lr=lr, betas=betas, weight_decay=decay, foreach=False)
    elif stage.optimizer == "sgd":
        optimizer = torch.optim.SGD(
            trained, lr=lr, momentum=stage.momentum, weight_decay=decay, foreach=False
        )
    else:
        optimizer = Adafactor(
            trained, lr=lr, weight_decay=decay, scale_parameter=False, relative_step=False, beta1=None
        )
    table = task.table
    rows = [i for i, r in enumerate(table.itertuples()) if r.split == "train" and r.stage in stage.data]
    found: list[float] = []
    for epoch in range(stage.epochs):
        order = torch.randperm(len(rows), generator=generator(seed, "order", stage.data, epoch)).tolist()
        for start in range(0, len(rows), stage.batch_size):
            batch = [rows[i] for i in order[start : start + stage.batch_size]]
            tokens, mask = task.tokens[batch], task.loss_mask[batch]
            log_probabilities = model(tokens).log_softmax(-1)
            terms = [
                -log_probabilities[b, position, tokens[b, position + 1]]
                for b, position in mask.nonzero().tolist()
            ]
            loss = torch.stack(terms).mean()
            optimizer.zero_grad()
            loss.backward()
            if stage.gradient_clip:
                torch.nn.utils.clip_grad_norm_(trained, stage.gradient_clip, foreach=False)
            optimizer.step()
            found.append(loss.item())
            if len(found) == steps:
                return found
    raise AssertionError("fewer steps than asked for")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "regularised", [{}, {"weight_decay": 0.1, "gradient_clip": 0.05}], ids=["plain", "reg"]
)
@pytest.mark.parametrize("loss", ["every", "answers"])
def test_three_steps_equal_a_plain_loop(optimizer: Any, regularised: dict[str, Any], loss: str) -> None:
    """In float64: an optimiser that divides by a gradient's own size magnifies rounding, in float32 beyond any bound that
    would still find an error."""
    task = make_task(loss=loss)
    stage = dataclasses.replace(STAGE, optimizer=optimizer, **regularised)
    ours, theirs = (make_model(task).to(torch.float64, print_details=False) for _ in range(2))
    start = weights_of(ours)
    stage = dataclasses.replace(stage, evaluations=10_000)  # a loss at every step
    moments = train_stage([ours], [task], stage, seeds=[4], precision="float32")
    our_losses = [loss for _ in range(4) for loss in next(moments).losses]
    their_losses = plain_loop(theirs, task, stage, 3, seed=4)
    assert our_losses == pytest.approx(their_losses, abs=1e-10)
    for name, value in weights_of(theirs).items():
        assert value.dtype == torch.float64, name
        # where a gradient is zero but for rounding, normalising optimisers turn its sign into a step: keys'
        # biases move no softmax
        if not name.endswith("b_K"):
            torch.testing.assert_close(weights_of(ours)[name], value, atol=1e-10, rtol=0)
            assert not torch.equal(value, start[name]), name


def test_learned_positions_train_and_absent_ones_stay_zero() -> None:
    task = make_task()
    for positions in ("learned", "none"):
        model = make_model(task, positions=positions)
        before = weights_of(model)
        train(model, task, STAGE)
        moved = not torch.equal(model.pos_embed.W_pos, before["pos_embed.W_pos"])
        assert moved == (positions == "learned")


@pytest.mark.parametrize("loss", ["every", "every_but_aliases", "answers"])
@pytest.mark.parametrize("stages", [(1,), (2,), (1, 2)])
def test_token_loss_is_the_cross_entropy_of_the_full_logits(loss: str, stages: tuple[int, ...]) -> None:
    task = make_task(loss=loss)
    model = make_model(task)
    rows = torch.from_numpy(task.training_rows(stages))
    tokens, mask = task.tokens[rows], task.loss_mask[rows]
    ours = token_loss(model, tokens, mask)
    with torch.no_grad():
        logits = model(tokens)
    targets = tokens.roll(-1, 1).masked_fill(~mask, -100)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    torch.testing.assert_close(ours.detach(), expected, atol=1e-6, rtol=1e-6)
    one_less = mask.clone()
    one_less[0, int(mask[0].nonzero()[0])] = False
    assert token_loss(model, tokens, one_less, most=task.n_ctx).item() != ours.item()
    # what is unembedded beside the positions with loss has no weight
    unembedded = int(mask.sum(1).max()) + 1
    for most in (unembedded, task.n_ctx - 1):
        torch.testing.assert_close(token_loss(model, tokens, mask, most).detach(), expected)


def test_the_seed_decides_everything() -> None:
    task = make_task()
    models = [make_model(task) for _ in range(3)]
    for unrelated, (model, seed) in enumerate(zip(models, (0, 0, 1), strict=True)):
        torch.manual_seed(unrelated)
        before = torch.get_rng_state()
        train(model, task, STAGE, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
    first, again, other = map(weights_of, models)
    assert_identical(first, again)
    with pytest.raises(AssertionError):
        assert_identical(first, other)


def test_training_leaves_the_task_alone() -> None:
    task = make_task(fresh_questions=True)
    before = copy.deepcopy((task.tokens, task.roles, task.loss_mask, task.table))
    train(make_model(task), task, STAGE)
    assert torch.equal(task.tokens, before[0])
    assert torch.equal(task.roles, before[1])
    assert torch.equal(task.loss_mask, before[2])
    assert task.table.equals(before[3])


def test_fresh_questions_are_those_of_the_epoch() -> None:
    """One epoch per batch of everything: each loss is that of the epoch's own tokens."""
    task = make_task(fresh_questions=True)
    assert task.fresh is not None
    model = make_model(task)
    rows = torch.from_numpy(task.training_rows((1,)))
    stage = dataclasses.replace(STAGE, batch_size=1000, epochs=3, evaluations=3)
    moments = train_stage([model], [task], stage, seeds=[0], precision="float32")
    next(moments)
    for epoch in range(3):
        here, base = (
            token_loss(model, tokens[rows], task.loss_mask[rows]).item()
            for tokens in (task.fresh(epoch)[0], task.tokens)
        )
        assert next(moments).losses == pytest.approx((here,), abs=1e-5)
        assert abs(here - base) > 1e-4


# ------------------------------------------------------------------------------------------ continuing

CASES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "adamw": ({}, {}, DECAYED),
    "sgd": ({}, {}, {"optimizer": "sgd", "learning_rate": 0.1, **DECAYED}),
    "sgd without momentum": ({}, {}, {"optimizer": "sgd", "momentum": 0.0}),
    "adafactor": ({}, {}, {"optimizer": "adafactor", **DECAYED}),
    "tied": ({"loss": "every_but_aliases"}, {"tied_embeddings": True}, {}),
    "tied adafactor": ({}, {"tied_embeddings": True, "positions": "none"}, {"optimizer": "adafactor"}),
    "fresh questions": ({"fresh_questions": True, "label_flip": 0.2}, {}, {}),
    "alias embeddings": ({}, {}, {"trains": "alias_embeddings", "optimizer": "sgd", "learning_rate": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("n_models", "stop"), [(1, 0), (1, 3), (1, 4), (3, 0), (3, 2)])
def test_continuing_ends_in_the_same_place(case: str, n_models: int, stop: int) -> None:
    """Bit for bit, from the beginning, within an epoch and at its end, and as often as one likes."""
    of_task, of_model, of_stage = CASES[case]
    tasks = [make_task(seed, **of_task) for seed in range(n_models)]
    stage = dataclasses.replace(STAGE, **of_stage)
    assert math.ceil(len(tasks[0].training_rows(stage.data)) / stage.batch_size) == 4

    captured: TrainingState | None = None

    def moments_of(models: "list[HookedTransformer]", state: TrainingState | None) -> list[Moment]:
        nonlocal captured
        found = []
        # several learning rates where there are several models
        rates = [stage.learning_rate * share for share in (1.0, 0.5, 1.5)[:n_models]]
        for moment in train_stage(
            models, tasks, stage, seeds=range(2, 2 + n_models), precision="float32",
            learning_rates=rates, state=state,
        ):  # fmt: skip
            found.append(moment)
            if state is None and moment.step == stop:
                captured = moment.capture()
        return found

    def evaluations_of(moments: list[Moment]) -> list[tuple[int, tuple[float, ...], tuple[float, ...]]]:
        return [(m.step, m.losses, m.gradient_norms) for m in moments if m.step > stop and m.evaluate]

    whole = [make_model(task, seed, **of_model) for seed, task in enumerate(tasks)]
    starts = [weights_of(model) for model in whole]
    expected = evaluations_of(moments_of(whole, None))
    assert captured is not None
    assert all(len(numbers) == n_models for _, *both in expected for numbers in both)
    for model, start in zip(whole, starts, strict=True):
        with pytest.raises(AssertionError):
            assert_identical(weights_of(model), start)
    for other_start in (7, 8):
        continued = [make_model(task, other_start, **of_model) for task in tasks]
        moments = moments_of(continued, captured)
        assert moments[0].step == (stop + 1 if stop else 0)
        for one, other in zip(continued, whole, strict=True):
            assert_identical(weights_of(one), weights_of(other))
        assert evaluations_of(moments) == expected


def test_continuing_without_the_optimisers_state_would_be_noticed() -> None:
    task = make_task()
    whole, continued = make_model(task), make_model(task)
    moments = train_stage([whole], [task], STAGE, seeds=[2], precision="float32")
    state = next(m.capture() for m in moments if m.step == 3)
    list(moments)
    tensors = {k: torch.zeros_like(v) if "exp_avg" in k else v for k, v in state.tensors.items()}
    train(continued, task, STAGE, seed=2, state=dataclasses.replace(state, tensors=tensors))
    with pytest.raises(AssertionError):
        assert_identical(weights_of(whole), weights_of(continued))


def test_a_captured_state_is_a_copy() -> None:
    task = make_task()
    moments = train_stage([make_model(task)], [task], STAGE, seeds=[2], precision="float32")
    state = next(m.capture() for m in moments if m.step == 3)
    kept = copy.deepcopy(state)
    list(moments)
    train(make_model(task), task, STAGE, seed=2, state=state)
    assert_identical(state.tensors, kept.tensors)
    assert (state.step, state.scalars) == (kept.step, kept.scalars)


# ------------------------------------------------------------------------------ what is trained, and how


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name_length", [1, 2])
def test_alias_embeddings_move_and_nothing_else(optimizer: Any, name_length: int) -> None:
    task = make_task(tokens_per_alias=name_length, alphabet=6)
    model = make_model(task)
    before = weights_of(model)
    stage = dataclasses.replace(
        STAGE, data=(1, 2), trains="alias_embeddings", optimizer=optimizer, gradient_clip=0.1
    )
    train(model, task, stage)
    after = weights_of(model)
    first_name = task.vocabulary.integers[1]
    moved = (after["embed.W_E"] != before["embed.W_E"]).any(1)
    assert not moved[:first_name].any()
    trained = task.tokens[torch.from_numpy(task.training_rows((1, 2)))]
    in_training = torch.zeros(len(task.vocabulary), dtype=torch.bool)
    in_training[trained[trained >= first_name]] = True
    assert torch.equal(moved, in_training)
    del before["embed.W_E"], after["embed.W_E"]
    assert_identical(before, after)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_alias_embeddings_of_a_stage_leave_the_other_stages_rows() -> None:
    task = make_task()
    model = make_model(task)
    before = weights_of(model)["embed.W_E"]
    train(model, task, dataclasses.replace(STAGE, data=(2,), trains="alias_embeddings"))
    moved = set((model.W_E.detach() != before).any(1).nonzero().flatten().tolist())
    first_name = task.vocabulary.integers[1]
    in_stage = task.table["alias"][task.training_rows((2,))]
    assert moved == {first_name + alias for alias in in_stage}


def test_tied_embeddings_stay_tied_and_get_both_gradients() -> None:
    """One plain SGD step: the embedding moves by minus the rate times the sum of the two gradients."""
    task = make_task()
    model = make_model(task, tied_embeddings=True)
    twin = make_model(task, tied_embeddings=True)
    rows = torch.from_numpy(task.training_rows((1,)))
    stage = dataclasses.replace(
        STAGE, optimizer="sgd", momentum=0.0, learning_rate=0.5, batch_size=1000, epochs=2
    )
    tokens, mask = task.tokens[rows], task.loss_mask[rows]
    twin.unembed.W_U.requires_grad_(True)
    moments = train_stage([model], [task], stage, seeds=[0], precision="float32")
    next(moments)
    for _ in range(2):  # twice, so that the second step's gradient goes through the moved tie
        next(moments)
        logits = twin(tokens)[:, :-1]
        loss = F.cross_entropy(logits[mask[:, :-1]], tokens[:, 1:][mask[:, :-1]])
        names = [n for n, _ in twin.named_parameters()]
        gradients = dict(zip(names, torch.autograd.grad(loss, list(twin.parameters())), strict=True))
        both = gradients["embed.W_E"] + gradients.pop("unembed.W_U").T
        assert both.sub(gradients["embed.W_E"]).abs().max() > 1e-3
        gradients["embed.W_E"] = both
        with torch.no_grad():
            for name, gradient in gradients.items():
                twin.get_parameter(name).sub_(0.5 * gradient)
            twin.unembed.W_U.copy_(twin.embed.W_E.T)
        assert torch.equal(model.W_U, model.W_E.T)
        torch.testing.assert_close(model.W_E, twin.W_E, atol=1e-5, rtol=0)
        torch.testing.assert_close(model.blocks[0].mlp.W_in, twin.blocks[0].mlp.W_in, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "value", "smaller"),
    [("weight_decay", 1.0, True), ("gradient_clip", 1e-3, True), ("gradient_clip", 1e9, None)],
)
def test_decay_and_clipping_shrink_the_weights_and_the_way(
    name: str, value: float, smaller: bool | None
) -> None:
    task = make_task()
    plain, changed = make_model(task), make_model(task)
    start = weights_of(plain)
    stage = dataclasses.replace(STAGE, optimizer="sgd", learning_rate=0.1, epochs=10)
    train(plain, task, stage)
    train(changed, task, dataclasses.replace(stage, **{name: value}))

    def size(model: "HookedTransformer") -> float:
        origin = start["embed.W_E"] if name == "gradient_clip" else 0.0
        return (model.W_E.detach() - origin).norm().item()

    if smaller:
        assert size(changed) < 0.5 * size(plain)
    else:
        assert_identical(weights_of(changed), weights_of(plain))


def test_a_clipped_step_has_the_clips_length() -> None:
    """One step of plain SGD at rate 1 moves all parameters together by the largest norm allowed."""
    task = make_task()
    model = make_model(task)
    start = weights_of(model)
    stage = dataclasses.replace(
        STAGE, optimizer="sgd", momentum=0.0, learning_rate=1.0, batch_size=1000, epochs=1, gradient_clip=0.01
    )
    train(model, task, stage)
    moved = torch.cat([(v - start[k]).flatten() for k, v in weights_of(model).items()])
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-2)


def test_the_schedule_sets_the_steps() -> None:
    """Plain SGD on the same batch each time: the way of a step is the schedule times the gradient."""
    task = make_task()
    model = make_model(task)
    stage = dataclasses.replace(
        STAGE,
        optimizer="sgd", momentum=0.0, learning_rate=1e-3, batch_size=1000, epochs=4, gradient_clip=1e-3,
        schedule="linear", warmup=0.5,
    )  # fmt: skip
    way = []
    last = weights_of(model)
    for moment in train_stage([model], [task], stage, seeds=[0], precision="float32"):
        now = weights_of(model)
        if moment.step:
            delta = torch.cat([(now[k].double() - last[k].double()).flatten() for k in now])
            way.append(delta.norm().item() / 1e-6)  # clipped to 1e-3, times the rate 1e-3
        last = now
    assert way == pytest.approx([0.5, 1.0, 1.0, 0.5], rel=0.05)


def test_a_huge_learning_rate_diverges() -> None:
    task = make_task()
    stage = dataclasses.replace(STAGE, optimizer="sgd", learning_rate=1e20)
    found = losses(train(make_model(task), task, stage))
    assert [step for step, _ in found] == [4, 8, 12]
    assert not any(math.isfinite(loss) for _, loss in found)


def test_bf16_runs_and_stays_close() -> None:
    task = make_task()
    stage = dataclasses.replace(STAGE, epochs=10)
    exact, rounded = make_model(task), make_model(task)
    a, b = train(exact, task, stage), train(rounded, task, stage, precision="bf16")
    with pytest.raises(AssertionError):
        assert_identical(weights_of(exact), weights_of(rounded))  # it did something
    assert all(value.dtype == torch.float32 for value in weights_of(rounded).values())
    assert [loss for _, loss in losses(b)] == pytest.approx([loss for _, loss in losses(a)], rel=0.02)


# --------------------------------------------------------------------------------------- several at once


def train_together(
    models: "Sequence[HookedTransformer]",
    tasks: Sequence[Task],
    stage: StageConfig,
    *,
    steps: int,
    seeds: Sequence[int] = (5, 6, 7),
    learning_rates: Sequence[float] | None = None,
) -> list[Moment]:
    moments = train_stage(
        models, tasks, stage, seeds=seeds[: len(models)], precision="float32", learning_rates=learning_rates
    )
    return list(itertools.islice(moments, steps + 1))


def assert_close_weights(model: "HookedTransformer", other: "HookedTransformer", *, atol: float) -> None:
    """But for keys' biases, whose gradient may be zero but for rounding: see the plain loop's test."""
    ours, theirs = weights_of(model), weights_of(other)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if not name.endswith("b_K"):
            assert torch.allclose(value, theirs[name], atol=atol, rtol=0), name


def assert_ordinary(model: "HookedTransformer", twin: "HookedTransformer", tokens: Tensor) -> None:
    """The hooked forward pass reads the trained weights, and the model's tensors are those of its twin."""
    parameters = lean.parameters_of([model])
    with torch.no_grad():
        x = lean.residual(parameters, tokens[None], lean.shape_of(model))
        ours = lean.logits(parameters, x.flatten(1, 2)).view(len(tokens), tokens.shape[1], -1)
        torch.testing.assert_close(ours, model(tokens), atol=1e-5, rtol=1e-5)
        assert (ours - twin(tokens)).abs().max() > 1e-2
    for (name, one), (other_name, other) in zip(
        model.named_parameters(), twin.named_parameters(), strict=True
    ):
        assert name == other_name
        assert isinstance(one, torch.nn.Parameter)
        assert (one.shape, one.dtype, one.requires_grad) == (other.shape, other.dtype, other.requires_grad)
        assert one.is_contiguous()
        assert one.grad is None


TOGETHER: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "clipped": ({}, {}, {"weight_decay": 0.1, "gradient_clip": 0.05}),
    "tied": ({}, {"tied_embeddings": True}, {}),
    "tied, clipped, scheduled": ({}, {"tied_embeddings": True, "positions": "none"}, DECAYED),
    "fresh questions": ({"fresh_questions": True, "label_flip": 0.2, "loss": "answers"}, {}, {}),
    "alias embeddings": ({}, {}, {"trains": "alias_embeddings", "data": (1, 2), "gradient_clip": 0.05}),
}


# Adafactor, which divides by small gradients' size, makes more of the last bit: one of 2⁻²⁴ in the first
# weights becomes 2e-5 in 5 steps and 2e-3 in 50
LONG = [("adamw", 50, 1e-5), ("sgd", 50, 1e-5), ("adafactor", 5, 1e-4), ("adafactor", 50, 5e-3)]


@pytest.mark.parametrize("case", TOGETHER)
@pytest.mark.parametrize(("optimizer", "steps", "atol"), LONG)
def test_together_models_become_what_each_becomes_alone(
    case: str, optimizer: Any, steps: int, atol: float
) -> None:
    """Each with its own task, weights and order of examples; losses and gradients after every step."""
    of_task, of_model, of_stage = TOGETHER[case]
    tasks = [make_task(seed, **of_task) for seed in (0, 1)]
    rate = 0.05 if optimizer == "sgd" else STAGE.learning_rate
    stage = dataclasses.replace(
        STAGE, epochs=13, evaluations=10_000, optimizer=optimizer, learning_rate=rate, **of_stage
    )
    stacked, alone, untrained = (
        [make_model(task, seed, **of_model) for seed, task in enumerate(tasks)] for _ in range(3)
    )
    together = train_together(stacked, tasks, stage, steps=steps)
    assert together[-1].step == steps
    for k, task in enumerate(tasks):
        single = train_together([alone[k]], [task], stage, steps=steps, seeds=[5 + k])
        for one, other in zip(single[1:], together[1:], strict=True):
            assert other.losses[k] == pytest.approx(one.losses[0], abs=atol)
            assert other.gradient_norms[k] == pytest.approx(one.gradient_norms[0], abs=10 * atol)
        assert_close_weights(stacked[k], alone[k], atol=atol)
        assert_ordinary(stacked[k], untrained[k], task.tokens)


@pytest.mark.parametrize("different", ["order", "task", "weights", "steps"])
@pytest.mark.parametrize(("optimizer", "steps", "atol"), LONG)
def test_the_comparison_notices_what_else_was_trained(
    optimizer: Any, steps: int, atol: float, different: str
) -> None:
    tasks = [make_task(seed) for seed in (0, 1)]
    rate = 0.05 if optimizer == "sgd" else STAGE.learning_rate
    stage = dataclasses.replace(STAGE, epochs=13, optimizer=optimizer, learning_rate=rate)
    stacked = [make_model(task, seed) for seed, task in enumerate(tasks)]
    train_together(stacked, tasks, stage, steps=steps)
    alone = make_model(tasks[1], 3 if different == "weights" else 1)
    task = make_task(3) if different == "task" else tasks[1]
    seed = 8 if different == "order" else 6
    train_together([alone], [task], stage, steps=steps - (different == "steps"), seeds=[seed])
    with pytest.raises(AssertionError):
        assert_close_weights(stacked[1], alone, atol=atol)


@pytest.mark.parametrize(("optimizer", "steps", "atol"), LONG)
def test_each_model_has_its_own_learning_rate(optimizer: Any, steps: int, atol: float) -> None:
    tasks = [make_task(seed) for seed in (0, 1)]
    rates = (0.05, 0.2) if optimizer == "sgd" else (3e-3, 5e-4)
    stage = dataclasses.replace(STAGE, epochs=13, optimizer=optimizer, learning_rate=1e-2, **DECAYED)
    stacked, alone, swapped = ([make_model(task, seed) for seed, task in enumerate(tasks)] for _ in range(3))
    train_together(stacked, tasks, stage, steps=steps, learning_rates=rates)
    for k, task in enumerate(tasks):
        for model, rate in ((alone[k], rates[k]), (swapped[k], rates[1 - k])):
            its_own = dataclasses.replace(stage, learning_rate=rate)
            train_together([model], [task], its_own, steps=steps, seeds=[5 + k])
        assert_close_weights(stacked[k], alone[k], atol=atol)
        with pytest.raises(AssertionError):
            assert_close_weights(stacked[k], swapped[k], atol=atol)


def test_the_stages_own_learning_rate_changes_nothing() -> None:
    task = make_task()
    plain, named = make_model(task), make_model(task)
    train_together([plain], [task], STAGE, steps=12)
    train_together([named], [task], STAGE, steps=12, learning_rates=[STAGE.learning_rate])
    assert_identical(weights_of(plain), weights_of(named))


@pytest.mark.parametrize("how", ["nan", "rate"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_model_that_diverges_leaves_the_others_alone(optimizer: Any, how: str) -> None:
    """They become what they become beside a healthy one, and without it.

    Bit for bit beside a healthy one, unless the rates differ: steps are rounded at the highest.
    """
    tasks = [make_task(seed) for seed in (0, 1, 2)]
    stage = dataclasses.replace(STAGE, optimizer=optimizer, gradient_clip=0.5 if how == "nan" else 0.0)
    sick, healthy, without = ([make_model(task, seed) for seed, task in enumerate(tasks)] for _ in range(3))
    rate = stage.learning_rate
    if how == "nan":
        with torch.no_grad():
            sick[1].blocks[0].mlp.W_in[0, 0] = math.nan
    huge = 1e30 if how == "rate" else rate
    moments = train_together(sick, tasks, stage, steps=12, learning_rates=(rate, huge, 2 * rate))
    beside = train_together(healthy, tasks, stage, steps=12, learning_rates=(rate, rate / 2, 2 * rate))
    evaluated = [(a, b) for a, b in zip(moments, beside, strict=True) if a.losses]
    assert len(evaluated) == stage.evaluations
    for bad, good in evaluated:
        assert [math.isfinite(loss) for loss in bad.losses] == [True, False, True]
        assert all(map(math.isfinite, good.losses))
        within = 0.0 if how == "nan" else 1e-3
        assert bad.losses[::2] == pytest.approx(good.losses[::2], rel=within, abs=0)
        assert bad.gradient_norms[::2] == pytest.approx(good.gradient_norms[::2], rel=within, abs=0)
    train_together(without[::2], tasks[::2], stage, steps=12, seeds=[5, 7], learning_rates=(rate, 2 * rate))
    for k in (0, 2):
        if how == "nan":
            assert_identical(weights_of(sick[k]), weights_of(healthy[k]))
        for other in (healthy[k], without[k]):
            assert_close_weights(sick[k], other, atol=1e-3 if optimizer == "adafactor" else 1e-5)
    assert not all(bool(value.isfinite().all()) for value in weights_of(sick[1]).values())


def test_gradient_norms_are_those_of_each_model() -> None:
    draws = torch.Generator().manual_seed(0)
    gradients = [torch.randn(3, *shape, generator=draws) for shape in ((4,), (2, 5), (2, 3, 2))]
    gradients[1] = gradients[1].mT  # as the loop's are, not always contiguous
    expected = torch.stack([torch.nn.utils.get_total_norm([g[k] for g in gradients]) for k in range(3)])
    torch.testing.assert_close(gradient_norms(gradients), expected)
    by_hand = [torch.tensor([[3.0], [0.0]]), torch.tensor([[[0.0, 4.0]], [[1.0, 0.0]]])]
    assert gradient_norms(by_hand).tolist() == [5.0, 1.0]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("clip", [0.0, 1e-3])
def test_the_moments_gradient_norms_are_the_plain_gradients(tied: bool, clip: float) -> None:
    """Whole batches, so the gradient before each step is the hooked model's own on all examples."""
    tasks = [make_task(seed) for seed in (0, 1)]
    models = [make_model(task, seed, tied_embeddings=tied) for seed, task in enumerate(tasks)]
    stage = dataclasses.replace(STAGE, batch_size=1000, evaluations=3, gradient_clip=clip)
    moments = train_stage(models, tasks, stage, seeds=[5, 6], precision="float32")
    next(moments)
    for _ in range(3):
        expected = []
        for model, task in zip(models, tasks, strict=True):
            rows = torch.from_numpy(task.training_rows(stage.data))
            tokens, mask = task.tokens[rows], task.loss_mask[rows]
            plain = make_model(task, tied_embeddings=tied)
            plain.load_state_dict(model.state_dict())
            for parameter in plain.parameters():
                parameter.requires_grad_(True)
            logits = plain(tokens)[:, :-1]
            loss = F.cross_entropy(logits[mask[:, :-1]], tokens[:, 1:][mask[:, :-1]])
            names = [name for name, _ in plain.named_parameters()]
            of_each = torch.autograd.grad(loss, list(plain.parameters()))
            gradients = dict(zip(names, of_each, strict=True))
            if tied:
                gradients["embed.W_E"][: plain.cfg.d_vocab_out] += gradients.pop("unembed.W_U").T
            expected.append(torch.cat([g.flatten() for g in gradients.values()]).norm().item())
        assert min(expected) > 10 * clip
        assert expected[0] != pytest.approx(expected[1], rel=1e-3)
        assert next(moments).gradient_norms == pytest.approx(expected, rel=1e-4)


# --------------------------------------------------------------------------------- schedules and steps


@pytest.mark.parametrize(
    ("name", "warmup", "expected"),
    [
        ("constant", 0.0, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("constant", 0.5, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]),
        ("linear", 0.0, [1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("linear", 0.5, [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]),
        ("cosine", 0.5, [0.25, 0.5, 0.75, 1, 1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]),
    ],
)
def test_schedules_by_hand(name: Any, warmup: float, expected: list[float]) -> None:
    """Eight steps; cos 45° is √½, so the cosine's quarters are ½ ± ½·√½."""
    stage = dataclasses.replace(STAGE, schedule=name, warmup=warmup)
    assert [schedule(stage, step, 8) for step in range(8)] == pytest.approx(expected)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(total=st.integers(1, 5000), count=st.integers(1, 60))
def test_evaluations_are_even_and_checkpoints_logarithmic(total: int, count: int) -> None:
    even, logarithmic = sorted(evaluation_steps(total, count)), sorted(log_steps(total, count))
    for steps in (even, logarithmic):
        assert steps[-1] == total
        assert steps[0] >= 1
    assert len(even) == min(total, count)
    assert all(
        abs(step - round(total * (i + 1) / count)) <= 1 for i, step in enumerate(even) if count <= total
    )
    assert len(logarithmic) <= count
    if count > 1:
        assert logarithmic[0] == 1
    if count > 2:
        ratio = total ** (1 / (count - 1))
        assert all(b <= (a + 0.5) * ratio + 0.5 for a, b in itertools.pairwise(logarithmic))


def test_steps_by_hand() -> None:
    assert evaluation_steps(10, 4) == {2, 5, 8, 10}  # 2.5 and 7.5, rounded to even
    assert evaluation_steps(3, 10) == {1, 2, 3}
    assert log_steps(100, 3) == {1, 10, 100}
    assert log_steps(1, 6) == {1}
    assert log_steps(7, 1) == {7}


# -------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, r"data is \[\]; name stage 1, stage 2 or both, once each"),
        ({"data": (1, 1)}, r"data is \[1, 1\]; name stage 1, stage 2 or both, once each"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"evaluations": 0}, "evaluations is 0; it must be at least 1"),
        ({"checkpoints": -1}, "checkpoints is -1; it must be at least 1"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0; it must be above 0"),
        ({"learning_rate": math.nan}, "learning_rate is nan; it must be above 0"),
        ({"momentum": 1.0}, r"momentum is 1\.0; it must be at least 0 and below 1"),
        ({"beta2": -0.1}, r"beta2 is -0\.1; it must be at least 0 and below 1"),
        ({"warmup": 1.0}, r"warmup is 1\.0; it must be at least 0 and below 1"),
        ({"weight_decay": -0.1}, "weight_decay and gradient_clip must not be negative"),
        ({"gradient_clip": -1.0}, "weight_decay and gradient_clip must not be negative"),
        ({"stop_at_definition_loss": -0.5}, r"stop_at_definition_loss is -0\.5; give nats above 0, or 0"),
        ({"stop_at_definition_loss": math.nan}, "stop_at_definition_loss is nan"),
        ({"stops": "alias"}, "stops is alias, but nothing stops; set stop_at_definition_loss above 0"),
    ],
)
def test_stages_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STAGE, **changes)


def test_training_needs_a_stage() -> None:
    with pytest.raises(ValueError, match=r"training\.stages is empty; give at least one stage"):
        TrainingConfig(stages=())
    assert TrainingConfig(stages=(STAGE,)).precision == "float32"


def test_a_stage_without_data_is_refused() -> None:
    task = make_task(fractions=Fractions(qd1=0.5, qd2=0.5, d1=0.0, d2=0.0, d3=0.0))
    with pytest.raises(ValueError, match=r"the task has no training examples of stage \[2\]"):
        train(make_model(task), task, dataclasses.replace(STAGE, data=(2,)))


@pytest.mark.parametrize(
    ("n_tasks", "seeds", "rates"),
    [(2, [0], None), (2, [0, 1, 2], None), (1, [0, 1], None), (2, [0, 1], [1e-3])],
)
def test_every_model_needs_its_own_task_seed_and_rate(
    n_tasks: int, seeds: list[int], rates: list[float] | None
) -> None:
    """One for all would be taken silently: tensors broadcast."""
    tasks = [make_task(seed) for seed in (0, 1)]
    models = [make_model(task) for task in tasks]
    moments = train_stage(
        models, tasks[:n_tasks], STAGE, seeds=seeds, precision="float32", learning_rates=rates
    )
    with pytest.raises(ValueError, match="2 models need as many tasks, seeds and, if any, learning rates"):
        next(moments)


def test_tasks_of_different_sizes_are_refused() -> None:
    tasks = [make_task(), make_task(train_questions=8)]
    models = [make_model(task) for task in tasks]
    before = [weights_of(model) for model in models]
    sizes = [len(task.training_rows(STAGE.data)) for task in tasks]
    message = rf"tasks of \[{sizes[0]}, {sizes[1]}\] examples cannot be trained on together"
    with pytest.raises(ValueError, match=message):
        next(train_stage(models, tasks, STAGE, seeds=[0, 1], precision="float32"))
    for model, weights in zip(models, before, strict=True):
        assert_identical(weights_of(model), weights)


def test_a_shape_that_lean_does_not_cover_is_refused_before_training() -> None:
    task = make_task()
    model = make_model(task)
    model.blocks[0].mlp.act_fn = torch.tanh
    before = weights_of(model)
    with pytest.raises(ValueError, match=r"blocks\.0\.hook_mlp_out|blocks\.0\.hook_resid_post|the logits"):
        train(model, task, STAGE)
    assert_identical(before, weights_of(model))
