"""Edges between components, and path patching, which measures what each edge carries.

A component writes into the residual stream (a *sender*: the embedding, a head, an MLP) and other components read
it (a *receiver*: the query, key or value input of a head, an MLP, the unembedding). An edge is a sender, a
receiver and a position or role; it carries what this sender wrote at this place directly to this receiver. All
edge scores have the same sign: **positive where the clean value on this edge speaks for the clean answer**.

Path patching: Wang et al. 2022 (arXiv 2211.00593), Goldowsky-Dill et al. 2023 (2304.05969). The module
`edge_attribution` estimates the scores by gradients.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.interventions.edge_graph import Along, Graph, graph_of
from mechocl.interventions.edge_runs import find_new_edges, run_with_edges
from mechocl.interventions.exchanged import count_for_sets, only_measured
from mechocl.interventions.metrics import GivenMetric, metric_of
from mechocl.interventions.pairs import Pairs
from mechocl.models.seam import Transformer
from mechocl.shares import in_shares
from toy_models.shown import Shown

_EDGES_AT_ONCE: Final = 1024
"""Edges whose masks are held at once; the masks of all edges of a large model would be too many numbers."""


# ------------------------------------------------------------------------------------------ edge scores


@dataclass(frozen=True, slots=True)
class EdgeScores:
    """A score for every edge of a model on some pairs."""

    graph: Graph
    scores: Float[Tensor, "sender receiver place"]
    """In the metric's unit; 0 where there is no edge, and NaN where an edge carries the same in both runs of every pair."""
    exchanged: Int[Tensor, "sender receiver place"]
    """Number of pairs in which the edge carries something else in the clean than in the corrupted run."""
    clean: float
    corrupted: float
    metric: str
    method: str
    pairs: str

    def __repr__(self) -> str:
        return (
            f"EdgeScores({self.pairs}, {int(self.graph.possible.sum())} edges by {self.method}; {self.metric} of clean "
            f"{self.clean:+.2f}, of corrupted {self.corrupted:+.2f})"
        )

    def _repr_html_(self) -> str:
        return Shown(title=repr(self), tables=(("The largest scores:", self.rows().head(10)),))._repr_html_()

    def plot(self) -> Any:
        """The plotly figure of the edges with the largest scores (`mechocl.circuit_plots.circuit`)."""
        import mechocl

        return mechocl.circuit_plots.circuit(self)

    def table(self) -> pd.DataFrame:
        """`rows` as those of `circuits.circuit_study` are named, which figures of circuits take."""
        return self.rows().rename(columns={"score": "value"}).assign(kind="edge", contrast=self.pairs)

    def rows(self) -> pd.DataFrame:
        """`sender`, `receiver`, `place`, `score`, `exchanged`: one row per possible edge, the largest first.

        Edges that were not measured, because they carry the same in both runs of every pair, have the score NaN."""
        index = self.graph.possible.nonzero()
        table = pd.DataFrame(
            {
                "sender": [self.graph.senders[i] for i in index[:, 0].tolist()],
                "receiver": [self.graph.receivers[i] for i in index[:, 1].tolist()],
                "place": [self.graph.places[i] for i in index[:, 2].tolist()],
                "score": self.scores[tuple(index.T)].numpy(),
                "exchanged": self.exchanged[tuple(index.T)].numpy(),
            }
        )
        order = table["score"].abs().sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)


def patch_paths(
    model: Transformer,
    pairs: Pairs,
    paths: Sequence[tuple[str, str, str]],
    *,
    metric: GivenMetric = "logit_difference",
    along: Along | None = None,
    together: bool = False,
    batch_size: int = 1024,
) -> Float[Tensor, "path"]:
    """Path patching: effect of the clean value on each edge (sender, receiver, place) of the corrupted run.

    An effect is patched − corrupted, in the metric's unit; NaN (not measured) where the edges carry the same in both runs of
    every pair. With `together`, all edges are patched at once, which gives one number. Raises MechoclError for an edge that
    the model does not have.
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
    new = find_new_edges(model, pairs, along=along, batch_size=batch_size)
    return only_measured(values[:-1] - values[-1], count_for_sets(new, chosen[:-1]))


def patch_edges(
    model: Transformer,
    pairs: Pairs,
    *,
    metric: GivenMetric = "logit_difference",
    along: Along | None = None,
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
    for some in in_shares(torch.split(index, _EDGES_AT_ONCE), end=0.7):
        chosen = torch.zeros(len(some), *graph.possible.shape, dtype=torch.bool)
        chosen[(torch.arange(len(some)), *some.T)] = True
        found.append(run_with(chosen))
    scores = torch.zeros(graph.possible.shape)
    scores[tuple(index.T)] = (torch.cat(found) - corrupted).float()
    new = find_new_edges(model, pairs, along=along, batch_size=batch_size)
    return edge_scores(
        graph, scores, new, clean, corrupted, metric_of(metric).name, "path patching", pairs.name
    )


def edge_scores(
    graph: Graph,
    scores: Float[Tensor, "sender receiver place"],
    new: Bool[Tensor, "sender place pair"],
    clean: float,
    corrupted: float,
    metric: str,
    method: str,
    pairs: str,
) -> EdgeScores:
    """Scores of a graph's edges, without those of edges that carry the same in both runs of every pair."""
    exchanged = torch.where(graph.possible, new.sum(2)[:, None], 0)
    scores = torch.where(graph.possible, only_measured(scores, exchanged), 0.0)
    return EdgeScores(graph, scores, exchanged, clean, corrupted, metric, method, pairs)
