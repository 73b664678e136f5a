"""Which edges a model has on some pairs: who writes, who reads, and where."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.models.components import (
    Components,
    take_apart,
)
from mechocl.models.seam import Transformer

Along = Literal["position", "role"]


@dataclass(frozen=True, slots=True)
class Graph:
    """Senders, receivers, and where edges between them can lie."""

    senders: tuple[str, ...]
    """`embed`, `L0H0`, …, `L0 mlp`, `L1H0`, … in the order of computation."""
    receivers: tuple[str, ...]
    """Layer by layer `L0H0 q`, …, `L0H0 k`, …, `L0H0 v`, …, `L0 mlp`; then `logits`. Where several heads share keys and
    values, `L0KV0 k`, …, `L0KV0 v`, …: the key/value heads."""
    places: tuple[str, ...]
    """Positions, or roles of positions."""
    possible: Bool[Tensor, "sender receiver place"]
    """Whether the receiver reads what the sender writes there, and its answer can depend on it."""

    def index(self, sender: str, receiver: str, place: str) -> tuple[int, int, int]:
        """Indices of an edge in `possible`. Raises MechoclError for an edge that the model does not have."""
        names = (
            ("sender", sender, self.senders),
            ("receiver", receiver, self.receivers),
            ("place", place, self.places),
        )
        for what, name, known in names:
            if name not in known:
                raise MechoclError(f"no {what} is called {name!r}; there are {', '.join(known)}")
        found = (self.senders.index(sender), self.receivers.index(receiver), self.places.index(place))
        if not self.possible[found]:
            raise MechoclError(
                f"{receiver} does not read {sender} at {place}, or the answer cannot depend on it"
            )
        return found


def graph_of(model: Transformer, pairs: Pairs, *, along: Along | None = None) -> Graph:
    """The edges of a model on these pairs; `places_of` explains `along`.

    Raises MechoclError when roles are asked for and a position has no role.
    """
    return graph_from(take_apart(model), pairs, along)


def graph_from(c: Components, pairs: Pairs, along: Along | None) -> Graph:
    places, where = places_of(pairs, along)
    senders, sender_rank = ["embed"], [0]
    receivers, receiver_rank, heard = [], [], []
    for layer in range(c.n_layers):
        heads = [f"L{layer}H{h}" for h in range(c.n_heads)]
        answers = _heard(pairs, where, len(places), last=layer == c.n_layers - 1)
        shared = heads if c.n_key_value_heads == c.n_heads else _key_value_heads(c, layer)
        reading = [(head, name) for name in ("q", "k", "v") for head in (heads if name == "q" else shared)]
        receivers += [f"{head} {name}" for head, name in reading]
        receiver_rank += [2 * layer] * len(reading)
        heard += [answers[name] for _, name in reading]
        senders += heads
        sender_rank += [2 * layer + 1] * c.n_heads
        if not c.attn_only:
            receivers.append(f"L{layer} mlp")
            receiver_rank.append(2 * layer if c.parallel else 2 * layer + 1)
            heard.append(answers["mlp"])
            senders.append(f"L{layer} mlp")
            sender_rank.append(2 * layer + 2 - c.parallel)
    receivers.append("logits")
    receiver_rank.append(2 * c.n_layers)
    heard.append(answers["mlp"])  # in the last layer, only where the answer is read
    # components in the same half of a layer cannot read each other
    comes_before = torch.tensor(sender_rank)[:, None] <= torch.tensor(receiver_rank)
    possible = comes_before[..., None] & torch.stack(heard)
    return Graph(tuple(senders), tuple(receivers), places, possible)


def _key_value_heads(c: Components, layer: int) -> list[str]:
    return [f"L{layer}KV{h}" for h in range(c.n_key_value_heads)]


def _heard(
    pairs: Pairs, where: Int[Tensor, "pair pos"], places: int, *, last: bool
) -> dict[str, Bool[Tensor, "place"]]:
    """Where the answer can depend on what a query, a key, a value or an MLP of a layer reads."""
    position, read = torch.arange(where.shape[1]), pairs.read[:, None]
    before, asking = position <= read, position == read if last else position <= read
    # the first position attends to itself whatever its query is; in the last layer only the positions count at
    # which the answer is read
    masks = {"q": asking & (position > 0), "k": before & (read > 0), "v": before, "mlp": asking}
    return {name: torch.bincount(where[mask], minlength=places) > 0 for name, mask in masks.items()}


def places_of(pairs: Pairs, along: Along | None) -> tuple[tuple[str, ...], Int[Tensor, "pair pos"]]:
    """The names of the places, and the index of the place that each position of each pair belongs to.

    `along`: whether a place is a position or the role of a position. None: the role where every position of
    every pair has one, else the position, as in the user's own pairs.
    """
    if along is None:
        along = "position" if (pairs.roles < 0).any() else "role"
    if along not in get_args(Along):
        raise MechoclError(f"along is {along!r}; use one of {', '.join(get_args(Along))}")
    if along == "position":
        return pairs.labels, torch.arange(len(pairs.labels)).expand(pairs.clean.shape)
    present = [i for i in range(len(ROLE_NAMES)) if bool((pairs.roles == i).any())]
    if (pairs.roles < 0).any():
        raise MechoclError(f"{pairs.name} has positions without a role; look at edges by position")
    new = torch.zeros(len(ROLE_NAMES), dtype=torch.int64)
    new[present] = torch.arange(len(present))
    return tuple(ROLE_NAMES[i] for i in present), new[pairs.roles]
