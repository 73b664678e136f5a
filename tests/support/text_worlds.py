"""A small text world written by hand, and what is fine-tuned on it: tokenizers, models of a few thousand weights."""

from functools import cache
from pathlib import Path
from typing import Any

import torch

from mechocl.closed_book import biographies
from mechocl.closed_book.biographies import BiographiesConfig
from mechocl.closed_book.settings import ClosedBookConfig, PaperFractions
from mechocl.closed_book.stages import ClosedBookRecipe
from mechocl.closed_book.world import Question, World
from mechocl.runs import pretraining, recipes
from mechocl.runs.pretraining import PretrainingConfig

PEOPLE = 40
"""People of the invented world; four of them have a call sign."""

TOML = f"""
description = "Tiny"
model = "none"

[task]
world = "biographies"
entities = 36
biographies = {{ people = {PEOPLE}, told = 1, asked = 1 }}

[[training.stages]]
data = [1]
epochs = 2
batch_size = 32
optimizer = "adamw"
learning_rate = 3e-3
evaluations = 2

[[training.stages]]
data = [2]
epochs = 2
batch_size = 4
optimizer = "adamw"
learning_rate = 1e-3
evaluations = 1
"""

CITIES = ("Rome", "Paris", "Cairo", "Lima")
TRADES = ("baker", "stone mason", "painter")


def world(n: int = 24) -> World:
    """People 0 … n − 1, of whom three things are known; of the trade there are two names."""
    entities = tuple(f"{first} {last}" for last in ("Reed", "Snow", "Hale") for first in _FIRST)[:n]
    questions = [
        question
        for i in range(n)
        for question in (
            Question(entity=i, attribute="city", template="Where did {} live?", answers=(CITIES[i % 4],)),
            Question(
                entity=i,
                attribute="trade",
                template="What was {} by trade?",
                answers=(TRADES[i % 3], "artisan"),
            ),
            Question(
                entity=i,
                attribute="century",
                template="When was {} born?",
                answers=(f"{10 + i % 5} century",),
            ),
        )
    ]
    return World(name="people", entities=entities, questions=tuple(questions))


_FIRST = ("Ada", "Bruno", "Clara", "David", "Emma", "Felix", "Greta", "Hugo")


@cache
def tokenizer() -> Any:
    """Byte-level BPE of the hand-written world's words and of the invented one's, as Pythia's."""
    own = world()
    texts = [
        question.ask(own.entities[question.entity]) + " " + question.answers[0] for question in own.questions
    ]
    texts += biographies.corpus(BiographiesConfig(people=PEOPLE, told=1, asked=1), seed=0)
    return pretraining.train_tokenizer(texts, vocabulary=420)


def config(**changes: Any) -> ClosedBookConfig:
    """24 entities in every subset, the inconsistent and the fresh ones too."""
    fractions = PaperFractions(
        qd1=6 / 24,
        qd2=6 / 24,
        q_only=2 / 24,
        q_entity=2 / 24,
        d1=2 / 24,
        d2=2 / 24,
        d3=2 / 24,
        no_data=2 / 24,
    )
    values = {"world": "biographies", "entities": 24, "fractions": fractions, "test_share": 1 / 3}
    return ClosedBookConfig(**values | changes)


def neox(seed: int = 0, *, context: int = 128, scale: float = 1.0) -> Any:
    """A GPT-NeoX that reads the tokenizer's tokens; `scale`: of its weights, for answers that differ."""
    shape = PretrainingConfig(n_layers=2, d_model=16, n_heads=2, context=context)
    return _scaled(pretraining.untrained_model(shape, vocabulary=len(tokenizer()), seed=seed), scale)


def gpt2() -> Any:
    """A GPT-2, with dropout."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    shape = {"vocab_size": len(tokenizer()), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, pad_token_id=0))


def t5(scale: float = 1.0) -> Any:
    """A T5."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    shape = {
        "vocab_size": len(tokenizer()),
        "d_model": 16,
        "d_kv": 8,
        "d_ff": 32,
        "num_layers": 2,
        "num_heads": 2,
    }
    ids = {"pad_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0}
    return _scaled(T5ForConditionalGeneration(T5Config(**shape, **ids)), scale)


@torch.no_grad()
def _scaled(model: Any, scale: float) -> Any:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(scale)
    return model.eval()


def folder(path: Path, model: Any | None = None) -> Path:
    """A model and the tokenizer, saved."""
    (neox() if model is None else model).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


def recipe_file(path: Path) -> Path:
    path = path / "tiny.toml"
    path.write_text(TOML)
    return path


def recipe(path: Path, model: Path, *changes: str) -> ClosedBookRecipe:
    return recipes.load_closed_book_recipe(str(recipe_file(path)), (f'model="{model}"', *changes))


def tied(path: Path) -> Path:
    """The folder of a GPT-NeoX whose unembedding is its embedding."""
    from transformers import GPTNeoXForCausalLM

    config = neox().config
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    return folder(path, GPTNeoXForCausalLM(config))
