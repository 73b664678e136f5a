"""Changes of the tags that a stage sees: against models whose embedding is edited by hand, and against plain Jacobians."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import small_stage
import torch
from small_stage import STAGE, make_model, make_task
from torch import Tensor

from toy_models import lean
from toy_models.definition_loss import measure_definition_losses
from toy_models.losses import token_losses
from toy_models.stages import StageConfig
from toy_models.tag_changes import exchange_tags, find_tag_change
from toy_models.task import ROLE, Task
from toy_models.training import train_stage

TAGS = {1: 5, 2: 6, 3: 7}
"""Tokens of the integer set's tags, after pad, `%`, `=`, true and false."""


def stage(**changes: Any) -> StageConfig:
    return dataclasses.replace(STAGE, **changes)


def definitions(task: Task) -> np.ndarray:
    """Definitions of new aliases, one of each tag at least."""
    rows = task.rows(kind="definition", stage=2)
    assert set(task.table["tag"].iloc[rows]) == {1, 2, 3}
    return rows


def losses(model: Any, task: Task, rows: np.ndarray, **changes: Any) -> Tensor:
    """Mean token loss of these examples, with what a stage changes about their tags."""
    change = find_tag_change([task], stage(**changes)) if changes else None
    tokens, mask = task.tokens[rows], task.loss_mask[rows][:, :-1]
    most = int(mask.sum(1).max())
    parameters = lean.parameters_of([model])
    return token_losses(parameters, lean.shape_of(model), tokens[None], mask[None], most=most, change=change)[
        0
    ]


def gradients(loss: Tensor, model: Any) -> dict[str, Tensor]:
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [dict(model.named_parameters())[n] for n in names], allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def edited(task: Task, tag: int | None) -> Any:
    """The model whose tags all have the embedding of one tag, or 0."""
    model = make_model(task)
    with torch.no_grad():
        value = torch.zeros_like(model.embed.W_E[0]) if tag is None else model.embed.W_E[TAGS[tag]].clone()
        for token in TAGS.values():
            model.embed.W_E[token] = value
    return model


@pytest.mark.parametrize(("kind", "tag"), [("tag_1", 1), ("tag_3", 3), ("none", None)])
@pytest.mark.parametrize("passes", ["both", "forward"])
def test_the_forward_pass_is_that_of_a_model_whose_embedding_is_edited(
    kind: str, tag: Any, passes: str
) -> None:
    task = make_task()
    model, rows = make_model(task), definitions(task)
    found = losses(model, task, rows, tag_embedding=kind, tag_embedding_in=passes)
    torch.testing.assert_close(found, losses(edited(task, tag), task, rows))
    assert (found - losses(model, task, rows)).abs() > 1e-5
    change = find_tag_change([task], stage(tag_embedding=kind, tag_embedding_in=passes))
    ours = measure_definition_losses(model, task, rows, change=change)
    np.testing.assert_allclose(ours, measure_definition_losses(edited(task, tag), task, rows), rtol=1e-5)


@pytest.mark.parametrize("kind", ["tag_1", "none"])
def test_backward_only_leaves_the_forward_pass_as_it_is(kind: str) -> None:
    task = make_task()
    model, rows = make_model(task), definitions(task)
    found = losses(model, task, rows, tag_embedding=kind, tag_embedding_in="backward")
    assert torch.equal(found, losses(model, task, rows))
    whole = losses(model, task, rows, tag_embedding=kind)
    assert not torch.equal(found, whole)


def error_sent_back(
    errors_of: Tensor, way: Tensor, task: Task, rows: np.ndarray, model: Any
) -> dict[str, Tensor]:
    """Gradients of the error in one model's logits, by the Jacobian of another's, written out plainly."""
    tokens, mask = task.tokens[rows], task.loss_mask[rows][:, :-1]
    aim = torch.nn.functional.one_hot(tokens[:, 1:], errors_of.shape[-1])
    error = (errors_of.softmax(-1) - aim) * mask[..., None] / mask.sum()
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(
        way,
        [dict(model.named_parameters())[n] for n in names],
        grad_outputs=error.detach(),
        allow_unused=True,
    )
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def logits(model: Any, tokens: Tensor) -> Tensor:
    parameters = lean.parameters_of([model])
    x = lean.residual(parameters, tokens[None, :, :-1], lean.shape_of(model))
    return lean.logits(parameters, x.flatten(1, 2)).view(len(tokens), tokens.shape[1] - 1, -1)


@pytest.mark.parametrize("passes", ["both", "forward", "backward"])
def test_errors_of_one_pass_are_sent_back_through_the_other(passes: str) -> None:
    task = make_task()
    model, rows = make_model(task), definitions(task)
    tokens = task.tokens[rows]
    with_tag_1 = torch.where(task.roles[rows] == ROLE["tag"], TAGS[1], tokens)
    own, replaced = logits(model, tokens), logits(model, with_tag_1)
    values, way = {"both": (replaced, replaced), "forward": (replaced, own), "backward": (own, replaced)}[
        passes
    ]
    expected = error_sent_back(values, way, task, rows, model)
    loss = losses(model, task, rows, tag_embedding="tag_1", tag_embedding_in=passes)
    found = gradients(loss, model)
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], atol=1e-6, rtol=1e-4)
    # the gradient of tag 2's own embedding says by which way the error was sent
    assert bool(found["embed.W_E"][TAGS[2]].any()) == (passes == "forward")


def test_after_a_cut_nothing_attends_to_the_tag() -> None:
    task = make_task()
    model, rows = make_model(task, n_layers=2), definitions(task)
    tokens = task.tokens[rows][None]
    change = find_tag_change([task], stage(cut_tag=True))
    assert change is not None
    patterns: dict[bool, list[Tensor]] = {}
    finals = {}
    for cut in (True, False):
        seen: dict[str, Tensor] = {}
        mask = change.forward({}, tokens).cut if cut else None
        finals[cut] = lean.residual(
            lean.parameters_of([model]), tokens, lean.shape_of(model), see=seen.__setitem__, cut=mask
        )
        patterns[cut] = [value.softmax(-1) for name, value in seen.items() if name.endswith("attn_scores")]
    at = (task.roles[rows] == ROLE["tag"]).int().argmax(1)
    assert (at == 0).all()  # word order TVE
    for pattern in patterns[True]:
        assert (pattern[:, :, 1:, 0] == 0).all()
        assert (pattern[:, :, 0, 0] == 1).all()
        torch.testing.assert_close(pattern.sum(-1), torch.ones_like(pattern[..., 0]))
    assert all((pattern[:, :, 1:, 0] > 0.01).any() for pattern in patterns[False])
    assert len(patterns[True]) == 2
    # what later positions compute does not depend on the tag, and without the cut it does
    other = torch.where(task.roles[rows] == ROLE["tag"], TAGS[3], task.tokens[rows])[None]
    for cut in (True, False):
        mask = change.forward({}, other).cut if cut else None
        changed = lean.residual(lean.parameters_of([model]), other, lean.shape_of(model), cut=mask)
        assert torch.equal(changed[:, :, 1:], finals[cut][:, :, 1:]) == cut


@pytest.mark.parametrize(
    "changes", [{"cut_tag": True}, {"tag_embedding": "tag_1"}, {"tag_embedding": "none"}]
)
def test_questions_have_no_tag_to_change(changes: dict[str, Any]) -> None:
    task = make_task()
    model, rows = make_model(task), task.rows(kind="question", split="train")
    assert torch.equal(losses(model, task, rows, **changes), losses(model, task, rows))


def test_the_loop_trains_with_the_change() -> None:
    """Its loss before the first update is that of the edited model, and of a model trained beside it."""
    task = make_task()
    models = [make_model(task, seed) for seed in (0, 1)]
    expected = losses(edited(task, 1), task, definitions(task))
    whole = stage(batch_size=len(definitions(task)), tag_embedding="tag_1", epochs=1, evaluations=1)
    moments = list(train_stage(models, [task, make_task(1)], whole, seeds=[0, 1], precision="float32"))
    assert moments[-1].losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_what_has_no_effect_or_no_tag_is_refused() -> None:
    with pytest.raises(
        ValueError, match="tag_embedding_in is forward, but the tags have their own embeddings"
    ):
        stage(tag_embedding_in="forward")
    with pytest.raises(ValueError, match="exchange_tags is for new aliases, and the stage has none"):
        stage(data=(1,), exchange_tags=True)
    without = make_task(fractions=dataclasses.replace(small_stage.TASK.fractions, d2=0.3, d3=0.0))
    with pytest.raises(ValueError, match="no definition has tag 3; give its subset a share"):
        find_tag_change([without], stage(tag_embedding="tag_3"))
    with pytest.raises(
        ValueError, match="d1 has 4 aliases and d2 has 6, and tags can only be exchanged between as many"
    ):
        exchange_tags(without)


@pytest.mark.parametrize("order", ["TVE", "VTE", "EVT"])
@pytest.mark.parametrize("fresh", [False, True])
def test_exchanged_tags_differ_in_the_tags_and_nowhere_else(order: str, fresh: bool) -> None:
    task = make_task(word_order=order, fresh_questions=fresh)
    other = exchange_tags(task)
    differs = task.tokens != other.tokens
    in_subset = {name: task.table["subset"].to_numpy() == name for name in ("d1_consistent", "d2_consistent")}
    is_definition = (task.table["kind"] == "definition").to_numpy()
    for name, (old, new) in {"d1_consistent": (1, 2), "d2_consistent": (2, 1)}.items():
        rows = torch.from_numpy(in_subset[name] & is_definition)
        assert (differs[rows].sum(1) == 1).all()
        assert (task.tokens[rows][differs[rows]] == TAGS[old]).all()
        assert (other.tokens[rows][differs[rows]] == TAGS[new]).all()
        moved = other.table[in_subset[name]]
        assert set(moved["tag"]) == {new}
        assert set(moved["subset"]) == {f"d{new}_consistent"}
    assert (differs <= (task.roles == ROLE["tag"])).all()
    assert int(differs.sum()) == 8
    rest = [c for c in task.table if c not in ("subset", "tag")]
    assert task.table[rest].equals(other.table[rest])
    assert torch.equal(task.roles, other.roles)
    assert torch.equal(task.loss_mask, other.loss_mask)
    assert task.table["subset"].dtype == other.table["subset"].dtype
    back = exchange_tags(other)
    assert torch.equal(back.tokens, task.tokens)
    assert back.table.equals(task.table)
    if fresh:
        assert task.fresh is not None
        assert other.fresh is not None
        drawn, drawn_other = task.fresh(3)[0], other.fresh(3)[0]
        assert torch.equal(drawn != drawn_other, differs)
        assert not torch.equal(drawn, task.tokens)
    else:
        assert other.fresh is None
