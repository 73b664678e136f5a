"""A sweep on Ray whose workers are killed."""

import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from campaign.children import Ended
from campaign.interrupted import compared
from campaign.outcomes import Outcome, ending, last_line
from campaign.worlds import WRITERS, Trees

LIMIT_S: Final = 300

PROGRAM: Final = "import sys; from mechocl.commands import cli; sys.exit(cli.main())"


def kill(trees: Trees, name: str, number: int, rng: random.Random) -> tuple[Outcome, str]:
    """The sweep on a Ray of this machine; some time after its first worker began, a worker is killed."""
    trees.restore(trees.before(name))
    later = rng.uniform(0.0, 2.0)
    command = [word for word in WRITERS[name].command if word != "--jobs"][:-1]
    ended, killed = _run([*command, "--on", "ray"], trees.work, later)
    how = f"{name} on Ray, worker {killed} killed {later:.2f} s after it began"
    if wrong := ending(ended):
        return ("dead end" if wrong == "named" else wrong), f"{how}: {last_line(ended)}"
    return compared(trees, name, ended, how)


def _run(command: list[str], cwd: Path, later: float) -> tuple[Ended, int]:
    """The command's end, and the id of the worker that was killed; 0 if there was none."""
    import psutil

    started, killed = time.monotonic(), 0
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *command],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not killed and time.monotonic() - started < LIMIT_S:
        time.sleep(0.1)
        for child in psutil.Process(process.pid).children(recursive=True):
            if re.match(r"ray::_task", " ".join(child.cmdline()) if child.is_running() else ""):
                time.sleep(later)
                child.kill()
                killed = child.pid
                break
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return Ended(tuple(command), -9, out, err, time.monotonic() - started, True), killed
    return Ended(tuple(command), process.returncode, out, err, time.monotonic() - started), killed
