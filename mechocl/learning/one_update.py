"""One update: what a single step on one definition does to the questions about its alias, before any other is trained on.

The model is that before the stage which defines new aliases. For each new alias and each tag, one step is taken on its
definition alone, written with that tag, and the questions about the alias are asked before and after. Beside the change
stands what the step promises to first order, and what the whole stage did to the same questions.

The control is the same step on another alias of the subset, whose own rows are moved by as much. What is left of the
change without it belongs to this definition and this alias.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mechocl.errors import MechoclError
from mechocl.learning.course import Course, Stage, stage_rows
from mechocl.learning.examples import (
    QuestionLoss,
    definitions_of,
    find_tag_tokens,
    list_defined,
    name_tokens,
    questions_of,
    stack_rows,
    write_with_tag,
)
from mechocl.learning.gradients import Differentiable, differentiable
from mechocl.learning.preconditioning import adam_scales
from mechocl.learning.steps import Answers, Questions, Scales, ask, gradient_of, predict_change, step_against
from mechocl.learning.study import AliasGradientsConfig, require_new_aliases
from mechocl.memory import require_memory
from mechocl.shares import in_shares
from toy_models.randomness import generator
from toy_models.subsets import TAGS
from toy_models.task import Task

DESCENT: Final = "gradient descent"
OPTIMISER: Final = "preconditioned"

STEPS: Final = (DESCENT, OPTIMISER)
"""How the step is taken.

- `gradient descent`: against the gradient, with the config's learning rate.
- `preconditioned`: as the stage's optimiser would take the definition's part of a step: its gradient as a share of a batch's,
  divided by the root of Adam's second moment, with the stage's peak learning rate (`preconditioning.adam_scales`).

Neither moves what the stage does not train.
"""


_COPIES: Final = 12
"""Times that weights of some aliases are held at once, about: three gradients, two steps, and the moved weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OneUpdateConfig(AliasGradientsConfig):
    """What is updated, and asked."""

    aliases_per_subset: int | None = 50
    """Aliases of each subset, the first ones; none takes all."""
    question_loss: QuestionLoss = "answer"
    """Loss of the questions: answer, on the answer alone; or trained, on all tokens that the recipe trains, those of the lists among them.
    Definitions always have the recipe's loss."""
    learning_rate: float = 1e-4
    """Learning rate of gradient descent. The preconditioned step has that of the stage."""

    def __post_init__(self) -> None:
        AliasGradientsConfig.__post_init__(self)
        if not 0 < self.learning_rate < math.inf:
            raise MechoclError(f"learning_rate is {self.learning_rate}; it must be above 0")


@dataclass(frozen=True, slots=True)
class _Asked:
    """The new aliases and their questions."""

    aliases: pd.DataFrame
    """Columns `alias`, `subset` and `tag`, the tag of the task."""
    names: Int[Tensor, "alias slot"]
    questions: Questions
    rows: Int[np.ndarray, "alias row"]
    """Rows of the task in which the questions stand."""
    real: Bool[np.ndarray, "alias row"]
    """Which of them are no fillings."""
    other: Int[Tensor, " alias"]
    """For each alias the index of another one of its subset; of itself where it is alone."""
    ids: Int[Tensor, " candidate"]
    """Tokens that compete as answers."""


def update_study(course: Course, task: Task, config: OneUpdateConfig) -> pd.DataFrame:
    """What one step on a definition does, for each new alias, each tag of the task and each way to take a step.

    The columns are `mechocl.analyses.columns.ONE_UPDATE`. Raises MechoclError as `study.alias_study` does.
    """
    require_new_aliases(course, task)
    asked = _asked(task, config)
    trained = course.trained and course.trained()
    of = differentiable(course.before(), task, trained)
    after = differentiable(course.at(course.kept[-1]), task, trained)
    tags = [tag for tag in TAGS if tag in find_tag_tokens(task)]
    copies = {f"weights of {of.at_once} aliases": 4 * _COPIES * of.at_once * of.numbers}
    require_memory(copies, of="the updates of single aliases")
    scales = {
        (tag, step): _scales(of, course.settings, step, asked.names, tag=tag, config=config)
        for tag in tags
        for step in STEPS
    }
    first = _judge(
        task, asked, _joined([ask(of, asked.questions[part], asked.ids) for part in _parts(of, asked)])
    )
    last = _judge(
        task, asked, _joined([ask(after, asked.questions[part], asked.ids) for part in _parts(of, asked)])
    )
    found: dict[tuple[int, str], list[tuple[Answers, Answers, Tensor, Tensor]]] = {one: [] for one in scales}
    definitions = {
        tag: definitions_of(write_with_tag(task, tag), asked.aliases["alias"].to_numpy()) for tag in tags
    }
    for part in in_shares(list(_parts(of, asked))):
        names, own, other = asked.names[part], asked.questions[part], asked.questions[asked.other[part]]
        wanted = [gradient_of(of, one.examples, one.names) for one in (own, other)]
        for tag in tags:
            gradient = gradient_of(of, definitions[tag][part], names)
            for step in STEPS:
                taken = step_against(of, gradient, scales[tag, step][part], names)
                elsewhere = step_against(of, gradient, scales[tag, step][part], names, on=other.names)
                answers = ask(of, own, asked.ids, step=taken), ask(of, other, asked.ids, step=elsewhere)
                promised = predict_change(wanted[0], taken), predict_change(wanted[1], elsewhere)
                found[tag, step].append((*answers, *promised))
    tables = []
    for (written, step), parts in found.items():
        own_after, other_after, promised, promised_other = zip(*parts, strict=True)
        table = _table(task, asked, (first, last), _joined(own_after), _joined(other_after))
        predicted, predicted_other = (torch.cat(one).cpu().numpy() for one in (promised, promised_other))
        alone = table["loss_change_other"].isna()
        table["loss_predicted"] = predicted
        table["loss_predicted_other"] = np.where(alone, np.nan, predicted_other)
        tables.append(table.assign(tag=written, own_tag=asked.aliases["tag"] == written, step=step))
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


COLUMNS: Final = (
    "alias", "subset", "tag", "own_tag", "step",
    "loss_before", "loss_change", "loss_predicted", "loss_change_other", "loss_predicted_other", "loss_effect",
    "auc_before", "auc_change", "auc_change_other", "auc_effect", "stage_loss_change", "stage_auc_change",
)  # fmt: skip


def _asked(task: Task, config: OneUpdateConfig) -> _Asked:
    listed = list_defined(task, stage=2, most=config.aliases_per_subset)
    aliases = listed["alias"].to_numpy()
    rows, real = stack_rows(task, task.rows(kind="question", split="test"), aliases)
    equals = torch.from_numpy(task.position_of("equals", rows.reshape(-1)).reshape(rows.shape))
    names = name_tokens(task, aliases)
    examples = questions_of(task, aliases, split="test", loss=config.question_loss)
    return _Asked(
        aliases=listed,
        names=names,
        questions=Questions(examples, names, equals),
        rows=rows,
        real=real,
        other=_others(listed, seed=config.seed),
        ids=task.questioning.answer_ids(task.vocabulary),
    )


def _others(listed: pd.DataFrame, *, seed: int) -> Int[Tensor, " alias"]:
    """For each alias the index of another one of its subset, each once."""
    draws = generator(seed, "one update", "others")
    found = torch.arange(len(listed))
    for subset in listed["subset"].unique():
        members = torch.tensor(np.flatnonzero(listed["subset"] == subset))
        order = members[torch.randperm(len(members), generator=draws)]
        found[order] = order.roll(1)
    return found


def _scales(
    of: Differentiable, settings: Stage, step: str, names: Tensor, *, tag: int, config: OneUpdateConfig
) -> Scales:
    own, shared = adam_scales(of, settings, names, tag=tag, seed=config.seed)
    if step == DESCENT:  # what the stage does not train has a scale of 0
        rate = config.learning_rate
        return Scales((own > 0) * rate, {name: (value > 0) * rate for name, value in shared.items()})
    examples = len(stage_rows(of.trained, settings))
    share = settings.learning_rate * math.ceil(examples / settings.batch_size) / examples
    return Scales(own * share, {name: value * share for name, value in shared.items()})


def _parts(of: Differentiable, asked: _Asked) -> Iterator[slice]:
    for start in range(0, len(asked.aliases), of.at_once):
        yield slice(start, start + of.at_once)


def _joined(parts: "list[Answers] | tuple[Answers, ...]") -> Answers:
    return Answers(torch.cat([one.loss for one in parts]), torch.cat([one.logits for one in parts]))


@dataclass(frozen=True, slots=True)
class _Judged:
    """Loss and AUC of the questions of each alias."""

    loss: Float[np.ndarray, " alias"]
    auc: Float[np.ndarray, " alias"]


def _judge(task: Task, asked: _Asked, answers: Answers, of: Tensor | None = None) -> _Judged:
    """What answers come to. `of`: the index of the alias that each is about; None is its own."""
    index = np.arange(len(asked.aliases)) if of is None else of.numpy()
    real = asked.real[index]
    table = task.questioning.judge(
        task, asked.rows[index][real], answers.logits.cpu()[torch.from_numpy(real)]
    )
    auc = table.set_index("alias")["auc"].loc[asked.aliases["alias"].to_numpy()[index]]
    return _Judged(answers.loss.double().cpu().numpy(), auc.to_numpy(dtype=float))


def _table(
    task: Task, asked: _Asked, stage: tuple[_Judged, _Judged], own: Answers, other: Answers
) -> pd.DataFrame:
    """One row per alias, without what is predicted."""
    before, end = stage
    after, elsewhere = _judge(task, asked, own), _judge(task, asked, other, asked.other)
    at = asked.other.numpy()
    alone = at == np.arange(len(at))
    loss_other = np.where(alone, np.nan, elsewhere.loss - before.loss[at])
    auc_other = np.where(alone, np.nan, elsewhere.auc - before.auc[at])
    return asked.aliases[["alias", "subset"]].assign(
        loss_before=before.loss,
        loss_change=after.loss - before.loss,
        loss_change_other=loss_other,
        loss_effect=after.loss - before.loss - loss_other,
        auc_before=before.auc,
        auc_change=after.auc - before.auc,
        auc_change_other=auc_other,
        auc_effect=after.auc - before.auc - auc_other,
        stage_loss_change=end.loss - before.loss,
        stage_auc_change=end.auc - before.auc,
    )
