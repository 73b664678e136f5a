"""Clean and corrupted examples, token by token, with what is read of them: named ones, and the user's own.

`named_pairs` builds these from a task:

    d1-to-d2               the same list asked about two aliases of the same integer, of subsets d1 and d2
    d1-to-other-d2         … of different integers, exactly one of which is in the list
    d1-with-to-without     the same alias, its list with and without its integer
    tag1-to-tag2           the same definition with another define tag
    d1-to-itself           the same question twice: for two checkpoints, or for ablations
    FILE.csv               the user's own pairs

The clean run is what the metric calls right; denoising puts its activations into the corrupted run.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mechocl.errors import MechoclError

ROLE_NAMES: Final = (
    "tag", "alias", "%", "match", "rival", "others", "=", "entity", "last alias token", "words",
)  # fmt: skip
"""What stands at a position of a pair. `match` is the list item that is the clean alias's integer, `rival` the
item that is the corrupted alias's other integer, and `others` the rest of the list. In a text, `words` are those of
the question, and `alias` are all tokens of the alias's name except the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Clean and corrupted examples, token by token, cut after the last position that is read."""

    name: str
    clean: Int[Tensor, "pair pos"]
    corrupted: Int[Tensor, "pair pos"]
    read: Int[Tensor, "pair"]
    """Position whose next token is the answer."""
    target: Int[Tensor, "pair"]
    """Token that is right after the clean example."""
    foil: Int[Tensor, "pair"]
    """Token that the target is compared with; −1 where there is none."""
    labels: tuple[str, ...]
    """What stands at each position, the same in every pair: `alias`, `%`, `n1` …"""
    roles: Int[Tensor, "pair pos"]
    """Index into `ROLE_NAMES`; −1 where a pair has none."""
    alias: Int[Tensor, "pair"]
    """The clean example's alias; −1 where unknown."""
    contains: Bool[Tensor, "pair"]
    """Whether the list contains the clean alias's integer."""

    def __post_init__(self) -> None:
        if self.clean.shape != self.corrupted.shape:
            raise MechoclError(
                f"clean examples are {tuple(self.clean.shape)} tokens, corrupted ones "
                f"{tuple(self.corrupted.shape)}; patching needs pairs of equal length"
            )
        if len(self) == 0:
            raise MechoclError(f"{self.name}: there are no pairs; use another subset or more aliases")
        if len(self.labels) != self.clean.shape[1] or len(set(self.labels)) != len(self.labels):
            raise MechoclError(
                f"{self.name}: {len(self.labels)} labels for {self.clean.shape[1]} positions; give each position its own"
            )
        if not bool(((self.read >= 0) & (self.read < self.clean.shape[1])).all()):
            raise MechoclError(f"{self.name}: an answer is read past the end of its example")

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, chosen: slice | Tensor) -> "Pairs":
        fields = ("clean", "corrupted", "read", "target", "foil", "roles", "alias", "contains")
        return replace(self, **{name: getattr(self, name)[chosen] for name in fields})

    @property
    def swapped(self) -> "Pairs":
        """The pairs with clean and corrupted exchanged; targets and foils stay as they were."""
        return replace(self, clean=self.corrupted, corrupted=self.clean)


def given_pairs(
    clean: Int[Tensor, "pair pos"],
    corrupted: Int[Tensor, "pair pos"],
    *,
    target: Int[Tensor, "pair"],
    foil: Int[Tensor, "pair"] | None = None,
    read: Int[Tensor, "pair"] | None = None,
    labels: Sequence[str] | None = None,
    name: str = "given pairs",
) -> Pairs:
    """The user's own pairs. If `read` is not given, it is the last position.

    Only the logit difference needs `foil`. Raises MechoclError for pairs of unequal length.
    """
    n, length = clean.shape
    return Pairs(
        name=name,
        clean=clean,
        corrupted=corrupted,
        read=torch.full((n,), length - 1) if read is None else read,
        target=target,
        foil=torch.full((n,), -1) if foil is None else foil,
        labels=tuple(map(str, range(length))) if labels is None else tuple(labels),
        roles=torch.full((n, length), -1),
        alias=torch.full((n,), -1),
        contains=torch.ones(n, dtype=torch.bool),
    )
