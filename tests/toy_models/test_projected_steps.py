"""Steps of tag-2 aliases in a subspace: against a loop over the aliases, and against the whole step."""

import dataclasses
from typing import Any

import pytest
import torch
from small_stage import OPTIMIZERS, STAGE, alias_tokens, make_model, make_task, weights_of
from torch import Tensor

from toy_models import lean
from toy_models.frozen import EMBEDDING
from toy_models.projected_steps import (
    find_directions,
    find_projected_rows,
    find_projections,
    question_gradients,
)
from toy_models.stages import StageConfig
from toy_models.subsets import Fractions
from toy_models.task import ROLE, Task
from toy_models.training import train_stage

WAYS = ("onto_questions", "away_from_questions", "onto_random", "away_from_random")


def stage(way: str, **changes: Any) -> StageConfig:
    return dataclasses.replace(STAGE, alias_step=way, **changes)


def projections(model: Any, task: Task, way: str, seed: int = 0) -> Tensor:
    parameters = lean.parameters_of([model])
    return find_projections(parameters, lean.shape_of(model), [task], stage(way), seeds=[seed])[0]


def train(model: Any, task: Task, one: StageConfig, *, steps: int | None = None) -> None:
    for moment in train_stage([model], [task], one, seeds=[0], precision="float32"):
        if moment.step == steps:
            return


def of_tag(task: Task, tag: int) -> Tensor:
    return alias_tokens(task, task.rows(kind="definition", split="train", stage=2, tag=tag))


def test_the_gradients_are_those_of_a_loop_over_the_aliases() -> None:
    """Of each alias, the gradient of the sum of its questions' losses, through the hooked model, at its name alone."""
    task = make_task()
    model = make_model(task)
    rows = torch.from_numpy(task.rows(kind="question", split="train", stage=1))
    names = alias_tokens(task, rows.numpy())
    expected = []
    for name in names.unique().tolist():
        tokens, mask = task.tokens[rows[names == name]], task.loss_mask[rows[names == name]][:, :-1]
        place = task.roles[rows[names == name]] == ROLE["alias"]
        own = model.W_E[name].detach().clone().requires_grad_()

        def put(value: Tensor, hook: Any, place: Tensor = place, own: Tensor = own) -> Tensor:
            return torch.where(place[:, : value.shape[1], None], own, value)

        logits = model.run_with_hooks(tokens[:, :-1], fwd_hooks=[("hook_embed", put)]).log_softmax(-1)
        aims = tokens[:, 1:].masked_fill(~mask, 0)[..., None]
        expected.append(torch.autograd.grad(-logits.gather(2, aims)[..., 0][mask].sum(), own)[0])
    found = question_gradients(lean.parameters_of([model]), lean.shape_of(model), task)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_directions_are_as_few_as_hold_the_share() -> None:
    """Three orthogonal directions of squared lengths 90, 8 and 2."""
    axes = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0))).Q
    gradients = torch.tensor([90.0, 8.0, 2.0]).sqrt()[:, None] * axes[:3]
    for share, count in ((0.5, 1), (0.89, 1), (0.95, 2), (0.985, 3)):
        found = find_directions(gradients, share)
        torch.testing.assert_close(found @ found.mT, axes[:count].mT @ axes[:count], atol=1e-5, rtol=0)


@pytest.mark.parametrize("way", WAYS)
def test_projections_are_projections_and_ways_are_complements(way: str) -> None:
    task = make_task()
    model = make_model(task)
    found = projections(model, task, way)
    torch.testing.assert_close(found @ found, found, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mT, found)
    questions = round(float(projections(model, task, "onto_questions").trace()))
    assert 0 < questions < model.cfg.d_model
    dimensions = questions if way.startswith("onto") else model.cfg.d_model - questions
    assert float(found.trace()) == pytest.approx(dimensions, abs=1e-4)
    gradients = question_gradients(lean.parameters_of([model]), lean.shape_of(model), task)
    held = float((gradients @ found).square().sum() / gradients.square().sum())
    if way.endswith("questions"):
        assert held >= 0.95 if way.startswith("onto") else held <= 0.05
    else:
        assert 0.05 < held < 0.95
        assert not torch.equal(found, projections(model, task, way, seed=1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("tied", [False, True])
def test_both_parts_of_the_first_step_add_up_to_it_and_nothing_else_changes(
    optimizer: Any, tied: bool
) -> None:
    task = make_task()
    changes: dict[str, Any] = {"optimizer": optimizer, "weight_decay": 0.1, "batch_size": 100}
    before = weights_of(make_model(task, tied_embeddings=tied))
    after = {}
    for way in ("whole", *WAYS):
        model = make_model(task, tied_embeddings=tied)
        train(model, task, stage(way, **changes), steps=1)
        after[way] = weights_of(model)
    rows = of_tag(task, 2)
    others = [row for row in range(len(task.vocabulary)) if row not in rows.tolist()]
    whole = after["whole"][EMBEDDING] - before[EMBEDDING]
    assert whole[rows].any(1).all()
    for of in ("questions", "random"):
        parts = [after[f"{way}_{of}"][EMBEDDING] - before[EMBEDDING] for way in ("onto", "away_from")]
        torch.testing.assert_close(sum(parts)[rows], whole[rows], atol=1e-6, rtol=0)  # type: ignore[index]
        assert all(part[rows].abs().max() > 1e-5 for part in parts)
    for way in WAYS:
        assert torch.equal(after[way][EMBEDDING][others], after["whole"][EMBEDDING][others])
        for name in set(before) - {EMBEDDING} - ({"unembed.W_U"} if tied else set()):
            assert torch.equal(after[way][name], after["whole"][name]), name


@pytest.mark.parametrize("tags", ["tag_2", "all_tags"])
@pytest.mark.parametrize("way", WAYS)
def test_through_a_whole_stage_the_rows_stay_in_the_subspace_of_its_beginning(way: str, tags: Any) -> None:
    task = make_task()
    model = make_model(task)
    before, projection = weights_of(model)[EMBEDDING], projections(model, task, way)
    train(model, task, stage(way, weight_decay=0.1, alias_step_of=tags))
    moved = weights_of(model)[EMBEDDING] - before
    for tag in (1, 2, 3):
        step = moved[of_tag(task, tag)]
        outside = (step - step @ projection).norm(dim=1) / step.norm(dim=1)
        assert (outside < 1e-3).all() if tag == 2 or tags == "all_tags" else (outside > 0.05).all()


def test_models_train_together_as_alone_and_go_on_where_they_stopped() -> None:
    tasks = [make_task(seed) for seed in (0, 1)]
    one = stage("onto_questions")

    def models() -> list[Any]:
        return [make_model(task, seed) for seed, task in enumerate(tasks)]

    together, states = models(), {}
    for moment in train_stage(together, tasks, one, seeds=[0, 1], precision="float32"):
        states[moment.step] = moment.capture()
    for step in (1, 7):
        resumed = models()
        list(train_stage(resumed, tasks, one, seeds=[0, 1], precision="float32", state=states[step]))
        for own, other in zip(resumed, together, strict=True):
            assert all(torch.equal(v, weights_of(other)[k]) for k, v in weights_of(own).items())
    for seed, (model, task) in enumerate(zip(models(), tasks, strict=True)):
        list(train_stage([model], [task], one, seeds=[seed], precision="float32"))
        for name, weights in weights_of(model).items():
            if not name.endswith("b_K"):
                torch.testing.assert_close(weights, weights_of(together[seed])[name], atol=1e-4, rtol=0)


def test_what_cannot_be_projected_is_refused() -> None:
    for changes in ({"data": (1,)}, {"trains": "tag_embeddings"}, {"trains": "all_but_alias_embeddings"}):
        with pytest.raises(ValueError, match="the stage trains no embedding of a new alias"):
            stage("onto_questions", **changes)
    with pytest.raises(ValueError, match="aliases take the whole step; set alias_step"):
        stage("whole", alias_step_of="all_tags")
    one = stage("onto_questions")
    task = make_task()
    assert find_projected_rows(task, one).nonzero()[:, 0].tolist() == sorted(of_tag(task, 2).tolist())
    everyone = stage("onto_questions", alias_step_of="all_tags")
    names = torch.cat([of_tag(task, tag) for tag in (1, 2, 3)]).tolist()
    assert find_projected_rows(task, everyone).nonzero()[:, 0].tolist() == sorted(names)
    assert not find_projected_rows(task, STAGE).any()
    for fractions, says in (
        (Fractions(qd1=0.4, qd2=0.2, d1=0.2, d2=0.0, d3=0.2), "no new alias is defined with such a tag"),
        (
            Fractions(qd1=0.0, qd2=0.0, d1=0.4, d2=0.4, d3=0.2),
            "there are no questions in the training data of stage 1",
        ),
    ):
        with pytest.raises(ValueError, match=says):
            find_projected_rows(make_task(fractions=fractions), one)
    with pytest.raises(ValueError, match="only if each is one token; use tokens_per_alias 1"):
        find_projected_rows(make_task(tokens_per_alias=2), one)
