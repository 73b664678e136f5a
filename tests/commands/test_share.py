"""`mechocl share`: the page, and what is wrong in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mechocl.commands import cli
from mechocl.report.explorer import page
from mechocl.runs.run import Run

CPU = ("--device", "cpu")
SMALL = ("--aliases", "6", "--checkpoints", "2", "--jobs", "1")

Fails = Callable[..., str]


def test_a_page_is_written_where_it_is_asked_for(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = run.path.parent / "new folder" / "page.html"
    assert cli.main(["share", str(run.path), "--story", "demo", "--out", str(out), *SMALL, *CPU]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"page ({out.stat().st_size / 1e6:.1f} MB): {out.as_uri()}"
    assert out.read_text(encoding="utf-8").count("data:,") == 1
    assert not (run.path / "share.html").exists()
    monkeypatch.setattr(page, "SIZE_LIMIT", 1000)
    assert cli.main(["share", str(run.path), "--seeds", "1", "--no-patching", *SMALL, *CPU]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "fewer --aliases, --checkpoints or --seeds make it smaller" in shown[-2]
    assert (run.path / "share.html").stat().st_size < out.stat().st_size


def test_the_remedy_for_a_large_page_works(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for aliases in ("12", "4"):
        assert cli.main(["share", str(run.path), *SMALL[2:], "--aliases", aliases, *CPU]) == 0
        sizes.append((run.path / "share.html").stat().st_size)
    assert sizes[1] < sizes[0]
    capsys.readouterr()


def test_mistakes_are_one_line(run: Run, fails: Fails, tmp_path: Path) -> None:
    path = run.path
    assert fails("share", path, "--aliases", "0") == "--aliases 0: give at least 1"
    assert fails("share", path, "--checkpoints", "-1") == "--checkpoints -1: give at least 1"
    assert fails("share", path, "--seeds", "7", *CPU) == f"--seeds 7: {path} has no trained seed 7"
    assert "there is no such file; give a TOML file, or demo" in fails("share", path, "--story", "demmo")
    story = tmp_path / "story.toml"
    story.write_text('title = "t"\n[[views]]\ncaption = "c"\nalias = 5000\n')
    said = fails("share", path, "--story", story, *SMALL, *CPU)
    assert said.startswith("view 1 of the story: alias 5000 is not on the page; it has ")
    known = said.rpartition("it has ")[2].split(", ")[0]
    story.write_text(story.read_text().replace("5000", known))
    assert cli.main(["share", str(path), "--story", str(story), *SMALL, *CPU]) == 0
