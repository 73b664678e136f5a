"""The training loop against loops written out plainly; continuing, freezing and schedules exactly."""

import copy
import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toy_models import architectures, integer_set, lean
from toy_models.architectures import Architecture
from toy_models.integer_set import IntegerSetConfig
from toy_models.randomness import generator
from toy_models.subsets import Fractions
from toy_models.task import Task
from toy_models.training import (
    Diverged,
    Moment,
    StageConfig,
    TrainingConfig,
    TrainingState,
    evaluation_steps,
    log_steps,
    schedule,
    token_loss,
    train_stage,
)

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
SHAPE = Architecture(n_layers=1, d_model=16, n_heads=2, d_mlp=24, rotary_fraction=0.5, init_std=0.1)
STAGE = StageConfig(
    data=(1,), epochs=3, batch_size=14, learning_rate=3e-3, evaluations=3, checkpoints=3, momentum=0.9
)
OPTIMIZERS = ("adamw", "sgd", "adafactor")
DECAYED = {"weight_decay": 0.1, "gradient_clip": 0.5, "schedule": "cosine", "warmup": 0.2}

Weights = dict[str, Tensor]


def make_task(**changes: Any) -> Task:
    return integer_set.build(dataclasses.replace(TASK, **changes), seed=0)


def make_model(task: Task, seed: int = 0, **changes: Any) -> "HookedTransformer":
    return architectures.build(
        dataclasses.replace(SHAPE, **changes),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=seed,
    )


def weights_of(model: "HookedTransformer") -> Weights:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def train(
    model: "HookedTransformer",
    task: Task,
    stage: StageConfig,
    *,
    seed: int = 0,
    precision: Literal["float32", "bf16"] = "float32",
    state: TrainingState | None = None,
) -> list[Moment]:
    return list(train_stage(model, task, stage, seed=seed, precision=precision, state=state))


def losses(moments: list[Moment]) -> list[tuple[int, float]]:
    return [(m.step, m.loss) for m in moments if not math.isnan(m.loss)]


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
    assert [math.isnan(m.loss) for m in moments] == [m.step == 0 or not m.evaluate for m in moments]
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
                norm = (
                    torch.stack([p.grad.square().sum() for p in trained if p.grad is not None]).sum().sqrt()
                )
                for p in trained:
                    if p.grad is not None and norm > stage.gradient_clip:
                        p.grad *= stage.gradient_clip / norm
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
    task = make_task(loss=loss)
    stage = dataclasses.replace(STAGE, optimizer=optimizer, **regularised)
    ours, theirs = make_model(task), make_model(task)
    start = weights_of(ours)
    stage = dataclasses.replace(stage, evaluations=10_000)  # a loss at every step
    moments = train_stage(ours, task, stage, seed=4, precision="float32")
    our_losses = [next(moments).loss for _ in range(4)][1:]
    their_losses = plain_loop(theirs, task, stage, 3, seed=4)
    assert our_losses == pytest.approx(their_losses, abs=1e-5)
    for name, value in weights_of(theirs).items():
        # where a gradient is zero but for rounding, normalising optimisers turn its sign into a step: keys'
        # biases move no softmax
        if not name.endswith("b_K"):
            torch.testing.assert_close(weights_of(ours)[name], value, atol=1e-5, rtol=0)
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
    ours = token_loss(lean.parameters_of(model), lean.shape_of(model), tokens, mask)
    with torch.no_grad():
        logits = model(tokens)
    targets = tokens.roll(-1, 1).masked_fill(~mask, -100)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    torch.testing.assert_close(ours.detach(), expected, atol=1e-6, rtol=1e-6)
    one_less = mask.clone()
    one_less[0, int(mask[0].nonzero()[0])] = False
    shifted = token_loss(lean.parameters_of(model), lean.shape_of(model), tokens, one_less)
    assert shifted.item() != ours.item()


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
    moments = train_stage(model, task, stage, seed=0, precision="float32")
    next(moments)
    for epoch in range(3):
        parameters = {k: v.detach().clone() for k, v in lean.parameters_of(model).items()}
        here, base = (
            token_loss(parameters, lean.shape_of(model), tokens[rows], task.loss_mask[rows]).item()
            for tokens in (task.fresh(epoch), task.tokens)
        )
        assert next(moments).loss == pytest.approx(here, abs=1e-5)
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
@pytest.mark.parametrize("stop", [0, 3, 4])
def test_continuing_ends_in_the_same_place(case: str, stop: int) -> None:
    """Bit for bit, from the beginning, within an epoch and at its end, and as often as one likes."""
    of_task, of_model, of_stage = CASES[case]
    task = make_task(**of_task)
    stage = dataclasses.replace(STAGE, **of_stage)
    assert math.ceil(len(task.training_rows(stage.data)) / stage.batch_size) == 4
    whole = make_model(task, **of_model)
    start = weights_of(whole)
    state = None
    all_losses = []
    for moment in train_stage(whole, task, stage, seed=2, precision="float32"):
        if moment.step == stop:
            state = moment.capture()
        if moment.step > stop and moment.evaluate:
            all_losses.append((moment.step, moment.loss))
    assert state is not None
    with pytest.raises(AssertionError):
        assert_identical(weights_of(whole), start)
    for other_start in (7, 8):
        continued = make_model(task, seed=other_start, **of_model)
        moments = train(continued, task, stage, seed=2, state=state)
        assert moments[0].step == (stop + 1 if stop else 0)
        assert_identical(weights_of(continued), weights_of(whole))
        assert losses(moments) == all_losses


def test_continuing_without_the_optimisers_state_would_be_noticed() -> None:
    task = make_task()
    whole, continued = make_model(task), make_model(task)
    moments = train_stage(whole, task, STAGE, seed=2, precision="float32")
    state = next(m.capture() for m in moments if m.step == 3)
    list(moments)
    tensors = {k: torch.zeros_like(v) if "exp_avg" in k else v for k, v in state.tensors.items()}
    train(continued, task, STAGE, seed=2, state=dataclasses.replace(state, tensors=tensors))
    with pytest.raises(AssertionError):
        assert_identical(weights_of(whole), weights_of(continued))


def test_a_captured_state_is_a_copy() -> None:
    task = make_task()
    moments = train_stage(make_model(task), task, STAGE, seed=2, precision="float32")
    state = next(m.capture() for m in moments if m.step == 3)
    kept = copy.deepcopy(state)
    list(moments)
    train(make_model(task), task, STAGE, seed=2, state=state)
    assert_identical(state.tensors, kept.tensors)
    assert (state.step, state.loss_sum, state.loss_count) == (kept.step, kept.loss_sum, kept.loss_count)


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
    moments = train_stage(model, task, stage, seed=0, precision="float32")
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
    for moment in train_stage(model, task, stage, seed=0, precision="float32"):
        now = weights_of(model)
        if moment.step:
            delta = torch.cat([(now[k].double() - last[k].double()).flatten() for k in now])
            way.append(delta.norm().item() / 1e-6)  # clipped to 1e-3, times the rate 1e-3
        last = now
    assert way == pytest.approx([0.5, 1.0, 1.0, 0.5], rel=0.05)


def test_a_huge_learning_rate_diverges() -> None:
    task = make_task()
    stage = dataclasses.replace(STAGE, optimizer="sgd", learning_rate=1e20)
    with pytest.raises(Diverged, match=r"the training loss is (nan|inf) at step 4 of 12"):
        train(make_model(task), task, stage)


def test_bf16_runs_and_stays_close() -> None:
    task = make_task()
    stage = dataclasses.replace(STAGE, epochs=10)
    exact, rounded = make_model(task), make_model(task)
    a, b = train(exact, task, stage), train(rounded, task, stage, precision="bf16")
    with pytest.raises(AssertionError):
        assert_identical(weights_of(exact), weights_of(rounded))  # it did something
    assert all(value.dtype == torch.float32 for value in weights_of(rounded).values())
    assert [loss for _, loss in losses(b)] == pytest.approx([loss for _, loss in losses(a)], rel=0.02)


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
        (
            {"trains": "alias_embeddings", "weight_decay": 0.1},
            "weight_decay would move the frozen embeddings",
        ),
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


def test_a_shape_that_lean_does_not_cover_is_refused_before_training() -> None:
    task = make_task()
    model = make_model(task)
    model.cfg.normalization_type = "RMS"
    before = weights_of(model)
    with pytest.raises(ValueError, match="the lean forward pass covers"):
        train(model, task, STAGE)
    assert_identical(before, weights_of(model))
