"""How numbers are written for people: one minus, one sign for what is missing, one way to write an interval."""

import numpy as np
import pytest

from mechocl.behaviour import formats
from mechocl.behaviour.statistics import Estimate, estimate

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        (0.1084, {}, "0.108"),
        (-0.25, {}, "−0.250"),
        (0.25, {"sign": True}, "+0.250"),
        (-0.25, {"sign": True}, "−0.250"),
        (0.0, {"sign": True}, "+0.000"),
        (12.26, {"digits": 1}, "12.3"),
        (41.8, {"digits": 0}, "42"),
        (-1.5, {"digits": 1, "minus": formats.HYPHEN}, "-1.5"),
        (np.float64(0.5), {}, "0.500"),
        (3, {}, "3.000"),
    ],
)
def test_a_number(value: float, options: dict[str, object], expected: str) -> None:
    assert formats.number(value, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [None, NAN, float("inf"), -float("inf"), np.float64("nan")])
def test_a_value_that_is_missing_is_a_dash(value: float | None) -> None:
    assert formats.number(value) == formats.number(value, sign=True) == "–"
    assert formats.number(value, minus=formats.HYPHEN) == "–"


def test_an_interval() -> None:
    assert formats.interval(0.1, -0.05, 0.25) == "0.100 [−0.050, 0.250]"
    assert formats.interval(0.1, -0.05, 0.25, 2, sign=True) == "+0.10 [−0.05, +0.25]"
    assert formats.interval(0.1, -0.05, 0.25, 1, minus=formats.HYPHEN) == "0.1 [-0.1, 0.2]"


def test_without_an_end_an_interval_is_the_mean_alone() -> None:
    assert formats.interval(0.1, NAN, NAN, sign=True) == "+0.100"
    assert formats.interval(0.1, 0.05, None) == "0.100"
    assert formats.interval(NAN, NAN, NAN) == "–"
    assert formats.interval(None, 0.1, 0.2) == "–"


@pytest.mark.parametrize(
    ("p", "alone", "named"),
    [
        (0.0004, "< .001", "p < .001"),
        (0.001, ".001", "p = .001"),
        (0.0449, ".045", "p = .045"),
        (0.25, ".250", "p = .250"),
        (1.0, "1.000", "p = 1.000"),
        (NAN, "–", "–"),
    ],
)
def test_a_p_value(p: float, alone: str, named: str) -> None:
    assert formats.p_value(p) == named
    assert formats.p_in_table(p) == alone


def test_an_estimate_over_seeds() -> None:
    e = Estimate(0.108, 0.041, 0.175, 0.004, 8, "seed", 0.08)
    assert formats.estimate_in_words(e) == "0.108 [0.041, 0.175]"
    assert formats.estimate_in_words(e, 1, sign=True) == "+0.1 [+0.0, +0.2]"
    assert formats.describe(e) == "+0.108 [+0.041, +0.175], p = .004"


def test_an_estimate_over_aliases_says_so() -> None:
    e = Estimate(-0.108, -0.175, -0.041, 0.0004, 20, "alias", 0.08)
    assert formats.describe(e) == "−0.108 [−0.175, −0.041], p < .001 (over the aliases of one seed)"


def test_an_estimate_of_one_seed_or_none() -> None:
    one, none = (estimate(np.array(values), unit="seed") for values in ([0.3], []))
    assert formats.estimate_in_words(one) == "0.300"
    assert formats.describe(one) == "+0.300"
    assert formats.describe(none) == formats.describe(None) == formats.estimate_in_words(None) == "–"


def test_a_row_over_seeds() -> None:
    row = {"mean": -0.1, "low": -0.25, "high": 0.05, "seeds": 4}
    assert formats.mean_in_words(row) == "−0.100 [−0.250, +0.050]"
    assert formats.value_in_words(row) == "−0.100 [−0.250, 0.050]"
    assert formats.mean_in_words(row | {"seeds": 1}) == "−0.100"
    assert formats.mean_in_words(None) == formats.value_in_words(None) == "–"


def test_a_cell_of_a_table() -> None:
    assert [formats.cell(v) for v in (0.12345, NAN, np.float64(-1), 7, "d1", True)] == [
        "0.123", "–", "−1.000", "7", "d1", "True",
    ]  # fmt: skip


def test_a_cell_with_another_minus() -> None:
    assert formats.cell(-0.5, minus=formats.HYPHEN) == "-0.500"
