"""Where the numbers of a gradient lie: in an alias's own embedding, or in a group of weights that all aliases share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models.frozen import EMBEDDING, find_alias_names
from toy_models.task import ROLE, Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

OWN: Final = "alias embeddings"
ALL: Final = "all"
SHARED: Final = "all but alias embeddings"

_UNEMBEDDING: Final = "unembed.W_U"
_OF_A_HEAD: Final = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")

Groups = dict[str, Tensor]
"""Group of weights → a matrix `alias weight`; the first axis has length 1 where all aliases have the same."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The weights of a model in groups, each number in one, as one alias sees them.

    The groups are "alias embeddings" (the rows of `W_E` of the alias's own name), "tag embeddings", "other embeddings",
    "position embeddings", "L0H0" … (a head with its biases), "L0 attention bias" (of the output, which belongs to no
    head), "L0 mlp" …, "layer norms" and "unembedding". Weights that no stage trains are in none.

    The own rows of every alias count as the same place, so that gradients of two aliases can be compared there. The rows of
    *other* aliases, where an example of this alias has no gradient, are left out.
    If the unembedding is tied, what a token's column gets is added to the row of its embedding, since both are one weight.
    The columns of other aliases, which have a gradient where aliases are predicted, are then "unembedding".
    """

    trained: tuple[str, ...]
    """Names of the parameters that are looked at."""
    tied: bool
    others: Int[Tensor, " token"]
    """Ids of the tokens that are in no alias's name."""
    tags: Bool[Tensor, " token"]
    """Which of these are tags."""
    place: Int[Tensor, " d_vocab"]
    """Index of each token id among `others`; −1 for tokens of names."""
    outputs: int
    """Number of ids, from 0, for which the model has logits."""

    def split(self, own: Float[Tensor, "alias slot d_model"], shared: Mapping[str, Tensor]) -> Groups:
        """Values of all weights by group. `shared` has a leading axis `alias`, and of the embedding the rows `others`."""
        parts: dict[str, list[Tensor]] = {OWN: [own]}
        for name in self.trained:
            for group, part in self._parts_of(name, shared[name]):
                parts.setdefault(group, []).append(part)
        ordered = sorted(parts, key=_order)
        return {group: torch.cat([part.flatten(1) for part in parts[group]], 1) for group in ordered}

    def fold(
        self, own: Tensor, shared: dict[str, Tensor], names: Int[Tensor, "alias slot"]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a tied unembedding to those of the embedding. Others stay as they are."""
        if not self.tied:
            return own, shared
        columns = shared[_UNEMBEDDING]
        rows = shared[EMBEDDING].clone()
        with_logit = self.others < self.outputs
        rows[:, with_logit] += columns[:, :, self.others[with_logit]].mT
        own = own.clone()
        for slot in range(names.shape[1]):
            first = (names[:, :slot] != names[:, slot : slot + 1]).all(
                1
            )  # a slot that repeats another is empty
            here = ((names[:, slot] < self.outputs) & first).nonzero()[:, 0]
            own[here, slot] += columns[here, :, names[here, slot]]
            columns = columns.clone()
            columns[here, :, names[here, slot]] = 0.0
        return own, shared | {EMBEDDING: rows, _UNEMBEDDING: columns}

    def unfold(
        self, own: Tensor, shared: dict[str, Tensor], names: Int[Tensor, "alias slot"]
    ) -> dict[str, Tensor]:
        """Give the columns of a tied unembedding what `fold` gave the rows, so that a step moves both alike. Others stay."""
        if not self.tied:
            return shared
        columns = shared[_UNEMBEDDING].clone()
        with_logit = self.others < self.outputs
        columns[:, :, self.others[with_logit]] = shared[EMBEDDING][:, with_logit].mT
        for slot in range(names.shape[1]):
            here = (names[:, slot] < self.outputs).nonzero()[:, 0]
            columns[here, :, names[here, slot]] = own[here, slot]
        return shared | {_UNEMBEDDING: columns}

    def _parts_of(self, name: str, value: Tensor) -> list[tuple[str, Tensor]]:
        if name == EMBEDDING:
            return [("tag embeddings", value[:, self.tags]), ("other embeddings", value[:, ~self.tags])]
        if name == _UNEMBEDDING and self.tied:
            of_names = (self.place[: self.outputs] < 0).nonzero()[:, 0]
            return [("unembedding", value[:, :, of_names])] if len(of_names) else []
        found = re.match(r"blocks\.(\d+)\.(attn|mlp)\.(.*)", name)
        if found and found[2] == "attn" and found[3] in _OF_A_HEAD:
            return [(f"L{found[1]}H{head}", value[:, head]) for head in range(value.shape[1])]
        if found:
            return [(f"L{found[1]} {'mlp' if found[2] == 'mlp' else 'attention bias'}", value)]
        if name.startswith("unembed."):
            return [("unembedding", value)]
        return [("position embeddings" if name.startswith("pos_embed.") else "layer norms", value)]


def layout_of(model: "HookedTransformer", task: Task) -> Layout:
    """The layout of a model's weights."""
    tied = bool(model.cfg.tie_word_embeddings)
    is_name = find_alias_names(task)
    others = (~is_name).nonzero()[:, 0]
    place = torch.full((len(is_name),), -1)
    place[others] = torch.arange(len(others))
    is_tag = torch.zeros(len(is_name), dtype=torch.bool)
    is_tag[task.tokens[task.roles == ROLE["tag"]]] = True
    names = [
        name for name, p in model.named_parameters() if p.requires_grad or (tied and name == _UNEMBEDDING)
    ]
    device = model.embed.W_E.device
    return Layout(
        trained=tuple(names),
        tied=tied,
        others=others.to(device),
        tags=is_tag[others].to(device),
        place=place.to(device),
        outputs=int(model.cfg.d_vocab_out),
    )


def _order(group: str) -> tuple[int, int, int, int]:
    """Embeddings first, then layer by layer the heads, their bias and the MLP, then the rest."""
    first = (OWN, "tag embeddings", "other embeddings", "position embeddings")
    if group in first:
        return 0, first.index(group), 0, 0
    found = re.match(r"L(\d+)(?:H(\d+)| (attention bias|mlp))", group)
    if not found:
        return 2, group == "unembedding", 0, 0
    kind = 0 if found[2] else 1 if found[3] == "attention bias" else 2
    return 1, int(found[1]), kind, int(found[2] or 0)
