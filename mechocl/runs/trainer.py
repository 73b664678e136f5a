"""Hugging Face's Trainer with resume points in safetensors, for fine-tuning and for pretraining.

Mixed precision, gradient checkpointing, accumulation, several devices and nodes (`accelerate launch`, with FSDP where
it is configured) are the Trainer's. Added here: a resume point is complete or not there, and holds no pickle.
"""

import json
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
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor, Replicate
from torch.utils.data import Dataset
from transformers import Adafactor, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from mechocl import files
from mechocl.errors import MechoclError
from mechocl.models.hub import quiet

Report = Callable[[str, float], None]

_STATE: Final = "state.safetensors"
_WEIGHTS: Final = "weights.safetensors"
_GATHERED: Final = StateDictOptions(full_state_dict=True, cpu_offload=True)
_GATHERED_PART: Final = StateDictOptions(full_state_dict=True, strict=False)
_COMPLETE: Final = "complete.json"
_SCHEDULES: Final = {"constant": "constant_with_warmup", "stable": "warmup_stable_decay"}
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where training stands after a step that something is done at."""

    step: int
    total: int
    epoch: float
    loss: float
    """Mean loss per token since the last such step, in nats; NaN before the first."""
    model: Any
    state: Callable[[], dict[str, Tensor]]
    """All weights by name, gathered where they are sharded; all processes must call it."""
    save: Callable[[Path, dict[str, Tensor]], None]
    """Write these weights of the model into a folder."""
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

    On the CPU the result does not depend on where training was stopped, bit for bit with as many threads. Raises
    MechoclError for a batch that the processes cannot share equally.
    """
    steps = settings.epochs * math.ceil(len(examples) / settings.batch_size)  # type: ignore[arg-type]
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
    if settings.gradient_checkpointing:
        # the name is of transformers 5.17 and later
        enable = (
            getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        )
        enable()
    if arguments.n_gpu > 1:
        arguments._n_gpu = (
            1  # several are used through `accelerate launch` alone, which keeps the batch's size
        )
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


def _share(settings: Settings) -> int:
    """Examples that a process computes at a time."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    share, rest = divmod(settings.batch_size, settings.accumulation * processes)
    if rest:
        raise MechoclError(
            f"batch_size {settings.batch_size} does not divide into {settings.accumulation} parts for each of "
            f"{processes} processes; change batch_size or accumulation"
        )
    return share


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
        self.trainer.updates += 1
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
                state=trainer.weights,
                save=lambda path, weights: trainer._save(str(path), weights),
                first=trainer.is_world_process_zero(),
            )
        )
        trainer.model.train()


class _Trainer(Trainer):  # type: ignore[misc]
    """Adds up the loss, and keeps its state without pickles where that is not sharded."""

    _sum: Tensor | None = None
    updates = 0

    def training_step(self, *arguments: Any, **named: Any) -> Tensor:
        loss: Tensor = super().training_step(*arguments, **named)
        own = loss.detach().double()
        self._sum = own if self._sum is None else self._sum + own
        return loss

    def mean_loss(self) -> float:
        """Mean loss of the updates since the last call, NaN where nothing was trained; the same in all processes."""
        if self._sum is None:
            return float("nan")
        # the losses of the parts of an accumulated batch are scaled so that their sum is the batch's
        mean = self._sum / self.updates
        if self.args.world_size > 1:
            torch.distributed.all_reduce(mean)
            mean /= self.args.world_size
        self._sum, self.updates = None, 0
        return float(mean)

    def weights(self) -> dict[str, Tensor]:
        """All weights by name, gathered where they are sharded; all processes must call it."""
        of = self.accelerator.get_state_dict if self.is_fsdp_enabled else type(self.model).state_dict
        found: dict[str, Tensor] = of(self.model)
        return found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir)
        here = folder / f"checkpoint-{self.state.global_step}"
        if self.args.world_size > 1:
            torch.distributed.barrier()
        if self.is_world_process_zero():
            (here / "training_args.bin").unlink(missing_ok=True)
            extra = {"loss": None if self._sum is None else float(self._sum), "updates": self.updates}
            files.write_json(here / _COMPLETE, extra)
            for other in folder.glob("checkpoint-*"):
                if other != here:
                    shutil.rmtree(other, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_world_process_zero():
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    # ------------------------------------------------------------------------- state without pickles

    # Trainer's own resume points hold what save_pretrained writes, and it reads them without the names that
    # save_pretrained changes: of a GPT-NeoX (transformers 5) it would leave out the unembedding.

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        weights = self.weights()
        if self.args.should_save:
            trained = {name: weights[name] for name in self._trained()}
            files.write_tensors(Path(output_dir or self.args.output_dir) / _WEIGHTS, trained, {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        weights, _ = files.read_tensors(Path(resume_from_checkpoint) / _WEIGHTS)
        assert weights.keys() == self._trained()
        if self.is_fsdp_enabled:
            set_model_state_dict(self.model, dict(weights), options=_GATHERED_PART)
        else:
            self.model.load_state_dict(weights, strict=False)

    def _trained(self) -> set[str]:
        """Names of the weights that are trained, of tied ones the first."""
        return {name for name, weight in self.model.named_parameters() if weight.requires_grad}

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.is_fsdp_enabled:
            optimizer = get_optimizer_state_dict(self.model, self.optimizer, options=_GATHERED)
        else:
            optimizer = self.optimizer.state_dict()
        if self.args.should_save:
            tensors: dict[str, Tensor] = {}
            state = _plain(optimizer, tensors, "optimizer")
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
        if record["loss"] is not None:
            self._sum, self.updates = (
                torch.tensor(record["loss"], dtype=torch.float64, device=self.args.device),
                record["updates"],
            )
        tensors, metadata = files.read_tensors(Path(checkpoint) / _STATE)
        saved = json.loads(metadata["state"])
        optimizer = _rebuilt(saved["optimizer"], tensors)
        if self.is_fsdp_enabled:
            set_optimizer_state_dict(self.model, self.optimizer, optimizer, options=_GATHERED)
        else:
            self.optimizer.load_state_dict(optimizer)
        self.lr_scheduler.load_state_dict(_rebuilt(saved["schedule"], tensors))

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)
        if self.is_fsdp_enabled and isinstance(optimizer, Adafactor):
            optimizer.register_step_pre_hook(_shard_state)
        return optimizer

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


def _shard_state(optimizer: Any, *_: Any) -> None:
    """Begin Adafactor's state of sharded weights with sharded zeros, where transformers would begin it with whole ones."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if isinstance(weight.grad, DTensor) and not optimizer.state[weight]:
                zeros = torch.zeros_like(weight.grad)
                means = {"exp_avg_sq": zeros}
                if zeros.ndim >= 2:
                    means = {"exp_avg_sq_row": zeros.mean(-1), "exp_avg_sq_col": zeros.mean(-2)}
                optimizer.state[weight].update(
                    {name: _summed(mean) for name, mean in means.items()}, step=0, RMS=0
                )


def _summed(tensor: Any) -> DTensor:
    """A sharded tensor, of which each process may hold a part of the sum, as sums."""
    whole: DTensor = tensor.redistribute(
        placements=[Replicate() if p.is_partial() else p for p in tensor.placements]
    )
    return whole
