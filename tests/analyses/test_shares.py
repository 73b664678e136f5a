"""Long analyses tell how far they are, so that no bar stands still for a minute."""

from pathlib import Path

import pytest
import tiny
from contract import CONFIGS

from mechocl.analyses import jobs, results
from mechocl.analyses.probe_sweep import list_units, probe_unit
from mechocl.analyses.registry import ANALYSES
from mechocl.runs.run import Run
from mechocl.shares import in_shares, listening

LONG = (
    "patch",
    "circuit",
    "suppression",
    "graft",
    "steering",
    "subspace",
    "probe",
    "gradients",
    "alias-gradients",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("shares")
    return jobs.train_run(
        folder / "run", tiny.recipe(folder), recipe_name="tiny", seeds=(0,), device="cpu", jobs=1
    )


@pytest.mark.parametrize("name", LONG)
def test_a_long_analysis_moves(run: Run, name: str) -> None:
    heard: list[float] = []
    results.analyse_seed(
        run,
        run.seed(0),
        name,
        CONFIGS.get(name) or ANALYSES[name].config(),
        stage=None,
        device="cpu",
        progress=heard.append,
    )
    assert len(set(heard)) >= 3
    assert min(heard) == 0.0
    assert 0.5 <= max(heard) <= 1 + 1e-9
    seen = [share for share, before in zip(heard[1:], heard, strict=False) if share < before - 1e-9]
    assert len(seen) <= (1 if name == "suppression" else 0), (
        heard
    )  # two passes, the first of which is the long one


def test_a_unit_of_a_probe_sweep_moves(run: Run) -> None:
    (unit,) = list_units(
        [run.path], recipes=("recency",), checkpoints="final", seeds=None, config=CONFIGS["probe"],
        device="cpu", cache_gb=0.0, dtype="float32",
    )  # fmt: skip
    heard: list[tuple[str, float]] = []
    probe_unit(unit, lambda text, share: heard.append((text, share)))
    assert heard[0] == ("probing", 0.0)
    assert heard[-1] == ("done", 1.0)
    assert sum(0 < share < 1 for _, share in heard) >= 3


def test_a_job_of_analyses_counts_the_shares_within_them(run: Run, tmp_path: Path) -> None:
    heard: list[tuple[str, float]] = []
    wanted = (("patch", CONFIGS["patch"].__class__(n_pairs=5)), ("graft", CONFIGS["graft"]))
    job = jobs.Job(str(run.path), (0,), "cpu", False, wanted)
    jobs.train_and_analyse(job, lambda text, share: heard.append((text, share)))
    inside = [share for text, share in heard if text == "patch"]
    assert len(set(inside)) >= 3
    assert max(inside) <= 0.5 + 1e-9
    assert [share for _, share in heard] == sorted(share for _, share in heard)


def test_loops_inside_loops_divide_their_part() -> None:
    heard: list[float] = []
    with listening(heard.append):
        for _ in in_shares("ab", end=0.5):
            for _ in in_shares("cd"):
                pass
        for _ in in_shares("e", start=0.5):
            pass
    assert heard == pytest.approx([0.0, 0.0, 0.125, 0.25, 0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 1.0])
    assert list(in_shares("ab")) == ["a", "b"]
    assert len(heard) == 11
