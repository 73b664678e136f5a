"""Gaps over control runs: worked by hand, paired by seed, and never a stronger claim from less evidence."""

from collections.abc import Mapping

import pandas as pd
import pytest

from mechocl.behaviour.control_gaps import ControlAnswers, compare_gaps, deciding_control, explain_gap
from mechocl.behaviour.counted import CountedSeeds

SEEDS = range(8)
WIGGLE = (0.004, -0.003, 0.002, -0.001, 0.003, -0.004, 0.001, -0.002)
"""What differs between seeds: its sum is 0."""


def rows(gap: float, *, recall: float = 1.0, tag_2: float = 0.0, shift: int = 0) -> pd.DataFrame:
    """Rows of the evaluate analysis of eight seeds whose gap is `gap` on average, and 3 aliases a subset.

    `recall` is that of the new aliases, `tag_2` that of qd2_inconsistent. `shift` takes other seeds' wiggles.
    """
    found = []
    for seed in SEEDS:
        own = gap + WIGGLE[(seed + shift) % len(WIGGLE)]
        values = {"d1_consistent": 0.8 + own, "d2_consistent": 0.8, "qd2_inconsistent": 0.9}
        for subset, auc in values.items():
            for alias in range(3):
                found.append(
                    {
                        "seed": seed, "alias": alias, "subset": subset, "auc": auc, "accuracy": auc,
                        "logit_difference": 1.0, "recall": tag_2 if subset.startswith("q") else recall,
                    }
                )  # fmt: skip
    return pd.DataFrame(found)


def answer(run: pd.DataFrame, controls: Mapping[str, pd.DataFrame]) -> str:
    return explain_gap(run, ControlAnswers(rows=controls)).answer


def test_gaps_are_paired_by_seed() -> None:
    """Gaps of .10 and .04 with the same wiggles: the difference is .06 in every seed, with no spread."""
    (one,) = compare_gaps(rows(0.10), ControlAnswers(rows={"noise": rows(0.04)}))
    assert one.own.learned.mean == pytest.approx(0.04)
    assert one.run.mean == pytest.approx(0.10)
    assert one.over.learned.mean == pytest.approx(0.06)
    assert one.over.learned.high - one.over.learned.low < 1e-12
    assert one.most.learned.mean == pytest.approx(2 * 0.04 - 0.10)
    (other,) = compare_gaps(rows(0.10), ControlAnswers(rows={"noise": rows(0.04, shift=3)}))
    assert other.over.learned.mean == pytest.approx(0.06)
    assert other.over.learned.high - other.over.learned.low > 0.004


def test_seeds_that_the_control_lacks_or_that_failed_do_not_count() -> None:
    run, control = rows(0.10), rows(0.04)
    control = control[control["seed"] != 7]
    control.loc[
        (control["seed"] == 6) & control["subset"].isin(["d1_consistent", "d2_consistent"]), "recall"
    ] = 0.5
    (one,) = compare_gaps(run, ControlAnswers(rows={"noise": control}))
    assert one.by_seed["seed"].tolist() == [0, 1, 2, 3, 4, 5]
    assert one.over.learned.n == 6
    assert one.over.every.n == 7


@pytest.mark.parametrize(
    ("recalled", "name"), [(0.01, "noise"), (0.49, "noise"), (0.51, "unasked"), (1.0, "unasked")]
)
def test_what_was_memorised_chooses_the_control(recalled: float, name: str) -> None:
    assert deciding_control(rows(0.1, tag_2=recalled))[0] == name


def test_answers() -> None:
    run, memorised = rows(0.10), rows(0.10, tag_2=1.0)
    assert answer(run, {"noise": rows(0.00)}) == "yes"
    assert answer(run, {"noise": rows(0.09, shift=1)}) == "no"
    assert answer(run, {"noise": rows(0.09), "unasked": rows(0.0)}) == "no"
    assert answer(memorised, {"noise": rows(0.09), "unasked": rows(0.0)}) == "yes"
    assert answer(run, {"noise": rows(0.03)}) == "in part"
    assert answer(run, {"noise": rows(0.0), "noise-equal-steps": rows(0.03)}) == "in part"
    assert answer(run, {"noise": rows(0.0), "noise-equal-steps": rows(0.0)}) == "yes"
    assert answer(run, {"noise": rows(0.0), "noise-equal-steps": rows(0.10)}) == "cannot tell"


WIDE = 30.0
"""Factor of the wiggles with which a gap of .04 in 8 seeds cannot be told from none."""


def test_yes_needs_a_control_without_a_gap() -> None:
    """A control whose gap cannot be told from none, and one that is known to have none, are told apart."""
    unknown = rows(0.03)
    auc = unknown["subset"] == "d1_consistent"
    unknown.loc[auc, "auc"] += (WIDE - 1) * unknown.loc[auc, "seed"].map(dict(enumerate(WIGGLE)))
    assert answer(rows(0.30), {"noise": unknown}) == "at least in part"
    assert answer(rows(0.30), {"noise": rows(0.0)}) == "yes"
    assert answer(rows(0.30), {"noise": rows(-0.05)}) == "yes"


def test_a_gap_that_is_larger_by_what_does_not_matter_is_not_larger() -> None:
    said = explain_gap(rows(0.04), ControlAnswers(rows={"noise": rows(0.038)}))
    assert said.answer == "no"
    small = explain_gap(rows(0.015, shift=0), ControlAnswers(rows={"noise": rows(0.008)}))
    assert small.answer == "no"
    assert "is not larger than in the deciding control by an amount that matters" in small.sentence


def test_diverged_seeds_count_as_lost() -> None:
    run, controls = rows(0.10), {"noise": rows(0.0)}
    many = CountedSeeds(tuple(SEEDS), {}, dict.fromkeys(range(20, 30), "diverged"))
    assert explain_gap(run, ControlAnswers(rows=controls), counted=many).answer == "cannot tell"
    lost = ControlAnswers(rows=controls, diverged={"noise": tuple(range(20, 30))})
    assert explain_gap(run, lost).answer == "cannot tell"


def test_what_is_missing_is_said() -> None:
    run = rows(0.10)
    one_way = explain_gap(run, ControlAnswers(rows={"noise": rows(0.0)}))
    assert "with --only noise-equal-steps trains the other" in one_way.sentence
    both = explain_gap(run, ControlAnswers(rows={"noise": rows(0.0), "noise-equal-steps": rows(0.0)}))
    assert "trained in one way" not in both.sentence
    shifted = rows(0.0).assign(seed=lambda r: r["seed"] + 1)
    assert (
        "Seeds without a partner are left out: 0, 8."
        in explain_gap(run, ControlAnswers(rows={"noise": shifted})).sentence
    )
    others = rows(0.0).assign(seed=lambda r: r["seed"] + 50)
    assert (
        "has no seed in common with the run"
        in explain_gap(run, ControlAnswers(rows={"noise": others})).sentence
    )
    broken = ControlAnswers(rows={}, left_out={"noise": "it diverged in every seed"})
    assert "The control noise is left out: it diverged in every seed." in explain_gap(run, broken).sentence
    another = explain_gap(
        rows(0.10, tag_2=1.0), ControlAnswers(rows={"noise": rows(0.09), "unasked": rows(0.0)})
    )
    assert another.answer == "yes"
    assert "A gap is there in noise, too" in another.sentence


def test_a_reversed_gap_is_called_so() -> None:
    assert (
        "The gap is the reverse"
        in explain_gap(rows(-0.10), ControlAnswers(rows={"noise": rows(0.0)})).sentence
    )


def test_less_is_never_more() -> None:
    run = rows(0.10)
    assert answer(run, {}) == "not asked"
    assert answer(run, {"unasked": rows(0.0)}) == "not asked"
    assert answer(rows(0.0), {"noise": rows(0.0)}) == "not asked"
    for few in range(1, 6):
        part = run[run["seed"] < few]
        assert answer(part, {"noise": rows(0.0)}) == "cannot tell"
        assert answer(run, {"noise": rows(0.0)[lambda r, few=few: r["seed"] < few]}) == "cannot tell"  # type: ignore[misc]
    failed = rows(0.10, recall=0.5)
    assert answer(failed, {"noise": rows(0.0)}) == "cannot tell"
    assert answer(run, {"noise": rows(0.0, recall=0.5)}) == "cannot tell"


def test_the_sentence_holds_the_control_that_decides_alone() -> None:
    """The others stand in a table beside it; of two ways of training it, that which leaves less of the gap."""
    controls = {
        "noise": rows(0.02),
        "noise-equal-steps": rows(0.03),
        "unasked": rows(0.05),
        "consistent": rows(0.001),
    }
    said = explain_gap(rows(0.10), ControlAnswers(rows=controls)).sentence
    for part in (
        "gap of the run +0.100",
        "of the control noise at equal steps +0.030",
        "the run's over it +0.070",
    ):
        assert part in said
    for other in ("+0.020", "+0.050", "+0.001", "nan"):
        assert other not in said
