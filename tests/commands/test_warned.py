"""Warnings: one line each on the command line, whichever process warns; from Python they stay warnings."""

import sys
import warnings
from functools import partial
from pathlib import Path

import jobs
import pytest

from mechocl.commands import cli
from mechocl.errors import MechoclWarning
from mechocl.runs import processes
from probes import linear
from toy_models import training

LIBRARY = str(Path(pytest.__file__))


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """The lines on stderr of a command that warns."""
    monkeypatch.setattr(sys, "warnoptions", [])

    def lines(warn) -> list[str]:  # type: ignore[no-untyped-def]
        monkeypatch.setattr(cli, "_run", lambda given: warn())
        with warnings.catch_warnings():
            warnings.resetwarnings()
            assert cli.main(["runs"]) == 0
        return capsys.readouterr().err.splitlines()

    return lines


def test_a_warning_is_one_line_and_comes_once(shown) -> None:  # type: ignore[no-untyped-def]
    def warn() -> None:
        for text in ("the adapter changes\n  no weight", "the adapter changes\n  no weight", "another"):
            warnings.warn(text, MechoclWarning, stacklevel=1)
        warnings.warn("of Python", UserWarning, stacklevel=1)

    assert shown(warn) == [
        "mechocl: the adapter changes no weight",
        "mechocl: another",
        "mechocl: Python warns: of Python",
    ]


@pytest.mark.parametrize(
    ("category", "lines"),
    [
        (RuntimeWarning, ["mechocl: pytest warns: overflow"]),
        (FutureWarning, []),
        (DeprecationWarning, []),
    ],
)
def test_libraries_are_named_and_advice_to_programmers_is_left_out(shown, category, lines) -> None:  # type: ignore[no-untyped-def]
    assert shown(lambda: warnings.warn_explicit("overflow", category, LIBRARY, 1)) == lines


def test_warnings_of_our_own_packages_stand_alone(shown) -> None:  # type: ignore[no-untyped-def]
    """Those that import nothing of mechocl, and so have no class of warnings of its own."""
    for module in (linear, training):
        warn = partial(warnings.warn_explicit, "a fold is small", UserWarning, str(module.__file__), 1)
        assert shown(warn) == ["mechocl: a fold is small"]


def test_whoever_asked_python_for_warnings_gets_those_of_python(
    shown,  # type: ignore[no-untyped-def]
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    with pytest.warns(FutureWarning, match="soon"):
        shown(lambda: warnings.warn_explicit("soon", FutureWarning, LIBRARY, 1))


@pytest.mark.parametrize("at_a_time", [1, 2])
def test_a_worker_s_warning_is_a_warning_here(at_a_time: int) -> None:
    with pytest.warns(MechoclWarning, match="the last digits are rounded") as told:
        found = processes.map_jobs(
            jobs.warn, [1, 2], names=["a", "b"], title="work", jobs=at_a_time, threads=1
        )
    assert found == [1, 2]
    assert len(told) == (1 if at_a_time == 2 else 2)
