"""Hugging Face's Trainer with resume points in safetensors, for fine-tuning and for pretraining.

The Trainer itself does mixed precision, gradient checkpointing, accumulation, and training on several devices and nodes
(`accelerate launch`, with FSDP if that is configured). This module adds that a resume point is either complete or does
not count, and holds no pickle.
"""

import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainingArguments

from mechocl.errors import MechoclError
from mechocl.models.hub import quiet
from mechocl.runs.progress import Progress
from mechocl.runs.trainer_state import (
    COMPLETE as _COMPLETE,
    RecordingTrainer as _Trainer,
    check_complete,
)

_SCHEDULES: Final = {"constant": "constant_with_warmup", "stable": "warmup_stable_decay"}
_OPTIMIZERS: Final = {"adafactor": "adafactor", "adamw": "adamw_torch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is trained."""

    epochs: int
    batch_size: int
    """Number of examples of one update, over all devices."""
    accumulation: int = 1
    optimizer: str
    learning_rate: float
    embedding_rate: float = 1.0
    """Learning rate of the embeddings and the unembedding as a multiple of that of the other weights."""
    weight_decay: float = 0.0
    beta2: float = 0.999
    schedule: str = "linear"
    warmup: float = 0.0
    gradient_clip: float = 1.0
    precision: str = "float32"
    gradient_checkpointing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """The state of training after a step at which the caller acts."""

    step: int
    total: int
    epoch: float
    loss: float
    """Mean loss per token since the last moment, in nats; NaN before the first step."""
    model: Any
    state: Callable[[], dict[str, Tensor]]
    """A function that returns all weights by name, gathered if they are sharded. All processes must call it."""
    save: Callable[[Path, dict[str, Tensor]], None]
    """A function that writes the given weights of the model into a folder."""
    first: bool
    """Whether this process is the first one, which writes files."""


def _same_examples(epoch: int) -> None:
    """Nothing is to be done where the examples are the same in every epoch."""


def train_model(
    model: Any,
    examples: Dataset[Any],
    collate: Callable[[list[Any]], dict[str, Tensor]],
    settings: Settings,
    *,
    folder: Path,
    seed: int,
    device: str,
    save_every_s: float,
    at: Callable[[int], Sequence[int]],
    then: Callable[[Moment], bool],
    progress: Progress,
    begin_epoch: Callable[[int], None] = _same_examples,
    callbacks: Sequence[TrainerCallback] = (),
) -> None:
    """Train a model in place. It continues from the last resume point in `folder`, if there is one.

    Args:
        model: a Hugging Face model.
        examples: the examples, of which `collate` makes batches.
        collate: a function of several examples that returns `input_ids`, `attention_mask` and `labels`.
        settings: the schedule.
        folder: folder of the resume points. The caller empties it when training is finished.
        seed: decides the order of the examples.
        device: "cpu", or "cuda".
        save_every_s: seconds between resume points.
        at: a function of the total number of steps that returns the steps at which `then` is called. The last step must
            be among them.
        then: a function that is called at these steps, to evaluate or to keep a checkpoint. It returns whether training ends
            here, before its last step; before the first step that is not asked.
        progress: a function that is called with the progress of the training.
        begin_epoch: a function that is called with the number of each epoch, counted from 0, before its first batch is
            made, and also when training continues in the middle of an epoch. It may change the examples.
        callbacks: further callbacks of the Trainer, which are called before those of this module.

    On the CPU the result does not depend on where training was stopped, bit for bit with the same number of threads.
    Raises MechoclError for a batch that the processes cannot share equally.
    """
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)  # type: ignore[arg-type]
    arguments = _arguments(settings, steps=steps, folder=folder, seed=seed, device=device)
    if settings.gradient_checkpointing:
        # transformers 5.17 and later have this name
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable()
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
    )
    trainer.embedding_rate = settings.embedding_rate
    for callback in (*callbacks, _Epochs(begin_epoch)):
        trainer.add_callback(callback)
    trainer.add_callback(_Moments(trainer, at=at, then=then, save_every_s=save_every_s, progress=progress))
    trainer.remove_callback(PrinterCallback)
    with quiet():
        trainer.train(resume_from_checkpoint=_last(folder))


def _arguments(settings: Settings, *, steps: int, folder: Path, seed: int, device: str) -> TrainingArguments:
    """The arguments of the Trainer, which make it write and log nothing by itself. `steps` is the updates of all epochs."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=_share(settings),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        optim=_OPTIMIZERS[settings.optimizer],
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        lr_scheduler_type=_SCHEDULES.get(settings.schedule, settings.schedule),
        lr_scheduler_kwargs={"num_decay_steps": round(0.2 * steps)}
        if settings.schedule == "stable"
        else None,
        warmup_steps=settings.warmup,
        max_grad_norm=settings.gradient_clip,
        bf16=settings.precision == "bf16",
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = (
            1  # several devices are used only through `accelerate launch`, which keeps the batch's size
        )
    return arguments


def _share(settings: Settings) -> int:
    """Number of examples that a process computes at a time."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(settings.batch_size, settings.accumulation * processes)
    if rest:
        raise MechoclError(
            f"batch_size {settings.batch_size} does not divide into {settings.accumulation} parts for each of "
            f"{processes} processes; change batch_size or accumulation"
        )
    return share


def _last(folder: Path) -> str | None:
    """The newest complete resume point. Incomplete ones are removed. Raises MechoclError as `check_complete` does."""
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).exists():
            found.append(path)
        elif int(os.environ.get("RANK", "0")) == 0:
            shutil.rmtree(path, ignore_errors=True)
    if not found:
        return None
    last = max(found, key=lambda p: int(p.name.split("-")[1]))
    check_complete(last)
    return str(last)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells which epoch begins, or continues."""

    def __init__(self, begin: Callable[[int], None]) -> None:
        self.begin = begin

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.begin(state.global_step * state.num_train_epochs // state.max_steps)


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Calls a function at chosen steps, and makes the Trainer write resume points at intervals of time."""

    def __init__(
        self,
        trainer: "_Trainer",
        *,
        at: Callable[[int], Sequence[int]],
        then: Callable[[Moment], bool],
        save_every_s: float,
        progress: Progress,
    ) -> None:
        self.trainer, self.at, self.then, self.progress = trainer, at, then, progress
        self.save_every_s = save_every_s
        self.steps: frozenset[int] = frozenset()
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps = frozenset(self.at(state.max_steps))
        if state.global_step == 0:
            self._call(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, total = state.global_step, state.max_steps
        if self._call(state):
            control.should_training_stop = True
        due = time.monotonic() - self.saved >= self.save_every_s and step < total
        if (
            args.world_size > 1
        ):  # all processes must save at the same step, so the clock of the first one decides
            flag = torch.tensor([float(due)], device=args.device)
            torch.distributed.broadcast(flag, 0)
            due = bool(flag.item())
        if due:
            self.trainer._save_checkpoint(self.trainer.model, None)
            self.saved = time.monotonic()
        self.progress(f"step {step} of {total}", step / total)

    def _call(self, state: Any) -> bool:
        """Call the function if this is one of its steps, and return whether training ends here."""
        if state.global_step not in self.steps:
            return False
        trainer = self.trainer
        over = self.then(
            Moment(
                step=state.global_step,
                total=state.max_steps,
                epoch=float(state.epoch or 0.0),
                loss=trainer.mean_loss(),
                model=trainer.model,
                state=trainer.weights,
                save=lambda path, weights: trainer._save(str(path), weights),
                first=trainer.is_world_process_zero(),
            )
        )
        trainer.model.train()
        return over
