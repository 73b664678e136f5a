"""`mechocl serve` starts, answers, and ends; and what is wrong is one line."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from mechocl.runs.run import Run

CPU = ("--device", "cpu")

Fails = Callable[..., str]


def test_it_serves_until_ctrl_c(trained: Run) -> None:
    command = [
        sys.executable,
        "-m",
        "mechocl",
        "serve",
        str(trained.path),
        "--port",
        "0",
        "--no-browser",
        *CPU,
    ]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # the tests may run where it is ignored
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            address = first.rpartition(" ")[2].strip()
            assert first == f"page of {trained.path}: {address}\n"
            assert process.stdout.readline() == "Ctrl-C ends it\n"
            with urllib.request.urlopen(address, timeout=300) as response:
                assert b'id="typed"' in response.read()
            with pytest.raises(urllib.error.HTTPError, match="403"):
                urllib.request.urlopen(address[:-5], timeout=300)
            os.kill(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=300)
        finally:
            process.kill()
    assert (process.returncode, out, err) == (0, "\nended\n", "")


def test_mistakes_are_one_line(trained: Run, fails: Fails) -> None:
    path = trained.path
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = fails("serve", path, "--port", port, "--no-browser", *CPU)
        assert said == f"--port {port} is in use; choose another --port, or 0 for a free one"
    assert fails("serve", path, "--port", "-1", *CPU).startswith("--port -1 is none of 0 to 65535")
    assert fails("serve", path, "--seeds", "7", *CPU) == f"--seeds 7: {path} has no trained seed 7"
    assert fails("serve", path, "--seeds", "a", *CPU) == "--seeds a: give seeds as 0,1,2, or all"
