"""Which seeds were made by which versions on which machine: recorded, said, shown."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny

from mechocl import files
from mechocl.commands import cli
from mechocl.report import run_report
from mechocl.runs import provenance
from mechocl.runs.run import Run

OTHER: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "torch": (lambda now: now | {"packages": now["packages"] | {"torch": "9.9"}}, "torch 9.9"),
    "mechocl": (lambda now: now | {"packages": now["packages"] | {"mechocl": "9.8"}}, "mechocl 9.8"),
    "commit": (lambda now: now | {"git": {"commit": "a" * 40, "dirty": ""}}, "commit aaaaaaaaaa"),
    "changes": (lambda now: now | {"git": {"commit": "a" * 40, "dirty": "b" * 12}}, "commit aaaaaaaaaa with changes bbbbbb"),
    "machine": (lambda now: now | {"machine": "Abacus, 2 cores"}, "Abacus, 2 cores"),
}  # fmt: skip
"""What may differ: a change of the maker, and the words for it."""


def create(path: Path, *seeds: int) -> Run:
    return Run.create(
        path / "run", tiny.recipe(path), recipe_name="tiny", seeds=seeds, device="cpu", threads=1, together=1
    )


def become(monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    original = provenance.maker
    monkeypatch.setattr("mechocl.runs.run.maker", lambda device: change(original(device)))


@pytest.mark.parametrize("what", OTHER)
def test_seeds_of_another_version_are_said_recorded_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    run = create(tmp_path, 0, 1)
    # as if they were trained
    monkeypatch.setattr("mechocl.runs.folders.SeedFolder.finished", lambda self: self.seed in (0, 1))
    assert create(tmp_path, 0, 1, 2).manifest.get("makers") is None
    assert run.mixed_versions() == ""
    assert capsys.readouterr().err == ""
    change, words = OTHER[what]
    become(monkeypatch, change)
    run = create(tmp_path, 0, 5, 4)
    line = run.mixed_versions()
    assert line.startswith("seeds 0, 1, 2: ")
    assert line.endswith(f"; seeds 4, 5: {words}")
    assert line.count(", ") <= 5
    assert (
        capsys.readouterr().err
        == f"mechocl: {run.path} has seeds of different versions or machines: {line}\n"
    )
    assert [one["seeds"] for one in run.manifest["makers"]] == [[0, 1, 2], [4, 5]]
    assert Run.open(run.path).mixed_versions() == line
    assert cli.main(["runs", str(tmp_path)]) == 0
    assert (
        f"{run.path} has seeds of different versions or machines: {line}"
        in capsys.readouterr().out.splitlines()
    )


def test_a_seed_that_another_version_continues_is_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(tmp_path, 0, 1)
    become(monkeypatch, OTHER["torch"][0])
    run = create(tmp_path, 1)
    assert [one["seeds"] for one in run.manifest["makers"]] == [[0, 1], [1]]
    assert run.mixed_versions().endswith("; seed 1: torch 9.9")
    assert create(tmp_path, 1).manifest == run.manifest


def test_the_report_shows_mixed_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mechocl.behaviour.counted import CountedSeeds

    name = "Seeds of different versions or machines"
    run = create(tmp_path, 0)
    counted = CountedSeeds((0,), {}, {})
    assert name not in run_report._facts(run, counted)
    become(monkeypatch, OTHER["machine"][0])
    run = create(tmp_path, 3)
    assert run_report._facts(run, counted)[name] == run.mixed_versions() != ""


def test_a_manifest_without_the_state_of_git_opens(tmp_path: Path) -> None:
    run = create(tmp_path, 0)
    files.write_json(run.path / "manifest.json", {k: v for k, v in run.manifest.items() if k != "git"})
    opened = Run.open(run.path)
    assert opened.manifest["git"] is None
    assert opened.mixed_versions() == ""
