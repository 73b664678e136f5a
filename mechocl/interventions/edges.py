"""Edges between components: path patching, edge attribution, and its integrated-gradients form.

A component writes into the residual stream (a *sender*: the embedding, a head, an MLP) and others read it (a
*receiver*: the query, key or value input of a head, an MLP, the unembedding). An edge is a sender, a receiver
and a position or role; along it flows what that sender wrote there, straight to that receiver. Every edge
score has one sign: **positive where the clean value on this edge speaks for the clean answer**.

Path patching: Wang et al. 2022 (arXiv 2211.00593), Goldowsky-Dill et al. 2023 (2304.05969). By gradients:
`edge_attribution`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

import pandas as pd
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.metrics import Metric, metric_named
from mechocl.interventions.pairs import ROLE_NAMES, Pairs
from mechocl.models.components import (
    Components,
    attention_pattern,
    head_results,
    mix,
    mlp,
    project,
    rotate,
    take_apart,
    untouched,
)
from mechocl.models.seam import Transformer

Along = Literal["position", "role"]

_EDGES_AT_ONCE: Final = 1024
"""Edges whose choice is written out at once: all of a large model's would be their number squared."""


@dataclass(frozen=True, slots=True)
class Graph:
    """Senders, receivers, and where edges between them can lie."""

    senders: tuple[str, ...]
    """`embed`, `L0H0`, …, `L0 mlp`, `L1H0`, … in the order of computation."""
    receivers: tuple[str, ...]
    """Layer by layer `L0H0 q`, …, `L0H0 k`, …, `L0H0 v`, …, `L0 mlp`; then `logits`."""
    places: tuple[str, ...]
    """Positions, or roles of positions."""
    possible: Bool[Tensor, "sender receiver place"]
    """Whether the receiver reads what the sender writes there, and its answer can depend on it."""

    def index(self, sender: str, receiver: str, place: str) -> tuple[int, int, int]:
        """MechoclError for an edge that the model does not have."""
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


def graph_of(model: Transformer, pairs: Pairs, *, along: Along = "role") -> Graph:
    """The edges of a model on these pairs. Raises MechoclError where pairs have no roles."""
    return graph_from(take_apart(model), pairs, along)


def graph_from(c: Components, pairs: Pairs, along: Along) -> Graph:
    places, where = places_of(pairs, along)
    senders, sender_rank = ["embed"], [0]
    receivers, receiver_rank, heard = [], [], []
    for layer in range(c.n_layers):
        heads = [f"L{layer}H{h}" for h in range(c.n_heads)]
        answers = _heard(pairs, where, len(places), last=layer == c.n_layers - 1)
        receivers += [f"{head} {name}" for name in ("q", "k", "v") for head in heads]
        receiver_rank += [2 * layer] * 3 * c.n_heads
        heard += [answers[name] for name in ("q", "k", "v") for _ in heads]
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
    heard.append(answers["mlp"])  # the last layer's: where the answer is read
    # what is computed in the same half of a layer cannot read each other
    comes_before = torch.tensor(sender_rank)[:, None] <= torch.tensor(receiver_rank)
    possible = comes_before[..., None] & torch.stack(heard)
    return Graph(tuple(senders), tuple(receivers), places, possible)


def _heard(
    pairs: Pairs, where: Int[Tensor, "pair pos"], places: int, *, last: bool
) -> dict[str, Bool[Tensor, "place"]]:
    """Where the answer can depend on what a query, a key, a value or an MLP of a layer reads."""
    position, read = torch.arange(where.shape[1]), pairs.read[:, None]
    before, asking = position <= read, position == read if last else position <= read
    # the first position attends to itself, whatever its query; the last layer answers only where it is read
    masks = {"q": asking & (position > 0), "k": before & (read > 0), "v": before, "mlp": asking}
    return {name: torch.bincount(where[mask], minlength=places) > 0 for name, mask in masks.items()}


def places_of(pairs: Pairs, along: Along) -> tuple[tuple[str, ...], Int[Tensor, "pair pos"]]:
    """Names of places, and which one each position of each pair is."""
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


# ------------------------------------------------------------------------- the forward pass, edge by edge

Alter = Callable[
    [int, Float[Tensor, "batch pos d_model"], list[Tensor], int], Float[Tensor, "batch pos reads d_model"]
]
"""(index of the first receiver, the stream they read, what the senders wrote so far, how many receivers)
→ what each of them reads."""


def natural(first: int, stream: Tensor, senders: list[Tensor], n: int) -> Tensor:
    """Every receiver reads the residual stream."""
    return stream[:, :, None].expand(-1, -1, n, -1)


def split_run(
    c: Components, embedded: Float[Tensor, "batch pos d_model"], alter: Alter = natural
) -> tuple[Float[Tensor, "batch pos d_model"], list[Float[Tensor, "batch pos d_model"]]]:
    """A forward pass in which every receiver has a residual stream of its own.

    Gives what the unembedding reads, and what each sender wrote.
    """
    stream, senders, first = embedded, [embedded], 0
    for layer in range(c.n_layers):
        b, n = c.blocks[layer], c.n_heads
        q, k, v = (
            project(c, layer, name, b.ln1(alter(first + i * n, stream, senders, n)))
            for i, name in enumerate(("q", "k", "v"))
        )
        first += 3 * n
        z = mix(attention_pattern(rotate(c, q, first=0), rotate(c, k, first=0), first=0), v)
        results = head_results(c, layer, z)
        after = stream + results.sum(2) + b.b_O
        written = list(results.unbind(2))
        if not c.attn_only:
            read = (
                alter(first, stream, senders, 1) if c.parallel else alter(first, after, senders + written, 1)
            )
            written.append(mlp(c, layer, read[:, :, 0], untouched))
            after = after + written[-1]
            first += 1
        stream, senders = after, senders + written
    return alter(first, stream, senders, 1)[:, :, 0], senders


@dataclass(frozen=True, slots=True)
class _Override:
    """Chosen edges carry another run's values; `chosen` has one set of edges per unit."""

    reference: list[Float[Tensor, "pair pos d_model"]]
    chosen: Bool[Tensor, "unit sender receiver place"]
    where: Int[Tensor, "pair pos"]

    def __call__(self, first: int, stream: Tensor, senders: list[Tensor], n: int) -> Tensor:
        units = len(self.chosen)
        chosen = self.chosen[:, : len(senders), first : first + n]
        used = chosen.flatten(2).any(2).any(0).nonzero()[:, 0].tolist()
        read = natural(first, stream, senders, n)
        if not used:
            return read
        change = torch.stack(
            [repeat(self.reference[s], "pair ... -> (unit pair) ...", unit=units) - senders[s] for s in used]
        )
        mask = chosen[:, used][..., self.where].to(stream.dtype)
        mask = rearrange(mask, "unit sender read pair pos -> (unit pair) pos read sender")
        return read + einsum(
            change, mask, "sender batch pos d_model, batch pos read sender -> batch pos read d_model"
        )


def run_with_edges(
    model: Transformer,
    pairs: Pairs,
    chosen: Bool[Tensor, "unit sender receiver place"],
    *,
    metric: str,
    along: Along,
    base: Literal["clean", "corrupted"],
    batch_size: int = 1024,
) -> Float[Tensor, "unit"]:
    """The metric of the base run with sets of edges that carry the other run's values, one set per unit.

    The components behind an altered edge are computed anew, so that several edges act together. `chosen`:
    indices as in `graph_of`. `batch_size`: examples in one forward pass.
    """
    return _run_with_edges(take_apart(model), pairs, chosen, metric_named(metric), along, base, batch_size)


@torch.no_grad()
def _run_with_edges(
    c: Components,
    pairs: Pairs,
    chosen: Tensor,
    metric: Metric,
    along: Along,
    base: Literal["clean", "corrupted"],
    batch_size: int,
) -> Float[Tensor, "unit"]:
    graph, where = graph_from(c, pairs, along), places_of(pairs, along)[1]
    check_request(chosen, graph, batch_size)
    metric.check(pairs, c.W_U.shape[1])
    parts = []
    for rows in torch.split(torch.arange(len(pairs)), batch_size):
        chunk = pairs[rows]
        ids = metric.tokens(chunk)
        start, other = (chunk.clean, chunk.corrupted) if base == "clean" else (chunk.corrupted, chunk.clean)
        reference = split_run(c, c.embed(other))[1]
        clean = answer_logits(c, split_run(c, c.embed(chunk.clean))[0], chunk, ids, 1)[0]
        found = []
        for some in torch.split(chosen.to(c.device), max(1, batch_size // len(chunk))):
            embedded = repeat(c.embed(start), "pair ... -> (unit pair) ...", unit=len(some))
            end = split_run(c, embedded, _Override(reference, some, where[rows].to(c.device)))[0]
            found.append(metric.per_pair(answer_logits(c, end, chunk, ids, len(some)), chunk, clean).cpu())
        parts.append(torch.cat(found))
    return metric.pool(torch.cat(parts, 1), pairs)


def check_request(chosen: Tensor | None, graph: Graph, batch_size: int) -> None:
    if batch_size < 1:
        raise MechoclError(f"batch_size is {batch_size}; use at least 1")
    if chosen is not None and chosen.shape[1:] != graph.possible.shape:
        raise MechoclError(
            f"the chosen edges are {tuple(chosen.shape[1:])} (senders, receivers, places), the model has "
            f"{tuple(graph.possible.shape)} on these pairs; take the indices from graph_of"
        )


def answer_logits(
    c: Components, end: Tensor, pairs: Pairs, ids: Tensor | None, units: int
) -> Float[Tensor, "unit pair id"]:
    """Logits where each pair's answer is read, from what the unembedding reads of `units` runs of all pairs."""
    at = torch.arange(len(end), device=end.device)
    own = end[at, pairs.read.repeat(units).to(end.device)]
    logits = c.logits(own, None if ids is None else ids.to(end.device))
    return rearrange(logits, "(unit pair) id -> unit pair id", unit=units)


# ------------------------------------------------------------------------------------------ edge scores


@dataclass(frozen=True, slots=True)
class EdgeScores:
    """A score for every edge of a model on some pairs."""

    graph: Graph
    scores: Float[Tensor, "sender receiver place"]
    """In the metric's unit; 0 where there is no edge."""
    clean: float
    corrupted: float
    metric: str
    method: str
    pairs: str

    def rows(self) -> pd.DataFrame:
        """`sender`, `receiver`, `place`, `score`: one row per possible edge, the largest first."""
        index = self.graph.possible.nonzero()
        table = pd.DataFrame(
            {
                "sender": [self.graph.senders[i] for i in index[:, 0].tolist()],
                "receiver": [self.graph.receivers[i] for i in index[:, 1].tolist()],
                "place": [self.graph.places[i] for i in index[:, 2].tolist()],
                "score": self.scores[tuple(index.T)].numpy(),
            }
        )
        order = table["score"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)


def patch_paths(
    model: Transformer,
    pairs: Pairs,
    paths: Sequence[tuple[str, str, str]],
    *,
    metric: str = "logit_difference",
    along: Along = "role",
    together: bool = False,
    batch_size: int = 1024,
) -> Float[Tensor, "path"]:
    """Path patching: effect of the clean value on each edge (sender, receiver, place) of the corrupted run.

    patched − corrupted, in the metric's unit. `together`: all at once, one number. Raises MechoclError for an
    edge that the model does not have.
    """
    graph = graph_of(model, pairs, along=along)
    chosen = torch.zeros(len(paths), *graph.possible.shape, dtype=torch.bool)
    for i, path in enumerate(paths):
        chosen[(i, *graph.index(*path))] = True
    if together:
        chosen = chosen.any(0, keepdim=True)
    chosen = torch.cat([chosen, torch.zeros(1, *graph.possible.shape, dtype=torch.bool)])
    values = run_with_edges(
        model, pairs, chosen, metric=metric, along=along, base="corrupted", batch_size=batch_size
    )
    return values[:-1] - values[-1]


def patch_edges(
    model: Transformer,
    pairs: Pairs,
    *,
    metric: str = "logit_difference",
    along: Along = "role",
    batch_size: int = 1024,
) -> EdgeScores:
    """Every edge's effect by path patching, exactly: one forward pass per edge and pair."""
    graph = graph_of(model, pairs, along=along)
    index = graph.possible.nonzero()

    def run_with(chosen: Bool[Tensor, "unit sender receiver place"]) -> Float[Tensor, "unit"]:
        return run_with_edges(
            model, pairs, chosen, metric=metric, along=along, base="corrupted", batch_size=batch_size
        )

    corrupted, clean = run_with(torch.stack([torch.zeros_like(graph.possible), graph.possible])).tolist()
    found = []
    for some in torch.split(index, _EDGES_AT_ONCE):
        chosen = torch.zeros(len(some), *graph.possible.shape, dtype=torch.bool)
        chosen[(torch.arange(len(some)), *some.T)] = True
        found.append(run_with(chosen))
    scores = torch.zeros(graph.possible.shape)
    scores[tuple(index.T)] = (torch.cat(found) - corrupted).float()
    return EdgeScores(graph, scores, clean, corrupted, metric, "path patching", pairs.name)
