"""Tiny random Hugging Face checkpoints, every weight of which matters."""

import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCABULARY = 40
POSITIONS = 32

LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": None,
    "eos_token_id": None,
}


@torch.no_grad()
def randomised(model: nn.Module, *, seed: int = 0, std: float = 0.2) -> Any:
    """Weights larger than an initialisation's; norms about 1, so that scale and shift show."""
    draws = torch.Generator().manual_seed(seed)
    scales = ("norm.weight", "layernorm.weight", ".ln_")
    about = (
        0.0 if type(model).__name__.startswith("Gemma") else 1.0
    )  # Gemma adds 1 to the weights of its norms
    for name, parameter in model.named_parameters():
        centre = about if any(scale in name for scale in scales) else 0.0
        parameter.copy_(centre + std * torch.randn(parameter.shape, generator=draws))
    return model


def neox(**changes: Any) -> GPTNeoXForCausalLM:
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": POSITIONS,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return randomised(GPTNeoXForCausalLM(GPTNeoXConfig(**config | changes)))


def gpt2(**changes: Any) -> GPT2LMHeadModel:
    config = {
        "vocab_size": VOCABULARY,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 2,
        "n_positions": POSITIONS,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return randomised(GPT2LMHeadModel(GPT2Config(**config | changes)))


def llama(**changes: Any) -> LlamaForCausalLM:
    return randomised(LlamaForCausalLM(LlamaConfig(**LLAMA | changes)))


def mistral(**changes: Any) -> MistralForCausalLM:
    return randomised(MistralForCausalLM(MistralConfig(**LLAMA | changes)))


def qwen2(**changes: Any) -> Qwen2ForCausalLM:
    return randomised(Qwen2ForCausalLM(Qwen2Config(**LLAMA | changes)))


def qwen3(**changes: Any) -> Qwen3ForCausalLM:
    return randomised(Qwen3ForCausalLM(Qwen3Config(**LLAMA | {"head_dim": 6} | changes)))


def gemma(**changes: Any) -> GemmaForCausalLM:
    return randomised(GemmaForCausalLM(GemmaConfig(**LLAMA | {"head_dim": 6} | changes)))


def gemma2(**changes: Any) -> Gemma2ForCausalLM:
    shape = {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 9, "final_logit_softcapping": 2.0}
    return randomised(
        Gemma2ForCausalLM(Gemma2Config(**LLAMA | shape | {"attn_logit_softcapping": 1.0} | changes))
    )


def gemma3(**changes: Any) -> Gemma3ForCausalLM:
    """The lower layer has a window, the upper one has none."""
    shape = {"head_dim": 6, "sliding_window": 5, "query_pre_attn_scalar": 6, "sliding_window_pattern": 2}
    return randomised(Gemma3ForCausalLM(Gemma3TextConfig(**LLAMA | shape | changes)))


def saved(model: Any, folder: Path, *, shards: bool = False) -> Path:
    model.save_pretrained(folder, max_shard_size="4KB" if shards else "1GB")
    return folder


def with_tokenizer(folder: Path, *, ids: int) -> Path:
    """Beside the weights a tokenizer of so many words."""
    words = {"[unknown]": 0} | {f"w{i}": i for i in range(1, ids)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[unknown]"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[unknown]").save_pretrained(folder)
    return folder


def with_adapter(base: Path, *, std: float = 0.3, **changes: Any) -> Any:
    """A GPT-NeoX in a folder with a LoRA adapter on every linear layer of its blocks; what trains is random."""
    from peft import LoraConfig, get_peft_model

    targets = ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]
    theirs = GPTNeoXForCausalLM.from_pretrained(base)
    config = {"r": 2, "lora_alpha": 4, "target_modules": targets, "task_type": "CAUSAL_LM"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        model = get_peft_model(theirs, LoraConfig(**config | changes))
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(std * torch.randn(parameter.shape, generator=draws))
    return model


def adapter(base: Path, folder: Path, *, std: float = 0.3) -> Path:
    """The folder that the adapter of `with_adapter` is saved in."""
    with_adapter(base, std=std).save_pretrained(folder)
    return folder
