"""The definition loss beside the hooked model's own logits, and where there is none."""

import numpy as np
import pytest
import torch
from small_stage import make_model, make_task

from toy_models import definition_loss
from toy_models.definition_loss import find_entities, measure_definition_losses


@pytest.mark.parametrize(("word_order", "position"), [("TVE", 3), ("VTE", 3), ("VET", 1)])
@pytest.mark.parametrize("at_once", [3, 4096])
def test_it_is_the_cross_entropy_of_the_entity(
    word_order: str, position: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks or at once, from the logits of the hooked forward pass."""
    monkeypatch.setattr(definition_loss, "_AT_ONCE", at_once)
    task = make_task(word_order=word_order)
    model = make_model(task)
    rows = task.rows(kind="definition", stage=2)
    assert find_entities(task, rows).tolist() == [position] * len(rows) == [position] * 10
    with torch.no_grad():
        logits = model(task.tokens[torch.from_numpy(rows)])[:, position - 1].double()
    integers = task.table["defined_entity"].to_numpy()[rows]
    expected = [float(row.logsumexp(0) - row[8 + k]) for row, k in zip(logits, integers, strict=True)]
    found = measure_definition_losses(model, task, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert np.ptp(found) > 0.01


def test_a_uniform_model_has_the_logarithm_of_the_outputs() -> None:
    task = make_task()
    model = make_model(task)
    with torch.no_grad():
        model.unembed.W_U.zero_()
    found = measure_definition_losses(model, task, task.rows(kind="definition"))
    np.testing.assert_allclose(found, np.log(38), rtol=1e-6)


@pytest.mark.parametrize("word_order", ["TEV", "EVT", "ETV"])
def test_there_is_none_where_the_entity_comes_before_the_alias(word_order: str) -> None:
    task = make_task(word_order=word_order)
    with pytest.raises(ValueError, match="there is no definition loss where the alias does not come before"):
        find_entities(task, task.rows(kind="definition"))


def test_questions_have_none() -> None:
    task = make_task()
    with pytest.raises(ValueError, match="there is no definition loss"):
        find_entities(task, task.rows(kind="question"))
