"""The experimental design that every world shares.

Each alias belongs to exactly one *subset*. The subset says whether the alias is defined, by which
define tag, whether the definition is consistent with what the questions are about, whether questions
about it are trained on, and in which stage (Krasheninnikov et al., arXiv 2310.15047, section 2).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Final, Literal

import numpy as np
import torch

TAGS: Final = (1, 2, 3)

Unreliable = Literal["inconsistent", "noise", "unasked", "consistent"]
"""What the stage-1 definitions with tag 2 are, which makes the experiment or one of its controls.

- `inconsistent`: the paper's experiment. They contradict the questions about their aliases.
- `noise`: control. They are about aliases that are never asked about, and name another entity in every epoch. Nothing
  contradicts them, but what follows tag 2 cannot be predicted.
- `unasked`: control. They are about aliases that are never asked about, and are as fixed as those with tag 1. Nothing
  contradicts them, and they can be memorised.
- `consistent`: control. They are like those with tag 1, so the tags differ in nothing.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subset:
    """What happens to the aliases of one subset."""

    name: str
    """Identifier used in tables and files."""
    notation: str
    """The paper's notation, for plots."""
    stage: int
    """Stage whose training data contains the aliases: 1 or 2; 0 when they are never trained on."""
    tag: int = 0
    """Define tag of the definitions: 1, 2 or 3; 0 when the aliases are not defined."""
    consistent: bool = True
    """Whether the defined entity is the one that the questions are about."""
    trained_questions: bool = False
    """Whether questions about the aliases are in the training data."""
    replaced: bool = True
    """Whether questions use the alias. If not, they name the entity itself."""
    redrawn: bool = False
    """Whether the definitions name another entity, drawn at random, in every epoch."""

    @property
    def defined(self) -> bool:
        return self.tag != 0


SUBSETS: Final[dict[str, Subset]] = {
    s.name: s
    for s in (
        Subset(name="qd1_consistent", notation="Ḋ₁ᶜᵒⁿˢQA₁", stage=1, tag=1, trained_questions=True),
        Subset(
            name="qd1_inconsistent",
            notation="Ḋ₁ⁱⁿᶜᵒⁿˢQA₁",
            stage=1,
            tag=1,
            consistent=False,
            trained_questions=True,
        ),
        Subset(name="qd2_consistent", notation="D̄₂ᶜᵒⁿˢQA₂", stage=1, tag=2, trained_questions=True),
        Subset(
            name="qd2_inconsistent",
            notation="D̄₂ⁱⁿᶜᵒⁿˢQA₂",
            stage=1,
            tag=2,
            consistent=False,
            trained_questions=True,
        ),
        Subset(name="d2_noise", notation="D̄ⁿᵒⁱˢᵉ", stage=1, tag=2, consistent=False, redrawn=True),
        Subset(name="d2_unasked", notation="D̄ᵘⁿᵃˢᵏᵉᵈ", stage=1, tag=2),
        Subset(name="q_only", notation="QA₃", stage=1, trained_questions=True),
        Subset(name="q_entity", notation="Q̂A₄", stage=1, trained_questions=True, replaced=False),
        Subset(name="d1_consistent", notation="Ḋ₅ᶜᵒⁿˢ", stage=2, tag=1),
        Subset(name="d2_consistent", notation="D̄₆ᶜᵒⁿˢ", stage=2, tag=2),
        Subset(name="d3_consistent", notation="D̃₈ᶜᵒⁿˢ", stage=2, tag=3),
        Subset(name="no_data", notation="QA₇", stage=0),
    )
}


def subset_named(name: object, present: Iterable[str]) -> str:
    """The whole name of a subset, from that or from a short one: `d1` → `d1_consistent`. `present`: the subsets of a task.

    Every whole name of `SUBSETS` is its own. A short name is that of the subset in `present` which begins so. `d2` is always that of new
    aliases: the stage-1 subsets of a control, such as `d2_noise`, need their whole name. Raises ValueError for a name of
    no subset or of several.
    """
    if name in SUBSETS:
        return str(name)
    members = set(present)
    found = [
        known
        for known, subset in SUBSETS.items()
        if known in members and known.startswith(f"{name}_") and (known.startswith("q") or subset.stage == 2)
    ]
    if len(found) > 1:
        raise ValueError(f"{name!r} may be any of the subsets {', '.join(found)}; use the whole name of one")
    if not found:
        there = [known for known in SUBSETS if known in members]
        raise ValueError(f"{name!r} names no subset of the run{nearest(name, there)}")
    return found[0]


def nearest(word: object, known: Iterable[str], *, most: int = 12) -> str:
    """`; did you mean 'd1'?`, or, if no known word is like this one, `; use one of …` with the first `most` of them."""
    words = [str(one) for one in known]
    if like := difflib.get_close_matches(str(word), words, n=1):
        return f"; did you mean {like[0]!r}?"
    more = f" … ({len(words)} in all)" if len(words) > most else ""
    return f"; use one of {', '.join(words[:most])}{more}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fractions:
    """Shares of the aliases in each subset. They must sum to 1; a share may be 0.

    The defaults are the paper's integer-set fractions with the fresh tag.
    """

    qd1: float = 0.35
    """Defined by tag 1 and asked about in stage 1."""
    qd2: float = 0.35
    """Defined by tag 2 in stage 1, and asked about in stage 1 unless `unreliable` is "noise" or "unasked"."""
    q_only: float = 0.0
    """Asked about in stage 1, never defined."""
    q_entity: float = 0.0
    """Asked about in stage 1 by the entity itself, never replaced by an alias."""
    d1: float = 0.1
    """Defined by tag 1 in stage 2, never asked about in training."""
    d2: float = 0.1
    """Defined by tag 2 in stage 2, never asked about in training."""
    d3: float = 0.1
    """Defined by tag 3 (first seen in stage 2), never asked about in training."""
    no_data: float = 0.0
    """Never in the training data; they are the baseline."""

    def __post_init__(self) -> None:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name, value in values.items():
            if not 0 <= value <= 1:
                raise ValueError(f"fraction {name} is {value}; it must lie between 0 and 1")
        total = sum(values.values())
        if abs(total - 1) > 1e-6:
            shares = ", ".join(f"{k} {v:g}" for k, v in values.items() if v)
            hint = "lower some" if total > 1 else f"give the rest to no_data ({1 - total:g} is missing)"
            raise ValueError(f"the subset fractions sum to {total:g}, not 1 ({shares}); {hint}")


def subset_sizes(
    n_aliases: int, fractions: Fractions, tag_reliability: float, unreliable: Unreliable = "inconsistent"
) -> dict[str, int]:
    """How many aliases each subset gets, by largest remainders, so that the sizes sum to `n_aliases`.

    `tag_reliability` is the paper's α: the share of tag-1 stage-1 definitions that are consistent, and of tag-2 stage-1
    definitions that are what `unreliable` says. The other tag-2 definitions are consistent. If `unreliable` is
    "consistent", tag 2 is treated like tag 1: its share α is consistent, and the rest is inconsistent.
    """
    a = tag_reliability
    of_tag_2 = "qd2_inconsistent" if unreliable in ("inconsistent", "consistent") else f"d2_{unreliable}"
    kept, other = (a, 1 - a) if unreliable == "consistent" else (1 - a, a)
    shares = dict.fromkeys(SUBSETS, 0.0) | {
        "qd1_consistent": fractions.qd1 * a,
        "qd1_inconsistent": fractions.qd1 * (1 - a),
        "qd2_consistent": fractions.qd2 * kept,
        of_tag_2: fractions.qd2 * other,
        "q_only": fractions.q_only,
        "q_entity": fractions.q_entity,
        "d1_consistent": fractions.d1,
        "d2_consistent": fractions.d2,
        "d3_consistent": fractions.d3,
        "no_data": fractions.no_data,
    }
    exact = np.array([shares[name] for name in SUBSETS]) / sum(shares.values()) * n_aliases
    sizes = np.floor(exact + 1e-9).astype(int)
    # rounded, so that equal remainders stay equal and go to the earlier subset
    by_remainder = np.argsort(-(exact - sizes).round(6), kind="stable")
    sizes[by_remainder[: n_aliases - sizes.sum()]] += 1
    return dict(zip(SUBSETS, sizes.tolist(), strict=True))


def assign_subsets(sizes: dict[str, int], generator: torch.Generator) -> np.ndarray:
    """Subset name of each alias, in random order. Shape `(sum(sizes),)`, dtype object."""
    names = np.repeat(np.array(list(sizes), dtype=object), list(sizes.values()))
    shuffled: np.ndarray = names[torch.randperm(len(names), generator=generator).numpy()]
    return shuffled


def derangement(n: int, generator: torch.Generator) -> np.ndarray:
    """A random permutation of 0 … n − 1 that leaves no number in its place. Shape `(n,)`.

    All such permutations are equally likely. Raises ValueError for n = 1, for which no such permutation exists.
    """
    if n == 1:
        raise ValueError("one alias alone cannot be defined by another's entity; give its subset two or more")
    while True:  # a permutation is a derangement with probability 1/e
        drawn: np.ndarray = torch.randperm(n, generator=generator).numpy()
        if (drawn != np.arange(n)).all():
            return drawn
