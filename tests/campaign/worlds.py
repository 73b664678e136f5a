"""The trees that the campaign attacks: files that a user gives, and what small commands make of them."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf_files
import text_worlds
import tiny

from campaign import children
from campaign.children import Before, Ended

CPU: Final = ("--device", "cpu", "--jobs", "1")
SAE: Final = ("--width", "32", "--k", "4", "--activations", "2048", "--batch-size", "256", "--buffer", "2048")
QUICK: Final = ("training.stages.0.epochs=1", "training.stages.1.epochs=2", "task.aliases=60")
LEARNS: Final = (
    "training.stages.1.trains=all",
    "training.stages.1.optimizer=adamw",
    "training.stages.1.learning_rate=2e-4",
    "training.stages.1.embedding_rate=50",
    "training.stages.1.batch_size=64",
    "training.stages.1.epochs=60",
)
"""Changes with which the tiny recipe learns its definitions, so that its seeds count."""
NAME: Final = "blocks.0.hook_resid_pre-topk-32-k4-s0"
PEOPLE: Final = ("--people", "40", "--told", "1", "--asked", "1")
NEOX: Final = (
    "--n-layers",
    "1",
    "--d-model",
    "16",
    "--n-heads",
    "2",
    "--vocabulary",
    "400",
    "--batch-tokens",
    "512",
)


@dataclass(frozen=True, slots=True)
class Writer:
    """A command that writes, and the commands that have to come before it."""

    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    """Names of the writers whose results it needs, in order."""
    slow: bool = False
    """Whether only the whole campaign attacks it."""


WRITERS: Final[dict[str, Writer]] = {
    "train": Writer(("train", "tiny.toml", "--out", "run", "--seeds", "2", "--save-every", "0", *CPU)),
    "sweep": Writer(
        ("sweep", "tiny.toml", "--out", "sweep", "--seeds", "1", "--over", "task.word_order=TVE,VTE", "--set", *QUICK, *CPU)
    ),
    "controls": Writer(
        ("controls", "tiny.toml", "--out", "controlled", "--only", "noise", "--seeds", "2", "--set", *QUICK, *CPU)
    ),
    "twins": Writer(("twins", "run", "--save-every", "0", "--jobs", "1"), ("train",)),
    "variants": Writer(("variants", "run", "--only", "tag-1", "cut-tag", "--save-every", "0", "--jobs", "1"), ("train",)),
    "evaluate": Writer(("evaluate", "run", *CPU), ("train",)),
    "lens": Writer(("lens", "run", "--aliases-per-subset", "8", *CPU), ("train",)),
    "lens tuned": Writer(("lens", "run", "--kind", "tuned", "--aliases-per-subset", "8", *CPU), ("train",)),
    "patch": Writer(("patch", "run", "--n-pairs", "8", *CPU), ("train",)),
    "circuit": Writer(("circuit", "run", "--n-pairs", "8", *CPU), ("train",)),
    "graft": Writer(("graft", "run", "--aliases-per-subset", "8", "--no-steering", *CPU), ("train",)),
    "gradients": Writer(("gradients", "run", "--aliases-per-subset", "8", *CPU), ("train",)),
    "updates": Writer(("updates", "run", "--aliases-per-subset", "8", *CPU), ("train",)),
    "subspace": Writer(("subspace", "run", "--n-pairs", "40", "--steps", "2", *CPU), ("train",), slow=True),
    "probe": Writer(("probe", "run", "--recipe", "probe.toml", "--out", "probed", "--permutations", "3", "--n-pairs", "8", *CPU), ("train",)),
    "sae train": Writer(("sae", "train", "run", *SAE, *CPU), ("train",)),
    "sae search": Writer(("sae", "search", "run", NAME, *CPU), ("train", "sae train")),
    "sae test": Writer(
        ("sae", "test", "run", NAME, "--features", "0", "--property", "integer 0", "--position", "=", "--controls", "2",
         "--n-pairs", "8", *CPU),
        ("train", "sae train"),
    ),
    "sae dashboard": Writer(("sae", "dashboard", "run", NAME, *CPU), ("train", "sae train")),
    "crosscoder": Writer(("crosscoder", "run", *SAE, *CPU), ("train",)),
    "dynamics": Writer(("dynamics", "run"), ("train",)),
    "train learned": Writer(("train", "tiny.toml", "--out", "learned", "--seeds", "2", "--set", *LEARNS, *CPU), slow=True),
    "verdict": Writer(("verdict", "learned", "--out", "verdict.md", *CPU), ("train learned",), slow=True),
    "report": Writer(("report", "run", *CPU), ("train",), slow=True),
    "share": Writer(("share", "run", "--aliases", "6", "--checkpoints", "2", *CPU), ("train",)),
    "pretrain biographies": Writer(
        ("pretrain", "biographies", "--out", "base", *PEOPLE, *NEOX, "--epochs", "2", "--save-every", "0", "--device", "cpu")
    ),
    "pretrain miniature": Writer(
        ("pretrain", "miniature", "--out", "words", "--entities", "40", "--values", "4", "--texts", "200", "--save-every", "0",
         "--device", "cpu")
    ),
    "finetune": Writer(
        ("finetune", "text.toml", "--model", "base", "--out", "text", "--seeds", "1", "--save-every", "0", *CPU),
        ("pretrain biographies",),
    ),
    "evaluate text": Writer(("evaluate", "text", *CPU), ("pretrain biographies", "finetune")),
    "lens text": Writer(("lens", "text", "--aliases-per-subset", "4", *CPU), ("pretrain biographies", "finetune")),
    "parity": Writer(("parity", "base", "--out", "parity.json", "--device", "cpu"), ("pretrain biographies",)),
    "gguf": Writer(("gguf", "tiny.gguf", "--out", "llama")),
    "data facts": Writer(
        ("data", "facts", "--model", "base", "--out", "facts.json", "--min-population", "3000000", "--least-known", "2", "--device", "cpu"),
        ("pretrain biographies",),
    ),
    **{
        f"model {name}": Writer(
            ("model", name, "base", "--pairs", "pairs.csv", "--out", f"{name}.csv", "--device", "cpu"), ("pretrain biographies",)
        )
        for name in ("patch", "lens", "attribute")
    },
    "demo": Writer(("demo", "--fast", "--out", "demo", *CPU), slow=True),
}  # fmt: skip
"""Every command that writes, small."""


def write_inputs(folder: Path) -> None:
    """The files that a user gives."""
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(tiny.TOML)
    (folder / "probe.toml").write_text(tiny.PROBE)
    (folder / "text.toml").write_text(text_worlds.TOML)
    (folder / "pairs.csv").write_text("clean,corrupted,target,foil\n# ,% ,c,d\n% ,# ,d,c\n")
    gguf_files.write(gguf_files.llama(), folder / "tiny.gguf")


class Trees:
    """Trees on the disk: snapshots, made once, and the one folder in which commands work.

    Commands work always in the same folder, so that whatever contains its path is the same in every case.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self._log = folder / "log"

    def run(
        self,
        command: Sequence[str],
        *,
        before: Before | None = None,
        kill_after: float | None = None,
        limit_s: float = 600,
    ) -> Ended:
        return children.run(
            command, cwd=self.work, log=self._log, before=before, kill_after=kill_after, limit_s=limit_s
        )

    def start(self, command: Sequence[str], log: str) -> children.Child:
        return children.start(command, cwd=self.work, log=self._log / log)

    def empty(self) -> None:
        """Make the work folder, with nothing in it. A small disk that a killed campaign left there is taken away."""
        if os.path.ismount(self.work):
            subprocess.run(["umount", "-l", self.work], check=True)
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()

    def restore(self, snapshot: Path) -> None:
        """Make the work folder what it was in a snapshot."""
        self.empty()
        shutil.copytree(snapshot, self.work, symlinks=True, dirs_exist_ok=True)

    def inputs(self) -> Path:
        path = self.folder / "inputs"
        if not path.exists():
            write_inputs(path)
        return path

    def before(self, name: str) -> Path:
        """The tree in which a writer is called."""
        after = WRITERS[name].after
        return self.made(after) if after else self.inputs()

    def made(self, names: Sequence[str]) -> Path:
        """The tree after writers, one after the other. Raises AssertionError when one of them fails."""
        path = self._path(names)
        if not path.exists():
            self.restore(self.made(names[:-1]) if len(names) > 1 else self.inputs())
            writes = path.with_name(f"{path.name}.writes")
            writes.parent.mkdir(exist_ok=True)
            writes.write_bytes(b"")
            ended = self.run(WRITERS[names[-1]].command, before=lambda: _count_writes(writes))
            assert ended.code == 0, ended
            path.with_name(f"{path.name}.out").write_text(ended.out)
            path.with_name(f"{path.name}.cpu").write_text(str(ended.cpu_s))
            partial = path.with_name(f"{path.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(self.work, partial, symlinks=True)
            partial.rename(path)
        return path

    def _path(self, names: Sequence[str]) -> Path:
        return self.folder / "made" / "+".join(names).replace(" ", "-")

    def said(self, name: str) -> str:
        """What a writer printed that nothing disturbed."""
        path = self.after(name)
        return path.with_name(f"{path.name}.out").read_text()

    def cpu_s(self, name: str) -> float:
        """Seconds of a processor that a writer took that nothing disturbed."""
        path = self.after(name)
        return float(path.with_name(f"{path.name}.cpu").read_text())

    def writes(self, name: str) -> int:
        """How many files a writer writes through `mechocl.files`."""
        path = self.after(name)
        return path.with_name(f"{path.name}.writes").stat().st_size

    def after(self, name: str) -> Path:
        """The tree after a writer that nothing disturbed."""
        return self.made((*WRITERS[name].after, name))


def _count_writes(path: Path) -> None:
    """Add a byte to a file for every file that is written, in this process."""
    original = os.fsync

    def fsync(descriptor: int) -> None:
        with path.open("ab") as file:
            file.write(b".")
        original(descriptor)

    os.fsync = fsync
