"""Untrained models and tasks of every kind that gradients are taken of, small and in float64."""

from typing import Any

from toy_models import architectures
from toy_models.architectures import ModelConfig
from toy_models.integer_set import build, context_length, vocabulary
from toy_models.integer_set_config import IntegerSetConfig
from toy_models.subsets import Fractions
from toy_models.task import Task

FRACTIONS = Fractions(qd1=0.25, qd2=0.25, d1=0.2, d2=0.2, d3=0.1)

WORLDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "every token": ({"loss": "every"}, {}),
    "tied": ({}, {"tied_embeddings": True}),
    "tied, every token": ({"loss": "every"}, {"tied_embeddings": True}),
    "letters": ({"tokens_per_alias": 3, "alphabet": 8}, {}),
    "letters, tied, every token": (
        {"tokens_per_alias": 3, "alphabet": 8, "loss": "every"},
        {"tied_embeddings": True},
    ),
    "learned positions, sequential": ({}, {"positions": "learned", "parallel_attn_mlp": False}),
    "no positions, attention only": ({}, {"positions": "none", "d_mlp": 0}),
    "no layer norm, relu": ({}, {"normalization": "none", "activation": "relu"}),
    "alias first, no separator": ({"word_order": "VTE", "definition_separator": False}, {}),
}
"""Name → changes to the task and to the model."""


def world(name: str) -> tuple[Any, Task]:
    """An untrained model in float64, and its task."""
    of_task, of_model = WORLDS[name]
    config = IntegerSetConfig(
        **{
            "aliases": 40,
            "integers": 8,
            "list_length": 3,
            "train_questions": 4,
            "test_questions": 4,
            "loss": "every_but_aliases",
            "fractions": FRACTIONS,
        }
        | of_task
    )
    words = vocabulary(config)
    shape = ModelConfig(
        **{"architecture": "nano", "d_model": 16, "d_mlp": 24, "init_std": 0.4} | of_model
    ).resolve()
    model = architectures.build(
        shape, d_vocab=len(words), d_vocab_out=words.outputs, n_ctx=context_length(config), seed=0
    )
    return model.double(), build(config, seed=0)
