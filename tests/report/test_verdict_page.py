"""The first page of a report: the verdict's figure shows its numbers, and the page says the same as the text of the verdict."""

import html
import inspect
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
from browser import open_page, wait_until
from campaign.worlds import LEARNS
from effects import key_of, made_up

from mechocl import files
from mechocl.analyses import control_jobs, jobs
from mechocl.behaviour.counted import CountedSeeds
from mechocl.commands import cli
from mechocl.errors import MechoclError, TooLittleData
from mechocl.hypotheses import calibrated, calibration, citing, for_reports, predictions
from mechocl.hypotheses.for_reports import NoVerdict
from mechocl.hypotheses.trust import trust
from mechocl.hypotheses.verdict import RunVerdict, judge_gathered
from mechocl.report import learning_sections, verdict_plots, verdict_sections
from mechocl.report.page import Report, Section, SummaryRow, render, write
from mechocl.runs.controls import CONTROLS
from mechocl.runs.run import Run

OWN = predictions.load()
CPU = ("--device", "cpu", "--jobs", "1")


def judged(**planted: Any) -> RunVerdict:
    found = judge_gathered(made_up(**planted), OWN, runs=["runs/made-up"])
    return replace(found, cited=citing.cite())


def page_of(verdict: RunVerdict | NoVerdict, *, calibration: pd.DataFrame | None = None) -> Report:
    """A report with the sections that some predictions lead to."""
    rest = (
        Section(id="internalization", title="Internalization", how_to_read="Which subsets are answered."),
        Section(id="controls", title="Controls", how_to_read="What follows. " * 400),
        Section(id="training", title="Training", how_to_read="How it was trained."),
    )
    page = verdict_sections.FirstPage(verdict, calibration)
    first = verdict_sections.sections(page, shown=[section.id for section in rest])
    return Report(title="t", summary=(SummaryRow(label="Strong", sentence="s"),), sections=(*first, *rest))


def text_of(page: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", page)).split())


# the figure


@pytest.mark.parametrize("value", [0.0, 0.3, -1.0, 3.0, -10.0, 1000.0])
def test_the_axis_is_linear_in_the_band_and_logarithmic_beyond(value: float) -> None:
    place = verdict_plots.place_on_axis(value)
    assert place == -verdict_plots.place_on_axis(-value)
    assert place == (value if abs(value) <= 1 else math.copysign(1 + 2 * math.log10(abs(value)), value))
    assert verdict_plots.place_on_axis(1.000001) == pytest.approx(1, abs=1e-5)


def test_the_figure_shows_the_numbers_of_each_effect() -> None:
    found = judged(loss=0.5, equal_loss=0.1)
    figure = verdict_plots.effects(found, links={"gap": "#internalization"})
    names = [one.prediction.name for one in found.effects]
    means = [trace for trace in figure.data if trace.error_x.array is not None]
    for row, one in enumerate(found.effects):
        drawn = [(t, list(t.y).index(row)) for t in means if row in t.y]
        if one.verdict is None:
            assert not drawn
            continue
        ((trace, at),) = drawn
        e, margin = one.verdict.learned, one.verdict.margin
        ends = (
            trace.x[at],
            trace.x[at] - trace.error_x.arrayminus[at],
            trace.x[at] + trace.error_x.array[at],
        )
        expected = [verdict_plots.place_on_axis(v / margin) for v in (e.mean, e.low, e.high)]
        np.testing.assert_allclose(ends, expected)
        (points,) = (t for t in figure.data if t.mode == "markers" and set(t.y) == {row + 0.27})
        assert len(points.x) == e.n == len(one.values)
        assert np.mean(list(one.values.values())) == pytest.approx(e.mean)
        assert all(
            f"seed {seed}:" in text for seed, text in zip(sorted(one.values), points.text, strict=True)
        )
        assert set(points.customdata) == {"#internalization" if names[row] == "gap" else ""}
    unmeasured = [one for one in found.effects if one.verdict is None]
    assert sum(trace.text == ("not measured",) for trace in figure.data) == len(unmeasured) > 0


def test_every_mark_lies_on_the_axis() -> None:
    for planted in ({}, {"seeds": 2}, {"gap": -0.3}, {"recall_tag_2": 0.0}):
        figure = verdict_plots.effects(judged(**planted))
        low, high = figure.layout.xaxis.range
        assert all(low <= x <= high for trace in figure.data for x in trace.x)
        bars = [t for t in figure.data if t.error_x.array is not None]
        assert all(
            low <= x - under and x + over <= high
            for t in bars
            for x, under, over in zip(t.x, t.error_x.arrayminus, t.error_x.array, strict=True)
        )


def test_a_prediction_of_which_no_seed_counts_is_not_drawn_as_zero() -> None:
    whole = made_up()
    lost = {name: table.assign(recall=0.1) for name, table in whole.controls.rows.items()}
    found = judge_gathered(replace(whole, controls=replace(whole.controls, rows=lost)), OWN)
    noise = next(one for one in found.effects if one.prediction.name == "noise-gap")
    assert noise.verdict is not None
    assert noise.verdict.learned.n == 0
    row = [one.prediction.name for one in found.effects].index("noise-gap")
    (trace,) = (t for t in verdict_plots.effects(found).data if row in t.y)
    assert trace.text == ("not measured",)
    render(page_of(found))


def test_the_figure_takes_a_verdict_alone() -> None:
    with pytest.raises(MechoclError, match="draws a verdict"):
        inspect.unwrap(verdict_plots.effects)(made_up())


# the page


def test_the_page_says_what_the_verdict_says() -> None:
    found = judged(noise=0.04, recall_tag_2=0.05, loss=0.5, equal_loss=0.05)
    text = text_of(render(page_of(found)))
    assert text.index("Verdict of 12 seeds") < text.index("The predictions") < text.index("Strong")
    said = "readout gate (supported, but it alone does not make the gap); less learned (supported)."
    assert f"What explains it: {said}" in text
    assert " ".join(found.beyond.sentence.replace("`", " ").split()) in text
    for one in found.findings:
        assert f"{one.status} {one.explanation.name.replace('_', ' ')} :" in text
        assert one.in_words in text
    for effect in found.effects:
        assert effect.prediction.says in text
    below = next(one.prediction.says for one in found.effects if one.prediction.name == "below-chance")
    assert re.search(rf"{re.escape(below)} \+0\.\d+ \[[^]]*\] AUC 0\.01 above 0 ", text)  # and not yes
    for pair in found.pairs:
        assert pair.in_words.replace("_", " ") in text
    assert "is not measured for these predictions: mechocl verdict --calibrate FILE.csv" in text
    for question in ("Does it need definitions that were wrong?", trust(found).question):
        assert text.count(question) == 1
    assert " ".join(trust(found).sentence.split()) in text
    assert found.gathered.measures.says in text
    assert found.cited is not None
    assert found.cited.in_words in text


def test_few_seeds_no_gap_and_no_controls_are_said() -> None:
    two = text_of(render(page_of(judged(seeds=2))))
    assert "Verdict of 2 seeds" in two
    assert "2 seeds count, and fewer than 6 decide nothing" in two
    assert "There is nothing to explain yet" in two
    assert "supported)" not in two
    assert "There is nothing to explain: no gap" in text_of(render(page_of(judged(gap=0.0))))
    whole = made_up()
    alone = replace(
        whole,
        controls=replace(whole.controls, rows={}),
        tables={name: table for name, table in whole.tables.items() if not name.startswith("controls")},
        counted=CountedSeeds(tuple(range(11)), {11: "definition recall 0.2"}),
    )
    page = text_of(render(page_of(judge_gathered(alone, OWN))))
    assert "The deciding control" in page
    assert "was not trained" in page
    assert "1 of 12 seeds failed or diverged" in page


def test_a_run_without_a_verdict_has_one_line_instead() -> None:
    page = text_of(render(page_of(NoVerdict("One seed says nothing about other seeds; train more."))))
    assert "There is no verdict. One seed says nothing about other seeds; train more." in page
    assert "The predictions" not in page


def test_hostile_predictions_are_text(tmp_path: Path) -> None:
    changed = tmp_path / "own.toml"
    hostile = "</script><img src=x onerror=alert(1)>"
    own = predictions.own_file().read_text()
    changed.write_text(own.replace("There is no gap.", hostile).replace("The claim itself", hostile))
    found = judge_gathered(made_up(), predictions.load(changed))
    assert hostile not in render(page_of(found))


def test_the_calibration_is_shown_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = list(OWN.named)
    planted = next(world for world in calibration.WORLDS if world.name == "nothing").fingerprint
    of = {"predictions": calibration.digits(None), "seeds": 8}
    rows = [
        {"world": "nothing", "planted": planted, "instance": n} | of | dict.fromkeys(names, "undecided")
        for n in range(4)
    ]
    rows[0]["nothing"] = "supported"
    table = tmp_path / "calibration.csv"
    monkeypatch.setattr(calibrated, "TABLE", table)
    assert calibrated.read_confusion(OWN) is None
    pd.DataFrame(rows).to_csv(table, index=False)
    found = calibrated.read_confusion(OWN)
    assert found is not None
    pd.testing.assert_frame_equal(found, calibration.confusion(pd.DataFrame(rows)))
    text = text_of(render(page_of(judged(), calibration=found)))
    assert re.search(r"nothing 4( 0\.00)* 0\.25", text)
    pd.DataFrame(rows).rename(columns={"steering": "pushing"}).to_csv(table, index=False)
    assert calibrated.read_confusion(OWN) is None  # of other explanations
    pd.DataFrame(rows).assign(planted="0123456789ab").to_csv(table, index=False)
    assert calibrated.read_confusion(OWN) is None  # of a world that has since been changed
    pd.DataFrame(rows).assign(predictions="0123456789ab").to_csv(table, index=False)
    assert calibrated.read_confusion(OWN) is None  # by other predictions


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_in_a_browser(tmp_path: Path, width: int) -> None:
    """It fits a narrow window, points say their seed, and names in the table and marks lead to the analysis."""
    path = tmp_path / "report.html"
    assert write(page_of(judged(loss=0.5, equal_loss=0.1)), path) < 8_000_000
    with open_page(path, width=width) as opened:
        page = opened.page
        page.locator("#predictions .plot").scroll_into_view_if_needed()
        page.wait_for_selector("#predictions .main-svg")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.locator("#predictions table a", has_text="noise-gap").click()
        wait_until(page, "location.hash === '#controls'")
        mark = "document.querySelector('#predictions .scatterlayer .points path')"
        page.evaluate(
            f"{mark}.scrollIntoView({{block: 'center', behavior: 'instant'}})"
        )  # not under the contents
        at = page.locator("#predictions .scatterlayer .points path").first.bounding_box()
        assert at is not None
        middle = (at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        page.mouse.move(*middle)
        wait_until(
            page, "/gap.*seed \\d+: /.test(document.querySelector('#predictions .hoverlayer').textContent)"
        )
        page.mouse.click(*middle)
        wait_until(page, "location.hash === '#internalization'")
        opened.assert_clean()


def test_what_was_measured_for_a_prediction_has_a_section_that_it_leads_to() -> None:
    """Gradients, twins and variants that the verdict computed are drawn below it; what was not computed has no section and no link."""
    rng = np.random.default_rng(0)
    keys = {"group": "all", "correction": "preconditioned"}
    gradients = pd.DataFrame(
        [
            {"seed": seed, "stage": stage, "step": step, "subset": subset, "tag": tag, "own_tag": True}
            | keys
            | {"cosine_effect": tag + 0.01 * rng.standard_normal()}
            for seed in range(12)
            for stage, step in ((1, 900), (2, 1), (2, 30))
            for subset in ("d1_consistent", "d2_consistent")
            for tag in (1, 2)
        ]
    )
    exchanged = ("twin embedding", "mean direction", "random, as long as mean direction")
    twins = pd.DataFrame(
        [
            {"seed": seed, "exchange": name, "subset": subset, "metric": "auc", "tag_1_effect": rng.random()}
            for seed in range(12)
            for name in exchanged
            for subset in ("d1_consistent", "d2_consistent")
        ]
    )
    plain = judged()
    assert learning_sections.sections(plain, plain.gathered.counted) == []
    tables = {key_of("first-step"): gradients, key_of("twin-direction"): twins}
    whole = made_up(tables=tables)
    frozen = whole.answers
    variants = replace(whole.variants, rows={"frozen-tags": frozen})
    at = f"variants {files.fingerprint({})}"
    tables = dict(whole.tables) | {at: frozen.assign(variant="frozen-tags")}
    found = judge_gathered(replace(whole, variants=variants, tables=tables), OWN)
    sections = learning_sections.sections(found, found.gathered.counted)
    assert [one.id for one in sections] == ["variants", "gradients", "twins"]
    _, drawn, exchanges = (one.figures[0] for one in sections)
    assert drawn.data[-1].name == "tag 2"
    assert list(drawn.data[-1].x) == ["before", "step 1", "step 30"]
    assert np.allclose(drawn.data[-1].y, 2.0, atol=0.05)
    assert tuple(label.replace("<br>", " ") for label in exchanges.layout.xaxis.ticktext) == exchanged
    first, table = verdict_sections.sections(
        verdict_sections.FirstPage(found, None), shown=[one.id for one in sections]
    )[:2]
    for place in ("#variants", "#gradients", "#twins"):
        assert f'href="{place}"' in table.html
    assert first.id == "verdict"


# the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds that learned their definitions, and their noise control."""
    folder = tmp_path_factory.mktemp("verdict-page")
    recipe = tiny.recipe(folder, *LEARNS)
    run = jobs.train_run(folder / "run", recipe, recipe_name="tiny", seeds=(0, 1), device="cpu", jobs=1)
    return control_jobs.add_controls(run, ["noise"], device="cpu", jobs=1)


def test_a_report_begins_with_the_verdict_unless_it_is_not_wanted(run: Run, tmp_path: Path) -> None:
    whole, without = tmp_path / "whole.html", tmp_path / "without.html"
    assert cli.main(["report", str(run.path), "--out", str(whole), *CPU]) == 0
    assert cli.main(["report", str(run.path), "--out", str(without), "--no-verdict", *CPU]) == 0
    page = whole.read_text()
    assert "Verdict of 2 seeds" in text_of(page)
    assert page.index('<section id="verdict"') < page.index('<section id="summary"')
    assert "2 seeds count, and fewer than 6 decide nothing" in page
    found = re.search(r'id="plot-predictions-0-data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    traces = json.loads(found.group(1))["data"]
    assert {"#controls", "#internalization", "#training"} <= {
        to for t in traces for to in t.get("customdata", ())
    }
    assert '<a href="#controls">beyond-control</a>' in page
    assert 'id="verdict"' not in without.read_text()


def test_a_verdict_asks_for_no_analysis_where_there_is_nothing_to_explain(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("computed")

    for_reports.judge_run(run, device="cpu", jobs=1)
    monkeypatch.setattr(jobs, "map_jobs", refuse)
    assert isinstance(for_reports.judge_run(run, device="cpu", jobs=1), RunVerdict)


def test_runs_without_a_verdict_say_why(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(of: Run) -> str:
        found = for_reports.judge_run(of, device="cpu", jobs=1)
        assert isinstance(found, NoVerdict)
        return found.why

    assert next(iter(CONTROLS)) == "noise"
    assert why(Run.open(run.path / "controls" / "noise")).startswith("This run is itself a control")
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0,)))
    assert why(run) == "One seed says nothing about other seeds; train more."
    monkeypatch.setattr(jobs, "count_run", lambda *_, **__: CountedSeeds((0,), {1: "recall"}))
    assert "and 1 of 2 did" in why(run)
    monkeypatch.undo()

    def little(*_: object, **__: object) -> None:
        raise TooLittleData("a probe needs more aliases")

    monkeypatch.setattr(for_reports, "verdict", little)
    assert why(run) == "The run has too little data for it: a probe needs more aliases."
    recipe = tiny.recipe(tmp_path, "task.fractions.d2=0", "task.fractions.no_data=0.2")
    without = jobs.train_run(tmp_path / "run", recipe, recipe_name="tiny", seeds=(0,), device="cpu", jobs=1)
    assert why(without).startswith("The run has no aliases for the gap")


# the citation


def test_a_verdict_cites_the_file_that_it_was_made_by(tmp_path: Path) -> None:
    own = citing.cite()
    assert own.in_words.startswith(
        f"Predictions: predictions.toml of the package (sha256 {own.sha256[:12]}), read by "
    )
    changed = tmp_path / "predictions.toml"
    changed.write_text(predictions.own_file().read_text() + "\n")
    other = citing.cite(changed)
    assert other.sha256 != own.sha256
    assert str(changed) in other.in_words
    nowhere = citing.Citation(file="", sha256="0" * 64, commit="", changed=False)
    assert nowhere.in_words.endswith("read by a package that is no git checkout.")


def test_a_file_named_as_the_packages_own_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MechoclError, match="there is no file"):
        predictions.load(Path("predictions.toml"))
    text = predictions.own_file().read_text().replace("There is no gap.", "None is there.")
    Path("predictions.toml").write_text(text)
    assert predictions.load(Path("predictions.toml")).named["nothing"].claim == "None is there."
