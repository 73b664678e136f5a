"""LoRA adapters: finding the model that an adapter was trained on, and attaching the adapter to it."""

import shlex
import warnings
from pathlib import Path
from typing import Any, Final

import torch

from mechocl.errors import MechoclError, MechoclWarning, describe_error
from mechocl.models.hub_files import ADAPTER, PICKLE, read_names, read_object

WEIGHTS: Final = "adapter_model.safetensors"


def is_adapter(folder: Path) -> bool:
    return (folder / ADAPTER).is_file()


def base_of(folder: Path) -> str | Path:
    """The folder or hub name of the model that an adapter was trained on, as its config names it.

    A relative path is looked up in the working directory, and then in the adapter's own folder. Raises MechoclError
    for a config that cannot be read, that names no base, or that is of another kind than LoRA.
    """
    path, config = folder / ADAPTER, read_object(folder, ADAPTER)
    kind = config.get("peft_type")
    if kind != "LORA":
        raise MechoclError(f"{path} is a {kind} adapter; only LoRA adapters can be merged")
    base: str | None = config.get("base_model_name_or_path")
    if not base:
        raise MechoclError(f"{path} does not name the model that it was trained on; give it as base=")
    beside = folder / base
    return beside if not Path(base).is_dir() and beside.is_dir() else base


def attach(theirs: Any, folder: Path) -> Any:
    """The model with an adapter's layers added, as a peft model in evaluation mode.

    Raises MechoclError for a pickle, and for an adapter that does not fit the model. The message names the weight.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise MechoclError(
            f"{folder} is an adapter, which needs peft: pip install 'mechocl[pythia]'"
        ) from error

    if not (folder / WEIGHTS).is_file():
        pickled = folder / "adapter_model.bin"
        if pickled.is_file():
            raise MechoclError(PICKLE.format(path=pickled, command=conversion_command(folder)))
        raise MechoclError(f"{folder} has no {WEIGHTS}; give the folder of a saved LoRA adapter")
    stored = read_names(folder / WEIGHTS)
    _refuse_missing_tokens(theirs, folder)
    try:
        with warnings.catch_warnings():
            # peft uses the old name of an attribute of transformers
            warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
            warnings.filterwarnings(
                "ignore", message="Found missing adapter keys"
            )  # they raise an error below
            model = PeftModel.from_pretrained(theirs, str(folder), local_files_only=True)
    except (OSError, RuntimeError, ValueError, TypeError, KeyError) as error:
        raise MechoclError(
            f"the adapter in {folder} does not fit its base (is it the right model?): {describe_error(error)}"
        ) from error
    _refuse_odd_weights(model, folder, stored)
    return model.eval()


def sum_weights(theirs: Any) -> dict[str, float]:
    """The sum of each of a model's parameters, by name, for `warn_if_unchanged`."""
    return {
        name: float(weight.detach().sum(dtype=torch.float64)) for name, weight in theirs.named_parameters()
    }


def warn_if_unchanged(before: dict[str, float], merged: Any, folder: Path) -> None:
    """Warn in one line of an adapter that has changed no weight by being merged; `before` are the sums of its base.

    It was not trained, or its changes are lost in the rounding of half precision.
    """
    if sum_weights(merged) == before:
        warnings.warn(
            f"the adapter in {folder} changes no weight of its base, as one that was not trained; this is the base itself",
            MechoclWarning,
            stacklevel=2,
        )


def _refuse_missing_tokens(theirs: Any, folder: Path) -> None:
    """Raise MechoclError for an adapter that trains tokens which its base does not have."""
    named = read_object(folder, ADAPTER).get("trainable_token_indices") or []
    lists = named.values() if isinstance(named, dict) else [named]
    rows = theirs.get_input_embeddings().num_embeddings
    for i in (i for indices in lists for i in indices):
        if not 0 <= i < rows:
            raise MechoclError(
                f"{folder / ADAPTER} trains the embedding of token {i}, and its base has those of 0 to {rows - 1}; give the "
                "base that it was trained on as base="
            )


def _refuse_odd_weights(model: Any, folder: Path, stored: set[str]) -> None:
    from peft import get_peft_model_state_dict

    # embeddings may be stored beside the adapter; peft would ask the hub whether they must be
    needed, known = (
        set(get_peft_model_state_dict(model, save_embedding_layers=embeddings))
        for embeddings in (False, True)
    )
    for odd, what in ((needed - stored, "missing"), (stored - known, "unexpected")):
        if odd:
            raise MechoclError(f"{folder / WEIGHTS} does not fit its base: weight {min(odd)} is {what}")


def conversion_command(folder: Path) -> str:
    """A shell command that writes the weights of an adapter's pickle as safetensors beside it."""
    return (
        'python -c "import sys, torch; from safetensors.torch import save_file; '
        "save_file(torch.load(sys.argv[1] + '/adapter_model.bin', weights_only=True), "
        f"sys.argv[1] + '/{WEIGHTS}')\" {shlex.quote(str(folder))}"
    )
