"""From a local folder or a hub name to a Hugging Face model in memory: safetensors alone, all weights or none.

A local folder is read without a word to any hub. No code that comes with a checkpoint is ever run.
"""

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from textwrap import shorten
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from mechocl.errors import MechoclError
from mechocl.models.convert import FAMILIES

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_config.json"

PICKLE: Final = (
    "{path} is a pickle, which can run any code when it is opened; only safetensors is read. "
    "If you trust it, convert it: {command}"
)

_TO_FETCH: Final = ["*.safetensors", "*.json", "*.txt", "*.model"]
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")

_OLD_BUFFERS: Final = re.compile(r"(\.(attention|attn)\.(masked_)?bias|\.rotary_emb\.inv_freq)$")
"""Causal masks and rotary frequencies, which older checkpoints store beside the weights."""


def locate(path_or_name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a checkpoint; a hub name's files are fetched into the hub's cache first.

    A folder that exists wins over a hub name. Raises MechoclError for a path that does not exist, and when the
    hub does not give the files.
    """
    folder = Path(path_or_name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise MechoclError(f"{folder} is a local folder, which has no revisions; leave revision out")
        return folder
    if folder.exists():
        raise MechoclError(f"{folder} is a file; give the folder of a saved Hugging Face model")
    name = str(path_or_name)
    looks_like_a_path = name.startswith((".", "~", os.sep)) or name.count("/") > 1 or os.sep + os.sep in name
    if isinstance(path_or_name, Path) or looks_like_a_path:
        raise MechoclError(f"{folder} does not exist; give the folder of a saved Hugging Face model")
    return _fetched(name, revision)


def _fetched(name: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        with quiet():
            folder = snapshot_download(
                name, revision=revision, allow_patterns=_TO_FETCH, ignore_patterns=["*/*", "consolidated*"]
            )
    except (OSError, ValueError, errors.HTTPError, errors.EntryNotFoundError) as error:  # type: ignore[attr-defined]
        of = f" at revision {revision}" if revision else ""
        raise MechoclError(
            f"{name}{of} cannot be fetched: there is no such folder here, and no network or no such model "
            f"({type(error).__name__}); download it elsewhere and give the folder"
        ) from error
    if not any(Path(folder).glob("*.safetensors")):
        raise MechoclError(
            f"{name} has no safetensors on the hub, and a pickle is not read. If you trust it, convert it and give "
            f"the folder: {conversion_command(name, 'FOLDER')}"
        )
    return Path(folder)


def read(folder: Path, *, dtype: torch.dtype) -> Any:
    """The causal language model of a folder, on the CPU in evaluation mode, its weights in `dtype`.

    Raises MechoclError, with the file or the weight, for a folder without a config or without safetensors, a
    pickle, an architecture that is not in `conversion.FAMILIES`, quantized weights, a damaged file, and weights
    that are missing, unexpected or of another shape.
    """
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    architecture = _architecture(folder)
    files = weight_files(folder)
    try:
        with quiet():
            model, info = getattr(transformers, architecture).from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=dtype,
                attn_implementation="eager",
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
            )
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise MechoclError(f"the model in {folder} cannot be read: {reason(error)}") from error
    refuse_odd_weights(folder / INDEX, files, info)
    if _stored_as(files, dtype):
        for parameter in model.parameters():
            # nothing was converted, so it is a view of its file, which stays in memory whole for any tensor of it
            parameter.data = parameter.data.clone()
    return model.eval()


def reason(error: Exception) -> str:
    """A foreign error in one line of bearable length."""
    return shorten(f"{type(error).__name__}: {error}", 300)


def _architecture(folder: Path) -> str:
    config = json_object(folder, "config.json")
    found = config.get("architectures") or ["no architecture"]
    if not isinstance(found, list) or len(found) != 1 or found[0] not in FAMILIES:
        raise MechoclError(
            f"{folder} holds {', '.join(map(str, found))}; only causal language models can be loaded: {', '.join(FAMILIES)}"
        )
    if config.get("quantization_config"):
        raise MechoclError(
            f"{folder / 'config.json'} says that the weights are quantized; give unquantized ones"
        )
    architecture: str = found[0]
    return architecture


def json_object(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a checkpoint. MechoclError where it is missing or holds anything but an object."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MechoclError(f"{folder} has no {name}; give the folder that save_pretrained made") from error
    except ValueError as error:
        raise MechoclError(f"{folder / name} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise MechoclError(f"{folder / name} is not a JSON object")
    return found


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files of a checkpoint and the tensors in each.

    Raises MechoclError for a file that is missing or damaged, and for a folder that holds only a pickle.
    """
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: tensor_names(folder / SINGLE)}
    if (folder / INDEX).is_file():
        names = sorted(set(json_object(folder, INDEX).get("weight_map", {}).values()))
        if not names:
            raise MechoclError(f"{folder / INDEX} names no files")
        for name in names:
            if not (folder / name).is_file():
                raise MechoclError(f"{folder / name} is missing, which {INDEX} names")
        return {folder / name: tensor_names(folder / name) for name in names}
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise MechoclError(PICKLE.format(path=pickles[0], command=conversion_command(folder, folder)))
    raise MechoclError(f"{folder} has no weights: neither {SINGLE} nor {INDEX}")


def conversion_command(source: str | Path, folder: str | Path) -> str:
    """A shell command that writes the model in a folder or under a hub name to a folder, as safetensors."""
    names = f"{shlex.quote(str(source))} {shlex.quote(str(folder))}"
    config = Path(source) / "config.json"
    seq2seq = config.is_file() and json_object(Path(source), "config.json").get("is_encoder_decoder")
    return (
        f'python -c "import sys; from transformers import AutoModelFor{"Seq2Seq" if seq2seq else "Causal"}LM as M; '
        f"M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2])\" {names}"
    )


def tensor_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file; MechoclError when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise MechoclError(f"{path} is damaged ({error}); copy or download it again") from error


def _stored_as(files: dict[Path, set[str]], dtype: torch.dtype) -> bool:
    """Whether any tensor is already stored in this precision."""
    name = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    for path, names in files.items():
        with safe_open(path, framework="pt") as file:
            if any(file.get_slice(tensor).get_dtype() == name for tensor in names):
                return True
    return False


def refuse_odd_weights(source: Path | str, files: dict[Path, set[str]], info: dict[str, Any]) -> None:
    """MechoclError for weights that are missing, of another shape or unexpected, from the loading info of a model that
    was read with `ignore_mismatched_sizes`. `source`: what is named where that is not one of the files."""
    where = next(iter(files)) if len(files) == 1 else source
    missing = sorted(info["missing_keys"])
    if missing:
        raise MechoclError(f"{where} is incomplete: weight {missing[0]} is missing{_more(missing)}")
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise MechoclError(
            f"{where} does not fit config.json: weight {name} has shape {tuple(found)}, "
            f"{tuple(expected)} is expected{_more(mismatched)}"
        )
    unexpected = sorted(name for name in info["unexpected_keys"] if not _OLD_BUFFERS.search(name))
    if unexpected:
        where = next((path for path, names in files.items() if unexpected[0] in names), where)
        raise MechoclError(
            f"{where} does not fit config.json: weight {unexpected[0]} is unexpected{_more(unexpected)}"
        )


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""


def tokenizer_of(folder: Path, *, d_vocab: int) -> Any | None:
    """The tokenizer of a folder, None where it has none.

    Raises MechoclError for a tokenizer that cannot be read, and for one with ids that the model has no embedding
    for. Fewer ids than embeddings are common: vocabularies are padded.
    """
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise MechoclError(f"the tokenizer in {folder} cannot be read: {reason(error)}") from error
    ids = max(tokenizer.get_vocab().values(), default=-1) + 1
    if ids > d_vocab:
        raise MechoclError(
            f"the tokenizer in {folder} does not match the model: it has ids up to {ids - 1}, the model has "
            f"embeddings up to {d_vocab - 1} (vocab_size in config.json)"
        )
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no lines about what becomes an error here anyway."""
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
    hub_logging.set_verbosity(logging.ERROR)  # it tells of each try to reach the hub
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(hub_verbosity)
        if bars:
            logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()
