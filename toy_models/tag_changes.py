"""Changes of what a stage of training sees of the define tags (`StageConfig.tag_embedding`, `cut_tag`, `exchange_tags`).

They change a stage while it trains. The finished model is asked as any other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models.stages import StageConfig
from toy_models.task import ROLE, Task

_EMBEDDING: Final = "embed.W_E"

_EXCHANGED: Final = ("d1_consistent", "d2_consistent")
"""Subsets of new aliases of tag 1 and of tag 2."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a forward pass sees."""

    parameters: Mapping[str, Tensor]
    tokens: Int[Tensor, "model batch pos"]
    cut: Bool[Tensor, "model batch pos pos"] | None = None
    """Where a position (the first `pos`) does not attend to another (the second); None cuts nothing."""


Read = Callable[[Seen], Float[Tensor, "model position d_vocab_out"]]
"""A function that gives logits of what a forward pass sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TagChange:
    """What is changed about the tags of definitions in the passes of a stage, for several models at once."""

    is_tag: Bool[Tensor, "model d_vocab"]
    """Which tokens are tags."""
    embedding: Literal["own", "another", "none"]
    """What stands in the place of a tag's embedding."""
    token: int
    """Id of the token whose embedding stands there, where it is another's."""
    passes: Literal["both", "forward", "backward"]
    """In which pass it stands there."""
    cuts: bool
    """Whether later positions do not attend to the tag."""

    def forward(self, parameters: Mapping[str, Tensor], tokens: Int[Tensor, "model batch pos"]) -> Seen:
        """What the forward pass of the stage sees."""
        seen = Seen(parameters, tokens, self._find_cut(tokens))
        return seen if self.passes == "backward" else self._replaced(seen)

    def logits(
        self, read: Read, parameters: Mapping[str, Tensor], tokens: Int[Tensor, "model batch pos"]
    ) -> Float[Tensor, "model position d_vocab_out"]:
        """Logits whose values are those of the stage's forward pass, and whose gradients are those of its backward pass."""
        own = Seen(parameters, tokens, self._find_cut(tokens))
        if self.passes == "both" or self.embedding == "own":
            return read(self._replaced(own))
        values, way = (self._replaced(own), own) if self.passes == "forward" else (own, self._replaced(own))
        sent_back = read(way)
        with torch.no_grad():
            found = read(values)
        # the difference is 0 to the last bit, and its gradient is that of `sent_back`
        return found + (sent_back - sent_back.detach())

    def _find_cut(self, tokens: Int[Tensor, "model batch pos"]) -> Bool[Tensor, "model batch pos pos"] | None:
        if not self.cuts:
            return None
        itself = torch.eye(tokens.shape[2], dtype=torch.bool, device=tokens.device)
        return self._tags_in(tokens)[:, :, None, :] & ~itself

    def _replaced(self, seen: Seen) -> Seen:
        if self.embedding == "another":
            return replace(seen, tokens=seen.tokens.masked_fill(self._tags_in(seen.tokens), self.token))
        if self.embedding == "none":
            without = seen.parameters[_EMBEDDING].masked_fill(self.is_tag[:, :, None], 0.0)
            return replace(seen, parameters={**seen.parameters, _EMBEDDING: without})
        return seen

    def _tags_in(self, tokens: Int[Tensor, "model batch pos"]) -> Bool[Tensor, "model batch pos"]:
        model = torch.arange(len(tokens), device=tokens.device)[:, None, None]
        return self.is_tag[model, tokens]


def find_tag_change(
    tasks: Sequence[Task], stage: StageConfig, device: torch.device | str = "cpu"
) -> TagChange | None:
    """What a stage changes about the tags in its passes; None if it changes nothing.

    Raises ValueError when no definition of the tasks has the tag whose embedding is to stand in the place of all tags.
    """
    if stage.tag_embedding == "own" and not stage.cut_tag:
        return None
    is_tag = torch.zeros(len(tasks), len(tasks[0].vocabulary), dtype=torch.bool)
    for own, task in zip(is_tag, tasks, strict=True):
        own[task.tokens[task.roles == ROLE["tag"]]] = True
    kind, _, number = stage.tag_embedding.partition("_")
    return TagChange(
        is_tag=is_tag.to(device),
        embedding="another" if number else "none" if kind == "none" else "own",
        token=find_tag_token(tasks[0], int(number)) if number else 0,
        passes=stage.tag_embedding_in,
        cuts=stage.cut_tag,
    )


def find_tag_token(task: Task, tag: int) -> int:
    """Id of the token of a define tag. Raises ValueError when no definition of the task has the tag."""
    rows = task.rows(kind="definition", tag=tag)
    if len(rows) == 0:
        raise ValueError(f"no definition has tag {tag}; give its subset a share in task.fractions")
    row = int(rows[0])
    return int(task.tokens[row][task.roles[row] == ROLE["tag"]][0])


def exchange_tags(task: Task) -> Task:
    """The task in which the new aliases of tag 1 and of tag 2 have changed places.

    The aliases of `d1_consistent` are defined by tag 2 and belong to `d2_consistent`, and the reverse. Nothing else
    differs. Raises ValueError when one of the subsets has no aliases, and when they have different numbers of aliases, since
    training would then have another mixture of tags.
    """
    subset = task.table["subset"].astype(str).to_numpy()
    counts = [len(task.table.loc[subset == name, "alias"].unique()) for name in _EXCHANGED]
    if counts[0] != counts[1] or not counts[0]:
        raise ValueError(
            f"d1 has {counts[0]} aliases and d2 has {counts[1]}, and tags can only be exchanged between as many; change "
            "task.fractions"
        )
    new_subset, tag = subset.copy(), task.table["tag"].to_numpy().copy()
    token = dict.fromkeys(_EXCHANGED, 0)
    for number, name in enumerate(_EXCHANGED, start=1):
        token[name] = find_tag_token(task, number)
    moved = {}
    for number, (name, other) in enumerate(zip(_EXCHANGED, _EXCHANGED[::-1], strict=True), start=1):
        rows = np.flatnonzero(subset == name)
        new_subset[rows], tag[rows] = other, 3 - number
        moved[token[other]] = torch.from_numpy(rows)

    def exchanged(
        tokens: Int[Tensor, "example pos"], roles: Int[Tensor, "example pos"]
    ) -> Int[Tensor, "example pos"]:
        result = tokens.clone()
        for new, rows in moved.items():
            result[rows] = torch.where(roles[rows] == ROLE["tag"], new, tokens[rows])
        return result

    fresh = task.fresh

    def fresh_exchanged(epoch: int) -> tuple[Int[Tensor, "example pos"], Int[Tensor, "example pos"]]:
        assert fresh is not None
        tokens, roles = fresh(epoch)
        return exchanged(tokens, roles), roles

    categories = getattr(task.table["subset"], "cat", None)
    labels = pd.Categorical(new_subset, categories.categories) if categories is not None else new_subset
    return replace(
        task,
        tokens=exchanged(task.tokens, task.roles),
        table=task.table.assign(subset=labels, tag=tag),
        fresh=fresh_exchanged if fresh is not None else None,
    )
