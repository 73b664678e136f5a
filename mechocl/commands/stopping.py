"""SIGTERM ends a command as Ctrl-C does: its child processes are ended first, and one line says that it was stopped."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The process was told to end with SIGTERM, as by `kill`, by a queue of jobs, or when the machine shuts down."""


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """Raise Stopped in the main thread when SIGTERM arrives during the block. A second SIGTERM changes nothing.

    In another thread, which cannot receive signals, and where SIGTERM is ignored already, nothing is changed.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Stopped

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
