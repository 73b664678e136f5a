"""The questioning of text worlds: questions in words, whose answer is one of many."""

import json
import math
import re
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from toy_models.measures import Measures
from toy_models.task import ROLE, Questioning, Task, Vocabulary
from toy_models.words import Words

MEASURES: Final = Measures(
    names=("exact_match", "log_probability", "recall"),
    leading="exact_match",
    says="Exact match: the share of the questions to which the model writes a right answer, after lower-casing and without articles and "
    "punctuation.",
    second="log_probability",
    chance=MappingProxyType({}),
    smallest=MappingProxyType({"exact_match": 0.02, "log_probability": 0.1, "recall": 0.02}),
    bounds=MappingProxyType(
        {"exact_match": (0.0, 1.0), "log_probability": (-math.inf, 0.0), "recall": (0.0, 1.0)}
    ),
    # large models store only a part of the definitions in a few epochs
    least_recall=None,
)
"""Measures of answers in words, as `closed_book.evaluation` measures them."""

WORDS: Final = Words(
    entity="answer",
    entities="answers",
    difference="right − wrong",
    attributed_difference="to right − wrong answer (nats)",
    attributed_entity="to the right answer − mean answer (nats)",
    answers_in="right − wrong logit",
    lens_rank=(
        "mean rank of the right answer's first token among those of all answers (1 = top), questions about {attribute}"
    ),
    lens=(
        "Questions about one attribute. First figure: the residual stream, and what each head and MLP writes, go straight to "
        "the unembedding; the number is the mean rank of the right answer's first token among those of all answers to the "
        "question (1 is the top), so bright cells show where the answer is at hand. Second: the same through translators "
        "trained on the run's own data (tuned lens). Third: what each component adds at the colon before the answer (=) to "
        "the right answer's logit over another answer's. `alias` is the last token of the alias."
    ),
    patching=(
        "A question about a tag-2 alias is answered with one activation taken from the same question about a tag-1 alias; the "
        "number says how far that moves the logit difference towards the tag-1 alias's right answer. To another alias (of "
        "another answer) it shows where the answer enters; with the same answer, whether being defined by tag 1 itself matters, "
        "and there clean − corrupted is the whole effect that can be had."
    ),
    training_title="Fine-tuning",
    training=(
        "Each line follows one subset's held-out questions (top: log-probability of the right answer, so higher is "
        "better) and its own definitions (bottom: share whose entity is recalled token by token) through the stages; "
        "bold is the mean, thin lines are seeds. Compare blue (tag 1), red (tag 2) and violet (fresh tag) in stage 2."
    ),
    training_curves=("log_probability", "recall"),
    judged_after="the last stage on its data",
    floor="no_data",
)


class TextQuestioning(Questioning):
    """Questions in words about one attribute. Each answer is represented by its first token (`closed_book.views`)."""

    words = WORDS
    measures = MEASURES
    more_kinds = ("association", "in context")
    last_alias_token_apart = True

    def entity_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " entity"]:
        return torch.tensor(vocabulary.answers)

    def recall_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " candidate"]:
        """All tokens, since any token may be the first of an entity's name."""
        return torch.arange(vocabulary.outputs)

    def answers_of(
        self, task: Task, rows: np.ndarray
    ) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        """First tokens of the right answer, and of another answer to the same question."""
        target, foil = (torch.tensor(task.table[name].to_numpy()[rows]) for name in ("target", "foil"))
        return target, foil

    def wrong_answers(
        self, task: Task, rows: np.ndarray, rival: Int[Tensor, "question"] | None
    ) -> Int[Tensor, "question"]:
        """The rival's answer; where that counts as right, too, another wrong answer."""
        foil = self.answers_of(task, rows)[1]
        if rival is None:
            return foil
        others = self.entity_ids(task.vocabulary)[rival]
        accepted = [json.loads(cell) for cell in task.table["accepted"].to_numpy()[rows]]
        right = torch.tensor([other in ids for other, ids in zip(others.tolist(), accepted, strict=True)])
        return torch.where(right, foil, others)

    def alias_labels(self, count: int) -> list[str]:
        """`alias 1`, `alias 2` …, and `alias` for the last token, at which the whole name has been read."""
        return [*super().alias_labels(count - 1), "alias"]

    def positions_to_steer(self, task: Task, rows: np.ndarray, n_pos: int) -> list[int]:
        """Positions of the last token of the alias, and of the token at which the answer is read."""
        return [int(task.position_of("alias", rows[:1])[0]), n_pos - 1]

    def typed_hint(self, task: Task, row: int) -> str:
        return r"a text that names the alias (⏎ or \n begins a line); the answer is read after its last token"

    def typed_question(self, task: Task, row: int, text: str) -> Task:
        """The task with a text in place of this question. It is judged by the same right answer, whatever it asks.

        The text names the alias by the tokens of the question, so after a space or another word.
        """
        tokens = task.vocabulary.encode(re.sub(r"⏎|\\n", "\n", text))
        if strange := [token for token in tokens if token >= len(task.vocabulary)]:
            raise ValueError(f"type other words; the model has no token {strange[0]}")
        name = task.tokens[row][task.roles[row] == ROLE["alias"]].tolist()
        starts = [i for i in range(len(tokens) - len(name)) if tokens[i : i + len(name)] == name]
        if len(starts) != 1:
            shown = "".join(task.vocabulary.tokens[i] for i in name).strip()
            raise ValueError(f"type a text that names {shown} once, after another word, and goes on after it")
        roles = torch.full((len(tokens),), ROLE["word"])
        roles[starts[-1] : starts[-1] + len(name)] = ROLE["alias"]
        roles[-1] = ROLE["equals"]
        more = max(0, len(tokens) - task.n_ctx)
        changed = replace(
            task,
            tokens=F.pad(task.tokens, (0, more)),  # makes a copy
            roles=F.pad(task.roles, (0, more)),
            loss_mask=F.pad(task.loss_mask, (0, more)),
            fresh=None,
        )
        changed.tokens[row], changed.roles[row] = 0, ROLE["pad"]
        changed.tokens[row, : len(tokens)] = torch.tensor(tokens)
        changed.roles[row, : len(tokens)] = roles
        return changed
