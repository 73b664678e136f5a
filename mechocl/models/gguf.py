"""Make an ordinary Hugging Face folder of a GGUF file, whose weights are quantised.

transformers reads the file and multiplies the weights out. What is then opened, fine-tuned and compared is this dequantised model.
"""

from pathlib import Path
from typing import Any, Final

import torch

from mechocl import files
from mechocl.destinations import written_by_library
from mechocl.errors import MechoclError, describe_error
from mechocl.models.hub import quiet

RECORD: Final = "gguf.json"
"""File beside the weights: which GGUF file they are of."""

_MAGIC: Final = b"GGUF"


def is_gguf(path: Path) -> bool:
    """Whether a path is a file that begins as GGUF files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def dequantise(path: Path, out: Path) -> None:
    """Read a GGUF file, and save its model in float32 and its tokenizer into a new folder `out`.

    If `out` holds the model of the same file, nothing is done. Raises MechoclError, in one line, where the file is none, where the package
    gguf is missing, where transformers does not know the file's architecture or quantisation, and where `out` holds something else.
    """
    if not is_gguf(path):
        raise MechoclError(f"{path} is no GGUF file, which begins with the letters GGUF; give one")
    record = {"source": path.name, "sha256": files.sha256(path)}
    if out.exists():
        if (out / RECORD).is_file() and files.read_json(out / RECORD) == record:
            return
        raise MechoclError(f"{out} exists and is not the model of {path}; choose another --out")
    model, tokenizer = _read(path)
    with files.new_folder(out) as folder, written_by_library(out):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files.write_json(folder / RECORD, record)


def _read(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    try:
        with quiet():
            read = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **where)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **where)
    except ImportError as error:
        raise MechoclError("GGUF files need the package gguf: pip install 'mechocl[pythia]'") from error
    except Exception as error:  # transformers raises whatever its code meets
        raise MechoclError(
            f"{path} cannot be read: {describe_error(error)}; give a file of an architecture and a quantisation that transformers knows"
        ) from error
    # The model says that it is quantised, and its weights are not. A model of the same config is not, and has its own names
    # of tied weights, which saving needs.
    config = read.config
    del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model.eval(), tokenizer
