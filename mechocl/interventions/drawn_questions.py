"""Which examples of a task pairs are made from."""

import numpy as np
import torch

from mechocl.errors import MechoclError
from toy_models.task import Task


def asked_in_tests(task: Task, subset: str) -> np.ndarray:
    """Rows of the test questions about a subset. Raises MechoclError if there are none."""
    rows = task.rows(kind="question", split="test", subset=subset)
    if len(rows) == 0:
        raise MechoclError(f"the run has no questions about {subset}; choose another subset")
    return rows


def shuffled(rows: np.ndarray, draws: torch.Generator) -> np.ndarray:
    """The rows in a random order."""
    found: np.ndarray = rows[torch.randperm(len(rows), generator=draws).numpy()]
    return found
