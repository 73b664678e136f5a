"""The model seam: what analyses see of a model, and the only door through which `mechocl` gets one.

Analyses see a model through the `Transformer` protocol, which `HookedTransformer` and
`TransformerBridge` (in compatibility mode) share: hook points and their names, `cfg`, the unembedding.
Toy models are built by `toy_models.architectures`: `at_checkpoint` opens one of a run. `load` opens a Hugging
Face checkpoint, with `pretrained` and what it calls (`hugging_face`, `adapters`, `conversion`, `parity`).
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.runs.folders import Checkpoint, SeedFolder
from mechocl.runs.recipes import Recipe
from mechocl.runs.recipes import integer_set as integer_set_recipe
from mechocl.runs.text_folders import TextSeedFolder
from toy_models import architectures, integer_set, lean


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


def resolve_device(name: str) -> str:
    """`auto` → cuda if there is one, else cpu. MechoclError for `cuda` without one."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MechoclError(
            "--device cuda: this machine has no CUDA device that torch can use; use --device cpu"
        )
    return name


def build(recipe: Recipe, *, seed: int, device: str) -> Any:
    """A recipe's model before training, a `HookedTransformer`."""
    vocabulary = integer_set.vocabulary(recipe.task)
    model = architectures.build(
        recipe.model.resolve(),
        d_vocab=len(vocabulary),
        d_vocab_out=vocabulary.outputs,
        n_ctx=integer_set.context_length(recipe.task),
        seed=seed,
    )
    return model.to(device, print_details=False)


def untrained(folder: SeedFolder, *, device: str) -> Any:
    """A model of the run's shape with random weights, drawn from the seed."""
    if isinstance(folder, TextSeedFolder):
        from mechocl.models.load import untrained_like

        return untrained_like(folder.path / folder.final().name, seed=folder.seed, device=device)
    return build(integer_set_recipe(folder.recipe), seed=folder.seed, device=device)


def at_checkpoint(folder: SeedFolder, checkpoint: Checkpoint, *, device: str) -> Any:
    """The `HookedTransformer` of a checkpoint; MechoclError when the file is altered or incomplete.

    That of a closed-book run is loaded from its Hugging Face folder, as by `load`; the comparison with Hugging Face's
    forward pass is written to `parity` beside it.
    """
    if isinstance(folder, TextSeedFolder):
        report = folder.path / "parity" / f"{checkpoint.name.replace('/', '-')}.json"
        return load(folder.model_path(checkpoint), device=device, report=report)
    model = build(integer_set_recipe(folder.recipe), seed=folder.seed, device=device)
    weights = folder.weights(checkpoint)
    odd = weights.keys() ^ dict(model.named_parameters()).keys()
    if odd:
        raise MechoclError(
            f"{folder.path / checkpoint.name} does not fit the recipe's model (tensor {min(odd)})"
        )
    fill(model, weights)
    return model


def load(
    path_or_name: str | Path,
    *,
    device: str = "cpu",
    bridge: bool = False,
    dtype: torch.dtype = torch.float32,
    fold: bool = False,
    centre: bool = False,
    n_ctx: int | None = None,
    base: str | Path | None = None,
    revision: str | None = None,
    tokens: Int[Tensor, "example pos"] | None = None,
    tolerance: float = 1e-4,
    report: Path | None = None,
) -> Any:
    """The model in a local Hugging Face folder or under a hub name, in evaluation mode.

    GPT-NeoX (Pythia, and what was fine-tuned from it), GPT-2, Llama, Mistral and Qwen2. The weights are as they
    were trained: layer norms are not folded, nothing is centred, unless asked for. Its forward pass is always
    compared with Hugging Face's, in float32 and on the CPU; a model that parts from it is not returned.
    `pretrained.load_with_parity` gives the comparison and the tokenizer, too. On the way it takes at most about
    twice the memory of the weights in float32 (three times for a bridge that is folded or centred).

    Args:
        path_or_name: folder with `config.json` and safetensors, as `save_pretrained` writes it, or with a LoRA
            adapter, which is merged; else the name of a model on the hub. A folder asks no hub for anything.
        device: where torch shall hold it: cpu, cuda, or auto.
        bridge: give a `TransformerBridge` in compatibility mode, not a `HookedTransformer`.
        dtype: precision of the weights and of what the model computes: float32, bfloat16 or float16. Half
            precision halves the memory; its weights are widened, one module at a time, for the comparison.
        fold: layer norms' weights become part of the weights that read from them. Residual streams stay.
        centre: weights that write to the residual stream write no mean, and logits have none over the
            vocabulary. Of models with layer norms that subtract the mean (GPT-NeoX, GPT-2).
        n_ctx: longest example in tokens; by default what the model was made for, up to 8192. Of a
            `HookedTransformer`; a bridge has the model's own.
        base: the folder or hub name under a LoRA adapter, in the place of the one its config names.
        revision: branch, tag or commit of a hub name.
        tokens: a few examples to compare on, in the place of random ids.
        tolerance: largest difference that counts as rounding; see `parity.Parity`.
        report: a JSON file to write the comparison to, also where it fails.

    Raises MechoclError, in one line with the file, the weight or the layer, for what does not exist, is
    incomplete or damaged, is a pickle, has an architecture or option that is not known, or a tokenizer with more
    ids than the model; for a hub that does not answer; and for a model that parts from Hugging Face's.
    """
    from mechocl.models.load import load_with_parity  # it needs the protocol above

    return load_with_parity(
        path_or_name,
        device=device,
        bridge=bridge,
        dtype=dtype,
        fold=fold,
        centre=centre,
        n_ctx=n_ctx,
        base=base,
        revision=revision,
        tokens=tokens,
        tolerance=tolerance,
        report=report,
    ).model


@torch.no_grad()
def fill(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Copy tensors into the model's parameters, which must have the same names."""
    parameters = dict(model.named_parameters())
    assert weights.keys() == parameters.keys()
    for name, parameter in parameters.items():
        parameter.copy_(weights[name])


def final_norm(model: Transformer, x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """The layer norm before the unembedding; `x` itself in a model without layer norms."""
    norm: Callable[[Tensor], Tensor] | None = getattr(model, "ln_final", None)
    return x if norm is None else norm(x)


@torch.no_grad()
def final_residual(
    model: Transformer, tokens: Int[Tensor, "example pos"], *, batch_size: int = 2048
) -> Float[Tensor, "example pos d_model"]:
    """What the unembedding reads: the residual stream after the last layer norm, on the CPU.

    A `HookedTransformer` without hooks takes the lean forward pass where that covers it, any other model
    its own.
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
