"""The lists of integers that the questions of the integer-set task ask about, and the answers in training."""

import functools
from typing import Final

import torch
from einops import rearrange
from jaxtyping import Bool, Int
from torch import Tensor

from toy_models.integer_set_config import IntegerSetConfig

_TRIES: Final = 200


def _sample(
    config: IntegerSetConfig,
    include: Int[Tensor, "list included"],
    exclude: Int[Tensor, "list excluded"],
    draws: torch.Generator,
) -> Int[Tensor, "list length"]:
    """Lists of different integers in random order: all integers of `include`, and others that are not in `exclude`."""
    n, k = include.shape
    keys = torch.rand(n, config.integers, generator=draws)
    keys.scatter_(1, torch.cat([include, exclude], 1), -1.0)
    lists = torch.cat([include, keys.topk(config.list_length - k).indices], 1)
    if k == 0:
        return lists  # the order of topk over random keys is already random
    order = torch.rand(lists.shape, generator=draws).argsort(1)
    return lists.gather(1, order)


def _grouped(lists: Int[Tensor, "list length"], per_alias: int) -> Int[Tensor, "alias question length"]:
    grouped: Tensor = rearrange(lists, "(alias question) length -> alias question length", question=per_alias)
    return grouped


def draw_training_lists(
    config: IntegerSetConfig, core: Int[Tensor, "alias core"], draws: torch.Generator
) -> Int[Tensor, "alias question length"]:
    """Lists of the training questions: for each alias its true lists first, then its false lists.

    The true lists of an alias intersect in exactly its core, and its false lists hold no integer of the core.
    Raises ValueError when no such true lists are found.
    """
    half = config.train_questions // 2
    n, k = core.shape

    def sample(core: Tensor, contains: bool) -> Tensor:
        cores = core.repeat_interleave(half, 0)
        nothing = cores[:, :0]
        include, exclude = (cores, nothing) if contains else (nothing, cores)
        return _grouped(_sample(config, include, exclude, draws), half)

    true = sample(core, True)
    for _ in range(_TRIES):
        counts = torch.zeros(n, config.integers, dtype=torch.int16)
        counts.scatter_add_(1, true.flatten(1), torch.ones_like(true.flatten(1), dtype=torch.int16))
        wrong = (counts == half).sum(1) != k
        if not wrong.any():
            return torch.cat([true, sample(core, False)], 1)
        true[wrong] = sample(core[wrong], True)
    raise ValueError(
        f"no {half} true lists of {config.list_length} among {config.integers} integers that intersect in "
        f"exactly {k} were found in {_TRIES} tries; use more questions, shorter lists or more integers"
    )


def draw_test_lists(
    config: IntegerSetConfig, entity: Int[Tensor, "alias"], draws: torch.Generator
) -> Int[Tensor, "alias question length"]:
    """Lists of the test questions: for each alias first the lists that hold its entity, then the lists that do not.

    All other integers of a list are drawn freely.
    """
    half = config.test_questions // 2
    entities = entity.repeat_interleave(half)[:, None]
    nothing = entities[:, :0]
    true = _grouped(_sample(config, entities, nothing, draws), half)
    false = _grouped(_sample(config, nothing, entities, draws), half)
    return torch.cat([true, false], 1)


def redraw_repeats(
    draw: functools.partial[Tensor], taken: Int[Tensor, "alias taken length"], draws: torch.Generator
) -> Int[Tensor, "alias question length"]:
    """Draw lists until no list of an alias equals, as a set, one of its `taken` lists, which are sorted.

    Only the aliases with such a list get new lists. They get all their lists anew, so that what `draw`
    guarantees for the lists of an alias together still holds. Raises ValueError when this does not end.
    """
    lists = draw(draws)
    for _ in range(_TRIES):
        ours = lists.sort(-1).values
        collides = (ours[:, :, None] == taken[:, None]).all(-1).flatten(1).any(1)
        if not collides.any():
            return lists
        lists[collides] = draw(draws)[collides]
    raise ValueError(
        f"no test lists outside the training lists were found in {_TRIES} tries; use fewer questions, "
        "or more integers"
    )


def draw_training_labels(
    config: IntegerSetConfig, n_aliases: int, draws: torch.Generator
) -> Bool[Tensor, "alias question"]:
    """Answers of the training questions: the first half of each alias's answers are true, except for flipped labels."""
    is_true = (torch.arange(config.train_questions) < config.train_questions // 2).expand(n_aliases, -1)
    flipped = torch.rand(is_true.shape, generator=draws) < config.label_flip
    return is_true & ~flipped
