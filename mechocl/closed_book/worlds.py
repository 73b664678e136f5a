"""A recipe's world, and the Hugging Face model and tokenizer that it is about."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from mechocl import files
from mechocl.closed_book import biographies
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.settings import ClosedBookConfig
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.closed_book.world import World
from mechocl.errors import MechoclError
from mechocl.models.hub import INDEX, TOKENIZER_FILES, quiet, refuse_odd_weights, weight_files

RECORD: Final = "biographies.json"
"""What a model pretrained on the invented world keeps beside its weights: how that world was drawn."""


def build_world(recipe: ClosedBookRecipe) -> World:
    """The world of a recipe. Raises MechoclError for a database that cannot be used, and for an invented world that
    is not the one that the recipe's model was pretrained on."""
    task = recipe.task
    refuse_file(task)
    if task.world == "cvdb":
        from mechocl.closed_book import cvdb

        return cvdb.load(Path(task.file), cvdb.CvdbConfig(entities=task.entities))
    if task.world == "trex":
        from mechocl.closed_book import trex

        return trex.load(Path(task.file), trex.TrexConfig(entities=task.entities))
    path = Path(recipe.model) / RECORD
    if path.exists():
        known = files.read_json(path)
        if known != drawing_record(task.biographies, task.biographies_seed):
            raise MechoclError(
                f"{path} says that the model knows another invented world ({_difference(known, task)}); set "
                "task.biographies and task.biographies_seed as there"
            )
    return biographies.world(task.biographies, seed=task.biographies_seed)


def refuse_file(task: ClosedBookConfig) -> None:
    """MechoclError where a world's database is not named, or does not exist."""
    if task.world == "biographies":
        return
    if not task.file:
        raise MechoclError(
            f"world {task.world} needs its database, which is the user's own: --set task.file=PATH"
        )
    if not Path(task.file).exists():
        raise MechoclError(
            f"task.file is {task.file}, which does not exist; give the database of {task.world}"
        )


def drawing_record(config: BiographiesConfig, seed: int) -> dict[str, Any]:
    """What `RECORD` holds."""
    return dataclasses.asdict(config) | {"seed": seed}


def _difference(known: dict[str, Any], task: Any) -> str:
    own = drawing_record(task.biographies, task.biographies_seed)
    return ", ".join(
        f"{key} {known.get(key)}, not {value}" for key, value in own.items() if known.get(key) != value
    )


def tokenizer(model: str) -> Any:
    """The fast tokenizer of a model's folder or hub name. MechoclError where there is none."""
    from transformers import AutoTokenizer

    folder = Path(model)
    if folder.is_dir() and not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise MechoclError(
            f"{model} has no tokenizer ({', '.join(TOKENIZER_FILES)}); save it beside the model"
        )
    try:
        with quiet():
            found = AutoTokenizer.from_pretrained(
                model, local_files_only=folder.is_dir(), trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise MechoclError(f"{model}: no tokenizer can be read there ({_line(error)}); {_ADVICE}") from None
    if not found.is_fast:
        raise MechoclError(
            f"{model}: its tokenizer says nothing of where tokens come from; a fast one is needed"
        )
    return found


def trainable(source: Path | str, kind: str) -> Any:
    """A Hugging Face model in float32, to be trained. MechoclError where it cannot be read, is of another kind, or does
    not have exactly its weights, in safetensors. Code that comes with it is not run."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    local = Path(source).is_dir()
    safely = {"local_files_only": local, "trust_remote_code": False}
    options = safely | {
        "use_safetensors": True,
        "dtype": torch.float32,
        "ignore_mismatched_sizes": True,  # reported below, by name
        "output_loading_info": True,
    }
    files = weight_files(Path(source)) if local else {}
    try:
        config = AutoConfig.from_pretrained(source, **safely)
        if config.is_encoder_decoder != (kind == "seq2seq"):
            raise MechoclError(
                f"{source} is a {config.model_type} model, and training.kind is {kind!r}; "
                f"use kind = {'causal' if kind == 'seq2seq' else 'seq2seq'!r}"
            )
        auto = AutoModelForSeq2SeqLM if kind == "seq2seq" else AutoModelForCausalLM
        with quiet():
            model, info = auto.from_pretrained(source, **options)
    except MechoclError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MechoclError(f"{source}: no model can be read there ({_line(error)}); {_ADVICE}") from None
    refuse_odd_weights(Path(source) / INDEX if local else source, files, info)
    return model


_ADVICE: Final = "give the folder of a saved Hugging Face model, or a hub name and a network"


def _line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def fingerprint(recipe: ClosedBookRecipe) -> dict[str, str]:
    """What a run begins with: sha256 of the files of a local model and of the database, by their paths; the commit of a
    hub's model, by its name."""
    found: dict[str, str] = {}
    model = Path(recipe.model)
    if model.is_dir():
        named = [p for p in sorted(model.iterdir()) if p.suffix in (".json", ".safetensors")]
        found |= {str(path): files.sha256(path) for path in named}
    else:
        found[recipe.model] = getattr(_config(recipe.model), "_commit_hash", None) or "hub"
    file = Path(recipe.task.file) if recipe.task.file else None
    if file is not None:
        parts = sorted(file.glob("*.json")) if file.is_dir() else [file]
        found |= {str(path): files.sha256(path) for path in parts if path.is_file()}
    return found


def kind_of(folder: Path) -> str:
    """ "causal" or "seq2seq"."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    return "seq2seq" if config.is_encoder_decoder else "causal"


def context(model: str) -> int:
    """Tokens that a model can read at a time."""
    config = _config(model)
    found: int = getattr(config, "max_position_embeddings", 0) or getattr(config, "n_positions", 512)
    return found


def refuse_tokenizer(tokenizer: Any, model: str) -> None:
    """MechoclError for a tokenizer that gives more ids than the model has weights for."""
    known = int(_config(model).vocab_size)
    if len(tokenizer) > known:
        raise MechoclError(
            f"{model}: its tokenizer has {len(tokenizer)} tokens and the model {known} (weight of the embedding); "
            "they do not belong together"
        )


def _config(model: str) -> Any:
    from transformers import AutoConfig

    try:
        with quiet():
            return AutoConfig.from_pretrained(
                model, local_files_only=Path(model).is_dir(), trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        raise MechoclError(f"{model}: no model can be read there ({_line(error)}); {_ADVICE}") from None


def pad_id(tokenizer: Any) -> int:
    """The token that fills a batch; it carries no loss and is never attended to."""
    found = tokenizer.pad_token_id
    return int(found) if found is not None else int(tokenizer.eos_token_id or 0)


def parameters(folder: Path) -> int:
    """Weights in a local folder, from the heads of its safetensors files. MechoclError as `weight_files`."""
    from safetensors import safe_open

    found = 0
    for path, names in weight_files(folder).items():
        with safe_open(path, framework="pt") as file:
            found += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return found
