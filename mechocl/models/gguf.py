"""Make an ordinary Hugging Face folder of a GGUF file, whose weights are quantised.

transformers reads the file and multiplies the weights out. What is then opened, fine-tuned and compared is this dequantised model.
"""

import json
import tempfile
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
    """Read a GGUF file, and save its model in float32 and its tokenizer into a folder `out`, which is new or empty.

    If `out` holds the model of a file of the same content, nothing is done. Raises MechoclError, in one line, where the file is none, where the package
    gguf is missing, where transformers does not know the file's architecture or quantisation, where the file scales rotary
    embeddings, which transformers would not read, and where `out` holds something else.
    """
    if not is_gguf(path):
        raise MechoclError(f"{path} is no GGUF file, which begins with the letters GGUF; give one")
    digest = files.sha256(path)
    if out.is_dir() and any(out.iterdir()):
        if (out / RECORD).is_file() and files.read_json(out / RECORD).get("sha256") == digest:
            return
        raise MechoclError(f"{out} exists and is not the model of {path}; choose another --out")
    model, tokenizer = _read(path, digest)
    with files.new_folder(out) as folder, written_by_library(out):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        files.write_json(folder / RECORD, {"source": path.name, "sha256": digest})


def _read(path: Path, digest: str) -> tuple[Any, Any]:
    try:
        with quiet(), tempfile.TemporaryDirectory() as alone:
            # transformers looks for the file in the working folder first, and for a tokenizer beside it
            link = Path(alone) / f"{digest}.gguf"
            link.symlink_to(path.resolve())
            _refuse_scaled_rotations(link, path)
            return _opened(link)
    except ImportError as error:
        raise MechoclError("GGUF files need the package gguf: pip install 'mechocl[pythia]'") from error
    except MechoclError:
        raise
    except Exception as error:  # transformers and gguf raise whatever their code meets
        raise MechoclError(
            f"{path} cannot be read: {describe_error(error)}; give a file of an architecture and a quantisation that transformers knows"
        ) from error


def _refuse_scaled_rotations(link: Path, path: Path) -> None:
    from gguf import GGUFReader

    scaled = [tensor.name for tensor in GGUFReader(link).tensors if tensor.name.startswith("rope_freqs")]
    if scaled:
        raise MechoclError(
            f"{path} scales rotary embeddings ({scaled[0]}), which transformers does not read, so the model would be another one; give "
            "the model's own folder"
        )


def _opened(link: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where: dict[str, Any] = {"gguf_file": link.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(link.parent, dtype=torch.float32, **where)
    tokenizer = AutoTokenizer.from_pretrained(link.parent, **where)
    # The model says that it is quantised, and its weights are not. A model of the same config is not, and has its own names
    # of tied weights, which saving needs.
    config = read.config
    del config.quantization_config
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    model.tie_weights()
    return model.eval(), _without_added(tokenizer, config.vocab_size)


def _without_added(tokenizer: Any, size: int) -> Any:
    """The tokenizer without tokens for which the model has no embedding. The file does not have them; transformers adds some, such as
    an end of text, to every tokenizer of a class."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    if max(tokenizer.get_vocab().values(), default=-1) < size:
        return tokenizer
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    parts["added_tokens"] = [one for one in parts["added_tokens"] if one["id"] < size]
    known = {token for token, number in tokenizer.get_vocab().items() if number < size}
    special = {
        name: str(token)
        for name, token in tokenizer.special_tokens_map.items()
        if name != "additional_special_tokens" and str(token) in known
    }
    kept = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(parts)), **special)
    kept.chat_template = tokenizer.chat_template
    return kept
