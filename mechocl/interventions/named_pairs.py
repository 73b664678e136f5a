"""Clean and corrupted pairs that isolate one thing each, built from a task and named in one word."""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.accepted import require_count
from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError, MechoclWarning, TooLittleData
from mechocl.interventions import picture_pairs
from mechocl.interventions.drawn_questions import asked_in_tests, shuffled
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.interventions.pairs_csv import read_pairs as pairs_of_file
from mechocl.models.layout import asked_positions, shared_positions
from toy_models.filters import NUMBERS
from toy_models.randomness import generator
from toy_models.task import ROLE, Task

FORMS: Final = ("d1-to-d2", "d1-to-other-d2", "d1-with-to-without", "tag1-to-tag2", "d1-to-itself")
"""One name of each kind of pairs (`interventions.pairs` explains them). Other subsets and tags may stand in it."""


class PairsCut(MechoclWarning):
    """Not all pairs of a file are used."""


def pairs_named(task: Task, name: str, *, n_pairs: int, seed: int) -> Pairs:
    """The pairs of one of the names that `interventions.pairs` lists; there may be fewer than asked for.

    Warns with PairsCut of a file that has more. Raises MechoclError for an unknown name, for an empty subset, and when no
    pair fits.
    """
    require_count("pairs_named", "n_pairs", n_pairs)
    if path := file_of(name):
        own = pairs_of_file(task, path)
        if len(own) > n_pairs:
            warnings.warn(
                f"{name}: only the first {n_pairs} of its {len(own)} pairs are used; a larger n_pairs takes more",
                PairsCut,
                stacklevel=2,
            )
        return own[:n_pairs]
    if picture_pairs.has_pictures(task):
        return picture_pairs.pairs_of_pictures(task, name, n_pairs=n_pairs, seed=seed)
    if found := re.fullmatch(r"tag(\d)-to-tag(\d)", name):
        clean, corrupted = map(int, found.groups())
        return tag_pairs(task, clean=clean, corrupted=corrupted, n_pairs=n_pairs, seed=seed)
    if found := re.fullmatch(r"(\w+)-to-itself", name):
        return question_pairs(task, subsets=(subset_named(task, found[1]),), n_questions=n_pairs, seed=seed)
    if found := re.fullmatch(r"(\w+)-with-to-without", name):
        return list_pairs(task, subset=subset_named(task, found[1]), n_pairs=n_pairs, seed=seed)
    if found := re.fullmatch(r"(\w+)-to-(other-)?(\w+)", name):
        first, second = (subset_named(task, found[i]) for i in (1, 3))
        same = found[2] is None
        return alias_pairs(task, clean=first, corrupted=second, same_integer=same, n_pairs=n_pairs, seed=seed)
    raise MechoclError(f"no pairs are called {name!r}; use {', '.join(FORMS)}, or a .csv file")


def contrast_names(pairs: Sequence[str]) -> tuple[str, ...]:
    """What each of the pairs that a config names is called in rows: a file by its name, or by its path if two have one name.

    Raises MechoclError when none is named, and when one is named twice.
    """
    if not pairs:
        raise MechoclError("pairs is empty; name at least one contrast")
    same = [str(Path(name).resolve()) if name.lower().endswith(".csv") else name for name in pairs]
    for name, one in zip(pairs, same, strict=True):
        if same.count(one) > 1:
            raise MechoclError(f"pairs has {name} twice; name each once")
    files = [Path(name).name for name in pairs]
    short = [file if name.lower().endswith(".csv") else name for name, file in zip(pairs, files, strict=True)]
    return tuple(name if short.count(file) > 1 else file for name, file in zip(pairs, short, strict=True))


def say_cuts(
    task: Task, pairs: Sequence[str], *, n_pairs: int, most: int, option: str = "n_pairs="
) -> list[str]:
    """A line for each file of which only the first `most` pairs are used, with the `n_pairs` that takes all of them.

    `option` is how `n_pairs` is written.
    """
    lines = []
    for name in (name for name in pairs if name.lower().endswith(".csv")):
        there = len(pairs_of_file(task, Path(name)))
        if there > most:
            needed = -(-there * n_pairs // most)
            lines.append(
                f"{name}: only the first {most} of its {there} pairs are used; {option}{needed} takes all of them"
            )
    return lines


def file_of(name: str) -> Path | None:
    """The user's own table that a name of pairs stands for. None for pairs that are made from the task."""
    return Path(name) if name.lower().endswith(".csv") else None


def alias_pairs(
    task: Task, *, clean: str, corrupted: str, same_integer: bool, n_pairs: int, seed: int
) -> Pairs:
    """Test questions about aliases of subset `clean`, and the same lists asked about aliases of `corrupted`.

    With `same_integer` the two aliases stand for the same integer, so only how they were defined differs,
    and each clean alias has one partner throughout. Without it they stand for different ones, and exactly one
    of the two integers is in the list. No alias is paired with itself. Raises MechoclError when a subset is
    empty, no pair fits, or the two subsets' names differ in length.
    """
    table = task.table
    questions = {name: asked_in_tests(task, name) for name in (clean, corrupted)}
    draws = generator(seed, "pairs", clean, corrupted, same_integer)
    rows = shuffled(questions[clean], draws)
    others = table.iloc[questions[corrupted]].drop_duplicates("alias")
    candidates, entities = others["alias"].to_numpy(), others["entity"].to_numpy()
    alias, entity = (table[column].to_numpy() for column in ("alias", "entity"))
    chosen: list[int] = []
    partners: list[int] = []
    partner_of: dict[int, int] = {}
    for row in rows.tolist():
        if len(chosen) == n_pairs:
            break
        if same_integer:
            fits = candidates[(entities == entity[row]) & (candidates != alias[row])]
        else:
            differs = (entities != entity[row]) & task.questioning.changes_answer(task, row, entities)
            fits = candidates[differs]
        if len(fits):
            drawn = int(fits[int(torch.randint(len(fits), (1,), generator=draws))])
            chosen.append(row)
            partners.append(partner_of.setdefault(int(alias[row]), drawn) if same_integer else drawn)
    if not chosen:
        raise TooLittleData(f"no question about {clean} has a partner in {corrupted}; use more aliases")
    arrow = "to" if same_integer else "to-other"
    return partner_pairs(task, np.array(chosen), partners, name=f"{clean}-{arrow}-{corrupted}")


def partner_pairs(task: Task, rows: np.ndarray, partners: Sequence[int], *, name: str) -> Pairs:
    """Questions, and the same questions asked about another alias: `partners` has the alias for each of the `rows`.

    Raises MechoclError when an alias and its partner have names of different lengths.
    """
    table = task.table
    picked = torch.from_numpy(rows)
    tokens = task.tokens[picked]
    is_name = task.roles[picked] == ROLE["alias"]
    names = _names(task, list(partners))
    if len(names) != is_name.sum():
        raise MechoclError(f"{name}: its examples name their aliases by different numbers of tokens")
    swapped = tokens.clone()
    swapped[is_name] = names
    asked = table.loc[task.rows(kind="question")].drop_duplicates("alias")
    entity_of = dict(zip(asked["alias"].tolist(), asked["entity"].tolist(), strict=True))
    rival = torch.tensor([entity_of[partner] for partner in partners])
    return _question_pairs(task, name, rows, tokens, swapped, rival)


def question_pairs(task: Task, *, subsets: Sequence[str], n_questions: int, seed: int) -> Pairs:
    """Test questions about aliases of some subsets, each paired with itself.

    All questions about one alias come together. Raises MechoclError when a subset has no questions.
    """
    rows = np.concatenate([asked_in_tests(task, subset) for subset in subsets])
    alias = task.table["alias"].to_numpy()[rows]
    order = torch.randperm(int(alias.max()) + 1, generator=generator(seed, "questions", *subsets)).numpy()
    rows = rows[np.argsort(order[alias], kind="stable")][:n_questions]
    tokens = task.tokens[torch.from_numpy(rows)]
    names = "+".join(subsets)
    return _question_pairs(task, f"{names}-to-itself", rows, tokens, tokens, None)


def list_pairs(task: Task, *, subset: str, n_pairs: int, seed: int) -> Pairs:
    """Questions whose list contains the alias's integer, and the same questions with another integer in its place.

    Raises MechoclError when the subset has no questions, or every integer is in the list.
    """
    draws = generator(seed, "list pairs", subset)
    rows = asked_in_tests(task, subset)
    rows = shuffled(rows[task.table["answer"].to_numpy()[rows]], draws)[:n_pairs]
    tokens = task.tokens[torch.from_numpy(rows)]
    try:
        swapped = task.questioning.without_entity(task, rows, draws)
    except ValueError as error:
        raise MechoclError(
            f"{subset}-with-to-without: {error}; use {subset}-to-other-{subset}, which every world has"
        ) from None
    return _question_pairs(task, f"{subset}-with-to-without", rows, tokens, swapped, None)


def tag_pairs(task: Task, *, clean: int, corrupted: int, n_pairs: int, seed: int) -> Pairs:
    """Definitions that carry define tag `clean`, and the same definitions with define tag `corrupted`.

    The target is the defined entity, read just before it; there is no foil. Raises MechoclError when the
    task has no definitions with one of the tags, or when the tag comes after the entity.
    """
    rows = {
        tag: task.rows(kind="definition", tag=tag) if tag in NUMBERS["tag"] else np.array([], dtype=int)
        for tag in (clean, corrupted)
    }
    for tag, found in rows.items():
        if len(found) == 0:
            raise MechoclError(
                f"the run has no definitions with tag {tag}; it has tags 1 to 3 at most; a text world has those of "
                "the layout that is read"
            )
    chosen = shuffled(rows[clean], generator(seed, "tag pairs", clean, corrupted))[:n_pairs]
    picked = torch.from_numpy(chosen)
    is_tag = task.roles == ROLE["tag"]
    at = (task.roles[picked] == ROLE["entity"]).int().argmax(1).numpy()
    if (is_tag[picked].int().argmax(1).numpy() > at).any():
        raise MechoclError(
            "in this word order the tag comes after the entity, so it cannot change the prediction of the entity"
        )
    tag_token = task.tokens[int(rows[corrupted][0])][is_tag[int(rows[corrupted][0])]]
    tokens = task.tokens[picked]
    if not bool((is_tag[picked].sum(1) == len(tag_token)).all()):
        raise MechoclError(
            f"the definitions of tag {clean} and tag {corrupted} differ in length; tags cannot be exchanged"
        )
    swapped = tokens.clone()
    swapped[is_tag[picked]] = tag_token.repeat(len(tokens))
    end = int(at.max())
    layout = task.roles[picked][:, :end]
    roles = _roles(layout, last_apart=task.questioning.last_alias_token_apart)
    return Pairs(
        name=f"tag{clean}-to-tag{corrupted}",
        clean=tokens[:, :end],
        corrupted=swapped[:, :end],
        read=torch.from_numpy(at - 1),
        target=tokens[torch.arange(len(tokens)), torch.from_numpy(at)],
        foil=torch.full((len(tokens),), -1),
        labels=tuple(shared_positions(task, chosen)[:end]),
        roles=roles,
        alias=torch.from_numpy(task.table["alias"].to_numpy()[chosen]),
        contains=torch.ones(len(tokens), dtype=torch.bool),
    )


def _question_pairs(
    task: Task, name: str, rows: np.ndarray, clean: Tensor, corrupted: Tensor, rival: Tensor | None
) -> Pairs:
    """Pairs of questions up to `=`. `rival`: the integer of the corrupted alias, where it has its own."""
    labels = asked_positions(task, rows)
    end = len(labels)
    picked = torch.from_numpy(rows)
    first = task.vocabulary.integers[0]
    entity = torch.from_numpy(task.table["entity"].to_numpy()[rows])
    contains = torch.from_numpy(task.table["answer"].to_numpy()[rows])
    layout, shown = task.roles[picked][:, :end], clean[:, :end]
    is_list = layout == ROLE["list"]
    roles = _roles(layout, last_apart=task.questioning.last_alias_token_apart)
    if rival is not None:
        roles[is_list & (shown == first + rival[:, None])] = ROLE_NAMES.index("rival")
    roles[is_list & (shown == first + entity[:, None])] = ROLE_NAMES.index("match")
    target, foil = task.answers_of(rows)[0], task.questioning.wrong_answers(task, rows, rival)
    return Pairs(
        name=name,
        clean=shown,
        corrupted=corrupted[:, :end],
        read=torch.full((len(rows),), end - 1),
        target=target,
        foil=foil,
        labels=tuple(labels),
        roles=roles,
        alias=torch.from_numpy(task.table["alias"].to_numpy()[rows]),
        contains=contains,
    )


def _names(task: Task, aliases: list[int]) -> Int[Tensor, "token"]:
    """Name tokens of the given aliases, one after another."""
    questions = task.table.loc[task.rows(kind="question")].drop_duplicates("alias")
    row_of = dict(zip(questions["alias"], questions.index, strict=True))
    rows = torch.tensor([row_of[a] for a in aliases])
    return task.tokens[rows][task.roles[rows] == ROLE["alias"]]


def _roles(layout: Int[Tensor, "pair pos"], *, last_apart: bool) -> Int[Tensor, "pair pos"]:
    """Indices into `ROLE_NAMES`; list items are `others`."""
    roles = torch.full_like(layout, -1)
    shown_as = {
        "tag": "tag",
        "alias": "alias",
        "separator": "%",
        "equals": "=",
        "list": "others",
        "word": "words",
    }
    for role, name in shown_as.items():
        roles[layout == ROLE[role]] = ROLE_NAMES.index(name)
    if last_apart:
        is_name = layout == ROLE["alias"]
        last = is_name.clone()
        last[:, :-1] &= ~is_name[:, 1:]
        roles[last] = ROLE_NAMES.index("last alias token")
    return roles
