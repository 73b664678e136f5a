"""Answers in words: greedy generation, matching, and log-probabilities.

All functions take Hugging Face models, causal or sequence-to-sequence.
"""

import json
import re
import string
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

from mechocl.closed_book.batches import IGNORED, seq2seq_batch
from mechocl.errors import MechoclError
from toy_models.task import ROLE, Task

BATCH: Final = 256
"""Number of questions that are answered at a time."""

_ARTICLES: Final = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """The answer in lower case, without punctuation and articles, with single spaces (arXiv 2310.15047, as in SQuAD)."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def matches(answer: str, allowed: Sequence[str]) -> bool:
    """Whether a normalised answer is one of the normalised answers that count as right.

    An answer that has only articles or punctuation ("A") is not normalised: it is compared as it is, but without case.
    """
    return any(
        normalised(answer) == normalised(one)
        if normalised(one)
        else answer.strip().lower() == one.strip().lower()
        for one in allowed
    )


def answer(
    model: Any, tokenizer: Any, task: Task, rows: np.ndarray, *, batch_size: int = BATCH
) -> pd.DataFrame:
    """Ask the questions in the given rows. The table has one row for each question, in the same order.

    Columns: `row`; `generated`, the greedy answer up to its newline; `exact_match`; `log_probability`, the
    log-probability of the first right answer, in nats, summed over its tokens.
    """
    generated = generate(model, tokenizer, task, rows, batch_size=batch_size)
    allowed = [json.loads(one) for one in task.table["answers"].to_numpy()[rows]]
    return pd.DataFrame(
        {
            "row": rows,
            "generated": generated,
            "exact_match": [matches(g, a) for g, a in zip(generated, allowed, strict=True)],
            "log_probability": log_probability(model, task, rows, batch_size=batch_size),
        }
    )


@torch.no_grad()
def generate(
    model: Any, tokenizer: Any, task: Task, rows: np.ndarray, *, batch_size: int = BATCH
) -> list[str]:
    """Greedy answers to the prompts of the given rows, with the key-value cache, each up to its first newline.

    An answer ends at a newline, or has two tokens more than the longest of its right answers. It does not depend on
    the other questions that are asked. An answer without an end gets `…` at its end, so that it does not count as right.
    Prompts of one length whose right answers have similar lengths share a batch, which saves computation. Raises
    MechoclError for a tokenizer that has neither a token for a newline nor one for the end of a text.
    """
    prompts, most = _prompts(task, rows), [n + 2 for n in _answer_lengths(task, tokenizer, rows)]
    ends = _newline_ids(tokenizer)
    pad = int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0])
    found: list[str] = [""] * len(rows)
    model.eval()
    for batch in _alike(prompts, most, batch_size):
        ids = torch.stack([prompts[i] for i in batch]).to(model.device)
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            num_beams=1,
            use_cache=True,
            max_new_tokens=max(most[i] for i in batch),
            eos_token_id=ends,
            pad_token_id=pad,
        )
        made = made[:, 1 if model.config.is_encoder_decoder else ids.shape[1] :].tolist()
        cut = [own[: most[i]] for i, own in zip(batch, made, strict=True)]
        texts = tokenizer.batch_decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for i, own, text in zip(batch, cut, texts, strict=True):
            unfinished = "" if set(own) & set(ends) else " …"
            found[i] = text.split("\n")[0].strip() + unfinished
    return found


@torch.no_grad()
def log_probability(model: Any, task: Task, rows: np.ndarray, *, batch_size: int = BATCH) -> np.ndarray:
    """Log-probability of each row's first right answer after its prompt, in nats, summed over its tokens."""
    return force_answers(model, task, rows, batch_size=batch_size)[0]


@torch.no_grad()
def force_answers(
    model: Any, task: Task, rows: np.ndarray, *, batch_size: int = BATCH
) -> tuple[np.ndarray, np.ndarray]:
    """The log-probability of each row's first right answer, as `log_probability` gives it, and whether each of its tokens is the
    model's first choice, given all tokens before it.

    An answer of first choices is what greedy decoding would begin with. Nothing is generated, so other right answers, and the
    same answer in another spelling, do not count.
    """
    return _forced(model, task, rows, "answer", batch_size)


@torch.no_grad()
def recall_definitions(
    model: Any, task: Task, rows: np.ndarray, *, batch_size: int = BATCH
) -> tuple[np.ndarray, np.ndarray]:
    """The definition loss of each definition, and whether it is recalled.

    The *definition loss* is minus the log-probability of the entity's tokens in nats, summed over them, each given all tokens
    before it. A definition is recalled if each of these tokens is the model's first choice.
    """
    values, hits = _forced(model, task, rows, "entity", batch_size)
    return -values, hits


def _forced(
    model: Any, task: Task, rows: np.ndarray, role: str, batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Summed log-probability of the tokens in a role, and whether every one of them is the first choice."""
    model.eval()
    values, hits = [], []
    order = np.argsort((task.roles[torch.from_numpy(rows)] != ROLE["pad"]).sum(1).numpy(), kind="stable")
    for start in range(0, len(rows), batch_size):
        batch = torch.from_numpy(rows[order[start : start + batch_size]])
        roles = task.roles[batch]
        length = int((roles != ROLE["pad"]).sum(1).max())
        tokens, roles = task.tokens[batch][:, :length].to(model.device), roles[:, :length]
        if model.config.is_encoder_decoder:
            logits, wanted, counts = _seq2seq(model, tokens, roles)
        else:
            mask = (roles != ROLE["pad"]).long().to(model.device)
            counts = (roles[:, 1:] == ROLE[role]).to(model.device)
            asked = counts.any(0).nonzero()[:, 0]  # logits of a large vocabulary take longer than all else
            logits = model(input_ids=tokens, attention_mask=mask, logits_to_keep=asked).logits
            wanted, counts = tokens[:, 1:][:, asked], counts[:, asked]
        own = logits.float().log_softmax(-1).gather(-1, wanted[..., None])[..., 0]
        first = logits.argmax(-1) == wanted
        values.append((own * counts).sum(1).double().cpu())
        hits.append((first | ~counts).all(1).cpu())
    back = np.argsort(order)
    if not values:
        return np.empty(0), np.empty(0, dtype=bool)
    return torch.cat(values).numpy()[back], torch.cat(hits).numpy()[back]


def _seq2seq(model: Any, tokens: Tensor, roles: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the decoder, which writes the answer or the entity after the encoder has read the rest, and its targets."""
    eos = model.config.eos_token_id
    batch = seq2seq_batch(tokens.cpu(), roles, pad=model.config.pad_token_id, eos=eos)
    batch = {name: value.to(model.device) for name, value in batch.items()}
    labels = batch["labels"]
    return model(**batch).logits, labels.clamp(min=0), (labels != IGNORED) & (labels != eos)


def _prompts(task: Task, rows: np.ndarray) -> list[Int[Tensor, " pos"]]:
    at = torch.from_numpy(task.position_of("equals", rows))
    return [task.tokens[row, : end + 1] for row, end in zip(rows.tolist(), at.tolist(), strict=True)]


def _answer_lengths(task: Task, tokenizer: Any, rows: np.ndarray) -> list[int]:
    """For each row, the number of tokens of the longest answer that counts as right."""
    answers = task.table["answers"].to_numpy()[rows]
    lengths = {}
    for one in set(answers):
        ids = tokenizer([f" {answer}" for answer in json.loads(one)], add_special_tokens=False)["input_ids"]
        lengths[one] = max(map(len, ids))
    return [lengths[one] for one in answers]


def _alike(prompts: list[Tensor], most: list[int], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of one prompt length, sorted by the most tokens that the answers may have."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), most[i]))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) == batch_size or len(prompts[i]) != len(prompts[batch[0]])):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def _newline_ids(tokenizer: Any) -> list[int]:
    """Ids of tokens at which an answer ends: tokens with a newline, and the end of the text."""
    strings = tokenizer.batch_decode([[i] for i in range(len(tokenizer))], clean_up_tokenization_spaces=False)
    found = [i for i, text in enumerate(strings) if "\n" in text]
    if not found and tokenizer.eos_token_id is None:
        raise MechoclError(
            "the tokenizer has no token for a newline and no end token, so answers would not end; use another model"
        )
    return found + [tokenizer.eos_token_id] * (tokenizer.eos_token_id is not None)
