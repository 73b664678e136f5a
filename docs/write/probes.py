"""The section of docs/results.md on linear probes, and its figures."""

from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from docs.write.inside import CONTROLS, RECIPES, RUNS, file_name, write_commands
from docs.write.markdown import write_table
from docs.write.probe_tables import (
    has_table,
    read_gaps,
    read_grids,
    read_landmarks,
    write_command,
)
from mechocl.behaviour.formats import HYPHEN, MISSING, estimate_in_words, interval, number
from mechocl.behaviour.statistics import Estimate, estimate
from mechocl.probing import summaries
from mechocl.probing.at_landmarks import compare_runs
from mechocl.probing.recipe import load, named
from mechocl.probing.summaries import Grid
from mechocl.report import probe_plots, probe_sections
from toy_models.subsets import SUBSETS

_GRIDS: Final = ("cpu", "cpu: VTE")
"""The runs whose whole grid is drawn."""

_PAPER: Final = "≈ .9 and more with the alias first, ≈ .5 with the tag first"
"""Result of the earlier tag probe on Pythia-1B, read off its figure."""


def draw_figures() -> dict[str, go.Figure]:
    """Figures of the grid of the earlier tag probe, and of all runs beside each other."""
    found = {}
    if not has_table("orders"):
        return found
    questions = {one.name: one.question for name in named() for one in load(name)}
    for one in read_grids("definition-retrieval"):
        if one.probe == "tag-stage-1" and one.run in _GRIDS:
            title = f"{one.run}, {one.word_order}: {questions[one.probe]}"
            found[f"probes-{one.probe}-{file_name(one.run)}"] = _titled(probe_plots.grid(one), title)
    orders = read_landmarks("orders")
    gaps = read_gaps()
    for probe in ("tag-stage-1", "tag-stage-2"):
        figure = probe_plots.word_orders(compare_runs(orders[orders["probe"] == probe], gaps))
        found[f"probes-{probe}-runs"] = _titled(figure, questions[probe])
    return found


def _titled(figure: go.Figure, text: str) -> go.Figure:
    return figure.update_layout(
        title={"text": text, "x": 0.01, "font": {"size": 14}}, margin={"t": 90, "l": 90, "r": 20, "b": 50}
    )


def write_section() -> list[str]:
    """The section that says what can be read where, over the seeds of the runs of `inside`."""
    if not has_table("orders"):
        return []
    headline = {(one.probe, one.run): one for one in read_grids("definition-retrieval")}
    return [
        "## What can be read where",
        "",
        *_commands(headline),
        "",
        *_which_tag(headline),
        "",
        "### Is it used?",
        "",
        "A swap of the part of the activation along the probe's direction, from a d1 question into a d2 question of the same "
        "integer: its share of what the whole difference of the two questions does to the answer (0: nothing, 1: all). A share of a "
        "difference that is hardly there may be any number; the verdict follows the change of the logit difference (nats) beside it.",
        "",
        *_used([headline[("tag-stage-2", one.label)] for one in RUNS if "VTE" not in one.label]),
        "",
        "Places after the last attention layer cannot matter any more at the alias, however well the tag is read there: "
        "*decodable, not used*.",
        "",
        "### Which integer",
        "",
        "Balanced accuracy of a probe of the integer that the definition named, by subset. For qd2_inconsistent that is "
        "not the integer of the questions.",
        "",
        *_integers("definition-retrieval", "defined-entity"),
        *_more(),
    ]


def _commands(headline: dict[tuple[str, str], Grid]) -> list[str]:
    """The paragraphs and commands that say what was trained and probed, and how."""
    seeds = {one.seeds for one in headline.values()}
    return [
        f"Linear probes on {_range(seeds)} seeds of each of both recipes, of the control of each that decides whether its gap needs "
        "unreliability, and of each with the alias first (VTE; T: define tag, V: alias, E: entity; the others are TVE):",
        "",
        *write_commands(),
        f"    {write_command('definition-retrieval')}",
        "",
        "Aliases are never shared between training and test. Significance is corrected for the whole grid of sites and "
        "positions, each grid by itself, by the maximum statistic over "
        f"{_range({one.permutations for one in headline.values()})} permutations of aliases (*: p < .05); intervals are over seeds.",
    ]


def _which_tag(headline: dict[tuple[str, str], Grid]) -> list[str]:
    """Is the tag of an alias's definition read from a question about it?"""
    gaps = read_gaps()
    return [
        "### Which tag defined it, read from a question",
        "",
        f"The earlier tag probe (Pythia-1B, logistic regression with C = .01, no controls) reported {_PAPER}. Ours, the same "
        "probe, as AUC (.5 is chance):",
        "",
        *_tags(headline, gaps),
        "",
        "![Tag 1 or tag 2 in stage 1, by run](figures/probes-tag-stage-1-runs.svg)",
        "",
        "![Tag 1 or tag 2 in stage 2, by run](figures/probes-tag-stage-2-runs.svg)",
        "",
        *(
            line
            for run in _GRIDS
            for line in (f"![Grid, {run}](figures/probes-tag-stage-1-{file_name(run)}.svg)", "")
        ),
        *_readings(headline, gaps),
    ]


def _tags(headline: dict[tuple[str, str], Grid], gaps: pd.DataFrame) -> list[str]:
    columns = ["run", "aliases", "alias, embedding", "alias, last layer", "`=`, last layer",
               "untrained, its best place", "places that read it", "IML gap (AUC)"]  # fmt: skip
    rows = []
    for run in (one.label for one in RUNS):
        gap = _gap(gaps, run)
        for probe, what in (("tag-stage-1", "stage 1 (qd1, qd2)"), ("tag-stage-2", "stage 2 (d1, d2)")):
            one = headline.get((probe, run))
            if one is None:  # in a control nothing is asked about the aliases of tag 2
                continue
            places = f"{_significant(one)} of {len(one.cells)}"
            untrained = number(one.cells["untrained"].max())
            rows.append([run, what, *_scores(one), untrained, places, estimate_in_words(gap, sign=True)])
    return write_table(columns, rows, left=(0, 1))


def _gap(gaps: pd.DataFrame, run: str) -> Estimate:
    return estimate(gaps.loc[gaps["run"] == run, "gap"].to_numpy(), unit="seed")


def _more() -> list[str]:
    """The parts on the sweeps beside the main one, as far as their tables are saved."""
    lines = []
    if has_table("others"):
        lines += [
            "",
            "The same for the integer that the questions imply, on aliases that were asked about:",
            "",
            *_integers("others", "implied-entity"),
            "",
            "### Other questions",
            "",
            f"`{write_command('others')}`. Scores at the alias's embedding and at `=`; "
            "*confounded*: the classes differ in when they were learned.",
            "",
            *_others(),
        ]
    if has_table("reliability"):
        lines += [
            "",
            "### At the definition",
            "",
            f"Can the tag be read at a definition (`{write_command('reliability')}`)? AUC of tag 1 against tag 2, and of the same probe on "
            "an untrained model: attention of any model carries a tag that is in the text to later positions, so that reading it there does "
            "not show that a model knows what the tag means.",
            "",
            *_reliability(),
        ]
    return lines


def _range(values: set[int]) -> str:
    return str(min(values)) if len(values) == 1 else f"{min(values)} to {max(values)}"


def _cell(grid: Grid, site: str, layer: int, position: str) -> pd.Series:
    cells = grid.cells
    return cells[(cells["site"] == site) & (cells["layer"] == layer) & (cells["position"] == position)].iloc[
        0
    ]


def _scores(grid: Grid) -> list[str]:
    """The scores at the alias's embedding, at the alias after the last layer, and at `=` after the last layer."""
    last = int(grid.cells["layer"].max())
    places = (("resid_pre", 0, "alias"), ("resid_post", last, "alias"), ("resid_post", last, "="))
    return [_interval(_cell(grid, *place)) for place in places]


def _interval(row: "pd.Series[float]") -> str:
    """A score such as `0.612* [0.580, 0.644]`. The star says that it is significant in the whole grid."""
    star = "*" if row["p"] < summaries.LEVEL else ""
    mean, low, high = (number(row[name]) for name in ("mean", "low", "high"))
    return f"{mean}{star} [{low}, {high}]"


def _significant(grid: Grid) -> int:
    return int((grid.cells["p"] < summaries.LEVEL).sum())


def _readings(headline: dict[tuple[str, str], Grid], gaps: pd.DataFrame) -> list[str]:
    """What the table says, in sentences that are made from its numbers."""
    runs = [one.label for one in RUNS]

    def reads(probe: str) -> list[str]:
        return [run for run in runs if (probe, run) in headline and _significant(headline[(probe, run)])]

    def listed(names: list[str]) -> str:
        return ", ".join(names) or "none"

    effect = [run for run in runs if _gap(gaps, run).low > 0]
    silent = [run for run in effect if ("tag-stage-1", run) in headline and run not in reads("tag-stage-1")]
    found = [
        f"- Of aliases that were asked about, the tag can be read in {listed(reads('tag-stage-1'))}; of those that were only "
        f"defined, in {listed(reads('tag-stage-2'))}.",
        f"- d1 is answered better than d2 (interval above 0) in {listed(effect)}.",
    ]
    if silent:
        found.append(
            f"- In {listed(silent)} d1 is answered better than d2, although no place of the grid reads the tag of aliases that were asked about, as "
            "in the earlier probe for the tag first."
        )
    unread = [run for run in effect if run not in reads("tag-stage-2")]
    if unread:
        found.append(
            f"- In {listed(unread)} d1 is answered better than d2, although no place reads the tag of the aliases that were only defined. Retrieval that is selective "
            "by a tag kept with the alias would need it there, unless it is kept in a way that is not linear."
        )
    for one in CONTROLS:
        recipe, _, control = one.label.partition(": ")
        own, other = (_best(headline[("tag-stage-2", run)]) for run in (recipe, one.label))
        there = one.label in reads("tag-stage-2")
        seen = "can be read there" + (", too" if recipe in reads("tag-stage-2") else ", and not in the run")
        seen = seen if there else "cannot be read there"
        gap = estimate_in_words(_gap(gaps, one.label), sign=True)
        found.append(
            f"- The tag of new aliases in `{recipe}` beside its control *{control}*, in which no definition ever contradicted a question "
            f"(gap {gap}): it {seen} (best place {other}, the run's {own})."
            + (
                " So that it can be read says that the aliases were defined with different tags, and not that one of the tags was unreliable."
                if there
                else ""
            )
        )
    return found


def _best(grid: Grid) -> str:
    """The score of the place that reads best."""
    return number(grid.cells["mean"].max())


def _used(grids: list[Grid]) -> list[str]:
    rows = []
    for grid in grids:
        cells = grid.cells[grid.cells["position"].isin(["alias", "="])]
        for row in cells.to_dict("records"):
            nats = [row[f"swap_effect{end}"] for end in ("", "_low", "_high")]
            share = [row[name] for name in ("swap_share", "swap_low", "swap_high")]
            moved = [
                interval(*nats, 2, sign=True, minus=HYPHEN),
                number(row["swap_shuffled_effect"], 2, sign=True, minus=HYPHEN),
                interval(*share, 2, sign=True, minus=HYPHEN) if np.isfinite(row["swap_share"]) else MISSING,
            ]
            # a number that is rounded to 0 has no sign of its own
            moved = [text.replace("-0.00", "+0.00") for text in moved]
            rows.append([grid.run, probe_sections.where(row), number(row["mean"]), *moved, row["verdict"]])
    columns = [
        "run",
        "where",
        "AUC",
        "moves, nats [95 %]",
        "along shuffled directions, nats",
        "share [95 %]",
        "verdict",
    ]
    return write_table(columns, rows, left=(0, 1, 6))


def _integers(name: str, probe: str) -> list[str]:
    grids = [g for g in read_grids(name) if g.probe == probe and g.run in {one.label for one in RECIPES}]
    subsets = [s for s in SUBSETS if any(s in set(one.subsets["subset"]) for one in grids)]
    rows = []
    for one in grids:
        for site, layer, position in summaries.landmarks(one.cells):
            row = _cell(one, site, layer, position)
            part = one.subsets
            here = part[(part["site"] == site) & (part["layer"] == layer) & (part["position"] == position)]
            means = here.set_index("subset")["mean"]
            where = probe_sections.where({"site": site, "layer": layer, "position": position})
            numbers = [*(means.get(s) for s in subsets), row["untrained"], one.chance]
            rows.append([one.run, where, _interval(row), *map(number, numbers)])
    columns = ["run", "where", "all (balanced)", *(f"`{s}`" for s in subsets), "untrained", "chance"]
    return write_table(columns, rows, left=(0, 1))


def _others() -> list[str]:
    rows = []
    questions = {one.name: one.question for name in named() for one in load(name)}
    for one in read_grids("others"):
        if one.probe.startswith(("implied", "defined-entity")):
            continue
        matched = number(one.cells["matched recency"].max()) if "matched recency" in one.cells else MISSING
        first, _, last = _scores(one)
        statistic = probe_plots.TITLES[one.statistic]
        untrained = number(one.cells["untrained"].max())
        rows.append([questions[one.probe], one.run, statistic, first, last, untrained, matched, one.recency])
    columns = ["question", "run", "statistic", "alias, embedding", "`=`, last layer",
               "untrained, its best place", "stages matched, its best place", "the classes' stages"]  # fmt: skip
    return write_table(columns, rows, left=(0, 1, 2, 7))


def _reliability() -> list[str]:
    positions = ("tag", "alias", "entity")
    rows = []
    for one in read_grids("reliability"):
        if one.probe not in ("reliability-stage-1", "reliability-stage-2"):
            continue
        last = int(one.cells["layer"].max())
        cells = [_cell(one, "resid_post", last, position) for position in positions]
        both = [text for row in cells for text in (_interval(row), number(row["untrained"]))]
        rows.append([one.run, one.probe[-1], *both])
    columns = [
        "run",
        "stage",
        *(name for p in positions for name in (f"{p}, last layer", "untrained")),
    ]
    return write_table(columns, rows, left=(0, 1))
