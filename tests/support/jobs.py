"""Jobs for worker processes, in a module that they can import quickly."""

import os
import signal
import time

from mechocl.runs.processes import Report


def square(item: int, report: Report) -> int:
    report("squaring", 0.5)
    if item < 0:
        raise OSError(28, "No space left on device", f"item {item}")
    return item**2


def die(item: int, report: Report) -> None:
    """Item 1 is killed, as by a machine that runs out of memory; any other takes a minute."""
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
