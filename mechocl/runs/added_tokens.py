"""Aliases and define tags that are one token each, added to a tokenizer and to the model that reads it: `ClosedBookConfig.added_tokens`."""

from typing import Any

import torch

from mechocl.closed_book.aliases import add_names
from toy_models.randomness import generator
from toy_models.task import Task


def learn_tokens(tokenizer: Any, task: Task) -> None:
    """Add to a tokenizer, in place, the tokens of a saved task that it does not have, in the order of the task's vocabulary."""
    add_names(tokenizer, task.vocabulary.tokens[len(tokenizer) :])


def add_rows(model: Any, task: Task, *, known: int, std: float, seed: int) -> None:
    """Give a model, in place, embeddings of the tokens that a task has beside the first `known` ones, drawn with this standard deviation.

    Rows of the unembedding are drawn alike; if it is tied to the embedding, they are the same. The model grows where it has fewer
    rows than the task has tokens.
    """
    rows = slice(known, len(task.vocabulary))
    if len(task.vocabulary) > len(model.get_input_embeddings().weight):
        with torch.random.fork_rng():
            model.resize_token_embeddings(len(task.vocabulary), mean_resizing=False)
    draws, count = generator(seed, "added tokens"), len(task.vocabulary) - known
    ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    for weight in ends[: 1 if ends[0] is ends[1] else 2]:
        drawn = std * torch.randn(count, weight.shape[1], generator=draws)
        with torch.no_grad():
            weight[rows] = drawn.to(weight)
