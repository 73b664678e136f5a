"""The model seam: the only place in `mechocl` that loads a model.

Analyses see a model through the `Transformer` protocol, which `HookedTransformer` and
`TransformerBridge` (in compatibility mode) share: hook points and their names, `cfg`, the unembedding.
Toy models are built by `toy_models.architectures`; this module loads their checkpoints.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.runs import Checkpoint, SeedFolder
from toy_models import architectures, integer_set, lean


class ModelShape(Protocol):
    """The part of TransformerLens's `cfg` that analyses read."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int


class Transformer(Protocol):
    """What analyses may use of a model."""

    @property
    def cfg(self) -> Any: ...

    @property
    def W_U(self) -> Tensor: ...

    @property
    def b_U(self) -> Tensor: ...

    @property
    def ln_final(self) -> Any: ...

    @property
    def hook_dict(self) -> dict[str, Any]: ...

    def __call__(self, tokens: Tensor, *, return_type: str | None = ...) -> Any: ...

    def run_with_cache(self, tokens: Tensor, **options: Any) -> Any: ...

    def hooks(self, fwd_hooks: Sequence[tuple[str, Callable[..., Any]]]) -> AbstractContextManager[Any]: ...


def device_of(model: Transformer) -> torch.device:
    return model.W_U.device


def resolve_device(name: str) -> str:
    """`auto` → cuda if there is one, else cpu. MechoclError for `cuda` without one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MechoclError(
            "--device cuda: this machine has no CUDA device that torch can use; use --device cpu"
        )
    return name


def initial(folder: SeedFolder, *, device: str) -> Any:
    """The seed's model before training, a `HookedTransformer`."""
    task = folder.recipe.task
    vocabulary = integer_set.vocabulary(task)
    model = architectures.build(
        folder.recipe.model.resolve(),
        d_vocab=len(vocabulary),
        d_vocab_out=vocabulary.outputs,
        n_ctx=integer_set.context_length(task),
        seed=folder.seed,
    )
    return model.to(device, print_details=False)


def load(folder: SeedFolder, checkpoint: Checkpoint, *, device: str) -> Any:
    """The `HookedTransformer` of a checkpoint; MechoclError when the file is altered or incomplete."""
    model = initial(folder, device=device)
    weights = folder.weights(checkpoint)
    parameters = dict(model.named_parameters())
    if weights.keys() != parameters.keys():
        odd = sorted(weights.keys() ^ parameters.keys())[0]
        raise MechoclError(f"{folder.path / checkpoint.name} does not fit the recipe's model (tensor {odd})")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    return model


@torch.no_grad()
def final_residual(
    model: Transformer, tokens: Int[Tensor, "example pos"], *, batch_size: int = 2048
) -> Float[Tensor, "example pos d_model"]:
    """What the unembedding reads: the residual stream after the last layer norm, on the CPU.

    A plain `HookedTransformer` takes the lean forward pass, any other model its own.
    """
    from transformer_lens import HookedTransformer

    parts = []
    for batch in tokens.split(batch_size):
        batch = batch.to(device_of(model))
        if isinstance(model, HookedTransformer):
            parts.append(lean.residual(lean.parameters_of(model), batch, lean.shape_of(model)).cpu())
        else:
            found: list[Tensor] = []
            with model.hooks([("unembed.hook_in", lambda x, hook: found.append(x))]):
                model(batch)
            parts.append(found[0].cpu())
    return torch.cat(parts)


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
    W, b = model.W_U[:, ids.to(device_of(model))].cpu(), model.b_U[ids.to(device_of(model))].cpu()
    parts = []
    for batch, where in zip(tokens.split(batch_size), positions.split(batch_size), strict=True):
        x = final_residual(model, batch, batch_size=batch_size)
        parts.append(x[torch.arange(len(batch)), where] @ W + b)
    return torch.cat(parts)
