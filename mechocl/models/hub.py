"""The one door to Hugging Face: from a local folder or a hub name to a model, a tokenizer, a config and a fingerprint.

Weights are read from safetensors alone. A model is read with all of its weights or not at all. Only `locate` and
`fingerprint_model` ask a hub, and only for a name that is not a local folder. No code that comes with a checkpoint is
ever run.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch

from mechocl import files, ledgers
from mechocl.errors import MechoclError, describe_error
from mechocl.models import convert, hub_files, shared_layers
from mechocl.models.hub_files import ADAPTER, CONFIG, TOKENIZER_FILES

_SMALL_FILES: Final = ("*.json", "*.txt", "*.model")
_WEIGHTS: Final = "*.safetensors"


# ------------------------------------------------------------------------------------------------- the folder


def locate(path_or_name: str | Path, *, revision: str | None = None, weights: bool = True) -> Path:
    """The local folder of a checkpoint. The files of a hub name are fetched into the hub's cache first.

    If there is a local folder of that name, it is taken and no hub is asked. Without `weights`, only the config and
    the tokenizer of a hub name are fetched. Raises MechoclError for a path that does not exist, when the hub does
    not give the files, and when a file of a model that was pretrained here was altered.
    """
    folder = Path(path_or_name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise MechoclError(f"{folder} is a local folder, which has no revisions; leave revision out")
        for one in (ledger := ledger_of(folder)).entries():
            if weights or not one.endswith(".safetensors"):
                ledger.checked(one)
        return folder
    if folder.exists():
        raise MechoclError(
            f"{folder} is a file; give the folder of a saved Hugging Face model{_of_gguf(folder)}"
        )
    name = str(path_or_name)
    looks_like_a_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.sep + os.sep in name
    if isinstance(path_or_name, Path) or looks_like_a_path:
        raise MechoclError(f"{folder} does not exist; give the folder of a saved Hugging Face model")
    return _fetch(name, revision, weights=weights)


def _of_gguf(path: Path) -> str:
    """What to do with a GGUF file."""
    return " (`mechocl gguf` makes one of this GGUF file)" if path.suffix.lower() == ".gguf" else ""


def ledger_of(folder: Path) -> ledgers.Ledger:
    """The checksums of a folder that `mechocl pretrain` wrote. Other folders have none, so that nothing is checked."""
    remedy = f"delete {folder} and run the same `mechocl pretrain` again"
    edited = f"if you edited it yourself, delete {folder / ledgers.LEDGER} to use the folder as it is"
    return ledgers.Ledger(folder, remedy=f"{remedy}, or, {edited}", again=f"{remedy}, or, {edited}")


def _fetch(name: str, revision: str | None, *, weights: bool) -> Path:
    from huggingface_hub import errors, snapshot_download

    wanted = [*_SMALL_FILES, _WEIGHTS] if weights else [*_SMALL_FILES]
    try:
        with quiet():
            folder = snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*", "consolidated*"]
            )
    except (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError) as error:  # type: ignore[attr-defined]
        at_revision = f" at revision {revision}" if revision else ""
        raise MechoclError(
            f"{name}{at_revision} cannot be fetched: there is no such folder here, and no network or no such model "
            f"({type(error).__name__}); download it elsewhere and give the folder"
        ) from error
    if weights and not any(Path(folder).glob(_WEIGHTS)):
        raise MechoclError(
            f"{name} has no safetensors on the hub, and a pickle is not read. If you trust it, convert it and give "
            f"the folder: {hub_files.conversion_command(name, 'FOLDER')}"
        )
    return Path(folder)


def fingerprint_model(path_or_name: str | Path) -> dict[str, str]:
    """What distinguishes a model from any other one.

    For a local folder: path → sha256 of each of its JSON and safetensors files. For a hub name: the name → the commit.
    Raises MechoclError as `locate` does.
    """
    folder = locate(path_or_name, weights=False)
    if not Path(path_or_name).expanduser().is_dir():
        # the hub's cache is models--OWNER--NAME/snapshots/COMMIT
        return {str(path_or_name): folder.name if folder.parent.name == "snapshots" else "hub"}
    named = [path for path in sorted(folder.iterdir()) if path.suffix in (".json", ".safetensors")]
    named = [path for path in named if path.name != ledgers.LEDGER]
    return {str(path): files.sha256(path) for path in named}


# ------------------------------------------------------------------------------------------------- the config

_SIZES: Final = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "n_positions"
)  # fmt: skip
"""Sizes in a config, by Hugging Face's names, each of them at least 1 where it is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What the config of a checkpoint says of its model."""

    model_type: str
    """Hugging Face's name of the family, such as gpt_neox."""
    architectures: tuple[str, ...]
    """Hugging Face's name of the class that was saved; empty where the config does not name it."""
    kind: Literal["causal", "seq2seq"]
    """A causal model continues a text; a sequence-to-sequence model reads one text and writes another."""
    context: int
    """Number of tokens that the model can read at a time; 512 where the config does not say."""
    vocabulary: int
    """Number of tokens that the model has embeddings for."""
    layers: int
    """Number of transformer blocks, those of encoder and decoder together."""
    width: int
    """Width of the residual stream; 0 where the config does not say."""
    window: int | None = None
    """Number of positions that some layers look back to (sliding windows); None where every layer looks at all."""


def read_config(folder: Path) -> ModelConfig:
    """The config of a checkpoint.

    Raises MechoclError when it is missing, damaged, or not the config of a language model.
    """
    config = _read_config(folder)
    vocabulary = getattr(config, "vocab_size", None)
    if not isinstance(vocabulary, int):
        raise MechoclError(f"{folder / CONFIG} names no vocab_size; give the folder of a language model")
    seq2seq = bool(config.is_encoder_decoder)
    return ModelConfig(
        model_type=config.model_type,
        architectures=tuple(map(str, config.architectures or ())),
        kind="seq2seq" if seq2seq else "causal",
        context=getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 512),
        vocabulary=vocabulary,
        layers=getattr(config, "num_hidden_layers", 1) * (2 if seq2seq else 1),
        width=getattr(config, "hidden_size", 0),
        window=convert.window_of(config).get("window_size"),
    )


def _read_config(folder: Path) -> Any:
    """The config as Hugging Face's own object."""
    from transformers import AutoConfig

    hub_files.read_object(folder, CONFIG)  # a file that is missing or damaged is named here
    try:
        with quiet():
            config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # Hugging Face raises whatever its code meets
        raise _unreadable(folder, error) from error
    for name in _SIZES:
        size = getattr(config, name, None)
        if isinstance(size, int) and size < 1:
            raise MechoclError(
                f"{folder / CONFIG} says {name} = {size}, but it must be at least 1; copy or download it again"
            )
    return config


def _unreadable(folder: Path, error: Exception) -> MechoclError:
    return MechoclError(
        f"{folder} cannot be read: {describe_error(error)}; give the folder of a saved Hugging Face model"
    )


# -------------------------------------------------------------------------------------------------- the model


def _tie(model: Any, folder: Path) -> None:
    """Make the unembedding of a model the embedding where its config says so, also where a file holds it as a copy.

    Raises MechoclError where the file's unembedding is another one, which contradicts the config.
    """
    read, written = model.get_input_embeddings(), model.get_output_embeddings()
    if (
        not getattr(model.config, "tie_word_embeddings", False)
        or written is None
        or written.weight is read.weight
    ):
        return
    if not torch.equal(written.weight, read.weight):
        raise MechoclError(
            f"{folder / CONFIG} says tie_word_embeddings, and the weights beside it hold an unembedding that is not the embedding; "
            "set tie_word_embeddings to false there, or save the model again"
        )
    written.weight = read.weight


def read_model(folder: Path, *, dtype: torch.dtype = torch.float32, attention: str | None = None) -> Any:
    """The Hugging Face language model of a local folder, causal or sequence-to-sequence as its config says.

    The model is on the CPU and in evaluation mode, with exactly the weights of its files.

    Args:
        folder: holds config.json and safetensors, as `save_pretrained` writes them.
        dtype: precision of the weights in memory: float32, bfloat16 or float16.
        attention: Hugging Face's name of an implementation of attention, such as eager; by default Hugging Face
            chooses.

    Raises MechoclError, which names the file or the weight, for a folder without a config or without safetensors, for
    a pickle, an adapter, quantized weights or a damaged file, and for weights that are missing, unexpected or of
    another shape.
    """
    if (folder / ADAPTER).is_file():
        # Hugging Face would put the adapter into the model, which then has other weights than its files
        raise MechoclError(f"{folder} holds an adapter ({ADAPTER}); merge it and save the whole model first")
    config = _read_config(folder)
    if getattr(config, "quantization_config", None):
        raise MechoclError(f"{folder / CONFIG} says that the weights are quantized; give unquantized ones")
    weights = hub_files.list_weights(folder)
    try:
        with quiet():
            model, info = _auto_class(config).from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=dtype,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
                **({} if attention is None else {"attn_implementation": attention}),
            )
    except Exception as error:  # Hugging Face raises whatever its code meets
        raise _unreadable(folder, error) from error
    hub_files.refuse_odd_weights(folder, weights, info)
    _tie(model, folder)
    shared_layers.share_as_config_says(model, folder)
    if hub_files.any_stored_as(weights, dtype):
        for parameter in model.parameters():
            # nothing was converted, so the tensor is a view of its file, which would stay in memory as a whole
            parameter.data = parameter.data.clone()
    return model.eval()


def initialise_model(folder: Path, *, seed: int) -> Any:
    """An untrained Hugging Face model, with random weights, of the config of a local folder.

    It is in float32, in evaluation mode and on the CPU. Raises MechoclError for a config that cannot be read.
    """
    config = _read_config(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _auto_class(config).from_config(config, trust_remote_code=False).float().eval()


def _auto_class(config: Any) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    return AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM


# ---------------------------------------------------------------------------------------------- the tokenizer


def read_tokenizer(folder: Path, *, d_vocab: int) -> Any | None:
    """The tokenizer of a local folder; None if the folder has no tokenizer.

    Raises MechoclError for a tokenizer that cannot be read, and for a tokenizer with ids for which a model of `d_vocab`
    embeddings has no embedding. Fewer ids than embeddings are common, because vocabularies are padded.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # tokenizers raises bare exceptions
        raise MechoclError(
            f"the tokenizer in {folder} cannot be read: {describe_error(error)}; copy or save it again"
        ) from error
    ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    if ids > d_vocab:
        raise MechoclError(
            f"the tokenizer in {folder} does not match the model: it has ids up to {ids - 1}, the model has "
            f"embeddings up to {d_vocab - 1} (vocab_size in {CONFIG}); save the model's own tokenizer beside it"
        )
    return tokenizer


def require_tokenizer(folder: Path) -> Any:
    """The fast tokenizer beside a model in a local folder. It says which characters a token comes from.

    Raises MechoclError when the folder has no tokenizer, when the tokenizer is not a fast one, and as `read_tokenizer`
    and `read_config` do.
    """
    found = read_tokenizer(folder, d_vocab=read_config(folder).vocabulary)
    if found is None:
        raise MechoclError(
            f"{folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}); save it beside the model"
        )
    if not found.is_fast:
        raise MechoclError(
            f"the tokenizer in {folder} does not say which characters a token comes from; save a fast one "
            "(tokenizer.json) beside the model"
        )
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence Hugging Face during the block: no progress bars, and no warnings about what becomes an error here anyway."""
    from huggingface_hub.utils import logging as hub_logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    bars, hub_bars, verbosity = (
        logging.is_progress_bar_enabled(),
        not are_progress_bars_disabled(),
        logging.get_verbosity(),
    )
    hub_verbosity = hub_logging.get_verbosity()
    logging.disable_progress_bar()
    disable_progress_bars()
    logging.set_verbosity_error()
    hub_logging.set_verbosity(logging.ERROR)  # the hub's library logs each try to reach the hub
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
