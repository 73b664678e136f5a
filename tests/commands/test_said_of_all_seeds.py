"""What is printed or drawn of several seeds is true of each of them, not of the first one alone."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import messages
import pandas as pd
import pytest
import tiny

from mechocl.behaviour import formats
from mechocl.commands import analysis, cli
from mechocl.interventions import patching
from mechocl.runs.run import Run

FIRST_OF: Final = {
    ("commands/arguments.py", "next((one for one in typing"): "the type of an optional argument",
    ("commands/arguments.py", "next(places)"): "the next place",
    ("commands/features.py", "first()"): "each seed's own value, before the mean",
    ("report/training_tables.py", "part['stage'].iloc[0]"): "an event has one stage: dynamics.onsets",
    (
        "report/plots.py",
        "rows['question'].iloc[0]",
    ): "the first question of the first seed, as the docstring says",
    (
        "report/plots.py",
        "rows['seed'].iloc[0]",
    ): "the first question of the first seed, as the docstring says",
    ("report/circuit_plots.py", "rows['contrast'].iloc[0]"): "what is drawn, named in the title",
    ("report/circuit_plots.py", "rows['seed'].iloc[0]"): "what is drawn, named in the title",
    ("report/training_plots.py", "first()"): "rows of benchmarks, which have no seeds",
    ("report/probe_plots.py", "when['stage'].iloc[i"): "a loop over all rows",
    ("report/probe_sections.py", "next((one for one in load"): "a probe of the recipe",
    ("report/probe_sections.py", "next((one for one in itertools"): "a name that is free",
    (
        "report/explorer/collecting.py",
        "next(iter(self.packed",
    ): "the shapes, which all models of a seed share",
    (
        "report/explorer/data.py",
        "table['entity'].iloc[rows[0]]",
    ): "an alias's own entity, as of all its questions",
    (
        "report/explorer/data.py",
        "table['subset'].iloc[rows[0]]",
    ): "an alias's own subset, as of all its questions",
    ("report/explorer/data.py", ".iloc[row]"): "a loop over rows",
    ("report/explorer/data.py", "table['alias'].iloc[rows[0]]"): "the alias of one question",
    (
        "report/explorer/live.py",
        "next(iter(self._models.items()))",
    ): "one model, read for what the page has at its start",
    ("report/explorer/story.py", "next(iter(seeds))"): "a view that names no seed is of the page's first one",
    ("behaviour/dynamics.py", "first()"): "each seed's own value",
    ("behaviour/dynamics.py", "next((s for s in _OF_TAG_2"): "a subset",
    ("behaviour/internalization.py", "iloc[rows[0]]"): "the word order of a task, which has one",
    ("features/summaries.py", "head(1)"): "each seed's own value",
    (
        "interventions/summaries.py",
        "rows['unit'].iloc[0]",
    ): "the unit of the metric, which is in the key of the rows",
}
"""File and part of an expression that takes the first of several → why nothing is said of the others with it."""


def taken() -> Iterator[tuple[str, str]]:
    """File and text of each subscript or call, in what prints, draws and summarises, that takes the first of several."""
    root = messages.ROOT / "mechocl"
    paths = [
        p for folder in ("commands", "report", "behaviour") for p in sorted((root / folder).rglob("*.py"))
    ]
    for path in [*paths, *sorted(root.glob("*/summaries.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_row = isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith(".iloc")
            if is_row and isinstance(node.slice, ast.Compare | ast.Slice):  # type: ignore[attr-defined]
                continue
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            one = isinstance(node, ast.Call) and [ast.unparse(a) for a in node.args] == ["1"]
            if is_row or name == "next" or name.endswith(".first") or (name.endswith(".head") and one):
                yield str(path.relative_to(root)), ast.unparse(node)


def entries_for(place: str, text: str) -> list[tuple[str, str]]:
    return [entry for entry in FIRST_OF if entry[0] == place and entry[1] in text]


def test_what_takes_the_first_of_several_has_a_reason() -> None:
    assert not [one for one in taken() if not entries_for(*one)]


def test_every_reason_is_of_something() -> None:
    assert set(FIRST_OF) == {entry for one in taken() for entry in entries_for(*one)}


@pytest.mark.parametrize(
    ("values", "text"),
    [([96, 96], "96"), ([96.0, 80.0, 90], "80–96"), ([80, float("nan")], "80"), ([0, 3], "0–3"), ([], "–")],
)
def test_a_count_of_several_seeds(values: list[float], text: str) -> None:
    assert formats.count_range(values) == text


def test_a_text_of_several_seeds() -> None:
    texts = [f"clean example of another of the {n} pairs, drawn with seed 3" for n in (96, 100, 96)]
    assert formats.said_of_all(texts) == "clean example of another of the 96–100 pairs, drawn with seed 3"
    assert formats.said_of_all(["2 of 3", "1 of 3 at most"]) == "2 of 3; 1 of 3 at most"
    assert formats.said_of_all(texts[:1]) == texts[0]


def test_the_ends_of_a_contrast(capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.DataFrame({"seed": [0, 1], "clean": [1.0, 2.0], "corrupted": [0.0, 0.0], "pairs": [96, 80]})
    analysis._print_ends("d1-to-d2", rows)
    assert "80–96 pairs, 2 seeds" in capsys.readouterr().out


def test_pairs_of_seeds_that_have_unequally_many(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`mechocl patch` on two seeds, of which the second has fewer pairs."""
    path = str(tiny.recipe_file(tmp_path))
    more = ["--seeds", "2", "--device", "cpu", "--jobs", "1"]
    assert cli.main(["train", path, "--out", str(tmp_path / "run"), *more]) == 0
    tasks = [Run.open(tmp_path / "run").seed(seed).task for seed in (0, 1)]
    own = patching.pairs_named

    def fewer(task, name, *, n_pairs, seed):  # type: ignore[no-untyped-def]
        second = bool((task.tokens == tasks[1].tokens).all())
        return own(task, name, n_pairs=5 if second else n_pairs, seed=seed)

    monkeypatch.setattr(patching, "pairs_named", fewer)
    command = [
        "patch",
        str(tmp_path / "run"),
        "--pairs",
        "d1-to-other-d2",
        "--n-pairs",
        "8",
        "--mode",
        "mean",
    ]
    capsys.readouterr()
    assert cli.main([*command, "--site", "z", "--device", "cpu", "--jobs", "1"]) == 0
    said = capsys.readouterr().out
    assert "5–8 pairs, 2 seeds" in said
    assert "put in: mean over the clean examples of the 5–8 pairs" in said
