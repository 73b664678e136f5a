"""The model seam: the only place in `mechocl` that loads a model.

Analyses see a model through the `Transformer` protocol, which `HookedTransformer` and
`TransformerBridge` (in compatibility mode) share: hook points and their names, `cfg`, the unembedding.
Toy models are built by `toy_models.architectures`; this module loads their checkpoints, and Hugging Face
GPT-NeoX folders (Pythia, and what was fine-tuned from it).
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.folders import Checkpoint, SeedFolder
from mechocl.recipes import Recipe
from toy_models import architectures, integer_set, lean

if TYPE_CHECKING:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

_ARCHITECTURE: Final = "GPTNeoXForCausalLM"


@runtime_checkable
class ModelShape(Protocol):
    """The part of TransformerLens's `cfg` that analyses read."""

    n_layers: int
    n_heads: int
    d_model: int
    d_vocab: int


@runtime_checkable
class Transformer(Protocol):
    """What analyses may use of a model; `tests/test_contract.py` holds both classes to it."""

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


def at_checkpoint(folder: SeedFolder, checkpoint: Checkpoint, *, device: str) -> Any:
    """The `HookedTransformer` of a checkpoint; MechoclError when the file is altered or incomplete."""
    model = build(folder.recipe, seed=folder.seed, device=device)
    weights = folder.weights(checkpoint)
    odd = weights.keys() ^ dict(model.named_parameters()).keys()
    if odd:
        raise MechoclError(
            f"{folder.path / checkpoint.name} does not fit the recipe's model (tensor {min(odd)})"
        )
    fill(model, weights)
    return model


def load(path_or_name: str | Path, *, device: str = "cpu", bridge: bool = False) -> Any:
    """The model in a local Hugging Face folder of a GPT-NeoX, in float32 and evaluation mode.

    Its weights are as they were trained: layer norms are not folded, nothing is centred. So its residual
    stream is the Hugging Face model's own, and `parity` says how equal the logits are.

    Args:
        path_or_name: folder with `config.json` and safetensors, as `save_pretrained` writes it.
        device: where torch shall hold it.
        bridge: give a `TransformerBridge` in compatibility mode, not a `HookedTransformer`.

    Raises MechoclError for a folder that does not exist or is incomplete, for any architecture but
    GPTNeoXForCausalLM, and for variants that `HookedTransformer` does not know (scaled rotary embeddings,
    attention without bias).
    """
    folder = Path(path_or_name)
    theirs = _hugging_face(folder, device=device)
    return _bridge(theirs, folder, device=device) if bridge else _hooked(theirs, folder, device=device)


@dataclass(frozen=True, slots=True)
class Parity:
    """How far a model is from the Hugging Face model that it was loaded from."""

    max_abs_logit_difference: float
    """Largest absolute difference between two logits, in nats. About 1e-5 is rounding."""
    tokens: int
    """Positions at which all logits were compared."""


@torch.no_grad()
def parity(model: Transformer, path: str | Path, tokens: Int[Tensor, "example pos"]) -> Parity:
    """Compare a model's logits on these tokens with those of the Hugging Face forward pass.

    Raises MechoclError as `load`.
    """
    device = device_of(model)
    theirs = _hugging_face(Path(path), device=str(device))(tokens.to(device)).logits
    ours = model(tokens.to(device), return_type="logits")
    return Parity(float((ours - theirs).abs().max()), tokens.numel())


def _hugging_face(folder: Path, *, device: str) -> "GPTNeoXForCausalLM":
    """The Hugging Face model of a folder: all weights from safetensors, nothing from the network."""
    from safetensors import SafetensorError
    from transformers import GPTNeoXForCausalLM

    if not folder.is_dir():
        raise MechoclError(f"{folder} does not exist; give the folder of a saved Hugging Face model")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MechoclError(
            f"{folder} has no config.json; give the folder that save_pretrained made"
        ) from error
    except ValueError as error:
        raise MechoclError(f"{folder / 'config.json'} is not JSON: {error}") from error
    found = config.get("architectures") or ["no architecture"]
    if found != [_ARCHITECTURE]:
        raise MechoclError(
            f"{folder} holds {', '.join(found)}; only causal language models of GPT-NeoX's architecture "
            f"({_ARCHITECTURE}, such as Pythia) can be loaded"
        )
    try:
        with _without_progress_bars():
            model, info = GPTNeoXForCausalLM.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
                output_loading_info=True,
            )
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise MechoclError(f"the weights in {folder} cannot be read: {reason}") from error
    if info["missing_keys"]:
        raise MechoclError(f"{folder} is incomplete: tensor {min(info['missing_keys'])} is missing")
    return model.to(device).eval()


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hooked(theirs: "GPTNeoXForCausalLM", folder: Path, *, device: str) -> Any:
    from transformer_lens import HookedTransformer, HookedTransformerConfig
    from transformer_lens.pretrained.weight_conversions import convert_neox_weights

    config = HookedTransformerConfig(**_shape(theirs.config, folder))
    with architectures.hooked_transformer_allowed():
        model = HookedTransformer(config).to(device, print_details=False)
    fill(model, convert_neox_weights(theirs, config))
    return model.eval()


def _shape(c: "GPTNeoXConfig", folder: Path) -> dict[str, Any]:
    """HookedTransformerConfig's arguments for a GPT-NeoX."""
    rope = c.rope_parameters
    if rope["rope_type"] != "default":
        raise MechoclError(f"{folder} has {rope['rope_type']} rotary embeddings; only default ones are known")
    if not c.attention_bias:
        raise MechoclError(f"{folder} has attention without bias, which HookedTransformer does not know")
    d_head = c.hidden_size // c.num_attention_heads
    return {
        "n_layers": c.num_hidden_layers,
        "d_model": c.hidden_size,
        "n_heads": c.num_attention_heads,
        "d_head": d_head,
        "d_mlp": c.intermediate_size,
        "act_fn": c.hidden_act,
        "d_vocab": c.vocab_size,
        "n_ctx": c.max_position_embeddings,
        "positional_embedding_type": "rotary",
        "rotary_dim": int(d_head * rope.get("partial_rotary_factor", 1.0)),
        "rotary_base": rope["rope_theta"],
        "parallel_attn_mlp": c.use_parallel_residual,
        "normalization_type": "LN",
        "eps": c.layer_norm_eps,
        "original_architecture": _ARCHITECTURE,
        "init_weights": False,
        "device": "cpu",
    }


def _bridge(theirs: "GPTNeoXForCausalLM", folder: Path, *, device: str) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    own = any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json"))
    model = TransformerBridge.boot_transformers(
        str(folder),
        device=device,
        dtype=torch.float32,
        hf_model=theirs,
        tokenizer=None if own else _no_tokenizer(),
    )
    model.enable_compatibility_mode(no_processing=True, disable_warnings=True)
    return model


def _no_tokenizer() -> Any:
    """What `TransformerBridge`, which insists on a tokenizer, gets for a folder without one.

    It knows a single token; analyses pass token ids.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    unknown = "[unknown]"
    words = Tokenizer(WordLevel({unknown: 0}, unk_token=unknown))
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token=unknown, eos_token=unknown, pad_token=unknown
    )


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
