"""Edge attribution: every edge's score at once, by gradients.

Edge attribution patching (EAP): Syed et al. 2023 (arXiv 2310.10348). With integrated gradients (EAP-IG): Hanna
et al. 2024 (2403.17806). The sign is that of path patching (`edges`), which shows how good an estimate is.
"""

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.interventions.edge_graph import Along, graph_from, places_of
from mechocl.interventions.edge_runs import answer_logits, check_request, find_new_edges, natural, split_run
from mechocl.interventions.edges import EdgeScores, edge_scores
from mechocl.interventions.metrics import GivenMetric, Metric, check_pairs, metric_of
from mechocl.interventions.pairs import Pairs
from mechocl.models.components import Components, take_apart
from mechocl.models.seam import Transformer


def attribute_edges(
    model: Transformer,
    pairs: Pairs,
    *,
    metric: GivenMetric = "logit_difference",
    along: Along | None = None,
    steps: int = 8,
    batch_size: int = 128,
) -> EdgeScores:
    """Every edge's effect to first order: (clean − corrupted) of the sender · gradient at the receiver.

    With `steps = 0` the gradient is that of the corrupted run (EAP). Otherwise it is the mean over `steps`
    runs whose embeddings lie evenly between the corrupted and the clean ones, at (k − ½)/steps (EAP-IG; Hanna
    et al., equation 3, with the midpoint rule). It costs max(steps, 1) backward passes per `batch_size` pairs,
    however many edges there are. Raises MechoclError for a metric without a gradient, and for negative steps.
    """
    chosen = metric_of(metric)
    chosen.check_gradient()
    if steps < 0:
        raise MechoclError(f"steps is {steps}; use 0 for plain edge attribution, or more")
    c = take_apart(model)
    check_pairs(pairs, chosen, c)
    graph, where = graph_from(c, pairs, along), places_of(pairs, along)[1]
    check_request(None, graph, batch_size)
    total = torch.zeros(graph.possible.shape, dtype=torch.float64)
    ends = []
    for rows in torch.split(torch.arange(len(pairs)), batch_size):
        scores, clean, corrupted = _attributed(c, pairs[rows], chosen, where[rows], len(graph.places), steps)
        total += scores
        ends.append((clean, corrupted))
    whole = [float(chosen.pool(torch.cat(part), pairs)) for part in zip(*ends, strict=True)]
    scores = torch.where(graph.possible, total / len(pairs), 0.0).float()
    new = find_new_edges(model, pairs, along=along, batch_size=batch_size)
    method = f"EAP-IG, {steps} steps" if steps else "EAP"
    return edge_scores(graph, scores, new, whole[0], whole[1], chosen.name, method, pairs.name)


def _attributed(
    c: Components, pairs: Pairs, metric: Metric, where: Tensor, places: int, steps: int
) -> tuple[Float[Tensor, "sender receiver place"], Tensor, Tensor]:
    """Sum over pairs of each edge's score, and the metric of the clean and the corrupted run."""
    ids = metric.tokens(pairs)
    with torch.no_grad():
        start, end = c.embed(pairs.corrupted), c.embed(pairs.clean)
        corrupted_end, before = split_run(c, start)
        clean_end, after = split_run(c, end)
        clean_logits = answer_logits(c, clean_end, pairs, ids, 1)[0]
        ends = [
            metric.per_pair(answer_logits(c, x, pairs, ids, 1)[0], pairs, clean_logits).cpu()
            for x in (clean_end, corrupted_end)
        ]
    gradient: Tensor | None = None
    for share in [(k + 0.5) / steps for k in range(steps)] or [0.0]:
        found = _gradients(c, start + share * (end - start), pairs, metric, ids, clean_logits)
        gradient = found if gradient is None else gradient + found
    assert gradient is not None
    change = torch.stack([a - b for a, b in zip(after, before, strict=True)])
    product = einsum(
        change,
        gradient / max(steps, 1),
        "sender pair pos d_model, pair pos receiver d_model -> sender receiver pair pos",
    )
    scores = torch.zeros(*product.shape[:2], places, dtype=torch.float64)
    scores.index_add_(2, where.flatten(), product.flatten(2).double().cpu())
    return scores, ends[0], ends[1]


def _gradients(
    c: Components, embedded: Tensor, pairs: Pairs, metric: Metric, ids: Tensor | None, clean_logits: Tensor
) -> Float[Tensor, "pair pos receiver d_model"]:
    """Gradient of the metric with respect to what each receiver alone reads, from one backward pass."""
    leaves: list[Tensor] = []

    def alter(first: int, stream: Tensor, senders: list[Tensor], n: int) -> Tensor:
        leaves.append(
            torch.zeros(*stream.shape[:2], n, stream.shape[2], device=stream.device, requires_grad=True)
        )
        return natural(first, stream, senders, n) + leaves[-1]

    with torch.enable_grad():
        end, _ = split_run(c, embedded, alter)
        logits = answer_logits(c, end, pairs, ids, 1)[0]
        values = metric.values_with_gradient(logits, pairs, clean_logits)
        return torch.cat(torch.autograd.grad(values.sum(), leaves), 2)
