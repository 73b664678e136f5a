"""Models and pairs whose edges are worked out by hand, or compared."""

from functools import cache
from typing import Any

import torch
from contract import task as short_task
from planted import small_task

from mechocl.interventions.named_pairs import pairs_named
from mechocl.interventions.pairs import Pairs, given_pairs
from toy_models import architectures
from toy_models.architectures import Architecture
from toy_models.integer_set import build
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.stages import StageConfig
from toy_models.subsets import Fractions
from toy_models.task import Task
from toy_models.training import train_stage


@cache
def task() -> Task:
    return small_task()


def planted_pairs(name: str, *, n: int = 40) -> Pairs:
    return pairs_named(task(), name, n_pairs=n, seed=0)


def random_pairs(
    *,
    n: int = 3,
    length: int = 4,
    read: list[int] | None = None,
    seed: int = 0,
    vocabulary: int | None = None,
) -> Pairs:
    """Clean and corrupted differ at every position."""
    draws = torch.Generator().manual_seed(seed)
    size = vocabulary or len(short_task().vocabulary)
    clean = torch.randint(size, (n, length), generator=draws)
    shift = torch.randint(1, size, (n, length), generator=draws)
    target = torch.randint(size, (n,), generator=draws)
    return given_pairs(
        clean,
        (clean + shift) % size,
        target=target,
        foil=(target + 1) % size,
        read=None if read is None else torch.tensor(read),
    )


def attention_only(seed: int = 0, *, linear: bool = False) -> Any:
    """Random, without layer norm; `linear`: without queries and keys, so every position attends evenly."""
    model = architectures.build(
        Architecture(n_layers=2, d_model=16, n_heads=2, d_mlp=0, normalization="none", init_std=0.3),
        d_vocab=20,
        d_vocab_out=20,
        n_ctx=8,
        seed=seed,
    )
    if linear:
        with torch.no_grad():
            for block in model.blocks:
                block.attn.W_Q.zero_()
    return model


V, K = ("embed", "L0H0 v", "alias"), ("embed", "L0H0 k", "alias")


Q, ANSWER = ("L0H0", "L1H0 q", "="), ("L1H0", "logits", "=")


@cache
def random_hooked() -> Any:
    """Untrained, of GPT-NeoX's shape, with weights large enough to matter."""
    return architectures.build(
        Architecture(n_layers=2, d_model=16, n_heads=2, d_mlp=32, init_std=0.3),
        d_vocab=len(task().vocabulary),
        d_vocab_out=task().vocabulary.outputs,
        n_ctx=task().n_ctx,
        seed=0,
    )


@cache
def trained() -> tuple[Any, Task]:
    """Two layers that have learned a little of a task of 24 aliases, in about two seconds."""
    config = IntegerSetConfig(
        aliases=24,
        integers=8,
        list_length=2,
        train_questions=12,
        test_questions=4,
        loss="every_but_aliases",
        fractions=Fractions(qd1=1.0, qd2=0.0, d1=0.0, d2=0.0, d3=0.0),
    )
    learned = build(config, seed=0)
    model = architectures.build(
        Architecture(
            n_layers=2,
            d_model=32,
            n_heads=2,
            d_mlp=64,
            positions="none",
            parallel_attn_mlp=False,
            embedding_std=0.1,
        ),
        d_vocab=len(learned.vocabulary),
        d_vocab_out=learned.vocabulary.outputs,
        n_ctx=learned.n_ctx,
        seed=0,
    )
    stage = StageConfig(
        data=(1,), epochs=40, batch_size=64, optimizer="adamw", learning_rate=1e-2, warmup=0.05
    )
    for _ in train_stage([model], [learned], stage, seeds=[0], precision="float32"):
        pass
    return model, learned
