"""Jobs for worker processes, in a module that they can import quickly."""

import os
import signal
import time

from mechocl.runs.progress import Progress


def square(item: int, progress: Progress) -> int:
    progress("squaring", 0.5)
    if item < 0:
        raise OSError(28, "No space left on device", f"item {item}")
    return item**2


def die(item: int, progress: Progress) -> None:
    """Item 1 is killed, as by a machine that runs out of memory; any other takes a minute."""
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
