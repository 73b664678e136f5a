"""What the user chooses for dictionaries: their training, search and test."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from mechocl.errors import MechoclError
from mechocl.features.stream import Mix

Architecture = Literal["topk", "batchtopk", "jumprelu", "matryoshka", "transcoder"]


HELD_OUT: Final = 0.34
"""Share of the aliases that a dictionary is kept from, and a search from its choice where the dictionary does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Which dictionaries are trained, and on what."""

    site: tuple[str, ...] = ("blocks.0.hook_resid_pre",)
    """Hook points, each with dictionaries of its own; for a transcoder the MLPs' outputs (blocks.0.hook_mlp_out)."""
    width: tuple[int, ...] = (1024,)
    """Features; of several widths each has a dictionary."""
    k: int = 16
    """Features that are active on a token: exactly (topk) or on average (the others)."""
    architecture: Architecture = "topk"
    """topk, batchtopk, jumprelu, matryoshka: SAELens's; transcoder: from an MLP's input to its output, batchtopk."""
    sae_seeds: int = 1
    """Dictionaries of each kind from other initial weights: how stable they are."""
    activations: int = 400_000
    """Activations (tokens) that each is trained on."""
    batch_size: int = 1024
    """Activations of a step."""
    learning_rate: float = 3e-3
    """Adam's, without warm-up; it falls to 0 over the last fifth."""
    held_out: float = HELD_OUT
    """Share of each subset's aliases that no dictionary sees: what is judged, searched and tested is judged on them."""
    questions: float = 0.7
    """Share of the examples that are questions; the others are definitions."""
    subsets: tuple[str, ...] = ()
    """Subsets with weights, as d1_consistent=2; default: all, by their sizes."""
    roles: tuple[str, ...] = ()
    """Roles of the tokens (tag, alias, separator, entity, list, equals); default: all of these."""
    buffer: int = 65_536
    """Activations that are held and shuffled at a time."""
    seed: int = 0
    """Draws the held-out aliases, the examples, and the first initial weights."""
    wandb: str = ""
    """Project on Weights & Biases that is told of the training; default: nobody is."""

    def __post_init__(self) -> None:
        for name in ("k", "sae_seeds", "activations", "batch_size", "buffer"):
            if getattr(self, name) < 1:
                raise MechoclError(f"{name} is {getattr(self, name)}; use at least 1")
        if not self.site:
            raise MechoclError("no site; name a hook point, such as blocks.0.hook_resid_post")
        if not self.width or min(self.width) <= self.k:
            raise MechoclError(
                f"width {min(self.width, default=0)} has no more features than k = {self.k}; use more"
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
            raise MechoclError(f"activations is {self.activations}, less than one batch of {self.batch_size}")
        self.mix()

    def mix(self) -> Mix:
        """Which texts the activations are of."""
        return Mix(questions=self.questions, subsets=self.subsets, roles=self.roles)

    def names(self, *, stage: int | None = None) -> dict[str, tuple[str, int, int]]:
        """Name of each dictionary → its site, width and number among those that differ in nothing else.

        `stage`: after which the model is, where that is not the last one.
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
    """Name of an SAE of the run, or an SAE folder of SAELens's."""
    site: str = ""
    """Hook point of an SAE that does not name its own."""
    others: tuple[str, ...] = ()
    """SAEs of the same kind from other initial weights, for its stability."""
