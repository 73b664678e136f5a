"""The section of docs/results.md on linear probes, and its figures, from the tables that `take` saves."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from mechocl.analyses import jobs, probe_sweep
from mechocl.behaviour import formats
from mechocl.behaviour.statistics import estimate
from mechocl.probing import summaries as summaries_
from mechocl.probing.recipe import load, named
from mechocl.probing.summaries import Grid
from mechocl.report import probe_plots, probe_sections
from toy_models.subsets import SUBSETS

TABLES = Path(__file__).parent / "results"

ORDERS = ("TVE", "VTE", "VET", "EVT", "TEV", "ETV")
RUNS = {"TVE": "demo"} | {order: f"order-{order}" for order in ORDERS[1:]}
"""The run of each word order."""

SITES = " --sites resid_post,attn_out,mlp_out"
SWEEPS = {
    "definition-retrieval": SITES,
    "reliability": f" --recipe reliability-at-definition{SITES}",
    "others": f" --recipe implied-entity,recency,defined,tag-across-integers{SITES}",
}
"""Folder of each sweep of last checkpoints in runs/probes, and its options."""

EMERGENCE = "emergence"

PAPER = "≈ .9 and more with the alias first, ≈ .5 with the tag first"
"""The earlier tag probe on Pythia-1B, read off its figure."""


def take(runs: Path) -> None:
    """Write the tables from the sweeps in `runs/probes`, where they are."""
    for name in SWEEPS:
        path = runs / "probes" / name
        if path.exists():
            rows = probe_sweep.read_table(path)
            grids = summaries_.probe_grids(rows)
            cells = [one.cells.assign(**_facts(one)) for one in grids]
            pd.concat(cells).to_csv(TABLES / f"probes-{name}.csv", index=False, float_format="%.4g")
            subsets = [one.subsets.assign(**_facts(one)) for one in grids if len(one.subsets)]
            if subsets:
                pd.concat(subsets).to_csv(
                    TABLES / f"probes-{name}-subsets.csv", index=False, float_format="%.4g"
                )
    path = runs / "probes" / "definition-retrieval"
    if path.exists():
        rows = probe_sweep.read_table(path)
        _landmarks(rows).to_csv(TABLES / "probes-orders.csv", index=False, float_format="%.4g")
        gaps = jobs.iml_gaps([runs / name for name in RUNS.values()], device="cpu", jobs=None)
        gaps.to_csv(TABLES / "probes-gaps.csv", index=False, float_format="%.6g")
    path = runs / "probes" / EMERGENCE
    if path.exists():
        rows = probe_sweep.read_table(path)
        rows = rows[rows["probe"].str.startswith("tag-stage") | (rows["probe"] == "defined-entity")]
        _landmarks(rows).to_csv(TABLES / "probes-emergence.csv", index=False, float_format="%.4g")


def _facts(one: Grid) -> dict[str, object]:
    """What a grid's cells do not say themselves."""
    fields = [f.name for f in dataclasses.fields(Grid) if f.name not in ("cells", "subsets")]
    return {name: getattr(one, name) for name in fields}


def _landmarks(rows: pd.DataFrame) -> pd.DataFrame:
    """Each seed's scores at the landmarks, with the true labels."""
    own = rows[(rows["control"] == "none") & (rows["subset"] == "all") & rows["chosen"]]
    keys = zip(own["site"], own["layer"], own["position"], strict=True)
    marks = set(summaries_.landmarks(own))
    columns = [*probe_sweep.WHERE, "probe", *summaries_.PLACE, "accuracy", "auc", "chance"]
    return own.loc[[key in marks for key in keys], columns]


def grids(name: str) -> list[Grid]:
    """The grids of a saved sweep."""
    table = pd.read_csv(TABLES / f"probes-{name}.csv", keep_default_na=True)
    path = TABLES / f"probes-{name}-subsets.csv"
    subsets = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["recipe", "probe", "run"])
    facts = [f.name for f in dataclasses.fields(Grid) if f.name not in ("cells", "subsets")]
    found = []
    for (recipe, probe, run), part in table.groupby(["recipe", "probe", "run"], sort=False):
        own = subsets[(subsets["recipe"] == recipe) & (subsets["probe"] == probe) & (subsets["run"] == run)]
        cells = part.drop(columns=facts).dropna(axis=1, how="all").reset_index(drop=True)
        first = part[facts].head(1).astype(object).to_dict("records")[0]  # of Python's own types
        found.append(Grid(cells=cells, subsets=own, **first))
    return found


def figures() -> dict[str, go.Figure]:
    """The paper's grid for two word orders, the orders beside each other, and emergence."""
    found = {}
    if not (TABLES / "probes-orders.csv").exists():
        return found
    questions = {one.name: one.question for name in named() for one in load(name)}
    for one in grids("definition-retrieval"):
        if one.probe == "tag-stage-1" and one.word_order in ("TVE", "VTE"):
            title = f"{one.word_order}: {questions[one.probe]}"
            found[f"probes-{one.probe}-{one.word_order}"] = _titled(probe_plots.grid(one), title)
    orders = _saved("probes-orders.csv")
    gaps = pd.read_csv(TABLES / "probes-gaps.csv")
    for probe in ("tag-stage-1", "tag-stage-2"):
        figure = probe_plots.word_orders(orders[orders["probe"] == probe], gaps)
        found[f"probes-{probe}-orders"] = _titled(figure, questions[probe])
    if (TABLES / "probes-emergence.csv").exists():
        rows = _saved("probes-emergence.csv")
        for run in rows["run"].unique():
            part = rows[(rows["run"] == run) & (rows["probe"] == "tag-stage-2")]
            title = f"{part['word_order'].iloc[0]}: {questions['tag-stage-2']}, over training"
            found[f"probes-emergence-{part['word_order'].iloc[0]}"] = _titled(
                probe_plots.emergence(part), title
            )
    return found


def _saved(name: str) -> pd.DataFrame:
    """A table of landmarks, with the columns that figures ask for."""
    rows = pd.read_csv(TABLES / name)
    return rows.assign(control="none", subset="all", chosen=True)


def _titled(figure: go.Figure, text: str) -> go.Figure:
    return figure.update_layout(
        title={"text": text, "x": 0.01, "font": {"size": 14}}, margin={"t": 90, "l": 90, "r": 20, "b": 50}
    )


def section() -> list[str]:
    """What can be read where, on the seeds of six word orders."""
    headline = {(one.probe, one.word_order): one for one in grids("definition-retrieval")}
    seeds = {one.seeds for one in headline.values()}
    gaps = pd.read_csv(TABLES / "probes-gaps.csv")
    lines = [
        "## What can be read where",
        "",
        f"Linear probes on {_range(seeds)} seeds of each of six word orders (T: define tag, V: alias, E: entity), recipe "
        "`integer-set/cpu` otherwise:",
        "",
        *(
            f"    mechocl train integer-set/cpu --set task.word_order={order} --seeds 8 --out runs/order-{order}"
            for order in ORDERS[1:]
        ),
        f"    mechocl probe {' '.join(f'runs/{name}' for name in RUNS.values())}{SITES} --out runs/probes/definition-retrieval",
        "",
        "Aliases are never shared between training and test. Significance is corrected for the whole grid of sites and "
        "positions, each grid by itself, by the maximum statistic over "
        f"{_range({one.permutations for one in headline.values()})} permutations of aliases (*: p < .05); intervals are over seeds.",
        "",
        "### Which tag defined it, read from a question",
        "",
        f"The earlier tag probe (Pythia-1B, logistic regression with C = .01, no controls) reported {PAPER}. Ours, the same "
        "probe, as AUC (.5 is chance):",
        "",
        "| word order | aliases | alias, embedding | alias, last layer | `=`, last layer | untrained, its best place | places that read it | IML gap (AUC) |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for order in ORDERS:
        gap = formats.signed_interval(
            estimate(gaps.loc[gaps["run"] == RUNS[order], "gap"].to_numpy(), unit="seed")
        )
        for probe, what in (("tag-stage-1", "stage 1 (qd1, qd2)"), ("tag-stage-2", "stage 2 (d1, d2)")):
            one = headline[(probe, order)]
            lines.append(
                f"| {order} | {what} | {' | '.join(_scores(one))} | {one.cells['untrained'].max():.3f} | "
                f"{_significant(one)} of {len(one.cells)} | {gap} |"
            )
    lines += [
        "",
        "![Tag 1 or tag 2 in stage 1, by word order](figures/probes-tag-stage-1-orders.svg)",
        "",
        "![TVE, grid](figures/probes-tag-stage-1-TVE.svg)",
        "",
        "![VTE, grid](figures/probes-tag-stage-1-VTE.svg)",
        "",
        *_readings(headline, gaps),
        "",
        "### Is it used?",
        "",
        "A swap of the part of the activation along the probe's direction, from a d1 question into a d2 question of the same "
        "integer: its share of what the whole difference of the two questions does to the answer (TVE; 0: nothing, 1: all).",
        "",
        *_used(headline[("tag-stage-2", "TVE")]),
        "",
        "Places after the last attention layer cannot matter any more at the alias, however well the tag is read there: "
        "*decodable, not used*.",
        "",
        "### Which integer",
        "",
        "Balanced accuracy of a probe of the integer that the definition named, by subset (TVE). For qd2_inconsistent that is "
        "not the integer of the questions.",
        "",
        *_integers("definition-retrieval", "defined-entity"),
    ]
    if (TABLES / "probes-others.csv").exists():
        lines += [
            "",
            "The same for the integer that the questions imply, on aliases that were asked about:",
            "",
            *_integers("others", "implied-entity"),
            "",
            "### Other questions",
            "",
            f"`mechocl probe runs/demo runs/order-VTE{SWEEPS['others']} --out runs/probes/others`. Scores at the alias's embedding and at `=`; "
            "*confounded*: the classes differ in when they were learned.",
            "",
            *_others(),
        ]
    if (TABLES / "probes-reliability.csv").exists():
        lines += [
            "",
            "### At the definition",
            "",
            f"Is the tag's reliability represented at a definition (`{SWEEPS['reliability'].strip()}`)? AUC of tag 1 against tag 2, and of the same probe on "
            "an untrained model: attention of any model carries a tag that is in the text to later positions.",
            "",
            *_reliability(),
        ]
    if (TABLES / "probes-emergence.csv").exists():
        lines += [
            "",
            "### When",
            "",
            f"`mechocl probe runs/demo --checkpoints all --permutations 20 --n-pairs 0{SITES} --out runs/probes/emergence`: "
            "the tag of stage-2 aliases over training; their definitions come in stage 2.",
            "",
            "![The tag over training](figures/probes-emergence-TVE.svg)",
        ]
    return lines


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"


def _cell(one: Grid, site: str, layer: int, position: str) -> pd.Series:
    cells = one.cells
    return cells[(cells["site"] == site) & (cells["layer"] == layer) & (cells["position"] == position)].iloc[
        0
    ]


def _scores(one: Grid) -> list[str]:
    """At the alias's embedding, at the alias after the last layer, and at `=` after it."""
    last = int(one.cells["layer"].max())
    places = (("resid_pre", 0, "alias"), ("resid_post", last, "alias"), ("resid_post", last, "="))
    return [_interval(_cell(one, *place)) for place in places]


def _interval(row: "pd.Series[float]") -> str:
    star = "*" if row["p"] < summaries_.LEVEL else ""
    return f"{row['mean']:.3f}{star} [{row['low']:.3f}, {row['high']:.3f}]"


def _significant(one: Grid) -> int:
    return int((one.cells["p"] < summaries_.LEVEL).sum())


def _readings(headline: dict[tuple[str, str], Grid], gaps: pd.DataFrame) -> list[str]:
    """What the table says, sentence by sentence, each made from its numbers."""

    def reads(probe: str) -> list[str]:
        return [order for order in ORDERS if _significant(headline[(probe, order)])]

    def listed(orders: list[str]) -> str:
        return ", ".join(orders) or "none"

    effect = []
    for order in ORDERS:
        e = estimate(gaps.loc[gaps["run"] == RUNS[order], "gap"].to_numpy(), unit="seed")
        if e.low > 0:
            effect.append(order)
    silent = [order for order in effect if order not in reads("tag-stage-1")]
    found = [
        f"- Of aliases that were asked about, the tag can be read in {listed(reads('tag-stage-1'))}; of those that were only "
        f"defined, in {listed(reads('tag-stage-2'))}.",
        f"- Implicit meta-learning (interval above 0) is there in {listed(effect)}.",
    ]
    if silent:
        found.append(
            f"- In {listed(silent)} it is there although no place of the grid reads the tag of aliases that were asked about, as in the "
            "earlier probe for the tag first."
        )
        stored = [order for order in silent if order in reads("tag-stage-2")]
        if stored:
            found.append(
                f"- That does not speak against selective retrieval in {listed(stored)}: it needs the tag at the aliases that were only "
                "defined, and there it can be read."
            )
    found.append(
        "- With the alias last (TEV, ETV) this recipe learns nothing of the alias from a definition: it has no loss on "
        "aliases' names, so that nothing that follows an alias depends on it."
    )
    return found


def _used(one: Grid) -> list[str]:
    lines = [
        "| where | AUC | share moved [95 %] | along shuffled directions | verdict |",
        "|---|---:|---:|---:|---|",
    ]
    cells = one.cells[one.cells["position"].isin(["alias", "="])]
    for row in cells.to_dict("records"):
        share = (
            f"{row['swap_share']:+.3f} [{row['swap_low']:+.3f}, {row['swap_high']:+.3f}] | {row['swap_shuffled']:+.3f}"
            if np.isfinite(row["swap_share"])
            else "– | –"
        )
        lines.append(
            f"| {probe_sections.where(row)} | {row['mean']:.3f} | {share} | {row['verdict']} |".replace(
                "-0.000", "+0.000"
            )
        )
    return lines


def _integers(name: str, probe: str) -> list[str]:
    one = next(g for g in grids(name) if g.probe == probe and g.word_order == "TVE")
    subsets = [s for s in SUBSETS if s in set(one.subsets["subset"])]
    lines = [
        "| where | all (balanced) | " + " | ".join(f"`{s}`" for s in subsets) + " | untrained | chance |",
        "|---|" + "---:|" * (len(subsets) + 3),
    ]
    for site, layer, position in summaries_.landmarks(one.cells):
        row = _cell(one, site, layer, position)
        part = one.subsets
        here = part[(part["site"] == site) & (part["layer"] == layer) & (part["position"] == position)]
        means = here.set_index("subset")["mean"]
        cells = " | ".join(f"{means[s]:.3f}" for s in subsets)
        where = probe_sections.where({"site": site, "layer": layer, "position": position})
        lines.append(f"| {where} | {_interval(row)} | {cells} | {row['untrained']:.3f} | {one.chance:.3f} |")
    return lines


def _others() -> list[str]:
    lines = [
        "| question | word order | statistic | alias, embedding | `=`, last layer | untrained, its best place | stages matched, its best place | |",
        "|---|---|---|---:|---:|---:|---:|---|",
    ]
    questions = {one.name: one.question for name in named() for one in load(name)}
    for one in grids("others"):
        if one.probe.startswith(("implied", "defined-entity")):
            continue
        matched = f"{one.cells['matched recency'].max():.3f}" if "matched recency" in one.cells else "–"
        first, _, last = _scores(one)
        untrained = one.cells["untrained"].max()
        lines.append(
            f"| {questions[one.probe]} | {one.word_order} | {probe_plots.TITLES[one.statistic]} | {first} | {last} | "
            f"{untrained:.3f} | {matched} | {one.recency} |"
        )
    return lines


def _reliability() -> list[str]:
    found = {(one.word_order, one.probe): one for one in grids("reliability")}
    positions = ("tag", "alias", "entity")
    lines = [
        "| word order | stage | " + " | ".join(f"{p}, last layer | untrained" for p in positions) + " |",
        "|---|---|" + "---:|" * (2 * len(positions)),
    ]
    for order in ORDERS:
        for probe, stage in (("reliability-stage-1", 1), ("reliability-stage-2", 2)):
            one = found[(order, probe)]
            last = int(one.cells["layer"].max())
            cells = []
            for position in positions:
                row = _cell(one, "resid_post", last, position)
                cells.append(f"{_interval(row)} | {row['untrained']:.3f}")
            lines.append(f"| {order} | {stage} | {' | '.join(cells)} |")
    return lines
