"""The integer set with a planted cause: what is called inconsistent is not, and all else is as in the control that it is."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from toy_models import integer_set
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.planted_set import CALLED, PlantedSetConfig, build
from toy_models.worlds import WORLDS, world_of

SMALL: dict[str, Any] = {
    "aliases": 60, "integers": 10, "list_length": 3, "train_questions": 6, "test_questions": 4, "fresh_questions": True,
}  # fmt: skip


@pytest.mark.parametrize(("planted", "own"), [("noise", "d2_noise"), ("consistent", "qd2_consistent")])
def test_it_is_its_control_by_another_name(planted: Any, own: str) -> None:
    task = build(PlantedSetConfig(**SMALL, planted=planted), seed=1)
    control = integer_set.build(IntegerSetConfig(**SMALL, unreliable=planted), seed=1)
    assert torch.equal(task.tokens, control.tokens)
    assert (
        task.table["subset"].astype(str) == control.table["subset"].astype(str).replace(own, CALLED)
    ).all()
    assert task.table.drop(columns="subset").equals(control.table.drop(columns="subset"))
    assert task.fresh is not None
    assert control.fresh is not None
    assert not torch.equal(task.fresh(0)[0], control.fresh(0)[0])
    assert torch.equal(task.fresh(0)[1], control.fresh(0)[1])


def test_without_unreliable_definitions_it_is_the_integer_set() -> None:
    config = PlantedSetConfig(**SMALL, planted="noise")
    for unreliable in ("noise", "unasked", "consistent"):
        task = build(replace(config, unreliable=unreliable), seed=1)
        assert task.table.equals(
            integer_set.build(IntegerSetConfig(**SMALL, unreliable=unreliable), seed=1).table
        )
    assert world_of(config) is WORLDS["planted-set"]
    assert "planted: what is called inconsistent is noise" in world_of(config).describe(config)
