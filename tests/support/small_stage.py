"""Tasks of a dozen aliases and models of one layer, for tests of how a stage trains."""

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toy_models import architectures, integer_set
from toy_models.architectures import Architecture
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.stages import StageConfig
from toy_models.subsets import Fractions
from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

TASK = IntegerSetConfig(
    aliases=20,
    integers=10,
    list_length=3,
    train_questions=6,
    test_questions=2,
    fractions=Fractions(qd1=0.2, qd2=0.2, q_only=0.1, d1=0.2, d2=0.2, d3=0.1),
)
SHAPE = Architecture(n_layers=1, d_model=16, n_heads=2, d_mlp=24, rotary_fraction=0.5, init_std=0.1)
STAGE = StageConfig(data=(2,), epochs=5, batch_size=3, learning_rate=3e-3, evaluations=5, checkpoints=3)
OPTIMIZERS = ("adamw", "sgd", "adafactor")
TRAINS = (
    "all", "all_but_tag_embeddings", "all_but_alias_embeddings", "all_but_embeddings",
    "embeddings", "alias_embeddings", "tag_embeddings",
)  # fmt: skip


def make_task(seed: int = 0, **changes: Any) -> Task:
    return integer_set.build(dataclasses.replace(TASK, **changes), seed=seed)


def make_model(task: Task, seed: int = 0, **changes: Any) -> "HookedTransformer":
    return architectures.build(
        dataclasses.replace(SHAPE, **changes),
        d_vocab=len(task.vocabulary),
        d_vocab_out=task.vocabulary.outputs,
        n_ctx=task.n_ctx,
        seed=seed,
    )


def weights_of(model: "HookedTransformer") -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def alias_tokens(task: Task, rows: Any) -> Tensor:
    """The token of the alias of each of these examples, in tasks with one token for each alias."""
    at = torch.from_numpy(rows)
    return task.tokens[at][task.roles[at] == ROLE["alias"]]
