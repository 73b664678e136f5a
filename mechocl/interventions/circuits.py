"""Circuits: a few edges that carry an answer, and how much of it they carry.

Edges are ranked by the size of their score. A *circuit* of k edges is the clean run in which every other edge
carries the corrupted run's value; its **faithfulness** is the metric it reaches, normalised (0 corrupted, 1
clean). **Completeness** asks the reverse: the same edges corrupted and all others kept should leave nothing
(Wang et al. 2022, arXiv 2211.00593; curves as in Hanna et al. 2024, 2403.17806). Random circuits of the same
size, drawn from the same edges, are measured beside both.
"""

from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from torch import Tensor

from mechocl.accepted import settle
from mechocl.errors import MechoclError, TooLittleData
from mechocl.interventions.edge_attribution import attribute_edges
from mechocl.interventions.edge_graph import Along, graph_of
from mechocl.interventions.edge_runs import find_new_edges, run_with_edges
from mechocl.interventions.edges import EdgeScores, patch_edges
from mechocl.interventions.exchanged import count_for_sets
from mechocl.interventions.metrics import GivenMetric, metric_named, normalised
from mechocl.interventions.named_pairs import contrast_names, pairs_named
from mechocl.interventions.pairs import Pairs
from mechocl.models.seam import Transformer
from mechocl.shares import in_shares
from toy_models.randomness import generator
from toy_models.shown import Shown
from toy_models.task import Task

Method = Literal["patching", "eap-ig", "eap"]

ENOUGH: Final = 0.9
"""Faithfulness at which a circuit is said to carry the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitConfig:
    """How edges are scored, and how circuits are judged."""

    pairs: tuple[str, ...] = ("d1-to-other-d2", "d1-to-d2")
    """Clean/corrupted pairs, by name (`interventions.pairs`)."""
    n_pairs: int = 100
    """Pairs that score the edges; the same number of other pairs judges the circuits."""
    method: Method = "patching"
    """`patching` patches each edge separately; `eap-ig` and `eap` use gradients, for larger models."""
    steps: int = 8
    """Gradient steps of EAP-IG, which is computed beside `patching` too."""
    along: Along | None = None
    """Whether edges are told apart by the role of their position, or by the position; None: by the role where every
    position has one, else by the position."""
    metric: str = "logit_difference"
    """Name of a metric (`metrics`)."""
    random_circuits: int = 10
    """Random circuits of each size."""
    seed: int = 0
    """Draws the pairs and the random circuits."""

    def __post_init__(self) -> None:
        settle(self)
        contrast_names(self.pairs)
        for name, known in (("method", get_args(Method)), ("along", (None, *get_args(Along)))):
            if getattr(self, name) not in known:
                raise MechoclError(
                    f"{name} is {getattr(self, name)!r}; use one of {', '.join(map(str, known))}"
                )
        metric_named(self.metric)
        for name, least in (("n_pairs", 2), ("steps", 1), ("random_circuits", 0)):
            if getattr(self, name) < least:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least {least}")

    @property
    def most_pairs(self) -> int:
        """Largest number of pairs of each name that are used: half of them score, and half of them judge."""
        return 2 * self.n_pairs


@dataclass(frozen=True, slots=True)
class CircuitResult:
    """Edges by score, and how well circuits of the edges with the largest scores do."""

    scores: EdgeScores
    curve: pd.DataFrame
    """Columns `edges` (the number), `kind` ("circuit": only these edges are kept; "without": all others are kept;
    "random": only as many random edges are kept), `draw`, `value` (the metric), `exchanged` (number of pairs in which the
    corrupted edges carry something else than the clean ones), and `normalised` (NaN where clean and corrupted hardly differ).
    Where edges are corrupted and nothing is exchanged, the value is NaN: not measured."""
    clean: float
    """The metric of the clean run, on the pairs that judge."""
    corrupted: float

    def __repr__(self) -> str:
        size = self.needed()
        reached = (
            f"{size} of them reach {ENOUGH:.0%}" if size is not None else f"no circuit reaches {ENOUGH:.0%}"
        )
        return f"CircuitResult({self.scores.pairs}, {int(self.scores.graph.possible.sum())} edges; {reached} of clean − corrupted)"

    def _repr_html_(self) -> str:
        edges, judged = self.scores.rows().head(10), self.curve[self.curve["kind"] == "circuit"]
        tables = (
            ("The largest edges:", edges),
            ("Circuits of so many edges alone:", judged[["edges", "value", "normalised"]]),
        )
        return Shown(title=repr(self), tables=tables)._repr_html_()

    def plot(self) -> Any:
        """The plotly figure of faithfulness by the number of edges (`mechocl.circuit_plots.curves`); `scores.plot()` draws the edges."""
        import mechocl

        return mechocl.circuit_plots.curves(self)

    def table(self) -> pd.DataFrame:
        """Edges and curve as the rows of `circuit_study`, which figures of circuits take."""
        curve = self.curve.assign(contrast=self.scores.pairs)
        return pd.concat([self.scores.table(), curve], ignore_index=True)

    def needed(self, share: float = ENOUGH) -> int | None:
        """Size of the smallest circuit from which on faithfulness stays at `share` or above; None if there is none."""
        return _needed(self.curve[self.curve["kind"] == "circuit"], share)


def _needed(curve: pd.DataFrame, share: float) -> int | None:
    below = curve.loc[curve["normalised"] < share, "edges"]
    reached = curve[curve["normalised"] >= share]  # sizes that were not measured are neither
    enough = reached[reached["edges"] > (below.max() if len(below) else -1)]
    return int(enough["edges"].min()) if len(enough) else None


def score_edges(
    model: Transformer, pairs: Pairs, config: CircuitConfig, *, metric: GivenMetric | None = None
) -> EdgeScores:
    """Score the edges by the config's method. `metric`: another one than the config's, such as your own."""
    metric = metric or config.metric
    if config.method == "patching":
        return patch_edges(model, pairs, metric=metric, along=config.along)
    steps = config.steps if config.method == "eap-ig" else 0
    return attribute_edges(model, pairs, metric=metric, along=config.along, steps=steps)


def find_circuit(
    model: Transformer,
    scoring: Pairs,
    judging: Pairs,
    *,
    config: CircuitConfig,
    metric: GivenMetric | None = None,
) -> CircuitResult:
    """Rank the edges on one set of pairs; keep the top ones, ablate the rest, and judge this on another set.

    `metric`: another one than the config's, such as your own (`metrics.metric_of`).

    Raises MechoclError when only one of the two sets has some role or position, and so its edges.
    """
    scores = score_edges(model, scoring, config, metric=metric)
    graph = graph_of(model, judging, along=config.along)
    if graph.places != scores.graph.places or not torch.equal(graph.possible, scores.graph.possible):
        raise MechoclError(
            f"the pairs that score and those that judge have different edges (at {', '.join(scores.graph.places)}; "
            f"at {', '.join(graph.places)}); use more pairs"
        )
    sizes = _sizes(int(scores.graph.possible.sum()))
    order = _ranked(scores)
    labels: list[tuple[int, str, int]] = []
    corrupted_edges: list[Bool[Tensor, "sender receiver place"]] = []
    draws = generator(config.seed, "random circuits")
    for size in sizes:
        kept = _top(order, size, scores)
        labels += [(size, "circuit", 0), (size, "without", 0)]
        corrupted_edges += [scores.graph.possible & ~kept, kept]
        for draw in range(config.random_circuits):
            shuffled = order[torch.randperm(len(order), generator=draws)]
            labels.append((size, "random", draw))
            corrupted_edges.append(scores.graph.possible & ~_top(shuffled, size, scores))
    chosen = torch.stack(corrupted_edges)
    values = run_with_edges(
        model, judging, chosen, metric=metric or config.metric, along=config.along, base="clean"
    )
    exchanged = count_for_sets(find_new_edges(model, judging, along=config.along), chosen)
    curve = pd.DataFrame(labels, columns=["edges", "kind", "draw"])
    curve = curve.assign(value=values.tolist(), exchanged=exchanged.tolist())
    whole = curve[curve["kind"] == "circuit"].set_index("edges")["value"]
    clean, corrupted = float(whole[sizes[-1]]), float(whole[0])
    untouched = ~chosen.flatten(1).any(1).numpy()  # the clean run itself, at the end of a curve
    curve["value"] = curve["value"].where((curve["exchanged"] > 0) | untouched)
    curve["normalised"] = _normalised(curve["value"], clean, corrupted)
    return CircuitResult(scores, curve, clean, corrupted)


def _normalised(values: pd.Series, clean: float, corrupted: float) -> list[float]:
    try:
        return [normalised(float(v), clean=clean, corrupted=corrupted) for v in values]
    except MechoclError:
        return [float("nan")] * len(values)


def _ranked(scores: EdgeScores) -> Tensor:
    """Flat indices of the possible edges, the largest absolute score first, those that were not measured last."""
    possible = scores.graph.possible.flatten().nonzero()[:, 0]
    sizes = scores.scores.nan_to_num(0.0).flatten()[possible].abs()
    order: Tensor = possible[sizes.argsort(descending=True, stable=True)]
    return order


def _top(order: Tensor, size: int, scores: EdgeScores) -> Bool[Tensor, "sender receiver place"]:
    kept = torch.zeros(scores.scores.numel(), dtype=torch.bool)
    kept[order[:size]] = True
    return kept.view(scores.scores.shape)


def _sizes(n_edges: int) -> list[int]:
    """Sizes of circuits: 0, 1, 2, 3, …, then about 25 % more each time, up to all edges."""
    sizes = {0, n_edges} | set(range(1, min(n_edges, 11)))
    size = 10.0
    while size < n_edges:
        sizes.add(round(size))
        size *= 1.25
    return sorted(sizes)


def circuit_study(model: Transformer, task: Task, config: CircuitConfig) -> pd.DataFrame:
    """Edges and curves of each contrast as one table.

    The columns are `mechocl.analyses.columns.CIRCUIT`.
    """
    tables = []
    for name, contrast in in_shares(list(zip(config.pairs, contrast_names(config.pairs), strict=True))):
        both = pairs_named(task, name, n_pairs=config.most_pairs, seed=config.seed)
        half = len(both) // 2
        if half == 0:
            raise TooLittleData(f"{name}: a single pair cannot both score and judge; use more aliases")
        scoring, judging = both[:half], both[half:]
        found = find_circuit(model, scoring, judging, config=config)
        edges = found.scores.rows().rename(columns={"score": "value"}).assign(kind="edge")
        edges["attributed"] = np.nan
        if config.method == "patching" and config.metric != "within_alias_auc":
            edges = edges.drop(columns="attributed").merge(_attributed(model, scoring, config))
        rows = pd.concat([edges, found.curve], ignore_index=True)
        tables.append(
            rows.assign(contrast=contrast, clean=found.clean, corrupted=found.corrupted, pairs=len(judging))
        )
    table = pd.concat(tables, ignore_index=True)
    columns: list[Any] = ["contrast", "kind", "sender", "receiver", "place", "value", "attributed"]
    return table[
        [*columns, "exchanged", "edges", "draw", "normalised", "clean", "corrupted", "pairs"]
    ].astype({"edges": float, "draw": float})


def _attributed(model: Transformer, pairs: Pairs, config: CircuitConfig) -> pd.DataFrame:
    found = attribute_edges(model, pairs, metric=config.metric, along=config.along, steps=config.steps)
    return found.rows().drop(columns="exchanged").rename(columns={"score": "attributed"})


def pool_heads(rows: pd.DataFrame) -> pd.DataFrame:
    """Edges of one contrast, summed over the heads of a layer, because seeds number their heads differently.

    `rows` as from `circuit_study`, with a seed column. The scores of edges that become the same are added up,
    without those that were not measured; it is NaN if none was.
    """
    edges = rows[rows["kind"] == "edge"].copy()
    for column in ("sender", "receiver"):
        edges[column] = edges[column].str.replace(r"^(L\d+)(?:H|KV)\d+", r"\1 heads", regex=True)
    keys = ["seed", "sender", "receiver", "place"]
    return edges.groupby(keys, sort=False)["value"].sum(min_count=1).reset_index()


def sizes_needed(rows: pd.DataFrame, share: float = ENOUGH) -> dict[int, int | None]:
    """For each seed, size of the smallest circuit from which on faithfulness stays at `share` or above."""
    curves = rows[rows["kind"] == "circuit"]
    return {seed: _needed(curves[curves["seed"] == seed], share) for seed in curves["seed"].unique().tolist()}


def circuit_in_words(rows: pd.DataFrame) -> str:
    """A sentence on the circuits of one contrast."""
    needed = sizes_needed(rows)
    edges = rows[rows["kind"] == "edge"].groupby("seed").size().median()
    reached = [n for n in needed.values() if n is not None]
    if not reached:
        return f"no circuit reaches {ENOUGH:.0%} of clean − corrupted"
    size = int(np.median(reached))
    random = rows[(rows["kind"] == "random") & (rows["edges"] >= size)]
    beside = ""
    if len(random):
        nearest = random["edges"].min()
        share = max(0.0, random.loc[random["edges"] == nearest, "normalised"].mean())
        beside = f"; random circuits of {nearest:.0f} edges reach {share:.0%}"
    return (
        f"{size} of {edges:.0f} edges (median over {len(reached)} of {len(needed)} seeds; {min(reached)} to "
        f"{max(reached)}) reach {ENOUGH:.0%} of clean − corrupted on other pairs{beside}"
    )
