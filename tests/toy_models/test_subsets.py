"""The experimental design: sizes by exact arithmetic, random assignment, refusals."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from toy_models.randomness import generator
from toy_models.subsets import SUBSETS, Fractions, Unreliable, assign_subsets, subset_named, subset_sizes

NAMES = ("qd1", "qd2", "q_only", "q_entity", "d1", "d2", "d3", "no_data")
EXACT = settings(max_examples=200, deadline=None, derandomize=True, database=None)


@st.composite
def percentages(draw: st.DrawFn) -> tuple[int, ...]:
    """Shares of the eight groups in percent; they sum to 100."""
    cuts = sorted(draw(st.lists(st.integers(0, 100), min_size=7, max_size=7)))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, 100], strict=True))


def exact_shares(percent: tuple[int, ...], reliability: Fraction) -> dict[str, Fraction]:
    """The share of each subset as a rational number, in the order of `SUBSETS`."""
    share = {name: Fraction(p, 100) for name, p in zip(NAMES, percent, strict=True)}
    return {
        "qd1_consistent": share["qd1"] * reliability,
        "qd1_inconsistent": share["qd1"] * (1 - reliability),
        "qd2_consistent": share["qd2"] * (1 - reliability),
        "qd2_inconsistent": share["qd2"] * reliability,
        "d2_noise": Fraction(0),
        "d2_unasked": Fraction(0),
        "q_only": share["q_only"],
        "q_entity": share["q_entity"],
        "d1_consistent": share["d1"],
        "d2_consistent": share["d2"],
        "d3_consistent": share["d3"],
        "no_data": share["no_data"],
    }


def largest_remainder(n: int, shares: dict[str, Fraction]) -> dict[str, int]:
    """Floors first; what is left goes to the largest remainders, the earlier subset first in a tie."""
    sizes = {name: math.floor(n * share) for name, share in shares.items()}
    order = sorted(shares, key=lambda name: sizes[name] - n * shares[name])
    for name in order[: n - sum(sizes.values())]:
        sizes[name] += 1
    return sizes


@EXACT
@given(n=st.integers(0, 3000), percent=percentages(), reliability=st.integers(50, 100))
def test_sizes_follow_the_largest_remainders_in_exact_arithmetic(
    n: int, percent: tuple[int, ...], reliability: int
) -> None:
    fractions = Fractions(**{name: p / 100 for name, p in zip(NAMES, percent, strict=True)})
    sizes = subset_sizes(n, fractions, reliability / 100)
    assert sizes == largest_remainder(n, exact_shares(percent, Fraction(reliability, 100)))
    assert sum(sizes.values()) == n
    assert list(sizes) == list(SUBSETS)


def test_the_papers_design_has_its_sizes() -> None:
    """8000 aliases: 2800 + 2800 asked about, 800 for each tag of stage 2; α = 0.9 moves a tenth."""
    sizes = subset_sizes(8000, Fractions(), 1.0)
    assert {k: v for k, v in sizes.items() if v} == {
        "qd1_consistent": 2800,
        "qd2_inconsistent": 2800,
        "d1_consistent": 800,
        "d2_consistent": 800,
        "d3_consistent": 800,
    }
    sizes = subset_sizes(8000, Fractions(), 0.9)
    split = [sizes[f"qd{tag}_{kind}"] for tag in (1, 2) for kind in ("consistent", "inconsistent")]
    assert split == [2520, 280, 280, 2520]


@pytest.mark.parametrize(
    ("unreliable", "sizes_of_tag_2"),
    [
        ("inconsistent", {"qd2_consistent": 700, "qd2_inconsistent": 2100}),
        ("noise", {"qd2_consistent": 700, "d2_noise": 2100}),
        ("unasked", {"qd2_consistent": 700, "d2_unasked": 2100}),
        ("consistent", {"qd2_consistent": 2100, "qd2_inconsistent": 700}),
    ],
)
def test_what_the_share_of_tag_2_becomes(unreliable: Unreliable, sizes_of_tag_2: dict[str, int]) -> None:
    sizes = subset_sizes(8000, Fractions(), 0.75, unreliable)
    others = {k: v for k, v in sizes.items() if SUBSETS[k].stage == 1 and SUBSETS[k].tag == 2 and v}
    assert others == sizes_of_tag_2
    assert (sizes["qd1_consistent"], sizes["qd1_inconsistent"]) == (2100, 700)
    assert sum(sizes.values()) == 8000


def test_equal_remainders_go_to_the_earlier_subset() -> None:
    """10001 aliases: 3500.35, 3500.35 and three times 1000.1 leave one alias, for the first of the two."""
    sizes = subset_sizes(10_001, Fractions(), 1.0)
    assert (sizes["qd1_consistent"], sizes["qd2_inconsistent"], sizes["d1_consistent"]) == (3501, 3500, 1000)


def test_sizes_sum_even_when_the_fractions_only_nearly_sum_to_one() -> None:
    above = Fractions(qd1=0.35000025, qd2=0.35000025, d1=0.1000002, d2=0.1000001, d3=0.1000001)
    below = Fractions(qd1=0.34999975, qd2=0.34999975, d1=0.0999998, d2=0.0999999, d3=0.0999999)
    for fractions in (above, below):
        assert sum(subset_sizes(10_000_000, fractions, 0.75).values()) == 10_000_000


def test_assignment_keeps_the_sizes_and_shuffles() -> None:
    sizes = subset_sizes(400, Fractions(), 0.75)
    first, again, other = (assign_subsets(sizes, generator(seed, "subsets")) for seed in (0, 0, 1))
    names, counts = np.unique(first.astype(str), return_counts=True)
    assert dict(zip(names, counts, strict=True)) == {k: v for k, v in sizes.items() if v}
    assert (first == again).all()
    assert (first != other).any()
    in_order = np.repeat(list(sizes), list(sizes.values()))
    assert (first == in_order).mean() < 0.5


@pytest.mark.parametrize("name", SUBSETS)
def test_each_subset_is_what_its_name_says(name: str) -> None:
    subset = SUBSETS[name]
    assert subset.name == name
    assert subset.defined == ("d1" in name or "d2" in name or "d3" in name)
    assert subset.tag == (int(name.split("d")[1][0]) if subset.defined else 0)
    control = name in ("d2_noise", "d2_unasked")
    assert subset.consistent == ("inconsistent" not in name and name != "d2_noise")
    assert subset.redrawn == (name == "d2_noise")
    assert subset.trained_questions == name.startswith("q")
    assert subset.replaced == (name != "q_entity")
    assert subset.stage == (0 if name == "no_data" else 1 if name.startswith("q") or control else 2)


def test_notations_tell_the_subsets_apart() -> None:
    assert len({subset.notation for subset in SUBSETS.values()}) == len(SUBSETS)


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ({"qd1": -0.1}, r"fraction qd1 is -0\.1; it must lie between 0 and 1"),
        ({"d3": 1.5}, r"fraction d3 is 1\.5; it must lie between 0 and 1"),
        ({"qd2": float("nan")}, "fraction qd2 is nan"),
        ({"qd1": 0.5}, r"sum to 1\.15, not 1 \(qd1 0\.5, .*\); lower some"),
        ({"qd1": 0.25}, r"sum to 0\.9, not 1 .*give the rest to no_data \(0\.1 is missing\)"),
    ],
)
def test_fractions_that_make_no_sense_are_refused(fractions: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Fractions(**fractions)


@pytest.mark.parametrize("name", SUBSETS)
def test_every_subset_has_a_short_name_or_says_that_it_needs_its_whole_one(name: str) -> None:
    """In a task of the experiment's subsets; those of tag reliability below 1 make `qd1` ambiguous."""
    experiment = [n for n in SUBSETS if n not in ("qd1_inconsistent", "qd2_consistent")]
    assert subset_named(name, experiment) == name
    short = name.split("_")[0]
    if short in ("q", "no"):
        return
    expected = f"{short}_consistent" if short != "qd2" else "qd2_inconsistent"
    assert subset_named(short, experiment) == expected


def test_a_name_of_no_subset_is_answered_with_the_nearest() -> None:
    with pytest.raises(
        ValueError, match="'d1_consistant' names no subset of the run; did you mean 'd1_consistent'"
    ):
        subset_named("d1_consistant", SUBSETS)
    with pytest.raises(ValueError, match="'qd1' may be any of the subsets qd1_consistent, qd1_inconsistent"):
        subset_named("qd1", SUBSETS)
    with pytest.raises(ValueError, match="7 names no subset of the run; use one of qd1_consistent"):
        subset_named(7, SUBSETS)
