"""Forward passes in which every receiver has a residual stream of its own, so that single edges can carry another run's value."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.edge_graph import Along, Graph, graph_from, places_of
from mechocl.interventions.exchanged import differing_units, pairs_with_new_edges
from mechocl.interventions.metrics import GivenMetric, Metric, check_pairs, metric_of
from mechocl.interventions.pairs import Pairs
from mechocl.models.components import Components, take_apart
from mechocl.models.forward import attention_pattern, head_results, mix, mlp, prepare, project, untouched
from mechocl.models.seam import Transformer

Alter = Callable[
    [int, Float[Tensor, "batch pos d_model"], list[Tensor], int], Float[Tensor, "batch pos reads d_model"]
]
"""(index of the first receiver, the stream that the receivers read, what the senders wrote so far, number of
receivers) → what each of these receivers reads."""


def natural(first: int, stream: Tensor, senders: list[Tensor], n: int) -> Tensor:
    """Every receiver reads the residual stream."""
    return stream[:, :, None].expand(-1, -1, n, -1)


def split_run(
    c: Components, embedded: Float[Tensor, "batch pos d_model"], alter: Alter = natural
) -> tuple[Float[Tensor, "batch pos d_model"], list[Float[Tensor, "batch pos d_model"]]]:
    """A forward pass in which every receiver has a residual stream of its own.

    Returns what the unembedding reads, and what each sender wrote.
    """
    stream, senders, first = embedded, [embedded], 0
    for layer in range(c.n_layers):
        b = c.blocks[layer]
        read = []
        for name, n in (("q", c.n_heads), ("k", c.n_key_value_heads), ("v", c.n_key_value_heads)):
            read.append(project(c, layer, name, b.ln1(alter(first, stream, senders, n))))
            first += n
        q, k, v = read
        q, k = prepare(c, layer, "q", q, first=0), prepare(c, layer, "k", k, first=0)
        z = mix(attention_pattern(q, k, first=0), v)
        results = head_results(c, layer, z)
        after = stream + results.sum(2) + b.b_O
        written = list(results.unbind(2))
        if not c.attn_only:
            own = (
                alter(first, stream, senders, 1) if c.parallel else alter(first, after, senders + written, 1)
            )
            written.append(mlp(c, layer, own[:, :, 0], untouched))
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
    metric: GivenMetric,
    along: Along | None,
    base: Literal["clean", "corrupted"],
    batch_size: int = 1024,
) -> Float[Tensor, "unit"]:
    """The metric of the base run with sets of edges that carry the other run's values, one set per unit.

    The components after an altered edge are computed again, so that several edges act together. `chosen` has the
    indices of `graph_of`; in how many pairs a set carries something else, `exchanged.count_for_sets` says. `batch_size` is the number of examples in one forward pass.
    """
    return _run_with_edges(take_apart(model), pairs, chosen, metric_of(metric), along, base, batch_size)


@torch.no_grad()
def find_new_edges(
    model: Transformer, pairs: Pairs, *, along: Along | None, batch_size: int = 1024
) -> Bool[Tensor, "sender place pair"]:
    """Pairs in which a sender writes something else at a place in the clean than in the corrupted run."""
    c, (places, where), found = take_apart(model), places_of(pairs, along), []
    for rows in torch.split(torch.arange(len(pairs)), batch_size):
        chunk = pairs[rows]
        clean, corrupted = (split_run(c, c.embed(tokens))[1] for tokens in (chunk.clean, chunk.corrupted))
        differing = [differing_units(a, b, "stream")[..., 0] for a, b in zip(clean, corrupted, strict=True)]
        found.append(
            pairs_with_new_edges(torch.stack(differing), where[rows], chunk.read, places=len(places))
        )
    return torch.cat(found, 2)


@torch.no_grad()
def _run_with_edges(
    c: Components,
    pairs: Pairs,
    chosen: Tensor,
    metric: Metric,
    along: Along | None,
    base: Literal["clean", "corrupted"],
    batch_size: int,
) -> Float[Tensor, "unit"]:
    graph, where = graph_from(c, pairs, along), places_of(pairs, along)[1]
    check_request(chosen, graph, batch_size)
    check_pairs(pairs, metric, c)
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
    """Logits where each pair's answer is read; `end` is what the unembedding reads in `units` runs of all pairs."""
    at = torch.arange(len(end), device=end.device)
    own = end[at, pairs.read.repeat(units).to(end.device)]
    logits = c.logits(own, None if ids is None else ids.to(end.device))
    return rearrange(logits, "(unit pair) id -> unit pair id", unit=units)
