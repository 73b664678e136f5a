"""Open a Hugging Face checkpoint as a model for analyses, after a check that it computes what Hugging Face computes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.files import write_json
from mechocl.models import convert, hub, hub_files, lora, parity
from mechocl.models.parity import Parity
from mechocl.models.seam import resolve_device

DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model, and what was found out about it while it was loaded."""

    model: Any
    """A `HookedTransformer`, or a `TransformerBridge` in compatibility mode. Both are in evaluation mode."""
    parity: Parity
    """How far its forward pass is from Hugging Face's."""
    tokenizer: Any | None
    """Hugging Face's tokenizer; None if the folder has no tokenizer."""
    source: Path
    """The folder that was read: the given one, or a folder of the hub's cache. For an adapter, the adapter's folder."""


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
    tolerance: float = parity.TOLERANCE,
    record: Path | None = None,
) -> Any:
    """The model in a local Hugging Face folder or under a hub name, in evaluation mode.

    The model is a GPT-NeoX (Pythia, and what was fine-tuned from it), GPT-2, Llama (also SmolLM and SmolLM2), Mistral, Qwen2,
    Qwen3, or a Gemma 1, 2 or 3 for text. The weights are as they were trained (Gemma's scales of norms, 1 + weight, and of
    embeddings become part of them): norms are folded and weights are centred only where `fold` and `centre` ask for it. Its
    forward pass is always compared with Hugging Face's, in float32 and on the CPU. A model that differs from Hugging Face's by
    more than `tolerance` is not returned. `load_with_parity` returns the comparison and the tokenizer, too. Loading takes at
    most about twice the memory of the weights in float32 (three times for a bridge that is folded or centred).

    Args:
        path_or_name: a folder with `config.json` and safetensors, as `save_pretrained` writes them; a folder with a
            LoRA adapter, which is merged; or the name of a model on the hub. For a folder no hub is asked.
        device: where torch shall hold the model: cpu, cuda, or auto.
        bridge: return a `TransformerBridge` in compatibility mode, not a `HookedTransformer`.
        dtype: precision of the weights and of what the model computes: float32, bfloat16 or float16. Half precision halves the
            memory, but analyses refuse it, and so does a Gemma. For the comparison its weights are widened, module by module.
        fold: make the weights of norms part of the weights that read from them. Residual streams stay the same.
        centre: make the weights that write to the residual stream write no mean, and give the logits mean 0 over the
            vocabulary. Only for norms that subtract the mean (GPT-NeoX, GPT-2).
        n_ctx: length of the longest example in tokens; by default what the model was made for, up to 8192. With no more than a
            sliding window (Mistral, Gemma 3), the model can be taken apart. A bridge keeps the model's own.
        base: folder or hub name of the model under a LoRA adapter; by default the one that the adapter's config names.
        revision: branch, tag or commit of a hub name.
        tokens: a few examples to compare on; by default random ids.
        tolerance: largest difference that counts as rounding; see `parity.Parity`.
        record: a JSON file to which the comparison is written, also when it fails.

    Warns of an adapter that changes nothing. Raises MechoclError, in one line that names the file, the weight or the layer: for
    what does not exist, is incomplete or damaged, or is a pickle; for an architecture or option that is not known; for a tokenizer
    with more ids than the model; for a hub that does not answer; and for a model that differs from Hugging Face's.
    """
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
        record=record,
    ).model


def load_with_parity(
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
    tolerance: float = parity.TOLERANCE,
    record: Path | None = None,
) -> Loaded:
    """Load a model as `load` does, which describes the arguments, and return the comparison and the tokenizer, too."""
    device = _checked_device(device)
    _check_options(dtype=dtype, processed=fold or centre, positions_of_a_bridge=n_ctx if bridge else None)
    source = hub.locate(path_or_name, revision=revision)
    folder = _folder_of_weights(source, base)
    held = [_read(folder, dtype)]  # only this list holds the model, so that it can be let go
    shape = _shape(held[0], folder, n_ctx=n_ctx, centre=centre)
    tokenizer = _tokenizer(source, folder, d_vocab=shape["d_vocab"])
    batches = _batches(tokens, tokenizer, shape)
    recorded = _recorded(held, None if source == folder else source, batches)
    if bridge:
        model = convert.bridged(held.pop().float(), folder, tokenizer, fold=fold, centre=centre)
    else:
        model = convert.hooked(held, shape, fold=fold, centre=centre)
    found = parity.compare(model, recorded, centred=centre, tolerance=tolerance)
    if record is not None:
        write_json(record, {"source": str(source), "weights": str(dtype)} | found.as_json())
    if found.parts_at() is not None:
        raise MechoclError(f"the model loaded from {source} {found.complaint()}")
    return Loaded(_settled(model, device, dtype), found, tokenizer, source)


def _read(folder: Path, dtype: torch.dtype) -> Any:
    """The Hugging Face model of a folder. Raises MechoclError for an architecture that cannot be converted."""
    architecture = _convertible_architecture(folder)
    theirs = hub.read_model(folder, dtype=dtype, attention="eager")
    if type(theirs).__name__ != architecture:
        raise MechoclError(
            f"{folder / hub_files.CONFIG} contradicts itself: its architecture is {architecture} and its model_type "
            f"{theirs.config.model_type}; correct it, or save the model again"
        )
    return theirs


def _convertible_architecture(folder: Path) -> str:
    """The architecture that the config of a folder names. Raises MechoclError if it is not in `convert.FAMILIES`."""
    named = hub.read_config(folder).architectures
    if len(named) != 1 or named[0] not in convert.FAMILIES:
        raise MechoclError(
            f"{folder} holds {', '.join(named) or 'no architecture'}; only causal language models can be loaded: "
            f"{', '.join(convert.FAMILIES)}"
        )
    return named[0]


def _recorded(held: list[Any], adapter: Path | None, batches: list[Tensor]) -> list[parity.Recorded]:
    """What the held Hugging Face model computes. A float32 model with an adapter is recorded before the merge."""
    theirs = held.pop()
    if adapter is None:
        recorded = parity.record(theirs, convert.layers_of(theirs), batches)
    else:
        layers, wide = convert.layers_of(theirs), theirs.dtype == torch.float32
        before = lora.sum_weights(theirs)
        model = lora.attach(theirs, adapter)
        if wide:
            recorded = parity.record(theirs, layers, batches)
        theirs = model.merge_and_unload()
        lora.warn_if_unchanged(before, theirs, adapter)
        if not wide:  # merging rounds the weights, which must not count as an error of the conversion
            recorded = parity.record(theirs, layers, batches)
    held.append(theirs)
    return recorded


def _checked_device(name: str) -> str:
    try:
        torch.device(resolve_device(name))
    except RuntimeError as error:
        raise MechoclError(f"device {name!r} is not known; use auto, cpu or cuda") from error
    return resolve_device(name)


def _check_options(*, dtype: torch.dtype, processed: bool, positions_of_a_bridge: int | None) -> None:
    if positions_of_a_bridge is not None:
        raise MechoclError("a bridge keeps the model's own positions; leave n_ctx out")
    if dtype not in DTYPES:
        raise MechoclError(f"weights cannot be held in {dtype}; choose from {', '.join(map(str, DTYPES))}")
    if processed and dtype != torch.float32:
        raise MechoclError(
            f"folding and centring would round {dtype} weights once more; use dtype float32 for them"
        )


def _folder_of_weights(source: Path, base: str | Path | None) -> Path:
    """The folder itself, or the folder of an adapter's base."""
    if not lora.is_adapter(source):
        if base is not None:
            raise MechoclError(f"{source} is not an adapter (it has no {hub_files.ADAPTER}); leave base out")
        return source
    found = hub.locate(lora.base_of(source) if base is None else base)
    if lora.is_adapter(found):
        raise MechoclError(f"{found}, the base of {source}, is an adapter itself; merge and save it first")
    return found


def _tokenizer(source: Path, folder: Path, *, d_vocab: int) -> Any | None:
    """The tokenizer in an adapter's own folder, or else the tokenizer of its base."""
    found = hub.read_tokenizer(source, d_vocab=d_vocab)
    if found is None and source != folder:
        found = hub.read_tokenizer(folder, d_vocab=d_vocab)
    return found


def _shape(theirs: Any, folder: Path, *, n_ctx: int | None, centre: bool) -> dict[str, Any]:
    try:
        shape = convert.shape_of(theirs, n_ctx=n_ctx)
    except MechoclError as error:
        raise MechoclError(f"{folder} {error}") from None
    if centre and shape["normalization_type"] != "LN":
        raise MechoclError(
            f"{folder} has norms that do not subtract the mean, so its weights cannot be centred; leave centre out"
        )
    return shape


def _batches(tokens: Tensor | None, tokenizer: Any | None, shape: dict[str, Any]) -> list[Tensor]:
    """The caller's tokens, or random ids of the tokenizer. Rows that pad a vocabulary are embeddings of no token."""
    if tokens is None:
        ids = shape["d_vocab"] if tokenizer is None else len(tokenizer)
        return parity.random_batches(d_vocab=ids, n_ctx=shape["n_ctx"])
    if not 0 < tokens.shape[1] <= shape["n_ctx"] or len(tokens) == 0:
        raise MechoclError(
            f"tokens have shape {tuple(tokens.shape)}; the model has {shape['n_ctx']} positions"
        )
    if int(tokens.min()) < 0 or int(tokens.max()) >= shape["d_vocab"]:
        raise MechoclError(f"tokens hold ids outside the model's vocabulary, 0 to {shape['d_vocab'] - 1}")
    return [tokens]


def _settled(model: Any, device: str, dtype: torch.dtype) -> Any:
    """The model on its device, set to compute in the precision of its weights."""
    model = model.to(device, print_details=False)
    return model if dtype == torch.float32 else model.to(dtype, print_details=False)


def positions_within_windows(folder: Path) -> int | None:
    """The `n_ctx` with which no sliding window of a local checkpoint is shorter than an example, so that it can be taken apart.

    None where the checkpoint has no shorter windows than positions, and needs no `n_ctx`.
    """
    config = hub.read_config(folder)
    if config.window is None or config.window >= config.context:
        return None
    return min(config.window, convert.MAX_POSITIONS)


def initialised_like(folder: Path, *, seed: int, device: str, n_ctx: int | None = None) -> Any:
    """An untrained `HookedTransformer` of the shape of a local checkpoint: Hugging Face draws its random weights.

    `n_ctx` is that of `load`. Raises MechoclError for an architecture that cannot be converted.
    """
    _convertible_architecture(folder)
    theirs = hub.initialise_model(folder, seed=seed)
    shape = convert.shape_of(theirs, n_ctx=n_ctx)
    return _settled(convert.hooked([theirs], shape, fold=False, centre=False), device, torch.float32)
