"""Every figure function takes what an analysis function returns, as it is: a table without seeds, a result, or a list of these.

Every figure is read on a phone, too: no text is cut or covers another one, and none scrolls to the side.
"""

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from browser import OpenedPage, open_page
from contract import CONFIGS, course, dictionary, loaded, task
from reading import cut_labels, draw_all, overlapping_labels

import mechocl
from mechocl.analyses import registry
from mechocl.analyses.subject import Subject
from mechocl.errors import MechoclError
from mechocl.report import (
    circuit_plots,
    feature_plots,
    graft_plots,
    learning_plots,
    lens_plots,
    plots,
    probe_plots,
    subspace_plots,
    training_plots,
    verdict_plots,
)
from mechocl.report.given import rows_of
from mechocl.report.page import Report, Section, write
from mechocl.runs.activation_cache import directly

MODULES = (
    circuit_plots,
    feature_plots,
    graft_plots,
    learning_plots,
    lens_plots,
    plots,
    probe_plots,
    subspace_plots,
    training_plots,
    verdict_plots,
)
PRIMITIVES = {
    "plots.label",
    "plots.heatmaps",
    "plots.styled",
    "verdict_plots.place_on_axis",
    "verdict_plots.read_answer",
}
"""What figures are made with; they draw no result."""


@cache
def result(name: str) -> Any:
    """The rows of an analysis, as the library returns them: without seeds."""
    model, other = loaded(0), loaded(2)
    subject = Subject(
        model=model,
        task=task(),
        after=lambda number: other,
        untrained=lambda: other,
        stage=2,
        collect=directly(model),
        dictionary=lambda name, site: dictionary(model.cfg.d_model),
        rows=lambda name, config: result(name),
        course=lambda: course(model),
        variant=lambda name: other,
    )
    rows = registry.compute(name, subject, CONFIGS.get(name, registry.ANALYSES[name].config())).rows
    assert "seed" not in rows
    return rows


@cache
def history() -> pd.DataFrame:
    draws = np.random.default_rng(0)
    rows = [
        {"stage": stage, "epoch": epoch, "subset": subset, "auc": draws.random(), "recall": draws.random()}
        for stage in (1, 2)
        for epoch in range(3)
        for subset in ("d1_consistent", "d2_consistent", "qd1_consistent", "qd2_inconsistent")
    ]
    return pd.DataFrame(rows)


def patched() -> Any:
    pairs = mechocl.pairs_named(task(), "d1-to-other-d2", n_pairs=5, seed=0)
    return mechocl.patch_activations(loaded(0), pairs, sites=["z", "attn_out"])


def probed() -> pd.DataFrame:
    return result("probe").assign(stage=2, step=3, epoch=1.0, run="a", word_order="TVE", recipe="")


def sweep() -> pd.DataFrame:
    cells = {"stage2.auc.d1_consistent": 0.9, "stage2.auc.d2_consistent": 0.7}
    rows = [
        {"task.tag_reliability": share, "seed": seed, "failed": "", "seconds": 1.0} | cells
        for share in (0.5, 1.0)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


FIGURES: dict[str, Callable[[], go.Figure]] = {
    "plots.training_curves": lambda: plots.training_curves(history()),
    "plots.subset_values": lambda: plots.subset_values(mechocl.per_alias(loaded(0), task())),
    "plots.patching": lambda: plots.patching(patched()),
    "plots.attention": lambda: plots.attention(result("attention"), layer=1),
    "circuit_plots.circuit": lambda: circuit_plots.circuit(result("circuit")),
    "circuit_plots.curves": lambda: circuit_plots.curves(result("circuit")),
    "circuit_plots.suppression": lambda: circuit_plots.suppression(result("suppression")),
    "lens_plots.attribution": lambda: lens_plots.attribution(result("attribution")),
    "lens_plots.lenses_compared": lambda: lens_plots.lenses_compared(result("lens"), result("tuned-lens")),
    "lens_plots.component_lens": lambda: lens_plots.component_lens(result("lens")),
    "graft_plots.grafts": lambda: graft_plots.grafts(result("graft")),
    "learning_plots.alignment": lambda: learning_plots.alignment(result("gradients")),
    "learning_plots.exchanges": lambda: learning_plots.exchanges(result("twin-exchange")),
    "subspace_plots.subspace_effects": lambda: subspace_plots.subspace_effects(result("subspace")),
    "probe_plots.grid": lambda: probe_plots.grid((result("probe"), {})),
    "probe_plots.emergence": lambda: probe_plots.emergence(probed()),
    "probe_plots.word_orders": lambda: probe_plots.word_orders(probed()),
    "probe_plots.cosines": lambda: probe_plots.cosines(
        pd.DataFrame({"compared": ["seeds"], "cosine": [0.1], "null": [0.2], "first": "a", "second": "b"})
    ),
    "feature_plots.selectivity": lambda: feature_plots.selectivity(result("sae-search")),
    "feature_plots.shares": lambda: feature_plots.shares(result("sae-test").assign(seed=0)),
    "training_plots.phase_diagram": lambda: training_plots.phase_diagram(sweep()),
    "training_plots.gap_curves": lambda: training_plots.gap_curves(history()),
}
NOT_OF_AN_ANALYSIS = {"training_plots.dynamics", "training_plots.scaling", "verdict_plots.effects"}
"""They draw tables of curves and of a benchmark (`tests/report/test_plots.py`), and a verdict (`tests/report/test_verdict_page.py`)."""


def public_functions() -> dict[str, Callable[..., Any]]:
    def own(module: ModuleType) -> dict[str, Callable[..., Any]]:
        name = module.__name__.rsplit(".", 1)[1]
        return {
            f"{name}.{key}": value
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not key.startswith("_")
        }

    return {name: function for module in MODULES for name, function in own(module).items()}


def test_every_figure_function_is_walked() -> None:
    assert set(public_functions()) - PRIMITIVES - NOT_OF_AN_ANALYSIS == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_takes_what_its_analysis_returned(name: str) -> None:
    figure = FIGURES[name]()
    assert isinstance(figure, go.Figure)
    assert len(figure.data) > 0


@pytest.mark.parametrize("name", sorted(set(public_functions()) - PRIMITIVES))
@pytest.mark.parametrize("wrong", [7, pd.DataFrame({"a": [1]}), [], "runs/demo"], ids=repr)
def test_a_figure_says_in_one_line_what_it_takes(name: str, wrong: object) -> None:
    function = public_functions()[name]
    second = {"lens_plots.lenses_compared": (wrong,)}.get(name, ())
    with pytest.raises(MechoclError) as caught:
        inspect.unwrap(function)(wrong, *second)
    assert "\n" not in str(caught.value)


def test_a_list_of_results_is_one_of_each_seed() -> None:
    both = plots.patching([patched(), patched()])
    assert np.allclose(both.data[0].z, plots.patching(patched()).data[0].z)
    assert rows_of([patched(), patched()])["seed"].unique().tolist() == [0, 1]
    assert rows_of((result("lens").head(3), {}))["seed"].tolist() == [0, 0, 0]
    seeds = result("lens").head(3).assign(seed=[4, 5, 6])
    assert rows_of(seeds)["seed"].tolist() == rows_of([seeds])["seed"].tolist() == [4, 5, 6]


# On a phone


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sections = tuple(
        Section(id=name.replace("_", "-").replace(".", "-"), title=name, how_to_read="", figures=(draw(),))
        for name, draw in FIGURES.items()
    )
    path = tmp_path_factory.mktemp("phone") / "report.html"
    write(Report(title="Every figure", sections=sections), path)
    return path


@pytest.fixture
def phone(file: Path) -> Iterator[OpenedPage]:
    with open_page(file, width=390) as opened:
        draw_all(opened.page)
        yield opened
        opened.assert_clean()


def test_no_text_is_cut_or_covers_another(phone: OpenedPage) -> None:
    assert phone.page.locator(".plot").count() == len(FIGURES)
    assert cut_labels(phone.page) == []
    for name in FIGURES:
        assert overlapping_labels(phone.page, f"#{name.replace('_', '-').replace('.', '-')}") == [], name


def test_the_check_of_cut_texts_can_fail(phone: OpenedPage) -> None:
    phone.page.evaluate(
        "document.querySelector('.plot .xtick text').setAttribute('transform', 'translate(900, 0)')"
    )
    assert len(cut_labels(phone.page)) == 1
