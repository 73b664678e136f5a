"""Commands in forked children of this process, which has imported everything once: as a user's own process, without its start.

This process computes nothing itself, so that a child finds no threads of which only the memory was forked.
"""

import contextlib
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["COLUMNS"] = "200"

MEMORY: Final = 6 * 2**30
"""Bytes that a child may take beside what it was forked with, so that no input takes the machine down."""

PATIENCE: Final = 20
"""Seconds that a child may take for each second of a processor that it may use."""

Before = Callable[[], None]
"""What a child does before its command, such as patching a function."""


def import_everything() -> None:
    """Import what commands import, so that forked children start with it."""
    import peft  # noqa: F401
    import plotly.express  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import sae_lens
    import scipy.stats  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import transformer_lens  # noqa: F401
    import transformers

    from mechocl.analyses import (  # noqa: F401
        control_jobs,
        crosscoder_jobs,
        jobs,
        probe_sweep,
        report_rows,
        sae_jobs,
    )
    from mechocl.commands import calling, cli  # noqa: F401
    from mechocl.report import probe_page, run_report, sae_dashboard  # noqa: F401
    from mechocl.report.explorer import page  # noqa: F401
    from mechocl.runs import finetune, pretraining, sweeps  # noqa: F401

    for name in cli.COMMANDS:
        cli.command_named(name)
    for module, name in ((transformers, "GPTNeoXForCausalLM"), (sae_lens, "SAE")):
        getattr(module, name)  # these packages import when asked


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    command: tuple[str, ...]
    code: int
    """The exit code; −9 after SIGKILL."""
    out: str
    err: str
    cpu_s: float
    """Seconds of a processor that it used."""
    too_long: bool = False
    """Whether it was killed because its time was over."""


@dataclass(slots=True)
class Child:
    """A command that runs."""

    command: tuple[str, ...]
    pid: int
    log: Path
    started: float

    def kill(self) -> None:
        """SIGKILL for the command and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def wait_until(self, cpu_s: float) -> None:
        """Wait until it has used a processor for some seconds, or has ended. A busy machine changes nothing in that."""
        while os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            if (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") >= cpu_s:
                break
            time.sleep(0.001)

    def wait(self, limit_s: float) -> Ended:
        """How it ended. It is killed after `limit_s` seconds since its start, at the latest."""
        too_long = False
        while not (ended := os.wait4(self.pid, os.WNOHANG))[0]:
            if time.monotonic() - self.started > limit_s:
                too_long = True
                self.kill()
            time.sleep(0.002)
        cpu_s = ended[2].ru_utime + ended[2].ru_stime
        self.kill()  # what outlives the command
        out, err = ((self.log / name).read_text(errors="replace") for name in ("out", "err"))
        code = os.waitstatus_to_exitcode(ended[1])
        return Ended(self.command, code, out, err, cpu_s, too_long or code == -signal.SIGXCPU)


def start(
    command: Sequence[str], *, cwd: Path, log: Path, before: Before | None = None, limit_s: float = 600
) -> Child:
    """Start `mechocl COMMAND` in a folder. `log`: folder of what it prints; `limit_s`: of a processor."""
    log.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    started = time.monotonic()
    with warnings.catch_warnings():  # from Python 3.12 on, of threads in this process, which computes nothing
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _be_the_command(command, cwd, log, before, limit_s)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    return Child(tuple(command), pid, log, started)


def run(
    command: Sequence[str],
    *,
    cwd: Path,
    log: Path,
    before: Before | None = None,
    kill_after: float | None = None,
    limit_s: float,
) -> Ended:
    """Run `mechocl COMMAND`, and kill it when it has used a processor for some seconds, if they are given."""
    child = start(command, cwd=cwd, log=log, before=before, limit_s=limit_s)
    if kill_after is not None:
        child.wait_until(kill_after)
        child.kill()
    return child.wait(PATIENCE * limit_s)


def _be_the_command(
    command: Sequence[str], cwd: Path, log: Path, before: Before | None, limit_s: float
) -> NoReturn:
    code = 1
    try:
        os.setpgid(0, 0)
        os.chdir(cwd)
        for name, number in (("out", 1), ("err", 2)):
            os.dup2(os.open(log / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), number)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)
        sys.stdin = open(os.devnull)  # noqa: SIM115
        _limit(limit_s)
        _use_one_thread()
        if before is not None:
            before()
        code = _main(command)
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def _main(command: Sequence[str]) -> int:
    from mechocl.commands import cli

    try:
        return cli.main(list(command))
    except SystemExit as end:
        if end.code is not None and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
            return 1
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _limit(cpu_s: float) -> None:
    """Limit the memory of this process, and the seconds of a processor that it may use."""
    seconds = max(1, round(cpu_s))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
