"""What a notebook shows of runs, seeds, pairs and results: one line, tables, and a figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from effects import made_up

import mechocl
from mechocl.hypotheses import predictions
from mechocl.hypotheses.verdict import judge_gathered
from mechocl.runs.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("shown")
    return mechocl.train(tiny.recipe_file(folder), folder / "run", seeds=[0, 1], device="cpu")


def pairs(run: Run) -> mechocl.Pairs:
    return mechocl.pairs_named(run.seed(0).task, "d1-to-other-d2", n_pairs=24, seed=0)


def swapped(run: Run) -> Any:
    place = mechocl.Place(layer=0, site="resid_pre", position="alias")
    these = pairs(run)
    basis = torch.eye(run.seed(0).model.cfg.d_model)[:, :1]
    subspace = mechocl.Subspace(name="first", place=place, basis=basis)
    return mechocl.swap(run.seed(0).model, these, subspace, metric="logit_difference")


def circuit(run: Run) -> Any:
    these = pairs(run)
    config = mechocl.CircuitConfig(method="eap", random_circuits=1)
    return mechocl.find_circuit(run.seed(0).model, these[:12], these[12:], config=config)


MADE: dict[str, Callable[[Run], Any]] = {
    "Run": lambda run: run,
    "SeedFolder": lambda run: run.seed(0),
    "Task": lambda run: run.seed(0).task,
    "Vocabulary": lambda run: run.seed(0).task.vocabulary,
    "Pairs": pairs,
    "PatchingResult": lambda run: mechocl.patch_activations(run.seed(0).model, pairs(run), sites=["z"]),
    "EdgeScores": lambda run: mechocl.attribute_edges(run.seed(0).model, pairs(run), steps=2),
    "CircuitResult": circuit,
    "SwapResult": swapped,
    "RunVerdict": lambda run: judge_gathered(made_up(), predictions.load(), runs=["runs/made-up"]),
}


@pytest.mark.parametrize("name", MADE)
def test_it_shows_itself(run: Run, name: str) -> None:
    made = MADE[name](run)
    line = repr(made)
    assert line.startswith(name + "(")
    assert "\n" not in line
    assert len(line) < 900
    if hasattr(made, "_repr_html_"):
        page = made._repr_html_()
        assert page.startswith("<div")
        assert "<table" in page
    if hasattr(made, "plot"):
        assert made.plot().data


def test_a_run_says_what_it_has(run: Run, tmp_path: Path) -> None:
    page = run._repr_html_()
    assert page.count("trained") >= 2
    assert repr(run).endswith("tiny.toml, 2 seeds: 0–1)")
    seed = run.seed(0)._repr_html_()
    steps = [one.step for one in run.seed(0).checkpoints() if one.stage == 2]
    assert ", ".join(map(str, steps)) in seed
    recipe = str(tiny.recipe_file(tmp_path))
    one = mechocl.train(recipe, tmp_path / "one", seeds=[4], device="cpu")
    assert repr(one).endswith("tiny.toml, 1 seed: 4)")


def test_figures_take_results_as_they_are(run: Run) -> None:
    found = circuit(run)
    assert mechocl.circuit_plots.curves(found).to_dict() == found.plot().to_dict()
    assert mechocl.circuit_plots.circuit(found).to_dict() == found.scores.plot().to_dict()
    verdict = judge_gathered(made_up(), predictions.load(), runs=["runs/made-up"])
    assert str(verdict).startswith(f"Verdict on {verdict.runs[0]}")
    for one in verdict.findings:
        assert one.explanation.name in str(verdict)
