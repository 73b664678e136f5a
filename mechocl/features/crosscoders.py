"""Crosscoders: one sparse dictionary of the same hook point in several checkpoints of a model.

A feature has one activation, computed from the activations of all checkpoints together; each checkpoint has
a decoder of its own (Lindsey et al. 2024, "Sparse Crosscoders for Cross-Layer Features and Model Diffing"). So a
crosscoder says which features training has kept, made or removed (`checkpoint_comparison`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.features import dictionaries
from mechocl.features.dictionaries import flat
from mechocl.features.settings import HELD_OUT, TrainingConfig
from mechocl.features.stream import Stream, held_out, weights
from mechocl.models import activations
from mechocl.models.seam import Transformer, device_of
from toy_models.task import Task

ATTRIBUTE: Final = "attribute"
"""Key in a crosscoder's record, and in the key of its rows, of the attribute that was asked for in a closed-book run."""

Which = Literal["stages", "all"]
"""The checkpoints of a crosscoder: the last of each stage, or all that training kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrosscoderConfig:
    """Which crosscoder is trained, and on what."""

    site: str = "blocks.0.hook_resid_post"
    """Hook point, the same in every checkpoint."""
    width: int = 512
    """Number of features."""
    k: int = 16
    """Features that are active on a token, on average."""
    activations: int = 400_000
    """Tokens that it is trained on; each gives an activation of every checkpoint."""
    batch_size: int = 1024
    """Tokens in each step."""
    learning_rate: float = 3e-3
    """Learning rate of Adam, without warm-up; it falls to 0 over the last fifth of the training."""
    held_out: float = HELD_OUT
    """Share of each subset's aliases that it does not see and is judged on."""
    questions: float = 0.7
    """Share of the examples that are questions; the rest are definitions."""
    subsets: tuple[str, ...] = ()
    """Subsets with weights, such as d1_consistent=2; default: all, by their sizes."""
    roles: tuple[str, ...] = ()
    """Roles of the tokens (tag, alias, separator, entity, list, equals); default: all of these."""
    buffer: int = 65_536
    """Tokens whose activations are held and shuffled at a time."""
    seed: int = 0
    """Draws the held-out aliases, the examples and the initial weights."""

    def __post_init__(self) -> None:
        self.training()

    def training(self) -> TrainingConfig:
        """The same choices for a sparse autoencoder, whose config refuses values that make no sense."""
        of_one = {"site": (self.site,), "width": (self.width,), "architecture": "batchtopk"}
        return TrainingConfig(**dataclasses.asdict(self) | of_one)


def train_crosscoder(
    models: Sequence[Transformer],
    task: Task,
    config: CrosscoderConfig,
    *,
    progress: Callable[[float], None] = lambda done: None,
) -> Any:
    """Train a crosscoder of checkpoints, from the first to the last.

    The result is a `sae_lens.SAE` of their activations side by side. It is deterministic for a seed, on one machine.
    Raises MechoclError for fewer than two models, models of different widths, a hook point that they do not have, and a
    mix that the task does not have.
    """
    from mechocl.features.crosscoder_training import fit_crosscoder

    if len(models) < 2:
        raise MechoclError(
            f"a crosscoder compares checkpoints, and there is {len(models)}; give at least two"
        )
    if len(found := {site_width(model, task, config.site) for model in models}) > 1:
        raise MechoclError(
            f"{config.site} has {' and '.join(map(str, sorted(found)))} dimensions; "
            "a crosscoder is of checkpoints of one model"
        )
    training = config.training()
    stream = Stream(
        models,
        task,
        [config.site],
        weight=weights(task, training.mix(), without=held_out(task, config.held_out, seed=config.seed)),
        roles=config.roles,
        batch_size=config.batch_size,
        buffer=config.buffer,
        seed=config.seed,
    )
    return fit_crosscoder(stream, config.site, training, device=str(device_of(models[0])), progress=progress)


def site_width(model: Transformer, task: Task, site: str) -> int:
    """Dimensions of a model's activations at a hook point."""
    return int(flat(activations.collect(model, task.tokens[:1], [site])[site]).shape[-1])


@dataclass(frozen=True, slots=True)
class Crosscoder:
    """A trained crosscoder: an SAE of the checkpoints' activations side by side, taken apart."""

    sae: Any
    """`sae_lens.SAE`."""
    site: str
    """Hook point of all checkpoints."""
    scales: tuple[float, ...]
    """Factors that give each checkpoint's activations a mean norm of √d, from the first to the last checkpoint."""
    record: dict[str, Any]
    """What `mechocl.json` says; {} if the crosscoder was not saved by `save`."""

    @property
    def width(self) -> int:
        return int(self.sae.cfg.d_sae)

    @property
    def decoders(self) -> Float[Tensor, "checkpoint feature d"]:
        """Decoder rows, in the units of each checkpoint's activations."""
        return self._parts(self.sae.W_dec.detach())

    @property
    def biases(self) -> Float[Tensor, "checkpoint d"]:
        """Reconstruction where no feature is active."""
        return self._parts(self.sae.b_dec.detach())

    def _parts(self, x: Tensor) -> Tensor:
        found: Tensor = rearrange(x, "... (part d) -> part ... d", part=len(self.scales))
        return found

    @torch.no_grad()
    def encode(self, parts: Sequence[Float[Tensor, "*batch d"]]) -> Float[Tensor, "*batch feature"]:
        """Activations of all features, from the activations of all checkpoints, in their order."""
        found: Tensor = self.sae.encode(torch.cat(list(parts), dim=-1).to(self.sae.W_enc))
        return found

    @torch.no_grad()
    def reconstruct(self, parts: Sequence[Float[Tensor, "*batch d"]]) -> list[Float[Tensor, "*batch d"]]:
        """The features' reconstruction of each checkpoint's activations, in their own units."""
        found = self._parts(self.sae.decode(self.encode(parts)))
        return [made.to(part) for made, part in zip(found, parts, strict=True)]


def crosscoder_from(sae: Any, record: dict[str, Any]) -> Crosscoder:
    """The crosscoder that an SAE is. Raises MechoclError for an SAE that does not give the number of its checkpoints."""
    said = sae.cfg.metadata
    if not said.scales or sae.cfg.d_in % len(said.scales):
        raise MechoclError(
            f"the SAE of {said.hook_name} is no crosscoder: it does not say which part of its input belongs to which checkpoint"
        )
    return Crosscoder(sae, said.hook_name, tuple(said.scales), record)


def save(
    sae: Any,
    path: Path,
    *,
    config: CrosscoderConfig,
    checkpoints: Sequence[dict[str, Any]],
    attribute: str = "",
    inputs: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write a crosscoder as an SAE folder.

    `checkpoints` gives the stage, the step and the sha256 of the weights of each checkpoint. `attribute` is the attribute
    of a closed-book run whose questions it was trained on; it stands in the record if it was asked for. `inputs` are
    further entries of the record that say what it was trained on.
    """
    if len(checkpoints) != len(sae.cfg.metadata.scales):
        raise MechoclError(
            f"the crosscoder is of {len(sae.cfg.metadata.scales)} checkpoints, and {len(checkpoints)} are named"
        )
    dictionaries.save(sae, path, record_of(config, checkpoints, attribute) | dict(inputs))


def record_of(
    config: CrosscoderConfig, checkpoints: Sequence[dict[str, Any]], attribute: str
) -> dict[str, Any]:
    """What the record of a crosscoder says of its training."""
    record = {
        "kind": "crosscoder",
        "checkpoints": list(checkpoints),
        "held_out": config.held_out,
        "seed": config.seed,
        "config": dataclasses.asdict(config),
    }
    return record | ({ATTRIBUTE: attribute} if attribute else {})


def load(path: Path, *, device: str) -> Crosscoder:
    """Open a crosscoder's folder. Raises MechoclError for a damaged folder, or another kind of SAE."""
    found = dictionaries.load(path, device=device)
    return crosscoder_from(found.sae, found.record)
