"""Figures show the numbers that they were given."""

import numpy as np
import pandas as pd
import pytest

from mechocl.behaviour import over_seeds, sentences
from mechocl.errors import MechoclError
from mechocl.interventions.summaries import summarize_patching
from mechocl.report import plots
from toy_models.subsets import SUBSETS


def test_every_subset_has_a_colour_of_its_own() -> None:
    assert set(plots.COLORS) == set(SUBSETS)
    assert len(set(plots.COLORS.values())) == len(SUBSETS)


@pytest.fixture
def history() -> pd.DataFrame:
    rows = [
        {
            "seed": seed,
            "stage": stage,
            "epoch": epoch,
            "subset": subset,
            "auc": 0.1 * seed + epoch,
            "recall": recall,
        }
        for seed in (1, 2)
        for stage in (1, 2)
        for epoch in (0.0, 1.0)
        for subset, recall in (("d1_consistent", 0.5), ("no_data", np.nan))
    ]
    return pd.DataFrame(rows)


def test_training_curves_show_the_mean_over_seeds_and_each_seed(history: pd.DataFrame) -> None:
    figure = plots.training_curves(history)
    bold = [t for t in figure.data if t.mode == "lines+markers" and t.legendgroup == "d1_consistent"]
    thin = [t for t in figure.data if t.mode == "lines" and t.legendgroup == "d1_consistent"]
    assert len(bold) == 4  # two metrics, two stages
    assert len(thin) == 8  # … of two seeds
    np.testing.assert_allclose(bold[0].y, [0.15, 1.15])
    np.testing.assert_allclose(thin[0].y, [0.1, 1.1])
    recall_of_no_data = [t for t in figure.data if t.legendgroup == "no_data" and "recall" in str(t.yaxis)]
    assert not recall_of_no_data
    assert sum(t.legendgroup == "no_data" for t in figure.data) == 2 * 3  # AUC only: NaN recall is not drawn


def test_layers_and_positions_keep_their_order() -> None:
    rows = pd.DataFrame(
        {"layer": "embed", "position": ["alias", "%", "n10", "n2", "="], "effect": [1.0, 2.0, 3.0, 4.0, 5.0]}
    )
    grid = over_seeds.layer_by_position(rows, "effect")
    assert list(grid.columns) == ["alias", "%", "n10", "n2", "="]
    assert grid.loc["embed"].tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def patched(*effects: float, seeds: int = 1) -> pd.DataFrame:
    rows = [
        {"seed": seed, "position": position, "effect": effect + seed}
        for position, effect in zip(("alias", "="), effects, strict=True)
        for seed in range(seeds)
    ]
    same = {
        "contrast": "d1-to-d2",
        "layer": 0,
        "site": "z",
        "part": "head",
        "index": 1,
        "clean": 2.0,
        "corrupted": 1.0,
        "unit": "nats",
    }
    return pd.DataFrame(rows).assign(**same)


def test_patching_scale_is_symmetric_around_zero() -> None:
    figure = plots.patching(summarize_patching(patched(-3.0, 1.0)))
    assert figure.layout.coloraxis.cmin == -3.0
    assert figure.layout.coloraxis.cmax == 3.0
    np.testing.assert_allclose(figure.data[0].z, [[-3.0, 1.0]])
    assert list(figure.data[0].y) == ["L0H1 z"]
    assert "clean +2.00, corrupted +1.00" in figure.layout.annotations[0].text


def test_patching_is_drawn_normalised() -> None:
    rows = patched(-3.0, 1.0).assign(normalised=[-0.5, 0.25])
    figure = plots.patching(rows, value="normalised")
    np.testing.assert_allclose(figure.data[0].z, [[-0.5, 0.25]])
    with pytest.raises(MechoclError, match="value is 'normalised', and the summaries are of 'effect'"):
        plots.patching(summarize_patching(rows), value="normalised")


def test_patching_says_interval_and_seeds_of_a_cell() -> None:
    figure = plots.patching(summarize_patching(patched(-3.0, 1.0, seeds=2)))
    np.testing.assert_allclose(figure.data[0].z, [[-2.5, 1.5]])
    assert figure.data[0].customdata[0][1] == " [-4.85, +7.85]<br>seeds: +1.00, +2.00"


def test_patching_draws_the_sites_with_the_largest_effects() -> None:
    rows = pd.concat(
        [patched(float(i), 0.0).assign(index=i, part="neuron", site="mlp_post") for i in range(5)]
    )
    figure = plots.patching(summarize_patching(rows, most=2))
    assert list(figure.data[0].y) == ["L0N3 mlp_post", "L0N4 mlp_post"]


def test_attention_rows_are_queries_from_top_to_bottom() -> None:
    pattern = np.zeros((2, 1, 2, 2))
    pattern[1, 0] = [[1.0, 0.0], [0.25, 0.75]]
    figure = plots.attention(pattern, ["a", "b"], layer=1)
    np.testing.assert_allclose(figure.data[0].z, [[1.0, 0.0], [0.25, 0.75]])
    assert figure.layout.yaxis.autorange == "reversed"
    assert list(figure.data[0].y) == ["0: a", "1: b"]
    assert list(plots.attention(pattern).data[0].y) == ["0", "1"]
    with pytest.raises(
        MechoclError, match="tokens are 3, and the pattern has 2 positions; give one for each"
    ):
        plots.attention(pattern, ["a", "b", "c"])


@pytest.fixture
def evaluated() -> pd.DataFrame:
    """Three seeds; AUC of d1 above d2 by .1, .2, .3."""
    rows = []
    for seed, gap in ((0, 0.1), (1, 0.2), (2, 0.3)):
        for subset, auc in (("d1_consistent", 0.5 + gap), ("d2_consistent", 0.5), ("d3_consistent", 0.5)):
            for alias in (0, 1):
                rows.append(
                    {
                        "seed": seed,
                        "alias": alias,
                        "subset": subset,
                        "auc": auc,
                        "accuracy": 0.5,
                        "logit_difference": 0.0,
                        "recall": 1.0,
                    }
                )
    return pd.DataFrame(rows)


def test_contrasts_are_paired_by_seed(evaluated: pd.DataFrame) -> None:
    strong = next(c for c in over_seeds.contrasts(evaluated, "auc") if c.name == "strong")
    assert strong.estimate.mean == pytest.approx(0.2)
    assert strong.estimate.unit == "seed"
    assert strong.estimate.n == 3
    assert strong.positive_seeds == 3
    half = 4.302652729911275 * 0.1 / 3**0.5  # t(.975, 2) · sd / √n
    assert strong.estimate.low == pytest.approx(0.2 - half)


def test_answers_follow_the_interval(evaluated: pd.DataFrame) -> None:
    by_question = {a.question: a for a in sentences.answers(evaluated)}
    assert by_question["Weak internalization"].answer == "not asked"
    assert by_question["Strong internalization (IML)"].answer == "cannot tell"
    assert "3 of 3 seeds" in by_question["Strong internalization (IML)"].sentence
    nine = pd.concat([evaluated.assign(seed=evaluated["seed"] + 3 * i) for i in range(3)])
    same = nine["subset"].eq("d1_consistent") * 0.001 * (nine["seed"] % 2) + 0.5
    assert sentences.answers(nine.assign(auc=same))[-1].answer == "no"
    for d2, answer in ((0.5, "yes"), (0.7, "cannot tell"), (0.95, "no: the reverse")):
        auc = nine["auc"].where(nine["subset"] != "d2_consistent", d2 + 0.01 * nine["seed"])
        strong = sentences.answers(nine.assign(auc=auc))[-1]
        assert (strong.question, strong.answer) == ("Strong internalization (IML)", answer)


def test_a_single_seed_is_labelled_so(evaluated: pd.DataFrame) -> None:
    one = evaluated[evaluated["seed"] == 0].copy()
    one["auc"] += np.tile([0.01, -0.01], 3)
    assert all(e.estimate.unit == "alias" for e in over_seeds.subsets(one))
    assert "aliases of one seed" in sentences.answers(one)[2].sentence


def test_subset_figure_has_a_dot_per_seed_and_a_diamond_with_the_interval(evaluated: pd.DataFrame) -> None:
    figure = plots.subset_values(over_seeds.subsets(evaluated), over_seeds.by_seed(evaluated))
    dots, diamond = figure.data[0], figure.data[1]
    np.testing.assert_allclose(dots.y, [0.6, 0.7, 0.8])
    np.testing.assert_allclose(diamond.y, [0.7])
    np.testing.assert_allclose(diamond.error_y.array, [4.302652729911275 * 0.1 / 3**0.5])
