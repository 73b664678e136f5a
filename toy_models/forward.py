"""The forward pass that training takes, of several models of one shape at once, whatever their class."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models import lean


@runtime_checkable
class Forward(Protocol):
    """The forward pass of one shape of models. The unembedding, `lean.logits`, is the same for all."""

    def residual(
        self,
        p: Mapping[str, Tensor],
        tokens: Int[Tensor, "model batch pos"],
        *,
        cut: Bool[Tensor, "model batch pos pos"] | None = None,
    ) -> Float[Tensor, "model batch pos d_model"]:
        """What the unembedding reads, from the models' parameters, each stacked on a first axis `model`."""


def shape_of(model: Any) -> Forward:
    """The forward pass of a model: `lean` for a `HookedTransformer`, `convnet.StackedConvNets` for a `HookedConvNet`.

    Raises ValueError as `lean.shape_of` does.
    """
    from toy_models.convnet import HookedConvNet, StackedConvNets

    return StackedConvNets(model) if isinstance(model, HookedConvNet) else lean.shape_of(model)
