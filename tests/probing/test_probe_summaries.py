"""What probes say over seeds: hand-worked tables, verdicts, figures that show the numbers, directions compared."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch

from mechocl.probing import summaries
from mechocl.probing.at_landmarks import compare_runs, summarize_emergence
from mechocl.probing.directions import BETWEEN_CHECKPOINTS, BETWEEN_PLACES, BETWEEN_SEEDS, compare
from mechocl.probing.summaries import NOT_DECODABLE, NOT_TRIED, NOT_USED, USED
from mechocl.report import probe_plots, probe_sections
from mechocl.runs.folders import Checkpoint

BASE = {
    "run": "demo", "word_order": "TVE", "recipe": "definition-retrieval", "stage": 2, "step": 10, "epoch": 1.0,
    "probe": "tag-stage-2", "target": "tag", "method": "logistic", "token": "x", "subset": "all", "draw": -1,
    "regularisation": 0.01, "chosen": True, "accuracy": 0.5, "log_loss": 0.7, "calibration_error": 0.0,
    "chance": 0.5, "aliases": 20, "recency": "matched", "swap_effect": np.nan, "swap_share": np.nan, "layer": 0,
}  # fmt: skip
OWN = {
    ("resid_pre", "alias"): (0.9, 1.0),
    ("resid_pre", "="): (0.5, 0.5),
    ("resid_post", "alias"): (0.6, 0.6),
    ("resid_post", "="): (0.8, 0.6),
}
"""AUC of the two seeds at each place."""


def table() -> pd.DataFrame:
    """Two seeds, four places, nine shuffles whose largest mean over seeds is .55, .56 … .63."""
    rows = []
    for (site, position), scores in OWN.items():
        for seed, auc in enumerate(scores):
            place = BASE | {"site": site, "position": position, "seed": seed}
            swap = (
                {"swap_effect": 1.0 + seed, "swap_share": 0.5}
                if (site, position) == ("resid_pre", "alias")
                else {}
            )
            idle = {"swap_effect": 0.0, "swap_share": 0.0} if position == "=" and site == "resid_post" else {}
            rows.append(place | {"control": "none", "auc": auc} | swap | idle)
            rows.append(place | {"control": "untrained", "auc": 0.45})
            rows.append(place | {"control": "question split", "auc": 0.95})
            rows.append(place | {"control": "control task", "auc": 0.65})
            for draw in range(9):
                largest = site == "resid_post" and position == "="
                auc = 0.55 + 0.01 * draw + (0.1 if seed else -0.1) if largest else 0.4
                effect = {"swap_effect": 0.1 * seed, "swap_share": 0.05} if swap else idle
                rows.append(place | {"control": "shuffled", "draw": draw, "auc": auc} | effect)
    rows += [
        BASE
        | {
            "site": "token embedding",
            "position": "alias",
            "seed": s,
            "control": "token embedding",
            "auc": 0.9,
        }
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def test_cells_by_hand() -> None:
    found = summaries.grid_cells(table()).set_index(["site", "position"])
    assert list(found.index) == list(OWN)
    means = {place: np.mean(scores) for place, scores in OWN.items()}
    assert found["mean"].to_dict() == pytest.approx(means)
    # the means over seeds of the shuffles reach .55 … .63 in one place: .95 and .7 beat all nine, .6 beats five
    assert found["p"].to_dict() == pytest.approx(
        {
            ("resid_pre", "alias"): 0.1,
            ("resid_pre", "="): 1.0,
            ("resid_post", "alias"): 0.5,
            ("resid_post", "="): 0.1,
        }
    )
    half = 12.7062 * np.std([0.9, 1.0], ddof=1) / 2**0.5  # t with 1 degree of freedom
    assert found.loc[("resid_pre", "alias"), "low"] == pytest.approx(0.95 - half, abs=1e-3)
    assert (found["untrained"] == 0.45).all()
    assert found["selectivity"].to_numpy() == pytest.approx([0.3] * 4)
    assert found.loc[("resid_post", "="), "shuffled"] == pytest.approx(0.59)
    swapped = found.loc[("resid_pre", "alias")]  # 1 and 2 nats; 0 and .1 along shuffled directions
    assert (swapped["swap_effect"], swapped["swap_shuffled_effect"]) == pytest.approx((1.5, 0.05))
    half = 12.7062 * np.std([1.0, 2.0], ddof=1) / 2**0.5
    assert (swapped["swap_effect_low"], swapped["swap_effect_high"]) == pytest.approx(
        (1.5 - half, 1.5 + half), abs=1e-3
    )
    assert summaries.token_embedding(table()) == 0.9
    assert summaries.threshold(table()) == pytest.approx(np.quantile(0.55 + 0.01 * np.arange(9), 0.95))


@pytest.mark.parametrize("control", ["untrained", "shuffled"])
def test_a_control_and_a_swap_that_a_seed_lacks_have_no_mean_over_seeds(control: str) -> None:
    rows = table()
    rows = rows[(rows["control"] != control) | (rows["seed"] == 0)]
    assert summaries.grid_cells(rows)[control].isna().all()
    assert summaries.grid_cells(table())[control].notna().all()
    for lacking, columns in (("swap_effect", ["swap_effect"]), ("swap_share", ["swap_share", "swap_low"])):
        rows = table()
        rows.loc[(rows["seed"] == 1) & (rows["control"] == "none"), lacking] = np.nan
        found = summaries.grid_cells(rows).set_index(["site", "position"]).loc[("resid_pre", "alias")]
        assert found[columns].isna().all()
        assert np.isfinite(found["mean"])


def test_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "LEVEL", 0.2)  # two seeds and nine shuffles give no smaller p
    rows = table()
    assert summaries.grid_cells(rows).set_index(["site", "position"])["verdict"].to_dict() == {
        ("resid_pre", "alias"): NOT_USED,  # +1 and +1.9 over the shuffled: with two seeds not above 0
        ("resid_pre", "="): NOT_DECODABLE,
        ("resid_post", "alias"): NOT_DECODABLE,
        ("resid_post", "="): NOT_USED,
    }
    even = (rows["control"] == "none") & (rows["swap_effect"] > 0)
    steady = rows.assign(swap_effect=rows["swap_effect"].mask(even, 1.0 + 0.1 * rows["seed"]))
    verdict = summaries.grid_cells(steady)["verdict"]
    assert verdict.iloc[0] == USED
    untried = summaries.grid_cells(rows.assign(swap_effect=np.nan, swap_share=np.nan))["verdict"]
    assert untried.iloc[0] == NOT_TRIED
    alone = rows[rows["seed"] == 0]  # one seed: its direction has to beat each shuffled one
    assert summaries.grid_cells(alone)["verdict"].iloc[0] == USED
    assert summaries.grid_cells(rows[rows["control"] != "shuffled"])["verdict"].iloc[0] == "not tested"


def test_many_classes_are_judged_by_accuracy() -> None:
    rows = table().assign(chance=0.1, auc=np.nan)
    rows["accuracy"] = table()["auc"]
    assert summaries.statistic(rows) == "accuracy"
    assert summaries.chance(rows) == pytest.approx(0.1)
    np.testing.assert_allclose(summaries.grid_cells(rows)["mean"], summaries.grid_cells(table())["mean"])


def test_the_last_checkpoint_of_each_run() -> None:
    rows = pd.concat([table(), table().assign(step=20), table().assign(stage=1, step=99)])
    other = table().assign(run="other", step=5)
    kept = summaries.last_checkpoint(pd.concat([rows, other]))
    assert kept.groupby("run")[["stage", "step"]].first().to_numpy().tolist() == [[2, 20], [2, 5]]
    assert len(kept) == 2 * len(table())


def test_the_grid_shows_the_cells_and_the_controls() -> None:
    (one,) = summaries.probe_grids(table())
    assert (one.seeds, one.permutations, one.statistic, one.chance, one.recency) == (
        2,
        9,
        "auc",
        0.5,
        "matched",
    )
    figure = probe_plots.grid(one)
    panels = {
        a.text.split(" (")[0]: trace for a, trace in zip(figure.layout.annotations, figure.data, strict=True)
    }
    assert set(panels) == {
        "the probe", "labels shuffled", "untrained model", "split by question: an alias on both sides",
        "control task: random labels, split so too",
    }  # fmt: skip
    np.testing.assert_allclose(panels["the probe"].z, [[0.95, 0.5], [0.6, 0.7]])
    assert list(panels["the probe"].y) == ["embedding", "L0 resid_post"]
    assert list(panels["the probe"].x) == ["alias<br>x", "=<br>x"]
    assert not any("*" in text for line in panels["the probe"].text for text in line)
    assert (np.array(panels["untrained model"].z) == 0.45).all()


def test_stars_mark_what_is_significant_in_the_whole_grid() -> None:
    rows = table()
    more = [rows[rows["control"] == "shuffled"].assign(draw=lambda r, k=k: r["draw"] + 9 * k) for k in (1, 2)]
    (one,) = summaries.probe_grids(pd.concat([rows, *more]))
    text = probe_plots.grid(one).data[0].text
    assert [["*" in cell for cell in line] for line in text] == [[True, False], [False, True]]


def test_emergence_follows_the_landmarks_through_the_stages() -> None:
    rows = pd.concat(
        [table().assign(stage=1, step=5), table().assign(stage=2, step=0, auc=table()["auc"] / 2), table()]
    )
    figure = probe_plots.emergence(summarize_emergence(rows))
    curves = {trace.name: trace for trace in figure.data}
    assert set(curves) == {
        "alias, embedding",
        "alias, L0 resid_post",
        "=, L0 resid_post",
        "significant above",
    }
    assert list(curves["alias, embedding"].y) == pytest.approx([0.95, 0.475, 0.95])
    assert [label.split("<br>")[0] for label in curves["alias, embedding"].x] == [
        "stage 1",
        "stage 2",
        "stage 2",
    ]
    assert len(figure.layout.shapes) == 1  # between the stages


def test_runs_stand_beside_each_other() -> None:
    rows = pd.concat([table(), table().assign(run="other", word_order="VTE", auc=0.7)])
    gaps = pd.DataFrame(
        {"run": ["demo", "demo", "other", "other"], "seed": [0, 1, 0, 1], "gap": [0.1, 0.2, 0.0, 0.1]}
    ).assign(metric="AUC")
    figure = probe_plots.word_orders(compare_runs(rows, gaps))
    means = {trace.name: list(trace.y) for trace in figure.data if trace.name}
    assert means["alias, embedding"] == pytest.approx([0.95, 0.7])
    assert means["IML gap (AUC)"] == pytest.approx([0.15, 0.05])
    assert list(figure.layout.xaxis.ticktext) == ["TVE", "VTE"]


def test_sections_say_what_was_found() -> None:
    rows = table()
    more = [rows[rows["control"] == "shuffled"].assign(draw=lambda r, k=k: r["draw"] + 9 * k) for k in (1, 2)]
    rows = pd.concat([rows, *more])
    (section,) = probe_sections.sections(summaries.probe_grids(rows), rows)
    assert section.id == "probe-tag-stage-2"
    assert section.finding == (
        "demo, TVE: readable at 2 of 4 places (corrected p < .05, 27 permutations), best at alias, embedding: 0.950; "
        "decodable, used: 0, decodable, not used: 2."
    )
    (shown,) = section.tables
    assert shown.rows[0][:3] == ("demo, TVE", "alias, embedding", "0.950 [0.315, 1.000]")
    confounded = summaries.probe_grids(rows.assign(recency="confounded"))
    assert "it may read that instead" in probe_sections.described(confounded[0])


# directions ----------------------------------------------------------------------------------------


def checkpoint(seed: int, stage: int) -> Checkpoint:
    return Checkpoint(seed, stage, 10, f"stage-{stage}/final.safetensors", "0")


def directions(*, shared: float, seed: int, draws: int = 40) -> dict[str, torch.Tensor]:
    """Two places, one position: the probes' own directions have this cosine, shuffled ones none but chance."""
    draw = torch.Generator().manual_seed(seed)
    first = torch.nn.functional.normalize(torch.randn(draws + 1, 64, generator=draw), dim=1)
    second = torch.nn.functional.normalize(torch.randn(draws + 1, 64, generator=draw), dim=1)
    across = second[0] - (second[0] @ first[0]) * first[0]
    second[0] = shared * first[0] + (1 - shared**2) ** 0.5 * across / across.norm()
    return {"tag/resid_pre/0": first[None, :, :, None], "tag/resid_post/0": second[None, :, :, None]}


def test_cosines_stand_beside_their_null() -> None:
    found = [
        (checkpoint(s, stage), directions(shared=0.8, seed=10 * s + stage))
        for s, stage in product((0, 1), (1, 2))
    ]
    table = compare(found, probe="tag")
    places = table[table["compared"] == BETWEEN_PLACES]
    assert places["cosine"].to_numpy() == pytest.approx([0.8] * 4, abs=1e-5)
    assert places["first"].iloc[0] == "seed 0, stage 1 step 10, embedding"
    assert places["second"].iloc[0] == "L0 resid_post"
    assert 0.15 < places["null"].iloc[0] < 0.35  # 1.96 / √64
    assert set(table["compared"]) == {BETWEEN_PLACES, BETWEEN_CHECKPOINTS, BETWEEN_SEEDS}
    unrelated = table[table["compared"] != BETWEEN_PLACES]
    assert len(unrelated) == 2 * 2 + 2
    assert (unrelated["cosine"].abs() < 0.5).all()
    assert compare(found, probe="other").empty


def test_what_cannot_be_compared_is_left_out() -> None:
    """Another width, no shuffles, more than two classes, a place where nothing was found."""
    good = directions(shared=0.5, seed=0)
    zero = good["tag/resid_post/0"].clone()
    zero[:, 0] = 0
    for other in (
        torch.randn(1, 41, 32, 1),
        good["tag/resid_post/0"][:, :1],
        torch.randn(1, 41, 64, 3),
        zero,
    ):
        pair = {"tag/resid_pre/0": good["tag/resid_pre/0"], "tag/z/0": other}
        if other.shape[1] == 1:
            pair["tag/resid_pre/0"] = pair["tag/resid_pre/0"][:, :1]
        assert compare([(checkpoint(0, 1), pair)], probe="tag").empty


def test_one_confounded_seed_is_said() -> None:
    """Whichever seed it is: the first one does not speak for all."""
    rows = table()
    assert summaries.probe_grids(rows)[0].recency == "matched"
    for seed in (0, 1):
        one = rows.assign(recency=rows["recency"].where(rows["seed"] != seed, "confounded"))
        assert summaries.probe_grids(one)[0].recency == "confounded"
