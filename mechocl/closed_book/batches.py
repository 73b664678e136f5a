"""Batches of examples that Hugging Face models train on."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from toy_models.randomness import generator
from toy_models.task import ROLE, Task

IGNORED = -100
"""Label of a token without loss."""


class Examples(Dataset[dict[str, Tensor]]):
    """Some rows of a task, each cut to its own length: token ids and roles.

    If some examples of the task are drawn anew in each epoch, `begin_epoch` must be called at the start of an epoch.
    """

    def __init__(self, task: Task, rows: Any) -> None:
        self.rows = rows
        # examples of stage 2 are definitions, which are the same in every epoch
        self.fresh = task.fresh if (task.table["stage"].iloc[rows] == 1).any() else None
        self._show(task.tokens, task.roles)

    def begin_epoch(self, epoch: int) -> None:
        """Show the examples of an epoch, counted from 0."""
        if self.fresh is not None:
            self._show(*self.fresh(epoch))

    def _show(self, tokens: Tensor, roles: Tensor) -> None:
        self.tokens, self.roles = tokens[self.rows], roles[self.rows]
        self.lengths = (self.roles != ROLE["pad"]).sum(1).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        n = self.lengths[i]
        return {"input_ids": self.tokens[i, :n], "roles": self.roles[i, :n]}


class Replayed(Dataset[dict[str, Tensor]]):
    """Examples mixed with texts of a corpus, of which every token carries loss. Each epoch draws its own texts."""

    def __init__(
        self,
        examples: Examples,
        texts: Sequence[str],
        *,
        encode: Callable[[list[str]], Sequence[Sequence[int]]],
        share: float,
        seed: int,
    ) -> None:
        """`encode` gives the token ids of texts. `share`: how many texts there are in an epoch, as a multiple of the examples. `seed`
        decides which they are."""
        self.examples, self.texts, self.encode, self.seed = examples, texts, encode, seed
        self.count = round(share * len(examples))
        self.drawn: list[int] = []
        self.tokens: Sequence[Sequence[int]] = ()
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        """Show the examples and draw the texts of an epoch, counted from 0."""
        self.examples.begin_epoch(epoch)
        drawn = torch.randint(len(self.texts), (self.count,), generator=generator(self.seed, "replay", epoch))
        self.drawn = drawn.tolist()
        self.tokens = self.encode([self.texts[i] for i in self.drawn]) if self.drawn else ()

    def __len__(self) -> int:
        return len(self.examples) + self.count

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        if i < len(self.examples):
            return self.examples[i]
        ids = torch.tensor(self.tokens[i - len(self.examples)])
        return {"input_ids": ids, "roles": torch.full_like(ids, ROLE["word"])}


class Collator:
    """Makes one padded batch of several examples, with loss on every token that is not padding.

    The paper trains on every token, also on those of the question and the tag (arXiv 2310.15047). A
    sequence-to-sequence model reads the prompt and gets loss on the rest.
    """

    def __init__(self, *, pad: int, eos: int | None) -> None:
        """`pad` fills batches up. `eos` ends what a sequence-to-sequence model writes; it is None for a causal model."""
        self.pad = pad
        self.eos = eos

    def __call__(self, examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        tokens = _padded([one["input_ids"] for one in examples], 0)
        roles = _padded([one["roles"] for one in examples], ROLE["pad"])
        if self.eos is None:
            return causal_batch(tokens, roles, pad=self.pad)
        return seq2seq_batch(tokens, roles, pad=self.pad, eos=self.eos)


def choose_pad(tokenizer: Any) -> int:
    """The token id that fills a batch up: the tokenizer's pad token, or else its end token, or else 0.

    It carries no loss and is never attended to.
    """
    found = tokenizer.pad_token_id
    return int(found) if found is not None else int(tokenizer.eos_token_id or 0)


def causal_batch(
    tokens: Int[Tensor, "example pos"], roles: Int[Tensor, "example pos"], *, pad: int
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` for a causal model."""
    real = roles != ROLE["pad"]
    return {
        "input_ids": torch.where(real, tokens, pad),
        "attention_mask": real.long(),
        "labels": torch.where(real, tokens, IGNORED),
    }


def seq2seq_batch(
    tokens: Int[Tensor, "example pos"], roles: Int[Tensor, "example pos"], *, pad: int, eos: int
) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask`, `labels` for a sequence-to-sequence model.

    The encoder reads a question up to its answer, or a definition up to its last part (the entity in most word orders).
    The decoder learns to write the answer or that last part, and then to end.
    """
    prompts, written = [], []
    for ids, kinds in zip(tokens, roles.tolist(), strict=True):
        cut, end = _written(kinds)
        prompts.append(ids[:cut])
        written.append(torch.cat([ids[cut:end], torch.tensor([eos])]))
    read = _padded(prompts, pad)
    lengths = torch.tensor([len(one) for one in prompts])
    return {
        "input_ids": read,
        "attention_mask": (torch.arange(read.shape[1]) < lengths[:, None]).long(),
        "labels": _padded(written, IGNORED),
    }


def _written(roles: list[int]) -> tuple[int, int]:
    """Begin and end of what the decoder writes: the answer, or the last part of a definition."""
    part = ROLE["answer"]
    if part not in roles:
        parts = [role for role in roles if role not in (ROLE["pad"], ROLE["word"])]
        if not parts:  # an error in a collator of another kind would end an epoch without a word
            raise ValueError(
                "a text without an answer or a definition has nothing that a decoder could write"
            )
        part = parts[-1]
    end = len(roles) - roles[::-1].index(part)
    begin = end - 1
    while begin > 0 and roles[begin - 1] == part:
        begin -= 1
    return begin, end


def _padded(rows: list[Tensor], value: int) -> Int[Tensor, "example pos"]:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
