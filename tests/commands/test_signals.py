"""Ctrl-C and SIGTERM: one line, the right exit code, and no process is left; from the first import on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from mechocl.commands import cli, stopping

ENDS = {
    signal.SIGTERM: (143, "mechocl: stopped; run the same command again to continue"),
    signal.SIGINT: (130, "mechocl: interrupted; run the same command again to continue"),
}
LONG = ["--set", "training.stages.0.epochs=1000000", "--jobs", "2", "--device", "cpu"]


def started(*arguments: str) -> "subprocess.Popen[str]":
    # a shell that starts the tests in the background has its children ignore Ctrl-C
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "from mechocl.__main__ import main; sys.exit(main())"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def members(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def assert_ends(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    _, err = process.communicate(timeout=60)
    code, line = ENDS[number]
    assert process.returncode == code, err
    assert err.splitlines()[-1] == line
    assert "Traceback" not in err
    assert "resource_tracker" not in err
    latest = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < latest:
        time.sleep(0.1)  # the tracker of semaphores ends when it notices that its pipe is closed
    assert members(process.pid) == []


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="counts processes in /proc")
@pytest.mark.parametrize("number", ENDS)
@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_signal_ends_the_workers_and_is_one_line(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    over = ["--over", "task.integers=10,11"] if command == "sweep" else []
    recipe, out = str(tiny.recipe_file(tmp_path)), str(tmp_path / "out")
    process = started(command, recipe, "--out", out, "--seeds", "2", *over, *LONG)
    try:
        latest = time.monotonic() + 60
        while len(members(process.pid)) < 4 and time.monotonic() < latest:  # itself, a tracker, two workers
            time.sleep(0.05)
        time.sleep(0.5 if command == "train" else 3.0)  # while they import, and while they train
        os.kill(process.pid, number)
        assert_ends(process, number)
    finally:
        for left in members(process.pid):
            os.kill(left, signal.SIGKILL)


def test_sigterm_in_the_command_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(given: list[str]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    monkeypatch.setattr(cli, "_run", command)
    assert cli.main(["runs"]) == 143
    assert capsys.readouterr().err == "mechocl: stopped; run the same command again to continue\n"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_handler_of_somebody_else_is_kept() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stopping.stopped_by_sigterm():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(closed: str) -> None:
    """The help needs a stream; and no file that is opened later may get the number of a stream."""
    program = (
        "import os, sys; from mechocl.__main__ import main; code = main();"
        "file = os.open(os.devnull, os.O_RDONLY); os._exit(code or int(file < 3))"
    )
    for words, code in ((["train", "--help"], 0), (["trian"], 2)):
        ended = subprocess.run(
            ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program, *words],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert ended.returncode == code
        assert "Traceback" not in ended.stderr
