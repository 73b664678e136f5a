"""Fine-tune a seed in a test."""

from mechocl.runs import finetune
from mechocl.runs.progress import Progress
from mechocl.runs.run import Run
from mechocl.runs.text_folders import TextSeedFolder

NEVER = 1e9
"""Seconds between resume points, for runs without them."""


def ignore(text: str, share: float) -> None:
    """Reports nothing."""


def train(run: Run, *, save_every_s: float = NEVER, progress: Progress = ignore) -> TextSeedFolder:
    """The folder of the run's only seed, trained."""
    [seed] = run.seeds
    finetune.finetune(run, seed, device="cpu", save_every_s=save_every_s, progress=progress)
    folder = run.seed(seed)
    assert isinstance(folder, TextSeedFolder)
    return folder
