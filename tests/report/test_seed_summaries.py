"""Figures over seeds draw the numbers of their summaries and no others."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour.equal_loss import BETTER, WORSE, summarize_gap
from mechocl.behaviour.over_seeds import SeedSummary
from mechocl.interventions.summaries import summarize_circuits, summarize_patching, summarize_subspaces
from mechocl.lenses.direct_attribution import TOTAL
from mechocl.lenses.summaries import summarize_attribution
from mechocl.probing.at_landmarks import compare_runs, summarize_emergence
from mechocl.report import circuit_plots, lens_plots, plots, probe_plots, subspace_plots, training_plots
from toy_models.list_questioning import WORDS

SEEDS = range(4)
GAP = (BETTER, WORSE)


def table(*columns: str, cells: list[tuple[Any, ...]], values: tuple[str, ...]) -> pd.DataFrame:
    """Rows of every cell and seed with random values."""
    draws = np.random.default_rng(0)
    rows = [(*cell, seed) for seed in SEEDS for cell in cells]
    numbers = {value: draws.random(len(rows)) for value in values}
    return pd.DataFrame(rows, columns=[*columns, "seed"]).assign(**numbers)


def drawn(traces: Any, axis: str = "y") -> list[float]:
    return [float(value) for trace in traces for value in getattr(trace, axis)]


def bars(traces: Any) -> list[float]:
    """Half the intervals' widths."""
    return [float(half) for trace in traces for half in trace.error_y.array]


def assert_draws(found: SeedSummary, means: Any, seeds: Any, *, intervals: bool = True) -> None:
    """The traces hold the summary's means, halves of its intervals, and its values of seeds, in any order."""
    e = found.estimates
    assert sorted(drawn(means)) == sorted(e["mean"])
    if intervals:
        assert sorted(bars(means)) == sorted(e["high"] - e["mean"])
    assert sorted(drawn(seeds)) == sorted(found.by_seed["value"].dropna())


def curves() -> SeedSummary:
    cells = [(kind, edges) for kind in ("circuit", "without", "random") for edges in (0.0, 3.0)]
    rows = table("kind", "edges", cells=cells, values=("normalised",)).assign(contrast="a")
    return summarize_circuits(pd.concat([rows, rows.assign(kind="edge", normalised=np.nan)]))


def test_curves() -> None:
    found = curves()
    figure = circuit_plots.curves(found)
    bold = [t for t in figure.data if t.name]
    assert_draws(found, bold, [t for t in figure.data if not t.name], intervals=False)
    shown = sorted(float(v) for t in bold for v in np.asarray(t.customdata)[:, 1])
    assert shown == sorted(found.estimates["high"])


@pytest.mark.parametrize("with_loss", [True, False])
def test_gap_curves(with_loss: bool) -> None:
    """One seed has not been at the lowest losses: there, its line ends, and the mean is not drawn."""
    rows = table("epoch", "subset", cells=[(e, s) for s in GAP for e in range(4)], values=("auc",))
    rows["definition_loss"] = 4.0 - rows["epoch"] * (1 + 0.2 * (rows["seed"] == 0))
    rows = rows.assign(stage=2)
    found = summarize_gap(rows if with_loss else rows.drop(columns="definition_loss"), measure="auc")
    assert found is not None
    figure = training_plots.gap_curves(found)
    summaries = [found.by_epoch, *([found.by_loss] if found.by_loss is not None else [])]
    assert len(summaries) == 1 + with_loss
    assert [a.text for a in figure.layout.annotations] == ["at the same epoch", "at equal definition loss"][
        : 1 + with_loss
    ]
    assert figure.layout.yaxis.title.text == "d1 − d2, AUC"
    for summary, axis in zip(summaries, ("x", "x2"), strict=False):
        traces = [t for t in figure.data if t.xaxis == axis]
        assert_draws(
            summary,
            [t for t in traces if t.name == "mean"],
            [t for t in traces if not t.name],
            intervals=False,
        )
        (band,) = (t for t in traces if t.name == "95 %")
        assert sorted(band.y) == sorted([*summary.estimates["low"], *summary.estimates["high"]])
    if found.by_loss is not None:
        assert figure.layout.xaxis2.autorange == "reversed"
        assert found.by_loss.by_seed["value"].isna().any()


def test_a_contrast_without_a_share_has_an_empty_panel() -> None:
    rows = table("kind", "edges", cells=[("circuit", 0.0)], values=("normalised",))
    rows = pd.concat([rows.assign(contrast="a"), rows.assign(contrast="b", normalised=np.nan)])
    figure = circuit_plots.curves(summarize_circuits(rows))
    assert [a.text for a in figure.layout.annotations] == ["a", "b"]
    assert sum(len(t.x) > 0 for t in figure.data) == len(SEEDS) + 1


def test_subspaces() -> None:
    cells = [
        (method, k, control)
        for method, k in (("whole site", 8), ("rotation", 1), ("rotation", 2))
        for control in ("none", "shuffled", "random model")
    ]
    rows = table("method", "k", "control", cells=cells, values=("normalised", "explained")).assign(
        contrast="d1-to-d2", metric="logit_difference", layer=0, site="resid_pre", position="alias"
    )
    for value in ("normalised", "explained"):
        found = summarize_subspaces(rows, value=value)
        figure = subspace_plots.subspace_effects(found)
        assert_draws(
            found, [t for t in figure.data if t.name], [t for t in figure.data if t.mode and not t.name]
        )


def test_attribution() -> None:
    cells = [
        (subset, contains, component)
        for subset in ("d1_consistent", "d2_consistent")
        for contains in (True, False)
        for component in ("L0H0", TOTAL)
    ]
    rows = table("subset", "contains", "component", cells=cells, values=("difference", "integer"))
    found = summarize_attribution(rows.assign(position="="), quantity="integer")
    figure = lens_plots.attribution(found, words=WORDS)
    assert_draws(
        found,
        [t for t in figure.data if t.type == "bar"],
        [t for t in figure.data if t.type == "scatter"],
    )


def test_patching() -> None:
    cells = [(site, position) for site in ("attn_out", "mlp_out") for position in ("alias", "=")]
    rows = table("site", "position", cells=cells, values=("effect", "normalised", "clean", "corrupted"))
    (found,) = summarize_patching(rows.assign(contrast="a", layer=0, part="whole", index=-1, unit="nats"))
    (heatmap,) = plots.patching([found]).data
    assert np.array_equal(heatmap.z, found.means)
    np.testing.assert_allclose(np.ravel(heatmap.z), found.cells.estimates["mean"])
    first = found.cells.estimates.iloc[0]
    assert heatmap.customdata[0][0].startswith(f" [{first['low']:+.2f}, {first['high']:+.2f}]<br>seeds: ")


def probed() -> pd.DataFrame:
    cells = [
        (*checkpoint, control, draw, site, layer, position)
        for checkpoint in ((1, 5, 0.5), (2, 3, 1.0))
        for control, draw in (("none", -1), ("shuffled", 0), ("shuffled", 1))
        for site, layer in (("resid_pre", 0), ("resid_post", 0))
        for position in ("alias", "=")
    ]
    columns = ("stage", "step", "epoch", "control", "draw", "site", "layer", "position")
    rows = table(*columns, cells=cells, values=("auc", "accuracy"))
    return rows.assign(subset="all", chosen=True, chance=0.5, token="x", run="a", word_order="TVE")


def test_emergence() -> None:
    found = summarize_emergence(probed())
    *places, limit = probe_plots.emergence(found).data
    assert limit.y == tuple(found.checkpoints["threshold"])
    for (site, layer, position), trace in zip(found.landmarks, places, strict=True):
        keys = ["site", "layer", "position"]
        e = found.scores.estimates.set_index(keys).loc[(site, layer, position)]
        assert trace.y == tuple(e["mean"])
        assert list(trace.error_y.array) == list(e["high"] - e["mean"])


def test_runs_and_their_gaps() -> None:
    rows = probed()
    rows = rows[rows["stage"] == 2]
    gaps = table("run", cells=[("a",), ("b",)], values=("gap",)).assign(metric="AUC")
    compared = compare_runs(pd.concat([rows, rows.assign(run="b", auc=rows["auc"] / 2)]), gaps)
    figure = probe_plots.word_orders(compared)
    below = [t for t in figure.data if t.legendgroup == "IML gap (AUC)"]
    assert compared.gaps is not None
    assert_draws(compared.gaps, [t for t in below if t.name], [t for t in below if not t.name])
    first = next(t for t in figure.data if t.name)
    site, layer, position = compared.landmarks[0]
    e = compared.scores.estimates.set_index(["site", "layer", "position"]).loc[(site, layer, position)]
    assert first.y == pytest.approx(tuple(e["mean"]), abs=0)
    assert e["mean"].iloc[1] == pytest.approx(e["mean"].iloc[0] / 2)
