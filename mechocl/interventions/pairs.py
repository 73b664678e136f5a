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

from mechocl.errors import MechoclError, TooLittleData

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
            raise TooLittleData(f"{self.name}: there are no pairs; use another subset or more aliases")
        if len(self.labels) != self.clean.shape[1] or len(set(self.labels)) != len(self.labels):
            raise MechoclError(
                f"{self.name}: {len(self.labels)} labels for {self.clean.shape[1]} positions; give each position its own"
            )
        for name in ("read", "target", "foil", "alias", "contains"):
            given = tuple(getattr(self, name).shape)
            if given != (len(self),):
                raise MechoclError(
                    f"{self.name}: {name} has the shape {given} for {len(self)} pairs; give one value for each pair"
                )
        if not bool(((self.read >= 0) & (self.read < self.clean.shape[1])).all()):
            raise MechoclError(f"{self.name}: an answer is read past the end of its example")

    def __len__(self) -> int:
        return len(self.clean)

    def __repr__(self) -> str:
        return (
            f"Pairs({self.name}, {len(self)} pairs of {self.clean.shape[1]} tokens: {' '.join(self.labels)})"
        )

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
    target: Int[Tensor, "pair"] | Sequence[int] | int,
    foil: Int[Tensor, "pair"] | Sequence[int] | int | None = None,
    read: Int[Tensor, "pair"] | None = None,
    labels: Sequence[str] | None = None,
    mask: Bool[Tensor, "pair pos"] | None = None,
    name: str = "given pairs",
) -> Pairs:
    """The user's own pairs. If `read` is not given, it is the last position. One `target` or `foil` is that of all pairs.

    `mask` is False where a token is padding. Padding is moved behind the example, where nothing sees it, so positions count from
    the example's first token; the answer is then read at its last token. Only the logit difference needs `foil`.

    Raises MechoclError for pairs of unequal length, for examples that begin with one token several times (or end with it, if `read`
    is not given) where no mask says that it is not padding, for padding inside an example, and where clean and corrupted example are padded differently.
    """
    n, length = clean.shape
    if mask is None:
        _refuse_padding(clean, corrupted, name, also_behind=read is None)
    else:
        clean, corrupted, last = _padding_behind(clean, corrupted, mask, name)
        if read is not None:
            raise MechoclError(f"{name}: with a mask, the answer is read at the last token; leave out read")
        read = last
        length = clean.shape[1]
    return Pairs(
        name=name,
        clean=clean,
        corrupted=corrupted,
        read=torch.full((n,), length - 1) if read is None else read,
        target=_for_each(target, n, f"{name}: target"),
        foil=_for_each(-1 if foil is None else foil, n, f"{name}: foil"),
        labels=tuple(map(str, range(length))) if labels is None else tuple(labels),
        roles=torch.full((n, length), -1),
        alias=torch.full((n,), -1),
        contains=torch.ones(n, dtype=torch.bool),
    )


def _for_each(given: Tensor | Sequence[int] | int, n: int, what: str) -> Int[Tensor, "pair"]:
    """A token for each of n pairs."""
    tokens = torch.as_tensor(given)
    if tokens.numel() == 1:
        tokens = tokens.reshape(1).expand(n)
    if tokens.shape != (n,):
        raise MechoclError(
            f"{what} has the shape {tuple(tokens.shape)}; give one token, or one for each of the {n} pairs"
        )
    return tokens.to(torch.int64)


def _refuse_padding(clean: Tensor, corrupted: Tensor, name: str, *, also_behind: bool) -> None:
    """Raises MechoclError where examples begin with as many equal tokens as padding would give them, or end with them."""
    what = "begins", "left, and the model would attend to padding; give mask"
    _refuse_repeated(clean, corrupted, name, *what)
    if also_behind:
        what = "ends", "right, and the answer would be read at padding; give read, or mask"
        _refuse_repeated(clean.flip(1), corrupted.flip(1), name, *what)


def _refuse_repeated(clean: Tensor, corrupted: Tensor, name: str, does: str, side: str) -> None:
    """Raises MechoclError where the first tokens of an example, but not all of them, are the same."""
    for tokens in (clean, corrupted):
        if tokens.shape[1] < 3:
            continue
        begins = (tokens == tokens[:, :1]).int().cumprod(1).sum(1)
        looks_padded = (begins > 1) & (begins < tokens.shape[1])
        if bool(looks_padded.any()):
            i = int(looks_padded.nonzero()[0])
            raise MechoclError(
                f"{name}: example {i} {does} with token {int(tokens[i, 0])} {int(begins[i])} times, as if it were padded on the "
                f"{side}, which is False at padding (or True everywhere, if it is none)"
            )


def _padding_behind(
    clean: Tensor, corrupted: Tensor, mask: Tensor, name: str
) -> tuple[Tensor, Tensor, Int[Tensor, "pair"]]:
    """The examples with their padding behind them, and the position of the last token of each."""
    if mask.shape != clean.shape:
        raise MechoclError(
            f"{name}: mask is {tuple(mask.shape)}, the examples are {tuple(clean.shape)}; give one value for each token"
        )
    lengths = mask.sum(1)
    first = mask.int().argmax(1)
    position = torch.arange(clean.shape[1])
    whole = (position >= first[:, None]) & (position < (first + lengths)[:, None])
    wrong = ((whole != mask).any(1) | (lengths == 0)).nonzero()
    if len(wrong):
        raise MechoclError(
            f"{name}: the mask of pair {int(wrong[0])} has padding inside the example, or no token; padding can stand before or behind it alone"
        )
    # columns that are padding in every pair are left out
    order = ((position + first[:, None]) % clean.shape[1])[:, : int(lengths.max())]
    return clean.gather(1, order), corrupted.gather(1, order), lengths - 1
