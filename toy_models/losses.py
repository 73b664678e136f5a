"""The loss of a batch: the mean cross-entropy of its next tokens, of several models at once."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models import lean
from toy_models.forward import Forward
from toy_models.tag_changes import Seen, TagChange


def token_losses(
    parameters: dict[str, Tensor],
    shape: Forward,
    tokens: Int[Tensor, "model batch pos_and_next"],
    loss_mask: Bool[Tensor, "model batch pos"],
    *,
    most: int,
    change: TagChange | None = None,
) -> Float[Tensor, "model"]:
    """Mean cross-entropy (nats) of each model for the next token, over the positions in `loss_mask`.

    `tokens` has one position more than `loss_mask`, since its last token is only predicted. No row may have more than
    `most` positions with loss, and only so many are unembedded. A model without any position with loss has a loss of 0.
    With a `change` of the tags, the losses are those of the forward pass with it, and their gradients those of its
    backward pass.
    """
    targets, weights, where = tokens[:, :, 1:], loss_mask, None
    if most < loss_mask.shape[2]:
        # the positions with loss come first; rows with fewer are filled up with positions of weight 0
        where = loss_mask.byte().argsort(dim=2, descending=True, stable=True)[:, :, :most]
        targets, weights = targets.gather(2, where), loss_mask.gather(2, where)
    targets = targets.masked_fill(~weights, 0)  # there may be no logit for what is not predicted

    def read(seen: Seen) -> Float[Tensor, "model position d_vocab_out"]:
        x = shape.residual(seen.parameters, seen.tokens, cut=seen.cut)
        if where is not None:
            x = x.gather(2, where[..., None].expand(-1, -1, -1, x.shape[3]))
        return lean.logits(seen.parameters, x.flatten(1, 2))

    read_tokens = tokens[:, :, :-1]
    logits = (
        read(Seen(parameters, read_tokens))
        if change is None
        else change.logits(read, parameters, read_tokens)
    )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    each = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view(len(logits), -1)
    weights = weights.flatten(1)
    return (each * weights).sum(1) / weights.sum(1).clamp(min=1)
