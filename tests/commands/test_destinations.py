"""A place that cannot be written is refused in one line before anything is computed for it."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tiny

from mechocl import destinations
from mechocl.analyses import jobs
from mechocl.commands import cli
from mechocl.errors import MechoclError
from mechocl.hypotheses import calibrated
from mechocl.runs import processes

CPU = ("--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "cores", lambda: 1)
        jobs.train(str(tiny.recipe_file(folder)), folder / "run", seeds=2, device="cpu")
        yield folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "run")
    return tmp_path / "run"


Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line of a command that must end with code 2 and must not have begun to compute."""

    def check(*arguments: object) -> str:
        capsys.readouterr()
        assert cli.main([str(a) for a in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.splitlines()
        return line.removeprefix("mechocl: ")

    return check


def contents(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.mark.parametrize(
    "command",
    [
        ("report", "RUN", "--out", "PLACE.html"),
        ("share", "RUN", "--out", "PLACE.html"),
        ("dynamics", "RUN", "--out", "PLACE.html"),
        ("sae dashboard", "RUN", "some-sae", "--out", "PLACE.html"),
        ("verdict", "RUN", "--out", "PLACE.json"),
        ("parity", "some-model", "--out", "PLACE.json"),
        ("probe", "RUN", "--out", "PLACE"),
        ("sweep", "RECIPE", "--out", "SWEEP", "--figure", "PLACE.html"),
        ("pretrain", "biographies", "--out", "PLACE"),
        ("train", "RECIPE", "--out", "PLACE"),
        ("controls", "RECIPE", "--out", "PLACE"),
    ],
)
def test_an_out_under_a_file(run: Path, refused: Refused, command: tuple[str, ...]) -> None:
    (run.parent / "file").touch()
    names = {"RUN": run, "RECIPE": tiny.recipe_file(run.parent), "SWEEP": run.parent / "sweep"}
    place = str(run.parent / "file" / "x")
    words = [str(names.get(word, word.replace("PLACE", place))) for word in command]
    before = contents(run.parent)
    line = refused(*words[0].split(), *words[1:])
    assert "where a folder is needed; " in line
    assert line.endswith("choose another place")
    assert contents(run.parent) == before


@pytest.mark.parametrize(
    "command",
    [
        ("report", "RUN"),
        ("share", "RUN"),
        ("dynamics", "RUN"),
        ("sae dashboard", "RUN", "some-sae"),
        ("parity", "some-model"),
        ("sweep", "RECIPE", "--over", "task.aliases=60,80", "--out", "SWEEP"),
    ],
)
def test_a_file_of_another_kind_is_not_written_over(
    run: Path, refused: Refused, command: tuple[str, ...]
) -> None:
    names = {"RUN": run, "RECIPE": tiny.recipe_file(run.parent), "SWEEP": run.parent / "sweep"}
    words = [str(names.get(word, word)) for word in command]
    option = "--figure" if command[0] == "sweep" else "--out"
    for place in (run / "manifest.json", run / "seed-0" / "task.parquet", names["RECIPE"], Path("/dev/null")):
        before = place.read_bytes()
        line = refused(*words[0].split(), *words[1:], option, place)
        assert f"{place} is there already and is not a " in line
        assert place.read_bytes() == before


def test_an_older_file_of_the_same_kind_is_written_over(tmp_path: Path) -> None:
    for name, said, what in (
        ("page.html", "<html>\n", "page"),
        ("report.html", "<!DOCTYPE html>\n", "page"),
        ("empty.html", "", "page"),
        ("parity.json", '{"residual": {"0": 1e-7}, "top1_agreement": 1.0}', "comparison"),
        ("verdict.json", '{"checksum": "0", "verdict": {}}', "verdict"),
        ("verdict.md", "# Verdict: runs/demo", "verdict"),
    ):
        (tmp_path / name).write_text(said)
        destinations.require_file(tmp_path / name, what)
    # the table that `mechocl verdict --calibrate` wrote, and with which the same command goes on
    destinations.require_file(calibrated.TABLE, "calibration")
    with pytest.raises(MechoclError, match="not a comparison"):
        destinations.require_file(tmp_path / "page.html", "comparison")


READING = [
    "evaluate",
    "lens",
    "patch",
    "circuit",
    "graft",
    "subspace",
    "gradients",
    "updates",
    "report",
    "share",
    "dynamics",
    "probe",
    "sae train",
    "crosscoder",
]


@pytest.mark.parametrize("command", READING)
def test_a_read_only_run(run: Path, refused: Refused, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access

    def read_only(path: Path, mode: int) -> bool:
        return not (mode & os.W_OK and Path(path).is_relative_to(run)) and access(path, mode)

    monkeypatch.setattr(destinations.os, "access", read_only)
    before = contents(run)
    line = refused(*command.split(), run, *(() if command == "dynamics" else CPU))
    assert line.endswith(
        "cannot be written: it is read-only; copy the run to a place that can be written, or choose another place for what is new"
    )
    assert contents(run) == before


def test_what_can_be_written_and_what_cannot(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    destinations.require_file(tmp_path / "file")
    destinations.require_file(tmp_path / "new" / "folders" / "file")
    destinations.require_folder(tmp_path / "new" / "folders")
    destinations.require_folder(Path("new"))
    with pytest.raises(MechoclError, match=r"is a folder; give a file in it, for example .*\.html"):
        destinations.require_file(tmp_path)
    for path in (tmp_path / "file", tmp_path / "file" / "a" / "b"):
        with pytest.raises(MechoclError, match=r"file is a file, where a folder is needed"):
            destinations.require_folder(path)
