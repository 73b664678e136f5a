"""Hugging Face's Trainer with resume points that hold no pickle."""

import json
import shutil
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
from transformers import Adafactor, Trainer

from mechocl import files
from mechocl.closed_book.batches import IGNORED
from mechocl.errors import MechoclError
from mechocl.runs.padding import by_length
from mechocl.runs.token_rows import find_token_rows

COMPLETE: Final = "complete.json"
"""Name of the file that is written last. A resume point without it is incomplete, and is removed."""

_STATE: Final = "state.safetensors"
_WEIGHTS: Final = "weights.safetensors"
_GATHERED: Final = StateDictOptions(full_state_dict=True, cpu_offload=True)
_GATHERED_PART: Final = StateDictOptions(full_state_dict=True, strict=False)


class RecordingTrainer(Trainer):  # type: ignore[misc]
    """A Trainer that adds up the loss and saves its state without pickles."""

    embedding_rate: float = 1.0
    """Learning rate of the embeddings and the unembedding as a multiple of that of the other weights."""
    _nats: Tensor | None = None
    _tokens: Tensor | int = 0

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        causal = not self.model.config.is_encoder_decoder
        labels = inputs["labels"][..., 1:] if causal else inputs["labels"]
        tokens = (labels != IGNORED).sum().to(self.args.device)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        nats = loss.detach().double() * self._tokens_of_mean(tokens, num_items_in_batch, causal)
        self._nats = nats if self._nats is None else self._nats + nats
        self._tokens = self._tokens + tokens
        return loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        alone = self.args.world_size == 1 and not return_outputs
        # only where the loss is the sum over the tokens divided by a given number, the losses of parts add up
        if num_items_in_batch is None or self.model.config.is_encoder_decoder or not alone:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        parts = [
            super(RecordingTrainer, self).compute_loss(model, part, False, num_items_in_batch)
            for part in by_length(inputs)
        ]
        return torch.stack(parts).sum()

    def _tokens_of_mean(self, own: Tensor, whole: Tensor | None, causal: bool) -> Tensor:
        """What the loss of a part of a batch is to be multiplied by to be the sum over the part's `own` tokens.

        Causal models divide by the tokens of the `whole` batch, where the Trainer counts them, and sequence-to-sequence
        models by those of the part. The Trainer multiplies by the number of processes if it counts, and otherwise divides
        by the number of parts.
        """
        if whole is None:
            parts: int = self.current_gradient_accumulation_steps
            return own * parts
        divided_by = whole if causal else own
        processes: int = self.args.world_size if self.args.average_tokens_across_devices else 1
        return divided_by / processes

    def mean_loss(self) -> float:
        """Mean loss per token, in nats, since the last call, the same in all processes; NaN if nothing was trained on."""
        if self._nats is None:
            return float("nan")
        both = torch.stack([self._nats, torch.as_tensor(self._tokens, device=self._nats.device).double()])
        if self.args.world_size > 1:
            torch.distributed.all_reduce(both)
        self._nats, self._tokens = None, 0
        return float(both[0] / both[1])

    def weights(self) -> dict[str, Tensor]:
        """All weights by name, gathered if they are sharded. All processes must call it."""
        read = self.accelerator.get_state_dict if self.is_fsdp_enabled else type(self.model).state_dict
        found: dict[str, Tensor] = read(self.model)
        return found

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir)
        here = folder / f"checkpoint-{self.state.global_step}"
        if self.args.world_size > 1:
            torch.distributed.barrier()
        if self.is_world_process_zero():
            (here / "training_args.bin").unlink(missing_ok=True)
            extra = {"nats": None if self._nats is None else float(self._nats), "tokens": int(self._tokens)}
            parts = {path.name: files.sha256(path) for path in sorted(here.iterdir())}
            files.write_json(here / COMPLETE, extra | {"sha256": parts})
            for other in folder.glob("checkpoint-*"):
                if other != here:
                    shutil.rmtree(other, ignore_errors=True)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.is_world_process_zero():
            (Path(output_dir or self.args.output_dir) / "training_args.bin").unlink(missing_ok=True)

    # ------------------------------------------------------------------------- state without pickles

    # The Trainer's own resume points hold what save_pretrained writes. It reads them without the names that
    # save_pretrained changes: for a GPT-NeoX (transformers 5), it would not read the unembedding.

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
        """Names of the weights that are trained; for tied weights only the first name."""
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
        record = files.read_json(Path(checkpoint) / COMPLETE)
        if record.get("nats") is not None:
            self._nats = torch.tensor(record["nats"], dtype=torch.float64, device=self.args.device)
            self._tokens = record["tokens"]
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
        if self.embedding_rate != 1:
            _set_apart(optimizer, _embeddings_of(self.model), self.embedding_rate)
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


def _embeddings_of(model: Any) -> set[int]:
    """What identifies the weights of the embedding and the unembedding, which may be one."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    return {id(find_token_rows(model).weight), *(id(one.weight) for one in ends if one is not None)}


def _set_apart(optimizer: Any, weights: set[int], share: float) -> None:
    """Give these weights groups of their own, with a multiple of the learning rate."""
    held = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    if not held & weights:
        raise MechoclError(
            "embedding_rate has nothing to act on, since the embeddings are part of a larger tensor or not trained; leave embedding_rate out"
        )
    for group in list(optimizer.param_groups):
        apart = [weight for weight in group["params"] if id(weight) in weights]
        if apart:
            group["params"] = [weight for weight in group["params"] if id(weight) not in weights]
            optimizer.add_param_group({**group, "params": apart, "lr": share * group["lr"]})


def check_complete(here: Path) -> None:
    """Raise MechoclError when a file of a resume point is missing or altered."""
    remedy = f"delete {here.parent} and run the same command again: what it holds is trained again"
    record = files.read_json(here / COMPLETE, remedy=remedy)
    for name, recorded in record.get("sha256", {}).items():
        if not (here / name).is_file() or files.sha256(here / name) != recorded:
            raise MechoclError(f"{here / name} is missing or does not match its checksum; {remedy}")


def _plain(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """A nested state as plain values. Its tensors are put into `tensors`, and their names stand in their places."""
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
    """Begin Adafactor's state of sharded weights with sharded zeros. Transformers would begin it with whole tensors."""
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
    """A sharded tensor with complete sums. In the given tensor, each process may hold only a part of a sum."""
    whole: DTensor = tensor.redistribute(
        placements=[Replicate() if p.is_partial() else p for p in tensor.placements]
    )
    return whole
