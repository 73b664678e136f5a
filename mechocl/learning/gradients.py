"""Gradients of single aliases' losses, many at once: `torch.func` differentiates the lean forward pass for each alias.

The gradient of an alias's loss with respect to the embeddings of other aliases is 0 (`Layout`). So the forward pass gets a
table of the embeddings that all aliases share and, after them, the rows of the one alias, and the gradients are as small
as the model without its aliases. `tests/learning/test_gradients.py` compares them with a loop over the aliases.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import grad, vmap

from mechocl.errors import MechoclError
from mechocl.learning.examples import Examples
from mechocl.learning.layout import Groups, Layout, layout_of
from mechocl.models import seam
from mechocl.models.seam import Transformer
from toy_models import lean
from toy_models.frozen import EMBEDDING
from toy_models.task import Task

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer

_NUMBERS_AT_ONCE: Final = 20_000_000
"""Numbers of gradients that are held beside the result, which bounds how many aliases are differentiated at once."""

_MOST_AT_ONCE: Final = 64
"""Aliases that are differentiated at once at most; more are not faster, and their activations take memory."""


@dataclass(frozen=True, slots=True)
class Differentiable:
    """A model that gradients are taken of, its task, and where the numbers of a gradient lie."""

    model: "HookedTransformer"
    task: Task
    shape: lean.Shape
    layout: Layout
    trained: Task
    """The task that the model is trained on, of which `task` may be a part."""

    @property
    def device(self) -> torch.device:
        return cast(torch.device, self.model.embed.W_E.device)

    @property
    def numbers(self) -> int:
        """Numbers in a gradient of one alias."""
        sizes = [p.numel() for name, p in self.model.named_parameters() if name in self.layout.trained]
        kept = len(self.layout.others) * self.model.cfg.d_model
        return int(sum(sizes) - self.model.embed.W_E.numel() + kept)

    @property
    def at_once(self) -> int:
        """How many aliases are differentiated at once."""
        return max(1, min(_MOST_AT_ONCE, _NUMBERS_AT_ONCE // self.numbers))


def differentiable(model: Transformer, task: Task, trained: Task | None = None) -> Differentiable:
    """Check that gradients can be taken of a model. `trained` is the task that it is trained on; None is the task itself.

    Raises MechoclError for another class than `HookedTransformer`, for half precision, for a model with hooks, and for a
    shape that the lean forward pass does not cover.
    """
    from transformer_lens import HookedTransformer

    seam.refuse_half_precision(model)
    if not isinstance(model, HookedTransformer):
        raise MechoclError(
            f"gradients are taken of a HookedTransformer, and this is a {type(model).__name__}; load it without bridge"
        )
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks]
    if hooked:
        raise MechoclError(
            f"the model has a hook at {hooked[0]}, which gradients would ignore; call model.reset_hooks(including_permanent=True)"
        )
    if model.cfg.d_vocab != len(task.vocabulary):
        padded = task.vocabulary.padded and model.cfg.d_vocab > len(task.vocabulary)
        raise MechoclError(
            f"the model embeds {model.cfg.d_vocab} tokens, the task has {len(task.vocabulary)}; "
            + (
                "gradients do not cover embeddings of no token, so give the model exactly as many as its tokenizer has tokens (resize_token_embeddings)"
                if padded
                else "give the model of this task"
            )
        )
    try:
        shape = lean.shape_of(model)
    except ValueError as error:
        raise MechoclError(f"gradients cannot be taken of this model: {error}") from error
    return Differentiable(model, task, shape, layout_of(model, task), trained or task)


def alias_gradients(
    of: Differentiable, examples: Examples, names: Int[Tensor, "alias slot"], *, at_once: int | None = None
) -> Groups:
    """The gradient of each alias's loss, by group of weights: matrices `alias weight` on the model's device.

    The loss (nats) is the mean of the cross-entropies of all tokens with loss in the alias's examples, as in a batch that
    holds these alone. The gradient points to where the loss grows, so a step of gradient descent goes against it.
    `names` are the alias's own tokens (`examples.name_tokens`). `at_once` aliases are differentiated at a time; by
    default it is chosen, and changes nothing but time and memory.
    """
    constants, shared, rows = split_weights(of, names.to(of.device))
    tokens = examples.tokens.to(of.device)
    inputs = as_places(of.layout, tokens[:, :, :-1], names.to(of.device))
    mask = examples.loss_mask[:, :, :-1].to(of.device)
    loss = loss_of_alias(of.shape, constants)
    each = vmap(grad(loss, argnums=(0, 1)), in_dims=(0, None, 0, 0, 0))
    size = at_once or of.at_once
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(tokens), size):
        some = slice(start, start + size)
        own, others = each(rows[some], shared, inputs[some], tokens[some, :, 1:], mask[some])
        folded = of.layout.fold(own, others, names[some].to(of.device))
        for group, part in of.layout.split(*folded).items():
            found.setdefault(group, []).append(part)
    return {group: torch.cat(parts) for group, parts in found.items()}


def split_weights(of: Differentiable, names: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Tensors that are no variables, the variables that all aliases share, and each alias's own rows."""
    weights = {name: p.detach() for name, p in of.model.named_parameters()}
    shared = {name: weights[name] for name in of.layout.trained}
    shared[EMBEDDING] = weights[EMBEDDING][of.layout.others]
    constants = {name: value[None] for name, value in weights.items() if name not in shared}
    return constants | lean.rotary_tables(of.model), shared, weights[EMBEDDING][names]


def as_places(
    layout: Layout, tokens: Int[Tensor, "alias row pos"], names: Int[Tensor, "alias slot"]
) -> Int[Tensor, "alias row pos"]:
    """Token ids as indices into the shared embeddings followed by the alias's own rows."""
    shared = layout.place[tokens]
    slot = (tokens[..., None] == names[:, None, None, :]).int().argmax(-1)
    return torch.where(shared >= 0, shared, len(layout.others) + slot)


def loss_of_alias(shape: lean.Shape, constants: dict[str, Tensor]) -> Callable[..., Any]:
    """The loss of one alias as a pure function of its own rows and the shared weights."""

    logits = logits_of_alias(shape, constants)

    def loss(
        own: Float[Tensor, "slot d_model"],
        shared: dict[str, Tensor],
        inputs: Int[Tensor, "row pos"],
        targets: Int[Tensor, "row pos"],
        mask: Bool[Tensor, "row pos"],
    ) -> Float[Tensor, ""]:
        return mean_loss(logits(own, shared, inputs), targets, mask)

    return loss


def logits_of_alias(shape: lean.Shape, constants: dict[str, Tensor]) -> Callable[..., Any]:
    """The logits of one alias's examples as a pure function of its own rows and the shared weights."""

    def logits(
        own: Float[Tensor, "slot d_model"], shared: dict[str, Tensor], inputs: Int[Tensor, "row pos"]
    ) -> Float[Tensor, "row pos d_vocab_out"]:
        p = constants | {name: value[None] for name, value in shared.items()}
        p[EMBEDDING] = torch.cat([shared[EMBEDDING], own])[None]
        x = lean.residual(p, inputs[None], shape)
        found: Tensor = lean.logits(p, x.flatten(1, 2))[0]
        return rearrange(found, "(row pos) d_vocab_out -> row pos d_vocab_out", row=len(inputs))

    return logits


def mean_loss(
    logits: Float[Tensor, "row pos d_vocab_out"],
    targets: Int[Tensor, "row pos"],
    mask: Bool[Tensor, "row pos"],
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) of the tokens with loss."""
    weights = mask.flatten()
    wanted = targets.flatten().masked_fill(~weights, 0)  # there may be no logit for what is not predicted
    each = F.cross_entropy(logits.flatten(0, 1), wanted, reduction="none")
    return (each * weights).sum() / weights.sum()
