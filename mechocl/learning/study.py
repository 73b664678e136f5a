"""The alignment of definitions' and questions' gradients before, along and after the stage that defines new aliases."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import pandas as pd
import torch

from mechocl.accepted import settle
from mechocl.errors import MechoclError
from mechocl.learning.alignment import align
from mechocl.learning.course import Course, Stage
from mechocl.learning.examples import (
    Examples,
    QuestionLoss,
    definitions_of,
    find_tag_tokens,
    list_defined,
    name_tokens,
    questions_of,
    write_with_tag,
)
from mechocl.learning.gradients import Differentiable, alias_gradients, differentiable
from mechocl.learning.layout import ALL, OWN, SHARED, Groups
from mechocl.learning.preconditioning import scale_as_adam
from mechocl.memory import require_memory
from mechocl.shares import in_shares
from toy_models.subsets import SUBSETS, TAGS
from toy_models.task import Task

VALUES: Final = ("cosine", "inner", "cosine_null", "inner_null", "definition_norm", "question_norm")
BY_ALIAS: Final = (OWN, SHARED, ALL)
"""Groups of weights that have rows for single aliases."""

_COPIES: Final = 6
"""Times that the gradients of one side are held at once, about: two sides, and copies in float64 of a group of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasGradientsConfig:
    """What is compared, of each alias."""

    aliases_per_subset: int | None = 100
    """Aliases of each subset, the first ones; none takes all."""
    question_loss: QuestionLoss = "trained"
    """Loss of the questions: trained, on all tokens that the recipe trains, those of the lists among them; or answer, on the answer
    alone. Definitions always have the recipe's loss."""
    seed: int = 0
    """Seed of the order of the batches from which the optimiser's second moments are estimated."""

    def __post_init__(self) -> None:
        settle(self)
        if self.aliases_per_subset is not None and self.aliases_per_subset < 2:
            raise MechoclError(
                f"aliases_per_subset is {self.aliases_per_subset}; use at least 2, since each is compared with the others, or "
                "none for all"
            )
        if self.question_loss not in ("trained", "answer"):
            raise MechoclError(f"question_loss is {self.question_loss!r}; use trained or answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientsConfig(AliasGradientsConfig):
    """What is compared, in each subset."""

    between: bool = True
    """Compare at the checkpoints between the two ends of the stage too."""

    def of_aliases(self) -> AliasGradientsConfig:
        """The config of the rows of single aliases that belong to these."""
        return AliasGradientsConfig(
            aliases_per_subset=self.aliases_per_subset, question_loss=self.question_loss, seed=self.seed
        )


@dataclass(frozen=True, slots=True)
class _Compared:
    """Definitions that are written with one tag, and the questions about the same aliases."""

    tag: int
    aliases: pd.DataFrame
    """Columns `alias`, `subset` and `tag`, the tag of the task."""
    split: Literal["train", "test"]
    definitions: Examples
    questions: Examples
    settings: Stage
    """The stage whose optimiser would take the step."""
    rewritten: int | None
    """Tag with which the stage's definitions of new aliases are written; None if they are as they are."""


def gradient_study(course: Course, task: Task, config: GradientsConfig) -> pd.DataFrame:
    """How definitions and questions are aligned in each subset, at each checkpoint, with each tag.

    The columns are `mechocl.analyses.columns.GRADIENTS`. At the end of the stage before, the aliases of stage 1 have their own
    definitions. New aliases have definitions with every tag, at all checkpoints: with their own it is the definition that is trained
    on, with another it is what it would have been.

    Raises MechoclError when the stage defines no new aliases, and for what `differentiable` refuses.
    """
    found = []
    for stage, step, table in _moments(course, task, config, between=config.between, groups=None):
        keys = ["subset", "tag", "own_tag", "questions", "group", "correction"]
        grouped = table.groupby(keys, sort=False)
        means = grouped[list(VALUES)].mean().assign(aliases=grouped.size()).reset_index()
        found.append(means.assign(stage=stage, step=step))
    rows = pd.concat(found, ignore_index=True)
    rows["cosine_effect"] = rows["cosine"] - rows["cosine_null"]
    rows["inner_effect"] = rows["inner"] - rows["inner_null"]
    effects = ["cosine_effect", "inner_effect"]
    return rows[["stage", "step", *keys, *VALUES[:4], *effects, *VALUES[4:], "aliases"]]


def alias_study(course: Course, task: Task, config: AliasGradientsConfig) -> pd.DataFrame:
    """The same for each alias, before the stage and at its end, in its own embedding, in all other weights and in all.

    The columns are `mechocl.analyses.columns.ALIAS_GRADIENTS`. Raises MechoclError as `gradient_study` does.
    """
    found = [
        table.assign(stage=stage, step=step)
        for stage, step, table in _moments(course, task, config, between=False, groups=BY_ALIAS)
    ]
    rows = pd.concat(found, ignore_index=True)
    keys = ["alias", "subset", "tag", "own_tag", "questions", "group", "correction"]
    return rows[["stage", "step", *keys, *VALUES]]


def _moments(
    course: Course,
    task: Task,
    config: AliasGradientsConfig,
    *,
    between: bool,
    groups: Sequence[str] | None,
) -> Iterator[tuple[int, int, pd.DataFrame]]:
    """Stage, step, and a table with one row per alias, tag, group and correction; only of some groups, if they are given."""
    require_new_aliases(course, task)
    old, new = _first_stage(course, task, config), _new_aliases(course, task, config)
    trained = course.trained and course.trained()
    steps: list[int | None] = [None, *(course.kept if between else course.kept[-1:])]
    for step in in_shares(steps):
        model = course.before() if step is None else course.at(step)
        of = differentiable(model, task, trained)
        compared = [*old, *new] if step is None else new
        _require_memory(of, compared)
        asked: dict[
            int, Groups
        ] = {}  # the new aliases' questions are the same beside definitions of every tag
        tables = []
        for one in in_shares(compared):
            if id(one.questions) not in asked:
                names = name_tokens(task, one.aliases["alias"].to_numpy())
                asked = {id(one.questions): alias_gradients(of, one.questions, names)}
            table = _table(of, one, asked[id(one.questions)], config)
            tables.append(table if groups is None else table[table["group"].isin(groups)])
        at = (course.stage - 1, course.steps_before) if step is None else (course.stage, step)
        yield *at, pd.concat(tables, ignore_index=True)


def require_new_aliases(course: Course, task: Task) -> None:
    """Raise MechoclError when a stage does not define new aliases for the first time."""
    if 2 not in course.settings.data or 2 in course.earlier.data:
        raise MechoclError(
            f"stage {course.stage} is not the one that first defines new aliases (data 2), and gradients are taken before and "
            "along that one; choose it with --stage, or use a run of two stages"
        )
    if not len(task.rows(kind="definition", split="train", stage=2)):
        raise MechoclError(
            "the run defines no new aliases in stage 2; use a recipe with fractions of d1, d2 or d3"
        )


def _first_stage(course: Course, task: Task, config: AliasGradientsConfig) -> list[_Compared]:
    """The aliases of stage 1 with their own definitions; asked is what is trained on, or a test if nothing is."""
    found = []
    listed = list_defined(task, stage=1, most=config.aliases_per_subset)
    asked = set(task.table["alias"].iloc[task.rows(kind="question", split="train")])
    splits: tuple[Literal["train"], Literal["test"]] = ("train", "test")
    for tag, of_tag in listed.groupby("tag", sort=False):
        for split in splits:
            part = of_tag[of_tag["alias"].isin(asked) == (split == "train")]
            if len(part):
                aliases = part["alias"].to_numpy()
                questions = questions_of(task, aliases, split=split, loss=config.question_loss)
                definitions = definitions_of(task, aliases)
                found.append(
                    _Compared(int(str(tag)), part, split, definitions, questions, course.earlier, None)
                )
    return found


def _new_aliases(course: Course, task: Task, config: AliasGradientsConfig) -> list[_Compared]:
    """The aliases of stage 2 with a definition of each tag that the task has."""
    listed = list_defined(task, stage=2, most=config.aliases_per_subset)
    aliases = listed["alias"].to_numpy()
    questions = questions_of(task, aliases, split="test", loss=config.question_loss)
    return [
        _Compared(
            tag,
            listed,
            "test",
            definitions_of(write_with_tag(task, tag), aliases),
            questions,
            course.settings,
            tag,
        )
        for tag in TAGS
        if tag in find_tag_tokens(task)
    ]


def _require_memory(of: Differentiable, compared: Sequence[_Compared]) -> None:
    largest = max(len(one.aliases) for one in compared)
    needed = {"gradients of the aliases (--aliases-per-subset)": 4 * _COPIES * largest * of.numbers}
    require_memory(needed, of="the comparison of gradients")


def _table(
    of: Differentiable, one: _Compared, questions: Groups, config: AliasGradientsConfig
) -> pd.DataFrame:
    """One row per alias, group and correction."""
    aliases = one.aliases["alias"].to_numpy()
    names = name_tokens(of.task, aliases)
    definitions = alias_gradients(of, one.definitions, names)
    scales = scale_as_adam(of, one.settings, names, tag=one.rewritten, seed=config.seed)
    is_in = {name: (one.aliases["subset"] == name).to_numpy() for name in one.aliases["subset"].unique()}
    subsets = {name: torch.tensor(members, device=of.device) for name, members in is_in.items()}
    labels: dict[str, list[np.ndarray]] = {name: [] for name in ("alias", "subset", "group", "correction")}
    numbers: dict[str, list[np.ndarray]] = {name: [] for name in VALUES}
    for group, correction, subset, values in align(definitions, questions, scales, subsets):
        members = aliases[is_in[subset]]
        labels["alias"].append(members)
        for name, label in (("subset", subset), ("group", group), ("correction", correction)):
            labels[name].append(np.full(len(members), label, dtype=object))
        for name, value in values.items():
            numbers[name].append(value.cpu().numpy())
    table = pd.DataFrame({name: np.concatenate(parts) for name, parts in (labels | numbers).items()})
    own = table["subset"].map({name: SUBSETS[name].tag == one.tag for name in subsets}).astype(bool)
    return table.assign(tag=one.tag, own_tag=own, questions=one.split)
