"""Gradients of single aliases: equal to a loop over the aliases through the hooked model's own forward pass."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from contract import assert_unchanged, loaded
from differentiated import WORLDS, world
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.learning import examples
from mechocl.learning.examples import Examples
from mechocl.learning.gradients import alias_gradients, differentiable
from mechocl.learning.layout import OWN, Groups
from toy_models.frozen import find_alias_names
from toy_models.task import ROLE, Task


def looped(model: Any, task: Task, given: Examples, names: Tensor) -> list[dict[str, Tensor]]:
    """The gradient of every parameter, one alias after another, by autograd through the model's own forward pass.

    A tied unembedding is added to the embedding, whose weights it shares.
    """
    found = []
    for tokens, mask in zip(given.tokens, given.loss_mask, strict=True):
        model.zero_grad(set_to_none=True)
        parameters = dict(model.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_()
        logits = model(tokens[:, :-1])
        F.cross_entropy(logits[mask[:, :-1]], tokens[:, 1:][mask[:, :-1]]).backward()
        each = {k: torch.zeros_like(p) if p.grad is None else p.grad.clone() for k, p in parameters.items()}
        if model.cfg.tie_word_embeddings:
            each["embed.W_E"][: model.cfg.d_vocab_out] += each.pop("unembed.W_U").T
        found.append(each)
    model.zero_grad(set_to_none=True)
    return found


def expected(model: Any, task: Task, each: dict[str, Tensor], names: Tensor) -> dict[str, Tensor]:
    """The groups of `Layout`, from a gradient of every parameter, put together anew."""
    is_name = find_alias_names(task)
    tags = torch.zeros_like(is_name)
    tags[task.tokens[task.roles == ROLE["tag"]]] = True
    rows = each["embed.W_E"]
    own = torch.zeros(len(names), rows.shape[1], dtype=rows.dtype)
    for slot, name in enumerate(names.tolist()):
        if name not in names[:slot].tolist():
            own[slot] = rows[name]
    others = rows.clone()
    others[names] = 0.0
    found = {
        OWN: [own],
        "tag embeddings": [rows[tags]],
        "other embeddings": [rows[~is_name & ~tags]],
        "unembedding": [each["unembed.b_U"]],
    }
    if "unembed.W_U" in each:
        found["unembedding"].append(each["unembed.W_U"])
    else:
        found["unembedding"].append(others[: model.cfg.d_vocab_out][is_name[: model.cfg.d_vocab_out]])
    for name, value in each.items():
        part = name.split(".")[1]
        if name.startswith("pos_embed") and model.cfg.positional_embedding_type == "standard":
            found.setdefault("position embeddings", []).append(value)
        elif ".ln" in name or name.startswith("ln_final"):
            found.setdefault("layer norms", []).append(value)
        elif ".mlp." in name:
            found.setdefault(f"L{part} mlp", []).append(value)
        elif name.endswith("attn.b_O"):
            found[f"L{part} attention bias"] = [value]
        elif ".attn." in name:
            for head in range(model.cfg.n_heads):
                found.setdefault(f"L{part}H{head}", []).append(value[head])
    return {group: torch.cat([part.flatten() for part in parts]) for group, parts in found.items()}


def assert_same_numbers(ours: Groups, theirs: list[dict[str, Tensor]], *, tolerance: float) -> None:
    """Every group holds the same numbers for each alias, in any order of the parameters within it."""
    for index, each in enumerate(theirs):
        size = torch.cat(list(each.values())).norm()
        for group, value in ours.items():
            wanted = each[group]
            parting = (value[index].sort().values - wanted.sort().values).abs().max()
            assert parting <= tolerance * size, (group, index, float(parting))


def both_sides(name: str) -> list[tuple[Groups, list[dict[str, Tensor]]]]:
    """The gradients of definitions and of questions, batched and looped."""
    model, task = world(name)
    positions = model.cfg.positional_embedding_type
    trained_positions = positions == "standard" and model.pos_embed.W_pos.requires_grad
    aliases = examples.list_defined(task, stage=2, most=3)["alias"].to_numpy()
    names = examples.name_tokens(task, aliases)
    found = []
    of = differentiable(model, task)
    for given in (
        examples.definitions_of(task, aliases),
        examples.questions_of(task, aliases, split="test", loss="trained"),
        examples.questions_of(task, aliases, split="test", loss="answer"),
    ):
        ours = alias_gradients(of, given, names, at_once=4)
        each = looped(model, task, given, names)
        theirs = [expected(model, task, one, own) for one, own in zip(each, names, strict=True)]
        if not trained_positions:
            for one in theirs:
                one.pop("position embeddings", None)
        found.append((ours, theirs))
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_gradients_are_those_of_a_loop(name: str) -> None:
    """In float64, to 1e-6 of the gradient's norm: the hooked model computes its attention mask in float32."""
    for ours, theirs in both_sides(name):
        assert set(ours) == set(theirs[0])
        assert_same_numbers(ours, theirs, tolerance=1e-6)
        assert float(ours[OWN].norm()) > 1e-4


@pytest.mark.parametrize("name", ["plain", "tied, every token", "letters"])
def test_inner_products_of_two_losses_are_those_of_a_loop(name: str) -> None:
    """Of each definition with each alias's questions: the numbers of both lie in the same order. Own rows count as one place."""
    (definitions, each), (questions, asked), _ = both_sides(name)
    for group in definitions:
        theirs = (
            torch.stack([one[group].flatten() for one in each])
            @ torch.stack([one[group].flatten() for one in asked]).T
        )
        torch.testing.assert_close(definitions[group] @ questions[group].T, theirs, atol=1e-6, rtol=1e-5)


def test_another_loss_or_a_wrong_sign_is_seen() -> None:
    (definitions, of_definitions), (questions, _), (answers, _) = both_sides("plain")
    for wrong in (questions, answers, {group: -value for group, value in definitions.items()}):
        with pytest.raises(AssertionError):
            assert_same_numbers(wrong, of_definitions, tolerance=1e-6)


def test_how_many_at_once_changes_nothing_and_the_model_stays() -> None:
    model, task = world("plain")
    aliases = examples.list_defined(task, stage=2, most=None)["alias"].to_numpy()
    names, given = examples.name_tokens(task, aliases), examples.definitions_of(task, aliases)
    with assert_unchanged(model):
        one, all_ = (alias_gradients(differentiable(model, task), given, names, at_once=n) for n in (1, 99))
    for group in one:
        torch.testing.assert_close(one[group], all_[group], atol=1e-12, rtol=1e-9)


def test_a_finite_difference_has_the_same_slope() -> None:
    """The derivative of the loss along the alias's own row, from two losses of the hooked model."""
    model, task = world("plain")
    aliases = examples.list_defined(task, stage=2, most=1)["alias"].to_numpy()[:1]
    names, given = examples.name_tokens(task, aliases), examples.definitions_of(task, aliases)
    gradient = alias_gradients(differentiable(model, task), given, names)[OWN][0]
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens, mask = given.tokens[0], given.loss_mask[0][:, :-1]
    losses = []
    with torch.no_grad():
        for step in (1e-4, -1e-4):
            model.embed.W_E[names[0, 0]] += step * direction
            losses.append(float(F.cross_entropy(model(tokens[:, :-1])[mask], tokens[:, 1:][mask])))
            model.embed.W_E[names[0, 0]] -= step * direction
    slope = (losses[0] - losses[1]) / 2e-4
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-3)


def test_a_definition_is_written_with_another_tag_and_nothing_else_changes() -> None:
    _, task = world("plain")
    tokens = examples.find_tag_tokens(task)
    assert [task.vocabulary.tokens[tokens[tag]] for tag in (1, 2, 3)] == ["tag 1", "tag 2", "tag 3"]
    for tag in (1, 2, 3):
        written = examples.write_with_tag(task, tag)
        changed = written.tokens != task.tokens
        new = torch.zeros(len(task), dtype=torch.bool)
        new[torch.from_numpy(task.rows(kind="definition", stage=2))] = True
        assert not changed[~new].any()
        assert (task.roles[changed] == ROLE["tag"]).all()
        assert (written.tokens[new][task.roles[new] == ROLE["tag"]] == tokens[tag]).all()
        assert changed.sum() == (task.table["tag"].to_numpy()[new.numpy()] != tag).sum()
    gradients = []
    model, _ = world("plain")
    aliases = examples.list_defined(task, stage=2, most=2)["alias"].to_numpy()
    names = examples.name_tokens(task, aliases)
    for tag in (1, 2):
        given = examples.definitions_of(examples.write_with_tag(task, tag), aliases)
        gradients.append(alias_gradients(differentiable(model, task), given, names)[OWN])
    assert not torch.allclose(*gradients)


def test_the_answer_alone_carries_loss() -> None:
    _, task = world("plain")
    aliases = examples.list_defined(task, stage=1, most=2)["alias"].to_numpy()
    given = examples.questions_of(task, aliases, split="train", loss="answer")
    assert given.tokens.shape[:2] == (len(aliases), 4)
    assert (given.loss_mask.sum(2) == 1).all()
    following = given.tokens[:, :, 1:][given.loss_mask[:, :, :-1]]
    assert set(following.tolist()) == {task.vocabulary.true, task.vocabulary.false}
    trained = examples.questions_of(task, aliases, split="train", loss="trained")
    assert (trained.loss_mask.sum(2) > 1).all()


def test_an_alias_with_fewer_questions_is_filled_up_without_loss() -> None:
    """Its gradient is that of its own questions."""
    model, task = world("plain")
    aliases = examples.list_defined(task, stage=2, most=2)["alias"].to_numpy()[:2]
    dropped = task.rows(kind="question", split="test", alias=int(aliases[0]))[1:]
    fewer = task.take(np.setdiff1d(np.arange(len(task)), dropped))
    names = examples.name_tokens(task, aliases)
    of = differentiable(model, task)
    given = examples.questions_of(fewer, aliases, split="test", loss="trained")
    assert given.tokens.shape[1] == 4
    alone = examples.questions_of(fewer, aliases[:1], split="test", loss="trained")
    assert alone.tokens.shape[1] == 1
    ours, theirs = alias_gradients(of, given, names), alias_gradients(of, alone, names[:1])
    torch.testing.assert_close(ours[OWN][0], theirs[OWN][0])
    gone = fewer.take(np.setdiff1d(np.arange(len(fewer)), fewer.rows(kind="question", alias=int(aliases[0]))))
    with pytest.raises(MechoclError, match=f"alias {aliases[0]} has no such examples"):
        examples.questions_of(gone, aliases, split="test", loss="trained")


def test_what_gradients_cannot_be_taken_of() -> None:
    model, task = world("plain")
    other, _ = world("letters")
    with pytest.raises(MechoclError, match="give the model of this task"):
        differentiable(other, task)
    with (
        model.hooks([("unembed.hook_in", lambda x, hook: x)]),
        pytest.raises(MechoclError, match=r"has a hook at .*reset_hooks"),
    ):
        differentiable(model, task)
    from contract import task as of_gpt

    with pytest.raises(MechoclError, match=r"gradients cannot be taken of this model: .*gelu_new"):
        differentiable(loaded(0, gpt_2=True), of_gpt())
