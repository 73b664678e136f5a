"""Progress moves from the first second, counts what was done before, and says how long it will take."""

import math
import re
import time

import pytest
from rich.console import Console

from mechocl.runs import progress
from mechocl.runs.progress import Display


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_line_comes_also_while_no_job_reports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0.1)
    with Display("probing", ["first", "second"]):
        time.sleep(1.5)
    said = lines(capsys)
    assert len(said) > 3
    assert said[1].startswith("probing: 0 %")
    assert said[1].endswith("(first: starting)")
    assert any("1 s so far" in line for line in said)


def test_a_long_work_says_how_long_as_soon_as_it_is_known(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display("training", ["seed 0"], clock=clock) as display:
        display.update(0, "building the task", math.nan)
        display.update(0, "step 0", 0.0)
        clock.now = 5.0
        display.update(0, "step 5", 0.05)  # 95 s are left, and it is not yet time for a line
        clock.now = 6.0
        display.update(0, "step 6", 0.06)
        clock.now = 100.0
        display.update(0, "done", 1.0)
    assert lines(capsys) == [
        "training: seed 0",
        "training: 5 %, about 95 s left (seed 0: step 5)",
        "training: 100 %, about 0 s left (seed 0: done)",
        "training: 100 % after 100 s",
    ]


def test_what_was_done_before_is_shown_and_does_not_make_the_rest_look_short(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Display("training", ["seed 0", "seed 1"], clock=clock) as display:
        display.update(0, "building the task", math.nan)
        display.update(0, "step 80", 0.8)
        display.update(1, "step 60", 0.6)
        clock.now = 30.0
        display.update(0, "step 85", 0.85)
        display.update(1, "step 65", 0.65)  # a tenth of a seed in 30 s, and half a seed is left
        clock.now = 46.0
        display.update(1, "step 65", 0.65)
    assert lines(capsys)[1:] == [
        "training: 72 %, about 5 min left (seed 0: step 85)",
        "training: 75 %, about 4 min left (seed 1: step 65)",
        "training: 75 % after 46 s",
    ]


@pytest.mark.parametrize("name", ["[/]", "[/x]y", "[bold]run", "a[b]", "back\\", "line\nbreak"])
def test_a_name_is_shown_as_it_is_on_a_terminal(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        progress, "Console", lambda stderr: Console(stderr=stderr, force_terminal=True, width=200)
    )
    with Display(f"probing {name}", [name]) as display:
        display.update(0, f"reading {name}", 0.5)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
    plain = " ".join(name.split())
    assert f"probing {plain}" in shown
    assert f"\n{plain} " in shown.replace("\r", "\n")
    assert f"reading {plain}" in " ".join(shown.split())


def test_times_in_words() -> None:
    times = (0.4, 59.6, 119.0, 120.0, 3600.0, 7200.0, 100_000.0, 180_000.0)
    words = ["0 s", "60 s", "119 s", "2 min", "60 min", "2.0 h", "27.8 h", "2.1 days"]
    assert [progress._time_in_words(seconds) for seconds in times] == words
