"""A closed-book recipe, and its stages of fine-tuning."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.models import hub

Kind = Literal["definition", "question"]

Trains = Literal["all", "all_but_tag_embeddings", "embeddings"]
"""What a stage trains."""


ADDED_TOKEN_STD: Final = 0.02
"""Standard deviation of added embeddings, by default. It is that of the weights of an untrained GPT-NeoX."""

NARROW: Final = 256
"""Width of the residual stream below which one thread computes a model as fast as several do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneStage:
    """One stage of fine-tuning: which examples it trains on, and how."""

    data: tuple[Literal[1, 2], ...]
    """Stages of the task's data to train on: [1], [2], or [1, 2] (one-stage training)."""
    kinds: tuple[Kind, ...] = ("definition", "question")
    """Kinds of example to train on: definitions, questions, or both."""
    part: tuple[int, int] = (1, 1)
    """Which part of the aliases of stage 2 to train on: [2, 6] is the second of six parts, [1, 1] is all of them. Each part has as many aliases of each
    subset (to one), so that new aliases can be defined in stages one after another. Data of stage 1 are not divided."""
    epochs: int
    """Number of passes over the stage's examples."""
    stop_at_definition_loss: float = 0.0
    """If above 0, the stage ends after the first epoch at whose end the mean definition loss of its definitions is this or
    lower (nats; minus the log-probability of the entity's tokens, summed over them), so that runs can be compared at
    definitions that are known equally well. `epochs` is then the most that it trains, and the learning rate follows them. With
    0 it never ends earlier."""
    batch_size: int = 256
    """Number of examples of one update, over all devices."""
    accumulation: int = 1
    """Number of parts of a batch that are computed one after another, for models that fill the memory."""
    optimizer: Literal["adafactor", "adamw"] = "adafactor"
    """The optimiser. Adafactor is the one of transformers, without parameter scaling, as the Trainer of transformers and
    therefore the paper use it."""
    learning_rate: float = 5e-5
    """Peak learning rate. The paper's published configurations do not name one; this is the default of transformers'
    Trainer."""
    embedding_rate: float = 1.0
    """Learning rate of the token embeddings, and of the unembedding, as a multiple of the rate of the other weights."""
    embedding_rows: Literal["all", "in_batch"] = "all"
    """Which rows of the token embeddings an update moves: all, as an ordinary optimiser does, or those of tokens in the batch. With
    `in_batch` the others are put back after each update (`mechocl.runs.batch_rows`)."""
    replay: float = 0.0
    """Texts of the corpus that the model was pretrained on, as a multiple of the stage's examples, which are mixed with them. Each epoch draws its own. Only an invented world
    has such a corpus; in a world of facts, true sentences and questions about its entities are replayed."""
    weight_decay: float = 0.0
    """Decoupled."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """Course of the learning rate after warm-up: constant, or falling to 0 at the end."""
    warmup: float = 0.0
    """Share of the steps in which the learning rate rises linearly from 0."""
    gradient_clip: float = 1.0
    """Largest gradient norm. With 0, gradients are not clipped."""
    trains: Trains = "all"
    """What is trained: every weight; every weight but the token embeddings of the define tags; or all token embeddings and
    nothing else. What is not trained stays as it is to the last bit. A token of a tag is frozen wherever it stands, also
    in an alias. If the model's embeddings are tied, a row is trained or frozen in both places."""
    evaluations: int = 4
    """Number of evaluations during the stage, evenly spaced, the last at its end."""
    evaluates_first: bool = True
    """Whether there is one evaluation more, before the first step. Of a large model each takes its time."""
    checkpoints: int = 1
    """Number of models kept during the stage, at logarithmically spaced steps, the last at its end."""

    @property
    def unembedding_rate(self) -> float:
        """Learning rate of an unembedding of its own as a multiple of the rate of the other weights: that of the embeddings."""
        return self.embedding_rate

    def __post_init__(self) -> None:
        if not self.data or len(set(self.data)) != len(self.data):
            raise ValueError(f"data is {list(self.data)}; name stage 1, stage 2 or both, once each")
        if not self.kinds or len(set(self.kinds)) != len(self.kinds):
            raise ValueError(f"kinds is {list(self.kinds)}; name definition, question or both, once each")
        if not 1 <= self.part[0] <= self.part[1]:
            raise ValueError(
                f"part is {list(self.part)}; give a number and how many parts there are, such as [2, 6]"
            )
        if self.part[1] > 1 and (2 not in self.data or "definition" not in self.kinds):
            raise ValueError(
                f"part is {list(self.part)}, of new aliases, and the stage trains on no definitions of them; leave part out"
            )
        for name in ("epochs", "batch_size", "accumulation", "evaluations", "checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into {self.accumulation} equal parts"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not (self.embedding_rate > 0 and math.isfinite(self.embedding_rate)):
            raise ValueError(f"embedding_rate is {self.embedding_rate}; it must be above 0")
        if not (self.replay >= 0 and math.isfinite(self.replay)):
            raise ValueError(f"replay is {self.replay}; it must be at least 0 (0: nothing is replayed)")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}; it must be at least 0 and below 1")
        if self.weight_decay < 0 or self.gradient_clip < 0:
            raise ValueError("weight_decay and gradient_clip must not be negative")
        if self.stop_at_definition_loss < 0:
            raise ValueError(
                f"stop_at_definition_loss is {self.stop_at_definition_loss:g}; it must be at least 0 (0: never stop)"
            )
        if self.stop_at_definition_loss and "definition" not in self.kinds:
            raise ValueError("the stage trains on no definitions; leave out stop_at_definition_loss")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters in place of full fine-tuning (Hu et al., arXiv 2106.09685), merged when a stage ends. Beside them only the
    embeddings of added tokens are trained (`ClosedBookConfig.added_tokens`); an unembedding that is not tied to them stays as it is."""

    rank: int = 16
    """Rank of each adapter."""
    alpha: float = 32.0
    """Scale: adapters are multiplied by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the linear layers that get an adapter. If empty, all linear layers but the unembedding get one."""

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.alpha > 0:
            raise ValueError(f"rank is {self.rank} and alpha {self.alpha:g}; both must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuningConfig:
    """All stages of a fine-tuning, in order, and how the model is trained."""

    stages: tuple[FinetuneStage, ...]
    """The stages; each starts from the weights that the one before ended with."""
    kind: Literal["causal", "seq2seq"] = "causal"
    """Kind of model. A causal model gets loss on every token of an example. A sequence-to-sequence model (T5) reads the
    question, or the definition up to its last part, and gets loss on the rest."""
    precision: Literal["float32", "bf16"] = "float32"
    """Precision. With bf16, forward passes run under autocast; weights and optimiser stay in float32."""
    attention: Literal["default", "eager"] = "default"
    """How attention is computed: as transformers chooses, or step by step (`eager`). For texts as short as questions a processor is
    faster with the latter."""
    gradient_checkpointing: bool = False
    """Whether activations are computed again in the backward pass. It takes less memory and about a third more time."""
    added_token_std: float = ADDED_TOKEN_STD
    """Standard deviation of the embeddings of added tokens (`ClosedBookConfig.added_tokens`), before the first stage."""
    lora: LoraConfig | None = None
    """Adapters that are trained instead of all weights. If missing, all weights are trained."""

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("training.stages is empty; give at least one stage")
        if not (self.added_token_std >= 0 and math.isfinite(self.added_token_std)):
            raise ValueError(f"added_token_std is {self.added_token_std}; it must be at least 0")
        frozen = next((stage.trains for stage in self.stages if stage.trains != "all"), None)
        if self.lora is not None and frozen:
            raise ValueError(f"trains is {frozen}, and adapters train no embeddings; leave out training.lora")
        if self.kind == "seq2seq" and any(stage.replay for stage in self.stages):
            raise ValueError(
                "replay is for causal models, since texts have no part that a sequence-to-sequence model would write; leave replay out"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBookRecipe:
    """A closed-book experiment."""

    description: str
    """One line for listings and reports."""
    model: str
    """Name on the hub, or folder of a Hugging Face model."""
    task: ClosedBookConfig
    """The world."""
    training: FinetuningConfig
    """The stages."""

    def __post_init__(self) -> None:
        lora, added = self.training.lora is not None, self.task.added_tokens
        if lora and added and self.training.kind == "seq2seq":
            raise ValueError(
                "added_tokens is true, and beside adapters only a causal model trains added tokens; leave out training.lora"
            )
        for name, plain in (("embedding_rate", 1.0), ("embedding_rows", "all")):
            other = next((v for stage in self.training.stages if (v := getattr(stage, name)) != plain), None)
            if lora and not added and other is not None:
                raise ValueError(
                    f"{name} is {other}, and adapters train no embeddings but those of added tokens; leave out training.lora, or set task.added_tokens"
                )
        if self.training.added_token_std != ADDED_TOKEN_STD and not self.task.added_tokens:
            raise ValueError(
                f"training.added_token_std is {self.training.added_token_std:g}, and no tokens are added; set task.added_tokens"
            )

    @property
    def small(self) -> bool:
        """Whether the model is so small that one thread computes it as fast as several do. A model that does not lie in a folder is
        taken for a large one."""
        folder = Path(self.model).expanduser()
        return folder.is_dir() and 0 < hub.read_config(folder).width < NARROW

    @property
    def stackable(self) -> bool:
        """Whether several seeds can train together."""
        return False
