"""A report takes the same seeds everywhere, and says which."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny

from mechocl.analyses import jobs, report_rows, results
from mechocl.behaviour.counted import CountedSeeds
from mechocl.errors import MechoclError, TooLittleData
from mechocl.report import explorer_section, run_page, run_report
from mechocl.report.page import Report
from mechocl.runs.run import Run

CAUTION = "No seed learned its definitions: shown are seeds that failed"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three seeds, which do not learn their definitions in so few epochs."""
    folder = tmp_path_factory.mktemp("report")
    recipe = tiny.recipe(folder)
    return jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0, 1, 2), device="cpu", jobs=1)


QUICK = ("evaluate", "steering")


@pytest.fixture(scope="module")
def rows(run: Run) -> dict[str, pd.DataFrame]:
    wanted = tuple(one for one in jobs.reported_analyses(run.recipe) if one[0] in QUICK)
    jobs.complete_run(run, wanted, stage=None, device="cpu", jobs=1)
    found = {name: results.load_rows(run, name, config) for name, config in wanted}
    return {name: table for name, table in found.items() if table is not None}


def with_recall(rows: dict[str, pd.DataFrame], recall: dict[int, float]) -> dict[str, pd.DataFrame]:
    """The rows, with this recall of each seed in the place of its own."""
    evaluated = rows["evaluate"]
    changed = evaluated.assign(recall=evaluated["seed"].map(recall).where(evaluated["recall"].notna()))
    return rows | {"evaluate": changed}


def seeds_of(report: Report) -> set[str]:
    """Names of the seeds that the figure of the subsets shows as dots."""
    (section,) = (s for s in report.sections if s.id == "internalization")
    figure: Any = section.figures[0]
    return {text for trace in figure.data if trace.text is not None for text in np.atleast_1d(trace.text)}


def test_seeds_that_failed_are_nowhere_but_named(run: Run, rows: dict[str, pd.DataFrame]) -> None:
    report = run_report.build(run, with_recall(rows, {0: 0.5, 1: 1.0, 2: 1.0}))
    assert seeds_of(report) == {"seed 1", "seed 2"}
    assert report.facts["Seeds"] == (
        "1, 2: learned their definitions, and are in every mean; 0: did not learn their definitions"
    )
    (training,) = (s for s in report.sections if s.id == "training")
    figure: Any = training.figures[0]
    thin = [t for t in figure.data if t.mode == "lines" and t.legendgroup == "d1_consistent"]
    assert len(thin) == 2 * 2 * 2  # seeds, stages and metrics
    assert "Seed 0 failed and is left out (1 of 3 failed): definition recall 0.500" in report.warning
    assert CAUTION not in report.warning
    (strong,) = (row for row in report.summary if row.label.startswith("Strong"))
    assert strong.answer == "cannot tell"
    assert "over all 3 seeds, those that failed included" in strong.sentence


def test_where_no_seed_learned_every_place_says_so(run: Run, rows: dict[str, pd.DataFrame]) -> None:
    shown = explorer_section.Embedded("<html></html>", "It has 12 aliases.")
    report = run_report.build(run, with_recall(rows, {0: 0.5, 1: 0.4, 2: 0.3}), explorer=shown)
    assert seeds_of(report) == {"seed 0", "seed 1", "seed 2"}
    assert CAUTION in report.warning
    assert all(section.finding.startswith(CAUTION) for section in report.sections)
    assert report.explorer_note.startswith(f"It has 12 aliases. {CAUTION}")
    asked = [row for row in report.summary if row.answer != "not asked"]
    assert asked
    assert all(row.answer == "cannot tell" for row in asked)
    assert all("all 3 seeds failed" in row.sentence for row in asked)


def test_only_the_seeds_that_count_are_analysed(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seeds that failed are asked for their answers alone."""
    asked: list[Any] = []
    monkeypatch.setattr(jobs, "complete_run", lambda *_, **options: asked.append(options.get("seeds")))
    monkeypatch.setattr(results, "load_rows", lambda *_, **options: pd.DataFrame({"seed": [0]}))
    monkeypatch.setattr(jobs, "evaluate_run", lambda *_, **__: pd.DataFrame())
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((1,), {0: "why", 2: "why"}))
    assert report_rows.complete_report(run, device="cpu", jobs=1).left_out == {}
    assert asked == [(1,)]


def test_a_run_with_too_little_data_for_an_analysis_has_a_report_without_it(
    run: Run, rows: dict[str, pd.DataFrame], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def complete(run: Run, wanted: Any, **_: Any) -> None:
        if lacking := [name for name, _ in wanted if name not in QUICK]:
            raise TooLittleData(f"{lacking[0]} needs more aliases")

    monkeypatch.setattr(jobs, "complete_run", complete)
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0, 1, 2), {}))
    found = report_rows.complete_report(run, device="cpu", jobs=1)
    assert set(found.rows) == set(QUICK)
    assert found.left_out["graft"] == "graft needs more aliases"
    assert "mechocl: the report leaves out the analysis probe: probe needs more" in capsys.readouterr().err
    run_page.write_run_page(run, found, None, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "Left out, because the run has too little data: lens (lens needs more aliases)." in page
    assert "answers only" not in page


def test_only_too_little_data_is_left_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def complete(*_: Any, **__: Any) -> None:
        raise MechoclError("task.safetensors does not match its checksum")

    monkeypatch.setattr(jobs, "complete_run", complete)
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0, 1, 2), {}))
    with pytest.raises(MechoclError, match="does not match"):
        report_rows.complete_report(run, device="cpu", jobs=1)


def test_a_run_says_which_of_its_seeds_count(run: Run) -> None:
    counted = jobs.count_run(run, device="cpu", jobs=1)
    assert (counted.learned, counted.shown, counted.total) == ((), (0, 1, 2), 3)
    assert all("definition recall" in why for why in counted.failed.values())
    assert Path(run.path / "results" / "evaluate").is_dir()
