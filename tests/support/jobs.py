"""Jobs for worker processes, in a module that they can import quickly."""

import os
import signal
import time
import warnings

from mechocl.errors import MechoclWarning
from mechocl.runs.progress import Progress


def square(item: int, progress: Progress) -> int:
    progress("squaring", 0.5)
    if item < 0:
        raise OSError(28, "No space left on device", f"item {item}")
    progress("done", 1.0)
    return item**2


def warn(item: int, progress: Progress) -> int:
    warnings.warn("the last digits are rounded", MechoclWarning, stacklevel=2)
    return item


def leave(item: int, progress: Progress) -> int:
    """Half of the work is with another process."""
    progress("1 runs are with another process", 0.5)
    return item


def die(item: int, progress: Progress) -> None:
    """Item 1 is killed, as by a machine that runs out of memory; any other takes a minute."""
    if item == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
