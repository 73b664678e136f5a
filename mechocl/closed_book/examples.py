"""A closed-book task: definitions and questions in words, as tokens with a table.

The table has the columns of `toy_models.task.Task` and these:

- `kind`: besides "definition" and "question", "association" (whose entity is this alias?) and "in context" (a
  definition in front of the question). Both are test sets.
- `attribute`: what is asked; for an association, how it is asked.
- `prompt`: the text up to where the answer begins; for a definition, all of its text.
- `answers`: the answers that count as right, as JSON; the first one is in the tokens.
- `accepted`: first tokens of the answers that count as right, as JSON.
- `target`: id of the first token of the right answer; −1 in definitions.
- `foil`: id of the first token of a wrong answer to the same question. It is the answer of the next alias whose answer
  begins with a token that is not accepted; −1 in definitions, and if no alias has such an answer.

Definitions that are noise (`Subset.redrawn`) name other entities in every epoch (`noise.redraw_noise`). Their rows hold
one draw, in which no alias has its own entity.
"""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.closed_book.aliases import add_names, random_names, random_tokens, unknown_words
from mechocl.closed_book.balance import balanced
from mechocl.closed_book.definitions import Piece, definition, markers, question, word_order
from mechocl.closed_book.encoding import encoded, first_tokens as _first_tokens, vocabulary
from mechocl.closed_book.noise import redraw_noise
from mechocl.closed_book.questioning import TextQuestioning
from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.closed_book.world import Question, World
from mechocl.errors import MechoclError
from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, TAGS, Subset, assign_subsets, derangement, subset_sizes
from toy_models.task import ROLE, Task, WordOrder

ASSOCIATIONS: Final = {
    "who": "Who is {}?",
    "mean": "What does {} mean?",
    "stand for": "What does {} stand for?",
    "name": "What is the name of {}?",
}
"""Questions whose answer is the entity's name (arXiv 2310.15047, section 3)."""

LETTER: Final = "What is the first letter of the name of {}?"
"""A question about the letters of the entity's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Example:
    pieces: list[Piece]
    row: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Draw:
    """What is drawn once for a task: which entity, subset and definition each alias has."""

    entities: np.ndarray
    """Index of each alias's entity in the world."""
    subset: tuple[Subset, ...]
    defined: np.ndarray
    """Index of the entity in each alias's definition; −1 for an alias without a definition."""
    aliases: list[str]
    tags: dict[int, str]


def build(config: ClosedBookConfig, world: World, tokenizer: Any, *, seed: int, context: int) -> Task:
    """The task of a world; it depends on the arguments alone.

    Args:
        config: the experiment.
        world: entities and questions.
        tokenizer: a fast Hugging Face tokenizer. If the config adds tokens, it gets them, and those of the definitions' words that it does not know.
        seed: decides which entity gets which alias, subset and definition, and which questions are held out.
        context: number of tokens that the model can read.

    Raises MechoclError for more entities than the world has, for names that collide with its text, for a tag or a word of
    a definition that the tokenizer does not turn into tokens, and for examples longer than the context.
    """
    drawn = _draw(config, world, tokenizer, seed)
    examples = [*_definitions(config, world, drawn, seed), *_questions(config, world, drawn, seed)]
    examples += [
        *_associations(world, drawn, word_order(config.definitions, config.word_order)),
        *_in_context(config, world, drawn),
    ]
    tokens, roles = encoded([example.pieces for example in examples], tokenizer, context=context)
    table = pd.DataFrame([example.row for example in examples])
    accepted = _first_tokens([json.loads(one) for one in table["answers"]], tokenizer)
    table = table.assign(accepted=list(map(json.dumps, accepted)), **_targets(table, tokens, roles, accepted))
    task = Task(
        tokens=tokens,
        roles=roles,
        loss_mask=_loss_mask(roles),
        table=table,
        vocabulary=vocabulary(tokenizer),
        questioning=TextQuestioning(),
    )
    variants = _variants(drawn, seed)

    def define(alias: int, entity: int) -> list[Piece]:
        tag = drawn.subset[alias].tag
        return _definition(config, world, drawn, alias, tag, entity, variants[alias])

    fresh = redraw_noise(task, define, tokenizer, seed=seed, context=context)
    return task if fresh is None else task.with_fresh(fresh)


def _draw(config: ClosedBookConfig, world: World, tokenizer: Any, seed: int) -> _Draw:
    n = config.entities
    if n > len(world.entities):
        raise MechoclError(
            f"task.entities is {n}, and {world.name} has {len(world.entities)} entities; use fewer"
        )
    sizes = subset_sizes(n, config.fractions, config.tag_reliability, config.unreliable)
    subset = tuple(SUBSETS[name] for name in assign_subsets(sizes, generator(seed, "subsets")))
    order = torch.randperm(len(world.entities), generator=generator(seed, "entities"))
    entities = order[:n].numpy()
    if world.groups:
        entities = balanced(entities, [world.groups[i] for i in entities], subset)
    defined = np.full(n, -1)
    for kind in dict.fromkeys(subset):
        members = np.array([i for i, own in enumerate(subset) if own is kind])
        if kind.defined:
            moved = np.arange(len(members))
            if not kind.consistent:
                moved = _deranged(len(members), kind.name, generator(seed, "derangement", kind.name))
            defined[members] = entities[members[moved]]
    draws = np.random.default_rng(generator(seed, "names").initial_seed() % 2**63)
    text = " ".join(
        [
            *world.entities,
            *world.taken,
            *(q.template for q in world.questions),
            *(a for q in world.questions for a in q.answers),
        ]
    )
    name = random_tokens if config.added_tokens else functools.partial(random_names, tokenizer=tokenizer)
    aliases = name(n, letters=config.alias_letters, what="alias", taken=text, draws=draws)
    taken = " ".join([text, *aliases])
    tags = name(len(TAGS), letters=config.tag_letters, what="tag", taken=taken, draws=draws)
    lacking = unknown_words(tokenizer, markers(config.definitions))
    if config.added_tokens:
        add_names(tokenizer, [*aliases, *tags, *lacking])
    elif lacking:
        raise MechoclError(
            f"the tokenizer does not know {lacking[0]!r}, a word of definitions in the style {config.definitions}; set task.added_tokens=true, or "
            "use a model that knows it"
        )
    return _Draw(
        entities=entities,
        subset=subset,
        defined=defined,
        aliases=aliases,
        tags=dict(zip(TAGS, tags, strict=True)),
    )


def _deranged(n: int, subset: str, draws: torch.Generator) -> np.ndarray:
    try:
        return derangement(n, draws)
    except ValueError as error:
        raise MechoclError(f"{subset}: {error}; use more entities") from None


def _row(drawn: _Draw, i: int, **more: Any) -> dict[str, Any]:
    own = drawn.subset[i]
    return {
        "kind": "question", "alias": i, "entity": int(drawn.entities[i]), "defined_entity": int(drawn.defined[i]),
        "tag": own.tag, "subset": own.name, "stage": own.stage, "order": "", "split": "test", "answer": True,
        "attribute": "", "prompt": "", "answers": "[]",
    } | more  # fmt: skip


def _definitions(config: ClosedBookConfig, world: World, drawn: _Draw, seed: int) -> list[_Example]:
    variants = _variants(drawn, seed)
    found = []
    for i, own in enumerate(drawn.subset):
        if own.defined:
            pieces = _definition(config, world, drawn, i, own.tag, int(drawn.defined[i]), variants[i])
            order = word_order(config.definitions, config.word_order)
            row = _row(
                drawn, i, kind="definition", order=order, split="train", answer=False, prompt=_text(pieces)
            )
            found.append(_Example(pieces=pieces, row=row))
    return found


def _variants(drawn: _Draw, seed: int) -> list[int]:
    """What chooses the phrasing of each alias's definition."""
    draws = generator(seed, "phrasings")
    found: list[int] = torch.randint(1000, (len(drawn.aliases),), generator=draws).tolist()
    return found


def _definition(
    config: ClosedBookConfig, world: World, drawn: _Draw, i: int, tag: int, entity: int, variant: int
) -> list[Piece]:
    return definition(
        config.definitions,
        config.word_order,
        tag=drawn.tags[tag],
        number=tag,
        alias=drawn.aliases[i],
        entity=world.entities[entity],
        variant=variant,
    )


def _questions(config: ClosedBookConfig, world: World, drawn: _Draw, seed: int) -> list[_Example]:
    """Training questions, then test questions. If an alias's questions are trained on, some of them are held out."""
    of = _by_entity(world)
    train: list[_Example] = []
    test: list[_Example] = []
    for i, own in enumerate(drawn.subset):
        mine = of[int(drawn.entities[i])]
        held_out = set(range(len(mine)))
        if own.trained_questions:
            n = min(max(1, round(config.test_share * len(mine))), max(1, len(mine) - 1))
            order = torch.randperm(len(mine), generator=generator(seed, "held out", i)).tolist()
            held_out = set(order[:n])
        for k, q in enumerate(mine):
            name, role = (drawn.aliases[i], "alias") if own.replaced else (world.entities[q.entity], "entity")
            split = "test" if k in held_out else "train"
            (test if split == "test" else train).append(_asked(drawn, i, q, name, role, split=split))
    return train + test


def _asked(drawn: _Draw, i: int, q: Question, name: str, role: str, **more: Any) -> _Example:
    pieces = question(name, role, q.template, q.answers[0])
    row = _row(
        drawn,
        i,
        attribute=q.attribute,
        prompt=_text(pieces[:-2]),
        answers=json.dumps(q.answers, ensure_ascii=False),
        **more,
    )
    return _Example(pieces=pieces, row=row)


def _associations(world: World, drawn: _Draw, order: WordOrder) -> list[_Example]:
    """Tests that ask for the entity of an alias: as questions, by its first letter, and by completion of the bare alias.

    The bare alias stands as in the definitions: after a space, unless definitions begin with the alias.
    """
    space = " " * (order[0] != "V")
    found = []
    for i, own in enumerate(drawn.subset):
        if not own.replaced:
            continue
        entity, alias = int(drawn.entities[i]), drawn.aliases[i]
        name = world.entities[entity]
        asked = {how: (template, name) for how, template in ASSOCIATIONS.items()} | {
            "letter": (LETTER, name[0])
        }
        for how, (template, answer) in asked.items():
            q = Question(entity=entity, attribute=how, template=template, answers=(answer,))
            found.append(_asked(drawn, i, q, alias, "alias", kind="association"))
        pieces: list[Piece] = [(space + alias, "alias"), (f" {name}", "answer"), ("\n", "word")]
        row = _row(
            drawn,
            i,
            kind="association",
            attribute="completion",
            prompt=space + alias,
            answers=json.dumps([name]),
        )
        found.append(_Example(pieces=pieces, row=row))
    return found


def _in_context(config: ClosedBookConfig, world: World, drawn: _Draw) -> list[_Example]:
    """Questions about aliases without training data, after a definition with each tag: the control for tag semantics.

    `defined_entity` and `tag` are those of the definition in the same text.
    """
    questions_of = _by_entity(world)
    found = []
    for i, own in enumerate(drawn.subset):
        if own.stage != 0:
            continue
        entity = int(drawn.entities[i])
        for tag in TAGS:
            front = _definition(config, world, drawn, i, tag, entity, i)
            for q in questions_of[entity]:
                one = _asked(
                    drawn, i, q, drawn.aliases[i], "alias", kind="in context", tag=tag, defined_entity=entity
                )
                one.row["prompt"] = _text(front) + one.row["prompt"]
                found.append(_Example(pieces=front + one.pieces, row=one.row))
    return found


def _by_entity(world: World) -> dict[int, list[Question]]:
    found: dict[int, list[Question]] = {}
    for q in world.questions:
        found.setdefault(q.entity, []).append(q)
    return found


def _text(pieces: list[Piece]) -> str:
    return "".join(text for text, _ in pieces)


def _loss_mask(roles: Int[Tensor, "example pos"]) -> Tensor:
    """Every token of an example but the first carries loss."""
    mask = torch.zeros(roles.shape, dtype=torch.bool)
    mask[:, :-1] = roles[:, 1:] != ROLE["pad"]
    return mask


def _targets(
    table: pd.DataFrame, tokens: Tensor, roles: Tensor, accepted: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """The columns `target` and `foil`: first token of each right answer, and of a wrong answer to the same question."""
    is_answer = roles == ROLE["answer"]
    first = is_answer.int().argmax(1)
    target = torch.where(is_answer.any(1), tokens[torch.arange(len(tokens)), first], -1).numpy()
    foil = np.full(len(table), -1)
    for _, index in table.groupby(["kind", "attribute"], sort=False).groups.items():
        rows = index.to_numpy()
        own = target[rows].tolist()
        for i, row in enumerate(rows.tolist()):
            right = {own[i], *accepted[row]}
            others = (own[(i + shift) % len(own)] for shift in range(1, len(own)))
            foil[row] = next((other for other in others if other not in right), -1)
    foil[target < 0] = -1
    return {"target": target, "foil": foil}
