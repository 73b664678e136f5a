"""New aliases in parts, which stages train on one after another, and the examples of a stage."""

import numpy as np

from mechocl.closed_book.stages import FinetuneStage
from mechocl.errors import MechoclError
from toy_models.task import Task


def divide_aliases(task: Task, parts: int) -> dict[int, int]:
    """Each alias of stage 2 → its part, from 1: of every subset, the first alias is in part 1, the second in part 2, and so on in turn.

    `task` must have the definitions of all its aliases, as a run's whole task has (`SeedFolder.load_task`).
    """
    rows = task.table.iloc[task.rows(kind="definition", stage=2)].sort_values("alias")
    turn = rows.groupby("subset", observed=True).cumcount() % parts + 1
    return dict(zip(rows["alias"].tolist(), turn.tolist(), strict=True))


def count_in_part(size: int, part: tuple[int, int]) -> int:
    """How many of the `size` aliases of a subset are in this part: [2, 6] is the second of six."""
    number, parts = part
    return (size + parts - number) // parts


def select_rows(task: Task, stage: FinetuneStage) -> np.ndarray:
    """Rows of a whole task that a stage trains on; shape `(n,)`."""
    rows = task.rows(split="train", stage=stage.data, kind=stage.kinds)
    number, parts = stage.part
    if parts == 1:
        return rows
    mine = divide_aliases(task, parts)
    aliases = task.table["alias"].to_numpy()[rows].tolist()
    kept: np.ndarray = rows[[mine.get(alias, number) == number for alias in aliases]]
    return kept


def training_rows(task: Task, stage: FinetuneStage) -> np.ndarray:
    """Rows of the task that a stage trains on. Raises MechoclError when there are no such rows."""
    rows = select_rows(task, stage)
    if len(rows) == 0:
        of = "" if stage.part[1] == 1 else f", part {list(stage.part)}"
        raise MechoclError(
            f"a stage of data {list(stage.data)} and kinds {list(stage.kinds)}{of} has nothing to train on; change "
            "task.fractions or the stage"
        )
    return rows
