"""The model seam: what analyses see of a model, whatever its class.

Analyses see a model through the `Transformer` protocol, which `HookedTransformer` and
`TransformerBridge` (in compatibility mode) share: hook points and their names, `cfg` and the unembedding.
A toy model is built by `toy_models.architectures`, a Hugging Face checkpoint is opened by
`models.loading.load`, and a run's own checkpoints are opened by its folder (`runs.folders.SeedFolder.model_at`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from toy_models import lean


@runtime_checkable
class ModelShape(Protocol):
    """The part of TransformerLens's `cfg` that analyses read."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int


@runtime_checkable
class Transformer(Protocol):
    """What analyses may use of a model; `tests/analyses/test_both_classes.py` holds both classes to it."""

    @property
    def cfg(self) -> ModelShape: ...

    @property
    def W_U(self) -> Tensor: ...

    @property
    def b_U(self) -> Tensor: ...

    @property
    def hook_dict(self) -> dict[str, Any]: ...

    def __call__(self, tokens: Tensor, *, return_type: str | None = ...) -> Any: ...

    def run_with_cache(
        self, tokens: Tensor, *, names_filter: list[str], return_type: str | None
    ) -> tuple[Any, Mapping[str, Tensor]]: ...

    def hooks(self, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]]) -> AbstractContextManager[Any]: ...


def device_of(model: Transformer) -> torch.device:
    return model.W_U.device


def refuse_half_precision(model: Transformer) -> None:
    """Raise MechoclError for a model in half precision, since activations and their statistics need float32."""
    dtype = model.W_U.dtype
    if dtype in (torch.float16, torch.bfloat16):
        raise MechoclError(
            f"the model is in {str(dtype).removeprefix('torch.')}, and analyses compute in float32; load it with "
            "dtype=torch.float32, which is the default of mechocl.load"
        )


def resolve_device(name: str | None) -> str:
    """The torch device of a name: `auto`, or None, is cuda on a machine that has it, and cpu on any other.

    Raises MechoclError for `cuda` on a machine that does not have it.
    """
    if name is None or name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MechoclError(
            "--device cuda: this machine has no CUDA device that torch can use; use --device cpu"
        )
    return name


@torch.no_grad()
def final_residual(
    model: Transformer, tokens: Int[Tensor, "example pos"], *, batch_size: int = 2048
) -> Float[Tensor, "example pos d_model"]:
    """What the unembedding reads: the residual stream after the last layer norm, on the CPU.

    A `HookedTransformer` without hooks takes the lean forward pass if that covers its shape. Any other model
    takes its own forward pass.
    """
    residual = _residual_of(model)
    return torch.cat([residual(batch).cpu() for batch in torch.split(tokens, batch_size)])


@torch.no_grad()
def logits_at(
    model: Transformer,
    tokens: Int[Tensor, "example pos"],
    positions: Int[Tensor, "example"],
    ids: Int[Tensor, "id"],
    *,
    batch_size: int = 2048,
) -> Float[Tensor, "example id"]:
    """Logits of chosen token ids at one position of each example, on the CPU."""
    residual = _residual_of(model)
    chosen = ids.to(device_of(model))
    W, b = model.W_U[:, chosen], model.b_U[chosen]
    parts = []
    for batch, where in zip(torch.split(tokens, batch_size), torch.split(positions, batch_size), strict=True):
        x = residual(batch)
        parts.append((x[torch.arange(len(batch), device=x.device), where.to(x.device)] @ W + b).cpu())
    return torch.cat(parts)


def _residual_of(model: Transformer) -> Callable[[Tensor], Tensor]:
    """A function from tokens to the final residual stream, on the model's device."""
    from transformer_lens import HookedTransformer

    refuse_half_precision(model)
    device = device_of(model)
    # hooks that the caller has added take part, so they need the model's own forward pass
    has_hooks = any(point.fwd_hooks for point in model.hook_dict.values())
    if isinstance(model, HookedTransformer) and not has_hooks and (shape := _lean_shape(model)):
        parameters = lean.parameters_of([model])
        return lambda batch: lean.residual(parameters, batch.to(device)[None], shape)[0]

    def hooked(batch: Tensor) -> Tensor:
        found: list[Tensor] = []
        with model.hooks([("unembed.hook_in", lambda x, hook: found.append(x))]):
            model(batch.to(device), return_type="logits")
        return found[0]

    return hooked


def _lean_shape(model: Any) -> lean.Shape | None:
    """What the lean forward pass needs to know, or None for a model that it does not cover."""
    try:
        return lean.shape_of(model)
    except ValueError:
        return None
