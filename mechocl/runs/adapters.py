"""Low-rank adapters that are trained in place of all weights."""

import warnings
from typing import Any

import torch

from mechocl.closed_book.stages import LoraConfig
from mechocl.errors import MechoclError, describe_error
from mechocl.models import hub


def with_adapters(model: Any, config: LoraConfig, *, seed: int, tokens: range = range(0)) -> Any:
    """The model with trainable low-rank adapters; its own weights are frozen but for the embeddings of these tokens, which are trained.

    Raises MechoclError for layers that the model does not have.
    """
    import peft

    targets = list(config.targets) or "all-linear"
    with torch.random.fork_rng(), hub.quiet(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="`is_gradient_checkpointing`", category=FutureWarning
        )  # peft asks
        torch.manual_seed(seed)
        try:
            return peft.get_peft_model(
                model,
                peft.LoraConfig(
                    r=config.rank,
                    lora_alpha=config.alpha,
                    target_modules=targets,
                    trainable_token_indices=list(tokens) or None,
                ),
            )
        except ValueError as error:
            raise MechoclError(
                f"training.lora.targets {list(config.targets)}: {describe_error(error)}"
            ) from None
