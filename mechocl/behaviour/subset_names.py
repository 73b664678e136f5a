"""Names of subsets, as users write them."""

from mechocl.errors import MechoclError
from toy_models.task import Task


def subset_named(task: Task, short: object) -> str:
    """`d1` → `d1_consistent`, as `toy_models.subsets.subset_named`. Raises MechoclError for none or several."""
    try:
        return task.subset_named(short)
    except ValueError as error:
        raise MechoclError(str(error)) from None
