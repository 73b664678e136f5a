"""One seed's part of a closed-book run: its task, and its models as ordinary Hugging Face folders.

seed-0/
  checksums.json   task.safetensors  task.parquet
  stage-1/ step-000400/ config.json model.safetensors tokenizer.json …   final/ …   history.parquet
           resume/checkpoint-300/ …      where an unfinished stage continues
"""

import functools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pandas as pd
import torch

from mechocl import files
from mechocl.closed_book import encoding, views
from mechocl.closed_book.questioning import TextQuestioning
from mechocl.errors import MechoclError
from mechocl.models import hub, loading
from mechocl.models.seam import resolve_device
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.recipes import AnyRecipe
from toy_models.task import Task

_MODEL: Final = re.compile(r"stage-(\d+)/(?:step-(\d+)|final)/.+")
_STEPS: Final = "steps.json"


class TextSeedFolder(SeedFolder):
    """One seed's part of a closed-book run. A checkpoint's name is the folder of a Hugging Face model."""

    task_files = ("task.safetensors", "task.parquet", "vocabulary.parquet")

    def __init__(
        self,
        path: Path,
        seed: int,
        recipe: AnyRecipe,
        *,
        asked: str,
        first: Path,
        command: str = "finetune",
        owner: str = "",
    ) -> None:
        super().__init__(path, seed, recipe, command=command, owner=owner)
        self._asked = asked
        self._first = first

    @functools.cached_property
    def attribute(self) -> str:
        """The attribute that analyses look at: the one that was asked for, or else the default of the run's first seed."""
        if self._asked:
            return self._asked
        first = TextSeedFolder(self._first, self.seed, self.recipe, asked="", first=self._first)
        return views.default_attribute(first.load_task())

    def analysed_task(self) -> Task:
        return views.view_attribute(self.load_task(), self.attribute)

    def streamed_task(self) -> Task:
        task = self.load_task()
        return task.take(task.rows(kind=("definition", "question")))

    def load_task(self) -> Task:
        tensors, _ = files.read_tensors(self.ledger.checked("task.safetensors"))
        tokens = files.read_table(self.ledger.checked("vocabulary.parquet"))["token"]
        return Task(
            tokens=tensors["tokens"].to(torch.int64),
            roles=tensors["roles"].to(torch.int64),
            loss_mask=tensors["loss_mask"],
            table=files.read_table(self.ledger.checked("task.parquet")),
            vocabulary=replace(encoding.shown(tuple(tokens)), of_text=self._encode),
            questioning=TextQuestioning(),
        )

    def task_checksums(self) -> dict[str, str]:
        """Also that of the first checkpoint, whose tokenizer reads texts."""
        first = self.checkpoints()[0]
        return super().task_checksums() | {first.name: first.sha256}

    def _encode(self, text: str) -> list[int]:
        """Token ids of a text, by the tokenizer of the run's first model."""
        tokenizer = hub.require_tokenizer(self.path / self.checkpoints()[0].name)
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def save_task(self, task: Task) -> None:
        files.write_table(
            self.path / "vocabulary.parquet", pd.DataFrame({"token": list(task.vocabulary.tokens)})
        )
        self.ledger.record("vocabulary.parquet")
        super().save_task(task)

    def save_model(self, write: Callable[[Path], None], *, stage: int, step: int, final: bool) -> None:
        """Keep a model. `write` fills an empty folder, which is then renamed into place and recorded.

        Raises MechoclError when the stage was finished before, with another model at this step.
        """
        name = f"stage-{stage}/" + ("final" if final else f"step-{step:06d}")
        recorded = self.ledger.entries() if self.stage_finished(stage) else {}
        with files.new_folder(self.path / name) as made:
            write(made)
            files.write_json(made / _STEPS, {"stage": stage, "step": step})
            for path in made.glob("*.safetensors"):
                if recorded.get(f"{name}/{path.name}", digest := files.sha256(path)) != digest:
                    raise MechoclError(self.other_bits(f"{name}/{path.name}"))
        self.ledger.record(*sorted(str(p.relative_to(self.path)) for p in (self.path / name).iterdir()))

    def checkpoints(self) -> list[Checkpoint]:
        names = {
            match[0].rsplit("/", 1)[0] for name in self.ledger.entries() if (match := _MODEL.fullmatch(name))
        }
        return sorted((self._model(name) for name in names), key=lambda c: (c.stage, c.step))

    def final(self, stage: int | None = None) -> Checkpoint:
        number = len(self.recipe.training.stages) if stage is None else stage
        self.ledger.checked(f"stage-{number}/final/{_STEPS}")
        return self._model(f"stage-{number}/final")

    def _model(self, name: str) -> Checkpoint:
        step = files.read_json(self.path / name / _STEPS, remedy=self.ledger.remedy)
        return Checkpoint(self.seed, step["stage"], step["step"], name, self._digest_of(name))

    def _digest_of(self, name: str) -> str:
        """A hash of what is recorded of the files of a checkpoint."""
        entries = {k: v for k, v in self.ledger.entries().items() if k.startswith(name + "/")}
        return files.fingerprint(entries)

    def model_path(self, checkpoint: Checkpoint) -> Path:
        """Folder of a checkpoint's model.

        Raises MechoclError for one of another seed or run, and when one of its files was truncated, altered or added.
        """
        self.require_own(checkpoint)
        recorded = [name for name in self.ledger.entries() if name.startswith(checkpoint.name + "/")]
        for name in recorded:
            self.ledger.checked(name)
        folder = self.path / checkpoint.name
        added = {str(p.relative_to(self.path)) for p in folder.iterdir()} - set(recorded)
        if added:
            raise MechoclError(f"{self.path / min(added)} was added to a finished checkpoint; remove it")
        return folder

    def untrained_checksum(self) -> str:
        return self.final().sha256

    def untrained_model(self, *, device: str | None = "auto") -> Any:
        path = self.path / self.final().name
        return loading.initialised_like(
            path,
            seed=self.seed,
            device=resolve_device(device),
            n_ctx=loading.positions_within_windows(path),
        )

    def model_at(self, checkpoint: Checkpoint, *, device: str | None = "auto") -> Any:
        """The model of a checkpoint, loaded from its Hugging Face folder. It has no more positions than its sliding windows.

        The comparison with Hugging Face's forward pass is kept in the folder `parity`. Raises MechoclError when one of
        the files was altered, and as `models.loading.load` does.
        """
        record = self.path / "parity" / f"{checkpoint.name.replace('/', '-')}.json"
        path = self.model_path(checkpoint)
        n_ctx = loading.positions_within_windows(path)
        return loading.load(path, device=resolve_device(device), n_ctx=n_ctx, record=record)

    def evaluate(self, checkpoint: Checkpoint, *, device: str | None = "auto") -> pd.DataFrame:
        """Rows of the evaluate analysis, computed by Hugging Face's own model, causal or sequence-to-sequence."""
        from mechocl.closed_book import evaluation  # transformers' generation takes a second to import

        path = self.model_path(checkpoint)
        model = hub.read_model(path).to(resolve_device(device))
        return evaluation.per_alias(model, hub.require_tokenizer(path), self.load_task())

    def resume_folder(self, stage: int) -> Path:
        """Folder of the resume points of an unfinished stage."""
        return self.path / f"stage-{stage}" / "resume"
