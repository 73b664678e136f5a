"""Training dictionaries with SAELens, on a stream of a run's own activations.

SAELens has transcoders for inference only; `TranscoderTraining` is one that can be trained. In training, activations
are scaled to a mean norm of √d, as in SAELens. Afterwards the scale is folded into the weights, with decoder rows of
norm 1, so that a feature's activation is in the units of the site.
"""

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Final

import torch
from sae_lens import (
    SAE,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    LoggingConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    SAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
    TrainingSAE,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes import JumpReLUTranscoderConfig
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.training import multi_sae_trainer
from torch import Tensor
from typing_extensions import override

from mechocl.errors import MechoclError, describe_error
from mechocl.features.settings import TrainingConfig
from mechocl.features.stream import Stream, held_out, weights
from mechocl.features.training_limits import refuse_diverged, require_dictionary_memory
from mechocl.models.seam import Transformer, device_of
from toy_models.randomness import generator
from toy_models.task import Task

SCALE_BATCHES: Final = 8
"""Number of batches that the scale of a site is estimated from."""


def train(
    model: Transformer,
    task: Task,
    config: TrainingConfig,
    *,
    stage: int | None = None,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Train all dictionaries of a config in one pass over the model's activations: name → `sae_lens.SAE`.

    `stage` is for the names: the stage after which the model was saved, if it is not the last one. The result is
    deterministic for a seed, on one machine. Raises MechoclError for a hook point that the model does not have, and for
    a mix that the task does not have.
    """
    stream = Stream(
        [model],
        task,
        list(dict.fromkeys(chain.from_iterable(ends(model, site, config).values() for site in config.site))),
        weight=weights(task, config.mix(), without=held_out(task, config.held_out, seed=config.seed)),
        roles=config.roles,
        batch_size=config.batch_size,
        buffer=config.buffer,
        seed=config.seed,
    )
    wanted = {
        name: Wanted(read=end["read"], write=end["write"], width=width, number=number)
        for name, (site, width, number) in config.names(stage=stage).items()
        for end in [ends(model, site, config)]
    }
    return fit(stream, wanted, config, device=str(device_of(model)), progress=progress)


def ends(model: Transformer, site: str, config: TrainingConfig) -> dict[str, str]:
    """The hook points that a dictionary reads and writes. Raises MechoclError for one that the model does not have."""
    if site not in model.hook_dict:
        near = [name for name in model.hook_dict if name.split(".")[-1] == site.split(".")[-1]]
        raise MechoclError(
            f"the model has no hook point {site!r}; it has, for example, {', '.join(near[:3] or list(model.hook_dict)[:3])}"
        )
    if config.architecture != "transcoder":
        return {"read": site, "write": site}
    block, _, name = site.rpartition(".")
    if name != "hook_mlp_out":
        raise MechoclError(
            f"a transcoder stands for an MLP: name its output, blocks.0.hook_mlp_out, not {site}"
        )
    inputs = [f"{block}.ln2.hook_normalized", f"{block}.hook_resid_mid"]
    return {"read": next(name for name in inputs if name in model.hook_dict), "write": site}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One dictionary to be trained."""

    read: str
    write: str
    width: int
    number: int
    """Number among the dictionaries that differ only in their initial weights."""


def fit(
    stream: Iterator[dict[str, Tensor]],
    wanted: dict[str, Wanted],
    config: TrainingConfig,
    *,
    device: str = "cpu",
    progress: Callable[[float], None] = lambda done: None,
    make: Callable[..., "TrainingSAE[Any]"] | None = None,
) -> dict[str, Any]:
    """Train dictionaries on batches of activations, each a hook point → (batch, d).

    `make` is given if the SAEs are not of `config`'s kind. It makes an SAE with initial weights from a `Wanted`, the
    config and the widths of the hook points.
    """
    first = list(islice(stream, SCALE_BATCHES))
    scale = scales(first)
    widths = {site: x.shape[-1] for site, x in first[0].items()}
    require_dictionary_memory(
        config, [(one.width, widths[one.read] + widths[one.write]) for one in wanted.values()]
    )
    saes = {name: (make or _untrained)(one, config, widths).to(device) for name, one in wanted.items()}
    keys = {name: f"{one.read}>{one.write}" for name, one in wanted.items()}
    steps = config.activations // config.batch_size
    trainer = multi_sae_trainer.MultiSAETrainer(
        cfg=_trainer_config(config, steps, device),
        saes=saes,
        hook_names=keys,
        data_provider=_batches(chain(first, stream), wanted, scale, lambda step: progress(step / steps)),
    )
    with _quiet(), _told(config):
        trainer.fit()
    found = {
        name: _folded(
            sae, wanted=wanted[name], read=scale[wanted[name].read], write=scale[wanted[name].write]
        )
        for name, sae in saes.items()
    }
    for name, sae in found.items():
        x, y = (first[0][site] for site in (wanted[name].read, wanted[name].write))
        refuse_diverged(sae, x, y, name=name, learning_rate=config.learning_rate)
    return found


def scales(batches: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """Factors that give activations a mean norm of √d. Raises MechoclError when there is nothing to scale."""
    found = {
        site: math.sqrt(batches[0][site].shape[-1])
        / max(float(torch.cat([b[site] for b in batches]).norm(dim=-1).mean()), 1e-30)
        for site in batches[0]
    }
    if bad := [site for site, value in found.items() if not 0 < value < 1e30]:
        raise MechoclError(
            f"the activations at {bad[0]} are all 0, or not finite; there is nothing to learn from"
        )
    return found


def _trainer_config(config: TrainingConfig, steps: int, device: str) -> SAETrainerConfig:
    return SAETrainerConfig(
        total_training_samples=steps * config.batch_size,
        train_batch_size_samples=config.batch_size,
        lr=config.learning_rate,
        lr_end=config.learning_rate / 10,
        lr_decay_steps=steps // 5,
        device=device,
        dead_feature_window=max(20, steps // 10),
        feature_sampling_window=max(20, steps // 4),
        logger=LoggingConfig(log_to_wandb=bool(config.wandb), wandb_project=config.wandb),
    )


def _batches(
    stream: Iterator[dict[str, Tensor]],
    wanted: dict[str, Wanted],
    scale: dict[str, float],
    progress: Callable[[int], None],
) -> Iterator[dict[str, Tensor]]:
    """Scaled activations under the keys of the trainer; a transcoder's input and output stand side by side."""
    pairs = {(one.read, one.write) for one in wanted.values()}
    for step, batch in enumerate(stream):
        if step % 20 == 0:
            progress(step)
        at = {site: x * scale[site] for site, x in batch.items()}
        yield {
            f"{read}>{write}": at[read] if read == write else torch.cat([at[read], at[write]], dim=-1)
            for read, write in pairs
        }


def _untrained(wanted: Wanted, config: TrainingConfig, widths: dict[str, int]) -> "TrainingSAE[Any]":
    """A SAELens training SAE with initial weights of its own."""
    common: dict[str, Any] = {"d_in": widths[wanted.read], "d_sae": wanted.width}
    if config.architecture != "jumprelu":
        common["k"] = config.k if config.architecture == "topk" else float(config.k)
    if config.architecture not in ("topk", "jumprelu"):  # the mean of so many steps, in a short training too
        common["topk_threshold_lr"] = max(0.01, 20 * config.batch_size / config.activations)
    match config.architecture:
        case "topk":
            kind, cfg = TopKTrainingSAE, TopKTrainingSAEConfig(**common)
        case "batchtopk":
            kind, cfg = BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig(**common)
        case "jumprelu":
            sparsity = {"jumprelu_sparsity_loss_mode": "quadratic", "target_l0": config.k}
            kind, cfg = JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig(**common, **sparsity)
        case "matryoshka":
            levels = [wanted.width // 2**i for i in (3, 2, 1, 0) if wanted.width // 2**i > config.k]
            kind = MatryoshkaBatchTopKTrainingSAE
            cfg = MatryoshkaBatchTopKTrainingSAEConfig(**common, matryoshka_widths=levels)
        case "transcoder":
            kind, cfg = TranscoderTraining, TranscoderTrainingConfig(**common, d_out=widths[wanted.write])
    return seeded(partial(kind, cfg), config.seed, wanted)


def seeded(make: Callable[[], "TrainingSAE[Any]"], seed: int, wanted: Wanted) -> "TrainingSAE[Any]":
    """An SAE whose initial weights depend only on the seed and on its own settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(
            generator(seed, "sae", wanted.read, wanted.write, wanted.width, wanted.number).initial_seed()
        )
        sae = make()
    sae.cfg.metadata.hook_name = wanted.read
    if wanted.write != wanted.read:
        sae.cfg.metadata.hook_name_out = wanted.write
    return sae


def _folded(sae: "TrainingSAE[Any]", *, wanted: Wanted, read: float, write: float) -> Any:
    """The trained SAE as SAELens's inference SAE, with decoder rows of norm 1, without the scale of its training.

    In training x' = read · x, y' = write · y and f' = write · f, so W_enc is multiplied by read / write, and biases are
    divided by write.
    """
    weights = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    sae.process_state_dict_for_saving_inference(weights)
    cfg = sae.cfg.get_inference_sae_cfg_dict() | {"device": str(sae.device)}
    # as from a folder of SAELens, but without one: a disk may be full
    found = SAE.load_from_disk("", converter=lambda *_, **__: (json.loads(json.dumps(cfg)), weights))
    if not isinstance(sae, TopKTrainingSAE):  # decoders of a TopK SAE have norm 1 already
        found.fold_W_dec_norm()
    with torch.no_grad():
        found.W_enc.mul_(read / write)
        for name in ("b_enc", "b_dec", "threshold"):
            if isinstance(getattr(found, name, None), Tensor):
                getattr(found, name).div_(write)
    found.cfg.metadata.k = getattr(sae.cfg, "k", None)
    return found.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without a progress bar of the trainer, because the whole command has one."""
    before = multi_sae_trainer.tqdm
    multi_sae_trainer.tqdm = partial(before, disable=True)
    try:
        yield
    finally:
        multi_sae_trainer.tqdm = before


@contextlib.contextmanager
def _told(config: TrainingConfig) -> Iterator[None]:
    """With logging to Weights & Biases, if the user has asked for it."""
    if not config.wandb:
        yield
        return
    import wandb

    try:
        told = wandb.init(project=config.wandb, config=dataclasses.asdict(config))
    except wandb.errors.Error as error:
        raise MechoclError(
            f"--wandb {config.wandb}: {describe_error(error)}; log in with `wandb login`, or leave it out"
        ) from error
    with told:
        yield


@dataclass
class TranscoderTrainingConfig(BatchTopKTrainingSAEConfig):
    """A BatchTopK transcoder in training; it is saved as SAELens's JumpReLU transcoder."""

    d_out: int = 0
    apply_b_dec_to_input: bool = False

    @override
    @classmethod
    def architecture(cls) -> str:
        return "batchtopk_transcoder"

    @override
    def get_inference_config_class(self) -> type[SAEConfig]:
        inference: type[SAEConfig] = JumpReLUTranscoderConfig
        return inference


class TranscoderTraining(BatchTopKTrainingSAE):
    """A transcoder (Dunefsky et al. 2024, arXiv 2406.11944) that learns from (input, output) side by side."""

    cfg: TranscoderTrainingConfig

    @override
    def initialize_weights(self) -> None:
        super().initialize_weights()
        decoder = torch.randn(self.cfg.d_sae, self.cfg.d_out)
        norm = self.cfg.decoder_init_norm or 1.0
        self.W_dec = torch.nn.Parameter(norm * decoder / decoder.norm(dim=-1, keepdim=True))
        self.b_dec = torch.nn.Parameter(torch.zeros(self.cfg.d_out))

    @override
    def process_sae_in(self, sae_in: Tensor) -> Tensor:
        return sae_in.to(self.dtype)

    @override
    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        x, y = step_input.sae_in.split([self.cfg.d_in, self.cfg.d_out], dim=-1)
        acts, hidden_pre = self.encode_with_hidden_pre(x)
        out = self.decode(acts)
        losses = {"mse_loss": self.mse_loss_fn(out, y).sum(dim=-1).mean()}
        losses |= self.calculate_aux_loss(dataclasses.replace(step_input, sae_in=y), acts, hidden_pre, out)
        self.update_topk_threshold(acts)
        total = torch.stack(list(losses.values())).sum()
        return TrainStepOutput(y, out, acts, hidden_pre, total, losses)
