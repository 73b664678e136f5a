"""What the user chooses for dictionaries: their training, search and test."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.features.stream import Mix

Architecture = Literal["topk", "batchtopk", "jumprelu", "matryoshka", "transcoder"]


HELD_OUT: Final = 0.34
"""Share of the aliases that a dictionary does not see. If it does not say which, a search keeps as many from its choice."""

MOST_DICTIONARIES: Final = 1000
"""Largest number of dictionaries that are trained in one pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Which dictionaries are trained, and on what."""

    site: tuple[str, ...] = ("blocks.0.hook_resid_pre",)
    """Hook points, each with dictionaries of its own; for a transcoder the MLPs' outputs (blocks.0.hook_mlp_out)."""
    width: tuple[int, ...] = (1024,)
    """Number of features; each of several widths has a dictionary of its own."""
    k: int = 16
    """Features that are active on a token: exactly (topk) or on average (all other architectures)."""
    architecture: Architecture = "topk"
    """topk, batchtopk, jumprelu and matryoshka are SAELens's; transcoder is batchtopk from an MLP's input to its output."""
    sae_seeds: int = 1
    """Dictionaries of each kind from different initial weights, which show how stable they are."""
    activations: int = 400_000
    """Activations (tokens) that each dictionary is trained on."""
    batch_size: int = 1024
    """Activations in each step."""
    learning_rate: float = 3e-3
    """Learning rate of Adam, without warm-up; it falls to 0 over the last fifth of the training."""
    held_out: float = HELD_OUT
    """Share of each subset's aliases that no dictionary sees; quality, search and test are judged on them."""
    questions: float = 0.7
    """Share of the examples that are questions; the rest are definitions."""
    subsets: tuple[str, ...] = ()
    """Subsets with weights, such as d1_consistent=2; default: all, by their sizes."""
    roles: tuple[str, ...] = ()
    """Roles of the tokens (tag, alias, separator, entity, list, equals); default: all of these."""
    buffer: int = 65_536
    """Activations that are held and shuffled at a time."""
    seed: int = 0
    """Draws the held-out aliases, the examples, and the first initial weights."""
    wandb: str = ""
    """Project on Weights & Biases that the training is logged to; default: it is not logged."""

    def __post_init__(self) -> None:
        settle(self)
        for name in ("k", "sae_seeds", "activations", "batch_size", "buffer"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")
        if not self.site:
            raise MechoclError("site is empty; name a hook point, such as blocks.0.hook_resid_post")
        if not self.width or min(self.width) <= self.k:
            raise MechoclError(
                f"width {min(self.width, default=0)} has no more features than k = {self.k}; use more"
            )
        if (count := len(self.site) * len(self.width) * self.sae_seeds) > MOST_DICTIONARIES:
            raise MechoclError(
                f"site, width and sae_seeds are {count} dictionaries; train at most {MOST_DICTIONARIES} at a time"
            )
        if not self.learning_rate > 0:
            raise MechoclError(f"learning_rate is {self.learning_rate}; it must be positive")
        if self.architecture not in get_args(Architecture):
            raise MechoclError(
                f"no architecture {self.architecture!r}; use {', '.join(get_args(Architecture))}"
            )
        if not 0 < self.held_out < 1:
            raise MechoclError(f"held_out is {self.held_out}; it is a share between 0 and 1")
        if self.activations < self.batch_size:
            raise MechoclError(
                f"activations is {self.activations}; use at least one batch, {self.batch_size}"
            )
        self.mix()

    def mix(self) -> Mix:
        """Which texts the activations come from."""
        return Mix(questions=self.questions, subsets=self.subsets, roles=self.roles)

    def names(self, *, stage: int | None = None) -> dict[str, tuple[str, int, int]]:
        """Name of each dictionary → its site, its width, and its number among dictionaries of the same site and width.

        `stage` is the stage after which the model was saved, if it is not the last one.
        """
        when = "" if stage is None else f"-stage{stage}"
        return {
            f"{site}-{self.architecture}-{width}-k{self.k}{when}-s{number}": (site, width, number)
            for site in self.site
            for width in self.width
            for number in range(self.sae_seeds)
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityConfig:
    """Which dictionary is judged."""

    sae: str
    """Name of an SAE of the run, or an SAE folder in SAELens's format."""
    site: str = ""
    """Hook point of an SAE that does not name its own."""
    others: tuple[str, ...] = ()
    """SAEs of the same kind from other initial weights, which show how stable it is."""
    transfer: bool = False
    """Use an SAE also on weights that it was not trained on."""

    def __post_init__(self) -> None:
        settle(self)
