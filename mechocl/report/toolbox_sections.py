"""The report's sections on mechanism: circuits, suppression, weights, subspaces."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import pandas as pd
from plotly.graph_objects import Figure

from mechocl.behaviour import formats, over_seeds
from mechocl.errors import MechoclError
from mechocl.interventions import circuits, grafting
from mechocl.interventions.summaries import SUBSPACE_CONTROLS, summarize_circuits, summarize_subspaces
from mechocl.interventions.suppression import SuppressionConfig, candidates
from mechocl.report import circuit_plots, graft_plots, subspace_plots
from mechocl.report.page import Section, Table
from toy_models.measures import Measures
from toy_models.subsets import SUBSETS
from toy_models.words import Words

_SHOWN: Final = 5e-4
"""Effects below this are left out of tables, because they would read 0."""


def circuit(rows: pd.DataFrame) -> Section:
    """The section on circuits. `rows` are those of the circuit analysis over the seeds."""
    figures, tables = [circuit_plots.curves(summarize_circuits(rows))], []
    findings = []
    first = int(rows["seed"].min())
    for contrast, part in rows.groupby("contrast", sort=False):
        name = str(contrast)
        figures += _drawn(partial(circuit_plots.circuit, rows, contrast=name, seed=first))
        findings.append(f"{name}: {circuits.circuit_in_words(part)}.")
        edges = over_seeds.over_seeds(circuits.pool_heads(part), ["sender", "receiver", "place"], "value")
        sizes = edges["mean"].abs()
        largest = sizes[sizes >= _SHOWN].sort_values(ascending=False, kind="stable").index[:8]
        tables.append(
            Table(
                caption=f"{name}: the largest edges in nats, summed over the heads of a layer, over the seeds",
                columns=("from", "to", "at", "effect [95 %]", "seeds above 0"),
                rows=tuple(
                    (
                        str(e["sender"]),
                        str(e["receiver"]),
                        str(e["place"]),
                        formats.mean_in_words(e),
                        _above(e),
                    )
                    for e in edges.loc[largest].to_dict("records")
                ),
            )
        )
    return Section(
        id="circuits",
        title="Circuits",
        how_to_read=(
            "An edge carries what one component wrote straight to another that reads it; its score is what the clean "
            "value on that edge alone does to the corrupted run. The curves keep the largest edges and corrupt the rest "
            "(blue should reach 1 soon), or the reverse (red should fall to 0 soon), on pairs that scored no edge; grey "
            "is what as many random edges do."
        ),
        finding=" ".join(findings),
        figures=tuple(figures),
        tables=tuple(tables),
    )


def suppression(rows: pd.DataFrame, words: Words) -> Section:
    """The section on components that hold tag 2 back. `rows` are those of the suppression analysis over the seeds."""
    config = SuppressionConfig()
    lines = []
    searches = (
        (config.raised, config.spared, "search"),
        (config.spared, config.raised, "control: roles exchanged"),
    )
    for raised, spared, what in searches:
        found = candidates(rows, raised=raised, spared=spared)
        for e in over_seeds.over_seeds(found, ["subset"], "effect").to_dict("records"):
            lines.append(
                (what, f"{raised} up, {spared} still", str(e["subset"]), formats.mean_in_words(e), _above(e))
            )
    names = [
        name for short in (config.raised, config.spared) for name in SUBSETS if name.startswith(f"{short}_c")
    ]
    return Section(
        id="suppression",
        title="Components that hold tag 2 back",
        how_to_read=(
            "Each head, MLP and neuron is ablated (its mean over questions in its place); a dot above the horizontal line and "
            "near the vertical one raises the answers about tag 2 alone. The best such component of each seed is chosen on "
            "half of the aliases; the table says what it does on the other half, beside the same search with the tags exchanged."
        ),
        figures=(circuit_plots.suppression(rows, raised=names[0], spared=names[1]),),
        tables=(
            Table(
                caption=f"The component chosen in each seed: effect on the {words.answers_in} of the aliases that did not choose it",
                columns=("", "chosen for", "subset", "effect [95 %]", "seeds above 0"),
                rows=tuple(lines),
            ),
        ),
    )


def weights(graft: pd.DataFrame, steering: pd.DataFrame | None, measures: Measures) -> Section:
    """The section on weights, from the rows of the graft and steering analyses over the seeds; those of steering may not be there."""
    rows = graft if steering is None else pd.concat([graft, steering], ignore_index=True)
    metric = measures.leading if measures.leading in grafting.METRICS else "auc"
    named = formats.NAMES[metric]
    changed = rows[(rows["metric"] == metric) & (rows["change"] > 0)]
    changed = changed[changed["subset"].map(lambda name: SUBSETS[name].stage == 2)]
    shares = over_seeds.over_seeds(changed, ["group", "kind", "subset"], "share")
    cells = {(e["group"], e["kind"], e["subset"]): e for e in shares.to_dict("records")}
    groups = [g for g in dict.fromkeys(shares["group"]) if g != "all"]
    subsets = list(dict.fromkeys(shares["subset"]))

    def row(group: str, kind: str) -> tuple[str, ...]:
        found = [cells.get((group, kind, subset)) for subset in subsets]
        return (group, kind, *map(formats.mean_in_words, found))

    kinds = [
        (g, k) for k in (grafting.ALONE, grafting.ALL_BUT) for g in groups if (g, k, subsets[0]) in cells
    ]
    return Section(
        id="weights",
        title="Which weights carry stage 2",
        how_to_read=(
            "Stage 2's change of one group of weights is put into the model from before it (alone), or everything but that "
            f"group; the number is the share of stage 2's gain in {named} that this gives. A group that carries the gain is near "
            "1 alone and near 0 left out."
            + ("" if steering is None else " A constant steering vector is what any explanation has to beat.")
        ),
        finding=_best_group(shares, named),
        figures=tuple(
            _drawn(lambda: graft_plots.grafts(grafting.estimates(rows, metric=metric), rows, metric=metric))
        ),
        tables=(
            Table(
                caption=f"Share of stage 2's gain in {named}, mean over seeds [95 %]",
                columns=("weights", "grafted", *subsets),
                rows=tuple(row(*kind) for kind in kinds),
            ),
        ),
    )


def _best_group(shares: pd.DataFrame, named: str) -> str:
    """A sentence on the group whose change alone gives most of the gains. It is empty if stage 2 gained nothing."""
    alone = shares[(shares["kind"] == grafting.ALONE) & (shares["group"] != "all")]
    if alone.empty:
        return ""
    best = alone.groupby("group")["mean"].mean().idxmax()
    gains = (
        f"{formats.mean_in_words(e)} of {e['subset']}'s"
        for e in alone[alone["group"] == best].to_dict("records")
    )
    return f"The change of the {best} alone gives {', '.join(gains)} gain in {named}."


def subspaces(rows: pd.DataFrame) -> Section:
    """The section on directions. `rows` are those of the subspace analysis over the seeds."""
    rows = rows[rows["metric"] == "logit_difference"]
    place = rows["position"] + ", " + rows["site"] + " " + rows["layer"].astype(str)
    method = rows["method"].where(rows["method"] != "rotation", "rotation, k = " + rows["k"].astype(str))
    keys = ["contrast", "method", "place", "control"]
    found = over_seeds.over_seeds(rows.assign(place=place, method=method), keys, "normalised")
    cells = {tuple(e[k] for k in keys): e for e in found.to_dict("records")}
    controls = [c for c in SUBSPACE_CONTROLS if c in set(found["control"])]
    moved = found[(found["control"] == "none") & (found["mean"].abs() >= _SHOWN)]
    lines = moved[keys[:3]].drop_duplicates().itertuples(index=False)
    return Section(
        id="subspaces",
        title="Which directions carry the tag",
        how_to_read=(
            "Only the part of an activation in a few directions is exchanged between two questions: 0 leaves the answer, 1 makes it "
            "the other question's. Each method stands beside the same fit on shuffled targets and on an untrained model; what "
            "counts is the distance from them. d1-to-d2 moves what the tag did (same integer), d1-to-other-d2 the integer."
        ),
        figures=tuple(_drawn(lambda: subspace_plots.subspace_effects(summarize_subspaces(rows)))),
        tables=(
            Table(
                caption="Effect as a share of clean − corrupted, mean over seeds [95 %]",
                columns=("pairs", "method", "where", *("as fitted" if c == "none" else c for c in controls)),
                rows=tuple(
                    (
                        *map(str, line),
                        *(formats.mean_in_words(cells.get((*line, control))) for control in controls),
                    )
                    for line in lines
                ),
            ),
        ),
    )


def _above(row: Mapping[Any, Any]) -> str:
    return f"{row['positive']:.0f} of {row['seeds']:.0f}"


def _drawn(draw: Callable[[], Figure]) -> list[Figure]:
    """A list with the figure, which is empty if there is nothing to draw."""
    try:
        return [draw()]
    except MechoclError:
        return []
