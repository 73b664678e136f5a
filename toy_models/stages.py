"""The stages of training: what each trains on and how, and the steps at which it evaluates and keeps weights."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from toy_models.frozen import TRAINS_ALIASES, Trains


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    data: tuple[Literal[1, 2], ...]
    """Stages of the task's data to train on: [1], [2], or [1, 2] (one-stage training, or replay)."""
    epochs: int
    """Number of passes over the stage's examples."""
    batch_size: int = 512
    """Number of examples per step. The last batch of an epoch may be smaller."""
    optimizer: Literal["adamw", "sgd", "adafactor"] = "adamw"
    """The optimiser. AdamW and SGD are those of torch. Adafactor is the one of transformers, without parameter scaling,
    as the Trainer of transformers uses it."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    embedding_rate: float = 1.0
    """Learning rate of the token embeddings as a multiple of the rate of the other parameters. With 1, all parameters
    are treated alike. The larger it is, the more of what is learned goes into the embeddings."""
    momentum: float = 0.9
    """SGD's momentum; AdamW's β₁."""
    beta2: float = 0.999
    """AdamW's β₂."""
    weight_decay: float = 0.0
    """Weight decay. It is decoupled for AdamW and Adafactor, and L2 for SGD."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after warm-up: constant, or falling to 0 at the end."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises linearly from 0."""
    gradient_clip: float = 0.0
    """Largest gradient norm. With 0, gradients are not clipped."""
    trains: Trains = "all"
    """What is trained: every parameter; every one but the token embeddings of the tags, of the aliases' names, or of all
    tokens; all token embeddings and nothing else; or only those of the aliases' names, or of the tags. What is not trained stays as it is to the last bit. If the model's
    embeddings are tied, a row is trained or frozen in both places."""
    stop_at_definition_loss: float = 0.0
    """Definition loss, in nats, at which definitions are learned well enough, and training on them stops. It is the
    cross-entropy of a definition's entity. With 0, all epochs are trained. What does not come so far trains for all epochs."""
    stops: Literal["stage", "alias", "tag_2"] = "stage"
    """What stops at that loss. With `stage`, a model trains no further after the epoch in which the mean over the stage's
    definitions is at or under it. With `alias`, a definition carries no loss, and the embedding of its alias does not
    move, from the epoch on at whose start it is at or under it; and a model all of whose definitions have
    stopped trains no further. With `tag_2`, this is so of definitions with tag 2 alone, and all others train on."""
    tag_embedding: Literal["own", "tag_1", "tag_2", "tag_3", "none"] = "own"
    """What stands in the place of the tags' token embeddings in definitions while the stage trains: each tag's own, that of
    one tag for all, or none, which is 0. What is predicted stays as it is, and so does the finished model."""
    tag_embedding_in: Literal["both", "forward", "backward"] = "both"
    """In which pass it stands there. With `forward`, predictions and their errors are those with it, and the errors are sent
    back through the model as it is without it. With `backward`, it is the reverse."""
    cut_tag: bool = False
    """Whether all later positions of a definition cannot attend to its tag while the stage trains."""
    alias_step: Literal[
        "whole", "onto_questions", "away_from_questions", "onto_random", "away_from_random"
    ] = "whole"
    """Which part of an optimiser's step the embeddings of new aliases take. It is the whole; or its projection onto
    the subspace of the gradients of questions before the stage, or what is left without that projection; or the same with a random
    subspace of as many dimensions (`toy_models.projected_steps`)."""
    alias_step_of: Literal["tag_2", "all_tags"] = "tag_2"
    """Of which new aliases: of those that are defined with tag 2, or of all that are defined."""
    exchange_tags: bool = False
    """Whether the new aliases of tag 1 and of tag 2 have changed places: those of `d1` are defined by tag 2 and belong to
    `d2`, and the reverse. All else is as without it, and so is the order of the examples."""
    evaluations: int = 10
    """Number of evaluations during the stage, evenly spaced, the last at its end."""
    checkpoints: int = 6
    """Number of checkpoints kept during the stage, at logarithmically spaced steps, the last at its end."""

    @property
    def unembedding_rate(self) -> float:
        """Learning rate of an unembedding of its own as a multiple of the rate of the other parameters: the token embeddings alone
        have another one."""
        return 1.0

    def __post_init__(self) -> None:
        if not self.data or len(set(self.data)) != len(self.data):
            raise ValueError(f"data is {list(self.data)}; name stage 1, stage 2 or both, once each")
        for name in ("epochs", "batch_size", "evaluations", "checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("learning_rate", "embedding_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("momentum", "beta2", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.weight_decay < 0 or self.gradient_clip < 0:
            raise ValueError("weight_decay and gradient_clip must not be negative")
        if not (self.stop_at_definition_loss >= 0 and math.isfinite(self.stop_at_definition_loss)):
            raise ValueError(
                f"stop_at_definition_loss is {self.stop_at_definition_loss}; give nats above 0, or 0 for never"
            )
        if self.stops != "stage" and not self.stop_at_definition_loss:
            raise ValueError(f"stops is {self.stops}, but nothing stops; set stop_at_definition_loss above 0")
        if self.tag_embedding_in != "both" and self.tag_embedding == "own":
            raise ValueError(
                f"tag_embedding_in is {self.tag_embedding_in}, but the tags have their own embeddings; set tag_embedding"
            )
        if self.alias_step != "whole" and (2 not in self.data or self.trains not in TRAINS_ALIASES):
            raise ValueError(
                f"alias_step is {self.alias_step}, but the stage trains no embedding of a new alias; leave it to a stage with data 2 that trains them"
            )
        if self.alias_step_of != "tag_2" and self.alias_step == "whole":
            raise ValueError(
                f"alias_step_of is {self.alias_step_of}, but aliases take the whole step; set alias_step"
            )
        if self.exchange_tags and 2 not in self.data:
            raise ValueError(
                "exchange_tags is for new aliases, and the stage has none; leave it to a stage with data 2"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """All stages, in order."""

    stages: tuple[StageConfig, ...]
    """The stages; each starts from the weights that the one before ended with."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision. With bf16, the forward pass runs under autocast; weights and optimiser stay in float32."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("training.stages is empty; give at least one stage")


def schedule(stage: StageConfig, step: int, total: int) -> float:
    """Learning rate at `step` (from 0) as a share of the peak."""
    warmup = round(stage.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if stage.schedule == "linear":
        return 1 - progress
    if stage.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0


def evaluation_steps(total: int, count: int) -> frozenset[int]:
    """`count` evenly spaced steps, the last being `total`. If there are fewer steps, it is all of them."""
    steps = np.linspace(0, total, min(count, total) + 1)
    return frozenset(int(s) for s in steps.round()[1:] if s > 0)


def log_steps(total: int, count: int) -> frozenset[int]:
    """At most `count` logarithmically spaced steps from 1 to `total`. If `count` is 1, it is the last step."""
    if count == 1:
        return frozenset({total})
    every = (
        math.ceil(total * (math.log(total) + 1)) + 1
    )  # so many are no further apart than 1, and give all steps
    return frozenset(int(s) for s in np.geomspace(1, total, min(count, every)).round()) | {total}
