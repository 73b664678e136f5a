"""The studies behind docs/results.md: they can be trained, and their findings are judged as they say."""

import numpy as np
import pandas as pd
import pytest

from docs.write import studies
from docs.write.studies import Study
from mechocl.runs import sweep_settings, sweep_summaries

KEY = "task.tag_reliability"


def frame(gaps: dict[float, float], *, seeds: int = 6, noise: float = 0.01) -> pd.DataFrame:
    """Runs whose d1 − d2 is the given gap at each value of a field, give or take a little."""
    draws = np.random.default_rng(0)
    rows = [
        {
            KEY: value,
            "seed": seed,
            "failed": "",
            "stage1.auc.d1_consistent": 0.7 + gap + noise * draws.standard_normal(),
            "stage1.auc.d2_consistent": 0.7,
        }
        for value, gap in gaps.items()
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def study(judged: str, **more: object) -> Study:
    values = {"name": "a", "title": "A", "recipe": "integer-set/cpu", "over": (f"{KEY}=0.5,1.0",)}
    return Study(**values, judged=judged, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("one", studies.read(), ids=lambda one: one.name)
def test_every_study_can_be_trained(one: Study) -> None:
    allowed, refused = sweep_settings.settings(one.recipe, one.set, one.over)
    assert allowed
    assert not refused
    assert one.seeds >= 8
    assert one.first_seed >= 100  # setups were chosen on the seeds below
    values = [setting[one.key] for setting, _ in allowed] if one.over else []
    if one.base:
        base = next(study for study in studies.read() if study.name == one.base)
        assert (base.recipe, base.seeds, base.first_seed) == (one.recipe, one.seeds, one.first_seed)
        assert studies.own_value(one) is not None
        assert studies.own_value(one) not in values  # it is trained once
        values.append(studies.own_value(one))
    for value in (*one.high, *one.low):
        assert value in values


@pytest.mark.parametrize("one", studies.read(), ids=lambda one: one.name)
def test_a_saved_table_is_of_its_study(one: Study) -> None:
    """Of its recipe, and, unless the study was made shorter since, of all its settings and seeds."""
    table = one.table()
    if table is None or one.of:
        return
    assert set(table["recipe"]) == {one.recipe}
    assert set(table["seed"]) == set(range(one.first_seed, one.first_seed + one.seeds))
    allowed, _ = sweep_settings.settings(one.recipe, one.set, one.over)
    for setting, _ in allowed:
        rows = table
        for key, value in setting.items():
            rows = rows[rows[key] == value]
        assert len(rows) == one.seeds


@pytest.mark.parametrize(
    ("judged", "gaps", "expected"),
    [
        ("rises", {0.5: 0.0, 0.75: 0.05, 1.0: 0.1}, "agrees"),
        ("rises", {0.5: 0.1, 0.75: 0.05, 1.0: 0.0}, "disagrees"),
        ("rises", {0.5: 0.05, 0.75: 0.05, 1.0: 0.05}, "cannot tell"),
        ("falls", {0.5: 0.1, 0.75: 0.05, 1.0: 0.0}, "agrees"),
        ("falls", {0.5: 0.0, 0.75: 0.05, 1.0: 0.1}, "disagrees"),
        ("positive", {0.5: 0.1, 1.0: 0.1}, "agrees"),
        ("positive", {0.5: -0.1, 1.0: -0.1}, "disagrees"),
        ("positive", {0.5: 0.0, 1.0: 0.0}, "disagrees"),
        ("zero", {0.5: 0.1, 1.0: 0.1}, "disagrees"),
        ("zero", {0.5: 0.0, 1.0: 0.0}, "agrees"),
        ("", {0.5: 0.1, 1.0: 0.1}, "–"),
    ],
)
def test_a_finding_is_judged_by_its_interval(judged: str, gaps: dict[float, float], expected: str) -> None:
    one = study(judged)
    assert studies.verdict(one, studies.evidence(one, frame(gaps))) == expected


def test_a_difference_between_settings_is_paired_by_seed_and_signed() -> None:
    table = frame({0.5: 0.0, 0.75: 0.02, 1.0: 0.1}, noise=0.0)
    found = studies.evidence(study("differs", high=(1.0,), low=(0.5, 0.75)), table)
    assert found is not None
    assert found.learned.mean == pytest.approx(0.09)
    assert found.learned.n == 6


def test_the_slope_is_that_of_each_seed_from_one_value_to_the_next() -> None:
    runs = sweep_summaries.by_run(frame({0.5: 0.0, 0.6: 0.03, 1.0: 0.06}, noise=0.0), "strong")
    assert sweep_summaries.slopes(runs, KEY).to_numpy() == pytest.approx(0.03)
    incomplete = runs[~((runs["seed"] == 3) & (runs[KEY] == 0.6))]
    assert 3 not in sweep_summaries.slopes(incomplete, KEY).index  # a seed with a failed run has no slope


def test_few_seeds_decide_nothing() -> None:
    for seeds in range(1, 6):
        one = study("positive")
        assert (
            studies.verdict(one, studies.evidence(one, frame({0.5: 0.3, 1.0: 0.3}, seeds=seeds)))
            == "cannot tell"
        )


def test_seeds_with_failed_runs_are_lost() -> None:
    table = frame({0.5: 0.1, 1.0: 0.1}, seeds=12)
    table.loc[table["seed"] >= 6, "failed"] = "definition recall 0.5"
    one = study("positive")
    found = studies.evidence(one, table)
    assert found is not None
    assert studies.verdict(one, found) == "cannot tell"
    assert "6 of 12 seeds" in found.reason


def test_the_recipes_own_runs_stand_beside_those_of_a_study() -> None:
    """Only at its own value of what both sweeps do not share, and only of the seeds that the study has."""
    table = pd.DataFrame(
        {"recipe": "integer-set/cpu", "model.n_layers": [2, 2], "task.unreliable": ["noise", "inconsistent"], "seed": [0, 0], "x": [1.0, 2.0]}
    )  # fmt: skip
    base = pd.DataFrame(
        {
            "recipe": "integer-set/cpu", "task.tag_reliability": [0.5, 1.0, 1.0, 1.0],
            "task.unreliable": ["inconsistent", "inconsistent", "noise", "noise"], "seed": [0, 0, 0, 9], "x": [3.0, 4.0, 5.0, 6.0],
        }
    )  # fmt: skip
    found = studies.joined(table, base, "integer-set/cpu")
    assert list(found.columns) == list(table.columns)
    assert found[["model.n_layers", "task.unreliable", "x"]].to_numpy().tolist() == [
        [1, "inconsistent", 4.0],
        [1, "noise", 5.0],
        [2, "inconsistent", 2.0],
        [2, "noise", 1.0],
    ]
