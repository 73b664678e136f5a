"""The whole way once, tiny: train two seeds, analyse, report, and open the report in a browser."""

from pathlib import Path

import pytest
from browser import open_page
from reading import draw_all

from mechocl.analyses import control_jobs, jobs
from mechocl.commands.cli import main
from mechocl.runs import recipes
from mechocl.runs.run import Run

TINY = (
    "task.aliases=300",
    "task.integers=8",
    "task.list_length=3",
    "task.n_intersection=1",
    "model.architecture=nano",
    "training.stages.0.epochs=2",
    "training.stages.0.evaluations=2",
    "training.stages.1.epochs=3",
    "training.stages.1.evaluations=2",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    recipe = recipes.load_recipe("integer-set/cpu", TINY)
    path = tmp_path_factory.mktemp("end-to-end") / "run"
    return control_jobs.train_controls(
        path,
        recipe,
        ("noise",),
        recipe_name="tiny",
        seeds=(0, 1),
        device="cpu",
        jobs=1,
        then=jobs.reported_analyses(recipe),
    )


def test_the_report_of_a_run_works_in_a_browser_without_a_network(run: Run) -> None:
    assert main(["report", str(run.path), "--device", "cpu", "--jobs", "1"]) == 0
    path = run.path / "report.html"
    assert path.stat().st_size < 15_000_000
    with open_page(path) as opened:
        page = opened.page
        page.wait_for_selector(".main-svg")
        for section in (
            "verdict",
            "summary",
            "trained",
            "training",
            "internalization",
            "controls",
            "lens",
            "patching",
            "circuits",
            "suppression",
            "weights",
            "subspaces",
            "probe-tag-stage-2",
            "probe-tag-stage-1",
            "probe-three-tags-stage-2",
            "probe-defined-entity",
            "explorer",
        ):
            assert page.locator(f"#{section}").count() == 1, section
        draw_all(page)
        assert page.locator(".js-plotly-plot").count() == 18
        summary = page.locator("#summary").inner_text()
        for question in (
            "Weak internalization",
            "Out-of-context learning",
            "Strong internalization",
            "The gap needs unreliability",
        ):
            assert question in summary
        assert "seeds" in summary
        page.locator("#explorer").scroll_into_view_if_needed()
        inside = page.frame_locator("#explorer iframe")
        inside.locator("#said", has_text="Seed 0").wait_for()
        inside.locator("#seed").select_option("1")
        inside.locator("#said", has_text="Seed 1").wait_for()
        opened.assert_clean()


@pytest.mark.parametrize(
    ("command", "analysis"),
    [
        *(
            (name, name)
            for name in ("evaluate", "lens", "patch", "circuit", "graft", "subspace", "gradients")
        ),
        ("updates", "one-update"),
    ],
)
def test_commands_print_tables_and_say_where_the_rows_are(
    run: Run, command: str, analysis: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(run.path), "--device", "cpu", "--jobs", "1"]) == 0
    out = capsys.readouterr().out
    last = out.strip().splitlines()[-1]
    assert last == f"rows: {Path(run.path) / 'results' / analysis}"
    assert Path(last.removeprefix("rows: ")).is_dir()
    assert len(out.splitlines()) > 5


def test_analyses_are_computed_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr("mechocl.analyses.jobs.map_jobs", refuse)
    jobs.complete_run(run, jobs.reported_analyses(run.recipe), stage=None, device="cpu", jobs=1)
    with pytest.raises(AssertionError, match="computed again"):
        jobs.complete_run(run, (jobs.reported_analyses(run.recipe)[0],), stage=1, device="cpu", jobs=1)
