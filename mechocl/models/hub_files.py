"""The files in the folder of a checkpoint: JSON files and weights in safetensors. A pickle is refused.

Every function here reads local files alone, and opens no pickle.
"""

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open

from mechocl.errors import MechoclError

CONFIG: Final = "config.json"
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
ADAPTER: Final = "adapter_config.json"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")

PICKLE: Final = (
    "{path} is a pickle, which can run any code when it is opened; only safetensors is read. "
    "If you trust it, convert it: {command}"
)

_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")

_OLD_BUFFERS: Final = re.compile(r"(\.(attention|attn)\.(masked_)?bias|\.rotary_emb\.inv_freq)$")
"""Causal masks and rotary frequencies, which older checkpoints store beside the weights."""


def read_object(folder: Path, name: str) -> dict[str, Any]:
    """The object in a JSON file of a checkpoint. Raises MechoclError when it is missing or holds anything else."""
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MechoclError(f"{folder} has no {name}; give the folder that save_pretrained made") from error
    except (ValueError, RecursionError) as error:
        raise MechoclError(f"{folder / name} is not JSON ({error}); copy or download it again") from error
    if not isinstance(found, dict):
        raise MechoclError(f"{folder / name} is not a JSON object; copy or download it again")
    return found


def list_weights(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files of a checkpoint and the names of the tensors in each.

    Raises MechoclError for a file that is missing or damaged, and for a folder that holds only a pickle.
    """
    if (folder / SINGLE).is_file():
        return {folder / SINGLE: read_names(folder / SINGLE)}
    if (folder / INDEX).is_file():
        names = sorted(set(read_object(folder, INDEX).get("weight_map", {}).values()))
        if not names:
            raise MechoclError(f"{folder / INDEX} names no files; copy or download it again")
        for name in names:
            if not (folder / name).is_file():
                raise MechoclError(f"{folder / name} is missing, which {INDEX} names; copy or download it")
        return {folder / name: read_names(folder / name) for name in names}
    pickles = sorted(path for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise MechoclError(PICKLE.format(path=pickles[0], command=conversion_command(folder, folder)))
    raise MechoclError(
        f"{folder} has no weights: neither {SINGLE} nor {INDEX}; give the folder that save_pretrained made"
    )


def read_names(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file. Raises MechoclError when it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        raise MechoclError(f"{path} is damaged ({error}); copy or download it again") from error


def count_weights(folder: Path) -> int:
    """Number of weights in a checkpoint, from the headers of its files. Raises MechoclError as `list_weights` does."""
    found = 0
    for path, names in list_weights(folder).items():
        with safe_open(path, framework="pt") as file:
            found += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return found


def any_stored_as(weights: dict[Path, set[str]], dtype: torch.dtype) -> bool:
    """Whether any tensor of `list_weights` is stored in this precision."""
    name = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}[dtype]
    for path, names in weights.items():
        with safe_open(path, framework="pt") as file:
            if any(file.get_slice(tensor).get_dtype() == name for tensor in names):
                return True
    return False


def conversion_command(source: str | Path, folder: str | Path) -> str:
    """A shell command that reads the model `source`, a folder or hub name, and writes it to `folder` as safetensors."""
    names = f"{shlex.quote(str(source))} {shlex.quote(str(folder))}"
    config = Path(source) / CONFIG
    seq2seq = config.is_file() and read_object(Path(source), CONFIG).get("is_encoder_decoder")
    return (
        f'python -c "import sys; from transformers import AutoModelFor{"Seq2Seq" if seq2seq else "Causal"}LM as M; '
        f"M.from_pretrained(sys.argv[1], dtype='auto').save_pretrained(sys.argv[2])\" {names}"
    )


def refuse_odd_weights(folder: Path, weights: dict[Path, set[str]], info: dict[str, Any]) -> None:
    """Raise MechoclError, with the name of a weight, if weights are missing, unexpected or of another shape.

    Args:
        folder: the folder that the model was read from.
        weights: what `list_weights` says of it.
        info: the loading info of a model that was read with `ignore_mismatched_sizes`.
    """
    where = next(iter(weights)) if len(weights) == 1 else folder / INDEX
    missing = sorted(info["missing_keys"])
    if missing:
        raise MechoclError(f"{where} is incomplete: weight {missing[0]} is missing{_more(missing)}")
    mismatched = sorted(info["mismatched_keys"])
    if mismatched:
        name, found, expected = mismatched[0]
        raise MechoclError(
            f"{where} does not fit {CONFIG}: weight {name} has shape {tuple(found)}, "
            f"{tuple(expected)} is expected{_more(mismatched)}"
        )
    unexpected = sorted(name for name in info["unexpected_keys"] if not _OLD_BUFFERS.search(name))
    if unexpected:
        where = next((path for path, names in weights.items() if unexpected[0] in names), where)
        raise MechoclError(
            f"{where} does not fit {CONFIG}: weight {unexpected[0]} is unexpected{_more(unexpected)}"
        )


def _more(names: list[Any]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
