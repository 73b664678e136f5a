"""The settings of the integer-set task."""

from dataclasses import dataclass, field
from typing import Literal

from toy_models.subsets import Fractions, Unreliable
from toy_models.task import WordOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegerSetConfig:
    """Every setting of the integer-set task. The defaults are the paper's main configuration."""

    aliases: int = 8000
    """Number of aliases over all subsets."""
    integers: int = 100
    """Number of integers, which are 0 … integers − 1."""
    list_length: int = 8
    """Number of integers in a question's list, which are all different."""
    n_intersection: int = 1
    """Size of the intersection of an alias's true training lists. With 1, the questions alone identify the integer. With
    2 or more, they leave it ambiguous (false training lists avoid the whole intersection)."""
    train_questions: int = 12
    """Number of training questions for each alias that is asked about, an even number. Half are true, half are false."""
    test_questions: int = 12
    """Number of test questions for each alias, an even number. Half are true, half are false."""
    fractions: Fractions = field(default_factory=Fractions)
    """Share of the aliases in each subset."""
    tag_reliability: float = 1.0
    """The paper's α, 0.5 … 1: share of stage-1 definitions whose tag tells the truth about their
    consistency (tag 1 consistent, tag 2 inconsistent)."""
    unreliable: Unreliable = "inconsistent"
    """What stage-1 definitions with tag 2 are: inconsistent with the questions (the experiment), or one of the controls.
    noise: about aliases never asked about, with another integer in each epoch; unasked: about aliases never asked
    about, but fixed; consistent: like those with tag 1, so that the tags differ in nothing."""
    word_order: WordOrder = "TVE"
    """Order of the parts of a definition."""
    definition_separator: bool = True
    """Whether `%` stands before the last part of a definition, as in the paper's code."""
    label_flip: float = 0.0
    """Probability that a true training question is labelled false."""
    fresh_questions: bool = False
    """Whether new training questions are drawn in each epoch. If not, they are a fixed set."""
    tokens_per_alias: int = 1
    """Number of tokens in an alias's name. With 1, each alias has a token of its own. With more, a name is that many
    letters of an alphabet."""
    alphabet: int = 20
    """Number of letters of the alphabet for names of several tokens."""
    loss: Literal["every", "every_but_aliases", "answers"] = "every"
    """Tokens that carry loss: every token but the first (as in the paper); every token but the first and the aliases'
    names, for which the model then needs no logits (much cheaper with one token per alias); or only the answers of
    questions and the entities of definitions."""

    def __post_init__(self) -> None:
        def require(holds: bool, message: str) -> None:
            if not holds:
                raise ValueError(message)

        for name in ("aliases", "list_length", "n_intersection", "tokens_per_alias", "alphabet"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be at least 1")
        require(
            self.list_length < self.integers,
            f"list_length {self.list_length} needs more than {self.integers} integers: a false list must "
            "leave the alias's integer out",
        )
        require(
            self.n_intersection <= self.list_length,
            f"n_intersection {self.n_intersection} is larger than list_length {self.list_length}",
        )
        require(
            self.list_length + self.n_intersection <= self.integers,
            f"false lists of {self.list_length} cannot avoid an intersection of {self.n_intersection} "
            f"among {self.integers} integers",
        )
        for name in ("train_questions", "test_questions"):
            count = getattr(self, name)
            require(count >= 2 and count % 2 == 0, f"{name} is {count}; it must be even and at least 2")
        true_lists = self.train_questions // 2
        require(
            true_lists * (self.integers - self.list_length) >= self.integers - self.n_intersection,
            f"{true_lists} true lists of {self.list_length} among {self.integers} integers cannot intersect "
            f"in only {self.n_intersection}; use more train_questions or shorter lists",
        )
        require(0.5 <= self.tag_reliability <= 1, f"tag_reliability is {self.tag_reliability}; use 0.5 to 1")
        require(0 <= self.label_flip <= 1, f"label_flip is {self.label_flip}; use 0 to 1")
        if self.tokens_per_alias > 1:
            # of two letters or more, 64 in a name are over the limit already
            names = self.alphabet ** min(self.tokens_per_alias, 64)
            require(
                names < 2**63,
                f"tokens_per_alias {self.tokens_per_alias} of {self.alphabet} letters are more than 2^63 names; use fewer",
            )
            require(
                names >= self.aliases,
                f"{self.aliases} aliases need more than the {names} names of {self.tokens_per_alias} "
                f"letters out of {self.alphabet}",
            )
        require(
            self.loss != "answers" or self.word_order[0] != "E",
            f"loss 'answers' has nothing to predict in word order {self.word_order}, where the entity comes "
            "first; use loss 'every'",
        )
