"""Every setting of a closed-book experiment's data."""

from dataclasses import dataclass, field
from typing import Literal

from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.definitions import Style
from mechocl.closed_book.miniature import MiniatureConfig
from toy_models.subsets import Fractions, Unreliable
from toy_models.task import WordOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperFractions(Fractions):
    """Shares of the entities in each subset; the defaults are the paper's, with the fresh tag."""

    qd1: float = 0.25
    """Defined by tag 1 and asked about in stage 1."""
    qd2: float = 0.25
    """Defined by tag 2 in stage 1, and asked about in stage 1 unless `unreliable` is "noise" or "unasked"."""
    q_only: float = 0.1
    """Asked about in stage 1, never defined."""
    q_entity: float = 0.1
    """Asked about in stage 1 by the entity itself, never replaced by an alias."""
    d1: float = 0.08
    """Defined by tag 1 in stage 2, never asked about in training."""
    d2: float = 0.08
    """Defined by tag 2 in stage 2, never asked about in training."""
    d3: float = 0.08
    """Defined by tag 3 (first seen in stage 2), never asked about in training."""
    no_data: float = 0.06
    """Never in the training data; they are the baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedBookConfig:
    """A text world, and which of its entities get an alias, a definition and questions (arXiv 2310.15047, section 3)."""

    world: Literal["cvdb", "trex", "facts", "biographies", "miniature"]
    """The world that has the entities and the questions."""
    file: str = ""
    """Path of the database: CVDB's CSV, T-REx's JSON file or folder, or the file that `mechocl data facts` wrote; "" for an invented
    world, which is drawn. `{model}` in it stands for the last part of the model's name."""
    entities: int = 4000
    """Number of entities of the experiment, over all subsets."""
    fractions: PaperFractions = field(default_factory=PaperFractions)
    """Share of the entities in each subset."""
    tag_reliability: float = 1.0
    """The paper's α, 0.5 … 1: share of stage-1 definitions whose tag tells the truth about their consistency."""
    unreliable: Unreliable = "inconsistent"
    """What stage-1 definitions with tag 2 are: inconsistent with the questions (the experiment), or one of the controls.
    noise: about aliases never asked about, with the entity of another one of them, at random, in each epoch; unasked:
    about aliases never asked about, but fixed; consistent: like those with tag 1, so that the tags differ in nothing."""
    definitions: Style = "tags"
    """What distinguishes reliable definitions from others."""
    word_order: WordOrder = "TVE"
    """Order of the parts of a definition by tags."""
    alias_letters: int = 5
    """Number of letters of an alias, as in `<|xqzjv|>`."""
    tag_letters: int = 6
    """Number of letters of a define tag."""
    added_tokens: bool = False
    """Whether each alias and each define tag is one token, which is added to the tokenizer, as is each word of the definitions that it does not know.
    If not, aliases and tags are what the tokenizer makes of them."""
    test_share: float = 1 / 6
    """Share of the questions about an entity that are held out if the other ones are trained on. At least one question is
    held out, and never all. The default suits CVDB's six questions; use a quarter for T-REx."""
    biographies: BiographiesConfig = field(default_factory=BiographiesConfig)
    """The invented world `biographies`. It must be the one that the model was pretrained on."""
    miniature: MiniatureConfig = field(default_factory=MiniatureConfig)
    """The invented world `miniature`. It must be the one that the model was pretrained on."""
    biographies_seed: int = 0
    """The seed with which the invented world was drawn."""

    def __post_init__(self) -> None:
        for name in ("entities", "alias_letters", "tag_letters"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 0.5 <= self.tag_reliability <= 1:
            raise ValueError(f"tag_reliability is {self.tag_reliability}; use 0.5 to 1")
        if not 0 < self.test_share < 1:
            raise ValueError(f"test_share is {self.test_share}; it must lie between 0 and 1")
        if self.definitions != "tags" and self.word_order != "TVE":
            raise ValueError(
                f"word_order is {self.word_order}, for definitions by tags, and the style {self.definitions} has its own; set task.word_order=TVE"
            )
        if self.world in ("biographies", "miniature") and self.file:
            raise ValueError(f"world {self.world} is drawn and reads no file")
