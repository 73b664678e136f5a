"""Twins on numbers worked out by hand."""

import numpy as np
import pandas as pd
import pytest

from mechocl.learning.twins import estimate_twins, over_aliases, over_seeds, pair_twins


def rows(seed: int, subsets: str, values: list[float]) -> pd.DataFrame:
    """One row per alias 0, 1, …; `subsets` names each alias's subset by its number."""
    names = {"1": "d1_consistent", "2": "d2_consistent", "3": "d3_consistent"}
    return pd.DataFrame(
        {"seed": seed, "alias": range(len(values)), "subset": [names[c] for c in subsets], "auc": values}
    )


RUN = rows(0, "11223", [0.9, 0.5, 0.6, 0.2, 0.7])
EXCHANGED = rows(0, "22113", [0.8, 0.4, 0.9, 0.3, 0.1])


def test_each_alias_stands_under_both_tags() -> None:
    twins = pair_twins(RUN, EXCHANGED, "auc")
    assert twins["alias"].tolist() == [0, 1, 2, 3]
    assert twins["tag_1"].tolist() == [0.9, 0.5, 0.9, 0.3]
    assert twins["tag_2"].tolist() == [0.8, 0.4, 0.6, 0.2]
    np.testing.assert_allclose(twins["gap"], [0.1, 0.1, 0.3, 0.1])


def test_estimates_by_hand() -> None:
    """Gaps .1 .1 .3 .1: mean .15, deviation .1, error .05. d1 − d2 = .7 − .4; each has an error of .2."""
    (found,) = estimate_twins(pair_twins(RUN, EXCHANGED, "auc")).to_dict("records")
    assert found["seed"] == 0
    assert found["aliases"] == 4
    assert found["twin_gap"] == pytest.approx(0.15)
    assert found["twin_error"] == pytest.approx(0.05)
    assert found["gap"] == pytest.approx(0.3)
    assert found["gap_error"] == pytest.approx(0.2 * 2**0.5)
    # variances of (.9 .5 .9 .3) and (.8 .4 .6 .2): .27 / 3 and .2 / 3, each over 4 aliases
    assert found["unpaired_error"] == pytest.approx(((0.27 / 3 + 0.2 / 3) / 4) ** 0.5)
    assert found["correlation"] == pytest.approx(
        np.corrcoef([0.9, 0.5, 0.9, 0.3], [0.8, 0.4, 0.6, 0.2])[0, 1]
    )


def test_seeds_are_apart_and_are_the_unit() -> None:
    run = pd.concat([RUN, RUN.assign(seed=1), RUN.assign(seed=2)])
    other = pd.concat([EXCHANGED, EXCHANGED.assign(seed=1, auc=EXCHANGED["auc"] - 0.1)])
    found = estimate_twins(pair_twins(run, other, "auc"))
    assert found["seed"].tolist() == [0, 1]
    # under tag 1 of half the aliases, and under tag 2 of the other half, .1 less: the mean gap stays
    assert found["twin_gap"].tolist() == pytest.approx([0.15, 0.15])
    assert over_seeds(found, "twin_gap").n == 2
    twin, gap = over_aliases(pair_twins(RUN, EXCHANGED, "auc"))
    assert (twin.mean, gap.mean) == pytest.approx((0.15, 0.3))
    assert (twin.unit, twin.n) == ("alias", 4)


def test_aliases_with_the_same_tag_twice_are_no_twins() -> None:
    with pytest.raises(ValueError, match="the same tag in both trainings"):
        pair_twins(RUN, RUN, "auc")
