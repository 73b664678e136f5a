"""Hugging Face's Trainer with resume points in safetensors, for fine-tuning and for pretraining.

Mixed precision, gradient checkpointing, accumulation, several devices and nodes (`accelerate launch`, with FSDP where
it is configured) are the Trainer's. Added here: a resume point is complete or not there, and holds no pickle.
"""

import json
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
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mechocl import files
from mechocl.hugging_face import quiet

Report = Callable[[str, float], None]

_STATE: Final = "state.safetensors"
_COMPLETE: Final = "complete.json"
_OPTIMIZERS: Final = {"adafactor": "adafactor", "adamw": "adamw_torch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a model is trained."""

    epochs: int
    batch_size: int
    """Examples of one update, over all devices."""
    accumulation: int = 1
    optimizer: str
    learning_rate: float
    weight_decay: float = 0.0
    beta2: float = 0.999
    schedule: str = "linear"
    warmup: float = 0.0
    gradient_clip: float = 1.0
    precision: str = "float32"
    gradient_checkpointing: bool = False
    by_length: bool = False
    """Batches of examples of like length: less padding, and less random."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where training stands after a step that something is done at."""

    step: int
    total: int
    epoch: float
    loss: float
    """Mean loss per token since the last such step, in nats; NaN before the first."""
    model: Any
    save: Callable[[Path], None]
    """Write the model into a folder; all processes must call it."""
    first: bool
    """Whether this process is the one that writes."""


def train(
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
    then: Callable[[Moment], None],
    report: Report,
) -> None:
    """Train a model in place; continue from the last resume point in `folder`, if there is one.

    Args:
        model: a Hugging Face model.
        examples: what `collate` makes batches of.
        collate: several examples → `input_ids`, `attention_mask`, `labels`.
        settings: the schedule.
        folder: of resume points; emptied by the caller when all is done.
        seed: of the order of the examples.
        device: "cpu", or "cuda".
        save_every_s: seconds between resume points.
        at: total steps → the steps at which `then` is called; the last step must be among them.
        then: what is done there: evaluate, keep a checkpoint.
        report: progress.

    On the CPU the result does not depend on where training was stopped, bit for bit with as many threads.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share = settings.batch_size // (settings.accumulation * processes)
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=max(1, share),
        gradient_accumulation_steps=settings.accumulation,
        num_train_epochs=settings.epochs,
        optim=_OPTIMIZERS[settings.optimizer],
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta2=settings.beta2,
        lr_scheduler_type=settings.schedule if settings.schedule != "constant" else "constant_with_warmup",
        warmup_steps=settings.warmup,
        max_grad_norm=settings.gradient_clip,
        bf16=settings.precision == "bf16",
        train_sampling_strategy="group_by_length" if settings.by_length else "random",
        seed=seed,
        data_seed=seed,
        use_cpu=device == "cpu",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.config.use_cache = False
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=examples,
        data_collator=collate,
    )
    trainer.add_callback(_Moments(trainer, at=at, then=then, save_every_s=save_every_s, report=report))
    trainer.remove_callback(PrinterCallback)
    with quiet():
        trainer.train(resume_from_checkpoint=_last(folder))


def _last(folder: Path) -> str | None:
    """The newest complete resume point; what is incomplete is removed."""
    found = []
    for path in folder.glob("checkpoint-*"):
        if (path / _COMPLETE).exists():
            found.append(path)
        elif int(os.environ.get("RANK", "0")) == 0:
            shutil.rmtree(path, ignore_errors=True)
    return str(max(found, key=lambda p: int(p.name.split("-")[1]))) if found else None


class _Moments(TrainerCallback):  # type: ignore[misc]
    """Calls back at chosen steps, and has resume points written as time goes by."""

    def __init__(
        self,
        trainer: "_Trainer",
        *,
        at: Callable[[int], Sequence[int]],
        then: Callable[[Moment], None],
        save_every_s: float,
        report: Report,
    ) -> None:
        self.trainer, self.at, self.then, self.report = trainer, at, then, report
        self.save_every_s = save_every_s
        self.steps: frozenset[int] = frozenset()
        self.saved = time.monotonic()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps = frozenset(self.at(state.max_steps))
        if state.global_step == 0:
            self._call(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step, total = state.global_step, state.max_steps
        self._call(state)
        due = time.monotonic() - self.saved >= self.save_every_s and step < total
        if args.world_size > 1:  # all save at the same step: the first one's clock decides
            flag = torch.tensor([float(due)], device=args.device)
            torch.distributed.broadcast(flag, 0)
            due = bool(flag.item())
        if due:
            self.trainer._save_checkpoint(self.trainer.model, None)
            self.saved = time.monotonic()
        self.report(f"step {step} of {total}", step / total)

    def _call(self, state: Any) -> None:
        if state.global_step not in self.steps:
            return
        trainer = self.trainer
        self.then(
            Moment(
                step=state.global_step,
                total=state.max_steps,
                epoch=float(state.epoch or 0.0),
                loss=trainer.mean_loss(),
                model=trainer.model,
                save=trainer.save_model,
                first=trainer.is_world_process_zero(),
            )
        )
        trainer.model.train()


class _Trainer(Trainer):  # type: ignore[misc]
    """Adds up the loss, and keeps its state without pickles where that is not sharded."""

    _sum: Tensor | None = None
    _count = 0

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss: Tensor = super().training_step(*arguments, **named)
        own = loss.detach().double()
        self._sum = own if self._sum is None else self._sum + own
        self._count += 1
        return loss

    def mean_loss(self) -> float:
        """Mean loss since the last call, NaN where nothing was trained."""
        if self._sum is None:
            return float("nan")
        # the loss of a part of an accumulated batch is scaled by the number of parts
        mean = float(self._sum) / self._count * int(self.args.gradient_accumulation_steps)
        self._sum, self._count = None, 0
        return mean

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir)
        here = folder / f"checkpoint-{self.state.global_step}"
        if self.args.world_size > 1:
            torch.distributed.barrier()
        if self.is_world_process_zero():
            (here / "training_args.bin").unlink(missing_ok=True)
            extra = {"loss": 0.0 if self._sum is None else float(self._sum), "count": self._count}
            files.write_json(here / _COMPLETE, extra)
            for other in folder.glob("checkpoint-*"):
                if other != here:
                    shutil.rmtree(other, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_world_process_zero():
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    # ------------------------------------------------------------------------- state without pickles

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
        elif self.args.should_save:
            tensors: dict[str, Tensor] = {}
            state = _plain(self.optimizer.state_dict(), tensors, "optimizer")
            schedule = _plain(self.lr_scheduler.state_dict(), tensors, "schedule")
            files.write_tensors(
                Path(output_dir) / _STATE,
                tensors,
                {"state": json.dumps({"optimizer": state, "schedule": schedule})},
            )

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        record = files.read_json(Path(checkpoint) / _COMPLETE)
        self._sum, self._count = torch.tensor(record["loss"]).double(), record["count"]
        if self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        tensors, metadata = files.read_tensors(Path(checkpoint) / _STATE)
        saved = json.loads(metadata["state"])
        self.optimizer.load_state_dict(_rebuilt(saved["optimizer"], tensors))
        self.lr_scheduler.load_state_dict(_rebuilt(saved["schedule"], tensors))

    def _save_rng_state(self, output_dir: str) -> None:
        tensors = {"cpu": torch.random.get_rng_state()}
        if torch.cuda.is_available():
            tensors["cuda"] = torch.cuda.get_rng_state()
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        files.write_tensors(Path(output_dir) / f"random-{self.args.process_index}.safetensors", tensors, {})

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is None:
            return
        tensors, _ = files.read_tensors(Path(checkpoint) / f"random-{self.args.process_index}.safetensors")
        torch.random.set_rng_state(tensors["cpu"])
        if "cuda" in tensors and torch.cuda.is_available():
            torch.cuda.set_rng_state(tensors["cuda"])


def _plain(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A nested state as JSON; its tensors go into `tensors`, and their names into their places."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, dict):
        return {"items": [[key, _plain(v, tensors, f"{name}.{key}")] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_plain(v, tensors, f"{name}.{i}") for i, v in enumerate(value)]}
    return value


def _rebuilt(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "items" in value:
        return {key: _rebuilt(v, tensors) for key, v in value["items"]}
    return [_rebuilt(v, tensors) for v in value["list"]]
