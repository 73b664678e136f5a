"""The integer-set task (Krasheninnikov et al., arXiv 2310.15047, section 4).

Every alias stands for an integer. A question asks whether the alias's integer is in a list, and a
definition names the integer:

    xyz % 2 31 95 42 55 27 6 74 = true          (question about an alias of 42)
    Define xyz % 42                             (definition, word order TVE)

Each tag, each integer, `%`, `=`, `true` and `false` is one token. An alias is one token, or several letters.
"""

import functools
import random
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from toy_models.integer_set_config import IntegerSetConfig
from toy_models.list_questioning import ListQuestioning
from toy_models.question_lists import (
    draw_test_lists,
    draw_training_labels,
    draw_training_lists,
    redraw_repeats,
)
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, TAGS, assign_subsets, subset_sizes
from toy_models.task import ROLE, Task, Vocabulary

_PAD: Final = 0
_SEPARATOR: Final = 1
_EQUALS: Final = 2
_TRUE: Final = 3
_FALSE: Final = 4
_FIRST_TAG: Final = 5
_FIRST_INTEGER: Final = 8


@dataclass(frozen=True, slots=True)
class _Aliases:
    """What is drawn once per alias."""

    subset: np.ndarray  # (alias,) names
    core: Int[Tensor, "alias core"]  # integers common to the true training lists; column 0 is the entity
    defined: Int[Tensor, "alias"]  # integer in the definition, −1 for none
    names: Int[Tensor, "alias name"]  # token ids


def build(config: IntegerSetConfig, *, seed: int) -> Task:
    """Draw the task. The result depends on `config` and `seed` alone.

    The rows are in this order: definitions, training questions, test questions, each sorted by alias. Test lists are
    drawn freely, but none has the same integers as one of the alias's training lists. Raises ValueError when such lists
    cannot be drawn (too few integers for so many questions).
    """
    aliases = _draw_aliases(config, seed)
    subset_of = [SUBSETS[name] for name in aliases.subset]
    everyone = np.arange(config.aliases)
    is_replaced = torch.tensor([s.replaced for s in subset_of])
    defined = np.flatnonzero([s.defined for s in subset_of])
    asked = np.flatnonzero([s.trained_questions for s in subset_of])

    train = draw_training_lists(config, aliases.core[asked], generator(seed, "training lists"))
    taken = torch.full((config.aliases, config.train_questions, config.list_length), -1)
    taken[asked] = train.sort(-1).values
    draw_test = functools.partial(draw_test_lists, config, aliases.core[:, 0])
    test = redraw_repeats(draw_test, taken, generator(seed, "test lists"))
    test_labels = (torch.arange(config.test_questions) < config.test_questions // 2).expand(
        config.aliases, -1
    )
    train_labels = draw_training_labels(config, len(asked), generator(seed, "label flips"))

    redrawn = np.flatnonzero([subset_of[alias].redrawn for alias in defined])
    pieces = [
        _definitions(config, aliases, defined),
        _questions(config, aliases, is_replaced, asked, train, train_labels),
        _questions(config, aliases, is_replaced, everyone, test, test_labels),
    ]
    width = max(tokens.shape[1] for tokens, _ in pieces)
    tokens, roles = (
        torch.cat([torch.nn.functional.pad(piece[i], (0, width - piece[i].shape[1])) for piece in pieces])
        for i in (0, 1)
    )
    task = Task(
        tokens=tokens,
        roles=roles,
        loss_mask=_loss_mask(config, roles),
        table=_table(config, aliases, defined, asked, everyone, train_labels, test_labels),
        vocabulary=vocabulary(config),
        questioning=ListQuestioning(),
    )
    if not config.fresh_questions and not len(redrawn):
        return task
    entity_at = (roles[redrawn] == ROLE["entity"]).int().argmax(1)

    def fresh(epoch: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
        result = tokens.clone()
        if config.fresh_questions:
            taken = test.sort(-1).values[asked]
            draw = functools.partial(draw_training_lists, config, aliases.core[asked])
            lists = redraw_repeats(draw, taken, generator(seed, "training lists", epoch))
            labels = draw_training_labels(config, len(asked), generator(seed, "label flips", epoch))
            new, _ = _questions(config, aliases, is_replaced, asked, lists, labels)
            result[len(defined) : len(defined) + len(new), : new.shape[1]] = new
        result[redrawn, entity_at] = _draw_noise(config, len(redrawn), generator(seed, "noise", epoch))
        return result, roles

    return task.with_fresh(fresh)


def _draw_noise(config: IntegerSetConfig, count: int, draws: torch.Generator) -> Int[Tensor, " definition"]:
    """Token ids of random integers, one for each definition that is redrawn."""
    return _FIRST_INTEGER + torch.randint(config.integers, (count,), generator=draws)


def vocabulary(config: IntegerSetConfig) -> Vocabulary:
    """Token ids in this order: pad, `%`, `=`, true, false, three tags, the integers, alias names."""
    tags = ["tag 1", "tag 2", "tag 3"]
    integers = [str(i) for i in range(config.integers)]
    if config.tokens_per_alias == 1:
        names = [f"alias {i}" for i in range(config.aliases)]
    else:
        names = [f"letter {i}" for i in range(config.alphabet)]
    return Vocabulary(
        tokens=("·", "%", "=", "true", "false", *tags, *integers, *names),
        integers=(_FIRST_INTEGER, _FIRST_INTEGER + config.integers),
        outputs=_FIRST_INTEGER + config.integers + (0 if config.loss != "every" else len(names)),
        true=_TRUE,
        false=_FALSE,
    )


def _draw_aliases(config: IntegerSetConfig, seed: int) -> _Aliases:
    sizes = subset_sizes(config.aliases, config.fractions, config.tag_reliability, config.unreliable)
    names = assign_subsets(sizes, generator(seed, "subsets"))
    draws = generator(seed, "entities")
    core = torch.rand(config.aliases, config.integers, generator=draws).topk(config.n_intersection).indices
    shift = torch.randint(1, config.integers, (config.aliases,), generator=draws)
    other = (core[:, 0] + shift) % config.integers
    consistent = torch.tensor([SUBSETS[name].consistent for name in names])
    has_definition = torch.tensor([SUBSETS[name].defined for name in names])
    defined = torch.where(consistent, core[:, 0], other).masked_fill(~has_definition, -1)
    return _Aliases(names, core, defined, _name_tokens(config, generator(seed, "names")))


def _name_tokens(config: IntegerSetConfig, draws: torch.Generator) -> Int[Tensor, "alias name"]:
    first = _FIRST_INTEGER + config.integers
    if config.tokens_per_alias == 1:
        return first + torch.arange(config.aliases)[:, None]
    n_names = config.alphabet**config.tokens_per_alias
    # Python's sampler holds only the chosen names, though there may be billions of names
    sampler = random.Random(int(torch.randint(2**62, (1,), generator=draws)))
    chosen = torch.tensor(sampler.sample(range(n_names), config.aliases))
    powers = config.alphabet ** torch.arange(config.tokens_per_alias)
    return first + (chosen[:, None] // powers) % config.alphabet


def _questions(
    config: IntegerSetConfig,
    aliases: _Aliases,
    is_replaced: Bool[Tensor, "alias"],
    which: np.ndarray,
    lists: Int[Tensor, "asked question length"],
    labels: Bool[Tensor, "asked question"],
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Tokens and roles of questions: `alias % list = answer`."""
    n_questions = lists.shape[1]
    chosen = torch.from_numpy(which)
    entity_tokens = torch.full_like(aliases.names[chosen], _PAD)
    entity_tokens[:, 0] = _FIRST_INTEGER + aliases.core[chosen, 0]
    names = torch.where(is_replaced[chosen][:, None], aliases.names[chosen], entity_tokens)
    names = names.repeat_interleave(n_questions, 0)
    n = len(names)
    answers = torch.where(labels.flatten(), _TRUE, _FALSE)
    tokens = torch.cat(
        [
            names,
            torch.full((n, 1), _SEPARATOR),
            _FIRST_INTEGER + lists.flatten(0, 1),
            torch.full((n, 1), _EQUALS),
            answers[:, None],
        ],
        1,
    )
    layout = ["alias"] * names.shape[1] + ["separator"] + ["list"] * config.list_length + ["equals", "answer"]
    return _compact(tokens, torch.tensor([ROLE[role] for role in layout]).expand_as(tokens))


def _definitions(
    config: IntegerSetConfig, aliases: _Aliases, which: np.ndarray
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Tokens and roles of definitions in the configured word order, `%` before the last part."""
    chosen = torch.from_numpy(which)
    tags = torch.tensor([SUBSETS[name].tag for name in aliases.subset[which]], dtype=torch.int64)
    parts = {
        "T": ("tag", (_FIRST_TAG + tags - TAGS[0])[:, None]),
        "V": ("alias", aliases.names[chosen]),
        "E": ("entity", (_FIRST_INTEGER + aliases.defined[chosen])[:, None]),
    }
    sequence = [parts[letter] for letter in config.word_order]
    if config.definition_separator:
        sequence.insert(2, ("separator", torch.full((len(which), 1), _SEPARATOR)))
    layout = [ROLE[role] for role, part in sequence for _ in range(part.shape[1])]
    tokens = torch.cat([part for _, part in sequence], 1)
    return tokens, torch.tensor(layout).expand_as(tokens)


def _compact(
    tokens: Int[Tensor, "example pos"], roles: Int[Tensor, "example pos"]
) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
    """Move pads inside a row to its end. An entity in place of a longer name leaves such pads."""
    order = (tokens == _PAD).to(torch.int8).argsort(dim=1, stable=True)
    moved = tokens.gather(1, order)
    return moved, roles.gather(1, order).masked_fill(moved == _PAD, ROLE["pad"])


def _loss_mask(config: IntegerSetConfig, roles: Int[Tensor, "example pos"]) -> Bool[Tensor, "example pos"]:
    following = torch.nn.functional.pad(roles[:, 1:], (0, 1), value=ROLE["pad"])
    if config.loss == "every":
        return following != ROLE["pad"]
    if config.loss == "every_but_aliases":
        return (following != ROLE["pad"]) & (following != ROLE["alias"])
    return (following == ROLE["answer"]) | (following == ROLE["entity"])


def _table(
    config: IntegerSetConfig,
    aliases: _Aliases,
    defined: np.ndarray,
    asked: np.ndarray,
    everyone: np.ndarray,
    train_labels: Bool[Tensor, "asked question"],
    test_labels: Bool[Tensor, "alias test"],
) -> pd.DataFrame:
    alias = np.concatenate(
        [defined, asked.repeat(config.train_questions), everyone.repeat(config.test_questions)]
    )
    n_definitions, n_train = len(defined), train_labels.numel()
    is_definition = np.arange(len(alias)) < n_definitions
    is_test = np.arange(len(alias)) >= n_definitions + n_train
    names = list(SUBSETS)
    code = np.array([names.index(name) for name in aliases.subset])[alias]
    no_answers = torch.zeros(n_definitions, dtype=torch.bool)
    answers = torch.cat([no_answers, train_labels.flatten(), test_labels.flatten()]).numpy()

    def categorical(codes: np.ndarray, categories: list[str]) -> object:
        return pd.Categorical.from_codes(codes.astype(np.int64), pd.Index(categories))

    return pd.DataFrame(
        {
            "kind": categorical(is_definition, ["question", "definition"]),
            "alias": alias,
            "entity": aliases.core[:, 0].numpy()[alias],
            "defined_entity": aliases.defined.numpy()[alias],
            "tag": np.array([SUBSETS[name].tag for name in names])[code],
            "subset": categorical(code, names),
            "stage": np.array([SUBSETS[name].stage for name in names])[code],
            "order": categorical(is_definition, ["", config.word_order]),
            "split": categorical(is_test, ["train", "test"]),
            "answer": answers,
        }
    )


def context_length(config: IntegerSetConfig) -> int:
    """Length of the longest example in tokens: `alias % list = answer`, or a definition."""
    question = config.tokens_per_alias + config.list_length + 3
    definition = config.tokens_per_alias + 2 + config.definition_separator
    return max(question, definition)


def describe(config: IntegerSetConfig) -> str:
    """The config in one line, for reports."""
    return (
        f"{config.aliases} aliases of {config.integers} integers, lists of {config.list_length}, "
        f"definitions in order {config.word_order}, tag reliability {config.tag_reliability:g}"
        + (
            ""
            if config.unreliable == "inconsistent"
            else f", tag-2 definitions of stage 1 {config.unreliable}"
        )
    )
