"""Fine-tunes runs of one seed in each process of `accelerate launch`, sharded although there are only CPUs.

    accelerate launch --use_fsdp --fsdp_version 2 … launched.py RUN "stage 1, step 3" RUN "stage 2, step 1" …

accelerate shards models on accelerators alone, so here it takes the CPUs for such; torch itself shards them as well.
Training is stopped when it reports the text behind the run, with resume points after each step; the same processes
then continue.
"""

import sys
from pathlib import Path
from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from mechocl.runs import finetune
from mechocl.runs.run import Run


class Stopped(Exception):
    """In the place of a kill, in all processes at the same step."""


def take_cpus_for_accelerators() -> None:
    original = state.PartialState.__init__

    def init(self: Any, cpu: bool = False, **named: Any) -> None:
        original(self, cpu=True, **named)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.PartialState.__init__ = init


def main(path: str, stop_at: str) -> None:
    run = Run.open(Path(path))

    def stop(text: str, share: float) -> None:
        if text.startswith(stop_at):
            raise Stopped

    try:
        finetune.finetune(run, 0, device="cpu", save_every_s=0.0, progress=stop)
    except Stopped:
        print(f"stopped {run.path}", flush=True)
    finetune.finetune(run, 0, device="cpu", save_every_s=1e9, progress=lambda text, share: None)


if __name__ == "__main__":
    take_cpus_for_accelerators()
    for given in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        main(*given)
