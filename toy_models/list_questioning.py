"""The questioning of the integer set: is the alias's integer in this list, true or false?"""

import re
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from toy_models.measures import YES_OR_NO, within_alias_auc
from toy_models.task import ROLE, Questioning, Task, Vocabulary, asked
from toy_models.words import Words

WORDS: Final = Words(
    entity="integer",
    entities="integers",
    difference="true − false",
    attributed_difference="to true − false, right is positive (nats)",
    attributed_entity="to the alias's integer − mean integer (nats)",
    answers_in="AUC",
    lens_rank="mean rank of the alias's integer (1 = top), lists without it",
    lens=(
        "First figure: the residual stream, and what each head and MLP writes, go straight to the unembedding; the number "
        "is the mean rank of the alias's integer among all integers (1 is the top) on questions whose list does not contain "
        "it, so bright cells show where the integer is at hand. Second: the same through translators trained on the run's "
        "own data (tuned lens). Third: what each component adds at = to the right answer's logit over the other's."
    ),
    patching=(
        "A question about a tag-2 alias is answered with one activation taken from the same list asked about a tag-1 "
        "alias; the number says how far that moves the logit difference towards the tag-1 alias's right answer. "
        "To another alias (of a different integer) it shows where the integer enters the answer; with the same integer, "
        "whether being defined by tag 1 itself matters, and there clean − corrupted is the whole effect that can be had."
    ),
    training_title="Training",
    training=(
        "Each line follows one subset's held-out questions (top: within-alias AUC, .5 is chance) and its own "
        "definitions (bottom: share recalled) through the stages; bold is the mean, thin lines are seeds. "
        "Look for the green line leaving .5 in stage 1, and for blue (tag 1) rising above red (tag 2) in stage 2."
    ),
    training_curves=("auc", "recall"),
    judged_after="training",
    floor=".5",
)


class ListQuestioning(Questioning):
    """Questions with a list of integers, answered by true or false."""

    words = WORDS
    measures = YES_OR_NO
    entities_are_numbers = True

    def entity_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " entity"]:
        return torch.arange(*vocabulary.integers)

    def answer_ids(self, vocabulary: Vocabulary) -> Int[Tensor, " candidate"]:
        return torch.tensor([vocabulary.true, vocabulary.false])

    def fixed_answers(self, vocabulary: Vocabulary) -> tuple[int, int]:
        return vocabulary.true, vocabulary.false

    def answers_of(
        self, task: Task, rows: np.ndarray
    ) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        answer = torch.tensor(task.table["answer"].to_numpy()[rows])
        true, false = task.vocabulary.true, task.vocabulary.false
        return torch.where(answer, true, false), torch.where(answer, false, true)

    def compared_ids(
        self, task: Task, rows: np.ndarray
    ) -> tuple[Int[Tensor, "question"], Int[Tensor, "question"]]:
        """True and false, in this order, whichever is right."""
        true, false = task.vocabulary.true, task.vocabulary.false
        return torch.full((len(rows),), true), torch.full((len(rows),), false)

    def signs(self, task: Task, rows: np.ndarray) -> Float[np.ndarray, "question"]:
        signs: np.ndarray = np.where(task.table["answer"].to_numpy()[rows], 1.0, -1.0)
        return signs

    def wrong_answers(
        self, task: Task, rows: np.ndarray, rival: Int[Tensor, "question"] | None
    ) -> Int[Tensor, "question"]:
        return self.answers_of(task, rows)[1]

    def judge(
        self, task: Task, rows: np.ndarray, logits: Float[Tensor, "question candidate"]
    ) -> pd.DataFrame:
        """`accuracy` is the share of questions whose true-logit-difference has the right sign, `auc` the within-alias AUC."""
        difference: np.ndarray = (logits[:, 0] - logits[:, 1]).double().numpy()
        answer = task.table["answer"].to_numpy()[rows]
        frame = asked(task, rows).assign(accuracy=(difference > 0) == answer)
        result = frame.groupby(["alias", "subset"], as_index=False).mean()
        auc = within_alias_auc(difference, answer, frame["alias"].to_numpy())
        return result.merge(auc, left_on="alias", right_index=True)

    def contains(
        self, vocabulary: Vocabulary, tokens: Int[Tensor, "example pos"], entity: np.ndarray
    ) -> Bool[np.ndarray, "example"]:
        found: np.ndarray = (
            (tokens == vocabulary.integers[0] + torch.from_numpy(entity)[:, None]).any(1).numpy()
        )
        return found

    def changes_answer(self, task: Task, row: int, entities: np.ndarray) -> Bool[np.ndarray, "entity"]:
        changed: np.ndarray = np.isin(entities, _listed(task, row)) != task.table["answer"].to_numpy()[row]
        return changed

    def without_entity(
        self, task: Task, rows: np.ndarray, draws: torch.Generator
    ) -> Int[Tensor, "question pos"]:
        """The questions with another integer in place of the alias's own, drawn from those that are not in the list.

        Raises ValueError when every integer is in the list.
        """
        tokens = task.tokens[torch.from_numpy(rows)].clone()
        first, last = task.vocabulary.integers
        for i, row in enumerate(rows.tolist()):
            free = np.setdiff1d(np.arange(last - first), _listed(task, row))
            if len(free) == 0:
                raise ValueError("every integer is in the list, so none can replace one; use shorter lists")
            entity = int(task.table["entity"].iloc[row])
            new = first + int(free[int(torch.randint(len(free), (1,), generator=draws))])
            is_match = (task.roles[row] == ROLE["list"]) & (tokens[i] == first + entity)
            tokens[i] = torch.where(is_match, new, tokens[i])
        return tokens

    def typed_hint(self, task: Task, row: int) -> str:
        first, last = task.vocabulary.integers
        return f"{int((task.roles[row] == ROLE['list']).sum())} integers from 0 to {last - first - 1}"

    def typed_question(self, task: Task, row: int, text: str) -> Task:
        """The task with another list in this question, written as integers with spaces or commas between them."""
        first, last = task.vocabulary.integers
        written = re.findall(r"[^\s,;]+", text)
        is_list = task.roles[row] == ROLE["list"]
        wrong = [
            one for one in written if not (one.isascii() and one.isdecimal() and int(one) < last - first)
        ]
        if wrong or len(written) != int(is_list.sum()):
            found = f"{wrong[0]!r} is none" if wrong else f"there are {len(written)}"
            raise ValueError(f"type {self.typed_hint(task, row)}; {found}")
        listed = torch.tensor([int(one) for one in written])
        answer = bool((listed == int(task.table["entity"].iloc[row])).any())
        tokens, table = task.tokens.clone(), task.table.copy()
        tokens[row, is_list] = first + listed
        tokens[row, task.roles[row] == ROLE["answer"]] = (
            task.vocabulary.true if answer else task.vocabulary.false
        )
        table.loc[row, "answer"] = answer
        return replace(task, tokens=tokens, table=table, fresh=None)

    def entity_name(self, vocabulary: Vocabulary, entity: int) -> str:
        return f"integer {entity}"


def _listed(task: Task, row: int) -> np.ndarray:
    """The integers in a question's list."""
    listed: np.ndarray = task.tokens[row][task.roles[row] == ROLE["list"]].numpy()
    return listed - task.vocabulary.integers[0]
