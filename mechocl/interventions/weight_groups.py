"""The weights of a model in named groups: embeddings by kind of token, attention and MLP by layer, the rest."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.models import seam
from mechocl.models.seam import Transformer
from toy_models.convnet import HookedConvNet
from toy_models.task import ROLE, Task

_EMBEDDINGS: Final = ("alias embeddings", "tag embeddings", "other embeddings")

_KINDS: Final = {
    "layer norms": r"(^|\.)ln(1|2|1_post|2_post|_final|_1|_2|_f)\.|layer_?norm",
    "position embeddings": r"^pos_embed\.|\.wpe\.",
    "embeddings": r"^embed\.|\.(embed_in|wte)\.",
    "attention": r"\.attn\.|\.attention\.",
    "MLP": r"\.mlp\.",
    "unembedding": r"^unembed\.|^lm_head\.",
}
"""Kind of a parameter by its name, in a `HookedTransformer` or a `TransformerBridge`; the first match counts."""


@dataclass(frozen=True, slots=True)
class Part:
    """A parameter, or the slices of it that belong to some tokens."""

    parameter: str
    tokens: Int[Tensor, "token"] | None = None
    """Token ids; None means the whole parameter."""
    axis: int = 0
    """Axis of the parameter that the tokens index: 0 in `W_E`, 1 in `W_U`."""

    def read(self, weight: Tensor) -> Tensor:
        """A copy of this part of the parameter's tensor."""
        return weight.clone() if self.tokens is None else weight.index_select(self.axis, self.tokens)

    def write(self, target: Tensor, value: Tensor) -> None:
        if self.tokens is None:
            target.copy_(value)
        else:
            target.index_copy_(self.axis, self.tokens, value)


@dataclass(frozen=True, slots=True)
class Group:
    """A named share of a model's weights."""

    name: str
    parts: tuple[Part, ...]


def groups(model: Transformer, task: Task) -> dict[str, Group]:
    """Groups of weights by name. Every number of every parameter is in exactly one group.

    The groups are "alias embeddings" (rows of `W_E` of the aliases' names; in a text, of every token of an alias,
    whatever else is written with it), "tag embeddings", "other embeddings" (integers, `%`, `=`, answers, pad,
    words), "position embeddings", "layer 0 attention", "layer 0 MLP", …, "layer norms" (with the final one), and
    "unembedding" (`W_U` and `b_U`). Groups that a model lacks are left out.

    Where the unembedding is tied, `W_U` is a second copy of `W_E` that changes with it: each column belongs to the
    group of its token's embedding, and "unembedding" is `b_U` alone. So a graft of a tied model is tied.

    Those of a ConvNet are "tag patterns" (which no stage trains, with the mark of its images), "layer 0 convolution", …, "layer 3 units" (a fully
    connected layer), …, "cells" (what gives each cell its vector), "norms" and "unembedding".

    Raises MechoclError for a model that does not belong to the task, or has a parameter of unknown kind.
    """
    if isinstance(model, HookedConvNet):
        return _groups_of_convnet(model)
    device, rows = seam.device_of(model), model.cfg.d_vocab
    tokens = {name: ids.to(device) for name, ids in _token_groups(task, rows).items()}
    tied = bool(getattr(model.cfg, "tie_word_embeddings", False))
    found: dict[str, list[Part]] = {}
    for name, weight in parameters(model).items():
        for group, part in _parts_of(name, weight, tokens, tied):
            found.setdefault(group, []).append(part)
    layered = sorted((g for g in found if g.startswith("layer ") and g != "layer norms"), key=_layer_order)
    order = [*_EMBEDDINGS, "position embeddings", *layered, "layer norms", "unembedding"]
    return {name: Group(name, tuple(found[name])) for name in order if name in found}


def layer_groups(model: Transformer, task: Task) -> dict[str, Group]:
    """Whole layers by name, "layer 0" …: attention, MLP and layer norms, or a ConvNet's weights and norm. They overlap with `groups`."""
    found: dict[str, list[Part]] = {f"layer {layer}": [] for layer in range(model.cfg.n_layers)}
    for group in groups(model, task).values():
        for part in group.parts:
            layer = _layer_of(part.parameter)
            if layer is not None:
                found[f"layer {layer}"].append(part)
    return {name: Group(name, tuple(parts)) for name, parts in found.items()}


def _groups_of_convnet(model: HookedConvNet) -> dict[str, Group]:
    """The groups of a ConvNet, from its pictures to its logits."""
    found: dict[str, list[Part]] = {}
    for name in parameters(model):
        layer = _layer_of(name)
        if name.startswith(("patterns", "images")):
            group = "tag patterns"
        elif ".norm." in name or name.startswith("ln_final."):
            group = "norms"
        elif layer is None:
            group = "cells" if name.startswith("to_cells.") else "unembedding"
        else:
            group = f"layer {layer} {'convolution' if layer < model.n_convolutions else 'units'}"
        found.setdefault(group, []).append(Part(name))
    last = ("cells", "norms", "unembedding")
    order = [*(name for name in found if name not in last), *last]
    return {name: Group(name, tuple(found[name])) for name in order}


def _parts_of(name: str, weight: Tensor, tokens: Mapping[str, Tensor], tied: bool) -> list[tuple[str, Part]]:
    """(group, part) pairs that make up one parameter."""
    kind = next((kind for kind, pattern in _KINDS.items() if re.search(pattern, name)), None)
    if kind is None:
        raise MechoclError(
            f"grafting does not know what the model's parameter {name} is; use a GPT-NeoX, a GPT-2 or a toy model"
        )
    if kind in ("attention", "MLP"):
        return [(f"layer {_layer_of(name)} {kind}", Part(name))]
    if kind == "embeddings":
        return [(group, Part(name, ids)) for group, ids in tokens.items() if len(ids)]
    if name == "unembed.W_U" and tied:
        has_logit = {group: ids[ids < weight.shape[1]] for group, ids in tokens.items()}
        return [(group, Part(name, ids, axis=1)) for group, ids in has_logit.items() if len(ids)]
    return [(kind, Part(name))]


def _token_groups(task: Task, rows: int) -> dict[str, Tensor]:
    """Token ids of each group of embeddings, with those of the rows that pad the vocabulary of a text model."""
    known = len(task.vocabulary)
    if rows < known or (rows > known and not task.vocabulary.padded):
        raise MechoclError(
            f"the model embeds {rows} tokens, the task has {known}; give the model of this task"
        )
    kind = torch.full((rows,), 2)
    kind[task.tokens[task.roles == ROLE["tag"]]] = 1
    names = task.tokens[task.roles == ROLE["alias"]]
    kind[names[names >= task.vocabulary.integers[1]]] = 0  # an integer may stand in an alias's place
    return {name: (kind == i).nonzero()[:, 0] for i, name in enumerate(_EMBEDDINGS)}


def _layer_of(parameter: str) -> int | None:
    found = re.search(r"(?:^|\.)(?:blocks|layers|h)\.(\d+)\.", parameter)
    return int(found[1]) if found else None


def _layer_order(group: str) -> tuple[int, bool]:
    _, layer, kind = group.split()
    return int(layer), kind == "MLP"


def parameters(model: Transformer) -> dict[str, Tensor]:
    """The model's own weight tensors by name, without gradients."""
    m: Any = model
    return {name: parameter.detach() for name, parameter in m.named_parameters()}
