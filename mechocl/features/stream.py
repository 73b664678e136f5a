"""Endless batches of a task's activations, which dictionaries are trained on.

Examples are drawn with replacement from the task's own texts, in a mix of questions and definitions and of
subsets that the user sets. A buffer of examples goes through the model at a time; its tokens are shuffled and dealt
out in batches. Memory is bounded by the buffer, whatever the number of activations.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mechocl.behaviour.subset_names import subset_named
from mechocl.errors import MechoclError
from mechocl.features.dictionaries import flat
from mechocl.memory import require_memory
from mechocl.models import activations
from mechocl.models.seam import Transformer
from toy_models.randomness import generator
from toy_models.task import ROLE, ROLES, Task

_UNREAD: Final = (ROLE["pad"], ROLE["answer"])
"""Roles of tokens that are left out, because no text goes on after them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """Which texts are drawn, and how often."""

    questions: float
    """Share of the examples that are questions; the rest are definitions."""
    subsets: tuple[str, ...] = ()
    """Subsets, each with a weight (`d1_consistent=2`, or `d1_consistent` for 1); if empty, all by their own sizes."""
    roles: tuple[str, ...] = ()
    """Roles of the tokens (alias, list, equals, …); if empty, all except the answer."""

    def __post_init__(self) -> None:
        if not 0 <= self.questions <= 1:
            raise MechoclError(f"questions is {self.questions}; it is a share, from 0 to 1")
        if unknown := set(self.roles) - set(ROLES[1:]):
            raise MechoclError(f"no token has the role {min(unknown)!r}; roles are {', '.join(ROLES[1:])}")


def held_out(task: Task, share: float, *, seed: int) -> Bool[np.ndarray, " alias"]:
    """Whether each alias is kept from a dictionary (or from a choice): a random share of each subset.

    The array is indexed by alias. Raises MechoclError for a share outside (0, 1).
    """
    if not 0 < share < 1:
        raise MechoclError(f"held_out is {share}; it is a share between 0 and 1")
    of = task.table.drop_duplicates("alias")
    out = np.zeros(int(of["alias"].max()) + 1, dtype=bool)
    draws = generator(seed, "held-out aliases")
    for _, part in of.sort_values("alias").groupby("subset", observed=True):
        members = part["alias"].to_numpy()
        n = min(len(members) - 1, max(1, round(share * len(members))))
        out[members[torch.randperm(len(members), generator=draws).numpy()[:n]]] = True
    return out


def about_aliases(task: Task, chosen: Bool[np.ndarray, " alias"]) -> Task:
    """The examples about some aliases. Raises MechoclError when there are none."""
    rows = np.flatnonzero(chosen[task.table["alias"].to_numpy()])
    if len(rows) == 0:
        raise MechoclError("there is no example about the chosen aliases; use a larger share")
    return task.take(rows)


def weights(task: Task, mix: Mix, *, without: Bool[np.ndarray, " alias"]) -> Float[np.ndarray, " example"]:
    """How often each example is drawn; they sum to 1.

    `without` are aliases that are left out. Raises MechoclError for a subset that the task does not have, and for a mix
    that leaves nothing.
    """
    table = task.table
    subset = table["subset"].astype(str)
    weight = np.where(without[table["alias"].to_numpy()], 0.0, 1.0)
    if mix.subsets:
        wanted = {subset_named(task, name): share for name, share in map(_weighted, mix.subsets)}
        # a subset's weight is divided among its questions, and among its definitions
        size = (
            pd.Series(weight)
            .groupby([subset.to_numpy(), table["kind"].to_numpy()])
            .transform("sum")
            .to_numpy()
        )
        weight = weight * subset.map(wanted).fillna(0.0).to_numpy() / np.maximum(size, 1)
    is_question = (table["kind"] == "question").to_numpy()
    for kind, share in ((is_question, mix.questions), (~is_question, 1 - mix.questions)):
        total = weight[kind].sum()
        if share > 0 and total == 0:
            what = "questions" if kind is is_question else "definitions"
            raise MechoclError(
                f"the mix asks for {what}, but the chosen subsets have none; choose other subsets"
            )
        weight[kind] *= share / total if total else 0.0
    found: np.ndarray = weight / weight.sum()
    return found


def _weighted(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        weight = float(value or 1)
    except ValueError:
        weight = -1.0
    if not 0 < weight < np.inf:
        raise MechoclError(f"subset {text!r}: write its weight as d1_consistent=2")
    return name.strip(), weight


class Stream(Iterator[dict[str, Tensor]]):
    """Batches of activations, hook point → (batch, d), of several models or one; it never ends.

    Every model sees the same tokens; where there are several, the hook points' names begin with their number and a
    colon (`0:blocks.0.hook_resid_post`).
    """

    def __init__(
        self,
        models: Sequence[Transformer],
        task: Task,
        sites: Sequence[str],
        *,
        weight: Float[np.ndarray, " example"],
        roles: tuple[str, ...],
        batch_size: int,
        buffer: int,
        seed: int,
    ) -> None:
        self._models = models
        self._sites = list(sites)
        self._task = task
        self._weight = weight
        self._read = read_tokens(task, roles)
        self._batch_size = batch_size
        self._buffer = max(buffer, batch_size)
        self._draws = np.random.default_rng(int(generator(seed, "activations").initial_seed()))
        self._left: dict[str, Tensor] = {}
        d = sum(_width(model, task, site) for model in models for site in self._sites)
        require_memory({"activations (buffer and batch_size)": 8 * d * self._buffer}, of="the training")
        if not self._read[torch.from_numpy(weight > 0)].any():
            raise MechoclError(f"no drawn text has a token of the roles {', '.join(roles)}")

    def __next__(self) -> dict[str, Tensor]:
        held = len(next(iter(self._left.values()))) if self._left else 0
        if held < self._batch_size:
            self._fill()
        batch = {site: x[: self._batch_size] for site, x in self._left.items()}
        self._left = {site: x[self._batch_size :] for site, x in self._left.items()}
        return batch

    def _fill(self) -> None:
        parts: dict[str, list[Tensor]] = {site: [x] for site, x in self._left.items()}
        held = len(next(iter(self._left.values()))) if self._left else 0
        per_example = self._read.sum(1).float() @ torch.from_numpy(self._weight).float()
        while held < self._buffer:
            missing = int(np.ceil((self._buffer - held) / float(per_example)))
            rows = torch.from_numpy(
                self._draws.choice(len(self._weight), size=min(max(missing, 1), 8192), p=self._weight)
            )
            read = self._read[rows]
            for number, model in enumerate(self._models):
                for site, x in activations.collect(model, self._task.tokens[rows], self._sites).items():
                    name = site if len(self._models) == 1 else f"{number}:{site}"
                    parts.setdefault(name, []).append(flat(x)[read])
            held += int(read.sum())
        order = torch.from_numpy(self._draws.permutation(held))
        self._left = {site: torch.cat(x)[order] for site, x in parts.items()}


def _width(model: Transformer, task: Task, site: str) -> int:
    """Dimensions of the activation of a token. Raises MechoclError for a hook point that has none of every token."""
    try:
        shape = activations.collect(model, task.tokens[:1], [site])[site].shape
    except KeyError:  # a hook point that the model's forward pass does not use
        shape = torch.Size()
    if len(shape) < 3 or shape[:2] != task.tokens[:1].shape or "pattern" in site or "scores" in site:
        raise MechoclError(
            f"{site} has no activation of every token; use another hook point, such as blocks.0.hook_resid_pre"
        )
    return math.prod(shape[2:])


def read_tokens(task: Task, roles: tuple[str, ...]) -> Bool[Tensor, "example pos"]:
    """Tokens that are read: those of the roles; without roles, all except pads and answers."""
    wanted = [ROLE[name] for name in roles] or [i for i in range(len(ROLES)) if i not in _UNREAD]
    found: Tensor = torch.isin(task.roles, torch.tensor(wanted))
    return found
